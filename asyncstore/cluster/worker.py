"""A worker: takes batches of a migration from the queue, and sends each over an association of its own.

    worker > {heart, climbing, sending, walking} > {engine, claims, tables} > link

Many workers on many hosts do the same. What the engine hands out is claimed in the ledger first, and given back or
noted as done there before the engine hears of it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import os
import time
from typing import TYPE_CHECKING, Final

import anyio

from asyncstore.cluster import claims, engine, tables
from asyncstore.cluster.climbing import Climber
from asyncstore.cluster.engine import NotNow, Place, Queue
from asyncstore.cluster.heart import Done, Heart
from asyncstore.cluster.link import Link, unhurried
from asyncstore.cluster.sending import Ended, Sending
from asyncstore.cluster.trace import BatchClaimed, BatchEnded, BatchSetAside, Fenced
from asyncstore.cluster.tree import check_sentinel
from asyncstore.cluster.walking import Walk
from asyncstore.errors import AsyncStoreError, LedgerError, SourceError
from asyncstore.ledger.packing import one_line
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.batch import BatchLedger
from asyncstore.ledger.postgresql.database import WRITER_SETTINGS, Database
from asyncstore.ledger.postgresql.ledger import NOW_MS, begin_run, check_rules, hold_run
from asyncstore.ledger.postgresql.places import Places
from asyncstore.ledger.postgresql.writer import server_text
from asyncstore.ledger.settling import options_text
from asyncstore.ledger.telling import Telling
from asyncstore.net.peer import Peer
from asyncstore.trace import emit
from asyncstore.transfer.learned import Learned
from asyncstore.transfer.options import TransferOptions, options_as_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    import asyncpg

    from asyncstore.cluster.claims import Batch
    from asyncstore.cluster.tables import Migration, Root

_logger: Final = logging.getLogger("asyncstore.transfer")
AWAY_SECONDS: Final = 600.0
_HURRIED_SECONDS: Final = 10.0
_WALKS_AT_ONCE: Final = 2
_LATER_SECONDS: Final = 5.0
_END: Final = f"""
UPDATE worker SET finished_at = ({NOW_MS}), associations = 0, scan_finished = $2, stopped = $3 WHERE id = $1"""
# A worker that has an association tries as long as an outage may last, for each batch.
_EVER: Final = 1 << 30


def peer_of(destination: str, **settings: Any) -> Peer:
    """The peer of a migration, as `str(peer)` wrote it."""
    title, _, address = destination.rpartition("@")
    host, _, port = address.rpartition(":")
    return Peer(host, int(port), title, **settings)


class Worker:
    """One process that works on a migration. `failure` is what ended it early; `is_fenced`: it had to abort.

    `mounts` has the absolute path of each root on this host, by its name; `most` is how many batches it sends at once.
    `peer` makes the Peer of a destination. With `until_done`, it ends when there is nothing left to do.
    """

    def __init__(
        self,
        dsn: str,
        name: str | None,
        mounts: Mapping[str, str],
        options: TransferOptions,
        *,
        most: int,
        until_done: bool = False,
        peer: Callable[[str], Peer] = peer_of,
        away_seconds: float = AWAY_SECONDS,
    ) -> None:
        self.failure: Exception | None = None
        self._dsn = dsn
        self._name = name
        self._mounts = dict(mounts)
        self._options = options.for_ledger()
        self._most = most
        self._until_done = until_done
        self._make_peer = peer
        self._away_seconds = away_seconds
        self._is_ending = False
        self._most_heard = 0
        self._beginning: anyio.CancelScope | None = None
        self._learned = Learned(self._options)
        self.is_fenced: bool = False
        self._sendings: dict[int, Sending] = {}
        self._past = Done(0, 0, 0)
        self._telling = Telling()
        self._link = Link(dsn, "worker", away_seconds=away_seconds, settings=WRITER_SETTINGS, telling=self._telling)
        self._queue = Queue(self._link, self._wanted)
        self._migration: Migration
        self._roots: dict[str, Root]
        self._peer: Peer
        self._heart: Heart
        self._climber: Climber
        self._sends: str
        self._run: int

    # -- from its beginning to its end ---------------------------------------------------------------------------------

    async def run(self) -> claims.Totals:
        """Work, and return what became of all batches. Raises AsyncStoreError if it cannot begin."""
        async with self._link:
            with anyio.CancelScope() as self._beginning:
                await self._begin()
            if self._beginning.cancelled_caught:
                return claims.Totals(0, 0, 0, 0)
            self._beginning = None
            writing = Database(self._dsn, "worker's rows", WRITER_SETTINGS)
            reading = Database(self._dsn, "worker's look-ups", patience_seconds=self._away_seconds)
            beats = Link(self._dsn, "worker's beats", answer_seconds=self._migration.timeout_seconds / 4)
            beats.greet = lambda connection: hold_run(connection, self._run)
            async with beats:
                self._heart = Heart(
                    beats,
                    self._migration.id,
                    self._run,
                    timeout_seconds=self._migration.timeout_seconds,
                    away_seconds=self._away_seconds,
                )
                try:
                    await self._work(writing, reading)
                    return await self._end()
                finally:
                    await asyncio.to_thread(writing.close)
                    await asyncio.to_thread(reading.close)

    async def _begin(self) -> None:
        shown = self._link.shown

        async def begin(connection: asyncpg.Connection) -> None:
            async with unhurried(connection):
                await begin_in_one(connection)

        async def begin_in_one(connection: asyncpg.Connection) -> None:
            if not await schema.is_there(connection, shown):
                raise LedgerError(f"there is no migration in {shown!r} yet: enqueue one")
            self._migration = migration = await tables.find_migration(connection, self._name, shown)
            self._roots = {root.name: root for root in await tables.roots_of(connection, migration.id)}
            self._check_roots()
            options = options_text(options_as_data(self._options))
            await check_rules(connection, f"the migration {one_line(migration.name)!r}", migration.id, options)
            self._run = await begin_run(connection, migration.id, options, await connection.fetchval(NOW_MS))
            await claims.refill(connection, migration.id)

        await self._link.once(begin)
        for root in self._roots.values():
            await asyncio.to_thread(check_sentinel, self._mounts[root.name], root.sentinel)
        self._sends = engine.send_name(self._migration.id)
        self._climber = Climber(self._migration.id)
        self._peer = self._make_peer(self._migration.destination)

    def _check_roots(self) -> None:
        missing = sorted(self._roots.keys() - self._mounts.keys())
        unknown = sorted(self._mounts.keys() - self._roots.keys())
        if missing:
            raise SourceError(f"the migration has the root {one_line(missing[0])!r}: say where it is, --root NAME=PATH")
        if unknown:
            raise SourceError(f"the migration has no root {unknown[0]!r}")

    async def _work(self, writing: Database, reading: Database) -> None:
        async def send(place: Place) -> None:
            await self._perform(lambda: self._send(place, writing, reading))

        self._queue.register(self._sends, send)
        for root in self._roots.values():
            self._register_walk(root)
        async with asyncio.TaskGroup() as group:
            besides = [group.create_task(each) for each in (self._beat(), self._watch(), self._look_for_the_end())]
            try:
                await self._queue.run(self._migration.timeout_seconds)
            except AsyncStoreError as error:
                self._stop(error)
            finally:
                for task in besides:
                    task.cancel()

    async def _end(self) -> claims.Totals:
        """Note how it ended, unless the database is away for good."""
        stopped = "interrupted" if self._is_ending else ""
        text = server_text(str(self.failure or stopped))

        async def end(connection: asyncpg.Connection) -> claims.Totals:
            await connection.execute(_END, self._run, not text, text)
            return await claims.totals(connection, self._migration.id)

        try:
            return await self._link.run(end)
        except AsyncStoreError as error:
            self.failure = self.failure or error
            return claims.Totals(0, 0, 0, 0)

    # -- its end, before all is done -----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish what is in flight, give the rest back, and end."""
        self._is_ending = True
        if self._beginning is not None:  # nothing is in flight yet, and the server may never answer
            self._beginning.cancel()
        self._queue.stop()
        for sending in self._sendings.values():
            sending.drain()

    def abort(self) -> None:
        """Abort every association, give the batches back, and end."""
        self.drain()
        self._link.hurry(_HURRIED_SECONDS)
        for sending in self._sendings.values():
            sending.hurry()
            sending.abort()

    def _stop(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        self.drain()

    # -- what it takes from the queue ----------------------------------------------------------------------------------

    def _wanted(self) -> Mapping[str, int]:
        heart = self._heart
        if self._is_ending or not heart.fence.may_send() or heart.orders.is_paused:
            return {}
        wanted: dict[str, int] = {}
        at_work = collections.Counter(name == self._sends for name in self._queue.places.values())
        if at_work[True] < self._most and heart.orders.most:
            wanted[self._sends] = heart.orders.most
        if at_work[False] < _WALKS_AT_ONCE:
            scans = [engine.scan_name(self._migration.id, name) for name in self._roots]
            wanted.update(dict.fromkeys(scans, engine.NO_LIMIT))
        return wanted

    async def _perform(self, perform: Callable[[], Awaitable[None]]) -> None:
        """Perform something; whatever keeps this worker from that ends it, and leaves it to another."""
        if self._is_ending:
            raise NotNow
        try:
            await perform()
        except NotNow:
            raise
        except Exception as error:
            self._stop(error)
            raise NotNow from error

    def _register_walk(self, root: Root) -> None:
        walk = Walk(self._link, root, self._mounts[root.name])

        async def perform(place: Place) -> None:
            await self._perform(lambda: walk.perform(place))

        self._queue.register(engine.scan_name(self._migration.id, root.name), perform)

    async def _send(self, place: Place, writing: Database, reading: Database) -> None:
        """Claim a batch, send it, and note how it ended. Raises NotNow if something of it is left."""
        number = int(place.payload)
        batch = await self._link.run(lambda connection: claims.claim(connection, number, self._run))
        if batch is None:
            return
        if isinstance(batch, claims.SetAside):
            emit(_logger, BatchSetAside(batch=number, reason=batch.reason))
            return
        try:
            how = await self._send_claimed(place, batch, writing, reading)
        except BaseException:
            with contextlib.suppress(AsyncStoreError):
                await self._link.run(lambda connection: claims.give_back(connection, batch.claim))
            raise
        emit(_logger, BatchEnded(batch=number, how=how.value))
        if how is Ended.DONE:
            await self._link.run(lambda connection: claims.finish(connection, batch.claim))
        elif how is Ended.LEFT:
            await self._link.run(lambda connection: claims.give_back(connection, batch.claim))
            raise NotNow(0.0 if self._is_ending else _LATER_SECONDS)

    async def _send_claimed(self, place: Place, batch: Batch, writing: Database, reading: Database) -> Ended:
        mount, root = self._mounts[batch.root], self._roots[batch.root]
        await asyncio.to_thread(check_sentinel, mount, root.sentinel)
        first = f"{batch.root}:{os.fsdecode(next(iter(batch.directories)))}" if batch.directories else batch.root
        emit(_logger, BatchClaimed(batch=batch.claim.batch, first=one_line(first), directories=len(batch.directories)))
        sending = Sending(
            batch,
            place.slot,
            mount,
            self._peer,
            self._options,
            self._ledger_of(batch, writing, reading),
            self._link,
            self._heart.fence,
            self._known_of_peer(batch),
            opened=self._opened,
            press=self._heart.press,
            reject=self._heart.reject,
        )
        self._sendings[place.number] = sending
        try:
            how = await sending.run()
        finally:
            del self._sendings[place.number]
            self._past = _sum(self._past, sending)
        if sending.report.associations_established:
            retry = dataclasses.replace(self._options.retry, retries_at_start=_EVER)
            self._options = dataclasses.replace(self._options, retry=retry)
        if sending.failure is not None:
            self._stop(sending.failure)
        return how

    def _known_of_peer(self, batch: Batch) -> Learned:
        """What earlier batches have found out; nothing for one that is sent again: the peer may have been changed."""
        if batch.claim.epoch > 1:
            self._learned = Learned(self._options)
        return self._learned

    def _opened(self) -> None:
        """Have an association counted at once while there may be more of them than now."""
        if self._heart.orders.most < self._heart.orders.cap:
            self._heart.tell()

    def _ledger_of(self, batch: Batch, writing: Database, reading: Database) -> BatchLedger:
        mounts = {root.id: self._mounts[root.name] for root in self._roots.values()}
        return BatchLedger(
            writing,
            reading,
            batch.claim,
            Places(batch.claim.root, mounts, os.sep),
            options=options_as_data(self._options),
            shift_ms=self._heart.shift_ms,
            away_seconds=self._away_seconds,
            may_send=self._heart.fence.may_send,
            telling=self._telling,
            directories=batch.directories,
        )

    # -- beside it -----------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        async def beat(connection: asyncpg.Connection) -> None:
            lost = await self._queue.beat(connection)
            before, self._most_heard = self._most_heard, self._heart.orders.most
            most = self._most_heard
            if most > before:
                self._queue.look()
            for number, sending in self._sendings.items():
                if number in lost:
                    sending.abort()
                elif sending.slot >= most:
                    sending.drain()
            await self._climber.look(connection, self._heart.orders, self._heart.fence.now())

        def done() -> Done:
            total = self._past
            for sending in self._sendings.values():
                total = _sum(total, sending)
            return total

        try:
            await self._heart.run(beat, done)
        except AsyncStoreError as error:
            self._stop(error)

    async def _watch(self) -> None:
        """Abort what is in flight before others may begin with it."""
        fence = self._heart.fence
        was_closed = False
        while True:
            is_closed, must_abort = not fence.may_send(), fence.must_abort
            if is_closed and not was_closed and self._sendings:
                emit(_logger, Fenced(seconds=fence.silent_seconds, is_aborted=must_abort))
            elif must_abort and not self.is_fenced and self._sendings:
                emit(_logger, Fenced(seconds=fence.silent_seconds, is_aborted=True))
            if must_abort:
                for sending in self._sendings.values():
                    sending.abort()
            was_closed, self.is_fenced = is_closed, must_abort
            await asyncio.sleep(self._heart.beat_seconds / 4)

    async def _look_for_the_end(self) -> None:
        """End when nothing is left to do, if that is wanted; what the queue has lost is queued again."""
        busy_at = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.found_nothing.wait(), self._heart.beat_seconds)
            self._queue.found_nothing.clear()
            if self._queue.places or self._is_ending:
                busy_at = time.monotonic()
                continue
            try:
                if self._until_done and await self._ask(claims.is_done):
                    self._queue.stop()
                elif time.monotonic() >= busy_at + self._migration.timeout_seconds:
                    busy_at = time.monotonic()
                    await self._ask(claims.refill)
            except AsyncStoreError as error:
                self._stop(error)

    async def _ask(self, question: Callable[[asyncpg.Connection, int], Awaitable[bool]]) -> bool:
        return await self._link.run(lambda connection: question(connection, self._migration.id))


def _sum(done: Done, sending: Sending) -> Done:
    report = sending.report
    return Done(
        done.associations + report.associations_open, done.answers + report.answers, done.sent_bytes + report.sent_bytes
    )
