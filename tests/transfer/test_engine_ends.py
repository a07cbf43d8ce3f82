"""How a transfer ends before its work is done: drained, aborted, left, cancelled; nothing is left behind."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import AssociationLost, LedgerError, LocalProtocolError
from asyncstore.inputs import feed
from asyncstore.instances.outcome import State
from asyncstore.status import SUCCESS
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.supervisor import Supervisor
from asyncstore.upper_layer.pdu import Abort, ReleaseRQ
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support.transfers import (
    LIMIT_SECONDS,
    KeepingSCP,
    check_account,
    instance,
    outcomes_of,
    peer_at,
    transfer_to,
    write_files,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival
    from asyncstore.status import Status

pytestmark = pytest.mark.every_loop

WINDOW = 4


class HoldingSCP(KeepingSCP):
    """Answers the first `answered` requests at once, and the others when `let_go` is set."""

    def __init__(self, answered: int = 0, **options: Any) -> None:
        super().__init__(self._hold, window=WINDOW, **options)
        self.let_go = anyio.Event()
        self.is_full = anyio.Event()
        self._answered = answered

    def _hold(self, arrival: Arrival) -> Status | Awaitable[Status]:
        if len(self.arrivals) >= self._answered + WINDOW:
            self.is_full.set()
        return SUCCESS if len(self.arrivals) <= self._answered else self._answer_later()

    async def _answer_later(self) -> Status:
        await self.let_go.wait()
        return SUCCESS


def endless() -> Iterator[Instance]:
    number = 0
    while True:
        number += 1
        yield instance(number)


async def read_all(transfer: Transfer, outcomes: list[Outcome]) -> None:
    async for outcome in transfer:
        outcomes.append(outcome)  # noqa: PERF401  (they are counted as they come)


def check_everything_found_is_accounted_for(transfer: Transfer, outcomes: list[Outcome]) -> None:
    check_account(transfer, outcomes)
    assert transfer.report.found == transfer.report.stored + transfer.report.left


async def test_draining_finishes_what_is_in_flight_and_leaves_the_rest() -> None:
    outcomes: list[Outcome] = []
    async with HoldingSCP(answered=10) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with (
                transfer_to(scp, endless(), associations=1, window=WINDOW) as transfer,
                anyio.create_task_group() as group,
            ):
                group.start_soon(read_all, transfer, outcomes)
                await scp.is_full.wait()
                transfer.drain()
                transfer.drain()
                scp.let_go.set()
        assert scp.stored == transfer.report.stored
    check_everything_found_is_accounted_for(transfer, outcomes)
    assert 10 + WINDOW <= transfer.report.stored <= 10 + WINDOW + 1  # one may have been on its way
    assert transfer.report.left > 0
    assert transfer.report.stopped_because is None


async def test_what_is_in_flight_for_longer_than_a_drain_may_take_is_aborted() -> None:
    outcomes: list[Outcome] = []
    async with HoldingSCP(answered=2) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with (
                transfer_to(scp, endless(), associations=1, window=WINDOW, drain_seconds=0.1) as transfer,
                anyio.create_task_group() as group,
            ):
                group.start_soon(read_all, transfer, outcomes)
                await scp.is_full.wait()
                transfer.drain()
    check_everything_found_is_accounted_for(transfer, outcomes)
    assert transfer.report.stored == 2
    assert transfer.report.left >= WINDOW


async def test_aborting_ends_at_once_and_sends_an_abort() -> None:
    def never_answers(wire: Wire) -> None:
        wire.accept(operations_window=OperationsWindow(WINDOW, 1))
        wire.read_stores(WINDOW)
        in_flight.set()
        while not isinstance(wire.read_pdu(), Abort):
            pass

    in_flight = threading.Event()
    outcomes: list[Outcome] = []
    with ScriptedSCP(never_answers) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with (
            transfer_to(scp, endless(), associations=1, window=WINDOW) as transfer,
            anyio.create_task_group() as group,
        ):
            group.start_soon(read_all, transfer, outcomes)
            await anyio.to_thread.run_sync(in_flight.wait)
            transfer.abort()
    check_everything_found_is_accounted_for(transfer, outcomes)
    assert outcomes == []
    assert transfer.report.left >= WINDOW


async def test_aborting_before_anything_happened_is_fine(tmp_path: Path) -> None:
    write_files(tmp_path, 10)
    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, tmp_path) as transfer:
                transfer.abort()
                assert [outcome async for outcome in transfer] == []
    assert transfer.report.stored == 0


@pytest.mark.parametrize("stop", ["drain", "abort"])
async def test_stopping_while_the_first_association_is_being_established_is_fine(tmp_path: Path, stop: str) -> None:
    write_files(tmp_path, 10)
    with ScriptedSCP(lambda wire: wire.drain()) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with transfer_to(scp, tmp_path) as transfer:
            while not transfer._pool.workers:
                await anyio.lowlevel.checkpoint()
            getattr(transfer, stop)()
            assert [outcome async for outcome in transfer] == []
    assert transfer.report.left == transfer.report.found > 0


@pytest.mark.parametrize("stop", ["drain", "abort"])
async def test_stopping_before_the_transfer_is_entered_leaves_everything_alone(tmp_path: Path, stop: str) -> None:
    write_files(tmp_path, 10)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path)
        getattr(transfer, stop)()
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer:
                assert [outcome async for outcome in transfer] == []
        assert not scp.arrivals
    assert transfer.report.found == transfer.report.left
    assert not transfer.report.scan_finished


async def test_the_supervisor_rests_while_a_run_that_stops_waits_for_what_is_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = 0
    adjust = Supervisor._adjust

    def counted(*arguments: Any) -> None:
        nonlocal rounds
        rounds += 1
        adjust(*arguments)

    monkeypatch.setattr(Supervisor, "_adjust", counted)
    async with HoldingSCP() as scp, transfer_to(scp, endless(), associations=1, window=WINDOW) as transfer:
        with anyio.fail_after(LIMIT_SECONDS):
            await scp.is_full.wait()
            transfer._destination.stop(AssociationLost("that is enough"))
            before = rounds
            for _ in range(500):
                await anyio.lowlevel.checkpoint()
            assert rounds - before < 100
            scp.let_go.set()
            assert len([outcome async for outcome in transfer]) >= WINDOW


async def test_stopping_after_the_end_changes_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, 10)
    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, tmp_path) as transfer:
                outcomes = [outcome async for outcome in transfer]
                transfer.drain()
                transfer.abort()
                assert [outcome async for outcome in transfer] == []
    check_account(transfer, outcomes)
    assert transfer.report.stored == 10


async def test_leaving_the_block_early_finishes_what_is_in_flight_and_releases() -> None:
    received = 0
    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, endless(), associations=2) as transfer:
                async for _ in transfer:
                    received += 1
                    if received == 20:
                        break
        assert scp.stored == transfer.report.stored >= 20
    assert transfer.report.found == transfer.report.stored + transfer.report.left
    assert transfer.report.associations_open == 0


async def test_a_block_that_is_never_iterated_ends_too(tmp_path: Path) -> None:
    write_files(tmp_path, 10)
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with transfer_to(scp, tmp_path) as transfer:
            while not transfer.report.stored:
                await anyio.lowlevel.checkpoint()
        assert any(isinstance(unit, ReleaseRQ) for unit in scp.received)
    assert transfer.report.found == transfer.report.stored + transfer.report.left


async def test_outcomes_are_handed_out_inside_the_block_only() -> None:
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [instance(1)])
        with anyio.fail_after(LIMIT_SECONDS), pytest.raises(LocalProtocolError, match="async with"):
            await anext(transfer)
        async with transfer:
            assert len([outcome async for outcome in transfer]) == 1
        assert [outcome async for outcome in transfer] == []


async def test_a_transfer_that_could_not_be_entered_has_nothing_to_iterate_over(tmp_path: Path) -> None:
    async with KeepingSCP() as scp:
        transfer = Transfer(peer_at(scp), [instance(1)], ledger=tmp_path / "no such directory" / "run.db")
        with pytest.raises(LedgerError):
            await transfer.__aenter__()
        with anyio.fail_after(LIMIT_SECONDS), pytest.raises(LocalProtocolError, match="async with"):
            await anext(transfer)


async def test_a_transfer_is_entered_once() -> None:
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [instance(1)])
        await outcomes_of(transfer)
        with anyio.fail_after(LIMIT_SECONDS), pytest.raises(LocalProtocolError, match="once"):
            await transfer.__aenter__()
    assert scp.stored == 1
    assert transfer.report.stored == 1


class Watched:
    """Instances without end, by an asynchronous generator that notes its end; it yields inside a scope of its own."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Instance]:
        try:
            with anyio.CancelScope():
                for number in itertools.count(1):
                    yield instance(number)
        finally:
            await anyio.lowlevel.checkpoint()
            self.closed = True


