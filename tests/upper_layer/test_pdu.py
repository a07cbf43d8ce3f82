"""The seven PDUs: the bytes of the standard, those of real peers, and anything else a peer may send."""

from __future__ import annotations

import struct
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import RemoteProtocolError
from asyncstore.uids import (
    APPLICATION_CONTEXT,
    CT_IMAGE_STORAGE,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
    VERIFICATION,
)
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult, encode_item
from asyncstore.upper_layer.pdu import (
    HEADER_BYTES,
    MAXIMUM_ASSOCIATE_BYTES,
    MAXIMUM_FIXED_BYTES,
    MAXIMUM_FRAGMENTS,
    PDU,
    PDU_NAMES,
    UNLIMITED_DATA_BYTES,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    DataTF,
    Fragment,
    ReleaseRP,
    ReleaseRQ,
    check_header,
    decode,
)
from asyncstore.upper_layer.user_information import (
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from tests.support import strategies

CORPUS = Path(__file__).parents[1] / "corpus"
INFORMATION = UserInformation(maximum_length=0x4001)
INFORMATION_TEXT = "50 00 00 08 51 00 00 04 00 00 40 01"
TITLES = b"CALLED          CALLING         ".hex()

# Each with its bytes as the standard lays them out, typed by hand.
EXAMPLES: list[tuple[PDU, str]] = [
    (
        AssociateRQ("CALLED", "CALLING", (PresentationContext(1, "1.2", ("1.3",)),), INFORMATION, "1.9"),
        f"01 00 00 00 00 6d | 00 01 00 00 {TITLES} {'00' * 32} | 10 00 00 03 31 2e 39"
        f"| 20 00 00 12 01 00 00 00 30 00 00 03 31 2e 32 40 00 00 03 31 2e 33 | {INFORMATION_TEXT}",
    ),
    (
        AssociateAC("CALLED", "CALLING", (PresentationContextResult(1, 0, "1.3"),), INFORMATION, "1.9"),
        f"02 00 00 00 00 66 | 00 01 00 00 {TITLES} {'00' * 32} | 10 00 00 03 31 2e 39"
        f"| 21 00 00 0b 01 00 00 00 40 00 00 03 31 2e 33 | {INFORMATION_TEXT}",
    ),
    (AssociateRJ(2, 3, 1), "03 00 00 00 00 04 | 00 02 03 01"),
    (
        DataTF((Fragment(1, True, True, b"ab"), Fragment(3, False, False, b""))),
        "04 00 00 00 00 0e | 00 00 00 04 01 03 61 62 | 00 00 00 02 03 00",
    ),
    (DataTF((Fragment(255, False, True, b"z"),)), "04 00 00 00 00 07 | 00 00 00 03 ff 02 7a"),
    (DataTF((Fragment(1, True, False, b"z"),)), "04 00 00 00 00 07 | 00 00 00 03 01 01 7a"),
    (ReleaseRQ(), "05 00 00 00 00 04 | 00 00 00 00"),
    (ReleaseRP(), "06 00 00 00 00 04 | 00 00 00 00"),
    (Abort(2, 6), "07 00 00 00 00 04 | 00 00 02 06"),
]


def to_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("|", ""))


def read(wire: bytes, maximum_length: int = 0) -> PDU:
    """The one PDU that the bytes are."""
    pdu_type, length = check_header(wire[:HEADER_BYTES], maximum_length)
    assert length == len(wire) - HEADER_BYTES
    return decode(pdu_type, wire[HEADER_BYTES:])


def attempt(pdu_type: int, body: bytes | memoryview) -> PDU | RemoteProtocolError:
    """What the body decodes to, or the RemoteProtocolError; anything else is raised."""
    try:
        return decode(pdu_type, body)
    except RemoteProtocolError as error:
        return error


def name_of(value: object) -> str:
    return type(value).__name__ if not isinstance(value, str) else ""


def associate_body(*variable_items: bytes) -> bytes:
    return b"\0\1\0\0" + b" " * 32 + bytes(32) + b"".join(variable_items)


NAME = encode_item(0x10, b"1.9")
USER = INFORMATION.encode()


@pytest.mark.parametrize(("pdu", "text"), EXAMPLES, ids=name_of)
def test_the_bytes_are_those_of_the_standard(pdu: PDU, text: str) -> None:
    assert pdu.encode() == to_bytes(text)
    assert read(to_bytes(text)) == pdu


