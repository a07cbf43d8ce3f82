"""Final outcomes: counted, written down, and handed out to a caller who is not woken for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.errors import StoreFailed
from asyncstore.instances.outcome import Outcome, State
from asyncstore.transfer import outcomes as outcomes_module
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.destination import Destination
from asyncstore.transfer.options import RetryPolicy
from asyncstore.transfer.outcomes import Outcomes
from asyncstore.transfer.pending import Pending
from asyncstore.transfer.report import Report
from tests.support.transfers import LIMIT_SECONDS, instance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.aio.signal import Signal

pytestmark = pytest.mark.every_loop


class Recorded:
    """A ledger, so far as outcomes write into it."""

    failure = None
    has_room = True

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def note_refusal(self) -> None:
        raise AssertionError("outcomes do not tell of refusals")

    async def flush(self) -> None:
        pass


def stored() -> Outcome:
    return Outcome(State.STORED, None, instance())


def failed() -> Outcome:
    return Outcome(State.FAILED, None, instance(), reason="Processing failure (0x0110)")


class Station:
    """Outcomes with everything that they hand on to."""

    def __init__(self, *, fail_fast: bool = False) -> None:
        self.report = Report()
        self.recorder = Recorded()
        self.destination = Destination(RetryPolicy(), Concurrency(None))
        self.outcomes = Outcomes(self.report, self.destination, self.recorder, fail_fast=fail_fast)


async def times_set(signal: Signal, outcomes: Iterator[Outcome], station: Station) -> list[int]:
    """How many outcomes there were each time that somebody who waits for the signal was woken."""
    woken_at: list[int] = []

    async def wait() -> None:
        while True:
            await signal.wait()
            woken_at.append(station.report.finished)

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            for outcome in outcomes:
                station.outcomes.add(outcome)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    return woken_at


async def test_the_caller_is_woken_for_a_batch() -> None:
    station = Station()
    woken_at = await times_set(station.outcomes.readable, (stored() for _ in range(65)), station)
    assert woken_at == [64, 65]


async def test_the_caller_is_woken_for_each_one_while_little_happens() -> None:
    station = Station()
    station.outcomes.wake_for_each(True)
    assert await times_set(station.outcomes.readable, (stored() for _ in range(3)), station) == [1, 2, 3]
    station.outcomes.unread.clear()
    station.outcomes.wake_for_each(False)
    assert await times_set(station.outcomes.readable, (stored() for _ in range(3)), station) == []


async def test_there_is_room_again_when_half_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes_module, "_MAXIMUM_UNREAD", 4)
    station = Station()
    assert station.outcomes.closed_until(0.0) == 0.0
    for _ in range(4):
        station.outcomes.add(stored())
    assert station.outcomes.closed_until(0.0) == float("inf")
    woken = False

    async def wait() -> None:
        nonlocal woken
        await station.outcomes.room.wait()
        woken = True

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            for left in (3, 2):
                await anyio.wait_all_tasks_blocked()
                assert not woken
                station.outcomes.take()
                assert len(station.outcomes.unread) == left
    assert woken


async def test_there_is_room_again_when_all_were_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes_module, "_MAXIMUM_UNREAD", 4)
    station = Station()
    added = [stored() for _ in range(4)]
    for outcome in added:
        station.outcomes.add(outcome)
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(station.outcomes.room.wait)
            await anyio.wait_all_tasks_blocked()
            assert station.outcomes.take_all() == added
    assert station.outcomes.closed_until(0.0) == 0.0
    assert station.outcomes.take_all() == []


def test_each_outcome_is_written_down_once_and_what_the_ledger_knew_is_not() -> None:
    station = Station()
    new, known = stored(), Outcome(State.RESUMED, "a.dcm", attempts=0)
    station.outcomes.add(new)
    station.outcomes.add(known, is_settled=True)
    assert station.recorder.outcomes == [new]
    assert list(station.outcomes.unread) == [new, known]
    assert station.report.finished == 2


def test_what_is_left_is_counted_and_written_down_and_not_handed_out() -> None:
    station = Station()
    station.outcomes.conclude([Pending(instance(), "", attempts=2)])
    assert [(outcome.state, outcome.attempts) for outcome in station.recorder.outcomes] == [(State.LEFT, 2)]
    assert not station.outcomes.unread
    assert (station.report.left, station.outcomes.are_complete) == (1, True)
    assert station.report.finished_at is not None


@pytest.mark.parametrize("fail_fast", [False, True])
def test_the_first_failure_stops_the_destination_where_that_is_wished(fail_fast: bool) -> None:
    station = Station(fail_fast=fail_fast)
    station.outcomes.add(Outcome(State.SKIPPED, "notes.txt", attempts=0))
    assert not station.destination.is_stopped
    station.outcomes.add(failed())
    assert station.destination.is_stopped is fail_fast
    assert isinstance(station.destination.stopped_because, StoreFailed) is fail_fast
