"""What a ledger tells about a migration: its rows, and its counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import datetime

    from asyncstore.instances.outcome import State

    pass


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What a ledger knows of one instance, or of a file without one.

    `path` is exactly as on disk (os.fsencode gives the bytes back), None for an instance from memory. `size_bytes` and
    `mtime_ns` are the file's, None where they are not known. `attempts` counts the C-STORE requests of all runs, `run`
    is the last one that had to do with it; the rest is about its last attempt. `status` is the peer's answer, `comment`
    its Error Comment as it was sent. `transfer_syntax_uid` is the file's, `sent_transfer_syntax_uid` what was sent.
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
    association_number: int
    context_id: int
    bytes_sent: int
    run: int
    recorded_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON and CSV; a byte of the path that is no text is a lone surrogate."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {
            "state": self.state.value,
            "status": None if self.status is None else f"{self.status:04X}",
            "offending_elements": [f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in self.offending_elements],
            "recorded_at": self.recorded_at.isoformat(timespec="milliseconds"),
        }


class StateCount(NamedTuple):
    """How many instances are in a state, and how many bytes of data sets were sent for them last."""

    state: State
    instances: int
    bytes_sent: int


class ReasonCount(NamedTuple):
    """How many instances have the same state, status and reason."""

    state: State
    status: int | None
    reason: str
    instances: int


class StudyCount(NamedTuple):
    """How far a study is; None for the instances whose study is not known."""

    study_instance_uid: str | None
    found: int
    stored: int
    failed: int


class DirectoryCount(NamedTuple):
    """How many instances of one directory failed."""

    directory: str
    failed: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run that wrote into the ledger; `finished_at` is None while it goes on, and when it was killed."""

    number: int
    started_at: datetime.datetime
    finished_at: datetime.datetime | None
    pid: int
    host: str
    options: dict[str, Any]
