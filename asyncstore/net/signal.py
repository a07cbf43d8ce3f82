"""Waiting and taking turns inside one event loop, for the path that every instance takes.

The events and locks of anyio do more (they find their backend, the current task and its cancel scopes on every use),
and that was a tenth of what a small instance costs.
"""

from __future__ import annotations

import asyncio

import anyio


class Signal:
    """Lets tasks wait until something may have changed; they look for themselves whether it has.

    A `set` while nobody waits is not remembered: check the condition, then wait, without a pause in between.
    """

    __slots__ = ("_event", "_loop", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it takes a system call
        self._waiting: list[asyncio.Future[None]] = []
        self._event: anyio.Event | None = None  # on other event loops than asyncio's

    def set(self) -> None:
        """Wake everybody who waits now."""
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
    """Lets one task at a time into a block: `await turn.wait()`, then at once `with turn`."""

    __slots__ = ("_is_free", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._is_free = Signal()

    async def wait(self) -> None:
        """Return when nobody is in the block; not even needed while `is_taken` is False."""
        while self.is_taken:
            await self._is_free.wait()

    def __enter__(self) -> None:
        assert not self.is_taken, "wait for the turn first"
        self.is_taken = True

    def __exit__(self, *_: object) -> None:
        self.is_taken = False
        self._is_free.set()
