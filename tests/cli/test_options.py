"""Every documented option works under every spelling and in any place; a mistake is one clear line and exit code 2."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

import pytest

import asyncstore
from asyncstore.cli import options
from asyncstore.cli.app import COMMANDS, run_command_line
from asyncstore.cli.output.documented_log import QUIET
from asyncstore.cli.sending import StorescuRun
from asyncstore.transfer.limits import Limits
from asyncstore.transfer.reactions import Reactions
from asyncstore.transfer.schedule import windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.cli.output.documented_log import DocumentedLog

EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"


@dataclass
class Asked:
    """What a command line asked for."""

    sending: StorescuRun
    level: int
    paths: list[str]

    @property
    def options(self) -> Any:
        return self.sending.options


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ASYNCSTORE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def storescu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """Parse a storescu command line, and give what it asked for in the place of doing it."""
    asked: list[Asked] = []

    def remember(self: StorescuRun, log: DocumentedLog) -> int:
        asked.append(Asked(self, log.threshold, list(self.paths.sources())))
        return 0

    monkeypatch.setattr(StorescuRun, "run", remember)

    def parse(*arguments: str) -> Asked:
        assert run_command_line(["storescu", *arguments]) == 0
        return asked[-1]

    return parse


def test_the_defaults_are_the_documented_ones(storescu: Callable[..., Asked]) -> None:
    asked = storescu("host", "104", "a.dcm")
    options = asked.options
    assert (asked.sending.peer.host, asked.sending.peer.port, asked.sending.peer.ae_title) == ("host", 104, "ANY-SCP")
    assert asked.paths == ["a.dcm"]
    assert asked.level == logging.ERROR
    assert options.calling_ae_title == "STORESCU"
    assert (options.timeouts.acse_seconds, options.timeouts.dimse_seconds) == (30, 30)
    assert (options.timeouts.network_seconds, options.timeouts.connect_seconds) == (30, 10)
    assert options.maximum_length == 16382
    assert (options.recursive, options.only_needed_contexts, options.only_transfer_syntax) == (False, False, None)
    assert (options.associations, options.window, options.keep_together) == (None, 16, "directory")
    assert (options.retry.retries, options.retry.first_wait_seconds, options.fail_fast) == (4, 1.0, False)
    assert (options.retry.outage_seconds, asked.sending.force_ledger) == (60.0, False)
    assert (options.limits, asked.sending.control_path) == (Limits(), None)
    assert (asked.sending.ledger, asked.sending.records_path, asked.sending.json) == (None, None, False)


@pytest.mark.parametrize(
    ("spellings", "value", "read", "expected"),
    [
        (("-aet", "--calling-aet"), ("ME",), lambda asked: asked.options.calling_ae_title, "ME"),
        (("-aec", "--called-aet"), ("YOU",), lambda asked: asked.sending.peer.ae_title, "YOU"),
        (("-ta", "--acse-timeout"), ("5.5",), lambda asked: asked.options.timeouts.acse_seconds, 5.5),
        (("-td", "--dimse-timeout"), ("6",), lambda asked: asked.options.timeouts.dimse_seconds, 6.0),
        (("-tn", "--network-timeout"), ("7",), lambda asked: asked.options.timeouts.network_seconds, 7.0),
        (("--connect-timeout",), ("8",), lambda asked: asked.options.timeouts.connect_seconds, 8.0),
        (("-pdu", "--max-pdu"), ("0",), lambda asked: asked.options.maximum_length, 0),
        (("-pdu", "--max-pdu"), ("65536",), lambda asked: asked.options.maximum_length, 65536),
        (("--source-address",), ("192.0.2.1",), lambda asked: asked.sending.peer.source_address, ("192.0.2.1", 0)),
        (("--source-address",), ("pacs-net",), lambda asked: asked.sending.peer.source_address, ("pacs-net", 0)),
        (("--source-address",), ("[::1]",), lambda asked: asked.sending.peer.source_address, ("::1", 0)),
        (("--source-address",), ("1::2:3",), lambda asked: asked.sending.peer.source_address, ("1::2:3", 0)),
        (("--metrics-file",), ("a.prom",), lambda asked: asked.sending.metrics_path, "a.prom"),
        (("--max-send-pdu",), ("4096",), lambda asked: asked.options.maximum_send_length, 4096),
        (("-r", "--recursive", "--recurse"), (), lambda asked: asked.options.recursive, True),
        (("-xe", "--request-little"), (), lambda asked: asked.options.only_transfer_syntax, EXPLICIT_LITTLE),
        (("-xb", "--request-big"), (), lambda asked: asked.options.only_transfer_syntax, EXPLICIT_BIG),
        (("-xi", "--request-implicit"), (), lambda asked: asked.options.only_transfer_syntax, IMPLICIT),
        (
            ("-cx", "--single-context", "--required-contexts"),
            *((), lambda asked: asked.options.only_needed_contexts, True),
        ),
        (("-q", "--quiet"), (), lambda asked: asked.level, QUIET),
        (("-v", "--verbose"), (), lambda asked: asked.level, logging.INFO),
        (("-d", "--debug"), (), lambda asked: asked.level, logging.DEBUG),
        (("-ll", "--log-level"), ("critical",), lambda asked: asked.level, logging.CRITICAL),
        (("-ll", "--log-level"), ("error",), lambda asked: asked.level, logging.ERROR),
        (("-ll", "--log-level"), ("warning",), lambda asked: asked.level, logging.WARNING),
        (("-ll", "--log-level"), ("warn",), lambda asked: asked.level, logging.WARNING),
        (("-ll", "--log-level"), ("INFO",), lambda asked: asked.level, logging.INFO),
        (("-ll", "--log-level"), ("debug",), lambda asked: asked.level, logging.DEBUG),
        (("-j", "--associations"), ("3",), lambda asked: asked.options.associations, 3),
        (("-j", "--associations"), ("auto",), lambda asked: asked.options.associations, None),
        (("-j", "--associations"), ("08:00,2 18:00,auto",), lambda asked: asked.options.associations, None),
        (
            ("-j", "--associations"),
            ("08:00,2 18:00,auto",),
            lambda asked: asked.options.limits.associations.at(8 * 60),
            2,
        ),
        (("--bwlimit",), ("20M",), lambda asked: asked.options.limits, Limits(20 * 1024**2)),
        (("--bwlimit",), ("off",), lambda asked: asked.options.limits, Limits()),
        (("--bwlimit",), ("08:00,1k 18:00,off",), lambda asked: asked.options.limits.bytes_per_second.at(0), None),
        (("--between",), ("18:00-06:00",), lambda asked: asked.options.limits, Limits(between=windows("18:00-06:00"))),
        (("--max-duration",), ("1h30m",), lambda asked: asked.options.limits, Limits(maximum_seconds=5400)),
        (("--control",), ("run.ctl",), lambda asked: asked.sending.control_path, "run.ctl"),
        (("-w", "--window"), ("1",), lambda asked: asked.options.window, 1),
        (("--keep-together",), ("study",), lambda asked: asked.options.keep_together, "study"),
        (("--priority",), ("high",), lambda asked: asked.options.priority, 1),
        (("--priority",), ("medium",), lambda asked: asked.options.priority, 0),
        (("--ledger",), ("run.db",), lambda asked: asked.sending.ledger, "run.db"),
        (("--ledger",), ("run.db",), lambda asked: asked.options.retry.outage_seconds, 3600.0),
        (("--force-ledger",), (), lambda asked: asked.sending.force_ledger, True),
        (("--archives",), (), lambda asked: asked.options.selection.archives, True),
        (("--include",), ("*.dcm",), lambda asked: asked.options.selection.include, ("*.dcm",)),
        (("--exclude",), ("backup/",), lambda asked: asked.options.selection.exclude, ("backup/",)),
        (("--modality",), ("CT, MR",), lambda asked: asked.options.selection.modalities, ("CT", "MR")),
        (
            ("--newer-than",),
            ("2024-12-31T18:00+00:00",),
            *(lambda asked: asked.options.selection.newer_than, 1735668000.0),
        ),
        (("--order",), ("newest",), lambda asked: asked.options.selection.order, "newest"),
        (("--outage-wait",), ("5.5",), lambda asked: asked.options.retry.outage_seconds, 5.5),
        (("--report",), ("out.csv",), lambda asked: asked.sending.records_path, "out.csv"),
        (("--json",), (), lambda asked: asked.sending.json, True),
        (("--progress",), (), lambda asked: asked.sending.progress, True),
        (("--no-progress",), (), lambda asked: asked.sending.progress, False),
        (("--stats",), ("2.5",), lambda asked: asked.sending.stats_seconds, 2.5),
        (("--summary",), (), lambda asked: asked.sending.summary, True),
        (("--no-count",), (), lambda asked: asked.sending.is_counted, False),
        (("--log-file",), ("/dev/null",), lambda asked: asked.sending.log_path, "/dev/null"),
        (("--retries",), ("0",), lambda asked: asked.options.retry.retries, 0),
        (("--retry-wait",), ("0.00",), lambda asked: asked.options.retry.first_wait_seconds, 0.0),
        (("--fail-fast",), (), lambda asked: asked.options.fail_fast, True),
        (("--retry-set-aside",), (), lambda asked: asked.options.retry_set_aside, True),
        (("--on-duplicate",), ("stored",), lambda asked: asked.options.retry.on_duplicate, "stored"),
        (("--strict-warnings",), (), lambda asked: asked.options.retry.strict_warnings, True),
        (("--strict-source",), (), lambda asked: asked.options.strict_source, True),
    ],
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_every_spelling_works_in_every_place(
    storescu: Callable[..., Asked],
    spellings: tuple[str, ...],
    value: tuple[str, ...],
    read: Callable[[Asked], object],
    expected: object,
    place: str,
) -> None:
    at = {"first": 0, "middle": 1, "last": 3}[place]
    for spelling in spellings:
        arguments = ["host", "104", "a.dcm"]
        arguments[at:at] = [spelling, *value]
        asked = storescu(*arguments)
        assert read(asked) == expected
        assert asked.paths == ["a.dcm"]


def test_a_value_may_follow_an_equals_sign(storescu: Callable[..., Asked]) -> None:
    asked = storescu("-pdu=4096", "--calling-aet=ME", "host", "104", "a.dcm")
    assert (asked.options.maximum_length, asked.options.calling_ae_title) == (4096, "ME")


@pytest.mark.parametrize("syntax", ["-xe", "-xb", "-xi"])
def test_short_flags_beside_each_other_are_not_read_into_one_another(
    storescu: Callable[..., Asked], syntax: str
) -> None:
    asked = storescu("-q", "-r", syntax, "-cx", "host", "104", "a.dcm")
    assert asked.level == QUIET
    assert asked.options.recursive
    assert asked.options.only_needed_contexts
    assert asked.options.only_transfer_syntax in (EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT)


def test_one_letter_flags_can_be_joined(storescu: Callable[..., Asked]) -> None:
    asked = storescu("-vr", "host", "104", "a.dcm")
    assert (asked.level, asked.options.recursive) == (logging.INFO, True)


def test_log_level_overrides_the_other_general_options(storescu: Callable[..., Asked]) -> None:
    assert storescu("-q", "-ll", "info", "host", "104", "a.dcm").level == logging.INFO


def test_status_reactions_are_read_in_order(storescu: Callable[..., Asked]) -> None:
    options = ("--on-status", "A702=stop", "--on-status", "C000-C0FF=failed")
    overrides = storescu(*options, "host", "104", "a.dcm").options.retry.overrides
    assert [(row.first, row.last, row.reaction) for row in overrides] == [
        (0xA702, 0xA702, Reactions.STOP.value),
        (0xC000, 0xC0FF, Reactions.FAILED.value),
    ]


@pytest.mark.parametrize(
    ("variable", "value", "read", "expected"),
    [
        ("ASYNCSTORE_CALLING_AET", "ME", lambda asked: asked.options.calling_ae_title, "ME"),
        ("ASYNCSTORE_ASSOCIATIONS", "2", lambda asked: asked.options.associations, 2),
        ("ASYNCSTORE_BWLIMIT", "08:00,1k 18:00,2k", lambda asked: asked.options.limits.bytes_per_second.at(0), 2048),
        ("ASYNCSTORE_MAX_PDU", "4096", lambda asked: asked.options.maximum_length, 4096),
        ("ASYNCSTORE_RECURSIVE", "1", lambda asked: asked.options.recursive, True),
        ("ASYNCSTORE_LOG_LEVEL", "info", lambda asked: asked.level, logging.INFO),
        ("ASYNCSTORE_REQUEST_IMPLICIT", "true", lambda asked: asked.options.only_transfer_syntax, IMPLICIT),
        ("ASYNCSTORE_PROGRESS", "0", lambda asked: asked.sending.progress, False),
        ("ASYNCSTORE_ON_STATUS", "A702=stop C000=failed", lambda asked: len(asked.options.retry.overrides), 2),
        ("ASYNCSTORE_LEDGER", "run.db", lambda asked: asked.sending.ledger, "run.db"),
    ],
)
def test_options_are_read_from_the_environment(
    storescu: Callable[..., Asked],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    read: Callable[[Asked], object],
    expected: object,
) -> None:
    monkeypatch.setenv(variable, value)
    assert read(storescu("host", "104", "a.dcm")) == expected


def test_the_command_line_overrules_the_environment(
    storescu: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCSTORE_DEBUG", "1")
    monkeypatch.setenv("ASYNCSTORE_CALLING_AET", "ENVIRONMENT")
    asked = storescu("-q", "-aet", "TYPED", "host", "104", "a.dcm")
    assert (asked.level, asked.options.calling_ae_title) == (QUIET, "TYPED")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5m", 90), ("12h", 43200), ("7d", 604800), ("2W", 1209600), (" 1 d ", 86400)],
)
def test_a_duration_is_counted_back_from_now(storescu: Callable[..., Asked], text: str, seconds: float) -> None:
    before = time.time()
    newer_than = storescu("--newer-than", text, "host", "104", "a").options.selection.newer_than
    assert before - seconds <= newer_than <= time.time() - seconds


def test_a_date_is_one_of_this_place(storescu: Callable[..., Asked]) -> None:
    newer_than = storescu("--newer-than", "2024-12-31", "host", "104", "a").options.selection.newer_than
    assert time.localtime(newer_than)[:6] == (2024, 12, 31, 0, 0, 0)


def test_selections_are_repeatable(storescu: Callable[..., Asked]) -> None:
    words = ("--include", "*.dcm", "--include", "IM*", "--modality", "CT,MR", "--modality", "US")
    selection = storescu(*words, "host", "104", "a").options.selection
    assert (selection.include, selection.modalities) == (("*.dcm", "IM*"), ("CT", "MR", "US"))


def test_paths_keep_their_bytes(storescu: Callable[..., Asked]) -> None:
    name = os.fsdecode(b"bad\xff.dcm")
    assert storescu("host", "104", name, "--", "-a.dcm").paths == [name, "-a.dcm"]


@pytest.mark.parametrize(
    ("content", "options", "paths"),
    [
        (b"a.dcm\nb c.dcm\n", (), ["a.dcm", "b c.dcm"]),
        (b"a.dcm\r\n\r\nb.dcm", (), ["a.dcm", "b.dcm"]),
        (b"a\nb.dcm\x00c.dcm\x00", ("-0",), ["a\nb.dcm", "c.dcm"]),
        (b"bad\xff.dcm\n", (), [os.fsdecode(b"bad\xff.dcm")]),
        (b"", (), []),
    ],
)
def test_paths_come_from_a_file(
    storescu: Callable[..., Asked], tmp_path: Path, content: bytes, options: tuple[str, ...], paths: list[str]
) -> None:
    listing = tmp_path / "paths"
    listing.write_bytes(content)
    assert storescu("host", "104", "--files-from", str(listing), *options).paths == paths
    assert storescu("host", "104", "first.dcm", "--files-from", str(listing), *options).paths == ["first.dcm", *paths]


def test_a_path_longer_than_what_is_read_at_once_comes_whole(storescu: Callable[..., Asked], tmp_path: Path) -> None:
    listing = tmp_path / "paths"
    names = ["x" * 50_000, "y" * 70_000, "z"]
    listing.write_text("\n".join(names))
    assert storescu("host", "104", "--files-from", str(listing)).paths == names


def test_paths_come_from_stdin(storescu: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"a.dcm\nb.dcm\n")))
    assert storescu("host", "104", "--files-from", "-").paths == ["a.dcm", "b.dcm"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("storescu", "host", "0", "a"), "'0' is not a TCP port from 1 to 65535"),
        (("storescu", "host", "65536", "a"), "'65536' is not a TCP port from 1 to 65535"),
        (("storescu", "host", "dicom", "a"), "'dicom' is not a TCP port from 1 to 65535"),
        (("storescu", "host", "104"), "give a file or directory to send, or --files-from"),
        (("storescu", "host", "104", "a", "-aet", "A" * 17), "has 17 characters: an AE title has 1 to 16"),
        (("storescu", "host", "104", "a", "-aec", " "), "an AE title has 1 to 16"),
        (("storescu", "host", "104", "a", "-aec", "A\\B"), "has a character that an AE title cannot have"),
        (("storescu", "host", "104", "a", "-ta", "0"), "'0' is not a number of seconds above 0"),
        (("storescu", "host", "104", "a", "--retry-wait", "-1"), "'-1' is not a number of seconds, 0 or more"),
        (("storescu", "host", "104", "a", "-td", "nan"), "'nan' is not a number of seconds above 0"),
        (("storescu", "host", "104", "a", "-tn", "soon"), "'soon' is not a number of seconds above 0"),
        (("storescu", "host", "104", "a", "-pdu", "13"), "13 bytes are too few"),
        (("storescu", "host", "104", "a", "-pdu", "4294967296"), "is not a number of bytes from 0 to 4294967295"),
        (("storescu", "host", "104", "a", "-ll", "loud"), "'loud' is not one of critical, error, warning"),
        (("storescu", "host", "104", "a", "-q", "-v"), "--quiet and --verbose contradict each other"),
        (("storescu", "host", "104", "a", "-xe", "-xi"), "--request-little and --request-implicit contradict"),
        (("storescu", "host", "104", "a", "-j", "0"), "'0' is not auto or a number of associations"),
        (("storescu", "host", "104", "a", "-j", "08:00,x"), "'x' is not auto or a number of associations"),
        (("storescu", "host", "104", "a", "--bwlimit", "20"), "'20' is not a rate with its unit, such as 512k, 20M"),
        (("storescu", "host", "104", "a", "--bwlimit", "8,20M"), "'8,20M' is not a time and a value, as in 08:00,20M"),
        (("storescu", "host", "104", "a", "--between", "18-6"), "'18-6' is not a window of time, as in 18:00-06:00"),
        (("storescu", "host", "104", "a", "--max-duration", "long"), "'long' is not a duration above 0, such as 8h"),
        (("storescu", "host", "104", "a", "-w", "65536"), "is not a number of operations from 1 to 65535"),
        (("storescu", "host", "104", "a", "--priority", "urgent"), "'urgent' is not one of low, medium, high"),
        (("storescu", "host", "104", "a", "--include", "a["), "Invalid value for --include: 'a[': a [ has no ]"),
        (("scan", "a", "--exclude", ""), "Invalid value for '--exclude': it is empty"),
        (("storescu", "host", "104", ""), "Invalid value for 'PATH': it is empty"),
        (("storescu", "", "104", "a"), "Invalid value for 'ADDR': host '': it is a host name"),
        (
            ("storescu", "pacs:104", "a"),
            "Invalid value for 'ADDR': host 'pacs:104': it is a host name",
        ),
        (("echoscu", "dicom://pacs", "104"), "Invalid value for 'ADDR': host 'dicom://pacs': it is a host name"),
        (("echoscu", "-aec", "  ", "pacs", "104"), "AE title '  ' has only spaces"),
        (("storescu", "host", "104", "a", "--ledger", ""), "Invalid value for '--ledger': it is empty"),
        (("scan", ""), "Invalid value for 'PATH': it is empty"),
        (("verify", "", "host", "104"), "it is empty"),
        (("storescp", "-od", "", "104"), "it is empty"),
        (("scan", "a", "--modality", ","), "Invalid value for --modality: give one or more, as CT,MR"),
        (("scan", "a", "--modality", "C" * 17), "it is a value such as CT"),
        (("scan", "a", "--newer-than", "soon"), "'soon' is not a date (2024-12-31, 2024-12-31T18:00) or a duration"),
        (("scan", "a", "--newer-than", "-1d"), "'-1d' is not a date"),
        (("storescu", "host", "104", "a", "--order", "name"), "'name' is not one of found, path, newest, largest"),
        (("storescu", "host", "104", "a", "--retries", "-1"), "'-1' is not a number of attempts"),
        (("storescu", "host", "104", "a", "--on-status", "A702"), "after = comes one of"),
        (("storescu", "host", "104", "a", "--on-status", "XYZ=stop"), "a status is four hexadecimal digits"),
        (("storescu", "host", "104", "a", "--report", "out.txt"), "'out.txt' must end in .jsonl or .csv"),
        (("storescu", "host", "104", "--files-from", "/no/such"), "cannot read '/no/such': No such file"),
        (("storescu", "host", "104", "a", "--recursiv"), "No such option: --recursiv"),
        (("storescu", "host", "104", "a", "-aet"), "Option '-aet' requires an argument"),
        (
            ("storescu", "host", "104", "a", "--source-address", "[::1"),
            "'[::1' is not an address, with :PORT or without",
        ),
        (("echoscu", "host", "104", "--source-address", "a:65536"), "'a:65536' is not an address, with :PORT or"),
        (("storescu", "host", "104", "a", "--source-address", "[::1]:1"), "a port serves one association at a time"),
        (("storescu", "host", "104", "a", "--source-address", "a:1", "-j", "2"), "add -j 1"),
        (("echoscu", "host"), "Missing argument 'PORT'"),
        (("echoscu", "host", "104", "--repeat", "0"), "'0' is not a number of requests"),
        (("storescp", "104", "--ignore", "--max-disk", "1G"), "--ignore and --max-disk contradict each other"),
        (("storescp", "104", "--ignore", "--on-existing", "keep"), "--ignore and --on-existing contradict"),
        (("storescp", "104", "--max-disk", "big"), "'big' is not a size such as 500M, 20G or 1.5T"),
        (("storescp", "104", "--max-disk", "0"), "'0' is not a size such as 500M, 20G or 1.5T"),
        (("storescp", "104", "--on-existing", "lose"), "'lose' is not one of keep, replace, rename"),
        (("storescp", "104", "--ignore", "-od", "."), "--ignore and --output-directory contradict each other"),
        (
            ("storescp", "104", "-od", "/dev/null/in"),
            "'/dev/null/in' is not a directory that can be written: Not a dir",
        ),
        (("storesuc", "host", "104", "a"), "No such command 'storesuc'. Did you mean 'storescu'"),
        (("--nonsense",), "No such option: --nonsense"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run_command_line(arguments) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("Error: ")]
    assert said in line
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_a_mistake_with_control_characters_does_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["storescu", "host", "104", "a", "-ll", "\x1b[2J"]) == 2
    assert "\x1b[2J" not in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run_command_line([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert COMMANDS[command] in " ".join(text.split())
    assert "Exit codes: 0" in text


@pytest.mark.parametrize(
    ("command", "usage"),
    [("storescu", "ADDR PORT [PATH]..."), ("scan", "PATH..."), ("report", "LEDGER"), ("echoscu", "ADDR PORT")],
)
def test_the_usage_line_is_that_of_a_manual_page(capsys: pytest.CaptureFixture[str], command: str, usage: str) -> None:
    run_command_line([command, "--help"])
    assert f"Usage: asyncstore {command} [OPTIONS] {usage} " in capsys.readouterr().out


def test_the_help_names_defaults_and_reactions_and_has_no_panel_for_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run_command_line(["storescu", "--help"])
    text = capsys.readouterr().out
    assert "[default: auto]" in text
    assert "[default: 30]" in text
    assert "─ Options ─" not in text
    assert all(member.name.lower().replace("_", "-") in text for member in Reactions)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_types_in_the_help_are_words_for_a_user(capsys: pytest.CaptureFixture[str], command: str) -> None:
    run_command_line([command, "--help"])
    assert set(re.findall(r"<(\w+)>", capsys.readouterr().out)) <= {"text", "number", "database", "name"}


def test_the_help_groups_options_as_the_document_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run_command_line(["storescu", "--help"])
    text = capsys.readouterr().out
    panels = [
        "General Options",
        "Input Options",
        "Network Options",
        "Transfer Syntax Options",
        "Miscellaneous Options",
    ]
    places = [text.index(panel) for panel in panels]
    assert places == sorted(places)
    for option in ("--quiet", "-q", "-ll", "--recursive", "-aet", "-aec", "-ta", "-td", "-tn", "-pdu", "-xe", "-cx"):
        assert re.search(rf"[ ,]{option}[ ,]", text)


def test_the_list_of_commands_names_each_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"\n  {name} +{re.escape(summary)}\n", text) for name, summary in COMMANDS.items())


def test_the_version_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["--version"]) == 0
    assert capsys.readouterr().out.startswith("asyncstore ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_the_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([name, "--version"]) == 0
    assert capsys.readouterr().out == f"asyncstore {asyncstore.__version__}\n"


def test_a_variable_does_not_turn_a_command_into_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCSTORE_VERSION", "1")
    assert run_command_line(["scan", "/no/such/path"]) == 3


def test_the_type_of_a_parameter_says_how_its_option_is_given() -> None:
    def command(
        context: object,
        many: options.Annotated[list[str] | None, options.option("-m", parser=options.text, panel="")] = None,
        one_more: options.Annotated[int, options.option(parser=options.whole_number(1, 9), panel="")] = 3,
        flag: options.Annotated[bool, options.option("--flag", panel="")] = False,
        *,
        place: options.Annotated[str, options.argument(parser=options.text, check=str.upper)],
    ) -> None:
        """Do nothing."""

    options.added_options(command)["more"] = options.Annotated[
        str | None, options.option(parser=options.text, panel="")
    ]
    made = {param.name: param for param in options.parameters(command)}
    assert list(made) == ["many", "one_more", "flag", "place", "more"]
    assert [made[name].opts for name in made] == [["-m"], ["--one-more"], ["--flag"], ["place"], ["--more"]]
    assert [made[name].default for name in made] == [None, 3, False, None, None]
    assert [made[name].multiple for name in made] == [True, False, False, False, False]
    assert [made[name].required for name in made] == [False, False, False, True, False]
    assert [made[name].is_flag for name in ("many", "one_more", "flag", "more")] == [False, False, True, False]
    checks = {name: made[name].callback for name in ("many", "place")}
    assert [checks["many"](None, None, values) for values in ((), ("a", "b"))] == [None, ["a", "b"]]
    assert checks["place"](None, None, "a") == "A"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_parameter_of_a_command_is_an_option_or_argument(name: str) -> None:
    """One whose type is written with typing's Annotated would be left out without a word."""
    function = getattr(importlib.import_module(f"asyncstore.cli.commands.{name}"), name)
    wanted = inspect.signature(function).parameters.keys() - {"context"} | options.added_options(function).keys()
    assert {parameter.name for parameter in options.parameters(function)} == wanted
