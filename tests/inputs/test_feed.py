"""Feed: every kind of source, read ahead without ever keeping the event loop waiting."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pydicom
import pytest

from asyncstore.errors import MissingUID, NotDicom
from asyncstore.inputs import feed as feed_module
from asyncstore.inputs.feed import Fed, Feed
from asyncstore.inputs.pace import Pace
from asyncstore.inputs.scan import scan
from asyncstore.instances import head
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, State, problem_outcome
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.ledger.protocol import Suspicion
from tests.support import files
from tests.support.archives import KINDS, members, write_any
from tests.support.transfers import instance, uid_of, write_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from asyncstore.inputs.entry import Found


class Reader:
    """A feed, and everything that it delivered; there is room for `room` entries."""

    def __init__(self, sources: Any, *, room: float = float("inf"), **options: Any) -> None:
        self.found: list[Found] = []
        self.room = room
        self.has_room = anyio.Event()
        options.setdefault("recursive", True)
        self.feed = Feed(sources, deliver=self.deliver, **options)

    async def deliver(
        self, found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
    ) -> None:
        self.found.extend(found)
        if len(self.found) >= self.room:
            await self.has_room.wait()

    async def read(self) -> list[Found]:
        with anyio.fail_after(60):
            await self.feed.run()
        return self.found

    @property
    def uids(self) -> list[str]:
        return sorted(entry.sop_instance_uid for entry in self.found if isinstance(entry, Instance))


async def read(sources: Any, **options: Any) -> Reader:
    reader = Reader(sources, **options)
    await reader.read()
    return reader


async def test_a_directory_is_read_with_its_sub_directories_when_asked(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    write_files(tmp_path / "deep" / "er", 3, first=4)
    assert (await read(tmp_path)).uids == [uid_of(number) for number in range(1, 7)]
    assert (await read(str(tmp_path), recursive=False)).uids == [uid_of(number) for number in range(1, 4)]


@pytest.mark.parametrize("count", [1, 3])
async def test_the_end_is_known_with_the_last_of_a_few_files(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = 0

    def counted(look: Any) -> Any:
        def looked(*arguments: Any) -> Any:
            nonlocal slices
            slices += 1
            return look(*arguments)

        return looked

    monkeypatch.setattr(feed_module, "_SLICE_SECONDS", 60)
    monkeypatch.setattr(feed_module, "_next", counted(feed_module._next))
    monkeypatch.setattr(Feed, "_read_warm", counted(Feed._read_warm))
    write_files(tmp_path, count)
    reader = await read(tmp_path)
    assert (len(reader.found), slices) == (count, 1)


@pytest.mark.parametrize("make", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
async def test_one_path_is_a_source(tmp_path: Path, make: Any) -> None:
    (path,) = write_files(tmp_path, 1)
    assert (await read(make(path))).uids == [uid_of(1)]


@pytest.mark.parametrize("collect", [list, tuple, set, iter, dict.fromkeys], ids=lambda collect: collect.__name__)
async def test_many_paths_are_a_source(tmp_path: Path, collect: Any) -> None:
    paths = write_files(tmp_path, 100)
    assert (await read(collect(paths))).uids == sorted(map(uid_of, range(1, 101)))


async def one_by_one(sources: list[Any]) -> AsyncIterator[Any]:
    for source in sources:
        yield source


async def test_overlapping_directories_are_read_once_as_a_scan_does(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    (named,) = write_files(tmp_path / "deep", 1, first=4)
    sources: list[Any] = [tmp_path / "deep", tmp_path, str(tmp_path), named]
    uids = (await read(sources)).uids
    assert uids == [uid_of(number) for number in (1, 2, 3, 4, 4)]
    assert uids == sorted(found.sop_instance_uid for found in scan(sources) if isinstance(found, Instance))


@pytest.mark.parametrize("give", [iter, one_by_one], ids=lambda give: give.__name__)
async def test_a_directory_that_an_iterator_names_again_is_read_again(tmp_path: Path, give: Any) -> None:
    write_files(tmp_path / "deep", 2)
    assert (await read(give([tmp_path, tmp_path]))).uids == [uid_of(number) for number in (1, 1, 2, 2)]


@pytest.mark.every_loop
async def test_an_asynchronous_generator_is_a_source(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 5)

    async def sources() -> AsyncIterator[str]:
        for path in paths:
            await anyio.lowlevel.checkpoint()
            yield path

    assert (await read(sources())).uids == [uid_of(number) for number in range(1, 6)]


async def test_instances_and_data_sets_are_sources_one_by_one_and_among_others(tmp_path: Path) -> None:
    data_set = pydicom.dcmread(files.bundled("CT_small.dcm"))
    (path,) = write_files(tmp_path, 1)
    mixed = await read([data_set, instance(2), path])
    assert mixed.uids == sorted([uid_of(1), uid_of(2), data_set.SOPInstanceUID])
    assert (await read(data_set)).uids == [data_set.SOPInstanceUID]
    assert (await read(instance(3))).uids == [uid_of(3)]
    (problem,) = scan(tmp_path / "missing")
    assert isinstance(problem, ScanProblem)
    assert (await read(problem)).found == [problem_outcome(problem, is_named=False)]


@pytest.mark.parametrize("give", [iter, one_by_one], ids=lambda give: give.__name__)
async def test_one_data_set_that_is_changed_for_each_time_is_an_instance_each_time(give: Any) -> None:
    class Changed:
        """Gives the same Dataset again and again, one that cannot be sent among them."""

        def __init__(self) -> None:
            self.data_set = pydicom.dcmread(files.bundled("CT_small.dcm"))

        def __iter__(self) -> Iterator[pydicom.Dataset]:
            for number in range(1, 41):
                self.data_set.SOPInstanceUID = "" if number == 7 else uid_of(number)
                self.data_set.file_meta.MediaStorageSOPInstanceUID = self.data_set.SOPInstanceUID
                yield self.data_set

    reader = await read(give(Changed()))
    assert reader.uids == sorted(uid_of(number) for number in range(1, 41) if number != 7)
    (problem,) = (entry for entry in reader.found if not isinstance(entry, Instance))
    assert isinstance(problem, Outcome)
    assert problem.state is State.SOURCE_PROBLEM
    assert isinstance(problem.error, MissingUID)


async def test_no_sources_end_at_once() -> None:
    assert (await read([])).found == []
    assert (await read(iter(()))).found == []


async def test_a_data_set_that_cannot_be_sent_has_an_outcome_and_the_others_go_on() -> None:
    unencodable = pydicom.dcmread(files.bundled("CT_small.dcm"))
    unencodable.add_new(0x00091001, "ZZ", b"no such VR")
    reader = await read([pydicom.Dataset(), unencodable, instance(1)])
    outcomes = [entry for entry in reader.found if isinstance(entry, Outcome)]
    for outcome, text in zip(outcomes, ("SOP Class UID", "cannot be encoded"), strict=True):
        assert (outcome.state, outcome.path, outcome.attempts) == (State.SOURCE_PROBLEM, None, 0)
        assert text in outcome.reason
        assert "\n" not in outcome.reason
    assert reader.uids == [uid_of(1)]


@pytest.mark.parametrize("wrong", [5, None, object()])
async def test_what_is_no_source_at_all_is_an_error(wrong: object) -> None:
    for sources in ([wrong], wrong):
        with pytest.raises(ExceptionGroup) as raised:
            await read(sources)
        assert raised.group_contains(TypeError, match="neither a path")
        with pytest.raises(TypeError, match="neither a path"):
            list(scan(sources))  # type: ignore[arg-type]


async def test_what_was_named_is_told_from_what_was_found(tmp_path: Path) -> None:
    directory, missing, fifo = tmp_path / "directory", tmp_path / "missing", tmp_path / "fifo"
    directory.mkdir()
    (directory / "notes.txt").write_text("found, and no DICOM file")
    named = tmp_path / "notes.txt"
    named.write_text("named, and no DICOM file")
    os.mkfifo(fifo)
    reader = await read([directory, named, missing, fifo])
    outcomes = {outcome.path: outcome for outcome in reader.found if isinstance(outcome, Outcome)}
    assert len(outcomes) == 4
    assert {path for path, outcome in outcomes.items() if outcome.state is not State.SOURCE_PROBLEM} == {
        str(directory / "notes.txt")
    }
    assert outcomes[str(directory / "notes.txt")].state is State.SKIPPED
    assert isinstance(outcomes[str(named)].error, NotDicom)
    assert outcomes[str(missing)].reason.startswith(ProblemKind.NOT_FOUND.value)
    assert outcomes[str(fifo)].reason.startswith(ProblemKind.NOT_A_FILE.value)


@pytest.mark.every_loop
async def test_reading_waits_for_room(tmp_path: Path) -> None:
    write_files(tmp_path, 1000)
    reader = Reader(tmp_path, room=200)
    async with anyio.create_task_group() as group:
        group.start_soon(reader.read)
        with anyio.fail_after(60):
            while len(reader.found) < 200:
                await anyio.wait_all_tasks_blocked()
        assert len(reader.found) < 600
        reader.room = float("inf")
        reader.has_room.set()
    assert len(reader.found) == 1000


@pytest.mark.every_loop
async def test_a_blocking_generator_does_not_stall_the_event_loop_and_each_source_comes_when_it_is_there(
    tmp_path: Path,
) -> None:
    paths = write_files(tmp_path, 3)
    may_go_on = [threading.Event() for _ in paths]

    def sources() -> Iterator[str]:
        for path, event in zip(paths, may_go_on, strict=True):
            yield path
            assert event.wait(60)

    reader = Reader(sources())
    async with anyio.create_task_group() as group:
        group.start_soon(reader.read)
        with anyio.fail_after(60):
            for number, event in enumerate(may_go_on, 1):
                while len(reader.found) < number:
                    await anyio.lowlevel.checkpoint()
                event.set()


@pytest.mark.every_loop
async def test_an_error_of_the_callers_iterator_ends_the_feed() -> None:
    def sources() -> Iterator[Instance]:
        yield instance(1)
        raise ValueError("no more")

    reader = Reader(sources())
    with pytest.raises(ExceptionGroup) as raised:
        await reader.read()
    assert raised.group_contains(ValueError, match="no more")


# -- where files are read ----------------------------------------------------------------------------------------------


class SlowDisk:
    """Stands in for read_head: a file that is not in memory takes 10 ms; notes who read where, and how many at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_cold: bool = True, asks_first: bool = True) -> None:
        self.is_cold = is_cold
        self.asks_first = asks_first  # whether the system can tell that a file is not in memory
        self.in_the_loop = 0
        self.at_once = 0
        self.most_at_once = 0
        self._loop_thread = threading.get_ident()
        self._lock = threading.Lock()
        self._read_head = head.read_head
        monkeypatch.setattr(head, "read_head", self.read_head)

    def read_head(
        self, path: str, *, wait: bool = True, missed: list[str] | None = None, regular: bool = False, fd: int = -1
    ) -> Any:
        if self.is_cold and self.asks_first:
            if not wait:
                return None
            if missed is not None:
                missed.append(path)
        is_in_the_loop = threading.get_ident() == self._loop_thread
        with self._lock:
            self.in_the_loop += is_in_the_loop
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        ends_at = time.perf_counter() + 0.01
        while self.is_cold and time.perf_counter() < ends_at:  # a few are tried in the event loop, which may not sleep
            if not is_in_the_loop:
                time.sleep(0.01)
        with self._lock:
            self.at_once -= 1
        return self._read_head(path, regular=regular, fd=fd)


