"""TLS as a transport: what is sent arrives in order, what comes is seen, and every end is told as what it is."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncstore
from asyncstore import TLS, LocalProtocolError, Peer, StorageSCP, TransferOptions
from asyncstore.errors import ConnectionLost
from asyncstore.net import tls
from asyncstore.net.connecting import connect
from asyncstore.net.transport import SocketTransport
from asyncstore.upper_layer.framing import run_of_pdus
from tests.support.associations import LIMIT_SECONDS, TINY_SECONDS, image_file, pattern
from tests.support.certificates import PASSPHRASE, Authority, Certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from asyncstore.net.transport import Transport

pytestmark = pytest.mark.every_loop
VERIFICATION = ("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.issue()


@contextlib.contextmanager
def serving(
    server: Certificate, play: Callable[[ssl.SSLSocket], object], *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[int]:
    """A server of Python's ssl in a thread, which plays its part with one connection; gives the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(server.certificate, server.key)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            sock, _ = listener.accept()
            sock.settimeout(LIMIT_SECONDS)
            with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as secured:
                play(secured)
        except BaseException as error:
            failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_SECONDS)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(LIMIT_SECONDS)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def caller(authority: Authority, port: int) -> Peer:
    return Peer("localhost", port, tls=TLS(ca=authority.ca))


async def send_all(transport: Transport, *parts: bytes) -> None:
    left = memoryview(b"".join(parts))
    left = left[transport.send_some(parts) :]
    while left:
        await transport.wait_writable()
        left = left[transport.send_some([left]) :]


async def receive(transport: Transport) -> bytes:
    """Wait for bytes; b"" at the end."""
    received: list[bytes] = []
    failures: list[Exception] = []
    async with anyio.create_task_group() as group:

        def take() -> None:
            if received or failures:  # what comes behind, perhaps the end, is for the next call
                return
            try:
                data = transport.receive_some()
            except asyncstore.AsyncStoreError as error:
                failures.append(error)
            else:
                received.extend([] if data is None else [data])
            if received or failures:
                group.cancel_scope.cancel()

        await transport.watch(take)
    if failures:
        raise failures[0]
    return b"".join(received)


async def receive_more(transport: Transport, data: bytes) -> None:
    """Receive again and again, as long as it is these bytes that come."""
    while await receive(transport) == data:
        pass


def read_all(secured: ssl.SSLSocket) -> bytes:
    """All bytes to the announced end."""
    data = bytearray()
    while some := secured.recv(1 << 16):
        data += some
    return bytes(data)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cuts", [[5_000_000], [12, 16384] * 50, [1, 300_000, 12, 2_000_000, 7]])
async def test_parts_of_any_length_arrive_as_they_are_and_the_end_is_announced(
    authority: Authority, server: Certificate, cuts: list[int], version: ssl.TLSVersion
) -> None:
    parts = [pattern(length) for length in cuts]
    whole = b"".join(parts)
    arrived = bytearray()

    def play(secured: ssl.SSLSocket) -> None:
        while len(arrived) < len(whole):
            arrived.extend(secured.recv(1 << 16))
        secured.sendall(b"all")
        assert read_all(secured) == b""

    with serving(server, play, version=version) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        await send_all(transport, *parts)
        assert await receive(transport) == b"all"
        transport.close()
    assert arrived == whole


async def test_what_a_peer_does_not_take_waits_and_what_follows_may_be_anything(
    authority: Authority, server: Certificate
) -> None:
    may_read = threading.Event()
    arrived: list[bytes] = []

    def play(secured: ssl.SSLSocket) -> None:
        may_read.wait(LIMIT_SECONDS)
        arrived.append(read_all(secured))

    much, last = pattern(1 << 26), run_of_pdus(bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0))).parts
    with serving(server, play) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        taken = transport.send_some([much])
        assert 0 < taken < len(much)
        assert transport.send_some([much[taken:]]) == 0
        with anyio.move_on_after(TINY_SECONDS) as scope:
            await transport.wait_writable()
        assert scope.cancelled_caught
        may_read.set()
        await transport.wait_writable()
        assert transport.send_some(last) == 10  # an A-ABORT, where the rest of a message was to follow
        transport.close()
        await anyio.to_thread.run_sync(lambda: None)
    assert arrived == [much[:taken] + bytes(last[0])]


