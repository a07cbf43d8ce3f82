"""Turns sources into instances, ahead of the associations: warm files at once, cold ones by threads.

Opening and reading a file that the system has in memory takes microseconds, and handing it to a thread costs more than
that. The same calls on a share or a spinning disk take milliseconds, in which no association would move. So the feed
measures: it reads in the event loop, a short slice at a time, as long as that is quick and the bytes are in memory; and
it hands whole batches to several threads at once as long as it is not. Where an earlier run may have settled what
becomes of a file, a thread asks for many paths at once, before any of them is opened.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
import time
from collections.abc import AsyncIterable, Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from asyncstore.errors import SourceError
from asyncstore.instances.file_meta import open_head, read_head
from asyncstore.instances.instance import Instance, ScanProblem
from asyncstore.instances.scan import Walked, walk
from asyncstore.instances.study import study_of
from asyncstore.net.outcome import Outcome, source_problem
from asyncstore.net.signal import Signal
from asyncstore.transfer.pump import Pump

try:
    import resource as _usage

    _usage.RUSAGE_THREAD  # noqa: B018  (not on macOS)
except (ImportError, AttributeError):
    _usage = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

Source: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes] | Instance | ScanProblem | Dataset"
"""What can be sent: a file or directory by its path, what a scan yields, or a pydicom Dataset."""

Found: TypeAlias = Instance | ScanProblem | Outcome

# A slice in the event loop: long enough that its overhead does not count, short enough that an association that waits
# for its next instance does not notice.
_SLICE_FILES: Final = 64
_SLICE_SECONDS: Final = 0.002
# Opening and reading a small file that is in memory takes about 0.03 ms; 1 ms is more than a thread costs.
_SLOW_SECONDS_PER_FILE: Final = 0.001
_QUICK_SECONDS_PER_FILE: Final = 0.0005
# While threads read, a few files are tried in the event loop now and then, further apart each time that they were slow:
# a thread has to wait for its turn at the interpreter, so how long it took says little about the files.
_PROBE_FILES: Final = 2
_FIRST_PROBE_SECONDS: Final = 0.25
_LAST_PROBE_SECONDS: Final = 16.0
# Threads that read: few where a file takes microseconds, since they and the event loop take turns at the interpreter
# (60,000 that were not in memory took 0.044 ms each with 2 threads and 0.052 ms with 4); many where each call waits for
# a disk or a network, however slow.
_FEW_READERS: Final = 2
_MANY_READERS: Final = 16
_DISTANT_SECONDS_PER_FILE: Final = 0.002
# A thread gets many files at once: each hand-over costs about 0.1 ms, and a disk that knows what will be read next
# reads small files in a sixth of the time. Where a file takes long, a few are enough to wait for.
_BATCH_FILES: Final = 64
_FEW_FILES: Final = 4
# Of so many entries at once it is asked what is settled: what neighbours share is then looked up once.
_ASKED_AT_ONCE: Final = 1024
_ASKED_SECONDS: Final = 0.1
# How long an asynchronous generator that is not read to its end may take to close.
_CLOSING_SECONDS: Final = 5.0

_count = itertools.count()


def _waits_so_far() -> int:
    """How often this thread gave up the processor by itself, to wait; always 1 more where the system cannot tell.

    Time alone would not do: on a busy machine a thread is also made to pause while it reads from memory.
    """
    if _usage is None:
        return next(_count)
    return _usage.getrusage(_usage.RUSAGE_THREAD).ru_nvcsw


class NamedPath(str):
    """The path of a file that was named as a source, not found in a directory: it being no DICOM file is a failure."""

    __slots__ = ()


class Pace:
    """Says where files are to be read: in the event loop while they are quick (`is_cold` False), else by threads.

    So many `readers` then, each with so many `files_at_once`.
    """

    def __init__(self) -> None:
        self.is_cold = True  # until the first batch has shown otherwise: the first open may hang
        self.readers = _FEW_READERS
        self.files_at_once = _FEW_FILES
        self._probe_seconds = _FIRST_PROBE_SECONDS
        self._probe_at = math.inf

    def wants_probe(self, now: float) -> bool:
        """Whether it is time to try some files in the event loop again."""
        return now >= self._probe_at

    def read_slice(self, now: float, files: int, seconds: float, *, missed: int, waited: bool) -> None:
        """Files were read in the event loop; `missed` more were not in memory, and are left to a thread.

        `waited` says that the event loop's thread had to wait for something meanwhile.
        """
        if missed > files or (waited and seconds > files * _SLOW_SECONDS_PER_FILE):
            self._become_cold(now)
        elif files >= _PROBE_FILES:
            self.is_cold = False
            self._probe_seconds = _FIRST_PROBE_SECONDS

    def read_batch(self, now: float, fastest_seconds: float, *, all_in_memory: bool) -> None:
        """Files were read by a thread, the fastest in that time: that one had to wait least for the interpreter."""
        is_distant = fastest_seconds > _DISTANT_SECONDS_PER_FILE
        self.readers = _MANY_READERS if is_distant else _FEW_READERS
        self.files_at_once = _FEW_FILES if is_distant else _BATCH_FILES
        if all_in_memory and fastest_seconds < _QUICK_SECONDS_PER_FILE:
            self.is_cold = False
        elif self._probe_at == math.inf:
            self._become_cold(now)

    def _become_cold(self, now: float) -> None:
        self.is_cold = True
        self._probe_at = now + self._probe_seconds
        self._probe_seconds = min(2 * self._probe_seconds, _LAST_PROBE_SECONDS)


class Feed:
    """Reads sources and hands what it finds to `deliver`, a list at a time.

    `sources` is one source, or an iterable or asynchronous iterable of them; endless ones too. `wait_for_room` is
    awaited before more is read. `pace` tells where the reading takes place. `settled` blocks, and is asked in a thread:
    for each entry of a list the outcome that it has already, None where it is to be read; `pass_over` gets those. It
    may be taken away before `run`.
    """

    def __init__(
        self,
        sources: Source | Iterable[Source] | AsyncIterable[Source],
        *,
        recursive: bool,
        find_studies: bool = False,
        deliver: Callable[[list[Found]], None],
        wait_for_room: Callable[[], Any],
        settled: Callable[[list[Any]], list[Outcome | None]] | None = None,
        pass_over: Callable[[list[Outcome]], None] = lambda outcomes: None,
    ) -> None:
        self._sources = sources
        self._recursive = recursive
        self._find_studies = find_studies
        self._deliver = deliver
        self._wait_for_room = wait_for_room
        self.settled = settled
        self._pass_over = pass_over
        self.pace = Pace()
        self._limiter = anyio.CapacityLimiter(_MANY_READERS)
        self._reading = 0
        self._batch_was_read = Signal()

    async def run(self) -> None:
        """Read everything; returns when the sources have ended."""
        sources = self._sources
        async with anyio.create_task_group() as self._readers:
            if _is_one(sources):
                await self._read([cast("Source", sources)])
            elif isinstance(sources, Sequence | Set):
                await self._read(cast("Iterable[Source]", sources), walked={})
            elif isinstance(sources, Iterable):
                await self._read_iterator(iter(cast("Iterable[Source]", sources)))
            else:
                await self._read_asynchronous(cast("AsyncIterable[Source]", sources))

    async def _read_asynchronous(self, sources: AsyncIterable[Source]) -> None:
        """Read to the end of the sources; when that is not to be reached, close what gives them, if it can be closed.

        A generator is closed in the task that iterates over it, inside no scope that is younger than its own ones.
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
        if not _is_data_set(source):
            return source
        return await anyio.to_thread.run_sync(_encoded, source, abandon_on_cancel=True, limiter=self._limiter)

    async def _read_iterator(self, sources: Iterator[Source]) -> None:
        """An iterator of the caller's may block, so it is only ever asked in a thread."""
        pump = Pump(map(_encoded, sources))
        pump.start()
        try:
            while batch := await pump.take():
                await self._read(batch)
        finally:
            pump.stop()

    async def _read(self, sources: Iterable[Source], *, walked: Walked | None = None) -> None:
        """Walk and read sources that can be iterated over without waiting.

        With `walked`, directories in which they overlap are walked once. An iterator may name one again on purpose:
        there may be new files in it.
        """
        entries = _entries(sources, self._recursive, walked)
        if self.settled is None:
            await self._read_entries(entries)
            return
        has_more = True
        while has_more:
            await self._wait_for_room()
            has_more, outcomes, unsettled = await anyio.to_thread.run_sync(
                _ask, entries, self.settled, abandon_on_cancel=True
            )
            self._pass_over(outcomes)
            if unsettled:
                await self._read_entries(iter(unsettled))

    async def _read_entries(self, entries: Iterator[Any]) -> None:
        has_more = True
        while has_more:
            await self._wait_for_room()
            is_probe = self.pace.is_cold and self.pace.wants_probe(time.monotonic())
            if self._find_studies or (self.pace.is_cold and not is_probe):
                files = self.pace.files_at_once
                has_more, batch = await anyio.to_thread.run_sync(_next, entries, files, abandon_on_cancel=True)
            else:
                has_more, batch = self._read_warm(entries, _PROBE_FILES if is_probe else _SLICE_FILES)
            if not batch:
                await anyio.lowlevel.checkpoint()
                continue
            while self._reading >= self.pace.readers:
                await self._batch_was_read.wait()
            self._reading += 1
            self._readers.start_soon(self._read_cold, batch)

    def _read_warm(self, entries: Iterator[Any], most: int) -> tuple[bool, list[Any]]:
        """Read a slice of files here and now: whether there may be more, and what is not in memory, for a thread."""
        found: list[Found] = []
        missed: list[Any] = []
        has_more = True
        waits = _waits_so_far()
        started_at = ended_at = time.perf_counter()
        for entry in itertools.islice(entries, most):
            head = read_head(entry, wait=False, regular=True) if isinstance(entry, str) else _ready(entry)
            ended_at = time.perf_counter()
            if head is None:
                missed.append(entry)
            else:
                found.append(head)
            if ended_at - started_at > _SLICE_SECONDS or len(missed) == _BATCH_FILES:
                break
        else:
            has_more = len(found) + len(missed) == most
        if not found and not missed:
            return has_more, missed
        waited = _waits_so_far() != waits
        seconds = ended_at - started_at
        self.pace.read_slice(time.monotonic(), len(found), seconds, missed=len(missed), waited=waited)
        self._deliver(found)
        return has_more, missed

    async def _read_cold(self, batch: list[Any]) -> None:
        """Have a thread read a batch."""
        try:
            while batch:
                part = batch[: self.pace.files_at_once]
                found, fastest, all_in_memory = await anyio.to_thread.run_sync(
                    _read_batch, part, self._find_studies, abandon_on_cancel=True, limiter=self._limiter
                )
                del batch[: len(part)]
                self._deliver(found)
                self.pace.read_batch(time.monotonic(), fastest, all_in_memory=all_in_memory)
        finally:
            self._reading -= 1
            self._batch_was_read.set()


