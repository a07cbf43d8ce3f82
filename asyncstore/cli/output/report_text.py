"""What a run came to, in one line each: what it stored, and what it has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.cli.output.plain_text import count_text, duration_text, size_text
from asyncstore.instances.outcome import MAY_LACK_CHANGES, State

if TYPE_CHECKING:
    from asyncstore.cli.counting import InputCount
    from asyncstore.transfer.report import Report

# After a run with only these states, and without a request, there was nothing to send.
_NOTHING_TO_SEND = frozenset((State.RESUMED, State.DUPLICATE, State.SKIPPED, State.SOURCE_PROBLEM))


def summary_text(report: Report) -> str:
    """The instances that this run stored, their bytes and the time; then earlier ones and duplicates by count."""
    seconds = report.elapsed_seconds
    rate = f", {size_text(report.stored_bytes / seconds)}/s" if seconds > 0 else ""
    resumed = report.states[State.RESUMED]
    duplicates = [count_text(report.duplicates, "duplicate")] if report.duplicates else []
    if resumed and report.scan_finished and not report.attempts and _NOTHING_TO_SEND.issuperset(+report.states):
        return ", ".join([f"nothing new to send; {resumed:,} already stored by an earlier run", *duplicates])
    extra = [f"{resumed:,} stored by an earlier run", *duplicates] if resumed else duplicates
    stored = count_text(report.stored - resumed, "instance")
    parts = [f"{stored} stored ({size_text(report.stored_bytes)} in {duration_text(seconds)}{rate})", *extra]
    return ", ".join(parts)


def may_lack_changes(report: Report) -> int:
    """How many instances were sent with changes, of which the peer keeps what it had before."""
    return sum(count for reason, count in report.reasons.items() if reason.endswith(MAY_LACK_CHANGES))


def instances_left_text(report: Report, count: InputCount | None) -> str:
    """How many instances a run has left that stopped early: all of them if the input was read or counted to its end.

    A file that was counted and not opened need not be DICOM: if others were not, no exact number can be told; nor if
    others were archives.
    """
    if not report.stopped_early:
        return ""
    left, bound = report.left, "" if report.scan_finished else "at least "
    if count is not None and not report.scan_finished and not report.archives_opened:
        has_others = report.skipped > 0 or report.problems > 0
        if count.is_complete or not has_others:
            left = max(left, count.entries - report.finished + report.left)
        if count.is_complete:
            bound = "at most " if has_others else ""
    return f"{bound}{count_text(left, 'instance')} left" if left or not bound else ""
