"""Collects bytes in memory, and in a temporary file when there are many."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances.source import BytesSource, FileSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from asyncstore.instances.elements import Buffer


# Data sets up to this size are converted in memory.
SPOOL_BYTES: Final = 64 * 1048576
PIECE_BYTES: Final = 1048576


class NoTemporaryFile(SourceError):
    """A data set is too large to be converted in memory, and no temporary file can be written. It is not at fault."""

    retryable = True


class TemporarySource(FileSource):
    """A converted data set in a temporary file, which is deleted with the source."""

    __slots__ = ("_file",)

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file = file
        super().__init__("a converted data set", 0, length, length, 0)

    def __del__(self) -> None:
        self._file.close()

    def open(self) -> int:
        return os.dup(self._file.fileno())  # the file has no name by which it could be opened again

    def check_unchanged(self, status: os.stat_result) -> None:
        """Nothing to check: no other program can reach the file."""


class Spool:
    """Takes bytes in memory first, and in a temporary file beyond SPOOL_BYTES."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None
        self._mapping: mmap.mmap | None = None
        self._length = 0

    def write(self, data: Buffer) -> None:
        self._length += len(data)
        self._buffer += data
        if len(self._buffer) >= (SPOOL_BYTES if self._file is None else PIECE_BYTES):
            self._flush()

    @property
    def length_bytes(self) -> int:
        """How many bytes there are."""
        return self._length

    def view(self) -> memoryview:
        """All the bytes as one view; of a file, as a memory mapping, since no other program can truncate that file.

        The mapping is freed with its last view. It cannot be closed while the traceback of an error holds one.
        """
        if self._file is None:
            return memoryview(self._buffer)
        self._flush()
        with _blaming_the_temporary_file():
            self._mapping = mmap.mmap(self._file.fileno(), self._length, access=mmap.ACCESS_READ)
        return memoryview(self._mapping)

    def let_go(self) -> None:
        """Free the memory of what was read of a view, which stays valid: it is in the file."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def to_source(self) -> BytesSource | FileSource:
        """Turn the bytes into a data source, which then owns them."""
        if self._file is None:
            return BytesSource(self._buffer)
        self._flush()
        file, self._file = self._file, None
        return TemporarySource(file, self._length)

    def to_descriptor(self) -> int:
        """Turn the bytes into an open file without a name, for another process; the caller closes it."""
        if self._file is None and hasattr(os, "memfd_create"):
            with _blaming_the_temporary_file():
                descriptor = os.memfd_create("asyncstore")
                with open(descriptor, "wb", buffering=0, closefd=False) as file:
                    _write_all(file, self._buffer)
            return descriptor
        self._flush()
        assert self._file is not None
        return os.dup(self._file.fileno())

    def discard(self) -> None:
        self._buffer = bytearray()
        self._mapping = None
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        with _blaming_the_temporary_file(), memoryview(self._buffer) as rest:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="asyncstore-", buffering=0)  # noqa: SIM115 - see discard
            _write_all(self._file, rest)
        self._buffer.clear()


def _write_all(file: IO[bytes], data: Buffer) -> None:
    written = 0
    with memoryview(data) as rest:
        while written < len(rest):
            written += file.write(rest[written:])


@contextlib.contextmanager
def _blaming_the_temporary_file() -> Iterator[None]:
    """Turn an error of the system into NoTemporaryFile: it is not the fault of the file that is converted."""
    try:
        yield
    except OSError as error:
        raise NoTemporaryFile(f"converting it needs a temporary file{_where()}: {error.strerror or error}") from error


def _where() -> str:
    try:
        return f" in {tempfile.gettempdir()}"
    except OSError:  # there is none, and the caller's error says where Python looked
        return ""
