"""Encodes an instance in another uncompressed transfer syntax, for a peer that refuses its own.

Among four transfer syntaxes (PS3.5 A.1, A.2, A.3, A.5) nothing is lost: the data set comes out element for element the
same. To and from a deflated one is plain zlib. What is larger than SPOOL_BYTES goes through a temporary file, so that
memory stays flat.
"""

from __future__ import annotations

import contextlib
import copy
import mmap
import os
import tempfile
import traceback
import zlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import MissingUID, SourceError
from asyncstore.instances.elements import encoding_of
from asyncstore.instances.instance import Instance
from asyncstore.instances.source import BytesSource, FileSource
from asyncstore.instances.transcode import CannotConvert, Transcoder
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from pydicom import Dataset

    from asyncstore.instances.elements import Buffer
    from asyncstore.instances.source import DataSource

__all__ = ["CannotConvert", "NoTemporaryFile", "can_convert", "convert", "instance_of_dataset"]

# Data sets up to this size are converted in memory.
SPOOL_BYTES: Final = 64 * 1048576
# A deflated stream that grows beyond this is taken for a bomb: no single value could be longer (PS3.5 7.1.1).
LARGEST_INFLATED_BYTES: Final = 1 << 32
_PIECE_BYTES: Final = 1048576


class NoTemporaryFile(SourceError):
    """A data set is too large to be converted in memory, and there is no room on the disk; it is not at fault."""

    retryable = True


def can_convert(transfer_syntax_uid: str, to_transfer_syntax_uid: str) -> bool:
    """Whether a data set of the first transfer syntax can be sent in the second: both must be uncompressed."""
    return {transfer_syntax_uid, to_transfer_syntax_uid} <= set(UNCOMPRESSED_TRANSFER_SYNTAXES)


def convert(instance: Instance, transfer_syntax_uid: str) -> Instance:
    """The same instance with its data set in another uncompressed transfer syntax.

    Blocking: reads the whole data set. The result keeps path, size and time of the file and has a source of its own.
    Raises CannotConvert when the data set does not let itself be read or the pair is not among the four,
    SourceChanged or OSError when its file does not.
    """
    given = instance.transfer_syntax_uid
    if given == transfer_syntax_uid:
        return instance
    if not can_convert(given, transfer_syntax_uid):
        raise CannotConvert(f"no conversion from {given} to {transfer_syntax_uid}")
    result = _Spool()
    try:
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            deflater = _Deflater(result.write)
            _write_explicit_little(instance, deflater.write)
            deflater.finish()
        elif transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
            _write_explicit_little(instance, result.write)
        else:
            _transcode(instance, transfer_syntax_uid, result.write)
        source = result.to_source()
    except BaseException as error:
        result.discard()
        _clear_frames(error)
        raise
    finally:
        instance.source.close()
    return Instance(
        instance.path,
        instance.sop_class_uid,
        instance.sop_instance_uid,
        transfer_syntax_uid,
        0,
        source.length_bytes,
        source,
        instance.size_bytes,
        instance.mtime_ns,
        instance.study_instance_uid,
        instance.series_instance_uid,
        instance.meta_difference,
    )


