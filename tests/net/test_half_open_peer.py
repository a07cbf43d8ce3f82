"""A peer that is silently gone: no FIN, no RST, no answer. Deadlines notice it at work, keepalive while idle."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore.errors import Timeout
from asyncstore.net.transport import SocketTransport
from tests.support.associations import LIMIT_SECONDS, TINY_SECONDS, instance, set_timeouts, tiny, to
from tests.support.fault_plan import Cut
from tests.support.faults import FaultProxy
from tests.support.transfers import KeepingSCP, check_account, outcomes_of, transfer_to, write_files
from tests.support.wire import ScriptedSCP

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Wire

pytestmark = pytest.mark.every_loop

_NOTICED_SECONDS: Final = 120


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system does not say when it looks")
async def test_an_idle_connection_to_a_peer_that_is_gone_is_noticed_in_two_minutes() -> None:
    ours, theirs = socket.socket(), socket.socket()
    with ours, theirs:
        SocketTransport(ours)

        def seconds(name: str) -> int:
            return ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        until_it_looks = seconds("TCP_KEEPIDLE")
        assert until_it_looks + seconds("TCP_KEEPINTVL") * seconds("TCP_KEEPCNT") <= _NOTICED_SECONDS
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) > until_it_looks


def goes_after_the_first(wire: Wire) -> None:
    """Answers one request; what comes after that is neither read nor answered, and nothing is closed."""
    wire.accept()
    wire.answer(wire.read_store())
    wire.hold()


@pytest.mark.parametrize("what", ["store", "echo"])
async def test_an_association_whose_peer_went_while_it_was_idle_ends_by_the_deadline_of_the_answer(what: str) -> None:
    with ScriptedSCP(goes_after_the_first) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=tiny(dimse_seconds=4 * TINY_SECONDS)) as association:
            assert (await association.store(instance())).is_stored
            with pytest.raises(Timeout) as caught:
                await (association.echo() if what == "echo" else association.store(instance(uid="1.2.3.5")))
    assert caught.value.which == "dimse"


async def test_the_release_of_an_association_whose_peer_is_gone_is_bounded_and_takes_nothing_back() -> None:
    with ScriptedSCP(goes_after_the_first) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).is_stored
            set_timeouts(association, acse_seconds=TINY_SECONDS)


async def test_a_transfer_whose_peer_vanishes_goes_on_over_a_new_association(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 40, padding_bytes=20_000)
    async with KeepingSCP() as scp:
        with FaultProxy((scp.host, scp.port), [Cut(how="stall", at=100_000, in_data=True, times=1)]) as proxy:
            transfer = transfer_to(proxy, tmp_path, associations=1, timeouts=tiny(dimse_seconds=TINY_SECONDS))
            outcomes = await outcomes_of(transfer)
            assert proxy.connections >= 2  # more if this machine is too slow for so short a deadline
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 40
    assert transfer.report.attempts <= 40 + 16 * (proxy.connections - 1)
