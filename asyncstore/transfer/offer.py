"""The association request that a run makes, and the smaller ones that it tries where a peer does not bear the first.

An offer shrinks in this order, as far as the options left anything to leave out:

1. the asynchronous operations window and the default presentation contexts, as the options say
2. no asynchronous operations window
3. no default presentation contexts either: only those that the input needs

Some implementations drop, reject or abort an association for the window item, at the request or at its first message,
and some take no request of more than 16 KB. They do not say which it was. So the next offer is made at once, does not
count as an attempt, and a run keeps the first one that the peer accepts. If it accepts none, the offer was not the
reason, and the next attempt begins with the first again.

A peer that rejects an association for a clear or a passing reason, that does not answer within the time, or that takes
no connection gets the same offer again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from asyncstore.errors import Aborted, AssociationRejected, ConnectionLost
from asyncstore.record import record
from asyncstore.trace import emit
from asyncstore.transfer.destination import is_our_doing
from asyncstore.transfer.trace import OffersLess

if TYPE_CHECKING:
    from asyncstore.errors import AsyncStoreError

logger: logging.Logger = logging.getLogger("asyncstore.transfer")

# PS3.8 Table 9-21: (source, reason) of the rejections that no smaller offer avoids: application context, calling and
# called AE title, protocol version.
_EXPLAINED: Final = frozenset(((1, 2), (1, 3), (1, 7), (2, 2)))


@record(frozen=True, slots=True)
class Offer:
    """One association request: the operations window (1: none), and whether the default contexts fill it up."""

    window: int
    is_filled: bool


class Offers:
    """The offers to one peer; `current` is what the next association offers.

    `was_accepted` and `was_answered`: it has borne one, an association request or a message on an association. So no
    offer is to blame for what happens later.
    """

    def __init__(self, *, window: int, is_filled: bool) -> None:
        self._first = Offer(window, is_filled)
        self._last = Offer(1, False)
        self.current: Offer = self._first
        self.was_accepted: bool = False
        self.was_answered: bool = False
        self._told: set[str] = set()

    def learn(self, made: Offer, error: AsyncStoreError, *, was_established: bool) -> bool:
        """Learn from an association that offered `made` and ended with `error`; True: offer less, at once."""
        if (self.was_answered if was_established else self.was_accepted) or is_our_doing(error):
            return False
        if was_established:
            return made.window > 1 and self._offer(Offer(1, made.is_filled), "the first message was not answered")
        if made.window > 1 and (_is_unanswered(error) or _is_unexplained(error)):
            return self._offer(Offer(1, made.is_filled), str(error))
        if made != self._last and _is_unanswered(error):
            return self._offer(self._last, str(error))
        self.current = self._first  # less did not help: the offer was not the reason
        return False

    def _offer(self, less: Offer, because: str) -> bool:
        if less.is_filled == self.current.is_filled:
            without = "an asynchronous operations window"
        else:
            without = "the default presentation contexts"
        self.current = less
        if without not in self._told:
            self._told.add(without)
            emit(logger, OffersLess(because=because, without=without))
        return True


def _is_unanswered(error: AsyncStoreError) -> bool:
    """Whether the peer closed or aborted the association."""
    return isinstance(error, ConnectionLost | Aborted)


def _is_unexplained(error: AsyncStoreError) -> bool:
    """Whether the peer rejected the association for good, for a reason that a smaller offer may avoid."""
    return (
        isinstance(error, AssociationRejected)
        and not error.retryable
        and (error.source, error.reason) not in _EXPLAINED
    )
