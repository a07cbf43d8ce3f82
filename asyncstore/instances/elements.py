"""Steps over the data elements of an encoded data set (PS3.5 7.1, 7.5) without decoding any value."""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple, TypeAlias

from asyncstore.record import record
from asyncstore.uids import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

Buffer: TypeAlias = "bytes | bytearray | memoryview"

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_DELIMITATION: Final = 0xFFFEE00D
SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD

# PS3.5 Table 7.1-1: these have two reserved bytes and a length of four bytes.
LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
# PS3.5 6.2: values of these are padded with a space, all others with a zero byte.
_TEXT_VRS: Final = frozenset(
    (b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UC", b"UR", b"UT")
)
VRS: Final = LONG_VRS | _TEXT_VRS | {b"AT", b"FD", b"FL", b"SL", b"SS", b"UI", b"UL", b"US"}

_TAG: Final = r"\(?([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)?|([0-9A-Fa-f]{8})"

_LITTLE_TAG = struct.Struct("<HH").unpack_from
_BIG_TAG = struct.Struct(">HH").unpack_from
_LITTLE_U32 = struct.Struct("<I").unpack_from
_BIG_U32 = struct.Struct(">I").unpack_from
_LITTLE_U16 = struct.Struct("<H").unpack_from
_BIG_U16 = struct.Struct(">H").unpack_from


def tag_text(tag: int) -> str:
    """A tag as people and the standard write it: "(0010,0020)"."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def tag_digits(tag: int) -> str:
    """A tag as records have it, and the DICOM JSON Model (PS3.18 F.2): "00100020"."""
    return f"{tag:08X}"


def tag_from(text: str) -> int | None:
    """The tag that a text of either kind names, the first one without its parentheses too; None for another text."""
    found = re.fullmatch(_TAG, text)
    return None if found is None else int("".join(filter(None, found.groups())), 16)


class CutShort(Exception):
    """The bytes at hand end in the middle of an element."""


@record(frozen=True, slots=True)
class Encoding:
    """How elements are encoded: with or without their VR, and in which byte order."""

    explicit: bool
    big_endian: bool


IMPLICIT_LITTLE: Final = Encoding(explicit=False, big_endian=False)
EXPLICIT_LITTLE: Final = Encoding(explicit=True, big_endian=False)
EXPLICIT_BIG: Final = Encoding(explicit=True, big_endian=True)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How a transfer syntax encodes elements: Explicit VR Little Endian in all but two of them (PS3.5 A)."""
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT_LITTLE
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return EXPLICIT_BIG
    return EXPLICIT_LITTLE


class Header(NamedTuple):
    """The header of an element: `vr` is b"" if none is encoded, `value_at` the offset of the value's first byte."""

    tag: int
    vr: bytes
    length: int
    value_at: int


def read_header(data: Buffer, at: int, encoding: Encoding) -> Header:
    """The header of the element or item at an offset; raises CutShort.

    An element whose VR is none of the standard's is read as what leads to another element: one with a VR that nobody
    knows ("--", "??", zeros), or one without a VR. Some programs write implicit elements, or whole implicit items, into
    explicit data sets (PS3.5 6.2.2 allows it below UN).
    """
    try:
        if encoding.big_endian:
            group, element = _BIG_TAG(data, at)
            u32, u16 = _BIG_U32, _BIG_U16
        else:
            group, element = _LITTLE_TAG(data, at)
            u32, u16 = _LITTLE_U32, _LITTLE_U16
        tag = group << 16 | element
        if not encoding.explicit or group == 0xFFFE:
            return Header(tag, b"", u32(data, at + 4)[0], at + 8)
        vr = bytes(data[at + 4 : at + 6])
        if vr in LONG_VRS:
            return Header(tag, vr, u32(data, at + 8)[0], at + 12)
        if vr not in VRS:
            return _read_unknown_vr(data, at, Header(tag, vr, u16(data, at + 6)[0], at + 8), encoding)
        return Header(tag, vr, u16(data, at + 6)[0], at + 8)
    except struct.error:
        raise CutShort(f"the header of an element is cut off at byte {at}") from None


def _read_unknown_vr(data: Buffer, at: int, short: Header, encoding: Encoding) -> Header:
    """The header of an element whose VR is none of the standard's; `short` is it with a length of two bytes."""
    u32 = _BIG_U32 if encoding.big_endian else _LITTLE_U32
    leads_on = _leads_on(data, short, encoding)
    if looks_like_vr(short.vr):
        # A VR that the standard gets one day has two reserved bytes and a length of four (PS3.5 7.1.2).
        if short.length or leads_on:
            return short
        return Header(short.tag, short.vr, u32(data, at + 8)[0], at + 12)
    bare = Header(short.tag, b"", u32(data, at + 4)[0], at + 8)
    # Below 8192 bytes, the upper half of a length without a VR is zero, and the lower one is no text.
    is_bare = bare.value_at + bare.length == len(data) or (not short.length and bare.length < 0x2000)
    return bare if is_bare or not leads_on else short


def _leads_on(data: Buffer, header: Header, encoding: Encoding) -> bool:
    """Whether an element with a VR that nobody knows is followed by another element, or by the end of the data."""
    behind = header.value_at + header.length
    if len(data) - behind < 8:
        return len(data) == behind
    group, element = (_BIG_TAG if encoding.big_endian else _LITTLE_TAG)(data, behind)
    if group == 0xFFFE:
        return element in (0xE00D, 0xE0DD) or (element == 0xE000 and header.length > 0)
    if group == header.tag >> 16 and group << 16 | element > header.tag:
        return True
    vr = bytes(data[behind + 4 : behind + 6])
    return vr in VRS or (vr == header.vr and group << 16 | element > header.tag)


def looks_like_vr(vr: bytes) -> bool:
    """Whether two bytes are capitals, as every VR's are."""
    return len(vr) == 2 and vr.isalpha() and vr.isupper()


def skip_value(data: Buffer, header: Header, encoding: Encoding, end: int) -> int:
    """The offset behind an element's value, whatever is nested in it; raises CutShort if that is beyond `end`."""
    if header.length != UNDEFINED_LENGTH:
        behind = header.value_at + header.length
    else:
        behind = _skip_undefined(data, header, encoding, end)
    if behind > end:
        raise CutShort(f"the value of {tag_text(header.tag)} is cut off")
    return behind


def _skip_undefined(data: Buffer, outer: Header, encoding: Encoding, end: int) -> int:
    # A stack, not recursion: a file may nest to any depth.
    open_levels = [below(outer, encoding)]
    at = outer.value_at
    while open_levels:
        if at >= end:
            raise CutShort("a sequence has no end")
        level = open_levels[-1]
        header = read_header(data, at, level)
        at = header.value_at
        if header.tag in (ITEM_DELIMITATION, SEQUENCE_DELIMITATION):
            open_levels.pop()
        elif header.length == UNDEFINED_LENGTH:
            open_levels.append(below(header, level))
        else:
            at += header.length
    return at


def below(header: Header, encoding: Encoding) -> Encoding:
    """How the items of an element are encoded: those of a UN element are always implicit (PS3.5 6.2.2 Note 2)."""
    return IMPLICIT_LITTLE if header.vr == b"UN" else encoding


def padding_of(vr: bytes) -> bytes:
    """The byte that makes the length of a value even (PS3.5 6.2)."""
    return b" " if vr in _TEXT_VRS else b"\0"
