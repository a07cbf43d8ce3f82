"""Keeps one task from having the event loop to itself."""

from __future__ import annotations

import time
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

# How long one association may have the event loop to itself; a pause costs 10 us.
_TURN_SECONDS: Final = 0.002


class LoopShare:
    """How long a task may have the event loop without a pause: it never has to wait when its peer sends without one."""

    def __init__(self) -> None:
        self._ends_at = 0.0

    def is_used_up(self) -> bool:
        """Whether the last pause is some milliseconds ago; of the path that every fragment takes."""
        return time.monotonic() >= self._ends_at

    async def renew(self) -> None:
        """Let everybody else have a turn."""
        await anyio.lowlevel.checkpoint()
        self._ends_at = time.monotonic() + _TURN_SECONDS
