"""The questions that every ledger answers: counts, failures, and all rows."""

from __future__ import annotations

import abc
import collections
import datetime
import json
import os
import struct
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asyncstore.instances.outcome import State
from asyncstore.ledger.packing import checked, status_value, unpack_uid
from asyncstore.ledger.protocol import FAILED, STORED
from asyncstore.ledger.rows import (
    ChangeCount,
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
from asyncstore.status import OUT_OF_RESOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import TracebackType
    from typing import Self

_REFUSED: Final = " OR ".join(f"a.status BETWEEN {first} AND {last}" for first, last in OUT_OF_RESOURCES)
_DOUBTFUL_MS: Final = 60_000
Converted = TypeVar("Converted")

# These follow from an answer of storage commitment, which is apart from the rows.
_OF_THE_ANSWER: Final = ("commitment", "failure_reason")
COLUMNS: Final = tuple(name for name in LedgerRow.__dataclass_fields__ if name not in _OF_THE_ANSWER)
_KINDS: Final[dict[Any, Any]] = {"int": int, "int | None": int | None, "str": str, "str | None": str | None}
# SQLite stores a type with each value, whatever the column declares: in a damaged ledger it may be another one.
_CHECKED: Final = [
    (name, _KINDS[field.type]) for name, field in LedgerRow.__dataclass_fields__.items() if field.type in _KINDS
]


class RecordReader(abc.ABC):
    """Reads a ledger, even while a run is writing it.

    `path` is where it is, `destination` the peer that it is for, as AE@host:port. `created_at` is when it was begun,
    `schema_version` the number of its schema.

    Blocks. The constructor and all methods may raise LedgerError. While a run is writing, each result is a snapshot;
    two results may be from different moments.
    """

    path: str
    destination: str
    created_at: datetime.datetime
    schema_version: int

    # What a query reads, in this database: accounts with their number of instances, and instances with their account.
    _ACCOUNTS: str
    _INSTANCES: str
    _STUDY: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Close it."""

    @abc.abstractmethod
    def runs(self) -> list[RunRecord]:
        """All runs that wrote into the ledger, in order."""

    @abc.abstractmethod
    def count_rows(self) -> int:
        """About how many rows there are; takes no time, however many."""

    @abc.abstractmethod
    def committed(self) -> int | None:
        """The number of stored instances that the peer has committed to keep; None if it was never asked to."""

    @abc.abstractmethod
    def by_commitment(self) -> list[CommitmentCount]:
        """The stored instances by what the peer commits to, largest first; [] if it was never asked to commit."""

    @abc.abstractmethod
    def _rows(self, where: str, values: Sequence[object]) -> Iterator[LedgerRow]:
        """The rows of the view `instances` for which a condition holds."""

    @abc.abstractmethod
    def _all(self, convert: Callable[..., Converted], query: str, *values: object) -> list[Converted]:
        """The rows of a query, in which each value is a question mark."""

    def by_state(self) -> list[StateCount]:
        """The number of instances in each state, largest first."""
        counted = "SELECT a.state, sum(a.instances), sum(a.bytes_sent)"
        query = f"{counted} FROM {self._ACCOUNTS} GROUP BY a.state ORDER BY 2 DESC, 1"
        return self._all(_state_count, query)

    def by_status(self) -> dict[int, int]:
        """The number of instances for each status that was the peer's last answer."""
        query = f"SELECT a.status, sum(a.instances) FROM {self._ACCOUNTS} WHERE a.status >= 0 GROUP BY 1 ORDER BY 1"
        return dict(self._all(_status_count, query))

    def by_reason(self, limit: int = -1) -> list[ReasonCount]:
        """The reasons why instances are not stored, or stored with a warning; most frequent first."""
        query = (
            f"SELECT a.state, a.status, a.reason, sum(a.instances) FROM {self._ACCOUNTS} "
            "WHERE a.state != ? GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3"
        )
        return self._all(reason_count, query, State.STORED.value)[: None if limit < 0 else limit]

    def by_change(self) -> list[ChangeCount]:
        """How the stored instances were changed on the way; most frequent first."""
        where = f"WHERE a.changes != '' AND a.state IN {marks(STORED)}"
        query = f"SELECT a.changes, sum(a.instances) FROM {self._ACCOUNTS} {where} GROUP BY 1"
        counts: collections.Counter[str] = collections.Counter()
        for changes, count in self._all(_changes_count, query, *STORED):
            counts.update(dict.fromkeys(changes, count))
        return [ChangeCount(change, count) for change, count in counts.most_common()]

    def has_studies(self) -> bool:
        """Whether the study of any instance is known; to count them takes five times as long."""
        return bool(self._all(int, f"SELECT 1 FROM {self._INSTANCES} WHERE {self._STUDY} != '' LIMIT 1"))

    def by_study(self) -> Iterator[StudyCount]:
        """The instances found, stored, failed and left in each study."""
        settled = [*STORED, State.DUPLICATE, *FAILED]
        query = (
            f"SELECT {self._STUDY}, count(*), count(*) FILTER (WHERE a.state IN {marks(STORED)}), "
            f"count(*) FILTER (WHERE a.state IN {marks(FAILED)}), "
            f"count(*) FILTER (WHERE a.state NOT IN {marks(settled)}), "
            f"min(i.recorded_at), max(i.recorded_at) FROM {self._INSTANCES} "
            "WHERE i.sop_instance_uid != '' GROUP BY 1"
        )
        yield from self._all(_study_count, query, *STORED, *FAILED, *settled)

    def stored_over_time(self, parts: int) -> StoredOverTime | None:
        """What was stored when, in at most so many parts of at least a second; None if nothing was."""
        where = f"FROM {self._INSTANCES} WHERE a.state IN {marks(STORED)}"
        span = self._all(
            _pair, f"SELECT coalesce(min(i.recorded_at), -1), coalesce(max(i.recorded_at), -1) {where}", *STORED
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
        return StoredOverTime(time_of(first), part_ms / 1000, counts)

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
        first = {run.number: _milliseconds(run.refused_at) for run in self.runs() if run.refused_at is not None}
        query = f"SELECT a.run, min(i.recorded_at) FROM {self._INSTANCES} WHERE {_REFUSED} GROUP BY a.run"
        for number, recorded_at in self._all(_pair, query):
            first[number] = min(first.get(number, recorded_at), recorded_at)
        where = f"run = ? AND recorded_at BETWEEN ? AND ? AND state IN {marks(STORED)}"
        return [(where, [number, at - _DOUBTFUL_MS, at, *STORED]) for number, at in sorted(first.items())]

    def rows(self, states: Collection[State] | None = None) -> Iterator[LedgerRow]:
        """All rows, or those in some states, in the order in which they were first recorded."""
        wanted = sorted(State if states is None else states)
        return self._rows(f"state IN {marks(wanted)}", wanted)


def run_of(
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
    """A run; one that has not ended looks like a killed one."""
    if ended is None:
        state = RunState.KILLED
    elif checked(stopped, str | None) is None:
        state = RunState.ENDED
    else:
        state = RunState.STOPPED_EARLY if stopped else RunState.FINISHED
    return RunRecord(
        number=number,
        state=state,
        started_at=time_of(begun),
        finished_at=None if ended is None else time_of(ended),
        pid=checked(pid, int),
        host=checked(host, str),
        options=checked(json.loads(options), dict),
        scan_finished=None if scan_finished is None else bool(checked(scan_finished, int)),
        stopped=stopped,
        refused_at=None if refused is None else time_of(refused),
    )


def _pair(number: int, recorded_at: int) -> tuple[int, int]:
    return checked(number, int), checked(recorded_at, int)


def _state_count(state: str, count: int, bytes_sent: int) -> StateCount:
    return StateCount(State(state), count, checked(bytes_sent, int))


def _status_count(status: int, count: int) -> tuple[int, int]:
    return checked(status_value(status), int), count


def reason_count(state: str, status: int | None, reason: str, count: int) -> ReasonCount:
    """A number of instances with the same state, status and reason."""
    return ReasonCount(State(state), status_value(status), checked(reason, str), count)


def _changes_count(changes: str, count: int) -> tuple[list[str], int]:
    return changes.split("\n"), count


def _triple(part: int, instances: int, bytes_sent: int) -> tuple[int, int, int]:
    return checked(part, int), instances, checked(bytes_sent, int)


def _study_count(uid: bytes | str, found: int, stored: int, failed: int, left: int, *span: int) -> StudyCount:
    first, last = map(time_of, span)
    return StudyCount(unpack_uid(uid) or None, found, stored, failed, left, first, last)


def row_of(columns: Sequence[Any], *, has_commitments: bool = False, answer: int | None = None) -> LedgerRow:
    """A row of the view `instances`, and the answer of storage commitment to it."""
    values = dict(zip(COLUMNS, columns, strict=True))
    path, offending = values["path"], values["offending_elements"]
    values["path"] = None if path is None else os.fsdecode(path)
    values["state"] = State(values["state"])
    values["reason"] = values["reason"] or ""
    values["comment"] = values["comment"] or ""
    values["offending_elements"] = struct.unpack(f">{len(offending) // 4}I", offending)
    values["retryable"] = bool(values["retryable"])
    values["set_aside"] = bool(values["set_aside"])
    values["changes"] = tuple(checked(values["changes"] or "", str).splitlines())
    values["recorded_at"] = time_of(values["recorded_at"])
    values["status"] = status_value(values["status"])
    is_asked_for = has_commitments and values["state"] in STORED
    told = commitment_of(checked(answer, int | None)) if is_asked_for else (None, None)
    values.update(zip(_OF_THE_ANSWER, told, strict=True))
    for name, kind in _CHECKED:
        checked(values[name], kind)
    return LedgerRow(**values)


def time_of(milliseconds: int) -> datetime.datetime:
    """A time as a ledger keeps it."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)


def _milliseconds(time: datetime.datetime) -> int:
    return round(time.timestamp() * 1000)


def marks(values: Collection[object]) -> str:
    """A question mark for each value, as a query has them."""
    return f"({', '.join('?' * len(values))})"
