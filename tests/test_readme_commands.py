"""The commands of the README are run as it has them, and print what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.uids import CT_IMAGE_STORAGE, STUDY_ROOT_FIND
from tests.inputs.test_dicomdir import write_dicomdir
from tests.support import command, files
from tests.support.archive import Archive as QueryArchive
from tests.support.peers import free_port
from tests.support.transfers import write_files
from tests.test_readme import README

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"
# What differs from run to run, and between this small archive and the README's.
_VARIES: Final = (
    (re.compile(r"/mnt/old/\S+/\S+\.dcm"), "FILE"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\d[\d,.]* (bytes|[kMG]B)(/s)?"), r"SIZE\2"),
    (re.compile(r"\d[\d,.]* s\b"), "SECONDS"),
    (re.compile(r"(?<![(.\w])\d[\d,]*(?![\w.])"), "N"),
    (re.compile(r"\bstud(y|ies)\b"), "studies"),
    (re.compile(r"\bpatients?\b"), "patients"),
    (re.compile(r"\binstances?\b"), "instances"),
    (re.compile(r"\bassociations?\b"), "associations"),
    (re.compile(r" +"), " "),
)


def blocks(language: str) -> list[str]:
    """The blocks of the README in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def plain(line: str) -> str:
    """A line without what differs."""
    for pattern, stand_in in _VARIES:
        line = pattern.sub(stand_in, line)
    return line.strip()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of `asyncstore storescp --ignore`."""
    number = free_port()
    process = command.start("storescp", number, "-v", "-ba", "127.0.0.1", "--ignore")
    assert process.stderr is not None
    assert b"istening" in process.stderr.readline()
    yield number
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=command.FINISH_SECONDS)


class Shell:
    """Runs lines of the README in `directory`, with `old` there for /mnt/old, and another port."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port
        program = directory / "bin" / "asyncstore"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m asyncstore "$@"\n')
        program.chmod(0o755)

    def call(self, port: int) -> None:
        """Call the peer on this port from now on."""
        self._port = port

    def remove(self, name: str) -> None:
        """Delete a file."""
        (self._directory / name).unlink()

    def pack(self) -> None:
        """Make the archives and the medium that the README sends."""
        old = self._directory / "old"
        shutil.copy(next((old / "sc").iterdir()), old / "scan.dcm")
        with zipfile.ZipFile(self._directory / "study.zip", "w") as archive:
            archive.write(old / "scan.dcm", "1.dcm")
        with tarfile.open(self._directory / "backup.tar.gz", "w:gz") as tar:
            tar.add(old / "scan.dcm", "2.dcm")
        write_dicomdir(self._directory / "cd", [["IM1"]])
        shutil.copy(old / "scan.dcm", self._directory / "cd" / "IM1")

    def run(self, line: str) -> tuple[int, list[str]]:
        """Run a line; the exit code, and the lines of both outputs without what differs."""
        for theirs, ours in {
            "/mnt/old": f"{self._directory}/old",
            "/media/cd": f"{self._directory}/cd",
            "11112": str(self._port),
        }.items():
            line = line.replace(theirs, ours)
        variables = command.environment(
            PATH=f"{self._directory}/bin{os.pathsep}{os.environ['PATH']}", ASYNCSTORE_SUMMARY="1"
        )
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            capture_output=True,
            text=True,
            cwd=self._directory,
            env=variables,
            timeout=command.FINISH_SECONDS,
            check=False,
        )
        output = f"{done.stdout}{done.stderr}".replace(f"{self._directory}/old", "/mnt/old").replace("python -m ", "")
        return done.returncode, [plain(each) for each in output.splitlines()]


@pytest.fixture
def shell(tmp_path: Path, port: int) -> Shell:
    """A shell beside an archive like the README's: CT images, one JPEG 2000, one text file and one cut off."""
    old = tmp_path / "old"
    write_files(old / "ct" / "series-0", 30, study="1.2.3")
    write_files(old / "sc", 1, first=100, sop_classes=[SECONDARY_CAPTURE], transfer_syntax_uid=JPEG_2000, study="1.2.4")
    (old / "notes.txt").write_text("Moved in 2019")
    whole = files.bundled("CT_small.dcm").read_bytes()
    (old / "cut.dcm").write_bytes(whole[: whole.index(b"\2\0\x12\0UI") + 12])
    return Shell(tmp_path, port)


def told(block: str) -> tuple[str, list[str]]:
    """The command of a console block, and the lines behind it."""
    command_line, *lines = block.splitlines()
    return command_line.removeprefix("$ "), [plain(line) for line in lines]


