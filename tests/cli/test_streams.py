"""Whatever becomes of stdin, stdout and stderr, the exit code says what was done."""

from __future__ import annotations

import os
import re
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from tests.support import command
from tests.support.peers import LOOPBACK, free_port
from tests.support.transfers import write_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

_FILES = 20


def sent_while_stderr_goes(directory: Path, channel: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Send files with a progress bar, whose reader leaves before the first answer; gives the code and what arrived."""
    write_files(directory, _FILES)

    async def main() -> tuple[int, int]:
        arrived, may_answer = anyio.Event(), anyio.Event()

        async def answer(arrival: Arrival) -> Status:
            arrived.set()
            await may_answer.wait()
            return SUCCESS

        async with StorageSCP(on_store=answer) as scp:
            ours, theirs = channel()
            process = subprocess.Popen(
                command.words("storescu", LOOPBACK, scp.port, "-v", "--progress", directory),
                stdin=subprocess.DEVNULL,
                stderr=theirs,
                env=command.environment(TERM="xterm"),
            )
            try:
                os.close(theirs)
                with anyio.fail_after(command.FINISH_SECONDS):
                    await arrived.wait()
                    os.close(ours)
                    may_answer.set()
                    code = await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            finally:
                process.kill()
                process.wait()
            return code, scp.stored

    return anyio.run(main)


@pytest.mark.parametrize("channel", [os.openpty, os.pipe], ids=["terminal", "pipe"])
def test_a_bar_that_nobody_sees_any_more_is_lost_and_the_run_goes_on(
    tmp_path: Path, channel: Callable[[], tuple[int, int]]
) -> None:
    assert sent_while_stderr_goes(tmp_path, channel) == (0, _FILES)


def run_in_shell(redirection: str, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """Run `asyncstore` with a redirection of the shell, such as `2>/dev/full` or `>&-`."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command.words(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=command.environment(),
        timeout=command.FINISH_SECONDS,
        check=False,
    )


def sent_in_shell(
    redirection: str, directory: Path, *options: str | Path
) -> tuple[subprocess.CompletedProcess[str], StorageSCP]:
    """Send files with a redirection of the shell; gives what came of it, and the SCP."""
    write_files(directory, _FILES)

    async def main() -> tuple[subprocess.CompletedProcess[str], StorageSCP]:
        async with StorageSCP() as scp:
            sending = partial(run_in_shell, redirection, "storescu", LOOPBACK, scp.port, directory, *options)
            return await anyio.to_thread.run_sync(sending), scp

    return anyio.run(main)


def test_a_log_that_cannot_be_written_is_lost_and_the_run_goes_on(tmp_path: Path) -> None:
    done, scp = sent_in_shell("2>/dev/full", tmp_path, "-v", "--progress")
    assert (done.returncode, scp.stored) == (0, _FILES)


def test_a_mistake_that_cannot_be_told_is_still_code_2() -> None:
    assert run_in_shell("2>/dev/full", "storescu", "host").returncode == 2


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_from_the_start_is_not_missed(tmp_path: Path, redirection: str) -> None:
    done, scp = sent_in_shell(redirection, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert scp.stored == _FILES


def test_a_closed_stdin_names_no_files() -> None:
    done = run_in_shell("<&-", "storescu", LOOPBACK, free_port(), "--files-from", "-")
    assert (done.returncode, done.stderr) == (5, "E: Nothing to send: no path was given\n")


def test_records_for_a_closed_stdout_are_code_6(tmp_path: Path) -> None:
    done, _ = sent_in_shell(">&-", tmp_path, "--json")
    assert done.returncode == 6
    assert done.stderr.startswith("E: cannot write to stdout: Bad file descriptor\n")


def test_a_ledger_says_that_the_run_stopped_for_want_of_a_stdout(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    ledger = tmp_path / "run.db"
    slowly = ("-j", "1", "-w", "1", "--bwlimit", "1k")  # so that the run does not end before the loss is known
    done, _ = sent_in_shell(">/dev/full", tmp_path / "in", *slowly, "--json", "--summary", "--ledger", ledger)
    assert done.returncode == 6
    assert done.stderr.count("cannot write to stdout: No space left on device") == 1
    assert re.search("^E: Stopped early[;,]", done.stderr, re.MULTILINE)
    assert "Next         to resume:" in done.stderr
    with LedgerReader(ledger) as reader:
        (run,) = reader.runs()
    assert run.stopped == "cannot write to stdout: No space left on device"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("storescu", "--help"), ("scan", "no-such-file"), ("demo", "-q")]
)
def test_results_that_cannot_be_written_are_code_6(arguments: tuple[str, ...], redirection: str) -> None:
    done = run_in_shell(redirection, *arguments)
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("arguments", [("-h",), ("storescu", "-h"), ("man",)])
def test_help_whose_reader_has_gone_is_code_6(arguments: tuple[str, ...]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        command.words(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=command.environment(),
        timeout=command.FINISH_SECONDS,
        check=False,
    )
    os.close(theirs)
    assert done.returncode == 6
    assert b"Traceback" not in done.stderr
