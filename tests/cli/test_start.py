"""A signal ends the command with the code of a shell and without a traceback, however early it comes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread
import pydicom
import pytest

from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from tests.support import command
from tests.support.peers import LOOPBACK, free_port

if TYPE_CHECKING:
    from asyncstore.services.storage_scp import Arrival

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

CT = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_IMPORTS = 100  # a start imports more than these

# Sends a signal to itself at the n-th import after the handlers are set: in the middle of other people's code.
SIGNAL_AT_IMPORT = """
import os, runpy, signal, sys
number, n = int(sys.argv.pop(1)), int(sys.argv.pop(1))
imports = 0
def look(event, _):
    global imports
    if event == "import" and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        imports += 1
        if imports == n:
            os.kill(os.getpid(), number)
sys.addaudithook(look)
runpy.run_module("asyncstore", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("n", [1, 2, *random.Random(7).sample(range(3, FIRST_IMPORTS), 3)])
def test_a_signal_while_modules_load_ends_the_process_at_once(number: signal.Signals, n: int) -> None:
    arguments = [str(number.value), str(n), "storescu", LOOPBACK, str(free_port()), str(CT)]
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_IMPORT, *arguments],
        capture_output=True,
        env=command.environment(),
        timeout=command.FINISH_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"")


def test_next_to_nothing_is_loaded_before_signals_are_handled() -> None:
    script = "import asyncstore.__main__, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, env=command.environment(), check=True
    )
    assert not {"typing", "enum", "logging", "importlib.util", "typer", "asyncio"} & set(done.stdout.split())


def test_a_transfer_loads_nothing_of_plans_reports_and_pages() -> None:
    script = (
        "import sys; from asyncstore.cli.app import run_command_line; "
        "run_command_line(sys.argv[1:]); print(*sys.modules)"
    )
    arguments = ["storescu", LOOPBACK, str(free_port()), str(CT)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=command.environment(),
        timeout=command.FINISH_SECONDS,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "asyncstore.cli.sending" in loaded
    of_others = {"pages", "planning", "output.prospect", "output.html_page", "output.ledger_text", "output.screen"}
    assert not {f"asyncstore.cli.{name}" for name in of_others} & loaded
    assert not {"asyncstore.inputs.inventory", "asyncstore.transfer.acceptance", "html", "csv"} & loaded
    assert not {"asyncstore.ledger.opening", "asyncstore.net.provider", "typer.rich_utils"} & loaded


def with_ignored_hang_up(*arguments: str | Path | int) -> list[str]:
    return ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *command.words(*arguments)]


def hung_up_during(*options: str, ignored: bool) -> tuple[int, int]:
    """Send one instance, with a SIGHUP while it is in flight: the exit code, and how many were stored."""

    async def main() -> tuple[int, int]:
        arrived, may_answer = anyio.Event(), anyio.Event()

        async def answer() -> Status:
            arrived.set()
            await may_answer.wait()
            return SUCCESS

        def on_store(_: Arrival) -> object:
            return answer()

        async with StorageSCP(on_store=on_store) as scp:  # type: ignore[arg-type]
            arguments: list[str | Path | int] = ["storescu", LOOPBACK, scp.port, CT, *options]
            words = with_ignored_hang_up(*arguments) if ignored else command.words(*arguments)
            process = subprocess.Popen(words, stderr=subprocess.PIPE, env=command.environment())
            with process, anyio.fail_after(command.FINISH_SECONDS):
                await arrived.wait()
                process.send_signal(signal.SIGHUP)
                if not ignored:
                    await anyio.to_thread.run_sync(_read_until_interrupted, process)
                may_answer.set()
                await anyio.to_thread.run_sync(process.communicate)
            return process.returncode, scp.stored

    return anyio.run(main)


def _read_until_interrupted(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if b"Interrupted" in line:
            return


def test_a_hang_up_finishes_what_is_in_flight() -> None:
    assert hung_up_during("-v", ignored=False) == (129, 1)


def test_a_hang_up_that_was_ignored_at_the_start_is_ignored() -> None:
    assert hung_up_during(ignored=True) == (0, 1)


@pytest.mark.campaign
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_at_any_moment_never_gives_a_traceback_of_ours(number: signal.Signals) -> None:
    """Before our first line runs, the process is Python's: it dies of the signal, or shows where it was."""
    moments = random.Random(number.value)
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(StorageSCP()) as scp:
        for _ in range(100):
            process = command.start("storescu", LOOPBACK, scp.port, CT)
            with process:
                threading.Event().wait(moments.uniform(0, 0.3))
                process.send_signal(number)
                _, stderr = process.communicate(timeout=command.FINISH_SECONDS)
            is_ours = b", in main" in stderr and b'File "<frozen site>"' not in stderr  # site has a main, too
            assert not is_ours, stderr.decode()
            if b"Traceback" not in stderr:  # 0: it had ended before
                assert process.returncode in {128 + number, -number, 0}, stderr.decode()
