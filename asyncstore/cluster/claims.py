"""Who works on which batch, as the ledger's tables have it: a batch is claimed, given back, done, or set aside.

The engine hands a batch to one worker at a time, but to another one when it takes the first for dead. Each claim raises
the epoch of the batch, and whoever had it before can change nothing any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.cluster import engine
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
SELECT b.state, b.epoch, b.stored, b.fruitless, r.id AS root, r.name, r.migration, m.is_paused
FROM batch b JOIN root r ON r.id = b.root JOIN migration m ON m.id = r.migration
WHERE b.id = $1 FOR NO KEY UPDATE OF b"""
_COUNTS: Final = """
SELECT count(*) FILTER (WHERE a.state = ANY($2::text[])), count(*) FILTER (WHERE a.state = ANY($3::text[]))
FROM directory d JOIN instance i ON i.directory = d.id JOIN account a ON a.id = i.account WHERE d.batch = $1"""
_CLAIM: Final = f"""
UPDATE batch SET state = '{DOING}', epoch = epoch + 1, worker = $2, fruitless = $3, stored = $4, failed = $5,
    claimed_at = ({NOW_MS}), finished_at = NULL
WHERE id = $1 RETURNING epoch"""
_END: Final = f"""
UPDATE batch SET state = $3, fruitless = 0, reason = '', stored = $4, failed = $5,
    finished_at = CASE WHEN $3 = '{OPEN}' THEN NULL ELSE ({NOW_MS}) END
WHERE id = $1 AND epoch = $2 AND state = '{DOING}' RETURNING id"""
_SET_ASIDE: Final = f"""
UPDATE batch SET state = '{SET_ASIDE}', epoch = epoch + 1, reason = $2, finished_at = ({NOW_MS}) WHERE id = $1"""
_LET_GO: Final = "DELETE FROM in_flight WHERE batch = $1"
_REOPEN: Final = f"""
UPDATE batch SET state = '{OPEN}', reason = '', fruitless = 0 WHERE id = ANY($1::bigint[]) AND state <> '{DOING}'
RETURNING id"""
_WAITING: Final = f"""
SELECT b.id FROM batch b JOIN root r ON r.id = b.root WHERE r.migration = $1 AND b.state IN ('{OPEN}', '{DOING}')
    AND b.id > $2 ORDER BY b.id LIMIT $3"""


class Batch(NamedTuple):
    """What a worker has claimed: the right to write, the name of the root, and the directories below it."""

    claim: Claim
    root: str
    directories: list[bytes]


async def claim(connection: asyncpg.Connection, batch: int, worker: int) -> Batch | str:
    """Claim a batch for a worker; or why there is nothing to do: "done", "set-aside", "paused", or "" if it is gone.

    One over which too many workers have died is set aside instead, and a line of its reason is returned with it.
    """
    async with connection.transaction():
        found = await connection.fetchrow(_BATCH, batch)
        if found is None:
            return ""
        if found["state"] in (DONE, SET_ASIDE):
            return str(found["state"])
        if found["is_paused"]:
            return "paused"
        stored, failed = await counts(connection, batch)
        fruitless = found["fruitless"] + 1 if stored <= found["stored"] else 1
        if fruitless > MOST_FRUITLESS:
            await connection.execute(_SET_ASIDE, batch, f"{MOST_FRUITLESS} workers ended over it in a row")
            await connection.execute(_LET_GO, batch)
            return SET_ASIDE
        epoch = await connection.fetchval(_CLAIM, batch, worker, fruitless, stored, failed)
        await connection.execute(_LET_GO, batch)
        rows = await connection.fetch("SELECT path FROM directory WHERE batch = $1 ORDER BY path", batch)
    return Batch(Claim(worker, found["root"], batch, epoch), found["name"], [row["path"] for row in rows])


async def finish(connection: asyncpg.Connection, claim: Claim) -> bool:
    """Note that everything in a batch has its outcome; False if another worker has claimed it."""
    return await _end(connection, claim, DONE)


async def give_back(connection: asyncpg.Connection, claim: Claim) -> bool:
    """Leave the rest of a batch to whoever comes next; False if another worker has claimed it."""
    return await _end(connection, claim, OPEN)


async def _end(connection: asyncpg.Connection, claim: Claim, state: str) -> bool:
    async with connection.transaction():
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
    """Queue again what is neither done nor set aside, unless it is in the queue; returns whether anything is."""
    last = 0
    while found := [row["id"] for row in await connection.fetch(_WAITING, migration, last, _QUEUED_AT_ONCE)]:
        await engine.queue_batches(connection, migration, found)
        last = found[-1]
    return last > 0
