"""Runs a command: sets up its log, event loop and signals, and turns any exception into an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import io
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from asyncstore.cli.exit_codes import ExitCode, interrupted_by, of_failure
from asyncstore.cli.output import documented_log
from asyncstore.cli.output.documented_log import DocumentedLog, logger
from asyncstore.cli.output.plain_text import path_text
from asyncstore.errors import AsyncStoreError, cause_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Protocol

    class Drains(Protocol):
        """What can end in order, or at once."""

        def drain(self) -> object:
            """Finish what is in flight, and begin nothing."""

        def abort(self) -> object:
            """End now."""


_HANG_UP: Final = getattr(signal, "SIGHUP", None)  # not on Windows
ENDING: Final = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, _HANG_UP)))


class ResultsLost(Exception):
    """stdout cannot be written, or its reader has gone. `__cause__` is the error of the system."""


def run(level: int, command: Callable[[DocumentedLog], int], *, log_to: tuple[str, int] | None = None) -> int:
    """Run a command with its log at `level` and return its exit code. Never raises.

    The log also goes to the file that `log_to` names, at the level there.
    """
    with documented_log.installed(level) as log, contextlib.ExitStack() as stack:
        if log_to is not None:
            from asyncstore.cli.output.log_file import logged_to

            try:
                stack.enter_context(logged_to(*log_to))
            except OSError as error:
                logger.error("cannot write the log %s: %s", path_text(log_to[0]), system_text(error))
                return ExitCode.CANNOT_RECORD
        try:
            _collect_garbage()
            return command(log)
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except Exception as error:
            if any(isinstance(each, KeyboardInterrupt) for each in _behind(error)):
                return ExitCode.INTERRUPTED
            return _ended_by(cause_of(error), log)


def _collect_garbage() -> None:
    """Look for garbage from now on, now and then, but not among what was loaded before."""
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that led to it: the closing of an event loop may fail after one, and hide it."""
    while error is not None:
        yield error
        error = error.__context__ or error.__cause__


