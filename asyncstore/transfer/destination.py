"""Learns the health of the peer from answers and ends of associations: how long to pause, and whether to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.aio.signal import Signal
from asyncstore.errors import AssociationLost, AssociationRejected, AsyncStoreError, NoAcceptedContext

if TYPE_CHECKING:
    from asyncstore.status import Status
    from asyncstore.transfer.concurrency import Concurrency
    from asyncstore.transfer.options import RetryPolicy
    from asyncstore.transfer.plan import Pair

FAILURES_UNTIL_SINGLE: Final = 5  # more attempts at once do not wake a destination that is down
_REJECTED_AGAIN_SECONDS: Final = 60.0
# A peer that ends an association on which nothing was sent for this long is well: it has an idle timeout.
_IDLE_SECONDS: Final = 5.0


class Ended(NamedTuple):
    """The end of an association that the run did not end itself.

    `answers` counts the answers on it; `idle_seconds` is how long it was open without sending anything.
    `associations_open` counts those that the peer keeps. `refused` are the proposed pairs that no association carries;
    `accepted_elsewhere`: another association carries some of the pairs; `has_proposed_all`: the peer was offered all
    that it might accept.
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
    """The health of the peer: how long to pause, whether to be careful, whether to stop.

    `is_stopped`: no more work is taken; the signal `stopped` is set when that begins. `stopped_because` is the reason
    (None: the caller asked for it), `start_failure` the same if no association was ever established. `refused` maps the
    pairs that the peer does not take to its status (None: no accepted context). `answers` counts answers that show that
    the peer works, `refusals` those that it is out of resources, and `pressures` the pauses in a row for such refusals.
    `concurrency` says how many associations to keep open.
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
        self._is_well = True  # whether the fields below have these values
        self._failures = 0
        self._losses = 0
        self._trouble_since: float | None = None
        self._stops_in_a_row = 0
        self._nothing_accepted: NoAcceptedContext | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether to try one association at a time, after many failures in a row."""
        return max(self._failures, self._losses) >= FAILURES_UNTIL_SINGLE

    def closed_until(self, now: float) -> float:
        """The time until which nothing may be sent; it is past when the peer may have more."""
        return self.hold_until

    # -- what its answers say ------------------------------------------------------------------------------------------

    def took_one(self) -> None:
        """Count an answer other than "out of resources": the peer works."""
        self.answers += 1
        if not self._is_well:
            self._is_well = True
            self._failures = self._losses = self.pressures = self._stops_in_a_row = 0
            self._trouble_since = None

    def pressed(self, now: float, error: Exception) -> None:
        """Count an answer that the peer is out of resources: all associations wait, longer each time."""
        self.refusals += 1
        if now >= self.hold_until:  # else the request was in flight when the wait began
            self.pressures += 1
            self._ride_out(now, self._retry.wait_seconds(self.pressures), error)

    def count_stop(self, limit: int, error: Exception) -> None:
        """Count an answer that stops the run when it comes `limit` times in a row."""
        self._is_well = False
        self._stops_in_a_row += 1
        if self._stops_in_a_row >= limit:
            self.stop(error)

    # -- what the end of an association says ---------------------------------------------------------------------------

    def learn_from(self, ended: Ended, now: float) -> frozenset[Pair]:
        """Learn from an association that failed or was lost; returns the pairs that the peer is found to refuse."""
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
        elif ended.associations_open:  # the peer works, but wants no further association
            self.concurrency.rejected(now, ended.associations_open)
        else:
            self.failed(now, ended.error)
        return frozenset()

    def _learn_refused(self, ended: Ended, error: NoAcceptedContext, now: float) -> frozenset[Pair]:
        """Learn from an association that was accepted without any context: its pairs cannot be sent."""
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
        """Count an association that failed or was lost; stops the run if trying again makes no sense."""
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
        """Wait, or stop if the peer has taken nothing for as long as an outage may last."""
        self._is_well = False
        if self._trouble_since is None:
            self._trouble_since = now
        ends_at = self._trouble_since + self._retry.outage_seconds
        if now >= ends_at:
            self.stop(error, at_start=not self.was_established)
        self.hold_until = max(self.hold_until, min(now + wait_seconds, ends_at))

    # -- the end of the run --------------------------------------------------------------------------------------------

    def stop(self, error: Exception | None = None, *, at_start: bool = False) -> None:
        """Take no more work and leave the rest for another run. Without an error the caller asked for it."""
        if error is not None and self.stopped_because is None:
            self.stopped_because = error
            self.start_failure = error if at_start else None
        self.is_stopped = True
        self.stopped.set()

    def conclude(self) -> None:
        """Take note of the end of the run: if no association ever had a context, that is why it stopped."""
        if self._nothing_accepted is not None and not self.was_established:
            self.stop(self._nothing_accepted, at_start=True)


def is_our_doing(error: Exception) -> bool:
    """Whether we ended the association ourselves, for a file or the caller: that says nothing about the peer."""
    return type(error) is AssociationLost
