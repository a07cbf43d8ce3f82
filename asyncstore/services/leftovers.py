"""Removes what a receiver that was killed left in its directory: files whose instance was never received whole."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING, Final

from asyncstore.services.part_file import PART_NAME, UNFINISHED, WHOLE

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = re.compile(PART_NAME)


class Claim:
    """Says to other processes that a directory is written to, until it is closed, or the process has ended.

    `removed` counts the unfinished files that were removed, `kept` those that may be another process's. No such file
    was ever answered with success. Blocks. Raises OSError if the directory cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self.removed: int = 0
        self.kept: int = 0
        self._descriptor = os.open(directory, os.O_RDONLY) if fcntl is not None else -1
        try:
            is_alone = self._lock(alone=True)
            self._look(directory, is_alone=is_alone)
            self._lock(alone=False)
        except BaseException:
            self.close()
            raise

    def _lock(self, *, alone: bool) -> bool:
        """Share the directory, or have it alone if no other process that receives has it; whether that was possible."""
        if fcntl is None:
            return False
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:  # another has it, or the file system has no locks
            return False
        return True

    def _look(self, directory: Path, *, is_alone: bool) -> None:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".part") and _NAME.fullmatch(entry.name) and _is_unfinished(entry.path):
                    with contextlib.suppress(OSError):
                        if is_alone:
                            os.unlink(entry.path)
                            self.removed += 1
                            continue
                    self.kept += 1

    def __del__(self) -> None:
        self.close()  # one that was made in a thread for a caller who was cancelled meanwhile

    def close(self) -> None:
        """Let others have the directory."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _is_unfinished(path: str) -> bool:
    """Whether a file is one of ours: it begins as such a file does, or is empty yet."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, "rb") as file:
            start = file.read(len(UNFINISHED))
    except OSError:
        return False
    return UNFINISHED.startswith(start) or WHOLE.startswith(start)
