"""Reads the head of a file and identifies the instance in it.

A file that follows PS3.10 7.1 takes the fast way: struct reads its File Meta Information, and one search compares its
UIDs with those of the data set. Any other file (no preamble, no File Meta Information, no group length, UIDs only in
the data set, big endian, deflated ...) takes the tolerant way of identity.py. Neither reads, or inflates, more than
HEAD_LIMIT_BYTES of a file.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final, Literal, TypeAlias, overload

from asyncstore.errors import MissingUID, NotDicom, SourceChanged, SourceError
from asyncstore.instances import elements, source
from asyncstore.instances.identity import (
    HEAD_LIMIT_BYTES,
    PREAMBLE_BYTES,
    Identity,
    Refused,
    identify,
)
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import FileSource, HeldSource
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MEDIA_STORAGE_DIRECTORY,
    is_well_formed,
)

# A file up to this size is read whole, so that it is opened only once.
SMALL_FILE_BYTES: Final = 131072
# The part of a larger file that is read: enough for nearly every File Meta Information and the UIDs behind it.
HEAD_BYTES: Final = 8192

# Tags of group 0002, read as a little endian number: the element number is the upper half.
_FAST_CLASS: Final = 0x00020002
_FAST_INSTANCE: Final = 0x00030002
_FAST_SYNTAX: Final = 0x00100002

# The prefix and the whole header of (0002,0000): UL, four bytes.
_META_START: Final = b"DICM\x02\x00\x00\x00UL\x04\x00"
_META_START_BYTES: Final = len(_META_START) + 4
_u32 = struct.Struct("<I").unpack_from
_fast_header = struct.Struct("<I2sH").unpack_from

# In these, a data set does not have its UIDs in the same bytes as the File Meta Information.
_SLOW_SYNTAXES: Final = (EXPLICIT_VR_BIG_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)

_CLASS_IN_DATA_SET: Final = b"\x08\x00\x16\x00"
_INSTANCE_IN_DATA_SET: Final = b"\x08\x00\x18\x00"


# A File Meta Information that many files share, except for the SOP Instance UID: the bytes from the prefix up to that
# UID, where it begins and ends, the bytes from behind it up to the data set, and where that begins. In the data set the
# bytes before the UID, and their number with it. The SOP Class UID and the transfer syntax.
_Layout: TypeAlias = "tuple[bytes, int, int, bytes, int, bytes, int, str, str]"

# The latest first. Reader threads replace the whole tuple; a layout that gets lost is learned again.
_layouts: tuple[_Layout, ...] = ()
_REMEMBERED_LAYOUTS: Final = 8


def open_head(path: str) -> int:
    """Open a file for read_head, and have the system read its start meanwhile; -1 if it cannot be opened.

    A disk that is asked for many files at once reads each of them several times faster.
    """
    try:
        fd = source.open_for_reading(path)
    except (OSError, ValueError):  # read_head will say which
        return -1
    source.read_ahead(fd, 0, SMALL_FILE_BYTES)
    return fd


@overload
def read_head(
    path: str, *, wait: Literal[True] = True, missed: list[str] | None = None, regular: bool = False, fd: int = -1
) -> Instance | ScanProblem: ...
@overload
def read_head(
    path: str, *, wait: bool, missed: list[str] | None = None, regular: bool = False, fd: int = -1
) -> Instance | ScanProblem | None: ...
def read_head(
    path: str, *, wait: bool = True, missed: list[str] | None = None, regular: bool = False, fd: int = -1
) -> Instance | ScanProblem | None:
    """The instance in a file, or a ScanProblem, by one open, one fstat and one read. Never raises.

    A file of at most SMALL_FILE_BYTES is read whole and keeps its bytes (HeldSource); a larger one gets a FileSource.
    `regular=True` says that the caller has just seen a regular file there. Otherwise that is checked first, since
    devices and FIFOs must not even be opened. `fd` is the result of open_head for this path; it is closed.

    If the bytes are not in memory and reading would wait for a disk, `wait=False` returns None; `wait=True` reads, and
    adds the path to `missed` if that is given.
    """
    try:
        if fd < 0:
            if not regular and not stat.S_ISREG(os.stat(path).st_mode):
                return _not_a_file(path)
            fd = source.open_for_reading(path)
    except (OSError, ValueError) as error:
        return problem_of_error(path, error)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _not_a_file(path)
        if status.st_size <= SMALL_FILE_BYTES:
            return _read_small(path, fd, status, wait, missed)
        return _read_large(path, fd, status, wait, missed)
    except OSError as error:
        return problem_of_error(path, error)
    except Refused as refused:
        return problem_of_refused(path, refused)
    finally:
        os.close(fd)


def problem_of_error(path: str, error: OSError | ValueError) -> ScanProblem:
    """The problem of a path for which the system raised an error."""
    if isinstance(error, ValueError):
        # The path has a NUL or another character that the system does not allow in names: there is no such file.
        error = FileNotFoundError(errno.ENOENT, str(error), path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        kind = ProblemKind.NOT_FOUND
    elif error.errno == errno.ELOOP:
        kind = ProblemKind.SYMLINK_LOOP
    else:
        kind = ProblemKind.UNREADABLE
    return ScanProblem(path, kind, error.strerror or str(error), error)


def _read_small(
    path: str, fd: int, status: os.stat_result, wait: bool, missed: list[str] | None
) -> Instance | ScanProblem | None:
    size = status.st_size
    # One byte more than the file has. If that is filled, the file grew; if not, it is the zero that pads a deflated
    # stream of odd length.
    buffer = bytearray(size + 1)
    got = _read_start(path, fd, buffer, size, status.st_dev, wait, missed)
    if got is None:
        return None
    if got != size:
        return _changed(path)
    identity = _identify_fast(buffer, size) or identify(buffer, size, complete=True)
    sop_class, sop_instance, syntax, begin, difference = identity
    length = size - begin
    padding = length & 1 if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else 0
    mtime_ns = status.st_mtime_ns
    return Instance(
        path,
        sop_class,
        sop_instance,
        syntax,
        begin,
        length + padding,
        HeldSource(path, begin, length, size, mtime_ns, buffer, padding_bytes=padding),
        size,
        mtime_ns,
        None,
        None,
        difference,
    )


def _read_large(
    path: str, fd: int, status: os.stat_result, wait: bool, missed: list[str] | None
) -> Instance | ScanProblem | None:
    size = status.st_size
    head = bytearray(HEAD_BYTES)
    identity: tuple[str, str, str, int, str | None] | None = None
    while identity is None:
        got = _read_start(path, fd, head, len(head), status.st_dev, wait, missed)
        if got is None:
            return None
        if got != len(head):
            return _changed(path)
        try:
            identity = _identify_fast(head, got) or identify(head, got, complete=got == size)
        except Refused as refused:
            if not refused.more or got >= HEAD_LIMIT_BYTES:
                raise
            head = bytearray(min(size, HEAD_LIMIT_BYTES))
    sop_class, sop_instance, syntax, begin, difference = identity
    length = size - begin
    padding = length & 1 if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else 0
    file = FileSource(path, begin, length, size, status.st_mtime_ns, padding_bytes=padding)
    return Instance(
        path,
        sop_class,
        sop_instance,
        syntax,
        begin,
        length + padding,
        file,
        size,
        status.st_mtime_ns,
        meta_difference=difference,
    )


def _read_start(
    path: str, fd: int, buffer: bytearray, wanted: int, device: int, wait: bool, missed: list[str] | None
) -> int | None:
    """Fill the buffer from the start of the file, with `wanted` bytes unless that is shorter; None as in read_head."""
    holes = (buffer,)
    if missed is not None or not wait:
        got = source.read_cached(fd, holes, 0, device)
        if got is not None and got >= wanted:
            return got
        if missed is None:
            if got is not None and os.fstat(fd).st_size < wanted:
                return got
            source.read_ahead(fd, 0, SMALL_FILE_BYTES)
            return None
        missed.append(path)
    got = source.read_some(fd, holes, 0)
    return got if got >= wanted else source.read_fully(fd, holes, 0)


def _identify_fast(data: bytes | bytearray, end: int) -> tuple[str, str, str, int, str | None] | None:
    """The parts of the Identity in a file that is as PS3.10 wants it; None when anything is unusual.

    It takes a few microseconds, of which making an Identity would be one.
    """
    for layout in _layouts:
        before, uid_at, uid_end, after, meta_end, pattern, uids_bytes, sop_class, syntax = layout
        if data.startswith(before, PREAMBLE_BYTES) and data.startswith(after, uid_end):
            break
    else:
        learned = _learn_layout(data, end)
        if learned is None:
            return None
        _, uid_at, uid_end, _, meta_end, pattern, uids_bytes, sop_class, syntax = learned
    # The same two UIDs, encoded as they are in the data set: then they need not be looked for element by element. Where
    # they stand first: a sequence further on may tell who the instance was once.
    field = data[uid_at:uid_end]
    uids_at = data.find(_CLASS_IN_DATA_SET, meta_end, meta_end + HEAD_BYTES)
    if not -1 < uids_at <= end - uids_bytes or not data.startswith(pattern + field, uids_at):
        return None
    # A wrong group length would put the data set at a wrong place: at group 0000 or 0002.
    if data[meta_end] in (0, 2):
        return None
    sop_instance = field.decode("latin-1").rstrip("\0 ")
    return (sop_class, sop_instance, syntax, meta_end, None) if is_well_formed(sop_instance) else None


def _learn_layout(data: bytes | bytearray, end: int) -> _Layout | None:
    """The layout of a file's File Meta Information, element by element, remembered for the files that come."""
    global _layouts
    if not data.startswith(_META_START, PREAMBLE_BYTES):
        return None
    at = PREAMBLE_BYTES + _META_START_BYTES
    try:
        meta_end: int = at + _u32(data, at - 4)[0]
        if meta_end + 8 > end:
            return None
        found: dict[int, int] = {}
        while at < meta_end:
            tag, vr, length = _fast_header(data, at)
            if tag & 0xFFFF != 2 or tag in found:  # the group length is too large, or an element is there twice
                return None
            found[tag] = at
            at += 12 + _u32(data, at + 8)[0] if vr in elements.LONG_VRS else 8 + length
        fields = [_uid_field(data, found[tag]) for tag in (_FAST_CLASS, _FAST_INSTANCE, _FAST_SYNTAX)]
    except (struct.error, KeyError):
        return None
    sop_class, _, syntax = (field[4:].rstrip(b"\0 ").decode("ascii", "replace") for field in fields)
    are_usual = all(field[:2] == b"UI" and not field[3] for field in fields)
    if at != meta_end or not are_usual or not (is_well_formed(sop_class) and is_well_formed(syntax)):
        return None
    if sop_class == MEDIA_STORAGE_DIRECTORY or syntax in _SLOW_SYNTAXES:
        return None
    uid_at = found[_FAST_INSTANCE] + 8
    uid_end = uid_at + len(fields[1]) - 4
    pattern = _pattern(fields[0], fields[1][:4], is_implicit=syntax == IMPLICIT_VR_LITTLE_ENDIAN)
    before, after = bytes(data[PREAMBLE_BYTES:uid_at]), bytes(data[uid_end:meta_end])
    uids_bytes = len(pattern) + uid_end - uid_at
    layout = (before, uid_at, uid_end, after, meta_end, pattern, uids_bytes, sop_class, syntax)
    _layouts = (layout, *_layouts[: _REMEMBERED_LAYOUTS - 1])
    return layout