def _is_one(sources: object) -> bool:
    # A Dataset is iterable too.
    return _is_data_set(sources) or isinstance(sources, str | bytes | os.PathLike | Instance | ScanProblem)


def _is_data_set(source: object) -> bool:
    # When pydicom is not loaded there can be none.
    pydicom = sys.modules.get("pydicom")
    return pydicom is not None and isinstance(source, pydicom.Dataset)


def _entries(sources: Iterable[Source], recursive: bool, walked: Walked | None) -> Iterator[Any]:
    """Paths of files, problems, and what is in memory already."""
    for source in sources:
        if isinstance(source, str | bytes | os.PathLike):
            name = os.fsdecode(source)
            found = walk(name, recursive=recursive, walked=walked)
            for first in found:
                yield _named(first) if _path_of(first) == name else first
                yield from found
        else:
            yield source


def _next(entries: Iterator[Any], most: int) -> tuple[bool, list[Any]]:
    """Whether there may be more entries, and the next ones: few when they come slowly."""
    ends_at = time.perf_counter() + _SLICE_SECONDS
    batch: list[Any] = []
    for entry in itertools.islice(entries, most):
        batch.append(entry)
        if time.perf_counter() > ends_at:
            return True, batch
    return len(batch) == most, batch


def _ask(
    entries: Iterator[Any], settled: Callable[[list[Any]], list[Outcome | None]]
) -> tuple[bool, list[Outcome], list[Any]]:
    """Whether there may be more entries; of the next ones the outcomes of those that are settled, and the others."""
    ends_at = time.perf_counter() + _ASKED_SECONDS
    asked: list[Any] = []
    for entry in entries:
        asked.append(entry)
        if len(asked) == _ASKED_AT_ONCE or time.perf_counter() > ends_at:
            break
    answers = settled(asked)
    unsettled = [entry for entry, outcome in zip(asked, answers, strict=True) if outcome is None]
    return bool(asked), [outcome for outcome in answers if outcome is not None], unsettled


