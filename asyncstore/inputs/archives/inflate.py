"""Deflated streams in archives, inflated a piece at a time, from the beginning or from a point further on."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.errors import SourceChanged
from asyncstore.inputs.archives.archive import Archive, Damaged
from asyncstore.instances import deflated
from asyncstore.instances.source import copy_into, zero_padding

if TYPE_CHECKING:
    from collections.abc import Sequence

RAW: Final = -zlib.MAX_WBITS
GZIP: Final = zlib.MAX_WBITS | 16

_PIECE_BYTES: Final = 65536
_SKIPPED_BYTES: Final = 262144
# An association reads at most this much in the event loop; inflating it takes less than a millisecond.
_IN_THE_LOOP_BYTES: Final = 65536


class Start(NamedTuple):
    """A point of a deflated stream from which it can be inflated, again and again.

    The compressed bytes are those from `at` to `end` of the archive. `state` is zlib's at this point, None for the
    beginning.
    """

    at: int
    end: int
    wbits: int
    state: Any = None


class Inflater:
    """Inflates a stream from a start; `position` counts the bytes given so far.

    Raises Damaged if the stream is damaged, cut off, or a bomb.
    """

    def __init__(self, archive: Archive, start: Start) -> None:
        self.position: int = 0
        self._archive = archive
        self._start = start
        self._zlib = zlib.decompressobj(start.wbits) if start.state is None else start.state.copy()
        self._at = start.at
        self._rest = b""

    def mark(self) -> Start:
        """The start at the present position."""
        start = self._start
        return Start(self._at - len(self._rest), start.end, start.wbits, self._zlib.copy())

    def mark_after(self, at: int) -> Start | None:
        """The same if the deflated bytes up to the offset `at` were inflated, else None."""
        return self.mark() if self._at - len(self._rest) >= at else None

    def inflate(self, most: int) -> bytes:
        """The next bytes, at most this many; none at the end of the stream. Blocks."""
        while True:
            if self._zlib.eof and not self._begin_next():
                return b""
            if not self._rest:
                self._rest = self._archive.read(self._at, min(_PIECE_BYTES, self._start.end - self._at))
                self._at += len(self._rest)
            try:
                inflated: bytes = self._zlib.decompress(self._rest, most)
            except zlib.error as error:
                raise Damaged(f"its deflated data is damaged: {error}") from None
            is_at_end = not self._rest
            self._rest = self._zlib.unconsumed_tail
            if inflated:
                self.position += len(inflated)
                self._check_growth()
                return inflated
            if is_at_end and not self._zlib.eof:
                raise Damaged("its deflated data is cut off")

    def read(self, length: int) -> bytes:
        """The next bytes, fewer only at the end of the stream. Blocks."""
        pieces = []
        while length and (piece := self.inflate(length)):
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def skip_to(self, position: int) -> None:
        """Inflate up to a position, or to the end of the stream. Blocks."""
        while self.position < position and self.inflate(min(_SKIPPED_BYTES, position - self.position)):
            pass

    def _begin_next(self) -> bool:
        """Begin the next one of the gzip streams that make one file; False if there is none."""
        if self._start.wbits != GZIP:
            return False
        rest = self._zlib.unused_data.lstrip(b"\0")
        while not rest and self._at < self._start.end:  # a tape is filled up with zeros
            rest = self._archive.read(self._at, _PIECE_BYTES)
            self._at += len(rest)
            rest = rest.lstrip(b"\0")
        if not rest:
            return False
        self._rest = rest
        self._zlib = zlib.decompressobj(GZIP)
        return True

    def _check_growth(self) -> None:
        if deflated.is_bomb(self.position, self._at - self._start.at):
            raise Damaged(
                f"its deflated data grows to more than {deflated.BOMB_RATIO} times its size, as no image does"
            )


class InflatedSource:
    """A data set in a deflated stream: `length` bytes from `data_set_offset`, counted from `start`.

    `held` is the data set with its padding, if it was inflated already; it is inflated again after `let_go`. `whole` is
    the size and the CRC-32 of what the stream inflates to, if they are known. `size_bytes` and `mtime_ns` are the
    archive's: if either differs later, reading raises SourceChanged.
    """

    # As in FileSource, a reader takes an idle stream or begins one, and `close` drops the idle ones.

    __slots__ = (
        "_held",
        "_idle",
        "_start",
        "_stored_bytes",
        "_whole",
        "data_set_offset",
        "length_bytes",
        "mtime_ns",
        "path",
        "size_bytes",
    )

    def __init__(
        self,
        archive: Archive,
        start: Start,
        data_set_offset: int,
        length: int,
        *,
        padding_bytes: int = 0,
        held: memoryview | None = None,
        whole: tuple[int, int] | None = None,
    ) -> None:
        self.path: str = archive.path
        self.size_bytes: int = archive.size_bytes
        self.mtime_ns: int = archive.mtime_ns
        self.data_set_offset: int = data_set_offset
        self.length_bytes: int = length + padding_bytes
        self._stored_bytes = length
        self._start = start
        self._held = held
        self._whole = whole
        self._idle: list[_Stream] | None = None  # None when closed

    @property
    def held_bytes(self) -> int:
        """The memory that the source takes while it waits: its bytes, or zlib's state."""
        if self._held is not None:
            return len(self._held)
        return 0 if self._start.state is None else _PIECE_BYTES

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Inflate into the holes; see DataSource. Reading from the start to the end inflates once."""
        held = self._held
        if held is not None:
            return copy_into(holes, held, offset)
        end = offset + sum(map(len, holes))
        if offset < 0 or end > self.length_bytes:
            raise ValueError(f"holes for bytes {offset} to {end} of a data set of {self.length_bytes} bytes")
        if not wait and end - offset > _IN_THE_LOOP_BYTES:
            return False
        if end > self._stored_bytes:
            holes = zero_padding(holes, self._stored_bytes - offset)
        idle = self._idle
        if idle is None:
            self._idle = idle = []
        at = self.data_set_offset + offset
        stream = self._take(idle, at)
        if not wait and stream.position != at:
            idle.append(stream)
            return False
        stream.fill(holes, at)
        if end >= self._stored_bytes:
            stream.check_end()
        if self._idle is idle:
            idle.append(stream)
        return True

    def view(self) -> memoryview | None:
        """The data set, if it is held; see DataSource."""
        return self._held

    def let_go(self) -> None:
        """Free the bytes, and inflate them again when they are needed."""
        self._held = None

    def close(self) -> None:
        """Close the archive; the next read opens it again."""
        self._idle = None

    def _take(self, idle: list[_Stream], at: int) -> _Stream:
        """An idle stream that has not passed an offset, or a new one."""
        while True:
            try:
                stream = idle.pop()
            except IndexError:
                return self._begin()
            if stream.position <= at:
                return stream

    def _begin(self) -> _Stream:
        try:
            archive = Archive(self.path)
        except FileNotFoundError as error:
            raise SourceChanged("the archive vanished after it was scanned") from error
        if (archive.size_bytes, archive.mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise SourceChanged("the archive was written to after it was scanned")
        return _Stream(archive, self._start, self._whole)


class _Stream:
    """One reader's way through a stream."""

    def __init__(self, archive: Archive, start: Start, whole: tuple[int, int] | None) -> None:
        self._archive = archive
        self._inflater = Inflater(archive, start)
        self._whole = whole
        self._crc = 0

    @property
    def position(self) -> int:
        return self._inflater.position

    def fill(self, holes: Sequence[memoryview], at: int) -> None:
        """Fill the holes from a position that was not passed yet."""
        while self.position < at:
            self._next(min(_SKIPPED_BYTES, at - self.position))
        for hole in holes:
            filled = 0
            while filled < len(hole):
                piece = self._next(len(hole) - filled)
                hole[filled : filled + len(piece)] = piece
                filled += len(piece)

    def check_end(self) -> None:
        """Raise an error if the stream goes on, or if it or its archive is not what it was."""
        self._archive.check_unchanged()
        if self._whole is None:
            return
        size, crc = self._whole
        if self.position >= size and (self._inflater.inflate(1) or self._crc != crc):
            raise Damaged("its deflated data is damaged: it does not have the CRC that the archive names")

    def _next(self, most: int) -> bytes:
        piece = self._inflater.inflate(most)
        if not piece:
            raise Damaged("its deflated data ends too early")
        if self._whole is not None:
            self._crc = zlib.crc32(piece, self._crc)
        return piece
