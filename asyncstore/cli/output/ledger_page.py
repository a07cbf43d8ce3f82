"""The page of `report --html`: what a ledger knows, to be mailed when a migration is done, or while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from asyncstore.cli.output import html_page
from asyncstore.cli.output.html_page import chart, fact, facts, section, table, tag
from asyncstore.cli.output.ledger_text import commitment_text, runs_text, studies_text, time_text, uncommitted_counts
from asyncstore.cli.output.plain_text import duration_text, size_text
from asyncstore.instances.outcome import State
from asyncstore.ledger.protocol import FAILED, STORED
from asyncstore.ledger.rows import RunState

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterator, Sequence

    from asyncstore.cli.output.html_page import Markup
    from asyncstore.ledger.reading import RecordReader
    from asyncstore.ledger.rows import RunRecord, StoredOverTime, StudyCount

_BARS: Final = 160
_REASONS: Final = 50
_DIRECTORIES: Final = 20
_STUDIES: Final = 100
_RUNS: Final = 20


def page(ledger: RecordReader, *, all_studies: bool) -> str:
    """The whole page; of the studies the incomplete ones, or all. May raise LedgerError."""
    return html_page.page(f"Transfer to {ledger.destination}", *_sections(ledger, all_studies))


def _sections(ledger: RecordReader, all_studies: bool) -> Iterator[Markup]:
    runs = ledger.runs()
    began = f"Ledger begun {time_text(ledger.created_at)}; {runs_text(runs)}"
    is_dead = bool(runs) and runs[-1].state is RunState.KILLED
    yield tag("p", began, class_="bad" if is_dead else "faint")
    yield _figures(ledger)
    doubtful = ledger.count_doubtful()
    if doubtful:
        text = f"{doubtful:,} of the stored are doubtful: the peer took them less than a minute before it ran out of "
        yield tag("p", f"{text}resources.", class_="bad")
    uncommitted = [(count.instances, commitment_text(count)) for count in uncommitted_counts(ledger)]
    if uncommitted:
        yield section("Stored, and not committed", table(("#Instances", "~Reason"), uncommitted))
    stored = ledger.stored_over_time(_BARS)
    if stored is not None:
        yield section("Stored over time", *_charts(stored, runs))
    changes = [(count.instances, count.change) for count in ledger.by_change()]
    if changes:
        yield section("Changed on the way", table(("#Instances", "~Change"), changes))
    reasons = [
        (count.instances, count.state.value, "" if count.status is None else f"{count.status:04X}", count.reason)
        for count in ledger.by_reason(_REASONS)
    ]
    if reasons:
        columns = ("#Instances", "State", "Status", "~Reason")
        yield section("Not stored, or with a warning, by reason", table(columns, reasons))
    directories = ledger.worst_directories(_DIRECTORIES)
    if directories:
        rows = [(count.failed, count.directory or "(from memory)") for count in directories]
        yield section("Most failures by directory", table(("#Failed", "~Directory"), rows))
    yield from _studies(list(ledger.by_study()), ledger.runs(), all_studies)
    yield section("Runs", *_runs(runs))


def _figures(ledger: RecordReader) -> Markup:
    counts = ledger.by_state()

    def total(*states: State) -> int:
        return sum(count.instances for count in counts if count.state in states)

    size_bytes = sum(count.bytes_sent for count in counts if count.state in STORED)
    failed = total(*FAILED)
    figures = [
        fact(f"{total(*STORED):,}", "stored", "good"),
        fact(size_text(size_bytes), "of data sets"),
        fact(f"{failed:,}", "failed", "bad" if failed else "good"),
        fact(f"{total(State.LEFT):,}", "left for a later run"),
        fact(f"{total(State.DUPLICATE):,}", "duplicates, not sent"),
        fact(f"{total(State.SKIPPED):,}", "files that are not DICOM"),
    ]
    committed = ledger.committed()
    if committed is not None:
        figures.insert(1, fact(f"{committed:,}", "committed", "good" if committed == total(*STORED) else "bad"))
    return facts(*figures)


def _charts(stored: StoredOverTime, runs: Sequence[RunRecord]) -> Iterator[Markup]:
    seconds = stored.part_seconds * len(stored.parts)
    begin, end = time_text(stored.begun_at), time_text(_later(stored.begun_at, seconds))
    bands = list(_times_of_runs(stored.begun_at.timestamp(), seconds, runs))
    charts: list[tuple[list[int], Callable[[float], str]]] = [
        ([part.instances for part in stored.parts], lambda rate: f"{rate:,.1f} instances/s"),
        ([part.bytes_sent for part in stored.parts], lambda rate: f"{size_text(rate)}/s"),
    ]
    for values, text_of in charts:
        top = f"peak {text_of(max(values) / stored.part_seconds)}, mean {text_of(sum(values) / seconds)}"
        yield chart(values, label=f"{top}, from {begin} to {end}", top=top, left=begin, right=end, bands=bands)
    width = duration_text(stored.part_seconds, digits=0)
    text = f"Each bar is {width}; grey is the time of a run. An instance counts at its last outcome."
    yield tag("p", text, class_="faint")


def _times_of_runs(begin: float, seconds: float, runs: Sequence[RunRecord]) -> Iterator[tuple[float, float]]:
    """When there was a run, as parts of the time; of a killed one nobody knows the end."""
    for run in runs:
        if run.finished_at is not None:
            end = run.finished_at.timestamp()
        elif run.state is RunState.RUNNING:
            end = time.time()
        else:
            continue
        first, last = (min(1.0, max(0.0, (at - begin) / seconds)) for at in (run.started_at.timestamp(), end))
        yield first, last


def _later(moment: datetime.datetime, seconds: float) -> datetime.datetime:
    return moment.fromtimestamp(moment.timestamp() + seconds, moment.tzinfo)


def _studies(studies: list[StudyCount], runs: list[RunRecord], all_studies: bool) -> Iterator[Markup]:
    known = [study for study in studies if study.study_instance_uid is not None]
    if not known:
        return
    incomplete = [study for study in known if not study.is_complete]
    shown = studies if all_studies else incomplete[:_STUDIES]
    has_others = ". The others:" if incomplete and not all_studies else "."
    columns = ("~Study Instance UID", "#Found", "#Stored", "#Failed", "#Left", "First outcome", "Last outcome")
    rows = [
        (
            study.study_instance_uid or "not known",
            study.found,
            study.stored,
            study.failed,
            study.left,
            time_text(study.first_recorded_at),
            time_text(study.last_recorded_at),
        )
        for study in shown
    ]
    content = [tag("p", f"{studies_text(len(known), len(known) - len(incomplete), runs)}{has_others}")]
    if rows:
        content.append(table(columns, rows))
    if not all_studies and len(incomplete) > len(shown):
        content.append(tag("p", f"and {len(incomplete) - len(shown):,} more incomplete ones", class_="faint"))
    yield section("Studies", *content)


def _runs(runs: Sequence[RunRecord]) -> Iterator[Markup]:
    rows = [
        (
            run.number,
            run.state.value,
            time_text(run.started_at),
            "" if run.finished_at is None else time_text(run.finished_at),
            f"process {run.pid} on {run.host}",
            run.stopped or "",
        )
        for run in reversed(runs[-_RUNS:])
    ]
    yield table(("#Run", "State", "Begun", "Ended", "~Process", "~Stopped because"), rows)
    if len(runs) > len(rows):
        yield tag("p", f"and {len(runs) - len(rows):,} earlier ones", class_="faint")
