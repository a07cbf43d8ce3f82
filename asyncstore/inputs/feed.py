"""Turns sources into instances, ahead of the associations: warm files in the event loop, cold ones in threads.

Opening and reading a file that the system has in memory takes microseconds, less than handing it to a thread. The same
calls on a share or a spinning disk take milliseconds, in which no association would move. So the feed measures. While
files are quick and in memory, it reads them in the event loop, a short slice at a time. While they are not, it hands
whole batches to several threads. If an earlier run may have settled files, a thread asks for many paths at once before
any of them is opened.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterable, Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from asyncstore.aio.signal import Signal
from asyncstore.inputs.entry import encoded, entries_of, is_data_set, is_one
from asyncstore.inputs.pace import BATCH_FILES, MANY_READERS, PROBE_FILES, Pace, waits_so_far
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, problem_outcome
from asyncstore.instances.problem import ScanProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from asyncstore.inputs.entry import Entry, Found, Source
    from asyncstore.inputs.walk import Walked
    from asyncstore.ledger.protocol import Suspicion

Fed: TypeAlias = Instance | Outcome
"""An item that the feed delivers: an instance to send, or the outcome of a file without one."""

Settled: TypeAlias = "Callable[[Sequence[Entry]], list[Outcome | Suspicion | None]]"

if TYPE_CHECKING:

    class Deliver(Protocol):
        """Takes what the feed has found, and returns when there is room for more.

        `are_settled` says that all of it are outcomes that were known before, `suspicion` what was known of instances.
        """

        async def __call__(
            self, found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
        ) -> object: ...


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


class Feed:
    """Reads sources and passes the instances and outcomes to `deliver`, a list at a time.

    `sources` is one source, or an iterable or asynchronous iterable of them, which may be endless. The feed reads
    more when `deliver` returns. `pace` decides where it reads.
    """

    def __init__(
        self,
        sources: Source | Iterable[Source] | AsyncIterable[Source],
        *,
        recursive: bool,
        find_studies: bool = False,
        deliver: Deliver,
    ) -> None:
        self._sources = sources
        self._recursive = recursive
        self._find_studies = find_studies
        self._deliver = deliver
        self._settled: Settled | None = None
        self.pace = Pace()
        self._limiter = anyio.CapacityLimiter(MANY_READERS)
        self._reading = 0
        self._batch_was_read = Signal()

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
            elif isinstance(sources, Iterable):
                await self._read_iterator(iter(cast("Iterable[Source]", sources)))
            else:
                await self._read_asynchronous(cast("AsyncIterable[Source]", sources))

    async def _read_asynchronous(self, sources: AsyncIterable[Source]) -> None:
        """Read to the end of the sources; if that fails, close the generator that yields them.

        A generator must be closed in the task that iterates over it, and not inside a scope younger than its own.
        """
        iterator = aiter(sources)
        failure: BaseException | None = None
        with anyio.CancelScope() as scope:
            try:
                async for source in iterator:
                    await self._read([await self._encoded_here(source)])
            except BaseException as error:
                failure = error
                scope.deadline = anyio.current_time() + _CLOSING_SECONDS
                scope.shield = True
                if hasattr(iterator, "aclose"):
                    await iterator.aclose()
        if failure is not None:  # out here, since the scope swallows a cancellation once its time is over
            raise failure

    async def _encoded_here(self, source: Any) -> Any:
        if not is_data_set(source):
            return source
        return await anyio.to_thread.run_sync(_encoded, source, abandon_on_cancel=True, limiter=self._limiter)

    async def _read_iterator(self, sources: Iterator[Source]) -> None:
        """Read a caller's iterator: in a thread, since it may block."""
        from asyncstore.aio.pump import Pump

        pump = Pump(map(_encoded, sources))
        pump.start()
        try:
            while batch := await pump.take():
                await self._read(batch)
        finally:
            pump.stop()

    async def _read(self, sources: Iterable[Source], *, walked: Walked | None = None) -> None:
        """Walk and read sources that can be iterated over without waiting.

        With `walked`, a directory below several sources is walked once. An iterator may name a directory again on
        purpose, for the new files in it.
        """
        entries = entries_of(sources, recursive=self._recursive, walked=walked)
        if self._settled is None:
            await self._read_entries(entries)
            return
        suspected: list[tuple[Entry, Suspicion]] = []
        has_more = True
        while has_more:
            has_more, outcomes, unsettled, found = await anyio.to_thread.run_sync(
                _ask, entries, self._settled, abandon_on_cancel=True
            )
            suspected += found
            await self._deliver(outcomes, are_settled=True)
            if unsettled:
                await self._read_entries(iter(unsettled))
            if not has_more or len(suspected) >= _MOST_SUSPECTED:
                await self._read_suspected(suspected)
                suspected = []

    async def _read_suspected(self, suspected: list[tuple[Entry, Suspicion]]) -> None:
        """Read what an earlier run suspected, when all else before it has been read."""
        while self._reading:
            await self._batch_was_read.wait()
        for entry, suspicion in suspected:
            found, _, _ = await anyio.to_thread.run_sync(
                _read_batch, [entry], self._find_studies, abandon_on_cancel=True, limiter=self._limiter
            )
            await self._deliver(found, suspicion=suspicion)

    async def _read_entries(self, entries: Iterator[Entry]) -> None:
        has_more = True
        while has_more:
            is_probe = self.pace.is_cold and self.pace.wants_probe(time.monotonic())
            if self._find_studies or (self.pace.is_cold and not is_probe):
                files = self.pace.files_at_once
                has_more, batch = await anyio.to_thread.run_sync(_next, entries, files, abandon_on_cancel=True)
            else:
                has_more, found, batch = self._read_warm(entries, PROBE_FILES if is_probe else _SLICE_FILES)
                await self._deliver(found)
            if not batch:
                await anyio.lowlevel.checkpoint()
                continue
            while self._reading >= self.pace.readers:
                await self._batch_was_read.wait()
            self._reading += 1
            self._readers.start_soon(self._read_cold, batch)

    def _read_warm(self, entries: Iterator[Entry], most: int) -> tuple[bool, list[Fed], list[Entry]]:
        """Read a slice of files here and now.

        Gives whether there may be more, what was found, and the files that are not in memory, for a thread.
        """
        found: list[Fed] = []
        missed: list[Entry] = []
        has_more = True
        waits = waits_so_far()
        started_at = ended_at = time.perf_counter()
        for entry in itertools.islice(entries, most):
            head = entry.read_head(wait=False)
            ended_at = time.perf_counter()
            if head is None:
                missed.append(entry)
            else:
                found.append(head if type(head) is Instance else _fed(head, entry))
            if ended_at - started_at > _SLICE_SECONDS or len(missed) == BATCH_FILES:
                break
        else:
            has_more = len(found) + len(missed) == most
        if not found and not missed:
            return has_more, found, missed
        waited = waits_so_far() != waits
        seconds = ended_at - started_at
        self.pace.read_slice(time.monotonic(), len(found), seconds, missed=len(missed), waited=waited)
        return has_more, found, missed

    async def _read_cold(self, batch: list[Entry]) -> None:
        """Have a thread read a batch."""
        try:
            while batch:
                part = batch[: self.pace.files_at_once]
                found, fastest, all_in_memory = await anyio.to_thread.run_sync(
                    _read_batch, part, self._find_studies, abandon_on_cancel=True, limiter=self._limiter
                )
                del batch[: len(part)]
                self.pace.read_batch(time.monotonic(), fastest, all_in_memory=all_in_memory)
                await self._deliver(found)
        finally:
            self._reading -= 1
            self._batch_was_read.set()


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
    entries: Iterator[Entry], settled: Settled
) -> tuple[bool, list[Outcome], list[Entry], list[tuple[Entry, Suspicion]]]:
    """Whether there may be more entries; the outcomes of the settled ones among the next, the others, the suspected."""
    ends_at = time.perf_counter() + _ASKED_SECONDS
    asked: list[Entry] = []
    for entry in entries:
        asked.append(entry)
        if len(asked) == _ASKED_AT_ONCE or time.perf_counter() > ends_at:
            break
    answers = settled(asked)
    unsettled, suspected = [], []
    for entry, answer in zip(asked, answers, strict=True):
        if answer is None:
            unsettled.append(entry)
        elif not isinstance(answer, Outcome):
            suspected.append((entry, answer))
    return bool(asked), [answer for answer in answers if isinstance(answer, Outcome)], unsettled, suspected


