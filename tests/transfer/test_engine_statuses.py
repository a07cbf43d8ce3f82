"""What the main answers lead to, from the wire to the outcome."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import StoreFailed
from asyncstore.instances.outcome import State
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.options import RetryPolicy
from asyncstore.transfer.reactions import parse_overrides
from asyncstore.transfer.trace import KindRefused, NotStored
from asyncstore.upper_layer.pdu import Abort
from tests.support.transfers import (
    LOSSLESS_JPEG,
    KeepingSCP,
    check_account,
    instance,
    on_one_loop,
    outcomes_of,
    transfer_to,
    uid_of,
    write_files,
)
from tests.support.wire import ScriptedSCP, Wire, stores_everything

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

ODD = uid_of(7)
FILES = 20


def answers(value: int, times: float = float("inf"), uid: str = ODD) -> Callable[[Arrival], Status]:
    """Answer the first requests of one instance with this status, and everything else with success."""
    seen: Counter[str] = Counter()

    def answer(arrival: Arrival) -> Status:
        arrived = arrival.request.affected_sop_instance_uid
        seen[arrived] += 1
        return Status(value, "because") if arrived == uid and seen[arrived] <= times else SUCCESS

    return answer


# (status, how often it is answered, final state, requests for the instance)
ROWS = [
    (0xB000, 1, State.WARNING, 1),
    (0xB006, 1, State.WARNING, 1),
    (0x0107, 1, State.WARNING, 1),
    (0xA700, 3, State.STORED, 4),
    (0xA702, 99, State.FAILED, 5),
    (0x0213, 1, State.STORED, 2),
    (0xA801, 99, State.FAILED, 1),
    (0xA900, 99, State.FAILED, 1),
    (0xC000, 1, State.STORED, 2),
    (0xC123, 99, State.FAILED, 2),
    (0x0110, 4, State.STORED, 5),
    (0x0110, 99, State.FAILED, 5),
    (0x0111, 99, State.DUPLICATE, 1),
    (0x0117, 99, State.FAILED, 1),
    (0x0124, 2, State.STORED, 3),
    (0x0210, 1, State.STORED, 2),
    (0x0212, 99, State.FAILED, 2),
    (0x1234, 99, State.FAILED, 2),
    (0x1234, 1, State.STORED, 2),
]


@on_one_loop
@pytest.mark.parametrize(("value", "times", "state", "requests"), ROWS, ids=[f"{row[0]:04X}x{row[1]}" for row in ROWS])
async def test_what_one_instance_meets_and_the_others_do_not(
    tmp_path: Path, value: int, times: int, state: State, requests: int
) -> None:
    paths = write_files(tmp_path, FILES - 1, first=2)
    # Of another kind than the others: a kind may be refused as a whole.
    paths += write_files(tmp_path / "odd", 1, first=7, transfer_syntax_uid=LOSSLESS_JPEG)
    paths.remove(str(tmp_path / "000007.dcm"))
    (tmp_path / "000007.dcm").unlink()
    async with KeepingSCP(answers(value, times)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    (outcome,) = [outcome for outcome in outcomes if outcome.path == paths[-1]]
    assert outcome.state is state
    assert outcome.attempts == scp.uids[ODD] == requests
    assert outcome.status == (SUCCESS if state is State.STORED else Status(value, "because"))
    assert transfer.report.states[State.STORED] == FILES - 1 - (state is not State.STORED)
    assert transfer.report.attempts == transfer.report.answers == len(scp.arrivals)
    assert sum(scp.uids.values()) == FILES - 2 + requests
    assert transfer.report.stopped_because is None


async def test_no_more_of_a_refused_kind_is_sent(tmp_path: Path) -> None:
    refused = write_files(tmp_path / "refused", 50, transfer_syntax_uid=LOSSLESS_JPEG)
    taken = write_files(tmp_path / "taken", 50, first=51)

    def answer(arrival: Arrival) -> Status:
        return Status(0x0122) if arrival.transfer_syntax_uid == LOSSLESS_JPEG else SUCCESS

    async with KeepingSCP(answer) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=4)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, [*refused, *taken])
    assert transfer.report.states == {State.STORED: 50, State.FAILED: 50}
    assert transfer.report.statuses == {0: 50, 0x0122: 50}
    assert scp.failed <= 8  # what was in flight with the first
    assert Counter(transfer.report.reasons) == {"SOP class not supported (0x0122)": 50}


@pytest.mark.parametrize("value", [0x0124, 0x0211])
async def test_a_peer_that_will_not_have_anything_stops_the_run(tmp_path: Path, value: int) -> None:
    write_files(tmp_path, 50)
    async with KeepingSCP(lambda arrival: Status(value)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=1)
        outcomes = await outcomes_of(transfer)
        assert scp.stored == 0
        assert scp.failed <= 4
    check_account(transfer, outcomes)
    assert outcomes == []
    assert transfer.report.left == transfer.report.found > 0
    assert isinstance(transfer.report.stopped_because, StoreFailed)


async def test_an_override_stops_the_run_at_the_first_such_answer(tmp_path: Path) -> None:
    write_files(tmp_path, 30)
    retry = RetryPolicy(overrides=parse_overrides(["A702=stop"]))
    async with KeepingSCP(answers(0xA702)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=1, retry=retry)
        outcomes = await outcomes_of(transfer)
        assert scp.failed == 1
    check_account(transfer, outcomes)
    assert transfer.report.stored + transfer.report.left == transfer.report.found
    assert transfer.report.left >= 1
    assert "0xA702" in str(transfer.report.stopped_because)


async def test_a_pressed_peer_gets_everything_in_the_end(tmp_path: Path) -> None:
    """Every second request is refused for want of resources, whichever instance it is for."""
    paths = write_files(tmp_path, 40)
    requests = 0

    def answer(arrival: Arrival) -> Status:
        nonlocal requests
        requests += 1
        return Status(0xA700) if requests % 2 else SUCCESS

    retry = RetryPolicy(first_wait_seconds=0.001, cap_seconds=0.001)
    async with KeepingSCP(answer) as scp:
        transfer = transfer_to(scp, tmp_path, associations=3, window=4, retry=retry)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 40
    assert transfer.report.attempts == requests


async def test_several_instances_that_are_refused_whatever_the_peer_takes_fail_in_the_end(tmp_path: Path) -> None:
    """Some peers say that they are out of resources whatever is wrong."""
    write_files(tmp_path, 60)
    refused = {uid_of(number) for number in range(1, 61, 6)}

    def answer(arrival: Arrival) -> Status:
        return Status(0xA700) if arrival.request.affected_sop_instance_uid in refused else SUCCESS

    async with KeepingSCP(answer) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2, window=4)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: 50, State.FAILED: 10}
    assert transfer.report.stopped_because is None


async def test_a_peer_that_stays_out_of_resources_ends_the_run_with_everything_left(tmp_path: Path) -> None:
    write_files(tmp_path, 20)
    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02, outage_seconds=0.3)
    async with KeepingSCP(lambda arrival: Status(0xA700)) as scp:
        transfer = transfer_to(scp, tmp_path, retry=retry)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.left == 20
    assert "0xA700" in str(transfer.report.stopped_because)


async def test_one_instance_by_itself_that_is_refused_fails_after_five_requests() -> None:
    async with KeepingSCP(lambda arrival: Status(0xA700)) as scp:
        (outcome,) = await outcomes_of(transfer_to(scp, instance()))
    assert (outcome.state, outcome.attempts) == (State.FAILED, 5)


async def test_a_retry_goes_to_a_new_association_where_the_answer_asks_for_one(tmp_path: Path) -> None:
    write_files(tmp_path, 10)
    async with KeepingSCP(answers(0xC000, 1)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1)
        outcomes = await outcomes_of(transfer)
        assert scp.associations == 2
    (outcome,) = [outcome for outcome in outcomes if outcome.attempts == 2]
    assert outcome.association_number == 2
    assert transfer.report.stored == 10


async def test_fail_fast_stops_at_the_first_failure_and_finishes_what_is_in_flight(tmp_path: Path) -> None:
    write_files(tmp_path, 200)
    arrived = itertools.count(1)
    async with KeepingSCP(lambda arrival: Status(0xA900) if next(arrived) == 7 else SUCCESS) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=4, fail_fast=True)
        outcomes = await outcomes_of(transfer)
        assert 7 <= len(scp.arrivals) <= 15
    check_account(transfer, outcomes)
    assert transfer.report.failed == 1
    assert transfer.report.found == transfer.report.stored + 1 + transfer.report.left
    assert isinstance(transfer.report.stopped_because, StoreFailed)


async def test_fail_fast_is_no_failure_to_associate(tmp_path: Path) -> None:
    """A file that is no DICOM file may come before any association."""
    named = tmp_path / "named.txt"
    named.write_text("no DICOM file")
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [named], fail_fast=True)
        (outcome,) = await outcomes_of(transfer)
    assert outcome.state is State.SOURCE_PROBLEM
    assert transfer.report.stopped_because is outcome.error


async def test_what_is_passed_over_does_not_stop_a_run_that_fails_fast(tmp_path: Path) -> None:
    write_files(tmp_path, 5)
    (tmp_path / "notes.txt").write_text("no DICOM file")
    async with KeepingSCP(answers(0x0111, uid=uid_of(3))) as scp:
        transfer = transfer_to(scp, tmp_path, fail_fast=True)
        await outcomes_of(transfer)
    assert transfer.report.states == {State.STORED: 4, State.DUPLICATE: 1, State.SKIPPED: 1}
    assert transfer.report.stopped_because is None


async def test_a_kind_that_the_peer_refuses_is_told_once_and_then_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, 50)
    with caplog.at_level(logging.ERROR, "asyncstore.transfer"):
        async with KeepingSCP(lambda arrival: Status(0xA801)) as scp:
            transfer = transfer_to(scp, tmp_path, associations=1, window=1)
            await outcomes_of(transfer)
            assert len(scp.arrivals) <= 2  # one may be on its way when the first is answered
    assert transfer.report.states == {State.FAILED: 50}
    told = [record.msg for record in caplog.records]
    assert [type(event) for event in told] == [NotStored, KindRefused]
    assert told[1].count == 49


async def test_what_is_no_legal_answer_is_sent_again_on_a_new_association() -> None:
    def answers_pending(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store(), status=0xFF00)
        wire.expect(Abort)

    with ScriptedSCP(answers_pending, stores_everything) as scp:
        transfer = transfer_to(scp, [instance(1), instance(2)], associations=1)
        outcomes = await outcomes_of(transfer)
    assert sorted(outcome.attempts for outcome in outcomes) == [1, 2]
    assert transfer.report.states == {State.STORED: 2}
    assert transfer.report.associations_established == 2


async def test_a_peer_that_never_answers_legally_leaves_the_instance_unknown() -> None:
    def answers_another_message(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store(), message_id=4711)
        wire.expect(Abort)

    with ScriptedSCP(answers_another_message) as scp:
        transfer = transfer_to(scp, instance())
        (outcome,) = await outcomes_of(transfer)
        assert len(scp.wires) == 3
    assert (outcome.state, outcome.attempts, outcome.retryable) == (State.UNKNOWN, 3, True)
    assert "Message ID Being Responded To" in outcome.reason
    assert transfer.report.stored == 0