@pytest.mark.parametrize(("pdu", "text"), EXAMPLES, ids=name_of)
def test_a_body_that_is_cut_anywhere_is_not_the_same_pdu(pdu: PDU, text: str) -> None:
    wire = to_bytes(text)
    for length in range(len(wire) - HEADER_BYTES):
        result = attempt(wire[0], memoryview(wire)[HEADER_BYTES : HEADER_BYTES + length])
        if isinstance(pdu, ReleaseRQ | ReleaseRP):  # they have no fields
            assert result == pdu
        else:  # a P-DATA-TF may be cut between two PDVs, an association PDU between two items
            assert isinstance(result, RemoteProtocolError) or result != pdu
            assert isinstance(result, RemoteProtocolError) or not isinstance(pdu, AssociateRJ)


@pytest.mark.parametrize(("pdu", "text"), EXAMPLES, ids=name_of)
def test_bytes_after_the_body_are_an_error_or_mean_nothing(pdu: PDU, text: str) -> None:
    wire = to_bytes(text)
    result = attempt(wire[0], wire[HEADER_BYTES:] + b"\1")
    assert result == pdu if len(pdu.encode()) == HEADER_BYTES + 4 else isinstance(result, RemoteProtocolError)


@pytest.mark.parametrize(
    ("pdu_type", "text", "pdu"),
    [
        (3, "00 01 01 07 | 00 00", AssociateRJ(1, 1, 7)),
        (5, "", ReleaseRQ()),
        (5, "00 00 00 00 | 00 00 00 00 00 00", ReleaseRQ()),
        (6, "00 00", ReleaseRP()),
        (6, "00 00 00 00 | ff ff ff ff ff ff", ReleaseRP()),
        (7, "", Abort(0, 0)),
        (7, "00 00 02", Abort(2, 0)),
        (7, "00 00 02 06 | 00 00 00 00", Abort(2, 6)),
    ],
)
def test_a_short_pdu_of_another_length_is_taken_if_it_says_enough(pdu_type: int, text: str, pdu: PDU) -> None:
    told: list[RemoteProtocolError] = []
    assert decode(pdu_type, to_bytes(text), told.append) == pdu
    assert [(violation.pdu, violation.field) for violation in told] == [(PDU_NAMES[pdu_type], "PDU length")]


def test_a_rejection_that_ends_before_its_reason_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="A-ASSOCIATE-RJ, PDU length: 3 bytes"):
        decode(3, b"\0\1\1")


@pytest.mark.parametrize(
    ("variable", "answer", "told"),
    [
        ([b"USER"], AssociateAC("", "", (), INFORMATION), ["Application context name"]),
        ([b"EMPTY NAME", b"USER"], AssociateAC("", "", (), INFORMATION), ["Application context name"] * 2),
        ([b"NAME"], AssociateAC("", "", (), UserInformation(16384), "1.9"), ["User information"]),
        ([b"NAME", b"USER", b"OTHER USER"], AssociateAC("", "", (), INFORMATION, "1.9"), ["User information"]),
        (
            [b"NAME", b"RESULT", b"RESULT", b"USER"],
            AssociateAC("", "", (PresentationContextResult(1, 0, "1"),), INFORMATION, "1.9"),
            ["Presentation context ID"],
        ),
        (
            [b"NAME", b"RESULT 5", b"USER"],
            AssociateAC("", "", (PresentationContextResult(3, 2, ""),), INFORMATION, "1.9"),
            ["Result"],
        ),
        ([b"NAME", b"USER", b"ZEROS"], AssociateAC("", "", (), INFORMATION, "1.9"), ["Variable items"]),
    ],
)
def test_an_acceptance_is_taken_whatever_does_not_decide(
    variable: list[bytes], answer: AssociateAC, told: list[str]
) -> None:
    parts = {
        b"NAME": NAME,
        b"EMPTY NAME": encode_item(0x10, b""),
        b"USER": USER,
        b"OTHER USER": UserInformation(maximum_length=4096).encode(),
        b"RESULT": PresentationContextResult(1, 0, "1").encode(),
        b"RESULT 5": encode_item(0x21, b"\3\0\5\0"),
        b"ZEROS": bytes(3),
    }
    violations: list[RemoteProtocolError] = []
    assert decode(2, associate_body(*(parts[name] for name in variable)), violations.append) == answer
    assert [violation.field for violation in violations] == told


