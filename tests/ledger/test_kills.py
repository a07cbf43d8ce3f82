"""kill -9 at any moment: everything that was flushed is there, and the next run goes on from it."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore.instances.outcome import State
from tests.support.ledgers import opened, path_of, rows_of, uid_of

if TYPE_CHECKING:
    from typing import IO

ROOT = Path(__file__).parents[2]


def write_and_kill(path: str | Path, first: int, lines: int) -> tuple[int, int]:
    """Have a process write from number `first` on, kill it, and return what it has flushed for sure, and may have."""
    command = [sys.executable, "-m", "tests.support.ledgers", str(path), str(first)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        output: IO[str] | None = process.stdout
        assert output is not None
        # Killed as soon as the last of these lines is read: the process is anywhere in writing what comes after it.
        flushed = [int(output.readline()) for _ in range(lines)]
        process.kill()
        # What it still told, and a line that it began.
        flushed += [int(line) for line in output.read().splitlines(keepends=True) if line.endswith("\n")]
    return flushed[-1], flushed[-1] + 900


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_ledger_has_everything_that_was_flushed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "run.db"
    number = 0
    for run in range(1, 4):
        number, at_most = write_and_kill(path, number, rng.randrange(1, 9))
        rows = rows_of(path)
        assert number <= len(rows) <= at_most
        assert [row.path for row in rows] == [path_of(each) for each in range(len(rows))]
        assert {row.state for row in rows} <= {State.STORED}
        number = len(rows)
        with opened(path) as ledger:  # as the next run does, with all that it puts right
            assert all(ledger.known_instance(uid_of(each)) for each in rng.sample(range(number), min(number, 200)))
            assert ledger.known_instance(uid_of(number)) is None
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM hashed").fetchone() == (2 * number,)
        assert connection.execute("SELECT count(*), count(finished_at) FROM run").fetchone() == (2 * run, run)
        connection.close()