def _clear_frames(error: BaseException | None) -> None:
    """Let go what an error's traceback holds: an outcome keeps the error, and must not keep a data set in memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def instance_of_dataset(data_set: Dataset) -> Instance:
    """The instance that a pydicom Dataset is; see Instance.from_dataset."""
    from pydicom import Dataset

    if not isinstance(data_set, Dataset):
        raise TypeError(f"neither a path, nor an Instance, nor a Dataset: {data_set!r:.200}")
    meta = getattr(data_set, "file_meta", None) or {}
    wanted = str(meta.get("TransferSyntaxUID") or "").strip("\0 ")
    try:
        instance = _encoded_instance(data_set, meta, wanted)
    except SourceError:
        raise
    except Exception as error:  # pydicom raises all kinds, with a traceback of its own below the first line
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SourceError(f"the data set cannot be encoded: {reason}") from error
    return convert(instance, wanted) if wanted and wanted != instance.transfer_syntax_uid else instance


def _encoded_instance(data_set: Dataset, meta: Dataset | dict[str, str], wanted: str) -> Instance:
    sop_class = str(data_set.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "").strip("\0 ")
    sop_instance = str(data_set.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "").strip("\0 ")
    if not sop_class or not sop_instance:
        raise MissingUID("the data set has no " + ("SOP Instance UID" if sop_class else "SOP Class UID"))
    encoded_as, data = _encode(data_set, wanted)
    source = BytesSource(data)
    return Instance(
        None,
        sop_class,
        sop_instance,
        encoded_as,
        0,
        source.length_bytes,
        source,
        source.length_bytes,
        0,
        str(data_set.get("StudyInstanceUID") or "") or None,
        str(data_set.get("SeriesInstanceUID") or "") or None,
    )


def _encode(data_set: Dataset, wanted: str) -> tuple[str, bytes]:
    """A Dataset encoded in the transfer syntax wanted, or in an uncompressed one with the byte order it came in.

    pydicom writes the bytes of OB and OW values as they are, so a change of their byte order is left to convert().
    """
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    little = data_set.original_encoding[1]
    as_read = _UNCOMPRESSED_BY_ENCODING.get(data_set.original_encoding, EXPLICIT_VR_LITTLE_ENDIAN)
    if not wanted:
        wanted = as_read
    elif wanted in UNCOMPRESSED_TRANSFER_SYNTAXES:
        if little is not None and encoding_of(wanted).big_endian == little:
            wanted = as_read
        elif wanted == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            wanted = EXPLICIT_VR_LITTLE_ENDIAN
    # Writing settles ambiguous VRs in the Dataset, which is the caller's.
    data_set = copy.deepcopy(data_set)
    for tag in [tag for tag in data_set.keys() if tag.group in (0x0000, 0x0002)]:  # noqa: SIM118 - a Dataset yields elements
        del data_set[tag]
    if "PixelData" in data_set:
        pixel_data = data_set["PixelData"]
        is_to_be_compressed = wanted not in UNCOMPRESSED_TRANSFER_SYNTAXES
        if not is_to_be_compressed and _is_compressed(pixel_data.value):
            raise SourceError("the pixel data is compressed, and no Transfer Syntax UID says how")
        pixel_data.is_undefined_length = is_to_be_compressed
    encoding = encoding_of(wanted)
    file = DicomBytesIO()
    file.is_implicit_VR = not encoding.explicit
    file.is_little_endian = not encoding.big_endian
    write_dataset(file, data_set)
    return wanted, file.getvalue()


def _is_compressed(pixel_data: object) -> bool:
    """Whether pixel data has the form of compressed one: a Basic Offset Table, and behind it another item (PS3.5 A.4).

    The bytes say so: what pydicom calls of undefined length stays that when other pixels take its place.
    """
    if not isinstance(pixel_data, bytes) or not pixel_data.startswith(_ITEM):
        return False
    table_bytes = int.from_bytes(pixel_data[4:8], "little")
    return pixel_data.startswith(_ITEM, 8 + table_bytes)


_ITEM: Final = b"\xfe\xff\x00\xe0"

# By what pydicom calls a Dataset's original encoding: (implicit, little endian).
_UNCOMPRESSED_BY_ENCODING: Final[dict[tuple[bool | None, bool | None], str]] = {
    (True, True): IMPLICIT_VR_LITTLE_ENDIAN,
    (False, True): EXPLICIT_VR_LITTLE_ENDIAN,
    (False, False): EXPLICIT_VR_BIG_ENDIAN,
}


def _write_explicit_little(instance: Instance, write: Callable[[Buffer], object]) -> None:
    """Writes an instance's data set in Explicit VR Little Endian, without parsing it where it is so inside."""
    if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        _inflate(instance.source, write)
    elif instance.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
        for piece in _pieces(instance.source):
            write(piece)
    else:
        _transcode(instance, EXPLICIT_VR_LITTLE_ENDIAN, write)


