"""Presentation contexts and user information: the bytes of the standard, and anything else a peer may send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import RemoteProtocolError
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult, decode_items, encode_item
from asyncstore.upper_layer.user_information import (
    UNSTATED_MAXIMUM_LENGTH,
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from tests.support import strategies

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

PDU = "A-ASSOCIATE-RQ"


class Item(Protocol):
    """What all of them have."""

    def encode(self) -> bytes: ...

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> Item: ...


# Each with its bytes as the standard lays them out, typed by hand.
EXAMPLES: list[tuple[Item, str]] = [
    (
        PresentationContext(5, "1.2.3", ("1.4", "1.5.6")),
        "20 00 00 1d | 05 00 00 00 | 30 00 00 05 31 2e 32 2e 33 | 40 00 00 03 31 2e 34 | 40 00 00 05 31 2e 35 2e 36",
    ),
    (PresentationContextResult(255, 0, "1.4"), "21 00 00 0b | ff 00 00 00 | 40 00 00 03 31 2e 34"),
    (PresentationContextResult(3, 4, ""), "21 00 00 04 | 03 00 04 00"),
    (OperationsWindow(16, 1), "53 00 00 04 | 00 10 00 01"),
    (RoleSelection("1.2", False, True), "54 00 00 07 | 00 03 31 2e 32 | 00 01"),
    (ExtendedNegotiation("1.2", b"\x02\x00\x01"), "56 00 00 08 | 00 03 31 2e 32 | 02 00 01"),
    (
        CommonExtendedNegotiation("1.2", "1.3", ("1.4", "1.5")),
        "57 00 00 16 | 00 03 31 2e 32 | 00 03 31 2e 33 | 00 0a 00 03 31 2e 34 00 03 31 2e 35",
    ),
    (UserIdentity(2, b"me", b"pw", True), "58 00 00 0a | 02 01 | 00 02 6d 65 | 00 02 70 77"),
    (
        UserInformation(
            maximum_length=0x4000,
            implementation_class_uid="1.9",
            implementation_version_name="V1",
            operations_window=OperationsWindow(1, 1),
            role_selections=(RoleSelection("1", True, False),),
            extended_negotiations=(ExtendedNegotiation("1", b""),),
            common_extended_negotiations=(CommonExtendedNegotiation("1", "2"),),
            user_identity=UserIdentity(1, b"u"),
            user_identity_response=b"ok",
        ),
        "50 00 00 4c | 51 00 00 04 00 00 40 00 | 52 00 00 03 31 2e 39 | 53 00 00 04 00 01 00 01"
        "| 54 00 00 05 00 01 31 01 00 | 55 00 00 02 56 31 | 56 00 00 03 00 01 31"
        "| 57 00 00 08 00 01 31 00 01 32 00 00 | 58 00 00 07 01 00 00 01 75 00 00 | 59 00 00 04 00 02 6f 6b",
    ),
]
CLASSES: list[type[Any]] = [
    PresentationContext,
    PresentationContextResult,
    OperationsWindow,
    RoleSelection,
    ExtendedNegotiation,
    CommonExtendedNegotiation,
    UserIdentity,
    UserInformation,
]
ANY_ITEM = st.one_of(
    strategies.presentation_contexts,
    strategies.context_results,
    strategies.operations_windows,
    strategies.role_selections,
    strategies.extended_negotiations,
    strategies.common_extended_negotiations,
    strategies.user_identities,
    strategies.user_information,
)


def to_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("|", ""))


def decode_text(cls: type[Any], text: str) -> Any:
    return cls.decode(memoryview(to_bytes(text)), pdu=PDU)


def attempt(cls: type[Any], wire: bytes | memoryview) -> Any:
    """What the bytes decode to, or the RemoteProtocolError; anything else is raised."""
    try:
        return cls.decode(memoryview(wire), pdu=PDU)
    except RemoteProtocolError as error:
        return error


def name_of(value: object) -> str:
    return type(value).__name__ if not isinstance(value, str) else ""


@pytest.mark.parametrize(("item", "text"), EXAMPLES, ids=name_of)
def test_the_bytes_are_those_of_the_standard(item: Item, text: str) -> None:
    assert item.encode() == to_bytes(text)
    assert type(item).decode(memoryview(to_bytes(text))[4:], pdu=PDU) == item


@pytest.mark.parametrize(("item", "text"), EXAMPLES, ids=name_of)
def test_an_item_that_is_cut_anywhere_is_an_error_or_another_item(item: Item, text: str) -> None:
    content = memoryview(to_bytes(text))[4:]
    for length in range(len(content)):
        decoded = attempt(type(item), content[:length])
        if not isinstance(decoded, RemoteProtocolError):
            # Cut between two sub-items, or within bytes that have no structure.
            assert decoded != item
            assert decoded.encode()[4:] == content[:length] or isinstance(
                item, UserInformation | PresentationContextResult
            )


@given(ANY_ITEM)
def test_what_is_encoded_decodes_to_the_same(item: Item) -> None:
    encoded = item.encode()
    ((_, content),) = decode_items(memoryview(encoded), pdu=PDU, field="any")
    assert type(item).decode(content, pdu=PDU) == item


@given(st.sampled_from(CLASSES), st.data())
def test_any_bytes_are_an_item_or_an_error_of_the_peer(cls: type[Any], data: DataObject) -> None:
    wire = data.draw(st.binary(max_size=80) | strategies.damaged(ANY_ITEM.map(lambda item: item.encode()[4:])))
    item = attempt(cls, wire)
    if isinstance(item, RemoteProtocolError):
        assert item.pdu == PDU
        assert item.field
    else:
        assert isinstance(item, cls)


@pytest.mark.parametrize(
    ("cls", "text", "field"),
    [
        (PresentationContext, "01 00 00", "Presentation context"),
        (PresentationContext, "02 00 00 00 | 30 00 00 01 31 | 40 00 00 01 31", "Presentation context ID"),
        (PresentationContext, "01 00 00 00 | 40 00 00 01 31", "Abstract syntax"),
        (PresentationContext, "01 00 00 00 | 30 00 00 01 31 | 30 00 00 01 31", "Abstract syntax"),
        (PresentationContext, "01 00 00 00 | 30 00 00 00 | 40 00 00 01 31", "Abstract syntax"),
        (PresentationContext, "01 00 00 00 | 30 00 00 01 31", "Transfer syntax"),
        (PresentationContext, "01 00 00 00 | 30 00 00 01 31 | 40 00 00 02 31", "Presentation context"),
        (PresentationContext, "01 00 00 00 | 30 00 00 01 31 | 40 00", "Presentation context"),
        (PresentationContextResult, "01 00 00", "Presentation context"),
        (PresentationContextResult, "04 00 00 00 | 40 00 00 01 31", "Presentation context ID"),
        (PresentationContextResult, "01 00 00 00 | 40 00 00 02 31", "Presentation context"),
        (OperationsWindow, "00 01 00", "Asynchronous operations window"),
        (RoleSelection, "00", "SCP/SCU role selection"),
        (RoleSelection, "00 01 31 01", "SCP/SCU role selection"),
        (RoleSelection, "00 01 e9 01 01", "SCP/SCU role selection"),
        (ExtendedNegotiation, "00 03 31 2e", "Extended negotiation"),
        (CommonExtendedNegotiation, "00 01 31 | 00 01 32 | 00 02 00 05", "Common extended negotiation"),
        (UserIdentity, "01", "User identity"),
        (UserIdentity, "01 00 | 00 02 6d", "User identity"),
        (UserInformation, "51 00 00 02 40 00", "Maximum length"),
        (UserInformation, "51 00 00 08 00 00 00 00 00 00 40 00", "Maximum length"),
        (UserInformation, "58 00 00 01 01", "User identity"),
        (UserInformation, "51 00 ff ff 00 00 40 00", "User information"),
    ],
)
def test_an_error_names_the_field(cls: type[Any], text: str, field: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_text(cls, text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "result", "field"),
    [
        ("01 00 05 00 | 40 00 00 01 31", 2, "Result"),
        ("01 00 ff 00", 2, "Result"),
        ("01 00 00 00", 2, "Transfer syntax"),
        ("01 00 00 00 | 40 00 00 00", 2, "Transfer syntax"),
        ("01 00 00 00 | 40 00 00 01 0a", 2, "Transfer syntax"),
        ("01 00 00 00 | 40 00 00 01 31 | 40 00 00 01 32", 2, "Transfer syntax"),
    ],
)
def test_an_acceptance_that_cannot_be_read_is_none(text: str, result: int, field: str) -> None:
    told: list[RemoteProtocolError] = []
    decoded = PresentationContextResult.decode(memoryview(to_bytes(text)), pdu=PDU, tolerate=told.append)
    assert decoded == PresentationContextResult(1, result, "")
    assert not decoded.is_accepted
    assert [violation.field for violation in told] == [field]


def test_a_transfer_syntax_that_is_repeated_is_one() -> None:
    text = "01 00 00 00 | 40 00 00 01 31 | 40 00 00 01 31"
    assert decode_text(PresentationContextResult, text) == PresentationContextResult(1, 0, "1")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("52 00 00 01 e9", "Implementation class UID"),
        ("53 00 00 02 00 01", "Asynchronous operations window"),
        ("53 00 00 08 00 00 00 10 00 00 00 01", "Asynchronous operations window"),
        ("54 00 00 04 00 01 31 01", "SCP/SCU role selection"),
        ("54 00 00 05 00 01 e9 01 01", "SCP/SCU role selection"),
        ("56 00 00 04 00 03 31 2e", "Extended negotiation"),
        ("57 00 00 01 00", "Common extended negotiation"),
        ("58 00 00 01 01", "User identity"),
        ("59 00 00 02 00 01", "User identity response"),
        ("00 00 00", "User information"),
    ],
)
def test_information_that_cannot_be_read_is_left_out(text: str, field: str) -> None:
    told: list[RemoteProtocolError] = []
    wire = memoryview(to_bytes("51 00 00 04 00 00 20 00" + text))
    assert UserInformation.decode(wire, pdu="A-ASSOCIATE-AC", tolerate=told.append) == UserInformation(0x2000)
    assert [violation.field for violation in told] == [field]


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0"])
def test_padding_is_no_part_of_a_uid(padding: bytes) -> None:
    uid = b"1." + b"2" * 62
    content = bytes((1, 0, 0, 0)) + encode_item(0x40, uid + padding)
    assert PresentationContextResult.decode(memoryview(content), pdu=PDU).transfer_syntax == uid.decode()


@pytest.mark.parametrize("length", [65, 128, 200, 60_000])
def test_a_uid_has_at_most_64_characters(length: int) -> None:
    content = bytes((1, 0, 0, 0)) + encode_item(0x30, b"1" * length) + encode_item(0x40, b"1")
    with pytest.raises(RemoteProtocolError, match=f"{length:,} bytes"):
        PresentationContext.decode(memoryview(content), pdu=PDU)


@pytest.mark.parametrize("rest", ["", "40 00 00 00", "40 00 00 02 e9 e9"])
def test_the_transfer_syntax_of_a_refused_context_is_not_tested(rest: str) -> None:
    result = decode_text(PresentationContextResult, "01 00 03 00" + rest)
    assert result == PresentationContextResult(1, 3, "")
    assert not result.is_accepted


def test_an_accepted_context_says_so() -> None:
    assert PresentationContextResult(1, 0, "1.2").is_accepted


def test_results_have_the_words_of_the_documented_log() -> None:
    assert [PresentationContextResult(1, result, "1").result_text for result in range(5)] == [
        "Accepted",
        "User Rejection",
        "Provider Rejection",
        "Rejected - Abstract Syntax Not Supported",
        "Rejected - Transfer Syntax Not Supported",
    ]


def test_unknown_sub_items_are_skipped_everywhere() -> None:
    unknown = "99 00 00 02 00 00"
    context = decode_text(PresentationContext, f"01 00 00 00 | {unknown} | 30 00 00 01 31 | 40 00 00 01 32 | {unknown}")
    assert context == PresentationContext(1, "1", ("2",))
    result = decode_text(PresentationContextResult, f"01 00 00 00 | {unknown} | 40 00 00 01 32")
    assert result == PresentationContextResult(1, 0, "2")
    information = decode_text(UserInformation, f"{unknown} | 51 00 00 04 00 00 40 00 | {unknown}")
    assert information == UserInformation(maximum_length=0x4000)


def test_what_follows_a_common_extended_negotiation_is_reserved() -> None:
    decoded = decode_text(CommonExtendedNegotiation, "00 01 31 | 00 01 32 | 00 03 00 01 33 | ff ff")
    assert decoded == CommonExtendedNegotiation("1", "2", ("3",))


def test_of_repeated_sub_items_the_last_counts() -> None:
    information = decode_text(UserInformation, "51 00 00 04 00 00 40 00 | 51 00 00 04 00 00 20 00")
    assert information.maximum_length == 0x2000


def test_a_peer_that_names_no_maximum_length_gets_a_careful_one() -> None:
    assert UserInformation.decode(memoryview(b""), pdu=PDU).maximum_length == UNSTATED_MAXIMUM_LENGTH


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"A_NAME_OF_MORE_THAN_16_CHARACTERS", "A_NAME_OF_MORE_T"),
        (b"PADDED \0", "PADDED"),
        (b"caf\xe9", "caf?"),
        (b"", ""),
    ],
)
def test_a_version_name_is_made_to_fit(sent: bytes, kept: str) -> None:
    information = UserInformation.decode(memoryview(encode_item(0x55, sent)), pdu=PDU)
    assert information.implementation_version_name == kept


def test_an_empty_implementation_class_is_no_error() -> None:
    assert decode_text(UserInformation, "52 00 00 00").implementation_class_uid == ""


def test_bytes_after_the_roles_are_not_tested() -> None:
    assert decode_text(RoleSelection, "00 01 31 | 01 00 | 00") == RoleSelection("1", True, False)


def test_a_role_other_than_0_or_1_is_taken_for_1() -> None:
    assert decode_text(RoleSelection, "00 01 31 | 02 ff") == RoleSelection("1", True, True)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (PresentationContext(2, "1", ("1",)), "odd"),
        (PresentationContext(257, "1", ("1",)), "odd"),
        (PresentationContext(-1, "1", ("1",)), "odd"),
        (PresentationContext(1, "1", ()), "no transfer syntax"),
        (PresentationContext(1, "", ("1",)), "abstract syntax"),
        (PresentationContext(1, "1", ("é",)), "transfer syntax"),
        (PresentationContext(1, "1", ("1" * 65,)), "transfer syntax"),
        (PresentationContext(1, "1", ("1" * 60,) * 1100), "do not fit"),
        (PresentationContextResult(1, 5, "1"), "not a result"),
        (PresentationContextResult(1, -1, "1"), "not a result"),
        (OperationsWindow(65536, 1), "16 bits"),
        (OperationsWindow(1, -1), "16 bits"),
        (ExtendedNegotiation("1", bytes(65533)), "do not fit"),
        (CommonExtendedNegotiation("1", "1", ("1" * 60,) * 1100), "do not fit"),
        (UserIdentity(1, bytes(65536)), "longer"),
        (UserIdentity(1, b"", bytes(65536)), "longer"),
        (UserInformation(maximum_length=1 << 32), "32 bits"),
        (UserInformation(maximum_length=-1), "32 bits"),
        (UserInformation(implementation_version_name="A" * 17), "version name"),
        (UserInformation(implementation_version_name="é"), "version name"),
    ],
)
def test_what_the_standard_has_no_room_for_is_not_encoded(item: Item, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        item.encode()


@pytest.mark.parametrize("kind", range(1, 6))
def test_no_secret_is_ever_shown(kind: int) -> None:
    identity = UserIdentity(kind, b"user-or-ticket", b"hunter2")
    information = UserInformation(user_identity=identity, user_identity_response=b"kerberos")
    for text in (repr(identity), str(identity), repr(information)):
        assert "hunter2" not in text
        assert "kerberos" not in text
        assert ("user-or-ticket" in text) == (kind < 3)


def test_the_user_name_is_for_names_only() -> None:
    assert UserIdentity(1, "jürgen".encode()).user_name == "jürgen"
    assert UserIdentity(2, b"\xff", b"pw").user_name == "\ufffd"
    assert UserIdentity(3, b"ticket").user_name == ""
