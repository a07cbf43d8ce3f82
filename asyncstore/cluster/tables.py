"""The migrations of many senders, in the ledger's tables: what is to be walked, and what is in batches.

Everything here is true whatever the engine does. Its queue only repeats what is open here, and can be made again.
"""

from __future__ import annotations

import getpass
import itertools
import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.cluster import engine
from asyncstore.cluster.batches import Size
from asyncstore.errors import LedgerError
from asyncstore.ledger.packing import one_line
from asyncstore.ledger.postgresql.ledger import NOW_MS
from asyncstore.ledger.postgresql.schema import LOCKS, LOCKS_OF_ROOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from asyncstore.cluster.batches import Directory

_REFILLED_AT_ONCE: Final = 1000
# A directory of more files is told: one association sends it, however many there could be.
_LARGE: Final = 20_000
_LARGEST: Final = 20
# What is not as it was recorded: nothing of a tree that is done.
_OTHER: Final = """
SELECT t.path, d.id IS NULL AS is_new FROM unnest($2::bytea[], $3::int[], $4::bigint[]) AS t (path, files, stamp)
LEFT JOIN directory d ON d.root = $1 AND d.path = t.path
WHERE (d.files, d.stamp) IS DISTINCT FROM (t.files, t.stamp)"""
_NEW_BATCH: Final = "INSERT INTO batch (root, state, files, size_bytes) VALUES ($1, 'open', $2, $3) RETURNING id"
_NEW_DIRECTORIES: Final = """
INSERT INTO directory (root, path, batch, files, stamp) SELECT $1, path, $2, files, stamp
FROM unnest($3::bytea[], $4::int[], $5::bigint[]) AS t (path, files, stamp)"""
# A batch that nobody has begun yet.
_FILLING: Final = """
SELECT files, size_bytes FROM batch WHERE id = $1 AND state = 'open' AND epoch = 0 FOR NO KEY UPDATE"""
_FILL: Final = "UPDATE batch SET files = files + $2, size_bytes = size_bytes + $3 WHERE id = $1"
# A directory whose files are not those that it had is sent again: what is stored of it, and is as it was, is not. One
# that a worker is sending now stays changed, for the next time.
_CHANGED: Final = """
WITH changed AS MATERIALIZED (
    SELECT d.id, d.batch, t.files, t.stamp, t.files - d.files AS more
    FROM unnest($2::bytea[], $3::int[], $4::bigint[]) AS t (path, files, stamp)
    JOIN directory d ON d.root = $1 AND d.path = t.path JOIN batch b ON b.id = d.batch
    WHERE (d.files, d.stamp) IS DISTINCT FROM (t.files, t.stamp) AND b.state <> 'doing' FOR NO KEY UPDATE OF b
), noted AS (
    UPDATE directory d SET files = c.files, stamp = c.stamp FROM changed c WHERE d.id = c.id
)
UPDATE batch b SET state = 'open', reason = '', fruitless = 0, files = b.files + c.more
FROM (SELECT batch, sum(more) AS more FROM changed GROUP BY batch) c WHERE b.id = c.batch RETURNING b.id"""
_LARGE_DIRECTORIES: Final = """
SELECT r.name, d.path, d.files FROM directory d JOIN root r ON r.id = d.root
WHERE r.migration = $1 AND d.files > $2 ORDER BY d.files DESC LIMIT $3"""
# Workers that disagree over it might send the same: only while none has the lock by which it is known to run.
_SET_TIMEOUT: Final = """
UPDATE migration m SET timeout_seconds = $2 WHERE m.id = $1 AND (m.timeout_seconds = $2 OR NOT EXISTS (
    SELECT 1 FROM pg_locks l JOIN worker w ON w.id = l.objid::bigint
    WHERE w.migration = m.id AND l.locktype = 'advisory' AND l.classid::bigint = $3 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))) RETURNING m.id"""
_SCANS: Final = """
INSERT INTO scan (root, path, is_open) SELECT $1, unnest($2::bytea[]), true
ON CONFLICT (root, path) DO UPDATE SET is_open = true, problems = ''"""


class Root(NamedTuple):
    """A place that all hosts see, each perhaps at another path. `id` is its number in the ledger."""

    id: int
    migration: int
    name: str
    sentinel: str