async def test_the_rest_of_what_was_taken_is_sent_although_nobody_waits_for_it(
    authority: Authority, server: Certificate
) -> None:
    may_read = threading.Event()
    has_all = threading.Event()
    wanted: list[int] = []

    def play(secured: ssl.SSLSocket) -> None:
        may_read.wait(LIMIT_SECONDS)
        data = bytearray()
        while len(data) < wanted[0]:
            data += secured.recv(1 << 16)
        has_all.set()
        read_all(secured)

    with serving(server, play) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        wanted.append(transport.send_some([pattern(1 << 26)]))
        may_read.set()
        assert await anyio.to_thread.run_sync(has_all.wait, LIMIT_SECONDS)
        transport.close()


async def test_a_wait_ends_when_the_connection_is_closed_or_breaks(authority: Authority, server: Certificate) -> None:
    may_end = threading.Event()
    with serving(server, lambda secured: may_end.wait(LIMIT_SECONDS)) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        transport.send_some([pattern(1 << 26)])

        async def wait() -> None:
            with pytest.raises(ConnectionLost):
                await transport.wait_writable()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            transport.close(reset=True)
        may_end.set()
    assert transport.is_closed


async def test_what_comes_together_with_the_end_of_the_handshake_is_seen(
    authority: Authority, server: Certificate
) -> None:
    def play(secured: ssl.SSLSocket) -> None:
        secured.sendall(b"at once")
        read_all(secured)

    with serving(server, play) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        assert await receive(transport) == b"at once"
        assert transport.receive_some() is None
        transport.close()


async def test_records_that_came_at_once_are_received_at_once_and_then_the_end(
    authority: Authority, server: Certificate
) -> None:
    def play(secured: ssl.SSLSocket) -> None:
        secured.sendall(pattern(40_000))
        secured.unwrap()

    with serving(server, play) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        data = b""
        while len(data) < 40_000:
            data += await receive(transport)
        assert data == pattern(40_000)
        assert await receive(transport) == b""
        transport.close()


async def test_an_end_that_was_not_announced_is_an_end(authority: Authority, server: Certificate) -> None:
    """A cut message is one by its own lengths, and an association that was released ended before."""

    def play(secured: ssl.SSLSocket) -> None:
        secured.sendall(b"abc")
        socket.socket(fileno=secured.detach()).close()

    with serving(server, play) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        assert await receive(transport) == b"abc"
        assert await receive(transport) == b""
        transport.close()


async def test_bytes_that_are_not_tls_break_the_connection(authority: Authority, server: Certificate) -> None:
    def play(secured: ssl.SSLSocket) -> None:
        secured.sendall(b"abc")
        with socket.socket(fileno=secured.detach()) as plain:
            plain.sendall(bytes(100))

    with serving(server, play) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        with pytest.raises(ConnectionLost, match="TLS broke"):
            await receive_more(transport, b"abc")
        transport.close()


async def test_an_association_of_our_own_at_both_ends(
    authority: Authority, server: Certificate, tmp_path: Path
) -> None:
    paths = [image_file(tmp_path / f"{number}.dcm", f"1.2.3.{number}", 200_000) for number in range(20)]
    client = authority.issue("client")
    options = TransferOptions(associations=2)
    (tmp_path / "in").mkdir()
    async with StorageSCP(output_directory=tmp_path / "in", tls=server.tls(ca=authority.ca)) as scp:
        peer = Peer("127.0.0.1", scp.port, tls=client.tls(ca=authority.ca))
        with anyio.fail_after(LIMIT_SECONDS):
            report = await asyncstore.store(paths, to=peer, options=options)
        assert (report.stored, report.failed, scp.stored) == (20, 0, 20)
        assert len(list((tmp_path / "in").iterdir())) == 20


async def test_a_context_of_the_callers_own_is_used_as_it_is(authority: Authority, server: Certificate) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(server.certificate, server.key)
    theirs = ssl.create_default_context(cafile=str(authority.ca))
    async with StorageSCP(tls=ours) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            peer = Peer("localhost", scp.port, tls=theirs)
            async with asyncstore.associate(peer, contexts=[VERIFICATION]) as association:
                assert (await association.echo()).value == 0


async def test_files_that_changed_are_read_again_for_the_next_association(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "other", key_number=1)
    server = old.issue()
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.ca.read_bytes())

    async def echo(port: int) -> None:
        peer = Peer("localhost", port, tls=TLS(ca=trusted))
        async with asyncstore.associate(peer, contexts=[VERIFICATION]) as association:
            await association.echo()

    async with StorageSCP(tls=server.tls()) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            await echo(scp.port)
            renewed = new.issue()
            server.certificate.write_bytes(renewed.certificate.read_bytes())
            server.key.write_bytes(renewed.key.read_bytes())
            with pytest.raises(asyncstore.TLSFailed):
                await echo(scp.port)
            trusted.write_bytes(new.ca.read_bytes())
            await echo(scp.port)


