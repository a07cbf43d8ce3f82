"""What an operator does to a migration: pause it, limit it, and have sent again what was given up.

All of it is a change of the tables; the workers see it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from asyncstore.cluster import claims, tables
from asyncstore.errors import LedgerError
from asyncstore.ledger.accounts import ACCOUNT_FIELDS
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import WRITER_SETTINGS, Database
from asyncstore.ledger.protocol import Standing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import asyncpg

_Result = TypeVar("_Result")

_SECONDS: Final = 600.0
_GIVEN_UP: Final = """
SELECT b.id FROM batch b JOIN root r ON r.id = b.root
WHERE r.migration = $1 AND (b.state = 'set-aside' OR (b.state = 'done' AND b.failed > 0))
ORDER BY b.id FOR NO KEY UPDATE OF b"""
_SET_ASIDE: Final = f"""
SELECT a.id FROM account a JOIN worker w ON w.id = a.run
WHERE w.migration = $1 AND a.standing = {Standing.SET_ASIDE:d} AND a.instances > 0 ORDER BY a.id"""
_FIELDS: Final = ", ".join(ACCOUNT_FIELDS)
_SUSPECTED_FIELDS: Final = ", ".join(
    f"{Standing.SUSPECTED:d}" if name == "standing" else name for name in ACCOUNT_FIELDS
)
_COPY: Final = f"""
INSERT INTO account (run, {_FIELDS}) SELECT run, {_SUSPECTED_FIELDS} FROM account WHERE id = $1 RETURNING id"""
_MOVE: Final = """
WITH moved AS (
    UPDATE instance i SET account = $2 FROM directory d
    WHERE d.batch = ANY($3::bigint[]) AND i.directory = d.id AND i.account = $1 RETURNING i.bytes_sent
), sums AS (
    SELECT count(*) AS instances, coalesce(sum(bytes_sent), 0) AS bytes_sent FROM moved
)
UPDATE account a SET instances = a.instances + sums.instances * CASE a.id WHEN $2 THEN 1 ELSE -1 END,
    bytes_sent = a.bytes_sent + sums.bytes_sent * CASE a.id WHEN $2 THEN 1 ELSE -1 END
FROM sums WHERE a.id IN ($1, $2)"""


class Retried(NamedTuple):
    """How many batches are sent again, and how many instances of them had not been stored."""

    batches: int
    instances: int


def changed(dsn: str, name: str, action: Callable[[asyncpg.Connection, int], Awaitable[_Result]]) -> _Result:
    """Do something to a migration, all of it or nothing; returns what the action does. Blocks. Raises LedgerError."""
    with Database(dsn, "control", WRITER_SETTINGS) as database:

        async def change(connection: asyncpg.Connection) -> _Result:
            async with connection.transaction():
                if not await schema.is_there(connection, database.shown):
                    raise LedgerError(f"there is no migration in {database.shown!r} yet: enqueue one")
                migration = await tables.find_migration(connection, name, database.shown)
                return await action(connection, migration.id)

        return database.run(change, "changed", seconds=_SECONDS)


async def pause(connection: asyncpg.Connection, migration: int) -> None:
    """Have nothing new sent; what is in flight is finished."""
    await connection.execute("UPDATE migration SET is_paused = true WHERE id = $1", migration)


async def resume(connection: asyncpg.Connection, migration: int) -> bool:
    """Have it go on; returns whether there is anything to send."""
    await connection.execute("UPDATE migration SET is_paused = false WHERE id = $1", migration)
    await claims.refill(connection, migration)
    return not await claims.is_done(connection, migration)


def limit(cap: int) -> Callable[[asyncpg.Connection, int], Awaitable[None]]:
    """What limits the associations of all workers together."""
    return lambda connection, migration: tables.set_cap(connection, migration, cap)


async def retry(connection: asyncpg.Connection, migration: int) -> Retried:
    """Have sent again what was set aside or has failed, batches and instances; what is stored of them is not."""
    batches = [row["id"] for row in await connection.fetch(_GIVEN_UP, migration)]
    await _suspect(connection, migration, batches)
    failed = "SELECT coalesce(sum(files - stored), 0)::bigint FROM batch WHERE id = ANY($1::bigint[])"
    instances = int(await connection.fetchval(failed, batches))
    return Retried(await claims.reopen(connection, migration, batches), instances)


async def _suspect(connection: asyncpg.Connection, migration: int, batches: Sequence[int]) -> None:
    """Have the instances that were set aside in these batches only suspected, so that they are sent after all others.

    Their account may be that of instances in other batches, too: they get one of their own.
    """
    for row in await connection.fetch(_SET_ASIDE, migration) if batches else ():
        copy = await connection.fetchval(_COPY, row["id"])
        await connection.execute(_MOVE, row["id"], copy, list(batches))