@given(strategies.pdus)
def test_what_is_encoded_decodes_to_the_same(pdu: PDU) -> None:
    assert read(pdu.encode()) == pdu


@given(strategies.bytes_values, st.binary(max_size=120))
def test_any_body_is_a_pdu_or_an_error_of_the_peer(pdu_type: int, body: bytes) -> None:
    result = attempt(pdu_type, body)
    assert isinstance(result, RemoteProtocolError) or pdu_type in PDU_NAMES


@given(st.data())
def test_a_damaged_pdu_is_another_one_or_an_error_of_the_peer(data: st.DataObject) -> None:
    pdu = data.draw(strategies.pdus)
    wire = pdu.encode()
    body = data.draw(strategies.damaged(st.just(wire[HEADER_BYTES:])))
    result = attempt(wire[0], body)
    if isinstance(result, RemoteProtocolError):
        assert result.pdu == PDU_NAMES[wire[0]]
    else:
        assert type(result) is type(pdu)


@given(st.binary(min_size=6, max_size=6), st.integers(0, 1 << 20))
def test_any_header_is_within_the_limits_or_refused(header: bytes, maximum_length: int) -> None:
    try:
        pdu_type, length = check_header(header, maximum_length)
    except RemoteProtocolError:
        return
    assert pdu_type in PDU_NAMES
    assert length <= {4: maximum_length or UNLIMITED_DATA_BYTES, 1: 1 << 20, 2: 1 << 20}.get(pdu_type, 256)


def header(pdu_type: int, length: int) -> bytes:
    return bytes((pdu_type, 0)) + length.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("pdu_type", "length", "maximum_length"),
    [
        (4, 16382, 16382),
        (4, UNLIMITED_DATA_BYTES, 0),
        (1, MAXIMUM_ASSOCIATE_BYTES, 16382),
        (2, MAXIMUM_ASSOCIATE_BYTES, 1),
        (3, 4, 1),
        (5, 4, 1),
        (6, 4, 1),
        (7, 4, 1),
        (6, 0, 0),
        (6, 10, 0),
        (3, MAXIMUM_FIXED_BYTES, 0),
    ],
)
def test_a_header_within_its_limit_is_taken(pdu_type: int, length: int, maximum_length: int) -> None:
    assert check_header(header(pdu_type, length), maximum_length) == (pdu_type, length)


