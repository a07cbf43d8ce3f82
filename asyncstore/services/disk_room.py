"""How many bytes the files of a directory may have: receiving stops before they have more."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncstore.net.connections import Rarely

if TYPE_CHECKING:
    import logging
    from pathlib import Path

# Files may be taken out of the directory by others. To look takes a second or two for a million files.
_LOOK_SECONDS: Final = 60.0
_LOOKING_SHARE: Final = 0.02


class NoRoom(OSError):
    """The files would have more bytes than they may have."""


class DiskRoom:
    """The bytes that the files of a directory have, and may have; several threads may ask.

    `watch` looks at the files now and then, since others may remove some.
    """

    def __init__(self, directory: Path, maximum_bytes: int, logger: logging.Logger) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_bytes
        self._used_bytes = 0
        self._lock = threading.Lock()
        self._refusing = Rarely(logger)

    def take(self, count: int) -> None:
        """Count bytes that are about to be written. Raises NoRoom if there is no room for them."""
        with self._lock:
            if self._used_bytes + count > self._maximum_bytes:
                raise NoRoom("no more bytes may be kept")
            self._used_bytes += count

    def tell(self) -> None:
        """Log that an instance is refused for want of room."""
        self._refusing.warn(
            f"instances are refused: {self._used_bytes:,} bytes are kept in {str(self._directory)!r}, and no more than "
            f"{self._maximum_bytes:,} may be"
        )

    def give_back(self, count: int) -> None:
        """Count bytes that were removed."""
        with self._lock:
            self._used_bytes -= count

    async def look(self) -> None:
        """Count the bytes of the files. What is written meanwhile may count twice, until the next look."""
        before = self._used_bytes
        found = await anyio.to_thread.run_sync(_bytes_in, self._directory)
        with self._lock:
            self._used_bytes = found + max(0, self._used_bytes - before)

    async def watch(self) -> None:
        """Look now and then, until cancelled."""
        wait_seconds = _LOOK_SECONDS
        while True:
            await anyio.sleep(wait_seconds)
            began_at = time.monotonic()
            await self.look()
            wait_seconds = max(_LOOK_SECONDS, (time.monotonic() - began_at) / _LOOKING_SHARE)


def _bytes_in(directory: Path) -> int:
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
            except OSError:  # gone meanwhile
                continue
    return total
