"""What the answers so far say of the peer as a whole: until when to hold, and whether to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.errors import AssociationLost, AssociationRejected, AsyncStoreError
from asyncstore.transfer.options import DESTINATION_FAILURES_UNTIL_SINGLE

if TYPE_CHECKING:
    from asyncstore.status import Status
    from asyncstore.transfer.options import RetryPolicy
    from asyncstore.transfer.plan import Pair


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


def is_our_doing(error: Exception) -> bool:
    """Whether we ended the association ourselves, because of a file or of the caller: that says nothing of the peer."""
    return type(error) is AssociationLost
