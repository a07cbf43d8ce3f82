"""Learns from answers and ends of associations how the peer is: until when to hold, and whether to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.aio.signal import Signal
from asyncstore.errors import AssociationLost, AssociationRejected, AsyncStoreError, NoAcceptedContext

if TYPE_CHECKING:
    from asyncstore.status import Status
    from asyncstore.transfer.concurrency import Concurrency
    from asyncstore.transfer.options import RetryPolicy
    from asyncstore.transfer.plan import Pair

FAILURES_UNTIL_SINGLE: Final = 5  # more knocks at once do not wake a destination that is down
_REJECTED_AGAIN_SECONDS: Final = 60.0
# A peer that ends an association on which nothing was sent for this long has a timeout for that, and is well.
_IDLE_SECONDS: Final = 5.0


class Ended(NamedTuple):
    """How an association ended that the run did not end itself.

    `answers` came on it, and `idle_seconds` it was open without having sent anything. `associations_open` are those
    that the peer keeps. Of the pairs that it proposed, `refused` were accepted nowhere and `accepted_elsewhere` says
    that others were; `has_proposed_all` says that there is nothing else that the peer might accept.
    """

    error: AsyncStoreError
    was_established: bool
    answers: int
    idle_seconds: float
    associations_open: int
    refused: frozenset[Pair] = frozenset()
    accepted_elsewhere: bool = False
    has_proposed_all: bool = False


class Destination:
    """The health of the peer: until when to hold, whether to be careful, whether to stop.

    `is_stopped` says that no more work is taken; the signal `stopped` is set when that begins. `stopped_because` is
    why (None: the caller wished it), `start_failure` the same where no association ever came to be. `refused` has the
    pairs that the peer does not take, and the status that said so (None: no accepted context). `answers` and `refusals`
    count answers: those that say that the peer works, and those for want of resources; `pressures` counts the waits in
    a row for want of resources. `concurrency` says how many associations it should have.
    """

    def __init__(self, retry: RetryPolicy, concurrency: Concurrency) -> None:
        self._retry = retry
        self.concurrency = concurrency
        self.hold_until = 0.0
        self.was_established = False
        self.is_stopped = False
        self.stopped = Signal()
        self.stopped_because: Exception | None = None
        self.start_failure: Exception | None = None
        self.refused: dict[Pair, Status | None] = {}
        self.answers = 0
        self.refusals = 0
        self.pressures = 0
        self._is_well = True  # nothing below differs from what it is here
        self._failures = 0
        self._losses = 0
        self._trouble_since: float | None = None
        self._stops_in_a_row = 0
        self._nothing_accepted: NoAcceptedContext | None = None

    @property
    def is_doubtful(self) -> bool:
        """After many failures in a row, one association at a time is tried."""
        return max(self._failures, self._losses) >= FAILURES_UNTIL_SINGLE

    def closed_until(self, now: float) -> float:
        """Until when nothing may be sent; a time in the past while the peer may have more."""
        return self.hold_until

    # -- what its answers say ------------------------------------------------------------------------------------------

    def took_one(self) -> None:
        """An instance was answered, and not for want of resources: the peer works."""
        self.answers += 1
        if not self._is_well:
            self._is_well = True
            self._failures = self._losses = self.pressures = self._stops_in_a_row = 0
            self._trouble_since = None

    def pressed(self, now: float, error: Exception) -> None:
        """The peer is out of resources: all associations wait, longer each time."""
        self.refusals += 1
        if now >= self.hold_until:  # else it is an answer to what was in flight when the waiting began
            self.pressures += 1
            self._ride_out(now, self._retry.wait_seconds(self.pressures), error)

    def count_stop(self, limit: int, error: Exception) -> None:
        """An answer that stops the destination when it comes `limit` times in a row."""
        self._is_well = False
        self._stops_in_a_row += 1
        if self._stops_in_a_row >= limit:
            self.stop(error)

    # -- what the end of an association says ---------------------------------------------------------------------------

    def learn_from(self, ended: Ended, now: float) -> frozenset[Pair]:
        """An association was not established, or was lost; gives the pairs that are found to be refused by that."""
        if is_our_doing(ended.error):
            return frozenset()
        if isinstance(ended.error, NoAcceptedContext):
            return self._learn_refused(ended, ended.error, now)
        if ended.was_established:
            self._is_well = False
            self._losses += 1
            self.concurrency.lost(now)
            if not ended.answers and ended.idle_seconds <= _IDLE_SECONDS:
                self.failed(now, ended.error)
        elif ended.associations_open:  # the peer works, and wants no more associations than it has
            self.concurrency.rejected(now, ended.associations_open)
        else:
            self.failed(now, ended.error)
        return frozenset()

    def _learn_refused(self, ended: Ended, error: NoAcceptedContext, now: float) -> frozenset[Pair]:
        """An association was accepted without any context: what it proposed cannot be sent."""
        if ended.accepted_elsewhere:
            self.concurrency.rejected(now, ended.associations_open)
        elif not self.was_established and ended.has_proposed_all:
            self.stop(error, at_start=True)
            return frozenset()
        self._nothing_accepted = error
        for pair in ended.refused:
            self.refused.setdefault(pair)
        return ended.refused

    def failed(self, now: float, error: Exception) -> None:
        """No association came to be, or one was lost; stops the run when trying again makes no sense."""
        self._is_well = False
        self._failures += 1
        rejection = error if isinstance(error, AssociationRejected) else None
        if not self.was_established and not (rejection and rejection.retryable) and not self._may_begin_again(error):
            self.stop(error, at_start=True)
        elif rejection and not rejection.retryable:
            self._ride_out(now, min(_REJECTED_AGAIN_SECONDS, self._retry.outage_seconds / 4), error)
        else:
            self._ride_out(now, self._retry.wait_seconds(self._failures), error)

    def _may_begin_again(self, error: Exception) -> bool:
        """Whether a run that never had an association tries once more: the peer may be just about to come back."""
        is_retryable = isinstance(error, AsyncStoreError) and error.retryable
        return is_retryable and self._failures <= self._retry.retries_at_start

    def _ride_out(self, now: float, wait_seconds: float, error: Exception) -> None:
        """Wait, or stop when the peer has taken nothing for as long as an outage may last."""
        self._is_well = False
        if self._trouble_since is None:
            self._trouble_since = now
        ends_at = self._trouble_since + self._retry.outage_seconds
        if now >= ends_at:
            self.stop(error, at_start=not self.was_established)
        self.hold_until = max(self.hold_until, min(now + wait_seconds, ends_at))

    # -- the end of the run --------------------------------------------------------------------------------------------

    def stop(self, error: Exception | None = None, *, at_start: bool = False) -> None:
        """Take no more work: what is left is for another run. Without an error it is the caller's wish."""
        if error is not None and self.stopped_because is None:
            self.stopped_because = error
            self.start_failure = error if at_start else None
        self.is_stopped = True
        self.stopped.set()

    def conclude(self) -> None:
        """The run has ended: where no association ever had a context, that is why."""
        if self._nothing_accepted is not None and not self.was_established:
            self.stop(self._nothing_accepted, at_start=True)


def is_our_doing(error: Exception) -> bool:
    """Whether we ended the association ourselves, because of a file or of the caller: that says nothing of the peer."""
    return type(error) is AssociationLost
