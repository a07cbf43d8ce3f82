"""TLS on a transport connection (PS3.15 Annex B): a Transport like that of TCP, which nothing above tells apart.

OpenSSL works on memory, and the socket stays ours. Measured with TLS 1.3 and AES-256-GCM, a GB costs 0.6 s of CPU, and
0.8 s where OpenSSL writes to the socket: it does so for each record of 16 KB. And bytes that are encrypted are sent,
whatever follows: a socket of OpenSSL's that would block cannot send anything else than the same bytes again, not even
an A-ABORT.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal
from asyncstore.errors import AsyncStoreError, ConnectionLost, TLSFailed
from asyncstore.net import tls_errors
from asyncstore.net.tls_context import client_context, looking_context, server_context
from asyncstore.net.tls_errors import Suspicion
from asyncstore.net.transport import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from asyncstore.net.peer import Peer
    from asyncstore.net.tls_settings import TLS
    from asyncstore.net.transport import SocketTransport

# Encrypted at once, and then sent: as many bytes as the system takes before they leave the processor's cache. 64 to 256
# KB were best, 16 KB twice as slow.
_PIECE_BYTES: Final = 1 << 18
_RECORD_BYTES: Final = 1 << 14  # the most that a record holds (RFC 8446 5.1)
# A part as long as this is encrypted where it is: laying it together with the little before it takes longer than one
# more record.
_LARGE_BYTES: Final = 1 << 15


class TLSTransport:
    """TLS on a connected TCP socket, as a Transport; the handshake is over.

    `suspicion` is what the peer may hold against us. In TLS 1.3 a client learns only by its first read that the peer
    does not take its certificate.
    """

    def __init__(self, tcp: SocketTransport, wire: Wire, suspicion: Suspicion | None) -> None:
        self._tcp = tcp
        self._wire = wire
        self._suspicion = suspicion
        self._unsent = memoryview(b"")  # encrypted bytes that the socket does not take yet
        self._drained = Signal()
        self._flusher: object = None
        self._lost: ConnectionLost | None = None
        # What came with the end of the handshake, and what followed the bytes that were given last.
        self._ready: deque[bytes | AsyncStoreError] = deque()
        self._decrypt()

    @property
    def is_closed(self) -> bool:
        """Whether we have closed it."""
        return self._tcp.is_closed

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate as `ssl.SSLSocket.getpeercert` gives it; None if none was checked."""
        return self._wire.tls.getpeercert() or None

    # -- sending -------------------------------------------------------------------------------------------------------

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        """Encrypt and send as much of `parts`, in order, as the socket takes at once; returns how many bytes that was.

        What is encrypted is part of the stream and counts as taken. The little of it that the socket does not take is
        sent on in the background, and nothing more is taken until it is.
        """
        if self._lost is not None:
            raise self._lost
        if self._unsent:
            return 0
        taken, outgoing = 0, self._wire.outgoing
        try:
            for piece in _pieces(parts):
                taken += self._wire.tls.write(piece)
                if outgoing.pending > _LARGE_BYTES and not self._send(outgoing.read()):
                    return taken
            if outgoing.pending:
                self._send(outgoing.read())
        except ssl.SSLError as error:  # the peer ended TLS
            raise self._broken_by(error) from error
        except ConnectionLost as error:
            raise self._explained(error) from None
        return taken

    def _send(self, encrypted: bytes | memoryview) -> bool:
        """Send encrypted bytes; False if some must wait."""
        sent_bytes = self._tcp.send_some((encrypted,))
        if sent_bytes == len(encrypted):
            return True
        self._unsent = memoryview(encrypted)[sent_bytes:]
        if self._flusher is None:
            self._flusher = _in_background(self._flush)
        return False

    async def _flush(self) -> None:
        """Send what waits, and return when the socket takes more: then an A-ABORT that follows goes out at once."""
        try:
            while not self._tcp.is_closed:
                await self._tcp.wait_writable()
                if not self._unsent:
                    return
                self._unsent = self._unsent[self._tcp.send_some((self._unsent,)) :]
        except ConnectionLost as error:
            self._lost = error
        finally:
            self._flusher = None
            self._drained.set()

    async def wait_writable(self) -> None:
        """Wait until bytes are taken again."""
        while self._flusher is not None:
            await self._drained.wait()
        if self._lost is not None:
            raise self._lost
        if self._tcp.is_closed:
            raise ConnectionLost("the connection was closed")

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive_some(self) -> bytes | None:
        """Return all that has come and can be decrypted; None if there is none, b"" when the peer has closed its side.

        DICOM says itself where a message and an association end: an end of the connection that the peer did not
        announce (close_notify) cuts nothing off that would count as whole.
        """
        while not self._ready:
            try:
                data = self._tcp.receive_some()
            except ConnectionLost as error:
                raise self._explained(error) from None
            if data is None:
                return None
            self._wire.put(data)
            self._decrypt()
        ready = self._ready.popleft()
        if isinstance(ready, AsyncStoreError):
            raise ready
        return ready

    def _decrypt(self) -> None:
        """Decrypt the whole records that have come."""
        records: list[bytes] = []
        end: bytes | AsyncStoreError | None = None
        incoming = self._wire.incoming
        try:
            # OpenSSL would say by an exception that nothing is left, which takes longer than an answer to decrypt.
            while end is None and (incoming.pending or incoming.eof):
                if record := self._wire.tls.read(_RECORD_BYTES):
                    records.append(record)
                    self._suspicion = None
                else:
                    end = b""
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            end = b""
        except ssl.SSLError as error:
            end = self._broken_by(error)
        if records:
            self._ready.append(records[0] if len(records) == 1 else b"".join(records))
        if end == b"" and self._suspicion is not None:
            end = self._suspected()
        if end is not None:
            self._ready.append(end)
        if self._wire.outgoing.pending and not self._unsent:  # an answer of TLS itself
            with contextlib.suppress(ConnectionLost):
                self._send(self._wire.outgoing.read())

    def _broken_by(self, error: ssl.SSLError) -> AsyncStoreError:
        if self._suspicion is not None:
            return tls_errors.ended_by_alert(error, self._suspicion)
        return ConnectionLost(f"TLS broke: {(error.reason or str(error)).lower().replace('_', ' ')}")

    def _explained(self, lost: ConnectionLost) -> AsyncStoreError:
        """Why the connection was lost: the peer may have said so before, or may have refused our certificate."""
        try:
            while data := self._tcp.receive_some():
                self._wire.put(data)
                self._decrypt()
        except ConnectionLost:
            pass
        told = next((ready for ready in self._ready if isinstance(ready, AsyncStoreError)), None)
        return told or (lost if self._suspicion is None else self._suspected())

    def _suspected(self) -> ConnectionLost:
        assert self._suspicion is not None
        text = "the peer closed the connection when TLS was established, before it answered"
        return ConnectionLost(f"{text}: it may be that it {self._suspicion.refused}")

    async def watch(self, on_readable: Callable[[], None]) -> None:
        """See Transport. What TLS holds already, the socket does not show."""

        def take() -> None:
            on_readable()
            while self._ready and not self.is_closed:
                left = len(self._ready)
                on_readable()
                if len(self._ready) >= left:  # nobody takes it any more
                    return

        if self._ready:
            take()
        await self._tcp.watch(take)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Make the system acknowledge received bytes at once."""
        self._tcp.acknowledge()

    def close(self, *, reset: bool = False) -> None:
        """Close the connection now, with close_notify. With `reset`, discard unsent bytes: the peer sees a reset."""
        if self.is_closed:
            return
        if not reset and self._lost is None:
            with contextlib.suppress(ConnectionLost, ssl.SSLError):
                self._say_goodbye()
        self._tcp.close(reset=reset)
        self._drained.set()

    def _say_goodbye(self) -> None:
        if self._unsent:
            self._unsent = self._unsent[self._tcp.send_some((self._unsent,)) :]
        if not self._unsent:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._wire.tls.unwrap()
            self._tcp.send_some((self._wire.outgoing.read(),))


class Wire:
    """One side of TLS in memory: `tls` reads and writes `incoming` and `outgoing`."""

    def __init__(self, context: ssl.SSLContext, *, server_name: str | None = None, is_server: bool = False) -> None:
        self.incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self.outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(self.incoming, self.outgoing, is_server, server_name)

    def put(self, data: bytes) -> None:
        """Take in bytes of the peer; b"": it has closed its side."""
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()


def _pieces(parts: Sequence[memoryview | bytes]) -> Iterable[memoryview | bytes]:
    """The bytes of the parts as they are encrypted: a large part without a copy, small ones laid together."""
    is_small = 0 < sum(map(len, parts)) < _LARGE_BYTES
    return (_joined(parts),) if is_small else _pieces_of_long(parts)


def _pieces_of_long(parts: Sequence[memoryview | bytes]) -> Iterator[memoryview | bytes]:
    held: list[memoryview | bytes] = []
    held_bytes = 0
    for part in parts:
        is_large = len(part) >= _LARGE_BYTES
        if held and (is_large or held_bytes >= _PIECE_BYTES):
            yield _joined(held)
            held, held_bytes = [], 0
        if is_large:
            yield from _cut(part)
        elif part:
            held.append(part)
            held_bytes += len(part)
    if held:
        yield _joined(held)


def _joined(parts: Sequence[memoryview | bytes]) -> memoryview | bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _cut(part: memoryview | bytes) -> Iterator[memoryview | bytes]:
    """Pieces of equal length, in whole records: a little rest would cost as much as a whole piece."""
    count = max(1, round(len(part) / _PIECE_BYTES))
    if count == 1:
        yield part
        return
    size = -(-len(part) // (count * _RECORD_BYTES)) * _RECORD_BYTES
    left = memoryview(part)
    while left:
        yield left[:size]
        left = left[size:]


def _in_background(function: Callable[[], Any]) -> object:
    """Run an asynchronous function of the connection beside its tasks, which may be waiting for something else."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # it is running

        return trio.lowlevel.spawn_system_task(function)
    return loop.create_task(function())


