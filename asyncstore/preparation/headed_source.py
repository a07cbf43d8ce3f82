"""A data set whose beginning is another one: bytes in memory, and behind them the rest of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.instances.source import copy_into
from asyncstore.preparation.padded_source import DerivedSource, divided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.instances.source import DataSource


class HeadedSource(DerivedSource):
    """A data set that begins with `head`, and goes on as `source` does from offset `at`."""

    __slots__ = ("_at", "_head")

    def __init__(self, head: bytes, source: DataSource, at: int) -> None:
        super().__init__(source, len(head) + source.length_bytes - at)
        self._head = head
        self._at = at

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Fill the holes from the head, and from the source; see DataSource."""
        length = len(self._head)
        if holes and offset < length:
            room = length - offset
            if room <= len(holes[0]):  # nearly always: a head is short
                holes[0][:room] = self._head[offset:]
                holes = [holes[0][room:], *holes[1:]] if room < len(holes[0]) else holes[1:]
            else:
                first, holes = divided(holes, room)
                copy_into(first, memoryview(self._head), offset)
            offset = length
        return not holes or self._source.read_into(holes, offset - length + self._at, wait=wait)
