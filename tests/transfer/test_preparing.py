"""Conversions run ahead of the associations: they hold up nobody, and nothing is lost with them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from asyncstore.instances.outcome import State
from asyncstore.preparation import convert as convert_module
from asyncstore.preparation.conversions import LOSSLESS_ONLY
from asyncstore.preparation.prepare import Preparation
from asyncstore.status import SUCCESS
from asyncstore.transfer import preparing
from asyncstore.transfer.pending import Pending
from asyncstore.transfer.preparing import Bench, Preparing
from asyncstore.transfer.work import Work
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.contexts import AcceptedContext, AcceptedContexts
from tests.support.transfers import (
    LIMIT_SECONDS,
    KeepingSCP,
    check_account,
    collect,
    instance,
    outcomes_of,
    transfer_to,
    uid_of,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource
    from asyncstore.services.storage_scp import Arrival
    from asyncstore.status import Status

pytestmark = pytest.mark.every_loop

REAL_CONVERT = convert_module.convert
ONLY_IMPLICIT = [IMPLICIT_VR_LITTLE_ENDIAN]


class Conversions:
    """Conversions that wait for `may_end`; `begun` is set with the first, `all_begun` when there are as many as may be.

    No instance is converted twice at a time.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.all_begun = threading.Event()
        self.may_end = threading.Event()
        self.uids: list[str] = []
        self._going_on: set[str] = set()

    def convert(self, instance: Instance, transfer_syntax_uid: str) -> DataSource:
        uid = instance.sop_instance_uid
        assert uid not in self._going_on
        self._going_on.add(uid)
        self.uids.append(uid)
        self.begun.set()
        if len(self.uids) == preparing._CONVERTED_AT_ONCE:
            self.all_begun.set()
        self.may_end.wait(LIMIT_SECONDS)
        self._going_on.discard(uid)
        return REAL_CONVERT(instance, transfer_syntax_uid)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Conversions]:
    conversions = Conversions()
    monkeypatch.setattr(convert_module, "convert", conversions.convert)
    yield conversions
    conversions.may_end.set()


def as_it_is(number: int) -> Instance:
    """An instance that needs no conversion."""
    given = instance(number)
    source = REAL_CONVERT(given, IMPLICIT_VR_LITTLE_ENDIAN)
    return replace(
        given, transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN, source=source, data_set_length=source.length_bytes
    )


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("converted", [1, preparing._PLACES, 3 * preparing._PLACES])
async def test_a_slow_conversion_holds_up_nobody(conversions: Conversions, converted: int, window: int) -> None:
    def note(_: Arrival) -> Status:
        if len(scp.arrivals) == 20:
            conversions.may_end.set()
        return SUCCESS

    sources = [*map(instance, range(1, converted + 1)), *map(as_it_is, range(101, 121))]
    async with KeepingSCP(note, transfer_syntaxes=ONLY_IMPLICIT, window=window) as scp:
        transfer = transfer_to(scp, sources, associations=1, window=window)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.stored == converted + 20
    arrived = [arrival.request.affected_sop_instance_uid for arrival in scp.arrivals]
    assert set(arrived[:20]) == {uid_of(number) for number in range(101, 121)}
    assert sorted(arrived[20:]) == sorted(conversions.uids)
    assert all(outcome.attempts == 1 for outcome in outcomes)


async def test_a_few_are_converted_while_the_others_wait(conversions: Conversions) -> None:
    async with KeepingSCP(transfer_syntaxes=ONLY_IMPLICIT) as scp:
        transfer = transfer_to(scp, list(map(instance, range(1, 101))), associations=1)
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer:
                await anyio.to_thread.run_sync(conversions.begun.wait)
                (worker,) = transfer._pool.workers
                while worker._bench.held < preparing._PLACES:
                    await anyio.lowlevel.checkpoint()
                await anyio.wait_all_tasks_blocked()
                assert worker._bench.held == preparing._PLACES
                assert len(conversions.uids) <= preparing._CONVERTED_AT_ONCE
                assert scp.arrivals == []
                conversions.may_end.set()
                assert len([outcome async for outcome in transfer]) == 100
    assert transfer.report.stored == 100


