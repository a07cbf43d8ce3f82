"""The transport connection: a non-blocking socket of our own, and the one place where its errors are mapped.

The socket is not wrapped in a stream of the event loop: such a stream copies what one send did not take, and hides the
socket options that decide how fast a small message is answered. Sending and receiving are tried first, and the event
loop is asked only when the socket would block.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeAlias

import anyio

from asyncstore.aio.signal import Signal
from asyncstore.errors import ConnectFailed, ConnectionLost, Timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncstore.net.peer import Peer

# How long the last words may take when an association is aborted: the peer may have stopped reading.
ABORT_SECONDS: Final = 5.0
RECEIVE_BYTES: Final = 1 << 16
# uvloop calls a reader once, and never again, when bytes and a reset come together: what was not read then is found so.
_LOOK_SECONDS: Final = 1.0
_BROKEN_SECONDS: Final = 0.01
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_CLOSED: Final = "the connection was closed"
_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")

_TCP_OPTIONS: Final = (
    # A peer whose machine vanished is noticed within about two minutes also while nothing is being sent.
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 6),
    # What the network does not take yet waits here, not in a buffer of the system's that grows to megabytes: there it
    # would leave the processor's cache, a tenth of the time of a large instance. 10 Gbit/s need 0.2 ms for so much.
    ("TCP_NOTSENT_LOWAT", 1 << 18),
)


class Transport(Protocol):
    """A connection to a peer, as an association uses it; nothing above knows which kind it is.

    Every operation raises ConnectionLost when the connection broke. One task sends at a time, and one receives.
    """

    @property
    def is_closed(self) -> bool:
        """Whether we have closed it."""

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Send what the connection takes at once of `parts`, in order; how many bytes that was, 0 when none."""

    def receive_some(self) -> bytes | None:
        """What has arrived; None when nothing has, b"" when the peer has closed its side."""

    async def wait_writable(self) -> None:
        """Return when `send_some` may take bytes again."""

    async def watch(self, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` for as long as there is something to receive, and whenever something comes; until
        cancelled.

        One call may leave something unread. A transport that holds bytes itself, which its socket no longer shows,
        calls again for those.
        """

    def acknowledge(self) -> None:
        """Have the system acknowledge at once what has come, where that can be asked for."""

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, now. With `reset` what is still unsent is thrown away and the peer sees a reset."""


Connect: TypeAlias = "Callable[[Peer, float], Awaitable[Transport]]"
"""Opens a connection to a peer within so many seconds; raises ConnectFailed, or Timeout("connect")."""


class SocketTransport:
    """A connected TCP socket as a Transport."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.is_closed = False
        self._socket = sock
        self._unwatch: Callable[[], object] | None = None
        self._unwait: Callable[[], object] | None = None
        self._writable = Signal()
        for level, option, value in _OPTIONS:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Send what the socket takes at once of `parts`, in order; give back how many bytes that was, 0 when none."""
        try:
            if len(parts) == 1 or not _HAS_SENDMSG:
                return self._socket.send(parts[0])
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            _lost(error)

    def receive_some(self) -> bytes | None:
        """What has arrived; None when nothing has, b"" when the peer has closed its side."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            _lost(error)

    async def wait_writable(self) -> None:
        """Wait until the socket takes bytes again; one task at a time."""
        self._check_open()
        try:
            loop = asyncio.get_running_loop()
            loop.add_writer(self._socket, self._writable.set)
        except (RuntimeError, NotImplementedError) as error:
            await self._wait(_pause if _is_of_broken(error) else anyio.wait_writable)
            return
        self._unwait = lambda: loop.remove_writer(self._socket)
        try:
            await self._writable.wait()
        finally:
            self._stop_waiting()
        self._check_open()

    async def watch(self, on_readable: Callable[[], None]) -> None:
        """See Transport.

        On asyncio the callback stays registered: registering anew for every wait costs two system calls and a future
        for each response. Elsewhere a wait is taken each time.
        """
        if self.is_closed:  # before this task had its first turn
            return
        try:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._socket, on_readable)
        except (RuntimeError, NotImplementedError) as error:
            ready = _pause if _is_of_broken(error) else anyio.wait_readable
            try:
                while not self.is_closed:
                    await self._wait(ready)
                    on_readable()
            except ConnectionLost:
                if not self.is_closed:  # else by us, meanwhile
                    raise
            return
        self._unwatch = lambda: loop.remove_reader(self._socket)
        try:
            while True:
                await anyio.sleep(_LOOK_SECONDS)
                on_readable()
        finally:
            self._stop_watching()

    def acknowledge(self) -> None:
        """Have the system acknowledge at once what has come.

        A receiver that writes its response in two pieces with Nagle's algorithm on waits for the acknowledgement of the
        first before it sends the second, and Linux would delay that by 40 ms. The option does not stick: set it after
        each first piece, and only then, since every acknowledgement costs both sides. Does nothing where the system
        lacks it.
        """
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def close(self, *, reset: bool = False) -> None:
        """Close the socket, now. With `reset` what is still unsent is thrown away and the peer sees a reset."""
        if self.is_closed:
            return
        self._stop_watching()
        self._stop_waiting()
        anyio.notify_closing(self._socket)
        if reset:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.is_closed = True
        self._socket.close()

    def _stop_watching(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    def _stop_waiting(self) -> None:
        unwait, self._unwait = self._unwait, None
        if unwait is not None:
            unwait()
            self._writable.set()

    def _check_open(self) -> None:
        if self.is_closed:
            raise ConnectionLost(_CLOSED)

    async def _wait(self, ready: Callable[[socket.socket], object]) -> None:
        try:
            await ready(self._socket)  # type: ignore[misc]
        except (anyio.ClosedResourceError, ValueError):
            raise ConnectionLost(_CLOSED) from None
        except RuntimeError as error:
            if not _is_of_broken(error):
                raise
            await _pause(self._socket)
        except OSError as error:
            _lost(error)


async def connect(peer: Peer, timeout_seconds: float) -> SocketTransport:
    """Open a connection to the peer; name resolution and TCP together take at most `timeout_seconds`.

    Every address of the name is tried in turn, each for its share of the time that is left, so that one that does not
    answer does not use up what the others need. Raises ConnectFailed, or Timeout("connect").
    """
    try:
        with anyio.fail_after(timeout_seconds):
            return await _connect(peer)
    except TimeoutError:
        raise Timeout("connect", timeout_seconds) from None


async def _connect(peer: Peer) -> SocketTransport:
    try:
        addresses = await anyio.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        failed = ConnectFailed(f"cannot resolve {peer.host!r}: {_text(error)}")
        failed.retryable = getattr(error, "errno", None) == socket.EAI_AGAIN  # else it is the name that is wrong
        raise failed from error
    failure: OSError = OSError("the name has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # no IPv6 here, say, or no descriptor left
            failure = error
            continue
        try:
            with anyio.fail_after(_share_seconds(len(addresses) - number)):
                await _connect_socket(sock, address)
        except OSError as error:  # a TimeoutError among them
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return SocketTransport(sock)
    raise ConnectFailed(_text(failure)) from failure


def _share_seconds(addresses: int) -> float:
    """How long the next of so many addresses may take to answer; the last one ends with the time for all of them."""
    if addresses == 1:
        return math.inf
    return (anyio.current_effective_deadline() - anyio.current_time()) / addresses


async def _connect_socket(sock: socket.socket, address: object) -> None:
    sock.setblocking(False)
    try:
        sock.connect(address)  # type: ignore[arg-type]
    except (BlockingIOError, InterruptedError):
        await anyio.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None


def _is_of_broken(error: Exception) -> bool:
    """Whether uvloop refuses to wait for a socket: it told of a connection that broke once, and never does again.

    Sending or receiving says what became of it.
    """
    return isinstance(error, RuntimeError) and "handler is closed" in str(error)


async def _pause(_: socket.socket) -> None:
    await anyio.sleep(_BROKEN_SECONDS)


def _text(error: Exception) -> str:
    """`[Errno 111] Connection refused`, or what else the error says."""
    return str(error) or type(error).__name__


def _lost(error: OSError) -> NoReturn:
    raise ConnectionLost(_text(error)) from error


def _options() -> list[tuple[int, int, int]]:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in _TCP_OPTIONS:
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


_OPTIONS: Final = _options()