# -- establishing ------------------------------------------------------------------------------------------------------


async def call(tcp: SocketTransport, peer: Peer, timeout_seconds: float, *, spent_seconds: float = 0.0) -> TLSTransport:
    """Begin TLS on a connection to a peer, which is closed if that fails; a part of the time may be spent already.

    Raises TLSFailed.
    """
    with _within(tcp, timeout_seconds, spent_seconds):
        return await _call(tcp, peer)


@contextlib.contextmanager
def _within(tcp: SocketTransport, timeout_seconds: float, spent_seconds: float = 0.0) -> Iterator[None]:
    """Close the connection if the block fails, or is not done in time: TLSFailed."""
    try:
        with anyio.fail_after(max(0.0, timeout_seconds - spent_seconds)):
            yield
    except TimeoutError:
        tcp.close()
        raise tls_errors.silent(timeout_seconds) from None
    except BaseException:
        tcp.close()
        raise


async def _call(tcp: SocketTransport, peer: Peer) -> TLSTransport:
    settings = None if isinstance(peer.tls, ssl.SSLContext) else peer.tls
    context = peer.tls if isinstance(peer.tls, ssl.SSLContext) else None
    if settings is not None:
        context = await anyio.to_thread.run_sync(client_context, settings)
    assert context is not None
    server_name = (settings and settings.server_name) or peer.host.partition("%")[0]
    suspicion = Suspicion(_certificate_name(settings), is_known=settings is not None)
    wire = Wire(context, server_name=server_name)
    try:
        await _shake_hands(tcp, wire, suspicion)
        if settings is not None and settings.fingerprint is not None:
            _check_fingerprint(settings.fingerprint, wire.tls)
    except TLSFailed as error:
        tcp.close()
        raise await _told_more(error, peer, settings, server_name) from error.__cause__
    return TLSTransport(tcp, wire, suspicion if wire.tls.version() == "TLSv1.3" else None)


