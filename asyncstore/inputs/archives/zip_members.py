"""Reads the central directory of a ZIP file, one entry at a time: its size does not matter.

The layout is that of the APPNOTE of PKWARE, 4.3, with ZIP64.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.inputs.archives.archive import Archive, Damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED: Final = 0
DEFLATED: Final = 8
_METHODS: Final = {1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "BZIP2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
_AES: Final = 99

_EMPTY: Final = b"PK\5\6"
_STARTS: Final = (b"PK\3\4", _EMPTY, b"PK\7\x08PK\3\4", b"PK00PK\3\4")
_STARTS_OF_PROGRAMS: Final = (b"MZ", b"\x7fELF", b"#!")

_ENTRY: Final = struct.Struct("<8xHH4xLLLHH10xL")
_ENTRY_BYTES: Final = 46
_LOCAL: Final = struct.Struct("<4s22xHH")
LOCAL_BYTES: Final = 30
_END: Final = struct.Struct("<4sHHHHLLH")
_LONGEST_COMMENT: Final = 65535
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4s12xLLQQQQ")
_IN_ZIP64: Final = 0xFFFFFFFF
_ZIP64_FIELD: Final = 1

_ENCRYPTED: Final = 0x0001
_UTF_8: Final = 0x0800

_PIECE_BYTES: Final = 65536
# A longer one than this is no entry: name, extra fields and comment have 65535 bytes each at most.
_LONGEST_ENTRY: Final = _ENTRY_BYTES + 3 * 65535


class ZipMember(NamedTuple):
    """A member as the central directory describes it; `at` is the offset of its local header.

    `refusal` says why it is not read, empty if it is.
    """

    name: str
    method: int
    crc: int
    compressed_bytes: int
    size_bytes: int
    at: int
    refusal: str


class _Directory(NamedTuple):
    """Where the central directory is, and the bytes that stand before the archive in the file."""

    at: int
    end: int
    before: int


def is_zip(archive: Archive, start: bytes) -> bool:
    """Whether an archive is a ZIP file; `start` is how it begins. It may be a program that unpacks itself."""
    if not start.startswith(_STARTS_OF_PROGRAMS):
        return start.startswith(_STARTS)
    try:
        _find_directory(archive)
    except Damaged:
        return False
    return True


def zip_members(archive: Archive) -> Iterator[ZipMember]:
    """Yield the members in the order of the directory, without directories. Blocks. Raises Damaged."""
    directory = _find_directory(archive)
    at = directory.at
    data = b""
    room = directory.at
    while at < directory.end:
        if len(data) < _ENTRY_BYTES:
            data = archive.read(at, min(_PIECE_BYTES, directory.end - at))
        length = _length_of_entry(data)
        if len(data) < length:
            data = archive.read(at, min(_LONGEST_ENTRY, directory.end - at))
        if len(data) < length:
            raise Damaged("its central directory is cut off")
        member = _member(data, directory.before)
        at, data = at + length, data[length:]
        is_directory = member.name.endswith("/")
        if not is_directory and member.at + member.compressed_bytes > archive.size_bytes:
            yield member._replace(refusal="it is cut off")
            continue
        # Members of a sound archive share no bytes, and stand before the directory. Those of a bomb do share some, to
        # grow beyond what deflate allows, or to be millions.
        room -= LOCAL_BYTES + member.compressed_bytes
        if room < 0:
            raise Damaged("its members take more room than it has: they overlap")
        if not is_directory:
            yield member


def data_of(archive: Archive, member: ZipMember, local: bytes | bytearray) -> int:
    """The offset of a member's data; `local` is its local header. Raises Damaged."""
    signature, name_bytes, extra_bytes = _LOCAL.unpack_from(local)
    if signature != b"PK\3\4":
        raise Damaged("it is not where the central directory says")
    at: int = member.at + LOCAL_BYTES + name_bytes + extra_bytes
    if at + member.compressed_bytes > archive.size_bytes:
        raise Damaged("it is cut off")
    return at


def _length_of_entry(data: bytes) -> int:
    if len(data) < _ENTRY_BYTES or not data.startswith(b"PK\1\2"):
        raise Damaged("its central directory is damaged")
    name_bytes, extra_bytes, comment_bytes = struct.unpack_from("<3H", data, 28)
    return int(_ENTRY_BYTES + name_bytes + extra_bytes + comment_bytes)


def _member(data: bytes, before: int) -> ZipMember:
    flags, method, crc, compressed, size, name_bytes, extra_bytes, at = _ENTRY.unpack_from(data)
    raw = data[_ENTRY_BYTES : _ENTRY_BYTES + name_bytes]
    name = raw.decode("utf-8", "surrogateescape") if flags & _UTF_8 or raw.isascii() else raw.decode("cp437")
    extra = data[_ENTRY_BYTES + name_bytes : _ENTRY_BYTES + name_bytes + extra_bytes]
    refusal = _refusal(flags, method)
    if _IN_ZIP64 in (size, compressed, at):
        size, compressed, at = _from_zip64(extra, size, compressed, at)
    if method == STORED and size != compressed and not refusal:
        refusal = "its two sizes contradict each other"
    return ZipMember(name, method, crc, compressed, size, at + before, refusal)


def _refusal(flags: int, method: int) -> str:
    if flags & _ENCRYPTED or method == _AES:
        return "it is encrypted"
    if method not in (STORED, DEFLATED):
        return f"it is compressed by {_METHODS.get(method, f'method {method}')}: only Deflate is read"
    return ""


def _from_zip64(extra: bytes, *values: int) -> list[int]:
    """The three numbers of an entry: those that do not fit into it are in an extra field, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_FIELD:
            field = extra[at + 4 : at + 4 + length]
            numbers = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return [next(numbers, value) if value == _IN_ZIP64 else value for value in values]
        at += 4 + length
    return list(values)


def _find_directory(archive: Archive) -> _Directory:
    tail_at = max(0, archive.size_bytes - _END.size - _LONGEST_COMMENT)
    tail = archive.read(tail_at, _END.size + _LONGEST_COMMENT)
    at = tail.rfind(_EMPTY, 0, len(tail) - _END.size + len(_EMPTY))
    while at >= 0 and _END.unpack_from(tail, at)[-1] > len(tail) - at - _END.size:
        at = tail.rfind(_EMPTY, 0, at)  # that was a part of the comment
    if at < 0:
        raise Damaged("its central directory is missing: it is cut off")
    _, disk, first_disk, _, _, length, begin, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    signature, _, end64_at, _ = _LOCATOR.unpack(archive.read(end - _LOCATOR.size, _LOCATOR.size).rjust(_LOCATOR.size))
    if signature == b"PK\6\7":
        end64 = archive.read(end64_at, _END64.size)
        if end64.startswith(b"PK\6\6") and len(end64) == _END64.size:
            _, disk, first_disk, _, _, length, begin = _END64.unpack(end64)
            end = end64_at
    if disk != first_disk or disk not in (0, 0xFFFF):
        raise Damaged("it is a part of a split archive")
    before = end - length - begin  # a program that unpacks it may stand before it
    if before < 0:
        raise Damaged("its central directory is damaged")
    return _Directory(end - length, end, before)
