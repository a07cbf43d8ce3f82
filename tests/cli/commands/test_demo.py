"""The real `asyncstore demo`."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from tests.support import command

PLAIN = {"LANG": "C", "LC_ALL": "", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "NO_COLOR": "1"}


def test_the_demonstration_sends_real_files_and_explains_the_rest() -> None:
    done = command.run("demo")
    assert done.returncode == 0, done.stderr
    assert "I: Requesting Association\nI: Association Accepted\nI: Sending file: " in done.stderr
    *_, last, differing = done.stderr.splitlines()
    assert last == "I: Releasing Association"
    assert differing.endswith("more instances whose UIDs or File Meta Information are doubtful")
    assert "What was sent" in done.stdout
    assert "CT Image Storage" in done.stdout
    assert "What was not sent, and why" in done.stdout
    assert "meta_missing_tsyntax.dcm" in done.stdout
    assert " arrived at the SCP" in " ".join(done.stdout.split())


def test_a_quiet_demonstration_is_the_tables_alone() -> None:
    done = command.run("demo", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert "What was sent" in done.stdout


def on_terminal(*arguments: str, **variables: str) -> str:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        command.words(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=command.environment(**variables)
    ) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # what Linux says when the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return shown.decode()


@pytest.mark.parametrize(
    "variables",
    [
        PLAIN,
        {"LANG": "C", "LC_ALL": "", "TERM": "xterm", "NO_COLOR": "1"},
        {"LANG": "C.UTF-8", "LC_ALL": "", "PYTHONIOENCODING": "ascii", "TERM": "xterm", "NO_COLOR": "1"},
        {"LANG": "C.UTF-8", "LC_ALL": "", "TERM": "dumb"},
    ],
    ids=["all", "LANG", "PYTHONIOENCODING", "TERM"],
)
def test_a_terminal_that_can_show_little_gets_plain_tables(variables: dict[str, str]) -> None:
    shown = on_terminal("demo", "-q", **variables)
    assert shown.isascii()
    assert "\x1b" not in shown
    assert "\\u" not in shown
    assert "| Stored | SOP class " in shown


def test_another_terminal_gets_lines() -> None:
    shown = on_terminal("demo", "-q", LANG="C.UTF-8", LC_ALL="", TERM="xterm")
    assert "┃ Stored ┃" in shown.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_plain_tables_are_plain_in_a_file_too() -> None:
    done = command.run("demo", "-q", variables=PLAIN)
    assert done.stdout.isascii()
    assert "\\u" not in done.stdout
