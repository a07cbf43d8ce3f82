"""What a run looks like: each line fits, says what is not 0, and says what the run waits for."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from asyncstore.cli.counting import InputCount
from asyncstore.cli.output.outlook import Outlook
from asyncstore.cli.output.progress import Marks, display_lines, stats_line, waits_text
from asyncstore.cli.output.screen import width_of
from asyncstore.errors import ConnectFailed, StoreFailed
from asyncstore.inputs.count import Request
from asyncstore.instances.outcome import State
from asyncstore.status import Status
from asyncstore.transfer.report import Report, Waiting
from asyncstore.transfer.view import AssociationView, TransferView, Trouble

MARKS = Marks(unicode=True)
IDLE = AssociationView(1, "open")
SMALL = AssociationView(2, "open", "/mnt/old/study/series/0001.dcm", 9200, None, (), 16, 400)
LARGE = AssociationView(3, "open", "/mnt/old/large.dcm", 1_000_000_000, 430_000_000, (430_000_000,), 1, 2)


def a_report(**known: object) -> Report:
    known = {"states": Counter({State.STORED: 1200, State.FAILED: 3}), **known}
    return Report(
        found=5000,
        found_bytes=40_000_000,
        finished_bytes=9_600_000,
        associations_open=4,
        **known,  # type: ignore[arg-type]
    )


def shown(report: Report, view: TransferView | None = None, size: tuple[int, int] = (80, 24)) -> list[str]:
    glance = Outlook(report, lambda: view or TransferView(waiting=1), lambda: None).look(0.0)
    return ["".join(span.text for span in line) for line in display_lines(glance, 0.0, MARKS, size)]


def waits(view: TransferView, report: Report | None = None) -> str:
    return waits_text(Outlook(report or a_report(), lambda: view, lambda: None).look(0.0))


def test_the_first_lines_say_how_far_the_run_is() -> None:
    bar, sums, counters = shown(a_report(scan_finished=True))
    assert bar.startswith(" 24 % ━━━━━")
    assert sums == "1,203/5,000 instances  9.60 MB/40.0 MB  0 bytes/s  0/s  4 associations"
    assert counters == "1,200 stored  3 failed"


def test_a_total_that_still_grows_is_told_as_the_least() -> None:
    bar, sums, _ = shown(a_report())
    assert "%" not in bar
    assert sums == "1,203 of at least 5,000 instances  9.60 MB  0 bytes/s  0/s  4 associations"


def test_the_counters_are_those_that_are_not_0() -> None:
    report = a_report(scan_finished=True, problems=1)
    report.states |= Counter(
        {State.WARNING: 4, State.DUPLICATE: 5, State.RESUMED: 6, State.SKIPPED: 7, State.SOURCE_PROBLEM: 1}
    )
    counters = shown(report, TransferView(waiting=1, retrying=8, suspected=2), (140, 24))[2]
    assert counters == (
        "1,204 stored  4 failed  8 to be sent again (2 of them alone)  4 with a warning  6 stored earlier  5 duplicate"
        "  7 not DICOM"
    )


@pytest.mark.parametrize("width", [30, 60, 80])
def test_no_counter_is_cut_where_the_terminal_is_narrow(width: int) -> None:
    million = 1_000_000
    states = Counter(dict.fromkeys((State.STORED, State.WARNING, State.DUPLICATE, State.RESUMED), million))
    states |= Counter({State.FAILED: million, State.SKIPPED: million})
    view = TransferView(waiting=1, retrying=million)
    lines = shown(Report(states=states, scan_finished=True), view, (width, 24))
    assert all(len(line) < width for line in lines)
    whole = "  ".join(lines[2:])
    assert whole == (
        "2,000,000 stored  1,000,000 failed  1,000,000 to be sent again  1,000,000 with a warning"
        "  1,000,000 stored earlier  1,000,000 duplicate  1,000,000 not DICOM"
    )


def test_what_is_no_instance_is_not_among_the_instances() -> None:
    states = Counter({State.STORED: 2, State.SKIPPED: 5, State.SOURCE_PROBLEM: 1})
    assert shown(Report(found=2, problems=1, states=states, scan_finished=True))[1].startswith("2/2 instances  ")


def test_each_association_has_a_row() -> None:
    connecting = AssociationView(12, "connecting")
    idle, small, large, new = shown(
        a_report(scan_finished=True), TransferView((IDLE, SMALL, LARGE, connecting), 1), (100, 24)
    )[3:]
    assert idle == "  [1] waiting for an instance"
    assert small.startswith("  [2] /mnt/old/study/series/0001.dcm  ")
    assert small.rstrip().endswith("9.20 kB          0/s")
    assert large.startswith("  [3] /mnt/old/large.dcm  ")
    assert "━━━━──────   43 % of   1.00 GB" in large
    assert new == " [12] connecting"


def test_a_silent_peer_is_told_for_as_long_as_it_is_silent() -> None:
    silent = SMALL._replace(silent_seconds=12.0)
    row = shown(a_report(scan_finished=True), TransferView((silent,)))[-1]
    assert row.endswith("no answer 12 s")
    assert len(row) == len(shown(a_report(scan_finished=True), TransferView((SMALL,)))[-1])


def test_more_associations_than_rows_are_counted() -> None:
    associations = tuple(IDLE._replace(number=number) for number in range(1, 41))
    lines = shown(a_report(scan_finished=True), TransferView(associations, 1))
    assert len(lines) == 23
    assert lines[-1] == "     and 21 more associations"
    assert len(shown(a_report(scan_finished=True), TransferView(associations, 1), (80, 3))) <= 4


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_line_fits(width: int) -> None:
    long = SMALL._replace(path="/mnt/" + "ö日本" * 50 + "/0001.dcm", silent_seconds=100.0)
    view = TransferView((IDLE, long, LARGE._replace(path=None)), 1, retrying=12, suspected=3)
    assert all(width_of(line) < width for line in shown(a_report(scan_finished=True), view, (width, 24)))


def test_a_name_is_worth_more_than_rates_where_the_terminal_is_narrow() -> None:
    wide, narrow, narrower = (
        shown(a_report(scan_finished=True), TransferView((SMALL,), 1), (width, 24))[-1] for width in (80, 60, 40)
    )
    assert wide.split() == ["[2]", "/mnt/old/study/series/0001.dcm", "9.20", "kB", "0/s"]
    assert narrow.split() == ["[2]", "/mnt/old/…udy/series/0001.dcm", "9.20", "kB", "0/s"]
    assert narrower.split() == ["[2]", "/mnt/old/study/series/0001.dcm"]


def test_a_narrow_terminal_shows_whole_parts() -> None:
    assert (
        shown(a_report(scan_finished=True), size=(60, 24))[1]
        == "1,203/5,000 instances  9.60 MB/40.0 MB  0 bytes/s  0/s"
    )


def test_a_path_cannot_move_the_cursor_and_ascii_is_enough() -> None:
    row = shown(a_report(), TransferView((SMALL._replace(path="/mnt/\x1b[2J\n.dcm"),), 1))[-1]
    assert row.startswith("  [2] /mnt/\\x1b[2J\\n.dcm ")
    assert Marks(unicode=False).name("/mnt/ö\udcff.dcm") == "/mnt/\\xf6\\xff.dcm"


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (TransferView(waiting=1), ""),
        (TransferView(is_stopping=True, in_flight=2), "stopping: 2 answers to come"),
        (TransferView(is_stopping=True), "stopping: the associations are ending"),
        (
            TransferView((SMALL._replace(silent_seconds=30.0), LARGE._replace(silent_seconds=9.0)), 1),
            "the peer has not answered for 9 s",
        ),
        (
            TransferView((SMALL._replace(silent_seconds=9.0, answer_limit_seconds=30.0),), 1),
            "the peer has not answered for 9 s; -td ends its association after 30 s",
        ),
        (TransferView((SMALL._replace(silent_seconds=30.0), LARGE), 1), ""),
        (TransferView(retrying=3, retry_seconds=4.2), "3 instances to be sent again, the next in 4 s"),
    ],
)
def test_what_the_run_waits_for_is_one_line(view: TransferView, text: str) -> None:
    assert waits(view, a_report(scan_finished=True)) == text


def test_a_peer_that_is_away_is_told_with_the_reason_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    away = Trouble(ConnectFailed("connection refused\x1b[2J"), 3661.0)
    assert waits(TransferView(trouble=away)) == "the peer takes nothing, trying until 01:01:01: connection refused[2J"
    full = Trouble(StoreFailed("Refused: out of resources (0xA700)", Status(0xA700)), 61.0)
    expected = "the peer is out of resources, trying until 00:01:01: Refused: out of resources (0xA700)"
    assert waits(TransferView(trouble=full)) == expected
    stopping = TransferView(is_stopping=True, in_flight=1, drain_seconds=30.0)
    assert waits(stopping) == "stopping: 1 answer to come, until 00:00:30 at most"


def test_a_peer_that_was_never_there_is_not_promised_a_time() -> None:
    away = Trouble(ConnectFailed("connection refused"), None)
    assert waits(TransferView(trouble=away)) == "no association yet, trying again: connection refused"


def test_a_pause_a_slow_source_and_a_slow_association_are_told() -> None:
    assert waits(TransferView(), a_report(waiting_for=Waiting(None))) == "paused"
    outlook = Outlook(a_report(), TransferView, lambda: None)
    outlook.look(0.0)
    assert waits_text(outlook.look(7.0)) == "waiting for the source: no file was ready for 7 s"
    connecting = TransferView((AssociationView(1, "connecting"),), 1)
    assert waits(connecting, Report()) == "waiting for the peer to accept an association"


def test_a_run_that_only_waits_for_commitment_says_so() -> None:
    sent = {"states": Counter({State.STORED: 5000}), "committed": 0}
    waiting = "waiting for the peer to commit to what it stored"
    assert waits(TransferView(), a_report(scan_finished=True, **sent)) == waiting
    assert waits(TransferView(), a_report(**sent)) == ""
    assert waits(TransferView(), a_report(scan_finished=True, committed=0)) == ""
    assert waits(TransferView(is_stopping=True), a_report(scan_finished=True, **sent)).startswith("stopping")


def test_the_line_for_a_log_has_the_same_in_one_line() -> None:
    report = a_report(scan_finished=True)
    outlook = Outlook(report, lambda: TransferView(waiting=1), lambda: None)
    outlook.look(0.0)
    report.states[State.STORED], report.finished_bytes, report.sent_bytes = 2200, 20_000_000, 10_000_000
    assert stats_line(outlook.look(10.0)) == (
        "2,203/5,000 instances, 20.0 MB/40.0 MB, 1.00 MB/s, 100/s, 4 associations, 25 s left, 3 failed"
    )


def test_the_line_for_a_log_has_every_counter() -> None:
    report = a_report(scan_finished=True)
    report.states |= Counter({State.WARNING: 4, State.RESUMED: 6})
    outlook = Outlook(report, lambda: TransferView(waiting=1, retrying=8), lambda: None)
    expected = "associations, 3 failed, 8 to be sent again, 4 with a warning, 6 stored earlier"
    assert stats_line(outlook.look(0.0)).endswith(expected)


def test_no_time_is_promised_where_it_would_be_0_at_least() -> None:
    report = Report(found=1000, found_bytes=10_000, finished_bytes=0)
    counted = InputCount(Request([], False))
    counted.entries, counted.size_bytes = 1000, 10_000
    outlook = Outlook(report, lambda: TransferView(waiting=1), lambda: counted)
    outlook.look(0.0)
    report.states[State.STORED], report.finished_bytes = 999, 9_990
    assert "left" not in stats_line(outlook.look(10.0))
    report.scan_finished = True
    assert ", 0 s left" in stats_line(outlook.look(10.0))


def test_a_bar_is_full_only_when_all_is_done() -> None:
    assert [MARKS.bar(share, 4)[0].text for share in (0.0, 0.26, 0.999, 1.0)] == ["", "━", "━━━", "━━━━"]
    assert all(sum(map(len, (span.text for span in MARKS.moving_bar(now, 10)))) == 10 for now in (0.0, 0.9, 3.3))
