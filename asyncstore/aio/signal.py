"""Cheap waiting and turn-taking within one event loop, for code that runs for every instance.

The events and locks of anyio find their backend, the current task and its cancel scopes on every use. That took a tenth
of the time of a small instance.
"""

from __future__ import annotations

import asyncio
from collections import deque

import anyio


class Signal:
    """Wakes tasks when something may have changed; each must check for itself whether it has.

    A `set` is not remembered when no task waits: check the condition and then wait, without an await in between.
    """

    __slots__ = ("_event", "_loop", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # looking it up takes a system call
        self._waiting: list[asyncio.Future[None]] = []
        self._event: anyio.Event | None = None  # on other event loops than asyncio's

    def set(self) -> None:
        """Wake all tasks that wait now."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        elif self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next `set`."""
        if self._loop is None:
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                if self._event is None:
                    self._event = anyio.Event()
                await self._event.wait()
                return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        await future


class Turn:
    """Lets one task at a time into a block, first come, first served: `await turn.wait()`, then at once `with turn`."""

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting: deque[Signal] = deque()

    async def wait(self) -> None:
        """Return when it is the caller's turn. Need not be called while `is_taken` is False."""
        if not self.is_taken:
            return
        is_ours = Signal()
        self._waiting.append(is_ours)
        try:
            await is_ours.wait()
        except BaseException:
            if is_ours in self._waiting:
                self._waiting.remove(is_ours)
            else:  # it had just become ours
                self._pass_on()
            raise

    def take(self) -> None:
        """Have the turn at once, which nobody has; `release` ends it."""
        self.is_taken = True

    def release(self) -> None:
        """End a turn that began with `take`."""
        self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the task that has waited longest. It stays taken, so no other task comes in between."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self.is_taken = False

    def __enter__(self) -> None:
        self.is_taken = True

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._pass_on()
        else:
            self.is_taken = False
