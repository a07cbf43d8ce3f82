"""Holds the records of a cluster that was killed against each other: database, archive, source, and the faults.

`audit(evidence)` gives one Finding per statement. A sender that was stopped or cut off for longer than others wait for
a sign of life is late: another has its work meanwhile. The archive cannot see that it is; so its associations are not
counted among those of the living, and it must send nothing more over them. All times are of `time.monotonic`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.campaigns.cluster_plan import CUT, CUT_DATABASE, KILL, RESTART, STOP
from tests.campaigns.kill_audit import STORED, Finding, wrong_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.campaigns.cluster_receiver import Association, Request
    from tests.campaigns.kill_audit import SourceFile

# What a sender does before others may think it dead, as parts of that time: it takes nothing new, it aborts.
NOTHING_NEW: Final = 0.5
ABORTS: Final = 0.75
# A busy machine does both later; another sender comes at 1.0.
SLACK: Final = 0.25
# Outcomes are committed 250 ms after they came, the first of a worker when it has a connection of its own for that. A
# busy machine does it later: `Evidence.command_seconds` is how long it needs for a whole command.
UNCOMMITTED_SECONDS: Final = 3.0
# Clocks of the database and of this process are read one after the other.
CLOCK_SECONDS: Final = 0.25
# The end of a connection may be noticed after the beginning of the next one: behind data that the receiver rests
# from, and on a busy machine. More associations than may be are there for much longer.
UNORDERED_SECONDS: Final = 0.5
IN_TIME: Final = 1.2
KILLED: Final = -9
ENDS: Final = frozenset((0, 6, KILLED))
SOME_LEFT: Final = 3


@dataclass(frozen=True)
class Row:
    """What the ledger says of one file, which `path` names relative to its root."""

    path: bytes
    sop_instance_uid: str
    state: str
    recorded_at: float


@dataclass(frozen=True)
class Trouble:
    """A fault as it happened: on a host, or on all (0)."""

    kind: str
    host: int
    begun_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        return self.ended_at - self.begun_at

    def strikes(self, host: str) -> bool:
        """Whether it may have struck this host; one that is not known may be any."""
        return self.host == 0 or host in ("", str(self.host))


@dataclass(frozen=True)
class WorkerRun:
    """One process of a worker, and how it ended."""

    host: int
    code: int
    has_traceback: bool = False


@dataclass(frozen=True)
class Evidence:
    """Everything that is known in the end.

    `batches` counts them by state, `batch_of` says where a file belongs; `set_aside` batches were sent only in the end,
    when nothing went wrong any more.
    """

    source: Sequence[SourceFile]
    rows: Sequence[Row]
    batches: Mapping[str, int]
    batch_of: Mapping[bytes, int]
    reported: Mapping[str, int]
    associations: Sequence[Association]
    requests: Sequence[Request]
    troubles: Sequence[Trouble]
    runs: Sequence[WorkerRun]
    cap: int
    heartbeat_seconds: float
    set_aside: int = 0
    command_seconds: float = 0.0

    def late(self) -> Iterator[tuple[Trouble, Association]]:
        """The associations that were open while their host was stopped or cut off, with that."""
        for trouble, each in itertools.product(self.troubles, self.associations):
            if trouble.kind in (STOP, CUT, CUT_DATABASE) and each.host and trouble.strikes(each.host):
                was_open = each.ended_at is None or each.ended_at > trouble.begun_at
                if was_open and each.opened_at < trouble.ended_at:
                    yield trouble, each


def audit(evidence: Evidence) -> list[Finding]:
    """Every statement, in the order of their numbers."""
    checks = (every_instance, received, sent_again, cap_is_kept, in_flight_once, late_ones_send_nothing, ends)
    return [check(evidence) for check in checks]


def every_instance(evidence: Evidence) -> Finding:
    """(1) Every file has one row and is stored, or is a copy of one that is; every batch is done."""
    finding = Finding("every instance is stored, and has one row")
    finding.violations += wrong_rows(evidence.rows, evidence.source)
    stored = Counter(row.sop_instance_uid for row in evidence.rows if row.state in STORED)
    wanted = {file.sop_instance_uid for file in evidence.source}
    finding.violations += [f"{uid} counts as stored {stored[uid]} times" for uid in wanted if stored[uid] != 1]
    counted = Counter(row.state for row in evidence.rows)
    if counted != Counter(evidence.reported):
        finding.violations.append(f"the report says {dict(evidence.reported)}, the rows {dict(counted)}")
    if set(evidence.batches) != {"done"}:
        finding.violations.append(f"not every batch is done: {dict(evidence.batches)}")
    finding.numbers = f"{len(evidence.source)} files: {_counts(counted)}; batches: {_counts(evidence.batches)}"
    return finding


def received(evidence: Evidence) -> Finding:
    """(2) What is stored was received whole and answered before it was recorded, and nothing else was."""
    finding = Finding("what is stored was received identical, and answered before it was recorded")
    digests = {file.sop_instance_uid: file.digest for file in evidence.source}
    answered: dict[str, float] = {}
    for request in evidence.requests:
        if request.whole_at is not None and request.digest != digests.get(request.sop_instance_uid):
            finding.violations.append(f"{request.sop_instance_uid} was received otherwise than it is")
        if request.answered_at is not None:
            answered.setdefault(request.sop_instance_uid, request.answered_at)
    stored = [row for row in evidence.rows if row.state in STORED]
    for row in stored:
        at = answered.get(row.sop_instance_uid)
        if at is None:
            finding.violations.append(f"{row.sop_instance_uid} is stored for the ledger, and was never answered")
        elif row.recorded_at < at - CLOCK_SECONDS:
            finding.violations.append(
                f"{row.sop_instance_uid} was recorded {at - row.recorded_at:.3f} s before it was answered"
            )
    unknown = answered.keys() - {row.sop_instance_uid for row in stored}
    finding.violations += [f"{uid} was received, and is not stored for the ledger" for uid in sorted(unknown)]
    whole = [request for request in evidence.requests if request.whole_at is not None]
    finding.numbers = (
        f"{len(stored)} stored, {len({each.sop_instance_uid for each in whole})} received, "
        f"{len(whole)} times; {len(evidence.requests) - len(whole)} were cut short"
    )
    return finding


def sent_again(evidence: Evidence) -> Finding:
    """(3) What was received twice was so because its record was lost, with its sender or on the way to the database."""
    finding = Finding("nothing is received twice, but where a fault lost the record of it")
    by_kind: Counter[str] = Counter()
    last: dict[str, Request] = {}
    for request in evidence.requests:
        if request.whole_at is None:
            continue
        before = last.get(request.sop_instance_uid)
        last[request.sop_instance_uid] = request
        if before is None:
            continue
        # A restart strikes all: what struck only this host tells more.
        troubles = sorted(evidence.troubles, key=lambda trouble: trouble.host == 0)
        kind = next((each.kind for each in troubles if _explains(evidence, each, before, request)), None)
        if kind is None:
            later = request.begun_at - (before.whole_at or 0)
            finding.violations.append(
                f"{request.sop_instance_uid} was received on association {before.association}, and {later:.2f} s later "
                f"on {request.association}: no fault explains it"
            )
        else:
            by_kind[kind] += 1
    finding.numbers = f"{by_kind.total()} again, after: {_counts(by_kind)}"
    return finding


def _explains(evidence: Evidence, trouble: Trouble, before: Request, again: Request) -> bool:
    """Whether this fault may have kept the outcome of `before` from the database."""
    assert before.whole_at is not None
    association = evidence.associations[before.association - 1]
    # Until it was answered, its sender could know nothing.
    known_at = association.ended_at if before.answered_at is None else before.answered_at
    if not trouble.strikes(association.host) or trouble.begun_at > again.begun_at:
        return False
    if trouble.kind == KILL and association.opened_at > trouble.begun_at:
        return False
    # Outcomes wait in their sender while it or the database is away, and until the connection is made again.
    ended_at = trouble.ended_at + evidence.heartbeat_seconds
    waiting = [
        each.begun_at
        for each in evidence.troubles
        if trouble.kind == KILL
        and each.kind in (RESTART, CUT_DATABASE, CUT, STOP)
        and each.strikes(association.host)
        and each.begun_at < trouble.begun_at < each.ended_at + evidence.heartbeat_seconds
    ]
    uncommitted_seconds = max(UNCOMMITTED_SECONDS, evidence.command_seconds)
    is_before = known_at is not None and known_at < min([trouble.begun_at, *waiting]) - uncommitted_seconds
    return not is_before and before.whole_at <= ended_at


def cap_is_kept(evidence: Evidence) -> Finding:
    """(4) There are never more associations than the cap."""
    finding = Finding(f"there are never more than {evidence.cap} associations")
    # Those of a sender that is not there do not count from when it went.
    gone_at: dict[int, float] = {}
    for trouble, each in evidence.late():
        if trouble.seconds > NOTHING_NEW * evidence.heartbeat_seconds and trouble.kind != CUT_DATABASE:
            gone_at[each.number] = min(trouble.begun_at, gone_at.get(each.number, trouble.begun_at))
    changes = []
    for each in evidence.associations:
        ended_at = gone_at.get(each.number, each.ended_at)
        changes.append((each.opened_at, 1, each.number))
        if ended_at is not None:
            slack = 0.0 if each.ending == "release" else UNORDERED_SECONDS
            # At the same time, ends count first; but not its own, however short it was.
            soonest = math.nextafter(each.opened_at, math.inf)
            changes.append((max(soonest, ended_at - slack), -1, each.number))
    living: set[int] = set()
    most = 0
    for _, change, number in sorted(changes):
        (living.add if change > 0 else living.discard)(number)
        if len(living) > max(most, evidence.cap):
            finding.violations.append(f"associations {sorted(living)} are open at once")
        most = max(most, len(living))
    finding.numbers = f"{len(evidence.associations)} associations, at most {most} at once"
    return finding


def in_flight_once(evidence: Evidence) -> Finding:
    """(5) No instance is under way twice at the same time.

    It is until it is answered, or until its last byte comes when its sender dies: a half that stays where it is does
    not move.
    """
    finding = Finding("no instance is under way twice at the same time")
    latest: dict[str, Request] = {}
    for request in evidence.requests:
        before = latest.get(request.sop_instance_uid)
        if before is not None and request.begun_at < _ended_at(before):
            finding.violations.append(
                f"{request.sop_instance_uid} is under way on associations {before.association} and "
                f"{request.association}, for {_ended_at(before) - request.begun_at:.3f} s at the same time"
            )
        if before is None or _ended_at(request) > _ended_at(before):
            latest[request.sop_instance_uid] = request
    begun = Counter(request.sop_instance_uid for request in evidence.requests)
    finding.numbers = f"{sum(count > 1 for count in begun.values())} were begun more than once"
    return finding


def _ended_at(request: Request) -> float:
    return request.last_at if request.answered_at is None else request.answered_at


def late_ones_send_nothing(evidence: Evidence) -> Finding:
    """(6) A sender that others must think dead sends nothing more of what it had."""
    finding = Finding("a sender that was away for too long sends nothing more")
    of_association: dict[int, list[Request]] = defaultdict(list)
    for request in evidence.requests:
        of_association[request.association].append(request)
    late = 0
    for trouble, association in evidence.late():
        if trouble.seconds <= evidence.heartbeat_seconds:
            continue
        late += 1
        new_until, until = _limits(evidence, trouble)
        for request in of_association[association.number]:
            if request.begun_at > new_until or request.last_at > until:
                finding.violations.append(
                    f"host {trouble.host}: {trouble.kind} for {trouble.seconds:.1f} s, and on association "
                    f"{association.number} {request.sop_instance_uid} was begun "
                    f"{request.begun_at - trouble.begun_at:.2f} s after that began, its last byte came after "
                    f"{request.last_at - trouble.begun_at:.2f} s"
                )
        # Whoever is cut off cannot say that it aborts.
        if trouble.kind == CUT_DATABASE and (association.ended_at is None or association.ended_at > until):
            finding.violations.append(
                f"host {trouble.host}: {trouble.kind} for {trouble.seconds:.1f} s, and association "
                f"{association.number} did not end in {until - trouble.begun_at:.1f} s"
            )
    finding.numbers = f"{late} associations of senders that were away"
    return finding


def _limits(evidence: Evidence, trouble: Trouble) -> tuple[float, float]:
    """Until when something new may be sent, and anything at all. One that is stopped cannot know before it goes on."""
    if trouble.kind != CUT_DATABASE:
        return trouble.ended_at, trouble.ended_at
    until = trouble.begun_at + evidence.heartbeat_seconds * (ABORTS + SLACK)
    return trouble.begun_at + evidence.heartbeat_seconds * (NOTHING_NEW + SLACK), until


def ends(evidence: Evidence) -> Finding:
    """(7) A worker that is not killed ends because all is done, or because the database cannot be used."""
    finding = Finding("a worker ends because all is done, or because the database cannot be used")
    for number, run in enumerate(evidence.runs, 1):
        if run.code not in ENDS and not (run.code == SOME_LEFT and evidence.set_aside):
            finding.violations.append(f"worker {number}, on host {run.host}, ended with {run.code}")
        if run.has_traceback:
            finding.violations.append(f"worker {number}, on host {run.host}, printed a traceback")
    finding.numbers = _counts(Counter(f"exit {run.code}" for run in evidence.runs))
    return finding


def goes_on_in_time(evidence: Evidence) -> Finding:
    """Of kills that come one by one: the batch of each is being sent again soon after its worker is taken for dead.

    Not so if other batches were first, and there are as many associations as may be.
    """
    finding = Finding(f"a batch goes on within {IN_TIME} times the heartbeat's {evidence.heartbeat_seconds:g} s")
    limit = IN_TIME * evidence.heartbeat_seconds
    found = takeovers(evidence)
    late = [(killed_at, seconds) for killed_at, seconds in found if seconds > limit]
    waiting = [each for each in late if _open_at(evidence, each[0] + limit) >= evidence.cap]
    finding.violations += [
        f"a batch went on {seconds:.2f} s after its worker was killed"
        for killed_at, seconds in late
        if (killed_at, seconds) not in waiting
    ]
    in_time = [seconds for _, seconds in found if seconds <= limit]
    finding.numbers = (
        f"{len(in_time)} batches did, at the latest after {max(in_time, default=0.0):.1f} s, "
        f"and {len(waiting)} waited for their turn"
    )
    return finding


def _open_at(evidence: Evidence, moment: float) -> int:
    return sum(
        each.opened_at <= moment and (each.ended_at is None or each.ended_at > moment) for each in evidence.associations
    )


def takeovers(evidence: Evidence) -> list[tuple[float, float]]:
    """Each kill that struck a batch: when it was, and how long after it another association went on with that."""
    requests = sorted(evidence.requests, key=lambda request: request.begun_at)
    batch_of_uid = {file.sop_instance_uid: evidence.batch_of.get(file.path) for file in evidence.source}
    found = []
    for kill in (trouble for trouble in evidence.troubles if trouble.kind == KILL):
        struck = {
            each.number
            for each in evidence.associations
            if kill.strikes(each.host) and each.opened_at < kill.begun_at and each.ended_at is not None
            and kill.begun_at <= each.ended_at < kill.begun_at + 1 and each.ending == "lost"
        }  # fmt: skip
        for number in struck:
            sent = [each for each in requests if each.association == number]
            batch = batch_of_uid.get(sent[-1].sop_instance_uid) if sent else None
            again = next(
                (
                    each.begun_at - kill.begun_at
                    for each in requests
                    if each.begun_at > kill.begun_at and batch_of_uid.get(each.sop_instance_uid) == batch
                    and each.association not in struck
                ),
                None,
            )  # fmt: skip
            if batch is not None and again is not None:
                found.append((kill.begun_at, again))
    return found


def takeover_line(evidence: Evidence) -> str:
    """How long a batch waited for its next sender, and how many had to wait for longer than they should."""
    found = [seconds for _, seconds in takeovers(evidence)]
    if not found:
        return "no batch had to be gone on with"
    beyond = sum(seconds > IN_TIME * evidence.heartbeat_seconds for seconds in found)
    return (
        f"{len(found)} batches of killed workers went on after {statistics.median(found):.1f} s, "
        f"at the latest after {max(found):.1f} s; {beyond} after more than {IN_TIME} x {evidence.heartbeat_seconds:g} s"
    )


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "none"
