"""What the runs of a comparison came to: medians, ratios, and the tables in Markdown and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.measure import Run


@dataclass(slots=True)
class Row:
    """One sender in one scene, and all its counted runs."""

    sender: str
    family: str
    version: str | None
    command: str
    instances: int
    total_bytes: int
    whole_scene: bool = True
    missing: str | None = None
    note: str = ""
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    first_byte_seconds: float | None = None
    given_up: bool = False

    @property
    def is_good(self) -> bool:
        """It ran, and every run sent everything."""
        return bool(self.runs) and not self.problems

    def middle(self, figure: Callable[[Run], float]) -> float:
        """The median of a figure over the runs."""
        return median(figure(run) for run in self.runs)

    @property
    def rate(self) -> float:
        """Instances a second, of the median run; 0 when a run failed."""
        return self.instances / self.middle(lambda run: run.seconds) if self.is_good else 0.0

    @property
    def cpu_per_instance(self) -> float:
        """CPU seconds of the sender for one instance, of the median run."""
        return self.middle(lambda run: run.cpu_seconds) / self.instances if self.is_good else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything about the row, the single runs too."""
        seconds = [run.seconds for run in self.runs]
        return {
            "sender": self.sender,
            "version": self.version,
            "command": self.command,
            "instances": self.instances,
            "bytes": self.total_bytes,
            "whole_scene": self.whole_scene,
            "available": self.missing is None,
            "complete": self.is_good,
            "problems": self.problems,
            "note": self.note,
            "seconds": {"median": median(seconds), "min": min(seconds), "max": max(seconds)} if seconds else None,
            "instances_per_second": self.rate,
            "bytes_per_second": self.rate * self.total_bytes / self.instances if self.instances else 0.0,
            "cpu_seconds_per_instance": self.cpu_per_instance,
            "first_byte_seconds": self.first_byte_seconds,
            "runs": [
                {
                    "seconds": run.seconds,
                    "user_seconds": run.user_seconds,
                    "system_seconds": run.system_seconds,
                    "peak_rss_bytes": run.peak_rss_bytes,
                    "exit_code": run.exit_code,
                    "timed_out": run.timed_out,
                }
                for run in self.runs
            ],
        }


@dataclass(slots=True)
class Table:
    """One scene with all its rows."""

    scene: str
    group: str
    title: str
    receiver: str
    needs_asyncstore: bool = False
    remarks: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    missing: str | None = None

    def best(self, *, of: str = "", other_than: str = "") -> Row | None:
        """The fastest row of a family, or of all families but one."""
        rows = [
            row
            for row in self.rows
            if row.is_good and (not of or row.family == of) and (not other_than or row.family != other_than)
        ]
        return max(rows, key=lambda row: row.rate, default=None)

    def over(self, row: Row, other: Row | None) -> float | None:
        """How many times the rate of `other` a row reaches."""
        return row.rate / other.rate if row.is_good and other is not None and other is not row else None

    def to_dict(self) -> dict[str, Any]:
        """Everything about the scene, with the ratios of our own rows."""
        others = {
            "over_dcmtk": self.best(of="dcmtk"),
            "over_dicom_rs": self.best(of="dicom-rs"),
            "over_fastest_other": self.best(other_than="asyncstore"),
        }
        return {
            "scene": self.scene,
            "title": self.title,
            "receiver": self.receiver,
            "missing": self.missing,
            "remarks": self.remarks,
            "ratios": {
                row.sender: {name: self.over(row, other) for name, other in others.items()}
                for row in self.rows
                if row.family == "asyncstore" and row.is_good
            },
            "rows": [row.to_dict() for row in self.rows],
        }


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f} x" if ratio is not None else ""


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _cells(table: Table, row: Row, dcmtk: Row | None, fastest: Row | None) -> list[str]:
    if row.missing:
        return [row.sender, "not available", *[""] * (len(_HEADINGS) - 2)]
    if not row.runs:
        return [row.sender, "", *[""] * (len(_HEADINGS) - 3), _first_byte(row)]
    name = row.sender if row.whole_scene else f"{row.sender} ({row.instances:,} instances only)"
    seconds = [run.seconds for run in row.runs]
    rate = row.instances / median(seconds)
    ours = row.family == "asyncstore"
    return [
        name,
        _seconds(median(seconds)) if row.is_good else f"**failed** {_seconds(median(seconds))}",
        f"{_seconds(min(seconds))} - {_seconds(max(seconds))}",
        f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}",
        f"{rate * row.total_bytes / row.instances / 1e6:,.1f}",
        _times(table.over(row, dcmtk)),
        _times(table.over(row, fastest)) if ours else "",
        f"{row.middle(lambda run: run.user_seconds):.2f} + {row.middle(lambda run: run.system_seconds):.2f}",
        f"{row.middle(lambda run: run.cpu_seconds) / row.instances * 1e6:,.0f}",
        f"{max(run.peak_rss_bytes for run in row.runs) / 1e6:,.1f}",
        ", ".join(str(code) for code in sorted({run.exit_code for run in row.runs})),
        _first_byte(row),
    ]


