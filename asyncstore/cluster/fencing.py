"""A connection to the peer over which a worker sends nothing any more when others may have begun with what it sends.

A process that was stopped goes on wherever it was, and what a host has sent while it was cut off waits in its system.
So the last look is where bytes are handed over, and bytes that wait there are thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from asyncstore.errors import ConnectionLost
from asyncstore.net.connecting import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.cluster.heart import Fence
    from asyncstore.net.peer import Peer
    from asyncstore.net.transport import Connect, Transport


def connect_within(fence: Fence) -> Connect:
    """Opens connections that end where a fence says so."""

    async def connect_fenced(peer: Peer, timeout_seconds: float) -> FencedTransport:
        return FencedTransport(await connect(peer, timeout_seconds), fence)

    return connect_fenced


class FencedTransport:
    """Another transport, as long as the others know that this worker lives."""

    def __init__(self, transport: Transport, fence: Fence) -> None:
        self._transport = transport
        self._fence = fence
        self.receive_some: Callable[[], bytes | None] = transport.receive_some
        self.acknowledge: Callable[[], None] = transport.acknowledge

    @property
    def is_closed(self) -> bool:
        """Whether we have closed it."""
        return self._transport.is_closed

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Send some, unless it is too late: then the connection is reset."""
        if self._fence.must_be_silent:
            self.close()
            raise ConnectionLost("the database was not reached for too long: another worker may send the same")
        return self._transport.send_some(parts)

    async def wait_writable(self) -> None:
        """Return when `send_some` may take bytes again, or refuses them since it is too late."""
        while not self._fence.must_be_silent:
            with anyio.move_on_after(self._fence.seconds_to_silence):
                await self._transport.wait_writable()
                return

    async def watch(self, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever something can be received."""
        await self._transport.watch(on_readable)

    def close(self, *, reset: bool = False) -> None:
        """Close it; with what the system has not sent yet, once an association must be aborted for the others."""
        self._transport.close(reset=reset or self._fence.must_abort)
