"""An association reads in the event loop while that is quick, and leaves slow files to threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.instances.source import BytesSource
from asyncstore.net.source_reader import SourceReader
from asyncstore.upper_layer.framing import Framer, Run

if TYPE_CHECKING:
    from collections.abc import Sequence


class Disk(BytesSource):
    """Takes `seconds` of a clock of its own for each read; `waits` says whether the thread waits for that long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(bytes(100))
        self.now = 1000.0
        self.seconds = 0.0
        self.reads = 0
        self.waits = True
        self._waits_so_far = 0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("asyncstore.net.source_reader.waits_so_far", lambda: self._waits_so_far)

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        assert not wait
        self.reads += 1
        self.now += self.seconds
        self._waits_so_far += self.waits
        return super().read_into(holes, offset, wait=wait)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def run() -> Run:
    return next(iter(Framer(200).runs_with_holes(1, 100)))


def test_what_is_quick_is_read_at_once(disk: Disk, run: Run) -> None:
    reads = SourceReader()
    disk.seconds = 0.0005
    assert [reads.read_now(disk, run) for _ in range(100)] == [True] * 100
    assert disk.reads == 100


def test_after_a_slow_one_threads_read_for_longer_each_time_until_one_is_quick(disk: Disk, run: Run) -> None:
    reads = SourceReader()
    disk.seconds = 0.010
    pauses = []
    assert reads.read_now(disk, run)  # the first slow one has the next ones looked at
    for _ in range(8):
        assert reads.read_now(disk, run)
        tried_at, tries = disk.now, disk.reads
        while not reads.read_now(disk, run):
            assert disk.reads == tries
            disk.now += 0.25
        pauses.append(disk.now - disk.seconds - tried_at)
        disk.now += pauses[-1] * 2  # past the pause of the try that ended the loop, which was slow too
    assert pauses == pytest.approx([1, 4, 16, 64, 64, 64, 64, 64], abs=0.01)
    disk.seconds = 0.0001
    disk.now += 100
    assert [reads.read_now(disk, run) for _ in range(3)] == [True] * 3


def test_a_read_from_memory_that_a_busy_machine_pauses_leaves_nothing_to_threads(disk: Disk, run: Run) -> None:
    reads = SourceReader()
    disk.seconds = 0.010
    disk.waits = False
    assert [reads.read_now(disk, run) for _ in range(100)] == [True] * 100


def test_one_slow_read_among_quick_ones_leaves_nothing_to_threads(disk: Disk, run: Run) -> None:
    reads = SourceReader()
    for _ in range(10):
        for disk.seconds in (0.010, 0.0001):
            assert reads.read_now(disk, run)
