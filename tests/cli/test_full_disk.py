"""A ledger whose file may not grow any more: the real command stops cleanly, and the same command finishes the rest."""

from __future__ import annotations

import resource
import subprocess
from typing import TYPE_CHECKING

import anyio

from asyncstore.instances.outcome import State
from tests.support import command
from tests.support.ledgers import rows_of
from tests.support.transfers import KeepingSCP, on_one_loop, write_files
from tests.support.wire import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

_FILES = 3000
# Room for the tables of a new ledger and for some hundred instances.
_MOST_BYTES = 150_000


def run_with_small_files(*arguments: str | Path | int) -> subprocess.CompletedProcess[bytes]:
    """The command in a process that cannot make a file larger than so many bytes."""
    return subprocess.run(
        command.words(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=command.environment(),
        timeout=command.FINISH_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES, _MOST_BYTES)),
    )


@on_one_loop
async def test_a_ledger_that_has_no_room_to_grow_stops_the_run_with_code_6_and_is_true(tmp_path: Path) -> None:
    write_files(tmp_path / "in", _FILES)
    ledger = tmp_path / "run.db"
    async with KeepingSCP() as scp:
        arguments = ("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", ledger)
        full = await anyio.to_thread.run_sync(run_with_small_files, *arguments)
        sent_first = set(scp.uids)
        rows = await anyio.to_thread.run_sync(rows_of, ledger)
        done = await anyio.to_thread.run_sync(command.run, *arguments)
    what, advice = full.stderr.decode().splitlines()
    assert full.returncode == 6
    assert what.startswith(f"E: the ledger {str(ledger)!r} cannot be written: ")
    assert advice.startswith("E: Stopped early; ")
    assert full.stdout == b""
    stored = {row.sop_instance_uid for row in rows if row.state is State.STORED}
    assert stored <= sent_first
    assert 0 < len(stored) <= len(sent_first) < _FILES
    assert (done.returncode, done.stderr) == (0, "")
    assert len(scp.uids) == _FILES
    assert all(scp.uids[uid] == 1 for uid in stored if uid)
    rows = await anyio.to_thread.run_sync(rows_of, ledger)
    assert [row.state for row in rows] == [State.STORED] * _FILES