@pytest.mark.parametrize("end", ["drain", "abort", "cancel"])
async def test_what_is_being_converted_when_the_run_ends_is_left_for_another(
    conversions: Conversions, end: str
) -> None:
    async with KeepingSCP(transfer_syntaxes=ONLY_IMPLICIT) as scp:
        transfer = transfer_to(scp, list(map(instance, range(1, 21))), associations=2)

        async def end_it() -> None:
            # A thread that begins later would do so in the next test.
            await anyio.to_thread.run_sync(conversions.all_begun.wait)
            {"drain": transfer.drain, "abort": transfer.abort, "cancel": group.cancel_scope.cancel}[end]()

        async with anyio.create_task_group() as group:
            group.start_soon(end_it)
            assert await collect(transfer, []) == []
    assert not conversions.may_end.is_set()  # the run does not wait for the threads
    assert scp.arrivals == []
    assert transfer.report.left == transfer.report.finished == transfer.report.found


async def test_what_is_converted_and_not_sent_goes_to_another_association(conversions: Conversions) -> None:
    second_is_there = threading.Event()

    def is_lost(wire: Wire) -> None:
        wire.accept(transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN)
        wire.read_store()
        wire.wait(conversions.begun)
        wire.rst()

    def goes_on(wire: Wire) -> None:
        wire.accept(transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN)
        second_is_there.set()
        wire.serve_stores()

    async def let_end() -> None:
        await anyio.to_thread.run_sync(second_is_there.wait, LIMIT_SECONDS)
        conversions.may_end.set()

    with ScriptedSCP(is_lost, goes_on) as scp:
        transfer = transfer_to(scp, [instance(1), as_it_is(2)], associations=1)
        async with anyio.create_task_group() as group:
            group.start_soon(let_end)
            outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    attempts = {outcome.instance.sop_instance_uid: outcome.attempts for outcome in outcomes if outcome.instance}
    assert attempts == {uid_of(1): 1, uid_of(2): 2}
    assert transfer.report.states == {State.STORED: 2}
    assert conversions.uids == [uid_of(1)] * 2


async def test_a_mistake_in_a_conversion_costs_its_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> DataSource:
        raise ZeroDivisionError

    monkeypatch.setattr(convert_module, "convert", mistaken)
    async with KeepingSCP(transfer_syntaxes=ONLY_IMPLICIT) as scp:
        transfer = transfer_to(scp, [instance(1), as_it_is(2)], associations=1)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert {outcome.state: outcome.reason for outcome in outcomes} == {
        State.STORED: "",
        State.SOURCE_PROBLEM: "preparing it failed: ZeroDivisionError()",
    }


@pytest.mark.parametrize("benches", [1, 2, 3, preparing._PLACES, 50])
def test_benches_share_the_places_and_each_has_one(benches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preparing, "begin", lambda *_: None)
    station = Preparing(Work(), Preparation(), LOSSLESS_ONLY)
    several = [Bench(station) for _ in range(benches)]
    for bench in several:
        while not bench.is_full:
            bench.lay(Pending(instance(), ""), AcceptedContexts(()))
    held = {bench.held for bench in several}
    assert held == {max(1, preparing._PLACES // benches)}
    # What need only be padded is laid there too, but not without end.
    before = several[-1].held
    pending = Pending(instance(), "")
    carried = AcceptedContexts([AcceptedContext(1, *pending.pair)])
    while not several[-1].is_crowded:
        several[-1].lay(Pending(instance(), ""), carried)
    assert several[-1].held - before == 2 * max(1, preparing._PLACES // benches)
    for bench in several[1:]:
        bench.close()
        bench.close()
    assert (several[0].is_full, several[0].is_crowded) == (benches == 1, benches == 1)


async def test_a_bench_that_is_closed_gives_back_what_is_ready_and_later_what_was_not(
    conversions: Conversions,
) -> None:
    work = Work()
    work.add(first := instance(1), "")
    work.add(instance(2), "")
    contexts = AcceptedContexts([AcceptedContext(1, CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN)])
    pairs = {(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)}
    station = Preparing(work, Preparation(), LOSSLESS_ONLY)
    bench = Bench(station)
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            station.start(group)
            for _ in range(2):
                pending = work.take("worker", pairs)
                assert pending is not None
                bench.lay(pending, contexts)
                conversions.may_end.set()
                while pending.instance is first and not bench.is_ready:
                    await bench.changed.wait()
                conversions.may_end.clear()
            assert (work.waiting, bench.held) == (0, 2)
            bench.close()
            assert (work.waiting, bench.held, bench.is_ready) == (1, 0, False)
            conversions.may_end.set()
            while work.waiting < 2:
                await work.available.wait()
    assert not work.is_done