def _transcode(instance: Instance, transfer_syntax_uid: str, write: Callable[[Buffer], object]) -> None:
    given = encoding_of(instance.transfer_syntax_uid)
    gathered = _Spool()
    try:
        if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            _inflate(instance.source, gathered.write)
        else:
            for piece in _pieces(instance.source):
                gathered.write(piece)
        Transcoder(gathered.view(), given, encoding_of(transfer_syntax_uid), write).run()
    finally:
        gathered.discard()


def _pieces(source: DataSource) -> Iterator[memoryview]:
    """The bytes of a data set, a piece at a time; a piece is good until the next one."""
    room = memoryview(bytearray(min(_PIECE_BYTES, source.length_bytes)))
    for offset in range(0, source.length_bytes, _PIECE_BYTES):
        piece = room[: source.length_bytes - offset]
        source.read_into((piece,), offset)
        yield piece


def _inflate(source: DataSource, write: Callable[[Buffer], object]) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    try:
        for piece in _pieces(source):
            rest: Buffer = piece
            while len(rest) and not inflater.eof:
                inflated = inflater.decompress(rest, _PIECE_BYTES)
                rest = inflater.unconsumed_tail
                total += len(inflated)
                if total > LARGEST_INFLATED_BYTES:
                    raise CannotConvert(f"its deflated stream grows to more than {LARGEST_INFLATED_BYTES} bytes")
                write(inflated)
        write(inflater.flush())
    except zlib.error as error:
        raise CannotConvert(f"its deflated stream is damaged: {error}") from None
    if not inflater.eof:
        raise CannotConvert("its deflated stream is cut off")


class _Deflater:
    """Deflates what is written to it (RFC 1951, without a zlib header), and pads the stream to an even length."""

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


class _TemporarySource(FileSource):
    """A converted data set in a temporary file, which goes when the source does."""

    __slots__ = ("_file",)

    def __init__(self, file: IO[bytes], length: int) -> None:
        super().__init__("a converted data set", 0, length, length, 0)
        self._file = file

    def __del__(self) -> None:
        super().__del__()
        self._file.close()

    def _open(self) -> int:
        return os.dup(self._file.fileno())  # of its own: it has no name by which it could be opened again

    def _check_unchanged(self, status: os.stat_result) -> None:
        """Nobody else can reach the file."""


class _Spool:
    """Takes bytes in memory first, and in a temporary file when they get many."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None
        self._length = 0

    def write(self, data: Buffer) -> None:
        self._length += len(data)
        self._buffer += data
        if len(self._buffer) >= (SPOOL_BYTES if self._file is None else _PIECE_BYTES):
            self._flush()

    def view(self) -> memoryview:
        """All the bytes as one view, mapped where they are in a file: our own file, which nobody can cut short.

        The mapping goes with the last view of it: closing it is not possible while an error's traceback holds one.
        """
        if self._file is None:
            return memoryview(self._buffer)
        self._flush()
        with _blaming_the_temporary_file():
            return memoryview(mmap.mmap(self._file.fileno(), self._length, access=mmap.ACCESS_READ))

    def to_source(self) -> BytesSource | FileSource:
        """The bytes as a data source, which then owns them."""
        if self._file is None:
            return BytesSource(self._buffer)
        self._flush()
        file, self._file = self._file, None
        return _TemporarySource(file, self._length)

    def discard(self) -> None:
        self._buffer = bytearray()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        with _blaming_the_temporary_file(), memoryview(self._buffer) as rest:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="asyncstore-", buffering=0)  # noqa: SIM115 - see discard
            written = 0
            while written < len(rest):
                written += self._file.write(rest[written:])
        self._buffer.clear()


@contextlib.contextmanager
def _blaming_the_temporary_file() -> Iterator[None]:
    """What the system refuses here says nothing of the file that is converted."""
    try:
        yield
    except OSError as error:
        raise NoTemporaryFile(f"converting it needs a temporary file{_where()}: {error.strerror or error}") from error


def _where() -> str:
    try:
        return f" in {tempfile.gettempdir()}"
    except OSError:  # there is none, and the error for which this is asked says where it was looked for
        return ""
