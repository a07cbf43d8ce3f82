"""Files that somebody made to do harm: each has a clear outcome, in bounded memory, and moves no cursor anywhere."""

from __future__ import annotations

import csv
import itertools
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest

from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.services.storage_scp import StorageSCP
from tests.support import command, hostile_files
from tests.support.peers import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it makes files and limits of Linux")

# Of private memory that a command may write to: what it needs for good files, and no more than a few buffers.
_MEMORY_BYTES: Final = 400 << 20
_LIMITED: Final = (
    f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({_MEMORY_BYTES},) * 2); "
    "from asyncstore import __main__; __main__.main()"
)
# Line ends are all that may be in an output beside characters that are printed.
_CONTROLS: Final = re.compile(r"[^\n -~\u00a0-\u0377\u2000-\u2027\u2030-\uffff]|\u202e|\u2028")
_LINKS: Final = {
    **dict.fromkeys(("loop", "a", "b", f"dangling{hostile_files.SCREEN}"), "source-problem"),
    **dict.fromkeys(("socket", f"fifo{hostile_files.SCREEN}"), "skipped"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "tree"
    hostile_files.write_tree(folder)
    return folder


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return hostile_files.write_archives(tmp_path_factory.mktemp("hostile") / "archives")


def words(*arguments: str | Path | int) -> list[str]:
    return [sys.executable, "-c", _LIMITED, *map(str, arguments)]


def run(*arguments: str | Path | int) -> tuple[int, str, str]:
    """Run the command with little memory; its exit code, and what it printed, which is safe to look at."""
    done = subprocess.run(
        words(*arguments), capture_output=True, env=command.environment(), timeout=command.FINISH_SECONDS, check=False
    )
    for text in (done.stdout, done.stderr):
        assert_safe(text)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def assert_safe(data: bytes) -> None:
    text = data.decode().replace("\r\n", "\n")
    found = _CONTROLS.search(text)
    assert not found, text[max(0, found.start() - 80) : found.end() + 20]


def beside_scp(*arguments: str | Path) -> tuple[int, str, str]:
    """Run storescu against an SCP in this process that takes everything."""

    async def main() -> tuple[int, str, str]:
        async with StorageSCP(any_class=True) as scp:
            return await anyio.to_thread.run_sync(run, "storescu", LOOPBACK, scp.port, *arguments)

    return anyio.run(main)


def outcomes(report: Path) -> dict[bytes, str]:
    """The state of each path."""
    records = map(json.loads, report.read_text().splitlines())
    return {os.fsencode(record["path"]): record["state"] for record in records}


def expected(tree: Path, way: str) -> dict[bytes, str]:
    cases = hostile_files.cases().items()
    states = {name: case.plain if way == "plain" else case.converted for name, case in cases}
    states |= {os.fsencode(name): state for name, state in _LINKS.items()}
    return {os.path.join(os.fsencode(tree), name): state for name, state in states.items()}


@pytest.mark.parametrize(("way", "options"), [("plain", ()), ("converted", ("-xb",))], ids=["plain", "converted"])
def test_each_file_has_its_outcome_and_every_output_is_safe(
    way: str, options: tuple[str, ...], tree: Path, tmp_path: Path
) -> None:
    report, log = tmp_path / "run.jsonl", tmp_path / "run.log"
    records = ("--report", report, "--log-file", log, "--log-level", "debug", "--summary", "--json")
    code, stdout, _ = beside_scp("-r", *options, *records, tree)
    assert code == 3
    assert outcomes(report) == expected(tree, way)
    assert all(json.loads(line) for line in stdout.splitlines())
    for path in (report, log):
        assert_safe(path.read_bytes())


def test_a_run_with_a_ledger_keeps_the_names_and_shows_them_escaped(tree: Path, tmp_path: Path) -> None:
    ledger, report, page = tmp_path / "run.db", tmp_path / "run.csv", tmp_path / "page.html"
    records = ("--keep-together", "study", "--ledger", ledger, "--report", report)
    assert beside_scp("-r", "-v", *records, tree)[0] == 3
    assert_safe(report.read_bytes())
    with LedgerReader(ledger) as reader:
        rows = {os.fsencode(row.path or ""): row.state.value for row in reader.rows()}
    assert rows == expected(tree, "plain")
    cells = itertools.chain(*csv.reader(report.read_text().splitlines()))
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    for options in ((), ("--csv",), ("--json",), ("--studies",), ("--html", page)):
        assert run("report", *options, ledger)[0] == 0
    text = page.read_text()
    assert_safe(page.read_bytes())
    assert "<script" not in text


def test_a_plan_of_them_sends_nothing_and_is_safe(tree: Path) -> None:
    code, stdout, _ = beside_scp("-r", "--dry-run", tree)
    assert code == 3
    assert "instances" in stdout


@pytest.mark.parametrize("options", [(), ("--json",), ("--csv",), ("--html",)], ids=lambda options: "".join(options))
def test_a_scan_of_them_is_safe(options: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "scan.html"
    code, stdout, _ = run("scan", *options, *((page,) if options == ("--html",) else ()), tree)
    assert code == 3
    assert stdout
    if page.exists():
        assert_safe(page.read_bytes())
        assert "<script" not in page.read_text()


_ARCHIVES: Final = {
    "outside.zip": {"source-problem": 4, "stored": 2},
    "overlapping.zip": {"stored": 1, "source-problem": 1},
    "many.zip": {"skipped": 12, "source-problem": 1},
    "folders.zip": {"source-problem": 1},
    "lying.zip": {"source-problem": 5},
    "outside.tar": {"source-problem": 2, "stored": 1},
    "links.tar": {"skipped": 4, "source-problem": 1, "stored": 1},
    "endless.tar": {"source-problem": 2},
    "endless-names.tar": {"source-problem": 1},
    "long-number.tar": {"source-problem": 1},
    "long-names.tgz": {"source-problem": 2},
    "cut.tgz": {"source-problem": 1, "skipped": 1},
    "outside": {"source-problem": 3},
    "many": {},
    "endless": {"source-problem": 2},
    "deep": {"source-problem": 1},
    "long": {"source-problem": 1},
    "bomb": {"source-problem": 1},
}


@pytest.mark.parametrize("options", [(), ("-xb",), ("--ledger",)], ids=["plain", "converted", "ledger"])
def test_each_archive_has_its_outcomes_and_nothing_outside_is_touched(
    options: tuple[str, ...], archives: list[Path], tmp_path: Path
) -> None:
    report = tmp_path / "run.jsonl"
    more = (*options, tmp_path / "run.db") if options == ("--ledger",) else options
    code, _, _ = beside_scp(*more, "--report", report, *archives)
    assert code == 3
    states = {name: Counter[str]() for name in _ARCHIVES}
    for record in map(json.loads, report.read_text().splitlines()):
        states[archive_of(record["path"])][record["state"]] += 1
    assert states == _ARCHIVES
    assert {each.name.split(".")[0] for each in tmp_path.iterdir()} == {"run"}
    assert len({record["path"] for record in map(json.loads, report.read_text().splitlines())}) == sum(
        counts.total() for counts in states.values()
    )


def archive_of(path: str) -> str:
    """The archive or the directory of media in the path of a member."""
    return path.partition("/archives/")[2].partition("/")[0].removesuffix("!")


def test_a_scan_of_archives_is_safe(archives: list[Path]) -> None:
    code, stdout, _ = run("scan", *archives)
    assert code == 3
    assert "5 instances, " in stdout


def test_on_a_terminal_a_name_moves_no_cursor(tree: Path) -> None:
    async def main() -> bytes:
        async with StorageSCP(any_class=True) as scp:
            arguments = words("storescu", "-r", "-v", "--progress", "--summary", LOOPBACK, scp.port, tree)
            return await anyio.to_thread.run_sync(on_terminal, arguments)

    printed = anyio.run(main)
    assert b"Traceback" not in printed
    assert b"Outcome" in printed
    for hostile_bytes in (b"\x1b[2J", b"\x1b]0;x", b"\x07", b"\xff", "\u202e".encode(), b"\x7f"):
        assert hostile_bytes not in printed
    assert hostile_files.MARKUP.encode() in printed  # as it is, and not as a style


def on_terminal(arguments: list[str]) -> bytes:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=command.environment(TERM="xterm", COLUMNS="300")
        )
        os.close(theirs)
        printed = bytearray()
        ends_at = time.monotonic() + command.FINISH_SECONDS
        while select.select([ours], [], [], max(0, ends_at - time.monotonic()))[0]:
            try:
                printed += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
        process.wait(timeout=command.FINISH_SECONDS)
        return bytes(printed)
    finally:
        os.close(ours)
