"""How a command runs: its log, the event loop, signals, and an exit code instead of a traceback, whatever happens."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from asyncstore.cli.exit_codes import ExitCode, interrupted_by
from asyncstore.cli.output import documented_log
from asyncstore.cli.output.documented_log import DocumentedLog, logger
from asyncstore.errors import AssociateError, AsyncStoreError, LedgerError, cause_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


class ResultsLost(Exception):
    """Nobody reads stdout any more, or it cannot be written; the error of the system is its cause."""


def run(level: int, command: Callable[[DocumentedLog], int]) -> int:
    """Run a command with its log at `level` and give its exit code; nothing that it raises gets any further."""
    with documented_log.installed(level) as log:
        try:
            return command(log)
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except Exception as error:
            return _ended_by(cause_of(error), log)


def _ended_by(error: Exception, log: DocumentedLog) -> int:
    if isinstance(error, ResultsLost):
        logger.error("cannot write to stdout: %s", system_text(error.__cause__))
        return ExitCode.CANNOT_RECORD
    if not isinstance(error, AsyncStoreError):
        return internal_error(error)
    if not log.errors:
        logger.error("%s", error)
    if isinstance(error, LedgerError):
        return ExitCode.CANNOT_RECORD
    return ExitCode.NO_ASSOCIATION if isinstance(error, AssociateError) else ExitCode.SOME_FAILED


def internal_error(error: Exception) -> int:
    """Say that something in here is wrong; the traceback is for the debug level only."""
    logger.critical("internal error: %s: %s", type(error).__name__, error)
    if not logger.isEnabledFor(logging.DEBUG):
        logger.critical("run with -d for details")
    logger.debug("traceback", exc_info=error)
    return ExitCode.INTERNAL_ERROR


def system_text(error: BaseException | None) -> str:
    """What the system says of an error, without its number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def run_async(function: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Run an asynchronous function on asyncio, on uvloop when that is installed."""
    import anyio

    has_uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(function, *arguments, backend="asyncio", backend_options={"use_uvloop": has_uvloop})


class Interrupts:
    """The signals that ask a command to end: the first one gently, the second one at once, a third ends the process."""

    def __init__(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        self.signal_number: int | None = None
        self._reactions = [first, second]

    def __call__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        if self._reactions:
            self._reactions.pop(0)()
        else:
            os._exit(interrupted_by(signal_number))


@contextlib.contextmanager
def interrupts(first: Callable[[], object], second: Callable[[], object]) -> Iterator[Interrupts]:
    """Take SIGINT and SIGTERM for as long as the block lasts; inside an event loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    received = Interrupts(first, second)
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in numbers:
            loop.add_signal_handler(number, received, number)
    except (NotImplementedError, RuntimeError):  # not on this system, or not in this thread: Ctrl-C cancels then
        yield received
        return
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class Results:
    """stdout: the results of a command and nothing else. Writing raises ResultsLost when it is not possible."""

    def write(self, text: str) -> int:
        with _losing():
            return sys.stdout.write(text)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at it, and no program reads it."""
        return sys.stdout.isatty()

    def write_bytes(self, data: bytes) -> None:
        """Write what may be no text; not to be mixed with `write`."""
        with _losing():
            sys.stdout.buffer.write(data)

    def flush(self) -> None:
        with _losing():
            sys.stdout.flush()

    def print(self, *lines: str) -> None:
        self.write("".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultsLost from error


def end_process(exit_code: int) -> NoReturn:
    """End the process at once: all that is to be kept is written and closed.

    The interpreter would take itself apart first, for 40 ms, and wait for threads that may never end: one may be
    reading from a share that is gone, or paths from stdin.
    """
    os._exit(exit_code)


class _LosingStream(io.TextIOWrapper):
    """Text output that never fails: what cannot be written is lost."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Have stdin, stdout and stderr, also where the process was started without, and let both outputs take any text.

    A stdin that was closed is empty, and a stdout that was closed cannot be written, like a full disk. What stderr does
    not take is lost, whoever writes it: the log, the bar, or what says that an option is wrong. What was done, and so
    the exit code, is the same when nobody can see it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest free descriptor, which is the stream's own and would be a socket's else; for reading
            # only, so that writing fails.
            descriptor = os.open(os.devnull, os.O_RDONLY)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    stdout: Any = sys.stdout
    stdout.reconfigure(errors="backslashreplace")
    stderr = open(sys.stderr.fileno(), "wb", closefd=False)  # noqa: SIM115
    sys.stderr = _LosingStream(stderr, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def close_streams(exit_code: int) -> int:
    """Write out what is left for stdout and stderr, and say nothing when nobody reads it; gives the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                # The interpreter flushes once more at its end, and would print that it could not.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout:
                exit_code = ExitCode.CANNOT_RECORD
    return exit_code
