"""Walks parts of a tree, as the queue hands them out, and adds what it finds."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

from asyncstore.cluster import tables
from asyncstore.cluster.batches import MOST_FILES, Size, batches_of, parent_of
from asyncstore.cluster.tree import Descent, check_sentinel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import asyncpg

    from asyncstore.cluster.batches import Directory
    from asyncstore.cluster.engine import Place
    from asyncstore.cluster.link import Link
    from asyncstore.cluster.tables import Root

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


class Walk:
    """Walks directories of one root, in a thread, and adds what it finds."""

    def __init__(self, link: Link, root: Root, mount: str, progress: Progress | None = None) -> None:
        self._link = link
        self._root = root
        self._mount = mount
        self._progress = progress or Progress()
        self._filling: int | None = None

    async def perform(self, place: Place) -> None:
        """Walk a part of the tree, and leave the rest in parts if it is large. It stays to be walked if that fails."""
        await asyncio.to_thread(check_sentinel, self._mount, self._root.sentinel)
        descent = Descent(self._mount, place.part.split(_NUL))
        problems: list[str] = []
        batches = batches_of(_first_directories(descent, problems))
        is_all = False
        while not is_all:
            found = await asyncio.to_thread(lambda: list(itertools.islice(batches, _BATCHES_AT_ONCE)))
            is_all = len(found) < _BATCHES_AT_ONCE

            async def add(
                connection: asyncpg.Connection, found: Sequence[Sequence[Directory]] = found, is_all: bool = is_all
            ) -> int:
                async with connection.transaction():
                    new = await self._add(connection, found)
                    if is_all:
                        await tables.open_scans(connection, self._root, list(_parts_of(descent.rest[::-1])))
                        await tables.end_scan(connection, self._root, place.part, problems)
                return new

            self._progress.note(found, await self._link.run(add))

    async def _add(self, connection: asyncpg.Connection, batches: Sequence[Sequence[Directory]]) -> int:
        if not batches:
            return 0
        added = await tables.add_batches(connection, self._root, batches, self._filling)
        self._filling = added.filling
        return added.batches


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
