"""The associations that a transfer has open: opened as the waiting work needs them, ended when they do not pay.

`Concurrency` says how many there should be, `Plan` what each proposes. What an association's end says of the peer is
learned here: that it takes no more of them, not what was proposed, or no operations window.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from asyncstore.errors import NoAcceptedContext
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.services.scu import Association
from asyncstore.transfer.concurrency import Concurrency, Progress
from asyncstore.transfer.destination import is_our_doing
from asyncstore.transfer.options import MAXIMUM_ASSOCIATIONS
from asyncstore.transfer.worker import Worker

if TYPE_CHECKING:
    from typing import Protocol

    from anyio.abc import TaskGroup

    from asyncstore.errors import AsyncStoreError
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.destination import Destination
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Pair, Plan
    from asyncstore.transfer.report import Report
    from asyncstore.transfer.work import Work
    from asyncstore.transfer.worker import Employer

    class Owner(Employer, Protocol):
        """What a crew needs of the transfer that it works for."""

        def ended(self, worker: Worker, error: AsyncStoreError | None) -> None: ...
        def none_accepted(self, pairs: set[Pair]) -> None: ...


# A peer that ends an association on which nothing was sent for so long has a timeout for that, and is well.
_IDLE_SECONDS: Final = 5.0


class Crew:
    """The workers of a transfer, an association each.

    `streamed_bytes` are those of large instances that were sent beyond their beginning. `nothing_accepted` is what the
    latest association ended with of whose proposed contexts the peer accepted none.
    """

    def __init__(
        self,
        owner: Owner,
        peer: Peer,
        options: TransferOptions,
        *,
        plan: Plan,
        work: Work,
        destination: Destination,
        report: Report,
    ) -> None:
        self.workers: list[Worker] = []
        self.concurrency = Concurrency(options.associations, MAXIMUM_ASSOCIATIONS)
        self.streamed_bytes = 0
        self.nothing_accepted: NoAcceptedContext | None = None
        self._owner = owner
        self._peer = peer
        self._options = options
        self._plan = plan
        self._work = work
        self._destination = destination
        self._report = report
        self._last_number = 0
        self._window = options.window
        self._window_has_worked = False

    def wake(self) -> None:
        """Have every worker look whether there is something to do."""
        for worker in self.workers:
            worker.wake()

    def abort(self) -> None:
        """Abort every association at once."""
        for worker in tuple(self.workers):
            worker.abort()

    def end_unestablished(self) -> None:
        """Give up those associations that have not come to be: there is nothing to finish on them."""
        for worker in tuple(self.workers):
            if not worker.association.established:
                worker.abort()

    # -- how many ------------------------------------------------------------------------------------------------------

    def target(self, now: float) -> int:
        """How many associations there should be, as the transfer goes."""
        report, waiting = self._report, self._work.waiting
        for worker in self.workers:
            self._count_streamed(worker)
        answers = report.answers + self.streamed_bytes // STREAMED_AFTER_BYTES
        unsent_bytes = report.found_bytes - report.sent_bytes
        busy_seconds = time.thread_time()
        target = self.concurrency.update(
            now, Progress(answers, report.sent_bytes, report.associations_open, waiting, unsent_bytes, busy_seconds)
        )
        return 1 if self._destination.is_doubtful or not report.associations_open else target

    def retire_beyond(self, target: int) -> None:
        """Have those end that are too many, as soon as what they have in flight is answered."""
        for worker in [worker for worker in self.workers if not worker.retiring][target:]:
            worker.retiring = True
            worker.wake()

    def open_up_to(self, target: int, group: TaskGroup) -> None:
        """Open associations until there are so many; one that is ending still counts at the peer."""
        for _ in range(target - len(self.workers)):
            self._open(group)

    def established(self) -> None:
        """An association was accepted."""
        self._destination.was_established = True
        self._report.associations_established += 1
        self._count_open()

    def _open(self, group: TaskGroup) -> None:
        """Have one more association, proposing what the waiting work needs."""
        self._last_number += 1
        options = self._options
        proposal = self._plan.propose(self._work.pairs_waiting(), filled=not self.workers)
        association = Association(
            self._peer,
            proposal.contexts,
            calling_ae_title=options.calling_ae_title,
            timeouts=options.timeouts,
            window=self._window,
            maximum_length=options.maximum_length,
            maximum_send_length=options.maximum_send_length,
            user_identity=options.user_identity,
        )
        worker = Worker(self._owner, self._last_number, association, proposal, options)
        self.workers.append(worker)
        self._number_open()
        group.start_soon(self._employ, worker)

    async def _employ(self, worker: Worker) -> None:
        """One worker from beginning to end."""
        error: AsyncStoreError | None = None
        try:
            error = await worker.run()
        finally:
            self.workers.remove(worker)
            self._count_streamed(worker)
            self._window_has_worked = self._window_has_worked or _used_window(worker)
            self._work.leave(worker)
            self._count_open()
            self._number_open()
            self._owner.ended(worker, error)

    def _count_streamed(self, worker: Worker) -> None:
        """A part of a large instance says of the peer's speed what a whole small one does."""
        streamed_bytes = worker.take_streamed_bytes()
        self.streamed_bytes += streamed_bytes
        self._report.sent_bytes += streamed_bytes

    def _count_open(self) -> None:
        self._report.associations_open = sum(
            worker.association.established and worker.association.failure is None for worker in self.workers
        )

    def _number_open(self) -> None:
        """The log names associations only while there are several."""
        several = len(self.workers) > 1
        for worker in self.workers:
            worker.association.trace_number = worker.number if several else 0

    # -- what the end of one says of the peer --------------------------------------------------------------------------

    def lost(self, worker: Worker, error: AsyncStoreError) -> None:
        """An association ended with operations outstanding: was it the window? Some accept one and cannot take it."""
        has_worked = self._window_has_worked or any(map(_used_window, self.workers))
        if worker.association.window > 1 and not has_worked and not is_our_doing(error):
            self._window = 1

    def learn_from(self, worker: Worker, error: AsyncStoreError) -> None:
        """An association was not established, or was lost: what does that say of the destination?"""
        now = time.monotonic()
        associations_open = self._report.associations_open
        if is_our_doing(error):
            return
        if isinstance(error, NoAcceptedContext):
            self._learn_refused(worker, error, now)
        elif worker.association.established:
            self.concurrency.lost(now)
            was_idle = not worker.has_sent and now - worker.established_at > _IDLE_SECONDS
            if not worker.answers and not was_idle:
                self._destination.failed(now, error)
        elif associations_open:  # the peer works, and wants no more associations than it has
            self.concurrency.rejected(now, associations_open)
        else:
            self._destination.failed(now, error)

    def _learn_refused(self, worker: Worker, error: NoAcceptedContext, now: float) -> None:
        """An association was accepted without any context: what it proposed cannot be sent."""
        others = [other.association.contexts for other in self.workers]
        pairs = {pair for pair in worker.proposal.pairs if all(contexts.find(*pair) is None for contexts in others)}
        if len(pairs) < len(worker.proposal.pairs):  # it did accept them elsewhere
            self.concurrency.rejected(now, self._report.associations_open)
        elif not self._destination.was_established and self._has_proposed_all(worker):
            self._destination.stop(error, at_start=True)
            return
        self.nothing_accepted = error
        self._owner.none_accepted(pairs)

    def _has_proposed_all(self, worker: Worker) -> bool:
        """Whether there is nothing else that the peer might accept."""
        if not self._options.only_needed_contexts:
            return True
        return self._work.feed_ended and worker.proposal.pairs.issuperset(self._work.pairs_waiting())


def _used_window(worker: Worker) -> bool:
    return worker.answers > 0 and worker.association.window > 1
