"""Finds the elements of a data set with pixel data, and writes it anew with some of them changed.

Only headers and the few values that are asked for are read. Everything else is copied byte for byte.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.elements import EXPLICIT_LITTLE, UNDEFINED_LENGTH, CutShort, Header, tag_text
from asyncstore.preparation.header_reader import HeaderReader
from asyncstore.preparation.reencode import CannotConvert
from asyncstore.preparation.spool import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from asyncstore.instances.elements import Buffer
    from asyncstore.instances.source import DataSource

PIXEL_DATA: Final = 0x7FE00010
ICON_IMAGE_SEQUENCE: Final = 0x00880200
_LONGEST_VALUE_BYTES: Final = 65536  # of those that are read; a table of offsets may be longer
_LONGEST_TABLE_BYTES: Final = 16 * 1048576
_OFFSET_TABLES: Final = (0x7FE00001, 0x7FE00002)
_SHORT_VRS: Final = elements.VRS - elements.LONG_VRS
_SHORT_HEADER: Final = struct.Struct("<HH2sH")


class Element(NamedTuple):
    """An element of a data set: its value is at `value_at`, and the next element at `end`."""

    tag: int
    vr: bytes
    begin: int
    value_at: int
    end: int
    is_undefined: bool


class Layout:
    """The elements of a data set in Explicit VR Little Endian, except those in sequences.

    `pixel_data_at` is the offset of the value of Pixel Data, None if it has none. `fragments` are the bytes of the
    compressed frames as (offset, length): its items behind the Basic Offset Table. Raises CannotConvert if the data set
    is damaged.
    """

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self.elements: list[Element] = []
        self.fragments: list[tuple[int, int]] = []
        self._headers = HeaderReader(source)
        try:
            self._find(source.length_bytes)
        except CutShort as cut:
            raise CannotConvert(f"the data set is damaged: {cut}") from None
        # Of elements that stand twice, the first counts.
        self._by_tag = {element.tag: element for element in reversed(self.elements)}
        pixel_data = self._by_tag.get(PIXEL_DATA)
        self.pixel_data_at: int | None = None if pixel_data is None else pixel_data.value_at

    def value(self, tag: int) -> bytes:
        """The value of an element; empty if it is absent, or too long to be of interest."""
        element = self._by_tag.get(tag)
        if element is None or element.is_undefined:
            return b""
        length = element.end - element.value_at
        is_short = length <= (_LONGEST_TABLE_BYTES if tag in _OFFSET_TABLES else _LONGEST_VALUE_BYTES)
        return self.read(element.value_at, length) if is_short else b""

    def text(self, tag: int) -> str:
        """The value of an element as text, without padding."""
        return self.value(tag).decode("latin-1").strip("\0 ")

    def number(self, tag: int) -> int | None:
        """The first number of a US element; None if it is absent."""
        value = self.value(tag)
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else None

    def read(self, at: int, length: int) -> bytes:
        """The bytes at an offset."""
        room = bytearray(length)
        if room:
            self.source.read_into((memoryview(room),), at)
        return bytes(room)

    def has_compressed_icon(self) -> bool:
        """Whether the Icon Image Sequence has compressed pixel data of its own (PS3.5 A.4)."""
        try:
            icon = self._by_tag.get(ICON_IMAGE_SEQUENCE)
            return icon is not None and self._holds_fragments(icon)
        except CutShort:  # whoever reads the icon meets it
            return False

    def write(
        self,
        changes: Mapping[int, bytes | None],
        write_pixel_data: Callable[[], object],
        write: Callable[[Buffer], object],
    ) -> None:
        """Write the data set, with the encoded elements of `changes` in place of others; None leaves one out.

        `write_pixel_data` writes that element. A Group Length is left out, as PS3.5 7.2 advises: it is wrong now.
        """
        added = sorted(tag for tag, element in changes.items() if element is not None)
        unchanged_at = 0  # elements that stay are copied together
        for element in self.elements:
            is_pixel_data = element.tag == PIXEL_DATA
            is_length = not element.tag & 0xFFFF and element.tag >> 16 in (0x0028, 0x7FE0)
            is_left_out = is_pixel_data or is_length or element.tag in changes
            if is_left_out or (added and added[0] <= element.tag):
                self._copy(unchanged_at, element.begin, write)
                unchanged_at = element.end if is_left_out else element.begin
            while added and added[0] <= element.tag:
                write(changes[added.pop(0)] or b"")
            if is_pixel_data:
                write_pixel_data()
        self._copy(unchanged_at, self.elements[-1].end if self.elements else 0, write)

    def _copy(self, at: int, end: int, write: Callable[[Buffer], object]) -> None:
        for begin in range(at, end, PIECE_BYTES):
            write(self.read(begin, min(PIECE_BYTES, end - begin)))

    # -- finding -------------------------------------------------------------------------------------------------------

    def _find(self, end: int) -> None:
        at = 0
        while (at := self._find_short(at)) < end:
            header = self._headers.read(at, end, EXPLICIT_LITTLE)
            if header.tag >> 16 == 0xFFFE:
                raise CutShort(f"{tag_text(header.tag)} stands between elements")
            is_undefined = header.length == UNDEFINED_LENGTH
            if not is_undefined:
                behind = header.value_at + header.length
            elif header.tag == PIXEL_DATA:
                behind = self._skip_fragments(header.value_at, end)
            else:
                behind = self._skip_sequence(header, end)
            if behind > end:
                raise CutShort(f"the value of {tag_text(header.tag)} is cut off")
            self.elements.append(Element(header.tag, header.vr, at, header.value_at, behind, is_undefined))
            at = behind

    def _find_short(self, at: int) -> int:
        """Find elements of short VRs, as nearly all are, as far as they are in memory; returns where they end."""
        window, begin = self._headers.window
        last = len(window) - _SHORT_HEADER.size
        while (place := at - begin) <= last:
            group, element, vr, length = _SHORT_HEADER.unpack_from(window, place)
            behind = at + _SHORT_HEADER.size + length
            if vr not in _SHORT_VRS or group == 0xFFFE or behind > begin + len(window):
                break
            self.elements.append(Element(group << 16 | element, vr, at, at + _SHORT_HEADER.size, behind, False))
            at = behind
        return at

    def _skip_fragments(self, at: int, end: int) -> int:
        """The offset behind encapsulated pixel data; its delimiter may be missing at the end of the data set."""
        items = []
        while at < end:
            item = self._headers.read(at, end, EXPLICIT_LITTLE)
            if item.tag == elements.SEQUENCE_DELIMITATION:
                at = item.value_at
                break
            if item.tag != elements.ITEM or item.value_at + item.length > end:
                raise CutShort("its pixel data is cut off")
            items.append((item.value_at, item.length))
            at = item.value_at + item.length
        self.fragments = items[1:]
        return at

    def _skip_sequence(self, outer: Header, end: int) -> int:
        # A stack, not recursion: a file may nest to any depth.
        levels = [elements.below(outer, EXPLICIT_LITTLE)]
        at = outer.value_at
        while levels:
            if at >= end:
                raise CutShort("a sequence has no end")
            header = self._headers.read(at, end, levels[-1])
            at = header.value_at
            if header.tag in (elements.ITEM_DELIMITATION, elements.SEQUENCE_DELIMITATION):
                levels.pop()
            elif header.length == UNDEFINED_LENGTH:
                levels.append(elements.below(header, levels[-1]))
            else:
                at += header.length
        return at

    def _holds_fragments(self, sequence: Element) -> bool:
        """Whether pixel data of undefined length is anywhere in a sequence."""
        return any(h.tag == PIXEL_DATA and h.length == UNDEFINED_LENGTH for h in self._inner_headers(sequence))

    def _inner_headers(self, sequence: Element) -> Iterator[Header]:
        """The headers in a sequence, down to any depth; the items of compressed pixel data among them."""
        at = sequence.value_at
        while at + 8 <= sequence.end:
            header = self._headers.read(at, sequence.end, EXPLICIT_LITTLE)
            yield header
            is_inside = header.vr == b"SQ" or header.tag == elements.ITEM or header.length == UNDEFINED_LENGTH
            at = header.value_at if is_inside else header.value_at + header.length


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element of a short VR, encoded in Explicit VR Little Endian."""
    value += elements.padding_of(vr) * (len(value) & 1)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def pixel_data_header(vr: bytes, length: int) -> bytes:
    """The header of Pixel Data in Explicit VR Little Endian."""
    return struct.pack("<HH2sHI", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF, vr, 0, length)
