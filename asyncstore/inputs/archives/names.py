"""Tells members of one name apart: an archive may have several, and each must have its own path."""

from __future__ import annotations

import os
from typing import Final

_BUCKETS: Final = 4096
_HASH_BYTES: Final = 6


class Names:
    """The names of the members so far. One takes 7 bytes of memory, however long it is, and 100 if it comes again.

    A name that comes again gets a number: `1.dcm`, `1 (2).dcm`, `1 (3).dcm`. As long as an archive is the same, so are
    the numbers.
    """

    # Of a name only 60 bits of its hash are kept: the lowest 12 choose the bucket, the others are in it. Two of a
    # million names are the same by chance in one of five million archives, and then one of them has a number.

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._numbers: dict[int, int] = {}  # by the hash of the name, which may be long

    def own(self, name: str) -> str:
        """A name of its own for the next member."""
        if self._add(name):
            return name
        number = self._numbers.get(hash(name), 1)
        stem, extension = os.path.splitext(name)
        while True:
            number += 1
            numbered = f"{stem} ({number}){extension}"
            if self._add(numbered):
                self._numbers[hash(name)] = number
                return numbered

    def _add(self, name: str) -> bool:
        """Note a name; False if it is there already."""
        number = hash(name)
        bucket = self._buckets[number % _BUCKETS]
        key = (number // _BUCKETS % (1 << 8 * _HASH_BYTES)).to_bytes(_HASH_BYTES, "big")
        at = bucket.find(key)
        while at >= 0:
            if at % _HASH_BYTES == 0:
                return False
            at = bucket.find(key, at + 1)
        bucket += key
        return True