def _lack_behind(error: Exception) -> str | None:
    """What the machine has no more of, if that led to the error."""
    for each in _behind(error):
        if isinstance(each, MemoryError) or getattr(each, "errno", None) == errno.ENOMEM:
            return "out of memory: see `ulimit -v`, and the limits of the service or container"
        if getattr(each, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return "too many open files: see `ulimit -n`"
        if isinstance(each, RuntimeError) and "can't start new thread" in str(each):
            return "no more threads can be started: see `ulimit -u` and `ulimit -v`"
    return None


def _ended_by(error: Exception, log: DocumentedLog) -> int:
    if isinstance(error, ResultsLost):
        logger.error("cannot write to stdout: %s", system_text(error.__cause__))
        return ExitCode.CANNOT_RECORD
    if not isinstance(error, AsyncStoreError):
        lack = _lack_behind(error)
        if lack is None:
            return internal_error(error)
        logger.error("%s", lack)
        logger.debug("traceback", exc_info=error)
        return ExitCode.USAGE
    if not log.errors:
        logger.error("%s", error)
    return of_failure(error, ExitCode.SOME_FAILED)


def internal_error(error: Exception) -> int:
    """Log a fault of this program; the traceback at debug level only."""
    logger.critical("internal error: %s: %s", type(error).__name__, error)
    if not logger.isEnabledFor(logging.DEBUG):
        logger.critical("run with -d for details")
    logger.debug("traceback", exc_info=error)
    return ExitCode.INTERNAL_ERROR


def system_text(error: BaseException | None) -> str:
    """The system's words for an error, without its number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def run_async(function: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Run an asynchronous function on asyncio; on uvloop if it is installed."""
    import anyio

    has_uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(function, *arguments, backend="asyncio", backend_options={"use_uvloop": has_uvloop})


class Interrupts:
    """Handles the signals that end a command: the first calls `first`, the second `second`, a third exits at once."""

    def __init__(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        self.signal_number: int | None = None
        self._reactions = [first, second]

    def __call__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        if self._reactions:
            self._reactions.pop(0)()
        else:
            os._exit(interrupted_by(signal_number))


def interrupts_of(run: Drains, log: DocumentedLog) -> contextlib.AbstractContextManager[Interrupts]:
    """Drain a run at the first signal and abort it at the second, and say so."""

    def drain() -> None:
        log.notice(logging.WARNING, "Interrupted: finishing what is in flight; once more aborts it")
        run.drain()

    def abort() -> None:
        log.notice(logging.WARNING, "Interrupted again: aborting")
        run.abort()

    return interrupts(drain, abort)


@contextlib.contextmanager
def interrupts(first: Callable[[], object], second: Callable[[], object]) -> Iterator[Interrupts]:
    """Handle SIGINT, SIGTERM and SIGHUP while the block runs. Needs a running event loop.

    A hang-up that was ignored from the start (nohup) stays so.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    received = Interrupts(first, second)
    before = {number: signal.getsignal(number) for number in ENDING}
    if before.get(_HANG_UP) is signal.SIG_IGN:
        del before[_HANG_UP]
    try:
        # A loop that handles one signal wakes up for each. It would compare every other with all signals of the system,
        # twice, which takes 1 % of the instructions of a start.
        loop.add_signal_handler(signal.SIGINT, received, signal.SIGINT)
    except (NotImplementedError, RuntimeError):  # not possible on this system or in this thread: Ctrl-C cancels
        yield received
        return
    try:
        for number in before.keys() - {signal.SIGINT}:
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(received, number))
        yield received
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python


@contextlib.contextmanager
def later(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Call it once, after a while, if the block still runs. Needs a running event loop."""
    import asyncio

    handle = asyncio.get_running_loop().call_later(seconds, beside, call)
    try:
        yield
    finally:
        handle.cancel()


@contextlib.contextmanager
def every(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Call it again and again while the block runs. Needs a running event loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []

    def tick() -> None:
        handles[:] = [loop.call_later(seconds, tick)]
        beside(call)

    handles.append(loop.call_later(seconds, tick))
    try:
        yield
    finally:
        handles[0].cancel()


def beside(call: Callable[[], object]) -> None:
    """Call what must not disturb the run: an error is only logged."""
    try:
        call()
    except Exception as error:
        logger.debug("beside the run: %r", error, exc_info=error)


class Results:
    """stdout, for the results of a command and nothing else. Writing raises ResultsLost if it is not possible."""

    def write(self, text: str) -> int:
        with _losing():
            return sys.stdout.write(text)

    @property
    def is_terminal(self) -> bool:
        """Whether stdout is shown on a terminal, and not read by a program."""
        return sys.stdout.isatty()

    @property
    def encoding(self) -> str:
        """The encoding of what the terminal can show: of a plain one only ASCII, whatever Python would write to it."""
        locale = os.environ.get("LC_ALL") or os.environ.get("LANG")
        is_plain = locale in ("C", "POSIX") or os.environ.get("TERM") == "dumb"
        return "ascii" if is_plain else sys.stdout.encoding

    def write_bytes(self, data: bytes) -> None:
        """Write bytes that may not be valid text. Must not be mixed with `write`."""
        with _losing():
            sys.stdout.buffer.write(data)

    def write_path(self, path: str, end: bytes) -> None:
        """Write a path, byte for byte for a program; on a terminal escaped, and on a line of its own."""
        if self.is_terminal:
            self.print(path_text(path))
        else:
            self.write_bytes(os.fsencode(path) + end)

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
    """End the process at once. Everything must have been written and closed before.

    A normal exit takes 40 ms to tear down the interpreter, and waits for threads that may never end: one may be reading
    from a share that has gone, or paths from stdin.
    """
    os._exit(exit_code)


class _LosingStream(io.TextIOWrapper):
    """Text output that never fails: text that cannot be written is lost."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Make sure that stdin, stdout and stderr exist, and that both outputs accept any text.

    If the process was started without them, stdin is empty and stdout cannot be written, like a full disk. Text that
    stderr does not accept is lost, be it the log, the bar or a usage error: the work and the exit code do not depend on
    whether they can be seen.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # This gets the lowest free descriptor, which is the stream's own; otherwise a socket would get it. It is
            # read-only, so that writing fails.
            descriptor = os.open(os.devnull, os.O_RDONLY)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    stdout: Any = sys.stdout
    stdout.reconfigure(errors="backslashreplace")
    stderr = open(sys.stderr.fileno(), "wb", closefd=False)  # noqa: SIM115
    sys.stderr = _LosingStream(stderr, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def close_streams(exit_code: int) -> int:
    """Flush stdout and stderr, and print nothing if their reader has gone. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                # The interpreter flushes once more when it ends, and would print an error.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout:
                exit_code = ExitCode.CANNOT_RECORD
    return exit_code
