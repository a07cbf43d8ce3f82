"""The usual answer, known by its bytes: nothing is taken that the whole decoding would read in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncstore.dimse.messages import CEchoRQ, CStoreRQ, CStoreRSP
from asyncstore.dimse.operations import Operations
from asyncstore.dimse.reassembly import Incoming, Received
from asyncstore.net.usual_answers import UsualAnswers
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, MR_IMAGE_STORAGE
from asyncstore.upper_layer.contexts import AcceptedContext
from asyncstore.upper_layer.pdu import DATA_TF, HEADER_BYTES, DataTF, Fragment, check_header, decode_fragments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.dimse.message_types import Message, Request
    from asyncstore.dimse.operations import Operation
    from asyncstore.errors import RemoteProtocolError

CT, MR = 3, 5
CONTEXTS = {
    CT: AcceptedContext(CT, CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN),
    MR: AcceptedContext(MR, MR_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN),
}
# Neighbours in length, and some that are the beginning of others.
UIDS = ("1.2.3", "1.2.4", "1.2.30", "1.2.31", "1.2.300", "1.2.3 ", "1.2.3\0", "1.2.4 0")


class Asked(NamedTuple):
    """A request that is outstanding."""

    uid: str
    context_id: int = CT
    is_sent: bool = True
    is_echo: bool = False


class End:
    """One end of an association whose peer answers: what it has outstanding, and what it has been told."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.told: list[RemoteProtocolError] = []
        self.operations = Operations(window=64, tolerate=self.told.append)
        self.operations.contexts = CONTEXTS
        self.usual_answers = UsualAnswers(self.operations)
        for each in asked:
            self.ask(each)

    def ask(self, asked: Asked) -> int:
        def make(message_id: int) -> Request:
            return CEchoRQ(message_id) if asked.is_echo else CStoreRQ(message_id, CT_IMAGE_STORAGE, asked.uid)

        operation = self.operations.begin(asked.context_id, make)
        if asked.is_sent:
            self.operations.sent(operation.message_id)
        return operation.message_id

    def take(self, context_id: int, command_set: bytes) -> tuple[Operation, CStoreRSP] | None:
        """What is taken of a PDU that has this command set alone."""
        data = pdu(context_id, command_set)
        taken = self.usual_answers.take(data, 0)
        if taken is None:
            return None
        operation, message, behind = taken
        assert behind == len(data)
        return operation, message

    def decode(self, data: bytes) -> tuple[int, Message]:
        """The whole way of a PDU: the Message ID of the operation that it answers, and the answer."""
        pdu_type, length = check_header(data, 0)
        assert pdu_type == DATA_TF
        assert HEADER_BYTES + length == len(data)
        (fragment,) = decode_fragments(memoryview(data)[HEADER_BYTES:])
        received = Incoming(self.told.append).receive(fragment)
        assert received is not None
        return self.operations.match(received).message_id, received.message

    def outstanding(self) -> list[int]:
        return list(self.operations.outstanding)


def pdu(context_id: int, command_set: bytes) -> bytes:
    return DataTF((Fragment(context_id, True, True, command_set),)).encode()


def learn(end: End, answer: CStoreRSP, context_id: int = CT) -> None:
    """What comes before: an answer that was decoded."""
    if end.usual_answers.may_learn_from(answer):
        end.usual_answers.learn(answer.encode(), Received(context_id, answer))


def success(message_id: int, uid: str, sop_class_uid: str = CT_IMAGE_STORAGE) -> CStoreRSP:
    return CStoreRSP(message_id, SUCCESS, sop_class_uid, uid)


def test_the_second_answer_of_a_length_is_known_by_its_bytes() -> None:
    end = End([Asked("1.2.3"), Asked("1.2.4"), Asked("1.2.300")])
    assert end.take(CT, success(1, "1.2.3").encode()) is None
    learn(end, success(1, "1.2.3"))
    answer = success(2, "1.2.4")
    taken = end.take(CT, answer.encode())
    assert taken is not None
    operation, message = taken
    assert (operation.message_id, message) == (2, answer)
    assert operation.is_final
    assert end.outstanding() == [1, 3]
    assert end.take(CT, answer.encode()) is None, "a second time"
    assert end.take(CT, success(3, "1.2.300").encode()) is None, "another length"


def test_each_length_and_context_is_learned() -> None:
    asked = [Asked(uid, context_id) for uid in ("1.2.3", "1.2.3000") for context_id in CONTEXTS]
    end = End(asked)
    for each in asked:
        learn(end, success(77, each.uid), each.context_id)
    for message_id, each in enumerate(asked, 1):
        taken = end.take(each.context_id, success(message_id, each.uid).encode())
        assert taken is not None
        assert taken[0].message_id == message_id


