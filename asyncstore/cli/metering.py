"""Keeps a file with the numbers of a run up to date, for a monitoring system that reads it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncstore.cli import running
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.metrics import BEGINNING, Reading, metrics_text
from asyncstore.cli.output.opening import for_everybody
from asyncstore.cli.output.plain_text import path_text
from asyncstore.transfer.report import Report
from asyncstore.transfer.view import TransferView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.net.peer import Peer
    from asyncstore.transfer.engine import Transfer

_EVERY_SECONDS: Final = 5.0
# How long the end of a run waits for a file that may be on a share that hangs.
_END_SECONDS: Final = 5.0


class MetricsFile:
    """A file that is replaced as a whole, so that nobody reads half of it. Raises OSError where that is not possible.

    `files` are all that it may write.
    """

    def __init__(self, path: str) -> None:
        # A link stays one, and what it leads to is replaced.
        self._path = os.path.realpath(path)
        directory, name = os.path.split(self._path)
        # Readers take what ends in .prom.
        self._new_path = os.path.join(directory, f".{name}.{os.getpid()}.new")
        self._turn = threading.Lock()
        self._is_last_written = False
        self.files: tuple[str, str] = (self._path, self._new_path)

    def check(self) -> None:
        """Refuse to replace a file that is something else."""
        try:
            is_file = stat.S_ISREG(os.stat(self._path).st_mode)
        except FileNotFoundError:
            return
        if is_file:
            with open(self._path, "rb") as file:
                start = BEGINNING.encode()
                is_file = start.startswith(file.read(len(start)))
        if not is_file:
            raise OSError(errno.EEXIST, "it is not a file of metrics, and is left as it is")

    def write(self, text: str, *, is_last: bool = False) -> None:
        """Replace what the file says. After the last time it stays as it is: another thread may be late."""
        with self._turn:
            if self._is_last_written:
                return
            self._is_last_written = is_last
            try:
                with contextlib.suppress(FileNotFoundError):  # left by a process with the same number
                    os.unlink(self._new_path)
                data = text.encode("utf-8", "replace")
                with open(self._new_path, "xb", opener=for_everybody) as file:
                    file.write(data)
                os.replace(self._new_path, self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(self._new_path)
                raise


class Meter:
    """Writes the numbers of one run to the file, from its beginning to its end.

    A file that cannot be written raises OSError at the beginning. Later it is told once, and tried again.
    """

    def __init__(self, path: str, peer: Peer) -> None:
        self.file: MetricsFile = MetricsFile(path)
        name = os.path.splitext(os.path.basename(path))[0]
        now = time.time()
        self._path = path
        self._has_complained = False
        self._answers = 0  # as of the latest look: responses are not timed one by one
        self._now = Reading(name, str(peer), Report(), TransferView(), now, now)

    def begin(self) -> None:
        """Write that the run begins."""
        self.file.check()
        self.file.write(metrics_text(self._now))

    @contextlib.asynccontextmanager
    async def watching(self, transfer: Transfer) -> AsyncIterator[None]:
        """Write the numbers of the transfer every few seconds while the block runs."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, transfer)
            yield
            group.cancel_scope.cancel()

    async def _watch(self, transfer: Transfer) -> None:
        while True:
            await anyio.sleep(_EVERY_SECONDS)
            self._look(transfer.report, transfer.view())
            await self._write()

    async def finish(self, report: Report, exit_code: int) -> None:
        """Write how the run has ended."""
        self._look(report, TransferView(), exit_code)
        with anyio.move_on_after(_END_SECONDS) as scope:
            await self._write(is_last=True)
        if scope.cancelled_caught:
            self._complain("the file system does not answer")

    def _look(self, report: Report, view: TransferView, exit_code: int | None = None) -> None:
        answered_at = self._now.answered_at if report.answers == self._answers else time.time()
        self._answers = report.answers
        self._now = self._now._replace(report=report, view=view, answered_at=answered_at, exit_code=exit_code)

    async def _write(self, *, is_last: bool = False) -> None:
        text = metrics_text(self._now)
        try:
            # In a thread: the file may be on a share that hangs.
            await anyio.to_thread.run_sync(lambda: self.file.write(text, is_last=is_last), abandon_on_cancel=True)
        except OSError as error:
            self._complain(running.system_text(error))

    def _complain(self, reason: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.warning("cannot write the metrics %s: %s", path_text(self._path), reason)
