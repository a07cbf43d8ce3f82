"""The same SOP Instance UID twice in a source with a ledger: a duplicate is passed over, a conflict is told."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer import destination, duplicates
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from tests.support.ledgers import rows_of
from tests.support.transfers import QUICK, KeepingSCP, check_account, collect, outcomes_of, peer_at, uid_of, write_files
from tests.support.wire import ScriptedSCP, Wire, stores_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.ledger.protocol import KnownInstance
    from asyncstore.transfer.pending import Pending

OPTIONS = TransferOptions(retry=RetryPolicy(first_wait_seconds=0.0, outage_seconds=0.0))


def transfer_with(scp: KeepingSCP, sources: Any, ledger: Path) -> Transfer:
    return Transfer(peer_at(scp), sources, options=TransferOptions(retry=QUICK), ledger=ledger)


async def test_copies_with_the_same_bytes_are_duplicates_and_not_sent_again(tmp_path: Path) -> None:
    write_files(tmp_path / "a", 200)
    write_files(tmp_path / "b", 200)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
        assert set(scp.uids.values()) == {1}
    assert transfer.report.states == {State.STORED: 200, State.DUPLICATE: 200}
    check_account(transfer, outcomes)
    copies = [outcome for outcome in outcomes if outcome.state is State.DUPLICATE]
    others = {str(tmp_path / "a"): str(tmp_path / "b"), str(tmp_path / "b"): str(tmp_path / "a")}
    for outcome in copies:
        directory, name = os.path.split(outcome.path or "")
        assert outcome.stored_path == os.path.join(others[directory], name)
    assert transfer.report.reasons.total() == 200
    assert len(transfer.report.reasons) == 1
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert sorted(row.state for row in rows) == [State.DUPLICATE] * 200 + [State.STORED] * 200


def test_copies_are_found_in_a_loop_that_anyio_did_not_start(tmp_path: Path) -> None:
    write_files(tmp_path / "a", 100)
    write_files(tmp_path / "b", 100)

    async def send() -> Transfer:
        async with KeepingSCP() as scp:
            transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")
            await outcomes_of(transfer)
            return transfer

    transfer = asyncio.run(send())
    assert transfer.report.states == {State.STORED: 100, State.DUPLICATE: 100}


async def test_another_instance_with_the_same_uid_is_a_conflict_that_is_not_sent(tmp_path: Path) -> None:
    write_files(tmp_path / "a", 2)
    write_files(tmp_path / "b", 1, padding_bytes=10)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
        assert scp.uids == {uid_of(1): 1, uid_of(2): 1}
    (conflict,) = [outcome for outcome in outcomes if not outcome.is_stored]
    assert conflict.state is State.CONFLICT
    assert conflict.stored_path == str(tmp_path / "a" / "000001.dcm")
    assert transfer.report.failed == 1


async def test_what_an_earlier_run_stored_from_elsewhere_is_a_duplicate(tmp_path: Path) -> None:
    write_files(tmp_path / "a", 3)
    write_files(tmp_path / "b", 3)
    async with KeepingSCP() as scp:
        await outcomes_of(transfer_with(scp, tmp_path / "a", tmp_path / "run.db"))
        second = transfer_with(scp, tmp_path / "b", tmp_path / "run.db")
        await outcomes_of(second)
        assert set(scp.uids.values()) == {1}
    assert second.report.states == {State.DUPLICATE: 3}


async def test_a_duplicate_of_what_has_been_replaced_since_is_compared_again(tmp_path: Path) -> None:
    (copy,) = write_files(tmp_path / "a", 1)
    write_files(tmp_path / "b", 1)
    async with KeepingSCP() as scp:
        await outcomes_of(transfer_with(scp, tmp_path / "a", tmp_path / "run.db"))
        await outcomes_of(transfer_with(scp, tmp_path / "b", tmp_path / "run.db"))
        unchanged = transfer_with(scp, tmp_path / "b", tmp_path / "run.db")
        (outcome,) = await outcomes_of(unchanged)
        assert (outcome.state, outcome.instance) == (State.DUPLICATE, None)  # not opened again
        write_files(tmp_path / "a", 1, padding_bytes=10)
        await outcomes_of(transfer_with(scp, tmp_path / "a", tmp_path / "run.db"))
        last = transfer_with(scp, tmp_path / "b", tmp_path / "run.db")
        (outcome,) = await outcomes_of(last)
        assert scp.uids == {uid_of(1): 2}
    assert (outcome.state, outcome.stored_path) == (State.CONFLICT, str(tmp_path / "a" / copy))


async def test_a_file_that_cannot_be_compared_any_more_is_sent(tmp_path: Path) -> None:
    (original,) = write_files(tmp_path / "a", 1)
    write_files(tmp_path / "b", 1)
    async with KeepingSCP() as scp:
        await outcomes_of(transfer_with(scp, tmp_path / "a", tmp_path / "run.db"))
        (tmp_path / "a" / original).unlink()
        second = transfer_with(scp, tmp_path / "b", tmp_path / "run.db")
        await outcomes_of(second)
        assert scp.uids == {uid_of(1): 2}
    assert second.report.states == {State.STORED: 1}


@pytest.mark.every_loop
@pytest.mark.parametrize("ends_by", ["drain", "abort", "cancellation"])
async def test_a_run_that_ends_while_files_are_compared_leaves_them(
    ends_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "a", 3)
    write_files(tmp_path / "b", 3)
    is_comparing, may_go_on = threading.Event(), threading.Event()

    def compare(instance: Instance, known: KnownInstance) -> Outcome | None:
        is_comparing.set()
        may_go_on.wait(60)
        return None

    monkeypatch.setattr(duplicates, "compared_outcome", compare)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")

        async def end_it() -> None:
            await anyio.to_thread.run_sync(is_comparing.wait, 20)
            end = {"drain": transfer.drain, "abort": transfer.abort, "cancellation": group.cancel_scope.cancel}
            end[ends_by]()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(end_it)
                await collect(transfer, [])
        finally:
            may_go_on.set()
    report = transfer.report  # not all may have been found by then
    assert report.states.keys() == {State.STORED, State.LEFT}
    assert report.finished == report.found
    assert set(scp.uids.values()) == {1}


async def test_a_ledger_that_cannot_be_asked_stops_the_run_before_a_twin_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "a", 1)
    write_files(tmp_path / "b", 1, padding_bytes=10)

    def cannot(self: SqliteLedger, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        raise LedgerError("disk I/O error")

    monkeypatch.setattr(SqliteLedger, "stored_elsewhere", cannot)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")
        await outcomes_of(transfer)
        assert scp.uids == {uid_of(1): 1}
    assert isinstance(transfer.report.stopped_because, LedgerError)
    assert transfer.report.left == 1


async def test_another_stored_copy_is_compared_when_the_first_is_gone(tmp_path: Path) -> None:
    for name in "abc":
        write_files(tmp_path / name, 1)
    async with KeepingSCP() as scp:
        await outcomes_of(transfer_with(scp, tmp_path / "a", tmp_path / "run.db"))
        for path in (tmp_path / "a").iterdir():
            path.unlink()
        await outcomes_of(transfer_with(scp, tmp_path / "b", tmp_path / "run.db"))
        third = transfer_with(scp, tmp_path / "c", tmp_path / "run.db")
        await outcomes_of(third)
        assert scp.uids == {uid_of(1): 2}
    assert third.report.states == {State.DUPLICATE: 1}


async def test_what_was_sent_before_it_turned_out_to_be_a_twin_keeps_its_attempts(tmp_path: Path) -> None:
    write_files(tmp_path / "a", 1)
    write_files(tmp_path / "b", 1)
    answers = [Status(0x0110)]  # the first is to be sent again, and the second is stored before that
    async with KeepingSCP(lambda arrival: answers.pop() if answers else SUCCESS) as scp:
        outcomes = await outcomes_of(transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db"))
        assert len(scp.arrivals) == 2
    assert sorted((outcome.state, outcome.attempts) for outcome in outcomes) == [
        (State.DUPLICATE, 1),
        (State.STORED, 1),
    ]


async def test_no_more_than_a_few_are_held_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "a", 300)
    write_files(tmp_path / "b", 300)
    most = 0
    real = duplicates.Duplicates.hold

    def hold(self: duplicates.Duplicates, pending: Pending) -> None:
        nonlocal most
        real(self, pending)
        most = max(most, len(self.held))

    monkeypatch.setattr(duplicates.Duplicates, "hold", hold)
    async with KeepingSCP() as scp:
        await outcomes_of(transfer_with(scp, tmp_path / "a", tmp_path / "run.db"))
        second = transfer_with(scp, tmp_path / "b", tmp_path / "run.db")
        await outcomes_of(second)
    assert second.report.states == {State.DUPLICATE: 300}
    assert 2 <= most <= duplicates._MAXIMUM_HELD


async def test_a_peer_that_ends_an_association_while_nothing_is_sent_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "_IDLE_SECONDS", 0)
    write_files(tmp_path / "a", 1)
    paths = write_files(tmp_path / "b", 2)
    may_go_on = threading.Event()

    def compare(instance: Instance, known: KnownInstance) -> Outcome | None:
        may_go_on.wait(60)
        return Outcome(State.DUPLICATE, instance.path, instance, attempts=0)

    def ends_it(wire: Wire) -> None:
        wire.accept()
        wire.close()

    with ScriptedSCP(stores_everything, ends_it) as scp:
        await outcomes_of(Transfer(peer_at(scp), tmp_path / "a", options=OPTIONS, ledger=tmp_path / "run.db"))
        monkeypatch.setattr(duplicates, "compared_outcome", compare)
        second = Transfer(peer_at(scp), paths[:1], options=OPTIONS, ledger=tmp_path / "run.db")
        monkeypatch.setattr(second._pool, "_ended", noting(second._pool._ended, may_go_on))
        await outcomes_of(second)
    assert second.report.states == {State.DUPLICATE: 1}
    assert second.report.stopped_because is None


def noting(on_end: Callable[..., None], ended: threading.Event) -> Callable[..., None]:
    def noted(*arguments: Any) -> None:
        on_end(*arguments)
        ended.set()

    return noted
