"""The progress display reads the report and nothing else."""

from __future__ import annotations

import io
import logging
import time
from collections import Counter

import pytest
from rich.console import Console

from asyncstore.cli.output import progress
from asyncstore.cli.output.documented_log import DocumentedLog
from asyncstore.cli.output.progress import RateMeter, TransferDisplay
from asyncstore.instances.outcome import State
from asyncstore.transfer.report import Report


def running_report(**known: object) -> Report:
    states = Counter({State.STORED: 1200, State.FAILED: 3})
    return Report(
        found=5000,
        found_bytes=40_000_000,
        stored_bytes=9_600_000,
        states=states,
        associations_open=4,
        **known,  # type: ignore[arg-type]
    )


def test_the_line_says_how_far_the_transfer_is() -> None:
    text = TransferDisplay(running_report(scan_finished=True)).text()
    assert text == "1,203/5,000 instances, 3 not stored  9.60 MB of 40.0 MB  0 bytes/s  4 associations"


def test_totals_that_still_grow_are_marked() -> None:
    assert "1,203/5,000+ instances, 3 not stored  9.60 MB of 40.0 MB+" in TransferDisplay(running_report()).text()


def test_rates_are_means_over_the_last_seconds() -> None:
    rate = RateMeter()
    for second in range(60):
        rate.add(float(second), 1000 * second if second < 30 else 30_000 + 5000 * (second - 30), second)
    assert rate.bytes_per_second == pytest.approx(5000)
    assert rate.instances_per_second == pytest.approx(1)


def test_a_rate_needs_two_moments() -> None:
    rate = RateMeter()
    rate.add(1.0, 500, 1)
    assert rate.bytes_per_second == 0
    rate.add(1.0, 900, 2)
    assert rate.bytes_per_second == 0


def test_log_lines_stay_whole_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()

    def narrow_terminal(**settings: object) -> Console:
        return Console(file=terminal, force_terminal=True, width=40, highlight=False, markup=False)

    monkeypatch.setattr(progress, "Console", narrow_terminal)
    log = DocumentedLog(logging.INFO)
    write_before = log.write
    line = "a line far longer than the terminal is wide: [red]/mnt/archive/" + "x" * 60
    with progress.shown(running_report(), log):
        log.emit(logging.LogRecord("asyncstore", logging.INFO, "", 0, line, None, None))
    assert f"I: {line}\n" in terminal.getvalue()
    assert "1,203/5,000" in terminal.getvalue()
    assert log.write is write_before


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_ctrl_c_has_room_behind_the_line_so_that_no_bar_stays_behind(width: int) -> None:
    """A terminal shows ^C where the cursor is: if it wraps, the display goes up by one line too few to erase itself."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    lines = console.render_lines(TransferDisplay(running_report()), pad=False)
    widths = [sum(segment.cell_length for segment in line) for line in lines]
    assert len(widths) == 2
    assert widths[0] == width
    assert widths[1] <= width - len("^C")


def test_a_narrow_terminal_shows_the_failures_and_whole_parts() -> None:
    text = TransferDisplay(running_report(scan_finished=True)).text(60)
    assert text == "1,203/5,000 instances, 3 not stored  9.60 MB of 40.0 MB"


def test_what_an_earlier_run_stored_is_done_and_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    report = Report(found=1_000, scan_finished=True, associations_open=1)
    display = TransferDisplay(report)
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.render_lines(display)
    report.states[State.RESUMED], report.states[State.STORED], now = 800, 20, 1.0
    console.render_lines(display)
    assert display.text().startswith("820/1,000 instances, 800 stored earlier  ")
    assert "  9 s left  " in display.text()  # 180 more, 20 in a second


def test_what_is_no_instance_is_not_counted_in_the_bar() -> None:
    states = Counter({State.STORED: 2, State.SKIPPED: 5, State.SOURCE_PROBLEM: 1})
    report = Report(found=2, problems=1, states=states, scan_finished=True)
    assert TransferDisplay(report).text().startswith("2/2 instances  ")
