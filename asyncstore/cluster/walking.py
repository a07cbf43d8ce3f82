"""Walks directories of a root, as the queue hands them out, and adds what it finds."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final

from asyncstore.cluster import tables
from asyncstore.cluster.batches import batches_of
from asyncstore.cluster.tree import listing_of, listings_below

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from asyncstore.cluster.batches import Directory
    from asyncstore.cluster.tables import Root

_SHARED_LEVELS: Final = 2
# Directories of one transaction; a subtree may have millions.
_DIRECTORIES_AT_ONCE: Final = 2000


class Walk:
    """Walks directories of one root, in a thread. `run` has something done with a connection, in one transaction."""

    def __init__(
        self, run: Callable[[Callable[[asyncpg.Connection], Awaitable[Any]]], Awaitable[Any]], root: Root, mount: str
    ) -> None:
        self.root = root
        self._run = run
        self._mount = mount

    async def perform(self, path: bytes) -> None:
        """Walk one directory: its files if it is of an upper level, whose subdirectories are queued; else all of it."""
        if path.count(b"/") < _SHARED_LEVELS:
            await self._walk_one(path)
        else:
            await self._walk_all(path)

    async def _walk_one(self, path: bytes) -> None:
        listing = await asyncio.to_thread(listing_of, self._mount, path)

        async def add(connection: asyncpg.Connection) -> None:
            await tables.add_batches(connection, self.root, list(batches_of([listing.directory])))
            if listing.subdirectories:
                await tables.open_scans(connection, self.root, listing.subdirectories)
            await tables.end_scan(connection, self.root, path, listing.problems)

        await self._run(add)

    async def _walk_all(self, path: bytes) -> None:
        listings = listings_below(self._mount, path)
        problems: list[str] = []
        while found := await asyncio.to_thread(lambda: list(itertools.islice(listings, _DIRECTORIES_AT_ONCE))):
            problems += [problem for listing in found for problem in listing.problems]
            await self._add([listing.directory for listing in found])
        await self._run(lambda connection: tables.end_scan(connection, self.root, path, problems))

    async def _add(self, directories: list[Directory]) -> None:
        batches = list(batches_of(directories))
        await self._run(lambda connection: tables.add_batches(connection, self.root, batches))
