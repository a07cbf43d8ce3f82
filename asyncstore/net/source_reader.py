"""Reads the data sets of an association: in the event loop while that is quick, otherwise in threads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from asyncstore.aio.waits import waits_so_far

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.source import DataSource
    from asyncstore.upper_layer.framing import Run

T = TypeVar("T")

# How many threads one association may have, including abandoned ones.
_THREADS: Final = 40

# Opening a file and reading a run of it from memory takes 0.1 ms; on a busy machine, a few.
_SLOW_READ_SECONDS: Final = 0.005
_FIRST_SLOW_SECONDS: Final = 1.0
_LAST_SLOW_SECONDS: Final = 64.0


class SourceReader:
    """Reads in the event loop, as long as that is quick.

    A source that knows that its bytes are not in memory leaves them to a thread. But opening a file on a share takes
    milliseconds all the same, in which no association moves: after such a read, threads read everything for a while. On
    a busy machine a read from memory may last as long. So after a first slow read the next ones are looked at: only one
    that had to wait counts.
    These threads do not count as the program's: files on a share that hangs may block them all.
    """

    def __init__(self) -> None:
        self._next_at = 0.0
        self._wait_seconds = _FIRST_SLOW_SECONDS
        self._is_wary = False
        self._threads = anyio.CapacityLimiter(_THREADS)

    def read_now(self, source: DataSource, run: Run) -> bool:
        """Fill the run's holes; False when a thread must do that."""
        began_at = time.monotonic()
        if began_at < self._next_at:
            return False
        waits = waits_so_far() if self._is_wary else None
        is_read = source.read_into(run.holes, run.offset, wait=False)
        ended_at = time.monotonic()
        if ended_at - began_at <= _SLOW_READ_SECONDS:
            self._is_wary = False
            self._wait_seconds = _FIRST_SLOW_SECONDS
        elif waits is None:
            self._is_wary = True
        elif waits_so_far() != waits:
            self._next_at = ended_at + self._wait_seconds
            self._wait_seconds = min(2 * self._wait_seconds, _LAST_SLOW_SECONDS)
        return is_read

    async def read_in_thread(self, source: DataSource, run: Run) -> None:
        """Fill the run's holes in a thread; an abandoned thread closes the source."""
        is_abandoned = False

        def read() -> None:
            try:
                if not (is_read := source.read_into(run.holes, run.offset)):
                    raise TypeError(f"read_into returned {is_read!r:.200}, not True: it has not filled the holes")
            finally:
                if is_abandoned:
                    source.close()

        try:
            await self.in_thread(read)
        except BaseException:
            is_abandoned = True
            raise

    async def in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        """Call it in a thread, which is abandoned when the wait for it is cancelled."""
        return await anyio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True, limiter=self._threads)
