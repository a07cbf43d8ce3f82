"""The Storage SCP: how an association ends when its peer did not end it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ
from asyncstore.net import transport
from asyncstore.net.acceptor import AcceptedAssociation
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from asyncstore.upper_layer.items import PresentationContext
from asyncstore.upper_layer.pdu import Abort, DataTF, Fragment
from tests.support.associations import LIMIT_SECONDS, TINY_SECONDS, image
from tests.support.wire import Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival
    from asyncstore.status import Status

pytestmark = pytest.mark.every_loop

VERIFICATION_CONTEXT = PresentationContext(3, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))
ECHO = DataTF((Fragment(3, True, True, CEchoRQ(1).encode()),)).encode()
ECHO_ANSWER = DataTF((Fragment(3, True, True, CEchoRSP(1, SUCCESS).encode()),)).encode()


async def play(script: Callable[[Wire], Any], scp: StorageSCP) -> Any:
    """Play a script as the requestor; gives what it returns."""
    with anyio.fail_after(LIMIT_SECONDS):
        return await anyio.to_thread.run_sync(play_scu, script, scp.port)


def associates(wire: Wire) -> socket.socket:
    """Associate; gives the connection, which is still open."""
    wire.associate()
    return wire.sock.dup()


def begins_a_message(wire: Wire) -> socket.socket:
    """Send a command and a part of its data set."""
    wire.associate()
    request = CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4").encode()
    wire.send(DataTF((Fragment(1, True, True, request),)), DataTF((Fragment(1, False, False, bytes(100)),)))
    return wire.sock.dup()


def reads_no_answer(wire: Wire) -> socket.socket:
    """Ask until nothing more is taken, or the connection ends, and read no answer."""
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.associate([VERIFICATION_CONTEXT])
    wire.sock.settimeout(TINY_SECONDS)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while True:
            wire.send(ECHO * 1000)
    return wire.sock.dup()


def rest_of(sock: socket.socket) -> bytes:
    """What comes until the connection ends."""
    parts = []
    with sock, contextlib.suppress(ConnectionError):
        sock.settimeout(LIMIT_SECONDS)
        while part := sock.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


# The acceptor is stopped


@pytest.mark.parametrize("script", [associates, begins_a_message])
async def test_leaving_the_block_aborts_what_is_open(script: Callable[[Wire], Any]) -> None:
    async with StorageSCP() as scp:
        socks = [await play(script, scp) for _ in range(2)]
    assert [await anyio.to_thread.run_sync(rest_of, sock) for sock in socks] == [Abort(0, 0).encode()] * 2


async def test_an_abort_is_never_sent_in_the_middle_of_an_answer() -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP() as scp:
            sock = await play(reads_no_answer, scp)
    stream = await anyio.to_thread.run_sync(rest_of, sock)
    whole = stream.count(ECHO_ANSWER)
    assert whole
    left = stream[whole * len(ECHO_ANSWER) :]
    assert ECHO_ANSWER.startswith(left) or left == Abort(0, 0).encode()


# The peer has gone while a hook is at work


class Patient:
    """A hook that goes on when it is told to, and says how far it has come."""

    def __init__(self) -> None:
        self.began, self.may_go_on, self.ended = anyio.Event(), anyio.Event(), anyio.Event()
        self.is_whole = False

    async def __call__(self, _: Arrival) -> Status:
        self.began.set()
        try:
            await self.may_go_on.wait()
            self.is_whole = True
        finally:
            self.ended.set()
        return SUCCESS


def stores_and_goes(end: Callable[[Wire], object]) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.associate()
        wire.send_message(1, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4"), bytes(10))
        end(wire)

    return script


@pytest.mark.parametrize(
    "end", [Wire.close, Wire.rst, lambda wire: wire.send(Abort(0, 0))], ids=["EOF", "RST", "abort"]
)
async def test_a_hook_at_work_finishes_when_the_peer_has_gone(end: Callable[[Wire], object]) -> None:
    patient = Patient()
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(on_store=patient, maximum_associations=1) as scp:
            await play(stores_and_goes(end), scp)
            await patient.began.wait()
            while scp._open:
                await anyio.lowlevel.checkpoint()
            (await play(associates, scp)).close()
            patient.may_go_on.set()
            await patient.ended.wait()
            assert patient.is_whole
            assert scp.stored == 1


async def test_a_hook_at_work_is_cancelled_when_the_acceptor_is_stopped() -> None:
    patient = Patient()
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(on_store=patient) as scp:
            await play(stores_and_goes(Wire.rst), scp)
            await patient.began.wait()
    assert patient.ended.is_set()
    assert (patient.is_whole, scp.stored) == (False, 0)


async def test_a_hook_that_awaits_what_was_cancelled_ends_nothing_else() -> None:
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        pytest.skip("nobody but a scope cancels anything there")

    async def awaits(_: Arrival) -> Status:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        return SUCCESS

    def is_answered(wire: Wire) -> None:
        wire.associate()
        assert wire.store(image()).value == 0x0110
        wire.release()

    async with StorageSCP(on_store=awaits) as scp:
        for _ in range(2):
            await play(is_answered, scp)


async def test_a_hook_that_raises_what_is_no_exception_ends_its_association() -> None:
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        pytest.skip("it leaves the acceptor there")

    def exits(_: Arrival) -> Status:
        raise asyncio.CancelledError

    def script(wire: Wire) -> None:
        wire.associate()
        wire.send_message(1, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4"), bytes(10))
        is_aborted(wire)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with StorageSCP(on_store=exits) as scp:
        await play(script, scp)


# The peer is idle


def associates_and_waits(wire: Wire) -> None:
    wire.associate()
    is_aborted(wire)


def stores_and_waits(wire: Wire) -> None:
    wire.associate()
    assert wire.store(image()).value == 0
    is_aborted(wire)


def waits_amid_a_message(wire: Wire) -> None:
    begins_a_message(wire).close()
    is_aborted(wire)


def waits_amid_a_pdu(wire: Wire) -> None:
    wire.associate()
    wire.send(b"\x04\0\0\0\0\x10ab")
    is_aborted(wire)


def is_aborted(wire: Wire) -> None:
    assert wire.expect(Abort).source == 0
    wire.expect_closed()


@pytest.mark.parametrize("script", [associates_and_waits, stores_and_waits, waits_amid_a_message, waits_amid_a_pdu])
async def test_an_idle_association_is_aborted_and_makes_room(script: Callable[[Wire], None], tmp_path: Path) -> None:
    async with StorageSCP(idle_seconds=TINY_SECONDS, maximum_associations=1, output_directory=tmp_path) as scp:
        for _ in range(2):
            await play(script, scp)
            while scp._open:
                await anyio.lowlevel.checkpoint()


async def test_a_look_that_finds_nothing_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_LOOK_SECONDS", TINY_SECONDS / 20)
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(idle_seconds=TINY_SECONDS) as scp:
            await play(associates_and_waits, scp)


async def test_an_association_whose_peer_reads_no_answer_is_idle() -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(idle_seconds=TINY_SECONDS) as scp:
            sock = await play(reads_no_answer, scp)
            while scp._open:
                await anyio.lowlevel.checkpoint()
    sock.close()


async def test_an_association_that_waits_for_a_hook_is_not_idle() -> None:
    patient = Patient()

    def is_answered(wire: Wire) -> None:
        wire.associate()
        assert wire.store(image()).value == 0
        wire.release()

    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(on_store=patient, idle_seconds=TINY_SECONDS) as scp, anyio.create_task_group() as group:
            group.start_soon(play, is_answered, scp)
            await patient.began.wait()
            await play(associates_and_waits, scp)
            await play(associates_and_waits, scp)
            patient.may_go_on.set()
    assert scp.stored == 1


async def test_an_association_may_be_idle_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[AcceptedAssociation] = []
    monkeypatch.setattr(AcceptedAssociation, "look", looks.append)
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(idle_seconds=0) as scp:
            sock = await play(associates, scp)
            await scp._watch()  # returns at once: nothing looks for idle associations
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            assert len(scp._open) == 1
    sock.close()
    assert looks == []
