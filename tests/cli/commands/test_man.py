"""`asyncstore man`: a page that every formatter takes without a warning, with all that the help says."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final

import pytest

from asyncstore.cli.app import COMMANDS, load
from asyncstore.cli.output import man_page
from tests.support import command

FORMATTERS: Final = {
    "groff": ["groff", "-man", "-Tutf8", "-ww", "-z"],
    "mandoc": ["mandoc", "-T", "lint", "-W", "style"],
}


@pytest.fixture(scope="module")
def page() -> str:
    done = command.run("man")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def plain(page: str) -> str:
    """The page without fonts and escapes."""
    text = re.sub(r"\\f[A-Z]|\\&", "", page)
    for escaped, character in ((r"\-", "-"), (r"\(aq", "'"), (r"\(ti", "~"), (r"\e", "\\")):
        text = text.replace(escaped, character)
    return text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_with_each_of_its_options(page: str, name: str) -> None:
    _, _, text = plain(page).partition(f'.SS "asyncstore {name}"')
    text, _, _ = text.partition("\n.SS")
    assert COMMANDS[name] in " ".join(text.split())
    tags = {word for tag in re.findall(r"\.TP\n(.*)", text) for word in re.split(r",? ", tag)}
    for param in load(name).params:
        names = [*param.opts, *param.secondary_opts] if param.param_type_name == "option" else [param.metavar]
        assert set(names) <= tags


def test_values_and_defaults_are_told_without_markup(page: str) -> None:
    text = " ".join(plain(page).split())
    assert "-ta, --acse-timeout SECONDS Timeout for ACSE messages: association and release. [default: 30]" in text
    assert "[default: auto]" in text
    assert "[peers.archive] with address" in text
    assert "[dim]" not in text


@pytest.mark.parametrize("name", FORMATTERS)
def test_a_formatter_has_nothing_to_complain_of(page: str, name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(FORMATTERS[name], input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_known_requests_begin_a_line(page: str) -> None:
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I"}
    assert page.isascii()


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".so /etc/passwd", r"\&.so /etc/passwd"),
        ("'so'", r"\(aqso\(aq"),
        (r"a\fBb", r"a\efBb"),
        ("--bwlimit", r"\-\-bwlimit"),
        ("Łódź", r"\[u0141]\[u00F3]d\[u017A]"),
        ("a\n.b", "a .b"),
    ],
)
def test_text_is_no_roff(text: str, roff: str) -> None:
    assert man_page._text(text) == roff