@pytest.mark.parametrize(
    ("pdu_type", "length", "maximum_length"),
    [
        (4, 16383, 16382),
        (4, UNLIMITED_DATA_BYTES + 1, 0),
        (4, 0xFFFFFFFF, 0),
        (1, MAXIMUM_ASSOCIATE_BYTES + 1, 0),
        (2, 0xFFFFFFFF, 0),
        (3, MAXIMUM_FIXED_BYTES + 1, 0),
        (5, MAXIMUM_FIXED_BYTES + 1, 0),
        (6, 0xFFFFFFFF, 0),
        (7, 0xFFFFFFFF, 0),
    ],
)
def test_a_header_beyond_its_limit_is_refused(pdu_type: int, length: int, maximum_length: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{length} bytes") as caught:
        check_header(header(pdu_type, length), maximum_length)
    assert (caught.value.pdu, caught.value.field) == (PDU_NAMES[pdu_type], "PDU length")


@pytest.mark.parametrize(
    ("first_bytes", "name"),
    [
        (b"HTTP/1.1 400 Bad Request", "an HTTP server"),
        (b"GET / HTTP/1.1", "an HTTP client"),
        (b"OPTIONS * HTTP/1.1", "an HTTP client"),
        (b"\x16\x03\x01\x02\x00\x01", "a TLS handshake"),
        (b"\x15\x03\x01\x00\x02\x02", "a TLS server"),
        (b"SSH-2.0-OpenSSH", "an SSH server"),
        (b"220 mail.example ESMTP", "an SMTP or FTP server"),
    ],
)
def test_another_protocol_is_recognised_by_its_first_bytes(first_bytes: bytes, name: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"looks like {name}") as caught:
        check_header(first_bytes[:HEADER_BYTES], 16382)
    assert caught.value.field == "PDU type"


@pytest.mark.parametrize("pdu_type", [0, 8, 255])
def test_an_unknown_type_is_refused(pdu_type: int) -> None:
    with pytest.raises(RemoteProtocolError, match=rf"0x{pdu_type:02X} is not a PDU type$"):
        check_header(header(pdu_type, 4), 16382)
    with pytest.raises(RemoteProtocolError, match=rf"0x{pdu_type:02X} is not a PDU type$"):
        decode(pdu_type, bytes(4))


def test_the_reserved_byte_of_the_header_is_not_tested() -> None:
    assert check_header(b"\x05\xff\0\0\0\4", 0) == (5, 4)


@pytest.mark.parametrize(
    ("pdu_type", "items", "field"),
    [
        (
            1,
            [NAME, USER, PresentationContext(1, "1", ("1",)).encode(), PresentationContext(1, "1", ("2",)).encode()],
            "Presentation context ID",
        ),
        (
            2,
            [NAME, USER, PresentationContextResult(1, 0, "1").encode(), PresentationContextResult(1, 4, "").encode()],
            "Presentation context ID",
        ),
        (2, [NAME, USER, encode_item(0x21, b"\0\0\0\0"), encode_item(0x21, b"")], "Presentation context ID"),
        (2, [NAME, USER, encode_item(0x21, b"")], "Presentation context"),
        (2, [NAME, USER, b"\x21"], "Variable items"),
    ],
)
def test_an_error_in_an_association_pdu_names_the_field(pdu_type: int, items: list[bytes], field: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(pdu_type, associate_body(*items))
    assert (caught.value.pdu, caught.value.field) == (PDU_NAMES[pdu_type], field)


@pytest.mark.parametrize("uid", [*UNCOMPRESSED_TRANSFER_SYNTAXES, "1.2.840.10008.1.2.4.70"])
@pytest.mark.parametrize("result", range(5))
@pytest.mark.parametrize("more", [b"", b"\0\0", encode_item(0x7F, b"?")])
def test_a_result_is_read_whether_it_is_the_usual_one_or_not(uid: str, result: int, more: bytes) -> None:
    item = encode_item(0x21, bytes((255, 0, result, 0)) + encode_item(0x40, uid.encode()) + more)
    answer = decode(2, associate_body(NAME, USER, item))
    assert isinstance(answer, AssociateAC)
    assert answer.results == (PresentationContextResult(255, result, uid),)


def test_the_context_of_a_usual_result_has_an_odd_number() -> None:
    item = encode_item(0x21, bytes((2, 0, 0, 0)) + encode_item(0x40, UNCOMPRESSED_TRANSFER_SYNTAXES[0].encode()))
    with pytest.raises(RemoteProtocolError, match="2 is not odd"):
        decode(2, associate_body(NAME, USER, item))


def test_an_association_pdu_has_at_least_its_fixed_fields() -> None:
    with pytest.raises(RemoteProtocolError, match="only 67 bytes"):
        decode(1, bytes(67))


def test_unknown_items_are_skipped() -> None:
    answer = decode(2, associate_body(encode_item(0x77, b"?"), NAME, encode_item(0x20, b"?"), USER))
    assert answer == AssociateAC("", "", (), INFORMATION, "1.9")


def test_an_ae_title_is_given_back_as_it_came() -> None:
    body = bytearray(associate_body(NAME, USER))
    body[4:20] = b" caf\xe9 \\ 1\0      "
    request = decode(1, bytes(body))
    assert isinstance(request, AssociateRQ)
    assert request.called_ae_title == "caf\xe9 \\ 1"
    answer = AssociateAC(request.called_ae_title, request.calling_ae_title, (), INFORMATION)
    assert answer.encode()[10:26] == b"caf\xe9 \\ 1".ljust(16)


@pytest.mark.parametrize(
    "pdu",
    [
        AssociateRQ("A" * 17, "B", (), INFORMATION),
        AssociateRQ("A", "B" * 17, (), INFORMATION),
        AssociateRQ("\u20ac", "B", (), INFORMATION),
        AssociateRQ("A", "B", (), INFORMATION, ""),
        AssociateRQ("A", "B", (PresentationContext(1, "1", ("1",)),) * 2, INFORMATION),
        AssociateAC("A", "B", (PresentationContextResult(1, 0, "1"),) * 2, INFORMATION),
        AssociateRJ(256, 1, 1),
        DataTF(()),
        Abort(0, 256),
    ],
)
def test_what_the_standard_has_no_room_for_is_not_encoded(pdu: PDU) -> None:
    with pytest.raises(ValueError, match=r"."):
        pdu.encode()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "PDV"),
        ("00 00 00", "PDV"),
        ("00 00 00 02 01", "PDV"),
        ("00 00 00 00 01 03", "PDV length"),
        ("00 00 00 01 01 03", "PDV length"),
        ("00 00 00 03 01 03", "PDV length"),
        ("ff ff ff ff 01 03 00", "PDV length"),
        ("00 00 00 02 02 03", "Presentation context ID"),
        ("00 00 00 02 00 03", "Presentation context ID"),
        ("00 00 00 02 01 03 | 00 00 00 02 01", "PDV"),
    ],
)
def test_an_error_in_a_data_pdu_names_the_field(text: str, field: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(4, to_bytes(text))
    assert (caught.value.pdu, caught.value.field) == ("P-DATA-TF", field)


def test_the_reserved_bits_of_the_control_header_are_not_tested() -> None:
    assert decode(4, to_bytes("00 00 00 02 01 fe")) == DataTF((Fragment(1, False, True, b""),))


def test_a_data_pdu_is_not_cut_into_more_fragments_than_memory_can_hold() -> None:
    one = to_bytes("00 00 00 02 01 00")
    count = MAXIMUM_FRAGMENTS + 6  # a PDU of six KiB may have six more
    most = decode(4, one * count)
    assert isinstance(most, DataTF)
    assert len(most.fragments) == count
    with pytest.raises(RemoteProtocolError, match=f"more than {count} PDVs"):
        decode(4, one * (count + 1))
    large = struct.pack(">LBB", 16386, 1, 0) + bytes(16384)
    assert isinstance(decode(4, large * 4000), DataTF)


def test_a_fragment_keeps_nothing_of_the_buffer_it_came_in() -> None:
    buffer = bytearray(to_bytes("00 00 00 04 01 03 61 62"))
    pdu = decode(4, memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert pdu == DataTF((Fragment(1, True, True, b"ab"),))


def test_a_length_that_lies_allocates_nothing() -> None:
    body = associate_body(NAME, b"\x20\0\xff\xff")
    tracemalloc.start()
    try:
        for pdu_type, wire in ((1, body), (4, b"\xff\xff\xff\xff\1\3")):
            assert isinstance(attempt(pdu_type, wire), RemoteProtocolError)
        assert tracemalloc.get_traced_memory()[1] < 32_768
    finally:
        tracemalloc.stop()


# What DCMTK 3.6.7, Orthanc 1.10 and pynetdicom 3.0.4 said to each other.


def from_corpus(name: str) -> Any:
    return read((CORPUS / f"{name}.bin").read_bytes(), 16384)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.bin")), ids=lambda path: path.stem)
def test_a_real_pdu_is_encoded_as_its_sender_did(path: Path) -> None:
    wire = path.read_bytes()
    pdu = read(wire, 16384)
    assert PDU_NAMES[wire[0]].lower().replace("-", "_") in path.stem
    encoded = pdu.encode()
    assert read(encoded, 16384) == pdu
    if isinstance(pdu, AssociateRQ):
        # DCMTK writes 0xFF into a reserved byte of each proposed context.
        contexts = len(pdu.presentation_contexts) if "OFFIS" in pdu.user_information.implementation_version_name else 0
        assert Counter(encoded) - Counter(wire) == Counter({0: contexts} if contexts else {})
    else:
        # pynetdicom has another order of sub-items; the bytes are the same.
        assert sorted(encoded) == sorted(wire)
    if path.stem.startswith(("dcmtk", "orthanc")) and not isinstance(pdu, AssociateRQ):
        assert encoded == wire


def test_dcmtk_echoscu_asks_for_verification() -> None:
    assert from_corpus("dcmtk_echoscu_a_associate_rq") == AssociateRQ(
        called_ae_title="ANY-SCP",
        calling_ae_title="ECHOSCU",
        presentation_contexts=(PresentationContext(1, VERIFICATION, ("1.2.840.10008.1.2",)),),
        user_information=UserInformation(16384, "1.2.276.0.7230010.3.0.3.6.7", "OFFIS_DCMTK_367"),
        application_context=APPLICATION_CONTEXT,
        protocol_version=1,
    )


def test_dcmtk_storescu_fills_all_128_contexts() -> None:
    contexts = from_corpus("dcmtk_storescu_a_associate_rq").presentation_contexts
    assert [context.context_id for context in contexts] == list(range(1, 256, 2))
    assert contexts[1].transfer_syntaxes == ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("dcmtk_storescp", "1.2.840.10008.1.2.2"), ("orthanc", "1.2.840.10008.1.2")],
)
def test_real_acceptors_choose_a_transfer_syntax_for_each_context(name: str, chosen: str) -> None:
    answer = from_corpus(f"{name}_a_associate_ac")
    assert (answer.called_ae_title, answer.calling_ae_title) == ("ANY-SCP", "STORESCU")
    assert len(answer.results) == 128
    assert answer.results[1] == PresentationContextResult(3, 0, chosen)
    assert all(result.is_accepted for result in answer.results)
    assert answer.user_information.maximum_length == 16384


