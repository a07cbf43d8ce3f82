"""The result of one instance, and its states."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from asyncstore.errors import AsyncStoreError, SourceError, StoreFailed
from asyncstore.instances.problem import PASSED_OVER, ScanProblem
from asyncstore.record import record
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from asyncstore.dimse.operations import Operation
    from asyncstore.instances.instance import Instance
    from asyncstore.status import Status


class State(enum.StrEnum):
    """The state of an instance at the end of a transfer. The value is its name in reports: "no-context".

    The peer has the instance:
        STORED          the peer answered with success
        WARNING         stored, and the peer answered with a warning
        RESUMED         an earlier run with the same ledger stored it; not sent

    Not known to be stored; counted by `Report.failed`:
        FAILED          the peer answered with a failure
        CONFLICT        another data set is stored under the same SOP Instance UID; not sent
        NO_CONTEXT      the peer accepted no presentation context for it; not sent
        SOURCE_PROBLEM  the file cannot be read or converted, or changed after it was scanned
        UNKNOWN         sent, in whole or in part, and never answered

    Counted by neither:
        DUPLICATE       the peer has it already (status 0111), or the same data set is stored from another file
        SKIPPED         a file in a directory that is not a DICOM instance
        LEFT            the run stopped before its turn
    """

    STORED = "stored"
    WARNING = "warning"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    FAILED = "failed"
    NO_CONTEXT = "no-context"
    SOURCE_PROBLEM = "source-problem"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    RESUMED = "resumed"
    LEFT = "left"


PADDED = "padded to an even length"
"""The change of a data set of odd length, which is sent with one byte more."""

MAY_LACK_CHANGES = "the peer keeps the data set that it had, which may lack the changes"
"""The end of the reason of a duplicate that was sent with changes: the peer need not have them."""

_DUPLICATE_SOP_INSTANCE = 0x0111
_STORED = State.STORED  # looking up a member takes 0.1 us, and nearly every instance is stored
STORED_STATES = frozenset((State.STORED, State.WARNING, State.RESUMED))
"""The states in which the peer has the instance, since this run or an earlier one."""

FOUND_EARLIER_STATES = frozenset((State.RESUMED, State.DUPLICATE))
"""The states that a ledger gives to an instance that an earlier run stored, or found to be stored."""

FAILED_STATES = frozenset((State.CONFLICT, State.FAILED, State.NO_CONTEXT, State.SOURCE_PROBLEM, State.UNKNOWN))
"""The states of an instance that could not be stored."""


class SentUIDs(NamedTuple):
    """The UIDs under which an instance was sent, if one of them is not the file's.

    `sop_instance_uid` is that of the C-STORE request. `study_instance_uid` and `series_instance_uid` are None if they
    are not known.
    """

    sop_instance_uid: str
    study_instance_uid: str | None
    series_instance_uid: str | None


@record(slots=True)
class Outcome:
    """The result of one instance: its `state`, and everything that explains it.

    `path` is the file, None for an instance in memory. `instance` is None for a file without one; if an Instance was
    handed in, it is that very object. `status` is the peer's answer, None if there was none. `reason` is one plain
    line, empty if all is well; `error` the exception behind it, if any. `retryable` says whether sending it again may
    help.

    `attempts` counts C-STORE requests; 0 means that nothing was sent. `association_number`, `context_id` and
    `message_id` are those of the last request, and `transfer_syntax_uid` is the one that it was sent in: not the file's
    own if the data set was converted. `bytes_sent` counts bytes of the data set. `stored_path` is the stored file
    with the same SOP Instance UID, if this one was not sent because of it.

    `changes` says what was changed on the way, in short lines that are equal for equal changes; empty if the bytes of
    the file were sent. `sent_uids` are the UIDs that it was sent under, None if they are those of `instance`.

    `losses` counts the associations that ended while it was in flight, in earlier runs with the same ledger too.
    `is_suspected`: the instance may be at fault itself, so that a later run sends it after all others. `is_set_aside`:
    it is at fault, since the peer took others meanwhile; a later run sends it only if it is asked to.
    """

    state: State
    path: str | None
    instance: Instance | None
    status: Status | None
    reason: str
    error: Exception | None
    retryable: bool
    attempts: int
    association_number: int
    context_id: int
    message_id: int
    transfer_syntax_uid: str
    bytes_sent: int
    stored_path: str | None
    losses: int
    is_suspected: bool
    is_set_aside: bool
    changes: tuple[str, ...]
    sent_uids: SentUIDs | None

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        state: State,
        path: str | None,
        instance: Instance | None = None,
        status: Status | None = None,
        reason: str = "",
        error: Exception | None = None,
        retryable: bool = False,
        attempts: int = 1,
        association_number: int = 0,
        context_id: int = 0,
        message_id: int = 0,
        transfer_syntax_uid: str = "",
        bytes_sent: int = 0,
        stored_path: str | None = None,
        losses: int = 0,
        is_suspected: bool = False,
        is_set_aside: bool = False,
        changes: tuple[str, ...] = (),
        sent_uids: SentUIDs | None = None,
    ) -> None:
        self.state = state
        self.path = path
        self.instance = instance
        self.status = status
        self.reason = reason
        self.error = error
        self.retryable = retryable
        self.attempts = attempts
        self.association_number = association_number
        self.context_id = context_id
        self.message_id = message_id
        self.transfer_syntax_uid = transfer_syntax_uid
        self.bytes_sent = bytes_sent
        self.stored_path = stored_path
        self.losses = losses
        self.is_suspected = is_suspected
        self.is_set_aside = is_set_aside
        self.changes = changes
        self.sent_uids = sent_uids

    def note_changes(self, changes: tuple[str, ...], sent_uids: SentUIDs | None) -> None:
        """Take note of what was changed in what was sent, and what that says of an instance that the peer had before.

        What it has under a new UID, or since an earlier attempt, was sent with the same changes.
        """
        self.changes, self.sent_uids = changes, sent_uids
        is_first = self.attempts == 1 and self.sent_sop_instance_uid == self._sop_instance_uid
        if self.state is State.DUPLICATE and self.status is not None and is_first and changes != (PADDED,):
            self.reason += f": {MAY_LACK_CHANGES}"

    @property
    def _sop_instance_uid(self) -> str | None:
        return None if self.instance is None else self.instance.sop_instance_uid

    @property
    def sent_sop_instance_uid(self) -> str | None:
        """The SOP Instance UID by which the peer knows it: the file's, unless it was changed. None without either."""
        if self.sent_uids is not None:
            return self.sent_uids.sop_instance_uid
        return self._sop_instance_uid

    @property
    def note(self) -> str:
        """One plain line about an instance that was sent otherwise than its file says, else empty.

        It was sent under a UID or transfer syntax of which the file holds another one too, or with a padding byte.
        """
        instance = self.instance
        if instance is None:
            return ""
        notes = [f"{instance.meta_difference}, which is used"] if instance.meta_difference and self.attempts else []
        if PADDED in self.changes and self.bytes_sent:
            notes.append("the data set has an odd length, and was sent with a padding byte")
        return "; ".join(notes)

    @property
    def is_stored(self) -> bool:
        """Whether the peer has the instance, since this run or an earlier one."""
        return self.state in STORED_STATES

    def raise_for_failure(self) -> None:
        """Raise an error unless the instance is stored: `error` if that is an AsyncStoreError, else StoreFailed.

        DUPLICATE, SKIPPED and LEFT raise too, although `Report.failed` does not count them.
        """
        if self.is_stored:
            return
        if isinstance(self.error, AsyncStoreError):
            raise self.error
        raise StoreFailed(self.reason or self.state.value, self.status, retryable=self.retryable) from self.error


