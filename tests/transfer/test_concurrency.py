"""Concurrency: simulated peers, and the invariants that hold whatever happens.

Invariants: 1 <= target <= maximum; the target is never above the learned cap; it never grows while no work is waiting,
nor outside update(); a fixed number is never exceeded; time that runs backwards changes nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.transfer.concurrency import (
    CAP_SECONDS,
    MANY_WAITING,
    MUCH_WAITING_BYTES,
    SMALL_BYTES,
    Concurrency,
    Progress,
)
from asyncstore.transfer.destination import FAILURES_UNTIL_SINGLE

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_SECONDS = 0.02
OPENING_SECONDS = 0.008
SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(4, 12))]
SMALL, LARGE = 8_600, 200_000_000
ORTHANC = {1: 420.0, 2: 340.0, 3: 290.0, 4: 250.0}  # answers a second, by associations


@dataclass
class Simulation:
    """A peer that answers `rate(time, associations)` instances a second, over associations that open and close.

    Each answer takes its association `noise` more or less than its share, and the whole peer is that much faster or
    slower for 100 ms at a time. An association answers `burst` instances at once, as with a window and a round trip.
    The sender itself is at work for `busy(time)` of its time.
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
    busy: Callable[[float], float] = lambda now: 0.0
    busy_seconds: float = 0.0
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
            seconds = TICK_SECONDS * self._random.uniform(0.9, 1.4)
            self.now += seconds
            self.busy_seconds += seconds * self.busy(self.now)
            self._answer()
            work_waiting = self.work_waiting(self.now)
            target = self.controller.update(self.now, self.progress(work_waiting))
            if self.now >= self._retry_at:
                self._open(target)
            self.history.append((self.now, self.controller.target))
        return self

    def progress(self, work_waiting: bool = True) -> Progress:
        data_set_bytes = self.answers * self.instance_bytes
        return Progress(self.answers, data_set_bytes, self.open, work_waiting, busy_seconds=self.busy_seconds)

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
            else:
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

    def share_at(self, *targets: int, since: float = 0.0) -> float:
        """The part of the time since then that was spent at one of these numbers."""
        numbers = self.targets(since)
        return sum(number in targets for number in numbers) / len(numbers)


def automatic(
    rate: Callable[[float, int], float], seed: int = 0, instance_bytes: int = SMALL, burst: int = 1, limit: int = 1000
) -> Simulation:
    return Simulation(Concurrency(None), rate, seed, instance_bytes, burst=burst, limit=limit)


def linear(rate: float) -> Callable[[float, int], float]:
    return lambda now, associations: rate * associations


def flat(rate: float, best: float) -> Callable[[float, int], float]:
    return lambda now, associations: rate * min(associations, best)


def orthanc(now: float, associations: int) -> float:
    return ORTHANC.get(associations, 1000 / associations)


def quiet(answers: int, associations_open: int = 1, work_waiting: bool = True) -> Progress:
    return Progress(answers, answers * SMALL, associations_open, work_waiting)


# the beginning


@pytest.mark.parametrize(
    ("waiting", "unsent_bytes", "begun_with"),
    [
        (1, 1 << 40, 1),  # a second association would have nothing to do
        (2, MUCH_WAITING_BYTES - 1, 1),
        (2, MUCH_WAITING_BYTES, 2),
        (MANY_WAITING - 1, 0, 1),
        (MANY_WAITING, 0, 4),
        (MANY_WAITING, MANY_WAITING * SMALL_BYTES, 4),
        (MANY_WAITING, MANY_WAITING * SMALL_BYTES + 1, 1),  # the first answers will show
    ],
)
def test_more_are_opened_as_soon_as_the_first_is_when_much_waits(
    waiting: int, unsent_bytes: int, begun_with: int
) -> None:
    controller = Concurrency(None)
    assert controller.update(0.0, Progress(0, 0, 0, waiting, unsent_bytes)) == 1
    assert controller.update(0.1, Progress(0, 0, 1, waiting, unsent_bytes)) == begun_with


