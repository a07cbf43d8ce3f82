"""A transfer that is cancelled anywhere: its ledger is closed and true, and the next one finishes the rest."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from asyncstore.instances.outcome import State
from asyncstore.net.transport import ABORT_SECONDS
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import TransferOptions
from tests.support.kept import Kept, assert_all_arrived
from tests.support.ledgers import rows_of
from tests.support.transfers import QUICK, KeepingSCP, outcomes_of, peer_at, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.instances.outcome import Outcome

pytestmark = pytest.mark.every_loop

_FILES = 12
# A loop that never rests keeps threads from the interpreter, for 5 ms each time that one of them asks for it.
_TURNS_PER_REST = 16


def turns_to_try() -> Iterator[int]:
    """Turns of the event loop, at growing distances: threads take any number of them."""
    turns = 0
    while turns < 100_000:
        yield turns
        turns += 1 + turns // 12


def transfer_of(scp: KeepingSCP, sources: Path, ledger: Path) -> Transfer:
    return Transfer(
        peer_at(scp), sources, options=TransferOptions(associations=2, window=4, retry=QUICK), ledger=ledger
    )


async def run_until(transfer: Transfer, turns: int, outcomes: list[Outcome]) -> None:
    """Cancel a transfer after so many turns of the event loop."""

    async def read() -> None:
        async with transfer:
            async for outcome in transfer:
                outcomes.append(outcome)  # noqa: PERF401  (a list of them would be lost)

    with anyio.fail_after(2 * ABORT_SECONDS), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for turn in range(1, turns + 1):
                await anyio.lowlevel.checkpoint()
                if turn % _TURNS_PER_REST == 0:
                    await anyio.to_thread.run_sync(int)
            scope.cancel()


async def test_cancelled_at_any_turn_the_ledger_is_closed_and_true_and_the_rest_is_sent_by_the_next(
    tmp_path: Path,
) -> None:
    sources = [Kept.at(Path(path)) for path in write_files(tmp_path / "in", _FILES, padding_bytes=80_000)]
    stored_when_cancelled: Counter[int] = Counter()
    for turns in turns_to_try():
        place = tmp_path / str(turns)
        (place / "kept").mkdir(parents=True)
        ledger = place / "run.db"
        outcomes: list[Outcome] = []
        async with KeepingSCP(output_directory=place / "kept") as scp:
            await run_until(transfer_of(scp, tmp_path / "in", ledger), turns, outcomes)
            assert not os.path.exists(f"{ledger}-lock")
            rows = await anyio.to_thread.run_sync(rows_of, ledger) if ledger.exists() else []
            stored = {row.sop_instance_uid for row in rows if row.state is State.STORED}
            assert len(rows) <= _FILES
            assert stored <= scp.uids.keys()
            handed_out = {outcome.instance.sop_instance_uid for outcome in outcomes if outcome.instance is not None}
            assert handed_out <= stored
            stored_when_cancelled[len(stored)] += 1
            again = transfer_of(scp, tmp_path / "in", ledger)
            await outcomes_of(again)
            assert again.report.stored == _FILES
            assert all(scp.uids[uid] == 1 for uid in stored if uid)
        assert assert_all_arrived(sources, [Kept.at(path) for path in (place / "kept").iterdir()]) == _FILES
        if len(stored) == _FILES:
            break
    assert stored_when_cancelled[0]
    assert stored_when_cancelled[_FILES] == 1
