"""Receives an instance into a file, which becomes a DICOM file only when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from asyncstore.instances.elements import CutShort
from asyncstore.instances.identity import Refused, uids_of_data_set
from asyncstore.instances.part10 import file_meta_information
from asyncstore.instances.source import OPEN_FLAGS
from asyncstore.record import field, record
from asyncstore.status import Status
from asyncstore.uids import LONGEST_UID_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncstore.dimse.messages import CStoreRQ

# The start of a whole file, preamble and prefix (PS3.10 7.1), and the text in its place until the file is whole.
_WHOLE: Final = bytes(128) + b"DICM"
_UNFINISHED: Final = b"Not a DICOM file: the instance was not received whole.\n".ljust(len(_WHOLE))
_WRITE_BYTES: Final = 1 << 20
# A file up to this size is written in the event loop while that is quick: waiting for a thread costs more than the
# writing, and nothing is read from the peer meanwhile. 2,000 files of 9 KB take a third of the system calls so, and
# three quarters of the processor's time.
_SMALL_BYTES: Final = 1 << 16
_SLOW_SECONDS: Final = 0.005  # twenty times as long as it usually takes
_FIRST_SLOW_SECONDS: Final = 1.0
_LAST_SLOW_SECONDS: Final = 64.0
_OPEN_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

# PS3.4 Table B.2-1: A900 says that the data set does not match the SOP class, each of which demands both UIDs (PS3.3
# C.12.1). Sending it again would not help. C000 says that the data set cannot be understood.
EMPTY: Final = Status(0xA900, "the data set is empty")
_OTHER_SOP_INSTANCE: Final = Status(0xA900, "the data set has another SOP Instance UID")
_NO_SOP_INSTANCE: Final = Status(0xA900, "the data set has no SOP Instance UID")
_OTHER_SOP_CLASS: Final = Status(0xA900, "the data set has another SOP Class UID, or none")
_UNREADABLE: Final = Status(0xC000, "the data set is not in its transfer syntax")

# One of them is taken while a file gets its name: two threads may keep the same instance at once.
_NAMING: Final = tuple(threading.Lock() for _ in range(64))


class NotOfTheRequest(Exception):
    """The data set is not that of the instance that the request names; `status` is the answer."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.comment)
        self.status = status