class Totals(NamedTuple):
    """What a migration has: batches, and files and bytes in them; parts that wait to be walked.

    `problems` is what cannot be sent, a line each; `large` are the largest directories, each with its files.
    """

    batches: int
    files: int
    size_bytes: int
    waiting: int
    problems: list[str]
    large: list[tuple[str, int]]


class Added(NamedTuple):
    """How many batches were new, and the last one, which may have room for more."""

    batches: int
    filling: int | None


async def begin_migration(connection: asyncpg.Connection, name: str, destination: str, shown: str) -> int:
    """The number of a migration, which is made if there is none. LedgerError if it has another destination."""
    creator = f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"
    await connection.execute(
        "INSERT INTO migration (name, destination, created_at, created_by) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (name) DO NOTHING",
        name,
        destination,
        await connection.fetchval(NOW_MS),
        creator,
    )
    found = await connection.fetchrow("SELECT id, destination FROM migration WHERE name = $1", name)
    if found["destination"] != destination:
        raise LedgerError(
            f"the migration {one_line(name)!r} in the database {shown!r} belongs to {one_line(found['destination'])}, "
            f"not to {destination}: give this one another name"
        )
    return int(found["id"])


class Migration(NamedTuple):
    """What is to be moved where. `timeout_seconds`: a worker that is not heard of for so long is taken for dead."""

    id: int
    name: str
    destination: str
    timeout_seconds: int


