"""Shares the event loop among peers that need more of it than others."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel

from asyncstore.aio.signal import Signal

# Others count as at work for this long after they were: they wait for answers, and are back at once.
_AT_WORK_SECONDS: Final = 0.05

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Lane:
    """Lets one task go on at a time, the most useful first; the others of the program run in between.

    Without it, ten peers whose bytes cost much and bring nothing would get ten times what each other peer gets.
    `start_soon` starts a task that ends with the program's part that has the lane.
    """

    def __init__(self, start_soon: Callable[[Callable[[], Coroutine[Any, Any, None]]], object]) -> None:
        self._start_soon = start_soon
        self._waiting: list[tuple[int, int, Signal]] = []
        self._numbers = itertools.count()
        self._members = 0
        self._is_leading = False

    async def wait(self, usefulness: int) -> None:
        """Return when it is this task's turn: at the next chance if nobody else waits."""
        self._members += 1
        try:
            if self._members == 1:
                await anyio.lowlevel.checkpoint()
                return
            signal = Signal()
            heapq.heappush(self._waiting, (-usefulness, next(self._numbers), signal))
            if not self._is_leading:
                self._is_leading = True
                self._start_soon(self._lead)
            await signal.wait()
        finally:
            self._members -= 1

    async def _lead(self) -> None:
        """Let one of those who wait go on, each time that all other tasks have run."""
        try:
            while self._waiting:
                heapq.heappop(self._waiting)[2].set()
                await anyio.lowlevel.checkpoint()
        finally:
            self._is_leading = False


class BulkShare:
    """Leaves others half of the time, while they are at work, beside any number of peers that send very much.

    `others_at` is when one of the others was last at work, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.others_at: float = -math.inf
        self._next_at = -math.inf

    def has_room(self, now: float) -> bool:
        """Whether one of these peers may go on; if not, ask again when the others have run."""
        return now >= self._next_at or now - self.others_at > _AT_WORK_SECONDS

    def took(self, began_at: float, ended_at: float) -> None:
        """Note how long one of them took."""
        self._next_at = ended_at + (ended_at - began_at)
