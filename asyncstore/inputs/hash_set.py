"""A set of texts that only knows whether a text is new: it keeps a hash of each, and not the text."""

from __future__ import annotations

from array import array
from typing import Final

# Each part is doubled by itself: a set of millions never needs twice its memory, and never makes its user wait.
_PARTS: Final = 256
_FIRST_SLOTS: Final = 16


class HashSet:
    """Counts different texts, of which it keeps 64 bits each: 11 to 22 bytes of memory, whatever their length.

    Two texts with one hash count as one. Among a million that has a chance of 1 in 37 million, among 100 million 1 in
    3,700. The hashes are those of this process: nobody can choose texts that collide.
    """

    __slots__ = ("_counts", "_parts")

    def __init__(self) -> None:
        self._parts = [_empty(_FIRST_SLOTS) for _ in range(_PARTS)]
        self._counts = [0] * _PARTS

    def __len__(self) -> int:
        return sum(self._counts)

    def add(self, text: str | bytes) -> bool:
        """Add a text; returns whether it is new."""
        number = hash(text) or 1
        which = number & (_PARTS - 1)
        part = self._parts[which]
        mask = len(part) - 1
        at = number >> 8 & mask
        while there := part[at]:
            if there == number:
                return False
            at = at + 1 & mask
        part[at] = number
        self._counts[which] += 1
        if self._counts[which] * 4 > len(part) * 3:
            self._parts[which] = _doubled(part)
        return True


def _empty(slots: int) -> array[int]:
    return array("q", bytes(8 * slots))


def _doubled(part: array[int]) -> array[int]:
    """The same hashes with twice as many slots: each in the first free one from where its upper bits say."""
    larger = _empty(2 * len(part))
    mask = len(larger) - 1
    for number in filter(None, part):
        at = number >> 8 & mask
        while larger[at]:
            at = at + 1 & mask
        larger[at] = number
    return larger