@pytest.mark.every_loop
async def test_cold_files_are_read_by_several_threads_and_never_in_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, 320)
    disk = SlowDisk(monkeypatch)
    reader = await read(tmp_path)
    assert len(reader.found) == 320
    assert disk.in_the_loop == 0
    assert disk.most_at_once >= 4


@pytest.mark.every_loop
@pytest.mark.timed
async def test_where_the_system_cannot_tell_what_is_in_memory_time_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, 200)
    disk = SlowDisk(monkeypatch, asks_first=False)
    reader = await read(tmp_path)
    assert len(reader.found) == 200
    assert disk.in_the_loop <= 4  # a few are tried now and then


@pytest.mark.every_loop
async def test_warm_files_are_read_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(tmp_path, 600)
    disk = SlowDisk(monkeypatch, is_cold=False)
    reader = Reader(paths)
    reader.feed.pace.is_cold = False
    await reader.read()
    assert len(reader.found) == 600
    assert disk.in_the_loop > 500  # on a busy machine a slice may look slow


@pytest.mark.every_loop
async def test_files_that_turn_cold_on_the_way_go_to_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(tmp_path, 400)
    disk = SlowDisk(monkeypatch, is_cold=False)
    reader = Reader(paths)
    reader.feed.pace.is_cold = False

    async def deliver(found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None) -> None:
        reader.found.extend(found)
        disk.is_cold = len(reader.found) > 100

    reader.feed._deliver = deliver
    await reader.read()
    assert len(reader.found) == 400
    assert disk.in_the_loop < 250


