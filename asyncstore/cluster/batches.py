"""Groups directories into batches: what one sender works on, over one association."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_FILES: Final = 2000
MOST_BYTES: Final = 4 << 30
# The directories of a study lie side by side, and so may thousands of studies: only this many batches stay together.
_TOGETHER: Final = 4


class Directory(NamedTuple):
    """A directory with the files that lie directly in it.

    `path` is relative to its root, and ends in a slash; it is empty for the root itself. `stamp` is another number
    whenever a file has another name, size or modification time.
    """

    path: bytes
    files: int
    size_bytes: int
    stamp: int = 0


class Size(NamedTuple):
    """How much a batch has."""

    files: int
    size_bytes: int

    @classmethod
    def of(cls, directories: Iterable[Directory]) -> Size:
        """That of these directories together."""
        size = cls(0, 0)
        for directory in directories:
            size = size.plus(directory.files, directory.size_bytes)
        return size

    def plus(self, files: int, size_bytes: int) -> Size:
        """The sum."""
        return Size(self.files + files, self.size_bytes + size_bytes)

    def fits(self, batches: int = 1) -> bool:
        """Whether so much goes into one batch, or into several."""
        return self.files <= batches * MOST_FILES and self.size_bytes <= batches * MOST_BYTES


def batches_of(directories: Iterable[Directory]) -> Iterator[list[Directory]]:
    """Group neighbours, as many as fit into a batch.

    A directory is never cut, however large, and neighbours in one directory stay together, as the series of a study,
    unless they would make more than four batches.
    """
    batch: list[Directory] = []
    size = Size(0, 0)
    for unit in _units(directories):
        size = size.plus(*Size.of(unit))
        if batch and not size.fits():
            yield batch
            batch, size = [], Size.of(unit)
        batch += unit
    if batch:
        yield batch


def _units(directories: Iterable[Directory]) -> Iterator[list[Directory]]:
    """What stays together."""
    with_files = (directory for directory in directories if directory.files)
    for _, neighbours in itertools.groupby(with_files, key=lambda directory: parent_of(directory.path)):
        unit: list[Directory] = []
        size = Size(0, 0)
        for directory in neighbours:
            unit.append(directory)
            size = size.plus(directory.files, directory.size_bytes)
            if not size.fits(_TOGETHER):
                break
        if size.fits(_TOGETHER):
            yield unit
        else:
            yield from ([directory] for directory in itertools.chain(unit, neighbours))


def parent_of(path: bytes) -> bytes:
    """The directory in which one lies."""
    return path[: path.rfind(b"/", 0, -1) + 1]
