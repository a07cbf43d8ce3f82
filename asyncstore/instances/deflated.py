"""Deflates, and bounds what a deflated stream may grow to: a megabyte must not fill a gigabyte of memory."""

from __future__ import annotations

import zlib
from typing import Final

# A stream that grows so much is a bomb. Deflate reaches 1030 at most, and images that are empty but for their headers
# about 400.
BOMB_BYTES: Final = 1 << 30
BOMB_RATIO: Final = 500
# Of a query, an answer, or a report on thousands of instances.
MESSAGE_BYTES: Final = 1 << 24


def is_bomb(inflated_bytes: int, deflated_bytes: int) -> bool:
    """Whether so many deflated bytes have grown to so many others as those of no image do."""
    return inflated_bytes > BOMB_BYTES and inflated_bytes > BOMB_RATIO * deflated_bytes


def deflated(data: bytes) -> bytes:
    """A data set as it is sent in Deflated Explicit VR Little Endian, with an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    whole = deflater.compress(data) + deflater.flush()
    return whole + b"\0" * (len(whole) % 2)


def inflated(data: bytes, most: int) -> bytes:
    """A whole deflated stream, which may be padded; ValueError if it is damaged or grows to more than `most` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"the deflated stream is damaged: {error}") from error
    if len(whole) > most:
        raise ValueError(f"the deflated stream grows to more than {most:,} bytes")
    return whole
