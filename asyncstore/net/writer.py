"""Writes to a transport connection, and knows in the middle of which PDU the writing stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from asyncstore.errors import Timeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.errors import AsyncStoreError
    from asyncstore.net.transport import SocketTransport
    from asyncstore.upper_layer.framing import Run


class Sender:
    """Sends runs and bytes; every wait for the peer ends after `network_seconds` without a byte taken.

    One task at a time. Raises ConnectionLost, Timeout("network"), or what `interrupt` was given.
    """

    def __init__(self, transport: SocketTransport, network_seconds: float) -> None:
        self._transport = transport
        self._network_seconds = network_seconds
        self._unfinished: tuple[Run, int] | None = None  # a run, and how many of its bytes are on the wire
        self._interruption: AsyncStoreError | None = None
        self._blocked: anyio.CancelScope | None = None

    async def send_rest(self, run: Run, sent_bytes: int) -> None:
        """Send a run from that byte on; an interruption may leave it, and its PDU, unfinished."""
        try:
            while sent_bytes < run.total_bytes:
                taken = self._transport.send_some(_cut(run.parts, sent_bytes, run.total_bytes))
                sent_bytes += taken
                if not taken:
                    await self._wait_writable()
                    if self._interruption is not None:
                        raise self._interruption
        except BaseException:
            self._unfinished = (run, sent_bytes)
            raise

    async def send_bytes(self, data: bytes | memoryview) -> None:
        """Send what an interruption must not keep back: the last words of an association."""
        left = memoryview(data)
        while left:
            taken = self._transport.send_some((left,))
            if not taken:
                await self._wait_writable()
            left = left[taken:]

    async def finish_pdu(self) -> bool:
        """Send the rest of a PDU that is partly on the wire; False, and nothing, if a message would end with it."""
        if self._unfinished is None:
            return True
        run, sent_bytes = self._unfinished
        end = run.end_of_pdu(sent_bytes)
        if end == run.total_bytes and run.is_last:
            return end == sent_bytes
        for part in _cut(run.parts, sent_bytes, end):
            await self.send_bytes(part)
        return True

    def interrupt(self, error: AsyncStoreError) -> None:
        """Have a send that waits for the peer, or will, end with this error."""
        self._interruption = error
        if self._blocked is not None:
            self._blocked.cancel()

    async def _wait_writable(self) -> None:
        with anyio.move_on_after(self._network_seconds) as scope:
            self._blocked = scope
            try:
                await self._transport.wait_writable()
            finally:
                self._blocked = None
        if scope.cancelled_caught:
            raise self._interruption or Timeout("network", self._network_seconds)


def _cut(parts: Sequence[memoryview | bytes], start: int, end: int) -> list[memoryview]:
    """The bytes `start` to `end` of parts laid end to end."""
    pieces: list[memoryview] = []
    at = 0
    for part in parts:
        if at + len(part) > start and at < end:
            pieces.append(memoryview(part)[max(start - at, 0) : end - at])
        at += len(part)
    return pieces
