"""Prints how a peer's instances differ from ours: as text, JSON lines, CSV, or a list of files to send."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.plain_text import count_text, path_text, peer_text
from asyncstore.cli.output.records import cell_text, csv_row, event_line
from asyncstore.transfer.proof.comparison import Kind
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.cli.running import Results
    from asyncstore.transfer.proof.comparison import Difference, Verdict

COLUMNS: Final = (
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "difference",
    "sop_class_uid",
    "peer_sop_class_uid",
    "path",
)
_WORDS: Final = {Kind.MISSING: "missing", Kind.EXTRA: "extra", Kind.OTHER_CLASS: "with another SOP class"}


class ProofText:
    """Prints each study that differs, and counts. `form` is "text", "json", "csv" or "missing_files".

    `ends_in_nul`: each path of the missing files ends with NUL, not with a newline. `not_compared` is the number of
    studies that are left if the comparison stopped early: nothing is known about these.
    """

    def __init__(self, results: Results, form: str, *, ends_in_nul: bool = False) -> None:
        self.studies: int = 0
        self.differing: int = 0
        self.unknown: int = 0
        self.not_compared: int = 0
        self.by_counts: int = 0
        self.instances: int = 0
        self.differences: Counter[Kind] = Counter()
        self._results = results
        self._form = form
        self._end = b"\0" if ends_in_nul else b"\n"
        if form == "csv":
            results.write_bytes(csv_row(COLUMNS))

    def add(self, verdict: Verdict) -> None:
        """Count a study, and print it if it differs or could not be compared."""
        self.studies += 1
        self.instances += verdict.expected
        self.by_counts += verdict.by_counts
        self.unknown += bool(verdict.problem)
        self.differing += bool(verdict.differences)
        self.differences.update(each.kind for each in verdict.differences)
        if not verdict.is_equal:
            getattr(self, f"_print_{self._form}")(verdict)

    def print_summary(self) -> list[str]:
        """Print the end of the results; returns the lines for the terminal, if the results leave no room for them."""
        if self._form == "json":
            self._results.print(event_line("verified", self.to_dict()))
        elif self._form == "text":
            self._results.print(*self.summary())
        return list(self.summary()) if self._form in ("csv", "missing_files") else []

    def summary(self) -> Iterator[str]:
        """The counts in words."""
        how = f", {self.by_counts:,} of them by counts alone" if self.by_counts else ""
        yield f"{count_text(self.instances, 'instance')} in {count_text(self.studies, 'study')} compared{how}"
        if self.differences:
            counts = ", ".join(f"{self.differences[kind]:,} {_WORDS[kind]}" for kind in Kind if self.differences[kind])
            yield f"{count_text(self.differing, 'study')} differ{'s' if self.differing == 1 else ''}: {counts}"
        elif not self.unknown and not self.not_compared and self.studies:
            yield "no difference"
        if self.unknown:
            yield f"{count_text(self.unknown, 'study')} could not be compared completely"
        if self.not_compared:
            yield f"{count_text(self.not_compared, 'study')} not compared"

    def exit_code(self, problems: int) -> int:
        """The exit code; `problems` is the number of instances that could not be asked for."""
        if self.differences:
            return ExitCode.DIFFERENT
        if self.unknown or problems:
            return ExitCode.SOME_FAILED
        return ExitCode.STORED if self.studies else ExitCode.NOTHING_TO_SEND

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {
            "studies": self.studies,
            "instances": self.instances,
            "differing_studies": self.differing,
            "incomplete_studies": self.unknown,
            "studies_not_compared": self.not_compared,
            "studies_by_counts": self.by_counts,
            **{kind.value.replace("-", "_"): self.differences[kind] for kind in Kind},
        }

    def _print_text(self, verdict: Verdict) -> None:
        parts = [
            f"{len(of_kind):,} of {verdict.expected:,} {_WORDS[kind]}"
            if kind is Kind.MISSING
            else f"{len(of_kind):,} {_WORDS[kind]}"
            for kind in Kind
            if (of_kind := verdict.of_kind(kind))
        ]
        if verdict.problem:
            parts.append(peer_text(verdict.problem, 400))
        self._results.print(f"study {peer_text(verdict.study_instance_uid)}: {', '.join(parts)}")
        if verdict.found:
            self._results.print(*(f"  {line}" for line in _lines(verdict)))

    def _print_json(self, verdict: Verdict) -> None:
        data = {
            "study_instance_uid": verdict.study_instance_uid,
            "expected": verdict.expected,
            "found": verdict.found,
            "missing_series": list(verdict.missing_series),
            "problem": verdict.problem,
            "differences": [{**each._asdict(), "kind": each.kind.value} for each in verdict.differences],
        }
        self._results.print(event_line("study", data))

    def _print_csv(self, verdict: Verdict) -> None:
        for kind, series, uid, ours, theirs, path in verdict.differences:
            cells = (verdict.study_instance_uid, series, uid, kind.value, ours, theirs, path)
            self._results.write_bytes(csv_row(map(cell_text, cells)))

    def _print_missing_files(self, verdict: Verdict) -> None:
        for each in verdict.of_kind(Kind.MISSING):
            if each.path is not None:
                self._results.write_path(each.path, self._end)


def _lines(verdict: Verdict) -> Iterator[str]:
    """A line for each missing series, and for each other instance that differs."""
    for uid, count in verdict.missing_series.items():
        yield f"missing: series {peer_text(uid)} with {count_text(count, 'instance')}"
    for each in verdict.differences:
        if each.kind is not Kind.MISSING or each.series_instance_uid not in verdict.missing_series:
            yield _line(each)


def _line(difference: Difference) -> str:
    kind, series, uid, ours, theirs, path = difference
    text = f"{_WORDS[kind]}: {peer_text(uid)} in series {peer_text(series) or 'not known'}"
    if kind is Kind.OTHER_CLASS:
        text = f"{text}, {peer_text(name_of(theirs))} instead of {peer_text(name_of(ours))}"
    return text if path is None else f"{text}, {path_text(path)}"