@pytest.mark.parametrize(
    ("asked", "answer", "context_id"),
    [
        ([Asked("1.2.3")], success(2, "1.2.3"), CT),
        ([Asked("1.2.3"), Asked("1.2.4")], success(1, "1.2.4"), CT),
        ([Asked("1.2.3")], success(1, "1.2.4"), CT),
        ([Asked("1.2.3", is_sent=False)], success(1, "1.2.3"), CT),
        ([Asked("1.2.3", MR)], success(1, "1.2.3"), CT),
        ([Asked("1.2.3")], success(1, "1.2.3"), MR),
        ([Asked("1.2.3", is_echo=True)], success(1, "1.2.3"), CT),
        ([Asked("1.2.3")], success(1, "1.2.3", MR_IMAGE_STORAGE), CT),
        ([Asked("1.2.3")], CStoreRSP(1, Status(0xB000), CT_IMAGE_STORAGE, "1.2.3"), CT),
        ([Asked("1.2.3")], CStoreRSP(1, SUCCESS, CT_IMAGE_STORAGE, "1.2.3", has_data_set=True), CT),
        ([Asked("1.2.3")], CStoreRSP(1, SUCCESS, CT_IMAGE_STORAGE, ""), CT),
    ],
)
def test_any_other_answer_is_left_to_the_decoding(asked: list[Asked], answer: CStoreRSP, context_id: int) -> None:
    end = End(asked)
    learn(end, success(9, "1.2.9"))
    assert end.take(context_id, answer.encode()) is None
    assert end.outstanding() == list(range(1, len(asked) + 1))


def test_a_part_of_an_answer_is_left_alone() -> None:
    end = End([Asked("1.2.3")])
    learn(end, success(9, "1.2.9"))
    answer = success(1, "1.2.3").encode()
    assert all(end.take(CT, answer[:length]) is None for length in range(len(answer)))
    data = pdu(CT, answer)
    assert all(end.usual_answers.take(data[:length], 0) is None for length in range(len(data)))
    assert end.usual_answers.take(data, 0) is not None


def test_answers_are_taken_one_after_another() -> None:
    end = End([Asked("1.2.3"), Asked("1.2.4")])
    learn(end, success(9, "1.2.9"))
    first, second = pdu(CT, success(2, "1.2.4").encode()), pdu(CT, success(1, "1.2.3").encode())
    data = first + second + first
    taken = end.usual_answers.take(data, 0)
    assert taken is not None
    assert taken[1:] == (success(2, "1.2.4"), len(first))
    taken = end.usual_answers.take(data, len(first))
    assert taken is not None
    assert taken[1:] == (success(1, "1.2.3"), len(first + second))
    assert end.usual_answers.take(data, len(first + second)) is None, "a second time"
    assert end.usual_answers.take(data, len(data)) is None


def test_a_peer_that_writes_each_answer_otherwise_is_not_studied_for_ever() -> None:
    end = End([])
    studied = 0
    while end.usual_answers.may_learn_from(success(1, "1.2.3")):
        end.usual_answers.learn(b"as we would not write it", Received(CT, success(1, "1.2.3")))
        studied += 1
    assert 0 < studied < 1000


asked_lists = st.lists(
    st.builds(Asked, st.sampled_from(UIDS), st.sampled_from(sorted(CONTEXTS)), st.booleans(), st.booleans()),
    min_size=1,
    max_size=5,
)
answers = st.builds(success, st.integers(0, 6), st.sampled_from(UIDS), st.sampled_from([CT_IMAGE_STORAGE, "1\0 \2\0"]))
lessons = st.lists(st.tuples(answers, st.sampled_from(sorted(CONTEXTS))), min_size=1, max_size=4)
changes = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2)


others = st.sampled_from([b"", b"\4", pdu(CT, success(1, "1.2.3").encode())])


@given(asked_lists, lessons, answers, st.sampled_from(sorted(CONTEXTS)), changes, st.integers(0, 220), others, others)
@example([Asked("1.2.4 0")], [(success(9, "1.2.400"), CT)], success(1, "1.2.4 0"), CT, [], 220, b"", b"")
@example([Asked("1.2.3 ")], [(success(9, "1.2.30"), CT)], success(1, "1.2.3 "), CT, [], 220, b"", b"")
@example([Asked("1.2.3")], [(success(9, "1.2.9", "1\0 \2\0"), CT)], success(1, "1.2.3"), CT, [], 220, b"", b"")
def test_nothing_is_taken_that_would_be_decoded_otherwise(
    asked: list[Asked],
    lessons: list[tuple[CStoreRSP, int]],
    answer: CStoreRSP,
    context_id: int,
    changes: list[tuple[int, int]],
    kept_bytes: int,
    before: bytes,
    behind: bytes,
) -> None:
    end, other = End(asked), End(asked)
    for lesson, lesson_context_id in lessons:
        learn(end, lesson, lesson_context_id)
    changed = bytearray(pdu(context_id, answer.encode()))
    for place, value in changes:
        changed[place % len(changed)] = value
    data = bytes(before + changed[:kept_bytes] + behind)
    outstanding = end.outstanding()
    taken = end.usual_answers.take(data, len(before))
    if taken is None:
        assert end.outstanding() == outstanding
        return
    operation, message, end_at = taken
    assert other.decode(data[len(before) : end_at]) == (operation.message_id, message)
    assert other.outstanding() == end.outstanding()
    assert operation.is_final
    assert not other.told


@given(st.lists(st.sampled_from(UIDS[:5]), min_size=1, max_size=5), st.sampled_from(sorted(CONTEXTS)))
def test_an_answer_as_it_should_be_is_taken_once_its_length_is_known(uids: list[str], context_id: int) -> None:
    end = End([Asked(uid, context_id) for uid in uids])
    for uid in uids:
        learn(end, success(60, uid), context_id)
    for number, uid in enumerate(uids, 1):
        taken = end.take(context_id, success(number, uid).encode())
        assert taken is not None
        assert taken[1] == success(number, uid)
    assert not end.outstanding()
