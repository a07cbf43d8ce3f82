"""The rows and counts that a ledger can be asked for."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncstore.instances.elements import tag_digits
from asyncstore.record import record

if TYPE_CHECKING:
    import datetime

    from asyncstore.instances.outcome import State


class Commitment(enum.StrEnum):
    """What is known of a stored instance: whether the peer has committed to keep it (storage commitment).

    COMMITTED  the peer has
    REFUSED    the peer has said why not
    ASKED      it was asked for, and the peer has not reported
    NOT_ASKED  it was not asked for since it was stored
    """

    COMMITTED = "committed"
    REFUSED = "refused"
    ASKED = "asked"
    NOT_ASKED = "not-asked"


@record(frozen=True, slots=True)
class LedgerRow:
    """The record of one instance, or of a file without one.

    `path` is exactly as on disk (os.fsencode gives the bytes back), None for an instance from memory. `size_bytes` and
    `mtime_ns` are the file's, None if unknown, and so are `sop_class_uid`, `sop_instance_uid`, `transfer_syntax_uid`,
    `study_instance_uid` and `series_instance_uid`. `attempts` counts the C-STORE requests of all runs; `run` is the
    number of the last run that handled it, `recorded_at` when that was.

    All other fields are about the last attempt. `state` and `reason` say what became of it, `retryable` whether sending
    it again may help. `status` is the value of the peer's answer, `comment` its Error Comment as sent,
    `offending_elements` the tags that it complained about (group << 16 | element). `association_number` and
    `context_id` say where it was sent, `sent_transfer_syntax_uid` as what, and `bytes_sent` counts the bytes of its
    data set. `changes` says what was changed on the way, as in Outcome, and `sent_sop_instance_uid`,
    `sent_study_instance_uid` and `sent_series_instance_uid` under which UIDs it was sent if one of them is not the
    file's, else they are None. `losses` counts the associations that ended while it was in flight. One that is
    `set_aside` is not sent again unless a run is asked to.

    `commitment` says whether the peer has committed to keep it, and `failure_reason` (0008,1197) why not; both are None
    for what is not stored, and where no run has asked for it.
    """

    path: str | None
    state: State
    sop_class_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax_uid: str | None
    sent_transfer_syntax_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    size_bytes: int | None
    mtime_ns: int | None
    status: int | None
    reason: str
    comment: str
    offending_elements: tuple[int, ...]
    retryable: bool
    attempts: int
    losses: int
    set_aside: bool
    association_number: int
    context_id: int
    bytes_sent: int
    run: int
    recorded_at: datetime.datetime
    changes: tuple[str, ...] = ()
    sent_sop_instance_uid: str | None = None
    sent_study_instance_uid: str | None = None
    sent_series_instance_uid: str | None = None
    commitment: Commitment | None = None
    failure_reason: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data, for JSON and CSV. Undecodable bytes of the path are lone surrogates."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {
            "state": self.state.value,
            "status": None if self.status is None else f"{self.status:04X}",
            "commitment": None if self.commitment is None else self.commitment.value,
            "failure_reason": None if self.failure_reason is None else f"{self.failure_reason:04X}",
            "offending_elements": [tag_digits(tag) for tag in self.offending_elements],
            "changes": list(self.changes),
            "recorded_at": self.recorded_at.isoformat(timespec="milliseconds"),
        }


class StateCount(NamedTuple):
    """The number of `instances` in a `state`; `bytes_sent` are those of data sets in their last attempts."""

    state: State
    instances: int
    bytes_sent: int


class ReasonCount(NamedTuple):
    """The number of `instances` with the same `state`, `status` and `reason`."""

    state: State
    status: int | None
    reason: str
    instances: int


class ChangeCount(NamedTuple):
    """The number of stored `instances` with a `change`; one that was changed in several ways counts for each."""

    change: str
    instances: int


class CommitmentCount(NamedTuple):
    """The number of stored `instances` with the same `commitment` and `failure_reason`."""

    commitment: Commitment
    failure_reason: int | None
    instances: int


class StudyCount(NamedTuple):
    """The progress of a study: how many of its instances were `found`, `stored`, have `failed` and are `left`.

    `study_instance_uid` is None for all instances of unknown study together.

    `found` is final once a run has read its input to the end. `left` counts the instances that are neither stored nor
    known to be at the peer, and have not failed. `first_recorded_at` and `last_recorded_at` are the times of the first
    and the last outcome that counts.
    """

    study_instance_uid: str | None
    found: int
    stored: int
    failed: int
    left: int
    first_recorded_at: datetime.datetime
    last_recorded_at: datetime.datetime

    @property
    def is_complete(self) -> bool:
        """Whether the peer has all that was found of it."""
        return not self.failed and not self.left


class StoredPart(NamedTuple):
    """What was stored in one part of the time: how many `instances`, and `bytes_sent` of their data sets."""

    instances: int
    bytes_sent: int


class StoredOverTime(NamedTuple):
    """What was stored, in equal `parts` of `part_seconds` each, from the first instance (`begun_at`) to the last."""

    begun_at: datetime.datetime
    part_seconds: float
    parts: list[StoredPart]


class DirectoryCount(NamedTuple):
    """The number of `failed` instances in one `directory`; it is empty for instances from memory."""

    directory: str
    failed: int


class RunState(enum.StrEnum):
    """The state of a run. The value is its name in reports: "stopped-early".

    RUNNING        a process holds the lock of the ledger
    FINISHED       it read its input to the end, and left nothing
    STOPPED_EARLY  it left instances, or did not read its input to the end
    KILLED         it never wrote its end: it was killed, or could not write
    ENDED          it was one of an older version of asyncstore, which did not record how it ended
    """

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED_EARLY = "stopped-early"
    KILLED = "killed"
    ENDED = "ended"


def commitment_of(answer: int | None) -> tuple[Commitment, int | None]:
    """What an answer says, and its Failure Reason: 0 is committed, -1 none yet, None not asked for."""
    if answer is None:
        return Commitment.NOT_ASKED, None
    if answer > 0:
        return Commitment.REFUSED, answer
    return (Commitment.ASKED if answer else Commitment.COMMITTED), None


@record(frozen=True, slots=True)
class RunRecord:
    """One run that wrote into the ledger.

    `number` counts from 1, `state` is what became of it. Process `pid` on `host` began it at `started_at`, with these
    `options`, which are plain data. `finished_at` is None while it runs, and if it was killed. `scan_finished` says
    whether it read its input to the end, `stopped` why it stopped early (empty: it did not); both are None if that is
    not known. `refused_at` is the time of the first answer by which the peer said that it is out of resources.
    """

    number: int
    state: RunState
    started_at: datetime.datetime
    finished_at: datetime.datetime | None
    pid: int
    host: str
    options: dict[str, Any]
    scan_finished: bool | None = None
    stopped: str | None = None
    refused_at: datetime.datetime | None = None
