"""Where the bytes of a data set come from: a file, memory, or what the scan read of a small file anyway.

A sender lays its headers into a wire buffer and hands out the holes between them; `read_into` fills the holes. No
source looks at the bytes. Every source can be read again from the start, after `close()` too: a retry does just that.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from typing import TYPE_CHECKING, Final, Protocol

from asyncstore.errors import SourceChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What one preadv may take on Linux; other systems allow at least as much.
IOV_MAX: Final = 1024

# No system has to have these. They are looked up by these names on every use, so that tests can take them away.
preadv: Callable[..., int] | None = getattr(os, "preadv", None)
rwf_nowait: int = getattr(os, "RWF_NOWAIT", 0)
posix_fadvise: Callable[[int, int, int, int], None] | None = getattr(os, "posix_fadvise", None)

# O_NONBLOCK: should a FIFO take a file's place, opening it must not wait for a writer. O_NOCTTY: nor may a terminal
# become ours.
_O_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
OPEN_FLAGS: Final[int] = os.O_RDONLY | _O_NONBLOCK | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

# Numbers (st_dev) of file systems that cannot say whether bytes are in memory: tmpfs, NFS and some more.
devices_without_nowait: set[int] = set()

_NOWAIT_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


def open_for_reading(path: str) -> int:
    """The file descriptor of a file that was a regular one a moment ago; the caller checks that it still is."""
    try:
        return os.open(path, OPEN_FLAGS)
    except BlockingIOError:
        # Somebody holds a lease on the file (a Samba server does): wait until it is given back, as any reader would.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise
        return os.open(path, OPEN_FLAGS & ~_O_NONBLOCK)


def read_ahead(fd: int, at: int, length: int) -> None:
    """Ask the system to have a part of an open file in memory soon, where there is a way to ask; never fails."""
    if posix_fadvise is not None:
        with contextlib.suppress(OSError):  # whatever is wrong with the file is said by reading it
            posix_fadvise(fd, at, length, os.POSIX_FADV_WILLNEED)


class DataSource(Protocol):
    """What an instance's data set is read from.

    Several associations may send one instance at once, each from a thread of its own, and `close` may come while a
    thread still reads for somebody who has given up waiting.
    """

    @property
    def length_bytes(self) -> int:
        """How long the data set is."""

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Fill the holes, in order, with the data set's bytes from `offset`.

        With `wait=False` the answer is False, and the holes hold nothing that counts, when the bytes are not in memory
        and the call would block on a disk. Raises SourceChanged when the data set is no longer what was scanned,
        OSError when it cannot be read, ValueError when the holes reach beyond it.
        """

    def view(self) -> memoryview | None:
        """The whole data set as one view, only to be read, where it is in memory; None where it is not."""

    def let_go(self) -> None:
        """Keep no bytes in memory that can be read again; `view` is None then."""

    def close(self) -> None:
        """Give back what reading took; reading again is allowed."""


def read_some(fd: int, holes: Sequence[memoryview], at: int) -> int:
    """Fill holes from the offset `at` of an open file with one call of the system, which may fill them in part."""
    if preadv is not None:
        return preadv(fd, holes, at)
    with io.FileIO(fd, "rb", closefd=False) as file:
        file.seek(at)
        return file.readinto(holes[0]) or 0


def read_fully(fd: int, holes: Sequence[memoryview], at: int) -> int:
    """Fill holes from the offset `at` of an open file; fewer bytes than they hold mean the end of the file."""
    pending = [hole for hole in holes if len(hole)]
    total = 0
    while pending:
        got = read_some(fd, pending[:IOV_MAX], at + total)
        if not got:
            break
        total += got
        whole = 0
        while got and got >= len(pending[whole]):
            got -= len(pending[whole])
            whole += 1
            if whole == len(pending):
                break
        del pending[:whole]
        if got:
            pending[0] = pending[0][got:]
    return total


def read_cached(fd: int, holes: Sequence[memoryview], at: int, device: int) -> int | None:
    """Fill holes as far as the bytes are in memory; None when none are.

    `device` is the file's st_dev. Where the system or the file system cannot tell, this reads as usual.
    """
    if preadv is None or len(holes) > IOV_MAX:
        return read_fully(fd, holes, at)
    if not rwf_nowait or device in devices_without_nowait:
        return preadv(fd, holes, at)
    try:
        return preadv(fd, holes, at, rwf_nowait)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NOWAIT_UNSUPPORTED:
            raise
        devices_without_nowait.add(device)
        return preadv(fd, holes, at)


