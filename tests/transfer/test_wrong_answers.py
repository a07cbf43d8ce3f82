"""Answers that are none: whatever a peer says instead of one, no ledger calls the instance stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore.dimse.messages import CStoreRSP
from asyncstore.errors import RemoteProtocolError
from asyncstore.instances.outcome import State
from asyncstore.status import SUCCESS
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import CT_IMAGE_STORAGE
from asyncstore.upper_layer.pdu import Abort, DataTF, Fragment
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.net.test_association_faults import WRONG_ANSWERS, ends_with_abort
from tests.support.ledgers import rows_of
from tests.support.transfers import outcomes_of, peer_at, write_files
from tests.support.wire import ScriptedSCP, Wire, stores_everything

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome
    from tests.support.wire import Script

NO_RETRY: Final = RetryPolicy(retries=0, outage_seconds=0.0)


class Sending:
    """Files and a ledger for several runs to one and the same peer."""

    def __init__(self, directory: Path, count: int, padding_bytes: int = 0) -> None:
        self.paths = write_files(directory / "in", count, padding_bytes=padding_bytes)
        self.ledger = directory / "run.db"

    async def run(self, scp: ScriptedSCP) -> list[Outcome]:
        options = TransferOptions(associations=1, retry=NO_RETRY)
        return await outcomes_of(Transfer(peer_at(scp), self.paths, options=options, ledger=self.ledger))

    async def states(self) -> list[State]:
        """Of each file, as the ledger has it."""
        rows = await anyio.to_thread.run_sync(rows_of, self.ledger)
        states = {row.path: row.state for row in rows}
        return [states[path] for path in self.paths]


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
async def test_what_is_no_answer_is_never_recorded_as_stored_and_the_next_run_sends_it(
    tmp_path: Path, wrong: str
) -> None:
    answer, _ = WRONG_ANSWERS[wrong]

    def answers_wrong(wire: Wire) -> None:
        wire.accept()
        answer(wire, wire.read_store())
        ends_with_abort(wire)

    sending = Sending(tmp_path, 1)
    with ScriptedSCP(answers_wrong, stores_everything) as scp:
        (outcome,) = await sending.run(scp)
        assert outcome.state is State.UNKNOWN
        assert isinstance(outcome.error, RemoteProtocolError)
        assert await sending.states() == [State.UNKNOWN]
        (outcome,) = await sending.run(scp)
    assert outcome.state is State.STORED
    assert await sending.states() == [State.STORED]


def _answers_twice(wire: Wire) -> None:
    wire.accept()
    answer = CStoreRSP(wire.read_store().message_id, SUCCESS).encode()
    wire.send(*[DataTF((Fragment(1, True, True, answer),))] * 2)
    wire.drain()


async def test_a_second_answer_to_one_request_stores_nothing_else(tmp_path: Path) -> None:
    sending = Sending(tmp_path, 3)
    with ScriptedSCP(_answers_twice, Wire.rst) as scp:
        await sending.run(scp)
        assert isinstance(scp.wires[0].received[-1], Abort)
    states = await sending.states()
    assert states[0] is State.STORED
    assert State.STORED not in states[1:]


def _answers_the_other(wire: Wire) -> None:
    """The Message ID of the first request, the SOP Instance UID of the second."""
    wire.accept(operations_window=OperationsWindow(2, 1))
    first, second = wire.read_store(), wire.read_store()
    uids = (CT_IMAGE_STORAGE, second.request.affected_sop_instance_uid)
    answer = CStoreRSP(first.message_id, SUCCESS, *uids).encode()
    wire.send(DataTF((Fragment(first.context_id, True, True, answer),)))
    ends_with_abort(wire)


async def test_an_answer_that_contradicts_itself_stores_neither_instance(tmp_path: Path) -> None:
    sending = Sending(tmp_path, 2)
    with ScriptedSCP(_answers_the_other, stores_everything) as scp:
        await sending.run(scp)
        assert State.STORED not in await sending.states()
        await sending.run(scp)
    assert await sending.states() == [State.STORED] * 2


def _answers_too_early(wire: Wire) -> None:
    wire.accept()
    first = wire.expect(DataTF)
    wire.send(DataTF((Fragment(first.fragments[0].context_id, True, True, CStoreRSP(1, SUCCESS).encode()),)))
    wire.drain()


async def test_success_before_the_data_set_was_sent_is_never_recorded_as_stored(tmp_path: Path) -> None:
    """It is larger than the buffers of the connection, so that the answer comes in the middle of it."""
    sending = Sending(tmp_path, 1, padding_bytes=24_000_000)
    scripts: list[Script] = [_answers_too_early, stores_everything]
    with ScriptedSCP(*scripts) as scp:
        (outcome,) = await sending.run(scp)
        assert outcome.state is State.UNKNOWN
        assert await sending.states() == [State.UNKNOWN]
        (outcome,) = await sending.run(scp)
    assert outcome.state is State.STORED
