"""The summary at the end of a run: all counts, the reasons, what the exit code means, and the next command."""

from __future__ import annotations

from collections import Counter

import pytest

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.next_steps import next_steps
from asyncstore.cli.output.summary import Summary
from asyncstore.instances.outcome import MAY_LACK_CHANGES, State
from asyncstore.transfer.report import Report
from asyncstore.uids import CT_IMAGE_STORAGE, MR_IMAGE_STORAGE
from tests.support.exit_codes import ALL_EXIT_CODES

ARGUMENTS = ["/usr/bin/asyncstore", "storescu", "-r", "localhost", "104", "/mnt/o ld"]
SAME = "asyncstore storescu -r localhost 104 '/mnt/o ld'"


def a_report(**known: object) -> Report:
    return Report(
        **{  # type: ignore[arg-type]
            "found": 1210,
            "scan_finished": True,
            "states": Counter({State.STORED: 1200, State.WARNING: 4, State.FAILED: 5, State.UNKNOWN: 1}),
            "sop_classes": Counter({CT_IMAGE_STORAGE: 1000, MR_IMAGE_STORAGE: 204}),
            "reasons": Counter({"Coercion of data elements (0xB000)": 4, "no\x1b[2J": 6}),
            "stored_bytes": 20_000_000,
            "associations_established": 3,
            "started_at": 0.0,
            "finished_at": 10.0,
        }
        | known
    )


def test_a_run_is_summed_up() -> None:
    summary = Summary(a_report(), ExitCode.SOME_FAILED, "", (("asyncstore report run.db", "to list what failed"),))
    assert list(summary.lines()) == [
        "Outcome      1,200  stored",
        "                 4  stored with a warning",
        "                 5  refused by the peer",
        "                 1  sent, and never answered",
        "Sent         20.0 MB in 10 s: 2.00 MB/s, 120 instances/s, 3 associations",
        "SOP classes  1,000  CT Image Storage",
        "               204  MR Image Storage",
        "Reasons      6  no[2J",
        "             4  Coercion of data elements (0xB000)",
        "Exit code    3: finished, but some instances failed",
        "Next         to list what failed:",
        "               asyncstore report run.db",
    ]


def test_duplicates_that_may_lack_their_changes_are_told() -> None:
    states = Counter({State.DUPLICATE: 3, State.STORED: 1})
    plain = Counter({"Duplicate SOP instance (0x0111)": 3})
    assert not any(line.startswith("Reasons") for line in Summary(a_report(states=states, reasons=plain), 0).lines())
    changed = Counter({f"Duplicate SOP instance (0x0111): {MAY_LACK_CHANGES}": 3})
    lines = list(Summary(a_report(states=states, reasons=changed), 0).lines())
    assert any(line.startswith("Reasons      3  Duplicate SOP instance (0x0111): the peer keeps") for line in lines)


def test_a_long_reason_goes_on_below_itself() -> None:
    reason = "a damaged DICOM file: the File Meta Information is damaged: the value of (0002,0012) is cut off"
    lines = list(Summary(a_report(reasons=Counter({reason: 12})), ExitCode.SOME_FAILED).lines())
    place = next(number for number, line in enumerate(lines) if line.startswith("Reasons"))
    assert lines[place : place + 2] == [
        "Reasons      12  a damaged DICOM file: the File Meta Information is damaged:",
        "                 the value of (0002,0012) is cut off",
    ]
    assert all(len(line) < 80 for line in lines)


def test_what_is_left_is_told_and_all_is_well_without_reasons() -> None:
    states = Counter({State.STORED: 3, State.SKIPPED: 2})
    report = a_report(states=states, reasons=Counter({"not a DICOM file": 2}))
    lines = list(Summary(report, ExitCode.STOPPED_EARLY, "7 instances left").lines())
    assert lines[:3] == [
        "Outcome      3  stored",
        "             2  not DICOM: skipped",
        "             7 instances left",
    ]
    assert not any("not a DICOM file" in line for line in lines)


def test_only_the_most_frequent_reasons_are_listed() -> None:
    reasons = Counter({f"reason {number}": 20 - number for number in range(12)})
    lines = list(Summary(a_report(reasons=reasons), ExitCode.SOME_FAILED).lines())
    assert sum(": reason" in line or "  reason" in line for line in lines) == 8
    assert "             42 in 4 more" in lines


