"""Waking whoever waits: cheaper than an event per wait, because nothing is made until somebody does wait."""

from __future__ import annotations

import anyio


class Signal:
    """Lets tasks wait until something may have changed; they look for themselves whether it has.

    A `set` while nobody waits is not remembered: check the condition, then wait, without a pause in between.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Wake everybody who waits now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next `set`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
