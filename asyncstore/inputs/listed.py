"""Reads a list of paths: one per line, or each ended by NUL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_PIECE_BYTES: Final = 65536
_LONGEST_BYTES: Final = 65536


def listed_paths(stream: BinaryIO, *, ends_in_nul: bool) -> Iterator[str]:
    """The paths in a list, which is closed at the end. Reads only as far as the caller asks.

    Of what is longer than any path, and so not a list of paths, only the beginning is given; the system will refuse it.
    """
    end = b"\0" if ends_in_nul else b"\n"
    with stream:
        rest = b""
        # read1: what has been piped in so far, so that the first path is sent before the last is written.
        while piece := stream.read1(_PIECE_BYTES):  # type: ignore[attr-defined]
            *whole, rest = (rest + piece).split(end)
            yield from _decoded(whole, end)
            rest = rest[:_LONGEST_BYTES]
        yield from _decoded([rest], end)


def _decoded(lines: list[bytes], end: bytes) -> Iterator[str]:
    for line in lines:
        path = line if end == b"\0" else line.removesuffix(b"\r")
        if path:
            yield os.fsdecode(path)
