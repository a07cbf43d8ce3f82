"""Tells a deflated stream that no image can have: a bomb."""

from __future__ import annotations

from typing import Final

# A stream that grows so much is a bomb. Deflate reaches 1030 at most, and images that are empty but for their headers
# about 400.
BOMB_BYTES: Final = 1 << 30
BOMB_RATIO: Final = 500


def is_bomb(inflated_bytes: int, deflated_bytes: int) -> bool:
    """Whether so many deflated bytes have grown to so many others as those of no image do."""
    return inflated_bytes > BOMB_BYTES and inflated_bytes > BOMB_RATIO * deflated_bytes
