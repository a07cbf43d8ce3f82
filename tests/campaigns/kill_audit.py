"""Holds the records of a killed migration against each other: ledger, proxy's journal, files at the SCP, source.

`audit(evidence)` gives one Finding per statement, with its numbers and whatever contradicts it. The records are read
without any code of asyncstore, because they are evidence about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sqlite3
import stat
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pydicom.filereader import read_dataset

from tests.support.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.support.tap import JournalEntry, RequestEntry

STORED: Final = frozenset(("stored", "warning"))
FAILED: Final = frozenset(("failed", "no-context", "source-problem", "unknown"))
SIGKILLED: Final = -9
# Outcomes are committed 250 ms after they came. A disk that is slow to sync, or a busy machine, does it later.
COMMIT_SECONDS: Final = 0.25
LATE_SECONDS: Final = 3.0


@dataclass(frozen=True)
class SourceFile:
    """One file of the source: what it holds, and the states of the ledger that are right for it in the end."""

    path: bytes
    sop_instance_uid: str
    digest: str
    states: frozenset[str]


@dataclass(frozen=True)
class Row:
    """What the ledger says of one file; `losses` counts the associations that ended over it."""

    path: bytes
    sop_instance_uid: str
    state: str
    losses: int = 0
    is_set_aside: bool = False


@dataclass(frozen=True)
class KeptFile:
    """One file at the SCP; the UID is empty when there is not enough of it to tell."""

    name: str
    sop_instance_uid: str
    digest: str


@dataclass(frozen=True)
class CommandRun:
    """One run of the command: its associations are those after `first`, up to `last`.

    `killed_at` is when it was dead, in seconds since 1970, and `signalled_at` when it was told to end, which a busy
    machine does later; None when it ended by itself. `states` counts what its report file says.
    """

    first: int
    last: int
    killed_at: float | None
    code: int
    states: Mapping[str, int] = field(default_factory=dict)
    moment: str = ""
    signalled_at: float | None = None

    def had(self, association: int) -> bool:
        return self.first < association <= self.last


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a round; `in_flight` is how many operations an association may have outstanding.

    `committed` is what the ledger calls so, None if no commitment was asked for; `reports` are the data sets of the
    peer's reports.
    """

    source: Sequence[SourceFile]
    before: Mapping[bytes, str]
    after: Mapping[bytes, str]
    rows: Sequence[Row]
    reported: Mapping[str, int]
    requests: Sequence[RequestEntry]
    responses: Sequence[JournalEntry]
    faulted: frozenset[int]
    kept: Sequence[KeptFile]
    runs: Sequence[CommandRun]
    associations: int
    in_flight: int
    committed: frozenset[str] | None = None
    reports: Sequence[bytes] = ()

    @property
    def acknowledged(self) -> Counter[str]:
        """How often each SOP Instance UID was answered as stored."""
        return Counter(entry.sop_instance_uid for entry in self.responses if says_stored(entry.status))


@dataclass
class Finding:
    """What was found about one statement; no `violations` means that it holds."""

    statement: str
    numbers: str = ""
    violations: list[str] = field(default_factory=list)


@dataclass
class Operation:
    """One C-STORE-RQ that the proxy saw, and the answer that it passed on, if any."""

    association: int
    sop_instance_uid: str
    answered_at: float | None = None
    status: int = -1


def says_stored(status: int) -> bool:
    """Success and the warnings."""
    return status in (0x0000, 0x0001, 0x0107, 0x0116) or status >> 12 == 0xB


