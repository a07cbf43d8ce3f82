"""Encodes an instance in another uncompressed transfer syntax, for a peer that refuses its own.

A conversion among the four transfer syntaxes (PS3.5 A.1, A.2, A.3, A.5) loses nothing: every element stays the same.
Deflated data sets only need zlib. A data set larger than SPOOL_BYTES goes through a temporary file, so memory stays
flat.
"""

from __future__ import annotations

import hashlib
import traceback
import zlib
from typing import TYPE_CHECKING, Final

from asyncstore.instances import deflated
from asyncstore.instances.elements import encoding_of
from asyncstore.preparation.padding import padded
from asyncstore.preparation.reencode import CannotConvert, Reencoder
from asyncstore.preparation.spool import PIECE_BYTES, Spool
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.instances.elements import Buffer
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource

# A deflated stream that grows beyond this counts as a bomb: no single value could be longer (PS3.5 7.1.1).
LARGEST_INFLATED_BYTES: Final = 1 << 32


def can_convert(transfer_syntax_uid: str, to_transfer_syntax_uid: str) -> bool:
    """Whether a data set of the first transfer syntax can be sent in the second: both must be uncompressed."""
    return {transfer_syntax_uid, to_transfer_syntax_uid} <= set(UNCOMPRESSED_TRANSFER_SYNTAXES)


def convert(instance: Instance, transfer_syntax_uid: str) -> DataSource:
    """The data set of an instance in another uncompressed transfer syntax.

    Blocks: reads the whole data set. Returns the instance's own source if it has that transfer syntax already.
    Raises CannotConvert if the data set is damaged or one of the two syntaxes is not among the four, SourceChanged or
    OSError if its file cannot be read.
    """
    given = instance.transfer_syntax_uid
    if given == transfer_syntax_uid:
        return instance.source
    if not can_convert(given, transfer_syntax_uid):
        raise CannotConvert(f"no conversion from {given} to {transfer_syntax_uid}")
    result = Spool()
    try:
        write_converted(instance.source, given, transfer_syntax_uid, result.write)
        return result.to_source()
    except BaseException as error:
        result.discard()
        _clear_frames(error)
        raise
    finally:
        instance.source.close()


def check_deflated(source: DataSource, instance: Instance) -> None:
    """Raise CannotConvert unless a deflated data set is that of the instance. Blocks: reads both."""
    inflated, wanted = hashlib.sha256(), hashlib.sha256()
    _inflate(source, inflated.update)
    try:
        _write_explicit_little(instance.source, instance.transfer_syntax_uid, wanted.update)
    finally:
        instance.source.close()
    if inflated.digest() != wanted.digest():
        raise CannotConvert("inflated again, it is not the same")


def _clear_frames(error: BaseException | None) -> None:
    """Free the variables in an error's traceback: an outcome keeps the error, but must not keep a data set."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def write_converted(source: DataSource, given: str, wanted: str, write: Callable[[Buffer], object]) -> None:
    """Write a data set of one of the four transfer syntaxes in another one; see convert."""
    if wanted == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflater = _Deflater(write)
        _write_explicit_little(source, given, deflater.write)
        deflater.finish()
    elif wanted == EXPLICIT_VR_LITTLE_ENDIAN:
        _write_explicit_little(source, given, write)
    else:
        _reencode(source, given, wanted, write)


def _write_explicit_little(source: DataSource, given: str, write: Callable[[Buffer], object]) -> None:
    """Write a data set in Explicit VR Little Endian; parses it only if it is in another encoding."""
    if given == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        _inflate(source, write)
    elif given == EXPLICIT_VR_LITTLE_ENDIAN:
        for piece in pieces_of(padded(source, EXPLICIT_VR_LITTLE_ENDIAN)):
            write(piece)
    else:
        _reencode(source, given, EXPLICIT_VR_LITTLE_ENDIAN, write)


def _reencode(source: DataSource, given: str, wanted: str, write: Callable[[Buffer], object]) -> None:
    gathered = Spool()
    try:
        if given == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            _inflate(source, gathered.write)
        else:
            for piece in pieces_of(source):
                gathered.write(piece)
        reencode_spooled(gathered, given, wanted, write)
    finally:
        gathered.discard()


def reencode_spooled(spool: Spool, given: str, wanted: str, write: Callable[[Buffer], object]) -> None:
    """Write the data set in a spool in another encoding; a large one is never in memory as a whole."""
    read = 0

    def write_on(data: Buffer) -> None:
        nonlocal read
        write(data)
        read += len(data)
        if read >= 16 * PIECE_BYTES:
            spool.let_go()
            read = 0

    Reencoder(spool.view(), encoding_of(given), encoding_of(wanted), write_on).run()


def pieces_of(source: DataSource) -> Iterator[memoryview]:
    """The bytes of a data set, a piece at a time; a piece is valid until the next one."""
    room = memoryview(bytearray(min(PIECE_BYTES, source.length_bytes)))
    for offset in range(0, source.length_bytes, PIECE_BYTES):
        piece = room[: source.length_bytes - offset]
        source.read_into((piece,), offset)
        yield piece


def _inflate(source: DataSource, write: Callable[[Buffer], object]) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = read = 0
    try:
        for piece in pieces_of(source):
            read += len(piece)
            rest: Buffer = piece
            while len(rest) and not inflater.eof:
                inflated = inflater.decompress(rest, PIECE_BYTES)
                rest = inflater.unconsumed_tail
                total += len(inflated)
                if total > LARGEST_INFLATED_BYTES:
                    raise CannotConvert(f"its deflated stream grows to more than {LARGEST_INFLATED_BYTES} bytes")
                if deflated.is_bomb(total, read):
                    times = f"more than {deflated.BOMB_RATIO} times its size"
                    raise CannotConvert(f"its deflated stream grows to {times}, as that of no image does")
                write(inflated)
        write(inflater.flush())
    except zlib.error as error:
        raise CannotConvert(f"its deflated stream is damaged: {error}") from None
    if not inflater.eof:
        raise CannotConvert("its deflated stream is cut off")


class _Deflater:
    """Deflates the bytes written to it (RFC 1951, without a zlib header), and pads the stream to an even length."""

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._write = write
        self._length = 0

    def write(self, data: Buffer) -> None:
        self._pass_on(self._stream.compress(data))

    def finish(self) -> None:
        self._pass_on(self._stream.flush())
        if self._length % 2:
            self._pass_on(b"\0")

    def _pass_on(self, deflated: bytes) -> None:
        self._length += len(deflated)
        self._write(deflated)
