"""The file that controls a run of storescu: a line is a command, carried out each time the file has changed.

    bwlimit 10M
    associations 2
    pause | resume | stop

What the file does not mention stays as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncstore.cli import descriptors, running
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import path_text
from asyncstore.errors import LocalProtocolError, passing
from asyncstore.transfer import limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeAlias

    from asyncstore.transfer.engine import Transfer
    from asyncstore.transfer.limits import Limits

    _Stamp: TypeAlias = tuple[int, int, int]

# What the file says takes effect within a second, the look of the transfer itself included.
_WATCH_SECONDS: Final = 0.5
_MOST_BYTES: Final = 1 << 16
_LINE_CHARACTERS: Final = 80


class Control:
    """Reads the file and carries out its lines.

    A `stop` that was there before the run is left over from an earlier one: it would end every run from now on.
    """

    def __init__(self, path: str, transfer: Transfer) -> None:
        self._path = path
        self._transfer = transfer
        self._stamp: _Stamp | None = None
        self._told: set[str] = set()

    async def watch(self) -> None:
        """Look at the file twice a second, for ever."""
        while True:
            await anyio.sleep(_WATCH_SECONDS)
            await self.look()

    async def look(self, *, is_first: bool = False) -> None:
        """Carry out the lines of the file if it has changed."""
        # In a thread: the file may be on a share that hangs.
        text = await anyio.to_thread.run_sync(self._read_changed, abandon_on_cancel=True)
        for line in text.splitlines():
            words = line.split("#")[0].split(None, 1)
            if not words:
                continue
            try:
                self._carry_out(words[0].lower(), words[1].strip() if len(words) > 1 else "", is_first=is_first)
            except LocalProtocolError as error:
                self._tell(f"{path_text(self._path)}: {path_text(line[:_LINE_CHARACTERS])!r} is passed over: {error}")

    def _read_changed(self) -> str:
        """What the file says, if it has changed since the last call; else nothing."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return ""
            with open(self._path, "rb") as stream:
                content = stream.read(_MOST_BYTES)
        except FileNotFoundError:
            self._stamp = None
            return ""
        except OSError as error:
            self._tell(f"cannot read {path_text(self._path)}: {running.system_text(error)}")
            return ""
        self._stamp = stamp
        return content.decode(errors="replace")

    def _carry_out(self, command: str, value: str, *, is_first: bool) -> None:
        now = self._transfer.limits
        if command == "bwlimit":
            self._limit(dataclasses.replace(now, bytes_per_second=limits.rates(value)))
        elif command == "associations":
            self._limit(dataclasses.replace(now, associations=descriptors.association_counts(value)))
        elif command in ("pause", "resume") and not value:
            self._limit(dataclasses.replace(now, is_paused=command == "pause"))
        elif command == "stop" and not value:
            if is_first:
                raise LocalProtocolError("it was there before the run began")
            self._transfer.drain(passing("the control file says stop"))
        else:
            raise LocalProtocolError("a line is bwlimit RATE, associations N, pause, resume or stop")

    def _limit(self, changed: Limits) -> None:
        if changed != self._transfer.limits:
            self._transfer.limit(changed)

    def _tell(self, text: str) -> None:
        """Log a warning, once."""
        if text not in self._told:
            self._told.add(text)
            logger.warning("%s", text)


@contextlib.asynccontextmanager
async def controlled(transfer: Transfer, path: str) -> AsyncIterator[None]:
    """Let a file control the transfer while the block runs; what it says at first holds from the beginning."""
    control = Control(path, transfer)
    await control.look(is_first=True)
    async with anyio.create_task_group() as group:
        group.start_soon(control.watch)
        yield
        group.cancel_scope.cancel()
