"""Concurrency: simulated peers, and the invariants that hold whatever happens.

Invariants: 1 <= target <= maximum; the target is never above the learned cap; it never grows while no work is waiting,
nor outside update(); a fixed number is never exceeded; time that runs backwards changes nothing.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.transfer.concurrency import FAILURES_UNTIL_SINGLE, Concurrency, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_SECONDS = 0.02
OPENING_SECONDS = 0.008
SEEDS = range(12)
SMALL, LARGE = 8_600, 200_000_000

Rate = "Callable[[float, int], float]"  # answers a second of a peer, by time and open associations


@dataclass
class Simulation:
    """A peer that answers `rate(time, associations)` instances a second, over associations that open and close.

    Each answer takes its association `noise` more or less than its share, and the whole peer is that much faster or
    slower for 100 ms at a time. An association answers `burst` instances at once, as with a window and a round trip.
    """

    controller: Concurrency
    rate: Callable[[float, int], float]
    seed: int = 0
    instance_bytes: int = SMALL
    noise: float = 0.12
    burst: int = 1
    limit: int = 1000
    presses: Callable[[float], bool] = lambda now: False
    work_waiting: Callable[[float], bool] = lambda now: True
    now: float = 0.0
    answers: int = 0
    open: int = 0
    opened: int = 0
    history: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._due: list[tuple[float, bool]] = []  # when, and whether it is an association that opens
        self._opening = 0
        self._mood, self._mood_until = 1.0, 0.0
        self._retry_at = 0.0

    def run(self, until: float) -> Simulation:
        """Go on until then, tick by tick."""
        while self.now < until:
            self.now += TICK_SECONDS * self._random.uniform(0.9, 1.4)
            self._answer()
            work_waiting = self.work_waiting(self.now)
            target = self.controller.update(self.now, self.progress(work_waiting))
            if work_waiting and self.now >= self._retry_at:
                self._open(target)
            self.history.append((self.now, self.controller.target))
        return self

    def progress(self, work_waiting: bool = True) -> Progress:
        return Progress(self.answers, self.answers * self.instance_bytes, self.open, work_waiting)

    def _open(self, target: int) -> None:
        while self.open + self._opening < target:
            self._opening += 1
            heapq.heappush(self._due, (self.now + OPENING_SECONDS, True))

    def _answer(self) -> None:
        while self._due and self._due[0][0] <= self.now:
            at, is_opening = heapq.heappop(self._due)
            if is_opening:
                self._opening -= 1
                if self.open >= self.limit:
                    self.controller.rejected(at, self.open)
                    self._retry_at = self.now + 0.5
                    continue
                self.open += 1
                self.opened += 1
            elif self.presses(at):
                self.answers += 1
                self.controller.pressed(at)
                at += 0.2
            else:
                self.answers += self.burst
            if not is_opening and self.open > self.controller.target:
                self.open -= 1
            elif self.work_waiting(at) or not is_opening:
                heapq.heappush(self._due, (at + self._service(at), False))

    def _service(self, at: float) -> float:
        if at >= self._mood_until:
            self._mood, self._mood_until = self._random.uniform(1 - self.noise, 1 + self.noise), at + 0.1
        share = self.open * self.burst / self.rate(at, self.open)
        return share * self._mood * self._random.uniform(1 - self.noise, 1 + self.noise)

    def reached(self, target: int) -> float:
        """When the target was first that high, in seconds."""
        return next((at for at, number in self.history if number >= target), float("inf"))

    def targets(self, since: float = 0.0) -> list[int]:
        return [number for at, number in self.history if at >= since]

    def share_at(self, since: float, *targets: int) -> float:
        """The part of the time since then that was spent at one of these numbers."""
        numbers = self.targets(since)
        return sum(number in targets for number in numbers) / len(numbers)


def linear(rate: float) -> Callable[[float, int], float]:
    return lambda now, associations: rate * associations


def flat(rate: float, best: float) -> Callable[[float, int], float]:
    return lambda now, associations: rate * min(associations, best)