@pytest.mark.every_loop
@pytest.mark.parametrize("is_cold", [True, False])
async def test_what_an_earlier_run_suspected_is_read_after_all_others(is_cold: bool, tmp_path: Path) -> None:
    paths = write_files(tmp_path, 1200)  # more than are asked about at once
    suspected = set(paths[:40])
    reader = Reader(tmp_path)
    reader.feed.pace.is_cold = is_cold
    with anyio.fail_after(60):
        await reader.feed.run(lambda asked: [Suspicion(1) if each.name in suspected else None for each in asked])
    read = [entry.path for entry in reader.found]
    assert set(read[-40:]) == suspected
    assert sorted(read, key=str) == paths


@pytest.mark.every_loop
@pytest.mark.parametrize("name", KINDS)
async def test_a_suspected_file_comes_after_the_archives_and_a_suspected_member_at_the_end_of_its_own(
    name: str, tmp_path: Path
) -> None:
    loose = write_files(tmp_path / "loose", 3)
    archive = write_any(tmp_path / name, members(20))
    inner = [f"{archive}!/{member}" for member in members(20)]
    suspected = [loose[0], inner[0]]
    reader = Reader([loose[0], str(archive), *loose[1:]])
    suspicions: list[str | None] = []

    async def deliver(found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None) -> None:
        reader.found.extend(found)
        if suspicion is not None:
            suspicions.extend(each.path for each in found)

    reader.feed._deliver = deliver
    with anyio.fail_after(60):
        await reader.feed.run(lambda asked: [Suspicion(1) if each.name in suspected else None for each in asked])
    read = [entry.path for entry in reader.found]
    assert sorted(read, key=str) == sorted([*loose, *inner])
    assert sorted(suspicions, key=str) == sorted(suspected)
    assert read[-1] == loose[0]
    if name != "a.tgz":  # a stream is read in its own order
        assert [path for path in read if path in inner][-1] == inner[0]


