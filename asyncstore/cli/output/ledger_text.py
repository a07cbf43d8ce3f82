"""Prints a ledger: as text, JSON, CSV, or a list of files."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any, Final

from asyncstore.cli.output.plain_text import count_text, path_text, peer_text
from asyncstore.cli.output.records import cell_text, csv_row
from asyncstore.ledger.rows import LedgerRow, RunState

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Iterator

    from asyncstore.cli.running import Results
    from asyncstore.ledger.rows import ReasonCount, RunRecord
    from asyncstore.ledger.sqlite.reader import LedgerReader

_REASONS: Final = 20
_DIRECTORIES: Final = 10
_COLUMNS: Final = tuple(LedgerRow.__dataclass_fields__)


class Account:
    """Formats the contents of a ledger, with each study if `studies`. Every method may raise LedgerError."""

    def __init__(self, ledger: LedgerReader, *, studies: bool = False) -> None:
        self._ledger = ledger
        self._with_studies = studies

    # -- as text -------------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The counts, for people."""
        ledger = self._ledger
        runs = ledger.runs()
        yield f"Ledger of {peer_text(ledger.destination)}, begun {_time_text(ledger.created_at)}"
        yield runs_text(runs)
        states = ledger.by_state()
        yield "By state"
        yield from _table((count.instances, count.state.value) for count in states)
        committed = ledger.committed()
        if committed is not None:
            yield f"{committed:,} of the stored are committed: the peer said that it keeps them"
        doubtful = ledger.count_doubtful()
        if doubtful:
            what = f"{doubtful:,} of the stored are doubtful"
            yield f"{what}: the peer took them less than a minute before it ran out of resources"
        statuses = ledger.by_status()
        if statuses:
            yield "By status"
            yield from _table((count, f"{value:04X}") for value, count in statuses.items())
        reasons = ledger.by_reason(_REASONS)
        if reasons:
            yield "By reason"
            yield from _table((count.instances, _reason_text(count)) for count in reasons)
        directories = ledger.worst_directories(_DIRECTORIES)
        if directories:
            yield "Most failures by directory"
            yield from _table((count.failed, path_text(count.directory) or "(from memory)") for count in directories)
        if self._with_studies:
            yield from self._study_lines()

    def _study_lines(self) -> Iterator[str]:
        yield "By study: found, stored, failed"
        for study in self._ledger.by_study():
            uid = peer_text(study.study_instance_uid or "not known")
            yield f"  {study.found:,}  {study.stored:,}  {study.failed:,}  {uid}"

    # -- as JSON -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        ledger = self._ledger
        data: dict[str, Any] = {
            "destination": ledger.destination,
            "created_at": ledger.created_at.isoformat(timespec="milliseconds"),
            "runs": [_run_data(run) for run in ledger.runs()],
            "doubtful": ledger.count_doubtful(),
            "committed": ledger.committed(),
            "states": {count.state.value: count.instances for count in ledger.by_state()},
            "statuses": {f"{value:04X}": count for value, count in ledger.by_status().items()},
            "reasons": [_reason_data(count) for count in ledger.by_reason()],
            "worst_directories": [count._asdict() for count in ledger.worst_directories(_DIRECTORIES)],
        }
        if self._with_studies:
            data["studies"] = [study._asdict() for study in ledger.by_study()]
        return data

    def json_line(self) -> str:
        """One line of JSON in ASCII."""
        return json.dumps({"event": "ledger", **self.to_dict()}, separators=(",", ":"))

    # -- each row ------------------------------------------------------------------------------------------------------

    def write_csv(self, results: Results) -> None:
        """Every row as CSV (RFC 4180) without formulas for a spreadsheet; escaped on a terminal."""
        results.write_bytes(_encoded(_COLUMNS))
        for row in self._ledger.rows():
            data = row.to_dict()
            cells = [cell_text(data[column]) for column in _COLUMNS]
            results.write_bytes(_encoded(map(path_text, cells) if results.is_terminal else cells))

    def write_failed_files(self, results: Results, *, doubtful: bool, ends_in_nul: bool) -> None:
        """The path of every file that failed or, if wanted, is doubtful: byte for byte, but escaped on a terminal."""
        end = b"\0" if ends_in_nul else b"\n"
        is_seen = results.is_terminal
        for row in itertools.chain(self._ledger.failed(), self._ledger.doubtful() if doubtful else ()):
            if row.path is not None and is_seen:
                results.print(path_text(row.path))
            elif row.path is not None:
                results.write_bytes(os.fsencode(row.path) + end)


def _encoded(cells: Iterable[str]) -> bytes:
    return csv_row(cells).encode("utf-8", "surrogateescape")


def _table(rows: Iterable[tuple[int, str]]) -> Iterator[str]:
    counted = [(f"{count:,}", text) for count, text in rows]
    width = max((len(count) for count, _ in counted), default=1)
    for count, text in counted:
        yield f"  {count:>{width}}  {text}"


def _reason_text(count: ReasonCount) -> str:
    status = "" if count.status is None else f" {count.status:04X}"
    reason = f": {path_text(count.reason)}" if count.reason else ""
    return f"{count.state.value}{status}{reason}"


def _reason_data(count: ReasonCount) -> dict[str, Any]:
    status = None if count.status is None else f"{count.status:04X}"
    return {**count._asdict(), "state": count.state.value, "status": status}


def _run_data(run: RunRecord) -> dict[str, Any]:
    finished = None if run.finished_at is None else run.finished_at.isoformat(timespec="milliseconds")
    return {
        "number": run.number,
        "state": run.state.value,
        "started_at": run.started_at.isoformat(timespec="milliseconds"),
        "finished_at": finished,
        "pid": run.pid,
        "host": run.host,
        "scan_finished": run.scan_finished,
        "stopped": run.stopped,
    }


def runs_text(runs: list[RunRecord]) -> str:
    """How many runs there were, and how the last one ended."""
    return f"{count_text(len(runs), 'run')}{_latest_text(runs)}"


def _latest_text(runs: list[RunRecord]) -> str:
    if not runs:
        return ""
    run = runs[-1]
    process = f"(process {run.pid} on {peer_text(run.host)})"
    begun = _time_text(run.started_at)
    ended = "" if run.finished_at is None else _time_text(run.finished_at)
    if run.state is RunState.RUNNING:
        return f", the last one running since {begun} {process}"
    if run.state is RunState.KILLED:
        return f", the last one begun {begun} and killed, or unable to write its end {process}"
    if run.state is not RunState.STOPPED_EARLY:
        return f", the last one {run.state.value} {ended}"
    unread = "" if run.scan_finished else "; the input was not read to its end"
    return f", the last one stopped early {ended}: {path_text(run.stopped or '')}{unread}"


def _time_text(time: datetime.datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
