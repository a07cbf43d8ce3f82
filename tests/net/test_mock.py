"""MockTransport: a peer in memory, for tests of what uses an association."""

from __future__ import annotations

import anyio
import pytest

from asyncstore.errors import ConnectionLost
from asyncstore.net.mock import MockTransport
from asyncstore.net.peer import Peer
from tests.support.associations import LIMIT_SECONDS

pytestmark = pytest.mark.every_loop

PEER = Peer("nowhere.invalid", 104)


async def watched(transport: MockTransport, count: int) -> list[bytes | None]:
    """What is received in that many calls of a watch."""
    received: list[bytes | None] = []
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:

            def take() -> None:
                received.append(transport.receive_some())
                if len(received) == count:
                    group.cancel_scope.cancel()

            await transport.watch(take)
    return received


async def test_bytes_arrive_step_by_step_and_then_the_end() -> None:
    transport = MockTransport([b"abc", b"de", b""])
    assert await watched(transport, 3) == [b"abc", b"de", b""]
    assert transport.receive_some() == b""  # the end stays


async def test_a_function_sees_what_was_sent_since_the_last_step_until_it_answers() -> None:
    seen: list[bytes] = []

    def answer(sent: bytes) -> bytes | None:
        seen.append(sent)
        return b"whole" if len(sent) == 4 else None

    transport = MockTransport([answer, lambda sent: sent[::-1] or None])
    assert transport.receive_some() is None
    assert transport.send_some([b"ab"]) == 2
    assert transport.receive_some() is None
    assert transport.send_some([b"c", b"d"]) == 2
    assert transport.receive_some() == b"whole"
    assert seen == [b"", b"ab", b"abcd"]
    transport.send_some([b"xyz"])
    assert await watched(transport, 1) == [b"zyx"]
    assert transport.sent == b"abcdxyz"


async def test_what_is_sent_later_wakes_a_watch() -> None:
    transport = MockTransport([lambda sent: sent or None])
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            received: list[bytes | None] = []

            def take() -> None:
                received.append(transport.receive_some())
                group.cancel_scope.cancel()

            group.start_soon(transport.watch, take)
            await anyio.wait_all_tasks_blocked()
            transport.send_some([b"hello"])
    assert received == [b"hello"]


async def test_steps_may_be_added_while_it_plays() -> None:
    transport = MockTransport()
    assert transport.receive_some() is None
    transport.play(b"ab", ConnectionLost("reset"))
    assert transport.receive_some() == b"ab"
    with pytest.raises(ConnectionLost, match="reset"):
        transport.receive_some()


async def test_it_takes_no_more_than_it_has_room_for() -> None:
    transport = MockTransport(room=3)
    assert transport.send_some([b"ab", b"cd"]) == 3
    assert transport.send_some([b"d"]) == 0
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(transport.wait_writable)
            await transport.has_stalled.wait()
            transport.make_room()
    assert transport.send_some([b"d"]) == 1
    assert transport.sent == b"abcd"


async def test_closing_ends_every_use() -> None:
    transport = MockTransport()
    transport.acknowledge()
    async with anyio.create_task_group() as group:
        group.start_soon(transport.watch, lambda: None)
        await anyio.wait_all_tasks_blocked()
        transport.close(reset=True)
    assert transport.is_closed
    assert transport.was_reset
    for use in (transport.receive_some, lambda: transport.send_some([b"a"])):
        with pytest.raises(ConnectionLost):
            use()
    with pytest.raises(ConnectionLost):
        await transport.wait_writable()


async def test_it_stands_for_a_connection() -> None:
    opened = await MockTransport.opened_by([b"abc"], room=5)(PEER, 10.0)
    assert opened.receive_some() == b"abc"
    assert opened.send_some([bytes(10)]) == 5
