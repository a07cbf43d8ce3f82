"""The suspected instances that wait: they may be at fault themselves, and come after all others."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair

# They come after all others, or after this time: a run may last for weeks.
_LONGEST_SECONDS: Final = 300.0
# More do not wait: of files, whose bytes were let go, and by the memory that they hold otherwise.
MAXIMUM_SUSPECTS: Final = 8192
_MAXIMUM_BYTES: Final = 8 << 20


class Suspects:
    """Suspected instances and since when they wait, the next one first.

    `held_bytes` is the memory that they hold, `lost` counts those that associations ended over, `later` those that will
    come when it is time to send them again. `are_full`: no more may come before some of these are done with.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Pending]] = deque()
        self.held_bytes: int = 0
        self.lost: int = 0
        self.later: int = 0
        self.are_full: bool = False  # it is asked for before each instance of a run, and changes now and then

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Pending]:
        return (pending for _, pending in self._waiting)

    def add(self, pending: Pending, since: float) -> None:
        self._waiting.append((since, pending))
        self.held_bytes += pending.held_bytes
        self.lost += pending.losses > 0
        self._count()

    def pop(self) -> tuple[float, Pending]:
        """Take out the next one; gives since when it waited, too."""
        since, pending = self._waiting.popleft()
        self.held_bytes -= pending.held_bytes
        self.lost -= pending.losses > 0
        self._count()
        return since, pending

    def _count(self) -> None:
        self.are_full = len(self._waiting) >= MAXIMUM_SUSPECTS or self.held_bytes >= _MAXIMUM_BYTES

    def pop_overdue(self, now: float) -> Iterator[Pending]:
        """Take out those that have waited for too long."""
        while self._waiting and self._waiting[0][0] + _LONGEST_SECONDS <= now:
            yield self.pop()[1]

    def pop_all(self, pairs: Container[Pair]) -> list[Pending]:
        """Take out all of these pairs."""
        entries = [self.pop() for _ in range(len(self._waiting))]
        for since, pending in entries:
            if pending.pair not in pairs:
                self.add(pending, since)
        return [pending for _, pending in entries if pending.pair in pairs]

    def begin_with_least_lost(self) -> None:
        """Let one with the fewest losses and attempts be the next one: in trouble each has as many tries as others."""
        if self._waiting:
            import random

            self._waiting.rotate(random.randrange(len(self._waiting)))
            tries = [(pending.losses, pending.attempts) for _, pending in self._waiting]
            self._waiting.rotate(-tries.index(min(tries)))
