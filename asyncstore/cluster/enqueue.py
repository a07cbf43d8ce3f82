"""Walks the roots of a migration and records batches, together with every other host that does the same.

A host walks some ten batches of a tree, and leaves the rest in parts to whichever comes first. Doing it again adds
what is new, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import anyio

from asyncstore.cluster import claims, engine, tables
from asyncstore.cluster.link import Link
from asyncstore.cluster.tree import check_sentinel, sentinel_of
from asyncstore.cluster.walking import Progress, Walk
from asyncstore.errors import AsyncStoreError
from asyncstore.ledger.buffered import StoreAway
from asyncstore.ledger.postgresql import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from asyncstore.cluster.engine import Place
    from asyncstore.cluster.tables import Root, Totals

_AT_ONCE: Final = 4
_AWAY_SECONDS: Final = 600.0
_ANSWER_SECONDS: Final = 300.0  # for the batches of a large migration, all queued again
# A walker beats also while a share does not answer. One that is taken for dead too early costs a walk, no more.
_TIMEOUT_SECONDS: Final = 10.0
_BEAT_SECONDS: Final = 1.0
_LEAVE_SECONDS: Final = 5.0


async def enqueue(
    dsn: str,
    migration: str,
    destination: str,
    mounts: Mapping[str, str],
    *,
    cap: int | None = None,
    timeout_seconds: int | None = None,
    progress: Progress | None = None,
    away_seconds: float = _AWAY_SECONDS,
) -> Totals:
    """Walk these roots, each at its path on this host, until every directory is in a batch, and every batch queued.

    `cap` limits the associations of all workers together, and a worker that is not heard of for `timeout_seconds` is
    taken for dead. A database that cannot be reached any more is waited for, for `away_seconds`. Raises SourceError if
    a root is not there, LedgerError if the database cannot be used, or a worker runs and has another timeout.
    """
    sentinels = {name: await asyncio.to_thread(sentinel_of, mount) for name, mount in mounts.items()}
    async with Link(dsn, "enqueue", away_seconds=away_seconds, answer_seconds=_ANSWER_SECONDS) as link:

        async def begin(connection: asyncpg.Connection) -> tuple[int, list[Root]]:
            await schema.prepare(connection, link.shown)
            async with connection.transaction():
                await schema.lock_schema(connection)
                await engine.install(connection)
                number = await tables.begin_migration(connection, migration, destination, link.shown)
                if cap is not None:
                    await tables.set_cap(connection, number, cap)
                if timeout_seconds is not None:
                    await tables.set_timeout(connection, number, timeout_seconds, link.shown)
                roots = [await _begin_root(connection, number, name, mounts[name], sentinels[name]) for name in mounts]
            return number, roots

        number, roots = await link.once(begin)
        await _Walker(link, {root: mounts[root.name] for root in roots}, progress or Progress()).run()
        await link.run(lambda connection: claims.refill(connection, number))
        return await link.run(lambda connection: tables.totals(connection, number))


async def _begin_root(connection: asyncpg.Connection, migration: int, name: str, mount: str, sentinel: str) -> Root:
    root = await tables.begin_root(connection, migration, name, sentinel)
    await asyncio.to_thread(check_sentinel, mount, root.sentinel)
    await tables.forget_scans(connection, root)
    await tables.open_scans(connection, root, [b""])
    return root


class _Walker:
    """Walks roots, with every other host that does, until nothing is left to be walked."""

    def __init__(self, link: Link, mounts: Mapping[Root, str], progress: Progress) -> None:
        self._link = link
        self._roots = list(mounts)
        self._failure: Exception | None = None
        self._queue = engine.Queue(link, self._wanted)
        self._names = [self._register(Walk(link, root, mount, progress), root) for root, mount in mounts.items()]

    async def run(self) -> None:
        """Walk. Raises what kept it from that."""
        async with asyncio.TaskGroup() as group:
            besides = [group.create_task(self._beat()), group.create_task(self._look_for_the_end())]
            try:
                await self._queue.run(_TIMEOUT_SECONDS)
            except AsyncStoreError as error:
                self._stop(error)
            finally:
                for task in besides:
                    task.cancel()
                with anyio.CancelScope(shield=True), contextlib.suppress(AsyncStoreError, TimeoutError):
                    async with asyncio.timeout(_LEAVE_SECONDS):
                        await self._queue.leave()
        if self._failure is not None:
            raise self._failure

    def _wanted(self) -> Mapping[str, int]:
        return {} if len(self._queue.places) >= _AT_ONCE else dict.fromkeys(self._names, engine.NO_LIMIT)

    def _register(self, walk: Walk, root: Root) -> str:
        async def perform(place: Place) -> None:
            try:
                await walk.perform(place)
            except Exception as error:
                self._stop(error)
                raise engine.NotNow from error

        name = engine.scan_name(root.migration, root.name)
        self._queue.register(name, perform)
        return name

    def _stop(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._queue.stop()

    async def _beat(self) -> None:
        try:
            while True:
                with contextlib.suppress(StoreAway):  # who walks waits for it, and gives it up
                    await self._link.once(self._queue.beat)
                await asyncio.sleep(_BEAT_SECONDS)
        except AsyncStoreError as error:
            self._stop(error)

    async def _look_for_the_end(self) -> None:
        """End when all is walked, by whichever host; what the queue has lost is queued again."""
        try:
            while True:
                await self._queue.found_nothing.wait()
                self._queue.found_nothing.clear()
                if await self._link.run(lambda connection: tables.are_walked(connection, self._roots)):
                    self._queue.stop()
                else:
                    await self._link.run(lambda connection: tables.refill_scans(connection, self._roots))
        except AsyncStoreError as error:
            self._stop(error)
