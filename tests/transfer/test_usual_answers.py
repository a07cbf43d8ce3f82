"""Answers that are alike need no decoding, however they arrive; one among them that is not ordinary is found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from asyncstore.dimse.messages import CStoreRSP
from asyncstore.instances.outcome import State
from asyncstore.net.usual_answers import UsualAnswers
from asyncstore.status import SUCCESS
from asyncstore.transfer.attempts import Attempts
from asyncstore.transfer.options import RetryPolicy
from asyncstore.upper_layer.pdu import Abort, DataTF, Fragment, ReleaseRP
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.net.test_association_faults import WRONG_ANSWERS, ends_with_abort
from tests.support.transfers import check_account, outcomes_of, transfer_to, write_files
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome
    from asyncstore.transfer.pending import Pending
    from tests.support.wire import IncomingStore

pytestmark = pytest.mark.every_loop

NO_RETRY: Final = RetryPolicy(retries=0, outage_seconds=0.0)
WINDOW: Final = 3
# All instances have UIDs of one length.
COUNT: Final = 9


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The Message IDs of the answers that were not decoded."""
    message_ids: list[int] = []
    take = UsualAnswers.take

    def noted(answers: UsualAnswers, data: bytes, at: int) -> object:
        taken = take(answers, data, at)
        if taken is not None:
            message_ids.append(taken[1].responded_to)
        return taken

    monkeypatch.setattr(UsualAnswers, "take", noted)
    return message_ids


def answer_to(store: IncomingStore, sop_instance_uid: str = "") -> bytes:
    """The bytes of an ordinary success, if it is about the instance of the request."""
    uid = sop_instance_uid or store.request.affected_sop_instance_uid
    answer = CStoreRSP(store.message_id, SUCCESS, store.request.affected_sop_class_uid, uid)
    return DataTF((Fragment(store.context_id, True, True, answer.encode()),)).encode()


def accept(wire: Wire, *, window: int = WINDOW) -> None:
    wire.accept(operations_window=OperationsWindow(window, 1) if window > 1 else None)


async def states_of(scp: ScriptedSCP, directory: Path) -> Counter[State]:
    """How many instances ended in which state."""
    paths = write_files(directory, COUNT)
    transfer = transfer_to(scp, paths, associations=1, window=WINDOW, retry=NO_RETRY)
    outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    return Counter(outcome.state for outcome in outcomes)


