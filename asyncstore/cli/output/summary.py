"""The summary of a run for people: what became of the instances, why some are not stored, and what to do next."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.plain_text import count_text, duration_text, path_text, peer_text, rate_text, size_text
from asyncstore.cli.output.report_text import may_lack_changes
from asyncstore.instances.outcome import FAILED_STATES, State
from asyncstore.record import record
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.transfer.report import Report

_MOST_ROWS: Final = 8
_REASON_CHARACTERS: Final = 160
_TEXT_COLUMNS: Final = 79 - 13 - 2  # of a terminal of 80, behind a title, for a count and its text

_MEANINGS: Final = {
    ExitCode.STORED: "everything is stored",
    ExitCode.NO_ASSOCIATION: "no association could be established",
    ExitCode.USAGE: "something that was asked for cannot be done on this machine",
    ExitCode.SOME_FAILED: "finished, but some instances failed",
    ExitCode.STOPPED_EARLY: "stopped early with work left",
    ExitCode.NOTHING_TO_SEND: "nothing to send",
    ExitCode.CANNOT_RECORD: "the ledger, the report or stdout cannot be written",
    ExitCode.DIFFERENT: "the peer does not have the same instances",
    ExitCode.INTERNAL_ERROR: "an error in asyncstore itself",
    ExitCode.HUNG_UP: "interrupted by SIGHUP",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.TERMINATED: "interrupted by SIGTERM",
}
_STATES: Final = (
    (State.STORED, "stored"),
    (State.WARNING, "stored with a warning"),
    (State.RESUMED, "stored by an earlier run"),
    (State.DUPLICATE, "duplicate"),
    (State.CONFLICT, "conflicting: another data set is stored under the same UID"),
    (State.FAILED, "refused by the peer"),
    (State.NO_CONTEXT, "without an accepted presentation context"),
    (State.UNKNOWN, "sent, and never answered"),
    (State.SOURCE_PROBLEM, "that cannot be read or sent"),
    (State.SKIPPED, "not DICOM: skipped"),
)


@record(frozen=True, slots=True)
class Summary:
    """A run at its end: `left` are the instances left, if the run stopped early, in words; `next_steps` are commands,
    each with what it is for."""

    report: Report
    exit_code: int
    left: str = ""
    next_steps: tuple[tuple[str, str], ...] = ()

    def lines(self) -> Iterator[str]:
        """The summary, line by line."""
        yield from _section("Outcome", self._outcomes())
        if self.report.attempts or self.report.associations_established:
            yield from _section("Sent", [self._speed()])
        yield from _section("SOP classes", self._classes())
        yield from _section("Changed", self._changes())
        yield from _section("Reasons", self._reasons())
        if self.report.committed is not None:
            yield from _section("Commitment", self._commitment(self.report.committed))
        yield from _section("Exit code", [f"{self.exit_code}: {self._meaning()}"])
        for command, purpose in self.next_steps:
            yield from _section("Next", [f"{purpose}:", f"  {path_text(command)}"])

    def _meaning(self) -> str:
        if self.exit_code == ExitCode.SOME_FAILED and not self.report.failed:
            what = "are not committed" if self.report.not_committed.total() else "could not be verified"
            return f"finished, but some stored instances {what}"
        return _meaning_of(self.exit_code)

    def _outcomes(self) -> list[str]:
        rows = [(self.report.states[state], what) for state, what in _STATES if self.report.states[state]]
        lines = _table(rows)
        return [*lines, self.left] if self.left else lines

    def _speed(self) -> str:
        report = self.report
        seconds = report.elapsed_seconds
        stored = report.states[State.STORED] + report.states[State.WARNING]
        rates = ""
        if seconds:
            rates = f": {size_text(report.stored_bytes / seconds)}/s, {rate_text(stored / seconds)} instances/s"
        associations = count_text(report.associations_established, "association")
        return f"{size_text(report.stored_bytes)} in {duration_text(seconds)}{rates}, {associations}"

    def _classes(self) -> list[str]:
        counts = self.report.sop_classes.most_common()
        return _table([(count, peer_text(name_of(uid))) for uid, count in counts])

    def _commitment(self, committed: int) -> list[str]:
        """What the peer commits to keep, and why it does not keep the others."""
        rows = [(committed, "committed: the peer keeps them")] if committed else []
        reasons = self.report.not_committed.most_common()
        rows += [
            (count, f"not committed: {path_text(peer_text(reason, _REASON_CHARACTERS))}")
            for reason, count in reasons
            if count
        ]
        return _table(rows) or ["nothing was asked for"]

    def _changes(self) -> list[str]:
        """How the stored instances were changed on the way, each with as many changes as it had."""
        return _table([(count, path_text(change)) for change, count in self.report.changes.most_common()])

    def _reasons(self) -> list[str]:
        """Why instances are not stored, or stored with a warning, the most frequent reasons first."""
        states = self.report.states
        has_any = any(states[state] for state in (*FAILED_STATES, State.WARNING, State.LEFT))
        if not has_any and not may_lack_changes(self.report):
            return []
        reasons = sorted(self.report.reasons.items(), key=lambda reason: (-reason[1], reason[0]))
        return _table([(count, path_text(peer_text(reason, _REASON_CHARACTERS))) for reason, count in reasons])


def _meaning_of(code: int) -> str:
    return _MEANINGS.get(code) or f"interrupted by signal {code - 128}"


def _table(rows: list[tuple[int, str]]) -> list[str]:
    """Counts and what they count, the counts aligned; after the first ones, how many rows are left out."""
    counted = [(f"{count:,}", text) for count, text in rows[:_MOST_ROWS]]
    width = max((len(count) for count, _ in counted), default=0)
    lines = []
    for count, text in counted:
        first, *others = textwrap.wrap(text, _TEXT_COLUMNS - width) or [""]
        lines += [f"{count:>{width}}  {first}", *(f"{'':{width}}  {other}" for other in others)]
    more = rows[_MOST_ROWS:]
    if more:
        lines.append(f"{sum(count for count, _ in more):,} in {len(more):,} more")
    return lines


def _section(title: str, lines: list[str]) -> Iterator[str]:
    """Lines behind a title, which is printed once."""
    for number, line in enumerate(lines):
        yield f"{title if not number else '':<12} {line}"
