"""Command sets: known bytes both ways, what is tolerated, what is refused (PS3.7 6.3.1, E.1)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_description, dictionary_VR

from asyncstore.dimse import command_set
from asyncstore.dimse.command_set import MAXIMUM_BYTES, decode, encode, name_of
from asyncstore.errors import LocalProtocolError, RemoteProtocolError

UI = (0x0002, 0x0003, 0x1000, 0x1001)
US = (0x0100, 0x0110, 0x0120, 0x0700, 0x0800, 0x0900, 0x0903, 0x1002, 0x1008, 0x1020, 0x1021, 0x1022, 0x1023, 0x1031)
AE = (0x0600, 0x1030)
AT = (0x0901, 0x1005)
ERROR_COMMENT = 0x0902
UNKNOWN = (0x0001, 0x0200, 0x5010, 0xFFFF)

uids = st.text("0123456789.", max_size=80)
ae_titles = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16)
comments = st.text(max_size=64).filter(lambda text: text == text.rstrip("\0 "))
tags = st.lists(st.integers(0, 0xFFFFFFFF), max_size=5).map(tuple)
even_bytes = st.binary(max_size=40).filter(lambda data: len(data) % 2 == 0)

VALUES: dict[int, st.SearchStrategy[Any]] = {
    **dict.fromkeys(UI, uids),
    **dict.fromkeys(US, st.integers(0, 0xFFFF)),
    **dict.fromkeys(AE, ae_titles),
    **dict.fromkeys(AT, tags),
    **dict.fromkeys(UNKNOWN, even_bytes),
    ERROR_COMMENT: comments,
}
command_sets = st.fixed_dictionaries({}, optional=VALUES)


def element(tag: int, value: bytes, *, group: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<HHI", group, tag, len(value) if length is None else length) + value


def fields_of(data: bytes) -> tuple[str, str]:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data)
    assert caught.value.retryable
    return caught.value.pdu, caught.value.field


def test_a_command_set_begins_with_the_length_of_what_follows_it() -> None:
    assert encode([(0x0900, 0xA702), (0x0002, "1.2.3")]) == bytes.fromhex(
        "00000000 04000000 18000000"  # (0000,0000) UL 24
        "00000200 06000000 312e322e3300"  # (0000,0002) UI 1.2.3, padded by a NUL
        "00000009 02000000 02a7"  # (0000,0900) US
    )


def test_text_is_padded_by_a_space() -> None:
    assert encode([(ERROR_COMMENT, "odd")])[12:] == element(ERROR_COMMENT, b"odd ")
    assert encode([(0x1030, "MOVER")])[12:] == element(0x1030, b"MOVER ")


def test_bytes_of_an_unknown_element_are_padded_to_an_even_length() -> None:
    assert encode([(0x5010, b"\1\2\3")])[12:] == element(0x5010, b"\1\2\3 ")


def test_a_tag_is_written_group_first() -> None:
    assert encode([(0x0901, (0x00080018, 0x7FE00010))])[12:] == element(0x0901, bytes.fromhex("08001800 e07f1000"))


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x0110, 65536),
        (0x0110, -1),
        (0x0110, "1"),
        (0x0901, (0x100000000,)),
        (0x0901, 0x00080018),
        (0x0002, "1.2.\u00e9"),
        (0x0002, 12),
        (0x1030, "M\u00dcLLER"),
        (ERROR_COMMENT, "\ud800"),
        (ERROR_COMMENT, b"bytes"),
        (0x5010, "text"),
    ],
)
def test_a_value_that_does_not_fit_its_element_is_the_callers_error(tag: int, value: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"cannot be"):
        encode([(tag, value)])


@given(command_sets)
def test_what_was_written_is_read_again(elements: dict[int, Any]) -> None:
    data = encode(elements.items())
    assert len(data) % 2 == 0
    assert decode(data) == {0x0000: len(data) - 12, **elements}


@given(command_sets.filter(bool), st.data())
def test_elements_are_written_in_the_order_of_their_tags(elements: dict[int, Any], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(elements.items())))
    assert encode(shuffled) == encode(elements.items())
    assert list(decode(encode(shuffled))) == sorted({0x0000, *elements})


@given(command_sets, st.data())
def test_a_command_set_that_is_cut_short_anywhere_is_refused_or_has_fewer_elements(
    elements: dict[int, Any], data: st.DataObject
) -> None:
    whole = encode(elements.items())
    cut = data.draw(st.integers(1, len(whole) - 1))
    told: list[RemoteProtocolError] = []
    try:
        decoded = decode(whole[:cut], told.append)
    except RemoteProtocolError:
        return
    assert decoded.items() < {0x0000: len(whole) - 12, **elements}.items()
    assert told


@given(st.binary(max_size=200))
@example(b"\0" * 8)
@example(b"\0" * 16)
def test_any_bytes_are_a_command_set_or_refused(data: bytes) -> None:
    try:
        elements = decode(data)
    except RemoteProtocolError:
        return
    assert all(0 <= tag <= 0xFFFF for tag in elements)


@given(
    st.lists(
        st.builds(
            element,
            st.sampled_from([0, *VALUES]),
            st.binary(max_size=9),
            group=st.sampled_from([0, 0, 0, 8]),
            length=st.none() | st.integers(0, 12) | st.just(0xFFFFFFFF),
        ),
        max_size=8,
    )
)
def test_any_elements_are_a_command_set_or_refused(elements: list[bytes]) -> None:
    data = b"".join(elements)
    try:
        decoded = decode(data)
    except RemoteProtocolError:
        return
    assert len(decoded) <= len(elements)


@pytest.mark.parametrize("padding", [b"", b"\0", b" ", b"\0\0", b" \0 "])
def test_padding_is_taken_off(padding: bytes) -> None:
    data = element(0x0002, b"1.2" + padding) + element(0x1030, b" AE" + padding) + element(0x0902, b" why" + padding)
    assert decode(data) == {0x0002: "1.2", 0x1030: "AE", 0x0902: " why"}


def test_a_missing_group_length_is_accepted() -> None:
    assert decode(element(0x0110, b"\7\0")) == {0x0110: 7}


MESSAGE_ID = element(0x0110, b"\7\0")


@pytest.mark.parametrize(
    ("data", "elements", "told"),
    [
        (element(0x0000, b"\0\0\0\0") + MESSAGE_ID, {0x0000: 0, 0x0110: 7}, "Command Group Length: 0 bytes"),
        (element(0x0000, b"\x16\0\0\0") + MESSAGE_ID, {0x0000: 22, 0x0110: 7}, "Command Group Length: 22 bytes"),
        (element(0x0000, b"\0\0") + MESSAGE_ID, {0x0110: 7}, "Command Group Length: 2 bytes"),
        (element(0x0110, b"\7\0\0\0"), {0x0110: 7}, "Message ID: 4 bytes"),
        (element(0x0120, b"\7\1\0\0"), {0x0120: 0x0107}, "Message ID Being Responded To: 4 bytes"),
        (element(0x0800, b"\1\1\0\0"), {0x0800: 0x0101}, "Command Data Set Type: 4 bytes"),
        (element(0x0900, b"\x02\xa7\0\0"), {0x0900: 0xA702}, "Status: 4 bytes"),
        (element(0x0100, b"\1\x80\0"), {0x0100: 0x8001}, "Command Field: 3 bytes"),
        (element(0x0700, b"\2\0\0\0\0\0\0\0"), {0x0700: 2}, "Priority: 8 bytes"),
        (element(0x0903, b"\2\0\1\0") + MESSAGE_ID, {0x0110: 7}, "Error ID: 4 bytes"),
        (element(0x0903, b"\2") + MESSAGE_ID, {0x0110: 7}, "Error ID: 1 byte, "),
        (element(0x0901, b"\x10\0") + MESSAGE_ID, {0x0110: 7}, "Offending Element: 2 bytes"),
        (element(0x0002, b"1.2.\xe9") + MESSAGE_ID, {0x0110: 7}, "Affected SOP Class UID: not ASCII"),
        (element(0x1000, b"1.2.\xe9") + MESSAGE_ID, {0x0110: 7}, "Affected SOP Instance UID: not ASCII"),
        (element(0x0600, b"\xc3\x9c") + MESSAGE_ID, {0x0110: 7}, "Move Destination: not ASCII"),
        (MESSAGE_ID * 2, {0x0110: 7}, "Message ID: sent twice"),
        (element(0x0002, b"1") + element(0x0002, b"1\0"), {0x0002: "1"}, "Affected SOP Class UID: sent twice"),
        (element(0x0002, b"1") + element(0x0002, b"2"), {0x0002: "1"}, "Affected SOP Class UID: sent twice"),
        (element(0x5010, b"1") + element(0x5010, b"2"), {0x5010: b"1"}, "(0000,5010): sent twice"),
        (MESSAGE_ID + element(0x0018, b"1.2", group=8), {0x0110: 7}, "element header: not of group 0000"),
        (element(0x0110, b"\x08\0", group=8) + MESSAGE_ID, {0x0110: 7}, "element header: not of group 0000"),
        (MESSAGE_ID + bytes(1), {0x0110: 7}, "element header: an element is cut short"),
        (MESSAGE_ID + bytes(2), {0x0110: 7}, "element header: an element is cut short"),
        (MESSAGE_ID + bytes(27), {0x0110: 7}, "element header: an element is cut short"),
    ],
)
def test_what_does_not_decide_is_taken_as_far_as_it_can_be_read(
    data: bytes, elements: dict[int, Any], told: str
) -> None:
    violations: list[RemoteProtocolError] = []
    assert decode(data, violations.append) == decode(data) == elements
    assert [str(violation).startswith(f"command set, {told}") for violation in violations] == [True]


def test_zeros_behind_the_last_element_are_no_elements() -> None:
    whole = encode([(0x0110, 7)])
    assert decode(whole + bytes(8)) == decode(whole)


def test_of_a_command_set_as_the_standard_has_it_nothing_is_told() -> None:
    told: list[RemoteProtocolError] = []
    decode(encode([(0x0002, "1.2"), (0x0110, 7), (0x0901, (0x00080018,)), (ERROR_COMMENT, "why")]), told.append)
    assert not told


def test_elements_in_another_order_are_accepted() -> None:
    assert decode(element(0x0900, b"\0\0") + element(0x0120, b"\1\0")) == {0x0900: 0, 0x0120: 1}


def test_an_empty_number_counts_as_absent() -> None:
    assert decode(element(0x0110, b"") + element(0x0000, b"") + element(0x0900, b"\0\0")) == {0x0900: 0}


def test_empty_text_and_an_empty_list_are_kept() -> None:
    data = b"".join(element(tag, b"") for tag in (0x0002, 0x0901, 0x0902, 0x1030, 0x5010))
    assert decode(data) == {0x0002: "", 0x0901: (), 0x0902: "", 0x1030: "", 0x5010: b""}


def test_a_uid_of_more_than_64_characters_is_accepted() -> None:
    uid = "1." + "2" * 70
    assert decode(element(0x1000, uid.encode())) == {0x1000: uid}


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (b"plain", "plain"),
        ("zu groß".encode(), "zu groß"),
        ("zu groß".encode("latin-1"), "zu groß"),
        (b"\x1b[31m\xff", "\x1b[31m\u00ff"),
    ],
)
def test_a_comment_is_read_whatever_its_character_set(encoded: bytes, text: str) -> None:
    assert decode(element(ERROR_COMMENT, encoded)) == {ERROR_COMMENT: text}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (element(0x0110, b"\1"), "Message ID"),
        (element(0x0110, b"\1\0\2\0"), "Message ID"),
        (element(0x0100, b"\1\x80\0\1"), "Command Field"),
        (element(0x0120, b"\1"), "Message ID Being Responded To"),
        (element(0x0800, b"\1\1\1\0"), "Command Data Set Type"),
        (element(0x0900, b"\0\0\0\1"), "Status"),
        (element(0x0900, b"\0\0") + element(0x0900, b"\1\0"), "Status"),
        (element(0x0120, b"\1\0") + element(0x0120, b"\2\0"), "Message ID Being Responded To"),
        (element(0x0018, b"1.2", group=8, length=4), "(0000,0018)"),
        (element(0x1000, b"1.2", length=4), "Affected SOP Instance UID"),
        (element(0x1000, b"1.2", length=0xFFFFFFFF), "Affected SOP Instance UID"),
        (element(0x0900, b"\0\0") + b"\0\0\0\1\2\0\0", "element header"),
    ],
)
def test_illegal_elements_are_refused_by_name(data: bytes, field: str) -> None:
    assert fields_of(data) == ("command set", field)


def test_64_kib_are_accepted_and_a_byte_more_is_refused() -> None:
    largest = element(0x5010, bytes(MAXIMUM_BYTES - 8))
    assert decode(largest) == {0x5010: bytes(MAXIMUM_BYTES - 8)}
    assert fields_of(largest + b"\0") == ("command set", "Command Group Length")


def test_elements_have_the_names_of_the_standard() -> None:
    assert name_of(0x0120) == "Message ID Being Responded To"
    assert name_of(0x4321) == "(0000,4321)"


def test_names_and_vrs_are_those_of_the_data_dictionary() -> None:
    for tag, (vr, name) in command_set._ELEMENTS.items():
        assert dictionary_VR(tag) == vr
        assert dictionary_description(tag) == name
