"""Gates keep instances back, and the tasks that wait are told when that changes."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import StoreFailed
from asyncstore.instances.outcome import Outcome, State
from asyncstore.net.peer import Peer
from asyncstore.transfer import admission as admission_module
from asyncstore.transfer import outcomes as outcomes_module
from asyncstore.transfer import work as work_module
from asyncstore.transfer.admission import Admission, RecorderGate
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.limits import Limits
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from tests.support.transfers import LIMIT_SECONDS, instance

if TYPE_CHECKING:
    from asyncstore.aio.signal import Signal
    from asyncstore.transfer.pending import Pending

pytestmark = pytest.mark.every_loop

PAIRS = {(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)}
RETRY = RetryPolicy(first_wait_seconds=100.0, outage_seconds=1000.0)


class Room:
    """A ledger, so far as a gate looks at it."""

    has_room = True


class Stations:
    """The stations of a transfer that never begins, and what an association without an association takes."""

    def __init__(self) -> None:
        transfer = Transfer(Peer("pacs.example", 104), [], options=TransferOptions(retry=RETRY))
        self.admission: Admission = transfer._supervisor._admission
        self.outcomes = transfer._outcomes
        self.destination = transfer._destination
        self.work = transfer._supervisor._work
        self.limiter = transfer._limiter
        self.ledger = Room()
        for gates in (self.admission._gates, self.admission._all_gates):
            gates.append(RecorderGate(self.ledger).closed_until)  # type: ignore[arg-type]

    async def deliver(self, *numbers: int) -> None:
        await self.admission.deliver([instance(number) for number in numbers])

    def take(self) -> Pending | None:
        return self.admission.take("worker", PAIRS)

    def close(self, gate: str) -> None:
        if gate == "destination":
            self.destination.hold_until = time.monotonic() + 100.0
        elif gate == "ledger":
            self.ledger.has_room = False
        else:
            self.outcomes.unread.extend([Outcome(State.STORED, None)] * outcomes_module._MAXIMUM_UNREAD)

    def open(self, gate: str) -> None:
        if gate == "destination":
            self.destination.hold_until = 0.0
        elif gate == "ledger":
            self.ledger.has_room = True
        else:
            for _ in range(outcomes_module._MAXIMUM_UNREAD // 2):
                self.outcomes.take()


GATES = ["destination", "ledger", "outcomes"]


async def is_woken_by(signals: tuple[Signal, ...], change: Any) -> bool:
    """Whether a task that waits for these signals is woken by a change."""
    from asyncstore.aio.signal import wait_for_any

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            is_woken = False

            async def wait() -> None:
                nonlocal is_woken
                await wait_for_any(*signals)
                is_woken = True

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            change()
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    return is_woken


@pytest.mark.parametrize("gate", GATES)
async def test_a_closed_gate_keeps_everything_back_until_it_opens(gate: str) -> None:
    stations = Stations()
    await stations.deliver(1, 2)
    assert stations.take() is not None
    stations.close(gate)
    assert stations.take() is None
    assert stations.admission.has_more_for("worker")
    stations.admission.look(time.monotonic())
    assert stations.take() is None
    stations.open(gate)
    assert stations.take() is not None


async def test_a_pause_is_a_gate_too() -> None:
    stations = Stations()
    limiter = stations.limiter
    for is_paused in (True, False):
        limiter.change(Limits(is_paused=is_paused))
        limiter.look(time.monotonic(), time.localtime())
        now = time.monotonic()
        assert (stations.admission.closed_until(now) > now) is is_paused


@pytest.mark.parametrize("gate", GATES)
async def test_who_was_turned_away_by_a_gate_is_woken_when_it_has_opened(gate: str) -> None:
    stations = Stations()
    await stations.deliver(1)
    stations.close(gate)
    assert stations.take() is None

    def nothing_changed() -> None:
        stations.admission.look(time.monotonic())

    def opened() -> None:
        stations.open(gate)
        stations.admission.look(time.monotonic())

    assert not await is_woken_by(stations.admission.changed, nothing_changed)
    assert await is_woken_by(stations.admission.changed, opened)
    assert not await is_woken_by(stations.admission.changed, nothing_changed)


def test_nothing_may_be_taken_until_the_last_gate_opens() -> None:
    stations = Stations()
    now = time.monotonic()
    assert stations.admission.closed_until(now) <= now
    stations.close("ledger")
    assert stations.admission.closed_until(now) == now + admission_module._RECORDER_SECONDS
    stations.close("destination")
    assert stations.admission.closed_until(now) == stations.destination.hold_until > now + 99
    stations.close("outcomes")
    assert stations.admission.closed_until(now) == math.inf


async def test_asking_changes_nothing() -> None:
    stations = Stations()
    await stations.deliver(1)
    stations.close("ledger")
    for _ in range(3):
        stations.admission.closed_until(time.monotonic())
        assert stations.admission.has_more_for("worker")
    assert not stations.admission._was_closed
    stations.open("ledger")
    assert not stations.admission.has_more_for("worker")  # it could have been taken
    assert stations.take() is not None


async def test_nothing_is_given_out_after_the_destination_was_stopped() -> None:
    stations = Stations()
    await stations.deliver(1)
    stations.destination.stop(StoreFailed("not authorised"))
    assert stations.take() is None
    assert not stations.admission.has_more_for("worker")
    assert stations.work.waiting == 1


async def test_what_was_delivered_wakes_who_waits_for_work() -> None:
    stations = Stations()
    async with anyio.create_task_group() as group:
        assert await is_woken_by(stations.admission.changed, lambda: group.start_soon(stations.deliver, 1))


@pytest.mark.parametrize("reason", ["work", "outcomes"])
async def test_the_feed_reads_on_when_there_is_room_again(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "MAXIMUM_WAITING", 2)
    stations = Stations()
    has_returned = False

    async def deliver() -> None:
        nonlocal has_returned
        await stations.deliver(*((1, 2) if reason == "work" else (1,)))
        has_returned = True

    if reason == "outcomes":
        stations.close("outcomes")
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(deliver)
            await anyio.wait_all_tasks_blocked()
            assert not has_returned
            if reason == "work":
                assert stations.take() is not None
            else:
                stations.open("outcomes")
    assert has_returned


async def test_a_retry_waits_for_its_time() -> None:
    stations = Stations()
    await stations.deliver(1)
    pending = stations.take()
    assert pending is not None
    stations.work.retry(pending, due_at=1000.0)
    stations.admission.look(999.0)
    assert stations.take() is None
    assert await is_woken_by(stations.admission.changed, lambda: stations.admission.look(1000.0))
    assert stations.take() is pending
