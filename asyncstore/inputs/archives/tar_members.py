"""Reads the headers of a TAR archive, one member at a time: ustar, pax, GNU, and the format before them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.inputs.archives.archive import Damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK_BYTES: Final = 512
_LONGEST_HEADER: Final = 1 << 20  # of a name, or of pax records
_LONGEST_NUMBER: Final = 20  # digits

_REGULAR: Final = b"0\x007"
_DIRECTORY: Final = b"5"
_GNU_NAME: Final = b"L"
_PAX: Final = b"x"
_PASSED_ON: Final = b"gKVN"  # global pax records, a long link name, a volume label, an old long name
_SPARSE: Final = b"S"
_OTHERS: Final = {
    b"1": "a link to another member",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
}


class TarMember(NamedTuple):
    """A member; its bytes are at `at`. `refusal` says why it is not read, empty if it is; `other` if it is no file."""

    name: str
    at: int
    size_bytes: int
    refusal: str = ""
    other: str = ""


def is_tar(block: bytes) -> bool:
    """Whether this is the first block of an archive."""
    return len(block) == BLOCK_BYTES and any(block) and _has_checksum(block)


def tar_members(read: Callable[[int, int], bytes]) -> Iterator[TarMember]:
    """Yield the members in the order of the archive, without directories. Blocks. Raises Damaged.

    `read(at, length)` returns bytes, fewer only at the end. It is called for growing offsets, so that it may read a
    stream; the caller may read the bytes of a member in between.
    """
    at = 0
    name: bytes | None = None
    pax: dict[bytes, bytes] = {}
    while any(block := read(at, BLOCK_BYTES)):
        if len(block) < BLOCK_BYTES or not _has_checksum(block):
            raise Damaged("it is cut off" if len(block) < BLOCK_BYTES else f"there is no header at offset {at:,}")
        kind, size = block[156:157], _number(block[124:136])
        if kind in (_GNU_NAME, _PAX):
            if size > _LONGEST_HEADER:
                raise Damaged(f"the header at offset {at:,} is too long")
            content = _whole(read, at + BLOCK_BYTES, size)
            if kind == _PAX:
                pax = _pax_records(content)
            else:
                name = content.rstrip(b"\0")
        else:
            if b"size" in pax:
                size = _decimal(pax[b"size"])
            if kind not in _PASSED_ON and kind != _DIRECTORY:
                found = _member(block, pax.get(b"path", name), at + BLOCK_BYTES, size, pax)
                if found is not None:
                    yield found
            name, pax = None, {}
        at += BLOCK_BYTES + (-(-size // BLOCK_BYTES) * BLOCK_BYTES if kind not in _OTHERS else 0)
    if not block:
        raise Damaged("it ends without its end mark: it may be cut off")


def _member(block: bytes, name: bytes | None, at: int, size: int, pax: dict[bytes, bytes]) -> TarMember | None:
    """The member of a header; None for a directory of the old format."""
    kind = block[156:157]
    if name is None:
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0]
        if prefix and block[257:263] == b"ustar\0":  # GNU has other fields there
            name = prefix + b"/" + name
    if name.endswith(b"/") and kind in _REGULAR:
        return None
    is_sparse = kind == _SPARSE or any(key.startswith(b"GNU.sparse") for key in pax)
    refusal = "it is a sparse file of GNU tar, which is not read" if is_sparse else ""
    return TarMember(os.fsdecode(name), at, size, refusal, _OTHERS.get(kind, ""))


def _whole(read: Callable[[int, int], bytes], at: int, length: int) -> bytes:
    content = read(at, length)
    if len(content) < length:
        raise Damaged("it is cut off")
    return content


def _has_checksum(block: bytes) -> bool:
    try:
        expected = int(block[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return expected == sum(block) - sum(block[148:156]) + 8 * 32


def _number(field: bytes) -> int:
    """A number in octal, or in base 256 where that is too short."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            raise Damaged("a member has a negative size")
        return number
    try:
        number = int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        number = -1
    if number < 0:
        raise Damaged("the size of a member is not a number")
    return number


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _LONGEST_NUMBER:
        raise Damaged("the size of a member is not a number")
    return int(digits)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, each `length key=value` and a newline."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        digits, space, _ = content[at : at + 20].partition(b" ")
        if not (space and digits.isdigit() and 0 < int(digits) <= len(content) - at):
            raise Damaged("an extended header is damaged")
        key, _, value = content[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        records[key] = value
        at += int(digits)
    return records
