"""Commitment in the file of a ledger: apart from what is stored, and never more than the peer has said."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import State
from asyncstore.ledger.rows import Commitment
from asyncstore.ledger.sqlite.commitments import CommitmentRecord
from asyncstore.ledger.sqlite.reader import LedgerReader
from tests.support.ledgers import instance_of, opened, outcome_of, uid_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """Three stored instances, and one that failed."""
    path = tmp_path / "run.db"
    with opened(path) as written:
        for number in (1, 2, 3):
            written.record(outcome_of(instance_of(number)))
        written.record(outcome_of(instance_of(4), State.FAILED))
    return str(path)


def committed(ledger: str) -> int | None:
    with LedgerReader(ledger) as reader:
        return reader.committed()


def uncommitted(record: CommitmentRecord) -> set[str]:
    return {each.sop_instance_uid for each in record.uncommitted(0, 100)}


def test_a_ledger_without_requests_says_nothing_of_commitment(ledger: str) -> None:
    assert committed(ledger) is None


def test_what_the_peer_reported_is_committed_and_nothing_else(ledger: str) -> None:
    with CommitmentRecord(ledger) as record:
        assert uncommitted(record) == {uid_of(1), uid_of(2), uid_of(3)}
        record.note_request("2.25.1", [uid_of(1), uid_of(2), uid_of(3)])
        assert committed(ledger) == 0
        record.note_answers("2.25.1", {uid_of(1): 0, uid_of(2): 0x0112})
        assert committed(ledger) == 1
        assert uncommitted(record) == {uid_of(2), uid_of(3)}
        second, third = record.uncommitted(0, 100)
        assert (second.transaction_uid, third.sop_class_uid) == ("2.25.1", instance_of(3).sop_class_uid)
        assert (third.sop_instance_uid, third.path) == (uid_of(3), instance_of(3).path)
        assert record.uncommitted(0, 1) == [second]
        assert record.uncommitted(second.row, 1) == [third]
        assert record.uncommitted(third.row, 1) == []


def test_only_the_report_to_the_latest_request_counts(ledger: str) -> None:
    with CommitmentRecord(ledger) as record:
        record.note_request("2.25.1", [uid_of(1)])
        record.note_request("2.25.2", [uid_of(1)])
        record.note_answers("2.25.99", {uid_of(1): 0})
        record.note_answers("2.25.1", {uid_of(1): 0, uid_of(77): 0})
        assert committed(ledger) == 0
        record.note_answers("2.25.2", {uid_of(1): 0})
        assert committed(ledger) == 1
        record.note_answers("2.25.1", {uid_of(1): 0x0112})
        assert committed(ledger) == 1


def test_each_row_says_what_is_committed_and_why_not(ledger: str) -> None:
    with LedgerReader(ledger) as reader:
        assert {row.commitment for row in reader.rows()} == {None}
        assert reader.by_commitment() == []
    with CommitmentRecord(ledger) as record:
        record.note_request("2.25.1", [uid_of(1), uid_of(2), uid_of(4)])
        record.note_answers("2.25.1", {uid_of(2): 0x0119, uid_of(4): 0})
    with LedgerReader(ledger) as reader:
        told = [(row.commitment, row.failure_reason) for row in reader.rows()]
        assert told == [
            (Commitment.ASKED, None),
            (Commitment.REFUSED, 0x0119),
            (Commitment.NOT_ASKED, None),
            (None, None),
        ]
        assert set(reader.by_commitment()) == {(*each, 1) for each in told[:3]}
        (second,) = [row.to_dict() for row in reader.rows() if row.sop_instance_uid == uid_of(2)]
        assert (second["state"], second["commitment"], second["failure_reason"]) == ("stored", "refused", "0119")


def test_the_answer_to_a_request_from_before_an_instance_was_stored_again_does_not_count(ledger: str) -> None:
    with CommitmentRecord(ledger) as record:
        record.note_request("2.25.1", [uid_of(1)])
        with sqlite3.connect(ledger) as connection:
            connection.execute("UPDATE instance SET recorded_at = recorded_at + 60000 WHERE id = 1")
        connection.close()
        record.note_answers("2.25.1", {uid_of(1): 0})
        assert committed(ledger) == 0
        assert uid_of(1) in uncommitted(record)


def test_an_instance_that_was_stored_again_later_is_not_committed(ledger: str) -> None:
    with CommitmentRecord(ledger) as record:
        record.note_request("2.25.1", [uid_of(1), uid_of(2)])
        record.note_answers("2.25.1", {uid_of(1): 0, uid_of(2): 0})
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE instance SET recorded_at = recorded_at + 60000 WHERE id = 1")
    connection.close()
    assert committed(ledger) == 1


def test_a_new_request_takes_the_earlier_answer_back(ledger: str) -> None:
    with CommitmentRecord(ledger) as record:
        record.note_request("2.25.1", [uid_of(1)])
        record.note_answers("2.25.1", {uid_of(1): 0})
        record.note_request("2.25.2", [uid_of(1)])
        assert committed(ledger) == 0


def test_the_next_run_writes_the_ledger_as_before(ledger: str) -> None:
    with CommitmentRecord(ledger) as record:
        record.note_request("2.25.1", [uid_of(1)])
        record.note_answers("2.25.1", {uid_of(1): 0})
        with opened(ledger) as written:
            written.record(outcome_of(instance_of(5)))
            record.note_request("2.25.2", [uid_of(5)])
    with LedgerReader(ledger) as reader:
        assert (reader.committed(), sum(count.instances for count in reader.by_state())) == (1, 5)


def test_a_file_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_bytes(b"not a database, and long enough to be seen as none" * 50)
    with pytest.raises(LedgerError):
        CommitmentRecord(str(tmp_path / "no.db"))
