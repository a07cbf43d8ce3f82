"""Reading a ledger, while a run is writing it and afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.errors import LedgerError
from asyncstore.net.outcome import Outcome, State
from asyncstore.status import Status
from asyncstore.transfer import ledger_reader
from asyncstore.transfer.ledger_reader import DirectoryCount, LedgerReader, ReasonCount, StateCount, StudyCount
from asyncstore.transfer.sqlite_ledger import SqliteLedger
from tests.transfer.ledgers import DESTINATION, instance_of, opened, outcome_of, stored

if TYPE_CHECKING:
    from pathlib import Path

FULL = Status(0xA700, "disk full")


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
        assert (reader.destination, reader.schema_version) == (DESTINATION, 2)
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


def test_counts_by_study(reader: LedgerReader) -> None:
    with reader:
        assert set(reader.by_study()) == {
            StudyCount("1.2.0", 4, 3, 1),
            StudyCount("1.2.1", 4, 2, 2),
            StudyCount(None, 1, 0, 0),
        }


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
