"""What is asked of the engine, PgQueuer: it says who works on what and how many at once, and nothing else.

A batch or a directory is in its queue once, whoever puts it there and how often. The queue is in the ledger's schema.

The engine does not look who ends a place in the queue: one that was taken for dead would end that of its successor,
and a third would begin beside it. So each end is written only if the place is still the worker's own.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from typing import TYPE_CHECKING, Any, Final

from pgqueuer.core.tm import TaskManager
from pgqueuer.db import AsyncpgDriver, Driver
from pgqueuer.errors import RetryRequested
from pgqueuer.models import TableChangedEvent
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from asyncstore.cluster.link import unhurried

if TYPE_CHECKING:
    import uuid
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import Self

    import asyncpg
    from pgqueuer.models import Channel, Job

    from asyncstore.cluster.link import Link

_LONGEST_KEY: Final = 1000
_POLL: Final = datetime.timedelta(seconds=1)
_NOTIFY: Final = "SELECT pg_notify($1, $2)"
NO_LIMIT: Final = 0
"""What the engine takes for no limit."""

# What is there need not be offered to the engine: for its arrays, the driver asks the server about their types.
_QUEUED: Final = """
SELECT dedupe_key FROM pgqueuer WHERE dedupe_key = ANY($1::text[]) AND status IN ('queued', 'picked')"""
# Numbers as text: of the arrays, the driver knows only those of text without asking the server, for each connection.
_OURS: Final = """
SELECT id FROM pgqueuer
WHERE id = ANY($1::text[]::bigint[]) AND queue_manager_id = $2 AND status = 'picked' FOR UPDATE"""
_LEAVE: Final = """
UPDATE pgqueuer SET status = 'queued', queue_manager_id = NULL, updated = now()
WHERE queue_manager_id = $1 AND status = 'picked'"""
_BEAT: Final = """
UPDATE pgqueuer SET heartbeat = now()
WHERE id = ANY($1::text[]::bigint[]) AND queue_manager_id = $2 AND status = 'picked' RETURNING id"""


async def install(connection: asyncpg.Connection) -> None:
    """Make the engine's tables, unless they are there: call it while nobody else does."""
    queries = Queries(AsyncpgDriver(connection))
    if not await queries.schema_is_installed():
        await queries.install()


# -- the queue ---------------------------------------------------------------------------------------------------------


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
    if not payloads:  # as all along a tree that is done
        return
    by_key = {f"{name}:{_short(payload)}": payload for payload in payloads}
    for row in await connection.fetch(_QUEUED, [*by_key]):
        del by_key[row["dedupe_key"]]
    if by_key:
        count = len(by_key)
        queries = Queries(AsyncpgDriver(connection))
        await queries.enqueue([name] * count, [*by_key.values()], [0] * count, dedupe_key=[*by_key], on_conflict="skip")


def _short(payload: bytes) -> str:
    """A payload as a part of a key: PostgreSQL's indexes have no room for a long one."""
    return payload.decode() if len(payload) <= _LONGEST_KEY else hashlib.sha256(payload).hexdigest()


# -- who takes from it -------------------------------------------------------------------------------------------------


class Place:
    """A place in the queue that this worker has: `number` names it, `slot` is its number among those of its limit."""

    def __init__(self, job: Job) -> None:
        self.number: int = job.id
        self.slot: int = job.slot or 0
        self.payload: bytes = job.payload or b""

    @property
    def part(self) -> bytes:
        """What is to be walked, in a place that `queue_scans` has made."""
        return bytes.fromhex(self.payload.decode())


