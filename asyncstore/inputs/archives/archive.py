"""An archive file that is open, the names of its members, and what may be wrong with it."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceChanged, SourceError
from asyncstore.instances import source
from asyncstore.instances.problem import ProblemKind, ScanProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEPARATOR: Final = "!/"
"""Between the path of an archive and the name of a member: `study.zip!/CT/1.dcm`."""

LONGEST_NAME: Final = 4096
"""No path is longer. Names wait in queues by the thousand, and a format has room for a megabyte."""

_DRIVE: Final = re.compile(r"[A-Za-z]:")


class Damaged(SourceError):
    """An archive, or one member of it, is not as its format demands."""


class Archive:
    """An archive that is open for reading by offset; several threads may read at once.

    `size_bytes` and `mtime_ns` are the file's at this moment. The file is closed when nothing refers to it any more.
    Opening raises OSError.
    """

    __slots__ = ("_fd", "_turn", "device", "mtime_ns", "path", "size_bytes")

    def __init__(self, path: str) -> None:
        self._fd = -1
        self.path: str = path
        self._fd = source.open_for_reading(path)
        status = os.fstat(self._fd)
        self.size_bytes: int = status.st_size
        self.mtime_ns: int = status.st_mtime_ns
        self.device: int = status.st_dev
        # Without preadv, reading moves the file's position.
        self._turn = None if source.preadv else threading.Lock()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, at: int, length: int) -> bytes:
        """The bytes at an offset; fewer at the end of the file, and none where it has none. Blocks."""
        if not 0 <= at < self.size_bytes:
            return b""
        data = bytearray(min(length, self.size_bytes - at))
        return bytes(data[: self.fill((memoryview(data),), at)])

    def fill(self, holes: Sequence[memoryview], at: int) -> int:
        """Fill holes from an offset; returns the number of bytes, fewer at the end of the file. Blocks."""
        if self._turn is None:
            return source.read_fully(self._fd, holes, at)
        with self._turn:
            return source.read_fully(self._fd, holes, at)

    def fill_cached(self, holes: Sequence[memoryview], at: int) -> int | None:
        """The same as far as the bytes are in memory; None if none are."""
        if self._turn is None:
            return source.read_cached(self._fd, holes, at, self.device)
        with self._turn:
            return source.read_cached(self._fd, holes, at, self.device)

    def read_ahead(self, at: int, length: int) -> None:
        """Have the system read a part in the background."""
        source.read_ahead(self._fd, at, length)

    def check_unchanged(self) -> None:
        """Raise SourceChanged if somebody has written to the file since it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise SourceChanged("the archive was written to while it was read")


def member_path(archive_path: str, name: str) -> str:
    """The path of a member, for logs, reports and ledgers."""
    return f"{archive_path}{SEPARATOR}{name}"


def split_path(path: str) -> Iterator[tuple[str, str]]:
    """Each archive path and member name that a path may mean; the shortest archive path first."""
    at = path.find(SEPARATOR)
    while at >= 0:
        yield path[:at], path[at + len(SEPARATOR) :]
        at = path.find(SEPARATOR, at + 1)


def clean_name(name: str) -> str:
    """A member's name without empty and `.` parts."""
    if not name.startswith(".") and not name.endswith("/") and "//" not in name and "/." not in name:
        return name
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def leads_out(name: str) -> bool:
    """Whether a member's name is absolute or has a `..` part: no directory that is packed gives such a name."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return True
    return ".." in name and ".." in name.replace("\\", "/").split("/")


def refused_name(name: str) -> str:
    """Why a member of this name is not read; empty if it is."""
    if len(name) > LONGEST_NAME:
        return "its name is longer than that of any file"
    return "its name leads out of the archive" if leads_out(name) else ""


def unreadable(path: str, detail: str) -> ScanProblem:
    """The problem of an archive, or of a member, that is not read."""
    return ScanProblem(path, ProblemKind.UNREADABLE, detail, SourceError(f"{path!r}: {detail}"))
