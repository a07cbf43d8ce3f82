"""The count of the input, which a process of its own makes while the run reads the same input behind it."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncstore.cli.named_paths import NamedPaths
    from asyncstore.inputs.count import Request
    from asyncstore.inputs.selection import Selection

_ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Without the site packages and the user's environment: the program needs neither.
_PROGRAM: Final = "import sys; sys.path.append(sys.argv[1]); from asyncstore.inputs.count import main; main()"
# A process that waits for a share that has gone cannot even be killed: then it is left behind.
_END_SECONDS: Final = 0.5


def may_count(listed: str | None, selection: Selection) -> bool:
    """Whether an input can be counted without opening its files.

    Its list, if it has one, must be a file that can be read twice; the files that it names are opened by a selection
    that includes some only.
    """
    if not sys.executable or getattr(sys, "frozen", False) or selection.opens_files:
        return False
    if listed is None:
        return True
    if selection.include:
        return False
    try:
        return stat.S_ISREG(os.stat(listed).st_mode)
    except (OSError, ValueError):
        return False


class InputCount:
    """How many files the input has, and how many bytes, as far as they are counted.

    `entries` also counts paths that cannot be read. Both are final once `is_complete`; a count that fails never is. Its
    process begins with `start` and has ended after `close`, which may be called in any case.
    """

    def __init__(self, request: Request) -> None:
        self.entries: int = 0
        self.size_bytes: int = 0
        self.is_complete: bool = False
        self._request = request
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._turn = threading.Lock()

    @classmethod
    def of(cls, paths: NamedPaths, selection: Selection, *, recursive: bool, own_files: tuple[str, ...]) -> InputCount:
        """The count of what the user named and selected, without the files that the run writes."""
        from asyncstore.inputs.count import Request

        return cls(Request(paths.given, recursive, paths.list_name, paths.ends_in_nul, own_files, selection))

    def start(self) -> None:
        """Begin to count, in the background."""
        if self._thread is None and not self._is_closed:
            self._thread = threading.Thread(target=self._run, name="input count", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads can be had: there is no count
                self._thread.start()

    def close(self) -> None:
        """End the process if it still counts; what was counted stays."""
        with self._turn:
            self._is_closed = True
            process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        try:
            process = self._begin()
            if process is None:
                return
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdout, contextlib.suppress(ValueError):
                with process.stdin:
                    process.stdin.write(self._request.to_json())
                for line in process.stdout:
                    self._take(line)
            process.wait()
        except OSError:  # no process can be had, or it has ended: there is no count
            pass

    def _begin(self) -> subprocess.Popen[bytes] | None:
        with self._turn:
            if self._is_closed:
                return None
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and Ctrl-Z are for the run alone
            )
            return self._process

    def _take(self, line: bytes) -> None:
        entries, size_bytes, *end = line.split()
        self.entries, self.size_bytes = int(entries), int(size_bytes)
        self.is_complete = bool(end)
