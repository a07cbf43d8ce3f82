"""An acceptor among peers that only take up room: they wait and say nothing, and others are served."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asyncstore.net import connections
from asyncstore.net.peer import Peer
from asyncstore.net.tls_settings import TLS
from asyncstore.services.scu import associate
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.upper_layer.pdu import Abort, AssociateRJ, AssociateRQ
from asyncstore.upper_layer.user_information import UserInformation
from tests.support.associations import CONTEXTS, LIMIT_SECONDS, TINY_SECONDS, image, image_in_memory, to
from tests.support.certificates import Authority
from tests.support.wire import CT_CONTEXT, Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.every_loop

_FEW = 32  # the fewest that may wait, whatever the number of associations


async def play(script: Callable[[Wire], Any], scp: StorageSCP) -> Any:
    with anyio.fail_after(LIMIT_SECONDS):
        return await anyio.to_thread.run_sync(play_scu, script, scp.port)


@contextlib.contextmanager
def silent(scp: StorageSCP, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((scp.host, scp.port))) for _ in range(count)]


async def ended(sock: socket.socket) -> None:
    """Wait until the acceptor has closed a connection."""
    sock.settimeout(LIMIT_SECONDS)

    def read() -> bytes:
        with contextlib.suppress(ConnectionError):
            return sock.recv(1)
        return b""

    assert await anyio.to_thread.run_sync(read) == b""


async def waiting(scp: StorageSCP, count: int) -> None:
    """Wait until the acceptor has this many connections without an association."""
    with anyio.fail_after(LIMIT_SECONDS):
        while len(scp._connections._waiting) != count:
            await anyio.lowlevel.checkpoint()


async def test_who_says_nothing_takes_no_association_from_others(caplog: pytest.LogCaptureFixture) -> None:
    async with StorageSCP(maximum_associations=1) as scp:
        with silent(scp, _FEW) as socks:
            await waiting(scp, _FEW)
            async with to(scp) as association:  # one more than may wait
                assert (await association.store(image_in_memory())).is_stored
                await ended(socks[0])
                await waiting(scp, _FEW - 1)
    assert [line for line in caplog.messages if "waited longest" in line] == [
        f"a connection is closed that has waited longest: 127.0.0.1 has {_FEW + 1} without an association"
    ]


async def test_a_handshake_that_does_not_come_counts_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path)
    server = authority.issue()
    tls = TLS(certificate=str(server.certificate), key=str(server.key))
    async with StorageSCP(tls=tls, maximum_associations=1) as scp:
        with silent(scp, _FEW) as socks:
            socks[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a handshake
            await waiting(scp, _FEW)
            peer = Peer(scp.host, scp.port, tls=TLS(ca=str(authority.ca)))
            async with associate(peer, contexts=CONTEXTS) as association:
                assert (await association.store(image_in_memory())).is_stored
                await ended(socks[0])
            assert "no TLS with" not in caplog.text  # it was closed on purpose


async def test_who_is_rejected_and_does_not_close_takes_no_room() -> None:
    def is_rejected(wire: Wire) -> socket.socket:
        wire.send(AssociateRQ("A", "B", (CT_CONTEXT,), UserInformation()))
        assert wire.expect(AssociateRJ) == AssociateRJ(2, 3, 2)
        return wire.sock.dup()

    async with StorageSCP(maximum_associations=1) as scp, to(scp) as association:
        with contextlib.ExitStack() as stack:
            for _ in range(_FEW + 5):
                stack.enter_context(contextlib.closing(await play(is_rejected, scp)))
            await waiting(scp, _FEW)
            assert (await association.store(image_in_memory())).is_stored


async def test_associations_of_one_address_have_a_limit_of_their_own() -> None:
    def calls(source: str) -> Callable[[], bool]:
        def is_accepted() -> bool:
            with socket.create_connection((scp.host, scp.port), 10, (source, 0)) as sock:
                wire = Wire(sock, 10, stopping)
                wire.send(AssociateRQ("A", "B", (CT_CONTEXT,), UserInformation()))
                answer = wire.read_pdu()
                return not isinstance(answer, AssociateRJ)

        return is_accepted

    stopping = threading.Event()
    async with StorageSCP(maximum_associations_per_address=1) as scp, to(scp):
        assert not await anyio.to_thread.run_sync(calls("127.0.0.1"))
        assert await anyio.to_thread.run_sync(calls("127.0.0.2"))


async def test_an_association_that_is_too_old_is_aborted_whatever_it_does(caplog: pytest.LogCaptureFixture) -> None:
    def goes_on(wire: Wire) -> int:
        wire.associate()
        count = 0
        with contextlib.suppress(AssertionError, ConnectionError):
            while True:
                wire.store(image(), sop_instance_uid=f"1.2.{count}")
                count += 1
        return count

    caplog.set_level("INFO")
    async with StorageSCP(association_seconds=4 * TINY_SECONDS) as scp:
        assert await play(goes_on, scp) > 0
    assert f"an association is aborted that was open for {4 * TINY_SECONDS:g} s" in caplog.messages


async def test_who_waits_for_an_association_may_be_too_old_as_well() -> None:
    def waits(wire: Wire) -> None:
        wire.associate()
        assert wire.expect(Abort).source == 0
        wire.expect_closed()

    async with StorageSCP(association_seconds=TINY_SECONDS) as scp:
        await play(waits, scp)


async def test_what_the_system_cannot_accept_is_one_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener:
        """A listening socket of a machine that is out of descriptors."""

        failures = 0

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener

        def accept(self) -> tuple[socket.socket, Any]:
            if self.failures < 3:
                self.failures += 1
                raise OSError(24, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._listener, name)

    create_server = socket.create_server
    monkeypatch.setattr(socket, "create_server", lambda *where, **how: Listener(create_server(*where, **how)))
    async with StorageSCP() as scp, to(scp) as association:
        assert (await association.store(image_in_memory())).is_stored
    assert [line for line in caplog.messages if "accept" in line] == [
        "cannot accept a connection: [Errno 24] Too many open files"
    ]


def test_the_fewest_and_the_most_that_may_wait() -> None:
    assert [connections._bounded(most) for most in (0, 1, 100, 1000)] == [256, 32, 100, 256]