@pytest.mark.parametrize("passphrase", [PASSPHRASE, PASSPHRASE.decode(), lambda: PASSPHRASE])
async def test_an_encrypted_key_is_opened_by_its_passphrase(
    authority: Authority, server: Certificate, passphrase: bytes | str | Callable[[], bytes]
) -> None:
    settings = TLS(certificate=server.certificate, key=server.encrypted_key, passphrase=passphrase)
    assert "horse" not in repr(Peer("localhost", 1, tls=settings))
    async with StorageSCP(tls=settings) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with asyncstore.associate(caller(authority, scp.port), contexts=[VERIFICATION]) as association:
                await association.echo()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fingerprint": "sha1:00"}, "not a fingerprint"),
        ({"fingerprint": "sha256:00"}, "not a fingerprint"),
        ({"key": "key.pem"}, "without a certificate"),
        ({"profile": "best"}, "profile is 'best'"),
        ({"client_certificate": "maybe"}, "client_certificate is 'maybe'"),
        ({"client_certificate": "optional"}, "without a ca"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        TLS(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [True, "ca.pem"])
def test_what_is_not_tls_is_refused_before_anything_is_sent_in_clear_text(settings: Any) -> None:
    with pytest.raises(LocalProtocolError, match="it is a TLS, an"):
        Peer("localhost", 104, tls=settings)
    with pytest.raises(LocalProtocolError, match="it is a TLS, an"):
        StorageSCP(tls=settings)


def test_a_fingerprint_may_be_written_in_any_way() -> None:
    colons = "SHA256:" + ":".join(["AB"] * 32)
    assert TLS(fingerprint=colons).fingerprint == "sha256:" + "ab" * 32


@pytest.mark.parametrize("length", [1, 16384, 16385, 300_000, 525_100, 1 << 20, (1 << 20) + 1])
def test_pieces_are_of_about_equal_length_and_of_whole_records(length: int) -> None:
    pieces = list(map(len, tls._pieces([bytes(length)])))
    assert sum(pieces) == length
    assert max(pieces) <= 1.5 * tls._PIECE_BYTES
    assert all(piece % tls._RECORD_BYTES == 0 for piece in pieces[:-1])
    assert len(pieces) == 1 or pieces[-1] > tls._PIECE_BYTES / 2


@given(st.lists(st.sampled_from([0, 1, 12, 9000, 32767, 32768, 131_072, 300_000]), max_size=40))
def test_pieces_are_the_parts_in_order(lengths: list[int]) -> None:
    parts = [bytes((number,)) * length for number, length in enumerate(lengths)]
    pieces = list(tls._pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert all(pieces)


def test_small_parts_share_a_record_and_large_ones_are_not_copied() -> None:
    header, small, large = bytes(12), memoryview(bytes(9000)), memoryview(bytes(1 << 17))
    assert list(map(len, tls._pieces([header, small]))) == [9012]
    pieces = list(tls._pieces([header, large]))
    assert pieces[0] == header
    assert pieces[1] is large


async def test_a_command_and_its_data_leave_in_one_send(
    authority: Authority, server: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, data = bytes(300), pattern(1 << 16)
    sent: list[int] = []
    received = bytearray()
    send_some = SocketTransport.send_some

    def count(transport: SocketTransport, parts: Sequence[memoryview | bytes]) -> int:
        sent.append(sum(map(len, parts)))
        return send_some(transport, parts)

    def take(secured: ssl.SSLSocket) -> None:
        while len(received) < len(command) + len(data):
            received.extend(secured.recv(1 << 16))

    with serving(server, take) as port, anyio.fail_after(LIMIT_SECONDS):
        transport = await connect(caller(authority, port), LIMIT_SECONDS)
        monkeypatch.setattr(SocketTransport, "send_some", count)
        assert transport.send_some([command, data]) == len(command) + len(data)
        assert len(sent) == 1
        await transport.wait_writable()
    transport.close()
    assert received == command + data


def test_single_parts_are_not_copied() -> None:
    whole = memoryview(bytes(1 << 20))
    pieces = list(tls._pieces([whole]))
    assert sum(map(len, pieces)) == 1 << 20
    assert all(isinstance(piece, memoryview) and piece.obj is whole.obj for piece in pieces)
