"""The account of a run: every number that a bar, a summary or an exit code shows comes from here."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncstore.instances.outcome import FAILED_STATES, STORED_STATES, State

if TYPE_CHECKING:
    from asyncstore.instances.outcome import Outcome

_KEPT_REASONS = 1000  # a peer that words each failure differently must not fill the memory


@dataclass(slots=True)
class Report:
    """The account of a transfer so far: instances by state, status and reason, and bytes of data sets.

    `stored`, `failed`, `left` and `states` count outcomes. `found` and `found_bytes` grow while the input is scanned,
    and are final once `scan_finished` is true. `streamed_bytes` is the part of `sent_bytes` that large instances sent
    beyond their first 8 MiB. `left_out` counts what the selection left out, which has no outcome; it is known when the
    input has been read. `stopped_because` is the exception that stopped the run before its work was done, None
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
    left_out: int = 0

    @property
    def stored(self) -> int:
        """Instances that the peer has: stored, with or without a warning, in this run or an earlier one."""
        return sum(self.states[state] for state in STORED_STATES)

    @property
    def failed(self) -> int:
        """Instances that could not be stored or have no known outcome; those left for another run do not count."""
        return sum(self.states[state] for state in FAILED_STATES)

    @property
    def duplicates(self) -> int:
        return self.states[State.DUPLICATE]

    @property
    def left(self) -> int:
        """Instances that were found and had no final outcome when the run stopped."""
        return self.states[State.LEFT]

    @property
    def finished(self) -> int:
        """Outcomes so far, of every state."""
        return self.states.total()

    @property
    def elapsed_seconds(self) -> float:
        return (self.finished_at or time.monotonic()) - self.started_at

    @property
    def finished_instances(self) -> int:
        """Outcomes so far of instances that `found` counts: without files that hold none or cannot be read."""
        return self.finished - self.problems

    def add(self, outcome: Outcome) -> None:
        """Count a final outcome."""
        self.states[outcome.state] += 1
        if outcome.instance is None:
            self.problems += 1
        self.attempts += outcome.attempts
        if outcome.status is not None:
            self.statuses[outcome.status.value] += 1
        if outcome.is_stored and outcome.attempts and outcome.instance is not None:
            self.stored_bytes += outcome.instance.data_set_length
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
            "stored": self.stored,
            "failed": self.failed,
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
