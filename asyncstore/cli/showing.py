"""The options of storescu for what it shows and writes beside sending."""

from __future__ import annotations

import os

import typer

from asyncstore.cli import options
from asyncstore.cli.output.plain_text import path_text


def record_name(text: object) -> str:
    """The name of a report file; its suffix is the format."""
    from asyncstore.cli.output.records import RECORD_SUFFIXES, is_record_name

    if not is_record_name(str(text)):
        raise typer.BadParameter(f"{path_text(str(text))!r} must end in {' or '.join(RECORD_SUFFIXES)}")
    return str(text)


Report = options.Annotated[
    str | None,
    options.option(
        parser=record_name,
        metavar="FILE",
        help="Write one record per instance, as it happens, to a .jsonl or .csv file (overwritten).",
        panel=options.RESULTS,
    ),
]
Json = options.Annotated[
    bool,
    options.option("--json", help="Print each outcome and a summary as JSON lines on stdout.", panel=options.RESULTS),
]
MetricsFile = options.Annotated[
    str | None,
    options.option(
        parser=options.text,
        metavar="FILE",
        help="Write how far the run is to a file, every 5 s, in the text format of Prometheus: NAME.prom for the "
        "textfile collector of node_exporter.",
        panel=options.RESULTS,
    ),
]
Progress = options.Annotated[
    bool | None,
    options.option(
        "--progress/--no-progress",
        help="Show the progress on stderr; where none can be drawn, --progress means --stats 10."
        + options.default_text("if stderr is a terminal"),
        panel=options.RESULTS,
        show_default=False,
    ),
]
Stats = options.Annotated[
    float | None,
    options.option(
        parser=options.seconds,
        metavar="SECONDS",
        help="Print a line on stderr every so many seconds that says how far the run is."
        + options.default_text("60 with -v where no progress is shown"),
        panel=options.RESULTS,
    ),
]
SummaryTable = options.Annotated[
    bool,
    options.option(
        "--summary",
        help="Print a table at the end, even if stderr is not a terminal.",
        panel=options.RESULTS,
        show_default=False,
    ),
]
Count = options.Annotated[
    bool,
    options.option(
        "--count/--no-count",
        help="Count the input ahead, in a process of low priority, in runs of more than a second.",
        panel=options.RESULTS,
    ),
]
LogFile = options.Annotated[
    str | None,
    options.option(
        parser=options.text,
        metavar="FILE",
        help="Append the log to a file, with times, at the chosen level." + options.default_text("info"),
        panel=options.GENERAL,
    ),
]


def check_files(report: str | None, ledger: str | None, log: str | None, metrics: str | None, paths: list[str]) -> None:
    """Refuse to write two things to one file, or the log or metrics over a source."""
    if _is_same(report, ledger):
        raise typer.BadParameter("the report and the ledger cannot be one file", param_hint="--report")
    others = [report, ledger, *paths]
    for option, what, path in (("--log-file", "log", log), ("--metrics-file", "metrics file", metrics)):
        if path is not None and any(_is_same(path, other) for other in others):
            raise typer.BadParameter(f"the {what} must be a file of its own", param_hint=option)
        others.append(path)


def _is_same(path: str | None, other: str | None) -> bool:
    return path is not None and other is not None and os.path.realpath(path) == os.path.realpath(other)