class NotNow(Exception):
    """What a worker raises to leave a place to whoever comes next, after some `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds


class Queue:
    """The queue, as one process has it that works.

    `wanted` says, each time, under which names it would take one more, and how many places all workers together may
    have under each. `places` has the name of each place that it has, by its number. `found_nothing` is set when it has
    none, and there was none to take.
    """

    def __init__(self, link: Link, wanted: Callable[[], Mapping[str, int]]) -> None:
        self.places: dict[int, str] = {}
        self.found_nothing: asyncio.Event = asyncio.Event()
        self._link = link
        self._driver = _LinkDriver(link)
        self._queries = _OwnQueries(self._driver, link, wanted, self.places, self.found_nothing)
        self._manager = _Manager(self._queries)
        self.owner: uuid.UUID = self._manager.queue_manager_id
        self._queries.owner, self._queries.channel = self.owner, self._manager.channel

    def register(self, name: str, perform: Callable[[Place], Awaitable[None]]) -> None:
        """Have places under a name performed. `perform` may raise NotNow, and nothing else."""

        @self._manager.entrypoint(name, on_failure="delete")
        async def handle(job: Job) -> None:
            try:
                await perform(Place(job))
            except NotNow as leave:
                raise RetryRequested(datetime.timedelta(seconds=leave.seconds)) from None
            finally:
                self.places.pop(job.id, None)

    async def run(self, timeout_seconds: float) -> None:
        """Take and perform, until `stop`; then return when all is performed."""
        timeout = datetime.timedelta(seconds=timeout_seconds)
        await self._manager.run(dequeue_timeout=min(_POLL, timeout / 10), batch_size=1, heartbeat_timeout=timeout)

    def look(self) -> None:
        """Look for places now, since more may be wanted than at the last look."""
        self._driver.tell(_changed(self._manager.channel))

    async def leave(self) -> None:
        """Let go of the places that it has: others take them at once, and not only when they take it for dead."""
        await self._link.once(lambda connection: connection.execute(_LEAVE, self.owner))

    def stop(self) -> None:
        """Take nothing more."""
        self._manager.shutdown.set()

    async def beat(self, connection: asyncpg.Connection) -> set[int]:
        """Tell the others that its places are worked on; returns those that it has no more."""
        numbers = set(self.places)
        return numbers - {row["id"] for row in await connection.fetch(_BEAT, [*map(str, numbers)], self.owner)}


def _changed(channel: Channel) -> str:
    """What tells the engine to look into the queue; its trigger says nothing of updates."""
    now = datetime.datetime.now(datetime.UTC)
    event = TableChangedEvent(
        type="table_changed_event", channel=channel, operation="update", sent_at=now, table="pgqueuer"
    )
    return event.model_dump_json()


class _Manager(QueueManager):
    async def verify_structure(self) -> None:
        """Nothing to do: the ledger has its tables in this version, and a statement says what it does not find."""


class _OwnQueries(Queries):
    """The engine's statements, by which a worker changes no place of another."""

    def __init__(
        self,
        driver: Driver,
        link: Link,
        wanted: Callable[[], Mapping[str, int]],
        places: dict[int, str],
        found_nothing: asyncio.Event,
    ) -> None:
        super().__init__(driver)
        self.owner: uuid.UUID
        self.channel: Channel
        self._places = places
        self._link = link
        self._wanted = wanted
        self._found_nothing = found_nothing

    async def dequeue(
        self,
        batch_size: int,
        entrypoints: dict[Any, EntrypointExecutionParameter],
        queue_manager_id: Any,
        global_concurrency_limit: int | None,
        heartbeat_timeout: datetime.timedelta,
    ) -> list[Job]:
        limits = self._wanted()
        wanted = {name: EntrypointExecutionParameter(limits[name]) for name in entrypoints if name in limits}
        jobs: list[Job] = []
        if wanted:
            settings = batch_size, wanted, queue_manager_id, global_concurrency_limit, heartbeat_timeout

            async def take(connection: asyncpg.Connection) -> list[Job]:
                async with unhurried(connection):  # the claim that follows has it written
                    return await Queries(AsyncpgDriver(connection)).dequeue(*settings)

            jobs = await self._link.run(take)
        self._places.update((job.id, job.entrypoint) for job in jobs)
        if not self._places:
            self._found_nothing.set()
        return jobs

    async def eligible_queued_work(self, entrypoints: list[Any]) -> int:
        """None: what waits beyond the limits is looked for when the queue changes, and not ten times a second."""
        return 0

    async def queued_work(self, entrypoints: list[Any]) -> int:
        """See eligible_queued_work."""
        return 0

    async def update_heartbeat(self, job_ids: list[Any]) -> None:
        """Nothing to do: a worker beats more often than the engine, so that it knows what the others see."""

    async def log_jobs(self, job_status: list[Any]) -> None:
        async def end(connection: asyncpg.Connection) -> None:
            async with unhurried(connection):
                ours = await self._ours(connection, [job.id for job, _, _ in job_status])
                if ended := [each for each in job_status if each[0].id in ours]:
                    await Queries(AsyncpgDriver(connection)).log_jobs(ended)

        await self._link.run(end)

    async def retry_job(self, job: Job, delay: datetime.timedelta, traceback_record: Any) -> None:
        async def leave(connection: asyncpg.Connection) -> None:
            async with unhurried(connection):
                if await self._ours(connection, [job.id]):
                    await Queries(AsyncpgDriver(connection)).retry_job(job, delay, None)
                    await connection.execute(_NOTIFY, self.channel, _changed(self.channel))

        await self._link.run(leave)

    async def _ours(self, connection: asyncpg.Connection, numbers: list[int]) -> set[int]:
        return {row["id"] for row in await connection.fetch(_OURS, [*map(str, numbers)], self.owner)}


class _LinkDriver(Driver):
    """The engine's way to the database: it never sees that a connection was lost."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._shutdown = asyncio.Event()
        self._callbacks: list[Callable[[str | bytes | bytearray], None]] = []

    def tell(self, payload: str) -> None:
        """Have the engine hear something, as if the server had notified of it."""
        for callback in self._callbacks:
            callback(payload)

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        return [dict(row) for row in await self._link.run(lambda connection: connection.fetch(query, *args))]

    async def execute(self, query: str, *args: object) -> str:
        return str(await self._link.run(lambda connection: connection.execute(query, *args)))

    async def notify(self, channel: str, payload: str) -> None:
        await self.execute(_NOTIFY, channel, payload)

    async def add_listener(self, channel: str, callback: Callable[[str | bytes | bytearray], None]) -> None:
        self._callbacks.append(callback)
        await self._link.listen(channel, lambda _connection, _pid, _channel, payload: callback(payload))

    @property
    def shutdown(self) -> asyncio.Event:
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        return TaskManager()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to do: the link outlives the engine."""
