"""Reads a ledger, also while a run is writing it: counts, failures, and every row."""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.net.outcome import State
from asyncstore.transfer.ledger import FAILED, STORED, ledger_path, unpack_uid
from asyncstore.transfer.ledger_file import SCHEMA_VERSION, ledger_errors, open_to_read

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator
    from types import TracebackType
    from typing import Self

# Rows are read so many at a time, and nothing is held open between: a slow reader must not make the WAL grow.
_ROWS_AT_ONCE: Final = 2000
_BOTH: Final = "instance i JOIN account a ON a.id = i.account"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What a ledger knows of one instance, or of a file without one.

    `path` is exactly as on disk (os.fsencode gives the bytes back), None for an instance from memory. `size_bytes` and
    `mtime_ns` are the file's, None where they are not known. `attempts` counts the C-STORE requests of all runs, `run`
    is the last one that had to do with it; the rest is about its last attempt. `status` is the peer's answer, `comment`
    its Error Comment as it was sent. `transfer_syntax_uid` is the file's, `sent_transfer_syntax_uid` what was sent.
    """

    path: str | None
    state: State
    sop_class_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax_uid: str | None
    sent_transfer_syntax_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    size_bytes: int | None
    mtime_ns: int | None
    status: int | None
    reason: str
    comment: str
    offending_elements: tuple[int, ...]
    retryable: bool
    attempts: int
    association_number: int
    context_id: int
    bytes_sent: int
    run: int
    recorded_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON and CSV; a byte of the path that is no text is a lone surrogate."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {
            "state": self.state.value,
            "status": None if self.status is None else f"{self.status:04X}",
            "offending_elements": [f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in self.offending_elements],
            "recorded_at": self.recorded_at.isoformat(timespec="milliseconds"),
        }


_COLUMNS: Final = tuple(LedgerRow.__dataclass_fields__)


class StateCount(NamedTuple):
    """How many instances are in a state, and how many bytes of data sets were sent for them last."""

    state: State
    instances: int
    bytes_sent: int


class ReasonCount(NamedTuple):
    """How many instances have the same state, status and reason."""

    state: State
    status: int | None
    reason: str
    instances: int


class StudyCount(NamedTuple):
    """How far a study is; None for the instances whose study is not known."""

    study_instance_uid: str | None
    found: int
    stored: int
    failed: int


class DirectoryCount(NamedTuple):
    """How many instances of one directory failed."""

    directory: str
    failed: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run that wrote into the ledger; `finished_at` is None while it goes on, and when it was killed."""

    number: int
    started_at: datetime.datetime
    finished_at: datetime.datetime | None
    pid: int
    host: str
    options: dict[str, Any]


class LedgerReader:
    """A ledger opened for reading: `with LedgerReader(path) as ledger`. Blocks; every method may raise LedgerError.

    A run may be writing: each answer is true for one moment, and two answers may be for two moments.
    """

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        self.path = ledger_path(os.fsdecode(path), os.getcwd())
        self._connection = open_to_read(self.path)
        self.schema_version = SCHEMA_VERSION
        with ledger_errors(self.path, "read"), contextlib.ExitStack() as stack:
            stack.callback(self._connection.close)
            found = self._connection.execute("SELECT destination, created_at FROM ledger").fetchone()
            stack.pop_all()
        self.destination: str = found[0]
        self.created_at = _time(found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def runs(self) -> list[RunRecord]:
        """Every run of the ledger, the first one first."""
        rows = self._all("SELECT id, started_at, finished_at, pid, host, options FROM run ORDER BY id")
        return [
            RunRecord(number, _time(begun), None if ended is None else _time(ended), pid, host, json.loads(options))
            for number, begun, ended, pid, host, options in rows
        ]

    def by_state(self) -> list[StateCount]:
        """How many instances are in each state, the largest count first."""
        query = f"SELECT a.state, count(*), sum(i.bytes_sent) FROM {_BOTH} GROUP BY a.state ORDER BY 2 DESC, 1"
        return [StateCount(State(state), count, sent) for state, count, sent in self._all(query)]

    def by_status(self) -> dict[int, int]:
        """How many instances have each status as the peer's last answer."""
        query = f"SELECT a.status, count(*) FROM {_BOTH} WHERE a.status >= 0 GROUP BY a.status ORDER BY a.status"
        return dict(self._all(query))

    def by_reason(self, limit: int = -1) -> list[ReasonCount]:
        """Why instances are not stored, or stored with a warning, the most frequent reason first."""
        query = (
            f"SELECT a.state, nullif(a.status, -1), a.reason, count(*) FROM {_BOTH} "
            "WHERE a.state != ? GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT ?"
        )
        rows = self._all(query, State.STORED.value, limit)
        return [ReasonCount(State(state), status, reason, count) for state, status, reason, count in rows]

    def by_study(self) -> Iterator[StudyCount]:
        """How far each study is: found, stored, failed."""
        query = (
            f"SELECT i.study_instance_uid, count(*), sum(a.state IN {_marks(STORED)}), "
            f"sum(a.state IN {_marks(FAILED)}) FROM {_BOTH} "
            "WHERE i.sop_instance_uid != '' GROUP BY i.study_instance_uid"
        )
        for uid, found, stored, failed in self._all(query, *STORED, *FAILED):
            yield StudyCount(unpack_uid(uid) or None, found, stored, failed)

    def worst_directories(self, limit: int = 10) -> list[DirectoryCount]:
        """The directories with the most failures."""
        counts: collections.Counter[str] = collections.Counter()
        for row in self.failed():
            counts[os.path.dirname(row.path) if row.path is not None else ""] += 1
        return [DirectoryCount(directory, failed) for directory, failed in counts.most_common(limit)]

    def failed(self) -> Iterator[LedgerRow]:
        """Every instance that something kept from being stored; those that were left are not among them."""
        return self.rows(FAILED)

    def rows(self, states: Collection[State] | None = None) -> Iterator[LedgerRow]:
        """Every row, or those in some states, in the order in which they were first recorded."""
        wanted = sorted(State if states is None else states)
        columns = ", ".join(_COLUMNS)
        query = (
            f"SELECT id, {columns} FROM instances WHERE id > ? AND state IN {_marks(wanted)} "
            f"ORDER BY id LIMIT {_ROWS_AT_ONCE}"
        )
        last = 0
        while rows := self._all(query, last, *wanted):
            yield from map(_row, rows)
            last = rows[-1][0]

    def _all(self, query: str, *values: object) -> list[Any]:
        with ledger_errors(self.path, "read"):
            connection: sqlite3.Connection = self._connection
            return connection.execute(query, values).fetchall()


def _row(row: Any) -> LedgerRow:
    values = dict(zip(_COLUMNS, row[1:], strict=True))
    path, offending = values["path"], values["offending_elements"]
    values["path"] = None if path is None else os.fsdecode(path)
    values["state"] = State(values["state"])
    values["reason"] = values["reason"] or ""
    values["comment"] = values["comment"] or ""
    values["offending_elements"] = struct.unpack(f">{len(offending) // 4}I", offending)
    values["retryable"] = bool(values["retryable"])
    values["recorded_at"] = _time(values["recorded_at"])
    return LedgerRow(**values)


def _time(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)


def _marks(values: Collection[object]) -> str:
    return f"({', '.join('?' * len(values))})"
