"""Sources of the bytes of a data set: a file, memory, or a small file that the scan has read already.

A sender writes its headers into a wire buffer and hands out the holes between them; `read_into` fills the holes. No
source looks at the bytes. Every source can be read again from the start, even after `close()`, for a retry.
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

# The most buffers that one preadv takes on Linux; other systems allow at least as many.
IOV_MAX: Final = 1024

# Not every system has these. Each use looks them up by these names, so that tests can remove them.
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
        # Another process holds a lease on the file, as a Samba server does: wait for it, as any reader would.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise
        return os.open(path, OPEN_FLAGS & ~_O_NONBLOCK)


def read_ahead(fd: int, at: int, length: int) -> None:
    """Ask the system to load a part of an open file into memory, if it can be asked; never fails."""
    if posix_fadvise is not None:
        with contextlib.suppress(OSError):  # reading the file will report what is wrong with it
            posix_fadvise(fd, at, length, os.POSIX_FADV_WILLNEED)


class DataSource(Protocol):
    """Gives the bytes of one data set. Implement it to send from elsewhere, e.g. an object store.

    It must be safe to use from several threads: several associations may send one instance at once, and `close` may be
    called while a thread still reads for a task that was cancelled.

    If `view` or `read_into` raises an Exception, or `read_into` does not return True when it may wait, the instance's
    outcome is SOURCE_PROBLEM, and the others go on; in the middle of a message the association is aborted for it.
    """

    @property
    def length_bytes(self) -> int:
        """The length of the data set in bytes."""

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Fill the holes, in order, with the data set's bytes from `offset`.

        Returns True when the holes are full. With `wait=False` it may return False at once, if the bytes are not in
        memory and it would have to wait for a disk; the contents of the holes are then undefined. Raises SourceChanged
        if the data set has changed since the scan, OSError if it cannot be read, ValueError if the holes reach beyond
        its end.
        """

    def view(self) -> memoryview | None:
        """The whole data set as one view, which must not be written to; None if it is not in memory."""

    def let_go(self) -> None:
        """Free the memory of bytes that can be read again; `view` then returns None."""

    def close(self) -> None:
        """Close files and the like. `read_into` may be called again afterwards."""


def read_some(fd: int, holes: Sequence[memoryview | bytearray], at: int) -> int:
    """Fill holes from the offset `at` of an open file with one system call. Returns the bytes read, maybe fewer."""
    if preadv is not None:
        return preadv(fd, holes, at)
    with io.FileIO(fd, "rb", closefd=False) as file:
        file.seek(at)
        return file.readinto(holes[0]) or 0


def read_fully(fd: int, holes: Sequence[memoryview | bytearray], at: int) -> int:
    """Fill holes from the offset `at` of an open file. Returns the bytes read: fewer only at the end of the file."""
    pending = [memoryview(hole) for hole in holes if len(hole)]
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


def read_cached(fd: int, holes: Sequence[memoryview | bytearray], at: int, device: int) -> int | None:
    """Fill holes as far as the bytes are in memory. Returns the bytes read; None if none are in memory.

    `device` is the file's st_dev. If the system or the file system cannot tell, this reads as usual.
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
    """A data set in a file, read when it is needed: `length` bytes from `data_set_offset` of the file `path`.

    `size_bytes` and `mtime_ns` are the whole file's when it was scanned; if either differs later, reading raises
    SourceChanged. `padding_bytes` zeros are sent after the bytes of the file (PS3.5 A.5: a deflated stream of odd
    length), and `length_bytes` counts them too.
    """

    # A reader takes an idle descriptor or opens one. No other thread can close it meanwhile, so its number cannot come
    # to mean another file. `close` closes the idle ones; each reader then closes its own.

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
        self.path: str = path
        self.data_set_offset: int = data_set_offset
        self.length_bytes: int = length + padding_bytes
        self.size_bytes: int = size_bytes
        self.mtime_ns: int = mtime_ns
        self._stored_bytes = length
        self._idle: _Descriptors | None = None  # None when closed
        self._device = 0

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Fill the holes from the file, with one preadv if the system has it; see DataSource."""
        wanted = sum(map(len, holes))
        end = offset + wanted
        if offset < 0 or end > self.length_bytes:
            raise ValueError(f"holes for bytes {offset} to {end} of a data set of {self.length_bytes} bytes")
        if end > self._stored_bytes:
            holes = zero_padding(holes, self._stored_bytes - offset)
            wanted = max(0, self._stored_bytes - offset)
        idle = self._idle
        if idle is None:
            self._idle = idle = _Descriptors()
        try:
            fd = idle.pop()
        except IndexError:
            fd = self.open()
        try:
            at = self.data_set_offset + offset
            if not wait:
                if read_cached(fd, holes, at, self._device) != wanted:
                    return False
            elif not self._fill(fd, holes, at, wanted):
                raise SourceChanged("the file ended before its data set did: it was cut after it was scanned")
            if offset and end == self.length_bytes:
                self.check_unchanged(os.fstat(fd))
            return True
        finally:
            idle.append(fd)
            if self._idle is not idle:  # closed meanwhile
                idle.close()

    def view(self) -> memoryview | None:
        """None: the bytes are not in memory."""
        return None

    def let_go(self) -> None:
        """Nothing to do: no bytes are in memory."""

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.close()

    def _fill(self, fd: int, holes: Sequence[memoryview], at: int, wanted: int) -> bool:
        if preadv is not None and len(holes) <= IOV_MAX and preadv(fd, holes, at) == wanted:
            return True
        # A short read is rare, so begin again; only the end of the file is short twice.
        return read_fully(fd, holes, at) == wanted

    def open(self) -> int:
        """A new descriptor of the file, as it was scanned; the caller closes it."""
        try:
            fd = open_for_reading(self.path)
        except FileNotFoundError as error:
            raise SourceChanged("the file vanished after it was scanned") from error
        try:
            status = os.fstat(fd)
            self.check_unchanged(status)
        except BaseException:
            os.close(fd)
            raise
        self._device = status.st_dev
        return fd

    def check_unchanged(self, status: os.stat_result) -> None:
        """Raise SourceChanged if this is another file than the one that was scanned, or if it was written to."""
        if status.st_size != self.size_bytes:
            raise SourceChanged("the size of the file changed after it was scanned")
        if status.st_mtime_ns != self.mtime_ns:
            raise SourceChanged("the file was written to after it was scanned")


