"""Instances over which associations end, or that a peer never takes: the others arrive, and these are set aside."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio.to_thread
import pytest

from asyncstore.inputs.opening import instance_from_bytes
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.pdu import Abort, ReleaseRP
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support import files
from tests.support.ledgers import rows_of
from tests.support.transfers import KeepingSCP, check_account, outcomes_of, peer_at, transfer_to, uid_of, write_files
from tests.support.wire import ScriptedSCP, ScriptError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival
    from tests.support.wire import Script, Wire

pytestmark = pytest.mark.every_loop

GOOD = 60
RETRY = RetryPolicy(first_wait_seconds=0.01)
PLACES = {"first": range(1, 13), "middle": range(30, 42), "end": range(61, 73)}
ALL = GOOD + 12


def dies_over(numbers: Iterable[int], *, window: int = 1, is_silent: bool = False) -> Script:
    """A script: stores everything but these, over which it aborts, or to which it never answers."""
    bad = {uid_of(number) for number in numbers}

    def is_data(wire: Wire) -> bool:
        with contextlib.suppress(ScriptError):
            return wire._next_is_data()
        return False

    def serves(wire: Wire) -> None:
        wire.accept(operations_window=OperationsWindow(window, 1) if window > 1 else None)
        while is_data(wire):
            store = wire.read_store()
            if store.request.affected_sop_instance_uid not in bad:
                wire.answer(store)
            elif not is_silent:
                wire.send(Abort(0, 0))
                return
        with contextlib.suppress(OSError):  # it was released, or aborted because it was silent
            wire.send(ReleaseRP())

    return serves


def numbers_of(outcomes: list[Outcome]) -> set[str]:
    return {outcome.instance.sop_instance_uid for outcome in outcomes if outcome.instance is not None}


@pytest.mark.parametrize("associations", [1, 3])
@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("place", PLACES)
async def test_bad_instances_in_a_row_are_set_aside_and_all_others_arrive(
    tmp_path: Path, place: str, window: int, associations: int
) -> None:
    write_files(tmp_path, ALL)
    bad = {uid_of(number) for number in PLACES[place]}
    with ScriptedSCP(dies_over(PLACES[place], window=window)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=associations, window=window, retry=RETRY)
        outcomes = await outcomes_of(transfer)
        requests = Counter(store.request.affected_sop_instance_uid for wire in scp.wires for store in wire.stores)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: GOOD, State.UNKNOWN: 12}
    assert transfer.report.stopped_because is None
    unknown = [outcome for outcome in outcomes if outcome.state is State.UNKNOWN]
    assert numbers_of(unknown) == bad
    assert {(outcome.losses, outcome.attempts) for outcome in unknown} == {(3, 3)}
    assert max(requests[uid] for uid in bad) <= 3
    assert all("sent, and not answered, 3 times" in outcome.reason for outcome in unknown)


@pytest.mark.timed
async def test_instances_that_are_never_answered_wait_for_their_timeouts_beside_each_other(tmp_path: Path) -> None:
    write_files(tmp_path, ALL)
    timeouts = Timeouts(dimse_seconds=0.3)
    with ScriptedSCP(dies_over(PLACES["middle"], is_silent=True)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=6, timeouts=timeouts, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    assert transfer.report.states == {State.STORED: GOOD, State.UNKNOWN: 12}
    assert all("within 0.3 s" in outcome.reason for outcome in outcomes if not outcome.is_stored)
    assert transfer.report.elapsed_seconds < 12 * 3 * 0.3  # one after another


async def test_suspected_instances_come_after_all_others(tmp_path: Path) -> None:
    write_files(tmp_path, ALL)
    with ScriptedSCP(dies_over(PLACES["first"])) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=1, retry=RETRY)
        await outcomes_of(transfer)
        order = [store.request.affected_sop_instance_uid for wire in scp.wires for store in wire.stores]
    bad = {uid_of(number) for number in PLACES["first"]}
    last_good = max(place for place, uid in enumerate(order) if uid not in bad)
    assert all(count == 1 for uid, count in Counter(order[:last_good]).items() if uid in bad)


async def test_what_was_set_aside_is_not_sent_by_a_later_run_unless_it_is_asked_to(tmp_path: Path) -> None:
    write_files(tmp_path / "in", ALL)
    ledger = tmp_path / "run.db"
    options = TransferOptions(associations=1, retry=RETRY)

    def transfer_with(scp: ScriptedSCP, *, retry_set_aside: bool = False) -> Transfer:
        chosen = TransferOptions(associations=1, retry=RETRY, retry_set_aside=retry_set_aside)
        return Transfer(peer_at(scp), tmp_path / "in", options=chosen, ledger=ledger)

    with ScriptedSCP(dies_over(PLACES["first"])) as scp:
        await outcomes_of(Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=ledger))
        write_files(tmp_path / "in", 1, first=ALL + 1)  # after the last one the peer may have taken no others
        await outcomes_of(transfer_with(scp))
        rows = await anyio.to_thread.run_sync(rows_of, ledger)
        assert sum(row.state is State.UNKNOWN for row in rows) == sum(row.set_aside for row in rows) == 12
        requests = sum(len(wire.stores) for wire in scp.wires)
        again = transfer_with(scp)
        outcomes = await outcomes_of(again)
        assert again.report.states == {State.RESUMED: GOOD + 1, State.UNKNOWN: 12}
        assert sum(len(wire.stores) for wire in scp.wires) == requests
        assert all("set aside by an earlier run" in outcome.reason for outcome in outcomes if not outcome.is_stored)
        once_more = transfer_with(scp, retry_set_aside=True)
        await outcomes_of(once_more)
        assert once_more.report.attempts == 12  # each has had its chance before
        assert once_more.report.states == {State.RESUMED: GOOD + 1, State.UNKNOWN: 12}


async def test_a_run_that_is_cut_short_leaves_its_suspicion_to_the_next(tmp_path: Path) -> None:
    """Two runs without an answer in between: the second begins where the first had to stop."""
    write_files(tmp_path / "in", 6)
    reports = []
    with ScriptedSCP(dies_over(range(1, 7))) as scp:
        for outage_seconds in (0.0, 10.0):
            retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.01, outage_seconds=outage_seconds)
            options = TransferOptions(associations=1, window=1, retry=retry)
            transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=tmp_path / "run.db")
            await outcomes_of(transfer)
            reports.append(transfer.report)
    assert (reports[0].left, reports[0].attempts) == (6, 3)
    assert reports[1].states == {State.UNKNOWN: 6}
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert {row.losses for row in rows} == {3}


async def test_a_peer_whose_process_dies_over_one_instance_costs_no_other(tmp_path: Path) -> None:
    """All its associations end with it: the others are not sent beside the bad one for a third time."""
    write_files(tmp_path, ALL)
    bad = {uid_of(number) for number in (5, 30, 31, 60)}
    busy = threading.Event()

    def dies_with_all(wire: Wire) -> None:
        with contextlib.suppress(OSError, ScriptError):
            wire.accept(operations_window=OperationsWindow(4, 1))
            while wire._next_is_data():
                store = wire.read_store()
                busy.wait(0.02)  # it has much to do, so that others are in flight as well
                if store.request.affected_sop_instance_uid in bad:
                    for each in scp.wires:
                        with contextlib.suppress(OSError):  # that one has ended before
                            each.sock.shutdown(socket.SHUT_RDWR)
                wire.answer(store)
            wire.send(ReleaseRP())

    with ScriptedSCP(dies_with_all) as scp:
        transfer = transfer_to(scp, tmp_path, associations=6, window=4, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert numbers_of([outcome for outcome in outcomes if not outcome.is_stored]) == bad
    assert transfer.report.states == {State.STORED: ALL - 4, State.UNKNOWN: 4}


async def test_a_peer_that_aborts_everything_for_a_while_costs_none_of_the_last_instances(tmp_path: Path) -> None:
    """Although nothing but suspected instances is left then: it is ill for less time than it was well."""
    write_files(tmp_path, 60)
    well_at = math.inf
    lock = threading.Lock()
    busy = threading.Event()
    stored = 0

    def is_ill() -> bool:
        nonlocal well_at, stored
        busy.wait(0.05)  # so that it is well for a second
        with lock:
            if stored < 40:
                stored += 1
                return False
            well_at = min(well_at, time.monotonic() + 0.3)
            return time.monotonic() < well_at

    def serves(wire: Wire) -> None:
        with contextlib.suppress(OSError, ScriptError):
            wire.accept(operations_window=OperationsWindow(8, 1))
            while wire._next_is_data():
                store = wire.read_store()
                if is_ill():
                    wire.send(Abort(0, 0))
                    return
                wire.answer(store)
            wire.send(ReleaseRP())

    with ScriptedSCP(serves) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2, window=8, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: 60}


# -- refused as out of resources ---------------------------------------------------------------------------------------


def refuses(numbers: Iterable[int]) -> Callable[[Arrival], Status]:
    refused = {uid_of(number) for number in numbers}

    def answer(arrival: Arrival) -> Status:
        return Status(0xA700) if arrival.request.affected_sop_instance_uid in refused else SUCCESS

    return answer


@pytest.mark.parametrize("place", PLACES)
async def test_instances_that_a_peer_never_has_room_for_are_set_aside(tmp_path: Path, place: str) -> None:
    write_files(tmp_path / "in", ALL)
    ledger = tmp_path / "run.db"
    options = TransferOptions(associations=3, retry=RETRY)
    async with KeepingSCP(refuses(PLACES[place]), window=4) as scp:
        states = []
        for _ in range(3):
            transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=ledger)
            outcomes = await outcomes_of(transfer)
            states.append(dict(transfer.report.states))
            last_attempts = transfer.report.attempts
            if len(states) == 1:  # after the last ones the peer may have taken no others
                write_files(tmp_path / "in", 1, first=ALL + 1)
    assert states[0] == {State.STORED: GOOD, State.FAILED: 12}
    assert states[1] == {State.RESUMED: GOOD, State.STORED: 1, State.FAILED: 12}
    assert states[2] == {State.RESUMED: GOOD + 1, State.FAILED: 12}
    assert last_attempts == 0
    assert all("A700" in outcome.reason for outcome in outcomes if not outcome.is_stored)


async def test_a_peer_that_is_full_leaves_everything_to_another_run(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 40)
    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02, outage_seconds=0.2)
    options = TransferOptions(associations=2, retry=retry)

    def has_room_for_ten(arrival: Arrival) -> Status:
        return SUCCESS if scp.stored < 10 or is_mended else Status(0xA700)

    is_mended = False
    async with KeepingSCP(has_room_for_ten) as scp:
        for _ in range(2):  # still full at the second
            transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=tmp_path / "run.db")
            await outcomes_of(transfer)
            assert transfer.report.left > 0  # 30, if the input was read to its end
            assert not transfer.report.failed
        is_mended = True
        transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=tmp_path / "run.db")
        await outcomes_of(transfer)
    assert transfer.report.states == {State.RESUMED: 10, State.STORED: 30}


async def test_what_two_runs_were_refused_alone_fails_but_has_another_chance(tmp_path: Path) -> None:
    """No run can tell whether there is no room for the last ones or for any: the peer takes nothing else."""
    write_files(tmp_path / "in", 3)
    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02, outage_seconds=0.2)
    options = TransferOptions(associations=1, window=1, retry=retry)
    states = []
    is_mended = False
    async with KeepingSCP(lambda arrival: SUCCESS if is_mended else Status(0xA700)) as scp:
        for number in range(4):
            is_mended = number == 3
            transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=tmp_path / "run.db")
            await outcomes_of(transfer)
            states.append(dict(transfer.report.states))
    assert states == [{State.LEFT: 3}, {State.FAILED: 3}, {State.FAILED: 3}, {State.STORED: 3}]


async def test_a_large_instance_that_is_refused_is_sent_only_once_more(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 1, padding_bytes=9 << 20)
    paths += write_files(tmp_path / "small", 30, first=2)
    async with KeepingSCP(refuses([1])) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2, retry=RETRY)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    (failed,) = [outcome for outcome in outcomes if not outcome.is_stored]
    assert (failed.state, failed.attempts, numbers_of([failed])) == (State.FAILED, 2, {uid_of(1)})


async def test_refused_instances_in_memory_do_not_keep_others_from_being_read(tmp_path: Path) -> None:
    """They hold more memory than may wait, and the source has not ended."""
    tail = files.element(0x7FE00010, b"OW", bytes(400_000))

    async def source() -> AsyncIterator[Instance]:
        for number in range(1, 121):
            data_set = files.data_set(CT_IMAGE_STORAGE, uid_of(number), more=tail)
            yield instance_from_bytes(data_set, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN)

    retry = RetryPolicy(first_wait_seconds=0.01, outage_seconds=5.0)
    async with KeepingSCP(refuses(range(1, 121, 3))) as scp:
        transfer = transfer_to(scp, source(), associations=2, retry=retry)
        await outcomes_of(transfer)
    assert transfer.report.stopped_because is None
    assert transfer.report.states == {State.STORED: 80, State.FAILED: 40}
