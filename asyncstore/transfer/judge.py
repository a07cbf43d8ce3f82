"""What to do after each answer and each loss: the tables of policy.py applied, with time as an argument.

`Destination` holds what the answers so far say of the peer as a whole; `Judge` decides over one instance at a time: a
final outcome, or another attempt and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asyncstore.errors import AssociationLost, AssociationRejected, AsyncStoreError, StoreFailed, Timeout
from asyncstore.net.outcome import Outcome, State, no_context, reason_of
from asyncstore.status import SUCCESS
from asyncstore.transfer.policy import ABORTS_UNTIL_POISON, DESTINATION_FAILURES_UNTIL_SINGLE, Named

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.instance import Instance
    from asyncstore.status import Status
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.policy import RetryPolicy
    from asyncstore.transfer.work import Pending

# A peer that takes others' instances and keeps refusing this one for want of resources means this one. It does take
# them when it refuses fewer than one in so many.
_REFUSALS_OF_ONE = 5
_TAKEN_PER_REFUSAL = 10
_REJECTED_AGAIN_SECONDS = 60.0


class Destination:
    """The health of the peer: until when to hold, whether to be careful, whether to stop.

    `stopped_because` is why no more work is taken, `start_failure` the same where no association ever came to be.
    `refused` has the pairs that the peer does not take, and the status that said so (None: no accepted context).
    `answers` and `refusals` count answers: those that say that the peer works, and those for want of resources;
    `pressures` counts the waits in a row for want of resources.
    """

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self.hold_until = 0.0
        self.was_established = False
        self.stopped_because: Exception | None = None
        self.start_failure: Exception | None = None
        self.refused: dict[Pair, Status | None] = {}
        self.answers = 0
        self.refusals = 0
        self._failures = 0
        self.pressures = 0
        self._trouble_since: float | None = None
        self._stops_in_a_row = 0

    @property
    def is_doubtful(self) -> bool:
        """After many failures in a row, one association at a time is tried."""
        return self._failures >= DESTINATION_FAILURES_UNTIL_SINGLE

    def took_one(self) -> None:
        """An instance was answered, and not for want of resources: the peer works."""
        self.answers += 1
        self._failures = 0
        self.pressures = 0
        self._trouble_since = None
        self._stops_in_a_row = 0

    def pressed(self, now: float, error: Exception) -> None:
        """The peer is out of resources: everybody waits, longer each time."""
        self.refusals += 1
        if now >= self.hold_until:  # else it is an answer to what was in flight when the waiting began
            self.pressures += 1
            self._ride_out(now, self._retry.wait_seconds(self.pressures), error)

    def failed(self, now: float, error: Exception) -> None:
        """No association came to be, or one was lost; stops the run when trying again makes no sense."""
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
        if self._trouble_since is None:
            self._trouble_since = now
        ends_at = self._trouble_since + self._retry.outage_seconds
        if now >= ends_at:
            self.stop(error, at_start=not self.was_established)
        self.hold_until = max(self.hold_until, min(now + wait_seconds, ends_at))

    def count_stop(self, limit: int, error: Exception) -> None:
        """An answer that stops the destination when it comes `limit` times in a row."""
        self._stops_in_a_row += 1
        if self._stops_in_a_row >= limit:
            self.stop(error)

    def stop(self, error: Exception, *, at_start: bool = False) -> None:
        """Take no more work: what is left is for another run."""
        if self.stopped_because is None:
            self.stopped_because = error
            self.start_failure = error if at_start else None


class Again(NamedTuple):
    """Send the instance again, not before `due_at`.

    `on_new_association` says that the one which carried it is to end, `is_pressed` that the peer is out of resources.
    """

    due_at: float
    on_new_association: bool = False
    is_pressed: bool = False


class Judge:
    """Decides over instances: an Outcome that is final, or Again."""

    def __init__(self, retry: RetryPolicy, destination: Destination) -> None:
        self._retry = retry
        self._destination = destination
        # Unless somebody overrides it.
        self._success_is_stored = retry.reaction_to(SUCCESS.value) == Named.STORED.value

    def answered(
        self, pending: Pending, outcome: Outcome, now: float, *, others_wait: Callable[[], bool]
    ) -> Outcome | Again:
        """The peer answered; `outcome` is what the answer means by itself.

        `others_wait` is asked whether there are instances that were never sent yet.
        """
        status = outcome.status
        assert status is not None
        destination = self._destination
        if status.value == 0 and self._success_is_stored:
            destination.took_one()
            return outcome
        reaction = self._retry.reaction_to(status.value)
        outcome.state = reaction.final
        outcome.reason = outcome.reason or reason_of(status)
        if reaction.presses:
            if not min(reaction.retries, self._retry.retries):
                return outcome
            return self._refused_for_now(pending, outcome, now, others_wait())
        if reaction.stops_after:
            destination.count_stop(reaction.stops_after, StoreFailed(outcome.reason, status))
        else:
            destination.took_one()
        if reaction.refuses_class:
            destination.refused[pending.pair] = status
        if destination.stopped_because is None and pending.retries < min(reaction.retries, self._retry.retries):
            pending.retries += 1
            return Again(now + self._retry.wait_seconds(pending.retries), reaction.on_new_association)
        return outcome

    def _refused_for_now(self, pending: Pending, outcome: Outcome, now: float, others_wait: bool) -> Outcome | Again:
        """Out of resources: not the instance's fault, unless the peer takes others meanwhile.

        When only such are left, the peer cannot show that any more: then it counts that it took others since.
        """
        destination = self._destination
        others_refused = destination.refusals - pending.refusals_seen
        if destination.answers - pending.answers_seen >= _TAKEN_PER_REFUSAL * others_refused:
            pending.refusals += 1
        destination.pressed(now, StoreFailed(outcome.reason, outcome.status, retryable=True))
        pending.answers_seen, pending.refusals_seen = destination.answers, destination.refusals
        if pending.answers_at_first_refusal is None:
            pending.answers_at_first_refusal = destination.answers
        is_remainder = not others_wait and destination.answers > pending.answers_at_first_refusal
        if pending.refusals >= _REFUSALS_OF_ONE or (is_remainder and destination.pressures >= _REFUSALS_OF_ONE):
            return outcome
        return Again(max(destination.hold_until, now), is_pressed=True)

    def lost(self, pending: Pending, error: Exception, now: float) -> Outcome | Again:
        """The association ended while the instance was in flight: what became of it is not known."""
        if is_our_doing(error):
            return Again(now)
        pending.losses += 1
        if pending.losses < ABORTS_UNTIL_POISON and pending.losses <= self._retry.retries:
            return Again(now + (self._retry.wait_seconds(pending.losses) if isinstance(error, Timeout) else 0.0))
        return unknown_outcome(pending, error)

    def refused_before(self, instance: Instance, attempts: int = 0) -> Outcome | None:
        """The outcome of an instance whose kind the peer refused before; not a byte of it is sent."""
        pair = (instance.sop_class_uid, instance.transfer_syntax_uid)
        if pair not in self._destination.refused:
            return None
        status = self._destination.refused[pair]
        outcome = no_context(instance)
        outcome.attempts = attempts
        if status is not None:
            outcome.state = State.FAILED
            outcome.status = status
            outcome.reason = reason_of(status)
        return outcome


def unknown_outcome(pending: Pending, error: Exception) -> Outcome:
    """The outcome of an instance that was in flight when its association ended."""
    times = f", {pending.losses} times" if pending.losses > 1 else ""
    return Outcome(
        State.UNKNOWN,
        pending.instance.path,
        pending.instance,
        reason=f"sent, and not answered{times}: {error}",
        error=error,
        retryable=True,
        attempts=pending.attempts,
    )


def is_our_doing(error: Exception) -> bool:
    """Whether we ended the association ourselves, because of a file or of the caller: that says nothing of the peer."""
    return type(error) is AssociationLost
