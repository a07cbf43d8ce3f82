"""One association at work: takes instances, keeps its window full, and hands on every answer."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import anyio

from asyncstore.aio.signal import Signal
from asyncstore.errors import AssociationLost, AsyncStoreError, SourceError
from asyncstore.instances.outcome import Outcome, outcome_of, source_problem
from asyncstore.preparation.prepare import conversion, prepare, prepare_now
from asyncstore.services.storage import send

if TYPE_CHECKING:
    from typing import Protocol, TypeAlias

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.operations import Operation
    from asyncstore.services.scu import Association
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Pair, Proposal
    from asyncstore.transfer.work import Pending

    # With the transfer syntax and the length of what was sent: what a conversion made is not kept for the answer.
    _Sent: TypeAlias = tuple[Pending, str, int]

    class Employer(Protocol):
        """What a worker needs of the transfer that it works for."""

        def take(self, worker: Worker) -> Pending | None: ...
        def has_more_for(self, worker: Worker) -> bool: ...
        def answered(self, worker: Worker, pending: Pending, outcome: Outcome) -> None: ...
        def not_sent(self, worker: Worker, pending: Pending, outcome: Outcome | None) -> None: ...
        def lost(self, worker: Worker, pendings: list[Pending], error: AsyncStoreError) -> None: ...
        def established(self, worker: Worker) -> None: ...


class Worker:
    """Runs one association from its request to its release.

    `number` is what the log calls it. `retiring` asks it to end when what is in flight is answered. `answers` counts
    the answers that came, `has_sent` says that there is something to be answered. `established_at` is when there was an
    association to work with: one that ends in the moment of its acceptance never was.
    """

    def __init__(
        self, employer: Employer, number: int, association: Association, proposal: Proposal, options: TransferOptions
    ) -> None:
        self.number = number
        self.association = association
        self.proposal = proposal
        self.retiring = False
        self.answers = 0
        self.has_sent = False
        self.established_at = math.inf
        self._options = options
        self._employer = employer
        self._pairs = proposal.pairs
        self._scope = anyio.CancelScope()
        self._in_flight: dict[int, _Sent] = {}
        self._changed = Signal()
        self._sending: _Sent | None = None
        association.on_failure = self.wake

    def serves(self, pair: Pair) -> bool:
        """Whether the association can carry this pair, or has at least proposed all that it needs."""
        return pair in self._pairs or self.association.contexts.find(*pair) is not None

    def wake(self) -> None:
        """Something changed: an answer, new work, or a wish of the transfer's."""
        self._changed.set()

    def take_streamed_bytes(self) -> int:
        """How much of large instances that are not answered yet has been sent since this was last asked."""
        taken, self.association.streamed_bytes = self.association.streamed_bytes, 0
        return taken

    def abort(self) -> None:
        """End the association at once; what is in flight is lost."""
        self.retiring = True
        self._scope.cancel()

    async def run(self) -> AsyncStoreError | None:
        """Work until there is nothing left to do here; gives back what ended the association, if it was not us."""
        error: AsyncStoreError | None = None
        try:
            with self._scope:
                try:
                    async with self.association:
                        self._pairs = self._pairs_served()
                        self.established_at = time.monotonic()
                        self._employer.established(self)
                        await self._work()
                except AsyncStoreError as failure:
                    error = failure
        finally:
            if self._in_flight:
                pendings = [pending for pending, _, _ in self._in_flight.values()]
                self._in_flight.clear()
                lost = error or self.association.failure or AssociationLost("the association was aborted")
                self._employer.lost(self, pendings, lost)
        return error

    def _pairs_served(self) -> frozenset[Pair]:
        """The proposed pairs, without those that another association may yet carry.

        A peer may accept only so many contexts at a time. What stood first and was not accepted never will be.
        """
        contexts = self.association.contexts
        first_sop_class_uid, _ = self.proposal.contexts[0]
        return frozenset(
            pair
            for pair in self.proposal.pairs
            if pair[0] == first_sop_class_uid
            or not contexts.may_be_accepted(pair[0])
            or contexts.find(*pair) is not None
            or (self._options.convert and conversion(contexts, *pair) is not None)
        )

    async def _work(self) -> None:
        while True:
            if self.association.failure is not None:
                raise self.association.failure
            pending = None if self.retiring else self._employer.take(self)
            if pending is not None:
                await self._send(pending)
            elif self._in_flight or (self._employer.has_more_for(self) and not self.retiring):
                await self._changed.wait()
            else:
                return

    async def _send(self, pending: Pending) -> None:
        """Send one instance; it is in flight when this returns, or has an outcome."""
        instance = pending.instance
        self._sending = (pending, instance.transfer_syntax_uid, instance.data_set_length)
        try:
            prepared = prepare_now(instance, self.association.contexts, convert=self._options.convert)
            if prepared is None:
                prepared = await self.association.invoker.reader.in_thread(prepare, instance, self.association.contexts)
            if isinstance(prepared, Outcome):
                self._sending = None
                self._employer.not_sent(self, pending, prepared)
                return
            if prepared.source is not instance.source:
                self._sending = (pending, prepared.transfer_syntax_uid, prepared.data_set_length)
            if pending.losses:  # it may be what the associations died of: let no other be lost with it
                await self._wait_until_alone()
            await send(
                self.association, prepared, self._on_response, on_begin=self._on_begin, priority=self._options.priority
            )
            if pending.losses:
                await self._wait_until_alone()
        except SourceError as error:
            self._sending = None
            self._forget(pending)
            problem = source_problem(error, instance.path, instance, attempts=pending.attempts)
            self._employer.not_sent(self, pending, problem)
        except BaseException:
            if self._sending is not None:
                self._sending = None
                self._employer.not_sent(self, pending, None)
            raise

    def _on_begin(self, operation: Operation) -> None:
        assert self._sending is not None
        self._in_flight[operation.message_id] = self._sending
        self._sending[0].attempts += 1
        self.has_sent = True
        self._sending = None

    def _on_response(self, operation: Operation, response: Response, data_set: bytes | None) -> None:
        pending, transfer_syntax_uid, bytes_sent = self._in_flight.pop(operation.message_id)
        self.answers += 1
        outcome = outcome_of(pending.instance, operation, response.status, transfer_syntax_uid, bytes_sent)
        outcome.attempts = pending.attempts
        outcome.association_number = self.number
        self._employer.answered(self, pending, outcome)
        self._changed.set()

    def _forget(self, pending: Pending) -> None:
        for message_id, (other, _, _) in self._in_flight.items():
            if other is pending:
                del self._in_flight[message_id]
                return

    async def _wait_until_alone(self) -> None:
        while self._in_flight:
            if self.association.failure is not None:
                raise self.association.failure
            await self._changed.wait()
