"""Peers that refuse, break, restart and die: every instance keeps exactly one outcome."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import (
    Aborted,
    AssociationRejected,
    AsyncStoreError,
    ConnectFailed,
    ConnectionLost,
    NoAcceptedContext,
    SourceChanged,
    Timeout,
)
from asyncstore.inputs.opening import instance_from
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Peer, Timeouts
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer import work
from asyncstore.transfer.admission import Admission
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, ReleaseRP, ReleaseRQ
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support.fault_plan import Cut, Reject, SetStatus
from tests.support.faults import FaultProxy
from tests.support.peers import free_port
from tests.support.transfers import (
    QUICK,
    KeepingSCP,
    check_account,
    collect,
    instance,
    on_one_loop,
    outcomes_of,
    transfer_to,
    uid_of,
    write_files,
)
from tests.support.wire import ScriptedSCP, ScriptError, Wire, stores_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Suspicion
    from asyncstore.services.storage_scp import Arrival
    from tests.support.fault_plan import Fault
    from tests.support.wire import Script

pytestmark = pytest.mark.every_loop


def uids_of(outcomes: list[Outcome]) -> list[str]:
    return [outcome.instance.sop_instance_uid for outcome in outcomes if outcome.instance is not None]


# -- at the start ------------------------------------------------------------------------------------------------------


async def fails_to_start(transfer: Transfer) -> AsyncStoreError:
    """What the iteration raised; nothing was handed out before."""
    outcomes: list[Outcome] = []
    with pytest.raises(AsyncStoreError) as raised:
        await collect(transfer, outcomes)
    assert outcomes == []
    assert transfer.report.stopped_because is raised.value
    assert transfer.report.found == transfer.report.left
    assert transfer.report.associations_established == 0
    return raised.value


@pytest.mark.parametrize("associations", [None, 8])
async def test_a_peer_that_nobody_hears_ends_the_run_at_once(tmp_path: Path, associations: int | None) -> None:
    write_files(tmp_path, 10)
    options = TransferOptions(associations=associations, retry=QUICK)
    error = await fails_to_start(Transfer(Peer("127.0.0.1", free_port()), tmp_path, options=options))
    assert isinstance(error, ConnectFailed)


async def test_a_wrong_ae_title_ends_the_run_at_once(tmp_path: Path) -> None:
    write_files(tmp_path, 10)
    async with KeepingSCP(called_ae_titles=["OTHER"]) as scp:
        error = await fails_to_start(transfer_to(scp, tmp_path))
    assert isinstance(error, AssociationRejected)
    assert (error.result, error.source, error.reason) == (1, 1, 7)


@pytest.mark.parametrize("options", [{}, {"only_needed_contexts": True}, {"associations": 4}])
async def test_a_peer_that_accepts_no_context_ends_the_run(tmp_path: Path, options: dict[str, Any]) -> None:
    write_files(tmp_path, 10)
    outcomes: list[Outcome] = []
    async with KeepingSCP(sop_classes=[]) as scp:
        transfer = transfer_to(scp, tmp_path, **options)
        with pytest.raises(NoAcceptedContext):
            await collect(transfer, outcomes)
        assert scp.associations <= 3
    assert {outcome.state for outcome in outcomes} <= {State.NO_CONTEXT}
    assert transfer.report.stored == 0
    assert transfer.report.found == transfer.report.finished


async def test_a_kind_that_nobody_takes_is_refused_to_its_end_also_when_more_waits_than_is_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAXIMUM_WAITING", 20)
    write_files(tmp_path, 200)
    is_full = threading.Event()
    take_in = Admission._take_in

    def noting(self: Admission, found: Instance, suspicion: Suspicion | None) -> None:
        take_in(self, found, suspicion)
        if not self._work.has_room:
            is_full.set()

    monkeypatch.setattr(Admission, "_take_in", noting)

    def accepts_nothing(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        is_full.wait(60)
        results = tuple(
            PresentationContextResult(context.context_id, 3, IMPLICIT_VR_LITTLE_ENDIAN)
            for context in request.presentation_contexts
        )
        wire.send(AssociateAC("A", "B", results, request.user_information))
        wire.read_pdu()

    with ScriptedSCP(accepts_nothing) as scp:
        transfer = transfer_to(scp, tmp_path, only_needed_contexts=True)
        with pytest.raises(NoAcceptedContext):
            await collect(transfer, [])
    assert transfer.report.states == {State.NO_CONTEXT: 200}


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (lambda wire: (wire.expect(AssociateRQ), wire.send(Abort(2, 0))), Aborted),
        (lambda wire: (wire.expect(AssociateRQ), wire.fin()), ConnectionLost),
        (lambda wire: wire.hold(), Timeout),
    ],
    ids=["aborts", "closes", "is silent"],
)
async def test_a_peer_that_does_not_answer_the_request_ends_the_run(script: Script, kind: type[Exception]) -> None:
    with ScriptedSCP(script) as scp:
        timeouts = Timeouts(acse_seconds=0.1 if kind is Timeout else 30.0)
        least: dict[str, Any] = {"window": 1, "only_needed_contexts": True}
        transfer = transfer_to(scp, instance(), timeouts=timeouts, **least)
        assert isinstance(await fails_to_start(transfer), kind)
        assert len(scp.wires) == 1


async def test_a_rejection_for_now_at_the_start_is_tried_again() -> None:
    def rejects(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        wire.send(AssociateRJ(2, 3, 1))
        wire.expect_closed()

    with ScriptedSCP(rejects, rejects, rejects, stores_everything) as scp:
        transfer = transfer_to(scp, instance())
        (outcome,) = await outcomes_of(transfer)
        assert len(scp.wires) == 4
    assert (outcome.state, outcome.attempts) == (State.STORED, 1)


async def test_rejections_for_now_that_never_end_do_end_the_run() -> None:
    def rejects(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        wire.send(AssociateRJ(2, 1, 1))
        wire.expect_closed()

    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02, outage_seconds=0.2)
    with ScriptedSCP(rejects) as scp:
        error = await fails_to_start(transfer_to(scp, instance(), retry=retry))
        assert len(scp.wires) > 1
    assert isinstance(error, AssociationRejected)


# -- limits of the peer ------------------------------------------------------------------------------------------------


async def test_a_peer_with_a_limit_of_associations_gets_everything_over_as_many(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 300)

    async def answers_when_the_limit_was_met(arrival: Arrival) -> Status:
        while scp.associations < 2 or transfer._destination.concurrency.target > 2:
            await anyio.lowlevel.checkpoint()
        return SUCCESS

    async with KeepingSCP(answers_when_the_limit_was_met, maximum_associations=2) as scp:
        transfer = transfer_to(scp, tmp_path, associations=8)
        outcomes = await outcomes_of(transfer)
        assert 2 <= scp.associations <= 4
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == transfer.report.attempts == 300
    assert transfer._destination.concurrency.target <= 2


def serves_when(event: threading.Event) -> Script:
    """A script: takes everything, but answers nothing before the event."""

    def serves(wire: Wire) -> None:
        wire.accept()
        store = wire.read_store()
        wire.wait(event)
        wire.answer(store)
        wire.serve_stores()

    return serves


@pytest.mark.parametrize("how", ["rejects for good", "closes"])
async def test_a_peer_that_tells_its_limit_in_another_way_gets_everything_too(tmp_path: Path, how: str) -> None:
    """The first association goes on working while the others do not come to be."""
    paths = write_files(tmp_path, 300)

    was_asked = threading.Event()

    def refuses(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        was_asked.set()
        if how == "rejects for good":
            wire.send(AssociateRJ(1, 1, 1))
            wire.expect_closed()

    with ScriptedSCP(serves_when(was_asked), refuses) as scp:
        transfer = transfer_to(scp, tmp_path, associations=4)
        outcomes = await outcomes_of(transfer)
        assert len(scp.wires) <= 4
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == transfer.report.attempts == 300
    assert transfer.report.associations_established == 1


async def test_a_peer_that_accepts_nothing_on_a_second_association_gets_everything_over_the_first(
    tmp_path: Path,
) -> None:
    paths = write_files(tmp_path, 300)

    was_asked = threading.Event()

    def accepts_nothing(wire: Wire) -> None:
        wire.accept(results=[])
        was_asked.set()
        wire.expect(Abort)

    with ScriptedSCP(serves_when(was_asked), accepts_nothing) as scp:
        transfer = transfer_to(scp, tmp_path, associations=4)
        outcomes = await outcomes_of(transfer)
        assert len(scp.wires) <= 4
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 300


async def test_a_peer_that_accepts_a_window_and_cannot_take_it_gets_everything_without_one(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 40)

    def drops_windows(wire: Wire) -> None:
        request = wire.accept(operations_window=OperationsWindow(8, 1))
        if request.user_information.operations_window is not None:
            wire.read_store()
            wire.rst()
        else:
            wire.serve_stores()

    with ScriptedSCP(drops_windows) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=8)
        outcomes = await outcomes_of(transfer)
        proposals = [unit.user_information.operations_window for unit in scp.received if isinstance(unit, AssociateRQ)]
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 40
    assert proposals == [OperationsWindow(8, 1), None]


async def test_a_loss_after_the_window_has_worked_does_not_take_it_away(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 40)
    connections = itertools.count(1)

    def fails_twice(wire: Wire) -> None:
        wire.accept(operations_window=OperationsWindow(8, 1))
        if (connection := next(connections)) <= 2:
            if connection == 1:
                wire.answer(wire.read_store())
            wire.read_store()
            wire.rst()
        else:
            wire.serve_stores()

    with ScriptedSCP(fails_twice) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=8)
        outcomes = await outcomes_of(transfer)
        proposals = [unit.user_information.operations_window for unit in scp.received if isinstance(unit, AssociateRQ)]
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 40
    assert proposals == [OperationsWindow(8, 1)] * 3


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 8])
async def test_an_instance_on_which_associations_die_is_set_aside_after_three_and_the_others_arrive(
    tmp_path: Path, window: int
) -> None:
    paths = write_files(tmp_path, 30)
    poison = uid_of(5)

    def dies_of_poison(wire: Wire) -> None:
        wire.accept(operations_window=OperationsWindow(window, 1) if window > 1 else None)
        while wire._next_is_data():
            store = wire.read_store()
            if store.request.affected_sop_instance_uid == poison:
                wire.send(Abort(0, 0))
                return
            wire.answer(store)
        wire.send(ReleaseRP())

    with ScriptedSCP(dies_of_poison) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=window)
        outcomes = await outcomes_of(transfer)
        arrived = Counter(store.request.affected_sop_instance_uid for wire in scp.wires for store in wire.stores)
    check_account(transfer, outcomes, paths)
    (unknown,) = [outcome for outcome in outcomes if outcome.state is not State.STORED]
    assert (unknown.state, unknown.attempts, uids_of([unknown])) == (State.UNKNOWN, 3, [poison])
    assert isinstance(unknown.error, Aborted)
    assert arrived[poison] == 3
    assert transfer.report.stored == 29


async def test_an_unanswered_request_times_out_and_is_sent_again(tmp_path: Path) -> None:
    write_files(tmp_path, 5)

    def falls_silent(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wire.drain()

    with ScriptedSCP(falls_silent, stores_everything) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, timeouts=Timeouts(dimse_seconds=0.6))
        outcomes = await outcomes_of(transfer)
        silences = len(scp.wires) - 1  # one, and more if this machine is too slow for so short a deadline
    assert transfer.report.stored == 5
    assert silences >= 1
    assert sum(outcome.attempts for outcome in outcomes) == 5 + silences


async def test_a_release_by_the_peer_is_no_failure_of_any_instance(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 30)

    def serves_ten(wire: Wire) -> None:
        wire.accept()
        for _ in range(10):
            if not wire._next_is_data():
                wire.send(ReleaseRP())
                return
            wire.answer(wire.read_store())
        wire.send(ReleaseRQ())
        while (unit := wire.read_pdu()) is not None:
            if isinstance(unit, ReleaseRQ):  # both want it at once
                wire.send(ReleaseRP())

    with ScriptedSCP(serves_ten) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 30


async def test_a_peer_that_restarts_in_the_middle_gets_everything(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 200)
    outcomes: list[Outcome] = []
    halfway, ended = anyio.Event(), anyio.Event()

    def answer(arrival: Arrival) -> Any:
        if len(first.arrivals) == 100:
            halfway.set()
        return SUCCESS

    async def send() -> None:
        await collect(transfer, outcomes)
        ended.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            async with KeepingSCP(answer, port=free_port()) as first:
                transfer = transfer_to(first, tmp_path, associations=3, window=4)
                group.start_soon(send)
                await halfway.wait()
            async with KeepingSCP(port=first.port) as second:
                await ended.wait()
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 200
    assert set(first.uids) | set(second.uids) == {uid_of(number) for number in range(1, 201)}
    assert transfer.report.stopped_because is None


async def test_a_peer_that_dies_for_good_ends_the_run_with_the_rest_left(tmp_path: Path) -> None:
    write_files(tmp_path, 200)
    outcomes: list[Outcome] = []
    halfway = anyio.Event()
    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.05, outage_seconds=0.3)

    def answer(arrival: Arrival) -> Any:
        if len(scp.arrivals) == 100:
            halfway.set()
        return SUCCESS

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group, KeepingSCP(answer, port=free_port()) as scp:
            transfer = transfer_to(scp, tmp_path, associations=3, window=4, retry=retry)
            group.start_soon(collect, transfer, outcomes)
            await halfway.wait()
    check_account(transfer, outcomes)
    report = transfer.report
    assert report.left > 0
    assert report.found == report.stored + report.left + report.states[State.UNKNOWN]
    assert isinstance(report.stopped_because, ConnectFailed | ConnectionLost)


async def test_a_peer_that_breaks_every_association_ends_the_run_in_bounded_time(tmp_path: Path) -> None:
    write_files(tmp_path, 50)
    retry = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02, outage_seconds=0.3)

    def breaks(wire: Wire) -> None:
        wire.accept()
        with contextlib.suppress(ScriptError):
            wire.read_store()
        wire.rst()

    with ScriptedSCP(breaks) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2, retry=retry)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.stored == 0
    assert transfer.report.left + transfer.report.states[State.UNKNOWN] == 50
    assert isinstance(transfer.report.stopped_because, ConnectionLost)


# -- sources that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["truncated", "deleted", "rewritten"])
async def test_files_that_changed_after_the_scan_are_told_and_the_others_arrive(tmp_path: Path, what: str) -> None:
    paths = write_files(tmp_path, 20, padding_bytes=200_000)
    instances = [instance_from(path) for path in paths]
    for path in map(Path, paths[::4]):
        if what == "deleted":
            path.unlink()
        else:
            path.write_bytes(
                path.read_bytes()[: -1000 if what == "truncated" else None] + b"\0" * (what == "rewritten")
            )
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, instances, associations=2)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: 15, State.SOURCE_PROBLEM: 5}
    for outcome in outcomes:
        assert (outcome.path in paths[::4]) is (outcome.state is State.SOURCE_PROBLEM)
        assert outcome.is_stored or isinstance(outcome.error, SourceChanged)


async def test_what_cannot_be_converted_is_told_and_the_others_arrive(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 6)
    damaged = Path(paths[0])
    damaged.write_bytes(damaged.read_bytes()[:-4])  # ends in the middle of an element
    instances = [instance_from(path) for path in paths]
    Path(paths[1]).unlink()
    instances[1].let_go()
    async with KeepingSCP(transfer_syntaxes=[IMPLICIT_VR_LITTLE_ENDIAN]) as scp:
        transfer = transfer_to(scp, instances)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: 4, State.SOURCE_PROBLEM: 2}
    assert {outcome.path for outcome in outcomes if not outcome.is_stored} == set(paths[:2])


class CutShort:
    """A data set that ends before it should, when part of it is on the wire."""

    length_bytes = 3_000_000

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        if offset:
            raise SourceChanged("it was cut short meanwhile")
        return True

    def view(self) -> memoryview | None:
        return None

    def let_go(self) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_file_that_breaks_in_the_middle_of_its_message_costs_no_other_instance_a_retry() -> None:
    good = [instance(number) for number in range(1, 21)]
    broken = Instance(
        None, CT_IMAGE_STORAGE, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, 0, 3_000_000, CutShort(), 3_000_000, 0
    )
    retry = RetryPolicy(retries=0)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [*good[:10], broken, *good[10:]], associations=1, retry=retry)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: 20, State.SOURCE_PROBLEM: 1}
    (problem,) = [outcome for outcome in outcomes if not outcome.is_stored]
    assert (problem.attempts, problem.reason) == (1, "it was cut short meanwhile")
    assert "1.2.3" not in scp.uids
    assert not transfer._destination.is_doubtful


# -- everything at once ------------------------------------------------------------------------------------------------


def faults_by(chance: random.Random) -> list[Fault]:
    """Some faults, in a mix of their own."""
    cuts: list[Callable[[], Fault]] = [
        lambda: Cut(first=2, within=30_000, how="rst", every=chance.randint(2, 4)),
        lambda: Cut(within=30_000, how="fin", every=chance.randint(2, 4), in_data=True),
        lambda: Cut(within=3_000, how="rst", direction="down", every=chance.randint(2, 4), in_data=True),
    ]
    others: list[Callable[[], Fault]] = [
        lambda: Reject(first=2, every=chance.randint(2, 5)),
        lambda: SetStatus(status=0xA700, every=chance.randint(5, 20), times=10),
        lambda: SetStatus(status=0xC000, first=chance.randint(1, 50), times=2),
        lambda: SetStatus(status=0xA900, uids=frozenset([uid_of(chance.randint(1, 60))])),
        lambda: SetStatus(status=0x0111, uids=frozenset([uid_of(chance.randint(1, 60))])),
    ]
    return [make() for make in (*chance.sample(cuts, 1), *chance.sample(others, 3))]


@on_one_loop
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_each_file_has_one_outcome_and_the_counts_agree(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    paths = write_files(tmp_path / "a", 60)
    paths += write_files(tmp_path / "b", 60, first=41)  # a third of the UIDs twice
    async with KeepingSCP() as scp:
        with FaultProxy((scp.host, scp.port), faults_by(chance), seed=seed) as proxy:
            transfer = transfer_to(
                proxy, tmp_path, associations=chance.choice([None, 1, 3]), window=chance.choice([1, 4, 16])
            )
            outcomes = await outcomes_of(transfer)
            journal = proxy.journal.entries
    check_account(transfer, outcomes, paths)
    assert Counter(outcome.path for outcome in outcomes) == Counter(paths)
    assert transfer.report.found == transfer.report.finished == 120
    acknowledged = Counter(entry.sop_instance_uid for entry in journal if entry.status == 0)
    stored = Counter(uids_of([outcome for outcome in outcomes if outcome.is_stored]))
    assert not stored - acknowledged
    assert not stored - scp.uids
    for outcome in outcomes:
        if outcome.state in (State.FAILED, State.DUPLICATE):
            assert outcome.status is not None
            uid = uids_of([outcome])[0]
            assert any(entry.status == outcome.status.value for entry in journal if entry.sop_instance_uid == uid)
