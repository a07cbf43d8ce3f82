"""What a later run asks the ledger: which files need not be opened, and which instances are stored from elsewhere."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncstore.errors import MissingUID, NotDicom, SourceChanged
from asyncstore.inputs.entry import FileEntry
from asyncstore.instances.outcome import Outcome, State, problem_outcome
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.ledger import buffered
from asyncstore.ledger import hashes as ledger_hashes
from asyncstore.ledger.protocol import Suspicion, settled_for
from asyncstore.ledger.sqlite import writer as ledger_writer
from asyncstore.status import Status
from tests.support.ledgers import instance_of, offered, opened, outcome_of, path_of, rows_of, stored, uid_of

LATER = 4e9  # a clock by which no file of a test is young


def write(path: Path, data: bytes = b"x", mtime: float = 1e9) -> str:
    path.write_bytes(data)
    os.utime(path, (mtime, mtime))
    return str(path)


def of_file(path: str, number: int, state: State, status: Status | None, **more: Any) -> Outcome:
    found = os.stat(path)
    instance = instance_of(number, path, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns)
    return outcome_of(instance, state, status, **more)


def settle(ledger_file: Path, entries: list[Any]) -> list[State | Suspicion | None]:
    with opened(ledger_file) as ledger:
        return states_of(ledger.settled(offered(*entries)))


def states_of(answers: list[Outcome | Suspicion | None]) -> list[State | Suspicion | None]:
    return [answer.state if isinstance(answer, Outcome) else answer for answer in answers]


RESUMED = [
    (State.STORED, Status(0), False, State.RESUMED),
    (State.WARNING, Status(0xB000), False, State.RESUMED),
    (State.DUPLICATE, Status(0x0111), False, State.DUPLICATE),
    (State.DUPLICATE, None, False, State.DUPLICATE),
    (State.CONFLICT, None, False, None),
    (State.FAILED, Status(0xA900), False, None),
    (State.FAILED, Status(0xA700), True, None),
    (State.NO_CONTEXT, None, False, None),
    (State.UNKNOWN, None, True, None),
    (State.LEFT, None, False, None),
    (State.SOURCE_PROBLEM, None, False, None),
]


@pytest.mark.parametrize(("state", "status", "retryable", "later"), RESUMED)
def test_what_a_later_run_does_not_open(
    tmp_path: Path, state: State, status: Status | None, retryable: bool, later: State | None
) -> None:
    path = write(tmp_path / "a.dcm")
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(of_file(path, 1, state, status, retryable=retryable, reason="a reason"))
    same = of_file(path, 1, state, status).instance
    assert same is not None
    with opened(tmp_path / "run.db") as ledger:
        assert states_of(ledger.settled(offered(path, same, f"{tmp_path}//./a.dcm"))) == [later] * 3
        write(Path(path), b"x", mtime=1e9 + 1)
        assert states_of(ledger.settled(offered(path))) == [None]
        write(Path(path), b"xy")
        assert states_of(ledger.settled(offered(path))) == [None]
        write(Path(path))
        assert states_of(ledger.settled(offered(path))) == [later]
        os.unlink(path)
        assert states_of(ledger.settled(offered(path))) == [None]


@pytest.mark.parametrize(
    ("error", "is_settled"),
    [
        (NotDicom("x"), True),
        (MissingUID("x"), True),
        (SourceChanged("x"), False),
        (PermissionError(13, "x"), False),
        (None, False),
    ],
)
@pytest.mark.parametrize("state", [State.SKIPPED, State.SOURCE_PROBLEM])
def test_a_file_that_is_at_fault_is_not_opened_again(
    tmp_path: Path, state: State, error: Exception | None, is_settled: bool
) -> None:
    path = write(tmp_path / "README")
    with opened(tmp_path / "run.db", clock=lambda: LATER) as ledger:
        ledger.record(Outcome(state, path, reason="not a DICOM file: text", error=error, attempts=0))
    with opened(tmp_path / "run.db") as ledger:
        outcomes = ledger.settled([FileEntry(path), FileEntry(path, is_named=True)])
    assert outcomes[1] is None
    if not is_settled:
        assert outcomes[0] is None
        return
    assert isinstance(outcomes[0], Outcome)
    assert (outcomes[0].state, outcomes[0].reason, outcomes[0].attempts) == (state, "not a DICOM file: text", 0)
    with pytest.raises(NotDicom, match="text"):
        outcomes[0].raise_for_failure()


def test_a_file_whose_uid_is_missing_is_told_as_such_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm")
    problem = ScanProblem(path, ProblemKind.MISSING_UID, "there is no SOP Class UID", MissingUID("no"))
    with opened(tmp_path / "run.db", clock=lambda: LATER) as ledger:
        ledger.record(problem_outcome(problem, is_named=False))
    with opened(tmp_path / "run.db") as ledger:
        (outcome,) = ledger.settled([FileEntry(path)])
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.error, MissingUID)


@pytest.mark.parametrize(
    ("state", "status", "losses", "suspicion"),
    [
        (State.UNKNOWN, None, 3, Suspicion(3)),
        (State.UNKNOWN, None, 1, Suspicion(1)),
        (State.LEFT, None, 2, Suspicion(2)),
        (State.LEFT, Status(0xA700), 0, Suspicion(0)),
        (State.FAILED, Status(0xA700), 0, Suspicion(0)),
    ],
)
def test_what_an_earlier_run_suspected_is_told_and_what_it_set_aside_is_not_sent(
    tmp_path: Path, state: State, status: Status | None, losses: int, suspicion: Suspicion
) -> None:
    path = write(tmp_path / "a.dcm")
    with opened(tmp_path / "run.db") as ledger:
        outcome = of_file(path, 1, state, status, reason="a reason", losses=losses, is_suspected=True)
        ledger.record(outcome)
    named = FileEntry(path, is_named=True)
    with opened(tmp_path / "run.db") as ledger:
        assert ledger.settled([*offered(path), named]) == [suspicion, suspicion]
        outcome.is_set_aside = True
        ledger.record(outcome)
    with opened(tmp_path / "run.db") as ledger:
        answer, of_named = ledger.settled([*offered(path), named])
        assert of_named == suspicion
        assert isinstance(answer, Outcome)
        assert (answer.state, answer.status, answer.attempts) == (state, status, 0)
        assert answer.reason == "a reason; set aside by an earlier run"
        assert answer.is_set_aside
        again = settled_for(ledger.settled, retry_set_aside=True)
        assert again([*offered(path), named]) == [suspicion, suspicion]
        write(Path(path), b"another")
        assert ledger.settled(offered(path)) == [None]


def test_a_file_that_was_only_just_written_is_looked_at_again(tmp_path: Path) -> None:
    path = write(tmp_path / "README")
    now = os.stat(path).st_ctime
    with opened(tmp_path / "run.db", clock=lambda: now + 1) as ledger:
        ledger.record(Outcome(State.SKIPPED, path, error=NotDicom("x"), attempts=0))
    assert settle(tmp_path / "run.db", [path]) == [None]


def test_entries_are_answered_one_for_one(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.dcm") for number in range(1300)]
    with opened(tmp_path / "run.db") as ledger:
        for number, path in enumerate(paths):
            ledger.record(of_file(path, number, State.STORED if number % 3 else State.FAILED, None))
    in_memory = instance_of(0)
    in_memory.path = None
    entries = [*paths, str(tmp_path / "new.dcm"), in_memory, f"{tmp_path}/\0"]
    random.Random(1).shuffle(entries)
    expected = [
        State.RESUMED if isinstance(entry, str) and entry in paths and paths.index(entry) % 3 else None
        for entry in entries
    ]
    assert settle(tmp_path / "run.db", entries) == expected


def test_a_new_ledger_looks_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm")
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(of_file(path, 1, State.STORED, Status(0)))
        monkeypatch.setattr(os, "stat", None)
        found = ledger.settled(offered(path) * 3)
        monkeypatch.undo()
    assert found == [None] * 3


def test_relative_paths_belong_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.dcm")
    monkeypatch.chdir(tmp_path)
    with opened("run.db") as ledger:
        ledger.record(of_file("a.dcm", 1, State.STORED, Status(0)))
    assert settle(Path("run.db"), ["a.dcm", "./a.dcm", str(tmp_path / "a.dcm")]) == [State.RESUMED] * 3
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    write(tmp_path / "other" / "a.dcm")
    assert settle(tmp_path / "run.db", ["a.dcm", "../a.dcm"]) == [None, None]


@pytest.mark.parametrize("waiting", [1, 100, 65536])
def test_every_row_is_found_again_whatever_is_in_the_index(
    tmp_path: Path, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", waiting)
    monkeypatch.setattr(ledger_writer, "_INDEXED_AT_ONCE", 40)
    for run in range(3):
        with opened(tmp_path / "run.db") as ledger:
            for number in range(700):
                outcome = outcome_of(instance_of(number), State.FAILED, Status(0xC000), retryable=True)
                ledger.record(outcome)
                if number % 70 == 0:
                    anyio.run(ledger.flush)
        rows = rows_of(tmp_path / "run.db")
        assert [row.path for row in rows] == [path_of(number) for number in range(700)]
        assert {row.attempts for row in rows} == {run + 1}
    with opened(tmp_path / "run.db") as ledger:
        for number in range(700):
            ledger.record(stored(number))
    with opened(tmp_path / "run.db") as ledger:
        assert all(ledger.known_instance(uid_of(number)) for number in range(700))


def test_rows_with_the_same_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{number}.dcm") for number in range(20)]
    monkeypatch.setattr(ledger_hashes, "crc32", lambda data, start=0: 7)
    for waiting in (1, 65536):
        monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", waiting)
        with opened(tmp_path / f"{waiting}.db") as ledger:
            for number, path in enumerate(paths):
                ledger.record(of_file(path, number, State.STORED, Status(0)))
                anyio.run(ledger.flush)
            known = [ledger.known_instance(uid_of(number)) for number in range(21)]
            assert [found and found.path for found in known] == [*paths, None]
        assert settle(tmp_path / f"{waiting}.db", [*paths, str(tmp_path)]) == [State.RESUMED] * 20 + [None]


# -- the same SOP Instance UID from elsewhere --------------------------------------------------------------------------


def test_an_instance_that_was_stored_from_elsewhere_is_known(tmp_path: Path) -> None:
    for run in range(2):
        with opened(tmp_path / "run.db") as ledger:
            if not run:
                ledger.record(stored(1, "/a/1", size_bytes=77))
                ledger.record(outcome_of(instance_of(2, "/a/2"), State.FAILED, Status(0xC000)))
            entries = [instance_of(1, "/a/1"), instance_of(1, "/b/1"), instance_of(2, "/b/2"), instance_of(3, "/b/3")]
            itself, other, failed, unknown = ledger.stored_elsewhere(entries)
            assert other == [("/a/1", 77, 10**18, State.STORED)]
            assert itself == failed == unknown == []
            assert ledger.known_instance(uid_of(1)) == other[0]


def test_what_was_recorded_is_known_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", 300)
    monkeypatch.setattr(ledger_writer, "_INDEXED_AT_ONCE", 50)
    monkeypatch.setattr(buffered, "COMMIT_OUTCOMES", 20)
    recorded = 0
    missed: list[int] = []
    done = threading.Event()

    def look(seed: int) -> None:
        rng = random.Random(seed)
        while not done.is_set():
            numbers = [rng.randrange(recorded) for _ in range(10)] if recorded else []
            known = ledger.stored_elsewhere([instance_of(number, "/elsewhere") for number in numbers])
            missed.extend(number for number, found in zip(numbers, known, strict=True) if not found)

    with opened(tmp_path / "run.db") as ledger:
        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for number in range(3000):
            ledger.record(stored(number))
            recorded = number + 1
        anyio.run(ledger.flush)
        done.set()
        for thread in threads:
            thread.join()
    assert missed == []


def test_the_path_of_a_known_instance_follows_a_changed_file(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1, "/a"))
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(2, "/a", size_bytes=5))
    with opened(tmp_path / "run.db") as ledger:
        assert ledger.known_instance(uid_of(1)) is None
        assert ledger.known_instance(uid_of(2)) == ("/a", 5, 10**18, State.STORED)
