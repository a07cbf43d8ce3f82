"""Writes to a transport connection, and remembers a PDU that was written only in part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from asyncstore.aio.signal import Turn
from asyncstore.errors import Timeout
from asyncstore.upper_layer.framing import Run, run_of_pdus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence
    from typing import Any, Protocol

    from asyncstore.errors import AsyncStoreError
    from asyncstore.net.transport import Transport

    class Pacer(Protocol):
        """Lets data sets pass at a pace that several associations may share."""

        async def grant(self, wanted_bytes: int) -> int:
            """Wait until some of these bytes may be sent, and return how many: at least one."""


class Writer:
    """Sends runs and bytes; every wait for the peer ends after `network_seconds` without a byte taken.

    One task writes at a time, in its `turn`. `waits` counts the waits for the peer. Raises ConnectionLost,
    Timeout("network"), or the error that `interrupt` was given.
    """

    def __init__(self, transport: Transport, network_seconds: float) -> None:
        self.turn: Turn = Turn()
        self.waits: int = 0
        self._transport = transport
        self._network_seconds = network_seconds
        self._unfinished: tuple[Run, int] | None = None  # a run, and how many of its bytes are on the wire
        self._interruption: AsyncStoreError | None = None
        self._blocked: anyio.CancelScope | None = None

    async def send_rest(self, run: Run, sent_bytes: int, pacer: Pacer | None = None) -> None:
        """Send a run from that byte on, in pieces that `pacer` lets pass.

        An interruption may leave the run, and its PDU, unfinished.
        """
        granted_bytes = run.command_bytes if pacer is not None else run.total_bytes
        try:
            while sent_bytes < run.total_bytes:
                if pacer is not None:
                    granted_bytes += await self._wait_for_grant(pacer, run.total_bytes - granted_bytes)
                while sent_bytes < granted_bytes:
                    taken = self._transport.send_some(_cut(run.parts, sent_bytes, granted_bytes))
                    sent_bytes += taken
                    if not taken:
                        await self._wait_writable()
                        if self._interruption is not None:
                            raise self._interruption
        except BaseException:
            self._unfinished = (run, sent_bytes)
            raise

    def write(self, pdus: bytes) -> Awaitable[object] | None:
        """Write whole PDUs, after any that are being written; await the result, if any, to write the rest."""
        if not pdus:
            return None
        run = run_of_pdus(pdus)
        if self.turn.is_taken:
            return self._write_in_turn(run)
        sent_bytes = self._transport.send_some(run.parts)
        return None if sent_bytes == run.total_bytes else Unwritten(self, run, sent_bytes)

    async def _write_in_turn(self, run: Run) -> None:
        await self.turn.wait()
        with self.turn:
            await self.send_rest(run, 0)

    async def send_bytes(self, data: bytes | memoryview) -> None:
        """Send bytes in spite of an interruption: the last PDU of an association."""
        left = memoryview(data)
        while left:
            taken = self._transport.send_some((left,))
            if not taken:
                await self._wait_writable()
            left = left[taken:]

    async def finish_pdu(self) -> bool:
        """Send the rest of a PDU that is partly sent; does nothing and returns False if it would end a message."""
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
        """End a send that waits for the peer, now or later, with this error."""
        self._interruption = error
        if self._blocked is not None:
            self._blocked.cancel()

    async def _wait_for_grant(self, pacer: Pacer, wanted_bytes: int) -> int:
        """How many more bytes may be sent, when some may."""
        granted_bytes = 0
        if self._interruption is None:
            with anyio.CancelScope() as self._blocked:
                try:
                    granted_bytes = await pacer.grant(wanted_bytes)
                finally:
                    self._blocked = None
        if self._interruption is not None:
            raise self._interruption
        return granted_bytes

    async def _wait_writable(self) -> None:
        with anyio.move_on_after(self._network_seconds) as scope:
            self._blocked = scope
            try:
                await self._transport.wait_writable()
            finally:
                self._blocked = None
        self.waits += 1
        if scope.cancelled_caught:
            raise self._interruption or Timeout("network", self._network_seconds)


class Unwritten:
    """The rest of a run that the peer did not take at once: await it, or close it. It has the turn until then."""

    def __init__(self, writer: Writer, run: Run, sent_bytes: int) -> None:
        writer.turn.take()
        self._writer = writer
        self._run = run
        self._sent_bytes = sent_bytes

    def __await__(self) -> Generator[Any, Any, None]:
        return self._write().__await__()

    def close(self) -> None:
        """Leave it unwritten."""
        self._writer.turn.release()

    async def _write(self) -> None:
        with self._writer.turn:
            await self._writer.send_rest(self._run, self._sent_bytes)


def _cut(parts: Sequence[memoryview | bytes], start: int, end: int) -> list[memoryview]:
    """The bytes `start` to `end` of parts laid end to end."""
    pieces: list[memoryview] = []
    at = 0
    for part in parts:
        if at + len(part) > start and at < end:
            pieces.append(memoryview(part)[max(start - at, 0) : end - at])
        at += len(part)
    return pieces
