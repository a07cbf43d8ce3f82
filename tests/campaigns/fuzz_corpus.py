"""What fuzz.py makes its inputs from: PDUs that real peers sent (tests/corpus), and our own of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncstore.dimse import command_set
from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, UnknownMessage
from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT_FIND,
    VERIFICATION,
)
from asyncstore.upper_layer import items, pdu
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, DataTF, Fragment
from asyncstore.upper_layer.user_information import (
    USER_INFORMATION,
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserIdentity,
    UserInformation,
)

if TYPE_CHECKING:
    from asyncstore.dimse.message_types import Message

MAXIMUM_LENGTH: Final = 4096
CONTEXT_ID: Final = 1
IN_FLIGHT: Final = 6
_CORPUS_DIRECTORY: Final = Path(__file__).parents[1] / "corpus"
# Every byte costs time; the largest real requests are there once, and small ones of the same form more often.
_SMALL_BYTES: Final = 1024

_RICH: Final = UserInformation(
    maximum_length=MAXIMUM_LENGTH,
    implementation_class_uid="1.2.3.4",
    implementation_version_name="ASYNCSTORE",
    operations_window=OperationsWindow(16, 1),
    role_selections=(RoleSelection(CT_IMAGE_STORAGE, True, False),),
    extended_negotiations=(ExtendedNegotiation(CT_IMAGE_STORAGE, b"\1\0\1"),),
    common_extended_negotiations=(CommonExtendedNegotiation(CT_IMAGE_STORAGE, "1.2.840.10008.4.2", ("1.2.3",)),),
    user_identity=UserIdentity(2, b"user", b"secret", True),
    user_identity_response=b"ticket",
)
_SYNTAXES: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_CONTEXTS: Final = (
    PresentationContext(1, CT_IMAGE_STORAGE, _SYNTAXES),
    PresentationContext(3, VERIFICATION, _SYNTAXES),
)
_RESULTS: Final = (
    PresentationContextResult(1, 0, EXPLICIT_VR_LITTLE_ENDIAN),
    PresentationContextResult(3, 3, ""),
)
REQUEST: Final = AssociateRQ("ARCHIVE", "SENDER", _CONTEXTS, _RICH)
ANSWER: Final = AssociateAC("ARCHIVE", "SENDER", _RESULTS, _RICH)
_TROUBLE: Final = Status(0xA700, "out of space", (0x00100010, 0x00080018))

_MESSAGES: Final[tuple[Message, ...]] = (
    *(CStoreRSP(number, SUCCESS, CT_IMAGE_STORAGE, f"1.2.3.{number}") for number in range(1, IN_FLIGHT + 1)),
    CStoreRSP(2, _TROUBLE, CT_IMAGE_STORAGE, "1.2.3.2"),
    CStoreRSP(1, SUCCESS, has_data_set=True),
    CEchoRSP(IN_FLIGHT - 1, SUCCESS),
    CEchoRQ(7),
    CStoreRQ(9, CT_IMAGE_STORAGE, "1.2.3.9", 0, "MOVER", 12),
    CFindRQ(11, STUDY_ROOT_FIND),
    CFindRSP(3, Status(0xFF00), STUDY_ROOT_FIND, True),
    CFindRSP(3, SUCCESS, STUDY_ROOT_FIND),
    CCancelRQ(3),
    NActionRQ(12, STORAGE_COMMITMENT_PUSH_MODEL, "1.2.840.10008.1.20.1.1", 1),
    NActionRSP(4, SUCCESS, STORAGE_COMMITMENT_PUSH_MODEL, "1.2.840.10008.1.20.1.1", 1),
    NEventReportRQ(13, STORAGE_COMMITMENT_PUSH_MODEL, "1.2.840.10008.1.20.1.1", 2),
    NEventReportRSP(4, _TROUBLE, STORAGE_COMMITMENT_PUSH_MODEL, "1.2.840.10008.1.20.1.1", 2),
    UnknownMessage(0x0020, 3, None, True),
    UnknownMessage(0x8020, None, 3, False),
)
COMMAND_SETS: Final = (
    *(message.encode() for message in _MESSAGES),
    command_set.encode([(0x0100, 0x8001), (0x0120, 1), (0x0800, 0x0101), (0x0900, 0xB000), (0x4321, b"odd")]),
)
_COMMANDS: Final = tuple(DataTF((Fragment(CONTEXT_ID, True, True, data),)).encode() for data in COMMAND_SETS)
_FRAGMENTED: Final = DataTF(
    (
        Fragment(CONTEXT_ID, True, False, COMMAND_SETS[0][:40]),
        Fragment(CONTEXT_ID, True, True, COMMAND_SETS[0][40:]),
        Fragment(CONTEXT_ID, False, False, bytes(20)),
        Fragment(CONTEXT_ID, False, True, b""),
    )
).encode()
_STORE: Final = (
    DataTF((Fragment(1, True, True, CStoreRQ(9, CT_IMAGE_STORAGE, "1.2.3.9").encode()),)).encode()
    + DataTF((Fragment(1, False, False, bytes(30)), Fragment(1, False, True, bytes(8)))).encode()
)
_SHORT_PDUS: Final = (
    AssociateRJ(1, 1, 7).encode(),
    pdu.ReleaseRQ().encode(),
    pdu.ReleaseRP().encode(),
    Abort(2, 2).encode(),
)
_OWN: Final = (REQUEST.encode(), ANSWER.encode(), *_SHORT_PDUS, *_COMMANDS, _FRAGMENTED, _STORE)
_REAL: Final = tuple(path.read_bytes() for path in sorted(_CORPUS_DIRECTORY.glob("*.bin")))
PDUS: Final = tuple(data for data in (*_OWN, *_REAL) if len(data) < _SMALL_BYTES) * 3 + _REAL
DATA: Final = tuple(data for data in (*_OWN, *_REAL) if data[0] == pdu.DATA_TF) * 3 + _SHORT_PDUS


def _items_in(data: bytes, start: int) -> list[bytes]:
    """Each item from `start` on, with its header."""
    found = []
    for item_type, content in items.decode_items(memoryview(data)[start:], pdu="corpus", field="corpus"):
        found.append(items.encode_item(item_type, bytes(content)))
        if item_type == USER_INFORMATION:
            found += _items_in(bytes(content), 0)
    return found


ITEMS: Final = tuple(
    dict.fromkeys(item for data in (*_OWN[:2], *_REAL) if data[0] in (1, 2) for item in _items_in(data, 74))
)
