"""Receives an instance into a file, which becomes a DICOM file only when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio.to_thread

from asyncstore.instances.elements import CutShort
from asyncstore.instances.identity import Refused, uids_of_data_set
from asyncstore.instances.part10 import file_meta_information
from asyncstore.record import field, record
from asyncstore.services.disk_room import NoRoom
from asyncstore.services.filing import (
    AlreadyStored,
    Filed,
    NotWritten,
    Place,
    is_out_of_space,
    make_durable,
    name_if_new,
    settle,
)
from asyncstore.status import Status
from asyncstore.uids import LONGEST_UID_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncstore.dimse.messages import CStoreRQ
    from asyncstore.services.disk_room import DiskRoom
    from asyncstore.services.filing import OnExisting

# The start of a whole file, preamble and prefix (PS3.10 7.1), and the text in its place until the file is whole.
WHOLE: Final = bytes(128) + b"DICM"
UNFINISHED: Final = b"Not a DICOM file: the instance was not received whole.\n".ljust(len(WHOLE))
PART_NAME: Final = r"\.[0-9.]{1,64}\.[0-9a-f]{16}\.part"
"""How the file of an instance is named until it is whole."""
# Bytes that are collected before they are written: of one data set, and of all together. A thread takes 100 us.
_WRITE_BYTES: Final = 1 << 20
_COLLECTED_BYTES: Final = 8 << 20
# A peer may send two bytes at a time. A piece of its own takes 40 bytes more.
_TINY_BYTES: Final = 512
# A file up to this size is written in the event loop while that is quick: waiting for a thread costs more than the
# writing, and nothing is read from the peer meanwhile. 2,000 files of 9 KB take a third of the system calls so, and
# three quarters of the processor's time.
_SMALL_BYTES: Final = 1 << 16
# The UIDs are among the first elements. A MB of elements without values takes a third of a second to look through.
_HEAD_BYTES: Final = 1 << 16
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
# PS3.7 C.5.7.
_DUPLICATE: Final = Status(0x0111, "another data set is stored under this UID")
_NO_ROOM: Final = Status(0xA700, "no more bytes may be kept")
_CANNOT_WRITE: Final = Status(0xA700, "cannot write the file")


class NotOfTheRequest(Exception):
    """The data set is not that of the instance that the request names; `status` is the answer."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.comment)
        self.status = status


NotKept: TypeAlias = OSError | NotOfTheRequest | AlreadyStored


