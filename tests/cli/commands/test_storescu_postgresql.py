"""`asyncstore storescu --ledger postgresql://...`, and the commands that read such a ledger."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support import command
from tests.support.peers import LOOPBACK, free_port
from tests.support.places import DatabasePlace
from tests.support.transfers import KeepingSCP, on_one_loop, uid_of, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgresql import Cluster


async def run(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    return await anyio.to_thread.run_sync(lambda: command.run(*arguments))


@on_one_loop
async def test_the_same_command_again_sends_nothing_and_says_what_is_there(tmp_path: Path, database: str) -> None:
    write_files(tmp_path / "in", 20)
    async with KeepingSCP() as scp:
        arguments = ("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", database)
        plan = await run(*arguments, "--dry-run")
        first = await run(*arguments)
        write_files(tmp_path / "in", 1, first=21)
        later_plan = await run(*arguments, "--dry-run")
        again = await run(*arguments, "-v")
        assert (again.returncode, scp.uids) == (0, {uid_of(number): 1 for number in range(1, 22)}), again.stderr
    assert (first.returncode, first.stderr) == (0, "")
    assert "I: Resuming after 1 run, the last one finished" in again.stderr
    assert "I: Recorded so far: 20 stored\n" in again.stderr
    assert ", 20 stored by an earlier run\n" in again.stderr
    assert plan.returncode == 0
    assert later_plan.stdout.startswith("20 instances stored by an earlier run: not sent again\n")


@on_one_loop
async def test_it_is_reported_and_verified_like_a_file(tmp_path: Path, database: str) -> None:
    write_files(tmp_path / "in", 5, study="7")
    (tmp_path / "in" / "notes.txt").write_text("none")
    reports = {}
    async with KeepingSCP() as scp:
        for name in (database, tmp_path / "run.db"):
            await run("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", name)
            reports[name] = await run("report", name, "--json")
            page = await run("report", name, "--html", tmp_path / "page.html")
            assert page.returncode == 0
            rows = await run("report", name, "--csv")
            assert rows.stdout.count("\n") == 1 + 6
    in_database, in_file = (json.loads(each.stdout) for each in reports.values())
    for each in (in_database, in_file):
        for varying in ("created_at", "runs"):
            del each[varying]
    assert in_database == in_file
    assert in_database["states"] == {"stored": 5, "skipped": 1}


@on_one_loop
async def test_a_server_that_restarts_in_the_middle_costs_nothing(tmp_path: Path, cluster: Cluster) -> None:
    write_files(tmp_path / "in", 400)
    dsn = cluster.new_database()
    received = anyio.Event()

    async with KeepingSCP() as scp:

        async def restart() -> None:
            while not scp.uids:
                await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(cluster.restart, "immediate")
            received.set()

        async with anyio.create_task_group() as group:
            group.start_soon(restart)
            done = await run("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", dsn, "--bwlimit", "100K")
        assert received.is_set()
        assert (done.returncode, done.stderr) == (0, "")
        assert len(scp.uids) == 400
    rows = await anyio.to_thread.run_sync(DatabasePlace(dsn).rows)
    assert len(rows) == 400


@on_one_loop
async def test_an_interrupt_while_the_server_is_away_ends_the_run(tmp_path: Path, cluster: Cluster) -> None:
    write_files(tmp_path / "in", 300)
    dsn = cluster.new_database()
    async with KeepingSCP() as scp:
        arguments = ("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", dsn, "--bwlimit", "3K")
        with command.start(*arguments) as process:
            while len(scp.uids) < 5:
                await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(cluster.stop)
            process.send_signal(signal.SIGINT)
            _, stderr = await anyio.to_thread.run_sync(process.communicate, None, 50)
        assert process.returncode == 6
        assert b"cannot be written" in stderr
        assert b"Traceback" not in stderr
        await anyio.to_thread.run_sync(cluster.start)
        done = await run(*arguments[:-2])
        assert done.returncode == 0
        assert len(scp.uids) == 300
    rows = await anyio.to_thread.run_sync(DatabasePlace(dsn).rows)
    assert len(rows) == 300


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--ledger", "postgresql://u:hunter2@h/d"], 2, "PGPASSFILE"),
        (["--ledger", "postgresql://h/d?password=hunter2"], 2, "PGPASSFILE"),
        (["--ledger", "postgresql://h/d", "--rebind", "/a=/b"], 2, "a ledger in a file"),
        (["--ledger", "postgresql://h/d", "--commit"], 2, "a ledger in a file"),
        (
            ["--ledger", "postgresql://127.0.0.1:1/d"],
            6,
            "E: the database 'postgresql://127.0.0.1:1/d' cannot be opened",
        ),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: list[str], code: int, what: str) -> None:
    write_files(tmp_path / "in", 1)
    done = command.run("storescu", LOOPBACK, free_port(), tmp_path / "in", *arguments)
    assert done.returncode == code
    assert what in done.stderr.replace("\n│ ", " ")
    assert "hunter2" not in done.stderr


def test_a_report_on_a_database_that_is_not_there_is_one_line() -> None:
    done = command.run("report", "postgresql://127.0.0.1:1/d")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("E: the database 'postgresql://127.0.0.1:1/d' cannot be read: ")
    assert done.stderr.count("\n") == 1


def test_nothing_of_it_is_loaded_where_the_ledger_is_a_file(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 1)
    program, *arguments = command.words("storescu", LOOPBACK, free_port(), tmp_path / "in", "--ledger", tmp_path / "db")
    done = subprocess.run(
        [program, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        env=command.environment(),
        check=False,
    )
    assert "asyncstore.ledger.sqlite.ledger" in done.stderr
    assert "asyncpg" not in done.stderr
    assert "asyncstore.ledger.postgresql" not in done.stderr
