"""What became of one instance."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore.errors import AsyncStoreError, SourceError, StoreFailed
from asyncstore.instances.problem import PASSED_OVER, ScanProblem
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from asyncstore.dimse.operations import Operation
    from asyncstore.instances.instance import Instance
    from asyncstore.status import Status


class State(enum.StrEnum):
    """Where an instance ended. Only STORED and WARNING mean that the peer said it has it."""

    STORED = "stored"
    WARNING = "warning"  # stored, and the peer had something to say about it
    DUPLICATE = "duplicate"  # the peer says it was already there, or it was stored from another file
    CONFLICT = "conflict"  # another data set is stored under its SOP Instance UID
    FAILED = "failed"  # the peer answered with a failure
    NO_CONTEXT = "no-context"  # no accepted presentation context fits: not a byte of it was sent
    SOURCE_PROBLEM = "source-problem"  # the file cannot be read, or is no longer what was scanned
    UNKNOWN = "unknown"  # sent, wholly or in part, and never answered
    SKIPPED = "skipped"  # no DICOM instance: found in a directory beside those that are
    RESUMED = "resumed"  # an earlier run of the same ledger stored it
    LEFT = "left"  # the run stopped before its turn


_DUPLICATE_SOP_INSTANCE = 0x0111
_STORED = State.STORED  # looking a member up costs 0.1 us each time, and nearly every instance is stored
STORED_STATES = frozenset((State.STORED, State.WARNING, State.RESUMED))
"""The peer has the instance, now or since an earlier run."""

FAILED_STATES = frozenset((State.CONFLICT, State.FAILED, State.NO_CONTEXT, State.SOURCE_PROBLEM, State.UNKNOWN))
"""Something kept the instance from being stored."""


@dataclass(slots=True)
class Outcome:
    """What became of one instance: `state`, and everything that explains it.

    `status` is the peer's answer where there was one. `reason` is one plain line, empty when all is well. `retryable`
    says whether sending it again may end otherwise. `attempts` counts C-STORE requests; `transfer_syntax_uid` is the
    one it was sent in, which is not the file's own after a conversion; `bytes_sent` counts data set bytes.
    `stored_path` is the stored file that has the same SOP Instance UID, where that is why this one was not sent.
    """

    state: State
    path: str | None
    instance: Instance | None = None
    status: Status | None = None
    reason: str = ""
    error: Exception | None = None
    retryable: bool = False
    attempts: int = 1
    association_number: int = 0
    context_id: int = 0
    message_id: int = 0
    transfer_syntax_uid: str = ""
    bytes_sent: int = 0
    stored_path: str | None = None

    @property
    def is_stored(self) -> bool:
        """The peer has the instance, now or since an earlier run."""
        return self.state in STORED_STATES

    def raise_for_failure(self) -> None:
        """Do nothing when the instance was stored; raise StoreFailed (or what was at fault) when it was not.

        That is so for DUPLICATE, SKIPPED and LEFT too, which `report.failed` does not count.
        """
        if self.is_stored:
            return
        if isinstance(self.error, AsyncStoreError):
            raise self.error
        raise StoreFailed(self.reason or self.state.value, self.status, retryable=self.retryable) from self.error


def outcome_of(
    instance: Instance, operation: Operation, status: Status, transfer_syntax_uid: str, bytes_sent: int
) -> Outcome:
    """The outcome of an instance whose request was answered, and which was sent as the last two arguments say."""
    state, reason, retryable = _STORED, "", False
    if status.value:
        state = _state_of(status)
        reason = reason_of(status)
        retryable = status.retryable
    return Outcome(
        state,
        instance.path,
        instance,
        status,
        reason,
        None,
        retryable,
        1,
        0,
        operation.context_id,
        operation.message_id,
        transfer_syntax_uid,
        bytes_sent,
    )


def reason_of(status: Status) -> str:
    """What an answer says, in one plain line."""
    return f"{status.meaning} (0x{status.value:04X})"


def _state_of(status: Status) -> State:
    """What an answer other than plain success makes of the instance."""
    if status.is_stored:
        return State.WARNING
    return State.DUPLICATE if status.value == _DUPLICATE_SOP_INSTANCE else State.FAILED


def source_problem(
    error: SourceError | OSError, path: str | None, instance: Instance | None = None, *, attempts: int = 0
) -> Outcome:
    """The outcome of an instance that cannot be read, converted or encoded."""
    retryable = isinstance(error, SourceError) and error.retryable
    return Outcome(
        State.SOURCE_PROBLEM, path, instance, reason=str(error), error=error, retryable=retryable, attempts=attempts
    )


def problem_outcome(problem: ScanProblem, *, is_named: bool) -> Outcome:
    """The outcome of what holds no instance: a failure when it was named, passed over when it lay in a directory."""
    is_passed_over = problem.reason in PASSED_OVER and not is_named
    state = State.SKIPPED if is_passed_over else State.SOURCE_PROBLEM
    return Outcome(
        state, problem.path, reason=f"{problem.reason.value}: {problem.detail}", error=problem.error, attempts=0
    )


def no_context(instance: Instance) -> Outcome:
    """The outcome of an instance for which no presentation context was accepted."""
    reason = (
        f"No presentation context for '{name_of(instance.sop_class_uid)}' has been accepted by the peer "
        f"with '{name_of(instance.transfer_syntax_uid)}' transfer syntax for the SCU role"
    )
    return Outcome(State.NO_CONTEXT, instance.path, instance, reason=reason, attempts=0)
