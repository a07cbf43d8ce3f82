"""The hashes by which a ledger finds paths and SOP Instance UIDs, and a filter in memory that says which it never met.

Both kinds share an index. One lies wholly before the other in it, so that each can be read alone.
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

# The filter that a run begins with is small: touching 16 MiB for the first time takes as long as 5000 instances.
_FIRST_BYTES: Final = 1 << 18
_FIRST_HASHES: Final = 1 << 14
_BYTES: Final = 1 << 24

_PAIRS: Final = [1 << one | 1 << other for one, other in itertools.combinations(range(8), 2)]
_TWO_BITS: Final = bytes(_PAIRS[number % len(_PAIRS)] for number in range(256))


def hash_of_path(key: bytes) -> int:
    """The hash by which a path is found: 46 bits, of which the upper 14 are the directory's.

    So what lies together on the disk lies together in the index: it is written and looked up with few pages.
    """
    return hashes_of_paths([key])[0]


def hash_of_uid(uid: str) -> int:
    """The hash by which a UID is found; those that differ in their last component only are neighbours too."""
    key = uid.encode() if uid.isascii() else uid.encode("utf-8", "surrogatepass")
    end = key.rfind(b".")
    group = crc32(key[:end])
    return FIRST_UID_HASH | (group & _GROUPS) << 32 | crc32(key[end:], group)


def hashes_of_paths(keys: Sequence[bytes]) -> list[int]:
    """The hash of each path; quick where neighbours share a directory."""
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
    """Says of a hash that it was never added, or that it may have been; of flat size, whatever is added.

    Every hash sets two bits of one byte. Of 1,000,000 one in 400 others is taken for one of them, of 10,000,000 one in
    20. Threads may ask while one adds.
    """

    def __init__(self, expected: int) -> None:
        self._room = _FIRST_HASHES - expected
        # Each with the mask that makes a hash an offset. The last one is being filled.
        self._parts: tuple[tuple[bytearray, int], ...] = (_part(_BYTES if self._room < 0 else _FIRST_BYTES),)

    def __contains__(self, number: int) -> bool:
        two = _TWO_BITS[number >> 24 & 0xFF]
        for bits, last in self._parts:  # noqa: SIM110  a generator takes longer than all of this
            if bits[number & last] & two == two:
                return True
        return False

    def add(self, number: int) -> None:
        """From now on this hash may have been added."""
        if not self._room:
            self._parts = (*self._parts, _part(_BYTES))
        self._room -= 1
        bits, last = self._parts[-1]
        bits[number & last] |= _TWO_BITS[number >> 24 & 0xFF]

    def add_rows(self, rows: Iterable[tuple[int]]) -> None:
        """Add as many hashes as were expected, each in a row of its own as SQLite gives them."""
        bits, last = self._parts[-1]
        two_bits = _TWO_BITS
        for (number,) in rows:
            bits[number & last] |= two_bits[number >> 24 & 0xFF]


def _part(size_bytes: int) -> tuple[bytearray, int]:
    return bytearray(size_bytes), size_bytes - 1
