"""Read and write command sets: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1, Annex E).

A tag is an int, group << 16 | element; in group 0000 that is the element number. The VR of an element decides what its
value is in Python: US and UL an int, UI, AE and LO a str without padding, AT a tuple of tags. Elements that are not in
the table, such as retired ones, keep their bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

Value: TypeAlias = int | str | tuple[int, ...] | bytes

GROUP_LENGTH: Final = 0x0000
AFFECTED_SOP_CLASS_UID: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
RESPONDED_TO: Final = 0x0120
PRIORITY: Final = 0x0700
DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
OFFENDING_ELEMENT: Final = 0x0901
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
MOVE_ORIGINATOR_AE_TITLE: Final = 0x1030
MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x1031

# A command set has no limit in the standard. Real ones stay under 1 KiB; the bound keeps a hostile one small.
MAXIMUM_BYTES: Final = 65536

# PS3.7 Table E.1-1: element -> (VR, name).
_ELEMENTS: Final[dict[int, tuple[str, str]]] = {
    GROUP_LENGTH: ("UL", "Command Group Length"),
    AFFECTED_SOP_CLASS_UID: ("UI", "Affected SOP Class UID"),
    0x0003: ("UI", "Requested SOP Class UID"),
    COMMAND_FIELD: ("US", "Command Field"),
    MESSAGE_ID: ("US", "Message ID"),
    RESPONDED_TO: ("US", "Message ID Being Responded To"),
    0x0600: ("AE", "Move Destination"),
    PRIORITY: ("US", "Priority"),
    DATA_SET_TYPE: ("US", "Command Data Set Type"),
    STATUS: ("US", "Status"),
    OFFENDING_ELEMENT: ("AT", "Offending Element"),
    ERROR_COMMENT: ("LO", "Error Comment"),
    0x0903: ("US", "Error ID"),
    AFFECTED_SOP_INSTANCE_UID: ("UI", "Affected SOP Instance UID"),
    0x1001: ("UI", "Requested SOP Instance UID"),
    0x1002: ("US", "Event Type ID"),
    0x1005: ("AT", "Attribute Identifier List"),
    0x1008: ("US", "Action Type ID"),
    0x1020: ("US", "Number of Remaining Sub-operations"),
    0x1021: ("US", "Number of Completed Sub-operations"),
    0x1022: ("US", "Number of Failed Sub-operations"),
    0x1023: ("US", "Number of Warning Sub-operations"),
    MOVE_ORIGINATOR_AE_TITLE: ("AE", "Move Originator Application Entity Title"),
    MOVE_ORIGINATOR_MESSAGE_ID: ("US", "Move Originator Message ID"),
}
_VRS: Final = {element: vr for element, (vr, _) in _ELEMENTS.items()}

_HEADER: Final = struct.Struct("<HHI")
_UNSIGNED_SHORT: Final = struct.Struct("<H")
_UNSIGNED_LONG: Final = struct.Struct("<I")
_TAG: Final = struct.Struct("<HH")
_PADDING: Final = b"\0 "


def name_of(tag: int) -> str:
    """The standard's name of an element of group 0000, or its tag if it is not in the table: "(0000,4321)"."""
    element = _ELEMENTS.get(tag)
    return element[1] if element else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def encode(elements: Iterable[tuple[int, Value]]) -> bytes:
    """Write a whole command set, in the order of the tags and with the group length in front.

    `elements` holds (tag, value) pairs without (0000,0000). Raises LocalProtocolError when a value does not fit its
    element. PS3.7 6.3.1.
    """
    parts = []
    for tag, value in sorted(elements, key=_tag_of):
        encoded = _encode_value(tag, value)
        parts.append(_HEADER.pack(0, tag, len(encoded)))
        parts.append(encoded)
    body = b"".join(parts)
    return _HEADER.pack(0, GROUP_LENGTH, 4) + _UNSIGNED_LONG.pack(len(body)) + body


def _tag_of(element: tuple[int, Value]) -> int:
    return element[0]


