"""Read and write command sets: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1, Annex E).

A tag is an int, group << 16 | element; in group 0000 that is the element number. The VR of an element decides what its
value is in Python: US and UL an int, UI, AE and LO a str without padding, AT a tuple of tags. Elements that are not in
the table, such as retired ones, keep their bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.errors import LocalProtocolError, RemoteProtocolError, count_text, say_nothing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.errors import Tolerate

Value: TypeAlias = int | str | tuple[int, ...] | bytes

GROUP_LENGTH: Final = 0x0000
AFFECTED_SOP_CLASS_UID: Final = 0x0002
REQUESTED_SOP_CLASS_UID: Final = 0x0003
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
RESPONDED_TO: Final = 0x0120
PRIORITY: Final = 0x0700
DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
OFFENDING_ELEMENT: Final = 0x0901
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
EVENT_TYPE_ID: Final = 0x1002
ACTION_TYPE_ID: Final = 0x1008
MOVE_ORIGINATOR_AE_TITLE: Final = 0x1030
MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x1031

# A command set has no limit in the standard. Real ones stay under 1 KiB; the bound keeps a hostile one small.
MAXIMUM_BYTES: Final = 65536

# PS3.7 Table E.1-1: element -> (VR, name).
_ELEMENTS: Final[dict[int, tuple[str, str]]] = {
    GROUP_LENGTH: ("UL", "Command Group Length"),
    AFFECTED_SOP_CLASS_UID: ("UI", "Affected SOP Class UID"),
    REQUESTED_SOP_CLASS_UID: ("UI", "Requested SOP Class UID"),
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
    REQUESTED_SOP_INSTANCE_UID: ("UI", "Requested SOP Instance UID"),
    EVENT_TYPE_ID: ("US", "Event Type ID"),
    0x1005: ("AT", "Attribute Identifier List"),
    ACTION_TYPE_ID: ("US", "Action Type ID"),
    0x1020: ("US", "Number of Remaining Sub-operations"),
    0x1021: ("US", "Number of Completed Sub-operations"),
    0x1022: ("US", "Number of Failed Sub-operations"),
    0x1023: ("US", "Number of Warning Sub-operations"),
    MOVE_ORIGINATOR_AE_TITLE: ("AE", "Move Originator Application Entity Title"),
    MOVE_ORIGINATOR_MESSAGE_ID: ("US", "Move Originator Message ID"),
}
# These decide what a message is and what it answers. All others inform, or the message that needs them says so.
_DECIDING: Final = frozenset((COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO, DATA_SET_TYPE, STATUS))
_VRS: Final = {element: vr for element, (vr, _) in _ELEMENTS.items()}

_HEADER: Final = struct.Struct("<HHI")
_UNSIGNED_SHORT: Final = struct.Struct("<H")
_UNSIGNED_LONG: Final = struct.Struct("<I")
_TAG: Final = struct.Struct("<HH")
PADDING: Final = b"\0 "  # of a value in even length, as peers write it


def name_of(tag: int) -> str:
    """The standard's name of an element of group 0000, or its tag if it is not in the table: "(0000,4321)"."""
    element = _ELEMENTS.get(tag)
    return element[1] if element else f"(0000,{tag:04X})"


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


def decode(data: bytes, tolerate: Tolerate = say_nothing) -> dict[int, Value]:
    """Read a command set: tag -> value, (0000,0000) included where it was sent.

    Accepts what is not ambiguous, and tells `tolerate` of it: a wrong group length (the last fragment ends a command
    set), zeros after the last element, numbers longer than 2 bytes whose other bytes are zeros, repeated elements, and
    elements of other groups, which are skipped. Elements that cannot be read are left out unless they decide. Elements
    in another order, odd lengths and UIDs of more than 64 characters (a peer repeats those of the request) are
    accepted too; an empty number counts as absent.

    Raises RemoteProtocolError for more than 64 KiB, and for an element that is cut short: the lengths hold a command
    set together. Also for a Command Field, Message ID, Message ID Being Responded To, Command Data Set Type or Status
    that cannot be read, or that occurs with two values. PS3.7 6.3.1.
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
            _check_padding(data, offset, tolerate)
            break
        group, tag, length = unpack_header(data, offset)
        start = offset + 8
        offset = start + length
        if offset > end:
            raise _refused(tag, f"{count_text(length, 'byte')} long, but only {end - start:,} are left")
        if group:
            tolerate(RemoteProtocolError("not of group 0000", pdu="command set", field="element header"))
            continue
        vr = vr_of(tag)
        if vr == "US" and length == 2:
            value = data[start] | data[start + 1] << 8
        elif length or (vr != "US" and vr != "UL"):
            try:
                value = _decode_value(tag, vr, data[start:offset], tolerate)
            except RemoteProtocolError as error:
                if tag in _DECIDING:
                    raise
                tolerate(error)
                continue
        else:
            continue
        if tag in elements:
            _check_repeated(tag, elements[tag] == value, tolerate)
        else:
            elements[tag] = value
    _check_group_length(elements, end, tolerate)
    return elements


def _decode_value(tag: int, vr: str | None, encoded: bytes, tolerate: Tolerate) -> Value:
    """The value of an element that is not a proper US."""
    length = len(encoded)
    if vr == "UI":
        return _decode_ascii(tag, encoded)
    if vr == "UL" and length == 4:
        return int.from_bytes(encoded, "little")
    if vr == "US" and length > 2 and not any(encoded[2:]):
        tolerate(_refused(tag, f"{count_text(length, 'byte')}, not a value of VR US"))
        return encoded[0] | encoded[1] << 8
    if vr == "AT" and length % 4 == 0:
        return tuple(group << 16 | element for group, element in _TAG.iter_unpack(encoded))
    if vr == "AE":
        return _decode_ascii(tag, encoded).lstrip()
    if vr == "LO":
        return _decode_text(encoded.rstrip(PADDING))
    if vr is None:
        return encoded
    raise _refused(tag, f"{count_text(length, 'byte')}, not a value of VR {vr}")


def _decode_ascii(tag: int, encoded: bytes) -> str:
    try:
        return str(encoded.rstrip(PADDING), "ascii")
    except UnicodeDecodeError as error:
        raise _refused(tag, "not ASCII") from error


def _decode_text(encoded: bytes) -> str:
    """Text for people: a command set cannot name a character set, but peers send comments in their own."""
    try:
        return str(encoded, "utf-8")
    except UnicodeDecodeError:
        return str(encoded, "latin-1")


def _check_padding(data: bytes, offset: int, tolerate: Tolerate) -> None:
    """Fewer bytes than an element has are padding if they are zeros."""
    cut_short = RemoteProtocolError("an element is cut short", pdu="command set", field="element header")
    if any(data[offset:]):
        raise cut_short
    tolerate(cut_short)


def _check_repeated(tag: int, is_same: bool, tolerate: Tolerate) -> None:
    """Of an element that is sent again the first value counts, unless the two decide different things."""
    if tag in _DECIDING and not is_same:
        raise _refused(tag, "sent twice, with different values")
    tolerate(_refused(tag, "sent twice"))


def _check_group_length(elements: dict[int, Value], length: int, tolerate: Tolerate) -> None:
    announced = elements.get(GROUP_LENGTH)
    # The value counts the bytes after its own 12.
    if announced is not None and announced != length - 12:
        tolerate(_refused(GROUP_LENGTH, f"{announced!r} bytes were announced, {length - 12} came"))


def _refused(tag: int, message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, pdu="command set", field=name_of(tag))
