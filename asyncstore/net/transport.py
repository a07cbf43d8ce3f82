"""The transport connection: a non-blocking socket of our own, and the one place where its errors are mapped.

The socket is not wrapped in a stream of the event loop: a stream copies what one send did not take, and hides the
socket options that decide how fast a small message is answered. Sending and receiving are tried first, and the event
loop is asked only when the socket would block.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import math
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeAlias

import anyio
import anyio.lowlevel

from asyncstore.aio.signal import Signal
from asyncstore.errors import ConnectFailed, ConnectionLost, Timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from asyncstore.net.peer import Peer

    _Address: TypeAlias = tuple[Any, ...]
    _AddressInfo: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, _Address]

# How long sending an A-ABORT may take: the peer may have stopped reading.
ABORT_SECONDS: Final = 5.0
RECEIVE_BYTES: Final = 1 << 16
# If bytes and a reset come together, uvloop calls a reader only once: looking again this often finds the rest.
_LOOK_SECONDS: Final = 1.0
_BROKEN_SECONDS: Final = 0.01
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_CLOSED: Final = "the connection was closed"
_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")

_TCP_OPTIONS: Final = (
    # A peer whose machine vanished is noticed within about two minutes, even while nothing is being sent.
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 6),
    # Bytes that the network does not take yet wait here, not in a system buffer that grows to megabytes: there they
    # would leave the processor's cache, which cost a tenth of the time of a large instance. 10 Gbit/s send this many
    # bytes in 0.2 ms.
    ("TCP_NOTSENT_LOWAT", 1 << 18),
)


class Transport(Protocol):
    """A connection to a peer, of any kind: TCP, MockTransport, or one of your own.

    The `connect` argument of `asyncstore.associate` opens it. Every operation raises ConnectionLost when the connection
    broke; any other exception aborts the association and is raised out of its block. At most one task sends and one
    receives at a time.
    """

    @property
    def is_closed(self) -> bool:
        """Whether we have closed it."""

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Send as much of `parts`, in order, as the connection takes at once; returns how many bytes that was."""

    def receive_some(self) -> bytes | None:
        """Return bytes that have arrived; None if there are none, b"" when the peer has closed its side."""

    async def wait_writable(self) -> None:
        """Return when `send_some` may take bytes again."""

    async def watch(self, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever something can be received, until cancelled.

        One call may leave bytes unread: call again while there are any, also if the transport holds them itself and its
        socket does not show them.
        """

    def acknowledge(self) -> None:
        """Make the system acknowledge received bytes at once, if it can."""

    def close(self, *, reset: bool = False) -> None:
        """Close the connection now. With `reset`, discard unsent bytes: the peer sees a reset."""


Connect: TypeAlias = "Callable[[Peer, float], Awaitable[Transport]]"
"""Opens a connection to a peer within this many seconds; raises ConnectFailed, or Timeout("connect").

Any other exception is raised out of `async with` as it is; what is not a Transport raises LocalProtocolError there."""


class SocketTransport:
    """A connected TCP socket as a Transport."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.is_closed: bool = False
        self._socket = sock
        self._unwatch: Callable[[], object] | None = None
        self._unwait: Callable[[], object] | None = None
        self._writable = Signal()
        for level, option, value in _OPTIONS:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)

    @property
    def peer_address(self) -> str:
        """The address and port of the other end."""
        try:
            host, port, *_ = self._socket.getpeername()
        except OSError:  # it has left
            return "a peer that left"
        return f"{host} port {port}"

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Send as much of `parts`, in order, as the socket takes at once; returns how many bytes that was."""
        try:
            if len(parts) == 1 or not _HAS_SENDMSG:
                return self._socket.send(parts[0])
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            _lost(error)

    def receive_some(self) -> bytes | None:
        """Return bytes that have arrived; None if there are none, b"" when the peer has closed its side."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            _lost(error)

    async def wait_readable(self) -> None:
        """Wait until something can be received, while nothing watches."""
        await self._wait(anyio.wait_readable)

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
        for each response. Other event loops wait anew each time.
        """
        if self.is_closed:  # before this task ran for the first time
            return
        try:
            loop = asyncio.get_running_loop()
            _context_of_asyncio().run(loop.add_reader, self._socket, on_readable)
        except (RuntimeError, NotImplementedError) as error:
            ready = _pause if _is_of_broken(error) else anyio.wait_readable
            try:
                while not self.is_closed:
                    await self._wait(ready)
                    on_readable()
            except ConnectionLost:
                if not self.is_closed:  # else we closed it meanwhile
                    raise
            return
        self._unwatch = lambda: loop.remove_reader(self._socket)
        try:
            while True:
                await anyio.sleep(_LOOK_SECONDS)
                on_readable()
                while self._holds_bytes():  # one call takes only some of them
                    await anyio.lowlevel.checkpoint()
                    on_readable()
        finally:
            self._stop_watching()

    def _holds_bytes(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:  # none; or closed, or broken: then the next look tells
            return False

    def acknowledge(self) -> None:
        """Make the system acknowledge received bytes at once.

        A receiver that writes its response in two pieces with Nagle's algorithm on waits for the acknowledgement of the
        first before it sends the second, and Linux would delay that by 40 ms. The option does not stick: set it after
        each first piece, and only then, since every acknowledgement costs both sides. Does nothing where the system
        lacks it.
        """
        if _QUICKACK is None:
            return
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except OSError:  # the next read or write says what is wrong
            return

    def close(self, *, reset: bool = False) -> None:
        """Close the socket now. With `reset`, discard unsent bytes: the peer sees a reset."""
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
    addresses = await _resolve(peer.host, peer.port)
    sources: dict[int, _Address] = {}
    if peer.source_address is not None:
        ours = await _resolve(*peer.source_address, what="the source address")
        sources = {family: address for family, _, _, _, address in reversed(ours)}
        addresses = [each for each in addresses if each[0] in sources]
        if not addresses:
            what = f"cannot call {peer.host!r} from {peer.source_address[0]!r}"
            raise _failed(f"{what}: one is IPv4, the other IPv6", may_pass=False)
    failure: Exception = ConnectFailed("the name has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            sock = _socket(family, kind, protocol, sources.get(family))
        except (OSError, ConnectFailed) as error:  # for example no IPv6 here, or no descriptor left
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
    if isinstance(failure, ConnectFailed):
        raise failure
    raise ConnectFailed(_text(failure)) from failure


async def _resolve(host: str, port: int, what: str = "") -> Sequence[_AddressInfo]:
    with contextlib.suppress(OSError, UnicodeError):  # of an address, at once; a name may need a server, and a thread
        return socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    try:
        return await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        is_busy = getattr(error, "errno", None) == socket.EAI_AGAIN  # else the name is wrong
        name = f"{what} {host!r}".lstrip()
        raise _failed(f"cannot resolve {name}: {_text(error)}", may_pass=is_busy) from error


def _socket(family: int, kind: int, protocol: int, source: _Address | None) -> socket.socket:
    """A socket that calls from an address of this machine: from `source`, else from the one that the system chooses."""
    sock = socket.socket(family, kind, protocol)
    if source is None:
        return sock
    try:
        if source[1]:  # the system keeps the port of a closed connection for a while
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(source)
    except OSError as error:
        sock.close()
        where = f"{source[0]}, port {source[1]}" if source[1] else source[0]
        is_ours = error.errno != errno.EADDRNOTAVAIL
        reason = _text(error) if is_ours else "it is not an address of this machine"
        raise _failed(f"cannot call from {where}: {reason}", may_pass=error.errno == errno.EADDRINUSE) from error
    return sock


def _failed(text: str, *, may_pass: bool) -> ConnectFailed:
    failed = ConnectFailed(text)
    failed.retryable = may_pass
    return failed


def _share_seconds(addresses: int) -> float:
    """How long the next of this many addresses may take to answer; the last one has all the time that is left."""
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
    """Whether uvloop refuses to wait for a socket: it reports a broken connection only once.

    Sending or receiving then raises the actual error.
    """
    return isinstance(error, RuntimeError) and "handler is closed" in str(error)


async def _pause(_: socket.socket) -> None:
    await anyio.sleep(_BROKEN_SECONDS)


def _text(error: Exception) -> str:
    """The text of an error, such as `[Errno 111] Connection refused`, or else its class."""
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


def _context_of_asyncio() -> contextvars.Context:
    """A context for callbacks, in which anyio knows the event loop though no task runs.

    With sniffio installed, anyio asks that, and it knows the loop only of tasks, unless anyio.run has started it.
    """
    context = contextvars.copy_context()
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context
