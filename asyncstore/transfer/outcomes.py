"""The final outcome of each instance: written down, counted, told, and handed out in the order in which they came."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from asyncstore.aio.signal import Signal
from asyncstore.errors import AsyncStoreError
from asyncstore.instances.outcome import STORED_STATES, Outcome, State
from asyncstore.net import trace
from asyncstore.trace import emit
from asyncstore.transfer.trace import KindRefused, MoreMetaDiffer, MorePadded, NotStored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.ledger.protocol import Recorder
    from asyncstore.transfer.destination import Destination
    from asyncstore.transfer.observer import Teller
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.report import Report

logger: logging.Logger = logging.getLogger("asyncstore.transfer")

# Waking the caller costs as much as decoding an answer: do it once for this many outcomes, or at the next tick.
_UNREAD_BATCH: Final = 64
# Most outcomes that the caller has not taken yet; a caller that is slower than the peer slows the transfer down.
_MAXIMUM_UNREAD: Final = 4096

_NO_FAILURE: Final = frozenset((State.SKIPPED, State.DUPLICATE))
_STORED: Final = State.STORED  # looking a member up costs 0.1 us each time
_LEFT: Final = State.LEFT


class Outcomes:
    """Takes final outcomes, and keeps those that the caller has not read yet.

    `readable` is set when the caller should look: for a batch of outcomes, or for each one after `wake_for_each`.
    `room` is set when the caller has read enough for more to come. `are_complete` says that no more will come.
    """

    def __init__(self, report: Report, destination: Destination, recorder: Recorder | None, *, fail_fast: bool) -> None:
        self.unread: deque[Outcome] = deque()
        self.readable: Signal = Signal()
        self.room: Signal = Signal()
        self.are_complete: bool = False
        self._report = report
        self._destination = destination
        self._recorder = recorder
        self._fail_fast = fail_fast
        self._batch = _UNREAD_BATCH
        self._refused: Counter[Pair] = Counter()
        self._differing = 0  # instances with a `meta_difference`
        self._padded = 0

    def closed_until(self, now: float) -> float:
        """The time until which no more should be sent: math.inf while the caller must read first."""
        return math.inf if len(self.unread) >= _MAXIMUM_UNREAD else 0.0

    # -- from the stations above ---------------------------------------------------------------------------------------

    def add(self, outcome: Outcome, *, is_settled: bool = False) -> None:
        """Record a final outcome, count it, and hand it out.

        `is_settled`: the ledger has it from an earlier run. An outcome that leaves the instance to another run is not
        handed out.
        """
        if self._recorder is not None and not is_settled:
            self._recorder.record(outcome)
        self._report.add(outcome, is_settled=is_settled)
        state = outcome.state
        if state is not _STORED and state not in STORED_STATES:
            if state is _LEFT:
                return
            self._tell(outcome)
            if self._fail_fast and state not in _NO_FAILURE:
                self._destination.stop(_failure_of(outcome))
        self.unread.append(outcome)
        if len(self.unread) >= self._batch:
            self.readable.set()

    def tell_difference(self, path: str | None, difference: str) -> None:
        """Log the `meta_difference` of an instance: the first one, and a count of the others later."""
        self._differing += 1
        if self._differing == 1:
            emit(logger, trace.MetaDiffers(path=path, difference=difference))

    def tell_padded(self, path: str | None) -> None:
        """Log that a data set of odd length is padded: the first one as a warning, and a count of the others later."""
        self._padded += 1
        emit(logger, trace.Padded(path=path) if self._padded == 1 else trace.AlsoPadded(path=path))

    def _tell(self, outcome: Outcome) -> None:
        """Log why an instance was not stored; of a kind that the peer refused, the first one and later a count."""
        instance = outcome.instance
        if outcome.state is State.FAILED and instance is not None:
            kind = (instance.sop_class_uid, instance.transfer_syntax_uid)
            refused = self._destination.refused.get(kind)
            if refused is not None and outcome.status is not None and outcome.status.value == refused.value:
                self._refused[kind] += 1
                if self._refused[kind] > 1:
                    return
        number = outcome.association_number if self._report.associations_open > 1 else 0
        emit(logger, NotStored(outcome=outcome, association_number=number))

    # -- to the caller -------------------------------------------------------------------------------------------------

    def wake_for_each(self, for_each: bool) -> None:
        """Set `readable` for each outcome from now on, or only for a batch of them."""
        self._batch = 1 if for_each else _UNREAD_BATCH

    def take(self) -> Outcome:
        """The next unread outcome."""
        outcome = self.unread.popleft()
        if len(self.unread) == _MAXIMUM_UNREAD // 2:
            self.room.set()
        return outcome

    def take_all(self) -> list[Outcome]:
        """All unread outcomes, in their order."""
        taken = list(self.unread)
        self.unread.clear()
        self.room.set()
        return taken

    # -- when the run has ended ----------------------------------------------------------------------------------------

    def conclude(self, left: Iterable[Pending]) -> None:
        """End: count what is left for another run, and log the counts of what was not logged one by one."""
        for (sop_class_uid, transfer_syntax_uid), count in self._refused.items():
            if count > 1:
                kind = {"sop_class_uid": sop_class_uid, "transfer_syntax_uid": transfer_syntax_uid}
                status = self._destination.refused[sop_class_uid, transfer_syntax_uid]
                emit(logger, KindRefused(**kind, status=status, count=count - 1))
        if self._differing > 1:
            emit(logger, MoreMetaDiffer(count=self._differing - 1))
        if self._padded > 1:
            emit(logger, MorePadded(count=self._padded - 1))
        for pending in left:
            self.add(_left(pending))
        self._destination.conclude()
        self._report.stopped_because = self._destination.stopped_because
        self._report.finished_at = time.monotonic()
        self.are_complete = True
        self.readable.set()


class ToldOutcomes(Outcomes):
    """Outcomes that an observer is told of. A class of its own: a run without an observer pays nothing for it."""

    def __init__(
        self,
        report: Report,
        destination: Destination,
        recorder: Recorder | None,
        teller: Teller,
        *,
        fail_fast: bool,
    ) -> None:
        super().__init__(report, destination, recorder, fail_fast=fail_fast)
        self._teller = teller

    def add(self, outcome: Outcome, *, is_settled: bool = False) -> None:
        """See Outcomes."""
        super().add(outcome, is_settled=is_settled)
        if outcome.state is not _LEFT:
            self._teller.outcome(outcome)


def _left(pending: Pending) -> Outcome:
    """The outcome of an instance that is left for another run: with what that one should know."""
    return Outcome(
        _LEFT,
        pending.instance.path,
        pending.instance,
        pending.status,
        attempts=pending.attempts,
        losses=pending.losses,
        is_suspected=pending.is_suspected,
    )


def _failure_of(outcome: Outcome) -> Exception:
    try:
        outcome.raise_for_failure()
    except AsyncStoreError as error:
        return error
    raise AssertionError("a failed outcome raises")
