"""The next request leaves from the callback of an answer; whatever happens at that place costs no instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import ConnectionLost
from asyncstore.instances.outcome import State
from asyncstore.net.invoker import Invoker
from asyncstore.net.transport import SocketTransport
from asyncstore.transfer.options import RetryPolicy
from tests.support.transfers import KeepingSCP, check_account, collect, outcomes_of, transfer_to, write_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

pytestmark = pytest.mark.every_loop

ALL = 40
RETRY = RetryPolicy(first_wait_seconds=0.01)


class AtOnce:
    """Counts what is sent from callbacks, and changes how it is sent: `send(transport, parts)` in place of the real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        self.send: Callable[[SocketTransport, Sequence[Any]], int] | None = None
        self._is_inside = False
        send_now, self.real = Invoker.send_now, SocketTransport.send_some

        def counted(invoker: Invoker, *arguments: Any) -> bool:
            self._is_inside = True
            try:
                is_sent = send_now(invoker, *arguments)
            finally:
                self._is_inside = False
            self.sent += is_sent
            return is_sent

        def changed(transport: SocketTransport, parts: Sequence[Any]) -> int:
            if self._is_inside and self.send is not None:
                return self.send(transport, parts)
            return self.real(transport, parts)

        monkeypatch.setattr(Invoker, "send_now", counted)
        monkeypatch.setattr(SocketTransport, "send_some", changed)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> AtOnce:
    return AtOnce(monkeypatch)


async def test_most_requests_leave_from_the_callback_of_an_answer(tmp_path: Path, at_once: AtOnce) -> None:
    paths = write_files(tmp_path, ALL)
    async with KeepingSCP(window=4) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=4, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: ALL}
    assert set(scp.uids.values()) == {1}
    assert at_once.sent >= ALL // 2


@pytest.mark.parametrize("taken", [0, 1, 30, 100, 400])
async def test_a_request_that_the_peer_takes_only_in_part_is_finished(
    tmp_path: Path, at_once: AtOnce, taken: int
) -> None:
    def takes_a_part(transport: SocketTransport, parts: Sequence[Any]) -> int:
        data = b"".join(map(bytes, parts))[:taken]
        return at_once.real(transport, [data]) if data else 0

    at_once.send = takes_a_part
    write_files(tmp_path, ALL)
    async with KeepingSCP(window=4) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2, window=4, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: ALL}
    assert set(scp.uids.values()) == {1}
    assert all(arrival.data_set_bytes for arrival in scp.arrivals)
    assert at_once.sent > 0


async def test_a_connection_that_is_lost_there_costs_no_instance(tmp_path: Path, at_once: AtOnce) -> None:
    losses = 0

    def loses_the_connection(transport: SocketTransport, parts: Sequence[Any]) -> int:
        nonlocal losses
        losses += 1
        if losses % 7 == 0:
            transport.close(reset=True)
            raise ConnectionLost("reset in a callback")
        return at_once.real(transport, parts)

    at_once.send = loses_the_connection
    write_files(tmp_path, ALL)
    async with KeepingSCP(window=4) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2, window=4, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert losses >= 7
    assert transfer.report.stored == ALL


async def test_a_mistake_there_comes_out_as_itself(tmp_path: Path, at_once: AtOnce) -> None:
    class MistakenError(Exception):
        pass

    def mistakes(transport: SocketTransport, parts: Sequence[Any]) -> int:
        raise MistakenError("in a callback")

    at_once.send = mistakes
    write_files(tmp_path, ALL)
    async with KeepingSCP(window=4) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=4, retry=RETRY)
        with pytest.raises((MistakenError, BaseExceptionGroup)):
            await collect(transfer, [])


async def test_a_transfer_that_is_cancelled_sends_nothing_more_from_there(tmp_path: Path, at_once: AtOnce) -> None:
    write_files(tmp_path, 10 * ALL)
    sent = 0
    async with KeepingSCP(window=4) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=4, retry=RETRY)
        with anyio.CancelScope() as scope:
            async with transfer:
                async for _ in transfer:
                    sent = sent or at_once.sent
                    scope.cancel()
    assert transfer.report.stored < 10 * ALL
    assert at_once.sent <= sent + 4
    assert max(scp.uids.values()) == 1
