"""Runs a transfer from beginning to end: starts the feed, opens and ends associations, and ends all in order.

How tasks wake each other: the station that changes sets its own signal and does not know which tasks wait for it. A
worker waits for its answers, for work, for conversions, and for room among the unread outcomes; the feed for room to
read; the caller for outcomes; the supervisor for everything that may change its next step. A signal does not say what
has changed: the task that wakes looks again. An answer wakes its own worker only.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import anyio

from asyncstore.aio.signal import wait_for_any
from asyncstore.errors import cause_of

if TYPE_CHECKING:
    from asyncstore.aio.signal import Signal
    from asyncstore.inputs.feed import Feed, Settled
    from asyncstore.ledger.protocol import History, Recorder
    from asyncstore.transfer.admission import Admission
    from asyncstore.transfer.destination import Destination
    from asyncstore.transfer.duplicates import Duplicates
    from asyncstore.transfer.limiter import Limiter
    from asyncstore.transfer.observer import Teller
    from asyncstore.transfer.outcomes import Outcomes
    from asyncstore.transfer.pool import Pool
    from asyncstore.transfer.preparing import Preparing
    from asyncstore.transfer.report import Report
    from asyncstore.transfer.work import Work

_TICK_SECONDS: Final = 0.025
# The longest tick while nothing moves: 40 ticks a second took 3 % of a processor for as long as a peer hung.
_CALM_TICK_SECONDS: Final = 0.2


class Supervisor:
    """Feeds and supervises until everything has its outcome, or until the run must stop.

    `sources_error` is the exception that the caller's iterable raised.
    """

    def __init__(
        self,
        feed: Feed,
        pool: Pool,
        *,
        admission: Admission,
        outcomes: Outcomes,
        duplicates: Duplicates | None,
        preparing: Preparing,
        work: Work,
        destination: Destination,
        limiter: Limiter,
        report: Report,
        teller: Teller | None,
        recorder: Recorder | None,
        history: History | None,
        retry_set_aside: bool,
        drain_seconds: float,
    ) -> None:
        self.sources_error: Exception | None = None
        self._feed = feed
        self._pool = pool
        self._admission = admission
        self._outcomes = outcomes
        self._duplicates = duplicates
        self._preparing = preparing
        self._work = work
        self._destination = destination
        self._limiter = limiter
        self._report = report
        self._teller = teller
        self._recorder = recorder
        self._history = history
        self._retry_set_aside = retry_set_aside
        self._drain_seconds = drain_seconds
        self._tick_seconds = _TICK_SECONDS
        self._moved = 0
        self._is_draining = False
        self._feed_scope: anyio.CancelScope | None = None
        self._abort_at = math.inf
        self._looked_at = math.inf

    async def run(self) -> None:
        """Feed and supervise until everything has its outcome."""
        try:
            async with anyio.create_task_group() as group:
                self._pool.start(group)
                self._preparing.start(group)
                if self._duplicates is not None:
                    self._duplicates.start(group)
                group.start_soon(self._run_feed)
                await self._supervise()
                if self._feed_scope is not None:
                    self._feed_scope.cancel()
                self._preparing.cancel()
                if self._duplicates is not None:
                    self._duplicates.cancel()
        finally:
            self._preparing.end()
            self._report.waiting_for = None
            self._admission.conclude()

    async def _run_feed(self) -> None:
        try:
            with anyio.CancelScope() as self._feed_scope:
                if not self._destination.is_stopped:
                    await self._feed.run(self._settled())
                    self._report.scan_finished = True
        except Exception as error:
            self.sources_error = cause_of(error)
            self._destination.stop(self.sources_error)
        self._report_on_input()
        self._work.end_feed()

    def _report_on_input(self) -> None:
        self._report.left_out = self._feed.left_out
        self._report.archives_opened = self._feed.archives_opened

    def _settled(self) -> Settled | None:
        """What the feed asks before it opens a file; None where no earlier run has recorded anything."""
        history = self._history
        if history is None or not history.has_earlier:
            return None
        from asyncstore.ledger.protocol import settled_for

        return settled_for(history.settled, retry_set_aside=self._retry_set_aside)

    # -- the end of a run, before its work is done ---------------------------------------------------------------------

    def drain(self, because: Exception | None = None) -> None:
        """Take no new work and finish what is in flight; abort it after `drain_seconds`."""
        if not self._outcomes.are_complete:
            self._abort_at = min(self._abort_at, time.monotonic() + self._drain_seconds)
            self._destination.stop(because)
            self._begin_draining()

    def drain_seconds_left(self, now: float) -> float | None:
        """How long until what is in flight is aborted; None if it is not, or has been."""
        return None if self._abort_at == math.inf else max(0.0, self._abort_at - now)

    def abort(self) -> None:
        """Abort every association at once."""
        self._destination.stop()
        self._begin_draining()
        self._pool.abort()

    def _begin_draining(self) -> None:
        """Stop reading and opening, whatever the reason; the stopped destination already keeps work back."""
        if self._is_draining:
            return
        self._is_draining = True
        if self._feed_scope is not None:
            self._feed_scope.cancel()
        self._pool.end_unestablished()
        self._pool.wake()

    # -- looking and resting -------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while True:
            now = time.monotonic()
            self._look(now)
            if self._is_over():
                return
            moved_before, self._moved = self._moved, self._count_moved()
            self._tick_seconds = self._next_tick_seconds(now, is_calm=self._moved == moved_before)
            await self._rest()

    def _look(self, now: float) -> None:
        """Do everything that is due."""
        if self._recorder is not None and self._recorder.failure is not None:
            self._destination.stop(self._recorder.failure)
        self._apply_limits(now)
        self._report_on_input()
        self._admission.look(now)
        if self._teller is not None:
            self._teller.look(self._report.waiting_for or self._destination.waiting_for)
        if self._destination.is_stopped:
            self._begin_draining()
            self._pool.wake()
        if now >= self._abort_at:
            self._abort_at = math.inf
            self.abort()
        self._adjust(now)
        self._outcomes.readable.set()

    def _apply_limits(self, now: float) -> None:
        """Keep the pace, and end the run when its time is up. While nothing may be sent, the time does not count."""
        limiter = self._limiter
        if limiter.is_closed and not self._pool.workers:
            self._destination.excuse(max(0.0, now - self._looked_at))
        self._looked_at = now
        limiter.look(now, time.localtime())
        self._pool.keep_pace()
        because = limiter.ended_because(now)
        if because is not None and not self._destination.is_stopped:
            self.drain(because)

    def _adjust(self, now: float) -> None:
        """Keep as many associations open as pay: open some, or retire some; none while nothing may be sent."""
        target = self._pool.update_target(now)
        self._pool.retire_idle(now)
        if self._limiter.is_closed:
            self._pool.retire_beyond(0)
            return
        if self._destination.closed_until(now) > now:
            return
        self._pool.retire_beyond(target)
        self._pool.make_way(target)
        if not self._destination.is_stopped:
            may_take = self._admission.closed_until(now) <= now
            self._pool.open_up_to(target if may_take else 1)

    def _is_over(self) -> bool:
        return not self._pool.workers and (self._destination.is_stopped or self._work.is_done)

    def _count_moved(self) -> int:
        report = self._report
        return report.answers + report.streamed_bytes + report.associations_established

    def _next_tick_seconds(self, now: float, *, is_calm: bool) -> float:
        """How long to rest: longer each time while nothing moves, but not past the next thing that is due."""
        if not is_calm:
            return _TICK_SECONDS
        due_at = (self._admission.closed_until(now), self._work.next_retry_at, self._abort_at)
        most = min([_CALM_TICK_SECONDS, *(at - now for at in due_at if at > now)])
        return max(_TICK_SECONDS, min(2 * self._tick_seconds, most))

    async def _rest(self) -> None:
        """Wait until the next tick, or until something changes that should not wait for it."""
        signals: list[Signal] = [self._work.due, self._destination.stopped, self._pool.changed, self._limiter.changed]
        if self._duplicates is not None:
            signals.append(self._duplicates.decided)
        if not self._pool.workers:  # else a worker takes it
            signals.append(self._work.available)
        is_calm = self._tick_seconds > _TICK_SECONDS
        self._outcomes.wake_for_each(is_calm)
        if is_calm:
            signals.append(self._outcomes.readable)
        with anyio.move_on_after(self._tick_seconds):
            await wait_for_any(*signals)
