"""Prints a migration of many hosts, as text or as JSON: what is in batches, and how far they are."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.cli.output.ledger_text import Account, reason_data, reason_text, time_text
from asyncstore.cli.output.plain_text import (
    count_text,
    duration_text,
    path_text,
    peer_text,
    rate_text,
    size_text,
    tally,
)
from asyncstore.cli.output.records import event_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.cluster.overview import GivenUp, MigrationReader, WorkerRecord
    from asyncstore.cluster.tables import Totals

_PROBLEMS: Final = 20
_REASONS: Final = 20
_STATES: Final = ("done", "doing", "open", "set-aside")


class Enqueued(NamedTuple):
    """What a migration has after its roots were walked."""

    name: str
    destination: str
    totals: Totals
    new_batches: int

    def lines(self) -> Iterator[str]:
        """The counts, for people."""
        totals = self.totals
        content = f"{count_text(totals.files, 'file')} ({size_text(totals.size_bytes)})"
        batches = f"{count_text(totals.batches, 'batch')}, {self.new_batches:,} of them new"
        yield f"Migration {self.name} to {peer_text(self.destination)}: {content} in {batches}"
        for path, files in totals.large:
            yield f"{path_text(path)}: {files:,} files in one directory are one batch, for one association"
        if totals.problems:
            yield "Not in a batch"
            yield from (f"  {path_text(problem)}" for problem in totals.problems[:_PROBLEMS])
        if len(totals.problems) > _PROBLEMS:
            yield f"  and {len(totals.problems) - _PROBLEMS:,} more: --json has all"

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        totals = self.totals
        return {
            "migration": self.name,
            "destination": self.destination,
            "batches": totals.batches,
            "new_batches": self.new_batches,
            "files": totals.files,
            "size_bytes": totals.size_bytes,
            "problems": totals.problems,
            "large_directories": [{"path": path, "files": files} for path, files in totals.large],
        }

    def json_line(self) -> str:
        """One line of JSON in ASCII."""
        return event_line("enqueued", self.to_dict())


class MigrationAccount(Account):
    """Formats how far a migration is; its rows like those of any ledger. Every method may raise LedgerError."""

    def __init__(self, reader: MigrationReader) -> None:
        super().__init__(reader)
        self._reader = reader
        self._overview = reader.overview()

    # -- as text -------------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """For people."""
        overview, reader = self._overview, self._reader
        yield (
            f"Migration {overview.name} to {peer_text(reader.destination)}, begun {time_text(reader.created_at)} "
            f"by {peer_text(overview.created_by)}"
        )
        yield self._pace()
        yield "Batches: files, stored, failed"
        order = {state: number for number, state in enumerate(_STATES)}
        for count in sorted(overview.batches, key=lambda count: order.get(count.state, len(order))):
            yield f"  {count.batches:,} {count.state}: {count.files:,}, {count.stored:,}, {count.failed:,}"
        if overview.open_parts:
            yield "The roots are not walked to their end: run asyncstore enqueue again, unless it still runs"
        if overview.parts_with_problems:
            yield "Some of what is in the roots is in no batch: asyncstore enqueue says what"
        yield from _counts("Instances", ((count.instances, count.state.value) for count in reader.by_state()))
        yield from _counts("By reason", ((each.instances, reason_text(each)) for each in reader.by_reason(_REASONS)))
        yield from self._worker_lines()
        yield from self._given_up_lines()

    def _pace(self) -> str:
        overview = self._overview
        associations = sum(worker.associations for worker in overview.workers if worker.state == "running")
        places = f"{associations} of at most {count_text(overview.target, 'association')} (cap {overview.cap})"
        if overview.is_paused:
            return f"Paused: asyncstore resume has it go on; {places}"
        if not overview.left_files:
            return f"Nothing is left to send; {places}"
        left = f"{count_text(overview.left_files, 'file')} left"
        if overview.seconds_left is None:
            return f"{left}, and nothing was done in the last 10 minutes; {places}"
        rate = f"{rate_text(overview.files_per_second)} files/s, {size_text(overview.bytes_per_second)}/s"
        return f"{left}, {rate}, about {duration_text(overview.seconds_left, digits=0)} to go; {places}"

    def _worker_lines(self) -> Iterator[str]:
        workers = self._overview.workers
        present = [worker for worker in workers if worker.state in ("running", "silent")]
        ended = collections.Counter(worker.state for worker in workers if worker not in present)
        earlier = "".join(f", {count:,} {state}" for state, count in sorted(ended.items()))
        yield f"{count_text(len(present), 'worker')} at work{earlier}"
        for worker in present:
            where = f"{peer_text(worker.host)}, process {worker.pid}, since {time_text(worker.started_at)}"
            heard = "never heard of" if worker.silent_seconds is None else f"last sign of life {_ago(worker)}"
            silent = "SILENT, taken for dead; " if worker.state == "silent" else ""
            work = f"{count_text(worker.associations, 'association')}, {count_text(worker.answers, 'answer')}"
            yield f"  {where}: {silent}{heard}, {work}, {size_text(worker.sent_bytes)}"

    def _given_up_lines(self) -> Iterator[str]:
        overview = self._overview
        if overview.set_aside:
            yield "Set aside (asyncstore retry puts them back)"
            for batch in overview.set_aside:
                files = count_text(batch.files, "file")
                yield f"  batch {batch.number}, {_place(batch)}, {files}: {path_text(batch.reason)}"
        set_aside = ((count.instances, reason_text(count)) for count in overview.set_aside_instances)
        yield from _counts("Instances that were set aside", set_aside)
        if overview.failing:
            yield "Most failures"
            for batch in overview.failing:
                yield f"  {batch.failed:,} in batch {batch.number}, {_place(batch)}"

    # -- as JSON -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        overview, reader = self._overview, self._reader
        return {
            "migration": overview.name,
            "destination": reader.destination,
            "created_at": reader.created_at.isoformat(timespec="milliseconds"),
            "paused": overview.is_paused,
            "cap": overview.cap,
            "target": overview.target,
            "files_per_second": round(overview.files_per_second, 3),
            "bytes_per_second": round(overview.bytes_per_second),
            "left_files": overview.left_files,
            "seconds_left": None if overview.seconds_left is None else round(overview.seconds_left),
            "batches": {
                count.state: {name: value for name, value in count._asdict().items() if name != "state"}
                for count in overview.batches
            },
            "states": {count.state.value: count.instances for count in reader.by_state()},
            "reasons": [reason_data(count) for count in reader.by_reason()],
            "workers": [_worker_data(worker) for worker in overview.workers],
            "set_aside": [batch._asdict() for batch in overview.set_aside],
            "set_aside_instances": [reason_data(count) for count in overview.set_aside_instances],
            "failing": [batch._asdict() for batch in overview.failing],
            "walked": not overview.open_parts,
        }

    def json_line(self) -> str:
        """One line of JSON in ASCII."""
        return event_line("migration", self.to_dict())


def _counts(title: str, rows: Iterable[tuple[int, str]]) -> Iterator[str]:
    lines = list(tally(rows))
    if lines:
        yield title
        yield from lines


def _ago(worker: WorkerRecord) -> str:
    return f"{duration_text(worker.silent_seconds or 0, digits=0)} ago"


def _place(batch: GivenUp) -> str:
    more = f" and {count_text(batch.directories - 1, 'directory')} more" if batch.directories > 1 else ""
    return f"{path_text(batch.path)}{more}"


def _worker_data(worker: WorkerRecord) -> dict[str, Any]:
    seen_at = None if worker.seen_at is None else worker.seen_at.isoformat(timespec="milliseconds")
    started_at = worker.started_at.isoformat(timespec="milliseconds")
    return {**worker._asdict(), "started_at": started_at, "seen_at": seen_at}
