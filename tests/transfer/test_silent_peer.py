"""A peer that takes connections and answers no association request any more, in the middle of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.errors import Timeout
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from tests.support.ledgers import rows_of
from tests.support.transfers import check_account, outcomes_of, peer_at, write_files
from tests.support.wire import ScriptedSCP, Wire, stays_silent

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.every_loop, pytest.mark.timed]

_ACSE_SECONDS = 0.4
_OUTAGE_SECONDS = 2.0


async def test_requests_that_nobody_answers_end_the_run_in_bounded_time_and_number(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", 20)

    def stores_some_and_breaks(wire: Wire) -> None:
        wire.accept()
        for _ in range(5):
            wire.answer(wire.read_store())
        wire.rst()

    options = TransferOptions(
        associations=4,
        timeouts=Timeouts(acse_seconds=_ACSE_SECONDS),
        retry=RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.1, outage_seconds=_OUTAGE_SECONDS),
    )
    with ScriptedSCP(stores_some_and_breaks, stays_silent) as scp:
        transfer = Transfer(peer_at(scp), paths, options=options, ledger=tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
        connections = len(scp.wires)
    check_account(transfer, outcomes)
    assert isinstance(transfer.report.stopped_because, Timeout)
    assert transfer.report.stored == 5
    assert transfer.report.stored + transfer.report.left + transfer.report.states[State.UNKNOWN] == 20
    # One after another, each for its own deadline; up to three more were tried beside the first.
    assert 2 <= connections <= 1 + 3 + 2 * _OUTAGE_SECONDS / _ACSE_SECONDS
    assert transfer.report.elapsed_seconds < 30
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert sum(row.state is State.STORED for row in rows) == 5
