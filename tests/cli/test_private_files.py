"""Only the owner can read what a run writes about patients' files, and everybody its numbers."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from asyncstore.services.storage_scp import StorageSCP
from tests.support import command
from tests.support.peers import LOOPBACK
from tests.support.transfers import write_files

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no modes")


def mode_of(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def send(source: Path, *arguments: str | Path) -> int:
    async def main() -> int:
        async with StorageSCP() as scp:
            words = ("storescu", LOOPBACK, scp.port, "-r", *arguments, source)
            return (await anyio.to_thread.run_sync(lambda: command.run(*words))).returncode

    umask = os.umask(0o022)
    try:
        return anyio.run(main)
    finally:
        os.umask(umask)


def test_a_run_makes_files_for_the_owner_only(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 2)
    names = ("run.db", "run.csv", "run.log", "run.prom", "run.html")
    ledger, report, log, metrics, page = (tmp_path / name for name in names)
    files = ("--ledger", ledger, "--report", report, "--log-file", log, "--metrics-file", metrics)
    assert send(tmp_path / "in", *files) == 0
    assert command.run("report", "--html", page, ledger).returncode == 0
    modes = {path.name: mode_of(path) for path in tmp_path.iterdir() if path.is_file()}
    assert modes.pop("run.prom") == "0o644"
    assert set(modes) >= {"run.db", "run.csv", "run.log", "run.html"}
    assert set(modes.values()) == {"0o600"}


@pytest.mark.parametrize("mode", [0o640, 0o600])
def test_a_report_and_a_page_that_are_there_keep_their_mode(mode: int, tmp_path: Path) -> None:
    write_files(tmp_path / "in", 1)
    ledger, report, page = tmp_path / "run.db", tmp_path / "run.jsonl", tmp_path / "run.html"
    assert send(tmp_path / "in", "--ledger", ledger, "--report", report) == 0
    assert command.run("report", "--html", page, ledger).returncode == 0
    report.chmod(mode)
    page.chmod(mode)
    assert send(tmp_path / "in", "--report", report) == 0
    assert command.run("report", "--html", page, ledger).returncode == 0
    assert {mode_of(report), mode_of(page)} == {oct(mode)}
