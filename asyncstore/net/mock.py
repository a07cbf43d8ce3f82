"""A peer in memory: a Transport that plays a script, for tests of code that uses an association.

connect = MockTransport.opened_by([accept, answer_everything, b""])
async with associate(peer, contexts=contexts, connect=connect) as association: ...
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel

from asyncstore.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncstore.net.peer import Peer
    from asyncstore.net.transport import Connect

Step: TypeAlias = "bytes | Exception | Callable[[bytes], bytes | None]"
"""One step of the script: bytes that arrive, b"" when the peer closes its side, an exception that receiving raises, or
a function that is given everything sent since the last step, until it gives the bytes that arrive then."""


class MockTransport:
    """A Transport without a network: plays the peer's part of a connection from a script.

        connect = asyncstore.MockTransport.opened_by([accept, answer_everything, b""])
        async with asyncstore.associate(peer, contexts=contexts, connect=connect) as association: ...

    Each step of `script` is played when the one before has been received. A step is bytes that arrive, b"" when the
    peer closes its side, an exception that receiving raises, or a function. The function is called with all bytes sent
    since the last step, again and again, until it returns the bytes that arrive then and not None.

    `sent` has all bytes that were sent. `room` is how many more bytes are taken; at 0 sending blocks and `has_stalled`
    is set, until `make_room` is called. `is_closed`: we have closed it; `was_reset`: by a reset.
    """

    def __init__(self, script: Iterable[Step] = (), *, room: float = math.inf) -> None:
        self.sent: bytearray = bytearray()
        self.room: float = room
        self.is_closed: bool = False
        self.was_reset: bool = False
        self.has_stalled: anyio.Event = anyio.Event()
        self._script = deque(script)
        self._seen = 0  # the length of `sent` that earlier steps have seen
        self._arrived: bytes | Exception | None = None
        self._changed = anyio.Event()

    @classmethod
    def opened_by(cls, script: Iterable[Step] = (), *, room: float = math.inf) -> Connect:
        """Make a function to pass as `connect`, which opens this kind of connection; the steps are played once."""
        transport = cls(script, room=room)

        async def connect(peer: Peer, seconds: float) -> MockTransport:
            return transport

        return connect

    def make_room(self, room: float = math.inf) -> None:
        """Take `room` more bytes."""
        self.room = room
        self._wake()

    def play(self, *steps: Step) -> None:
        """Add steps to the script."""
        self._script.extend(steps)
        self._wake()

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Take as much of `parts`, in order, as there is `room` for; returns how many bytes that was."""
        self._check_open()
        data = b"".join(parts)
        taken = data if self.room == math.inf else data[: int(self.room)]
        self.room -= len(taken)
        self.sent += taken
        if taken:
            self._wake()
        return len(taken)

    def receive_some(self) -> bytes | None:
        """Return the bytes of the current step, None before they arrive; raise its exception."""
        self._check_open()
        self._advance()
        arrived = self._arrived
        if isinstance(arrived, Exception):
            raise arrived
        if arrived != b"":  # the end can be read again
            self._arrived = None
        return arrived

    async def wait_writable(self) -> None:
        """Return when there is room again."""
        while not self.is_closed and self.room <= 0:
            self.has_stalled.set()
            await self._changed.wait()
        self._check_open()

    async def watch(self, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` for each step that arrives, until closed or cancelled."""
        while not self.is_closed:
            changed = self._changed
            self._advance()
            if self._arrived is None:
                await changed.wait()
                continue
            has_ended = self._arrived == b"" or isinstance(self._arrived, Exception)
            on_readable()
            if has_ended:  # the end can be read again and again
                await changed.wait()
            else:
                await anyio.lowlevel.checkpoint()

    def acknowledge(self) -> None:
        """Do nothing: nothing waits for an acknowledgement in memory."""

    def close(self, *, reset: bool = False) -> None:
        """Close it; `was_reset` says whether by a reset."""
        self.is_closed = True
        self.was_reset = self.was_reset or reset
        self._wake()

    def _advance(self) -> None:
        """Play the next step, if it is its turn and bytes arrive."""
        if self._arrived is not None or not self._script:
            return
        step = self._script[0]
        if isinstance(step, bytes | Exception):
            self._arrived = step
        else:
            self._arrived = step(bytes(self.sent[self._seen :]))
            if self._arrived is None:
                return
        self._script.popleft()
        self._seen = len(self.sent)

    def _check_open(self) -> None:
        if self.is_closed:
            raise ConnectionLost("the connection was closed")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
