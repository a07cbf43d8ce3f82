"""Groups directories into batches: what one sender works on, over one association."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_FILES: Final = 2000
MOST_BYTES: Final = 4 << 30


class Directory(NamedTuple):
    """A directory with the files that lie directly in it.

    `path` is relative to its root, and ends in a slash; it is empty for the root itself.
    """

    path: bytes
    files: int
    size_bytes: int


def batches_of(
    directories: Iterable[Directory], *, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES
) -> Iterator[list[Directory]]:
    """Group neighbours, as many as fit into a batch. A directory is never cut, however large: it may be one study."""
    batch: list[Directory] = []
    files = size_bytes = 0
    for directory in directories:
        if not directory.files:
            continue
        files += directory.files
        size_bytes += directory.size_bytes
        if batch and (files > most_files or size_bytes > most_bytes):
            yield batch
            batch, files, size_bytes = [], directory.files, directory.size_bytes
        batch.append(directory)
    if batch:
        yield batch
