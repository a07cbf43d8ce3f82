"""Walks the roots of a migration and records batches, together with every other host that does the same.

A host walks some ten batches of a tree, and leaves the rest in parts to whichever comes first. Doing it again adds
what is new, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Final

from asyncstore.cluster import claims, engine, tables
from asyncstore.cluster.tree import check_sentinel, sentinel_of
from asyncstore.cluster.walking import Progress, Walk
from asyncstore.ledger.packing import without_password
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import connect, driver_errors, ledger_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from asyncstore.cluster.tables import Root, Totals
    from asyncstore.cluster.walking import Action

_AT_ONCE: Final = 4
# A walker without work asks 20 times a second whether all is walked, and so often queues what the queue has lost.
_REFILLED_EACH: Final = 20
# Who has a part of the walk need not be on the disk at once: what is open stands in the tables.
_QUEUE_SETTINGS: Final = {"synchronous_commit": "off"}
_ERRORS: Final = driver_errors()


async def enqueue(
    dsn: str,
    migration: str,
    destination: str,
    mounts: Mapping[str, str],
    *,
    cap: int | None = None,
    timeout_seconds: int | None = None,
    progress: Progress | None = None,
) -> Totals:
    """Walk these roots, each at its path on this host, until every directory is in a batch, and every batch queued.

    `cap` limits the associations of all workers together, and a worker that is not heard of for `timeout_seconds` is
    taken for dead. Raises SourceError if a root is not there, LedgerError if the database cannot be used, or a worker
    runs and has another timeout.
    """
    shown = without_password(dsn)
    try:
        async with contextlib.AsyncExitStack() as stack:
            asking, adding = [await _connected(stack, dsn) for _ in range(2)]
            queue = await _connected(stack, dsn, _QUEUE_SETTINGS)
            number, roots = await _begin(asking, shown, migration, destination, mounts)
            if cap is not None:
                await tables.set_cap(asking, number, cap)
            if timeout_seconds is not None:
                await tables.set_timeout(asking, number, timeout_seconds, shown)
            await _walk(asking, adding, queue, {root: mounts[root.name] for root in roots}, progress or Progress())
            await claims.refill(asking, number)
            return await tables.totals(asking, number)
    except _ERRORS as error:
        raise ledger_error(error, shown, "used") from error
    except ExceptionGroup as group:  # of the engine's tasks
        first = _first_of(group)
        if isinstance(first, _ERRORS):
            raise ledger_error(first, shown, "used") from group
        raise first from group


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _connected(
    stack: contextlib.AsyncExitStack, dsn: str, settings: dict[str, str] | None = None
) -> asyncpg.Connection:
    connection = await connect(dsn, "enqueue", settings)
    stack.callback(connection.terminate)
    return connection


async def _begin(
    connection: asyncpg.Connection, shown: str, migration: str, destination: str, mounts: Mapping[str, str]
) -> tuple[int, list[Root]]:
    sentinels = {name: await asyncio.to_thread(sentinel_of, mount) for name, mount in mounts.items()}
    await schema.prepare(connection, shown)
    async with connection.transaction():
        await schema.lock_schema(connection)
        await engine.install(connection)
        number = await tables.begin_migration(connection, migration, destination, shown)
        roots = [await tables.begin_root(connection, number, name, sentinels[name]) for name in mounts]
        for root in roots:
            await asyncio.to_thread(check_sentinel, mounts[root.name], root.sentinel)
            await tables.forget_scans(connection, root)
            await tables.open_scans(connection, root, [b""])
    return number, roots


async def _walk(
    asking: asyncpg.Connection,
    adding: asyncpg.Connection,
    queue: asyncpg.Connection,
    mounts: Mapping[Root, str],
    progress: Progress,
) -> None:
    """Walk, with every other host that does, until nothing is left to be walked."""
    turn = asyncio.Lock()

    async def run(action: Action) -> None:
        async with turn, adding.transaction():
            await action(adding)

    walks = [Walk(run, root, mount, progress) for root, mount in mounts.items()]

    idle = itertools.count()

    async def is_done() -> bool:
        if any(walk.failure for walk in walks):
            return True
        if any(walk.at_work for walk in walks):
            return False
        if await tables.are_walked(asking, list(mounts)):
            return True
        if next(idle) % _REFILLED_EACH == 0:
            await tables.refill_scans(asking, list(mounts))
        return False

    names = {engine.scan_name(walk.root.migration, walk.root.name): walk.perform for walk in walks}
    await engine.run_scans(queue, names, is_done, at_once=_AT_ONCE)
    for walk in walks:
        if walk.failure is not None:
            raise walk.failure