def _first_byte(row: Row) -> str:
    return _seconds(row.first_byte_seconds) if row.first_byte_seconds is not None else ""


_HEADINGS = [
    "sender",
    "seconds",
    "min - max",
    "instances/s",
    "MB/s",
    "over DCMTK",
    "over fastest other",
    "CPU s user + sys",
    "CPU us/instance",
    "peak MB",
    "exit",
    "first byte s",
]


def _markdown_rows(cells: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for number, row in enumerate(cells):
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
        if number == 0:
            lines.append(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return lines


def markdown_of(table: Table) -> str:
    """One scene as a heading, a table and remarks; columns that no row fills are left out."""
    lines = [f"## {table.scene}: {table.title}", "", f"Receiver: {table.receiver}.", ""]
    if table.missing:
        return "\n".join([*lines, f"Not measured: {table.missing}.", ""])
    dcmtk, fastest = table.best(of="dcmtk"), table.best(other_than="asyncstore")
    body = [_cells(table, row, dcmtk, fastest) for row in table.rows]
    filled = [column for column in range(len(_HEADINGS)) if any(row[column] for row in body)]
    cells = [[row[column] for column in filled] for row in ([_HEADINGS, *body])]
    lines += [*_markdown_rows(cells), ""]
    notes = [row.note for row in table.rows if row.note and row.runs]
    problems = [f"{row.sender}: {problem}" for row in table.rows for problem in dict.fromkeys(row.problems)]
    for remark in [*table.remarks, *notes, *problems]:
        lines.append(f"- {remark}")
    return "\n".join([*lines, ""] if lines[-1] else lines)


def growth(tables: Sequence[Table]) -> dict[str, float]:
    """CPU for one instance among 1,000,000 over that among 10,000, for every sender that ran both."""
    few = {row.sender: row for table in tables if table.scene == "growth-10000" for row in table.rows}
    many = {row.sender: row for table in tables if table.scene == "growth-1000000" for row in table.rows}
    return {
        sender: row.cpu_per_instance / few[sender].cpu_per_instance
        for sender, row in many.items()
        if row.is_good and sender in few and few[sender].is_good
    }


def markdown(about: dict[str, Any], tables: Sequence[Table]) -> str:
    """The whole report."""
    machine, versions = about["machine"], about["versions"]
    lines = [
        f"# Benchmarks of {about['date']}",
        "",
        f"Command: `{about['command']}`",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['kernel']}, {machine['python']}. Sender and receiver share it; traffic is on loopback.",
        "",
        f"Versions: {'; '.join(str(version) for version in versions.values())}.",
        "",
        f"Whole processes, {about['rounds']} rounds in turn after a warm-up turn that does not count; medians. "
        "CPU and memory are the sender's. `over DCMTK` and `over fastest other` are ratios of instances/s to the "
        "faster of DCMTK's two senders and to the fastest sender that is not asyncstore.",
        "",
    ]
    lines += [markdown_of(table) for table in tables]
    for sender, ratio in growth(tables).items():
        lines += [f"Growth: {sender} needs {ratio:.2f} x the CPU for an instance among 1,000,000 as among 10,000.", ""]
    return "\n".join(lines)
