"""The account of a run: every number that a bar, a summary or an exit code shows comes from here."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncstore.instances.outcome import FAILED_STATES, FOUND_EARLIER_STATES, STORED_STATES, State
from asyncstore.record import field, record

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome

_KEPT_REASONS = 1000  # a peer that words each failure differently must not fill the memory


class Waiting(NamedTuple):
    """Why a run sends nothing although it may have work. `str()` is one plain line.

    `until` is a time in seconds since 1970. If `because` is None, the limits of the run ask for it: the run goes on by
    itself at that time, or when the caller says (`until` is None). Otherwise the peer takes nothing, `because` is its
    latest error, and the run keeps trying until that time.
    """

    until: float | None
    because: Exception | None = None

    def __str__(self) -> str:
        if self.until is None:
            return "paused"
        text = f"waiting until {time.strftime('%a %H:%M', time.localtime(self.until))}"
        return text if self.because is None else f"{text} for a peer that takes nothing: {self.because}"


@record(slots=True)
class Report:
    """The account of a transfer so far: instances by state, status and reason, and bytes of data sets.

    `found` counts instances, those of an earlier run included, `found_bytes` the bytes of their data sets, and
    `found_file_bytes` those of their files, as far as they were opened; `found_before` counts those that were not,
    since a ledger has their outcome. All grow while the input is read, and are final once `scan_finished` is true. Of
    what is not an instance, `problems` counts paths that cannot be read and files that are damaged, and `skipped` the
    files in a directory that are not DICOM. `states` counts the outcomes of all three by State, `statuses` by the value
    of the peer's last answer, `reasons` by their reason, at most 1,000 of them. `left_out` counts what the selection
    left out, which has no outcome, and `archives_opened` the archives and DICOMDIRs whose content was read.

    `attempts` counts the C-STORE requests for instances with an outcome, `answers` the answers so far. `sent_bytes` are
    those of data sets that were sent, each time that they were; `streamed_bytes` is the part of them that large
    instances sent beyond their first 8 MiB. `stored_bytes` are those of the data sets that this run stored, as they
    were sent; `finished_bytes` those of data sets that have their outcome, as they are in their files. `sop_classes`
    counts the instances that this run stored, by SOP Class UID, `changes` those that it changed on the way, by each
    change. `set_aside` counts the failed instances that a later run sends only if it is asked to, `not_accepted` those
    for which the peer accepted no presentation context, by Transfer Syntax UID.

    `committed` counts the stored instances that the peer has committed to keep; None: it was not asked to.
    `not_committed` counts the others by reason, once that is known; all are known at the end.

    `associations_open` counts those that are open now, `associations_established` all so far. `waiting_for` is None
    while the run may send. `stopped_because` is the exception that stopped the run before its work was done, None
    otherwise. `started_at` and `finished_at` are times of time.monotonic(). `to_dict()` is for JSON.
    """

    found: int = 0
    found_bytes: int = 0
    problems: int = 0
    scan_finished: bool = False
    states: Counter[State] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    answers: int = 0
    sent_bytes: int = 0
    stored_bytes: int = 0
    associations_open: int = 0
    associations_established: int = 0
    stopped_because: Exception | None = None
    started_at: float = field(default_factory=time.monotonic)
    finished_at: float | None = None
    streamed_bytes: int = 0
    waiting_for: Waiting | None = None
    left_out: int = 0
    archives_opened: int = 0
    found_before: int = 0
    found_file_bytes: int = 0
    finished_bytes: int = 0
    set_aside: int = 0
    sop_classes: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    not_accepted: Counter[str] = field(default_factory=Counter)
    committed: int | None = None
    not_committed: Counter[str] = field(default_factory=Counter)

    @property
    def stored(self) -> int:
        """Instances that the peer has: stored, with or without a warning, in this run or an earlier one."""
        return sum(self.states[state] for state in STORED_STATES)

    @property
    def resumed(self) -> int:
        """Those among the stored that an earlier run with the same ledger stored."""
        return self.states[State.RESUMED]

    @property
    def failed(self) -> int:
        """Everything that could not be stored or has no known outcome: instances and `problems`.

        Instances that are left for another run do not count.
        """
        return sum(self.states[state] for state in FAILED_STATES)

    @property
    def failed_instances(self) -> int:
        """Those among the failed that are instances."""
        return self.failed - self.problems

    @property
    def skipped(self) -> int:
        """Files in a directory that are not DICOM instances: neither found nor failed."""
        return self.states[State.SKIPPED]

    @property
    def duplicates(self) -> int:
        """Instances that the peer has already, or whose data set is stored from another file."""
        return self.states[State.DUPLICATE]

    @property
    def left(self) -> int:
        """Instances that were found and had no final outcome when the run stopped.

        These are all that is left only if `scan_finished`: a run that stops does not read its input to the end.
        """
        return self.states[State.LEFT]

    @property
    def stopped_early(self) -> bool:
        """At the end of a run: whether instances are left, found or not."""
        return self.left > 0 or not self.scan_finished

    @property
    def finished(self) -> int:
        """Outcomes so far, of every state."""
        return self.states.total()

    @property
    def elapsed_seconds(self) -> float:
        """How long the run has lasted, or did last if it is finished."""
        return (self.finished_at or time.monotonic()) - self.started_at

    @property
    def finished_instances(self) -> int:
        """Those among `found` that have their final outcome."""
        return self.finished - self.problems - self.skipped - self.left

    def find(self, instance: Instance) -> None:
        """Count an instance that was read."""
        self.found += 1
        self.found_bytes += instance.data_set_length
        self.found_file_bytes += instance.size_bytes

    def add(self, outcome: Outcome, *, is_settled: bool = False) -> None:
        """Count a final outcome; `is_settled`: a ledger has it from an earlier run, and nothing was read."""
        state, instance, status = outcome.state, outcome.instance, outcome.status
        self.states[state] += 1
        # These are instances, although no file was opened.
        if is_settled and (state in FOUND_EARLIER_STATES or outcome.is_set_aside):
            self.found += 1
            self.found_before += 1
        elif instance is None and state is State.SOURCE_PROBLEM:
            self.problems += 1
        self.attempts += outcome.attempts
        if status is not None:
            self.statuses[status.value] += 1
        if state not in STORED_STATES:
            self.set_aside += outcome.is_set_aside
            if instance is not None and state is not State.LEFT:
                self.finished_bytes += instance.data_set_length
                if state is State.NO_CONTEXT:
                    self.not_accepted[instance.transfer_syntax_uid] += 1
        elif outcome.attempts and instance is not None:
            self.stored_bytes += outcome.bytes_sent
            self.finished_bytes += instance.data_set_length
            self.sop_classes[instance.sop_class_uid] += 1
            if outcome.changes:
                self.changes.update(outcome.changes)
        if outcome.reason and (outcome.reason in self.reasons or len(self.reasons) < _KEPT_REASONS):
            self.reasons[outcome.reason] += 1

    def count_streamed(self, streamed_bytes: int) -> None:
        """Count bytes of large instances that are sent and not answered yet."""
        self.streamed_bytes += streamed_bytes
        self.sent_bytes += streamed_bytes

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {
            "found": self.found,
            "found_bytes": self.found_bytes,
            "left_out": self.left_out,
            "scan_finished": self.scan_finished,
            "stored": self.stored,
            "resumed": self.resumed,
            "failed": self.failed,
            "left": self.left,
            "problems": self.problems,
            "skipped": self.skipped,
            "sop_classes": dict(self.sop_classes.most_common()),
            "changes": dict(self.changes.most_common()),
            "set_aside": self.set_aside,
            "committed": self.committed,
            "not_committed": {reason: count for reason, count in self.not_committed.most_common() if count},
            "states": {state.value: count for state, count in sorted(self.states.items())},
            "statuses": {f"{value:04X}": count for value, count in sorted(self.statuses.items())},
            "reasons": dict(self.reasons.most_common()),
            "attempts": self.attempts,
            "sent_bytes": self.sent_bytes,
            "stored_bytes": self.stored_bytes,
            "associations_established": self.associations_established,
            "stopped_because": str(self.stopped_because) if self.stopped_because else None,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
        }
