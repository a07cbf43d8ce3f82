"""Runs a blocking iterator in a thread, and passes each entry to the event loop as soon as it comes.

Passing several at once would be cheaper, but the first would have to wait for the next one, which may be an hour away,
or may itself wait for the outcome of the first.

The thread is not a worker thread of the event loop: the interpreter waits for those when it exits, and nothing can wake
a blocked iterator.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from asyncstore.aio.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How many entries the thread may be ahead. They may be large, and need only bridge the time until the loop's next turn.
_AHEAD: Final = 16


class Pump:
    """Passes on the entries of an iterator: call `start`, `take` until it returns nothing, then `stop`."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._entries: deque[Any] = deque()
        self._room = threading.Semaphore(_AHEAD)
        self._error: BaseException | None = None
        self._has_ended = False
        self._is_stopped = False
        self._is_awaited = False
        self._changed = Signal()

    def start(self) -> None:
        """Start to iterate, in a thread that nobody waits for after `stop`."""
        self._call_in_loop = _caller_of_this_loop()
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._iterate,), name="asyncstore sources", daemon=True).start()

    async def take(self) -> list[Any]:
        """The entries that have come, at least one; an empty list at the end. An error of the iterator comes last."""
        while not self._entries and not self._has_ended:
            self._is_awaited = True
            if not self._entries and not self._has_ended:  # the thread may not have seen that it is awaited
                await self._changed.wait()
        self._is_awaited = False
        taken = [self._entries.popleft() for _ in range(len(self._entries))]
        if taken:
            self._room.release(len(taken))
        elif self._error is not None:
            raise self._error
        return taken

    def stop(self) -> None:
        """End the thread as soon as the iterator returns."""
        self._is_stopped = True
        self._room.release()

    def _iterate(self) -> None:
        try:
            for entry in self._iterator:
                self._entries.append(entry)
                self._wake()
                self._room.acquire()
                if self._is_stopped:
                    return
        except BaseException as error:
            self._error = error
        finally:
            self._has_ended = True
            self._wake()

    def _wake(self) -> None:
        if self._is_awaited and not self._is_stopped:
            with contextlib.suppress(RuntimeError):  # the event loop has ended meanwhile
                self._call_in_loop(self._changed.set)


def _caller_of_this_loop() -> Callable[[Callable[[], object]], object]:
    """A function that, from any thread, makes the running event loop call another function soon."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
