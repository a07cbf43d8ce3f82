"""The durable record of a migration: the outcome of every instance, whatever happens to the process.

A run writes each outcome into the ledger. A later run with the same ledger asks it which files need not be opened
again. A row says stored only after the peer's answer was decoded: after a killed run some instances may be sent again,
but none is missed. `SqliteLedger` and `PostgresLedger` keep it.

A later run treats a file that the ledger knows (`Ledger.settled`) as follows:

    stored, warning            skipped, while its size and modification time are unchanged
    duplicate                  the same: the peer has it already, or it is stored from another file
    not DICOM, a UID missing   the same: the file is at fault; but a file that the user names is tried again
    set aside                  the same: several associations ended over it, or the peer refused it as out of resources
                               and took others; but it is tried again if it is named or if the user asks for it
    suspected of the same      tried again, after all others
    anything else              tried again, with the usual retries: refused with any status, sent and never answered,
                               left, unreadable; a conflict is compared again
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from asyncstore.errors import MissingUID, NotDicom
from asyncstore.instances.outcome import FAILED_STATES, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.errors import LedgerError
    from asyncstore.instances.instance import Instance

STORED: Final = frozenset((State.STORED, State.WARNING))
"""The states of a row in which the peer has the instance."""

FAILED: Final = FAILED_STATES
"""The states of a row whose instance could not be stored."""

_OF_THE_FILE = frozenset((State.SKIPPED, State.SOURCE_PROBLEM))


class KnownInstance(NamedTuple):
    """An instance that is stored already.

    `path` is its file, None if it was in memory. `size_bytes` and `mtime_ns` (modification time) are those of the file
    when it was sent. `state` is how it was stored.
    """

    path: str | None
    size_bytes: int
    mtime_ns: int
    state: State


class Suspicion(NamedTuple):
    """An earlier run suspected an instance: it must be sent again, after all others.

    `losses` counts the associations that ended while it was in flight; 0: the peer refused it as out of resources.
    """

    losses: int


class Offered(Protocol):
    """A source that a transfer is about to open, as a ledger sees it."""

    @property
    def name(self) -> str | None:
        """Its path; None: in memory."""

    @property
    def is_named(self) -> bool:
        """Whether the user named it."""

    @property
    def instance(self) -> Instance | None:
        """Its Instance, if that is known already."""

    def stamp(self) -> tuple[int, int] | None:
        """Its size in bytes and modification time in ns; None if it has none. May block."""


class Recorder(Protocol):
    """Where a transfer writes down what became of each instance; nothing here blocks, all belongs to the event loop."""

    @property
    def failure(self) -> LedgerError | None:
        """The first error that kept an outcome from being written: the transfer then finishes what is in flight."""

    @property
    def has_room(self) -> bool:
        """Whether outcomes are written as fast as they come. If not, no new instance should be sent."""

    def record(self, outcome: Outcome) -> None:
        """Record an outcome, which may not be final: the last one for an instance is kept."""

    def note_refusal(self) -> None:
        """Note that the peer is out of resources; the first time in a run is kept."""

    async def flush(self) -> None:
        """Wait until everything recorded so far would survive the end of the process. Raises LedgerError."""


class History(Protocol):
    """What a transfer asks a ledger: what earlier runs did, and which instances are stored already.

    `has_earlier` and `may_know` never block. `settled` and `stored_elsewhere` block, may be called by several threads
    at once, and never in the event loop.
    """

    @property
    def has_earlier(self) -> bool:
        """Whether an earlier run has recorded anything; while not, `settled` need not be asked."""

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """For each, the outcome that still holds; a Suspicion or None if it must be sent."""

    def may_know(self, sop_instance_uid: str) -> bool:
        """Whether `stored_elsewhere` may find this UID. False is certain: nothing with this UID is stored.

        This includes outcomes that are recorded but not written yet, and those of earlier runs.
        """

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """For each instance, the stored ones with its SOP Instance UID that came from another path."""


class Uncommitted(NamedTuple):
    """A stored instance that the peer has not committed to keep.

    `sop_class_uid` and `sop_instance_uid` name it, and `row` is its place in the order in which a ledger gives them.
    `study_instance_uid` is "" and `path` None if not known; `transaction_uid` is that of the latest request for it, ""
    if there was none.
    """

    row: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    path: str | None
    transaction_uid: str


class Commitments(Protocol):
    """What a peer was asked to commit to, and what it answered. Blocks; several threads may use it.

    Any method may raise LedgerError.
    """

    def note_request(self, transaction_uid: str, sop_instance_uids: Sequence[str]) -> None:
        """Record a request before it is sent: its report may come before its answer."""

    def note_answers(self, transaction_uid: str, answers: Mapping[str, int]) -> None:
        """Record a report before it is acknowledged: for each SOP Instance UID a Failure Reason, 0 for committed.

        It counts for the instances whose latest request it answers.
        """

    def uncommitted(self, after: int, most: int) -> list[Uncommitted]:
        """The next stored instances that are not committed, of which the first comes after the row `after`."""

    def close(self) -> None:
        """Close what was opened for it."""


class Ledger(Recorder, History, Protocol):
    """Where a transfer writes down what became of each instance, and asks what an earlier run did.

    The transfer enters it and leaves it: `async with`. An exception that one of its methods raises aborts the transfer
    and is raised out of its block; an error that the run should outlive belongs into `failure`.
    """

    @property
    def files(self) -> tuple[str, ...]:
        """The files in which it is kept, which are not input."""

    def note_end(self, *, scan_finished: bool, stopped: str) -> None:
        """Note how the run ended: whether it read its input to the end, and why it stopped early ("": it did not)."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@runtime_checkable
class KeepsCommitments(Protocol):
    """A ledger for runs that ask for storage commitment."""

    def commitments(self) -> Commitments:
        """The record of what is asked for; called while the ledger is open. Blocks. May raise LedgerError."""


class Standing(enum.IntEnum):
    """What a later run does with an instance whose file is unchanged."""

    OPEN = 0
    """It is sent."""
    SETTLED = 1
    """It is not sent: the outcome still holds."""
    SUSPECTED = 2
    """It is sent after all others."""
    SET_ASIDE = 3
    """It is not sent, unless the user asks for it."""


def standing_of(outcome: Outcome) -> Standing:
    """What a later run does with an instance that has this outcome."""
    state = outcome.state
    if state is State.STORED or state is State.WARNING or state is State.DUPLICATE:
        return Standing.SETTLED
    if state in _OF_THE_FILE and isinstance(outcome.error, NotDicom | MissingUID):
        return Standing.SETTLED
    if outcome.is_set_aside:
        return Standing.SET_ASIDE
    return Standing.SUSPECTED if outcome.is_suspected else Standing.OPEN


_Settled: TypeAlias = "Callable[[Sequence[Offered]], list[Outcome | Suspicion | None]]"


def settled_for(settled: _Settled, *, retry_set_aside: bool) -> _Settled:
    """`History.settled` as a run asks it: with `retry_set_aside`, what was set aside is only suspected."""
    if not retry_set_aside:
        return settled
    return lambda offered: [
        Suspicion(answer.losses) if isinstance(answer, Outcome) and answer.is_set_aside else answer
        for answer in settled(offered)
    ]
