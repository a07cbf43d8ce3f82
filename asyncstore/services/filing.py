"""Gives whole files their names in a directory, and never loses a stored instance without a word.

The name is made of the SOP Instance UID: `1.2.3.dcm`. Another data set of the same UID gets a name of its own beside
it, `1.2.3-4f2a67d0c1b39e58.dcm`, made of the UID and of the bytes: the same data set finds the same name again.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from asyncstore.errors import count_text
from asyncstore.instances.head import read_head
from asyncstore.instances.instance import Instance
from asyncstore.instances.sameness import have_same_data_set

if TYPE_CHECKING:
    from pathlib import Path

OnExisting: TypeAlias = Literal["keep", "replace", "rename"]
"""What becomes of another data set of a stored SOP Instance UID: see StorageSCP."""

_PIECE_BYTES: Final = 1 << 20
_OUT_OF_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_DIGEST_CHARACTERS: Final = 16
# One of them is taken while a file gets its name: two associations may bring the same instance at once.
_NAMING: Final = tuple(threading.Lock() for _ in range(64))


class Filed(enum.Enum):
    """How a file got its name; see `settle`."""

    NEW = "new"
    SAME_AGAIN = "same again"
    BESIDE = "beside"
    REPLACED = "replaced"


class Place(NamedTuple):
    """Where a file is now, and what had its name before: `earlier` describes that file, and has `earlier_bytes`."""

    path: Path
    how: Filed
    earlier: str = ""
    earlier_bytes: int = 0


class AlreadyStored(Exception):
    """Another data set is stored under this UID, and stays."""

    def __init__(self) -> None:
        super().__init__("another data set is stored under this UID")


class NotWritten:
    """A data set for which there is no room: it is only looked at, since it may be stored already.

    `why` is the error that says that there is no room; it is raised at once if nothing is stored under this name.
    """

    def __init__(self, path: Path, transfer_syntax_uid: str, why: OSError) -> None:
        self._path = path
        self._why = why
        self._digest = hashlib.sha256(transfer_syntax_uid.encode())
        if not _is_file(path):
            raise why

    def add(self, data: bytes) -> None:
        """Look at the next bytes."""
        self._digest.update(data)

    def add_written(self, path: Path, at: int, length: int) -> None:
        """Look at those that a file has at this offset."""
        with path.open("rb") as file:
            file.seek(at)
            while length and (data := file.read(min(length, _PIECE_BYTES))):
                self._digest.update(data)
                length -= len(data)

    def settle(self) -> Place:
        """Where the same data set is stored; if it is not, this raises `why`. Blocks."""
        digest = self._digest.hexdigest()
        for path in (self._path, _beside(self._path, digest)):
            if _is_file(path) and _digest_of(path) == digest:
                return Place(path, Filed.SAME_AGAIN)
        raise self._why


def is_out_of_space(error: OSError) -> bool:
    """Whether a file cannot be written only because there is no room for it."""
    return error.errno in _OUT_OF_SPACE


def name_if_new(part_path: Path, path: Path) -> bool:
    """Give a file this name, if no file has it; never replaces one. Raises OSError."""
    with _lock_of(path):
        if os.path.lexists(path):
            return False
        os.replace(part_path, path)
    return True


def make_durable(path: Path) -> None:
    """Have a file, and its name, on the disk, whatever happens to this machine. Blocks."""
    for each in (path, path.parent) if os.name == "posix" else (path,):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def settle(part_path: Path, path: Path, on_existing: OnExisting) -> Place:
    """Give a file a name although there is one of its name. Blocks while it compares them.

    The same data set again is removed: the stored file stays as it is. Raises AlreadyStored, or OSError.
    """
    wanted, how = path, Filed.NEW
    earlier = ""
    while not name_if_new(part_path, wanted):
        with contextlib.suppress(FileNotFoundError):  # removed just now: then the name is free
            status = os.lstat(wanted)  # a link leads elsewhere: it is not read, and nothing is written through it
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{wanted.name} is not a file")
            if _are_same(part_path, wanted):
                part_path.unlink()
                return Place(wanted, Filed.SAME_AGAIN)
            if on_existing == "keep" or wanted is not path:
                raise AlreadyStored
            earlier = _description(status)
            if on_existing == "rename":
                wanted, how = _beside(path, _digest_of(part_path)), Filed.BESIDE
            elif _replace(part_path, path, status):
                return Place(path, Filed.REPLACED, earlier, status.st_size)
    return Place(wanted, how, earlier)


def _beside(path: Path, digest: str) -> Path:
    return path.with_name(f"{path.stem}-{digest[:_DIGEST_CHARACTERS]}{path.suffix}")


def _is_file(path: Path) -> bool:
    """Whether it is a file, and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _replace(part_path: Path, path: Path, compared: os.stat_result) -> bool:
    """Put a file in the place of the one that it was compared with; False if there is another one by now."""
    with _lock_of(path):
        if not os.path.samestat(os.lstat(path), compared):
            return False
        os.replace(part_path, path)
    return True


def _lock_of(path: Path) -> threading.Lock:
    return _NAMING[hash(path.name) % len(_NAMING)]


def _are_same(one: Path, other: Path) -> bool:
    """Whether two files have the same data set; their File Meta Information may be of different versions."""
    if _have_same_bytes(one, other):
        return True
    instances = [read_head(str(path)) for path in (one, other)]
    left, right = instances
    return isinstance(left, Instance) and isinstance(right, Instance) and have_same_data_set(left, right)


def _have_same_bytes(one: Path, other: Path) -> bool:
    with one.open("rb", 0) as left, other.open("rb", 0) as right:
        if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
            return False
        while data := left.read(_PIECE_BYTES):
            if right.read(len(data)) != data:
                return False
    return True


def _digest_of(path: Path) -> str:
    """What a data set and its transfer syntax are told by, whichever version wrote the File Meta Information."""
    head = read_head(str(path))
    at, syntax = (head.data_set_offset, head.transfer_syntax_uid) if isinstance(head, Instance) else (0, "")
    with path.open("rb") as file:
        file.seek(at)
        digest = hashlib.file_digest(file, lambda: hashlib.sha256(syntax.encode()))
    return digest.hexdigest()


def _description(status: os.stat_result) -> str:
    written_at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.st_mtime))
    return f"the file of {count_text(status.st_size, 'byte')} that was written at {written_at}"
