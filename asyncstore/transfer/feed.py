"""Turns sources into instances, ahead of the associations: warm files at once, cold ones by threads.

Opening and reading a file that the system has in memory takes microseconds, and handing it to a thread costs more than
that. The same calls on a share or a spinning disk take milliseconds, in which no association would move. So the feed
measures: it reads in the event loop, a short slice at a time, as long as that is quick and the bytes are in memory; and
it hands whole batches to several threads at once as long as it is not.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import AsyncIterable, Iterable, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread

from asyncstore.instances.file_meta import read_head
from asyncstore.instances.instance import Instance, ScanProblem
from asyncstore.instances.scan import walk

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
# Opening and reading a small file that is in memory takes about 0.03 ms. In a thread it may have to wait for its turn
# at the interpreter, which says nothing about the file: the second limit is wider for that.
_COLD_SECONDS_PER_FILE: Final = 0.001
_WARM_SECONDS_PER_FILE: Final = 0.003
# Cold: so many threads with so many files each. More threads than associations, because a thread also waits for `open`.
_READERS: Final = 16
_COLD_FILES: Final = 8


class NamedPath(str):
    """The path of a file that was named as a source, not found in a directory: it being no DICOM file is a failure."""

    __slots__ = ()


class Feed:
    """Reads sources and hands what it finds to `deliver`, a list at a time.

    `sources` is one source, or an iterable or asynchronous iterable of them; endless ones too. `wait_for_room` is
    awaited before more is read. `is_cold` tells where the reading takes place at the moment.
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
        # An iterator of the caller's may block: it is only ever asked in a thread.
        self._always_cold = not isinstance(sources, Sequence | Set) and not _is_one(sources)
        self.is_cold = True  # until the first batch has shown otherwise: the first open may hang

    async def run(self) -> None:
        """Read everything; returns when the sources have ended."""
        if isinstance(self._sources, AsyncIterable):
            async for source in self._sources:
                await self._read_sources([source])
        elif _is_one(self._sources):
            await self._read_sources([self._sources])  # type: ignore[list-item]
        else:
            await self._read_sources(self._sources)  # type: ignore[arg-type]

    async def _read_sources(self, sources: Iterable[Source]) -> None:
        entries = _entries(sources, self._recursive)
        async with anyio.create_task_group() as readers:
            limiter = anyio.CapacityLimiter(_READERS)
            slots = anyio.Semaphore(_READERS)
            while True:
                await self._wait_for_room()
                if self.is_cold:
                    batch = await anyio.to_thread.run_sync(_next_entries, entries, abandon_on_cancel=True)
                    if not batch:
                        return
                    await slots.acquire()
                    readers.start_soon(self._read_cold, batch, limiter, slots)
                elif not await self._read_warm(entries):
                    return

    async def _read_warm(self, entries: Iterator[Any]) -> bool:
        """Read a slice of files here and now; False when there are no more.

        Goes over to threads with the first file that is not in memory, and after a slice that was slow.
        """
        found: list[Found] = []
        started_at = time.perf_counter()
        ended_at = started_at
        count = 0
        for entry in itertools.islice(entries, _SLICE_FILES):
            count += 1
            if isinstance(entry, str):
                head = read_head(entry, wait=False, regular=True)
                if head is None:
                    self.is_cold = True
                    head = await anyio.to_thread.run_sync(_read, entry, abandon_on_cancel=True)
                    found.append(head)
                    break
                found.append(head)
            else:
                found.append(_as_found(entry))
            ended_at = time.perf_counter()
            if ended_at - started_at > _SLICE_SECONDS:
                break
        if found:
            self._deliver(found)
        if count and (ended_at - started_at) / count > _COLD_SECONDS_PER_FILE:
            self.is_cold = True
        await anyio.lowlevel.checkpoint()
        return count > 0

    async def _read_cold(self, batch: list[Any], limiter: anyio.CapacityLimiter, slots: anyio.Semaphore) -> None:
        """Have a thread read a batch; comes back to the event loop when that turns out to be quick."""
        try:
            found, is_warm = await anyio.to_thread.run_sync(_read_batch, batch, abandon_on_cancel=True, limiter=limiter)
        finally:
            slots.release()
        self._deliver(found)
        self.is_cold = self._always_cold or not is_warm


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


def _next_entries(entries: Iterator[Any]) -> list[Any]:
    """A batch of entries; a short one when they come slowly, so that the first need not wait for the last."""
    batch: list[Any] = []
    started_at = time.perf_counter()
    for entry in itertools.islice(entries, _COLD_FILES):
        batch.append(entry)
        if time.perf_counter() - started_at > _SLICE_SECONDS:
            break
    return batch


def _read_batch(batch: list[Any]) -> tuple[list[Found], bool]:
    """What is in a batch of files, and whether all of them were in memory and quick to open."""
    started_at = time.perf_counter()
    found: list[Found] = []
    is_warm = True
    for entry in batch:
        head = read_head(entry, wait=False, regular=True) if isinstance(entry, str) else _as_found(entry)
        if head is None:
            is_warm = False
            head = _read(entry)
        found.append(head)
    return found, is_warm and (time.perf_counter() - started_at) / len(batch) < _WARM_SECONDS_PER_FILE


def _read(path: str) -> Found:
    found = read_head(path, regular=True)
    assert found is not None, "only a reader that may not wait gets no answer"
    return found


def _as_found(entry: Instance | ScanProblem | Dataset) -> Found:
    if isinstance(entry, Instance | ScanProblem):
        return entry
    return Instance.from_dataset(entry)
