"""How many associations all workers of a migration have together: one of them, whoever holds a lock, finds it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.cluster.heart import TOLD
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.ledger import NOW_MS
from asyncstore.transfer.concurrency import Concurrency, Progress

if TYPE_CHECKING:
    import asyncpg

    from asyncstore.cluster.heart import Orders

_COUNTED_BATCHES: Final = 100  # more need not be counted: so many wait
_PROGRESS: Final = f"""
SELECT coalesce(sum(answers), 0)::bigint, coalesce(sum(sent_bytes), 0)::bigint,
    coalesce(sum(associations) FILTER (WHERE seen_at > ({NOW_MS}) - 1000 * m.timeout_seconds), 0)::int
FROM worker w JOIN migration m ON m.id = w.migration WHERE m.id = $1"""
_WAITING: Final = f"""
SELECT coalesce(sum(files), 0)::bigint, coalesce(sum(size_bytes), 0)::bigint FROM (
    SELECT b.files, b.size_bytes FROM root r JOIN batch b ON b.root = r.id
    WHERE r.migration = $1 AND b.state = 'open' LIMIT {_COUNTED_BATCHES}) AS counted"""
# What was said about the peer meanwhile comes first.
_AIM: Final = f"""
WITH changed AS (
    UPDATE migration SET target = $2 WHERE id = $1
    AND pressed_at IS NOT DISTINCT FROM $3 AND rejected_at IS NOT DISTINCT FROM $4 RETURNING id
) {TOLD}"""


class Climber:
    """Moves the target of a migration, if this worker is the one that does. `look` is called with each beat."""

    def __init__(self, migration: int) -> None:
        self._migration = migration
        self._holder: asyncpg.Connection | None = None
        self._concurrency: Concurrency
        self._orders: Orders

    async def look(self, connection: asyncpg.Connection, orders: Orders, now: float) -> None:
        """Take in how far all workers are, and move the target if that pays."""
        if connection is not self._holder and not await self._begin(connection, orders, now):
            return
        answers, sent_bytes, associations_open = await connection.fetchrow(_PROGRESS, self._migration)
        waiting, waiting_bytes = await connection.fetchrow(_WAITING, self._migration)
        self._take_in(orders, associations_open, now)
        progress = Progress(answers, sent_bytes, associations_open, waiting, unsent_bytes=waiting_bytes)
        target = self._concurrency.update(now, progress)
        if target != orders.target and associations_open:
            await connection.execute(_AIM, self._migration, target, orders.pressed_at, orders.rejected_at)

    async def _begin(self, connection: asyncpg.Connection, orders: Orders, now: float) -> bool:
        lock = "SELECT pg_try_advisory_lock($1, $2)"
        if not await connection.fetchval(lock, schema.LOCKS_OF_TARGETS, self._migration):
            return False
        self._holder = connection
        self._start(orders, now)
        return True

    def _start(self, orders: Orders, now: float) -> None:
        """Go on from the target that there is."""
        self._orders = orders
        if orders.target <= 1:
            self._concurrency = Concurrency(None, orders.cap)
        else:
            self._concurrency = Concurrency(orders.target, orders.cap)
            self._concurrency.change(None, now)

    def _take_in(self, orders: Orders, associations_open: int, now: float) -> None:
        """Take in what others have said since the last look."""
        before, self._orders = self._orders, orders
        if orders.cap != before.cap:
            self._start(orders, now)
        if orders.pressed_at != before.pressed_at:
            self._concurrency.pressed(now)
        if orders.rejected_at != before.rejected_at:
            self._concurrency.rejected(now, associations_open)
