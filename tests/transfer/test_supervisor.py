"""The supervisor and the pool: what a line says of their state, and who is woken by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.net.peer import Peer
from asyncstore.net.provider import NO_ANSWER
from asyncstore.status import SUCCESS
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.supervisor import Supervisor
from asyncstore.transfer.worker import Worker
from tests.support.transfers import LIMIT_SECONDS, KeepingSCP, instance, outcomes_of, transfer_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.instances.instance import Instance
    from asyncstore.services.storage_scp import Arrival
    from asyncstore.status import Status

pytestmark = pytest.mark.every_loop


async def some_and_no_end(count: int) -> AsyncIterator[Instance]:
    for number in range(1, count + 1):
        yield instance(number)
    await anyio.sleep_forever()


async def test_a_transfer_and_its_workers_say_their_state_in_a_line() -> None:
    let_go = anyio.Event()
    all_in_flight = anyio.Event()

    async def hold(arrival: Arrival) -> Status:
        if len(scp.arrivals) == 4:
            all_in_flight.set()
        if arrival is not scp.arrivals[0]:
            await let_go.wait()
        return SUCCESS

    async with KeepingSCP(hold, window=4) as scp:
        transfer = transfer_to(scp, some_and_no_end(4), associations=1, window=4)
        name = f"<Transfer ANY-SCP@127.0.0.1:{scp.port}"
        assert repr(transfer) == f"{name}, not entered, 0 of 0 finished>"
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer:
                await all_in_flight.wait()
                await anext(transfer)
                assert repr(transfer) == f"{name}, 1 association, 1 of 4 finished>"
                (worker,) = transfer._pool.workers
                assert repr(worker) == "<Worker 1, established, 1 answered, 3 in flight>"
                transfer.drain()
                assert repr(transfer) == f"{name}, 1 association, draining, 1 of 4 finished>"
                let_go.set()
                assert len([outcome async for outcome in transfer]) == 3
                assert repr(transfer) == f"{name}, ended, 4 of 4 finished>"
    assert repr(worker) == "<Worker 1, established, 4 answered, 0 in flight>"


async def test_a_worker_says_that_it_is_not_established_and_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    begin, take_lost = Worker.begin, Worker.take_lost

    def begun(self: Worker) -> None:
        said.append(repr(self))
        begin(self)

    def ended(self: Worker) -> list[object]:
        said.append(repr(self))
        return take_lost(self)  # type: ignore[return-value]

    monkeypatch.setattr(Worker, "begin", begun)
    monkeypatch.setattr(Worker, "take_lost", ended)
    async with KeepingSCP(lambda arrival: NO_ANSWER, window=4) as scp:
        transfer = transfer_to(scp, [instance(1)], associations=1, window=4)
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer:
                while not scp.arrivals:
                    await anyio.lowlevel.checkpoint()
                transfer.abort()
    assert said[0] == "<Worker 1, being established, 0 answered, 0 in flight>"
    assert said[-1].startswith("<Worker 1, failed, 0 answered, ")


def test_a_transfer_says_its_state_without_an_event_loop() -> None:
    transfer = Transfer(Peer("pacs.example", 104, "ARCHIVE"), [])
    assert repr(transfer) == "<Transfer ARCHIVE@pacs.example:104, not entered, 0 of 0 finished>"


async def test_an_answer_wakes_neither_the_supervisor_nor_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = Supervisor._look

    def counted(self: Supervisor, now: float) -> None:
        nonlocal looks
        looks += 1
        look(self, now)

    monkeypatch.setattr(Supervisor, "_look", counted)
    monkeypatch.setattr("asyncstore.transfer.supervisor._TICK_SECONDS", 3600.0)  # no tick is a calm one
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, some_and_no_end(500), associations=2, window=4)
        opens = lambda *_, **__: 0.01 if transfer.report.associations_open < 2 else 3600.0  # noqa: E731
        monkeypatch.setattr(Supervisor, "_next_tick_seconds", opens)
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer:
                while transfer.report.associations_open < 2 or transfer.report.answers < 10:
                    await anyio.lowlevel.checkpoint()
                before = looks
                while transfer.report.answers < 500:
                    await anyio.lowlevel.checkpoint()
                assert looks - before <= 1  # for the second association, which may have come just then
    assert transfer.report.stored == 500


async def test_a_run_that_finishes_ends_without_waiting_for_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_next_tick_seconds", lambda *_, **__: 3600.0)
    monkeypatch.setattr("asyncstore.transfer.supervisor._TICK_SECONDS", 3600.0)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [instance(number) for number in range(1, 201)], associations=3)
        assert len(await outcomes_of(transfer)) == 200
