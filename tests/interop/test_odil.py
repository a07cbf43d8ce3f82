"""odil answers each C-STORE in the last presentation context of its SOP class."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from asyncstore.net.trace import AnsweredAmiss
from asyncstore.transfer.options import RetryPolicy
from tests.support.peers import odil_scp
from tests.support.transfers import check_account, outcomes_of, transfer_to, uid_of, write_files

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_its_answers_in_another_context_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "asyncstore")
    paths = write_files(tmp_path / "in", 20, study="1.2.3")
    # Its port is closed for a moment after each connection.
    retry = RetryPolicy(retries_at_start=100, first_wait_seconds=0.05, cap_seconds=0.1, outage_seconds=15)
    with odil_scp(tmp_path / "odil") as scp:
        transfer = transfer_to(scp, tmp_path / "in", associations=1, retry=retry)
        outcomes = await outcomes_of(transfer)
        kept = {path.name for path in scp.received_files()}
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 20
    assert kept == {uid_of(number) for number in range(1, 21)}
    told = [record.msg for record in caplog.records if isinstance(record.msg, AnsweredAmiss)]
    assert len(told) == transfer.report.associations_established
