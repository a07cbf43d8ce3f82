"""@NAME in the place of ADDR PORT: what the configuration file says, what overrides it, and how mistakes are told."""

from __future__ import annotations

import datetime
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.cli.app import run_command_line
from asyncstore.cli.sending import StorescuRun
from tests.support import command
from tests.support.peers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ARCHIVE = """
[peers.archive]
address = "pacs.example"
port = 11112
called_aet = "ARCHIVE"
calling-aet = "MIGRATE"
associations = 4
bwlimit = "20M"
recursive = true
progress = false
exclude = ["*.txt", "old/"]
include = "*.dcm"
on_status = ["A702=stop"]
newer_than = 2024-12-31
network_timeout = 7.5

[peers."two words"]
address = "::1"
port = 104
repeat = 3
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ASYNCSTORE_CONFIG", raising=False)
    (tmp_path / "asyncstore").mkdir()
    path = tmp_path / "asyncstore" / "peers.toml"
    path.write_text(ARCHIVE)
    return path


@pytest.fixture
def asked(config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StorescuRun]:
    """What a command line of storescu asks for."""
    runs: list[StorescuRun] = []

    def remember(self: StorescuRun, _: object) -> int:
        runs.append(self)
        return 0

    monkeypatch.setattr(StorescuRun, "run", remember)

    def ask(*arguments: str | Path) -> StorescuRun:
        assert run_command_line(["storescu", *map(str, arguments)]) == 0
        return runs[-1]

    return ask


def test_a_named_peer_brings_its_address_and_its_options(asked: Callable[..., StorescuRun]) -> None:
    run = asked("@archive", "/mnt/old", "/mnt/new")
    assert str(run.peer) == "ARCHIVE@pacs.example:11112"
    assert list(run.paths.sources()) == ["/mnt/old", "/mnt/new"]
    options: Any = run.options
    assert (options.calling_ae_title, options.associations, options.recursive) == ("MIGRATE", 4, True)
    assert (options.timeouts.network_seconds, run.progress) == (7.5, False)
    assert options.limits.bytes_per_second == 20 * 1024**2
    assert (options.selection.include, options.selection.exclude) == (("*.dcm",), ("*.txt", "old/"))
    assert options.selection.newer_than == datetime.datetime(2024, 12, 31).timestamp()
    assert [override.first for override in options.retry.overrides] == [0xA702]


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    asked: Callable[..., StorescuRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCSTORE_ASSOCIATIONS", "5")
    monkeypatch.setenv("ASYNCSTORE_CALLING_AET", "ENVIRON")
    options: Any = asked("-aet", "TYPED", "@archive", "a", "--exclude", "x").options
    assert (options.calling_ae_title, options.associations, options.selection.exclude) == ("TYPED", 5, ("x",))


@pytest.mark.parametrize(
    "arguments",
    [("@archive", "@archive"), ("--include", "@archive", "@archive", "@archive"), ("--", "@archive", "@archive")],
)
def test_only_the_address_is_a_name(asked: Callable[..., StorescuRun], arguments: tuple[str, ...]) -> None:
    run = asked(*arguments)
    assert (run.peer.host, list(run.paths.sources())) == ("pacs.example", ["@archive"])


def test_another_file_can_be_named_on_the_command_line_or_in_the_environment(
    asked: Callable[..., StorescuRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.toml").write_text(f'[peers.archive]\naddress = "host{number}"\nport = 104\n')
    monkeypatch.setenv("ASYNCSTORE_CONFIG", str(tmp_path / "1.toml"))
    assert asked("@archive", "a").peer.host == "host1"
    assert asked("@archive", "a", "--config", tmp_path / "2.toml").peer.host == "host2"


def test_an_option_that_only_another_command_has_is_passed_over(config: Path) -> None:
    config.write_text(f'[peers.a]\naddress = "127.0.0.1"\nport = {free_port()}\nwindow = 2\nrepeat = 2\n')
    for arguments in (["echoscu", "@a"], ["storescu", "@a", config.parent]):
        done = command.run(*arguments, variables={"ASYNCSTORE_CONFIG": str(config)})
        assert "No connection" in done.stderr or "Nothing to send" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[peers.archiv]", "there is no [peers.archive]; the nearest name is archiv"),
        ("", "there is no [peers.archive]"),
        ("[peers.archive]\nport = 104", "[peers.archive] has no address"),
        ("[peers.archive]\naddress = 'a'", "[peers.archive] has no port"),
        ("[peers.archive]\naddress = 'a'\nport = 0", "[peers.archive] port: '0' is not a TCP port from 1 to 65535"),
        ("[peers.archive]\naddress = 'a'\nport = true", "[peers.archive] port = True: it is text or a number"),
        ("@\nasociations = 4", "[peers.archive] asociations is not an option; the nearest name is associations"),
        ("@\npaths = 'x'", "[peers.archive] paths is not an option"),
        ("@\nconfig = 'x'", "[peers.archive] config is not an option"),
        ("@\nrecursive = 'yes'", "[peers.archive] recursive = 'yes': it is true or false"),
        ("@\nledger = ['a']", "[peers.archive] ledger = ['a']: it is text or a number"),
        ('@\nledger = "a\\u0000b"', "[peers.archive] ledger: it has a NUL"),
        ("@\nexclude = [true]", "[peers.archive] exclude = True: it is text or a number, or a list"),
        ("@\nbwlimit = 20", "[peers.archive] bwlimit: '20' is not a rate with its unit"),
        ("@\ncalled_aet = 'seventeen letters'", "[peers.archive] called_aet: AE title 'seventeen letters' has 17"),
        ("[peer.archive]", "[peer] is not known; a peer is a table such as [peers.archive]"),
        ("peers = 1", "peers is not a table"),
        ("[peers]\narchive = 1", "peers.archive is not a table"),
        ("[peers.archive", "Expected ']' at the end of a table declaration"),
        ("@\nledger = '\udcff'", "can't decode byte 0xff"),
        ('["\x1b[2J"]\n', "[\\x1b[2J] is not known"),
        ("x = " + "[" * 20_000, "it is nested too deep"),
        (f"@\nwindow = {'9' * 5000}", "Exceeds the limit"),
        ("a" + ".a" * 100_000 + " = 1", "a line has more than 500 dots"),
        ("#" * 300_000, "it is longer than 262,144 bytes"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_file_and_the_table(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    whole = text.replace("@", "[peers.archive]\naddress = 'a'\nport = 104", 1).replace("\x1b", "\\u001b")
    config.write_bytes(whole.encode("utf-8", "surrogateescape"))
    assert run_command_line(["storescu", "@archive", "a"]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"Error: Invalid value for @NAME: {config}: ")
    assert said in line


def test_a_file_that_is_not_there_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.unlink()
    assert run_command_line(["echoscu", "@archive"]) == 2
    assert f"{config}: No such file or directory" in capsys.readouterr().err


def test_a_file_without_a_name_is_a_mistake(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["storescu", "host", "104", "a", "--config", str(config)]) == 2
    assert "it goes with @NAME in the place of ADDR PORT" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_and_version_need_no_file(config: Path, arguments: tuple[str, ...]) -> None:
    config.unlink()
    assert run_command_line(["storescu", "@archive", *arguments]) == 0


def test_the_peers_are_listed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["peers"]) == 0
    assert capsys.readouterr().out == "@archive  ARCHIVE@pacs.example:11112\n@two words  ANY-SCP@[::1]:104\n"
    config.write_text("[peers.a]\naddress = 'a'\nport = 'x'")
    assert run_command_line(["peers", "--config", str(config)]) == 2
    assert "[peers.a] invalid literal" in capsys.readouterr().err


def test_who_has_named_no_peers_yet_is_told_where_and_how(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.unlink()
    assert run_command_line(["peers"]) == 2
    said = capsys.readouterr().err
    assert "@NAME" not in said
    assert f"{config}: No such file or directory: it has a table for each named peer, such as [peers.archive]" in said


def test_a_plain_command_line_reads_no_file_and_loads_nothing_for_it() -> None:
    program = (
        "import sys; from asyncstore.cli.app import run_command_line\n"
        "run_command_line(['storescu', '127.0.0.1', '1', '/no/such/file', '-q'])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=command.environment(), check=True
    )
    assert "asyncstore.cli.commands.storescu" in done.stdout.split()
    unwanted = {
        "tomllib",
        "asyncstore.cli.peers",
        "asyncstore.cli.metering",
        "asyncstore.cli.output.metrics",
    }
    assert not unwanted & set(done.stdout.split())
