"""Keeps one task from occupying the event loop."""

from __future__ import annotations

import time
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

# How long one association may occupy the event loop; a pause costs 10 us.
_TURN_SECONDS: Final = 0.002


class LoopShare:
    """Tells a task when to pause: while its peer never stops sending, it would never have to wait."""

    def __init__(self) -> None:
        self._ends_at = 0.0

    def is_used_up(self) -> bool:
        """Whether the last pause was some milliseconds ago. Cheap: it is asked for every fragment."""
        return time.monotonic() >= self._ends_at

    async def renew(self) -> None:
        """Let all other tasks run once."""
        await anyio.lowlevel.checkpoint()
        self._ends_at = time.monotonic() + _TURN_SECONDS
