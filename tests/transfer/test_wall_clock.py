"""The wall clock jumps: deadlines, waits and rates are monotonic, and only the times in the ledger follow it."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import Timeout
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts
from asyncstore.net.provider import NO_ANSWER
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.options import RetryPolicy
from tests.support.transfers import KeepingSCP, check_account, instance, outcomes_of, transfer_to, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

pytestmark = [pytest.mark.every_loop, pytest.mark.timed]

_YEAR_SECONDS = 365 * 86400.0


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the wall clock is a year before or after the last one."""
    now = time.time()
    jumps = itertools.cycle([_YEAR_SECONDS, -_YEAR_SECONDS, 20 * _YEAR_SECONDS, 0.0])
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int((now + next(jumps)) * 1e9))


@pytest.mark.usefixtures("jumping_clock")
async def test_no_deadline_and_no_wait_follows_the_wall_clock(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 50)
    answers = itertools.count(1)

    def answer(arrival: Arrival) -> Any:
        return Status(0xA700) if next(answers) % 20 == 0 else SUCCESS

    async with KeepingSCP(answer) as scp:
        transfer = transfer_to(scp, tmp_path, associations=2)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 50
    assert transfer.report.associations_established <= 2
    assert 0 < transfer.report.elapsed_seconds < 100


@pytest.mark.usefixtures("jumping_clock")
async def test_a_deadline_still_comes_when_the_wall_clock_jumps() -> None:
    retry = RetryPolicy(retries=0)
    async with KeepingSCP(lambda _: NO_ANSWER) as scp:
        transfer = transfer_to(scp, instance(), retry=retry, timeouts=Timeouts(dimse_seconds=0.2))
        (outcome,) = await outcomes_of(transfer)
    assert outcome.state is State.UNKNOWN
    assert isinstance(outcome.error, Timeout)
    assert 0.2 <= transfer.report.elapsed_seconds < 100
