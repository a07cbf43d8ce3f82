"""Turns sources into instances, ahead of the associations: warm files in the event loop, cold ones in threads.

Opening and reading a file that the system has in memory takes microseconds, less than handing it to a thread. The same
calls on a share or a spinning disk take milliseconds, in which no association would move. So the feed measures. While
files are quick and in memory, it reads them in the event loop, a short slice at a time. While they are quick to open
and not in memory, a thread opens them ahead and asks the system for their bytes, and the event loop reads them later.
While they are slow, it hands whole batches to several threads. If an earlier run may have settled files, a thread asks
for many paths at once before any of them is opened.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterable, Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from asyncstore.aio.signal import Signal, Turn, wait_for_any
from asyncstore.aio.waits import waits_so_far
from asyncstore.errors import SourceError
from asyncstore.inputs.entry import encoded, entries_of, is_data_set, is_one
from asyncstore.inputs.pace import BATCH_FILES, MANY_READERS, PROBE_FILES, Pace
from asyncstore.inputs.reading import Fed as Fed
from asyncstore.inputs.reading import Gathered, Reader
from asyncstore.inputs.reading import Settled as Settled
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Protocol

    from asyncstore.inputs.contents import Contents
    from asyncstore.inputs.entry import Entry, Source
    from asyncstore.inputs.selection import Choice
    from asyncstore.inputs.walk import Walked
    from asyncstore.ledger.protocol import Suspicion

    class Deliver(Protocol):
        """Takes what the feed has found, and returns when there is room for more.

        `are_settled` says that all of it are outcomes that were known before, `suspicion` what was known of instances.
        """

        async def __call__(
            self, found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
        ) -> object: ...


T = TypeVar("T")

# A slice in the event loop: long enough that its overhead does not count, short enough that an association that waits
# for its next instance does not notice.
_SLICE_FILES: Final = 64
_SLICE_SECONDS: Final = 0.002
# How many entries are looked up at once: neighbours share parts of the look-up.
_ASKED_AT_ONCE: Final = 1024
_ASKED_SECONDS: Final = 0.1
# How many suspected entries are put off until the others have been read.
_MOST_SUSPECTED: Final = 8192
# The time that an asynchronous generator has to close, if it is not read to its end.
_CLOSING_SECONDS: Final = 5.0


def _is_cancellation_of_others(error: BaseException) -> bool:
    """Whether this is a cancellation that nobody asked of this task: it would end the task without a word."""
    return isinstance(error, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() > -math.inf


class Feed:
    """Reads sources and passes the instances and outcomes to `deliver`, a list at a time.

    `sources` is one source, or an iterable or asynchronous iterable of them, which may be endless. The feed reads
    more when `deliver` returns. `pace` decides where it reads, `choice` what.

    An archive or a DICOMDIR is read to its end before the feed goes on with the sources; `archives_opened` counts both.
    """

    def __init__(
        self,
        sources: Source | Iterable[Source] | AsyncIterable[Source],
        *,
        recursive: bool,
        find_studies: bool = False,
        choice: Choice | None = None,
        deliver: Deliver,
    ) -> None:
        self._sources = sources
        self._recursive = recursive
        self._choice = choice
        self._reader = Reader(choice, find_studies=find_studies)
        self._deliver = deliver
        self._settled: Settled | None = None
        self.pace: Pace = Pace()
        self._limiter = anyio.CapacityLimiter(MANY_READERS)
        self._reading = 0
        self._batch_was_read = Signal()
        self.archives_opened: int = 0
        self._opened = 0  # those of them that are not read to their end
        self._opening = Turn()
        self._was_closed = Signal()

    @property
    def left_out(self) -> int:
        """How many files and instances the choice has left out so far."""
        return 0 if self._choice is None else self._choice.left_out

    async def run(self, settled: Settled | None = None) -> None:
        """Read everything; returns when the sources have ended.

        `settled` is called in a thread, since it blocks. For each entry of a list it returns the outcome that the entry
        has already, or a suspicion or None if the entry must be read.
        """
        self._settled = settled
        sources = self._sources
        async with anyio.create_task_group() as self._readers:
            if is_one(sources):
                await self._read([cast("Source", sources)])
            elif isinstance(sources, Sequence | Set):
                await self._read(cast("Iterable[Source]", sources), walked={})
            elif self._choice is not None and self._choice.sorts_all:
                await self._read(await self._all_of(sources), walked={})
            else:
                await self._read_each(sources, self._read)

    async def _all_of(self, sources: Any) -> list[Source]:
        """All sources of an iterator, which are sorted: none is read before the last has come."""
        gathered: list[Source] = []

        async def gather(some: Iterable[Source]) -> None:
            gathered.extend(some)

        await self._read_each(sources, gather)
        return gathered

    async def _read_each(self, sources: Any, read: Callable[[list[Source]], Awaitable[None]]) -> None:
        """Hand the sources of an iterator to `read`, as they come."""
        if isinstance(sources, Iterable):
            await self._read_iterator(iter(cast("Iterable[Source]", sources)), read)
        else:
            await self._read_asynchronous(cast("AsyncIterable[Source]", sources), read)

    async def _read_asynchronous(
        self, sources: AsyncIterable[Source], read: Callable[[list[Source]], Awaitable[None]]
    ) -> None:
        """Read to the end of the sources; if that fails, close the generator that yields them.

        A generator must be closed in the task that iterates over it, and not inside a scope younger than its own.
        """
        iterator = aiter(sources)
        failure: BaseException | None = None
        with anyio.CancelScope() as scope:
            try:
                async for source in iterator:
                    await read([await self._encoded_here(source)])
            except BaseException as error:
                failure = error
                scope.deadline = anyio.current_time() + _CLOSING_SECONDS
                scope.shield = True
                if hasattr(iterator, "aclose"):
                    await iterator.aclose()
        if failure is not None:  # out here, since the scope swallows a cancellation once its time is over
            if _is_cancellation_of_others(failure):
                raise SourceError("the sources ended early: what they waited for was cancelled") from failure
            raise failure

    async def _encoded_here(self, source: Any) -> Any:
        if not is_data_set(source):
            return source
        return await anyio.to_thread.run_sync(_encoded, source, abandon_on_cancel=True, limiter=self._limiter)

    async def _read_iterator(self, sources: Iterator[Source], read: Callable[[list[Source]], Awaitable[None]]) -> None:
        """Read a caller's iterator: in a thread, since it may block."""
        from asyncstore.aio.pump import Pump

        pump = Pump(map(_encoded, sources))
        pump.start()
        try:
            while batch := await pump.take():
                await read(batch)
        finally:
            pump.stop()

    async def _read(self, sources: Iterable[Source], *, walked: Walked | None = None) -> None:
        """Walk and read sources that can be iterated over without waiting.

        With `walked`, a directory below several sources is walked once. An iterator may name a directory again on
        purpose, for the new files in it.
        """
        entries = entries_of(sources, recursive=self._recursive, walked=walked, choice=self._choice)
        await self._read_unsettled(entries)

    async def _read_unsettled(self, entries: Iterator[Entry], *, is_inner: bool = False) -> None:
        """Read the entries that an earlier run has not settled; `is_inner`: they are those of an archive."""
        if self._settled is None:
            await self._read_entries(entries, is_inner=is_inner)
            return
        suspected: list[tuple[Entry, Suspicion]] = []
        has_more = True
        opens_all = self._choice is not None and self._choice.archives
        while has_more:
            has_more, outcomes, unsettled, found = await anyio.to_thread.run_sync(
                _ask, entries, self._settled, opens_all, abandon_on_cancel=True
            )
            suspected += found
            await self._deliver(outcomes, are_settled=True)
            if unsettled:
                await self._read_entries(iter(unsettled), is_inner=is_inner)
            if suspected and (not has_more or len(suspected) >= _MOST_SUSPECTED):
                await self._read_suspected(suspected, is_inner=is_inner)
                suspected = []

    async def _read_suspected(self, suspected: list[tuple[Entry, Suspicion]], *, is_inner: bool) -> None:
        """Read what an earlier run suspected, when all else before it has been read."""
        while self._reading or (self._opened and not is_inner):
            await wait_for_any(self._batch_was_read, self._was_closed)
        for entry, suspicion in suspected:
            gathered, _, _ = await self._in_thread(self._reader.read_batch, [entry])
            await self._deliver(gathered.found, suspicion=suspicion)

    async def _read_entries(self, entries: Iterator[Entry], *, is_inner: bool) -> None:
        has_more = True
        while has_more:
            while self._opened and not is_inner:
                await self._was_closed.wait()
            is_probe = self.pace.is_cold and self.pace.wants_probe(time.monotonic())
            is_cold = self.pace.is_cold and not is_probe
            if is_cold and self.pace.opens_ahead and not self._reader.looks_inside:
                has_more = await self._read_ahead(entries)
                continue
            if self._reader.looks_inside or is_cold:
                files = self.pace.files_at_once
                has_more, batch = await anyio.to_thread.run_sync(_next, entries, files, abandon_on_cancel=True)
            else:
                has_more, gathered, batch = self._read_warm(entries, PROBE_FILES if is_probe else _SLICE_FILES)
                await self._take(gathered)
            if batch:
                await self._read_in_background(batch, is_late=not is_cold)
            else:
                await anyio.lowlevel.checkpoint()

    async def _read_ahead(self, entries: Iterator[Entry]) -> bool:
        """Read files that a thread opens ahead, until the pace changes. Gives whether there may be more."""
        from asyncstore.inputs.ahead import Ahead

        pace = self.pace
        with Ahead(entries) as ahead:
            while True:
                opens_more = ahead.has_more and pace.opens_ahead and not self._opened
                if opens_more and not pace.wants_probe(time.monotonic()):
                    pace.opened(await ahead.open_more(BATCH_FILES))
                    if not ahead.is_full:
                        continue
                batch = ahead.take()
                if not batch:
                    return ahead.has_more
                await self._read_opened(batch)

    async def _read_opened(self, batch: list[Entry]) -> None:
        """Read a batch that was opened ahead; what the disk has not brought yet goes to a thread."""
        entries = iter(batch)
        try:
            has_more = True
            while has_more:
                has_more, gathered, late = self._read_warm(entries, _SLICE_FILES, is_ahead=True)
                await self._take(gathered)
                if late:
                    await self._read_in_background(late, is_late=True)
        finally:
            for entry in entries:
                entry.close()

    async def _read_in_background(self, batch: list[Entry], *, is_late: bool) -> None:
        """Have a thread read a batch, as soon as there is one; `is_late`: the event loop did not find it in memory."""
        while self._reading >= self.pace.readers:
            await self._batch_was_read.wait()
        self._reading += 1
        self._readers.start_soon(self._read_cold, batch, is_late)

    def _read_warm(
        self, entries: Iterator[Entry], most: int, *, is_ahead: bool = False
    ) -> tuple[bool, Gathered, list[Entry]]:
        """Read a slice of files here and now; `is_ahead`: they were opened ahead.

        Gives whether there may be more, what was found, and the files that are not in memory, for a thread.
        """
        gathered = Gathered()
        found = gathered.found
        missed: list[Entry] = []
        has_more = True
        count = 0
        waits = waits_so_far()
        started_at = ended_at = time.perf_counter()
        for entry in itertools.islice(entries, most):
            head = entry.read_head(wait=False)
            ended_at = time.perf_counter()
            count += 1
            if type(head) is Instance:
                found.append(head)
            elif head is None:
                missed.append(entry)
            else:
                self._reader.gather(entry, head, gathered)
            if ended_at - started_at > _SLICE_SECONDS or len(missed) == BATCH_FILES:
                break
        else:
            has_more = count == most
        if not count:
            return has_more, gathered, missed
        waited = waits_so_far() != waits
        seconds = ended_at - started_at
        files = count - len(missed)
        self.pace.read_slice(time.monotonic(), files, seconds, missed=len(missed), waited=waited, is_ahead=is_ahead)
        return has_more, gathered, missed

    async def _read_cold(self, batch: list[Entry], is_late: bool) -> None:
        """Have a thread read a batch."""
        try:
            while batch:
                part = batch[: self.pace.files_at_once]
                gathered, fastest, all_in_memory = await self._in_thread(self._reader.read_batch, part)
                del batch[: len(part)]
                self.pace.read_batch(time.monotonic(), fastest, all_in_memory=all_in_memory and not is_late)
                await self._take(gathered)
        finally:
            self._reading -= 1
            self._batch_was_read.set()

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True, limiter=self._limiter)

    # -- archives and DICOMDIRs ----------------------------------------------------------------------------------------

    async def _take(self, gathered: Gathered) -> None:
        """Deliver what was found, and begin to read the archives among it."""
        await self._deliver(gathered.found)
        for contents in gathered.contents:
            self.archives_opened += 1
            self._opened += 1
            self._readers.start_soon(self._read_contents, contents)

    async def _read_contents(self, contents: Contents) -> None:
        """Read what an archive contains, when those before it have been read."""
        try:
            await self._opening.wait()
            with self._opening:
                if contents.in_order:
                    await self._read_in_order(contents.entries)
                else:
                    await self._read_unsettled(contents.entries, is_inner=True)
        finally:
            self._opened -= 1
            self._was_closed.set()

    async def _read_in_order(self, entries: Iterator[Entry]) -> None:
        has_more = True
        while has_more:
            gathered = await self._in_thread(self._reader.read_in_order, entries, self._settled)
            has_more = gathered.has_more
            if gathered.settled:
                await self._deliver(gathered.settled, are_settled=True)
            for found, suspicion in gathered.suspected:
                await self._deliver([found], suspicion=suspicion)
            await self._deliver(gathered.found)


