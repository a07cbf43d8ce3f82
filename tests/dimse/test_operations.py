"""Operations: Message IDs, the window, fragments -> messages, and the responses that belong to an operation."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncstore.dimse.command_set import MAXIMUM_BYTES
from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, UnknownMessage
from asyncstore.dimse.operations import Operation
from asyncstore.dimse.query_messages import CFindRQ, CFindRSP
from asyncstore.dimse.reassembly import MAXIMUM_DATA_SET_BYTES, Reassembler, Received
from asyncstore.errors import LocalProtocolError, RemoteProtocolError
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MR_IMAGE_STORAGE,
)
from asyncstore.upper_layer.contexts import AcceptedContext
from asyncstore.upper_layer.pdu import Fragment
from tests.support.dimse import CONTEXT_ID, Exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.dimse.message_types import Message

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
LAST_MESSAGE_ID = 65535
EVENT_REPORT = UnknownMessage(0x0100, 9, None, True)
FOUND = CFindRSP(9, Status(0xFF00), has_data_set=True)
NOT_FINAL = [Status(0xFF00), Status(0xFF01), Status(0xFE00)]


def store_request(message_id: int) -> CStoreRQ:
    return CStoreRQ(message_id, CT_IMAGE_STORAGE, f"1.2.{message_id}")


def whole(message: Message, context_id: int = CONTEXT_ID) -> Fragment:
    """A command set in one fragment."""
    return Fragment(context_id, True, True, message.encode())


def cut(data: bytes, cuts: Iterable[int], *, is_command: bool, context_id: int = CONTEXT_ID) -> list[Fragment]:
    """Data as fragments that end at each of the cuts; equal cuts make empty fragments."""
    edges = [0, *sorted(cuts), len(data)]
    return [
        Fragment(context_id, is_command, end == edges[-1] and index == len(edges) - 2, data[start:end])
        for index, (start, end) in enumerate(pairwise(edges))
    ]


def sent_store(exchange: Exchange, context_id: int = CONTEXT_ID) -> Operation:
    operation = exchange.begin(context_id, store_request)
    exchange.sent(operation.message_id)
    return operation


def take_message_ids(exchange: Exchange, up_to: int) -> None:
    """Use up Message IDs, without a trace."""
    while exchange.withdraw(exchange.begin(CONTEXT_ID, store_request).message_id).message_id != up_to:
        pass


def field_refused_by(exchange: Exchange, received: Received) -> str:
    """The field for which `match` refuses a message; nothing may have ended by it."""
    before = dict(exchange.outstanding)
    with pytest.raises(RemoteProtocolError) as caught:
        exchange.match(received)
    assert dict(exchange.outstanding) == before
    assert caught.value.pdu == received.message.name
    return caught.value.field


# -- Message IDs and the window ----------------------------------------------------------------------------------------


def test_message_ids_begin_at_1_and_the_request_carries_its_own() -> None:
    exchange = Exchange(window=2)
    first, second = exchange.begin(1, store_request), exchange.begin(5, CEchoRQ)
    assert (first.message_id, first.context_id, first.request) == (1, 1, store_request(1))
    assert (second.message_id, second.context_id, second.request) == (2, 5, CEchoRQ(2))
    assert dict(exchange.outstanding) == {1: first, 2: second}


def test_there_is_room_for_as_many_operations_as_the_window_has() -> None:
    exchange = Exchange(window=2)
    sent_store(exchange)
    assert exchange.has_room
    sent_store(exchange)
    assert not exchange.has_room
    with pytest.raises(LocalProtocolError, match="window of 2 operations is full"):
        exchange.begin(CONTEXT_ID, store_request)
    exchange.match(Received(CONTEXT_ID, CStoreRSP(1, SUCCESS)))
    assert exchange.has_room


def test_a_window_is_1_unless_told() -> None:
    exchange = Exchange()
    assert exchange.window == 1
    sent_store(exchange)
    assert not exchange.has_room


def test_the_window_may_grow_and_shrink_below_what_is_outstanding() -> None:
    exchange = Exchange(window=3)
    operations = [sent_store(exchange) for _ in range(3)]
    exchange.window = 1
    exchange.match(Received(CONTEXT_ID, CStoreRSP(operations[0].message_id, SUCCESS)))
    assert not exchange.has_room
    exchange.window = 3
    assert exchange.has_room


@pytest.mark.parametrize("window", [0, -1, 65536])
def test_a_window_that_message_ids_cannot_fill_is_refused(window: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"a window of {window} operations"):
        Exchange(window=window)


def test_every_message_id_can_be_in_flight_at_once() -> None:
    exchange = Exchange(window=LAST_MESSAGE_ID)
    taken = {exchange.begin(CONTEXT_ID, CEchoRQ).message_id for _ in range(LAST_MESSAGE_ID)}
    assert taken == set(range(1, LAST_MESSAGE_ID + 1))
    assert not exchange.has_room
    exchange.withdraw(4711)
    assert exchange.begin(CONTEXT_ID, CEchoRQ).message_id == 4711


def test_message_ids_wrap_at_65535_and_pass_over_those_in_flight() -> None:
    exchange = Exchange(window=4)
    first = exchange.begin(CONTEXT_ID, store_request).message_id
    take_message_ids(exchange, up_to=LAST_MESSAGE_ID - 1)
    taken = [exchange.begin(CONTEXT_ID, store_request).message_id for _ in range(3)]
    assert (first, taken) == (1, [LAST_MESSAGE_ID, 2, 3])


def test_a_request_that_could_not_be_made_takes_nothing() -> None:
    exchange = Exchange()

    def fails(_: int) -> CStoreRQ:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exchange.begin(CONTEXT_ID, fails)
    assert exchange.has_room
    assert exchange.begin(CONTEXT_ID, store_request).message_id == 1


def test_an_operation_of_which_no_byte_left_can_be_withdrawn() -> None:
    exchange = Exchange()
    operation = exchange.begin(CONTEXT_ID, store_request)
    assert exchange.withdraw(operation.message_id) is operation
    assert exchange.has_room
    assert field_refused_by(exchange, Received(CONTEXT_ID, CStoreRSP(1, SUCCESS))) == "Message ID Being Responded To"


def test_an_operation_that_was_sent_cannot_be_withdrawn() -> None:
    exchange = Exchange()
    operation = sent_store(exchange)
    with pytest.raises(LocalProtocolError, match="was sent"):
        exchange.withdraw(operation.message_id)
    assert exchange.outstanding == {operation.message_id: operation}


def test_what_is_not_outstanding_is_neither_sent_nor_withdrawn() -> None:
    exchange = Exchange()
    for call in (exchange.sent, exchange.withdraw):
        with pytest.raises(LocalProtocolError, match="Message ID 1 is outstanding"):
            call(1)


def test_outstanding_cannot_be_written_from_outside() -> None:
    with pytest.raises(TypeError):
        Exchange().outstanding[1] = Operation(1, 1, store_request(1))  # type: ignore[index]


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0x0000, 0xB000, 0xB006, 0xA700, 0x0110, 0x0111, 0xC000, 0x4321])
def test_a_response_ends_its_operation_whatever_its_final_status(value: int) -> None:
    exchange = Exchange()
    operation = sent_store(exchange)
    received = exchange.receive(whole(CStoreRSP(operation.message_id, Status(value))))
    assert received == Received(CONTEXT_ID, CStoreRSP(operation.message_id, Status(value)), None)
    assert received is not None
    assert exchange.match(received) is operation
    assert not exchange.outstanding


def test_an_echo_ends_by_its_response() -> None:
    exchange = Exchange()
    operation = exchange.begin(CONTEXT_ID, CEchoRQ)
    exchange.sent(operation.message_id)
    assert exchange.match(Received(CONTEXT_ID, CEchoRSP(operation.message_id, SUCCESS))) is operation


@given(st.permutations(range(1, 9)))
def test_answers_within_the_window_may_come_in_any_order(order: list[int]) -> None:
    exchange = Exchange(window=8)
    operations = {operation.message_id: operation for operation in (sent_store(exchange) for _ in range(8))}
    for message_id in order:
        received = exchange.receive(whole(CStoreRSP(message_id, SUCCESS)))
        assert received is not None
        assert exchange.match(received) is operations[message_id]
    assert not exchange.outstanding


@pytest.mark.parametrize("message_id", [0, 2, 65535])
def test_an_answer_to_an_unknown_message_id_is_refused(message_id: int) -> None:
    exchange = Exchange()
    sent_store(exchange)
    answer = Received(CONTEXT_ID, CStoreRSP(message_id, SUCCESS))
    assert field_refused_by(exchange, answer) == "Message ID Being Responded To"


def test_a_repeated_answer_is_refused() -> None:
    exchange = Exchange(window=2)
    sent_store(exchange)
    sent_store(exchange)
    answer = Received(CONTEXT_ID, CStoreRSP(1, SUCCESS))
    exchange.match(answer)
    assert field_refused_by(exchange, answer) == "Message ID Being Responded To"


def test_an_answer_before_the_request_was_complete_is_refused() -> None:
    exchange = Exchange()
    exchange.begin(CONTEXT_ID, store_request)
    answer = Received(CONTEXT_ID, CStoreRSP(1, SUCCESS))
    assert field_refused_by(exchange, answer) == "Message ID Being Responded To"
    exchange.sent(1)
    assert exchange.match(answer).message_id == 1


def test_an_early_failure_is_refused_too() -> None:
    exchange = Exchange()
    exchange.begin(CONTEXT_ID, store_request)
    answer = Received(CONTEXT_ID, CStoreRSP(1, Status(0xA700)))
    assert field_refused_by(exchange, answer) == "Message ID Being Responded To"


ANOTHER_SYNTAX = AcceptedContext(5, CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN)
ANOTHER_CLASS = AcceptedContext(7, MR_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("status", [SUCCESS, Status(0xA702)])
def test_an_answer_in_another_context_of_the_same_sop_class_is_taken_and_told(status: Status) -> None:
    exchange = Exchange(window=2, other_contexts=[ANOTHER_SYNTAX, ANOTHER_CLASS])
    first, second = sent_store(exchange), sent_store(exchange)
    assert exchange.match(Received(5, CStoreRSP(second.message_id, status))) is second
    assert [str(violation) for violation in exchange.told] == [
        "C-STORE-RSP, Presentation Context ID: 5, but the request went out in 3"
    ]
    assert dict(exchange.outstanding) == {first.message_id: first}


@pytest.mark.parametrize("context_id", [1, 7, 255])
def test_an_answer_in_a_context_of_another_sop_class_or_none_is_refused(context_id: int) -> None:
    exchange = Exchange(other_contexts=[ANOTHER_SYNTAX, ANOTHER_CLASS])
    sent_store(exchange)
    refused = field_refused_by(exchange, Received(context_id, CStoreRSP(1, SUCCESS)))
    assert refused == "Presentation Context ID"
    assert not exchange.told


def test_another_context_of_the_same_sop_class_excuses_nothing_else() -> None:
    exchange = Exchange(other_contexts=[ANOTHER_SYNTAX])
    sent_store(exchange)
    assert field_refused_by(exchange, Received(5, CStoreRSP(2, SUCCESS))) == "Message ID Being Responded To"
    assert field_refused_by(exchange, Received(5, CEchoRSP(1, SUCCESS))) == "Command Field"


def test_an_answer_in_another_context_is_refused() -> None:
    exchange = Exchange(window=2)
    sent_store(exchange, context_id=3)
    sent_store(exchange, context_id=5)
    assert field_refused_by(exchange, Received(5, CStoreRSP(1, SUCCESS))) == "Presentation Context ID"


@pytest.mark.parametrize("status", [SUCCESS, Status(0xB007), Status(0xA702)])
def test_an_answer_that_names_another_instance_that_waits_is_refused(status: Status) -> None:
    """Its Message ID is that of one request, its UID that of another: it may answer either."""
    exchange = Exchange(window=3)
    first, second = sent_store(exchange), sent_store(exchange)
    unsent = exchange.begin(CONTEXT_ID, store_request)
    for waiting in (second, unsent):
        uid = waiting.request.affected_sop_instance_uid
        answer = CStoreRSP(first.message_id, status, CT_IMAGE_STORAGE, uid)
        assert field_refused_by(exchange, Received(CONTEXT_ID, answer)) == "Affected SOP Instance UID"
    assert not exchange.told


@pytest.mark.parametrize("uid", ["", "1.2.1", "1.2.99", "1.2.1.99"])
def test_an_answer_counts_by_its_message_id_where_it_names_no_instance_that_waits(uid: str) -> None:
    exchange = Exchange(window=2)
    first, second = sent_store(exchange), sent_store(exchange)
    assert exchange.match(Received(CONTEXT_ID, CStoreRSP(1, SUCCESS, CT_IMAGE_STORAGE, uid))) is first
    is_another = uid not in ("", "1.2.1")
    assert [violation.field for violation in exchange.told] == ["Affected SOP Instance UID"] * is_another
    assert dict(exchange.outstanding) == {2: second}


@pytest.mark.parametrize("status", NOT_FINAL)
def test_a_status_that_is_not_final_is_refused(status: Status) -> None:
    exchange = Exchange()
    sent_store(exchange)
    assert field_refused_by(exchange, Received(CONTEXT_ID, CStoreRSP(1, status))) == "Status"


@pytest.mark.parametrize(
    "message",
    [
        CEchoRSP(1, SUCCESS),
        store_request(1),
        CEchoRQ(1),
        UnknownMessage(0x8020, None, 1, False),
        UnknownMessage(0x0100, 1, None, True),
    ],
)
def test_a_message_of_another_type_is_refused(message: Message) -> None:
    exchange = Exchange()
    sent_store(exchange)
    assert field_refused_by(exchange, Received(CONTEXT_ID, message)) == "Command Field"


def test_a_store_response_to_an_echo_is_refused() -> None:
    exchange = Exchange()
    exchange.sent(exchange.begin(CONTEXT_ID, CEchoRQ).message_id)
    assert field_refused_by(exchange, Received(CONTEXT_ID, CStoreRSP(1, SUCCESS))) == "Command Field"


def test_an_answer_that_announces_a_data_set_is_refused_without_waiting_for_it() -> None:
    exchange = Exchange()
    sent_store(exchange)
    received = exchange.receive(whole(CStoreRSP(1, SUCCESS, has_data_set=True)))
    assert received is not None
    assert field_refused_by(exchange, received) == "Command Data Set Type"


def test_a_response_without_a_status_is_refused() -> None:
    exchange = Exchange()
    sent_store(exchange)
    data = bytes.fromhex("00000001 02000000 0180 00002001 02000000 0100 00000008 02000000 0101")
    with pytest.raises(RemoteProtocolError) as caught:
        exchange.receive(Fragment(CONTEXT_ID, True, True, data))
    assert (caught.value.pdu, caught.value.field) == ("C-STORE-RSP", "Status")
    assert list(exchange.outstanding) == [1]


# -- fragments -> messages ---------------------------------------------------------------------------------------------


def test_every_split_of_a_command_set_gives_the_same_message() -> None:
    response = CStoreRSP(1, Status(0xB000, "coerced"), CT_IMAGE_STORAGE, "1.2.1")
    data = response.encode()
    exchange = Exchange()
    for at in range(len(data) + 1):
        first, second = cut(data, [at], is_command=True)
        assert exchange.receive(first) is None
        assert exchange.receive(second) == Received(CONTEXT_ID, response)


@given(st.data())
def test_any_fragments_of_messages_give_the_same_messages(data: st.DataObject) -> None:
    exchange = Exchange()
    kinds: list[Message] = [CStoreRSP(7, SUCCESS), CEchoRSP(8, SUCCESS), FOUND]
    for number, message in enumerate(data.draw(st.lists(st.sampled_from(kinds), max_size=4))):
        context_id = 2 * number + 1
        encoded = message.encode()
        fragments = cut(encoded, data.draw(_cuts(encoded)), is_command=True, context_id=context_id)
        data_set = data.draw(st.binary(max_size=30)) if message.has_data_set else None
        if data_set is not None:
            fragments += cut(data_set, data.draw(_cuts(data_set)), is_command=False, context_id=context_id)
        *others, last = [exchange.receive(fragment) for fragment in fragments]
        assert not any(others)
        assert last == Received(context_id, message, data_set)


def _cuts(data: bytes) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(data)), max_size=5)


@given(
    st.lists(
        st.builds(
            Fragment,
            st.sampled_from([1, 3]),
            st.booleans(),
            st.booleans(),
            st.binary(max_size=40)
            | st.sampled_from([CStoreRSP(1, SUCCESS).encode(), EVENT_REPORT.encode(), CEchoRQ(1).encode()]),
        ),
        max_size=8,
    )
)
def test_any_fragments_are_messages_or_refused(fragments: list[Fragment]) -> None:
    exchange = Exchange()
    for fragment in fragments:
        try:
            received = exchange.receive(fragment)
        except RemoteProtocolError:
            return
        assert received is None or received.context_id == fragment.context_id


def fault_of(reassembler: Reassembler, fragment: Fragment) -> tuple[str, str]:
    receive = reassembler.receive_command if fragment.is_command else reassembler.receive_data_set
    with pytest.raises(RemoteProtocolError) as caught:
        receive(fragment)
    return caught.value.pdu, caught.value.field


def test_a_reassembler_leaves_the_data_set_to_its_caller() -> None:
    reassembler = Reassembler()
    request = store_request(1)
    assert reassembler.receive_command(whole(request)) == request
    assert reassembler.message == request
    assert reassembler.receive_data_set(Fragment(CONTEXT_ID, False, False, b"12")) == request
    assert reassembler.message == request
    assert reassembler.receive_data_set(Fragment(CONTEXT_ID, False, True, b"34")) == request
    assert reassembler.message is None
    assert reassembler.receive_command(whole(CEchoRQ(2), context_id=5)) == CEchoRQ(2)
    assert reassembler.message is None


def test_a_data_set_without_a_command_set_is_refused() -> None:
    assert fault_of(Reassembler(), Fragment(1, False, True, b"")) == ("P-DATA-TF", "message control header")


def test_a_data_set_before_the_end_of_the_command_set_is_refused() -> None:
    reassembler = Reassembler()
    reassembler.receive_command(Fragment(1, True, False, store_request(1).encode()))
    assert fault_of(reassembler, Fragment(1, False, True, b"")) == ("P-DATA-TF", "message control header")


def test_a_data_set_after_a_message_that_has_none_is_refused() -> None:
    reassembler = Reassembler()
    reassembler.receive_command(whole(CEchoRQ(1)))
    assert fault_of(reassembler, Fragment(1, False, True, b"")) == ("P-DATA-TF", "message control header")


@pytest.mark.parametrize("is_last", [True, False])
def test_a_command_set_inside_of_a_data_set_is_refused(is_last: bool) -> None:
    reassembler = Reassembler()
    reassembler.receive_command(whole(store_request(1)))
    fragment = Fragment(CONTEXT_ID, True, is_last, CEchoRQ(2).encode())
    assert fault_of(reassembler, fragment) == ("C-STORE-RQ", "message control header")


@pytest.mark.parametrize("is_last", [True, False])
def test_a_command_set_in_two_contexts_is_refused(is_last: bool) -> None:
    reassembler = Reassembler()
    first, second = cut(CEchoRQ(1).encode(), [20], is_command=True, context_id=1)
    reassembler.receive_command(first)
    fragment = second._replace(context_id=3, is_last=is_last)
    assert fault_of(reassembler, fragment) == ("command set", "Presentation Context ID")


def test_a_data_set_in_another_context_than_its_command_set_is_refused() -> None:
    reassembler = Reassembler()
    reassembler.receive_command(whole(store_request(1)))
    assert fault_of(reassembler, Fragment(5, False, True, b"")) == ("C-STORE-RQ", "Presentation Context ID")


def test_a_command_set_over_64_kib_is_refused_before_it_is_complete() -> None:
    reassembler = Reassembler()
    for _ in range(4):
        reassembler.receive_command(Fragment(1, True, False, bytes(MAXIMUM_BYTES // 4)))
    reassembler.receive_command(Fragment(1, True, False, b""))
    assert fault_of(reassembler, Fragment(1, True, False, b"\0")) == ("command set", "Command Group Length")


def test_the_data_set_of_a_response_is_not_collected_without_bound() -> None:
    exchange = Exchange()
    exchange.receive(whole(FOUND))
    quarter = bytes(MAXIMUM_DATA_SET_BYTES // 4)
    for _ in range(4):
        assert exchange.receive(Fragment(CONTEXT_ID, False, False, quarter)) is None
    with pytest.raises(RemoteProtocolError) as caught:
        exchange.receive(Fragment(CONTEXT_ID, False, True, b"\0"))
    assert (caught.value.pdu, caught.value.field) == ("C-FIND-RSP", "data set")


def test_the_data_set_of_a_request_is_not_collected_at_all() -> None:
    exchange = Exchange()
    assert exchange.receive(whole(EVENT_REPORT)) == Received(CONTEXT_ID, EVENT_REPORT, None, False)
    for piece, is_last in ((b"ab", False), (b"", False), (b"cd", True)):
        received = exchange.receive(Fragment(CONTEXT_ID, False, is_last, piece))
        assert received == Received(CONTEXT_ID, EVENT_REPORT, piece, is_last)
    assert exchange.receive(whole(CEchoRQ(5))) == Received(CONTEXT_ID, CEchoRQ(5))


# -- several responses -------------------------------------------------------------------------------------------------


def sent_find(exchange: Exchange) -> Operation:
    operation = exchange.begin(CONTEXT_ID, CFindRQ, (STUDY_ROOT_FIND,))
    exchange.sent(operation.message_id)
    return operation


def test_pending_responses_leave_their_operation_outstanding_until_the_final_one() -> None:
    exchange = Exchange()
    operation = sent_find(exchange)
    for pending in (0xFF00, 0xFF01, 0xFF00):
        answer = CFindRSP(1, Status(pending), has_data_set=True)
        assert exchange.match(Received(CONTEXT_ID, answer, b"identifier")) is operation
        assert not operation.is_final
        assert exchange.outstanding == {1: operation}
        assert not exchange.has_room
    assert exchange.match(Received(CONTEXT_ID, CFindRSP(1, SUCCESS))) is operation
    assert operation.is_final
    assert not exchange.outstanding


@pytest.mark.parametrize("value", [0x0000, 0xFE00, 0xA700, 0xC001])
def test_a_final_response_of_any_kind_ends_an_operation_of_many(value: int) -> None:
    exchange = Exchange()
    operation = sent_find(exchange)
    exchange.match(Received(CONTEXT_ID, CFindRSP(1, Status(value))))
    assert operation.is_final
    assert not exchange.outstanding


def test_an_operation_says_in_a_line_how_far_it_is() -> None:
    exchange = Exchange()
    operation = exchange.begin(CONTEXT_ID, store_request)
    assert repr(operation) == "<Operation 1, C-STORE-RQ in context 3, begun>"
    exchange.sent(1)
    assert repr(operation) == "<Operation 1, C-STORE-RQ in context 3, sent>"
    exchange.match(Received(CONTEXT_ID, CStoreRSP(1, SUCCESS)))
    assert repr(operation) == "<Operation 1, C-STORE-RQ in context 3, answered>"


# -- any course of events ----------------------------------------------------------------------------------------------


class ExchangeMachine(RuleBasedStateMachine):
    """Whatever is begun, sent, withdrawn and answered: only the right answer ends an operation, and IDs are unique."""

    @initialize(window=st.integers(1, 6), near_the_wrap=st.booleans())
    def start(self, window: int, near_the_wrap: bool) -> None:
        self.exchange = Exchange(window=window)
        self.model: dict[int, Operation] = {}
        self.last_taken = 0
        if near_the_wrap:
            self.last_taken = LAST_MESSAGE_ID - 2
            self.exchange._next_message_id = LAST_MESSAGE_ID - 1

    def choose(self, data: st.DataObject, *, is_sent: bool) -> Operation | None:
        candidates = [operation for operation in self.model.values() if operation.is_sent is is_sent]
        return data.draw(st.sampled_from(candidates)) if candidates else None

    def receive(self, message: Message, context_id: int, data: st.DataObject) -> Received:
        encoded = message.encode()
        *others, last = cut(encoded, data.draw(_cuts(encoded)), is_command=True, context_id=context_id)
        for fragment in others:
            assert self.exchange.receive(fragment) is None
        received = self.exchange.receive(last)
        assert received == Received(context_id, message)
        assert received is not None
        return received

    def answer_to(self, operation: Operation, status: Status) -> Message:
        is_store = isinstance(operation.request, CStoreRQ)
        return (CStoreRSP if is_store else CEchoRSP)(operation.message_id, status)

    @rule(context_id=st.sampled_from([1, 3, 5]), is_echo=st.booleans())
    def begin(self, context_id: int, is_echo: bool) -> None:
        make_request = CEchoRQ if is_echo else store_request
        if len(self.model) >= self.exchange.window:
            with pytest.raises(LocalProtocolError):
                self.exchange.begin(context_id, make_request)
            return
        operation = self.exchange.begin(context_id, make_request)
        message_id = operation.message_id
        assert message_id not in self.model
        assert operation.request == make_request(message_id)
        skipped = (message_id - self.last_taken - 1) % LAST_MESSAGE_ID
        assert all((self.last_taken + each) % LAST_MESSAGE_ID + 1 in self.model for each in range(skipped))
        self.model[message_id] = operation
        self.last_taken = message_id

    @rule(window=st.integers(1, 6))
    def change_window(self, window: int) -> None:
        self.exchange.window = window

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        if operation := self.choose(data, is_sent=False):
            self.exchange.sent(operation.message_id)
            assert operation.is_sent

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if operation := self.choose(data, is_sent=False):
            assert self.exchange.withdraw(operation.message_id) is operation
            del self.model[operation.message_id]

    @rule(data=st.data(), value=st.sampled_from([0x0000, 0xB000, 0xA700, 0x0110]))
    def answer(self, data: st.DataObject, value: int) -> None:
        if operation := self.choose(data, is_sent=True):
            received = self.receive(self.answer_to(operation, Status(value)), operation.context_id, data)
            assert self.exchange.match(received) is operation
            del self.model[operation.message_id]
            assert field_refused_by(self.exchange, received) == "Message ID Being Responded To"

    @rule(data=st.data())
    def answer_early(self, data: st.DataObject) -> None:
        if operation := self.choose(data, is_sent=False):
            received = self.receive(self.answer_to(operation, SUCCESS), operation.context_id, data)
            assert field_refused_by(self.exchange, received) == "Message ID Being Responded To"

    @rule(data=st.data(), message_id=st.integers(0, LAST_MESSAGE_ID), context_id=st.sampled_from([1, 3, 5]))
    def answer_what_was_not_asked(self, data: st.DataObject, message_id: int, context_id: int) -> None:
        if message_id not in self.model:
            received = self.receive(CStoreRSP(message_id, SUCCESS), context_id, data)
            assert field_refused_by(self.exchange, received) == "Message ID Being Responded To"

    @precondition(lambda self: any(operation.is_sent for operation in self.model.values()))
    @rule(data=st.data(), fault=st.sampled_from(["context", "type", "status", "request"]))
    def answer_wrongly(self, data: st.DataObject, fault: str) -> None:
        operation = self.choose(data, is_sent=True)
        assert operation is not None
        context_id, message_id = operation.context_id, operation.message_id
        message: Message = self.answer_to(operation, SUCCESS)
        if fault == "context":
            context_id, expected = context_id + 2, "Presentation Context ID"
        elif fault == "status":
            message = self.answer_to(operation, data.draw(st.sampled_from(NOT_FINAL)))
            expected = "Status"
        else:
            other = CEchoRSP if isinstance(message, CStoreRSP) else CStoreRSP
            message = other(message_id, SUCCESS) if fault == "type" else CEchoRQ(message_id)
            expected = "Command Field"
        assert field_refused_by(self.exchange, self.receive(message, context_id, data)) == expected

    @invariant()
    def agrees_with_the_model(self) -> None:
        exchange = getattr(self, "exchange", None)
        if exchange is not None:
            assert dict(exchange.outstanding) == self.model
            assert exchange.has_room is (len(self.model) < exchange.window)


TestAnyCourseOfEvents = ExchangeMachine.TestCase
TestAnyCourseOfEvents.settings = settings(stateful_step_count=30)