def outcome_of(
    instance: Instance,
    operation: Operation,
    status: Status,
    transfer_syntax_uid: str,
    bytes_sent: int,
    attempts: int = 1,
    association_number: int = 0,
) -> Outcome:
    """The outcome of an instance whose request was answered; the arguments behind the status say how it was sent."""
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
        attempts,
        association_number,
        operation.context_id,
        operation.message_id,
        transfer_syntax_uid,
        bytes_sent,
    )


def reason_of(status: Status) -> str:
    """The meaning of an answer, as one plain line."""
    return f"{status.meaning} (0x{status.value:04X})"


def _state_of(status: Status) -> State:
    """The state that follows from an answer other than success."""
    if status.is_stored:
        return State.WARNING
    return State.DUPLICATE if status.value == _DUPLICATE_SOP_INSTANCE else State.FAILED


def source_problem(error: SourceError | OSError, path: str | None, instance: Instance | None = None) -> Outcome:
    """The outcome of an instance that cannot be read, converted or encoded.

    Its reason is that of many files at once, if a share goes away: so it must not name the file.
    """
    retryable = isinstance(error, SourceError) and error.retryable
    reason = str(error) if isinstance(error, SourceError) or not error.strerror else error.strerror
    return Outcome(State.SOURCE_PROBLEM, path, instance, reason=reason, error=error, retryable=retryable, attempts=0)


def problem_outcome(problem: ScanProblem, *, is_named: bool) -> Outcome:
    """The outcome of a path without an instance: a failure if the user named it; else some kinds are SKIPPED."""
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
