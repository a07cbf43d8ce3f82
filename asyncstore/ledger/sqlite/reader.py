"""Reads a ledger in an SQLite file, even while a run is writing it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any, Final

from asyncstore.ledger.packing import checked, ledger_path
from asyncstore.ledger.reading import COLUMNS, Converted, RecordReader, row_of, run_of, time_of
from asyncstore.ledger.rows import Commitment, CommitmentCount, LedgerRow, RunRecord, RunState, commitment_of
from asyncstore.ledger.sqlite.commitments import ANSWER_OF_ROW, NO_ANSWER_OF_ROW, count_answers, has_commitments
from asyncstore.ledger.sqlite.file import ledger_errors, open_to_read
from asyncstore.ledger.sqlite.lock import holder_of

if TYPE_CHECKING:
    import datetime
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

# Rows are read in batches of this size, with nothing held open in between: a slow reader must not make the WAL grow.
_ROWS_AT_ONCE: Final = 2000


class LedgerReader(RecordReader):
    """Reads a ledger, even while a run is writing it: `with LedgerReader(path) as ledger: ledger.by_state()`.

    `path` is its file, `destination` the peer that it is for, as AE@host:port. `created_at` is when it was begun,
    `schema_version` the number of its schema.

    Blocks. The constructor and all methods may raise LedgerError. While a run is writing, each result is a snapshot;
    two results may be from different moments.
    """

    _INSTANCES: str = "instance i JOIN account a ON a.id = i.account"
    _ACCOUNTS: str = f"""(
        SELECT a.state, a.status, a.reason, a.changes, count(*) AS instances, sum(i.bytes_sent) AS bytes_sent
        FROM {_INSTANCES} GROUP BY a.id) a"""
    _STUDY: str = "i.study_instance_uid"

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        self.path: str = ledger_path(os.fsdecode(path), os.getcwd())
        self._connection = open_to_read(self.path)
        with ledger_errors(self.path, "read"), contextlib.ExitStack() as stack:
            stack.callback(self._connection.close)
            destination, created_at = self._connection.execute("SELECT destination, created_at FROM ledger").fetchone()
            self.schema_version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
            self.destination: str = checked(destination, str)
            self.created_at: datetime.datetime = time_of(created_at)
            stack.pop_all()

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
        return self._all(run_of, f"SELECT {columns} FROM run ORDER BY id")

    def count_rows(self) -> int:
        """About how many rows there are; takes no time, however many."""
        return self._all(int, "SELECT coalesce(max(id), 0) FROM instance")[0]

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

    def _rows(self, where: str, values: Sequence[object]) -> Iterator[LedgerRow]:
        has_commitments = self._has_commitments()
        columns = ", ".join([*COLUMNS, ANSWER_OF_ROW if has_commitments else NO_ANSWER_OF_ROW])
        query = f"SELECT id, {columns} FROM instances WHERE id > ? AND {where} ORDER BY id LIMIT {_ROWS_AT_ONCE}"
        last = 0
        convert = functools.partial(_numbered_row, has_commitments)
        while rows := self._all(convert, query, last, *values):
            yield from (row for _, row in rows)
            with ledger_errors(self.path, "read"):
                if rows[-1][0] <= last:  # the loop would never end
                    raise ValueError("the rows are in no order")
            last = rows[-1][0]

    def _all(self, convert: Callable[..., Converted], query: str, *values: object) -> list[Converted]:
        with ledger_errors(self.path, "read"):
            connection: sqlite3.Connection = self._connection
            return [convert(*row) for row in connection.execute(query, values).fetchall()]


def _numbered_row(has_commitments: bool, number: int, *columns: Any) -> tuple[int, LedgerRow]:
    *columns_of_view, answer = columns
    return number, row_of(columns_of_view, has_commitments=has_commitments, answer=answer)
