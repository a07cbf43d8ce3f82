"""Runs asyncstore with a clock of its own, so that what depends on time is the same on every machine.

    python -m benchmarks.steady storescu 127.0.0.1 11112 files

Under valgrind a program takes fifty times as long. It would read in slices of two files where it reads 64 otherwise,
and look after its timers more often. This clock goes on by a few microseconds with each look at it, and by what the
event loop waits. uvloop has a clock of its own, so asyncio's event loop is used.
"""

from __future__ import annotations

import itertools
import selectors
import sys
import time
from typing import Any, Final

# About 12 looks are taken for each small instance, which takes 50 us to read and send.
STEP_SECONDS: Final = 5e-6


def set_clock(seconds: float) -> None:
    """Let the clock show this time. What looks at it calls no function of Python's."""
    time.monotonic = time.perf_counter = itertools.count(seconds, STEP_SECONDS).__next__


def steady() -> None:
    """Have this process use the clock."""
    set_clock(time.monotonic())
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