# -- reading the records -----------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def snapshot(root: Path) -> dict[bytes, str]:
    """Every name below `root`: kind and rights, modification time, and of a file the bytes, as one line."""
    found = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for name in [b".", *names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            data = Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(status.st_mode) else b""
            relative = os.path.normpath(os.path.relpath(path, os.fsencode(root)))
            found[relative] = f"{status.st_mode:o} {status.st_mtime_ns} {digest(data)}"
    return found


@contextlib.contextmanager
def _copy_of(ledger: Path) -> Iterator[sqlite3.Connection]:
    """A copy, so that the next run finds the ledger as the kill has left it."""
    with tempfile.TemporaryDirectory(prefix="asyncstore-kill-") as directory:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{ledger}{suffix}", directory)
        with contextlib.closing(sqlite3.connect(Path(directory, ledger.name))) as connection:
            yield connection


def read_rows(ledger: Path) -> list[Row]:
    """Every row of a ledger; none of one that was killed while it was made. Raises AssertionError for a broken one."""
    with _copy_of(ledger) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the ledger is broken"
        if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'instances'").fetchone()[0]:
            return []
        query = "SELECT path, coalesce(sop_instance_uid, ''), state, losses, set_aside FROM instances"
        return [Row(bytes(path), *values) for path, *values in connection.execute(query)]


def read_committed(ledger: Path) -> frozenset[str]:
    """The SOP Instance UIDs that a ledger calls committed."""
    with _copy_of(ledger) as connection:
        tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('commitment', 'commitment_request', 'instances')"
        if connection.execute(tables).fetchone()[0] < 3:
            return frozenset()
        query = """
            SELECT v.sop_instance_uid FROM instances v JOIN instance i ON i.id = v.id
            JOIN commitment c ON c.sop_instance_uid = i.sop_instance_uid
            JOIN commitment_request r ON r.transaction_uid = c.transaction_uid
            WHERE c.answer = 0 AND r.asked_at >= v.recorded_at AND v.state IN ('stored', 'warning')"""
        return frozenset(uid for (uid,) in connection.execute(query))


def read_kept(received: Path, source: Iterable[SourceFile]) -> list[KeptFile]:
    """Every file at the SCP."""
    known = {each.digest: each.sop_instance_uid for each in source}
    return [_read_kept(path, known) for path in sorted(received.rglob("*")) if path.is_file()]


def _read_kept(path: Path, known: Mapping[str, str]) -> KeptFile:
    kept = Kept.at(path)
    found = digest(kept.data_set)
    uid = known.get(found)
    if uid is None:
        try:
            uid = kept.sop_instance_uid
        except Exception:  # whatever pydicom says of the part of a file
            uid = ""
    return KeptFile(path.name, uid, found)


# -- the statements ----------------------------------------------------------------------------------------------------


def audit(evidence: Evidence) -> list[Finding]:
    """All five statements, in the order of the documentation; of a round with commitment a sixth."""
    checks = [final_states, acknowledged_and_kept, resends, source_untouched, exit_codes]
    return [check(evidence) for check in (checks if evidence.committed is None else [*checks, committed_by_peer])]


class RowOfFile(Protocol):
    """What a ledger says of a file."""

    @property
    def path(self) -> bytes: ...
    @property
    def state(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...


def wrong_rows(rows: Iterable[RowOfFile], source: Iterable[SourceFile]) -> Iterator[str]:
    """Where a file of the source has not one row, with a state that it may have and its own UID, or a row no file."""
    rows_of: dict[bytes, list[RowOfFile]] = defaultdict(list)
    for row in rows:
        rows_of[row.path].append(row)
    for file in source:
        found = rows_of.pop(file.path, [])
        states = [row.state for row in found]
        if len(states) != 1 or states[0] not in file.states:
            yield f"{file.path!r} has {states or 'no row'}, not one of {sorted(file.states)}"
        elif found[0].sop_instance_uid != file.sop_instance_uid:
            yield f"{file.path!r} has SOP Instance UID {found[0].sop_instance_uid!r}"
    yield from (f"a row for {path!r}, which is not in the source" for path in rows_of)


def final_states(evidence: Evidence) -> Finding:
    """(1) Every source instance ends in exactly one final state."""
    finding = Finding("every source instance ends in exactly one final state")
    finding.violations += wrong_rows(evidence.rows, evidence.source)
    copies = Counter(row.sop_instance_uid for row in evidence.rows if row.state in STORED and row.sop_instance_uid)
    finding.violations += [f"{uid} counts as stored {count} times" for uid, count in copies.items() if count > 1]
    counted = Counter(row.state for row in evidence.rows)
    if counted != Counter(evidence.reported):
        finding.violations.append(f"`asyncstore report` says {dict(evidence.reported)}, the rows {dict(counted)}")
    finding.numbers = f"{len(evidence.source)} files: {_counts(counted)}"
    return finding


def acknowledged_and_kept(evidence: Evidence) -> Finding:
    """(2) Every instance that the ledger calls stored was acknowledged, and lies identical at the SCP."""
    finding = Finding("what the ledger calls stored was acknowledged and lies identical at the SCP")
    digests = {file.path: file.digest for file in evidence.source}
    identical: dict[tuple[str, str], int] = Counter((kept.sop_instance_uid, kept.digest) for kept in evidence.kept)
    stored = [row for row in evidence.rows if row.state in STORED]
    for row in stored:
        if not evidence.acknowledged[row.sop_instance_uid]:
            finding.violations.append(f"{row.sop_instance_uid} is stored for the ledger, and was never acknowledged")
        if not identical[row.sop_instance_uid, digests.get(row.path, "")]:
            finding.violations.append(f"{row.sop_instance_uid} is stored for the ledger, and not identical at the SCP")
    # What was cut in the middle may lie there in part. Whatever else differs was damaged.
    whole = set(digests.values())
    partial = Counter(kept.sop_instance_uid for kept in evidence.kept if kept.digest not in whole)
    cut = Counter(each.sop_instance_uid for each in operations(evidence) if each.answered_at is None)
    finding.violations += [
        f"{count} files of {uid or 'an unknown UID'} at the SCP differ, and {cut[uid]} were cut"
        for uid, count in partial.items()
        if count > (cut[uid] if uid else cut.total())
    ]
    acknowledged = sum(1 for row in stored if evidence.acknowledged[row.sop_instance_uid])
    finding.numbers = (
        f"{len(stored)} stored, {acknowledged} acknowledged, {len(evidence.kept)} files at the SCP, "
        f"{partial.total()} of them in part"
    )
    return finding


def operations(evidence: Evidence) -> list[Operation]:
    """Every request that the proxy saw with its answer, in the order of the requests."""
    answers: dict[tuple[int, int], list[JournalEntry]] = defaultdict(list)
    for entry in evidence.responses:
        answers[entry.association, entry.message_id].append(entry)
    found = []
    for request in evidence.requests:
        operation = Operation(request.association, request.sop_instance_uid)
        waiting = answers[request.association, request.message_id]
        if waiting:
            answer = waiting.pop(0)
            operation.answered_at, operation.status = answer.time, answer.status
        found.append(operation)
    return found


def resends(evidence: Evidence) -> Finding:
    """(3) Every resend is explained by a kill or a fault, and by each no more than were in flight.

    A kill explains what was unanswered then on its associations, and also what was answered, before the process was
    told to end, within the time that the ledger takes to commit: the answer was given, the record of it lost. A fault
    explains, of the association that it ended, what was unanswered and what was answered too late to be read. A refusal
    explains one request more. What the proxy saw answered after the kill was in flight for the sender that was killed.
    """
    finding = Finding("resends are at most kills and faults x operations in flight")
    by_kill: Counter[int] = Counter()
    by_fault: Counter[int] = Counter()
    refused = 0
    uncommitted: list[float] = []
    last: dict[str, Operation] = {}
    for operation in operations(evidence):
        before = last.get(operation.sop_instance_uid)
        last[operation.sop_instance_uid] = operation
        if before is None:
            continue
        run, signalled_at, killed_at = _run_of(before, evidence.runs)
        since_answer = 0.0 if before.answered_at is None or signalled_at is None else signalled_at - before.answered_at
        is_open = before.answered_at is None or (killed_at is not None and before.answered_at > killed_at)
        if is_open and before.association in evidence.faulted:
            by_fault[before.association] += 1
        elif is_open and killed_at is not None:
            by_kill[run] += 1
        elif before.answered_at is not None and not says_stored(before.status):
            refused += 1
        elif killed_at is not None and since_answer <= COMMIT_SECONDS + LATE_SECONDS:
            uncommitted.append(since_answer)
        elif before.association in evidence.faulted:
            by_fault[before.association] += 1
        else:
            finding.violations.append(_unexplained(before, operation, signalled_at))
    kills = sum(run.killed_at is not None for run in evidence.runs)
    at_kill = evidence.associations * evidence.in_flight
    finding.violations += [
        f"run {run} was killed, and {count} that were in flight were sent again: at most {at_kill}"
        for run, count in by_kill.items()
        if count > at_kill
    ]
    finding.violations += [
        f"association {number} was ended by a fault, and {count} were sent again: at most {evidence.in_flight}"
        for number, count in by_fault.items()
        if count > evidence.in_flight
    ]
    total = len(evidence.requests) - len(last)
    finding.numbers = (
        f"{total} resends: {by_kill.total()} in flight at a kill (at most {kills} x {at_kill}), "
        f"{by_fault.total()} at a fault (at most {len(evidence.faulted)} x {evidence.in_flight}), "
        f"{len(uncommitted)} answered and not yet committed at a kill (for {max(uncommitted, default=0.0):.3f} s "
        f"at the longest), {refused} refused before"
    )
    return finding


def _run_of(operation: Operation, runs: Sequence[CommandRun]) -> tuple[int, float | None, float | None]:
    """The number of the run of an operation, counted from 1, when that was told to end, and when it was dead."""
    for number, run in enumerate(runs, 1):
        if run.had(operation.association):
            return number, run.killed_at if run.signalled_at is None else run.signalled_at, run.killed_at
    return 0, None, None


def _unexplained(before: Operation, again: Operation, killed_at: float | None) -> str:
    answer = "not answered"
    if before.answered_at is not None:
        age = "" if killed_at is None else f" {killed_at - before.answered_at:.3f} s before the kill"
        answer = f"answered {before.status:04X}{age}"
    return (
        f"{again.sop_instance_uid} was sent again on association {again.association}: before, on association "
        f"{before.association}, it was {answer}, and no kill and no fault explains that"
    )


def source_untouched(evidence: Evidence) -> Finding:
    """(4) The source is untouched: names, bytes, rights and modification times."""
    finding = Finding("the source is untouched")
    names = sorted(evidence.before.keys() | evidence.after.keys())
    finding.violations += [
        f"{name!r} was {evidence.before.get(name)} and is {evidence.after.get(name)}"
        for name in names
        if evidence.before.get(name) != evidence.after.get(name)
    ]
    finding.numbers = f"{len(evidence.before)} names, {len(names) - len(finding.violations)} unchanged"
    return finding


def exit_codes(evidence: Evidence) -> Finding:
    """(5) The exit code of each run agrees with the counts."""
    finding = Finding("the exit code agrees with the counts")
    for number, run in enumerate(evidence.runs, 1):
        has_sent = any(run.had(request.association) for request in evidence.requests)
        expected = expected_codes(run, len(evidence.source), has_sent=has_sent)
        if expected == (0,) and evidence.committed is not None:
            expected = (0, 3)  # some are not committed
        if run.code not in expected:
            counts = _counts(run.states) or "nothing reported"
            finding.violations.append(f"run {number} ended with {run.code}, not one of {expected}: {counts}")
    failed = sum(row.state in FAILED for row in evidence.rows)
    failed += len(_uncommitted(evidence))
    final = evidence.runs[-1].code if evidence.runs else None
    if final != (3 if failed else 0):
        finding.violations.append(f"the last run ended with {final}, and the ledger has {failed} failed")
    finding.numbers = _counts(Counter(f"exit {run.code}" for run in evidence.runs))
    return finding


def committed_by_peer(evidence: Evidence) -> Finding:
    """(6) What the ledger calls committed, the peer reported as committed; at the end, that is all that is stored."""
    finding = Finding("what the ledger calls committed, the peer reported as committed")
    reported = {uid for report in evidence.reports for uid in committed_in(report)}
    committed = evidence.committed or frozenset()
    finding.violations += [f"{uid} is committed for the ledger, and never was reported" for uid in committed - reported]
    finding.violations += [f"{uid} is stored and not committed at the end" for uid in _uncommitted(evidence)]
    finding.numbers = f"{len(committed)} committed, {len(reported)} reported so in {len(evidence.reports)} reports"
    return finding


def _uncommitted(evidence: Evidence) -> list[str]:
    if evidence.committed is None:
        return []
    stored = [row.sop_instance_uid for row in evidence.rows if row.state in STORED]
    return [uid for uid in stored if uid not in evidence.committed]


def committed_in(report: bytes) -> list[str]:
    """The SOP Instance UIDs that a report of our storescp names as committed: Explicit VR Little Endian."""
    data_set = read_dataset(io.BytesIO(report), is_implicit_VR=False, is_little_endian=True)
    return [item.ReferencedSOPInstanceUID for item in data_set.get("ReferencedSOPSequence", [])]


def expected_codes(run: CommandRun, files: int, *, has_sent: bool) -> tuple[int, ...]:
    """The exit codes that are right for a run whose report told of these states."""
    if run.killed_at is not None:
        return (SIGKILLED,)
    states = Counter(run.states)
    if states["left"] or states.total() < files:
        return (4,) if has_sent else (1, 4)
    if states.total() > files:
        return ()
    return (3,) if any(states[state] for state in FAILED) else (0,)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