def test_no_more_are_opened_at_once_than_the_peer_lets_us_have() -> None:
    controller = Concurrency(None)
    controller.rejected(0.0, 3)
    assert controller.update(0.1, Progress(0, 0, 1, MANY_WAITING)) == 3


def test_a_peer_that_was_pressed_is_not_given_several_at_once() -> None:
    controller = Concurrency(None)
    controller.pressed(0.0)
    assert controller.update(0.1, Progress(1, SMALL, 1, MANY_WAITING)) == 1


@pytest.mark.parametrize(
    ("waiting", "busy", "begun_with"),
    [
        (MANY_WAITING, 0.0, 4),
        (MANY_WAITING, 0.2, 4),
        (MANY_WAITING, 0.3, 3),
        (MANY_WAITING, 0.6, 2),
        (MANY_WAITING, 0.7, 2),
        (MANY_WAITING, 0.8, 2),
        (MANY_WAITING, 0.9, 1),
        (MANY_WAITING, 1.0, 1),
        (MANY_WAITING - 1, 0.0, 1),
    ],
)
def test_the_first_answers_show_for_how_many_the_sender_has_time(waiting: int, busy: float, begun_with: int) -> None:
    controller = Concurrency(None)
    for tick in range(12):  # one answer in 25 ms: eight of them would not make a whole period
        now = tick * 0.025
        progress = Progress(tick, tick * 70_000, 1, waiting, waiting * 70_000, now * busy)
        if controller.update(now, progress) > 1:
            break
    assert controller.target == begun_with
    assert tick <= 6 or begun_with == 1


# the climb


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fast_transfer_of_half_a_second_is_climbed_at_once(seed: int) -> None:
    simulation = automatic(linear(5000), seed).run(0.5)
    assert simulation.reached(2) < 0.2
    assert simulation.reached(4) < 0.45
    assert simulation.controller.target >= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_latency_is_hidden_by_eight_associations_within_two_seconds(seed: int) -> None:
    simulation = automatic(linear(50), seed).run(6)
    assert simulation.reached(8) < 2
    assert simulation.share_at(8, since=2) > 0.8


