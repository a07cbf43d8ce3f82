"""Cheap waiting and turn-taking within one event loop, for code that runs for every instance.

The events and locks of anyio find their backend, the current task and its cancel scopes on every use. That took a tenth
of the time of a small instance.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

import anyio


class Signal:
    """Wakes tasks when something may have changed; each must check for itself whether it has.

    A `set` is not remembered when no task waits: check the condition and then wait, without an await in between.
    """

    __slots__ = ("_events", "_loop", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # looking it up takes a system call
        self._waiting: list[asyncio.Future[None]] = []
        self._events: list[anyio.Event] = []  # on other event loops than asyncio's

    def set(self) -> None:
        """Wake all tasks that wait now."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        elif self._events:
            events, self._events = self._events, []
            for event in events:
                event.set()

    async def wait(self) -> None:
        """Wait for the next `set`."""
        loop = self._loop or self._running_loop()
        if loop is None:
            event = anyio.Event()
            self._events.append(event)
            await event.wait()
            return
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        await future

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        return self._loop


async def wait_for_any(*signals: Signal) -> None:
    """Wait for the next `set` of any of these signals; as with one of them, check first and do not pause in between.

    The part of a program that changes owns its signal and sets it, without knowing who waits. A task that waits for
    changes in several parts waits for several signals: nothing is handed on from one signal to another.
    """
    loop = signals[0]._loop or signals[0]._running_loop()
    if loop is None:
        event = anyio.Event()
        for signal in signals:
            signal._events.append(event)
        try:
            await event.wait()
        finally:
            for signal in signals:
                if event in signal._events:
                    signal._events.remove(event)
        return
    future: asyncio.Future[None] = loop.create_future()
    for signal in signals:
        signal._waiting.append(future)
    try:
        await future
    finally:
        for signal in signals:
            if future in signal._waiting:
                signal._waiting.remove(future)


class Turn:
    """Lets one task at a time into a block, first come, first served: `await turn.wait()`, then at once `with turn`."""

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self.is_taken: bool = False
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


def is_cancelled() -> bool:
    """Whether the current task is being cancelled: else a cancelled exception is what a cancelled future gave it."""
    return anyio.current_effective_deadline() == -math.inf
