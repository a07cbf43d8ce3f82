"""Two files with the same SOP Instance UID: the same instance, or two that claim to be one."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal
from asyncstore.errors import LedgerError, SourceError
from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.packing import storable

if TYPE_CHECKING:
    from collections.abc import Collection

    from anyio.abc import TaskGroup

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource
    from asyncstore.ledger.protocol import History, KnownInstance
    from asyncstore.transfer.pending import Pending

_PIECE_BYTES: Final = 1 << 20
# A reason does not name the file, so that equal ones can be counted.
_SAME: Final = "the same instance is stored from another file"
_OTHER: Final = "another data set is stored under the same SOP Instance UID"
# Each comparison reads two files. More than one at a time helps if the source is two copies of an archive.
_COMPARED_AT_ONCE: Final = 2
_MAXIMUM_HELD: Final = 64


class Duplicates:
    """Holds back instances that may be stored already from another file, until a thread has compared the two.

    `decided` is set when `take_decided` has something to give, and when the ledger cannot be asked any more. Then
    `failure` says why, and instances that were not compared stay held.
    """

    def __init__(self, history: History) -> None:
        self.decided: Signal = Signal()
        self.failure: LedgerError | None = None
        self._history = history
        self._limiter = anyio.CapacityLimiter(_COMPARED_AT_ONCE)
        self._held: dict[Pending, anyio.CancelScope] = {}
        self._decisions: list[tuple[Pending, Outcome | None]] = []
        self._group: TaskGroup

    @property
    def held(self) -> Collection[Pending]:
        """The instances that are held back and whose decision was not taken yet."""
        return self._held.keys()

    def closed_until(self, now: float) -> float:
        """The time until which no other instance may be taken: while too many are held, some must be decided first."""
        return math.inf if len(self._held) >= _MAXIMUM_HELD else 0.0

    def is_suspect(self, pending: Pending) -> bool:
        """Whether an instance must be compared before it is sent."""
        return not pending.was_compared and self._history.may_know(pending.instance.sop_instance_uid)

    def start(self, group: TaskGroup) -> None:
        """Compare in tasks of this group."""
        self._group = group

    def hold(self, pending: Pending) -> None:
        """Hold an instance back, and compare it."""
        self._held[pending] = anyio.CancelScope()
        self._group.start_soon(self._compare, pending)

    def take_decided(self) -> list[tuple[Pending, Outcome | None]]:
        """The decisions since the last call: each instance with its outcome, or None if it must be sent."""
        taken, self._decisions = self._decisions, []
        for pending, _ in taken:
            del self._held[pending]
        return taken

    def cancel(self) -> None:
        """Stop comparing."""
        for scope in self._held.values():
            scope.cancel()

    async def _compare(self, pending: Pending) -> None:
        outcome: Outcome | None = None
        with self._held[pending] as scope:
            try:
                outcome = await anyio.to_thread.run_sync(
                    self._outcome_of, pending, abandon_on_cancel=True, limiter=self._limiter
                )
            except LedgerError as error:
                self.failure = error
                self.decided.set()
                return
        if scope.cancelled_caught:
            return
        pending.was_compared = True
        self._decisions.append((pending, outcome))
        self.decided.set()

    def _outcome_of(self, pending: Pending) -> Outcome | None:
        (stored,) = self._history.stored_elsewhere([pending.instance])
        outcomes = (compared_outcome(pending.instance, known) for known in stored)
        return next((outcome for outcome in outcomes if outcome is not None), None)


def compared_outcome(instance: Instance, known: KnownInstance) -> Outcome | None:
    """Compare an instance with the file of `known`, which is stored under the same SOP Instance UID.

    Returns DUPLICATE when both have the same data set, byte for byte in the same transfer syntax, and CONFLICT when
    not. Returns None when a file has changed, is missing or cannot be read: then the peer must decide. Blocks while it
    reads both; no other thread may read `instance` meanwhile.
    """
    if known.path is None:
        return None
    try:
        stored = instance_from(known.path)
        if (stored.size_bytes, storable(stored.mtime_ns)) != (known.size_bytes, known.mtime_ns):
            return None
        is_same = _is_same(instance, stored)
    except (OSError, SourceError):
        return None
    state, reason = (State.DUPLICATE, _SAME) if is_same else (State.CONFLICT, _OTHER)
    return Outcome(state, instance.path, instance, reason=reason, attempts=0, stored_path=known.path)


def _is_same(one: Instance, other: Instance) -> bool:
    if (one.transfer_syntax_uid, one.data_set_length) != (other.transfer_syntax_uid, other.data_set_length):
        return False
    with contextlib.closing(one.source), contextlib.closing(other.source):
        return _have_same_bytes(one.source, other.source, one.data_set_length)


def _have_same_bytes(one: DataSource, other: DataSource, length: int) -> bool:
    left, right = bytearray(min(_PIECE_BYTES, length)), bytearray(min(_PIECE_BYTES, length))
    for at in range(0, length, _PIECE_BYTES):
        if length - at < len(left):
            left, right = left[: length - at], right[: length - at]
        with memoryview(left) as hole:
            one.read_into([hole], at)
        with memoryview(right) as hole:
            other.read_into([hole], at)
        if left != right:
            return False
    return True
