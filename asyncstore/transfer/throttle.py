"""Keeps a transfer to a number of bytes per second: a token bucket for all associations, and the queue before it."""

from __future__ import annotations

import math
import time
from typing import Final

import anyio

from asyncstore.aio.signal import Turn

# Large data sets are sent in pieces that take this long at the limit, so that associations take turns and no peer waits
# for long in the middle of a message.
PIECE_SECONDS: Final = 0.05
LEAST_PIECE_BYTES: Final = 1024
# The time that a stalled event loop or a slow peer may lose and make up for; longer idleness does not end in a burst.
CATCH_UP_SECONDS: Final = 0.2


class TokenBucket:
    """Says how many bytes may be sent now. Has no clock: `now` is monotonic, in seconds.

    `bytes_per_second` None: no limit. Bytes are paid for after they are taken; nothing may be taken before `ready_at`,
    when all are paid for. As this is a time, a new limit needs no conversion and takes effect within one piece.
    """

    def __init__(self) -> None:
        self.bytes_per_second: float | None = None
        self.ready_at: float = -math.inf

    def change(self, bytes_per_second: float | None, now: float) -> None:
        """Set another limit from now on. Time that was not used under the old one is not made up for."""
        self.bytes_per_second = bytes_per_second
        self.ready_at = max(self.ready_at, now)

    def take(self, wanted_bytes: int, now: float) -> int:
        """Take up to this many bytes, and return how many; 0 while `now` is before `ready_at`."""
        if self.bytes_per_second is None:
            return wanted_bytes
        if now < self.ready_at:
            return 0
        piece_bytes = max(LEAST_PIECE_BYTES, int(self.bytes_per_second * PIECE_SECONDS))
        taken_bytes = min(wanted_bytes, piece_bytes)
        self.ready_at = max(self.ready_at, now - CATCH_UP_SECONDS) + taken_bytes / self.bytes_per_second
        return taken_bytes


class Throttle:
    """A bucket that associations share; they take from it in the order in which they came."""

    def __init__(self) -> None:
        self.bucket: TokenBucket = TokenBucket()
        self._turn = Turn()

    async def grant(self, wanted_bytes: int) -> int:
        """Wait until some of these bytes may be sent, and return how many: at least one."""
        await self._turn.wait()
        with self._turn:
            while not (granted_bytes := self.bucket.take(wanted_bytes, time.monotonic())):  # noqa: ASYNC110
                await anyio.sleep(max(0.0, self.bucket.ready_at - time.monotonic()))
            return granted_bytes
