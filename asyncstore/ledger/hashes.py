"""Hashes by which a ledger finds paths and SOP Instance UIDs, and a filter in memory for UIDs that it does not have.

Both kinds of hash share an index. All of one kind come before the other, so each can be read alone.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# 47 bits in all, the most that SQLite keeps in six bytes.
FIRST_UID_HASH: Final = 1 << 46
_GROUPS: Final = (1 << 14) - 1

# A run begins with a small filter: touching 16 MiB for the first time takes as long as sending 5000 instances.
_FIRST_BYTES: Final = 1 << 18
_FIRST_HASHES: Final = 1 << 14
_BYTES: Final = 1 << 24

_PAIRS: Final = [1 << one | 1 << other for one, other in itertools.combinations(range(8), 2)]
_TWO_BITS: Final = bytes(_PAIRS[number % len(_PAIRS)] for number in range(256))


def hash_of_path(key: bytes) -> int:
    """The hash of a path: 46 bits, of which the upper 14 are the directory's.

    Files of one directory are therefore neighbours in the index, and few pages are written and read for them.
    """
    return hashes_of_paths([key])[0]


def hash_of_uid(uid: str) -> int:
    """The hash of a UID. UIDs that differ only in their last component are neighbours, too."""
    key = uid.encode() if uid.isascii() else uid.encode("utf-8", "surrogatepass")
    end = key.rfind(b".")
    group = crc32(key[:end])
    return FIRST_UID_HASH | (group & _GROUPS) << 32 | crc32(key[end:], group)


def hashes_of_paths(keys: Sequence[bytes]) -> list[int]:
    """The hash of each path; fast if neighbours share a directory."""
    hashes = []
    directory, group, crc = b"", 0, 0
    for key in keys:
        end = key.rfind(b"/")
        if key[:end] != directory:
            directory = key[:end]
            crc = crc32(directory)
            group = (crc & _GROUPS) << 32
        hashes.append(group | crc32(key[end:], crc))
    return hashes


class HashFilter:
    """A set of hashes with false positives (a Bloom filter): "not in it" is certain, "in it" is not.

    Each hash sets two bits of one byte. With 1,000,000 hashes, one in 400 others seems to be in it; with 10,000,000,
    one in 20. Other threads may ask while one adds.
    """

    def __init__(self, expected: int) -> None:
        self._room = _FIRST_HASHES - expected
        # Each part has a mask that turns a hash into an offset. The last part is being filled.
        self._parts: tuple[tuple[bytearray, int], ...] = (_part(_BYTES if self._room < 0 else _FIRST_BYTES),)

    def __contains__(self, number: int) -> bool:
        two = _TWO_BITS[number >> 24 & 0xFF]
        for bits, last in self._parts:  # noqa: SIM110  a generator takes longer than all of this
            if bits[number & last] & two == two:
                return True
        return False

    def add(self, number: int) -> None:
        """Add a hash."""
        if not self._room:
            self._parts = (*self._parts, _part(_BYTES))
        self._room -= 1
        bits, last = self._parts[-1]
        bits[number & last] |= _TWO_BITS[number >> 24 & 0xFF]

    def add_rows(self, rows: Iterable[tuple[int]]) -> None:
        """Add the expected number of hashes, each in a row of its own, as SQLite returns them."""
        bits, last = self._parts[-1]
        two_bits = _TWO_BITS
        for (number,) in rows:
            bits[number & last] |= two_bits[number >> 24 & 0xFF]


def _part(size_bytes: int) -> tuple[bytearray, int]:
    return bytearray(size_bytes), size_bytes - 1
