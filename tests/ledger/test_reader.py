"""Reading a ledger, while a run is writing it and afterwards."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import random
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore.cli.output.ledger_text import Account
from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.rows import DirectoryCount, ReasonCount, RunState, StateCount, StudyCount
from asyncstore.ledger.sqlite import reader as ledger_reader
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.ledger.sqlite.lock import LedgerLock, holder_of
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.status import Status
from tests.support import command
from tests.support.ledgers import DESTINATION, instance_of, offered, opened, outcome_of, path_of, stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUNDS: Final = 300
FULL = Status(0xA700, "disk full")
AT: Final = datetime.datetime.fromtimestamp(1.6e9, datetime.UTC)


def some_outcomes() -> list[Outcome]:
    """Two studies and two files: five instances stored, one with a warning; four failures, one left, one skipped."""
    outcomes = [stored(number, f"/a/{number}") for number in range(4)]
    outcomes.append(outcome_of(instance_of(4, "/a/4"), State.WARNING, Status(0xB000), reason="coerced"))
    outcomes.append(outcome_of(instance_of(5, "/b/5"), State.FAILED, FULL, reason="out of resources", retryable=True))
    outcomes.append(outcome_of(instance_of(6, "/b/6"), State.FAILED, FULL, reason="out of resources", retryable=True))
    outcomes.append(outcome_of(instance_of(7, "/c/7"), State.UNKNOWN, None, reason="not answered"))
    outcomes.append(outcome_of(instance_of(8, "/c/8"), State.LEFT, None, bytes_sent=0))
    for number, outcome in enumerate(outcomes):
        assert outcome.instance is not None
        outcome.instance.study_instance_uid = None if number == 8 else f"1.2.{number % 2}"
    outcomes.append(Outcome(State.SKIPPED, "/a/README", reason="not a DICOM file", attempts=0))
    outcomes.append(Outcome(State.SOURCE_PROBLEM, "/b/\udcff\n", reason="cannot be read", attempts=0))
    return outcomes


async def test_a_ledger_is_read_while_a_run_is_writing_it(tmp_path: Path) -> None:
    def read() -> tuple[list[StateCount], list[StateCount]]:
        with LedgerReader(tmp_path / "run.db") as reader:
            before = reader.by_state()
            anyio.from_thread.run(flush_more)
            return before, reader.by_state()

    async def flush_more() -> None:
        ledger.record(stored(2))
        await ledger.flush()

    async with SqliteLedger(tmp_path / "run.db", destination=DESTINATION) as ledger:
        ledger.record(stored(1))
        await ledger.flush()
        before, after = await anyio.to_thread.run_sync(read)
    assert before == [(State.STORED, 1, 525336)]
    assert after == [(State.STORED, 2, 2 * 525336)]


@pytest.fixture
def reader(tmp_path: Path) -> LedgerReader:
    with opened(tmp_path / "run.db", clock=lambda: 1.6e9) as ledger:
        for outcome in some_outcomes():
            ledger.record(outcome)
    return LedgerReader(tmp_path / "run.db")


def test_a_ledger_tells_what_it_is(reader: LedgerReader) -> None:
    with reader:
        assert (reader.destination, reader.schema_version) == (DESTINATION, 4)
        assert reader.created_at.isoformat() == "2020-09-13T12:26:40+00:00"


def test_counts_by_state_and_status(reader: LedgerReader) -> None:
    with reader:
        counts = {count.state: count.instances for count in reader.by_state()}
        statuses = reader.by_status()
    assert counts == {
        State.STORED: 4,
        State.WARNING: 1,
        State.FAILED: 2,
        State.UNKNOWN: 1,
        State.LEFT: 1,
        State.SKIPPED: 1,
        State.SOURCE_PROBLEM: 1,
    }
    assert statuses == {0: 4, 0xA700: 2, 0xB000: 1}


def test_counts_by_reason(reader: LedgerReader) -> None:
    with reader:
        assert reader.by_reason(limit=1) == [ReasonCount(State.FAILED, 0xA700, "out of resources", 2)]
        assert set(reader.by_reason()[1:]) == {
            ReasonCount(State.WARNING, 0xB000, "coerced", 1),
            ReasonCount(State.UNKNOWN, None, "not answered", 1),
            ReasonCount(State.LEFT, None, "", 1),
            ReasonCount(State.SKIPPED, None, "not a DICOM file", 1),
            ReasonCount(State.SOURCE_PROBLEM, None, "cannot be read", 1),
        }


def test_studies_are_counted_only_if_any_is_known(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
    with LedgerReader(tmp_path / "run.db") as reader:
        assert not reader.has_studies()
        assert not any("stud" in line for line in Account(reader).lines())
        assert any("not known" in line for line in Account(reader, studies=True).lines())


def test_counts_by_study(reader: LedgerReader) -> None:
    assert reader.has_studies()
    with reader:
        assert set(reader.by_study()) == {
            StudyCount("1.2.0", 4, 3, 1, 0, AT, AT),
            StudyCount("1.2.1", 4, 2, 2, 0, AT, AT),
            StudyCount(None, 1, 0, 0, 1, AT, AT),
        }


def test_a_study_is_complete_when_the_peer_has_all_of_it(tmp_path: Path) -> None:
    clock = itertools.count(1_600_000_000, 60)
    states = {
        "1.2.1": [State.STORED, State.WARNING, State.DUPLICATE],
        "1.2.2": [State.STORED, State.LEFT],
        "1.2.3": [State.STORED, State.FAILED],
    }
    with opened(tmp_path / "run.db", clock=lambda: next(clock)) as ledger:
        for number, (uid, state) in enumerate((uid, state) for uid, each in states.items() for state in each):
            instance = instance_of(number)
            instance.study_instance_uid = uid
            ledger.record(outcome_of(instance, state, None))
    with LedgerReader(tmp_path / "run.db") as reader:
        studies = {study.study_instance_uid: study for study in reader.by_study()}
    assert {uid: study.is_complete for uid, study in studies.items()} == {"1.2.1": True, "1.2.2": False, "1.2.3": False}
    assert {uid: (study.failed, study.left) for uid, study in studies.items()} == {
        "1.2.1": (0, 0),
        "1.2.2": (0, 1),
        "1.2.3": (1, 0),
    }
    assert studies["1.2.1"].first_recorded_at < studies["1.2.1"].last_recorded_at < studies["1.2.2"].first_recorded_at


@pytest.mark.parametrize(
    ("parts", "part_seconds", "counts"), [(100, 1, {0: 1, 10: 1, 20: 1}), (4, 5.001, {0: 1, 1: 1, 3: 1})]
)
def test_what_was_stored_when(tmp_path: Path, parts: int, part_seconds: float, counts: dict[int, int]) -> None:
    now = [1.6e9]
    with opened(tmp_path / "run.db", clock=lambda: now[0]) as ledger:
        for number in range(3):
            ledger.record(stored(number))
            now[0] += 10
        ledger.record(outcome_of(instance_of(9), State.FAILED, FULL))
    with LedgerReader(tmp_path / "run.db") as reader:
        over_time = reader.stored_over_time(parts)
    assert over_time is not None
    assert over_time.begun_at == AT
    assert over_time.part_seconds == part_seconds
    assert {at: part.instances for at, part in enumerate(over_time.parts) if part.instances} == counts
    assert sum(part.bytes_sent for part in over_time.parts) == 3 * 525336


def test_nothing_was_stored_at_no_time(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(outcome_of(instance_of(9), State.FAILED, FULL))
    with LedgerReader(tmp_path / "run.db") as reader:
        assert reader.stored_over_time(10) is None


def test_the_worst_directories(reader: LedgerReader) -> None:
    with reader:
        assert reader.worst_directories(1) == [DirectoryCount("/b", 3)]
        assert reader.worst_directories() == [DirectoryCount("/b", 3), DirectoryCount("/c", 1)]


@pytest.mark.parametrize("at_once", [1, 3, 2000])
def test_rows_come_in_order_and_whole(reader: LedgerReader, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reader, "_ROWS_AT_ONCE", at_once)
    with reader:
        assert [row.path for row in reader.rows()] == [outcome.path for outcome in some_outcomes()]
        assert [row.path for row in reader.failed()] == ["/b/5", "/b/6", "/c/7", "/b/\udcff\n"]
        assert [row.path for row in reader.rows([State.LEFT])] == ["/c/8"]
        assert list(reader.rows([State.NO_CONTEXT])) == []


def test_rows_are_plain_data_for_json(reader: LedgerReader) -> None:
    with reader:
        rows = [row.to_dict() for row in reader.rows()]
    assert json.loads(json.dumps(rows)) == rows
    assert rows[5]["comment"] == "disk full"
    assert rows[5]["retryable"] is True
    assert rows[-1]["size_bytes"] is rows[-1]["mtime_ns"] is rows[-1]["sop_instance_uid"] is rows[-1]["status"] is None


def test_a_ledger_that_was_closed_cannot_be_read(reader: LedgerReader) -> None:
    reader.close()
    with pytest.raises(LedgerError, match="cannot be read"):
        reader.by_state()


def test_a_reader_changes_nothing(reader: LedgerReader, tmp_path: Path) -> None:
    before = (tmp_path / "run.db").read_bytes()
    with reader:
        assert len(list(reader.rows())) == 11
    assert [path.name for path in tmp_path.iterdir()] == ["run.db"]
    assert (tmp_path / "run.db").read_bytes() == before


# -- a damaged ledger --------------------------------------------------------------------------------------------------


def read_everything(path: Path) -> None:
    """All that `asyncstore report` asks, as JSON and CSV have it."""
    with LedgerReader(path) as reader:
        account = Account(reader, studies=True)
        json.dumps(account.to_dict())
        assert all(line.isprintable() for line in account.lines())
        json.dumps([row.to_dict() for row in reader.rows()])


def write_again(path: Path, entries: list[Outcome]) -> None:
    """What a run asks of a ledger and writes into it."""
    with opened(path) as ledger:
        ledger.settled(offered(*(outcome.path for outcome in entries if outcome.path is not None)))
        ledger.stored_elsewhere([outcome.instance for outcome in entries if outcome.instance is not None])
        for outcome in entries:
            ledger.record(outcome)
        anyio.run(ledger.flush)


def damaged_entries(directory: Path) -> list[Outcome]:
    """Outcomes of every kind of files that are there."""
    outcomes = []
    for number, state in enumerate(list(State) * 3):
        path = directory / f"{number}.dcm"
        path.write_bytes(b"x")
        instance = instance_of(number, str(path), size_bytes=1, mtime_ns=path.stat().st_mtime_ns)
        instance.study_instance_uid = f"1.2.{number % 4}"
        status = None if number % 3 else Status(0xA700, "d\xefsk full \u20ac", (0x00100010,))
        outcomes.append(outcome_of(instance, state, status, reason="cannot be r\xe9ad \u20ac" if number % 2 else ""))
    return outcomes


@pytest.mark.parametrize("use", [read_everything, write_again], ids=["read", "written"])
def test_a_ledger_that_was_overwritten_anywhere_is_a_ledger_error_in_one_line(
    tmp_path: Path, use: Callable[..., None]
) -> None:
    path = tmp_path / "run.db"
    entries = damaged_entries(tmp_path)
    with opened(path, options={"host": "\u20ac"}) as ledger:
        for outcome in entries:
            ledger.record(outcome)
    whole = path.read_bytes()
    rng = random.Random(6)
    places = used_places(whole)
    texts: set[str] = set()
    for turn in range(ROUNDS):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4, 40))):
            at, length = rng.choice(places), rng.choice((1, 1, 2, 8, 100))
            damaged[at : at + length] = rng.randbytes(length)[: len(whole) - at]
        path.write_bytes(damaged)
        arguments = (path,) if use is read_everything else (path, entries)
        try:
            use(*arguments)
        except LedgerError as error:
            texts.add(str(error))
        except Exception as error:
            raise AssertionError(f"turn {turn}") from error
        for companion in ("run.db-wal", "run.db-shm"):
            (tmp_path / companion).unlink(missing_ok=True)
    assert any("it is damaged" in text for text in texts)
    assert [text for text in texts if not text.isprintable()] == []


def used_places(content: bytes) -> list[int]:
    """Where a file beyond its header has anything, that what is overwritten is not mostly empty space."""
    return [at for at in range(100, len(content)) if content[at]]


@pytest.mark.parametrize(
    ("change", "method"),
    [
        ("UPDATE account SET state = 'stoned'", "by_state"),
        ("UPDATE account SET state = 'stoned'", "by_reason"),
        ("UPDATE account SET status = 65536", "by_status"),
        ("UPDATE account SET status = 'A700'", "by_status"),
        ("UPDATE account SET status = 65536", "by_reason"),
        ("UPDATE account SET status = -2", "rows"),
        ("UPDATE account SET reason = x'ff'", "by_reason"),
        ("UPDATE account SET reason = CAST(x'ff0a' AS TEXT)", "by_reason"),
        ("UPDATE account SET comment = CAST(x'ff0a' AS TEXT)", "rows"),
        ("UPDATE account SET offending_elements = x'00'", "rows"),
        ("UPDATE account SET sop_class = x'31'", "rows"),
        ("UPDATE instance SET recorded_at = 1 << 62", "rows"),
        ("UPDATE instance SET bytes_sent = 'many'", "by_state"),
        ("UPDATE instance SET study_instance_uid = 7", "by_study"),
        ("UPDATE run SET options = '{\"a'", "runs"),
        ("UPDATE run SET options = '7'", "runs"),
        ("UPDATE run SET host = x'00'", "runs"),
        ("UPDATE run SET started_at = 'now'", "runs"),
    ],
)
def test_a_value_that_no_run_can_have_written_is_damage(
    reader: LedgerReader, tmp_path: Path, change: str, method: str
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "run.db")) as connection, connection:
        connection.execute(change)
    with reader, pytest.raises(LedgerError, match=r"run.db' cannot be read: it is damaged$"):
        list(getattr(reader, method)())


@pytest.mark.parametrize("change", ["DELETE FROM ledger", "UPDATE ledger SET created_at = 1 << 62"])
def test_a_ledger_that_does_not_tell_what_it_is_is_damaged(reader: LedgerReader, tmp_path: Path, change: str) -> None:
    reader.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "run.db")) as connection, connection:
        connection.execute(change)
    with pytest.raises(LedgerError, match=r"cannot be read: it is damaged$"):
        LedgerReader(tmp_path / "run.db")


# -- how runs ended ----------------------------------------------------------------------------------------------------


def states_of_runs(path: Path) -> list[RunState]:
    with LedgerReader(path) as reader:
        return [run.state for run in reader.runs()]


def kill_a_run(path: Path) -> None:
    """Have a process begin a run, and kill it."""
    writer = [sys.executable, "-m", "tests.support.ledgers", str(path), "1"]
    with subprocess.Popen(writer, stdout=subprocess.PIPE, cwd=command.PROJECT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert states_of_runs(path)[-1] is RunState.RUNNING
        process.kill()


def test_a_run_is_running_finished_stopped_early_or_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with opened(path) as ledger:
        assert states_of_runs(path) == [RunState.RUNNING]
        ledger.note_end(scan_finished=True, stopped="")
    with opened(path) as ledger:
        ledger.note_end(scan_finished=False, stopped="interrupted")
    assert states_of_runs(path) == [RunState.FINISHED, RunState.STOPPED_EARLY]
    kill_a_run(path)
    assert (tmp_path / "run.db-lock").exists()
    assert states_of_runs(path)[2:] == [RunState.KILLED]
    with opened(path):
        assert states_of_runs(path)[2:] == [RunState.KILLED, RunState.RUNNING]


def test_a_lock_that_another_process_has_is_no_sign_that_the_killed_run_lives(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    kill_a_run(path)
    lock = LedgerLock(str(path))  # a run that has no row yet
    lock.acquire(0.0)
    assert states_of_runs(path) == [RunState.KILLED]
    lock.release()


def test_a_run_begins_although_somebody_looks_whether_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    kill_a_run(path)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            holder_of(str(path))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            with opened(path):
                pass
    finally:
        stop.set()
        looking.join()


# -- what may be lost --------------------------------------------------------------------------------------------------


def test_what_was_stored_within_a_minute_before_the_first_refusal_is_doubtful(tmp_path: Path) -> None:
    path, now = tmp_path / "run.db", 1e9
    with opened(path, clock=lambda: now) as ledger:
        for number, moment in enumerate((0, 39, 41, 100, 101), 1):
            now = 1e9 + moment
            ledger.record(stored(number))
            anyio.run(ledger.flush)
            if moment == 100:
                ledger.note_refusal()
        now += 1000
        ledger.note_refusal()  # only the first counts
        ledger.record(outcome_of(instance_of(6), State.FAILED, Status(0xA900)))
    with opened(path, clock=lambda: now) as ledger:  # a run in which the peer was well
        ledger.record(stored(7))
    with LedgerReader(path) as reader:
        assert [row.path for row in reader.doubtful()] == [path_of(3), path_of(4)]
        assert reader.count_doubtful() == 2


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0213])
def test_an_instance_that_failed_for_lack_of_resources_is_a_refusal_too(tmp_path: Path, status: int) -> None:
    path = tmp_path / "run.db"
    with opened(path) as ledger:
        ledger.record(stored(1))
        ledger.record(outcome_of(instance_of(2), State.FAILED, Status(status)))
    with LedgerReader(path) as reader:
        assert [row.path for row in reader.doubtful()] == [path_of(1)]


def test_a_refusal_is_written_before_the_run_ends(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with opened(path) as ledger:
        ledger.note_refusal()
        anyio.run(ledger.flush)
        with LedgerReader(path) as reader:
            assert reader.runs()[0].refused_at is not None
