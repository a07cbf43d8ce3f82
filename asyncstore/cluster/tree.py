"""What lies below a root: its directories, and by what a host sees that the root is the right one. Blocks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from asyncstore.cluster.batches import Directory
from asyncstore.errors import SourceError
from asyncstore.inputs.walk import walk
from asyncstore.instances.problem import ScanProblem
from asyncstore.ledger.packing import PATH_ENCODING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SAMPLED: Final = 3
_STAMPS: Final = 1 << 63  # what a bigint has room for


class Listing(NamedTuple):
    """A directory, its subdirectories, and what in it cannot be sent, a line each."""

    directory: Directory
    subdirectories: list[bytes]
    problems: list[str]


def listing_of(mount: str, path: bytes) -> Listing:
    """List one directory below a root; that it cannot be read is a problem in the listing.

    A link to a file is a file. One to a directory is a problem: two hosts might send what it leads to twice.
    """
    files = size_bytes = stamp = 0
    subdirectories: list[bytes] = []
    problems: list[str] = []
    try:
        with _entries_of(os.path.join(os.fsencode(mount), path)) as entries:
            for entry in entries:
                name = entry.name.encode(*PATH_ENCODING)
                if entry.is_file():  # first, since most are
                    status = entry.stat()
                    size = status.st_size
                    size_bytes += size
                    files += 1
                    # Squares, so that two files that change their names with each other are noticed, too.
                    mark = crc32(name) + size + status.st_mtime_ns
                    stamp += mark * mark
                elif entry.is_dir(follow_symlinks=False):
                    subdirectories.append(path + name + b"/")
                elif entry.is_dir():
                    problems.append(f"{os.fsdecode(path + name)}: a link to a directory: make it a root")
    except OSError as error:
        problems.append(f"{os.fsdecode(path) or '.'}: {error.strerror}")
    return Listing(Directory(path, files, size_bytes, stamp % _STAMPS), sorted(subdirectories), problems)


@contextlib.contextmanager
def _entries_of(directory: bytes) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Its entries, each looked up in the open directory: by its whole path it takes the system a sixth longer."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


class Descent:
    """Lists directories and all below them, each before its subdirectories, by name.

    `rest` are those that are not listed yet, the next one last.
    """

    def __init__(self, mount: str, paths: Sequence[bytes]) -> None:
        self.rest: list[bytes] = list(reversed(paths))
        self._mount = mount

    def __iter__(self) -> Iterator[Listing]:
        while self.rest:
            listing = listing_of(self._mount, self.rest.pop())
            self.rest += reversed(listing.subdirectories)
            yield listing


def sentinel_of(mount: str) -> str:
    """What tells a root from an empty directory at the same place: a few of its files. Raises SourceError without one.

    Nothing is written to the root.
    """
    found = (each for each in walk(mount, recursive=True) if not isinstance(each, ScanProblem))
    sampled = [[os.path.relpath(path, mount), *_stamp(path)] for path in itertools.islice(found, _SAMPLED)]
    if not sampled:
        raise SourceError(f"there is no file in {mount!r}: is it mounted?")
    return json.dumps(sampled)


def check_sentinel(mount: str, sentinel: str) -> None:
    """Raise SourceError unless one of the files is there as it was: a share that is not mounted has none of them."""
    sampled = json.loads(sentinel)
    for path, *stamp in sampled:
        try:
            if list(_stamp(os.path.join(mount, path))) == stamp:
                return
        except OSError:
            continue
    raise SourceError(f"{mount!r} is not the root that was enqueued: it has none of its files, as {sampled[0][0]!r}")


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
