"""Runs asyncstore with a clock of its own, and on files that can be read at once, so that it does the same everywhere.

    python -m benchmarks.steady storescu 127.0.0.1 11112 files

Under valgrind a program takes fifty times as long. It would read in slices of two files where it reads 64 otherwise,
and look after its timers more often. This clock goes on by a few microseconds with each look at it, and by what the
event loop waits. uvloop has a clock of its own, so asyncio's event loop is used.

The files of a benchmark are in memory. Some file systems can say so, others cannot, and then other reads are made:
here all seem to say so.
"""

from __future__ import annotations

import itertools
import os
import selectors
import sys
import time
from typing import Any, Final

# About 12 looks are taken for each small instance, which takes 50 us to read and send.
STEP_SECONDS: Final = 5e-6


def set_clock(seconds: float) -> None:
    """Let the clock show this time. What looks at it calls no function of Python's."""
    time.monotonic = time.perf_counter = itertools.count(seconds, STEP_SECONDS).__next__


def read_at_once() -> None:
    """Let every read be one of a file that is in memory, as far as its file system can say."""
    preadv: Any = os.preadv
    os.preadv = lambda descriptor, buffers, offset, flags=0: preadv(descriptor, buffers, offset)


def steady() -> None:
    """Have this process use the clock, and read at once."""
    set_clock(time.monotonic())
    read_at_once()
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    selector: Any = selectors.DefaultSelector
    select = selector.select

    def select_and_count(self: object, timeout: float | None = None) -> Any:
        events = select(self, timeout)
        if not events and timeout:
            set_clock(time.monotonic() + timeout)
        return events

    selector.select = select_and_count


if __name__ == "__main__":
    steady()
    from asyncstore.__main__ import main

    main()