class _Descriptors(list[int]):
    """Open descriptors of one file, which are closed with the last use of them: most sources never have any."""

    def close(self) -> None:
        """Close them, each once, even if another thread does the same."""
        while True:
            try:
                fd = self.pop()
            except IndexError:
                return
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def zero_padding(holes: Sequence[memoryview], stored_bytes: int) -> list[memoryview]:
    """Set the holes behind the stored bytes to zero; returns the part of the holes that is still to be filled."""
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
    """A data set in a small file that the scan has read: `held` is the whole file, and the padding."""

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
        # Without a call of FileSource's: there is one of these for each small file.
        self.path = path
        self.data_set_offset = data_set_offset
        self.length_bytes: int = length + padding_bytes
        self.size_bytes = size_bytes
        self.mtime_ns = mtime_ns
        self._stored_bytes = length
        self._idle: _Descriptors | None = None
        self._device = 0
        self._held: bytearray | None = held

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Copy the bytes into the holes, or read the file after `let_go`; see DataSource."""
        view = self.view()
        if view is None:
            return super().read_into(holes, offset, wait=wait)
        return copy_into(holes, view, offset)

    def view(self) -> memoryview | None:
        """The data set, without a copy; None after `let_go`."""
        held = self._held
        if held is None:
            return None
        return memoryview(held)[self.data_set_offset : self.data_set_offset + self.length_bytes]

    def let_go(self) -> None:
        """Free the bytes, and read the file from now on."""
        self._held = None


class HeldPart(HeldSource):
    """A data set in a part of a file that the scan has read: `held` is that part, and the data set is at `held_at`."""

    __slots__ = ("_held_at",)

    def __init__(
        self,
        path: str,
        data_set_offset: int,
        length: int,
        size_bytes: int,
        mtime_ns: int,
        held: bytearray,
        held_at: int,
        *,
        padding_bytes: int = 0,
    ) -> None:
        super().__init__(path, data_set_offset, length, size_bytes, mtime_ns, held, padding_bytes=padding_bytes)
        self._held_at = held_at

    @property
    def held_bytes(self) -> int:
        """The memory that the source takes while it waits."""
        return 0 if self._held is None else len(self._held)

    def view(self) -> memoryview | None:
        """The data set, without a copy; None after `let_go`."""
        held = self._held
        return None if held is None else memoryview(held)[self._held_at : self._held_at + self.length_bytes]


class BytesSource:
    """A data set in memory: `length` bytes of `data` from `offset`, by default all of them.

    `length_bytes` is how many that are.
    """

    __slots__ = ("_view", "length_bytes")

    def __init__(self, data: bytes | bytearray | memoryview, offset: int = 0, length: int | None = None) -> None:
        view = memoryview(data).cast("B")
        end = len(view) if length is None else offset + length
        if not 0 <= offset <= end <= len(view):
            raise ValueError(f"bytes {offset} to {end} of {len(view)} bytes")
        self._view = view[offset:end]
        self.length_bytes: int = end - offset

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        """Copy the bytes into the holes; returns True. See DataSource."""
        return copy_into(holes, self._view, offset)

    def view(self) -> memoryview | None:
        """The data set, without a copy. It must not be written to: a retry sends it again."""
        return self._view

    def let_go(self) -> None:
        """Nothing to do: the bytes are nowhere else."""

    def close(self) -> None:
        """Nothing to do: the bytes stay in memory, for a retry."""


def copy_into(holes: Sequence[memoryview], view: memoryview, offset: int) -> bool:
    """Fill the holes with the bytes of a view from an offset; returns True."""
    end = offset + sum(map(len, holes))
    if offset < 0 or end > len(view):
        raise ValueError(f"holes for bytes {offset} to {end} of a data set of {len(view)} bytes")
    for hole in holes:
        next_offset = offset + len(hole)
        hole[:] = view[offset:next_offset]
        offset = next_offset
    return True
