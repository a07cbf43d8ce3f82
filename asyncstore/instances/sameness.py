"""Whether two instances are the same: the same data set, byte for byte, in the same transfer syntax."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource

_PIECE_BYTES: Final = 1 << 20


def have_same_data_set(one: Instance, other: Instance) -> bool:
    """Compare two instances. Blocks while it reads both; no other thread may read them meanwhile."""
    if (one.transfer_syntax_uid, one.data_set_length) != (other.transfer_syntax_uid, other.data_set_length):
        return False
    with contextlib.closing(one.source), contextlib.closing(other.source):
        return _have_same_bytes(one.source, other.source, one.data_set_length)


def _have_same_bytes(one: DataSource, other: DataSource, length: int) -> bool:
    left, right = bytearray(min(_PIECE_BYTES, length)), bytearray(min(_PIECE_BYTES, length))
    for at in range(0, length, _PIECE_BYTES):
        if length - at < len(left):
            left, right = left[: length - at], right[: length - at]
        with memoryview(left) as hole:
            one.read_into([hole], at)
        with memoryview(right) as hole:
            other.read_into([hole], at)
        if left != right:
            return False
    return True
