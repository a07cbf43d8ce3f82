"""A data set that is sent with one byte more than its file has, and with a few other bytes in place of the file's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.instances.source import DataSource


class DerivedSource:
    """A data set of `length_bytes` that is made of another source while it is read."""

    __slots__ = ("_source", "length_bytes")

    def __init__(self, source: DataSource, length_bytes: int) -> None:
        self.length_bytes: int = length_bytes
        self._source = source

    def view(self) -> memoryview | None:
        """None: the bytes are nowhere in memory as they are sent."""
        return None

    def let_go(self) -> None:
        """Free the memory of the source."""
        self._source.let_go()

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class PaddedSource(DerivedSource):
    """A data set with one byte more than `source` has: `padding` stands at offset `at`.

    `replaced` are bytes of the source that are others here, each with its offset in the source.
    """

    __slots__ = ("_at", "_padding", "_replaced")

    def __init__(self, source: DataSource, at: int, padding: bytes, replaced: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(source, source.length_bytes + 1)
        self._at = at
        self._padding = padding
        self._replaced = tuple(replaced)

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Fill the holes from the source, and with what differs; see DataSource."""
        before, rest = divided(holes, self._at - offset)
        padding, behind = divided(rest, self._at + 1 - max(offset, self._at)) if rest else ([], [])
        kept = before + behind
        begin = offset - (offset > self._at)
        if kept and not self._source.read_into(kept, begin, wait=wait):
            return False
        if padding:
            padding[0][:] = self._padding
        for at, replacement in self._replaced:
            _overwrite(kept, at - begin, replacement)
        return True


def divided(holes: Sequence[memoryview], at: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `at` bytes of holes, and the others."""
    first: list[memoryview] = []
    second: list[memoryview] = []
    for hole in holes:
        room = min(max(at, 0), len(hole))
        if room:
            first.append(hole[:room])
        if room < len(hole):
            second.append(hole[room:])
        at -= len(hole)
    return first, second


def _overwrite(holes: Sequence[memoryview], at: int, data: bytes) -> None:
    """Put bytes at an offset of holes laid end to end, as far as the holes reach."""
    for hole in holes:
        begin, end = max(at, 0), min(at + len(data), len(hole))
        if begin < end:
            hole[begin:end] = data[begin - at : end - at]
        at -= len(hole)
