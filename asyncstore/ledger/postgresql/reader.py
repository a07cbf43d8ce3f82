"""Reads a ledger in PostgreSQL, even while a run is writing it."""

from __future__ import annotations

import dataclasses
import decimal
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import LedgerError
from asyncstore.ledger.packing import checked, one_line
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import Database
from asyncstore.ledger.reading import COLUMNS, Converted, RecordReader, row_of, run_of, time_of
from asyncstore.ledger.rows import RunState

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterator, Sequence

    import asyncpg

    from asyncstore.ledger.rows import CommitmentCount, LedgerRow, RunRecord

_ROWS_AT_ONCE: Final = 2000
_READ_SECONDS: Final = 600.0
_RUNNING: Final = """
SELECT l.objid::bigint FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid::bigint = ? AND l.objid <> 0
AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


class PostgresReader(RecordReader):
    """Reads the ledger in the database of a DSN: `with PostgresReader("postgresql://...") as ledger: ...`.

    See `LedgerReader`. Nothing is written, so a role that may only read is enough.
    """

    def __init__(self, dsn: str, migration: str = "") -> None:
        self._database = Database(dsn, "report")
        self.path: str = self._database.shown
        self.schema_version: int = schema.SCHEMA_VERSION
        try:
            self._database.run(self._check, "read")
            self._find(migration)
        except BaseException:
            self._database.close()
            raise

    async def _check(self, connection: asyncpg.Connection) -> None:
        if not await schema.is_there(connection, self.path):
            raise LedgerError(f"there is no ledger in {self.path!r} yet")

    def _find(self, name: str) -> None:
        query = "SELECT id, destination, created_at FROM migration WHERE name = ?"
        found = self._all(_migration, query, name)
        if not found:
            raise LedgerError(f"the ledger {self.path!r} has no migration {one_line(name)!r}")
        self._migration, destination, created_at = found[0]
        self.destination: str = destination
        self.created_at: datetime.datetime = time_of(created_at)
        runs = f"(SELECT id FROM worker WHERE migration = {self._migration})"
        accounts = f"(SELECT * FROM account WHERE run IN {runs} AND instances <> 0) a"
        self._ACCOUNTS: str = accounts
        self._INSTANCES: str = f"{accounts} JOIN instance i ON i.account = a.id LEFT JOIN series s ON s.id = i.series"
        self._STUDY: str = "coalesce(s.study_instance_uid, '')"

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def runs(self) -> list[RunRecord]:
        """All runs that wrote into the ledger, in order."""
        columns = "id, started_at, finished_at, pid, host, options::text, scan_finished::int, stopped, refused_at"
        # First the locks: a run writes its end before it lets go of its lock.
        running = set(self._all(int, _RUNNING, schema.LOCKS))
        query = f"SELECT {columns} FROM worker WHERE migration = ? ORDER BY id"
        return [
            dataclasses.replace(run, state=RunState.RUNNING)
            if run.state is RunState.KILLED and run.number in running
            else run
            for run in self._all(run_of, query, self._migration)
        ]

    def count_rows(self) -> int:
        """How many rows there are; takes no time, however many."""
        return self._all(int, f"SELECT coalesce(sum(a.instances), 0) FROM {self._ACCOUNTS}")[0]

    def by_commitment(self) -> list[CommitmentCount]:
        """[]: storage commitment is not recorded in PostgreSQL."""
        return []

    def committed(self) -> int | None:
        """None: storage commitment is not recorded in PostgreSQL."""
        return None

    def _rows(self, where: str, values: Sequence[object]) -> Iterator[LedgerRow]:
        columns = ", ".join(COLUMNS)
        query = (
            f"SELECT directory, name, {columns} FROM instances WHERE migration = ? AND (directory, name) > (?, ?) "
            f"AND {where} ORDER BY directory, name LIMIT {_ROWS_AT_ONCE}"
        )
        last: tuple[int, bytes] = (0, b"")
        while rows := self._all(_keyed_row, query, self._migration, *last, *values):
            yield from (row for _, row in rows)
            last = rows[-1][0]

    def _all(self, convert: Callable[..., Converted], query: str, *values: object) -> list[Converted]:
        first, *others = query.split("?")
        numbered = first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))
        found = self._database.run(
            lambda connection: connection.fetch(numbered, *values), "read", seconds=_READ_SECONDS
        )
        return [convert(*map(_plain, row)) for row in found]


def _plain(value: Any) -> Any:
    """A sum of large numbers is a decimal one."""
    return int(value) if isinstance(value, decimal.Decimal) else value


def _migration(number: int, destination: str, created_at: int) -> tuple[int, str, int]:
    return number, checked(destination, str), created_at


def _keyed_row(directory: int, name: bytes, *columns: Any) -> tuple[tuple[int, bytes], LedgerRow]:
    return (directory, name), row_of(columns)
