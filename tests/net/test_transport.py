"""The socket in our hands: what it takes, what it gives, how it ends, and how a connection comes to be."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import struct
import types
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from asyncstore.errors import ConnectFailed, ConnectionLost, Timeout
from asyncstore.net import transport
from asyncstore.net.peer import Peer
from asyncstore.net.transport import SocketTransport, connect
from asyncstore.upper_layer import framing
from tests.support.associations import LIMIT_SECONDS, TINY_SECONDS, descriptors, take_add_reader_away
from tests.support.peers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.every_loop

MUCH = bytes(1 << 24)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture
def pair() -> Iterator[tuple[SocketTransport, socket.socket]]:
    """A transport, and the plain socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.settimeout(LIMIT_SECONDS)
    wrapped = SocketTransport(ours)
    with theirs:
        yield wrapped, theirs
    ours.close()


async def receive(wrapped: SocketTransport) -> bytes:
    """Wait for bytes; b"" when the peer has closed its side."""
    received: list[bytes] = []
    failure: list[ConnectionLost] = []

    async with anyio.create_task_group() as group:

        def take() -> None:
            try:
                data = wrapped.receive_some()
            except ConnectionLost as error:
                failure.append(error)
                group.cancel_scope.cancel()
            else:
                if data is not None:
                    received.append(data)
                    group.cancel_scope.cancel()

        await wrapped.watch(take)
    if failure:
        raise failure[0]
    return received[0]


async def test_what_arrives_is_received_and_then_the_end(pair: tuple[SocketTransport, socket.socket]) -> None:
    wrapped, theirs = pair
    assert wrapped.receive_some() is None
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(_expect, wrapped, b"abc")
            await anyio.lowlevel.checkpoint()
            theirs.sendall(b"abc")
        theirs.close()
        assert await receive(wrapped) == b""


async def test_a_wait_for_a_connection_that_broke_before_ends(pair: tuple[SocketTransport, socket.socket]) -> None:
    wrapped, theirs = pair
    while wrapped.send_some([MUCH]):
        pass
    is_readable = anyio.Event()
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wrapped.watch, is_readable.set)
            await anyio.lowlevel.checkpoint()
            reset(theirs)
            await is_readable.wait()
            await wrapped.wait_writable()
            with pytest.raises(ConnectionLost):
                wrapped.send_some([MUCH])
            group.cancel_scope.cancel()
        again = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(wrapped.watch, again.set)
            await again.wait()
            group.cancel_scope.cancel()
        assert await receive(wrapped) == b""
    wrapped.close()


async def _expect(wrapped: SocketTransport, data: bytes) -> None:
    assert await receive(wrapped) == data


