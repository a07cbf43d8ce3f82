"""Walks the roots of a migration and records batches, together with every other host that does the same.

The upper levels of a root are walked a directory at a time, so that many hosts share them; below, each walks whole
subtrees. Doing it again adds what is new, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

from asyncstore.cluster import engine, tables
from asyncstore.cluster.batches import batches_of
from asyncstore.cluster.tree import check_sentinel, listing_of, listings_below, sentinel_of
from asyncstore.ledger.packing import without_password
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from asyncstore.cluster.batches import Directory
    from asyncstore.cluster.tables import Root, Totals

_SHARED_LEVELS: Final = 2
_AT_ONCE: Final = 4
# Directories of one transaction; a subtree may have millions.
_DIRECTORIES_AT_ONCE: Final = 2000


async def enqueue(dsn: str, migration: str, destination: str, mounts: Mapping[str, str]) -> Totals:
    """Walk these roots, each at its path on this host, until every directory is in a batch.

    Raises SourceError if a root is not there, LedgerError or an error of asyncpg if the database cannot be used.
    """
    connections = [await connect(dsn, "enqueue") for _ in range(3)]
    asking, adding, queue = connections
    try:
        number, roots = await _begin(asking, dsn, migration, destination, mounts)
        turn = asyncio.Lock()
        walks = [_Walk(adding, root, mounts[root.name], turn) for root in roots]

        async def is_done() -> bool:
            if any(walk.failure for walk in walks):
                return True
            return not any([await tables.refill_scans(asking, root) for root in roots])

        names = {engine.scan_name(number, walk.root.name): walk.perform for walk in walks}
        await engine.run_scans(queue, names, is_done, at_once=_AT_ONCE)
        for walk in walks:
            if walk.failure is not None:
                raise walk.failure
        return await tables.totals(asking, number)
    finally:
        for connection in connections:
            await connection.close()


async def _begin(
    connection: asyncpg.Connection, dsn: str, migration: str, destination: str, mounts: Mapping[str, str]
) -> tuple[int, list[Root]]:
    shown = without_password(dsn)
    sentinels = {name: await asyncio.to_thread(sentinel_of, mount) for name, mount in mounts.items()}
    await schema.prepare(connection, shown)
    async with connection.transaction():
        await schema.lock_schema(connection)
        await engine.install(connection)
        number = await tables.begin_migration(connection, migration, destination, shown)
        roots = [await tables.begin_root(connection, number, name, sentinels[name]) for name in mounts]
        for root in roots:
            await asyncio.to_thread(check_sentinel, mounts[root.name], root.sentinel)
            await tables.open_scans(connection, root, [b""])
    return number, roots


class _Walk:
    """Walks directories of one root, in a thread, and adds what it finds. `failure` is what kept it from that."""

    def __init__(self, connection: asyncpg.Connection, root: Root, mount: str, turn: asyncio.Lock) -> None:
        self._connection = connection
        self.root = root
        self.failure: Exception | None = None
        self._mount = mount
        self._turn = turn  # of the connection

    async def perform(self, path: bytes) -> None:
        """Walk one directory: its files if it is of an upper level, whose subdirectories are queued; else all of it."""
        try:
            if path.count(b"/") < _SHARED_LEVELS:
                await self._walk_one(path)
            else:
                await self._walk_all(path)
        except Exception as error:
            self.failure = error
            raise

    async def _walk_one(self, path: bytes) -> None:
        listing = await asyncio.to_thread(listing_of, self._mount, path)
        async with self._turn, self._connection.transaction():
            await tables.add_batches(self._connection, self.root, list(batches_of([listing.directory])))
            if listing.subdirectories:
                await tables.open_scans(self._connection, self.root, listing.subdirectories)
            await tables.end_scan(self._connection, self.root, path, listing.problems)

    async def _walk_all(self, path: bytes) -> None:
        listings = listings_below(self._mount, path)
        problems: list[str] = []
        while found := await asyncio.to_thread(lambda: list(itertools.islice(listings, _DIRECTORIES_AT_ONCE))):
            problems += [problem for listing in found for problem in listing.problems]
            directories: list[Directory] = [listing.directory for listing in found]
            async with self._turn, self._connection.transaction():
                await tables.add_batches(self._connection, self.root, list(batches_of(directories)))
        async with self._turn:
            await tables.end_scan(self._connection, self.root, path, problems)
