"""Reads the headers of elements from a data set that need not be in memory, a small window at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.instances import elements
from asyncstore.instances.elements import CutShort, Encoding, Header

if TYPE_CHECKING:
    from asyncstore.instances.source import DataSource

# Enough for the elements before the pixels of most images. A large value is stepped over.
_WINDOW_BYTES: Final = 8192
_HEADER_BYTES: Final = 12
# The length of an element whose VR nobody knows is understood by the header behind its value.
_AHEAD_BYTES: Final = 0xFFFF + 2 * _HEADER_BYTES


class HeaderReader:
    """The headers in one data set, by their offsets. Blocks while it reads."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._window = source.view() or memoryview(b"")
        self._window_at = 0

    def read(self, at: int, end: int, encoding: Encoding) -> Header:
        """The header at an offset; raises CutShort unless it lies before `end`."""
        begin = at - self._window_at
        if begin < 0 or begin + _HEADER_BYTES > len(self._window):
            self.bytes_at(at, _HEADER_BYTES)
            begin = at - self._window_at
        header = elements.read_header(self._window, begin, encoding)
        value_at = header.value_at + self._window_at
        if encoding.explicit and header.vr not in elements.VRS and header.tag >> 16 != 0xFFFE:
            header = elements.read_header(self.bytes_at(at, _AHEAD_BYTES), 0, encoding)
            value_at = at + header.value_at
        if value_at > end:
            raise CutShort("the header of an element is cut off")
        return header if value_at == header.value_at else Header(header.tag, header.vr, header.length, value_at)

    def bytes_at(self, at: int, length: int) -> memoryview:
        """The bytes from an offset on, at least this many unless the data set ends before."""
        begin = at - self._window_at
        end = min(at + length, self._source.length_bytes)
        if begin < 0 or end > self._window_at + len(self._window):
            self._window = memoryview(bytearray(min(max(length, _WINDOW_BYTES), self._source.length_bytes - at)))
            self._source.read_into((self._window,), at)
            self._window_at, begin = at, 0
        return self._window[begin:]
