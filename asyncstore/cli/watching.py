"""Watches a run beside it: draws the display, prints a line now and then.

All of it polls, from the event loop. The transfer does not know that it is watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncstore.cli import running
from asyncstore.cli.output import progress, screen
from asyncstore.cli.output.documented_log import QUIET
from asyncstore.cli.output.outlook import Outlook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.cli.output.outlook import Counted
    from asyncstore.transfer.engine import Transfer

_REFRESH_SECONDS: Final = 0.25
# With -v, a run that lasts says by itself how far it is.
_VERBOSE_STATS_SECONDS: Final = 60.0
# Where a display is wanted and cannot be drawn: off a terminal, or on one that cannot move its cursor.
_INSTEAD_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Watch:
    """How a run is watched: whether a display is drawn, and every how many seconds a line is printed (None: never)."""

    is_drawn: bool = False
    stats_seconds: float | None = None

    @classmethod
    def of(cls, log: DocumentedLog, *, progress: bool | None, stats_seconds: float | None) -> Watch:
        """What these options mean; `progress` None is a display if stderr is a terminal."""
        if log.threshold >= QUIET:
            return cls()
        is_drawn = progress is not False and screen.is_capable(sys.stderr)
        if stats_seconds is None and not is_drawn:
            if progress or (progress is None and sys.stderr.isatty()):
                stats_seconds = _INSTEAD_SECONDS
            elif log.threshold <= logging.INFO:
                stats_seconds = _VERBOSE_STATS_SECONDS
        return cls(is_drawn, stats_seconds)


@contextlib.contextmanager
def watched(
    transfer: Transfer, watch: Watch, log: DocumentedLog, counted: Callable[[], Counted | None]
) -> Iterator[None]:
    """Watch a transfer while the block runs; `counted` gives what is known of its input. Needs a running event loop."""
    with contextlib.ExitStack() as stack:
        if watch.stats_seconds is not None:
            outlook = Outlook(transfer.report, transfer.view, counted)
            outlook.look(time.monotonic())
            print_line = functools.partial(_print_line, outlook, log)
            stack.enter_context(running.every(watch.stats_seconds, print_line))
        if watch.is_drawn:
            stack.enter_context(_drawn(Outlook(transfer.report, transfer.view, counted), log))
        yield


def _print_line(outlook: Outlook, log: DocumentedLog) -> None:
    text = progress.stats_line(outlook.look(time.monotonic()))
    log.tell(logging.INFO, text)


# -- the display -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _drawn(outlook: Outlook, log: DocumentedLog) -> Iterator[None]:
    """Draw a display while the block runs, and print the log above it."""
    display = screen.Screen(sys.stderr)
    marks = progress.Marks(unicode=display.has_unicode)

    def draw() -> None:
        now = time.monotonic()
        lines = progress.display_lines(outlook.look(now), now, marks, display.size)
        with log.turn():
            display.draw(lines)

    write_before = log.write
    log.write = display.print_above
    try:
        with _around_stops(display, log), running.every(_REFRESH_SECONDS, draw):
            draw()
            yield
    finally:
        with log.turn():
            log.write = write_before
            display.clear()


@contextlib.contextmanager
def _around_stops(display: screen.Screen, log: DocumentedLog) -> Iterator[None]:
    """Take the display away before Ctrl-Z stops the process, and begin anew below when it goes on."""
    stop, go_on = getattr(signal, "SIGTSTP", None), getattr(signal, "SIGCONT", None)
    if stop is None or go_on is None or signal.getsignal(stop) is not signal.SIG_DFL:
        yield
        return
    loop = asyncio.get_running_loop()
    is_cleared = False

    def stopped() -> None:
        nonlocal is_cleared
        with log.turn():
            display.clear()
        is_cleared = True
        loop.remove_signal_handler(stop)  # the default again
        os.kill(os.getpid(), stop)
        loop.add_signal_handler(stop, stopped)

    def continued() -> None:
        nonlocal is_cleared
        if not is_cleared:  # it was stopped by something else, and others may have written since
            display.forget()
        is_cleared = False

    try:
        loop.add_signal_handler(stop, stopped)
        loop.add_signal_handler(go_on, continued)
    except (NotImplementedError, RuntimeError):  # not possible in this thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(stop)
        loop.remove_signal_handler(go_on)