def _encode_value(tag: int, value: Value) -> bytes:
    """The value of one element, padded to an even length."""
    vr = _VRS.get(tag)
    try:
        match vr, value:
            case "US", int():
                return _UNSIGNED_SHORT.pack(value)
            case "AT", tuple():
                return b"".join(_TAG.pack(each >> 16, each & 0xFFFF) for each in value)
            case "UI", str():
                return pad_uid(value.encode("ascii"))
            case "AE", str():
                encoded = value.encode("ascii")
            case "LO", str():
                encoded = value.encode()
            case None, bytes():
                encoded = value
            case _:
                raise LocalProtocolError(f"{name_of(tag)} cannot be {value!r}")
    except (struct.error, UnicodeError) as error:
        raise LocalProtocolError(f"{name_of(tag)} cannot be {value!r}") from error
    return encoded + b" " if len(encoded) & 1 else encoded


def pad_uid(uid: bytes) -> bytes:
    """A UID's bytes in even length (PS3.5 9.1)."""
    return uid + b"\0" if len(uid) & 1 else uid


def decode(data: bytes) -> dict[int, Value]:
    """Read a command set: tag -> value, (0000,0000) included where it was sent.

    Accepts some violations of the standard that are not ambiguous: elements in another order, odd lengths, a missing
    or too small group length, UIDs of more than 64 characters (a peer repeats those of the request). An empty number
    counts as absent. Raises RemoteProtocolError for all others: more than 64 KiB, or an element that is cut short,
    outside of group 0000, sent twice, of a wrong length, or with text that is not ASCII. PS3.7 6.3.1.
    """
    end = len(data)
    if end > MAXIMUM_BYTES:
        raise _refused(GROUP_LENGTH, f"{end} bytes, more than {MAXIMUM_BYTES}")
    elements: dict[int, Value] = {}
    vr_of = _VRS.get
    unpack_header = _HEADER.unpack_from
    value: Value
    offset = 0
    while offset < end:
        if end - offset < 8:
            raise RemoteProtocolError("an element is cut short", pdu="command set", field="element header")
        group, tag, length = unpack_header(data, offset)
        start = offset + 8
        offset = start + length
        if group or offset > end or tag in elements:
            raise _refused_element(group, tag, length, end - start)
        vr = vr_of(tag)
        if vr == "US" and length == 2:
            value = data[start] | data[start + 1] << 8
        elif vr == "UI":
            value = _decode_ascii(tag, data[start:offset])
        elif length or (vr != "US" and vr != "UL"):
            value = _decode_value(tag, vr, data[start:offset])
        else:
            continue
        elements[tag] = value
    _check_group_length(elements, end)
    return elements


def _decode_ascii(tag: int, encoded: bytes) -> str:
    try:
        return str(encoded.rstrip(_PADDING), "ascii")
    except UnicodeDecodeError as error:
        raise _refused(tag, "not ASCII") from error


def _decode_value(tag: int, vr: str | None, encoded: bytes) -> Value:
    """The value of an element that is neither UI nor a proper US."""
    length = len(encoded)
    if vr == "UL" and length == 4:
        return int.from_bytes(encoded, "little")
    if vr == "AT" and length % 4 == 0:
        return tuple(group << 16 | element for group, element in _TAG.iter_unpack(encoded))
    if vr == "AE":
        return _decode_ascii(tag, encoded).lstrip()
    if vr == "LO":
        return _decode_text(encoded.rstrip(_PADDING))
    if vr is None:
        return encoded
    raise _refused(tag, f"{length} bytes are no value of VR {vr}")


def _decode_text(encoded: bytes) -> str:
    """Text for people: a command set cannot name a character set, but peers send comments in their own."""
    try:
        return str(encoded, "utf-8")
    except UnicodeDecodeError:
        return str(encoded, "latin-1")


def _check_group_length(elements: dict[int, Value], length: int) -> None:
    """A group length beyond the end means that elements are missing; a smaller one does no harm."""
    announced = elements.get(GROUP_LENGTH)
    # The value counts the bytes after its own 12.
    if isinstance(announced, int) and announced > length - 12:
        raise _refused(GROUP_LENGTH, f"{announced} bytes were announced, {length - 12} came")


def _refused(tag: int, message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, pdu="command set", field=name_of(tag))


def _refused_element(group: int, tag: int, length: int, available: int) -> RemoteProtocolError:
    """Why the header of an element cannot be right."""
    if group:
        return _refused(group << 16 | tag, "not an element of group 0000")
    if length > available:
        return _refused(tag, f"{length} bytes long, but only {available} are left")
    return _refused(tag, "sent twice")
