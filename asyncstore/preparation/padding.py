"""Makes a data set of odd length even, since every fragment must be of even length (PS3.8 Annex E).

A data set of odd length has a value of odd length, which PS3.5 7.1.1 forbids. The last such value gets the padding byte
of its VR (PS3.5 6.2), and every length around it grows by one. Only headers are read to find it, and the file is not
changed. A data set that is cut off, or followed by other bytes, stays as it is.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.elements import UNDEFINED_LENGTH, CutShort, Encoding, Header, encoding_of
from asyncstore.preparation.header_reader import HeaderReader
from asyncstore.preparation.padded_source import PaddedSource
from asyncstore.preparation.reencode import DEEPEST_NESTING, dictionary_vr
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from asyncstore.instances.source import DataSource

# Offsets of four million fragments.
_LONGEST_TABLE_BYTES: Final = 1 << 24

_PIXEL_DATA: Final = 0x7FE00010
_EXTENDED_OFFSET_TABLE: Final = 0x7FE00001


def padded(source: DataSource, transfer_syntax_uid: str) -> DataSource:
    """A data set in even length; `source` itself if it is even, or if it cannot be understood.

    Blocks while it reads headers. Raises SourceChanged or OSError if they cannot be read.
    """
    if not source.length_bytes & 1 or transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return source
    try:
        return _Search(source).padded(encoding_of(transfer_syntax_uid))
    except CutShort:
        return source


class _Number(NamedTuple):
    """A length field, or a number of a table, and where it stands."""

    at: int
    size_bytes: int
    value: int
    big_endian: bool

    def plus_one(self) -> tuple[int, bytes]:
        order: Literal["big", "little"] = "big" if self.big_endian else "little"
        try:
            return self.at, (self.value + 1).to_bytes(self.size_bytes, order)
        except OverflowError:
            raise CutShort("a length has no room for one more") from None


class _Table(NamedTuple):
    """A table of offsets of fragments: where it stands, its length, and the size of an entry."""

    at: int
    length: int
    entry_bytes: int


class _Odd(NamedTuple):
    """A value of odd length: its end, its padding, the lengths around it, and offsets of what is behind it.

    An offset in `tables` that is larger than `offset` grows by one.
    """

    end: int
    padding: bytes
    lengths: tuple[_Number, ...]
    tables: tuple[_Table, ...] = ()
    offset: int = 0


class _Search:
    """Steps over the elements of one data set, and keeps the last value of odd length."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._headers = HeaderReader(source)
        self._odd: _Odd | None = None
        self._extended_table: tuple[_Table, ...] = ()

    def padded(self, encoding: Encoding) -> DataSource:
        """The data set with that value padded. Raises CutShort if it cannot be stepped over to its end."""
        self._step_over_elements(0, self._source.length_bytes, encoding, (), 0, is_delimited=False)
        odd = self._odd
        assert odd is not None  # headers are even
        replaced = [number.plus_one() for number in odd.lengths]
        replaced.extend((table.at, self._grown(table, odd.offset)) for table in odd.tables)
        return PaddedSource(self._source, odd.end, odd.padding, replaced)

    # -- stepping over -------------------------------------------------------------------------------------------------

    # `around` are the lengths of the items and sequences around an element, which grow with it.

    def _step_over_elements(
        self, at: int, end: int, encoding: Encoding, around: tuple[_Number, ...], depth: int, *, is_delimited: bool
    ) -> int:
        """Step over the elements of a data set or item; returns the offset behind them, and behind their delimiter."""
        if depth > DEEPEST_NESTING:
            raise CutShort("sequences are nested too deep")
        group_length: tuple[_Number, ...] = ()
        group_length_of = -1
        while at < end:
            header = self._headers.read(at, end, encoding)
            group, element = header.tag >> 16, header.tag & 0xFFFF
            if header.tag == elements.ITEM_DELIMITATION and is_delimited:
                return header.value_at
            if group == 0xFFFE:
                raise CutShort("a delimiter stands between elements")
            if not element and header.length == 4:
                group_length, group_length_of = (
                    (self._number(header.value_at, 4, big_endian=encoding.big_endian),),
                    group,
                )
            elif header.tag == _EXTENDED_OFFSET_TABLE and not depth:
                self._extended_table = (_Table(header.value_at, header.length, 8),)
            grows = (*around, *group_length) if group == group_length_of else around
            at = self._step_over(header, at, end, encoding, grows, depth)
        if at != end or is_delimited:
            raise CutShort("elements have no end")
        return at

    def _step_over(
        self, header: Header, at: int, end: int, encoding: Encoding, around: tuple[_Number, ...], depth: int
    ) -> int:
        inner = elements.below(header, encoding)
        if header.length == UNDEFINED_LENGTH:
            if header.vr in (b"OB", b"OW") or header.tag == _PIXEL_DATA:
                return self._step_over_fragments(header.value_at, end, around)
            return self._step_over_items(header.value_at, end, inner, around, depth, is_delimited=True)
        behind = _behind(header, end)
        if header.length & 1:
            lengths = (*around, _length_field(header, at, encoding))
            if header.vr == b"SQ":
                self._step_over_items(header.value_at, behind, inner, lengths, depth, is_delimited=False)
            elif not self._is_unnamed_sequence(header, behind, inner, lengths, depth):
                self._odd = _Odd(behind, elements.padding_of(_vr_of(header)), lengths)
        return behind

    def _is_unnamed_sequence(
        self, header: Header, behind: int, inner: Encoding, lengths: tuple[_Number, ...], depth: int
    ) -> bool:
        """Whether a value whose VR is not known is made of items; steps over them."""
        if header.vr not in (b"", b"UN"):
            return False
        try:
            self._step_over_items(header.value_at, behind, inner, lengths, depth, is_delimited=False)
        except CutShort:
            return False
        return True

    def _step_over_items(
        self, at: int, end: int, encoding: Encoding, around: tuple[_Number, ...], depth: int, *, is_delimited: bool
    ) -> int:
        """Step over the items of a sequence; returns the offset behind them, and behind their delimiter."""
        while at < end:
            item = self._headers.read(at, end, encoding)
            if item.tag == elements.SEQUENCE_DELIMITATION and is_delimited:
                return item.value_at
            if item.tag != elements.ITEM:
                raise CutShort("an element stands where an item must")
            if item.length == UNDEFINED_LENGTH:
                at = self._step_over_elements(item.value_at, end, encoding, around, depth + 1, is_delimited=True)
                continue
            behind = _behind(item, end)
            if item.length & 1:
                lengths = (*around, _length_field(item, at, encoding))
                self._step_over_elements(item.value_at, behind, encoding, lengths, depth + 1, is_delimited=False)
            at = behind
        if at != end or is_delimited:
            raise CutShort("a sequence has no end")
        return at

    def _step_over_fragments(self, at: int, end: int, around: tuple[_Number, ...]) -> int:
        """Step over encapsulated pixel data (PS3.5 A.4); its delimiter may be missing at the end of the data set."""
        tables: tuple[_Table, ...] = ()
        first_at = at
        while at < end:
            item = self._headers.read(at, end, elements.EXPLICIT_LITTLE)
            if item.tag == elements.SEQUENCE_DELIMITATION:
                return item.value_at
            if item.tag != elements.ITEM:
                raise CutShort("an element stands where a fragment must")
            behind = _behind(item, end)
            if item.length & 1:
                lengths = (*around, _length_field(item, at, elements.EXPLICIT_LITTLE))
                self._odd = _Odd(behind, b"\0", lengths, tables, at - first_at)
            if not tables:  # this was the Basic Offset Table
                tables = (_Table(item.value_at, item.length, 4), *self._extended_table)
                first_at = behind
            at = behind
        if at != self._source.length_bytes:
            raise CutShort("encapsulated pixel data has no end")
        return at

    # -- reading -------------------------------------------------------------------------------------------------------

    def _number(self, at: int, size_bytes: int, *, big_endian: bool) -> _Number:
        value = int.from_bytes(self._headers.bytes_at(at, size_bytes)[:size_bytes], "big" if big_endian else "little")
        return _Number(at, size_bytes, value, big_endian)

    def _grown(self, table: _Table, offset: int) -> bytes:
        """The entries of a table, those beyond an offset grown by one."""
        if table.length > _LONGEST_TABLE_BYTES:
            raise CutShort("a table of offsets is too long")
        data = bytearray(table.length - table.length % table.entry_bytes)
        self._source.read_into((memoryview(data),), table.at)
        entries = array({4: "I", 8: "Q"}[table.entry_bytes], data)
        if sys.byteorder == "big":
            entries.byteswap()
        for index, entry in enumerate(entries):
            if entry > offset:
                try:
                    entries[index] = entry + 1
                except OverflowError:
                    raise CutShort("a table of offsets has no room for one more byte") from None
        if sys.byteorder == "big":
            entries.byteswap()
        return entries.tobytes()


def _behind(header: Header, end: int) -> int:
    behind = header.value_at + header.length
    if behind > end:
        raise CutShort("a value is cut off")
    return behind


def _length_field(header: Header, at: int, encoding: Encoding) -> _Number:
    """The length in the header of an element or item at an offset."""
    size_bytes = 2 if header.vr and header.value_at - at == 8 else 4
    return _Number(header.value_at - size_bytes, size_bytes, header.length, encoding.big_endian)


def _vr_of(header: Header) -> bytes:
    """The VR of an element; of one that was encoded without a VR, that of the dictionary."""
    if header.vr or header.tag == _PIXEL_DATA:
        return header.vr
    group, element = header.tag >> 16, header.tag & 0xFFFF
    if group & 1:
        return b"LO" if 0x10 <= element <= 0xFF else b"UN"
    return dictionary_vr(header.tag).encode("ascii")
