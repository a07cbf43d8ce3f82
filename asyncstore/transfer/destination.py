"""Learns the health of the peer from answers and ends of associations: how long to pause, and whether to stop.

An association that was accepted and died over an instance says something about the instance first. It counts against
the peer when too many die in a row, each over instances that were not suspected before, and no answer comes between.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

from asyncstore.aio.signal import Signal
from asyncstore.errors import (
    Aborted,
    AssociationLost,
    AssociationRejected,
    AsyncStoreError,
    ConnectionLost,
    NoAcceptedContext,
    RemoteProtocolError,
    Timeout,
)
from asyncstore.record import record
from asyncstore.trace import emit
from asyncstore.transfer.report import Waiting
from asyncstore.transfer.trace import PeerTakesAgain, PeerTakesNothing

if TYPE_CHECKING:
    from asyncstore.status import Status
    from asyncstore.transfer.concurrency import Concurrency
    from asyncstore.transfer.options import RetryPolicy
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.view import Trouble

logger: logging.Logger = logging.getLogger("asyncstore.transfer")

FAILURES_UNTIL_SINGLE: Final = 5  # more attempts at once do not wake a destination that is down
_REJECTED_AGAIN_SECONDS: Final = 60.0
# A peer that ends an association on which nothing was sent for this long is well: it has an idle timeout.
_IDLE_SECONDS: Final = 5.0
# Between two tries: at most this, and at most this part of the time for which the peer has taken nothing, so that its
# return is noticed within a quarter of its absence.
_LONGEST_PAUSE_SECONDS: Final = 15.0
_PAUSE_SHARE: Final = 1 / 4
# The pause before the first probe, as a share of the first wait.
_FIRST_PAUSE_SHARE: Final = 0.1
# This many associations in a row may die over instances: of a peer that has answered in this run, and of one that has
# not. A stretch of bad instances is rarely longer, and a single good one among those that wait shows it.
_DEATHS_IN_A_ROW: Final = 128
_DEATHS_AT_FIRST: Final = 3
_DEATHS_WITHOUT_PAUSE: Final = 5
# A peer over whose silence each association dies is given up after this many times the time of an outage.
_DYING_OUTAGES: Final = 20
_DYING_LEAST_SECONDS: Final = 60.0  # a few bad instances in a row are no outage
# What a peer answers against the protocol will not change; a peer that restarts may do it a few times.
_SAME_VIOLATIONS: Final = 5
# Associations that are lost within this time of each other have been lost together.
_TOGETHER_SECONDS: Final = 1.0
# A trouble is told when it has lasted for this long.
_TOLD_AFTER_SECONDS: Final = 2.0
# And if the run goes on for this long: otherwise its end tells of it.
_TOLD_BEFORE_SECONDS: Final = 1.0


@record(frozen=True, slots=True)
class Ended:
    """The end of an association that the run did not end itself.

    `answers` counts the answers on it; `idle_seconds` is how long it was open without sending anything. `in_flight`
    counts the instances that it died over, `suspected` those of them that were suspected before.
    `associations_open` counts those that the peer keeps. `refused` are the proposed pairs that no association carries;
    `accepted_elsewhere`: another association carries some of the pairs; `has_proposed_all`: the peer was offered all
    that it might accept.
    """

    error: AsyncStoreError
    was_established: bool
    answers: int
    idle_seconds: float
    associations_open: int
    in_flight: int = 0
    suspected: int = 0
    refused: frozenset[Pair] = frozenset()
    accepted_elsewhere: bool = False
    has_proposed_all: bool = False


class Destination:
    """The health of the peer: how long to pause, whether to be careful, whether to stop.

    `is_stopped`: no more work is taken; the signal `stopped` is set when that begins. `stopped_because` is the reason
    (None: the caller asked for it), `start_failure` the same if no association was ever established. `refused` maps the
    pairs that the peer does not take to its status (None: no accepted context). `answers` counts answers that show that
    the peer works, `refusals` those that it is out of resources; `relieved` counts the instances that it took after
    such an answer, `refuses_with` has the status codes that it answers to single instances while it takes others.
    `is_well`: nothing is wrong since the latest answer. `refuses_others`: since then it refused one for the first time.
    `dies_as_one`: over one instance it loses all its associations. `waiting_for` is not None while it takes nothing, as
    soon as that has lasted for a while.
    `concurrency` says how many associations to keep open. What earlier runs have found out may be handed in.
    """

    def __init__(
        self,
        retry: RetryPolicy,
        concurrency: Concurrency,
        *,
        refused: dict[Pair, Status | None] | None = None,
        refuses_with: set[int] | None = None,
    ) -> None:
        self._retry = retry
        self._dying_seconds = max(_DYING_OUTAGES * retry.outage_seconds, _DYING_LEAST_SECONDS)
        self.concurrency = concurrency
        self.hold_until: float = 0.0
        self.was_established = False
        self.is_stopped: bool = False
        self.stopped: Signal = Signal()
        self.stopped_because: Exception | None = None
        self.start_failure: Exception | None = None
        self.refused: dict[Pair, Status | None] = {} if refused is None else refused
        self.refuses_with: set[int] = set() if refuses_with is None else refuses_with
        self.answers: int = 0
        self.refusals = 0
        self.relieved = 0
        self.is_well: bool = True
        self.dies_as_one: bool = False
        self.waiting_for: Waiting | None = None
        self._lost_at = -math.inf
        self._answered_first_at = math.inf
        self._nothing_accepted: NoAcceptedContext | None = None
        self._forget_trouble()

    def _forget_trouble(self) -> None:
        self.is_well = True
        self.refuses_others: bool = False
        self._failures = 0
        self._losses = 0
        self._deaths = 0
        self._dying_since: float | None = None  # since the first of the deaths without an answer in between
        self._trouble_since: float | None = None
        self._trouble: Exception | None = None
        self.waiting_for = None
        self._stops_in_a_row = 0
        self._violation = ""
        self._same_violations = 0

    @property
    def is_doubtful(self) -> bool:
        """Whether to try one association at a time, after many failures in a row."""
        return max(self._failures, self._losses) >= FAILURES_UNTIL_SINGLE

    @property
    def is_probed(self) -> bool:
        """Whether to send one instance at a time, until one is answered: the peer may still take nothing."""
        return self._failures > 0

    def trouble(self, now: float) -> Trouble | None:
        """Why the peer takes nothing, if it has taken nothing for a while."""
        since = self._takes_nothing_since
        if self._trouble is None or since is None:
            return None
        from asyncstore.transfer.view import Trouble

        left_seconds = None if self._is_trying_at_start else max(0.0, self._gives_up_at(since) - now)
        return Trouble(self._trouble, left_seconds)

    def _gives_up_at(self, since: float) -> float:
        """When a run stops whose peer has taken nothing since then."""
        if self._trouble_since is not None:
            return since + self._retry.outage_seconds
        return since + self._dying_seconds

    @property
    def _is_trying_at_start(self) -> bool:
        """Whether a few tries decide, and not the time of an outage: see `failed`."""
        return not self.was_established and not isinstance(self._trouble, AssociationRejected)

    @property
    def _takes_nothing_since(self) -> float | None:
        """Since when the peer takes nothing; None if it does, or if a few instances may be at fault instead."""
        if self._trouble_since is None and self._deaths > _DEATHS_AT_FIRST:
            return self._dying_since
        return self._trouble_since

    def closed_until(self, now: float) -> float:
        """The time until which nothing may be sent; it is past when the peer may have more."""
        return self.hold_until

    def excuse(self, seconds: float) -> None:
        """Leave out this time, in which nothing was sent to the peer: no trouble lasted longer by it."""
        if self._trouble_since is not None:
            self._trouble_since += seconds
        if self._dying_since is not None:
            self._dying_since += seconds

    def has_taken_since(self, pending: Pending) -> bool:
        """Whether the peer has taken an instance that was sent after this one became suspected."""
        return pending.answers_when_suspected is not None and self.answers > pending.answers_when_suspected

    def patient_until(self, longest_seconds: float) -> float:
        """The time at which the peer, over whose instances associations die, has been ill for as long as it was well.

        But for no longer than this.
        """
        if self._dying_since is None:
            return -math.inf
        was_well_seconds = max(0.0, self._dying_since - self._answered_first_at)
        return self._dying_since + min(longest_seconds, was_well_seconds)

    def look(self, now: float) -> None:
        """Tell of a trouble that lasts, once."""
        since = self._takes_nothing_since
        if since is None or self.waiting_for or self.is_stopped or now < since + _TOLD_AFTER_SECONDS:
            return
        if self._is_trying_at_start:
            return
        left_seconds = self._gives_up_at(since) - now
        if left_seconds < _TOLD_BEFORE_SECONDS:
            return
        self.waiting_for = Waiting(time.time() + left_seconds, self._trouble)
        emit(logger, PeerTakesNothing(because=str(self._trouble), left_seconds=left_seconds))

    # -- what its answers say ------------------------------------------------------------------------------------------

    def took_one(self, now: float) -> None:
        """Count an answer other than "out of resources": the peer works."""
        self.answers += 1
        if self._answered_first_at == math.inf:
            self._answered_first_at = now
        if not self.is_well:
            since = self._takes_nothing_since
            if self.waiting_for and since is not None:
                emit(logger, PeerTakesAgain(seconds=now - since))
            self._forget_trouble()

    def pressed(self, now: float, error: Exception) -> None:
        """Take note of an answer that the peer is out of resources: all associations wait, longer each time."""
        self.concurrency.pressed(now)
        if now >= self.hold_until:  # else the request was in flight when the wait began
            self._failures += 1
            self._ride_out(now, error, is_first=self._failures == 1)

    def refused_another(self) -> None:
        """Take note of an answer that it is out of resources, to an instance that had not got one before."""
        self.is_well = False
        self.refuses_others = True

    def count_stop(self, limit: int, error: Exception) -> None:
        """Count an answer that stops the run when it comes `limit` times in a row."""
        self.is_well = False
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
        if ended.in_flight:
            self._died_over_instances(ended, now)
        elif ended.was_established:
            self.is_well = False
            self._losses += 1
            self.concurrency.lost(now)
            if not ended.answers and ended.idle_seconds <= _IDLE_SECONDS:
                self.failed(now, ended.error)
        elif ended.associations_open:  # the peer works, but wants no further association
            self.concurrency.rejected(now, ended.associations_open)
        else:
            self.failed(now, ended.error)
        return frozenset()

    def _died_over_instances(self, ended: Ended, now: float) -> None:
        """Count a death against the peer if it says more about the peer than about what was in flight."""
        self.is_well = False
        if not isinstance(ended.error, Aborted):  # which is about the instance; silence may be a peer with much to do
            self.concurrency.lost(now)
        self._learn_whether_it_dies_as_one(ended.error, now)
        if self._dying_since is None:
            self._dying_since = now
        if ended.in_flight == ended.suspected:
            self.hold_until = max(self.hold_until, now + self._retry.wait_seconds(1) / 16)
            return
        self._deaths += 1
        self._trouble = ended.error
        if now - self._dying_since >= self._dying_seconds:
            self.stop(ended.error)
        elif self._deaths >= (_DEATHS_IN_A_ROW if self.answers else _DEATHS_AT_FIRST):
            if self._trouble_since is None:
                self._trouble_since = self._dying_since
            self.failed(now, ended.error)
        elif self._deaths > _DEATHS_WITHOUT_PAUSE:
            self.hold_until = max(self.hold_until, now + self._retry.wait_seconds(1) / 4)

    def _learn_whether_it_dies_as_one(self, error: AsyncStoreError, now: float) -> None:
        """A peer that is one process takes all its connections with it; one that merely hangs does not."""
        if isinstance(error, Timeout):
            self.dies_as_one = False
        elif isinstance(error, ConnectionLost):
            self.dies_as_one |= now - self._lost_at < _TOGETHER_SECONDS
            self._lost_at = now

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
        self.is_well = False
        self._failures += 1
        rejection = error if isinstance(error, AssociationRejected) else None
        if not self.was_established and not (rejection and rejection.retryable) and not self._may_begin_again(error):
            self.stop(error, at_start=True)
        elif self._is_settled_violation(error):
            self.stop(error)
        else:
            self._ride_out(now, error, is_refusing=rejection is not None and not rejection.retryable)

    def _may_begin_again(self, error: Exception) -> bool:
        """Whether a run that never had an association tries once more: the peer may be just about to come back."""
        is_retryable = isinstance(error, AsyncStoreError) and error.retryable
        return is_retryable and self._failures <= self._retry.retries_at_start

    def _is_settled_violation(self, error: Exception) -> bool:
        """Whether the peer violates the protocol in the same way each time: waiting will not change that."""
        if not isinstance(error, RemoteProtocolError):
            return False
        self._same_violations = self._same_violations + 1 if str(error) == self._violation else 1
        self._violation = str(error)
        return self._same_violations >= _SAME_VIOLATIONS

    def _ride_out(self, now: float, error: Exception, *, is_refusing: bool = False, is_first: bool = False) -> None:
        """Wait, or stop if the peer has taken nothing for as long as an outage may last.

        The wait is random, so that several senders do not return as one. `is_refusing`: it rejects associations for
        good, so that a person must mend it. `is_first`: the next instance shows whether it is about the peer at all.
        """
        self.is_well = False
        self._trouble = error
        if self._trouble_since is None:
            self._trouble_since = now
        ends_at = self._trouble_since + self._retry.outage_seconds
        if now >= ends_at and not is_first:
            self.stop(error, at_start=not self.was_established)
        if is_refusing:
            wait_seconds = min(_REJECTED_AGAIN_SECONDS, self._retry.outage_seconds / 4)
        else:
            import random

            longest = min(_LONGEST_PAUSE_SECONDS, (now - self._trouble_since) * _PAUSE_SHARE)
            longest = max(longest, self._retry.wait_seconds(1, 1.0))
            longest = min(longest, self._retry.wait_seconds(self._failures, 1.0))
            wait_seconds = random.random() * longest * (_FIRST_PAUSE_SHARE if is_first else 1.0)
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
