"""As many files may be open as the associations need, or nothing is sent."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio.to_thread
import pytest

from asyncstore.services.storage_scp import StorageSCP
from tests.support import command
from tests.support.transfers import write_files

if TYPE_CHECKING:
    from pathlib import Path


def limited(soft: int, hard: int, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that may have so many files open."""
    begin = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    words = [sys.executable, "-c", begin, *command.words(*arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=command.environment(), check=False)


def test_so_many_associations_as_the_system_allows_no_files_for_are_refused(tmp_path: Path) -> None:
    done = limited(64, 128, "storescu", "-j", 100, "127.0.0.1", 104, tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "Error: Invalid value for '-j' / '--associations': -j 100 needs 264 open files, and the system allows"
        " 128: see `ulimit -Hn`"
    )
    assert limited(64, 128, "storescu", "-j", "08:00,2 18:00,100", "127.0.0.1", 104, tmp_path).returncode == 2


@pytest.mark.anyio
async def test_the_limit_is_raised_where_the_associations_need_it(tmp_path: Path) -> None:
    write_files(tmp_path, 300)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    async with StorageSCP() as scp:

        def send() -> subprocess.CompletedProcess[str]:
            return limited(22, hard, "storescu", "-j", 50, "127.0.0.1", scp.port, tmp_path)

        done = await anyio.to_thread.run_sync(send)
    assert done.returncode == 0, done.stderr
    assert scp.stored == 300
