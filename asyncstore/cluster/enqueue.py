"""Walks the roots of a migration and records batches, together with every other host that does the same.

A host walks some ten batches of a tree, and leaves the rest in parts to whichever comes first. Doing it again adds
what is new, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Final

import asyncpg

from asyncstore.cluster import claims, engine, tables
from asyncstore.cluster.batches import MOST_FILES, Size, batches_of, parent_of
from asyncstore.cluster.tree import Descent, check_sentinel, sentinel_of
from asyncstore.ledger.packing import without_password
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import connect, ledger_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncstore.cluster.batches import Directory
    from asyncstore.cluster.tables import Root, Totals

_AT_ONCE: Final = 4
# After this many files or directories the rest is left in so many parts. Smaller parts take the engine longer than the
# walk: 10 s for 200,000 files in parts of 500.
_FILES_OF_A_PART: Final = 10 * MOST_FILES
_DIRECTORIES_OF_A_PART: Final = 2000
_PARTS: Final = 16
# PostgreSQL's indexes have room for 2,700 bytes.
_LONGEST_PART: Final = 1000
_NUL: Final = b"\0"
# Batches of one transaction; a subtree may have thousands.
_BATCHES_AT_ONCE: Final = 20
_ERRORS: Final = (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Progress:
    """How far this host has walked: files and bytes that it found, and the batches among them that are new."""

    def __init__(self) -> None:
        self.files: int = 0
        self.size_bytes: int = 0
        self.new_batches: int = 0

    def note(self, batches: Sequence[Sequence[Directory]], new: int) -> None:
        """Count what was found."""
        size = Size.of(itertools.chain.from_iterable(batches))
        self.files += size.files
        self.size_bytes += size.size_bytes
        self.new_batches += new


async def enqueue(
    dsn: str,
    migration: str,
    destination: str,
    mounts: Mapping[str, str],
    *,
    cap: int | None = None,
    progress: Progress | None = None,
) -> Totals:
    """Walk these roots, each at its path on this host, until every directory is in a batch, and every batch queued.

    `cap` limits the associations of all workers together. Raises SourceError if a root is not there, LedgerError if
    the database cannot be used.
    """
    shown = without_password(dsn)
    try:
        async with contextlib.AsyncExitStack() as stack:
            asking, adding, queue = [await _connected(stack, dsn) for _ in range(3)]
            number, roots = await _begin(asking, shown, migration, destination, mounts)
            if cap is not None:
                await tables.set_cap(asking, number, cap)
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


async def _connected(stack: contextlib.AsyncExitStack, dsn: str) -> asyncpg.Connection:
    connection = await connect(dsn, "enqueue")
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
    walks = [_Walk(adding, root, mount, turn, progress) for root, mount in mounts.items()]

    async def is_done() -> bool:
        if any(walk.failure for walk in walks) or await tables.are_walked(asking, list(mounts)):
            return True
        if not any(walk.at_work for walk in walks):
            await tables.refill_scans(asking, list(mounts))
        return False

    names = {engine.scan_name(walk.root.migration, walk.root.name): walk.perform for walk in walks}
    await engine.run_scans(queue, names, is_done, at_once=_AT_ONCE)
    for walk in walks:
        if walk.failure is not None:
            raise walk.failure


class _Walk:
    """Walks directories of one root, in a thread, and adds what it finds.

    `at_work` counts those that it walks now; `failure` is what kept it from that.
    """

    def __init__(
        self, connection: asyncpg.Connection, root: Root, mount: str, turn: asyncio.Lock, progress: Progress
    ) -> None:
        self._connection = connection
        self.root = root
        self.failure: Exception | None = None
        self.at_work: int = 0
        self._mount = mount
        self._turn = turn  # of the connection
        self._progress = progress
        self._filling: int | None = None

    async def perform(self, part: bytes) -> None:
        """Walk a part of the tree, and leave the rest in parts if it is large. It stays to be walked if that fails."""
        self.at_work += 1
        try:
            await self._walk(Descent(self._mount, part.split(_NUL)), part)
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.at_work -= 1

    async def _walk(self, descent: Descent, part: bytes) -> None:
        problems: list[str] = []
        batches = batches_of(_first_directories(descent, problems))
        is_all = False
        while not is_all:
            found = await asyncio.to_thread(lambda: list(itertools.islice(batches, _BATCHES_AT_ONCE)))
            is_all = len(found) < _BATCHES_AT_ONCE
            async with self._turn, self._connection.transaction():
                await self._add(found)
                if is_all:
                    await tables.open_scans(self._connection, self.root, list(_parts_of(descent.rest[::-1])))
                    await tables.end_scan(self._connection, self.root, part, problems)

    async def _add(self, batches: Sequence[Sequence[Directory]]) -> None:
        if batches:
            added = await tables.add_batches(self._connection, self.root, batches, self._filling)
            self._filling = added.filling
            self._progress.note(batches, added.batches)


def _first_directories(descent: Descent, problems: list[str]) -> Iterator[Directory]:
    """As many as one host walks at once; of each, what cannot be sent is added to the problems.

    It ends between a directory without subdirectories and one that is not its neighbour: neighbours stay together. But
    there may be millions of them.
    """
    files = 0
    for directories, listing in enumerate(descent, 1):
        problems += listing.problems
        path = listing.directory.path
        yield listing.directory
        files += listing.directory.files
        walked = max(files / _FILES_OF_A_PART, directories / _DIRECTORIES_OF_A_PART)
        is_end = descent.rest and parent_of(descent.rest[-1]) not in (path, parent_of(path))
        if walked >= 2 or (walked >= 1 and is_end):
            return


def _parts_of(paths: Sequence[bytes]) -> Iterator[bytes]:
    """Directories in parts, joined by what no path contains."""
    most = -(-len(paths) // _PARTS)
    part: list[bytes] = []
    for path in paths:
        if part and (len(part) >= most or sum(map(len, part)) + len(part) + len(path) > _LONGEST_PART):
            yield _NUL.join(part)
            part = []
        part.append(path)
    if part:
        yield _NUL.join(part)