async def accept(tcp: SocketTransport, tls: TLS | ssl.SSLContext, timeout_seconds: float) -> TLSTransport:
    """Begin TLS on a connection that a peer opened, which is closed if that fails. Raises TLSFailed."""
    with _within(tcp, timeout_seconds):
        context = tls if isinstance(tls, ssl.SSLContext) else await anyio.to_thread.run_sync(server_context, tls)
        wire = Wire(context, is_server=True)
        settings = None if isinstance(tls, ssl.SSLContext) else tls
        await _shake_hands(tcp, wire, Suspicion(_certificate_name(settings), is_known=settings is not None))
        return TLSTransport(tcp, wire, None)


async def _shake_hands(tcp: SocketTransport, wire: Wire, suspicion: Suspicion) -> None:
    first = b""
    try:
        while True:
            failure: ssl.SSLError | None = None
            is_done = False
            try:
                wire.tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                failure = error
            await _send_all(tcp, wire.outgoing.read())  # after a failure, the alert that says why
            if failure is not None:
                raise tls_errors.not_established(failure, first, suspicion) from failure
            if is_done:
                return
            while (data := tcp.receive_some()) is None:
                await tcp.wait_readable()
            first = first or data[:16]
            wire.put(data)
    except ConnectionLost as error:
        raise tls_errors.closed_early() from error


async def _send_all(tcp: SocketTransport, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[tcp.send_some((left,)) :]
        if left:
            await tcp.wait_writable()


def _certificate_name(settings: TLS | None) -> str | None:
    certificate = None if settings is None else settings.certificate
    return None if certificate is None else repr(os.fspath(certificate))


def _check_fingerprint(expected: str, tls: ssl.SSLObject) -> None:
    found = _fingerprint_of(tls)
    if found != expected:
        raise TLSFailed(
            f"the peer's certificate has the fingerprint {found}, and {expected} is expected", "fingerprint"
        )


def _fingerprint_of(tls: ssl.SSLObject) -> str:
    return "sha256:" + hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()


async def _told_more(error: TLSFailed, peer: Peer, settings: TLS | None, server_name: str) -> TLSFailed:
    """The error with what the peer's certificate says, where that helps.

    OpenSSL does not show a certificate that it did not accept. So a second connection looks at it, and ends.
    """
    if settings is None or error.cause not in ("name", "authority"):
        return error
    context = await anyio.to_thread.run_sync(looking_context, settings, error.cause)
    wire = Wire(context, server_name=server_name)
    try:
        tcp = await connect(peer, math.inf)  # the caller has a limit
    except AsyncStoreError:
        return error
    try:
        await _shake_hands(tcp, wire, Suspicion(None))
    except TLSFailed:
        return error
    finally:
        tcp.close()
    if error.cause == "name":
        names = tls_errors.names_in(wire.tls.getpeercert() or {})
        return TLSFailed(f"the peer's certificate is for {names}, and {server_name} is expected", "name")
    return TLSFailed(f"{error}; its fingerprint is {_fingerprint_of(wire.tls)}", error.cause)