def _read_batch(batch: list[Entry], find_studies: bool) -> tuple[list[Fed], float, bool]:
    """The contents of a batch of files, the seconds that the fastest took, and whether all were in memory."""
    if find_studies:
        from asyncstore.instances.study import study_of
    found: list[Fed] = []
    missed: list[str] = []
    fastest = math.inf
    began_at = time.perf_counter()
    try:
        for entry in batch:
            entry.begin_reading()
        opening_seconds = (time.perf_counter() - began_at) / len(batch)
        for entry in batch:
            began_at = time.perf_counter()
            head = entry.read_head(missed=missed)
            assert head is not None
            if find_studies and isinstance(head, Instance) and head.study_instance_uid is None:
                head.study_instance_uid = study_of(head)
            fastest = min(fastest, time.perf_counter() - began_at)
            found.append(head if type(head) is Instance else _fed(head, entry))
    finally:
        for entry in batch[len(found) :]:
            entry.close()
    return found, opening_seconds + fastest, not missed


def _fed(found: Found, entry: Entry) -> Fed:
    return problem_outcome(found, is_named=entry.is_named) if isinstance(found, ScanProblem) else found


def _encoded(source: Any) -> Any:
    """A source; a Dataset encoded as it is now, since an iterator may yield the same one again, modified."""
    return encoded(source) if is_data_set(source) else source
