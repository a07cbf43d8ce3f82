"""Whatever happens, a command ends with an exit code and a line, never with a traceback."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from asyncstore.cli import running
from asyncstore.cli.output.documented_log import QUIET
from asyncstore.errors import ConnectFailed, LedgerError, SourceError
from tests.support import command

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog


def interrupted_while_the_loop_runs() -> RuntimeError:
    """What closing an event loop raises when a Ctrl-C came while it did not have its signal handlers."""
    error = RuntimeError("Cannot close a running event loop")
    error.__context__ = RuntimeError("this event loop is already running.")
    error.__context__.__context__ = KeyboardInterrupt()
    return error


def without(lack: BaseException) -> RuntimeError:
    """What closing an event loop raises that could not be made, since the machine has no more of something."""
    error = RuntimeError("Cannot close a running event loop")
    error.__context__ = lack
    return error


def raising(error: BaseException) -> int:
    def command(log: DocumentedLog) -> int:
        raise error

    return running.run(logging.ERROR, command)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConnectFailed("nobody answers"), 1, "E: nobody answers\n"),
        (LedgerError("run.db is locked by process 7"), 6, "E: run.db is locked by process 7\n"),
        (SourceError("cannot read it"), 3, "E: cannot read it\n"),
        (KeyboardInterrupt(), 130, ""),
        (interrupted_while_the_loop_runs(), 130, ""),
        (without(OSError(errno.EMFILE, "Too many open files")), 2, "E: too many open files: see `ulimit -n`\n"),
        (
            *(RuntimeError("can't start new thread"), 2),
            "E: no more threads can be started: see `ulimit -u` and `ulimit -v`\n",
        ),
        (MemoryError(), 2, "E: out of memory: see `ulimit -v`, and the limits of the service or container\n"),
        (
            *(ZeroDivisionError("division by zero"), 70),
            "F: internal error: ZeroDivisionError: division by zero\nF: run with -d for details\n",
        ),
    ],
)
def test_an_error_is_a_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert raising(error) == code
    assert capsys.readouterr().err == line


def test_an_internal_error_has_its_traceback_in_the_debug_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def command(log: DocumentedLog) -> int:
        raise RuntimeError("oops\nforged")

    assert running.run(logging.DEBUG, command) == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"F: internal error: RuntimeError: oops\nforged"
    assert "D: Traceback (most recent call last):" in lines
    assert all(line[:3] in ("F: ", "D: ") for line in lines)


def test_a_quiet_command_fails_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    def command(log: DocumentedLog) -> int:
        raise ConnectFailed("nobody answers")

    assert running.run(QUIET, command) == 1
    assert capsys.readouterr() == ("", "")


def test_what_the_log_has_explained_is_not_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    def command(log: DocumentedLog) -> int:
        logging.getLogger("asyncstore.net").error("in the documented words")
        raise ConnectFailed("in other words")

    assert running.run(logging.ERROR, command) == 1
    assert capsys.readouterr().err == "E: in the documented words\n"


def test_signals_are_gentle_then_firm() -> None:
    calls: list[str] = []

    async def main() -> int:
        with running.interrupts(lambda: calls.append("drain"), lambda: calls.append("abort")) as received:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                while received.signal_number != number:
                    await anyio.lowlevel.checkpoint()
            return received.signal_number or 0

    assert running.run_async(main) == signal.SIGINT
    assert calls == ["drain", "abort"]


@pytest.mark.parametrize("use_uvloop", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_wakes_up_a_loop_that_waits(number: signal.Signals, use_uvloop: bool) -> None:
    """Whichever thread of the process gets it. The handlers from before are there again afterwards."""
    before = signal.getsignal(number)
    waiting = threading.get_ident()

    def send() -> None:
        while sys._current_frames()[waiting].f_code.co_name not in ("select", "run"):  # of asyncio, of uvloop
            os.sched_yield()
        signal.pthread_kill(threading.get_ident(), number)

    async def main() -> int | None:
        came = anyio.Event()
        with running.interrupts(came.set, came.set) as received, anyio.fail_after(command.FINISH_SECONDS):
            sender = threading.Thread(target=send)
            sender.start()
            await came.wait()
            sender.join()
        return received.signal_number

    assert anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop}) == number
    assert signal.getsignal(number) is before


def test_a_third_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    received = running.Interrupts(lambda: None, lambda: None)
    for _ in range(3):
        received(signal.SIGINT)
    assert codes == [130]


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    def fileno(self) -> int:
        raise ValueError("no file")


def test_results_that_nobody_reads_are_code_6(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", _Broken())

    def command(log: DocumentedLog) -> int:
        running.Results().print("a result")
        return 0

    assert running.run(logging.ERROR, command) == 6
    assert capsys.readouterr().err == "E: cannot write to stdout: Broken pipe\n"


def test_streams_that_are_gone_are_closed_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Broken())
    assert running.close_streams(3) == 3
    monkeypatch.setattr(sys, "stdout", _Broken())
    assert running.close_streams(0) == 6
    assert running.close_streams(3) == 6