@pytest.mark.parametrize("code", [*sorted(ALL_EXIT_CODES), 137])
def test_every_exit_code_has_a_meaning(code: int) -> None:
    line = next(line for line in Summary(a_report(), code).lines() if line.startswith("Exit code"))
    assert len(line.split(": ", 1)[1]) > 10


def steps(
    report: Report,
    *,
    ledger: str | None = "run.db",
    can_repeat: bool = True,
    is_unverified: bool = False,
    more: tuple[str, ...] = (),
) -> list[str]:
    arguments = [*ARGUMENTS[:2], *more, *ARGUMENTS[2:]]
    known = {"can_repeat": can_repeat, "is_unverified": is_unverified}
    return [command for command, _ in next_steps(report, ledger=ledger, arguments=arguments, **known)]


def test_the_next_commands_can_be_typed_as_they_are() -> None:
    done = a_report(states=Counter({State.STORED: 1210}))
    failed, aside = a_report(), a_report(set_aside=6)
    stopped = a_report(states=Counter({State.STORED: 9, State.LEFT: 1}))
    assert steps(done) == []
    assert steps(failed) == ["asyncstore report --failed-files run.db", SAME]
    assert steps(failed, ledger=None) == [SAME]
    assert steps(a_report(states=Counter({State.STORED: 9, State.SOURCE_PROBLEM: 1}), problems=1), ledger=None) == []
    assert steps(stopped) == [SAME]
    assert steps(stopped, ledger=None) == [SAME]
    assert steps(stopped, can_repeat=False) == []
    assert steps(done, is_unverified=True) == [SAME]
    assert steps(done, is_unverified=True, ledger=None) == []  # it would send everything again
    uncommitted = a_report(states=Counter({State.STORED: 9}), not_committed=Counter({"the run ended": 9}))
    for ledger in ("run.db", None):
        assert steps(uncommitted, ledger=ledger) == [SAME]
        assert steps(uncommitted, ledger=ledger, can_repeat=False) == []
    assert steps(failed, can_repeat=False) == ["asyncstore report --failed-files run.db"]
    with_option = SAME.replace("storescu", "storescu --retry-set-aside")
    assert steps(aside) == ["asyncstore report --failed-files run.db", with_option]
    assert steps(aside, more=("--retry-set-aside",)) == ["asyncstore report --failed-files run.db", with_option]


def test_what_a_next_command_is_for_fits_the_run() -> None:
    def purposes(report: Report, ledger: str | None) -> list[str]:
        return [purpose for _, purpose in next_steps(report, ledger=ledger, can_repeat=True, arguments=ARGUMENTS)]

    nothing = a_report(states=Counter({State.LEFT: 1}))
    some = a_report(states=Counter({State.STORED: 9, State.LEFT: 1}))
    assert purposes(nothing, None) == ["to try again"]
    assert purposes(some, "run.db") == ["to resume"]
    uncommitted = {"not_committed": Counter({"the run ended": 9})}
    assert purposes(a_report(states=Counter({State.STORED: 9}), **uncommitted), "run.db") == [
        "to ask again for what is not committed"
    ]
    both = purposes(a_report(**uncommitted), "run.db")
    assert both == ["to list what failed", "to try the failed ones again"]
    advice = "to send all again (--ledger FILE would send only the rest)"
    assert purposes(some, None) == purposes(a_report(), None) == [advice]


def test_a_run_that_sent_nothing_has_no_speed() -> None:
    report = a_report(states=Counter({State.LEFT: 3}), attempts=0, associations_established=0, sop_classes=Counter())
    assert not any(line.startswith("Sent") for line in Summary(report, ExitCode.NO_ASSOCIATION).lines())


def test_a_slow_run_has_a_rate() -> None:
    report = a_report(states=Counter({State.STORED: 3}), stored_bytes=10)
    assert "Sent         10 bytes in 10 s: 1 byte/s, 0.3 instances/s, 3 associations" in Summary(report, 0).lines()


def test_a_program_that_was_called_as_a_module_is_named_so() -> None:
    arguments = ["/usr/lib/asyncstore/__main__.py", "storescu", "localhost", "104", "-"]
    report = a_report(states=Counter({State.LEFT: 1}))
    command = next_steps(report, ledger=None, can_repeat=True, arguments=arguments)[0][0]
    assert command.split()[1:] == ["-m", "asyncstore", "storescu", "localhost", "104", "-"]
