"""The ledger of one host in a PostgreSQL database.

The server may restart, or be out for a while: then nothing new is sent, what is in flight is finished and kept in
memory, and it goes on when the server is back. After `_AWAY_SECONDS` it ends with an error.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import LedgerError
from asyncstore.ledger.buffered import COMMIT_OUTCOMES, BufferedLedger
from asyncstore.ledger.hashes import EveryHash, HashFilter, hash_of_uid
from asyncstore.ledger.packing import one_line, uid_of_bytes
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import WRITER_SETTINGS, Database
from asyncstore.ledger.postgresql.lookup import PostgresLookup
from asyncstore.ledger.postgresql.places import Places
from asyncstore.ledger.postgresql.writer import Claim, FenceLost, RowWriter, server_text
from asyncstore.ledger.protocol import STORED
from asyncstore.ledger.settling import check_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import asyncpg

    from asyncstore.ledger.buffered import Entry, Store

ONE_HOST: Final = ""
"""The name of the migration of storescu, and of its root."""

_AWAY_SECONDS: Final = 600.0
# To read the UIDs of this many takes three seconds; beyond it, each UID is looked up before its instance is sent.
_UIDS_IN_MEMORY: Final = 2_000_000
_ROWS_AT_ONCE: Final = 20_000

_MIGRATION: Final = """
INSERT INTO migration (name, destination, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING"""
_BEGIN_RUN: Final = """
INSERT INTO worker (migration, pid, host, options, started_at) VALUES ($1, $2, $3, $4::text::jsonb, $5) RETURNING id"""
_CLAIM: Final = "UPDATE batch SET epoch = epoch + 1, worker = $2 WHERE id = $1 RETURNING epoch"
_COUNT: Final = """
SELECT coalesce(sum(instances), 0)::bigint FROM account JOIN worker w ON w.id = run WHERE migration = $1"""
_LAST_OPTIONS: Final = """
SELECT options::text FROM worker WHERE migration = $1 AND EXISTS (
    SELECT 1 FROM account JOIN worker w ON w.id = run WHERE w.migration = $1 AND instances > 0)
ORDER BY id DESC LIMIT 1"""
NOW_MS: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_UIDS: Final = """
SELECT i.sop_instance_uid FROM instance i
JOIN directory d ON d.id = i.directory JOIN account a ON a.id = i.account
WHERE d.root = $1 AND a.state = ANY($2::text[])"""
HOLDER: Final = """
SELECT w.pid, w.host, w.started_at FROM batch b JOIN worker w ON w.id = b.worker JOIN pg_locks l
ON l.locktype = 'advisory' AND l.classid = $2 AND l.objid = w.id::oid AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE b.id = $1"""


def check_destination(shown: str, owner: str, destination: str) -> None:
    """Raise LedgerError if the ledger is for another destination."""
    if owner != destination:
        raise LedgerError(
            f"the ledger {shown!r} belongs to {one_line(owner)}, not to {destination}: use another database"
        )


async def check_rules(connection: asyncpg.Connection, record: str, migration: int, options: str) -> None:
    """Raise LedgerError if what is stored was changed by other rules than those in the options of a run."""
    check_changes(record, await connection.fetchval(_LAST_OPTIONS, migration), options)


async def begin_run(connection: asyncpg.Connection, migration: int, options: str, now_ms: int) -> int:
    """Note that this process writes into a migration, and return its number."""
    values = migration, os.getpid(), socket.gethostname(), options, now_ms
    return int(await connection.fetchval(_BEGIN_RUN, *values))


async def hold_run(connection: asyncpg.Connection, run: int) -> None:
    """Have the database know that a run goes on, for as long as the connection lasts."""
    await connection.execute("SELECT pg_advisory_lock($1, $2)", schema.LOCKS, run)


class PostgresStore:
    """The rows of one run, and how they are written."""

    def __init__(self, database: Database, destination: str, options: str, working_directory: str) -> None:
        self._database = database
        self._destination = destination
        self._options = options
        self._working_directory = working_directory
        self.places: Places
        self._writer: RowWriter
        self.was_empty: bool = True
        self.uids: HashFilter = HashFilter(0)
        self.root: int = 0

    def begin(self, now_ms: int, *, is_own_clock: bool) -> None:
        """Claim the ledger, note the run, and read what earlier runs have left."""
        self._database.run(lambda connection: self._begin(connection, now_ms, is_own_clock), "opened", seconds=300.0)
        self._database.greet = self._hold

    async def _begin(self, connection: asyncpg.Connection, now_ms: int, is_own_clock: bool) -> None:
        shift_ms = 0 if is_own_clock else await connection.fetchval(NOW_MS) - now_ms
        await schema.prepare(connection, self._database.shown)
        async with connection.transaction():
            await schema.lock_schema(connection)
            migration, batch = await self._own_batch(connection, now_ms + shift_ms)
            await self._check_free(connection, batch)
            await check_rules(connection, f"the ledger {self._database.shown!r}", migration, self._options)
            run = await begin_run(connection, migration, self._options, now_ms + shift_ms)
            epoch = await connection.fetchval(_CLAIM, batch, run)
            claim = Claim(run, self.root, batch, epoch)
            self.places = Places(self.root, {self.root: ""}, self._working_directory)
            self._writer = RowWriter(claim, self.places, shift_ms=shift_ms)
            await self._hold(connection)
        count = await connection.fetchval(_COUNT, migration)
        self.was_empty = count == 0
        if count:
            self.uids = await self._recorded_uids(connection, count)

    async def _own_batch(self, connection: asyncpg.Connection, now_ms: int) -> tuple[int, int]:
        """The migration and the batch of storescu; they are made if this is the first run."""
        await connection.execute(_MIGRATION, ONE_HOST, self._destination, now_ms)
        query = "SELECT id, destination FROM migration WHERE name = $1"
        migration, owner = await connection.fetchrow(query, ONE_HOST)
        check_destination(self._database.shown, owner, self._destination)
        new_root = "INSERT INTO root (migration, name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id"
        new = await connection.fetchval(new_root, migration, ONE_HOST)
        if new is not None:
            await connection.execute("INSERT INTO batch (root) VALUES ($1)", new)
        query = "SELECT r.id, b.id FROM root r JOIN batch b ON b.root = r.id WHERE r.migration = $1 AND r.name = $2"
        self.root, batch = await connection.fetchrow(query, migration, ONE_HOST)
        return migration, batch

    async def _check_free(self, connection: asyncpg.Connection, batch: int) -> None:
        holder = await connection.fetchrow(HOLDER, batch, schema.LOCKS)
        if holder is not None:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(holder["started_at"] / 1000))
            raise LedgerError(
                f"the ledger {self._database.shown!r} is in use by process {holder['pid']} on "
                f"{one_line(holder['host'])} since {since}"
            )

    async def _hold(self, connection: asyncpg.Connection) -> None:
        """Have the database know that this run goes on, for as long as the connection lasts."""
        await hold_run(connection, self._writer.claim.run)

    async def _recorded_uids(self, connection: asyncpg.Connection, count: int) -> HashFilter:
        if count > _UIDS_IN_MEMORY:
            return EveryHash(0)
        uids = HashFilter(count)
        async with connection.transaction():
            cursor = connection.cursor(_UIDS, self.root, sorted(STORED), prefetch=_ROWS_AT_ONCE)
            async for (uid,) in cursor:
                uids.add(hash_of_uid(uid_of_bytes(uid)))
        return uids

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit outcomes: all of them, or none if it raises; what is stored, if the ledger was taken over."""
        try:
            self._database.run(lambda connection: self._writer.write(connection, entries))
        except FenceLost as error:
            raise LedgerError("another run has taken it over, while the database could not be reached") from error

    def after_write(self) -> None:
        """Nothing to do."""

    def settle(self) -> None:
        """Nothing to do: what is committed is on the disk."""

    def note_refusal(self, refused_ms: int) -> None:
        """Write when the peer was first out of resources in this run."""
        self._update("refused_at = $2", refused_ms)

    def end(self, finished_ms: int, scan_finished: bool | None, stopped: str | None) -> None:
        """Write how the run ended."""
        text = None if stopped is None else server_text(stopped)
        self._update("finished_at = $2, scan_finished = $3, stopped = $4", finished_ms, scan_finished, text)

    def _update(self, what: str, *values: object) -> None:
        run = self._writer.claim.run
        self._database.run(
            lambda connection: connection.execute(f"UPDATE worker SET {what} WHERE id = $1", run, *values)
        )

    def close(self) -> None:
        """Close the connection; what it held is free then."""
        self._database.close()


class PostgresLedger(BufferedLedger):
    """The durable record of a migration from one host, in PostgreSQL: `Transfer(..., ledger="postgresql://...")`.

    `dsn` is a URI of libpq. A password comes from PGPASSFILE or from a service file, TLS is as its sslmode says. The
    tables are made on first use, in the schema `asyncstore`. See `SqliteLedger` for the other arguments.
    """

    _away_seconds: float = _AWAY_SECONDS
    _most_outcomes: int = 8 * COMMIT_OUTCOMES

    def __init__(
        self,
        dsn: str,
        *,
        destination: str,
        options: Mapping[str, Any] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._writing = Database(dsn, "ledger", WRITER_SETTINGS)
        self._reading = Database(dsn, "look-ups", patience_seconds=_AWAY_SECONDS)
        super().__init__(self._writing.shown, options=options, clock=clock or time.time)
        self._is_own_clock = clock is not None
        self._destination = destination
        self._lookup: PostgresLookup | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """It is not in files."""
        return ()

    @property
    def _lookups(self) -> PostgresLookup:
        assert self._lookup is not None, "the ledger is not open"
        return self._lookup

    def _prepare(self) -> None:
        """Nothing to do: opening locks it."""

    def _unlock(self) -> None:
        """Nothing to do: closing the connection unlocks it."""

    def _open_store(self) -> PostgresStore:
        store = PostgresStore(self._writing, self._destination, self._options, self._working_directory)
        try:
            store.begin(self._now_ms(), is_own_clock=self._is_own_clock)
        except BaseException:
            store.close()
            raise
        return store

    def _begin_lookups(self, store: Store) -> None:
        assert isinstance(store, PostgresStore), "it is the one that was opened"
        self._lookup = PostgresLookup(self._reading, store.places, self._uncommitted)

    def _end_lookups(self) -> None:
        if self._lookup is not None:
            self._lookup.close()
