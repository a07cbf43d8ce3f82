"""The view of a run: what each association sends, how far a large one is, and what the run waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from asyncstore.net.peer import Peer
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.transfer.view import AssociationView, TransferView
from tests.support.transfers import LIMIT_SECONDS, on_one_loop, peer_at, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

pytestmark = pytest.mark.anyio

MEBIBYTE = 1 << 20


def test_before_a_run_there_is_nothing_to_see(tmp_path: Path) -> None:
    transfer = Transfer(Peer("127.0.0.1", 104), [tmp_path])
    assert transfer.view() == TransferView()
    assert transfer.ledger_files == ()
    with_ledger = Transfer(Peer("127.0.0.1", 104), [tmp_path], ledger=tmp_path / "run.db")
    assert str(tmp_path / "run.db") in with_ledger.ledger_files


@on_one_loop
async def test_a_large_instance_and_the_answers_that_are_owed(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path / "large", 1, padding_bytes=12 * MEBIBYTE)
    small = write_files(tmp_path / "small", 2, first=2)
    arrived, released = anyio.Event(), anyio.Event()

    async def hold(arrival: Arrival) -> Status:
        arrived.set()
        await released.wait()
        return SUCCESS

    options = TransferOptions(associations=1, window=4)
    with anyio.fail_after(LIMIT_SECONDS):
        async with (
            StorageSCP(on_store=hold) as scp,
            Transfer(peer_at(scp), [path, *small], options=options) as transfer,
        ):
            await arrived.wait()
            while sum(each.in_flight for each in transfer.view().associations) < 3:
                await anyio.lowlevel.checkpoint()
            view = transfer.view()
            (association,) = view.associations
            size_bytes = transfer.report.found_bytes - 2 * association.size_bytes
            assert association._replace(silent_seconds=0) == AssociationView(
                1,
                "open",
                small[1],
                association.size_bytes,
                None,
                (size_bytes,),
                3,
                0,
                0,
                association.answer_limit_seconds,
            )
            assert 31 < association.answer_limit_seconds < 32  # a second more for each 10 MB
            assert not view.is_stopping
            released.set()
            async for _ in transfer:
                pass
        assert transfer.view() == TransferView()


@on_one_loop
async def test_while_a_large_instance_is_written_its_bytes_grow(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, 1, padding_bytes=40 * MEBIBYTE)
    seen = []
    async with StorageSCP() as scp, Transfer(peer_at(scp), [path], associations=1) as transfer:
        with anyio.fail_after(LIMIT_SECONDS):
            while not transfer.report.finished:
                seen += [(each.path, each.written_bytes) for each in transfer.view().associations if each.in_flight]
                await anyio.lowlevel.checkpoint()
    written = [size_bytes or 0 for _, size_bytes in seen]
    assert {name for name, _ in seen} == {path}
    assert written == sorted(written)
    assert len(set(written)) > 2
    assert 40 * MEBIBYTE < max(written) < 41 * MEBIBYTE


@on_one_loop
async def test_a_peer_out_of_resources_is_a_trouble_and_what_it_refused_is_suspected(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    retry = RetryPolicy(first_wait_seconds=1000, cap_seconds=1000, outage_seconds=5000)
    options = TransferOptions(associations=1, window=1, retry=retry)
    with anyio.fail_after(LIMIT_SECONDS):
        async with (
            StorageSCP(on_store=lambda _: Status(0xA700)) as scp,
            Transfer(peer_at(scp), [tmp_path], options=options) as transfer,
        ):
            while (view := transfer.view()).trouble is None:
                await anyio.lowlevel.checkpoint()
            assert "out of resources" in str(view.trouble.because).lower()
            assert 4000 < (view.trouble.left_seconds or 0) <= 5000
            assert (view.retrying, view.suspected) == (1, 1)
            assert view.retry_seconds is not None
            assert view.drain_seconds is None
            transfer.drain()
            assert transfer.view().is_stopping
            assert 20 < (transfer.view().drain_seconds or 0) <= 30
