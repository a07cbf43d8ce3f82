"""What a shell is offered to complete a command line: commands, options, and the named peers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "peers.toml").write_text(
        '[peers.archive]\naddress = "pacs"\nport = 104\n[peers.arc]\naddress = "pacs"\nport = 105\n'
    )
    return {"ASYNCSTORE_CONFIG": str(tmp_path / "peers.toml")}


def offered_by_bash(variables: dict[str, str], words: list[str]) -> list[str]:
    """bash splits a word at @, and tells the words line by line."""
    split = [part for word in words for part in (["@", word[1:]] if word.startswith("@") and word[1:] else [word])]
    asked = {"_ASYNCSTORE_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(["asyncstore", *split])}
    done = command.run(variables={**variables, **asked, "COMP_CWORD": str(len(split))})
    assert done.stderr == ""
    return done.stdout.split()


def offered_by_zsh(variables: dict[str, str], words: list[str]) -> list[str]:
    asked = {"_ASYNCSTORE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": " ".join(["asyncstore", *words])}
    done = command.run(variables={**variables, **asked})
    assert done.stderr == ""
    lines = done.stdout.replace("_arguments '*: :((", "").splitlines()
    return [line.split('"')[1] for line in lines if line.startswith('"')]


def offered_by_fish(variables: dict[str, str], words: list[str]) -> list[str]:
    """Each line is a word and, behind a tab, what it means."""
    asked = {"_ASYNCSTORE_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = command.run(variables={**variables, **asked, "_TYPER_COMPLETE_ARGS": " ".join(["asyncstore", *words])})
    assert done.stderr == ""
    return [line.split("\t")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("offered_by", [offered_by_bash, offered_by_zsh, offered_by_fish])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["store"], ["storescu", "storescp"]),
        (["storescu", "@"], ["@archive", "@arc"]),
        (["storescu", "-v", "@arch"], ["@archive"]),
        (["echoscu", "@archi"], ["@archive"]),
        (["storescu", "@archive", "--bw"], ["--bwlimit"]),
        (["storescu", "@no-such-peer", "--bw"], ["--bwlimit"]),
        (["storescu", "--decom"], ["--decompress"]),  # its help is long
        (["storescu", "host", "104", "@"], []),
        (["storescu", "@archive", "fil"], []),  # nothing: the shell offers files
    ],
)
def test_each_shell_is_offered_what_fits(
    variables: dict[str, str],
    offered_by: Callable[[dict[str, str], list[str]], list[str]],
    words: list[str],
    offered: list[str],
) -> None:
    assert offered_by(variables, words) == offered


def test_a_file_that_is_wrong_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "peers.toml").write_text("[peers")
    for path in (tmp_path / "peers.toml", tmp_path / "none.toml"):
        assert offered_by_zsh({"ASYNCSTORE_CONFIG": str(path)}, ["storescu", "@"]) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_for_bash_completes_a_named_peer(variables: dict[str, str], tmp_path: Path) -> None:
    script = command.run("--show-completion", "bash", variables=variables).stdout
    program = tmp_path / "asyncstore"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m asyncstore "$@"\n')
    program.chmod(0o755)
    ask = f"{script}\nCOMP_WORDS=(asyncstore storescu @ arch); COMP_CWORD=3\n_asyncstore_completion {program}\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", f'{ask}\necho "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        env=command.environment(**variables),
        check=True,
    )
    assert (done.stdout, done.stderr) == ("@archive\n", "")
