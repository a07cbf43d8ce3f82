"""Watching a run: on a terminal it leaves nothing behind, off it a line now and then; and every count is true."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pyte
import pytest

from asyncstore.cli.counting import InputCount
from asyncstore.cli.output.documented_log import QUIET, DocumentedLog
from asyncstore.cli.output.report_text import instances_left_text
from asyncstore.cli.watching import Watch
from asyncstore.inputs.count import Request
from asyncstore.instances.outcome import State
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.report import Report
from tests.support import command
from tests.support.peers import LOOPBACK
from tests.support.transfers import on_one_loop, write_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


_WITH_MANY_LINES = (
    "from asyncstore import __main__; from asyncstore.cli import watching; watching._INSTEAD_SECONDS = 0.05; "
    "__main__.main()"
)


class HeldSCP(StorageSCP):
    """An SCP that answers the first instances, and the others only after `release`."""

    def __init__(self, answered: int) -> None:
        super().__init__(on_store=self._answer)
        self._answered = answered
        self._released = anyio.Event()

    def release(self) -> None:
        self._released.set()

    async def _answer(self, _: Arrival) -> Status:
        self._answered -= 1
        if self._answered < 0:
            await self._released.wait()
        return SUCCESS


class Shell:
    """An interactive shell on a terminal of 80 columns and 24 rows."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self._screen = pyte.Screen(80, 24)
        self._emulator = pyte.ByteStream(self._screen)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, "bash", "--norc", "--noprofile", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=command.environment(TERM="xterm", LANG="C.UTF-8", LC_ALL="", COLUMNS="", PS1="$ "),
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def run(self, *arguments: str | Path | int) -> None:
        words = " ".join(command.words(*arguments))
        self.type(f"clear; {words}\n")

    def wait_for(self, *patterns: str) -> str:
        """The screen, as soon as it shows something like all of that: a frame may come in pieces."""
        ends_at = time.monotonic() + command.FINISH_SECONDS
        while not all(re.search(pattern, self.text) for pattern in patterns):
            assert time.monotonic() < ends_at, self.text
            if select.select([self._ours], [], [], 1.0)[0]:
                self._emulator.feed(os.read(self._ours, 65536))
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self._screen.display).rstrip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


async def on_shell(directory: Path, act: Callable[[Shell, Callable[[], None]], None], *options: str) -> int:
    """Send 50 files from a shell, the last 40 unanswered until `act` calls its second argument; what was stored."""
    write_files(directory, 50)
    async with HeldSCP(10) as scp:
        shell = Shell()
        try:
            shell.wait_for(r"\$")
            shell.run("storescu", LOOPBACK, scp.port, *options, directory)
            await anyio.to_thread.run_sync(act, shell, lambda: anyio.from_thread.run_sync(scp.release))
        finally:
            shell.close()
        return scp.stored


@on_one_loop
async def test_ctrl_z_takes_the_display_away_and_fg_brings_it_back(tmp_path: Path) -> None:
    def act(shell: Shell, release: Callable[[], None]) -> None:
        shell.wait_for(r"10/50 instances(.|\n)*\[1\] ")
        shell.type("\x1a")
        stopped = shell.wait_for(r"Stopped(.|\n)*\$$")
        assert "elapsed" not in stopped
        shell.type("fg\n")
        again = shell.wait_for("10/50 instances", "elapsed")
        assert again.count("elapsed") == 1
        release()
        end = shell.wait_for("Exit code    0: everything is stored", "50  stored")
        assert "elapsed" not in end
        assert "50  stored" in end

    assert await on_shell(tmp_path, act) == 50


@on_one_loop
async def test_ctrl_c_leaves_the_log_and_the_summary_and_nothing_else(tmp_path: Path) -> None:
    def act(shell: Shell, release: Callable[[], None]) -> None:
        shell.wait_for("10/50 instances")
        shell.type("\x03")
        stopping = shell.wait_for("Stopping: [0-9]+ answers? to come", "elapsed")
        assert stopping.count("elapsed") == 1
        shell.type("\x03")
        end = shell.wait_for("Exit code    130: interrupted by Ctrl-C", "40 instances left\n")
        assert "elapsed" not in end
        assert "^C" not in end
        assert (
            "W: Interrupted: finishing what is in flight; once more aborts it\nW: Interrupted again: aborting\n" in end
        )
        assert "Stopped early; 40 instances left: run it again" in end
        assert "40 instances left\n" in end

    assert await on_shell(tmp_path, act, "-j1") == 10


