"""The elements of a data set or item, and how to put others in their place without touching the rest."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.elements import UNDEFINED_LENGTH, CutShort, Encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.instances.elements import Buffer

_SHORT_VRS: Final = elements.VRS - elements.LONG_VRS
_EXPLICIT: Final = struct.Struct("<HH2sH").unpack_from
_IMPLICIT: Final = struct.Struct("<HHI").unpack_from
_CHARACTER_SET: Final = 0x00080005
_NO_TAG: Final = 1 << 32


class Element(NamedTuple):
    """An element: where its header begins, where its value does, and where it has ended.

    `vr` is b"" if it is encoded without one. `length` is the one that is encoded.
    """

    tag: int
    vr: bytes
    at: int
    value_at: int
    behind: int
    length: int


class Level:
    """The elements of a data set, or of an item, from `at` up to a tag, or to the end.

    `behind` is where the last of them has ended. `character_set` is the Specific Character Set as it is encoded.
    """

    def __init__(
        self, data: Buffer, at: int, end: int, encoding: Encoding, character_set: bytes = b"", before_tag: int = _NO_TAG
    ) -> None:
        self.data = data
        self.encoding: Encoding = encoding
        self.is_delimited: bool = False
        # Most elements are never looked at, so only their places are kept: that takes half the time.
        self._tags: list[int] = []
        self._places: list[int] = []
        self._special: set[int] = set()  # the numbers of those that no fast reading understands; sequences among them
        self._read_as = encoding
        if encoding.big_endian:
            self.behind: int = self._read(at, end, before_tag)
        else:
            self.behind = (self._read_explicit if encoding.explicit else self._read_implicit)(at, end, before_tag)
        self._number_of = dict(zip(self._tags, range(len(self._tags)), strict=True))  # of two, the last
        if encoding.explicit and self._tags and not self._element(0).vr:
            self.encoding = elements.IMPLICIT_LITTLE  # some programs write these into an explicit data set
        own = self.find(_CHARACTER_SET)
        self.character_set: bytes = character_set if own is None else self.value_of(own)

    def matching(self, is_wanted: Callable[[int], bool]) -> Iterator[Element]:
        """The elements whose tags are wanted, and all that may be sequences by their headers, in their order."""
        special = self._special
        for number, tag in enumerate(self._tags):
            if number in special or is_wanted(tag):
                yield self._element(number)

    def find(self, tag: int) -> Element | None:
        """The element with a tag; None if there is none."""
        number = self._number_of.get(tag)
        return None if number is None else self._element(number)

    def place_of(self, tag: int) -> int:
        """Where an element with a tag that is not there would begin."""
        return next((place for each, place in zip(self._tags, self._places, strict=True) if each > tag), self.behind)

    def value_of(self, element: Element) -> bytes:
        """The bytes of a value, without its padding."""
        return bytes(self.data[element.value_at : element.behind]).rstrip(b" \0")

    def _element(self, number: int) -> Element:
        at = self._places[number]
        behind = self._places[number + 1] if number + 1 < len(self._places) else self.behind
        if self._read_as is elements.EXPLICIT_LITTLE:
            _, _, vr, length = _EXPLICIT(self.data, at)
            if vr in _SHORT_VRS:
                return Element(self._tags[number], vr, at, at + 8, behind, length)
        header = elements.read_header(self.data, at, self._read_as)
        return Element(header.tag, header.vr, at, header.value_at, behind, header.length)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_explicit(self, at: int, end: int, before_tag: int) -> int:
        """What `_read` does, many times as fast where headers need no second look: nearly everywhere."""
        data, add_tag, add_place, last = self.data, self._tags.append, self._places.append, end - 8
        header, short = _EXPLICIT, _SHORT_VRS
        while at <= last:
            group, element, vr, length = header(data, at)
            tag = group << 16 | element
            if tag >= before_tag:
                return at
            if vr in short and group != 0xFFFE:
                add_tag(tag)
                add_place(at)
                at += 8 + length
                continue
            behind = self._read_one(at, end)
            if self.is_delimited:
                return at
            at = behind
        return self._read(at, end, before_tag) if at < end else _checked(at, end)

    def _read_implicit(self, at: int, end: int, before_tag: int) -> int:
        data, add_tag, add_place, last = self.data, self._tags.append, self._places.append, end - 8
        while at <= last:
            group, element, length = _IMPLICIT(data, at)
            tag = group << 16 | element
            if tag >= before_tag:
                return at
            if length == UNDEFINED_LENGTH or group == 0xFFFE:
                behind = self._read_one(at, end)
                if self.is_delimited:
                    return at
                at = behind
                continue
            add_tag(tag)
            add_place(at)
            at += 8 + length
        return self._read(at, end, before_tag) if at < end else _checked(at, end)

    def _read(self, at: int, end: int, before_tag: int) -> int:
        while at < end:
            header = elements.read_header(self.data, at, self.encoding)
            if header.tag >= before_tag and header.tag >> 16 != 0xFFFE:
                return at
            behind = self._read_one(at, end)
            if self.is_delimited:
                return at
            at = behind
        return _checked(at, end)

    def _read_one(self, at: int, end: int) -> int:
        header = elements.read_header(self.data, at, self.encoding)
        if header.tag == elements.ITEM_DELIMITATION:
            self.is_delimited = True
            return at
        if header.tag >> 16 == 0xFFFE:
            raise CutShort(f"a delimiter stands between elements at byte {at}")
        behind = elements.skip_value(self.data, header, self.encoding, end)
        self._special.add(len(self._tags))
        self._tags.append(header.tag)
        self._places.append(at)
        return behind

    # -- items ---------------------------------------------------------------------------------------------------------

    def items_of(self, element: Element) -> Iterator[tuple[int, Level, bool]]:
        """The items of a sequence: where each begins, its elements, and whether its length is undefined."""
        encoding = encoding_below(element, self.encoding)
        at, end = element.value_at, element.behind
        while at < end:
            item = elements.read_header(self.data, at, encoding)
            if item.tag == elements.SEQUENCE_DELIMITATION:
                return
            if item.tag != elements.ITEM:
                raise CutShort(f"an element stands where an item must, at byte {at}")
            is_undefined = item.length == UNDEFINED_LENGTH
            item_end = end if is_undefined else item.value_at + item.length
            if item_end > end:
                raise CutShort(f"an item reaches beyond its sequence at byte {at}")
            level = Level(self.data, item.value_at, item_end, encoding, self.character_set)
            if is_undefined and not level.is_delimited:
                raise CutShort(f"an item has no end at byte {at}")
            yield at, level, is_undefined
            at = level.behind + 8 if is_undefined else item_end

    def is_sequence(self, element: Element, dictionary_vr: str) -> bool:
        """Whether an element is a sequence: by its VR, by the dictionary if it has none, or by its undefined length."""
        if element.vr == b"SQ" or element.length == UNDEFINED_LENGTH:
            return True
        return element.vr in (b"", b"UN") and dictionary_vr == "SQ"


def _checked(at: int, end: int) -> int:
    if at > end:
        raise CutShort(f"a value is cut off at byte {end}")
    return at


def encoding_below(element: Element, encoding: Encoding) -> Encoding:
    """How the items of an element are encoded: those of a UN element are always implicit (PS3.5 6.2.2 Note 2)."""
    return elements.IMPLICIT_LITTLE if element.vr == b"UN" else encoding


def header_bytes(tag: int, vr: bytes, length: int, encoding: Encoding) -> bytes:
    """The header of an element or item."""
    order = ">" if encoding.big_endian else "<"
    group, number = tag >> 16, tag & 0xFFFF
    if not encoding.explicit or group == 0xFFFE:
        return struct.pack(f"{order}HHI", group, number, length)
    if vr in elements.LONG_VRS:
        return struct.pack(f"{order}HH2sHI", group, number, vr, 0, length)
    if length > 0xFFFF:  # PS3.5 6.2.2: too long for the two-byte length field of its VR
        return struct.pack(f"{order}HH2sHI", group, number, b"UN", 0, length)
    return struct.pack(f"{order}HH2sH", group, number, vr, length)


def element_bytes(tag: int, vr: bytes, value: bytes, encoding: Encoding) -> bytes:
    """A whole element."""
    return header_bytes(tag, vr, len(value), encoding) + value
