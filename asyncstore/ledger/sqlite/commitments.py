"""What a peer has committed to keep, in the file of a ledger: apart from what is stored, in tables of its own.

The tables are made when a run first asks for commitment, so a ledger without them stays as it is, and older versions
read a ledger that has them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from asyncstore.ledger.accounts import STORED_STATES
from asyncstore.ledger.packing import pack_uid, unpack_uid
from asyncstore.ledger.protocol import Uncommitted
from asyncstore.ledger.sqlite.file import BUSY_SECONDS, ledger_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

_NO_ANSWER: Final = -1
# `answer` is -1 while the peer has not reported, 0 if it has committed, else its Failure Reason. An answer to a request
# that was made before the instance was stored (again) says nothing about it. Times are milliseconds since 1970, UTC.
_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS commitment_request (
        transaction_uid TEXT PRIMARY KEY,
        asked_at INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS commitment (
        sop_instance_uid PRIMARY KEY,
        transaction_uid TEXT NOT NULL,
        answer INTEGER NOT NULL,
        answered_at INTEGER NOT NULL
    ) WITHOUT ROWID""",
)
# The peer knows an instance by the UIDs under which it was sent.
_SENT_UID: Final = "coalesce(s.sop_instance_uid, i.sop_instance_uid)"
_SENT_STUDY: Final = "coalesce(s.study_instance_uid, i.study_instance_uid)"
_JOINED: Final = f"""
FROM instance i LEFT JOIN sent s ON s.id = i.id
LEFT JOIN commitment c ON c.sop_instance_uid = {_SENT_UID}
LEFT JOIN commitment_request r ON r.transaction_uid = c.transaction_uid"""
_STORED_ROWS: Final = f"{_JOINED} JOIN account a ON a.id = i.account WHERE a.state IN ({STORED_STATES})"
_ANSWER: Final = "CASE WHEN r.asked_at >= i.recorded_at THEN c.answer END"
_UNCOMMITTED: Final = f"""
SELECT i.id, a.sop_class, {_SENT_UID}, {_SENT_STUDY}, i.path, coalesce(c.transaction_uid, '')
{_STORED_ROWS} AND coalesce({_ANSWER}, {_NO_ANSWER}) != 0 AND i.id > ? ORDER BY i.id LIMIT ?"""

ANSWER_OF_ROW: Final = (
    f"(SELECT {_ANSWER} {_JOINED} WHERE i.id = instances.id AND instances.state IN ({STORED_STATES}))"
)
"""The answer for a row of the view `instances`; NULL: it was not asked for since it was stored."""
NO_ANSWER_OF_ROW: Final = "NULL"


class CommitmentRecord:
    """Requests for commitment and the answers to them, in a ledger that exists: see Commitments.

    Blocks; several threads may use it. Any method may raise LedgerError.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        with ledger_errors(path, "opened"):
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")  # the run that writes outcomes sees to it
            for statement in _SCHEMA:
                self._connection.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, after the current call."""
        with self._lock:
            self._connection.close()

    def note_request(self, transaction_uid: str, sop_instance_uids: Iterable[str]) -> None:
        """Record a request before it is sent: its report may come before its answer."""
        rows = [(pack_uid(uid), transaction_uid, _NO_ANSWER, 0) for uid in sop_instance_uids]
        with ledger_errors(self._path, "written"), self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO commitment_request VALUES (?, ?)", (transaction_uid, _now_ms()))
            connection.executemany("INSERT OR REPLACE INTO commitment VALUES (?, ?, ?, ?)", rows)

    def note_answers(self, transaction_uid: str, answers: Mapping[str, int]) -> None:
        """Record the answers of a report, by SOP Instance UID; 0 is committed.

        Only the latest request for an instance counts: a report to an earlier one, or to one that is not on record, is
        ignored.
        """
        now = _now_ms()
        rows = [(answer, now, pack_uid(uid), transaction_uid) for uid, answer in answers.items()]
        with ledger_errors(self._path, "written"), self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE commitment SET answer = ?, answered_at = ? WHERE sop_instance_uid = ? AND transaction_uid = ?",
                rows,
            )

    def uncommitted(self, after: int, most: int) -> list[Uncommitted]:
        """See Commitments."""
        with ledger_errors(self._path, "read"), self._lock:
            return [
                Uncommitted(
                    row,
                    str(sop_class),
                    unpack_uid(uid),
                    unpack_uid(study),
                    os.fsdecode(path) if path else None,
                    str(transaction_uid),
                )
                for row, sop_class, uid, study, path, transaction_uid in self._connection.execute(
                    _UNCOMMITTED, (after, most)
                )
            ]


def has_commitments(connection: sqlite3.Connection) -> bool:
    """Whether any run has asked for commitment."""
    query = "SELECT count(*) FROM sqlite_master WHERE name IN ('commitment', 'commitment_request')"
    return bool(connection.execute(query).fetchone()[0] == len(_SCHEMA))


def count_answers(connection: sqlite3.Connection) -> list[tuple[int | None, int]]:
    """How many stored instances have each answer (-1: none yet, None: not asked since); [] if none was asked for."""
    if not has_commitments(connection):
        return []
    return list(
        connection.execute(f"SELECT {_ANSWER} AS answer, count(*) {_STORED_ROWS} GROUP BY 1 ORDER BY 2 DESC, 1")
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
