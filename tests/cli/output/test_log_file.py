"""The log in a file: with times, private, appended, and never a reason for a run to fail."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from asyncstore.cli.output.documented_log import installed
from asyncstore.cli.output.log_file import LogFile, logged_to

if TYPE_CHECKING:
    from pathlib import Path

LOGGER = logging.getLogger("asyncstore.cli")


def texts(path: Path) -> list[str]:
    """The lines without their times, which must be there."""
    found = [
        re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (.*)", line) for line in path.read_text().splitlines()
    ]
    assert all(found)
    return [line[1] for line in found if line]


def test_the_file_has_its_own_level_and_the_terminal_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    with installed(logging.ERROR), logged_to(str(path), logging.INFO):
        LOGGER.debug("debug")
        LOGGER.info("info")
        LOGGER.error("an error\nof two lines")
    assert texts(path) == ["I: The log begins", "I: info", "E: an error\\nof two lines"]
    assert capsys.readouterr().err == "E: an error\\nof two lines\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_told_on_a_terminal_at_any_level_is_in_the_file_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with installed(logging.ERROR) as log, logged_to(str(tmp_path / "log"), logging.INFO):
        log.tell(logging.INFO, "told")
    assert texts(tmp_path / "log") == ["I: The log begins", "I: told"]
    assert capsys.readouterr().err == "I: told\n"


def test_it_is_appended_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("")
    path.chmod(0o640)
    for _ in range(2):
        with installed(logging.ERROR), logged_to(str(path), logging.INFO):
            LOGGER.info("sent")
    assert texts(path) == ["I: The log begins", "I: sent"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "content", [bytes(128) + b"DICM", b"a note of mine\n", b"2026", b"2026-11-28 23:51:42,812 other\n"]
)
def test_a_file_that_is_not_a_log_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "IM0001.dcm"
    path.write_bytes(content)
    with pytest.raises(OSError, match="it is not the log of an earlier run, and is left as it is"):
        LogFile(str(path), logging.INFO)
    assert path.read_bytes() == content


def test_a_pipe_takes_the_log(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with installed(logging.ERROR), logged_to(str(path), logging.INFO):
        LOGGER.info("sent")
    assert os.read(reading, 200).endswith(b" I: sent\n")
    os.close(reading)


def test_a_file_that_cannot_be_written_any_more_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with installed(logging.ERROR), logged_to(str(tmp_path / "log"), logging.INFO):

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        LOGGER.info("one")
        LOGGER.info("two")
        monkeypatch.undo()
    assert capsys.readouterr().err == f"E: cannot write the log {tmp_path / 'log'}: No space left on device\n"


@pytest.mark.parametrize("name", ["/dev/full", "no/such/directory/log", "."])
def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"\[Errno \d+\]"):
        LogFile(str(tmp_path / name), logging.INFO)


@pytest.mark.parametrize("name", ["/dev/full", "no/such/directory/log", "."])
def test_a_file_that_cannot_be_written_leaves_nothing_for_the_end_of_the_interpreter(name: str) -> None:
    program = f"""
import logging
from asyncstore.cli.output.log_file import LogFile
try:
    LogFile({name!r}, logging.INFO)
except OSError as error:
    kept = error  # and with it, what was begun
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_text_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    with installed(logging.ERROR), logged_to(str(tmp_path / "log"), logging.INFO):
        LOGGER.info("%s", "\udcff ö")
    assert texts(tmp_path / "log")[1] == "I: \\xff ö"