def fits(lines: list[str], expected: list[str]) -> bool:
    """Whether these are the lines; "..." stands for any number of them."""
    if expected[:1] == ["..."]:
        return any(fits(lines[number:], expected[1:]) for number in range(len(lines) + 1))
    return lines == expected if not (lines and expected) else lines[0] == expected[0] and fits(lines[1:], expected[1:])


def test_the_migration_prints_what_the_readme_says(shell: Shell) -> None:
    codes = []
    for line, expected in map(told, blocks("console")):
        if line.startswith("asyncstore verify "):
            continue
        if "cut.dcm" not in "".join(expected) and "--ledger" in line:
            shell.remove("old/cut.dcm")
        code, lines = shell.run(line)
        assert fits(lines, expected), (line, lines)
        codes.append(code)
    assert codes == [3, 0, 3, 0, 0]  # one file is damaged until it is removed


def test_what_an_archive_has_lost_is_named_as_the_readme_names_it(shell: Shell, tmp_path: Path) -> None:
    ((line, expected),) = [each for each in map(told, blocks("console")) if each[0].startswith("asyncstore verify ")]
    root = "1.2.826.0.1.3680043.9.1234"
    in_series = {f"{root}.51.1": 2, f"{root}.77.1": 1, f"{root}.77.3": 2}
    kept = [
        write_image(tmp_path / "old" / "s0050" / f"{series}_{number}.dcm", series.rpartition(".")[0], series, number)
        for series, count in in_series.items()
        for number in range(1, count + 1)
    ]
    peer = StorageSCP(further_providers={STUDY_ROOT_FIND: (archive := QueryArchive([]))})

    async def main() -> tuple[int, list[str]]:
        async with peer:
            shell.call(peer.port)
            await anyio.to_thread.run_sync(
                shell.run, "asyncstore storescu -r --ledger run.db localhost 11112 /mnt/old/s0050"
            )
            archive.instances = [row for row in kept if row[1] != f"{root}.77.3" and row[2] != f"{root}.51.1.1"]
            archive.instances.append((f"{root}.51", f"{root}.51.1", f"{root}.51.1.999", CT_IMAGE_STORAGE))
            return await anyio.to_thread.run_sync(shell.run, line)

    code, lines = anyio.run(main)
    assert code == ExitCode.DIFFERENT
    assert fits(lines, expected), lines


def write_image(path: Path, study: str, series: str, number: int) -> tuple[str, str, str, str]:
    """Write a CT image; its study, series, SOP instance and SOP class."""
    uid = f"{series}.{number}"
    more = files.element(0x0020000D, b"UI", files.uid(study)) + files.element(0x0020000E, b"UI", files.uid(series))
    path.parent.mkdir(exist_ok=True)
    data_set = files.data_set(sop_instance_uid=uid, more=more)
    path.write_bytes(files.dicom_file(meta=files.file_meta(sop_instance_uid=uid), body=data_set))
    return study, series, uid, CT_IMAGE_STORAGE


def test_what_can_be_sent_is_sent(shell: Shell) -> None:
    """Each line of the block; a receiver that would run until Ctrl-C only says that it would."""
    (block,) = [block for block in blocks("sh") if "backup.tar.gz" in block]
    shell.pack()
    for line in block.splitlines():
        code, lines = shell.run(line.replace(" storescp ", " storescp --help "))
        assert code == (3 if "/mnt/old " in f"{line} " else 0), (line, lines)


def test_the_failures_can_be_sent_elsewhere(shell: Shell) -> None:
    (block,) = [block for block in blocks("sh") if "report --failed-files" in block]
    shell.run("asyncstore storescu -r --ledger run.db localhost 11112 /mnt/old")
    code, lines = shell.run(block)
    assert code == 3
    assert "E: Bad DICOM file: /mnt/old/cut.dcm" in lines


def test_the_limits_by_day_and_by_night_are_understood(shell: Shell) -> None:
    (block,) = [block for block in blocks("sh") if "--between" in block]
    code, lines = shell.run(f"{block.rstrip()} --dry-run")
    assert code == 3, lines
    assert any(line.startswith("N instances") for line in lines)


def test_the_named_peers_are_understood(shell: Shell) -> None:
    block = blocks("toml")[0]
    code, lines = shell.run(f"cat > peers.toml <<'END'\n{block}END\nasyncstore peers --config peers.toml")
    assert (code, len(lines)) == (0, 1), lines
    assert "archive" in lines[0]
