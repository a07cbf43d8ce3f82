"""Who works on which batch, as the ledger's tables have it: a batch is claimed, given back, done, or set aside.

The engine hands a batch to one worker at a time, but to another one when it takes the first for dead. Each claim raises
the epoch of the batch, and whoever had it before can change nothing any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.cluster import engine, tables
from asyncstore.cluster.link import unhurried
from asyncstore.ledger.postgresql.ledger import NOW_MS
from asyncstore.ledger.postgresql.writer import Claim
from asyncstore.ledger.protocol import FAILED, STORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

MOST_FRUITLESS: Final = 5
"""So many workers in a row may die over a batch without having stored anything of it."""

OPEN: Final = "open"
DOING: Final = "doing"
DONE: Final = "done"
SET_ASIDE: Final = "set-aside"

_QUEUED_AT_ONCE: Final = 1000
_STORED: Final = [state.value for state in sorted(STORED)]
_FAILED: Final = [state.value for state in sorted(FAILED)]
_BATCH: Final = """
SELECT b.state, b.stored, b.fruitless, r.id AS root, r.name FROM batch b JOIN root r ON r.id = b.root
WHERE b.id = $1 FOR NO KEY UPDATE OF b"""
_COUNTS: Final = """
SELECT count(*) FILTER (WHERE a.state = ANY($2::text[])), count(*) FILTER (WHERE a.state = ANY($3::text[]))
FROM directory d JOIN instance i ON i.directory = d.id JOIN account a ON a.id = i.account WHERE d.batch = $1"""
_CLAIM: Final = f"""
UPDATE batch SET state = '{DOING}', epoch = epoch + 1, worker = $2, fruitless = $3, stored = $4, failed = $5,
    claimed_at = ({NOW_MS}), finished_at = NULL
WHERE id = $1 RETURNING epoch"""
# It may be written twice, if the connection was lost before the server said that it is.
_END: Final = f"""
UPDATE batch SET state = $3, fruitless = 0, reason = '', stored = $4, failed = $5,
    finished_at = CASE WHEN $3 = '{OPEN}' THEN NULL ELSE ({NOW_MS}) END
