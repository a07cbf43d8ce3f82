"""Receives an instance into a file, which becomes a DICOM file only when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from asyncstore.instances.part10 import file_meta_information

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncstore.dimse.messages import CStoreRQ

# The start of a whole file, preamble and prefix (PS3.10 7.1), and the text in its place until the file is whole.
_WHOLE: Final = bytes(128) + b"DICM"
_UNFINISHED: Final = b"Not a DICOM file: the instance was not received whole.\n".ljust(len(_WHOLE))
_WRITE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class PartFile:
    """A file that is being received; it becomes a DICOM file, and then gets its name, when it is whole.

    If the process dies, no reader takes the remains for a DICOM file. A worker thread writes the collected bytes about
    1 MiB at a time: a slow disk must not stall the other associations.

    `path` is set when the file is whole; `error` says why it could not be written.
    """

    directory: Path
    request: CStoreRQ
    transfer_syntax_uid: str
    _pending: list[bytes] = field(default_factory=list)
    _pending_bytes: int = 0
    _fd: int = -1
    _part_path: Path | None = None
    path: Path | None = None
    error: OSError | None = None

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Take a piece. If this returns an awaitable, await it before the next piece."""
        if data and self.error is None:  # a peer may send any number of empty fragments
            self._pending.append(data)
            self._pending_bytes += len(data)
            if self._pending_bytes >= _WRITE_BYTES:
                return self._in_thread(self._write_pending)
        return None

    def finish(self) -> Awaitable[None]:
        """Write the rest and give the file its name: then `path` is set, or `error` says why it cannot be kept."""
        return self._in_thread(self._keep)

    async def _in_thread(self, action: Callable[[], object]) -> None:
        if self.error is None:
            try:
                await anyio.to_thread.run_sync(action)
            except OSError as error:
                self.error = error
        if self.error is not None:
            self._pending.clear()
            await self.discard()

    async def discard(self) -> None:
        """Remove the file; does nothing if it does not exist yet or has its name."""
        if self._part_path is not None:
            await anyio.to_thread.run_sync(self._discard, self._part_path)

    def _keep(self) -> None:
        path = self.directory / f"{self.request.affected_sop_instance_uid}.dcm"
        self._write_pending()
        assert self._part_path is not None
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._write_all(_WHOLE)
        self._close()
        os.replace(self._part_path, path)
        self._part_path = None
        self.path = path

    def _discard(self, part_path: Path) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            part_path.unlink()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write_pending(self) -> None:
        if self._fd < 0:
            self._open()
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    def _open(self) -> None:
        # The same instance may be arriving on two associations, and an earlier part may have been left by a crash.
        part_path = self.directory / f".{self.request.affected_sop_instance_uid}.{secrets.token_hex(8)}.part"
        self._fd = os.open(part_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._part_path = part_path
        self._pending.insert(0, _UNFINISHED)
        self._pending.insert(1, file_meta_information(self.request, self.transfer_syntax_uid))
