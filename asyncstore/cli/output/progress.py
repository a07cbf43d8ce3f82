"""A progress bar on stderr. It polls the report, and log lines are printed above it."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from asyncstore.cli.output.plain_text import count_text, duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import ConsoleOptions, RenderResult

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.transfer.report import Report

_REFRESHES_PER_SECOND: Final = 4
_RATE_SECONDS: Final = (
    10.0  # the time over which rates are averaged: steady enough to read, short enough to show a stall
)


class RateMeter:
    """Bytes and instances per second over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def add(self, now: float, size_bytes: int, instances: int) -> None:
        """Take both counts at the time `now`, in monotonic seconds."""
        self._samples.append((now, size_bytes, instances))
        while now - self._samples[0][0] > _RATE_SECONDS and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def bytes_per_second(self) -> float:
        return self._per_second(1)

    @property
    def instances_per_second(self) -> float:
        return self._per_second(2)

    def _per_second(self, column: int) -> float:
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        elapsed = last[0] - first[0]
        return (last[column] - first[column]) / elapsed if elapsed > 0 else 0.0


class TransferDisplay:
    """Two lines that show the progress of a transfer: a bar, and counts."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._rate = RateMeter()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self._report
        # Looking up what an earlier run stored takes no time: it must not count as speed.
        self._rate.add(time.monotonic(), report.sent_bytes, report.finished_instances - report.resumed)
        yield ProgressBar(
            total=max(report.found, 1), completed=report.finished_instances, pulse=not report.scan_finished, width=None
        )
        yield Segment.line()
        # A terminal shows Ctrl-C as ^C behind the text. If that began a new line, the bar would never be erased.
        room = options.max_width - 2
        line = Text(self.text(room), end="")
        line.truncate(room, overflow="ellipsis")
        yield line

    def text(self, room: int = 200) -> str:
        """Instances, failures, bytes, rate, time left and associations: as many of them as fit into one line."""
        report, rate = self._report, self._rate
        still_scanning = "" if report.scan_finished else "+"
        failed = f", {report.failed_instances:,} not stored" if report.failed_instances else ""
        resumed = f", {report.resumed:,} stored earlier" if report.resumed else ""
        parts = [
            f"{report.finished_instances:,}/{report.found:,}{still_scanning} instances{failed}{resumed}",
            f"{size_text(report.stored_bytes)} of {size_text(report.found_bytes)}{still_scanning}",
            f"{size_text(rate.bytes_per_second)}/s",
        ]
        if report.scan_finished and rate.instances_per_second > 0:
            left = (report.found - report.finished_instances) / rate.instances_per_second
            parts.append(f"{duration_text(left) if left >= 60 else f'{max(left, 0.0):.0f} s'} left")
        parts.append(count_text(report.associations_open, "association"))
        while len(parts) > 1 and len("  ".join(parts)) > room:
            parts.pop()
        return "  ".join(parts)


@contextlib.contextmanager
def shown(report: Report, log: DocumentedLog) -> Iterator[None]:
    """Show the progress of a transfer while the block runs, and print the log above it."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def print_above(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    write_before = log.write
    with Live(
        TransferDisplay(report),
        console=console,
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        log.write = print_above
        try:
            yield
        finally:
            log.write = write_before
