"""What to do after each answer and each loss: the tables of policy.py applied, with time as an argument.

`Destination` holds what the answers so far say of the peer as a whole; `Judge` decides over one instance at a time: a
final outcome, or another attempt and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asyncstore.errors import AssociationLost, AssociationRejected, ConnectFailed, StoreFailed, Timeout
from asyncstore.net.outcome import Outcome, State
from asyncstore.transfer.policy import ABORTS_UNTIL_POISON, DESTINATION_FAILURES_UNTIL_SINGLE

if TYPE_CHECKING:
    from asyncstore.status import Status
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.policy import RetryPolicy
    from asyncstore.transfer.work import Pending

# A peer that takes others' instances and keeps refusing this one for want of resources means this one.
_REFUSALS_OF_ONE = 5
_REJECTED_AGAIN_SECONDS = 60.0


class Destination:
    """The health of the peer: until when to hold, whether to be careful, whether to stop."""

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self.hold_until = 0.0
        self.was_established = False
        self.stopped_because: Exception | None = None
        self.refused: dict[Pair, Status] = {}
        self._failures = 0
        self._pressures = 0
        self._last_good_at: float | None = None
        self._stops_in_a_row = 0
        self.answers = 0

    @property
    def is_doubtful(self) -> bool:
        """After an outage, or many failures in a row, one association at a time is tried."""
        return self._failures >= DESTINATION_FAILURES_UNTIL_SINGLE

    @property
    def is_down(self) -> bool:
        """The last attempt to have an association failed."""
        return self._failures > 0

    def established(self, now: float) -> None:
        """An association was accepted."""
        self.was_established = True
        self._last_good_at = self._last_good_at or now

    def took_one(self, now: float) -> None:
        """An instance was answered, and not for want of resources: the peer works."""
        self.answers += 1
        self._failures = 0
        self._pressures = 0
        self._last_good_at = now
        self._stops_in_a_row = 0

    def pressed(self, now: float) -> None:
        """The peer is out of resources: everybody waits, longer each time."""
        if now < self.hold_until:
            return  # an answer to what was in flight when the waiting began
        self._pressures += 1
        self._hold(now, self._pressures)

    def failed(self, now: float, error: Exception) -> None:
        """No association came to be, or one was lost; stops the run when trying again makes no sense."""
        self._failures += 1
        if isinstance(error, AssociationRejected) and not error.retryable:
            if not self.was_established:
                self.stop(error)
                return
            self.hold_until = max(self.hold_until, now + _REJECTED_AGAIN_SECONDS)
        elif not self.was_established and not (isinstance(error, AssociationRejected) and error.retryable):
            self.stop(error)
            return
        else:
            self._hold(now, self._failures)
        self.check_outage(now, error)

    def check_outage(self, now: float, error: Exception) -> None:
        """Stop when the peer has taken nothing for longer than an outage may last."""
        if self._last_good_at is None:
            self._last_good_at = now
        if now - self._last_good_at > self._retry.outage_seconds:
            self.stop(error)

    def refuse(self, pair: Pair, status: Status) -> bool:
        """The peer does not take this pair; True when that is news."""
        if pair in self.refused:
            return False
        self.refused[pair] = status
        return True

    def count_stop(self, limit: int, error: Exception) -> None:
        """An answer that stops the destination when it comes `limit` times in a row."""
        self._stops_in_a_row += 1
        if self._stops_in_a_row >= limit:
            self.stop(error)

    def stop(self, error: Exception) -> None:
        """Take no more work: what is left is for another run."""
        self.stopped_because = self.stopped_because or error

    def _hold(self, now: float, failures: int) -> None:
        self.hold_until = max(self.hold_until, now + self._retry.wait_seconds(failures))


class Again(NamedTuple):
    """Send the instance again, not before `due_at`."""

    due_at: float


class Judge:
    """Decides over instances: an Outcome that is final, or Again."""

    def __init__(self, retry: RetryPolicy, destination: Destination) -> None:
        self._retry = retry
        self._destination = destination

    def answered(self, pending: Pending, outcome: Outcome, now: float) -> Outcome | Again:
        """The peer answered; `outcome` is what the answer means by itself."""
        status = outcome.status
        assert status is not None
        destination = self._destination
        if status.value == 0:
            destination.took_one(now)
            return outcome
        reaction = self._retry.reaction_to(status.value)
        outcome.state = reaction.final
        if reaction.presses:
            return self._refused_for_now(pending, outcome, reaction.retries, now)
        if reaction.stops_after:
            destination.count_stop(reaction.stops_after, StoreFailed(outcome.reason, status))
        else:
            destination.took_one(now)
        if reaction.refuses_class:
            destination.refuse(pending.pair, status)
        if destination.stopped_because is None and pending.retries < min(reaction.retries, self._retry.retries):
            pending.retries += 1
            pending.needs_new_association = reaction.on_new_association
            return Again(now + self._retry.wait_seconds(pending.retries))
        return outcome

    def _refused_for_now(self, pending: Pending, outcome: Outcome, retries: int, now: float) -> Outcome | Again:
        """Out of resources: not the instance's fault, unless the peer takes others meanwhile."""
        destination = self._destination
        if destination.answers > pending.answers_seen:
            pending.refusals += 1
        pending.answers_seen = destination.answers
        destination.pressed(now)
        destination.check_outage(now, StoreFailed(outcome.reason, outcome.status, retryable=True))
        if pending.refusals >= _REFUSALS_OF_ONE or not min(retries, self._retry.retries):
            return outcome
        return Again(max(destination.hold_until, now))

    def lost(self, pending: Pending, error: Exception, now: float) -> Outcome | Again:
        """The association ended while the instance was in flight: what became of it is not known."""
        pending.losses += 1
        if pending.losses < ABORTS_UNTIL_POISON and pending.losses <= self._retry.retries:
            return Again(now + (self._retry.wait_seconds(pending.losses) if isinstance(error, Timeout) else 0.0))
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

    def refused_before(self, pending: Pending) -> Outcome | None:
        """The outcome of an instance whose kind the peer refused before; not a byte of it is sent."""
        status = self._destination.refused.get(pending.pair)
        if status is None:
            return None
        return Outcome(
            State.FAILED,
            pending.instance.path,
            pending.instance,
            status,
            reason=f"{status.meaning} (0x{status.value:04X})",
            attempts=pending.attempts,
        )


def is_start_failure(error: Exception) -> bool:
    """Whether an error is one of those that keep an association from being established."""
    return isinstance(error, ConnectFailed | AssociationRejected | AssociationLost)
