"""Throttle: the bucket never lets more pass than its rate, makes up for a stall, and associations take turns.

Invariant of the bucket: between any two takings, however late or hasty they come, no more passes than the rate allows
for that time, the time to catch up, and one piece.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.transfer import throttle as throttle_module
from asyncstore.transfer.throttle import CATCH_UP_SECONDS, LEAST_PIECE_BYTES, PIECE_SECONDS, Throttle, TokenBucket
from tests.support.transfers import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RATES = st.floats(1024, 1e10)


def bucket_of(rate: float | None, now: float = 0.0) -> TokenBucket:
    bucket = TokenBucket()
    bucket.change(rate, now)
    return bucket


def piece_of(rate: float) -> float:
    return max(LEAST_PIECE_BYTES, rate * PIECE_SECONDS)


def taken(bucket: TokenBucket, wanted: Iterable[tuple[int, float]]) -> Iterator[tuple[float, int]]:
    """Wait as long as the bucket says and then some seconds more, each time; when it was taken, and how much."""
    now = 0.0
    for wanted_bytes, late_seconds in wanted:
        now = max(now, bucket.ready_at) + late_seconds
        yield now, bucket.take(wanted_bytes, now)


WANTED = st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 3)), min_size=2, max_size=40)


@given(RATES, WANTED)
def test_never_more_passes_than_the_rate_allows(rate: float, wanted: list[tuple[int, float]]) -> None:
    times = list(taken(bucket_of(rate), wanted))
    for first, last in itertools.combinations(range(len(times)), 2):
        seconds = times[last][0] - times[first][0]
        passed = sum(count for _, count in times[first : last + 1])
        assert passed <= rate * (seconds + CATCH_UP_SECONDS) + 2 * piece_of(rate) + 1


@given(RATES, st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, PIECE_SECONDS)), min_size=20, max_size=60))
def test_who_is_a_little_late_each_time_loses_nothing(rate: float, wanted: list[tuple[int, float]]) -> None:
    """Lateness is made up for as long as it stays within the time to catch up: takers are late one after another."""
    bucket, now, passed, late = bucket_of(rate), 0.0, 0, 0.0
    for wanted_bytes, late_seconds in wanted:
        late = late_seconds if now < bucket.ready_at else min(CATCH_UP_SECONDS, now - bucket.ready_at)
        now = max(now, bucket.ready_at + late)
        passed += bucket.take(wanted_bytes, now)
    assert passed >= rate * (now - CATCH_UP_SECONDS) - 1


@given(RATES, st.integers(1, 1 << 30))
def test_a_piece_is_as_long_as_it_may_be_and_never_more_than_is_wanted(rate: float, wanted_bytes: int) -> None:
    bucket = bucket_of(rate)
    count = bucket.take(wanted_bytes, 0.0)
    assert count == min(wanted_bytes, int(piece_of(rate)))
    assert bucket.take(1, math.nextafter(bucket.ready_at, 0)) == 0
    assert bucket.take(1, bucket.ready_at) == 1


def test_a_run_begins_without_a_burst() -> None:
    bucket = bucket_of(1 << 20, now=1000.0)
    assert bucket.take(1 << 20, 1000.0) == int(piece_of(1 << 20))
    assert bucket.take(1, 1000.0) == 0


def test_a_long_idleness_is_not_made_up_for() -> None:
    bucket = bucket_of(1 << 20)
    passed = 0
    while count := bucket.take(1 << 20, 3600.0):
        passed += count
    assert passed <= (CATCH_UP_SECONDS + 2 * PIECE_SECONDS) * (1 << 20)


@pytest.mark.parametrize(("before", "after"), [(1024, 1 << 30), (1 << 30, 1024), (None, 4096), (4096, None)])
def test_another_limit_holds_within_a_second(before: float | None, after: float | None) -> None:
    bucket = bucket_of(before)
    while bucket.take(1 << 20, 0.0) and bucket.ready_at <= 0.0 and before is not None:
        pass
    bucket.change(after, 0.0)
    assert bucket.ready_at <= 1.0
    now = bucket.ready_at
    assert bucket.take(1 << 20, now) == (1 << 20 if after is None else min(1 << 20, int(piece_of(after))))
    assert (bucket.take(1, now) > 0) is (after is None)


@pytest.mark.every_loop
async def test_the_rate_holds_in_real_time() -> None:
    """A lower bound only: a machine with much to do may be slower, never faster."""
    throttle = Throttle()
    began_at = time.monotonic()
    throttle.bucket.change(1 << 20, began_at)
    passed = 0
    with anyio.fail_after(LIMIT_SECONDS):
        while passed < 1 << 19:
            passed += await throttle.grant((1 << 19) - passed)
    assert time.monotonic() - began_at >= 0.5 - PIECE_SECONDS - 0.01


@pytest.mark.every_loop
async def test_those_who_share_it_take_turns() -> None:
    throttle = Throttle()
    throttle.bucket.change(1 << 20, time.monotonic() + 0.5)  # so that all of them come while nothing may pass
    order: list[int] = []

    async def take(number: int) -> None:
        for _ in range(3):
            assert await throttle.grant(1 << 20) == int(piece_of(1 << 20))
            order.append(number)

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(take, number)
    assert sorted(order[:3]) == sorted(order[3:6]) == sorted(order[6:]) == [0, 1, 2]


@pytest.mark.every_loop
async def test_who_is_cancelled_in_the_queue_holds_up_nobody() -> None:
    throttle = Throttle()
    throttle.bucket.change(1024, time.monotonic())
    assert await throttle.grant(1024) == 1024  # the next one waits for a second
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(throttle.grant, 1)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        throttle.bucket.change(None, time.monotonic())
        assert await throttle.grant(5) == 5


def test_a_piece_lasts_less_than_the_time_to_catch_up() -> None:
    assert throttle_module.PIECE_SECONDS < throttle_module.CATCH_UP_SECONDS