def test_pynetdicom_refuses_contexts_for_two_reasons() -> None:
    results = from_corpus("pynetdicom_scp_rejected_contexts_a_associate_ac").results
    assert Counter(result.result for result in results) == {0: 1, 3: 126, 4: 1}


def test_pynetdicom_negotiates_all_that_can_be_negotiated() -> None:
    information = from_corpus("pynetdicom_scu_a_associate_rq").user_information
    assert information == UserInformation(
        maximum_length=16382,
        implementation_class_uid="1.2.826.0.1.3680043.9.3811.3.0.4",
        implementation_version_name="PYNETDICOM_304",
        operations_window=OperationsWindow(16, 1),
        role_selections=(RoleSelection(CT_IMAGE_STORAGE, True, True),),
        extended_negotiations=(ExtendedNegotiation(CT_IMAGE_STORAGE, b"\2\0\3\0\1\0"),),
        common_extended_negotiations=(
            CommonExtendedNegotiation(
                "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.4.2", ("1.2.840.10008.5.1.4.1.1.88.11",)
            ),
        ),
        user_identity=UserIdentity(2, b"somebody", b"something", True),
    )
    answer = from_corpus("pynetdicom_scp_a_associate_ac").user_information
    assert answer.operations_window == OperationsWindow(1, 1)
    assert answer.role_selections == (RoleSelection(CT_IMAGE_STORAGE, True, True),)


