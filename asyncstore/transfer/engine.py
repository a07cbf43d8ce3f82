"""A transfer: many instances over as many associations as pay, each with exactly one outcome.

    feed -> work -> crew (workers with an association each) -> judge -> outcomes -> ledger, report, and whoever iterates

The feed reads ahead within bounds; workers take instances as their windows have room; each answer and each loss goes to
the judge, which says final or again; final outcomes are counted and handed out in the order in which they became
final. A supervisor has the crew grow and shrink, and notices when all is done. A ledger, where there is one, is asked
before a file is opened and, of a SOP Instance UID that it may know, before an instance is sent; it is told of each
outcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from asyncstore.errors import AsyncStoreError, LocalProtocolError, cause_of
from asyncstore.inputs.feed import Feed
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, State
from asyncstore.net import trace
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.trace import emit
from asyncstore.transfer.destination import Destination
from asyncstore.transfer.judge import Again, Judge, unknown_outcome
from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.plan import Plan
from asyncstore.transfer.pool import Crew
from asyncstore.transfer.report import Report
from asyncstore.transfer.trace import KindRefused, MoreMetaDiffer, NotStored
from asyncstore.transfer.work import Work, directory_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable
    from types import TracebackType

    from anyio.abc import TaskGroup

    from asyncstore.errors import LedgerError
    from asyncstore.inputs.entry import Source
    from asyncstore.inputs.feed import Fed
    from asyncstore.ledger.protocol import Ledger
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.duplicates import Twins
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.work import Pending
    from asyncstore.transfer.worker import Worker

logger = logging.getLogger("asyncstore.transfer")

_TICK_SECONDS: Final = 0.025
# While nothing moves, ticks become as rare as this: 40 a second took 3 % of a processor for hours that a peer hangs.
_CALM_TICK_SECONDS: Final = 0.2
# Waking the caller costs as much as decoding an answer: it is done for so many outcomes at once, or at the next tick.
_UNREAD_BATCH: Final = 64
# Outcomes that nobody has taken yet; a caller that is slower than the peer slows the transfer down.
_MAXIMUM_UNREAD: Final = 4096


class Transfer:
    """Sends instances to a peer: `async with Transfer(peer, sources) as transfer: async for outcome in transfer`.

    `sources` is a path (of a file or a directory), an Instance, a pydicom Dataset, what `scan` yields, or an iterable
    or asynchronous iterable of those; endless ones too. A generator may yield one Dataset again and again, changed in
    between: each is encoded before the next is asked for. One in a list is to stay as it is until it has its outcome.

    Every instance gets exactly one final Outcome; files that hold none get one too. `report` counts them as they come.
    What a run that stops early leaves for another is counted only (`State.LEFT`). `associations` and `window` override
    those of `options`.

    `ledger` is the file of a durable record (or a Ledger): what an earlier run of it stored is not opened again, its
    outcome is `State.RESUMED`. Entering raises LedgerError when it cannot be had. One that cannot be written any more
    stops the run; look at `report.stopped_because` after the block, since leaving it commits the last outcomes.

    Iterating raises what kept it when no association could be established at all: AssociateError, or AssociationLost,
    which a Timeout of the connection or of the association request is too. It raises what an iterable of the caller's
    raised; a run that worked and then had to stop ends the iteration, and `report.stopped_because` says why. Leaving
    the block early stops the transfer after what is in flight, and closes the asynchronous generator that `sources` may
    be. One Transfer is entered once.
    """

    def __init__(
        self,
        peer: Peer,
        sources: Source | Iterable[Source] | AsyncIterable[Source],
        *,
        options: TransferOptions | None = None,
        associations: int | None = None,
        window: int | None = None,
        ledger: Ledger | str | os.PathLike[str] | None = None,
    ) -> None:
        self.peer = peer
        self.options = _with(options or TransferOptions(), associations=associations, window=window)
        self._ledger = _ledger_of(ledger, peer, self.options)
        self.report = Report()
        self._work = Work(strict=self.options.keep_together == "study")
        self._plan = Plan(self.options)
        self._destination = Destination(self.options.retry)
        self._judge = Judge(self.options.retry, self._destination)
        self._crew = Crew(
            self,
            peer,
            self.options,
            plan=self._plan,
            work=self._work,
            destination=self._destination,
            report=self.report,
        )
        self._feed = Feed(
            sources,
            recursive=self.options.recursive,
            find_studies=self.options.keep_together == "study",
            deliver=self._deliver,
            wait_for_room=self._wait_for_room,
            pass_over=self._pass_over,
        )
        self._twins = None if self._ledger is None else self._twins_by(self._ledger)
        self._tick_seconds = _TICK_SECONDS
        self._sources_error: Exception | None = None
        self._refused: Counter[Pair] = Counter()
        self._differing = 0  # instances whose File Meta Information names another than the data set
        self._was_held = False
        self._was_entered = False
        self._draining = False
        self._finished = False
        self._unread: deque[Outcome] = deque()
        self._read = anyio.Event()
        self._room = anyio.Event()
        self._attention = anyio.Event()
        self._group: TaskGroup
        self._comparing: TaskGroup
        self._feed_scope: anyio.CancelScope | None = None
        self._abort_at = math.inf

    # -- for the caller ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise LocalProtocolError("a Transfer is entered once: make another one to send again")
        async with contextlib.AsyncExitStack() as stack:
            if self._ledger is not None:
                await stack.enter_async_context(self._ledger)
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._was_entered = True
            self._group.start_soon(self._run)
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.drain()
            self._unread.clear()
        else:
            self.abort()
        failure: Exception | None = None
        try:
            await self._group.__aexit__(None, None, None)
        except ExceptionGroup as group:
            failure = cause_of(group)
        finally:
            if self._ledger is not None:
                await self._ledger.__aexit__(kind, error, traceback)
                self.report.stopped_because = self._ledger.failure or self.report.stopped_because
        if failure is not None:  # raised out here, it keeps the cause that it has
            raise failure

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while not self._unread:
            if self._finished:
                raise self._destination.start_failure or self._sources_error or StopAsyncIteration
            if not self._was_entered:
                raise LocalProtocolError("a Transfer is iterated over inside `async with`, which begins it")
            if self._read.is_set():
                self._read = anyio.Event()
            await self._read.wait()
        outcome = self._unread.popleft()
        if len(self._unread) == _MAXIMUM_UNREAD // 2:
            self._room.set()
            self._crew.wake()
        return outcome

    def drain(self) -> None:
        """Take no new work, finish what is in flight, release; the iteration ends after the last outcome.

        What is still in flight after `options.drain_seconds` is aborted.
        """
        if not self._finished:
            self._abort_at = min(self._abort_at, time.monotonic() + self.options.drain_seconds)
            self._begin_draining()

    def abort(self) -> None:
        """Abort every association at once; what is in flight has no known outcome and is left for another run."""
        self._begin_draining()
        self._crew.abort()
        self._attention.set()

    def _begin_draining(self) -> None:
        """Whatever the reason: nothing new is read, taken, or opened."""
        if self._draining:
            return
        self._draining = True
        if self._feed_scope is not None:
            self._feed_scope.cancel()
        self._crew.end_unestablished()
        self._crew.wake()
        self._attention.set()

    # -- from the sources to the workers -------------------------------------------------------------------------------

    def _deliver(self, found: list[Fed]) -> None:
        """The feed has read some files."""
        for entry in found:
            if isinstance(entry, Instance):
                pair = (entry.sop_class_uid, entry.transfer_syntax_uid)
                self._plan.see(pair)
                self.report.found += 1
                self.report.found_bytes += entry.data_set_length
                if entry.meta_difference is not None:
                    self._tell_difference(entry.path, entry.meta_difference)
                refused = self._judge.refused_before(entry) if self._destination.refused else None
                if refused is None:
                    self._work.add(entry, self._key_of(entry))
                else:
                    entry.let_go()
                    self._finish(refused)
            else:
                self._finish(entry)
        self._crew.wake()
        if not self._crew.workers:
            self._attention.set()

    def _pass_over(self, settled: list[Outcome]) -> None:
        """The feed has met files whose outcome an earlier run of the ledger has settled."""
        for outcome in settled:
            if outcome.state is State.RESUMED or outcome.state is State.DUPLICATE:
                self.report.found += 1
            self._finish(outcome, is_new=False)

    def _key_of(self, instance: Instance) -> str:
        if self.options.keep_together == "study":
            return instance.study_instance_uid or directory_of(instance.path)
        return directory_of(instance.path)

    async def _wait_for_room(self) -> None:
        while not self._work.has_room or len(self._unread) >= _MAXIMUM_UNREAD:
            self._room = anyio.Event()
            await self._room.wait()

    def take(self, worker: Worker) -> Pending | None:
        """The next instance for a worker, None when there is none now."""
        if self._draining or len(self._unread) >= _MAXIMUM_UNREAD or self._must_hold():
            return None
        while (pending := self._work.take(worker, worker.serves)) is not None and self._is_held_back(pending):
            if self._must_hold():
                pending = None
                break
        if not self._room.is_set() and self._work.has_room:
            self._room.set()
        return pending

    def _is_held_back(self, pending: Pending) -> bool:
        """Whether an instance that was taken is not to be sent, or not yet: it has its outcome, or will be compared."""
        if self._destination.refused:
            refused = self._judge.refused_before(pending.instance, pending.attempts)
            if refused is not None:
                self._final(pending, refused)
                return True
        if self._twins is not None and self._twins.is_suspect(pending):
            self._twins.hold(pending, self._comparing)
            return True
        return False

    def _twins_by(self, ledger: Ledger) -> Twins:
        from asyncstore.transfer.duplicates import Twins

        return Twins(ledger, decided=self._compared, failed=self._cannot_ask)

    def _compared(self, pending: Pending, outcome: Outcome | None) -> None:
        """A suspected twin is one, or is to be sent."""
        if outcome is None:
            self._work.put_back(pending)
        else:
            outcome.attempts = pending.attempts
            self._final(pending, outcome)
        self._crew.wake()
        self._attention.set()

    def _cannot_ask(self, error: LedgerError) -> None:
        """The ledger cannot be read any more: what may be a twin must not be sent."""
        self._destination.stop(error)
        self._heed_stop()

    def has_more_for(self, worker: Worker) -> bool:
        """Whether a worker without work should keep its association: something may come that it can carry."""
        if self._draining or self._work.is_done:
            return False
        if len(self._unread) >= _MAXIMUM_UNREAD or self._must_hold():
            return True
        return not self._work.waits_for(worker)  # else it could have been taken: another association is needed for it

    def _must_hold(self) -> bool:
        has_room = self._ledger is None or self._ledger.has_room
        many_twins = self._twins is not None and self._twins.are_many
        if time.monotonic() >= self._destination.hold_until and has_room and not many_twins:
            return False
        self._was_held = True
        return True

    # -- from the workers to the outcomes ------------------------------------------------------------------------------

    def established(self, worker: Worker) -> None:
        """A worker's association was accepted."""
        self._crew.established()
        self._tick_seconds = _TICK_SECONDS
        self._attention.set()

    def answered(self, worker: Worker, pending: Pending, outcome: Outcome) -> None:
        """A worker got the answer to a request."""
        self.report.answers += 1
        self.report.sent_bytes += min(outcome.bytes_sent, STREAMED_AFTER_BYTES)
        now = time.monotonic()
        verdict = self._judge.answered(pending, outcome, now, others_wait=self._work.has_untried)
        if isinstance(verdict, Outcome):
            self._final(pending, verdict)
            return
        if verdict.is_pressed:
            self._crew.concurrency.pressed(now)
        worker.retiring = worker.retiring or verdict.on_new_association
        self._again(pending, verdict.due_at)

    def not_sent(self, worker: Worker, pending: Pending, outcome: Outcome | None) -> None:
        """An instance was not sent: `outcome` says why, None that it is to be sent by another association."""
        if outcome is None:
            self._work.put_back(pending)
        else:
            self._final(pending, outcome)

    def lost(self, worker: Worker, pendings: list[Pending], error: AsyncStoreError) -> None:
        """A worker's association ended with these in flight."""
        self._crew.lost(worker, error)
        now = time.monotonic()
        for pending in pendings:
            verdict = Again(now) if self._draining else self._judge.lost(pending, error, now)
            if isinstance(verdict, Outcome):
                self._final(pending, verdict)
                continue
            if self._ledger is not None:  # whatever comes next: this may be at the peer
                self._ledger.record(unknown_outcome(pending, error))
            self._again(pending, verdict.due_at)

    def _again(self, pending: Pending, due_at: float) -> None:
        pending.instance.let_go()
        self._work.retry(pending, due_at)
        self._attention.set()
        self._heed_stop()

    def _heed_stop(self) -> None:
        if self._destination.stopped_because is not None:
            self._begin_draining()

    def _final(self, pending: Pending, outcome: Outcome) -> None:
        self._work.finish(pending)
        pending.instance.let_go()
        self._finish(outcome)
        if self._work.is_done:
            self._attention.set()
            self._crew.wake()

    def _finish(self, outcome: Outcome, *, is_new: bool = True) -> None:
        """Count a final outcome, write it down unless it is known from there, and hand it out."""
        if self._ledger is not None and is_new:
            self._ledger.record(outcome)
        self.report.add(outcome)
        if outcome.state is State.LEFT:
            self._heed_stop()
            return
        if not outcome.is_stored:
            self._tell(outcome)
            if self.options.fail_fast and outcome.state not in _NO_FAILURE:
                self._destination.stop(_failure_of(outcome))
                self._heed_stop()
        self._unread.append(outcome)
        if len(self._unread) >= _UNREAD_BATCH:
            self._read.set()
        elif self._tick_seconds > _TICK_SECONDS:
            self._attention.set()

    def _tell(self, outcome: Outcome) -> None:
        """Log why an instance was not stored; of a kind that the peer refused, the first one and then their count."""
        instance = outcome.instance
        if outcome.state is State.FAILED and instance is not None:
            kind = (instance.sop_class_uid, instance.transfer_syntax_uid)
            refused = self._destination.refused.get(kind)
            if refused is not None and outcome.status is not None and outcome.status.value == refused.value:
                self._refused[kind] += 1
                if self._refused[kind] > 1:
                    return
        number = outcome.association_number if self.report.associations_open > 1 else 0
        emit(logger, NotStored(outcome=outcome, association_number=number))

    def _tell_difference(self, path: str | None, difference: str) -> None:
        """Log how a File Meta Information differs from its data set; of many, the first one and then their count."""
        self._differing += 1
        if self._differing == 1:
            emit(logger, trace.MetaDiffers(path=path, difference=difference))

    # -- the supervisor ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Feed and supervise until everything has its outcome."""
        try:
            async with anyio.create_task_group() as group:
                self._comparing = group
                group.start_soon(self._run_feed)
                await self._supervise(group)
                if self._feed_scope is not None:
                    self._feed_scope.cancel()
                if self._twins is not None:
                    self._twins.cancel()
        finally:
            self._finish_run()

    async def _run_feed(self) -> None:
        try:
            with anyio.CancelScope() as self._feed_scope:
                if not self._draining:
                    ledger = self._ledger
                    await self._feed.run(ledger.settled if ledger is not None and ledger.has_earlier else None)
                    self.report.scan_finished = True
        except Exception as error:
            self._sources_error = cause_of(error)
            self._destination.stop(self._sources_error)
        self._work.feed_ended = True
        self._attention.set()
        self._crew.wake()

    async def _supervise(self, group: TaskGroup) -> None:
        moved = 0
        while not self._is_over():
            now = time.monotonic()
            if self._ledger is not None and self._ledger.failure is not None:
                self._destination.stop(self._ledger.failure)
            if self._work.wake_retries(now):
                self._crew.wake()
            if now >= self._abort_at:
                self._abort_at = math.inf
                self.abort()
            self._adjust(group, now)
            if self._work.has_room:  # whoever took the last instances: the feed may be all that goes on
                self._room.set()
            self._read.set()
            self._attention = anyio.Event()
            if self._is_over():
                break
            moved_before, moved = moved, self.report.answers + self._crew.streamed_bytes
            is_calm = moved == moved_before and (self._ledger is None or self._ledger.has_room)
            self._tick_seconds = self._next_tick_seconds(now, is_calm=is_calm)
            with anyio.move_on_after(self._tick_seconds):
                await self._attention.wait()

    def _next_tick_seconds(self, now: float, *, is_calm: bool) -> float:
        """How long to let things be: longer and longer while nothing moves, but not beyond what is to be done then."""
        if not is_calm:
            return _TICK_SECONDS
        due_at = [at for at in (self._destination.hold_until, self._work.next_retry_at, self._abort_at) if at > now]
        most = min([_CALM_TICK_SECONDS, *(at - now for at in due_at)])
        return max(_TICK_SECONDS, min(2 * self._tick_seconds, most))

    def _is_over(self) -> bool:
        self._heed_stop()
        if self._crew.workers:
            if self._draining:
                self._crew.wake()
            return False
        return self._draining or self._work.is_done

    def _adjust(self, group: TaskGroup, now: float) -> None:
        """Have as many associations as pay: open one, or have one end."""
        target = self._crew.target(now)
        if now < self._destination.hold_until:
            self._was_held = True
            return
        if self._was_held:
            self._was_held = False
            self._crew.wake()
        self._crew.retire_beyond(target)
        if not self._draining and self._work.waiting:
            self._crew.open_up_to(target, group)

    def ended(self, worker: Worker, error: AsyncStoreError | None) -> None:
        """A worker's association ended, by itself or as `error` says."""
        self._attention.set()
        if error is not None and not self._draining:
            self._crew.learn_from(worker, error)
        self._crew.wake()

    def none_accepted(self, pairs: set[Pair]) -> None:
        """The peer accepts no context for these."""
        for pair in pairs:
            self._destination.refused.setdefault(pair)
        for pending in self._work.take_all(pairs):
            refused = self._judge.refused_before(pending.instance, pending.attempts)
            assert refused is not None
            pending.instance.let_go()
            self._finish(refused)

    def _finish_run(self) -> None:
        for (sop_class_uid, transfer_syntax_uid), count in self._refused.items():
            if count > 1:
                kind = {"sop_class_uid": sop_class_uid, "transfer_syntax_uid": transfer_syntax_uid}
                status = self._destination.refused[sop_class_uid, transfer_syntax_uid]
                emit(logger, KindRefused(**kind, status=status, count=count - 1))
        if self._differing > 1:
            emit(logger, MoreMetaDiffer(count=self._differing - 1))
        for pending in self._twins.held if self._twins is not None else ():
            self._work.put_back(pending)
        for pending in self._work.left:
            left = Outcome(State.LEFT, pending.instance.path, pending.instance, attempts=pending.attempts)
            self.report.add(left)
            if self._ledger is not None:
                self._ledger.record(left)
        if self._crew.nothing_accepted is not None and not self._destination.was_established:
            self._destination.stop(self._crew.nothing_accepted, at_start=True)
        self.report.stopped_because = self._destination.stopped_because
        self.report.finished_at = time.monotonic()
        self._finished = True
        self._read.set()