async def find_migration(connection: asyncpg.Connection, name: str | None, shown: str) -> Migration:
    """The migration of this name, the only one if there is no name. Raises LedgerError if there is not one."""
    query = "SELECT id, name, destination, timeout_seconds FROM migration WHERE name <> '' ORDER BY name"
    every = [Migration(*row) for row in await connection.fetch(query)]
    found = [each for each in every if name in (None, each.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one_line(each.name) for each in every) or "none"
    what = "more than one migration: name one" if found else f"no migration {one_line(name or '')!r}"
    raise LedgerError(f"the database {shown!r} has {what} (it has {names})")


async def roots_of(connection: asyncpg.Connection, migration: int) -> list[Root]:
    """All roots of a migration."""
    query = "SELECT id, migration, name, sentinel FROM root WHERE migration = $1 ORDER BY name"
    return [Root(*row) for row in await connection.fetch(query, migration)]


async def begin_root(connection: asyncpg.Connection, migration: int, name: str, sentinel: str) -> Root:
    """A root of a migration, which is made if there is none; an earlier sentinel stays."""
    insert = "INSERT INTO root (migration, name, sentinel) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
    await connection.execute(insert, migration, name, sentinel)
    query = "SELECT id, migration, name, sentinel FROM root WHERE migration = $1 AND name = $2"
    return Root(*await connection.fetchrow(query, migration, name))


async def set_cap(connection: asyncpg.Connection, migration: int, cap: int) -> None:
    """Set how many associations all workers of a migration may have together."""
    await connection.execute("UPDATE migration SET cap = $2, target = least(target, $2) WHERE id = $1", migration, cap)


async def set_timeout(connection: asyncpg.Connection, migration: int, timeout_seconds: int, shown: str) -> None:
    """Set after how long a worker is taken for dead. Raises LedgerError for another time than those that run have."""
    if await connection.fetchval(_SET_TIMEOUT, migration, timeout_seconds, LOCKS) is None:
        raise LedgerError(
            f"the heartbeat of the migration in {shown!r} cannot be changed while its workers run: end them first"
        )


async def forget_scans(connection: asyncpg.Connection, root: Root) -> None:
    """Forget what earlier walks found, unless one goes on: the next one may have other parts."""
    delete = "DELETE FROM scan WHERE root = $1 AND NOT EXISTS (SELECT 1 FROM scan WHERE root = $1 AND is_open)"
    await connection.execute(delete, root.id)


async def open_scans(connection: asyncpg.Connection, root: Root, parts: Sequence[bytes]) -> None:
    """Have parts of a root walked by whichever host comes first: call it in a transaction.

    A part is a directory, or several with NUL between them.
    """
    if not parts:
        return
    await connection.execute(_SCANS, root.id, list(parts))
    await engine.queue_scans(connection, root.migration, root.name, parts)


async def refill_scans(connection: asyncpg.Connection, roots: Sequence[Root]) -> None:
    """Queue again what is still to be walked, unless it is in the queue.

    A part that is opened while the engine still deletes its earlier place in the queue gets no new one.
    """
    query = "SELECT path FROM scan WHERE root = $1 AND is_open ORDER BY path OFFSET $2 LIMIT $3"
    for root in roots:
        queued = 0
        while found := await connection.fetch(query, root.id, queued, _REFILLED_AT_ONCE):
            await engine.queue_scans(connection, root.migration, root.name, [row["path"] for row in found])
            queued += len(found)


async def are_walked(connection: asyncpg.Connection, roots: Sequence[Root]) -> bool:
    """Whether nothing is left to be walked, by any host."""
    query = "SELECT NOT EXISTS (SELECT 1 FROM scan WHERE root = ANY($1::int[]) AND is_open)"
    return bool(await connection.fetchval(query, [root.id for root in roots]))


async def end_scan(connection: asyncpg.Connection, root: Root, part: bytes, problems: Sequence[str]) -> None:
    """Note that a part was walked, and what in it cannot be sent."""
    update = "UPDATE scan SET is_open = false, problems = $3 WHERE root = $1 AND path = $2"
    lines = (problem.replace("\n", "\\n") for problem in problems)
    text = "\n".join(lines).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    await connection.execute(update, root.id, part, text)


async def add_batches(
    connection: asyncpg.Connection, root: Root, batches: Sequence[Sequence[Directory]], filling: int | None = None
) -> Added:
    """Record batches and queue them, all in one transaction.

    What fits into the batch `filling`, which an earlier call returned, goes there while no worker has begun it.
    Directories that are in a batch already stay there. Two hosts that add the same ones take turns.
    """
    if not connection.is_in_transaction():
        raise LedgerError("batches and their places in the queue are written together")
    await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCKS_OF_ROOTS, root.id)
    every = list(itertools.chain.from_iterable(batches))
    other: dict[bytes, bool] = dict(await connection.fetch(_OTHER, root.id, *_columns(every)))
    before = None if filling is None else await connection.fetchrow(_FILLING, filling)
    size = None if before is None else Size(*before)
    new: list[int] = []
    for batch in batches:
        directories = [each for each in batch if other.get(each.path)]
        if not directories:
            continue
        added = Size.of(directories)
        if size is not None and size.plus(*added).fits():
            size = size.plus(*added)
            await connection.execute(_FILL, filling, *added)
        else:
            size = added
            filling = await connection.fetchval(_NEW_BATCH, root.id, *added)
            new.append(filling)
        await connection.execute(_NEW_DIRECTORIES, root.id, filling, *_columns(directories))
    known = [each for each in every if other.get(each.path) is False]
    changed = await connection.fetch(_CHANGED, root.id, *_columns(known)) if known else []
    await engine.queue_batches(connection, root.migration, [*new, *(row["id"] for row in changed)])
    return Added(len(new), filling)


def _columns(directories: Sequence[Directory]) -> tuple[list[bytes], list[int], list[int]]:
    """Their paths, their numbers of files, and their stamps."""
    paths = [each.path for each in directories]
    return paths, [each.files for each in directories], [each.stamp for each in directories]


async def totals(connection: asyncpg.Connection, migration: int) -> Totals:
    """What a migration has now."""
    ours = "IN (SELECT id FROM root WHERE migration = $1)"
    counted = await connection.fetchrow(
        "SELECT count(*), coalesce(sum(files), 0)::bigint, coalesce(sum(size_bytes), 0)::bigint "
        f"FROM batch WHERE root {ours}",
        migration,
    )
    waiting = await connection.fetchval(f"SELECT count(*) FROM scan WHERE is_open AND root {ours}", migration)
    problems = await connection.fetch(f"SELECT problems FROM scan WHERE problems <> '' AND root {ours}", migration)
    lines = [line for row in problems for line in row["problems"].split("\n")]
    large = await connection.fetch(_LARGE_DIRECTORIES, migration, _LARGE, _LARGEST)
    largest = [(os.fsdecode(name.encode() + b":" + path), count) for name, path, count in large]
    batches, files, size_bytes = counted
    return Totals(batches, files, size_bytes, waiting, lines, largest)