class Pace:
    """Decides where small files of a directory are written: in threads for a while after one that was slow."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._wait_seconds = _FIRST_SLOW_SECONDS

    def is_quick(self, now: float) -> bool:
        """Whether the event loop may write the next one."""
        return now >= self._next_at

    def wrote(self, began_at: float, ended_at: float) -> None:
        """Note how long one took in the event loop."""
        if ended_at - began_at > _SLOW_SECONDS:
            self._next_at = ended_at + self._wait_seconds
            self._wait_seconds = min(2 * self._wait_seconds, _LAST_SLOW_SECONDS)
        else:
            self._wait_seconds = _FIRST_SLOW_SECONDS


@record(slots=True)
class PartFile:
    """A file that is being received; it becomes a DICOM file, and then gets its name, when it is whole.

    If the process dies, no reader takes the remains for a DICOM file. A worker thread writes the collected bytes about
    1 MiB at a time, since a slow disk must not stall the other associations; `pace` decides about small files.

    `path` is set when the file is whole; `error` says why it is not kept. `replaced` describes the file of this name
    that it took the place of, if that had other bytes.
    """

    directory: Path
    request: CStoreRQ
    transfer_syntax_uid: str
    pace: Pace = field(default_factory=Pace)
    _pending: list[bytes] = field(default_factory=list)
    _pending_bytes: int = 0
    _fd: int = -1
    _part_path: Path | None = None
    path: Path | None = None
    error: OSError | NotOfTheRequest | None = None
    replaced: str | None = None

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Take a piece. If this returns an awaitable, await it before the next piece."""
        if data and self.error is None:  # a peer may send any number of empty fragments
            self._pending.append(data)
            self._pending_bytes += len(data)
            if self._pending_bytes >= _WRITE_BYTES:
                return self._in_thread(self._write_pending)
        return None

    def finish(self) -> Awaitable[None] | None:
        """Write the rest and give the file its name: then `path` is set, or `error` says why it cannot be kept.

        If this returns an awaitable, await it first.
        """
        began_at = time.monotonic()
        is_small = self._fd < 0 and self._pending_bytes <= _SMALL_BYTES
        if self.error is None and is_small and self.pace.is_quick(began_at):
            self._attempt(self._keep)
            self.pace.wrote(began_at, time.monotonic())
            if self.error is None:
                return None
        return self._in_thread(self._keep)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, NotOfTheRequest) as error:
            self.error = error

    async def _in_thread(self, action: Callable[[], object]) -> None:
        if self.error is None:
            await anyio.to_thread.run_sync(self._attempt, action)
        if self.error is not None:
            self._pending.clear()
            await self.discard()

    async def discard(self) -> None:
        """Remove the file; does nothing if it does not exist yet or has its name."""
        if self._part_path is not None:
            await anyio.to_thread.run_sync(self._discard, self._part_path)

    def _keep(self) -> None:
        path = self.directory / f"{self.request.affected_sop_instance_uid}.dcm"
        self._write_pending(is_whole=True)
        assert self._part_path is not None
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._write_all(_WHOLE)
        self._name(self._part_path, path)
        self._part_path = None
        self._close()
        self.path = path

    def _name(self, part_path: Path, path: Path) -> None:
        """Give the file its name, and compare it with the one that had it before."""
        earlier = -1
        try:
            with _NAMING[hash(path.name) % len(_NAMING)]:
                with contextlib.suppress(OSError):  # nearly always there is none
                    earlier = os.open(path, OPEN_FLAGS)
                os.replace(part_path, path)
            if earlier >= 0 and not _are_same(earlier, self._fd):
                self.replaced = _description(earlier)
        finally:
            if earlier >= 0:
                os.close(earlier)

    def _discard(self, part_path: Path) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            part_path.unlink()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write_pending(self, *, is_whole: bool = False) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        if self._fd < 0:
            _check_identity(self.request, data, self.transfer_syntax_uid, is_whole=is_whole)
            data = self._open() + data
        self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    def _open(self) -> bytes:
        """Create the file; returns what it begins with until it is whole."""
        # The same instance may be arriving on two associations, and an earlier part may have been left by a crash.
        part_path = self.directory / f".{self.request.affected_sop_instance_uid}.{secrets.token_hex(8)}.part"
        self._fd = os.open(part_path, _OPEN_FLAGS, 0o666)
        self._part_path = part_path
        return _UNFINISHED + file_meta_information(self.request, self.transfer_syntax_uid)


def _check_identity(request: CStoreRQ, data: bytes, transfer_syntax_uid: str, *, is_whole: bool) -> None:
    """Raise NotOfTheRequest if the data set, or its beginning, names another SOP class or instance, or none."""
    if not data:
        raise NotOfTheRequest(EMPTY)
    try:
        uids = uids_of_data_set(data, transfer_syntax_uid, complete=is_whole)
    except (CutShort, Refused):
        if is_whole:
            raise NotOfTheRequest(_UNREADABLE) from None
        return
    if uids is None:  # it may be in another transfer syntax, as some senders do it: readers cope
        return
    sop_class_uid, sop_instance_uid = uids
    # A request has no room for more characters of a longer UID.
    if sop_instance_uid[:LONGEST_UID_CHARACTERS] != request.affected_sop_instance_uid:
        raise NotOfTheRequest(_OTHER_SOP_INSTANCE if sop_instance_uid else _NO_SOP_INSTANCE)
    if sop_class_uid != request.affected_sop_class_uid:
        raise NotOfTheRequest(_OTHER_SOP_CLASS)


def _are_same(earlier: int, later: int) -> bool:
    """Whether two open files have the same bytes."""
    if os.fstat(earlier).st_size != os.fstat(later).st_size:
        return False
    for fd in (earlier, later):
        os.lseek(fd, 0, os.SEEK_SET)
    while data := os.read(earlier, _WRITE_BYTES):
        if os.read(later, len(data)) != data:
            return False
    return True


def _description(fd: int) -> str:
    status = os.fstat(fd)
    written_at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.st_mtime))
    return f"the file of {status.st_size:,} bytes that was written at {written_at}"
