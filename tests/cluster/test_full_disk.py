"""The disk of the database is full: nothing false is recorded, and it goes on by itself when there is room."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from asyncstore.errors import LedgerError
from tests.cluster.support import (
    LIMIT_SECONDS,
    HoldingSCP,
    ended,
    enqueued,
    rows_and_states,
    sql,
    tree,
    until,
    worker_of,
    working,
)
from tests.support import command
from tests.support.peers import LOOPBACK
from tests.support.small_disk import SmallDatabase, log_on_small_disk, tables_on_small_disk
from tests.support.transfers import on_one_loop, uid_of, write_files

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = [on_one_loop, pytest.mark.timeout(240)]
STUDIES, FILES = 5, 400
ALL = STUDIES * FILES
EVERY_UID = {uid_of(number): 1 for number in range(1, ALL + 1)}


@pytest.fixture(params=["tables", "log"])
def full_soon(request: pytest.FixtureRequest) -> Iterator[SmallDatabase]:
    """A database that the test may leave without room, for its tables or for the log of their changes."""
    if request.param == "tables":
        with tables_on_small_disk(request.getfixturevalue("cluster")) as there:
            yield there
    else:
        with tempfile.TemporaryDirectory() as place:  # which the server may enter
            os.chmod(place, 0o755)
            with log_on_small_disk(Path(place, "small")) as there:
                yield there


async def line_with(process: subprocess.Popen[bytes], text: str) -> str:
    """The first line of its log that has this text."""

    def read() -> str:
        assert process.stderr is not None
        return next((line for line in map(bytes.decode, process.stderr) if text in line), "")

    with anyio.fail_after(LIMIT_SECONDS):
        return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


async def recorded(dsn: str) -> set[str]:
    """The UIDs of the instances that are recorded as stored."""
    rows = await sql(dsn, "SELECT sop_instance_uid FROM instances WHERE state = 'stored'")
    return {row[0] for row in rows}


async def nothing_false_is_recorded(database: SmallDatabase, scp: HoldingSCP) -> None:
    """Only what the peer has is recorded as stored, unless nobody can ask now."""
    if database.answers:
        assert await recorded(database.dsn) <= scp.uids.keys()


async def fill_when_it_sends(scp: HoldingSCP, disk: SmallDatabase) -> None:
    """Have the disk full before the first answer."""
    await until(lambda: len(scp.arrivals) > 0)
    await anyio.to_thread.run_sync(disk.fill)
    scp.released.set()


async def test_a_worker_waits_for_room_and_goes_on(
    tmp_path: Path, full_soon: SmallDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = full_soon.dsn
    root = tree(tmp_path / "nas", studies=STUDIES, files=FILES)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, dsn, root, scp, cap=2)
        words = ("worker", dsn, "--root", f"nas1={root}", "-j", 2, "--until-done", "-ll", "warning")
        with command.start(*words) as process:
            await fill_when_it_sends(scp, full_soon)
            assert full_soon.text in await line_with(process, "Nothing new is sent")
            assert len(scp.uids) < ALL
            await nothing_false_is_recorded(full_soon, scp)
            await anyio.to_thread.run_sync(full_soon.empty)
            code, log = await ended(process)
        assert code == 0, log
        assert scp.uids == EVERY_UID
    assert await rows_and_states(dsn) == (ALL, {"stored": ALL}, {"done": STUDIES})


async def test_a_worker_that_waits_too_long_ends_and_the_next_one_goes_on(
    tmp_path: Path, full_soon: SmallDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = full_soon.dsn
    root = tree(tmp_path / "nas", studies=STUDIES, files=FILES)
    async with HoldingSCP() as scp:
        # With so short a timeout, what it could not give back is soon taken over.
        await enqueued(monkeypatch, dsn, root, scp, cap=2, timeout_seconds=10)
        worker = worker_of(dsn, root, away_seconds=1.0)
        async with working(worker):
            await fill_when_it_sends(scp, full_soon)
        assert isinstance(worker.failure, LedgerError)
        assert full_soon.text in str(worker.failure)
        await nothing_false_is_recorded(full_soon, scp)
        await anyio.to_thread.run_sync(full_soon.empty)
        async with working(worker_of(dsn, root)):
            pass
        assert scp.uids.keys() == EVERY_UID.keys()
    assert await rows_and_states(dsn) == (ALL, {"stored": ALL}, {"done": STUDIES})


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["waits", "is interrupted"])
async def test_one_sender_waits_for_room_or_ends_with_code_6(
    tmp_path: Path, full_soon: SmallDatabase, is_interrupted: bool
) -> None:
    dsn = full_soon.dsn
    write_files(tmp_path / "in", ALL)
    async with HoldingSCP() as scp:
        words = ("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", dsn, "-j", 1, "-ll", "warning")
        with command.start(*words) as process:
            await fill_when_it_sends(scp, full_soon)
            assert full_soon.text in await line_with(process, "Nothing new is sent")
            assert len(scp.uids) < ALL
            await nothing_false_is_recorded(full_soon, scp)
            if is_interrupted:
                process.send_signal(signal.SIGINT)
                code, log = await ended(process)
                assert code == 6
                assert full_soon.text in log
                assert "Traceback" not in log
            await anyio.to_thread.run_sync(full_soon.empty)
            if not is_interrupted:
                assert (await ended(process))[0] == 0
        again = await anyio.to_thread.run_sync(lambda: command.run(*words))
        assert again.returncode == 0
        assert scp.uids.keys() == EVERY_UID.keys()
    assert await recorded(dsn) == EVERY_UID.keys()
