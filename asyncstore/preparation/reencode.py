"""Encodes the elements of a data set with or without their VRs, or in the other byte order.

Values are copied or byte-swapped as their VR requires, and never decoded, so no string, number or date can change,
whatever its character set. A value of odd length is padded (PS3.5 6.2). Memory does not grow with the data set.
Sequences and items are written with undefined length (PS3.5 7.5), since their old lengths are wrong now. Group Length
elements are left out for the same reason, as PS3.5 7.2 advises.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances import elements
from asyncstore.instances.elements import UNDEFINED_LENGTH, CutShort, Encoding, Header, tag_text
from asyncstore.instances.identity import SOP_CLASS_UID, SOP_INSTANCE_UID

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.elements import Buffer

# No real data set comes near this; it keeps a hostile one from exhausting the stack.
DEEPEST_NESTING: Final = 64
# Values are written in pieces of this size; it is a multiple of every unit below.
_PIECE_BYTES: Final = 1048576

# PS3.5 7.3: how many bytes belong together when the byte order changes. A VR that is not here has no byte order.
_UNITS: Final = {
    **dict.fromkeys((b"AT", b"OW", b"SS", b"US"), 2),
    **dict.fromkeys((b"FL", b"OF", b"OL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}
_ARRAY_TYPES: Final = {2: "H", 4: "I", 8: "Q"}

_DELIMITER_GROUP: Final = 0xFFFE
_ITEM_HEADER_BYTES: Final = 8
_UIDS: Final = (SOP_CLASS_UID, SOP_INSTANCE_UID)
_PIXEL_REPRESENTATION: Final = 0x00280103
_LUT_DESCRIPTOR: Final = 0x00283002
_LUT_DATA: Final = 0x00283006


class CannotConvert(SourceError):
    """The data set cannot be encoded another way: it is damaged, or compressed although its transfer syntax is not."""


class Unsuitable(CannotConvert):
    """The instance cannot be compressed without loss, and is sent as it is."""


class _Level:
    """The data set itself or one item, and what it says about the VRs of its elements."""

    __slots__ = ("begin", "creators", "encoding", "end", "first_values", "parent")

    def __init__(self, begin: int, end: int, encoding: Encoding, parent: _Level | None) -> None:
        self.begin = begin
        self.end = end
        self.encoding = encoding
        self.parent = parent
        self.creators: dict[int, str] = {}
        self.first_values: dict[int, int | None] = {}


class Reencoder:
    """Re-encodes one data set; `write` takes the bytes as they come."""

    def __init__(self, data: Buffer, source: Encoding, target: Encoding, write: Callable[[Buffer], object]) -> None:
        self._data = memoryview(data)
        self._source = source
        self._target = target
        self._write = write
        order = ">" if target.big_endian else "<"
        self._long_header = struct.Struct(f"{order}HH2sHI").pack
        self._short_header = struct.Struct(f"{order}HH2sH").pack
        self._bare_header = struct.Struct(f"{order}HHI").pack

    def run(self) -> None:
        """Write the whole data set; raises CannotConvert."""
        end = len(self._data)
        try:
            self._write_level(_Level(0, end, self._source, None), 0)
        except CutShort as cut:
            raise CannotConvert(f"the data set is damaged: {cut}") from None

    def _write_level(self, level: _Level, depth: int) -> int:
        """Write the elements of a data set or item. Returns the offset behind them, and behind an item's delimiter."""
        at = level.begin
        while at < level.end:
            header = elements.read_header(self._data, at, level.encoding)
            if header.tag == elements.ITEM_DELIMITATION and depth:
                return header.value_at
            at = self._write_element(header, level, depth)
        if at > level.end:
            raise CutShort("a sequence reaches beyond its item")
        return at

    def _write_element(self, header: Header, level: _Level, depth: int) -> int:
        tag, encoded_vr, length, value_at = header
        if tag >> 16 == _DELIMITER_GROUP:  # a reader would take it for the end and lose the rest
            raise CannotConvert(f"it is damaged: {tag_text(tag)} stands between elements")
        behind = value_at + length
        undefined = length == UNDEFINED_LENGTH
        if not undefined and behind > level.end:
            raise CutShort(f"the value of {tag_text(tag)} is cut off")
        vr = encoded_vr if encoded_vr in elements.VRS else self._vr_of_implicit(header, level)
        if vr == b"UN" and not undefined and self._target.big_endian and not level.encoding.big_endian:
            # A UN value is little endian in every transfer syntax (PS3.5 6.2.2 Note 2). Some readers look up its VR and
            # then ignore that, so it is written with the VR of the dictionary.
            vr = self._vr_of_implicit(header, level)
        if undefined:
            if vr in (b"OB", b"OW"):
                raise CannotConvert("its pixel data is compressed, although its transfer syntax is not")
            return self._write_sequence(header, level, level.end, depth)
        if vr == b"SQ":
            return self._write_sequence(header, level, behind, depth)
        if tag & 0xFFFF or tag >> 16 <= 6:
            self._write_value(header, vr, level)
        return behind

    def _write_value(self, header: Header, vr: bytes, level: _Level) -> None:
        tag, _, length, value_at = header
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            if level.creators and next(iter(level.creators)) >> 16 != tag >> 16:  # they are those of one group
                level.creators.clear()
            level.creators[tag] = (
                bytes(self._data[value_at : value_at + min(length, 64)]).decode("latin-1").strip("\0 ")
            )
        padding = elements.padding_of(vr) if length & 1 else b""
        if self._target.explicit and length + len(padding) > 0xFFFF and vr not in elements.LONG_VRS:
            # PS3.5 6.2.2: the value is too long for the two-byte length field of its VR.
            vr = b"UN"
        self._write_header(tag, vr, length + len(padding))
        unit = _UNITS.get(vr, 0) if level.encoding.big_endian != self._target.big_endian else 0
        if unit and tag in _UIDS and level.parent is None:  # the request would name another instance than is sent
            raise CannotConvert(f"it is damaged: {tag_text(tag)} is a UID and has the VR {vr.decode()}")
        for begin in range(value_at, value_at + length, _PIECE_BYTES):
            piece: Buffer = self._data[begin : min(begin + _PIECE_BYTES, value_at + length)]
            if len(piece) & 1:  # the last one
                piece = bytes(piece) + padding
            self._write(_swapped(piece, unit) if unit else piece)

    def _write_sequence(self, header: Header, level: _Level, end: int, depth: int) -> int:
        if depth >= DEEPEST_NESTING:
            raise CannotConvert(f"its sequences are nested more than {DEEPEST_NESTING} deep")
        encoding = elements.below(header, level.encoding)
        self._write_header(header.tag, b"SQ", UNDEFINED_LENGTH)
        at = header.value_at
        defined = header.length != UNDEFINED_LENGTH
        while at < end or not defined:
            item = elements.read_header(self._data, at, encoding)
            if item.tag == elements.SEQUENCE_DELIMITATION:
                at = item.value_at
                break
            if item.tag != elements.ITEM:
                raise CannotConvert(f"{tag_text(item.tag)} stands where an item must")
            at = self._write_item(item, encoding, end, level, depth)
        self._write(self._bare_header(0xFFFE, 0xE0DD, 0))
        return end if defined else at

    def _write_item(self, item: Header, encoding: Encoding, end: int, parent: _Level, depth: int) -> int:
        self._write(self._bare_header(0xFFFE, 0xE000, UNDEFINED_LENGTH))
        defined = item.length != UNDEFINED_LENGTH
        item_end = item.value_at + item.length if defined else end
        if item_end > end:
            raise CutShort("an item reaches beyond its sequence")
        behind = self._write_level(_Level(item.value_at, item_end, encoding, parent), depth + 1)
        self._write(self._bare_header(0xFFFE, 0xE00D, 0))
        return item_end if defined else behind

    def _write_header(self, tag: int, vr: bytes, length: int) -> None:
        group, element = tag >> 16, tag & 0xFFFF
        if not self._target.explicit:
            self._write(self._bare_header(group, element, length))
        elif vr in elements.LONG_VRS:
            self._write(self._long_header(group, element, vr, 0, length))
        else:
            self._write(self._short_header(group, element, vr, length))

    def _vr_of_implicit(self, header: Header, level: _Level) -> bytes:
        """The VR of an element that was encoded without one (PS3.6, PS3.5 A.1)."""
        tag, _, length, _ = header
        if length == UNDEFINED_LENGTH:
            return b"OW" if tag == 0x7FE00010 else b"SQ"
        vr = _private_vr(tag, level) if tag >> 16 & 1 else dictionary_vr(tag)
        if " or " in vr:
            vr = self._unambiguous_vr(tag, vr, level)
        if vr == "SQ" and length and not self._has_items(header, level):
            return b"UN"
        return vr.encode("ascii") if len(vr) == 2 else b"UN"

    def _has_items(self, header: Header, level: _Level) -> bool:
        whole_header = header.length >= _ITEM_HEADER_BYTES
        return whole_header and elements.read_header(self._data, header.value_at, level.encoding).tag == elements.ITEM

    def _unambiguous_vr(self, tag: int, vr: str, level: _Level) -> str:
        """The VR of an element for which the dictionary has two or three; both byte orders treat them alike."""
        if "SS" in vr and "OW" not in vr:
            return "SS" if self._first_value(_PIXEL_REPRESENTATION, level) else "US"
        if tag == _LUT_DATA and self._first_value(_LUT_DESCRIPTOR, level) == 1:
            return "US"
        # Pixel data, waveforms and overlays are OW in an implicit data set, whatever their depth (PS3.5 A.1).
        return "OW"

    def _first_value(self, wanted: int, level: _Level | None) -> int | None:
        """The first number in an element's value, in this data set or in one around it; None if it is absent."""
        while level is not None:
            if wanted not in level.first_values:
                level.first_values[wanted] = self._look_up(wanted, level)
            if level.first_values[wanted] is not None:
                return level.first_values[wanted]
            level = level.parent
        return None

    def _look_up(self, wanted: int, level: _Level) -> int | None:
        at = level.begin
        order = ">H" if level.encoding.big_endian else "<H"
        while at < level.end:
            header = elements.read_header(self._data, at, level.encoding)
            if header.tag == wanted and 2 <= header.length <= level.end - header.value_at:
                number: int = struct.unpack_from(order, self._data, header.value_at)[0]
                return number
            if header.tag > wanted:
                return None
            at = elements.skip_value(self._data, header, level.encoding, level.end)
        return None


def _swapped(piece: Buffer, unit: int) -> bytes:
    whole = len(piece) - len(piece) % unit
    numbers = array(_ARRAY_TYPES[unit])
    numbers.frombytes(piece[:whole])
    numbers.byteswap()
    return numbers.tobytes() + bytes(piece[whole:])


def dictionary_vr(tag: int) -> str:
    """The VR of a standard element (PS3.6): "US", "US or SS", or "UN" for a tag that the standard does not have."""
    if not tag & 0xFFFF:
        return "UL"
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _private_vr(tag: int, level: _Level) -> str:
    """The VR of a private element, if pydicom knows its creator; else UN, which any reader accepts."""
    element = tag & 0xFFFF
    if not element:
        return "UL"
    if element <= 0xFF:
        return "LO" if element >= 0x10 else "UN"
    creator = level.creators.get(tag & 0xFFFF0000 | element >> 8)
    if not creator:
        return "UN"
    from pydicom.datadict import private_dictionary_VR

    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"
