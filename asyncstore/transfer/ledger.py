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

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from asyncstore.errors import MissingUID, NotDicom
from asyncstore.net.outcome import FAILED_STATES, State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.errors import LedgerError
    from asyncstore.instances.instance import Instance
    from asyncstore.net.outcome import Outcome
    from asyncstore.transfer.policy import TransferOptions

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


class Ledger(Protocol):
    """Where a transfer writes down what became of each instance, and asks what an earlier run did.

    `record`, `failure`, `has_room`, `has_earlier` and `may_know` never block, and all but the last belong to the event
    loop; `settled` and `known_instances` block, may be called by several threads at once, and never in the event loop.
    """

    @property
    def failure(self) -> LedgerError | None:
        """What first kept an outcome from being written: take no more work, finish what is in flight, and end."""

    @property
    def has_room(self) -> bool:
        """Whether outcomes are written as fast as they come; while not, no new instance should be sent."""

    @property
    def has_earlier(self) -> bool:
        """Whether an earlier run has recorded anything; while not, `settled` need not be asked."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def record(self, outcome: Outcome) -> None:
        """Write down what became of an instance, for good or for now; the last of several is kept."""

    async def flush(self) -> None:
        """Return when everything recorded so far would survive the end of the process. Raises LedgerError."""

    def settled(self, entries: Sequence[object]) -> list[Outcome | None]:
        """For each path or Instance the outcome that still holds, None for what is to be sent."""

    def may_know(self, sop_instance_uid: str) -> bool:
        """Whether `known_instances` may find this UID; False means for certain that nothing with it is stored.

        It counts what was recorded up to now, written or not, and what earlier runs recorded.
        """

    def known_instances(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """For each instance those with its SOP Instance UID that were stored from elsewhere."""


def is_settled(outcome: Outcome) -> bool:
    """Whether another run need not try again while the file stays as it is."""
    state = outcome.state
    if state is State.STORED or state is State.WARNING or state is State.DUPLICATE:
        return True
    return state in _OF_THE_FILE and isinstance(outcome.error, NotDicom | MissingUID)


def options_as_data(options: TransferOptions) -> dict[str, Any]:
    """The options of a run as a ledger keeps them: plain data, and nothing of the user identity but its kind."""
    identity = options.user_identity
    data = dataclasses.asdict(dataclasses.replace(options, user_identity=None))
    return data | {"user_identity": None if identity is None else {"kind": identity.kind}}


def pack_uid(uid: str) -> bytearray | str:
    """A UID at half its size, a digit or a dot in four bits; one with other characters stays text.

    In hexadecimal the bytes can be read: A stands for a dot, and F fills up the last byte.
    """
    if uid.isascii() and uid.replace(".", "").isdigit():
        digits = uid.replace(".", "a")
        return bytearray.fromhex(digits + "f" if len(digits) & 1 else digits)
    return uid.encode("utf-8", "backslashreplace").decode()


def unpack_uid(packed: bytes | bytearray | str) -> str:
    """The UID that pack_uid made smaller."""
    return packed if isinstance(packed, str) else packed.hex().replace("a", ".").rstrip("f")


def status_value(kept: int | None) -> int | None:
    """The status that a ledger keeps, None where there is none. Raises ValueError for what no peer can have sent."""
    if kept is None or kept == -1:
        return None
    if not 0 <= kept <= 0xFFFF:
        raise ValueError(f"{kept!r} is no status")
    return kept


def checked(value: Any, kind: Any) -> Any:
    """A value that a ledger keeps, if it is of a kind. Raises TypeError for another, which only damage can bring."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind}")
    return value


def ledger_path(path: str, working_directory: str) -> str:
    """A path as a ledger keeps it: absolute, with no empty or `.` parts, and otherwise exactly as on disk.

    The part `..` stays: behind a symbolic link it does not lead back.
    """
    if not path.startswith(os.sep) and not os.path.isabs(path):
        path = os.path.join(working_directory, path)
    if os.sep == "/" and ("/." in path or "//" in path):
        return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return path
