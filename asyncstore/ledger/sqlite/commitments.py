"""What a peer has committed to keep, in the file of a ledger: apart from what is stored, in tables of its own.

The tables are made when the first request is recorded, so a ledger without them stays as it is, and older versions
read a ledger that has them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from asyncstore.ledger.protocol import STORED
from asyncstore.ledger.sqlite.file import ledger_errors
from asyncstore.ledger.sqlite.packing import pack_uid, unpack_uid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

_BUSY_SECONDS: Final = 10.0
_ASKED: Final = -1
_COMMITTED: Final = 0
# `answer` is -1 while the peer has not reported, 0 if it has committed, else its Failure Reason. An instance that was
# stored again after `answered_at` is not committed. Times are milliseconds since 1970, UTC.
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
# The peer knows an instance by the UID under which it was sent.
_SENT_UID: Final = "coalesce(s.sop_instance_uid, i.sop_instance_uid)"
_STORED_ROWS: Final = (
    "FROM instance i JOIN account a ON a.id = i.account LEFT JOIN sent s ON s.id = i.id "
    f"LEFT JOIN commitment c ON c.sop_instance_uid = {_SENT_UID} "
    f"WHERE a.state IN ({', '.join('?' * len(STORED))})"
)
_IS_COMMITTED: Final = "coalesce(c.answer = 0 AND c.answered_at >= i.recorded_at, 0)"


class CommitmentRecord:
    """Requests for commitment and the answers to them, in a ledger that exists.

    Blocks; several threads may use it. Any method may raise LedgerError.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        with ledger_errors(path, "opened"):
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            for statement in _SCHEMA:
                self._connection.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def note_request(self, transaction_uid: str, sop_instance_uids: Iterable[str]) -> None:
        """Record a request before it is sent: its report may come before its answer."""
        rows = [(pack_uid(uid), transaction_uid, _ASKED, 0) for uid in sop_instance_uids]
        with ledger_errors(self._path, "written"), self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO commitment_request VALUES (?, ?)", (transaction_uid, _now_ms()))
            connection.executemany("INSERT OR REPLACE INTO commitment VALUES (?, ?, ?, ?)", rows)

    def note_answers(self, transaction_uid: str, answers: Mapping[str, int]) -> None:
        """Record the answers of a report, by SOP Instance UID; 0 is committed.

        A report to a request that is not on record is ignored.
        """
        now = _now_ms()
        rows = [(answer, now, pack_uid(uid)) for uid, answer in answers.items()]
        with ledger_errors(self._path, "written"), self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            query = "SELECT count(*) FROM commitment_request WHERE transaction_uid = ?"
            if connection.execute(query, (transaction_uid,)).fetchone()[0]:
                connection.executemany(
                    "UPDATE commitment SET answer = ?, answered_at = ? WHERE sop_instance_uid = ?", rows
                )

    def uncommitted(self) -> list[tuple[tuple[str, str], str | None]]:
        """SOP class and SOP instance, and the path, of each instance that is stored and not committed."""
        query = f"SELECT a.sop_class, {_SENT_UID}, i.path {_STORED_ROWS} AND NOT {_IS_COMMITTED}"
        with ledger_errors(self._path, "read"), self._lock:
            return [
                ((str(sop_class), unpack_uid(uid)), os.fsdecode(path) if path else None)
                for sop_class, uid, path in self._connection.execute(query, sorted(STORED))
            ]


def count_committed(connection: sqlite3.Connection) -> int | None:
    """The number of stored instances in a ledger that the peer has committed; None if it was never asked to."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'commitment'").fetchone()[0]:
        return None
    query = f"SELECT coalesce(sum({_IS_COMMITTED}), 0) {_STORED_ROWS}"
    return int(connection.execute(query, sorted(STORED)).fetchone()[0])


def _now_ms() -> int:
    return round(time.time() * 1000)