@pytest.mark.parametrize("has_sendmsg", [True, False])
async def test_parts_are_sent_in_order_as_far_as_the_socket_takes_them(
    pair: tuple[SocketTransport, socket.socket], has_sendmsg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_HAS_SENDMSG", has_sendmsg)
    wrapped, theirs = pair
    sent = wrapped.send_some([memoryview(b"abc"), memoryview(b"defg")])
    assert sent == (7 if has_sendmsg else 3)
    assert theirs.recv(100) == b"abcdefg"[:sent]


async def test_a_full_socket_takes_nothing_until_the_peer_reads(pair: tuple[SocketTransport, socket.socket]) -> None:
    wrapped, theirs = pair
    sent = 0
    while taken := wrapped.send_some([MUCH]):
        sent += taken
    with anyio.move_on_after(TINY_SECONDS) as scope:
        await wrapped.wait_writable()
    assert scope.cancelled_caught
    with anyio.fail_after(LIMIT_SECONDS):
        while sent:
            sent -= len(theirs.recv(1 << 20))
        await wrapped.wait_writable()
    assert wrapped.send_some([b"more"]) == 4


async def test_a_reset_is_lost_from_every_side(pair: tuple[SocketTransport, socket.socket]) -> None:
    wrapped, theirs = pair
    reset(theirs)
    with anyio.fail_after(LIMIT_SECONDS), pytest.raises(ConnectionLost, match="reset") as caught:
        await receive(wrapped)
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(ConnectionLost, match="pipe"):
        wrapped.send_some([b"abc"])


async def test_closing_ends_a_wait_of_another_task(pair: tuple[SocketTransport, socket.socket]) -> None:
    wrapped, _ = pair
    while wrapped.send_some([MUCH]):
        pass

    async def is_lost() -> None:
        with pytest.raises(ConnectionLost):
            await wrapped.wait_writable()

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(is_lost)
            await anyio.wait_all_tasks_blocked()
            wrapped.close()
    assert wrapped.is_closed
    wrapped.close()


async def test_a_closed_transport_is_lost(pair: tuple[SocketTransport, socket.socket]) -> None:
    wrapped, _ = pair
    wrapped.close()
    with pytest.raises(ConnectionLost):
        wrapped.send_some([b"abc"])
    with pytest.raises(ConnectionLost):
        wrapped.receive_some()
    with pytest.raises(ConnectionLost):
        await wrapped.wait_writable()
    wrapped.acknowledge()


async def test_whatever_the_system_says_about_a_wait_is_a_lost_connection(
    pair: tuple[SocketTransport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: socket.socket) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    take_add_reader_away(monkeypatch)
    monkeypatch.setattr(anyio, "wait_readable", fails)
    with pytest.raises(ConnectionLost, match="Bad file descriptor"):
        await pair[0].watch(lambda: None)


@pytest.mark.parametrize("with_reset", [False, True])
async def test_the_peer_sees_how_it_was_closed(pair: tuple[SocketTransport, socket.socket], with_reset: bool) -> None:
    wrapped, theirs = pair
    wrapped.close(reset=with_reset)
    with pytest.raises(ConnectionResetError) if with_reset else contextlib.nullcontext():
        assert theirs.recv(1) == b""


@pytest.mark.parametrize("has_add_reader", [True, False])
async def test_watching_calls_for_everything_that_arrives_until_it_is_cancelled(
    pair: tuple[SocketTransport, socket.socket], has_add_reader: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_add_reader:
        take_add_reader_away(monkeypatch)
    wrapped, theirs = pair
    came: list[bytes] = []
    arrived = anyio.Event()

    def on_readable() -> None:
        came.append(wrapped.receive_some() or b"")
        arrived.set()

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wrapped.watch, on_readable)
            for data in (b"one", b"two"):
                theirs.sendall(data)
                await arrived.wait()
                arrived = anyio.Event()
            group.cancel_scope.cancel()
    theirs.sendall(b"three")
    await anyio.wait_all_tasks_blocked()
    assert came == [b"one", b"two"]


async def test_watching_finds_a_reset_that_came_together_with_bytes(
    pair: tuple[SocketTransport, socket.socket],
) -> None:
    wrapped, theirs = pair
    came: list[bytes | None] = []
    is_lost = anyio.Event()

    def on_readable() -> None:
        try:
            came.append(wrapped.receive_some())
        except ConnectionLost:
            is_lost.set()

    theirs.sendall(b"last words")
    reset(theirs)
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wrapped.watch, on_readable)
            await is_lost.wait()
            group.cancel_scope.cancel()
    assert came[0] == b"last words"


async def test_a_look_takes_all_that_the_event_loop_does_not_tell_of(
    pair: tuple[SocketTransport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop does not, behind a reset: it calls once, and each call takes a part of the bytes."""
    wrapped, theirs = pair
    silent = types.SimpleNamespace(add_reader=lambda *_: None, remove_reader=lambda *_: None)
    monkeypatch.setattr(transport, "asyncio", types.SimpleNamespace(get_running_loop=lambda: silent))
    monkeypatch.setattr(transport, "RECEIVE_BYTES", 1000)
    looks: list[float] = []
    received = bytearray()
    scope = anyio.CancelScope()

    async def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            scope.cancel()
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(anyio, "sleep", look)
    theirs.sendall(bytes(10_000))
    with scope:
        await wrapped.watch(lambda: received.extend(wrapped.receive_some() or b""))
    assert len(received) == 10_000


@pytest.mark.parametrize("has_add_reader", [True, False])
async def test_watching_a_transport_that_is_closed_ends(
    pair: tuple[SocketTransport, socket.socket], has_add_reader: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_add_reader:
        take_add_reader_away(monkeypatch)
    wrapped, theirs = pair
    calls: list[bool] = []
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wrapped.watch, lambda: calls.append(wrapped.is_closed))
            await anyio.wait_all_tasks_blocked()
            wrapped.close()
            assert theirs.recv(1) == b""
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert calls == []


async def test_a_socket_without_the_options_of_linux_works(
    pair: tuple[SocketTransport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped, theirs = pair
    monkeypatch.setattr(transport, "_QUICKACK", None)
    wrapped.acknowledge()
    for name, _ in transport._TCP_OPTIONS:
        monkeypatch.delattr(socket, name)
    assert len(transport._options()) == 2
    monkeypatch.setattr(transport, "_OPTIONS", [(socket.IPPROTO_TCP, 0x7FFF, 1)])
    assert not SocketTransport(theirs).is_closed


async def test_small_messages_leave_at_once_and_a_dead_peer_is_noticed(
    pair: tuple[SocketTransport, socket.socket],
) -> None:
    wrapped, _ = pair
    assert wrapped._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert wrapped._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        assert wrapped._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) >= 2 * framing.RUN_BYTES


# connect()


async def test_a_connection_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        wrapped = await connect(Peer("localhost", listener.getsockname()[1]), LIMIT_SECONDS)
        theirs, _ = listener.accept()
        with theirs:
            wrapped.send_some([b"abc"])
            assert theirs.recv(100) == b"abc"
            wrapped.close()


async def test_a_refused_connection_says_so_and_may_be_tried_again() -> None:
    before = descriptors()
    with anyio.fail_after(LIMIT_SECONDS), pytest.raises(ConnectFailed, match=r"\[Errno 111\]") as caught:
        await connect(Peer("127.0.0.1", free_port()), LIMIT_SECONDS)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.retryable
    assert descriptors() == before


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "nul\0byte"])
async def test_a_host_that_nobody_knows_says_so(host: str) -> None:
    with anyio.fail_after(LIMIT_SECONDS), pytest.raises(ConnectFailed, match="cannot resolve"):
        await connect(Peer(host, 104), LIMIT_SECONDS)


def _resolves_to(*addresses: tuple[Any, ...]) -> Callable[..., Any]:
    async def resolve(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    return resolve


async def test_the_next_address_is_tried_when_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        addresses = [(socket.AF_INET, ("127.0.0.1", free_port())), (socket.AF_INET, listener.getsockname())]
        monkeypatch.setattr(anyio, "getaddrinfo", _resolves_to(*addresses))
        (await connect(Peer("two.example", 104), LIMIT_SECONDS)).close()


async def test_the_next_address_is_tried_when_there_is_no_socket_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socket

    def make(family: int = -1, *more: Any, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *more, **options)

    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        addresses = [(socket.AF_INET6, ("::1", 104, 0, 0)), (socket.AF_INET, listener.getsockname())]
        monkeypatch.setattr(anyio, "getaddrinfo", _resolves_to(*addresses))
        with monkeypatch.context() as patch:
            patch.setattr(transport.socket, "socket", make)  # type: ignore[attr-defined]
            wrapped = await connect(Peer("two.example", 104), LIMIT_SECONDS)
        wrapped.close()
        monkeypatch.setattr(anyio, "getaddrinfo", _resolves_to(addresses[0]))
        with monkeypatch.context() as patch:
            patch.setattr(transport.socket, "socket", make)  # type: ignore[attr-defined]
            with pytest.raises(ConnectFailed, match="Address family"):
                await connect(Peer("one.example", 104), LIMIT_SECONDS)


async def test_an_address_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio, "getaddrinfo", _resolves_to())
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        (await connect(Peer("127.0.0.1", listener.getsockname()[1]), LIMIT_SECONDS)).close()
    with pytest.raises(ConnectFailed, match="has no address"):
        await connect(Peer("localhost", 104), LIMIT_SECONDS)


async def test_a_name_without_addresses_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio, "getaddrinfo", _resolves_to())
    with pytest.raises(ConnectFailed, match="has no address"):
        await connect(Peer("none.example", 104), LIMIT_SECONDS)


@contextlib.contextmanager
def unanswering() -> Iterator[int]:
    """A port whose queue of connections is full: what else comes is not answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_host_that_does_not_answer_is_given_up_in_time() -> None:
    with unanswering() as port:
        before = descriptors()
        with anyio.fail_after(LIMIT_SECONDS), pytest.raises(Timeout) as caught:
            await connect(Peer("127.0.0.1", port), TINY_SECONDS)
        assert (caught.value.which, caught.value.seconds) == ("connect", TINY_SECONDS)
        assert descriptors() == before


async def test_the_next_address_is_tried_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with unanswering() as port, socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        silent = (socket.AF_INET, ("127.0.0.1", port))
        monkeypatch.setattr(
            anyio, "getaddrinfo", _resolves_to(silent, silent, (socket.AF_INET, listener.getsockname()))
        )
        before = descriptors()
        wrapped = await connect(Peer("three.example", 104), 1.0)
        assert descriptors() == before + 1
        wrapped.close()


async def test_when_no_address_answers_the_time_for_all_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with unanswering() as port, anyio.fail_after(LIMIT_SECONDS):
        silent = (socket.AF_INET, ("127.0.0.1", port))
        monkeypatch.setattr(anyio, "getaddrinfo", _resolves_to(silent, silent))
        with pytest.raises(Timeout) as caught:
            await connect(Peer("two.example", 104), TINY_SECONDS)
        assert (caught.value.which, caught.value.seconds) == ("connect", TINY_SECONDS)


@pytest.mark.parametrize("source", ["127.0.0.2", "localhost"])
async def test_a_connection_comes_from_the_source_address(source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        peer = Peer("localhost", listener.getsockname()[1], source_address=(source, 0))
        wrapped = await connect(peer, LIMIT_SECONDS)
        theirs, address = listener.accept()
        theirs.close()
        wrapped.close()
    assert address[0] == socket.gethostbyname(source)


async def test_a_source_port_is_used_again_as_soon_as_it_is_free() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        peer = Peer("127.0.0.1", listener.getsockname()[1], source_address=("127.0.0.2", port))
        for _ in range(2):
            wrapped = await connect(peer, LIMIT_SECONDS)
            theirs, address = listener.accept()
            assert address == ("127.0.0.2", port)
            theirs.close()
            wrapped.close()


@pytest.mark.parametrize(
    ("host", "source", "said"),
    [
        ("127.0.0.1", ("192.0.2.1", 0), "cannot call from 192.0.2.1: it is not an address of this machine"),
        ("127.0.0.1", ("::1", 0), "cannot call '127.0.0.1' from '::1': one is IPv4, the other IPv6"),
        ("127.0.0.1", ("no-such-host.invalid", 0), "cannot resolve the source address 'no-such-host.invalid'"),
    ],
)
async def test_a_source_address_that_is_not_ours_is_told_and_not_tried_again(
    host: str, source: tuple[str, int], said: str
) -> None:
    before = descriptors()
    with anyio.fail_after(LIMIT_SECONDS), pytest.raises(ConnectFailed, match=re.escape(said)) as caught:
        await connect(Peer(host, free_port(), source_address=source), LIMIT_SECONDS)
    assert descriptors() == before
    if "resolve" not in said:  # a look-up may fail for a while
        assert not caught.value.retryable


async def test_a_source_port_that_is_in_use_may_be_tried_again() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other, anyio.fail_after(LIMIT_SECONDS):
        port = other.getsockname()[1]
        peer = Peer("127.0.0.1", free_port(), source_address=("127.0.0.2", port))
        with pytest.raises(ConnectFailed, match=f"cannot call from 127.0.0.2, port {port}: .*in use") as caught:
            await connect(peer, LIMIT_SECONDS)
        assert caught.value.retryable


async def test_a_cancelled_connect_leaves_no_socket() -> None:
    with unanswering() as port:
        before = descriptors()
        with anyio.move_on_after(TINY_SECONDS) as scope:
            await connect(Peer("127.0.0.1", port), LIMIT_SECONDS)
        assert scope.cancelled_caught
        assert descriptors() == before


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_the_reader_of_an_event_loop_is_taken_away_on_closing(
    pair: tuple[SocketTransport, socket.socket],
) -> None:
    wrapped, _ = pair
    number = wrapped._socket.fileno()
    watching = asyncio.ensure_future(wrapped.watch(lambda: None))
    await anyio.lowlevel.checkpoint()
    wrapped.close()
    assert not asyncio.get_running_loop().remove_reader(number)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
