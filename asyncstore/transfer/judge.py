"""Judges each answer and each loss: applies the table of reactions, with time as an argument.

`Destination` knows what the answers so far say about the peer as a whole. `Judge` decides about one instance at a time:
a final outcome, or another attempt and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.errors import StoreFailed, Timeout
from asyncstore.instances.outcome import Outcome, State, no_context, reason_of
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.record import record
from asyncstore.status import SUCCESS
from asyncstore.transfer.destination import Destination, is_our_doing
from asyncstore.transfer.options import ABORTS_UNTIL_POISON
from asyncstore.transfer.reactions import Reactions

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.status import Status
    from asyncstore.transfer.options import RetryPolicy
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.work import Work

# "Out of resources" is about the instance if the peer takes others meanwhile: ten for each one that it refuses.
_TAKEN_PER_REFUSAL: Final = 10
# A larger one is sent only once more: each time costs the peer and the network as much as thousands of others.
_SENT_TWICE_BYTES: Final = STREAMED_AFTER_BYTES
# Where no others are left that would show whether it is the instances or the peer, each has its last try after this
# time without an answer, or after as long as the peer has answered before: a peer that is ill for less costs none.
_UNCERTAIN_SECONDS: Final = 30.0


@record(frozen=True, slots=True)
class Again:
    """Send the instance again, not before `due_at`.

    `on_new_association`: the association that carried it must end.
    """

    due_at: float
    on_new_association: bool = False


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
            destination.took_one(now)
            if pending.status is not None or pending.was_refused_earlier:
                destination.relieved += 1
            return outcome
        reaction = self._retry.reaction_to(status.value)
        outcome.state = reaction.final
        outcome.reason = outcome.reason or reason_of(status)
        if reaction.presses:
            return self._refused_for_now(pending, outcome, min(reaction.retries, self._retry.retries), now)
        if reaction.stops_after:
            destination.count_stop(reaction.stops_after, StoreFailed(outcome.reason, status))
        else:
            destination.took_one(now)
        if reaction.refuses_class:
            destination.refused[pending.pair] = status
        if destination.stopped_because is None and pending.retries < min(reaction.retries, self._retry.retries):
            pending.retries += 1
            return Again(now + self._retry.wait_seconds(pending.retries), reaction.on_new_association)
        return outcome

    def _refused_for_now(self, pending: Pending, outcome: Outcome, retries: int, now: float) -> Outcome | Again:
        """Judge "out of resources": about the peer, unless the peer takes others and goes on refusing this one."""
        destination, status = self._destination, outcome.status
        assert status is not None
        if not retries:
            return outcome
        is_proven = self._is_about_instances(pending, status.value)
        answers, refusals = destination.answers - pending.answers_seen, destination.refusals - pending.refusals_seen
        counts = answers >= _TAKEN_PER_REFUSAL * refusals or (is_proven and self._work.only_suspects_matter)
        pending.refusals += counts
        if not pending.is_suspected:
            destination.refused_another()
        self._suspect(pending, status)
        destination.refusals += 1
        pending.answers_seen, pending.refusals_seen = destination.answers, destination.refusals
        pending.relieved_seen = destination.relieved
        if pending.instance.data_set_length > _SENT_TWICE_BYTES:
            retries = 1
        has_taken_others = destination.has_taken_since(pending) or (pending.was_refused_earlier and destination.answers)
        if is_proven and has_taken_others and counts:
            destination.refuses_with.add(status.value)
        if pending.refusals > retries:
            outcome.is_suspected = True
            outcome.is_set_aside = bool(is_proven and has_taken_others) and not destination.refuses_others
            return outcome
        if is_proven:
            return Again(now + self._retry.wait_seconds(1 if counts else pending.attempts))
        destination.pressed(now, StoreFailed(outcome.reason, status, retryable=True))
        return Again(max(destination.hold_until, now))

    def _is_about_instances(self, pending: Pending, status_value: int) -> bool:
        """Whether this answer of the peer is about the instance: it has taken others since it first gave it.

        When it has just taken one that it had refused so, the answer is about the peer.

        Where only suspected instances are left, it can take no others. Then it is enough that it has answered so to
        another one while it took others, or that an earlier run got the same answer to all that are left, of which this
        run has had none taken. That ends the attempts of this run, but sets nothing aside.
        """
        destination, work = self._destination, self._work
        if destination.relieved != pending.relieved_seen:
            return False
        if destination.has_taken_since(pending):
            return True
        if not work.only_suspects_matter:
            return False
        return status_value in destination.refuses_with or (
            pending.was_refused_earlier
            and not destination.relieved
            and all(other.was_refused_earlier for other in work.left)
        )

    def _suspect(self, pending: Pending, status: Status | None = None) -> None:
        """Take note that an instance may be at fault itself: it comes last from now on."""
        pending.is_suspected = True
        pending.status = status
        if pending.answers_when_suspected is None:
            pending.answers_when_suspected = self._destination.answers + max(self._work.in_flight - 1, 0)

    def lost(self, pending: Pending, error: Exception, now: float) -> Outcome | Again:
        """Judge an instance that was in flight when its association ended: the peer may have it, or not."""
        if is_our_doing(error):
            return Again(now)
        has_taken_since = self._destination.has_taken_since(pending)
        pending.losses += 1
        self._suspect(pending)
        tries_left = min(ABORTS_UNTIL_POISON, self._retry.retries + 1) - pending.losses
        if tries_left > 0:
            waits = isinstance(error, Timeout) or pending.losses > 1
            due_at = now + (self._retry.wait_seconds(pending.losses) if waits else 0.0)
            if tries_left == 1 and not has_taken_since and self._work.only_suspects_matter:
                due_at = max(due_at, self._destination.patient_until(_UNCERTAIN_SECONDS))
            return Again(due_at)
        outcome = unknown_outcome(pending, error)
        outcome.is_set_aside = has_taken_since
        return outcome

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
        losses=pending.losses,
        is_suspected=True,
        changes=pending.changes,
        sent_uids=pending.sent_uids,
    )