def test_small_losses_on_the_way_down_do_not_add_up_to_a_large_one() -> None:
    rates = {1: 500.0, 2: 700.0, 3: 790.0, 4: 850.0, 6: 930.0, 8: 1000.0}  # each step down costs less than 15 %
    simulation = Simulation(
        Concurrency(None), lambda now, associations: rates.get(associations, 500.0), 0, noise=0
    ).run(9)
    reached_at = simulation.reached(8)
    assert reached_at < 3
    settled = simulation.targets(since=reached_at)
    assert 6 in settled
    assert min(settled) >= 4  # tried, and not kept
    assert settled.count(4) < settled.count(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_that_come_in_bursts_of_a_window_do_not_hide_the_gain(seed: int) -> None:
    simulation = automatic(linear(800), seed, burst=16).run(20)
    assert simulation.reached(3) < 1
    assert simulation.share_at(6, 8, since=6) > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_is_busy_with_two_or_three_keeps_two_or_three(seed: int) -> None:
    simulation = automatic(flat(200, 2.5), seed).run(60)
    assert simulation.share_at(2, 3, since=5) > 0.6  # noise may keep a fourth, until the next probe
    assert simulation.share_at(2, 3, 4, since=5) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_with_one_worker_keeps_one_and_is_seldom_probed(seed: int) -> None:
    simulation = automatic(flat(500, 1), seed).run(60)
    assert simulation.share_at(1, since=1) > 0.95
    assert simulation.opened <= 10


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_more_associations_make_slower_is_left_with_one_soon(seed: int) -> None:
    simulation = automatic(orthanc, seed).run(30)
    assert max(simulation.targets()) == 2
    assert set(simulation.targets(since=0.4)[:20]) == {1}
    assert simulation.share_at(1, since=0.4) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_of_fifteen_per_cent_does_not_make_it_wander(seed: int) -> None:
    simulation = Simulation(Concurrency(None), flat(500, 1), seed, noise=0.15).run(60)
    assert simulation.share_at(1, since=1) > 0.9
    assert max(simulation.targets()) <= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_large_slow_instances_are_measured_in_answers(seed: int) -> None:
    simulation = automatic(linear(0.5), seed, LARGE).run(150)
    assert simulation.reached(2) > 4  # one answer settles, and then two must be compared
    assert simulation.reached(8) < 60
    assert simulation.share_at(6, 8, since=60) > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_large_slow_instances_that_share_one_disk_keep_one_or_two(seed: int) -> None:
    simulation = automatic(flat(0.5, 1), seed, LARGE).run(600)
    assert max(simulation.targets()) <= 3
    assert simulation.share_at(1, since=30) > 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sender_that_is_busy_all_the_time_does_not_try_more(seed: int) -> None:
    simulation = automatic(linear(5000), seed)
    simulation.busy = lambda now: 0.9
    assert set(simulation.run(20).targets()) == {1}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sender_that_was_busy_for_two_seconds_climbs_when_it_is_not(seed: int) -> None:
    simulation = automatic(linear(5000), seed)
    simulation.busy = lambda now: 0.95 if now < 2 else 0.6
    assert simulation.run(2).targets()[-1] == 1
    assert simulation.run(12).reached(8) < 10


@pytest.mark.parametrize("seed", SEEDS)
def test_a_busy_sender_still_gives_back_what_does_not_pay(seed: int) -> None:
    simulation = automatic(flat(5000, 1), seed)
    simulation.run(0.01)
    simulation.controller.update(simulation.now, Progress(0, 0, 1, MANY_WAITING))
    simulation.busy = lambda now: 0.95
    simulation.run(30)
    assert simulation.reached(4) < 0.1
    assert simulation.targets()[-1] == 1


def test_the_maximum_ends_the_climb() -> None:
    simulation = Simulation(Concurrency(None, maximum=5), linear(50)).run(5)
    assert max(simulation.targets()) == 5


def test_a_source_that_is_the_bottleneck_opens_nothing() -> None:
    simulation = automatic(linear(500))
    simulation.work_waiting = lambda now: now > 10
    assert set(simulation.run(10).targets()) == {1}
    assert simulation.run(13).controller.target == 8


# a peer that changes


@pytest.mark.parametrize("seed", SEEDS)
def test_a_capacity_that_falls_gives_associations_back_before_the_next_regular_probe(seed: int) -> None:
    simulation = automatic(lambda now, n: 50.0 * n if now < 100 else 100.0, seed).run(100)
    assert simulation.share_at(8, since=10) > 0.9
    simulation.run(140)
    assert simulation.share_at(1, 2, 3, since=125) > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_begins_to_suffer_from_many_is_left_with_few(seed: int) -> None:
    simulation = automatic(lambda now, n: 100.0 * n if now < 60 else orthanc(now, n) / 2, seed).run(60)
    assert simulation.share_at(8, since=10) > 0.9
    simulation.run(100)
    assert simulation.share_at(1, 2, since=80) > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_capacity_that_rises_is_used(seed: int) -> None:
    simulation = automatic(lambda now, n: 100.0 if now < 30 else 100.0 * n, seed).run(100)
    assert simulation.share_at(8, since=80) > 0.9


# pressure and losses


@pytest.mark.parametrize("seed", SEEDS)
def test_a_minute_of_pressure_leads_down_to_one_and_recovery_up_again(seed: int) -> None:
    simulation = automatic(linear(50), seed)
    simulation.presses = lambda now: 20 < now < 80
    simulation.run(80)
    assert set(simulation.targets(since=24)) == {1}
    simulation.run(120)
    assert simulation.reached(8) < 3
    assert simulation.share_at(8, since=110) > 0.8


def climbed(associations: int = 8) -> Concurrency:
    simulation = Simulation(Concurrency(None, maximum=associations), linear(50)).run(3)
    while simulation.controller.target != associations:
        simulation.run(simulation.now + 0.1)
    return simulation.controller


def test_one_burst_of_pressure_halves_once() -> None:
    controller = climbed()
    for answer in range(100):
        controller.pressed(10 + answer / 200)
    assert controller.target == 4
    controller.pressed(11.5)
    assert controller.target == 2


def test_a_lost_association_halves() -> None:
    controller = climbed()
    controller.lost(10)
    assert controller.target == 4


def test_what_was_answered_under_pressure_is_no_evidence() -> None:
    controller = Concurrency(None)
    for tick in range(200):
        now = tick * 0.02
        controller.update(now, quiet(tick * 100))
        controller.pressed(now)
    assert controller.target == 1


@pytest.mark.parametrize("associations", [None, 4])
def test_a_doubtful_destination_gets_one_association_until_something_is_answered(associations: int | None) -> None:
    controller = Concurrency(4) if associations else climbed(4)
    answers = 100_000
    controller.update(10, quiet(answers, controller.target))
    for failure in range(FAILURES_UNTIL_SINGLE):
        controller.lost(10 + failure / 100)
    doubtful = dataclasses.replace(quiet(answers, 0), is_doubtful=True)
    assert controller.update(11, doubtful) == controller.target == controller.update(20, doubtful) == 1
    assert controller.update(20.1, quiet(answers + 1, 1)) == (associations or 2)


def test_answers_between_failures_keep_all_associations() -> None:
    controller = Concurrency(4)
    for answer in range(20):
        controller.lost(answer)
        assert controller.update(answer + 0.5, quiet(answer + 1, 4)) == 4


# the learned cap


@pytest.mark.parametrize("associations", [None, 16])
def test_a_peer_with_room_for_two_is_asked_for_more_only_after_minutes(associations: int | None) -> None:
    rejections: list[float] = []

    class Recorded(Concurrency):
        def rejected(self, now: float, associations_open: int) -> None:
            rejections.append(now)
            super().rejected(now, associations_open)

    simulation = Simulation(Recorded(associations), linear(50), limit=2).run(300)
    assert max(simulation.targets(since=3)) <= 3
    assert simulation.share_at(2, since=3) > (0.9 if associations is None else 0.99)
    later = [at for at in rejections if at > 2]
    assert len(later) < len(rejections)
    assert all(at > CAP_SECONDS for at in later)
    assert later or associations is None


def test_a_fixed_number_is_obeyed_whatever_it_gains() -> None:
    simulation = Simulation(Concurrency(16), flat(500, 1)).run(5)
    assert set(simulation.targets()) == {16}
    simulation.controller.pressed(6)
    assert simulation.controller.target == 16


def test_a_fixed_number_comes_back_step_by_step_when_a_congestion_is_over() -> None:
    controller = Concurrency(16)
    controller.rejected(0, 1)
    targets = []
    for second in range(3600):
        target = controller.update(second, quiet(second, controller.target))
        targets.append(target)
    assert targets[100] == 1
    assert sorted(set(targets)) == [1, 2, 4, 8, 16]


def test_a_rejection_that_overtook_the_acceptances_counts_what_is_open_in_the_end() -> None:
    controller = Concurrency(16)
    for _ in range(14):
        controller.rejected(0.01, 0)
    assert controller.target == 1
    assert controller.update(0.02, quiet(1, 2)) == 2


@pytest.mark.parametrize("associations", [None, 2, 12])
def test_another_number_is_obeyed_from_the_next_update_on(associations: int | None) -> None:
    controller = Concurrency(associations)
    controller.update(1, quiet(1, controller.target))
    for second, number in enumerate((4, 1, 16, 3), 2):
        controller.change(number, second)
        assert controller.target <= number
        assert controller.update(second, quiet(second, controller.target)) == number
        assert controller.maximum == number


def test_from_a_fixed_number_it_climbs_on_or_gives_back_what_does_not_pay() -> None:
    simulation = Simulation(Concurrency(6), flat(500, 1)).run(5)
    simulation.controller.change(None, 5)
    assert simulation.controller.update(5.1, quiet(simulation.answers, 6)) == 6
    assert simulation.run(60).share_at(1, since=30) > 0.8
    simulation = Simulation(Concurrency(16), flat(500, 8))
    simulation.controller.change(None, 0)
    assert set(simulation.run(20).targets()) <= set(range(1, 9))


def test_a_cap_that_was_learned_outlasts_another_number() -> None:
    controller = Concurrency(16)
    controller.rejected(1, 3)
    controller.change(8, 2)
    assert controller.update(3, quiet(1, 3)) == 3


# invariants


@given(st.lists(st.tuples(st.none() | st.integers(1, 20), st.integers(0, 3), st.integers(0, 25)), max_size=40))
def test_the_target_is_never_above_a_number_that_changes(changes: list[tuple[int | None, int, int]]) -> None:
    controller = Concurrency(None)
    for second, (number, updates, associations_open) in enumerate(changes):
        controller.change(number, second)
        for _ in range(updates):
            controller.update(second, quiet(second, associations_open))
        if associations_open % 5 == 0:
            controller.rejected(second, associations_open)
        assert 1 <= controller.target <= (8 if number is None else number)


@st.composite
def events(draw: st.DrawFn) -> list[tuple[str, float, int, int, bool]]:
    names = st.sampled_from(["update"] * 6 + ["pressed", "rejected", "lost"])
    steps = st.sampled_from([0.02, 0.02, 0.05, 0.5, 3.0, 130.0, -1.0])
    return draw(st.lists(st.tuples(names, steps, st.integers(0, 200), st.integers(0, 12), st.booleans()), max_size=80))


@given(st.none() | st.integers(1, 20), st.integers(1, 12), events())
def test_the_invariants_hold_whatever_happens(
    associations: int | None, maximum: int, happened: list[tuple[str, float, int, int, bool]]
) -> None:
    controller = Concurrency(associations, maximum)
    top = maximum if associations is None else associations
    now, latest, answers = 0.0, 0.0, 0
    cap, cap_until = top, float("inf")
    for name, step, new_answers, number, flag in happened:
        before, now = controller.target, now + step
        latest = max(latest, now)
        if name == "update":
            answers += new_answers
            associations_open = before if flag else number
            work_waiting = bool(number % 4)
            assert controller.update(now, quiet(answers, associations_open, work_waiting)) == controller.target
            assert work_waiting or controller.target <= before
            cap = max(cap, associations_open) if latest < cap_until else top
        elif name == "rejected":
            controller.rejected(now, number)
            cap, cap_until = min(cap, max(1, number)), latest + CAP_SECONDS
        else:
            (controller.pressed if name == "pressed" else controller.lost)(now)
        assert 1 <= controller.target <= min(top, cap)
        assert name == "update" or controller.target <= before


@given(st.integers(1, 50))
def test_time_that_runs_backwards_is_no_time(back: int) -> None:
    """Two controllers see the same, one of them with a clock that falls back now and then."""
    straight, shaken = Concurrency(None), Concurrency(None)
    answers = 0
    for tick in range(200):
        answers += 10 * straight.target
        progress, is_back = quiet(answers, straight.target), tick % 2
        latest = (tick - is_back) * 0.02
        assert straight.update(latest, progress) == shaken.update(latest - 0.02 * back * is_back, progress)
    assert straight.target > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_whose_speed_goes_up_and_down_by_itself_is_not_tried_all_the_time(seed: int) -> None:
    moods = random.Random(seed).choices((400.0, 700.0, 1000.0, 1600.0), k=100)
    simulation = Simulation(Concurrency(None), lambda now, number: moods[int(now / 3) % 100], seed=seed, noise=0.4)
    assert simulation.run(180).opened < 3 * 20  # a minute; 40 to 80 when each change was followed
