"""A ledger of the version before: read as it is, and brought up to date by the next run."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from asyncstore.instances.outcome import SentUIDs, State
from asyncstore.ledger.rows import ChangeCount
from asyncstore.ledger.sqlite.commitments import CommitmentRecord
from asyncstore.ledger.sqlite.file import SCHEMA_VERSION
from asyncstore.ledger.sqlite.history import LedgerHistory
from asyncstore.ledger.sqlite.reader import LedgerReader
from tests.support.ledgers import DESTINATION, opened, path_of, stored, uid_of

if TYPE_CHECKING:
    from pathlib import Path

_NEW_COLUMNS = ("changes", "sent_sop_instance_uid", "sent_study_instance_uid", "sent_series_instance_uid")


def make_older(path: Path) -> None:
    """Turn a ledger into one of schema 3, which knew of no changes."""
    connection = sqlite3.connect(path, isolation_level=None)
    (view,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'instances'").fetchone()
    connection.execute("DROP VIEW instances")
    connection.execute("ALTER TABLE account DROP COLUMN changes")
    connection.execute("DROP TABLE sent")
    begin = view.index(",\n    nullif(a.changes")
    connection.execute(f"{view[:begin]}\nFROM instance i JOIN account a ON a.id = i.account")
    connection.execute("PRAGMA user_version = 3")
    connection.close()


def older_ledger(path: Path) -> Path:
    with opened(path) as ledger:
        for number in range(3):
            ledger.record(stored(number))
    make_older(path)
    return path


def test_it_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    path = older_ledger(tmp_path / "run.db")
    path.chmod(0o400)
    before = path.read_bytes()
    with LedgerReader(path) as reader:
        assert reader.schema_version == 3
        assert [(row.path, row.changes, row.sent_sop_instance_uid) for row in reader.rows()] == [
            (path_of(number), (), None) for number in range(3)
        ]
        assert reader.by_change() == []
        assert reader.by_state()[0].instances == 3
    with LedgerHistory(str(path), destination=DESTINATION) as history:
        assert history.settled([]) == []
    assert path.read_bytes() == before


def test_the_next_run_brings_it_up_to_date(tmp_path: Path) -> None:
    path = older_ledger(tmp_path / "run.db")
    changed = stored(3)
    changed.changes, changed.sent_uids = ("PatientID set", "UIDs replaced"), SentUIDs("2.25.1", "2.25.2", "2.25.3")
    with opened(path) as ledger:
        ledger.record(changed)
    with LedgerReader(path) as reader:
        assert reader.schema_version == SCHEMA_VERSION
        rows = list(reader.rows())
        assert [row.sent_sop_instance_uid for row in rows] == [None, None, None, "2.25.1"]
        assert rows[3].sop_instance_uid == uid_of(3)
        assert (rows[3].sent_study_instance_uid, rows[3].sent_series_instance_uid) == ("2.25.2", "2.25.3")
        assert reader.by_change() == [ChangeCount("PatientID set", 1), ChangeCount("UIDs replaced", 1)]


def test_a_second_migration_does_nothing(tmp_path: Path) -> None:
    path = older_ledger(tmp_path / "run.db")
    for _ in range(2):
        with opened(path):
            pass
    with LedgerReader(path) as reader:
        assert next(iter(reader.rows())).to_dict().keys() >= set(_NEW_COLUMNS)


def test_an_instance_that_is_sent_unchanged_later_has_no_other_uids(tmp_path: Path) -> None:
    changed = stored(1)
    changed.state = State.UNKNOWN
    changed.changes, changed.sent_uids = ("UIDs replaced",), SentUIDs("2.25.1", None, None)
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(changed)
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
    with LedgerReader(tmp_path / "run.db") as reader:
        (row,) = reader.rows()
    assert (row.state, row.changes, row.sent_sop_instance_uid) == (State.STORED, (), None)


def test_the_peer_is_asked_to_commit_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    changed = stored(1)
    changed.changes, changed.sent_uids = ("UIDs replaced",), SentUIDs("2.25.1", None, None)
    with opened(path) as ledger:
        ledger.record(changed)
        ledger.record(stored(2))
    with CommitmentRecord(str(path)) as record:
        assert {each.sop_instance_uid for each in record.uncommitted(0, 9)} == {"2.25.1", uid_of(2)}
        record.note_request("2.25.9", ["2.25.1"])
        record.note_answers("2.25.9", {"2.25.1": 0})
        assert {each.sop_instance_uid for each in record.uncommitted(0, 9)} == {uid_of(2)}
    with LedgerReader(path) as reader:
        assert reader.committed() == 1