def _read_batch(batch: list[Any], find_studies: bool) -> tuple[list[Found], float, bool]:
    """What is in the files of a batch, the seconds that the fastest took, and whether all were in memory."""
    found: list[Found] = []
    missed: list[str] = []
    fastest = math.inf
    began_at = time.perf_counter()
    opened = [open_head(entry) if isinstance(entry, str) else -1 for entry in reversed(batch)]
    opening_seconds = (time.perf_counter() - began_at) / len(batch)
    try:
        for entry in batch:
            began_at = time.perf_counter()
            fd = opened.pop()
            head = read_head(entry, missed=missed, regular=True, fd=fd) if isinstance(entry, str) else _as_found(entry)
            if find_studies and isinstance(head, Instance) and head.study_instance_uid is None:
                head.study_instance_uid = study_of(head)
            fastest = min(fastest, time.perf_counter() - began_at)
            found.append(head)
    finally:
        for fd in opened:
            if fd >= 0:
                os.close(fd)
    return found, opening_seconds + fastest, not missed


def _encoded(source: Any) -> Any:
    """A Dataset as the instance that it is now: whoever is asked for the next one may give the same one, changed."""
    return _as_found(source) if _is_data_set(source) else source


def _ready(entry: Any) -> Found | None:
    """What needs no more reading; None for a Dataset, which is still to be encoded."""
    return entry if isinstance(entry, Instance | ScanProblem | Outcome) else None


def _as_found(entry: Any) -> Found:
    ready = _ready(entry)
    if ready is not None:
        return ready
    try:
        return Instance.from_dataset(entry)
    except (SourceError, OSError) as error:
        return source_problem(error, None)


def _path_of(entry: str | ScanProblem) -> str:
    return entry.path if isinstance(entry, ScanProblem) else entry


def _named(entry: str | ScanProblem) -> str | ScanProblem:
    if isinstance(entry, ScanProblem):
        return dataclasses.replace(entry, path=NamedPath(entry.path))
    return NamedPath(entry)
