"""Has other processes decompress, so that a broken codec or file costs one instance and never the run.

A process starts when an instance needs one, and serves one instance at a time. One that dies is replaced, and its
instance tried again, for what killed it need not be the instance: a program that is short of memory, say.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import SourceError, count_text
from asyncstore.instances.source import FileSource
from asyncstore.preparation.convert import pieces_of
from asyncstore.preparation.reencode import CannotConvert, Unsuitable
from asyncstore.preparation.spool import Spool, TemporarySource

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource

_TRIES: Final = 3
# A codec does not end its process by SIGKILL: another program does, or a system that is short of memory.
_TRIES_IF_KILLED: Final = 12
# How long an instance may take, beside the time that its pixels may take by their number.
_SECONDS: Final = 60.0
_ENVIRONMENT: Final = {
    # Numeric libraries would start threads for every core, and reserve memory for each.
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    # glibc would give the memory of each frame back to the system and get it again, a fifth of the time.
    **{"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)},
}


class NoCodecProcess(SourceError):
    """No process that could decompress can be started. The instance is not at fault."""

    retryable = True


class CodecProcesses:
    """Some processes that decompress. Threads may call `recoded` at once; those beyond `count` wait."""

    def __init__(self, count: int) -> None:
        self._room = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        self._idle: list[_CodecProcess] = []
        self._all: set[_CodecProcess] = set()
        self._is_closed = False

    def recoded(
        self, instance: Instance, transfer_syntax_uid: str, *, is_checked: bool = True
    ) -> tuple[DataSource, tuple[str, ...]]:
        """The data set of an instance in another transfer syntax, and what else was changed in it.

        It is decompressed, or compressed and then checked. Blocks. Raises CannotConvert (Unsuitable if it cannot be
        compressed), SourceChanged or OSError.
        """
        with self._room, _Input(instance.source) as data:
            message = data.place | {
                "from": instance.transfer_syntax_uid,
                "to": transfer_syntax_uid,
                "seconds": _SECONDS,
                "is_checked": is_checked,
            }
            answer, descriptor = self._ask(message, data.descriptor)
            data.check_unchanged(descriptor)
        if descriptor is None:
            error = NoCodecProcess if answer.get("retryable") else CannotConvert
            raise (Unsuitable if answer.get("is_unsuitable") else error)(str(answer["reason"]))
        # The file is closed with the source.
        return TemporarySource(os.fdopen(descriptor, "rb", buffering=0), answer["length"]), tuple(answer["changes"])

    def close(self) -> None:
        """End all processes, at work or not."""
        with self._lock:
            self._is_closed = True
            processes, self._all = self._all, set()
            idle, self._idle = self._idle, []
        for process in processes:
            process.kill()
        for process in idle:
            process.close()  # one at work is closed by the thread that waits for it

    def _ask(self, message: dict[str, Any], descriptor: int) -> tuple[dict[str, Any], int | None]:
        tries = 0
        while True:
            tries += 1
            process = self._take()
            answer = process.ask(message, descriptor)
            if answer is not None:
                self._give_back(process)
                return answer
            with self._lock:
                self._all.discard(process)
            died_of = process.kill()
            process.close()
            most = _TRIES_IF_KILLED if died_of == signal.SIGKILL else _TRIES
            if died_of == signal.SIGALRM or tries >= most or self._is_closed:
                return {"reason": _why(died_of, tries)}, None

    def _take(self) -> _CodecProcess:
        with self._lock:
            if self._is_closed:
                raise NoCodecProcess("it was not decompressed: the run ends")
            if self._idle:
                return self._idle.pop()
            process = _CodecProcess()
            self._all.add(process)
            return process

    def _give_back(self, process: _CodecProcess) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(process)
                return
        process.close()


def _why(died_of: int, tries: int) -> str:
    if died_of == signal.SIGALRM:
        return "its pixel data cannot be decompressed: it took too long"
    name = signal.Signals(died_of).name if died_of in set(signal.Signals) else f"exit code {-died_of}"
    return f"its pixel data cannot be decompressed: the codec crashed {count_text(tries, 'time')} ({name})"


class _CodecProcess:
    """One process, and our end of its socket."""

    def __init__(self) -> None:
        from asyncstore.preparation import codec_process

        self._protocol = codec_process
        if not hasattr(socket, "send_fds"):
            raise NoCodecProcess("decompressing needs a system that hands open files to other processes: not Windows")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", codec_process.__name__, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    start_new_session=True,  # Ctrl-C is for the program that sends, which ends this one in time
                )
            except (OSError, ValueError) as error:
                ours.close()
                raise NoCodecProcess(f"no process to decompress can be started: {error}") from error
        self._socket = ours

    def ask(self, message: dict[str, Any], descriptor: int) -> tuple[dict[str, Any], int | None] | None:
        """Its answer to a request; None when it has died."""
        try:
            self._protocol.send(self._socket, message, os.dup(descriptor))
            return self._protocol.receive(self._socket)
        except OSError:
            return None

    def kill(self) -> int:
        """End it, and return the signal that ended it, 0 if none did. Another thread may wait for its answer."""
        self._process.kill()
        return -self._process.wait()

    def close(self) -> None:
        """Close our end of its socket."""
        self._socket.close()


class _Input:
    """The data set of a source as an open file: its own one, or a copy in memory or a temporary file."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self.place: dict[str, Any] = {"offset": 0, "length": source.length_bytes}

    def __enter__(self) -> _Input:
        source = self._source
        if isinstance(source, FileSource):
            self.place["offset"] = source.data_set_offset
            self.descriptor = source.open()
            # The padding byte of a deflated data set is not in the file.
            stored = os.fstat(self.descriptor).st_size - source.data_set_offset
            self.place["length"] = min(source.length_bytes, stored)
            return self
        copy = Spool()
        try:
            for piece in pieces_of(source):
                copy.write(piece)
            self.descriptor = copy.to_descriptor()
        finally:
            copy.discard()
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def check_unchanged(self, result: int | None) -> None:
        """Raise SourceChanged, and close `result`, if the file is no longer as it was scanned."""
        if not isinstance(self._source, FileSource):
            return
        try:
            self._source.check_unchanged(os.fstat(self.descriptor))
        except SourceError:
            if result is not None:
                os.close(result)
            raise