def test_the_pace_goes_to_threads_after_a_slow_slice_and_comes_back_by_a_probe() -> None:
    pace = Pace()
    pace.read_batch(0.0, 0.00005, all_in_memory=True)
    assert not pace.is_cold
    pace.read_slice(1.0, files=1, seconds=0.005, missed=0, waited=True)
    assert pace.is_cold
    assert not pace.wants_probe(1.1)
    assert pace.wants_probe(2.0)
    pace.read_slice(2.0, files=2, seconds=0.0001, missed=0, waited=False)
    assert not pace.is_cold


def test_a_slice_that_was_interrupted_and_not_waiting_is_not_slow() -> None:
    pace = Pace()
    pace.read_batch(0.0, 0.00005, all_in_memory=True)
    pace.read_slice(1.0, files=1, seconds=0.1, missed=0, waited=False)
    assert not pace.is_cold


def test_probes_that_fail_come_further_and_further_apart() -> None:
    pace, now, distances = Pace(), 0.0, []
    pace.read_batch(now, 0.01, all_in_memory=False)
    for _ in range(8):
        last = now
        while not pace.wants_probe(now):
            now += 0.01
        distances.append(now - last)
        pace.read_slice(now, files=0, seconds=0.0, missed=2, waited=False)
    assert distances == sorted(distances)
    assert distances[0] < 1 < 15 < distances[-1] < 17


# -- studies -----------------------------------------------------------------------------------------------------------


async def test_the_study_is_found_where_it_is_wanted(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 2, study="1.2.3.4")
    paths += write_files(tmp_path, 1, first=3)
    found = (await read(paths, find_studies=True)).found
    assert sorted(str(entry.study_instance_uid) for entry in found if isinstance(entry, Instance)) == [
        "1.2.3.4",
        "1.2.3.4",
        "None",
    ]
