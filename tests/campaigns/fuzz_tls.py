"""What fuzz.py feeds to TLS: the bytes of a handshake, to either side, and records among those of an association.

- A handshake ends with TLSFailed, or waits for more; what it says is one line.
- What a TLS transport gives is the beginning of what the peer has sent, however its records were damaged; an error
  after it says that TLS broke, and then nothing comes any more.
"""

from __future__ import annotations

import functools
import ssl
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from asyncstore.cli.output.plain_text import escaped
from asyncstore.errors import ConnectionLost, TLSFailed
from asyncstore.net import tls_errors
from asyncstore.net.tls import TLSTransport, Wire
from asyncstore.net.tls_context import client_context, server_context
from asyncstore.net.tls_errors import Suspicion
from asyncstore.net.tls_settings import TLS
from tests.campaigns.fuzz_corpus import ANSWER, DATA, REQUEST
from tests.campaigns.fuzz_support import Target, check, pieces_of
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.net.transport import SocketTransport

# A handshake signs with RSA, and OpenSSL may be asked for a prime or a point on a curve.
_SECONDS: Final = 0.3
_MEMORY_BYTES: Final = 1 << 20
_PLAIN: Final = b"".join(DATA[:8])


@functools.cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Those of a client and of a server."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-tls-"))
    authority = Authority(folder)
    server = authority.issue()
    try:
        return client_context(TLS(ca=authority.ca)), server_context(server.tls())
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _pair() -> tuple[Wire, Wire]:
    client, server = _contexts()
    return Wire(client, server_name="localhost"), Wire(server, is_server=True)


def _step(wire: Wire) -> ssl.SSLError | None:
    """Go on with the handshake as far as it goes."""
    try:
        wire.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLError as error:
        return error
    return None


def _shaken() -> tuple[Wire, Wire, list[bytes]]:
    """Two sides that know each other, and the flights that they sent."""
    client, server = _pair()
    flights = []
    while True:
        for one, other in ((client, server), (server, client)):
            failure = _step(one)
            assert failure is None, failure
            flight = one.outgoing.read()
            if flight:
                flights.append(flight)
                other.put(flight)
        if client.tls.version() and server.tls.version() and not flight:
            return client, server, flights


def _run_handshake(data: bytes, *, is_server: bool) -> None:
    client, server = _pair()
    wire = server if is_server else client
    failures = [_step(wire)]
    for piece in pieces_of(data):
        if piece and failures[-1] is None:
            wire.put(piece)
            failures.append(_step(wire))
    if failures[-1] is not None:
        failed = tls_errors.not_established(failures[-1], data[:16], Suspicion("'our.pem'"))
        check(isinstance(failed, TLSFailed), "a handshake fails with another error")
        check(escaped(str(failed)) == str(failed), "what is said of a handshake is not a line that can be printed")
    wire.outgoing.read()


class _Socket:
    """A connection on which these bytes come, and then its end."""

    is_closed = False

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._pieces.reverse()

    def receive_some(self) -> bytes | None:
        return self._pieces.pop() if self._pieces else b""

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        return sum(map(len, parts))

    def acknowledge(self) -> None: ...

    def close(self, *, reset: bool = False) -> None:
        self.is_closed = True


def _damaged(records: bytes, data: bytes) -> bytes:
    """Records with the input in them, in place of others, or over them."""
    number = zlib.crc32(data)
    at = number % (len(records) + 1)
    how = number >> 20 & 3
    if how == 0:
        return records[:at] + data + records[at:]
    if how == 1:
        return records[:at] + data
    changed = bytearray(records)
    for index, byte in enumerate(data[: len(records) - at]):
        changed[at + index] ^= byte
    return bytes(changed)


def _run_stream(data: bytes, *, suspected: bool) -> None:
    client, server, _ = _shaken()
    server.tls.write(_PLAIN)
    stream = _damaged(server.outgoing.read(), data)
    socket = _Socket(pieces_of(stream))
    suspicion = Suspicion("'our.pem'") if suspected else None
    transport = TLSTransport(cast("SocketTransport", socket), client, suspicion)
    given = bytearray()
    error: Any = None
    while error is None:
        try:
            piece = transport.receive_some()
        except (ConnectionLost, TLSFailed) as broken:
            error = broken
        else:
            check(piece is not None, "the end of the connection is not told")
            given += piece or b""
            if not piece:
                break
    check(_PLAIN.startswith(given), "bytes came that nobody sent")
    if error is not None:
        check(escaped(str(error)) == str(error), "what is said of TLS is not a line that can be printed")
    transport.close()


@functools.cache
def _flights() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Corpora for a server and for a client: what the other side sends, and what strangers do."""
    _, _, flights = _shaken()
    strangers = (
        REQUEST.encode(),
        ANSWER.encode(),
        b"GET / HTTP/1.0\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x15\x03\x01\0\2\2\x28",
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\1\0\2",
    )
    return (*flights[::2], *strangers), (*flights[1::2], *strangers)


_TO_SERVER, _TO_CLIENT = _flights()
_of_tls = functools.partial(Target, seconds=_SECONDS, memory_bytes=_MEMORY_BYTES)

TLS_TARGETS: Final = {
    "tls-server": _of_tls(functools.partial(_run_handshake, is_server=True), _TO_SERVER, 2),
    "tls-client": _of_tls(functools.partial(_run_handshake, is_server=False), _TO_CLIENT, 2),
    "tls-stream": _of_tls(functools.partial(_run_stream, suspected=False), (b"\0", b"\x17\3\3\0\x20", *DATA[:4]), 1),
    "tls-answer": _of_tls(functools.partial(_run_stream, suspected=True), (b"\x15\3\3\0\2\2\x31", b"\x17\3\3"), 1),
}
