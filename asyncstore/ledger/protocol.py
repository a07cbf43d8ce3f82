"""The durable record of a migration: what became of every instance, whatever happens to the process.

A run writes each outcome into the ledger, and a later run of the same ledger asks it what need not be opened again. A
row says stored only after the peer's answer was decoded, so that a run that is killed sends some instances again and
never leaves one out. `SqliteLedger` is the implementation.

What a later run does with a file that the ledger knows (`Ledger.settled`):

    stored, warning            not opened again, while size and modification time are unchanged
    duplicate                  the same: the peer has said that it has it, or it is stored from another file
    not DICOM, a UID missing   the same: the file is at fault, and it is the same file (unless it is named, not found)
    anything else              tried again, once per run with the usual retries: what the peer refused, of whatever
                               status, what was sent and never answered, what was left, what could not be read; a
                               conflict is compared again
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from asyncstore.errors import MissingUID, NotDicom
from asyncstore.instances.outcome import FAILED_STATES, State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.errors import LedgerError
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome

STORED: Final = frozenset((State.STORED, State.WARNING))
"""The states of a row that say that the peer has the instance."""

FAILED: Final = FAILED_STATES
"""The states of a row that say that something kept the instance from being stored."""

_OF_THE_FILE = frozenset((State.SKIPPED, State.SOURCE_PROBLEM))


class KnownInstance(NamedTuple):
    """An instance that is stored already: the file that it came from (None: from memory), as it was then."""

    path: str | None
    size_bytes: int
    mtime_ns: int
    state: State


class Offered(Protocol):
    """What a transfer is about to open, so far as a ledger looks at it.

    `name` is its path (None: in memory), `is_named` says that the user named it, `instance` is the Instance that it
    is where that is known already. `stamp` gives size in bytes and modification time in ns, None where it has none; it
    may block.
    """

    @property
    def name(self) -> str | None: ...
    @property
    def is_named(self) -> bool: ...
    @property
    def instance(self) -> Instance | None: ...

    def stamp(self) -> tuple[int, int] | None: ...


class Recorder(Protocol):
    """Where a transfer writes down what became of each instance; nothing here blocks, all belongs to the event loop."""

    @property
    def failure(self) -> LedgerError | None:
        """What first kept an outcome from being written: take no more work, finish what is in flight, and end."""

    @property
    def has_room(self) -> bool:
        """Whether outcomes are written as fast as they come; while not, no new instance should be sent."""

    def record(self, outcome: Outcome) -> None:
        """Write down what became of an instance, for good or for now; the last of several is kept."""

    async def flush(self) -> None:
        """Return when everything recorded so far would survive the end of the process. Raises LedgerError."""


class History(Protocol):
    """What a transfer asks a ledger: what earlier runs did, and which instances are stored already.

    `has_earlier` and `may_know` never block. `settled` and `stored_elsewhere` block, may be called by several threads
    at once, and never in the event loop.
    """

    @property
    def has_earlier(self) -> bool:
        """Whether an earlier run has recorded anything; while not, `settled` need not be asked."""

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | None]:
        """For each the outcome that still holds, None for one that must be sent."""

    def may_know(self, sop_instance_uid: str) -> bool:
        """Whether `stored_elsewhere` may find this UID; False means for certain that nothing with it is stored.

        It counts what was recorded up to now, written or not, and what earlier runs recorded.
        """

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """For each instance those with its SOP Instance UID that were stored from elsewhere."""


class Ledger(Recorder, History, Protocol):
    """Where a transfer writes down what became of each instance, and asks what an earlier run did.

    The transfer enters it and leaves it: `async with`.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def is_settled(outcome: Outcome) -> bool:
    """Whether another run need not try again while the file stays as it is."""
    state = outcome.state
    if state is State.STORED or state is State.WARNING or state is State.DUPLICATE:
        return True
    return state in _OF_THE_FILE and isinstance(outcome.error, NotDicom | MissingUID)
