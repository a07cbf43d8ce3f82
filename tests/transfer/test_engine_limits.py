"""Limits of a whole transfer: windows of time, pauses, the end of its time, and changes while it runs."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import AsyncStoreError
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer import limiter as limiter_module
from asyncstore.transfer.limits import Limits, association_counts, rates
from asyncstore.transfer.options import RetryPolicy
from asyncstore.transfer.schedule import windows
from tests.support.transfers import (
    LIMIT_SECONDS,
    KeepingSCP,
    check_account,
    collect,
    instance,
    outcomes_of,
    transfer_to,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival
    from asyncstore.transfer.engine import Transfer

pytestmark = pytest.mark.every_loop

NIGHT = windows("18:00-06:00")


class Clock:
    """The clock on the wall, as the transfer sees it."""

    def __init__(self) -> None:
        self.hour = 20

    def __call__(self, local: time.struct_time) -> int:
        return self.hour * 60


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limiter_module, "minute_of_week", clock)
    return clock


async def until(is_so: Callable[[], Any]) -> None:
    while not is_so():
        await anyio.lowlevel.checkpoint()


def is_asleep(transfer: Transfer) -> bool:
    """Whether the run waits, and has no association."""
    return transfer.report.waiting_for is not None and not transfer._pool.workers


def paused(transfer: Transfer, is_paused: bool) -> None:
    transfer.limit(dataclasses.replace(transfer.limits, is_paused=is_paused))


def endless() -> Iterator[Instance]:
    yield from map(instance, itertools.count(1))


async def run_beside(transfer: Transfer, act: Callable[[], Any]) -> list[Outcome]:
    """Everything that a transfer hands out, while something else happens."""
    outcomes: list[Outcome] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, transfer, outcomes)
        with anyio.fail_after(LIMIT_SECONDS):
            await act()
    return outcomes


@pytest.mark.parametrize("associations", [1, 3, None])
async def test_a_window_that_closes_in_the_middle_stops_and_goes_on_by_itself(
    associations: int | None, clock: Clock
) -> None:
    def closes(arrival: Arrival) -> Status:
        if len(scp.arrivals) == 20:
            clock.hour = 12
        return SUCCESS

    async def opens_again() -> None:
        await until(lambda: is_asleep(transfer))
        stored_before.append(transfer.report.stored)
        assert transfer.report.answers == len(scp.arrivals)  # what was in flight was finished
        clock.hour = 18

    stored_before: list[int] = []
    async with KeepingSCP(closes) as scp:
        sources = [instance(number) for number in range(1, 3001)]
        transfer = transfer_to(scp, sources, associations=associations, limits=Limits(between=NIGHT))
        outcomes = await run_beside(transfer, opens_again)
    check_account(transfer, outcomes)
    assert 20 <= stored_before[0] < 3000
    assert transfer.report.states == {State.STORED: 3000}
    assert transfer.report.attempts == 3000
    assert set(scp.uids.values()) == {1}
    assert transfer.report.waiting_for is None
    assert transfer.report.stopped_because is None


async def test_no_association_is_opened_before_the_window(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async def opens() -> None:
        await until(lambda: transfer.report.scan_finished and is_asleep(transfer))
        assert scp.associations == 0
        clock.hour = 18

    clock.hour = 12
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [instance(1)], limits=Limits(between=NIGHT))
        with caplog.at_level(logging.INFO, "asyncstore.transfer"):
            outcomes = await run_beside(transfer, opens)
    assert [outcome.state for outcome in outcomes] == [State.STORED]
    said = [record.getMessage() for record in caplog.records if "ending" in record.getMessage()]
    assert len(said) == 2
    assert said[0].startswith("Sending nothing now: waiting until ")
    assert said[1] == "Sending again"


async def test_what_needs_no_association_is_done_while_the_window_is_closed(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("not DICOM")
    clock.hour = 12
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path, limits=Limits(between=NIGHT))
        (outcome,) = await outcomes_of(transfer)
    assert outcome.state is State.SKIPPED


async def test_a_pause_takes_effect_at_once_and_ends_when_it_is_said() -> None:
    def pauses(arrival: Arrival) -> Status:
        if len(scp.arrivals) == 5:
            paused(transfer, True)
        return SUCCESS

    async def resumes() -> None:
        await until(lambda: is_asleep(transfer))
        assert str(transfer.report.waiting_for) == "paused"
        paused(transfer, False)

    async with KeepingSCP(pauses) as scp:
        transfer = transfer_to(scp, [instance(number) for number in range(1, 1001)], associations=1)
        outcomes = await run_beside(transfer, resumes)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: 1000}
    assert transfer.report.associations_established == 2


async def test_a_run_that_waits_can_be_drained(clock: Clock) -> None:
    async def drains() -> None:
        await until(lambda: is_asleep(transfer) and transfer.report.found)
        transfer.drain()

    clock.hour = 12
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, endless(), limits=Limits(between=NIGHT))
        assert await run_beside(transfer, drains) == []
    assert transfer.report.left > 0
    assert scp.associations == 0


async def test_time_in_which_nothing_was_sent_is_no_outage(clock: Clock) -> None:
    """The peer is out of resources when the window closes and when it opens, each time only for a moment."""
    outage_seconds = 1.5
    closed_at = 0.0

    def answer(arrival: Arrival) -> Status:
        if len(scp.arrivals) == 1:
            clock.hour = 12
        return Status(0xA700) if len(scp.arrivals) <= 2 else SUCCESS

    async def opens_after_longer_than_an_outage() -> None:
        await until(lambda: is_asleep(transfer))
        nonlocal closed_at
        closed_at = time.monotonic()
        await until(lambda: time.monotonic() > closed_at + 2 * outage_seconds)
        clock.hour = 18

    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02, outage_seconds=outage_seconds)
    async with KeepingSCP(answer) as scp:
        transfer = transfer_to(scp, [instance(1)], retry=retry, limits=Limits(between=NIGHT))
        (outcome,) = await run_beside(transfer, opens_after_longer_than_an_outage)
    assert outcome.state is State.STORED
    assert transfer.report.stopped_because is None


async def test_a_run_whose_time_is_up_finishes_what_is_in_flight_and_leaves_the_rest() -> None:
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, endless(), associations=2, limits=Limits(maximum_seconds=0.2))
        outcomes = await outcomes_of(transfer)
        assert scp.stored == transfer.report.stored
    check_account(transfer, outcomes)
    assert transfer.report.found == transfer.report.stored + transfer.report.left
    error = transfer.report.stopped_because
    assert isinstance(error, AsyncStoreError)
    assert (str(error), error.retryable) == ("it has lasted as long as it may", True)
    assert transfer.report.elapsed_seconds >= 0.2


async def test_a_run_whose_time_is_up_when_all_is_done_has_done_all() -> None:
    def answer(arrival: Arrival) -> Status:
        transfer.limit(Limits(maximum_seconds=0.0))
        return SUCCESS

    async with KeepingSCP(answer) as scp:
        transfer = transfer_to(scp, [instance(1)])
        outcomes = await outcomes_of(transfer)
    assert [outcome.state for outcome in outcomes] == [State.STORED]
    assert transfer.report.left == 0


async def test_another_rate_takes_effect_in_the_middle_of_an_instance(tmp_path: Path) -> None:
    """At first it would take minutes."""

    async def lifts() -> None:
        await until(lambda: transfer.report.associations_open)
        (worker,) = transfer._pool.workers
        await until(lambda: worker.association.outstanding)
        transfer.limit(Limits())

    paths = write_files(tmp_path, 1, padding_bytes=300_000)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, paths, associations=1, limits=Limits(rates("1k")))
        outcomes = await run_beside(transfer, lifts)
        assert scp.associations == 1
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 1


async def test_a_rate_that_comes_later_is_kept_by_associations_that_are_open(tmp_path: Path) -> None:
    def limits(arrival: Arrival) -> Status:
        transfer.limit(Limits(400_000.0))
        return SUCCESS

    paths = write_files(tmp_path, 30, padding_bytes=10_000)
    async with KeepingSCP(limits) as scp:
        transfer = transfer_to(scp, paths, associations=1, window=1)
        outcomes = await outcomes_of(transfer)
        assert scp.associations == 1
    check_account(transfer, outcomes, paths)
    assert transfer.report.elapsed_seconds >= 0.5  # 0.75 s but for those on their way and the last piece


async def test_a_rate_is_kept_by_all_associations_together(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 20, padding_bytes=10_000)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, paths, associations=4, limits=Limits(400_000.0))
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 20
    assert transfer.report.elapsed_seconds >= 0.45  # 0.5 s but for the last piece


async def test_instances_that_keep_pace_do_not_time_out(tmp_path: Path) -> None:
    """The peer has less time for an answer and to take something than each instance takes, which are two seconds."""
    paths = write_files(tmp_path, 2, padding_bytes=20_000)
    timeouts = Timeouts(dimse_seconds=1.6, network_seconds=1.6)
    async with KeepingSCP() as scp:
        limits = Limits(20 * 1024.0)
        transfer = transfer_to(scp, paths, associations=2, limits=limits, timeouts=timeouts)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: 2}
    assert transfer.report.attempts == 2


async def test_another_number_of_associations_takes_effect_without_an_abort() -> None:
    numbers: list[int] = []

    async def changes() -> None:
        for number in (1, 4, 2):
            transfer.limit(Limits(associations=association_counts(str(number))))
            while transfer.report.associations_open != number:
                await anyio.lowlevel.checkpoint()
            numbers.append(number)
        transfer.drain()

    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, endless(), associations=2)
        outcomes = await run_beside(transfer, changes)
        assert scp.stored == transfer.report.stored
    check_account(transfer, outcomes)
    assert numbers == [1, 4, 2]
    assert transfer.report.attempts == transfer.report.stored
