"""The four calls to the engine, PgQueuer: it says who works on what and how many at once, and nothing else.

A batch or a directory is in its queue once, whoever puts it there and how often. The queue is in the ledger's schema.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Final

from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import asyncpg
    from pgqueuer.models import Job

_POLL: Final = datetime.timedelta(seconds=1)
HEARTBEAT: Final = datetime.timedelta(seconds=60)


async def install(connection: asyncpg.Connection) -> None:
    """Make the engine's tables, unless they are there: call it while nobody else does."""
    queries = Queries(AsyncpgDriver(connection))
    if not await queries.schema_is_installed():
        await queries.install()


def scan_name(migration: int, root: str) -> str:
    """What a worker must have registered to walk a root."""
    return f"scan:{migration}:{root}"


def send_name(migration: int) -> str:
    """What a worker must have registered to send batches. One name, since the engine counts what runs under it."""
    return f"send:{migration}"


async def queue_scans(connection: asyncpg.Connection, migration: int, root: str, paths: Sequence[bytes]) -> None:
    """Queue directories to be walked, within the caller's transaction."""
    await _queue(connection, scan_name(migration, root), [path.hex().encode() for path in paths])


async def queue_batches(connection: asyncpg.Connection, migration: int, batches: Sequence[int]) -> None:
    """Queue batches to be sent, within the caller's transaction."""
    await _queue(connection, send_name(migration), [str(batch).encode() for batch in batches])


async def _queue(connection: asyncpg.Connection, name: str, payloads: Sequence[bytes]) -> None:
    if payloads:
        count = len(payloads)
        keys: list[str | None] = [f"{name}:{payload.decode()}" for payload in payloads]
        queries = Queries(AsyncpgDriver(connection))
        await queries.enqueue([name] * count, list(payloads), [0] * count, dedupe_key=keys, on_conflict="skip")


async def run_scans(
    connection: asyncpg.Connection,
    names: Mapping[str, Callable[[bytes], Awaitable[None]]],
    is_done: Callable[[], Awaitable[bool]],
    *,
    at_once: int,
) -> None:
    """Walk what is queued under these names, until `is_done`, which is asked several times a second."""
    manager = PgQueuer(AsyncpgDriver(connection))
    for name, walk in names.items():
        _register(manager, name, walk, at_once)

    async def watch() -> None:
        try:
            while not await is_done():  # noqa: ASYNC110  other hosts end it, too
                await asyncio.sleep(_POLL.total_seconds() / 4)
        finally:
            manager.shutdown.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        await manager.run(
            dequeue_timeout=_POLL, batch_size=1, max_concurrent_tasks=max(2, at_once), heartbeat_timeout=HEARTBEAT
        )


def _register(manager: PgQueuer, name: str, walk: Callable[[bytes], Awaitable[None]], at_once: int) -> None:
    @manager.entrypoint(name, on_failure="delete")
    async def perform(job: Job) -> None:
        await walk(bytes.fromhex((job.payload or b"").decode()))
