"""Judges each answer and each loss: applies the table of reactions, with time as an argument.

`Destination` knows what the answers so far say about the peer as a whole. `Judge` decides about one instance at a time:
a final outcome, or another attempt and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asyncstore.errors import StoreFailed, Timeout
from asyncstore.instances.outcome import Outcome, State, no_context, reason_of
from asyncstore.status import SUCCESS
from asyncstore.transfer.destination import Destination, is_our_doing
from asyncstore.transfer.options import ABORTS_UNTIL_POISON
from asyncstore.transfer.reactions import Reactions

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.transfer.options import RetryPolicy
    from asyncstore.transfer.work import Pending, Work

# "Out of resources" is about the instance if the peer refuses it this many times, and takes others meanwhile: ten for
# each one that it refuses.
_REFUSALS_OF_ONE = 5
_TAKEN_PER_REFUSAL = 10


class Again(NamedTuple):
    """Send the instance again, not before `due_at`.

    `on_new_association`: the association that carried it must end. `is_pressed`: the peer is out of resources.
    """

    due_at: float
    on_new_association: bool = False
    is_pressed: bool = False


class Judge:
    """Decides about instances: a final Outcome, or Again."""

    def __init__(self, retry: RetryPolicy, destination: Destination, work: Work) -> None:
        self._retry = retry
        self._destination = destination
        self._work = work
        # Unless an override says otherwise.
        self._success_is_stored = retry.reaction_to(SUCCESS.value) == Reactions.STORED.value

    def answered(self, pending: Pending, outcome: Outcome, now: float) -> Outcome | Again:
        """Judge an answer; `outcome` has its meaning without retries or overrides."""
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
            return self._refused_for_now(pending, outcome, now)
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

    def _refused_for_now(self, pending: Pending, outcome: Outcome, now: float) -> Outcome | Again:
        """Judge "out of resources": not the instance's fault, unless the peer takes others meanwhile.

        When only refused instances are left, the peer can take no others. Then it is enough that it took some since the
        first refusal.
        """
        destination = self._destination
        others_refused = destination.refusals - pending.refusals_seen
        if destination.answers - pending.answers_seen >= _TAKEN_PER_REFUSAL * others_refused:
            pending.refusals += 1
        destination.pressed(now, StoreFailed(outcome.reason, outcome.status, retryable=True))
        pending.answers_seen, pending.refusals_seen = destination.answers, destination.refusals
        if pending.answers_at_first_refusal is None:
            pending.answers_at_first_refusal = destination.answers
        is_remainder = not self._work.has_untried() and destination.answers > pending.answers_at_first_refusal
        if pending.refusals >= _REFUSALS_OF_ONE or (is_remainder and destination.pressures >= _REFUSALS_OF_ONE):
            return outcome
        return Again(max(destination.hold_until, now), is_pressed=True)

    def lost(self, pending: Pending, error: Exception, now: float) -> Outcome | Again:
        """Judge an instance that was in flight when its association ended: the peer may have it, or not."""
        if is_our_doing(error):
            return Again(now)
        pending.losses += 1
        if pending.losses < ABORTS_UNTIL_POISON and pending.losses <= self._retry.retries:
            return Again(now + (self._retry.wait_seconds(pending.losses) if isinstance(error, Timeout) else 0.0))
        return unknown_outcome(pending, error)

    def refused_before(self, instance: Instance, attempts: int = 0) -> Outcome | None:
        """The outcome of an instance whose kind the peer refused before, which is not sent; None for another."""
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