_NO_FAILURE = frozenset((State.SKIPPED, State.DUPLICATE))


def _failure_of(outcome: Outcome) -> Exception:
    try:
        outcome.raise_for_failure()
    except AsyncStoreError as error:
        return error
    raise AssertionError("a failed outcome raises")


def _ledger_of(ledger: Ledger | str | os.PathLike[str] | None, peer: Peer, options: TransferOptions) -> Ledger | None:
    """The ledger in a file, or the one that was given."""
    if not isinstance(ledger, str | os.PathLike):
        return ledger
    from asyncstore.ledger.sqlite.ledger import SqliteLedger
    from asyncstore.transfer.options import options_as_data

    return SqliteLedger(ledger, destination=str(peer), options=options_as_data(options))


def _with(options: TransferOptions, **overrides: Any) -> TransferOptions:
    return dataclasses.replace(options, **{name: value for name, value in overrides.items() if value is not None})


async def store(
    sources: Source | Iterable[Source] | AsyncIterable[Source],
    *,
    to: Peer,
    options: TransferOptions | None = None,
    associations: int | None = None,
    window: int | None = None,
    ledger: Ledger | str | os.PathLike[str] | None = None,
) -> Report:
    """Send instances to a peer and give back the account of it; see Transfer, which hands out each outcome as well.

    Raises what entering and iterating over a Transfer raise.
    """
    async with Transfer(
        to, sources, options=options, associations=associations, window=window, ledger=ledger
    ) as transfer:
        async for _ in transfer:
            pass
    return transfer.report
