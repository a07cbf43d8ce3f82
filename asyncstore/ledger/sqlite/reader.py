"""Reads a ledger, even while a run is writing it: counts, failures, and all rows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import struct
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asyncstore.instances.outcome import State
from asyncstore.ledger.packing import checked, ledger_path, status_value, unpack_uid
from asyncstore.ledger.protocol import FAILED, STORED
from asyncstore.ledger.rows import (
    ChangeCount,
    Commitment,
    CommitmentCount,
    DirectoryCount,
    LedgerRow,
    ReasonCount,
    RunRecord,
    RunState,
    StateCount,
    StoredOverTime,
    StoredPart,
    StudyCount,
    commitment_of,
)
from asyncstore.ledger.sqlite.commitments import ANSWER_OF_ROW, NO_ANSWER_OF_ROW, count_answers, has_commitments
from asyncstore.ledger.sqlite.file import ledger_errors, open_to_read
from asyncstore.ledger.sqlite.lock import holder_of
from asyncstore.status import OUT_OF_RESOURCES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import TracebackType
    from typing import Self

# Rows are read in batches of this size, with nothing held open in between: a slow reader must not make the WAL grow.
_ROWS_AT_ONCE: Final = 2000
_REFUSED: Final = " OR ".join(f"a.status BETWEEN {first} AND {last}" for first, last in OUT_OF_RESOURCES)
_DOUBTFUL_MS: Final = 60_000
_Converted = TypeVar("_Converted")
_BOTH: Final = "instance i JOIN account a ON a.id = i.account"


# The two that follow from an answer of storage commitment, which is in tables of its own.
_OF_THE_ANSWER: Final = ("commitment", "failure_reason")
_COLUMNS: Final = tuple(name for name in LedgerRow.__dataclass_fields__ if name not in _OF_THE_ANSWER)
_KINDS: Final[dict[Any, Any]] = {"int": int, "int | None": int | None, "str": str, "str | None": str | None}
# SQLite stores a type with each value, whatever the column declares: in a damaged ledger it may be another one.
_CHECKED: Final = [
    (name, _KINDS[field.type]) for name, field in LedgerRow.__dataclass_fields__.items() if field.type in _KINDS
]


class LedgerReader:
    """Reads a ledger, even while a run is writing it: `with LedgerReader(path) as ledger: ledger.by_state()`.

    `path` is its file, `destination` the peer that it is for, as AE@host:port. `created_at` is when it was begun,
    `schema_version` the number of its schema.

    Blocks. The constructor and all methods may raise LedgerError. While a run is writing, each result is a snapshot;
    two results may be from different moments.
    """

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        self.path: str = ledger_path(os.fsdecode(path), os.getcwd())
        self._connection = open_to_read(self.path)
        with ledger_errors(self.path, "read"), contextlib.ExitStack() as stack:
            stack.callback(self._connection.close)
            destination, created_at = self._connection.execute("SELECT destination, created_at FROM ledger").fetchone()
            self.schema_version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
            self.destination: str = checked(destination, str)
            self.created_at: datetime.datetime = _time(created_at)
            stack.pop_all()

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
        """All runs that wrote into the ledger, in order."""
        runs = self._runs()
        if runs and runs[-1].state is RunState.KILLED:
            last, holder = runs[-1], holder_of(os.path.realpath(self.path))
            if holder is None:  # it may have ended meanwhile, and it writes its end before it unlocks
                return self._runs()
            if (holder.pid, holder.host) in ((last.pid, last.host), (0, "")):
                runs[-1] = dataclasses.replace(last, state=RunState.RUNNING)
        return runs

    def _runs(self) -> list[RunRecord]:
        """The same, but a run that still goes on looks like a killed one."""
        columns = "id, started_at, finished_at, pid, host, options, scan_finished, stopped, refused_at"
        return self._all(_run, f"SELECT {columns} FROM run ORDER BY id")

    def count_rows(self) -> int:
        """About how many rows there are; takes no time, however many."""
        return self._all(int, "SELECT coalesce(max(id), 0) FROM instance")[0]

    def by_state(self) -> list[StateCount]:
        """The number of instances in each state, largest first."""
        query = f"SELECT a.state, count(*), sum(i.bytes_sent) FROM {_BOTH} GROUP BY a.state ORDER BY 2 DESC, 1"
        return self._all(_state_count, query)

    def by_commitment(self) -> list[CommitmentCount]:
        """The stored instances by what the peer commits to, largest first; [] if it was never asked to commit."""
        with ledger_errors(self.path, "read"):
            answers = [(checked(answer, int | None), count) for answer, count in count_answers(self._connection)]
        return [CommitmentCount(*commitment_of(answer), count) for answer, count in answers]

    def committed(self) -> int | None:
        """The number of stored instances that the peer has committed to keep; None if it was never asked to."""
        counts = self.by_commitment()
        if not counts and not self._has_commitments():
            return None
        return sum(count.instances for count in counts if count.commitment is Commitment.COMMITTED)

    def _has_commitments(self) -> bool:
        with ledger_errors(self.path, "read"):
            return has_commitments(self._connection)

    def by_status(self) -> dict[int, int]:
        """The number of instances for each status that was the peer's last answer."""
        query = f"SELECT a.status, count(*) FROM {_BOTH} WHERE a.status >= 0 GROUP BY a.status ORDER BY a.status"
        return dict(self._all(_status_count, query))

    def by_reason(self, limit: int = -1) -> list[ReasonCount]:
        """The reasons why instances are not stored, or stored with a warning; most frequent first."""
        query = (
            f"SELECT a.state, nullif(a.status, -1), a.reason, count(*) FROM {_BOTH} "
            "WHERE a.state != ? GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT ?"
        )
        return self._all(_reason_count, query, State.STORED.value, limit)

    def by_change(self) -> list[ChangeCount]:
        """How the stored instances were changed on the way; most frequent first."""
        where = f"WHERE a.changes != '' AND a.state IN {_marks(STORED)}"
        counts: collections.Counter[str] = collections.Counter()
        for changes, count in self._all(
            _changes_count, f"SELECT a.changes, count(*) FROM {_BOTH} {where} GROUP BY 1", *STORED
        ):
            counts.update(dict.fromkeys(changes, count))
        return [ChangeCount(change, count) for change, count in counts.most_common()]

    def by_study(self) -> Iterator[StudyCount]:
        """The instances found, stored, failed and left in each study."""
        settled = [*STORED, State.DUPLICATE, *FAILED]
        query = (
            f"SELECT i.study_instance_uid, count(*), sum(a.state IN {_marks(STORED)}), "
            f"sum(a.state IN {_marks(FAILED)}), sum(a.state NOT IN {_marks(settled)}), "
            f"min(i.recorded_at), max(i.recorded_at) FROM {_BOTH} "
            "WHERE i.sop_instance_uid != '' GROUP BY i.study_instance_uid"
        )
        yield from self._all(_study_count, query, *STORED, *FAILED, *settled)

    def stored_over_time(self, parts: int) -> StoredOverTime | None:
        """What was stored when, in at most so many parts of at least a second; None if nothing was."""
        where = f"FROM {_BOTH} WHERE a.state IN {_marks(STORED)}"
        span = self._all(
            _pair, f"SELECT ifnull(min(i.recorded_at), -1), ifnull(max(i.recorded_at), -1) {where}", *STORED
        )
        ((first, last),) = span
        if last < 0:
            return None
        part_ms = max(1000, -(-(last + 1 - first) // parts))
        counts = [StoredPart(0, 0)] * ((last - first) // part_ms + 1)
        query = (
            f"SELECT (i.recorded_at - {first}) / {part_ms}, count(*), sum(i.bytes_sent) {where} "
            f"AND i.recorded_at BETWEEN {first} AND {last} GROUP BY 1"
        )
        for part, instances, bytes_sent in self._all(_triple, query, *STORED):
            counts[part] = StoredPart(instances, bytes_sent)
        return StoredOverTime(_time(first), part_ms / 1000, counts)

    def worst_directories(self, limit: int = 10) -> list[DirectoryCount]:
        """The directories with the most failed instances, worst first."""
        counts: collections.Counter[str] = collections.Counter()
        for row in self.failed():
            counts[os.path.dirname(row.path) if row.path is not None else ""] += 1
        return [DirectoryCount(directory, failed) for directory, failed in counts.most_common(limit)]

    def failed(self) -> Iterator[LedgerRow]:
        """All instances that failed; not those that a run left for the next one."""
        return self.rows(FAILED)

    def doubtful(self) -> Iterator[LedgerRow]:
        """The instances that were stored within a minute before the peer first was out of resources in that run.

        Many peers answer success for what they write while their disk fills up, and lose it.
        """
        for where, values in self._before_refusals():
            yield from self._rows(where, values)

    def count_doubtful(self) -> int:
        """The number of instances that `doubtful` yields."""
        count = 0
        for where, values in self._before_refusals():
            count += sum(self._all(int, f"SELECT count(*) FROM instances WHERE {where}", *values))
        return count

    def _before_refusals(self) -> list[tuple[str, list[object]]]:
        """For each run in which the peer was out of resources, the condition for what was stored just before."""
        first = {run.number: _milliseconds(run.refused_at) for run in self._runs() if run.refused_at is not None}
        query = f"SELECT a.run, min(i.recorded_at) FROM {_BOTH} WHERE {_REFUSED} GROUP BY a.run"
        for number, recorded_at in self._all(_pair, query):
            first[number] = min(first.get(number, recorded_at), recorded_at)
        where = f"run = ? AND recorded_at BETWEEN ? AND ? AND state IN {_marks(STORED)}"
        return [(where, [number, at - _DOUBTFUL_MS, at, *STORED]) for number, at in sorted(first.items())]

    def rows(self, states: Collection[State] | None = None) -> Iterator[LedgerRow]:
        """All rows, or those in some states, in the order in which they were first recorded."""
        wanted = sorted(State if states is None else states)
        return self._rows(f"state IN {_marks(wanted)}", wanted)

    def _rows(self, where: str, values: Sequence[object]) -> Iterator[LedgerRow]:
        has_commitments = self._has_commitments()
        columns = ", ".join([*_COLUMNS, ANSWER_OF_ROW if has_commitments else NO_ANSWER_OF_ROW])
        query = f"SELECT id, {columns} FROM instances WHERE id > ? AND {where} ORDER BY id LIMIT {_ROWS_AT_ONCE}"
        last = 0
        convert = functools.partial(_numbered_row, has_commitments)
        while rows := self._all(convert, query, last, *values):
            yield from (row for _, row in rows)
            with ledger_errors(self.path, "read"):
                if rows[-1][0] <= last:  # the loop would never end
                    raise ValueError("the rows are in no order")
            last = rows[-1][0]

    def _all(self, convert: Callable[..., _Converted], query: str, *values: object) -> list[_Converted]:
        with ledger_errors(self.path, "read"):
            connection: sqlite3.Connection = self._connection
            return [convert(*row) for row in connection.execute(query, values).fetchall()]


def _run(
    number: int,
    begun: int,
    ended: int | None,
    pid: int,
    host: str,
    options: str,
    scan_finished: int | None,
    stopped: str | None,
    refused: int | None,
) -> RunRecord:
    if ended is None:
        state = RunState.KILLED
    elif checked(stopped, str | None) is None:
        state = RunState.ENDED
    else:
        state = RunState.STOPPED_EARLY if stopped else RunState.FINISHED
    return RunRecord(
        number=number,
        state=state,
        started_at=_time(begun),
        finished_at=None if ended is None else _time(ended),
        pid=checked(pid, int),
        host=checked(host, str),
        options=checked(json.loads(options), dict),
        scan_finished=None if scan_finished is None else bool(checked(scan_finished, int)),
        stopped=stopped,
        refused_at=None if refused is None else _time(refused),
    )


def _pair(number: int, recorded_at: int) -> tuple[int, int]:
    return checked(number, int), checked(recorded_at, int)


def _state_count(state: str, count: int, bytes_sent: int) -> StateCount:
    return StateCount(State(state), count, checked(bytes_sent, int))


def _status_count(status: int, count: int) -> tuple[int, int]:
    return checked(status_value(status), int), count


def _reason_count(state: str, status: int | None, reason: str, count: int) -> ReasonCount:
    return ReasonCount(State(state), status_value(status), checked(reason, str), count)


def _changes_count(changes: str, count: int) -> tuple[list[str], int]:
    return changes.split("\n"), count


def _triple(part: int, instances: int, bytes_sent: int) -> tuple[int, int, int]:
    return checked(part, int), instances, checked(bytes_sent, int)


def _study_count(uid: bytes | str, found: int, stored: int, failed: int, left: int, *span: int) -> StudyCount:
    first, last = map(_time, span)
    return StudyCount(unpack_uid(uid) or None, found, stored, failed, left, first, last)


def _numbered_row(has_commitments: bool, number: int, *columns: Any) -> tuple[int, LedgerRow]:
    *columns_of_view, answer = columns
    values = dict(zip(_COLUMNS, columns_of_view, strict=True))
    path, offending = values["path"], values["offending_elements"]
    values["path"] = None if path is None else os.fsdecode(path)
    values["state"] = State(values["state"])
    values["reason"] = values["reason"] or ""
    values["comment"] = values["comment"] or ""
    values["offending_elements"] = struct.unpack(f">{len(offending) // 4}I", offending)
    values["retryable"] = bool(values["retryable"])
    values["set_aside"] = bool(values["set_aside"])
    values["changes"] = tuple(checked(values["changes"] or "", str).splitlines())
    values["recorded_at"] = _time(values["recorded_at"])
    values["status"] = status_value(values["status"])
    is_asked_for = has_commitments and values["state"] in STORED
    told = commitment_of(checked(answer, int | None)) if is_asked_for else (None, None)
    values.update(zip(_OF_THE_ANSWER, told, strict=True))
    for name, kind in _CHECKED:
        checked(values[name], kind)
    return number, LedgerRow(**values)


def _time(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)


def _milliseconds(time: datetime.datetime) -> int:
    return round(time.timestamp() * 1000)


def _marks(values: Collection[object]) -> str:
    return f"({', '.join('?' * len(values))})"