class FileSource:
    """A data set that lies in a file, read when it is needed.

    `size_bytes` and `mtime_ns` are the whole file's when it was scanned: another size or time later means that the
    file changed. `padding_bytes` zeros follow what the file holds (PS3.5 A.5: a deflated stream of odd length).

    Who reads takes a descriptor out of those that lie idle, or opens one; so nobody can close it meanwhile, and have
    its number come to mean another file. `close` closes the idle ones, and has each of the others closed by its reader.
    """

    __slots__ = (
        "_device",
        "_idle",
        "_stored_bytes",
        "data_set_offset",
        "length_bytes",
        "mtime_ns",
        "path",
        "size_bytes",
    )

    def __init__(
        self,
        path: str,
        data_set_offset: int,
        length: int,
        size_bytes: int,
        mtime_ns: int,
        *,
        padding_bytes: int = 0,
    ) -> None:
        self.path = path
        self.data_set_offset = data_set_offset
        self.length_bytes = length + padding_bytes
        self.size_bytes = size_bytes
        self.mtime_ns = mtime_ns
        self._stored_bytes = length
        self._idle: list[int] | None = None  # descriptors; None when closed
        self._device = 0

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Fill the holes from the file, with one preadv where the system has it; see DataSource."""
        wanted = sum(map(len, holes))
        end = offset + wanted
        if offset < 0 or end > self.length_bytes:
            raise ValueError(f"holes for bytes {offset} to {end} of a data set of {self.length_bytes} bytes")
        if end > self._stored_bytes:
            holes = _before_padding(holes, self._stored_bytes - offset)
            wanted = max(0, self._stored_bytes - offset)
        idle = self._idle
        if idle is None:
            self._idle = idle = []
        try:
            fd = idle.pop()
        except IndexError:
            fd = self._open()
        try:
            at = self.data_set_offset + offset
            if not wait:
                if read_cached(fd, holes, at, self._device) != wanted:
                    return False
            elif not self._fill(fd, holes, at, wanted):
                raise SourceChanged(f"{self.path!r} ended before its data set did: it was cut after it was scanned")
            if offset and end == self.length_bytes:
                self._check_unchanged(os.fstat(fd))
            return True
        finally:
            idle.append(fd)
            if self._idle is not idle:  # closed meanwhile
                _close_all(idle)

    def view(self) -> memoryview | None:
        """None: the bytes are on a disk."""
        return None

    def let_go(self) -> None:
        """Nothing to do: nothing is in memory."""

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        idle, self._idle = self._idle, None
        if idle:
            _close_all(idle)

    def __del__(self) -> None:
        if getattr(self, "_idle", None):
            self.close()

    def _fill(self, fd: int, holes: Sequence[memoryview], at: int, wanted: int) -> bool:
        if preadv is not None and len(holes) <= IOV_MAX and preadv(fd, holes, at) == wanted:
            return True
        # A short read is rare enough to begin again; only the end of the file is short twice.
        return read_fully(fd, holes, at) == wanted

    def _open(self) -> int:
        try:
            fd = open_for_reading(self.path)
        except FileNotFoundError as error:
            raise SourceChanged(f"{self.path!r} vanished after it was scanned") from error
        try:
            status = os.fstat(fd)
            self._check_unchanged(status)
        except BaseException:
            os.close(fd)
            raise
        self._device = status.st_dev
        return fd

    def _check_unchanged(self, status: os.stat_result) -> None:
        if status.st_size != self.size_bytes:
            raise SourceChanged(
                f"{self.path!r} changed after it was scanned: {status.st_size} bytes, not {self.size_bytes}"
            )
        if status.st_mtime_ns != self.mtime_ns:
            raise SourceChanged(f"{self.path!r} was written to after it was scanned")


def _close_all(idle: list[int]) -> None:
    """Close these descriptors; another thread may be about to do the same, and each is closed once."""
    while True:
        try:
            fd = idle.pop()
        except IndexError:
            return
        os.close(fd)


def _before_padding(holes: Sequence[memoryview], stored_bytes: int) -> list[memoryview]:
    """The part of the holes that the file fills; what lies behind is set to zero."""
    kept: list[memoryview] = []
    room = max(0, stored_bytes)
    for hole in holes:
        part = hole[:room]
        hole[room:] = bytes(len(hole) - len(part))
        if len(part):
            kept.append(part)
        room -= len(part)
    return kept


class HeldSource(FileSource):
    """A data set in a small file, whose bytes (`held`, the whole file's with its padding) the scan read anyway."""

    __slots__ = ("_held",)

    def __init__(
        self,
        path: str,
        data_set_offset: int,
        length: int,
        size_bytes: int,
        mtime_ns: int,
        held: bytearray,
        *,
        padding_bytes: int = 0,
    ) -> None:
        super().__init__(path, data_set_offset, length, size_bytes, mtime_ns, padding_bytes=padding_bytes)
        self._held: bytearray | None = held

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Copy into the holes, or fill them from the file once the bytes were let go; see DataSource."""
        view = self.view()
        if view is None:
            return super().read_into(holes, offset, wait=wait)
        return _copy_into(holes, view, offset)

    def view(self) -> memoryview | None:
        """The data set, without a copy, until it is let go."""
        held = self._held
        if held is None:
            return None
        return memoryview(held)[self.data_set_offset : self.data_set_offset + self.length_bytes]

    def let_go(self) -> None:
        """Read from the file from now on."""
        self._held = None


class BytesSource:
    """A data set in memory: `length` bytes of `data` from `offset` on."""

    __slots__ = ("_view", "length_bytes")

    def __init__(self, data: bytes | bytearray | memoryview, offset: int = 0, length: int | None = None) -> None:
        view = memoryview(data).cast("B")
        end = len(view) if length is None else offset + length
        if not 0 <= offset <= end <= len(view):
            raise ValueError(f"bytes {offset} to {end} of {len(view)} bytes")
        self._view = view[offset:end]
        self.length_bytes = end - offset

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Copy into the holes; always True. See DataSource."""
        return _copy_into(holes, self._view, offset)

    def view(self) -> memoryview | None:
        """The data set, without a copy; it is only to be read, since it is sent again on a retry."""
        return self._view

    def let_go(self) -> None:
        """Nothing to do: there is nowhere to read the bytes again from."""

    def close(self) -> None:
        """Nothing to do: the bytes stay, for a retry too."""


def _copy_into(holes: Sequence[memoryview], view: memoryview, offset: int) -> bool:
    end = offset + sum(map(len, holes))
    if offset < 0 or end > len(view):
        raise ValueError(f"holes for bytes {offset} to {end} of a data set of {len(view)} bytes")
    for hole in holes:
        next_offset = offset + len(hole)
        hole[:] = view[offset:next_offset]
        offset = next_offset
    return True