def test_dcmtk_sends_a_user_identity() -> None:
    information = from_corpus("dcmtk_storescu_user_identity_a_associate_rq").user_information
    assert information.user_identity == UserIdentity(2, b"somebody", b"something", True)


def test_dcmtk_and_orthanc_select_roles() -> None:
    asked = from_corpus("dcmtk_getscu_role_selection_a_associate_rq").user_information.role_selections
    answered = from_corpus("orthanc_role_selection_a_associate_ac").user_information.role_selections
    assert len(asked) == 120
    assert asked == answered
    assert all((selection.scu, selection.scp) == (False, True) for selection in asked)


@pytest.mark.parametrize(
    ("name", "context_id", "is_command", "length"),
    [
        ("dcmtk_echoscu_p_data_tf", 1, True, 68),
        ("dcmtk_storescu_p_data_tf_command", 201, True, 104),
        ("dcmtk_storescu_p_data_tf_data_set", 201, False, 148),
        ("dcmtk_storescp_p_data_tf", 201, True, 104),
        ("orthanc_p_data_tf", 201, True, 104),
        ("orthanc_scu_p_data_tf", 1, True, 68),
        ("pynetdicom_scu_p_data_tf", 1, True, 68),
        ("pynetdicom_scp_p_data_tf", 1, True, 78),
    ],
)
def test_real_peers_send_a_fragment_in_each_data_pdu(name: str, context_id: int, is_command: bool, length: int) -> None:
    (fragment,) = from_corpus(name).fragments
    assert fragment[:3] == (context_id, is_command, True)
    assert len(fragment.data) == length


@pytest.mark.parametrize(
    ("name", "pdu"),
    [
        ("dcmtk_storescp_a_associate_rj", AssociateRJ(1, 1, 1)),
        ("dcmtk_echoscu_a_release_rq", ReleaseRQ()),
        ("pynetdicom_scu_a_release_rq", ReleaseRQ()),
        ("dcmtk_storescp_a_release_rp", ReleaseRP()),
        ("orthanc_a_release_rp", ReleaseRP()),
        ("pynetdicom_scp_a_release_rp", ReleaseRP()),
        ("dcmtk_echoscu_a_abort", Abort(0, 0)),
        ("dcmtk_storescp_a_abort", Abort(0, 0)),
        ("pynetdicom_scu_a_abort", Abort(0, 0)),
    ],
)
def test_real_peers_reject_release_and_abort(name: str, pdu: PDU) -> None:
    assert from_corpus(name) == pdu
