"""Files that are opened ahead: all are read, in the event loop, and every descriptor is closed whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncstore.inputs.ahead import Ahead
from asyncstore.inputs.feed import Fed, Feed
from asyncstore.inputs.pace import Pace
from asyncstore.instances import head
from tests.support.transfers import write_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.inputs.entry import Found
    from asyncstore.ledger.protocol import Suspicion


class OneEntry:
    """An entry that knows whether it is open, and may be slow to open."""

    name: str | None = None
    is_named = False
    instance = None
    may_contain = False

    def __init__(self, may_open: threading.Event | None = None) -> None:
        self.is_open = False
        self.began = threading.Event()
        self.was_closed = threading.Event()
        self._may_open = may_open

    def stamp(self) -> tuple[int, int] | None:
        return None

    def begin_reading(self) -> None:
        self.began.set()
        if self._may_open is not None:
            self._may_open.wait(60)
        self.is_open = True

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Found | None:
        return None

    def close(self) -> None:
        self.is_open = False
        self.was_closed.set()


@pytest.mark.every_loop
async def test_entries_come_in_their_order_and_some_are_open_before_the_first_is_read() -> None:
    entries = [OneEntry() for _ in range(10)]
    taken: list[Any] = []
    with Ahead(iter(entries)) as ahead:
        while ahead.has_more and not ahead.is_full:
            await ahead.open_more(2)
        assert [entry.is_open for entry in entries] == [True] * 4 + [False] * 6
        while True:
            taken += ahead.take()
            if ahead.has_more:
                await ahead.open_more(2)
            elif len(taken) == 10:
                break
        assert not ahead.take()
    assert taken == entries
    assert all(entry.is_open for entry in entries)  # they are the reader's


@pytest.mark.every_loop
async def test_what_was_not_taken_is_closed() -> None:
    entries = [OneEntry() for _ in range(6)]
    with Ahead(iter(entries)) as ahead:
        await ahead.open_more(2)
        await ahead.open_more(2)
        ahead.take()
    assert [entry.is_open for entry in entries] == [True, True, False, False, False, False]


@pytest.mark.every_loop
async def test_what_a_thread_opens_after_the_cancellation_is_closed_by_the_thread() -> None:
    may_open = threading.Event()
    entries = [OneEntry(), OneEntry(may_open)]
    with anyio.CancelScope() as scope, Ahead(iter(entries)) as ahead:
        async with anyio.create_task_group() as group:
            group.start_soon(ahead.open_more, 2)
            await anyio.to_thread.run_sync(entries[1].began.wait, 10)
            scope.cancel()
    may_open.set()
    assert await anyio.to_thread.run_sync(entries[1].was_closed.wait, 10)
    assert not any(entry.is_open for entry in entries)


class Disk:
    """Stands in for read_head: the event loop finds those in memory that were opened ahead, but for `late`.

    `opened_in_the_loop` and `read_in_the_loop` count files.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, late: Sequence[str] = ()) -> None:
        self.opened_in_the_loop = 0
        self.read_in_the_loop = 0
        self._late = set(late)
        self._loop_thread = threading.get_ident()
        self._read_head = head.read_head
        monkeypatch.setattr(head, "read_head", self.read_head)

    def read_head(
        self, path: str, *, wait: bool = True, missed: list[str] | None = None, regular: bool = False, fd: int = -1
    ) -> Any:
        is_in_the_loop = threading.get_ident() == self._loop_thread
        self.opened_in_the_loop += is_in_the_loop and fd < 0
        found = self._read_head(path, regular=regular, fd=fd)
        if fd < 0 or path in self._late or not is_in_the_loop:
            if not wait:
                return None
            if missed is not None:
                missed.append(path)
        self.read_in_the_loop += is_in_the_loop
        return found


def _open_files(directory: Path) -> int:
    """How many files below a directory this process has open."""
    return sum(directory in link.resolve().parents for link in Path("/proc/self/fd").iterdir())


class Collected:
    """A feed and what it delivered; after `most` the delivery waits."""

    def __init__(self, source: Path, most: float = float("inf")) -> None:
        self.found: list[Fed] = []
        self.is_full = anyio.Event()
        self._most = most
        self.feed = Feed(source, recursive=True, deliver=self._deliver)

    async def _deliver(
        self, found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
    ) -> None:
        self.found.extend(found)
        if len(self.found) >= self._most:
            self.is_full.set()
            await anyio.sleep_forever()


@pytest.mark.every_loop
async def test_files_that_are_quick_to_open_and_not_in_memory_are_opened_in_a_thread_and_read_in_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(tmp_path, 600)
    disk = Disk(monkeypatch)
    collected = Collected(tmp_path)
    with anyio.fail_after(60):
        await collected.feed.run()
    assert sorted(each.path or "" for each in collected.found) == paths
    assert disk.read_in_the_loop > 400
    assert disk.opened_in_the_loop < 100  # a few are tried now and then


@pytest.mark.every_loop
async def test_what_the_disk_has_not_brought_yet_is_read_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(tmp_path, 600)
    Disk(monkeypatch, late=paths[::3])
    collected = Collected(tmp_path)
    with anyio.fail_after(60):
        await collected.feed.run()
    assert sorted(each.path or "" for each in collected.found) == paths


@pytest.mark.every_loop
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
@pytest.mark.parametrize("most", [20, 100, 300])
async def test_a_feed_that_is_cancelled_leaves_no_file_open(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, 600)
    Disk(monkeypatch)
    collected = Collected(tmp_path, most)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(collected.feed.run)
            await collected.is_full.wait()
            group.cancel_scope.cancel()
        while _open_files(tmp_path):  # a thread may be at its last file
            await anyio.lowlevel.checkpoint()


def test_files_are_opened_ahead_while_the_system_can_tell_that_they_are_not_in_memory() -> None:
    pace = Pace()
    assert not pace.opens_ahead
    pace.read_batch(0.0, 0.0001, all_in_memory=False)
    assert pace.is_cold
    assert pace.opens_ahead
    pace.read_slice(0.1, files=64, seconds=0.001, missed=0, waited=False, is_ahead=True)
    assert pace.is_cold
    assert pace.opens_ahead
    pace.read_slice(0.2, files=1, seconds=0.0001, missed=63, waited=False, is_ahead=True)
    assert pace.opens_ahead
    pace.read_slice(0.3, files=2, seconds=0.0001, missed=0, waited=False)  # a probe
    assert not pace.is_cold
    pace.read_slice(0.4, files=1, seconds=0.0001, missed=2, waited=False)
    assert pace.is_cold
    assert pace.opens_ahead


@pytest.mark.parametrize("change", ["distant to read", "distant to open", "waits in the loop"])
def test_files_that_are_slow_are_left_to_threads(change: str) -> None:
    pace = Pace()
    pace.read_batch(0.0, 0.0001, all_in_memory=False)
    few = pace.readers
    if change == "distant to read":
        pace.read_batch(0.1, 0.01, all_in_memory=False)
    elif change == "distant to open":
        pace.opened(0.01)
    else:
        pace.read_slice(0.1, files=2, seconds=0.02, missed=0, waited=True, is_ahead=True)
    assert pace.is_cold
    assert not pace.opens_ahead
    assert (pace.readers > few) == (change != "waits in the loop")
