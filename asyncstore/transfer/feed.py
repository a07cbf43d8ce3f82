"""Turns sources into instances, ahead of the associations: warm files at once, cold ones by threads.

Opening and reading a file that the system has in memory takes microseconds, and handing it to a thread costs more than
that. The same calls on a share or a spinning disk take milliseconds, in which no association would move. So the feed
measures: it reads in the event loop, a short slice at a time, as long as that is quick and the bytes are in memory; and
it hands whole batches to several threads at once as long as it is not.
"""

from __future__ import annotations

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
from asyncstore.instances.file_meta import read_head
from asyncstore.instances.instance import Instance, ProblemKind, ScanProblem
from asyncstore.instances.scan import walk

try:
    import resource as _usage

    _usage.RUSAGE_THREAD  # noqa: B018  (not on macOS)
except (ImportError, AttributeError):
    _usage = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

Source: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes] | Instance | Dataset"
"""What can be sent: a file or directory by its path, a scanned Instance, or a pydicom Dataset."""

Found: TypeAlias = Instance | ScanProblem

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
_count = itertools.count()
# Cold: so many threads with so many files each. More threads than associations, because a thread also waits for `open`.
_READERS: Final = 16
_COLD_FILES: Final = 8


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
    """Says where files are to be read: in the event loop while they are quick (`is_cold` False), else by threads."""

    def __init__(self) -> None:
        self.is_cold = True  # until the first batch has shown otherwise: the first open may hang
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
        """Files were read by a thread, the fastest in that time."""
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
    awaited before more is read. `pace` tells where the reading takes place.
    """

    def __init__(
        self,
        sources: Source | Iterable[Source] | AsyncIterable[Source],
        *,
        recursive: bool,
        deliver: Callable[[list[Found]], None],
        wait_for_room: Callable[[], Any],
    ) -> None:
        self._sources = sources
        self._recursive = recursive
        self._deliver = deliver
        self._wait_for_room = wait_for_room
        self.pace = Pace()
        self._limiter = anyio.CapacityLimiter(_READERS)
        self._slots = anyio.Semaphore(_READERS)

    async def run(self) -> None:
        """Read everything; returns when the sources have ended."""
        sources = self._sources
        async with anyio.create_task_group() as self._readers:
            if _is_one(sources):
                await self._read([cast("Source", sources)])
            elif isinstance(sources, Sequence | Set):
                await self._read(cast("Iterable[Source]", sources))
            elif isinstance(sources, Iterable):
                await self._read_iterator(iter(cast("Iterable[Source]", sources)))
            else:
                async for source in cast("AsyncIterable[Source]", sources):
                    await self._read([source])

    async def _read_iterator(self, sources: Iterator[Source]) -> None:
        """An iterator of the caller's may block, so it is only ever asked in a thread."""
        most = 1
        while True:
            batch, seconds = await anyio.to_thread.run_sync(_next, sources, most, abandon_on_cancel=True)
            if not batch:
                return
            # Where sources come slowly, the first must not wait for the next.
            most = min(2 * most, _SLICE_FILES) if seconds < _SLICE_SECONDS else 1
            await self._read(batch)

    async def _read(self, sources: Iterable[Source]) -> None:
        """Walk and read sources that can be iterated over without waiting."""
        entries = _entries(sources, self._recursive)
        while True:
            await self._wait_for_room()
            is_probe = self.pace.is_cold and self.pace.wants_probe(time.monotonic())
            if self.pace.is_cold and not is_probe:
                batch, _ = await anyio.to_thread.run_sync(_next, entries, _COLD_FILES, abandon_on_cancel=True)
            else:
                missed = self._read_warm(entries, _PROBE_FILES if is_probe else _SLICE_FILES)
                if missed == []:
                    await anyio.lowlevel.checkpoint()
                    continue
                batch = missed or []
            if not batch:
                return
            await self._slots.acquire()
            self._readers.start_soon(self._read_cold, batch)

    def _read_warm(self, entries: Iterator[Any], most: int) -> list[str] | None:
        """Read a slice of files here and now; the names of those that were not in memory, or None at the end."""
        found: list[Found] = []
        missed: list[str] = []
        waits = _waits_so_far()
        started_at = ended_at = time.perf_counter()
        for entry in itertools.islice(entries, most):
            head = read_head(entry, wait=False, regular=True) if isinstance(entry, str) else _as_found(entry)
            ended_at = time.perf_counter()
            if head is None:
                missed.append(entry)
            else:
                found.append(head)
            if ended_at - started_at > _SLICE_SECONDS or len(missed) == _COLD_FILES:
                break
        if not found and not missed:
            return None
        waited = _waits_so_far() != waits
        seconds = ended_at - started_at
        self.pace.read_slice(time.monotonic(), len(found), seconds, missed=len(missed), waited=waited)
        self._deliver(found)
        return missed

    async def _read_cold(self, batch: list[Any]) -> None:
        """Have a thread read a batch."""
        try:
            found, fastest, all_in_memory = await anyio.to_thread.run_sync(
                _read_batch, batch, abandon_on_cancel=True, limiter=self._limiter
            )
        finally:
            self._slots.release()
        self._deliver(found)
        self.pace.read_batch(time.monotonic(), fastest, all_in_memory=all_in_memory)


def _is_one(sources: object) -> bool:
    # A pydicom Dataset is iterable too; only when pydicom is loaded can there be one.
    pydicom = sys.modules.get("pydicom")
    is_data_set = pydicom is not None and isinstance(sources, pydicom.Dataset)
    return is_data_set or isinstance(sources, str | bytes | os.PathLike | Instance)


def _entries(sources: Iterable[Source], recursive: bool) -> Iterator[Any]:
    """Paths of files, problems, and what is in memory already."""
    for source in sources:
        if isinstance(source, str | bytes | os.PathLike):
            name = os.fsdecode(source)
            for entry in walk([name], recursive=recursive):
                yield NamedPath(entry) if entry == name else entry
        else:
            yield source


def _next(entries: Iterator[Any], most: int) -> tuple[list[Any], float]:
    """At most so many entries, and the seconds that it took to get them."""
    started_at = time.perf_counter()
    return list(itertools.islice(entries, most)), time.perf_counter() - started_at


def _read_batch(batch: list[Any]) -> tuple[list[Found], float, bool]:
    """What is in a batch of files, the seconds that the fastest took, and whether all were in memory."""
    found: list[Found] = []
    fastest = math.inf
    all_in_memory = True
    for entry in batch:
        started_at = time.perf_counter()
        head = read_head(entry, wait=False, regular=True) if isinstance(entry, str) else _as_found(entry)
        if head is None:
            all_in_memory = False
            head = _read(entry)
        fastest = min(fastest, time.perf_counter() - started_at)
        found.append(head)
    return found, fastest, all_in_memory


def _read(path: str) -> Found:
    found = read_head(path, regular=True)
    assert found is not None, "only a reader that may not wait gets no answer"
    return found


def _as_found(entry: Instance | ScanProblem | Dataset) -> Found:
    if isinstance(entry, Instance | ScanProblem):
        return entry
    try:
        return Instance.from_dataset(entry)
    except SourceError as error:
        return ScanProblem(str(getattr(entry, "filename", "")), ProblemKind.MISSING_UID, str(error), error)