def _uid_field(data: bytes | bytearray, at: int) -> bytes:
    """VR, length and value of the File Meta element at an offset; a UID has fewer than 256 bytes."""
    return bytes(data[at + 4 : at + 8 + data[at + 6]])


def _pattern(class_field: bytes, instance_header: bytes, *, is_implicit: bool) -> bytes:
    """The bytes before the SOP Instance UID in a data set: the SOP Class UID element, then its own tag and length."""
    if not is_implicit:
        return b"%b%b%b%b" % (_CLASS_IN_DATA_SET, class_field, _INSTANCE_IN_DATA_SET, instance_header)
    # In implicit VR the length takes the place of VR and length.
    return b"%b%b\0\0%b%b%b\0\0" % (
        _CLASS_IN_DATA_SET,
        class_field[2:4],
        class_field[4:],
        _INSTANCE_IN_DATA_SET,
        instance_header[2:4],
    )


def _not_a_file(path: str) -> ScanProblem:
    error = OSError(errno.EINVAL, "not a regular file", path)
    return ScanProblem(path, ProblemKind.NOT_A_FILE, "it is a directory, a device, a FIFO or a socket", error)


def _changed(path: str) -> ScanProblem:
    detail = "its size changed while it was read"
    return ScanProblem(path, ProblemKind.CHANGED, detail, SourceChanged(f"{path!r}: {detail}"))


def problem_of_refused(path: str, refused: Refused) -> ScanProblem:
    """The problem of a path whose bytes contain no instance."""
    return ScanProblem(path, refused.kind, refused.detail, error_of(refused, repr(path)))


def error_of(refused: Refused, what: str) -> SourceError:
    """The error that says why `what` does not contain an instance."""
    kind = MissingUID if refused.kind is ProblemKind.MISSING_UID else NotDicom
    return kind(f"{what}: {refused.detail}")


def identity_in(data: bytes | bytearray, end: int, *, complete: bool) -> Identity:
    """The identity of the instance in `data[:end]`; `complete` says that this is all of it. Raises Refused."""
    known = _identify_fast(data, end)
    return Identity(*known) if known is not None else identify(data, end, complete=complete)