async def test_a_generator_that_is_left_early_is_closed_in_the_block() -> None:
    async with KeepingSCP() as scp:
        source = Watched()
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, source) as transfer:
                async for _ in transfer:
                    break
        assert source.closed
        assert transfer.report.stopped_because is None


async def test_a_generator_is_closed_when_the_block_fails_or_is_cancelled() -> None:
    async def fails(source: Watched, error: type[Exception]) -> None:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, source) as transfer:
                async for _ in transfer:
                    raise error

    async with KeepingSCP() as scp:
        source = Watched()
        with pytest.raises(ZeroDivisionError):
            await fails(source, ZeroDivisionError)
        assert source.closed
        source = Watched()
        with anyio.CancelScope() as scope:
            async with transfer_to(scp, source) as transfer:
                async for _ in transfer:
                    scope.cancel()
        assert scope.cancelled_caught
        assert source.closed
        assert not transfer.report.scan_finished


async def test_a_generator_that_does_not_let_itself_be_closed_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_CLOSING_SECONDS", 0.01)

    async def hangs() -> AsyncIterator[Instance]:
        try:
            for number in itertools.count(1):
                yield instance(number)
        finally:
            await anyio.sleep_forever()

    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, hangs()) as transfer:
                async for _ in transfer:
                    break
    assert not transfer.report.scan_finished
    assert transfer.report.stopped_because is None


