"""Prints a ledger: as text, JSON, CSV, or a list of files."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from asyncstore.cli.output.plain_text import count_text, path_text, peer_text, tally
from asyncstore.cli.output.records import cells_of, csv_row, event_line
from asyncstore.instances.outcome import State
from asyncstore.ledger.protocol import FAILED, STORED
from asyncstore.ledger.rows import Commitment, LedgerRow, RunState

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterator

    from asyncstore.cli.running import Results
    from asyncstore.ledger.reading import RecordReader
    from asyncstore.ledger.rows import CommitmentCount, ReasonCount, RunRecord, StateCount, StudyCount

_REASONS: Final = 20
_DIRECTORIES: Final = 10
_AT_REST: Final = STORED | {State.DUPLICATE, State.SKIPPED}
_STUDIES: Final = 20
# To count the states of more rows takes longer than a run should wait with its first file: 0.8 s for a million.
_COUNTED_AT_ONCE: Final = 200_000
_COMMITMENTS: Final = {
    Commitment.COMMITTED: "committed",
    Commitment.ASKED: "not committed: the peer has not reported",
    Commitment.NOT_ASKED: "not committed: not asked for since they were stored",
}
_COLUMNS: Final = tuple(LedgerRow.__dataclass_fields__)


class Account:
    """Formats the contents of a ledger, with each study if `studies`. Every method may raise LedgerError."""

    def __init__(self, ledger: RecordReader, *, studies: bool = False) -> None:
        self._ledger = ledger
        self._with_studies = studies

    # -- as text -------------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The counts, for people."""
        ledger = self._ledger
        runs = ledger.runs()
        yield f"Ledger of {peer_text(ledger.destination)}, begun {time_text(ledger.created_at)}"
        yield runs_text(runs)
        states = ledger.by_state()
        if _is_all_stored(runs, states):
            yield "All of the input of the last run is stored, and nothing has failed or is left"
        yield "By state"
        yield from tally((count.instances, count.state.value) for count in states)
        yield from self._commitment_lines()
        changes = ledger.by_change()
        if changes:
            yield "Changed on the way"
            yield from tally((count.instances, path_text(count.change)) for count in changes)
        doubtful = ledger.count_doubtful()
        if doubtful:
            what = f"{doubtful:,} of the stored are doubtful"
            yield f"{what}: the peer took them less than a minute before it ran out of resources"
        statuses = ledger.by_status()
        if statuses:
            yield "By status"
            yield from tally((count, f"{value:04X}") for value, count in statuses.items())
        reasons = ledger.by_reason(_REASONS)
        if reasons:
            yield "By reason"
            yield from tally((count.instances, reason_text(count)) for count in reasons)
        directories = ledger.worst_directories(_DIRECTORIES)
        if directories:
            yield "Most failures by directory"
            yield from tally((count.failed, path_text(count.directory) or "(from memory)") for count in directories)
        yield from self._study_lines()

    def _commitment_lines(self) -> Iterator[str]:
        """What the peer commits to keep, and why it does not keep the others; nothing if it was not asked to."""
        committed = self._ledger.committed()
        if committed is not None:
            yield f"{committed:,} of the stored are committed: the peer said that it keeps them"
            yield from tally((count.instances, commitment_text(count)) for count in uncommitted_counts(self._ledger))

    def _study_lines(self) -> Iterator[str]:
        """How many studies are complete, and those that are not; or all, if that was asked for."""
        if not self._with_studies and not self._ledger.has_studies():
            return
        studies = list(self._ledger.by_study())
        known = [study for study in studies if study.study_instance_uid is not None]
        incomplete = [study for study in known if not study.is_complete]
        if known:
            yield studies_text(len(known), len(known) - len(incomplete), self._ledger.runs())
        if self._with_studies:
            yield "By study: found, stored, failed; first and last outcome"
            yield from map(_study_line, studies)
        elif incomplete:
            yield "Incomplete studies: found, stored, failed; first and last outcome"
            yield from map(_study_line, incomplete[:_STUDIES])
            if len(incomplete) > _STUDIES:
                yield f"  and {len(incomplete) - _STUDIES:,} more: --studies lists all"

    # -- as JSON -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        ledger = self._ledger
        runs, states = ledger.runs(), ledger.by_state()
        data: dict[str, Any] = {
            "destination": ledger.destination,
            "created_at": ledger.created_at.isoformat(timespec="milliseconds"),
            "runs": [_run_data(run) for run in runs],
            "all_stored": _is_all_stored(runs, states),
            "doubtful": ledger.count_doubtful(),
            "committed": ledger.committed(),
            "not_committed": [_commitment_data(count) for count in uncommitted_counts(ledger)],
            "states": {count.state.value: count.instances for count in states},
            "statuses": {f"{value:04X}": count for value, count in ledger.by_status().items()},
            "reasons": [reason_data(count) for count in ledger.by_reason()],
            "changes": {count.change: count.instances for count in ledger.by_change()},
            "worst_directories": [count._asdict() for count in ledger.worst_directories(_DIRECTORIES)],
        }
        if self._with_studies:
            data["studies"] = [_study_data(study) for study in ledger.by_study()]
        return data

    def json_line(self) -> str:
        """One line of JSON in ASCII."""
        return event_line("ledger", self.to_dict())

    # -- each row ------------------------------------------------------------------------------------------------------

    def write_csv(self, results: Results) -> None:
        """Every row as CSV (RFC 4180) without formulas for a spreadsheet."""
        results.write_bytes(csv_row(_COLUMNS))
        for row in self._ledger.rows():
            results.write_bytes(csv_row(cells_of(row.to_dict(), _COLUMNS)))

    def write_failed_files(self, results: Results, *, doubtful: bool, ends_in_nul: bool) -> None:
        """The path of every file that failed or, if wanted, is doubtful: byte for byte, but escaped on a terminal."""
        end = b"\0" if ends_in_nul else b"\n"
        for row in itertools.chain(self._ledger.failed(), self._ledger.doubtful() if doubtful else ()):
            if row.path is not None:
                results.write_path(row.path, end)


