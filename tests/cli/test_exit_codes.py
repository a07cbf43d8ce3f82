"""Exit codes come from the counts of the report."""

from __future__ import annotations

import importlib
import pkgutil
import re
import signal
from collections import Counter

import pytest

from asyncstore.cli import commands
from asyncstore.cli.commands import storescu
from asyncstore.cli.exit_codes import ExitCode, of_report
from asyncstore.errors import AsyncStoreError, ConnectFailed, LedgerError
from asyncstore.instances.outcome import State
from asyncstore.transfer.report import Report
from tests.support.exit_codes import ALL_EXIT_CODES

HELP = [
    importlib.import_module(f"{commands.__name__}.{found.name}").DETAILS
    for found in pkgutil.iter_modules(commands.__path__)
]


def report(**counts: int) -> Report:
    states = Counter({State[name.upper()]: count for name, count in counts.items()})
    no_instances = states[State.SKIPPED] + states[State.SOURCE_PROBLEM]
    found = states.total() - no_instances
    return Report(found=found, scan_finished=True, states=states, associations_established=1)


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({"stored": 5}, 0),
        ({"stored": 3, "warning": 2}, 0),
        ({"resumed": 5}, 0),
        ({"duplicate": 1}, 0),
        ({"stored": 5, "skipped": 2}, 0),
        ({"stored": 5, "failed": 1}, 3),
        ({"failed": 1, "stored": 5}, 3),
        ({"stored": 5, "no_context": 1}, 3),
        ({"stored": 5, "unknown": 1}, 3),
        ({"stored": 5, "source_problem": 1}, 3),
        ({"stored": 5, "left": 1}, 4),
        ({"failed": 5, "left": 1}, 4),
        ({"skipped": 7}, 5),
        ({"source_problem": 1}, 3),
        ({"skipped": 7, "source_problem": 1}, 3),
        ({}, 5),
    ],
)
def test_the_code_follows_from_the_counts(counts: dict[str, int], code: int) -> None:
    assert of_report(report(**counts)) == code


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_told_whatever_else_happened(signal_number: int, code: int) -> None:
    assert of_report(report(stored=5, failed=1, left=2), signal_number=signal_number) == code


def test_a_record_that_cannot_be_written_is_told_first() -> None:
    assert of_report(report(stored=5), cannot_record=True, signal_number=signal.SIGINT) == 6


def test_a_ledger_that_fails_on_the_way_is_code_6() -> None:
    stopped = report(stored=5, left=5)
    stopped.stopped_because = LedgerError("the disk is full")
    assert of_report(stopped) == 6


@pytest.mark.parametrize(
    ("counts", "scan_finished", "code"),
    [
        ({"stored": 5, "left": 1}, True, 4),
        ({"stored": 5, "failed": 1}, False, 4),
        ({"stored": 5, "failed": 1}, True, 3),
        ({"failed": 1}, True, 3),
    ],
)
def test_a_run_that_stopped_has_work_left_unless_all_of_the_input_has_its_outcome(
    counts: dict[str, int], scan_finished: bool, code: int
) -> None:
    stopped = report(**counts)
    stopped.stopped_because = AsyncStoreError("three refusals in a row")
    stopped.scan_finished = scan_finished
    assert of_report(stopped) == code


def test_a_run_without_any_association_is_code_1() -> None:
    stopped = report(left=5)
    stopped.associations_established = 0
    stopped.stopped_because = ConnectFailed("nobody answers")
    assert of_report(stopped) == 1


@pytest.mark.parametrize("details", HELP)
def test_the_help_of_a_command_that_can_be_interrupted_names_each_signal(details: str) -> None:
    if "interrupted." in details:
        assert details.endswith("129, 130 or 143 interrupted.")


def test_the_help_of_storescu_names_each_exit_code_that_it_has() -> None:
    codes = ALL_EXIT_CODES - {ExitCode.INTERNAL_ERROR}
    named = set(re.findall(r"(?<=[ ,])\d+(?=,? )", storescu.DETAILS.partition("Exit codes:")[2]))
    assert named == {str(int(code)) for code in codes}