async def test_an_exception_in_the_block_aborts_and_comes_out_as_it_is() -> None:
    async with HoldingSCP(answered=5) as scp:
        transfer = transfer_to(scp, endless(), associations=1, window=WINDOW)

        async def fails() -> None:
            with anyio.fail_after(LIMIT_SECONDS):
                async with transfer:
                    await scp.is_full.wait()
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
    assert transfer.report.stored == 5
    assert transfer.report.found == 5 + transfer.report.left


# -- cancellation ------------------------------------------------------------------------------------------------------


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def until_idle(scp: KeepingSCP, tasks: int) -> None:
    """Wait until the peer has noticed the end, and no task of the transfer is left."""
    with anyio.fail_after(LIMIT_SECONDS):
        while scp._open or len(anyio.get_running_tasks()) > tasks:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("cold", [False, True], ids=["from memory", "from files"])
async def test_a_transfer_that_is_cancelled_at_any_point_leaves_nothing_behind(tmp_path: Path, cold: bool) -> None:
    paths = write_files(tmp_path, 100, padding_bytes=150_000)
    async with KeepingSCP() as scp:
        await anyio.lowlevel.checkpoint()
        tasks = len(anyio.get_running_tasks())
        descriptors = open_descriptors()
        for turns in [*range(30), *range(30, 120, 7)]:
            sources: Any = paths if cold else [instance(number) for number in range(100)]
            transfer = transfer_to(scp, sources, associations=2, window=WINDOW)
            outcomes: list[Outcome] = []
            with anyio.CancelScope() as scope:
                async with transfer, anyio.create_task_group() as group:
                    group.start_soon(read_all, transfer, outcomes)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            await until_idle(scp, tasks)
            report = transfer.report
            assert report.found == report.stored + report.left
            assert report.stored <= len(scp.arrivals)
            assert report.finished_at is not None
        with anyio.fail_after(LIMIT_SECONDS):  # a thread that was reading finishes its file first
            while open_descriptors() > descriptors:
                gc.collect()
                await anyio.lowlevel.checkpoint()


async def test_a_transfer_that_is_cancelled_with_much_in_flight_leaves_it(tmp_path: Path) -> None:
    async with HoldingSCP(answered=10) as scp:
        await anyio.lowlevel.checkpoint()
        tasks = len(anyio.get_running_tasks())
        with anyio.fail_after(LIMIT_SECONDS):
            with anyio.CancelScope() as scope:
                async with transfer_to(scp, endless(), associations=1, window=WINDOW) as transfer:
                    await scp.is_full.wait()
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            scp.let_go.set()
            await until_idle(scp, tasks)
    assert transfer.report.stored == 10
    assert transfer.report.found == 10 + transfer.report.left


async def test_a_transfer_that_is_cancelled_while_its_source_is_waited_for_ends() -> None:
    async def one_and_no_more() -> AsyncIterator[Instance]:
        yield instance(1)
        await anyio.sleep_forever()

    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            with anyio.CancelScope() as scope:
                async with transfer_to(scp, one_and_no_more()) as transfer:
                    async for outcome in transfer:
                        assert outcome.state is State.STORED
                        scope.cancel()
    assert transfer.report.stored == 1
    assert not transfer.report.scan_finished


async def test_what_ends_in_flight_is_told_to_the_worker_as_our_doing() -> None:
    """Neither an abort nor a cancellation is charged to the peer."""
    async with HoldingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, endless(), associations=1, window=WINDOW) as transfer:
                await scp.is_full.wait()
                (worker,) = transfer._pool.workers
                transfer.abort()
    assert type(worker.association.failure) is AssociationLost
    assert transfer.report.stopped_because is None
