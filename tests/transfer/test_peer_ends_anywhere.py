"""A peer that releases or aborts in each state of an association: a run goes on, and its ledger stays true."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore.errors import Aborted, AsyncStoreError
from asyncstore.instances.outcome import State
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.upper_layer.pdu import Abort, AssociateRQ, ReleaseRP, ReleaseRQ
from tests.support.ledgers import rows_of
from tests.support.transfers import (
    LIMIT_SECONDS,
    QUICK,
    check_account,
    collect,
    outcomes_of,
    peer_at,
    uid_of,
    write_files,
)
from tests.support.wire import ScriptedSCP, Wire, stores_everything

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome
    from tests.support.wire import PDU

pytestmark = pytest.mark.every_loop

ENDS: Final[dict[str, PDU]] = {"A-RELEASE-RQ": ReleaseRQ(), "A-ABORT": Abort(0, 0), "A-P-ABORT": Abort(2, 6)}
# More than the buffers between the two take, of which that of the peer is small.
LARGE_BYTES: Final = 12_000_000
RECEIVE_BUFFER_BYTES: Final = 8192


def _instead_of_an_answer_to_the_request(wire: Wire, end: PDU) -> None:
    wire.expect(AssociateRQ)
    wire.send(end)


def _before_it_reads_a_message(wire: Wire, end: PDU) -> None:
    wire.accept()
    assert wire.sock.recv(1, socket.MSG_PEEK)
    wire.send(end)


def _while_idle(wire: Wire, end: PDU) -> None:
    wire.accept()
    wire.answer(wire.read_store())
    wire.send(end)


def _with_a_request_outstanding(wire: Wire, end: PDU) -> None:
    wire.accept()
    wire.answer(wire.read_store())
    wire.read_store()
    wire.send(end)


def _in_the_middle_of_a_message(wire: Wire, end: PDU) -> None:
    wire.accept()
    wire.read_pdu()
    wire.send(end)


def _instead_of_the_answer_to_the_release(wire: Wire, end: PDU) -> None:
    wire.accept()
    for _ in range(3):
        wire.answer(wire.read_store())
    wire.expect(ReleaseRQ)
    wire.send(end)
    if isinstance(end, ReleaseRQ):  # a collision: each answers the other's
        wire.expect(ReleaseRP)
        wire.send(ReleaseRP())


AFTER_THE_ACCEPTANCE: Final[list[tuple[Callable[[Wire, PDU], None], int]]] = [
    (_before_it_reads_a_message, 0),
    (_while_idle, 1),
    (_with_a_request_outstanding, 1),
    (_in_the_middle_of_a_message, 0),
    (_instead_of_the_answer_to_the_release, 3),
]


def transfer_of(scp: ScriptedSCP, sources: list[str], ledger: Path) -> Transfer:
    # An offer that cannot shrink: each refused association is an attempt.
    options = TransferOptions(associations=1, window=1, only_needed_contexts=True, retry=QUICK)
    return Transfer(peer_at(scp), sources, options=options, ledger=ledger)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("state", "answered"), AFTER_THE_ACCEPTANCE, ids=[state.__name__[1:] for state, _ in AFTER_THE_ACCEPTANCE]
)
async def test_an_end_in_any_state_loses_nothing(
    tmp_path: Path, state: Callable[[Wire, PDU], None], answered: int, end: str
) -> None:
    large = LARGE_BYTES if state is _in_the_middle_of_a_message else 0
    paths = write_files(tmp_path / "in", 1, padding_bytes=large) + write_files(tmp_path / "in", 2, first=2)

    def ends(wire: Wire) -> None:
        state(wire, ENDS[end])
        wire.drain()

    with ScriptedSCP(ends, stores_everything, receive_buffer_bytes=RECEIVE_BUFFER_BYTES) as scp:
        transfer = transfer_of(scp, paths, tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: 3}
    assert transfer.report.attempts <= 3 + 1
    assert len(scp.wires) == (1 if answered == 3 else 2)
    # What was answered before the end is not sent again, whichever came first.
    first, again = (
        [store.request.affected_sop_instance_uid for wire in wires for store in wire.stores]
        for wires in (scp.wires[:1], scp.wires[1:])
    )
    assert sorted(again) == sorted({uid_of(number) for number in range(1, 4)} - set(first[:answered]))
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert [row.state for row in rows] == [State.STORED] * 3


@pytest.mark.parametrize("end", [*ENDS.values(), b"\xff" * 10], ids=[*ENDS, "garbage"])
async def test_an_association_that_ends_in_the_moment_of_its_acceptance_counts_as_none(
    tmp_path: Path, end: PDU | bytes
) -> None:
    paths = write_files(tmp_path / "in", 3)

    def ends_at_once(wire: Wire) -> None:
        wire.accept(end)
        wire.drain()

    with ScriptedSCP(ends_at_once) as scp:
        transfer = transfer_of(scp, paths, tmp_path / "run.db")
        with anyio.fail_after(LIMIT_SECONDS), pytest.raises(AsyncStoreError):
            await collect(transfer, [])
        assert len(scp.wires) == 1
    assert transfer.report.left == transfer.report.found


async def test_a_peer_that_ends_every_association_at_once_is_given_up_when_the_outage_is_over(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", 3)

    def answers_once(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wire.send(Abort(0, 0))
        wire.drain()

    def ends_at_once(wire: Wire) -> None:
        wire.accept(Abort(0, 0))
        wire.drain()

    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.05, outage_seconds=0.2)
    with ScriptedSCP(answers_once, ends_at_once) as scp:
        transfer = Transfer(peer_at(scp), paths, options=TransferOptions(associations=1, retry=retry))
        with anyio.fail_after(LIMIT_SECONDS):
            outcomes = await collect(transfer, [])
    assert [outcome.state for outcome in outcomes] == [State.STORED]
    assert transfer.report.left == transfer.report.found - 1
    assert isinstance(transfer.report.stopped_because, Aborted)


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_instead_of_an_answer_to_the_request_leaves_everything(tmp_path: Path, end: str) -> None:
    paths = write_files(tmp_path / "in", 3)

    def ends(wire: Wire) -> None:
        _instead_of_an_answer_to_the_request(wire, ENDS[end])
        wire.drain()

    outcomes: list[Outcome] = []
    with ScriptedSCP(ends) as scp:
        transfer = transfer_of(scp, paths, tmp_path / "run.db")
        with pytest.raises(AsyncStoreError):
            await collect(transfer, outcomes)
        assert len(scp.wires) == 1
    assert outcomes == []
    assert transfer.report.left == transfer.report.found
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert {row.state for row in rows} == {State.LEFT}
