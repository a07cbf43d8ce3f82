"""Shows on a terminal how far a scan is, from a thread beside it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from asyncstore.cli.output import screen
from asyncstore.cli.output.documented_log import QUIET
from asyncstore.cli.output.plain_text import count_text, duration_text, size_text
from asyncstore.cli.output.screen import Screen, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.inputs.inventory import Inventory

_REFRESH_SECONDS: Final = 0.25


def shown(inventory: Inventory, log: DocumentedLog, *, wanted: bool | None) -> AbstractContextManager[None]:
    """Draw a line on stderr while the block fills the inventory; see `line_shown`."""
    return line_shown(lambda seconds: line_of(inventory, seconds), log, wanted=wanted)


@contextlib.contextmanager
def line_shown(line: Callable[[float], str], log: DocumentedLog, *, wanted: bool | None) -> Iterator[None]:
    """Draw a line on stderr, as it is after so many seconds, while the block runs; `wanted` None: on a terminal.

    Nothing is drawn of a block that ends at once, and the line is gone at the end.
    """
    if wanted is False or log.threshold >= QUIET or not screen.is_capable(sys.stderr):
        yield
        return
    display = Screen(sys.stderr)
    ended = threading.Event()
    begun_at = time.monotonic()

    def draw() -> None:
        while not ended.wait(_REFRESH_SECONDS):
            spans = [Span(line(time.monotonic() - begun_at))]
            with log.turn():
                display.draw([spans])

    write_before = log.write
    log.write = display.print_above
    thread = threading.Thread(target=draw, name="scan progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with log.turn():
            log.write = write_before
            display.clear()


def line_of(inventory: Inventory, seconds: float) -> str:
    """How far a scan is after so many seconds."""
    return files_line(inventory.files, inventory.size_bytes.total(), seconds)


def files_line(files: int, size_bytes: int, seconds: float) -> str:
    """How many files were found in so many seconds."""
    size = size_text(size_bytes)
    rate = f"{files / seconds:,.0f}" if seconds > 0 else "0"
    return f"{count_text(files, 'file')}, {size}, {rate} files/s, {duration_text(seconds, digits=0)}"