@pytest.mark.parametrize("cut", [1, 6, 11, 12, 30, 100, -1, None])
async def test_answers_count_whatever_pieces_they_arrive_in(tmp_path: Path, known: list[int], cut: int | None) -> None:
    """Each piece ends in the middle of an answer, at the `cut`; or three answers are one piece."""

    def answers_in_pieces(wire: Wire) -> None:
        accept(wire)
        rest = b""
        for _ in range(COUNT // WINDOW):
            answers = [answer_to(store) for store in wire.read_stores(WINDOW)]
            if cut is None:
                wire.send(b"".join(answers))
                continue
            for answer in answers:
                wire.send(rest + answer[:cut])
                rest = answer[cut:]
            wire.send(rest)
            rest = b""
        wire.answer_release()

    with ScriptedSCP(answers_in_pieces) as scp:
        assert await states_of(scp, tmp_path) == {State.STORED: COUNT}
    # What came in one piece with the first answer is decoded as it is.
    assert known[-COUNT + WINDOW :] == list(range(WINDOW + 1, COUNT + 1))
    assert known == list(range(COUNT + 1 - len(known), COUNT + 1))


async def test_all_but_the_first_of_a_length_are_known(tmp_path: Path, known: list[int]) -> None:
    def answers_one_by_one(wire: Wire) -> None:
        accept(wire, window=1)
        wire.serve_stores()

    with ScriptedSCP(answers_one_by_one) as scp:
        assert await states_of(scp, tmp_path) == {State.STORED: COUNT}
    assert known == list(range(2, COUNT + 1))


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
async def test_a_wrong_answer_after_ordinary_ones_ends_the_association(tmp_path: Path, wrong: str) -> None:
    answer, _ = WRONG_ANSWERS[wrong]

    def answers_wrong_at_last(wire: Wire) -> None:
        accept(wire, window=1)
        for _ in range(COUNT - 1):
            wire.answer(wire.read_store())
        answer(wire, wire.read_store())
        ends_with_abort(wire)

    with ScriptedSCP(answers_wrong_at_last) as scp:
        states = await states_of(scp, tmp_path)
    assert states == {State.STORED: COUNT - 1, State.UNKNOWN: 1}


async def test_an_answer_that_contradicts_itself_after_ordinary_ones_stores_neither_instance(tmp_path: Path) -> None:
    def answers_the_other_at_last(wire: Wire) -> None:
        accept(wire)
        for _ in range(COUNT // WINDOW - 1):
            wire.send(b"".join(answer_to(store) for store in wire.read_stores(WINDOW)))
        first, second, _ = wire.read_stores(WINDOW)
        wire.send(answer_to(first, second.request.affected_sop_instance_uid))
        ends_with_abort(wire)

    with ScriptedSCP(answers_the_other_at_last) as scp:
        states = await states_of(scp, tmp_path)
    assert states == {State.STORED: COUNT - WINDOW, State.UNKNOWN: WINDOW}


@pytest.mark.parametrize("end", [Abort(2, 1), ReleaseRP(), b"nonsense"], ids=["abort", "release", "nonsense"])
async def test_what_comes_behind_ordinary_answers_in_one_piece_is_not_lost(
    tmp_path: Path, known: list[int], end: Abort | ReleaseRP | bytes
) -> None:
    def ends_behind_answers(wire: Wire) -> None:
        accept(wire)
        for _ in range(COUNT // WINDOW - 1):
            wire.send(b"".join(answer_to(store) for store in wire.read_stores(WINDOW)))
        first, second, _ = wire.read_stores(WINDOW)
        wire.send(answer_to(first), answer_to(second), end)
        wire.drain()

    with ScriptedSCP(ends_behind_answers) as scp:
        states = await states_of(scp, tmp_path)
    assert states == {State.STORED: COUNT - 1, State.UNKNOWN: 1}
    assert COUNT - 1 in known


async def test_a_mistake_with_an_ordinary_answer_comes_out_as_itself(
    tmp_path: Path, known: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class MistakenError(Exception):
        pass

    answered = Attempts.answered

    def mistakes(attempts: Attempts, pending: Pending, outcome: Outcome) -> bool:
        if known:
            raise MistakenError("in a callback")
        return answered(attempts, pending, outcome)

    monkeypatch.setattr(Attempts, "answered", mistakes)

    def serves(wire: Wire) -> None:
        accept(wire)
        first, *others = wire.read_stores(WINDOW)
        wire.send(answer_to(first))
        wire.read_store()  # sent when there was room: so that answer has been read
        wire.send(b"".join(answer_to(store) for store in others))
        wire.drain()

    with ScriptedSCP(serves, Wire.drain) as scp:
        paths = write_files(tmp_path, COUNT)
        transfer = transfer_to(scp, paths, associations=1, window=WINDOW, retry=NO_RETRY)
        with pytest.raises((MistakenError, BaseExceptionGroup)):
            await outcomes_of(transfer)
        assert transfer.report.stored == 1
    assert isinstance(scp.wires[0].received[-1], Abort)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_ends_behind_the_first_piece_of_an_answer(tmp_path: Path, reset: bool) -> None:
    def ends_amid_an_answer(wire: Wire) -> None:
        accept(wire, window=1)
        for _ in range(COUNT - 1):
            wire.answer(wire.read_store())
        wire.send(answer_to(wire.read_store())[:12])
        if reset:
            wire.rst()

    with ScriptedSCP(ends_amid_an_answer) as scp:
        states = await states_of(scp, tmp_path)
    assert states == {State.STORED: COUNT - 1, State.UNKNOWN: 1}