def answer_to(error: NotKept) -> Status:
    """The status for an instance that is not kept because of this."""
    if isinstance(error, NotOfTheRequest):
        return error.status
    if isinstance(error, AlreadyStored):
        return _DUPLICATE
    return _NO_ROOM if isinstance(error, NoRoom) else _CANNOT_WRITE


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

    If the process dies, no reader takes the remains for a DICOM file. A worker thread writes the collected bytes, since
    a slow disk must not stall the other associations: 1 MiB at a time, less if many files (`beside`) arrive at once.
    `pace` decides about small files.

    `place` is set when the file is whole; `error` says why it is not kept. `room` is what its bytes count for. `sync`:
    it is on the disk then, whatever happens to this machine.

    Where there is no room for it, it may still be stored already: then it is not written, and `place` is where it is.
    """

    directory: Path
    request: CStoreRQ
    transfer_syntax_uid: str
    pace: Pace = field(default_factory=Pace)
    on_existing: OnExisting = "rename"
    room: DiskRoom | None = None
    sync: bool = False
    beside: int = 0
    _pending: list[bytes | bytearray] = field(default_factory=list)
    _pending_bytes: int = 0
    _taken_bytes: int = 0
    _fd: int = -1
    _is_whole: bool = False
    _part_path: Path | None = None
    _data_set_at: int = 0
    _written_bytes: int = 0  # of the data set
    _not_written: NotWritten | None = None
    place: Place | None = None
    error: NotKept | None = None

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Take a piece. If this returns an awaitable, await it before the next piece."""
        if not data or self.error is not None:  # a peer may send any number of empty fragments
            return None
        pending = self._pending
        if len(data) >= _TINY_BYTES or not pending:
            pending.append(data)
        elif isinstance(pending[-1], bytearray):
            pending[-1] += data
        else:
            pending.append(bytearray(data))
        self._pending_bytes += len(data)
        if self._pending_bytes < _SMALL_BYTES or self._pending_bytes < self._piece_bytes:
            return None
        return self._in_thread(self._write_pending)

    @property
    def _piece_bytes(self) -> int:
        """How many bytes are collected before they are written."""
        return min(_WRITE_BYTES, _COLLECTED_BYTES // (1 + self.beside))

    def finish(self) -> Awaitable[None] | None:
        """Write the rest and give the file its name: then `place` is set, or `error` says why it cannot be kept.

        If this returns an awaitable, await it first.
        """
        began_at = time.monotonic()
        is_small = self._fd < 0 and self._pending_bytes <= _SMALL_BYTES and self._not_written is None
        if self.error is None and is_small and not self.sync and self.pace.is_quick(began_at):
            self._attempt(self._name_if_new)
            self.pace.wrote(began_at, time.monotonic())
            if self.place is not None:
                return None
        return self._in_thread(self._keep)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, NotOfTheRequest, AlreadyStored) as error:
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
        else:
            self._give_back()

    def _name_if_new(self) -> None:
        """Write the rest, and give the file its name if no file has it."""
        part_path = self._make_whole()
        if part_path is not None and name_if_new(part_path, self._path):
            self._placed(Place(self._path, Filed.NEW))

    def _keep(self) -> None:
        part_path = self._make_whole()
        if part_path is not None:
            place = settle(part_path, self._path, self.on_existing)
        else:
            assert self._not_written is not None
            place = self._not_written.settle()
        if self.sync:
            make_durable(place.path)
        self._placed(place)

    def _make_whole(self) -> Path | None:
        """Write the rest, and make it a DICOM file, unless that was done before; None if it is not written."""
        if self._is_whole:
            return self._part_path
        if self._pending or (self._fd < 0 and self._not_written is None):
            self._write_pending(is_whole=True)
        if self._not_written is not None:
            return None
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._write_all(WHOLE)
        if self.sync:
            os.fsync(self._fd)
        self._close()
        self._is_whole = True
        return self._part_path

    @property
    def path(self) -> Path | None:
        """Where the whole file is; None until then."""
        return self.place and self.place.path

    @property
    def _path(self) -> Path:
        return self.directory / f"{self.request.affected_sop_instance_uid}.dcm"

    def _placed(self, place: Place) -> None:
        self._part_path = None
        if self.room is not None and place.how is Filed.SAME_AGAIN:
            self._give_back()
        elif self.room is not None:
            self.room.give_back(place.earlier_bytes)
        self._taken_bytes = 0
        self.place = place

    def _discard(self, part_path: Path) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            part_path.unlink()
            self._give_back()

    def _give_back(self) -> None:
        count, self._taken_bytes = self._taken_bytes, 0
        if self.room is not None:
            self.room.give_back(count)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write_pending(self, *, is_whole: bool = False) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        if self._not_written is not None:
            self._not_written.add(data)
            return
        start = b""
        if self._fd < 0:
            _check_identity(self.request, data, self.transfer_syntax_uid, is_whole=is_whole)
            start = UNFINISHED + file_meta_information(self.request, self.transfer_syntax_uid)
            self._data_set_at = len(start)
        try:
            if self.room is not None:
                self.room.take(len(start) + len(data))
                self._taken_bytes += len(start) + len(data)
            if self._fd < 0:
                self._open()
            self._write_all(start + data)
            self._written_bytes += len(data)
        except OSError as error:
            if not isinstance(error, NoRoom) and not is_out_of_space(error):
                raise
            self._write_no_more(error, data)

    def _write_no_more(self, error: OSError, data: bytes) -> None:
        """There was no room for these bytes: only look at them, if the data set may be stored already."""
        not_written = NotWritten(self._path, self.transfer_syntax_uid, error)
        if self._part_path is not None:
            not_written.add_written(self._part_path, self._data_set_at, self._written_bytes)
            self._discard(self._part_path)
            self._part_path = None
        not_written.add(data)
        self._not_written = not_written

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    def _open(self) -> None:
        # The same instance may be arriving on two associations, and an earlier part may have been left by a crash.
        part_path = self.directory / f".{self.request.affected_sop_instance_uid}.{secrets.token_hex(8)}.part"
        self._fd = os.open(part_path, _OPEN_FLAGS, 0o666)
        self._part_path = part_path


def _check_identity(request: CStoreRQ, data: bytes, transfer_syntax_uid: str, *, is_whole: bool) -> None:
    """Raise NotOfTheRequest if the data set, or its beginning, names another SOP class or instance, or none."""
    if not data:
        raise NotOfTheRequest(EMPTY)
    try:
        uids = _uids_of(data, transfer_syntax_uid, is_whole=is_whole)
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


def _uids_of(data: bytes, transfer_syntax_uid: str, *, is_whole: bool) -> tuple[str, str] | None:
    if len(data) > _HEAD_BYTES:
        try:
            return uids_of_data_set(data[:_HEAD_BYTES], transfer_syntax_uid, complete=False)
        except (CutShort, Refused):  # an element reaches beyond: then the rest tells
            pass
    return uids_of_data_set(data, transfer_syntax_uid, complete=is_whole)
