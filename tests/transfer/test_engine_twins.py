"""The same SOP Instance UID twice in a source with a ledger: a duplicate is passed over, a conflict is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.net.outcome import Outcome, State
from asyncstore.transfer import twins
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.policy import TransferOptions
from tests.transfer.ledgers import rows_of
from tests.transfer.support import QUICK, KeepingSCP, check_account, collect, outcomes_of, peer_at, uid_of, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.transfer.ledger import KnownInstance


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
    duplicates = [outcome for outcome in outcomes if outcome.state is State.DUPLICATE]
    assert all("the same instance as" in outcome.reason for outcome in duplicates)
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert sorted(row.state for row in rows) == [State.DUPLICATE] * 200 + [State.STORED] * 200


async def test_another_instance_with_the_same_uid_is_a_conflict_that_is_not_sent(tmp_path: Path) -> None:
    write_files(tmp_path / "a", 2)
    write_files(tmp_path / "b", 1, padding_bytes=10)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
        assert scp.uids == {uid_of(1): 1, uid_of(2): 1}
    (conflict,) = [outcome for outcome in outcomes if not outcome.is_stored]
    assert conflict.state is State.CONFLICT
    assert "under the same SOP Instance UID" in conflict.reason
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


@pytest.mark.parametrize("ends_by", ["drain", "abort"])
async def test_a_run_that_ends_while_files_are_compared_leaves_them(
    ends_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "a", 3)
    write_files(tmp_path / "b", 3)
    is_comparing, may_go_on = threading.Event(), threading.Event()

    def compare(instance: Instance, known: KnownInstance) -> Outcome | None:
        is_comparing.set()
        may_go_on.wait(20)
        return None

    monkeypatch.setattr(twins, "twin_outcome", compare)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, [tmp_path / "a", tmp_path / "b"], tmp_path / "run.db")
        outcomes: list[Outcome] = []

        async def end_it() -> None:
            await anyio.to_thread.run_sync(is_comparing.wait, 20)
            getattr(transfer, ends_by)()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(end_it)
                await collect(transfer, outcomes)
        finally:
            may_go_on.set()
    assert transfer.report.left == 3
    assert {outcome.state for outcome in outcomes} == {State.STORED}
