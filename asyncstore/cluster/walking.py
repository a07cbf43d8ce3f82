"""Walks parts of a tree, as the queue hands them out, and adds what it finds."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.cluster import tables
from asyncstore.cluster.batches import MOST_FILES, Size, batches_of, parent_of
from asyncstore.cluster.tree import Descent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    import asyncpg

    from asyncstore.cluster.batches import Directory
    from asyncstore.cluster.tables import Root

Action: TypeAlias = "Callable[[asyncpg.Connection], Awaitable[None]]"
"""Something that is done with a connection; perhaps twice, if the connection was lost."""

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
    """Walks directories of one root, in a thread, and adds what it finds. `run` does something in one transaction.

    `at_work` counts those that it walks now; `failure` is what kept it from that.
    """

    def __init__(
        self, run: Callable[[Action], Awaitable[None]], root: Root, mount: str, progress: Progress | None = None
    ) -> None:
        self._run = run
        self.root = root
        self.failure: Exception | None = None
        self.at_work: int = 0
        self._mount = mount
        self._progress = progress or Progress()
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
            rest = list(_parts_of(descent.rest[::-1])) if is_all else []

            async def add(
                connection: asyncpg.Connection,
                found: Sequence[Sequence[Directory]] = found,
                is_all: bool = is_all,
                rest: Sequence[bytes] = rest,
            ) -> None:
                await self._add(connection, found)
                if is_all:
                    await tables.open_scans(connection, self.root, rest)
                    await tables.end_scan(connection, self.root, part, problems)

            await self._run(add)

    async def _add(self, connection: asyncpg.Connection, batches: Sequence[Sequence[Directory]]) -> None:
        if batches:
            added = await tables.add_batches(connection, self.root, batches, self._filling)
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