def _next(entries: Iterator[Entry], most: int) -> tuple[bool, list[Entry]]:
    """Whether there may be more entries, and the next ones: few when they come slowly."""
    ends_at = time.perf_counter() + _SLICE_SECONDS
    batch: list[Entry] = []
    for entry in itertools.islice(entries, most):
        batch.append(entry)
        if time.perf_counter() > ends_at:
            return True, batch
    return len(batch) == most, batch


def _ask(
    entries: Iterator[Entry], settled: Settled, opens_all: bool
) -> tuple[bool, list[Outcome], list[Entry], list[tuple[Entry, Suspicion]]]:
    """Whether there may be more entries; the outcomes of the settled ones among the next, the others, the suspected.

    With `opens_all` a file without an instance is not settled: it may be an archive that an earlier run did not open.
    """
    ends_at = time.perf_counter() + _ASKED_SECONDS
    asked: list[Entry] = []
    for entry in entries:
        asked.append(entry)
        if len(asked) == _ASKED_AT_ONCE or time.perf_counter() > ends_at:
            break
    answers = settled(asked)
    if opens_all:
        answers = [None if isinstance(each, Outcome) and each.state is State.SKIPPED else each for each in answers]
    unsettled, suspected = [], []
    for entry, answer in zip(asked, answers, strict=True):
        if answer is None:
            unsettled.append(entry)
        elif not isinstance(answer, Outcome):
            suspected.append((entry, answer))
    return bool(asked), [answer for answer in answers if isinstance(answer, Outcome)], unsettled, suspected


def _encoded(source: Any) -> Any:
    """A source; a Dataset encoded as it is now, since an iterator may yield the same one again, modified."""
    return encoded(source) if is_data_set(source) else source