def _is_all_stored(runs: list[RunRecord], states: list[StateCount]) -> bool:
    """Whether the peer has every instance: those of all rows, and the input of the last run has no others."""
    has_finished = _is_read(runs) and runs[-1].state is RunState.FINISHED
    return has_finished and bool(states) and _AT_REST.issuperset(count.state for count in states)


def _is_read(runs: list[RunRecord]) -> bool:
    """Whether the last run has read its input to the end."""
    return bool(runs) and runs[-1].scan_finished is True


def studies_text(studies: int, complete: int, runs: list[RunRecord]) -> str:
    """How many studies are complete: while there is input to read, more may come of each."""
    so_far = "" if _is_read(runs) else " as far as the input was read"
    return f"{count_text(studies, 'study')}, {complete:,} complete{so_far}"


def _study_line(study: StudyCount) -> str:
    uid = peer_text(study.study_instance_uid or "not known")
    span = f"{time_text(study.first_recorded_at)} to {time_text(study.last_recorded_at)}"
    return f"  {study.found:,}  {study.stored:,}  {study.failed:,}  {uid}  {span}"


def _study_data(study: StudyCount) -> dict[str, Any]:
    times = study.first_recorded_at, study.last_recorded_at
    first, last = (each.isoformat(timespec="milliseconds") for each in times)
    return {**study._asdict(), "first_recorded_at": first, "last_recorded_at": last}


def reason_text(count: ReasonCount) -> str:
    """A state with its status and reason."""
    status = "" if count.status is None else f" {count.status:04X}"
    reason = f": {path_text(count.reason)}" if count.reason else ""
    return f"{count.state.value}{status}{reason}"


def reason_data(count: ReasonCount) -> dict[str, Any]:
    """The same as plain data."""
    status = None if count.status is None else f"{count.status:04X}"
    return {**count._asdict(), "state": count.state.value, "status": status}


def uncommitted_counts(ledger: RecordReader) -> list[CommitmentCount]:
    """The stored instances that are not committed, by what is known of them; [] if commitment was not asked for."""
    return [count for count in ledger.by_commitment() if count.commitment is not Commitment.COMMITTED]


def commitment_text(count: CommitmentCount) -> str:
    """Whether stored instances are committed, and why not."""
    if count.failure_reason is not None:
        from asyncstore.services.storage_commitment import text_of_reason

        return f"not committed: {text_of_reason(count.failure_reason)}"
    return _COMMITMENTS[count.commitment]


def _commitment_data(count: CommitmentCount) -> dict[str, Any]:
    reason = None if count.failure_reason is None else f"{count.failure_reason:04X}"
    return {
        "commitment": count.commitment.value,
        "failure_reason": reason,
        "reason": commitment_text(count),
        "instances": count.instances,
    }


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


def recorded_text(ledger: RecordReader) -> str:
    """What the runs have recorded, in a few words; empty if it is nothing."""
    if ledger.count_rows() > _COUNTED_AT_ONCE:
        return count_text(ledger.count_rows(), "file")
    counts: Counter[State] = Counter({count.state: count.instances for count in ledger.by_state()})
    groups = ((STORED, "stored"), ((State.DUPLICATE,), "duplicate"), (FAILED, "failed"), ((State.LEFT,), "left"))
    sums = [(sum(counts[state] for state in states), what) for states, what in groups]
    return ", ".join(f"{count:,} {what}" for count, what in sums if count)


def _latest_text(runs: list[RunRecord]) -> str:
    if not runs:
        return ""
    run = runs[-1]
    process = f"(process {run.pid} on {peer_text(run.host)})"
    begun = time_text(run.started_at)
    ended = "" if run.finished_at is None else time_text(run.finished_at)
    if run.state is RunState.RUNNING:
        return f", the last one running since {begun} {process}"
    if run.state is RunState.KILLED:
        return f", the last one begun {begun} and killed, or unable to write its end {process}"
    if run.state is not RunState.STOPPED_EARLY:
        return f", the last one {run.state.value} {ended}"
    unread = "" if run.scan_finished else "; the input was not read to its end"
    return f", the last one stopped early {ended}: {path_text(run.stopped or '')}{unread}"


def time_text(time: datetime.datetime) -> str:
    """A time by the clock of this machine."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