@on_one_loop
@pytest.mark.parametrize("options", [(), ("--exclude", "*.txt")])
async def test_all_counts_of_a_run_cut_short_are_those_of_the_peer(options: tuple[str, ...], tmp_path: Path) -> None:
    """The input is longer than the read-ahead: what is left is known because it was counted ahead."""
    write_files(tmp_path / "in", 3000)
    if options:
        (tmp_path / "in" / "notes.txt").touch()
    async with HeldSCP(50) as scp:
        arguments = ("--json", "--stats", "0.1", "--ledger", tmp_path / "run.db", tmp_path / "in")
        process = command.start("storescu", LOOPBACK, scp.port, *options, *arguments)
        lines: list[str] = []

        def read_until_counted() -> None:
            assert process.stderr is not None
            while "50/3,000 instances, " not in (lines or [""])[-1]:
                lines.append(process.stderr.readline().decode())
                assert lines[-1]

        try:
            await anyio.to_thread.run_sync(read_until_counted)
            process.send_signal(signal.SIGINT)
            scp.release()
            stdout, stderr = await anyio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
            process.wait()
        summary = json.loads(stdout.splitlines()[-1])
        assert summary["exit_code"] == process.returncode == 130
        assert summary["stored"] == scp.stored == summary["states"]["stored"]
        assert sum(summary["sop_classes"].values()) == scp.stored
        assert summary["input_files"] == 3000
        assert f"the input was not read to its end, {3000 - scp.stored:,} instances left" in stderr.decode()
        assert all(line.startswith("I: ") for line in lines)
        reported = json.loads(command.run("report", "--json", tmp_path / "run.db").stdout)
        assert reported["states"]["stored"] == scp.stored


