"""A worker sends nothing any more when others may think it dead, whatever its system or its tasks still hold."""

from __future__ import annotations

import anyio
import pytest

from asyncstore.cluster.fencing import FencedTransport, connect_within
from asyncstore.cluster.heart import Fence
from asyncstore.errors import ConnectionLost
from asyncstore.net.mock import MockTransport
from asyncstore.net.peer import Peer
from asyncstore.net.requestor import Requestor
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN
from tests.support.associations import LIMIT_SECONDS
from tests.support.wire import ScriptedSCP, Wire

TIMEOUT = 8.0
CONTEXTS = [(CT_IMAGE_STORAGE, [IMPLICIT_VR_LITTLE_ENDIAN])]


class Clock:
    """A clock that stands still but for `now`."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("silent_seconds", "is_sent"), [(0.0, True), (3.9, True), (6.9, True), (7.0, False), (60, False)]
)
def test_not_a_byte_is_sent_in_the_last_eighth_of_the_timeout(
    clock: Clock, silent_seconds: float, is_sent: bool
) -> None:
    inner = MockTransport()
    transport = FencedTransport(inner, Fence(TIMEOUT, clock))
    clock.now += silent_seconds
    if is_sent:
        assert transport.send_some([b"abc"]) == 3
        assert not transport.is_closed
        return
    with pytest.raises(ConnectionLost, match="another worker may send the same"):
        transport.send_some([b"abc"])
    assert bytes(inner.sent) == b""
    assert transport.is_closed
    assert inner.was_reset


@pytest.mark.parametrize(("silent_seconds", "is_reset"), [(5.9, False), (6.0, True)])
def test_what_the_system_holds_is_thrown_away_with_an_association_that_had_to_be_aborted(
    clock: Clock, silent_seconds: float, is_reset: bool
) -> None:
    inner = MockTransport()
    transport = FencedTransport(inner, Fence(TIMEOUT, clock))
    clock.now += silent_seconds
    transport.close()
    assert inner.was_reset is is_reset


def test_a_sign_of_life_opens_the_fence_from_when_it_began(clock: Clock) -> None:
    fence = Fence(TIMEOUT, clock)
    clock.now += 5.0
    fence.heard(clock.now - 3.0)
    assert fence.may_send()
    clock.now += 1.0
    assert not fence.may_send()
    assert not fence.must_abort
    clock.now += 2.0
    assert fence.must_abort
    assert not fence.must_be_silent
    clock.now += 1.0
    assert fence.must_be_silent


async def test_whoever_waits_for_a_peer_that_takes_no_bytes_sends_none_once_it_is_too_late() -> None:
    fence = Fence(0.4)
    inner = MockTransport(room=3)
    transport = FencedTransport(inner, fence)
    assert transport.send_some([b"abcdef"]) == 3
    with anyio.fail_after(LIMIT_SECONDS):
        await transport.wait_writable()
    assert fence.must_be_silent
    inner.make_room()  # as a network that comes back
    with pytest.raises(ConnectionLost, match="another worker may send the same"):
        transport.send_some([b"def"])
    assert (bytes(inner.sent), inner.was_reset) == (b"abc", True)


async def test_whoever_waits_for_a_peer_goes_on_when_there_is_room_in_time() -> None:
    inner = MockTransport(room=0)
    transport = FencedTransport(inner, Fence(LIMIT_SECONDS))
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(transport.wait_writable)
            await inner.has_stalled.wait()
            inner.make_room()
    assert transport.send_some([b"abc"]) == 3


async def test_an_association_behind_the_fence_works_as_any(clock: Clock) -> None:
    async with StorageSCP() as scp:
        peer = Peer(scp.host, scp.port)
        async with Requestor(peer, CONTEXTS, connect=connect_within(Fence(TIMEOUT, clock))) as association:
            assert association.established
    assert scp.stored == 0


async def test_the_peer_sees_a_reset_and_no_release_of_one_that_woke_too_late(clock: Clock) -> None:
    def sees_a_reset(wire: Wire) -> None:
        wire.accept()
        with pytest.raises(ConnectionResetError):
            wire.sock.recv(1)

    with ScriptedSCP(sees_a_reset) as scp:
        association = Requestor(Peer(scp.host, scp.port), CONTEXTS, connect=connect_within(Fence(TIMEOUT, clock)))
        async with association:
            clock.now += TIMEOUT
            await association.release()
