"""Messages: known bytes, round trips, against another implementation's decoder, and what a message must have."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dsutils import decode as independent_decode

from asyncstore.dimse import command_set
from asyncstore.dimse.decoding import decode
from asyncstore.dimse.message_types import Message, response_to
from asyncstore.dimse.messages import HIGH, LOW, MEDIUM, CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, UnknownMessage
from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
from asyncstore.errors import LocalProtocolError, RemoteProtocolError
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import CT_IMAGE_STORAGE, VERIFICATION

KNOWN_FIELDS = (0x0001, 0x8001, 0x0030, 0x8030, 0x0020, 0x8020, 0x0FFF, 0x0100, 0x8100, 0x0130, 0x8130)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
INSTANCE_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"

numbers = st.integers(0, 0xFFFF)
uids = st.text("0123456789.", min_size=1, max_size=66)
legal_uids = st.from_regex(r"[12]\.(0|[1-9][0-9]{0,9})(\.[1-9][0-9]{0,9}){1,4}", fullmatch=True)
optional_uids = uids | st.just("")
ae_titles = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16)
comments = st.text(max_size=64).filter(lambda text: text == text.rstrip("\0 "))
statuses = st.builds(Status, numbers, comments, st.lists(st.integers(0, 0xFFFFFFFF), max_size=3).map(tuple))
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(CStoreRQ, numbers, uids, uids, numbers, ae_titles, st.none() | numbers),
    st.builds(CStoreRSP, numbers, statuses, optional_uids, optional_uids, st.booleans()),
    st.builds(CEchoRQ, numbers, optional_uids),
    st.builds(CEchoRSP, numbers, statuses, optional_uids),
    st.builds(CFindRQ, numbers, uids, numbers),
    st.builds(CFindRSP, numbers, statuses, optional_uids, st.booleans()),
    st.builds(CCancelRQ, numbers),
    st.builds(NActionRQ, numbers, uids, uids, numbers, st.booleans()),
    st.builds(NActionRSP, numbers, statuses, optional_uids, optional_uids, st.none() | numbers, st.booleans()),
    st.builds(NEventReportRQ, numbers, uids, uids, numbers, st.booleans()),
    st.builds(NEventReportRSP, numbers, statuses, optional_uids, optional_uids, st.none() | numbers, st.booleans()),
    st.builds(
        UnknownMessage,
        numbers.filter(lambda number: number not in KNOWN_FIELDS),
        st.none() | numbers,
        st.none() | numbers,
        st.booleans(),
    ),
)

# What each message cannot do without, beside its Command Field.
C_STORE_RQ = {0x0002: "1.2", 0x0100: 0x0001, 0x0110: 7, 0x0700: 0, 0x0800: 0x0000, 0x1000: "1.2.3"}
C_STORE_RSP = {0x0100: 0x8001, 0x0120: 7, 0x0800: 0x0101, 0x0900: 0}
C_ECHO_RQ = {0x0100: 0x0030, 0x0110: 7, 0x0800: 0x0101}
C_ECHO_RSP = {0x0100: 0x8030, 0x0120: 7, 0x0800: 0x0101, 0x0900: 0}


def decode_elements(elements: dict[int, Any]) -> Message:
    return decode(command_set.encode(elements.items()))


def fault_of(elements: dict[int, Any]) -> tuple[str, str]:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_elements(elements)
    return caught.value.pdu, caught.value.field


def test_a_store_request_is_these_bytes() -> None:
    assert CStoreRQ(258, "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4").encode() == bytes.fromhex(
        "00000000 04000000 5a000000"  # 90 bytes follow
        "00000200 1a000000 312e322e3834302e31303030382e352e312e342e312e312e3200"
        "00000001 02000000 0100"  # C-STORE-RQ
        "00001001 02000000 0201"  # Message ID 258
        "00000007 02000000 0200"  # low priority
        "00000008 02000000 0100"  # a data set follows
        "00000010 08000000 312e322e332e3400"
    )


def test_a_store_response_is_these_bytes() -> None:
    assert CStoreRSP(258, Status(0xA702)).encode() == bytes.fromhex(
        "00000000 04000000 28000000"
        "00000001 02000000 0180"  # C-STORE-RSP
        "00002001 02000000 0201"  # to Message ID 258
        "00000008 02000000 0101"  # no data set
        "00000009 02000000 02a7"
    )


@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    decoded = decode(message.encode())
    assert decoded == message
    assert type(decoded) is type(message)


@given(
    st.builds(
        CStoreRQ,
        numbers,
        legal_uids,
        legal_uids,
        st.sampled_from([LOW, MEDIUM, HIGH]),
        ae_titles.filter(lambda title: "\\" not in title),
        st.none() | numbers,
    )
)
def test_another_implementation_reads_the_same_request(request: CStoreRQ) -> None:
    data = request.encode()
    elements = independent_decode(BytesIO(data), True, True)
    assert elements.CommandGroupLength == len(data) - 12
    assert elements.CommandField == 0x0001
    assert elements.MessageID == request.message_id
    assert elements.Priority == request.priority
    assert elements.CommandDataSetType != 0x0101
    assert str(elements.AffectedSOPClassUID) == request.affected_sop_class_uid
    assert str(elements.AffectedSOPInstanceUID) == request.affected_sop_instance_uid
    assert elements.get("MoveOriginatorApplicationEntityTitle", "") == request.move_originator_ae_title
    assert elements.get("MoveOriginatorMessageID") == request.move_originator_message_id


@given(st.builds(CStoreRSP, numbers, st.builds(Status, numbers), legal_uids | st.just(""), legal_uids))
def test_another_implementation_reads_the_same_response(response: CStoreRSP) -> None:
    elements = independent_decode(BytesIO(response.encode()), True, True)
    assert elements.CommandField == 0x8001
    assert elements.MessageIDBeingRespondedTo == response.responded_to
    assert elements.Status == response.status.value
    assert elements.CommandDataSetType == 0x0101
    assert str(elements.get("AffectedSOPClassUID", "")) == response.affected_sop_class_uid
    assert str(elements.get("AffectedSOPInstanceUID", "")) == response.affected_sop_instance_uid


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dcmtk_storescu_p_data_tf_command", CStoreRQ(1, SECONDARY_CAPTURE, "1.2.3.4.5", MEDIUM)),
        ("dcmtk_storescp_p_data_tf", CStoreRSP(1, SUCCESS, SECONDARY_CAPTURE, "1.2.3.4.5")),
        ("orthanc_p_data_tf", CStoreRSP(1, SUCCESS, SECONDARY_CAPTURE, "1.2.3.4.5")),
        ("dcmtk_echoscu_p_data_tf", CEchoRQ(1)),
        ("orthanc_scu_p_data_tf", CEchoRQ(1)),
        ("pynetdicom_scp_p_data_tf", CEchoRSP(1, SUCCESS)),
    ],
)
def test_what_real_peers_sent_is_read(name: str, message: Message) -> None:
    # Each is a P-DATA-TF with one fragment: its headers are 12 bytes.
    captured = (Path(__file__).parents[1] / "corpus" / f"{name}.bin").read_bytes()
    assert decode(captured[12:]) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert message.name


@given(messages, st.data())
def test_a_message_with_any_byte_changed_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    changed = bytearray(message.encode())
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(changed))
    except RemoteProtocolError:
        return
    assert decoded.name


@given(messages, st.data())
def test_a_message_cut_short_anywhere_is_refused_or_lacks_what_does_not_decide(
    message: Message, data: st.DataObject
) -> None:
    whole = message.encode()
    told: list[RemoteProtocolError] = []
    try:
        decoded = decode(whole[: data.draw(st.integers(0, len(whole) - 1))], told.append)
    except RemoteProtocolError:
        return
    assert told
    assert (decoded.command_field, decoded.responded_to) == (message.command_field, message.responded_to)
    if isinstance(message, CStoreRSP | CEchoRSP):
        assert isinstance(decoded, CStoreRSP | CEchoRSP)
        assert decoded.status.value == message.status.value


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (C_STORE_RQ, CStoreRQ(7, "1.2", "1.2.3", MEDIUM)),
        ({**C_STORE_RQ, 0x0800: 0x0101}, UnknownMessage(0x0001, 7, None, False)),
        (C_STORE_RSP, CStoreRSP(7, SUCCESS)),
        (C_ECHO_RQ, CEchoRQ(7, "")),
        (C_ECHO_RSP, CEchoRSP(7, SUCCESS, "")),
    ],
)
def test_a_message_with_its_required_elements_is_read(elements: dict[int, Any], message: Message) -> None:
    assert decode_elements(elements) == message


@pytest.mark.parametrize(
    ("elements", "pdu", "missing"),
    [
        (C_STORE_RQ, "C-STORE-RQ", 0x0002),
        (C_STORE_RQ, "C-STORE-RQ", 0x0110),
        (C_STORE_RQ, "C-STORE-RQ", 0x0800),
        (C_STORE_RQ, "C-STORE-RQ", 0x1000),
        (C_STORE_RSP, "C-STORE-RSP", 0x0120),
        (C_STORE_RSP, "C-STORE-RSP", 0x0800),
        (C_STORE_RSP, "C-STORE-RSP", 0x0900),
        (C_ECHO_RQ, "C-ECHO-RQ", 0x0110),
        (C_ECHO_RQ, "C-ECHO-RQ", 0x0800),
        (C_ECHO_RSP, "C-ECHO-RSP", 0x0120),
        (C_ECHO_RSP, "C-ECHO-RSP", 0x0800),
        (C_ECHO_RSP, "C-ECHO-RSP", 0x0900),
        *((elements, "command set", 0x0100) for elements in (C_STORE_RQ, C_STORE_RSP, C_ECHO_RQ, C_ECHO_RSP)),
    ],
)
def test_a_missing_element_is_named(elements: dict[int, Any], pdu: str, missing: int) -> None:
    incomplete = {tag: value for tag, value in elements.items() if tag != missing}
    assert fault_of(incomplete) == (pdu, command_set.name_of(missing))


@pytest.mark.parametrize("tag", [0x0002, 0x1000])
def test_a_store_request_with_an_empty_uid_is_refused(tag: int) -> None:
    assert fault_of({**C_STORE_RQ, tag: ""}) == ("C-STORE-RQ", command_set.name_of(tag))


def test_a_store_request_without_a_priority_is_of_medium_priority() -> None:
    message = decode_elements({tag: value for tag, value in C_STORE_RQ.items() if tag != 0x0700})
    assert isinstance(message, CStoreRQ)
    assert message.priority == MEDIUM


@pytest.mark.parametrize("data_set_type", [0x0000, 0x0001, 0x0102, 0xFFFF])
def test_any_data_set_type_but_one_announces_a_data_set(data_set_type: int) -> None:
    assert decode_elements({**C_STORE_RSP, 0x0800: data_set_type}).has_data_set
    assert not decode_elements({**C_STORE_RSP, 0x0800: 0x0101}).has_data_set


@pytest.mark.parametrize(
    ("elements", "pdu", "data_set_type"),
    [(C_ECHO_RQ, "C-ECHO-RQ", 0x0001), (C_ECHO_RSP, "C-ECHO-RSP", 0x0001)],
)
def test_a_data_set_where_none_can_be_or_none_where_it_must_be_is_refused(
    elements: dict[int, Any], pdu: str, data_set_type: int
) -> None:
    assert fault_of({**elements, 0x0800: data_set_type}) == (pdu, "Command Data Set Type")


def test_a_response_brings_the_comment_and_the_offending_elements() -> None:
    message = decode_elements({**C_STORE_RSP, 0x0900: 0xB007, 0x0901: (0x00080018,), 0x0902: "no such study"})
    assert message == CStoreRSP(7, Status(0xB007, "no such study", (0x00080018,)))


def test_success_with_a_comment_keeps_the_comment() -> None:
    message = decode_elements({**C_STORE_RSP, 0x0902: "was here already"})
    assert isinstance(message, CStoreRSP)
    assert message.status == Status(0x0000, "was here already")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (CStoreRQ(65536, "1.2", "1.2.3"), "not a C-STORE-RQ"),
        (CStoreRQ(1, "1.2", "1.2.3", priority=-1), "Priority"),
        (CStoreRQ(1, "1.2", "1.2.\u0663"), "not a C-STORE-RQ"),
        (CStoreRQ(1, "1.\u0662", "1.2.3"), "Affected SOP Class UID"),
        (CStoreRQ(1, "", "1.2.3"), "Affected SOP Class UID"),
        (CStoreRQ(1, "1.2", ""), "Affected SOP Instance UID"),
        (CStoreRQ(1, "1.2", "1.2.3", move_originator_ae_title="Ü"), "Move Originator"),
        (CStoreRQ(1, "1.2", "1.2.3", move_originator_message_id=65536), "Move Originator Message ID"),
        (CEchoRQ(65536), "Message ID"),
    ],
)
def test_a_request_that_cannot_be_written_is_the_callers_error(request_: CStoreRQ | CEchoRQ, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        request_.encode()


def test_an_echo_is_of_the_verification_class() -> None:
    assert CEchoRQ(1).affected_sop_class_uid == VERIFICATION
    assert CEchoRSP(1, SUCCESS).affected_sop_class_uid == VERIFICATION


def test_only_responses_answer_something() -> None:
    assert CStoreRQ(1, CT_IMAGE_STORAGE, INSTANCE_UID).responded_to is None
    assert CEchoRQ(1).responded_to is None
    assert CStoreRSP(5, SUCCESS).responded_to == 5
    assert CEchoRSP(5, SUCCESS).responded_to == 5


@pytest.mark.parametrize(
    ("command_field", "name"),
    [
        (0x0021, "C-MOVE-RQ"),
        (0x8021, "C-MOVE-RSP"),
        (0x0100, "N-EVENT-REPORT-RQ"),
        (0x8120, "N-SET-RSP"),
        (0x4321, "command 0x4321"),
        (0xC321, "command 0xC321"),
    ],
)
def test_other_commands_are_read_and_named(command_field: int, name: str) -> None:
    message = decode_elements({0x0100: command_field, 0x0110: 3, 0x0800: 0x0001})
    assert message == UnknownMessage(command_field, 3, None, True)
    assert message.name == name


def test_every_message_has_its_name() -> None:
    assert [CStoreRQ.name, CStoreRSP.name, CEchoRQ.name, CEchoRSP.name] == [
        "C-STORE-RQ",
        "C-STORE-RSP",
        "C-ECHO-RQ",
        "C-ECHO-RSP",
    ]


FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.mark.parametrize(
    "message",
    [
        CFindRQ(3, FIND),
        CFindRQ(65535, FIND, HIGH),
        CFindRSP(3, Status(0xFF00), FIND, has_data_set=True),
        CFindRSP(3, Status(0xFE00)),
        CFindRSP(3, Status(0xA900, "no", (0x00100020,)), FIND),
        CCancelRQ(3),
    ],
)
def test_a_query_and_its_end_are_read_as_they_were_written(message: CFindRQ | CFindRSP | CCancelRQ) -> None:
    assert decode(message.encode()) == message


def test_another_implementation_reads_a_query_and_its_end() -> None:
    query = independent_decode(BytesIO(CFindRQ(7, FIND, LOW).encode()), True, True)
    assert (query.CommandField, query.MessageID, query.Priority) == (0x0020, 7, LOW)
    assert query.AffectedSOPClassUID == FIND
    assert query.CommandDataSetType != 0x0101
    cancel = independent_decode(BytesIO(CCancelRQ(7).encode()), True, True)
    assert (cancel.CommandField, cancel.MessageIDBeingRespondedTo, cancel.CommandDataSetType) == (0x0FFF, 7, 0x0101)


@pytest.mark.parametrize(
    ("elements", "pdu", "field"),
    [
        ({0x0100: 0x0020, 0x0110: 3, 0x0800: 1}, "C-FIND-RQ", "Affected SOP Class UID"),
        ({0x0100: 0x0020, 0x0002: FIND, 0x0800: 1}, "C-FIND-RQ", "Message ID"),
        ({0x0100: 0x0020, 0x0002: FIND, 0x0110: 3, 0x0800: 0x0101}, "C-FIND-RQ", "Command Data Set Type"),
        ({0x0100: 0x8020, 0x0800: 0x0101, 0x0900: 0}, "C-FIND-RSP", "Message ID Being Responded To"),
        ({0x0100: 0x8020, 0x0120: 3, 0x0800: 0x0101}, "C-FIND-RSP", "Status"),
        ({0x0100: 0x0FFF, 0x0800: 0x0101}, "C-CANCEL-RQ", "Message ID Being Responded To"),
        ({0x0100: 0x0FFF, 0x0120: 3, 0x0800: 1}, "C-CANCEL-RQ", "Command Data Set Type"),
    ],
)
def test_what_a_query_or_its_end_cannot_do_without(elements: dict[int, Any], pdu: str, field: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_elements(elements)
    assert (caught.value.pdu, caught.value.field) == (pdu, field)


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (CStoreRQ(3, FIND, "1.2.3"), CStoreRSP(3, Status(0x0122), FIND, "1.2.3")),
        (CEchoRQ(4), CEchoRSP(4, Status(0x0122))),
        (CFindRQ(5, FIND), CFindRSP(5, Status(0x0122), FIND)),
        (NActionRQ(6, FIND, "1.2.3", 1), NActionRSP(6, Status(0x0122), FIND, "1.2.3", 1)),
        (NEventReportRQ(7, FIND, "1.2.3", 2), NEventReportRSP(7, Status(0x0122), FIND, "1.2.3", 2)),
        (UnknownMessage(0x0120, 6, None, True), UnknownMessage(0x8120, None, 6, False, Status(0x0122))),
    ],
)
def test_every_request_has_a_response_that_refuses_it(request_: Any, response: Any) -> None:
    refusal = response_to(request_, Status(0x0122))
    assert refusal == response
    elements = command_set.decode(refusal.encode())
    assert (elements[0x0120], elements[0x0900]) == (request_.message_id, 0x0122)


COMMITMENT = "1.2.840.10008.1.20.1"


def test_another_implementation_reads_an_action_and_a_report() -> None:
    action = independent_decode(BytesIO(NActionRQ(7, COMMITMENT, "1.2.3", 1).encode()), True, True)
    assert (action.CommandField, action.MessageID, action.ActionTypeID) == (0x0130, 7, 1)
    assert (action.RequestedSOPClassUID, action.RequestedSOPInstanceUID) == (COMMITMENT, "1.2.3")
    assert action.CommandDataSetType != 0x0101
    answer = NEventReportRSP(7, SUCCESS, COMMITMENT, "1.2.3", 2)
    report = independent_decode(BytesIO(answer.encode()), True, True)
    assert (report.CommandField, report.MessageIDBeingRespondedTo, report.EventTypeID) == (0x8100, 7, 2)
    assert (report.AffectedSOPClassUID, report.AffectedSOPInstanceUID) == (COMMITMENT, "1.2.3")
    assert report.CommandDataSetType == 0x0101


N_ACTION_RQ = {0x0003: "1.2", 0x0100: 0x0130, 0x0110: 7, 0x0800: 1, 0x1001: "1.2.3", 0x1008: 1}
N_EVENT_REPORT_RQ = {0x0002: "1.2", 0x0100: 0x0100, 0x0110: 7, 0x0800: 1, 0x1000: "1.2.3", 0x1002: 1}


@pytest.mark.parametrize(
    ("elements", "missing"),
    [
        (elements, tag)
        for elements in (N_ACTION_RQ, N_EVENT_REPORT_RQ)
        for tag in elements
        if tag not in (0x0100, 0x0800)
    ],
)
def test_an_incomplete_request_of_a_normalised_service_can_be_refused(elements: dict[int, Any], missing: int) -> None:
    message = decode_elements({tag: value for tag, value in elements.items() if tag != missing})
    assert message == UnknownMessage(elements[0x0100], None if missing == 0x0110 else 7, None, True)


@pytest.mark.parametrize("command_field", [0x8100, 0x8130])
@pytest.mark.parametrize(("missing", "field"), [(0x0120, "Message ID Being Responded To"), (0x0900, "Status")])
def test_what_a_response_of_a_normalised_service_cannot_do_without(
    command_field: int, missing: int, field: str
) -> None:
    elements = {0x0100: command_field, 0x0120: 3, 0x0800: 0x0101, 0x0900: 0}
    del elements[missing]
    with pytest.raises(RemoteProtocolError) as caught:
        decode_elements(elements)
    assert caught.value.field == field
