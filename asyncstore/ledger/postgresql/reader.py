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

    See `LedgerReader`. `migration` is the name of one of many hosts; without it, it reads what storescu has recorded,
    or the only migration if there is one. Nothing is written, so a role that may only read is enough.
    """

    def __init__(self, dsn: str, migration: str | None = None) -> None:
        self._database = Database(dsn, "report")
        self.path: str = self._database.shown
        self.migration: str = ""
        self.number: int = 0
        self.schema_version: int = schema.SCHEMA_VERSION
        try:
            self._database.run(self._check, "read")
            self._find(migration)
        except BaseException:
            self._database.close()
            raise

    async def _check(self, connection: asyncpg.Connection) -> None:
        if not await schema.is_there(connection, self.path):
            raise LedgerError(f"there is no ledger and no migration in {self.path!r} yet")

    def _find(self, name: str | None) -> None:
        query = "SELECT name, id, destination, created_at FROM migration ORDER BY name"
        every = self._all(_migration, query)
        found = [each for each in every if name in (None, each[0])]
        if not found or (len(found) > 1 and found[0][0]):  # that of storescu has no name, and comes first
            names = ", ".join(one_line(each[0]) for each in every if each[0]) or "none"
            which = "more than one migration: name one" if found else f"no migration {one_line(name or '')!r}"
            raise LedgerError(f"the database {self.path!r} has {which} (it has {names})")
        self.migration, self.number, destination, created_at = found[0]
        self.destination: str = destination
        self.created_at: datetime.datetime = time_of(created_at)
        runs = f"(SELECT id FROM worker WHERE migration = {self.number})"
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
        running = self.running()
        query = f"SELECT {columns} FROM worker WHERE migration = ? ORDER BY id"
        return [
            dataclasses.replace(run, state=RunState.RUNNING)
            if run.state is RunState.KILLED and run.number in running
            else run
            for run in self._all(run_of, query, self.number)
        ]

    def running(self) -> set[int]:
        """The numbers of the runs that go on."""
        return set(self._all(int, _RUNNING, schema.LOCKS))

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
        while rows := self._all(_keyed_row, query, self.number, *last, *values):
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


def _migration(name: str, number: int, destination: str, created_at: int) -> tuple[str, int, str, int]:
    return name, number, checked(destination, str), created_at


def _keyed_row(directory: int, name: bytes, *columns: Any) -> tuple[tuple[int, bytes], LedgerRow]:
    return (directory, name), row_of(columns)