WHERE id = $1 AND epoch = $2 AND state IN ('{DOING}', $3) RETURNING id"""
_SET_ASIDE: Final = f"""
UPDATE batch SET state = '{SET_ASIDE}', epoch = epoch + 1, reason = $2, finished_at = ({NOW_MS}) WHERE id = $1"""
_LET_GO: Final = "DELETE FROM in_flight WHERE batch = $1"
_REOPEN: Final = f"""
UPDATE batch SET state = '{OPEN}', reason = '', fruitless = 0 WHERE id = ANY($1::bigint[]) AND state <> '{DOING}'
RETURNING id"""
_UNFINISHED: Final = (
    f"SELECT b.id FROM root r JOIN batch b ON b.root = r.id WHERE r.migration = $1 AND b.state IN ('{OPEN}', '{DOING}')"
)
_UNQUEUED: Final = f"""
{_UNFINISHED} AND b.id > $2 ORDER BY b.id LIMIT $3"""
_IS_DONE: Final = f"""
SELECT NOT EXISTS ({_UNFINISHED}) AND NOT EXISTS (
    SELECT 1 FROM root r JOIN scan s ON s.root = r.id WHERE r.migration = $1 AND s.is_open)"""
_TOTALS: Final = f"""
SELECT count(*), coalesce(sum(b.stored), 0)::bigint, coalesce(sum(b.failed), 0)::bigint,
    count(*) FILTER (WHERE b.state = '{SET_ASIDE}') FROM root r JOIN batch b ON b.root = r.id WHERE r.migration = $1"""


class Batch(NamedTuple):
    """What a worker has claimed: the right to write, the name of the root, and the directories below it.

    Each directory has its number in the ledger.
    """

    claim: Claim
    root: str
    directories: dict[bytes, int]


class SetAside(NamedTuple):
    """A batch that nobody works on any more, and why."""

    reason: str


async def claim(connection: asyncpg.Connection, batch: int, worker: int) -> Batch | SetAside | None:
    """Claim a batch for a worker; None if there is nothing to do. One that has killed too many is set aside.

    When it returns, the epoch is on the server's disk, and so is everything that was written before.
    """
    async with connection.transaction():
        found = await connection.fetchrow(_BATCH, batch)
        if found is None or found["state"] in (DONE, SET_ASIDE):
            return None
        stored, failed = await counts(connection, batch)
        fruitless = found["fruitless"] + 1 if stored <= found["stored"] else 1
        if fruitless > MOST_FRUITLESS:
            set_aside = SetAside(f"{MOST_FRUITLESS} workers in a row ended over it, and nothing of it was stored")
            await connection.execute(_SET_ASIDE, batch, *set_aside)
            await connection.execute(_LET_GO, batch)
            return set_aside
        epoch = await connection.fetchval(_CLAIM, batch, worker, fruitless, stored, failed)
        await connection.execute(_LET_GO, batch)
        rows = await connection.fetch("SELECT path, id FROM directory WHERE batch = $1 ORDER BY path", batch)
    return Batch(Claim(worker, found["root"], batch, epoch), found["name"], dict(map(tuple, rows)))


async def finish(connection: asyncpg.Connection, claim: Claim) -> bool:
    """Note that everything in a batch has its outcome; False if another worker has claimed it."""
    return await _end(connection, claim, DONE)


async def give_back(connection: asyncpg.Connection, claim: Claim) -> bool:
    """Leave the rest of a batch to whoever comes next; False if another worker has claimed it."""
    return await _end(connection, claim, OPEN)


async def _end(connection: asyncpg.Connection, claim: Claim, state: str) -> bool:
    async with unhurried(connection):  # the next claim has it written, and a batch that stays claimed is taken again
        stored, failed = await counts(connection, claim.batch)
        is_ours = await connection.fetchval(_END, claim.batch, claim.epoch, state, stored, failed) is not None
        if is_ours:
            await connection.execute(_LET_GO, claim.batch)
    return is_ours


async def counts(connection: asyncpg.Connection, batch: int) -> tuple[int, int]:
    """How many instances of a batch are stored now, and how many have failed."""
    stored, failed = await connection.fetchrow(_COUNTS, batch, _STORED, _FAILED)
    return int(stored), int(failed)


async def reopen(connection: asyncpg.Connection, migration: int, batches: Sequence[int]) -> int:
    """Have batches sent again that are done or set aside; what is stored of them is not. Returns how many."""
    async with connection.transaction():
        opened = [row["id"] for row in await connection.fetch(_REOPEN, list(batches))]
        await engine.queue_batches(connection, migration, opened)
    return len(opened)


async def refill(connection: asyncpg.Connection, migration: int) -> bool:
    """Queue again what is not done, set aside or walked, unless it is in the queue; returns whether a batch is."""
    last = 0
    while found := [row["id"] for row in await connection.fetch(_UNQUEUED, migration, last, _QUEUED_AT_ONCE)]:
        await engine.queue_batches(connection, migration, found)
        last = found[-1]
    await tables.refill_scans(connection, await tables.roots_of(connection, migration))
    return last > 0


class Totals(NamedTuple):
    """What became of the batches of a migration: how many there are, their instances, and how many are set aside."""

    batches: int
    stored: int
    failed: int
    set_aside: int


async def totals(connection: asyncpg.Connection, migration: int) -> Totals:
    """What became of all batches so far."""
    return Totals(*await connection.fetchrow(_TOTALS, migration))


async def is_done(connection: asyncpg.Connection, migration: int) -> bool:
    """Whether every batch is done or set aside, and no directory waits to be walked."""
    return bool(await connection.fetchval(_IS_DONE, migration))
