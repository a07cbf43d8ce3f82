"""The open associations of a transfer: opened when waiting work needs them, ended when they do not pay.

`Concurrency` says how many to keep, `Plan` and `Offers` what each proposes, and `Destination` learns how each ended.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from asyncstore.aio.signal import Signal
from asyncstore.errors import AssociationLost, AsyncStoreError
from asyncstore.net import trace
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.net.requestor import Requestor
from asyncstore.trace import emit
from asyncstore.transfer.concurrency import Progress
from asyncstore.transfer.destination import Ended
from asyncstore.transfer.trace import Passing
from asyncstore.transfer.worker import Worker

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from asyncstore.net.peer import Peer
    from asyncstore.net.transport import Connect
    from asyncstore.trace import TraceEvent
    from asyncstore.transfer.admission import Admission
    from asyncstore.transfer.attempts import Attempts
    from asyncstore.transfer.destination import Destination
    from asyncstore.transfer.limiter import Limiter
    from asyncstore.transfer.observer import Teller
    from asyncstore.transfer.offer import Offers
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Plan
    from asyncstore.transfer.preparing import Preparing
    from asyncstore.transfer.report import Report
    from asyncstore.transfer.work import Work


logger: logging.Logger = logging.getLogger("asyncstore.transfer")

_LONG_SECONDS: Final = 5.0  # nothing is lost by a wait, and what is given up is converted again
IDLE_SECONDS: Final = 1.5  # an archive that sends in bursts keeps its associations between them
# Errors of an association that the run gets over as long as the peer comes back.
_RIDDEN_OUT: Final = (trace.ConnectionBroken, trace.ConnectionFailed, trace.Rejected)


class Pool:
    """The workers of a transfer, one for each association; `changed` is set when one is established or ends."""

    def __init__(
        self,
        peer: Peer,
        options: TransferOptions,
        *,
        admission: Admission,
        attempts: Attempts,
        preparing: Preparing,
        work: Work,
        destination: Destination,
        limiter: Limiter,
        plan: Plan,
        offers: Offers,
        report: Report,
        teller: Teller | None,
        connect: Connect,
    ) -> None:
        self._connect = connect
        self.workers: list[Worker] = []
        self.changed: Signal = Signal()
        self._peer = peer
        self._options = options
        self._admission = admission
        self._attempts = attempts
        self._preparing = preparing
        self._work = work
        self._destination = destination
        self._limiter = limiter
        self._plan = plan
        self._report = report
        self._teller = teller
        self._last_number = 0
        self._offers = offers
        self._withheld: list[TraceEvent] = []
        self._group: TaskGroup

    def start(self, group: TaskGroup) -> None:
        """Run the associations in tasks of this group."""
        self._group = group

    # -- for all of them -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have every worker look whether there is something to do."""
        for worker in self.workers:
            worker.wake()

    def keep_pace(self) -> None:
        """Have every association keep pace with what limits the run now."""
        for worker in self.workers:
            worker.association.pacer = self._limiter.pacer

    def abort(self) -> None:
        """Abort every association at once."""
        for worker in tuple(self.workers):
            worker.abort()

    def end_unestablished(self) -> None:
        """Give up the associations that are not established yet: they have nothing to finish."""
        for worker in tuple(self.workers):
            if not worker.association.established:
                worker.abort()

    # -- how many ------------------------------------------------------------------------------------------------------

    def update_target(self, now: float) -> int:
        """Take in the state of the transfer, and return how many associations there should be."""
        report = self._report
        for worker in self.workers:
            report.count_streamed(worker.take_streamed_bytes())
        progress = Progress(
            # A part of a large instance shows the peer's speed as well as a whole small one.
            answers=report.answers + report.streamed_bytes // STREAMED_AFTER_BYTES,
            data_set_bytes=report.sent_bytes,
            associations_open=report.associations_open,
            waiting=self._work.waiting,
            unsent_bytes=report.found_bytes - report.sent_bytes,
            busy_seconds=time.thread_time(),
            suspected=self._work.suspected_waiting,
            is_doubtful=self._admission.needs_one_association,
        )
        target = self._destination.concurrency.update(now, progress)
        return target if report.associations_open else 1

    def retire_idle(self, now: float) -> None:
        """Retire the workers that have had nothing to do for a while, but for one: each costs the peer a process."""
        idle = [worker for worker in self.workers if worker.is_open and not worker.retiring]
        for worker in idle[1:]:
            if now - worker.idle_since >= IDLE_SECONDS:
                worker.retire()

    def retire_beyond(self, target: int) -> None:
        """Retire workers until `target` are left; each ends when what it has in flight is answered."""
        for worker in [worker for worker in self.workers if not worker.retiring][target:]:
            worker.retire()

    def make_way(self, target: int, now: float) -> None:
        """Retire a worker that has long waited for conversions only, if what waits needs another association.

        A codec may hang. The next association proposes the kinds of this one, too.
        """
        long_ago = now - _LONG_SECONDS
        converting = next((worker for worker in self.workers if worker.converting_since < long_ago), None)
        if converting is None or len(self.workers) < target or any(worker.retiring for worker in self.workers):
            return
        served = frozenset().union(*(worker.serves for worker in self.workers))
        if not served.issuperset(self._work.pairs_waiting()):
            converting.retire()

    def open_up_to(self, target: int) -> None:
        """Open associations until there are this many, and no more than are needed for what waits.

        One that is ending still counts, as the peer still has it.
        """
        free = sum(worker.is_free for worker in self.workers)
        for _ in range(min(target - len(self.workers), self._work.waiting_for_new - free)):
            self._open()

    def _open(self) -> None:
        """Open one more association, proposing what the waiting work needs."""
        self._last_number += 1
        options, offer = self._options, self._offers.current
        proposal = self._plan.propose(self._work.pairs_waiting(), filled=offer.is_filled and not self.workers)
        association = Requestor(
            self._peer,
            proposal.contexts,
            window=offer.window,
            maximum_length=options.maximum_length,
            maximum_send_length=options.maximum_send_length,
            connect=self._connect,
            **options.of_each_association,
        )
        association.on_trouble = self._take_trouble
        association.pacer = self._limiter.pacer
        worker = Worker(
            self._last_number,
            association,
            proposal,
            offer,
            options,
            admission=self._admission,
            attempts=self._attempts,
            preparing=self._preparing,
        )
        self.workers.append(worker)
        self._number_open()
        self._group.start_soon(self._employ, worker)

    # -- one of them ---------------------------------------------------------------------------------------------------

    async def _employ(self, worker: Worker) -> None:
        """Run one worker and its association from beginning to end."""
        error: AsyncStoreError | None = None
        try:
            with worker.scope:
                try:
                    async with worker.association:
                        worker.begin()
                        self._established(worker)
                        await worker.work()
                except AsyncStoreError as failure:
                    error = failure
        finally:
            self._ended(worker, error)

    def _established(self, worker: Worker) -> None:
        self._destination.was_established = True
        self._report.associations_established += 1
        self._offers.was_accepted = True
        self._count_open()
        if self._teller is not None:
            self._teller.opened(worker.number)
        self.changed.set()

    def _ended(self, worker: Worker, error: AsyncStoreError | None) -> None:
        """Handle the end of a worker's association; `error` is None if its work was done or the pool aborted it."""
        lost = worker.take_lost()
        self._offers.was_answered |= self._report.answers > 0
        suspected = sum(pending.is_suspected for pending in lost)
        offers_less = error is not None and not self._destination.is_stopped and self._offers_less(worker, error)
        if lost:
            because = error or worker.association.failure or AssociationLost("the association was aborted")
            self._attempts.lost(lost, because)
        self.workers.remove(worker)
        self._report.count_streamed(worker.take_streamed_bytes())
        self._work.leave(worker)
        self._count_open()
        self._number_open()
        self._tell_withheld(is_passing=offers_less)
        if error is not None and not offers_less and not self._destination.is_stopped:
            ended = self._how_it_ended(worker, error, in_flight=len(lost), suspected=suspected)
            self._attempts.refuse(self._destination.learn_from(ended, time.monotonic()))
        if self._teller is not None:
            self._teller.ended(worker.number, error)
        self.changed.set()
        self.wake()

    def _offers_less(self, worker: Worker, error: AsyncStoreError) -> bool:
        """Whether the offer may have ended the association, so that less is offered from now on."""
        return self._offers.learn(worker.offer, error, was_established=worker.association.established)

    def _take_trouble(self, event: TraceEvent) -> None:
        """Log an error of one association, but until one is established only when it has ended: the offer may be it."""
        if self._report.associations_established:
            self._tell_trouble(event)
        else:
            self._withheld.append(event)

    def _tell_withheld(self, *, is_passing: bool = False) -> None:
        withheld, self._withheld = self._withheld, []
        for event in withheld:
            self._tell_trouble(event, is_passing=is_passing)

    def _tell_trouble(self, event: TraceEvent, *, is_passing: bool = False) -> None:
        """Log an error of one association: as such only where it may be what ends the run.

        While the peer is away, associations fail one after another; the destination tells of that as one thing.
        """
        destination = self._destination
        is_known = not destination.is_well or any(worker.is_open for worker in self.workers)
        is_passing = is_passing or (destination.was_established and isinstance(event, _RIDDEN_OUT))
        emit(logger, Passing(event=event) if is_known or is_passing else event)

    def _how_it_ended(self, worker: Worker, error: AsyncStoreError, *, in_flight: int, suspected: int) -> Ended:
        accepted = [other.association.contexts for other in self.workers]
        pairs = worker.proposal.pairs
        refused = frozenset(pair for pair in pairs if all(contexts.find(*pair) is None for contexts in accepted))
        return Ended(
            error,
            was_established=worker.association.established,
            answers=worker.answers,
            idle_seconds=0.0 if worker.has_sent else max(0.0, time.monotonic() - worker.established_at),
            associations_open=self._report.associations_open,
            in_flight=in_flight,
            suspected=suspected,
            refused=refused,
            accepted_elsewhere=len(refused) < len(pairs),
            has_proposed_all=self._has_proposed_all(worker),
        )

    def _has_proposed_all(self, worker: Worker) -> bool:
        """Whether this worker proposed all that the peer might accept."""
        if worker.offer.is_filled:
            return True
        return self._work.feed_ended and worker.proposal.pairs.issuperset(self._work.pairs_waiting())

    def _count_open(self) -> None:
        self._report.associations_open = sum(worker.is_open for worker in self.workers)

    def _number_open(self) -> None:
        """Number the associations in the log, but only while there are several."""
        several = len(self.workers) > 1
        for worker in self.workers:
            worker.association.trace_number = worker.number if several else 0
