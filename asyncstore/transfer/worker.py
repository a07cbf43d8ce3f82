"""One association at work: takes instances, keeps its window full, and hands on every answer."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Final

import anyio

from asyncstore.aio.signal import Signal, wait_for_any
from asyncstore.errors import SourceError
from asyncstore.instances.outcome import Outcome, outcome_of, source_problem
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.preparation.conversions import UNCOMPRESSED_ONLY, Contexts, Conversions
from asyncstore.preparation.prepare import Prepared, prepare_now, prepared_or_outcome
from asyncstore.services.storage import send, send_now
from asyncstore.transfer.preparing import Bench

if TYPE_CHECKING:
    from typing import TypeAlias

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.operations import Operation
    from asyncstore.instances.instance import Instance
    from asyncstore.net.requestor import Requestor
    from asyncstore.transfer.admission import Admission
    from asyncstore.transfer.attempts import Attempts
    from asyncstore.transfer.offer import Offer
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair, Proposal
    from asyncstore.transfer.preparing import Preparing
    from asyncstore.transfer.view import AssociationView

    # An instance, and the transfer syntax and length in which it was sent: converted bytes are not kept for the answer.
    _Sent: TypeAlias = tuple[Pending, str, int]

_NOTHING: Final[frozenset[Pair]] = frozenset()


class Worker:
    """Sends instances over one association, which the pool opens and closes.

    `number` is its number in the log. `retiring`: it ends when what is in flight is answered. `answers` counts the
    answers that came; `has_sent`: a request was begun. `idle_since`: it has had nothing to do since then, math.inf
    while it is at work. `established_at` is the time from which the association could be used, math.inf before: an
    association that ends together with its acceptance was never established.
    """

    def __init__(
        self,
        number: int,
        association: Requestor,
        proposal: Proposal,
        offer: Offer,
        options: TransferOptions,
        *,
        admission: Admission,
        attempts: Attempts,
        preparing: Preparing,
    ) -> None:
        self.number = number
        self.association = association
        self.proposal = proposal
        self.offer = offer
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.retiring: bool = False
        self.answers: int = 0
        self.has_sent: bool = False
        self.idle_since: float = math.inf
        self.established_at: float = math.inf
        self._options = options
        self._admission = admission
        self._attempts = attempts
        self._preparing = preparing
        self._bench = Bench(preparing)
        self._served: frozenset[Pair] = frozenset()
        self._carried: frozenset[Pair] = frozenset()
        self._in_flight: dict[int, _Sent] = {}
        self._sending: _Sent | None = None
        self._is_waiting = False  # the task waits for something to do
        self._handed: Pending | None = None  # taken, and sent next by the task or the callback of an answer
        self._conversions = options.conversions
        self._prepare_now = prepare_now
        if options.prepare is not None:  # a Preparer without this method prepares on the bench
            method = getattr(options.prepare, "prepare_now", _prepare_on_the_bench)
            self._prepare_now = functools.partial(prepared_or_outcome, method)
        if options.transcode is not None:
            self._prepare_now = _prepare_on_the_bench
        self._changed = Signal()  # an answer, the end of the association, or a request of the pool
        association.on_failure = self._changed.set

    def __repr__(self) -> str:
        if self.association.failure is not None:
            state = "failed"
        elif self.established_at == math.inf:
            state = "being established"
        else:
            state = "retiring" if self.retiring else "established"
        converted = f", {self._bench.held} being converted" if self._bench.held else ""
        return f"<Worker {self.number}, {state}, {self.answers} answered, {len(self._in_flight)} in flight{converted}>"

    # -- for the pool --------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the association is established and has not failed."""
        return self.association.established and self.association.failure is None

    @property
    def is_free(self) -> bool:
        """Whether the worker has nothing to do, or has not begun yet: it takes the next instance."""
        return self.idle_since < math.inf or self.established_at == math.inf

    @property
    def only_converts(self) -> bool:
        """Whether nothing is in flight, and the worker waits for instances to be converted."""
        return self.is_open and not self.retiring and not self._in_flight and self._bench.held > 0

    @property
    def serves(self) -> frozenset[Pair]:
        """The pairs that the association carries, or none of the kind will."""
        return self._served or self.proposal.pairs

    def wake(self) -> None:
        """Make the worker look for something to do."""
        self._changed.set()

    def retire(self) -> None:
        """End when what is in flight is answered."""
        self.retiring = True
        self._changed.set()

    def abort(self) -> None:
        """End the association at once; what is in flight is lost."""
        self.retiring = True
        self.scope.cancel()

    def take_streamed_bytes(self) -> int:
        """Bytes of large, unanswered instances that were sent since the last call."""
        taken, self.association.streamed_bytes = self.association.streamed_bytes, 0
        return taken

    def take_lost(self) -> list[Pending]:
        """The instances in flight when the association ended, once; those being converted go back to the work."""
        self._bench.close()
        if self._handed is not None:
            self._attempts.not_sent(self._handed, None)
            self._handed = None
        lost = [pending for pending, _, _ in self._in_flight.values()]
        self._in_flight.clear()
        return lost

    def view(self, now: float) -> AssociationView:
        """The association as it is now."""
        from asyncstore.transfer.view import AssociationView

        association, in_flight = self.association, self._in_flight
        state = "connecting" if self.established_at == math.inf else "ending" if self.retiring else "open"
        if association.failure is not None:
            state = "failed"
        if not in_flight:
            return AssociationView(self.number, state, answers=self.answers)
        large = self._written_of_large()
        latest = next(reversed(in_flight))
        pending, _, size_bytes = in_flight[latest]
        oldest = next(iter(association.outstanding.values()), None)
        return AssociationView(
            self.number,
            state,
            pending.instance.path,
            size_bytes,
            large.get(latest),
            tuple(large.values()),
            len(in_flight),
            self.answers,
            max(0.0, now - association.waiting_since) if oldest is not None and oldest.is_sent else 0.0,
            association.answer_limit_seconds,
        )

    def _written_of_large(self) -> dict[int, int]:
        """Of each large instance in flight, by Message ID, the number of bytes that are written."""
        outstanding, (latest, written_bytes) = self.association.outstanding, self.association.written
        written = {}
        for message_id, (_, _, size_bytes) in self._in_flight.items():
            if size_bytes > STREAMED_AFTER_BYTES:
                is_sent = message_id in outstanding and outstanding[message_id].is_sent
                written[message_id] = size_bytes if is_sent else written_bytes if message_id == latest else 0
        return written

    # -- the work itself -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take note that the association is established, and of the pairs that it carries."""
        self._carried = frozenset(self.association.contexts.pairs)
        self._served = self._carried | self._pairs_done_with()
        need_codec = self._preparing.needing_codecs(self.association.contexts, self._served)
        self._admission.note_codecs(need_codec)
        self._carried -= need_codec
        self.established_at = time.monotonic()

    def _pairs_done_with(self) -> frozenset[Pair]:
        """The proposed pairs that this association carries after a conversion, or that none will carry.

        A peer may limit the contexts of one association: what it refused for that reason may go elsewhere. A SOP class
        that was proposed first and not accepted never will be.
        """
        contexts = self.association.contexts
        first_sop_class_uid, _ = self.proposal.contexts[0]
        return frozenset(
            pair
            for pair in self.proposal.pairs
            if pair[0] == first_sop_class_uid
            or not contexts.may_be_accepted(pair[0])
            or self._conversions.target(contexts, *pair) is not None
        )

    async def work(self) -> None:
        """Work until nothing is left to do here; raises the exception that ended the association."""
        association, admission, bench = self.association, self._admission, self._bench
        while True:
            if association.failure is not None:
                raise association.failure
            served = self._served
            if bench.held:
                if self.retiring or admission.has_ended:
                    bench.close()
                elif bench.is_ready:
                    await self._send(*bench.take())
                    continue
                elif bench.is_full:
                    served = _NOTHING if bench.is_crowded else self._carried
            pending, self._handed = self._handed, None
            if pending is None and not self.retiring:
                pending = admission.take(self, served)
            if pending is not None and not self._waits_for_room(pending):
                await self._send(pending)
                continue
            self._handed = pending
            if not (self._in_flight or bench.held or (not self.retiring and admission.has_more_for(self))):
                return
            if not self._in_flight and not bench.held and self.idle_since == math.inf:
                self.idle_since = time.monotonic()
            self._is_waiting = True
            await wait_for_any(self._changed, bench.changed, *admission.changed)
            self._is_waiting = False

    def _waits_for_room(self, pending: Pending) -> bool:
        """Whether the callback of the next answer should send this instance: it is in memory, and the window full.

        Any other one is read while it waits for room.
        """
        is_ready = pending.held_bytes > 0 and not pending.losses
        return is_ready and bool(self._in_flight) and not self.association.operations.has_room

    async def _send(self, pending: Pending, prepared: Prepared | Outcome | None = None) -> None:
        """Send one instance; when this returns it is in flight, is being converted, or has an outcome."""
        instance, association = pending.instance, self.association
        self.idle_since = math.inf
        if prepared is None:
            prepared = self._prepare_now(instance, association.contexts, self._conversions)
        elif isinstance(prepared, Prepared) and prepared.is_padded:
            self._attempts.tell_padded(pending)
        if prepared is None:
            self._bench.lay(pending, association.contexts)
            return
        if isinstance(prepared, Outcome):
            self._attempts.not_sent(pending, prepared)
            return
        try:
            self._sending = (pending, prepared.transfer_syntax_uid, prepared.data_set_length)
            pending.changes, pending.sent_uids = prepared.changes, prepared.sent_uids
            if pending.losses:  # it may have ended associations: it is sent alone
                await self._wait_until_alone()
            await send(
                association, prepared, self._on_response, on_begin=self._on_begin, priority=self._options.priority
            )
            del prepared  # converted bytes need not stay in memory until the answer
            if pending.losses:
                await self._wait_until_alone()
        except SourceError as error:
            self._sending = None
            self._forget(pending)
            self._attempts.not_sent(pending, source_problem(error, instance.path, instance))
        except BaseException:
            if self._sending is not None:
                self._sending = None
                self._attempts.not_sent(pending, None)
            raise

    def _on_begin(self, operation: Operation) -> None:
        assert self._sending is not None
        self._in_flight[operation.message_id] = self._sending
        pending = self._sending[0]
        pending.attempts += 1
        if pending.losses:  # the peer may have needed longer for it than it was given
            operation.allowance_seconds *= 1 + pending.losses
        self.has_sent = True
        self._sending = None

    def _on_response(self, operation: Operation, response: Response, data_set: bytes | None) -> None:
        pending, transfer_syntax_uid, bytes_sent = self._in_flight.pop(operation.message_id)
        self.answers += 1
        sent = (transfer_syntax_uid, bytes_sent, pending.attempts, self.number)
        outcome = outcome_of(pending.instance, operation, response.status, *sent)
        if pending.changes:
            outcome.note_changes(pending.changes, pending.sent_uids)
        if self._attempts.answered(pending, outcome):
            self.retiring = True
        if not (self._is_waiting and self._sends_another()):
            self._changed.set()

    def _sends_another(self) -> bool:
        """Send the next instance at once, from the callback of an answer: waking the task takes longer than sending.

        False if the task must look: nothing can be taken, or what was taken needs a wait or has an outcome already.
        """
        if self.retiring or self._bench.held:
            return False
        pending, self._handed = self._handed, None
        if pending is None:
            pending = self._admission.take(self, self._served)
        if pending is None:
            return False
        instance, association, options = pending.instance, self.association, self._options
        prepared = None if pending.losses else self._prepare_now(instance, association.contexts, self._conversions)
        if isinstance(prepared, Prepared):
            self._sending = (pending, prepared.transfer_syntax_uid, prepared.data_set_length)
            if prepared.changes or pending.changes:
                pending.changes, pending.sent_uids = prepared.changes, prepared.sent_uids
            try:
                if send_now(
                    association, prepared, self._on_response, on_begin=self._on_begin, priority=options.priority
                ):
                    return True
                self._sending = None
            except SourceError:  # the task meets it again, and ends the attempt
                self._sending = None
            except BaseException:
                if self._sending is not None:
                    self._sending = None
                    self._attempts.not_sent(pending, None)
                raise
        self._handed = pending
        return False

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


def _prepare_on_the_bench(instance: Instance, contexts: Contexts, conversions: Conversions = UNCOMPRESSED_ONLY) -> None:
    """Prepare nothing here and now."""
