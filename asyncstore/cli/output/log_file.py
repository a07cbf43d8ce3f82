"""The log in a file, with times: what `--log-file` writes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.documented_log import DocumentedLog
from asyncstore.cli.output.plain_text import path_text

if TYPE_CHECKING:
    from collections.abc import Iterator


# How each line begins: 2026-11-28 23:51:42.812
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ")
_STAMP_BYTES: Final = 24


class LogFile(DocumentedLog):
    """Appends log lines of level `threshold` and above to a file, each with its local time.

    Raises OSError if the file cannot be written, or has something else in it: a slip of the hand must not spoil an
    image. If it cannot be written later, an error is logged once, and no more is written: the run does not depend on
    its log.
    """

    def __init__(self, path: str, threshold: int) -> None:
        _check_log(path)
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            self._put("I: The log begins\n")
        except BaseException:
            os.close(self._descriptor)
            raise
        # This registers it: `logging` closes it when the interpreter ends, so it must be whole.
        super().__init__(threshold, self._append)

    def _append(self, text: str) -> None:
        if self._descriptor < 0:
            return
        try:
            self._put(f"{text}\n")
        except OSError as error:
            self.close()
            reason = error.strerror or error
            logging.getLogger("asyncstore.cli").error("cannot write the log %s: %s", path_text(self._path), reason)

    def _put(self, text: str) -> None:
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}.{int(now * 1000) % 1000:03}"
        data = "".join(f"{stamp} {line}\n" for line in text.splitlines()).encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        super().close()


def _check_log(path: str) -> None:
    """Raise OSError for a file that has something else than log lines; a pipe or a device takes anything."""
    with contextlib.suppress(FileNotFoundError, PermissionError):  # may be written, though not read
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                begin = file.read(_STAMP_BYTES)
            if begin and not _STAMP.fullmatch(begin):
                raise OSError(errno.EEXIST, "it is not the log of an earlier run, and is left as it is")


@contextlib.contextmanager
def logged_to(path: str, level: int) -> Iterator[None]:
    """Also write the log of the package at `level` and above to a file while the block runs. Raises OSError."""
    handler = LogFile(path, level)
    package = logging.getLogger("asyncstore")
    before = package.level
    package.addHandler(handler)
    package.setLevel(min(before, level))
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
        handler.close()