@on_one_loop
@pytest.mark.parametrize("options", [("--no-count",), ("--include", "*", "--archives")])
async def test_without_a_count_a_run_cut_short_knows_only_what_it_has_read(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write_files(tmp_path, 3000)
    async with HeldSCP(100) as scp:
        process = command.start("storescu", LOOPBACK, scp.port, *options, "--stats", "0.1", tmp_path)

        def read_until_held() -> None:
            assert process.stderr is not None
            seen = 0
            while seen < 30:  # a count would begin after ten
                line = process.stderr.readline()
                assert line
                seen += b"100 of at least " in line
                assert b"I: 100/" not in line

        try:
            await anyio.to_thread.run_sync(read_until_held)
            process.send_signal(signal.SIGINT)
            scp.release()
            stderr = (await anyio.to_thread.run_sync(process.communicate))[1].decode()
        finally:
            process.kill()
            process.wait()
        assert re.search(r"the input was not read to its end, at least [0-9,]+ instances left", stderr)


@pytest.mark.parametrize(("archives_opened", "text"), [(0, "8 instances left"), (1, "at least 2 instances left")])
def test_what_was_counted_is_left_unless_files_were_archives(archives_opened: int, text: str) -> None:
    count = InputCount(Request([], False))
    count.entries, count.is_complete = 10, True
    states = Counter({State.STORED: 2, State.LEFT: 2})
    assert instances_left_text(Report(found=4, states=states, archives_opened=archives_opened), count) == text


@on_one_loop
async def test_a_log_file_has_what_the_terminal_does_not_show(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 3)
    log = tmp_path / "in" / "run.log"  # among the files that are sent
    async with StorageSCP() as scp:
        arguments = ("storescu", LOOPBACK, scp.port, "--log-file", log, tmp_path / "in")
        done = await anyio.to_thread.run_sync(lambda: command.run(*arguments))
        assert (done.returncode, done.stderr, scp.stored) == (0, "", 3)
        text = log.read_text()
        assert text.count(" I: Received Store Response (") + text.count("] Received Store Response (") == 3
        assert "I: 3 instances stored (" in text
        assert "run.log" not in text


def test_a_log_file_that_cannot_be_written_is_code_6_before_anything_is_sent(tmp_path: Path) -> None:
    done = command.run("storescu", LOOPBACK, 1, "--log-file", tmp_path / "no" / "log", tmp_path)
    assert done.returncode == 6
    assert done.stderr == f"E: cannot write the log {tmp_path / 'no' / 'log'}: No such file or directory\n"


def test_the_log_is_no_other_file_of_the_run(tmp_path: Path) -> None:
    for option in ("--ledger", "--report"):
        name = tmp_path / "one.csv"
        done = command.run("storescu", LOOPBACK, 1, "--log-file", name, option, name, tmp_path)
        assert (done.returncode, name.exists()) == (2, False)
        assert "the log must be a file of its own" in done.stderr


@on_one_loop
async def test_a_table_ends_a_run_off_a_terminal_if_it_is_asked_for(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    async with StorageSCP() as scp:
        done = await anyio.to_thread.run_sync(
            lambda: command.run("storescu", LOOPBACK, scp.port, "--summary", tmp_path)
        )
    assert done.stderr.startswith("Outcome      3  stored\nSent         ")
    assert done.stderr.endswith("Exit code    0: everything is stored\n")


@on_one_loop
async def test_a_run_that_goes_on_says_after_what(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 2)
    async with StorageSCP() as scp:
        arguments = ("storescu", LOOPBACK, scp.port, "-v", "--ledger", tmp_path / "run.db", tmp_path / "in")
        first, second = [await anyio.to_thread.run_sync(lambda: command.run(*arguments)) for _ in range(2)]
    assert "Resuming" not in first.stderr
    told = r"I: Resuming after 1 run, the last one finished [0-9: -]+\nI: Recorded so far: 2 stored\n"
    assert re.match(told, second.stderr)


@on_one_loop
async def test_progress_that_is_asked_for_off_a_terminal_is_a_line_now_and_then(tmp_path: Path) -> None:
    write_files(tmp_path, 20)
    async with HeldSCP(10) as scp:
        arguments = ["storescu", LOOPBACK, str(scp.port), "--progress", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_MANY_LINES, *arguments], stderr=subprocess.PIPE, env=command.environment()
        )

        def read_until_held() -> None:
            assert process.stderr is not None
            while b"I: 10/20 instances, " not in (line := process.stderr.readline()):
                assert line

        try:
            await anyio.to_thread.run_sync(read_until_held)
            scp.release()
            await anyio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, scp.stored) == (0, 20)


@pytest.mark.parametrize(
    ("level", "is_terminal", "progress", "stats", "expected"),
    [
        (logging.ERROR, True, None, None, Watch(True, None)),
        (logging.INFO, True, None, None, Watch(True, None)),
        (logging.ERROR, True, None, 5.0, Watch(True, 5.0)),
        (logging.ERROR, True, False, None, Watch(False, None)),
        (logging.INFO, True, False, None, Watch(False, 60.0)),
        (logging.ERROR, False, None, None, Watch(False, None)),
        (logging.INFO, False, None, None, Watch(False, 60.0)),
        (logging.INFO, False, None, 5.0, Watch(False, 5.0)),
        (logging.ERROR, False, True, None, Watch(False, 10.0)),
        (QUIET, True, True, 5.0, Watch(False, None)),
    ],
)
def test_a_display_on_a_terminal_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    level: int,
    is_terminal: bool,
    progress: bool | None,
    stats: float | None,
    expected: Watch,
) -> None:
    monkeypatch.setattr("asyncstore.cli.output.screen.is_capable", lambda _: is_terminal)
    assert Watch.of(DocumentedLog(level), progress=progress, stats_seconds=stats) == expected


@pytest.mark.parametrize(("progress", "stats_seconds"), [(None, 10.0), (True, 10.0), (False, None)])
def test_a_terminal_that_cannot_draw_gets_lines(
    monkeypatch: pytest.MonkeyPatch, progress: bool | None, stats_seconds: float | None
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    watch = Watch.of(DocumentedLog(logging.ERROR), progress=progress, stats_seconds=None)
    assert watch == Watch(False, stats_seconds)
