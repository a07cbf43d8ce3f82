"""Walks the roots of a migration and records batches, together with every other host that does the same.

The upper levels of a root are walked a directory at a time, so that many hosts share them; below, each walks whole
subtrees. Doing it again adds what is new, and nothing else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from asyncstore.cluster import engine, tables
from asyncstore.cluster.tree import check_sentinel, sentinel_of
from asyncstore.cluster.walking import Walk
from asyncstore.ledger.packing import without_password
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import asyncpg

    from asyncstore.cluster.tables import Root, Totals

_AT_ONCE: Final = 4


async def enqueue(dsn: str, migration: str, destination: str, mounts: Mapping[str, str]) -> Totals:
    """Walk these roots, each at its path on this host, until every directory is in a batch.

    Raises SourceError if a root is not there, LedgerError or an error of asyncpg if the database cannot be used.
    """
    connections = [await connect(dsn, "enqueue") for _ in range(3)]
    asking, adding, queue = connections
    try:
        number, roots = await _begin(asking, dsn, migration, destination, mounts)
        failures: list[Exception] = []
        run = _in_turn(adding)
        walks = [Walk(run, root, mounts[root.name]) for root in roots]

        async def is_done() -> bool:
            return bool(failures) or not any([await tables.refill_scans(asking, root) for root in roots])

        names = {engine.scan_name(number, walk.root.name): _noting(walk.perform, failures) for walk in walks}
        await engine.run_scans(queue, names, is_done, at_once=_AT_ONCE)
        if failures:
            raise failures[0]
        return await tables.totals(asking, number)
    finally:
        for connection in connections:
            await connection.close()


def _in_turn(
    connection: asyncpg.Connection,
) -> Callable[[Callable[[asyncpg.Connection], Awaitable[Any]]], Awaitable[Any]]:
    """What has one thing after another done with a connection, each in a transaction."""
    turn = asyncio.Lock()

    async def run(action: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        async with turn, connection.transaction():
            return await action(connection)

    return run


def _noting(
    perform: Callable[[bytes], Awaitable[None]], failures: list[Exception]
) -> Callable[[bytes], Awaitable[None]]:
    """The same, which notes what kept it from its work."""

    async def noted(path: bytes) -> None:
        try:
            await perform(path)
        except Exception as error:
            failures.append(error)
            raise

    return noted


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
