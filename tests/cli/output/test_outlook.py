"""How far a run is and how long it takes: true to what is known, whatever was counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from asyncstore.cli.output.outlook import Outlook, RateMeter, Totals, totals
from asyncstore.errors import ConnectFailed
from asyncstore.instances.outcome import State
from asyncstore.transfer.report import Report, Waiting
from asyncstore.transfer.view import AssociationView, TransferView, Trouble

MEBIBYTE = 1 << 20


@dataclass
class Counted:
    entries: int = 0
    size_bytes: int = 0
    is_complete: bool = True


def test_rates_are_means_over_the_last_seconds() -> None:
    rate = RateMeter()
    for second in range(60):
        rate.add(float(second), 1000 * second if second < 30 else 30_000 + 5000 * (second - 30), second)
    assert rate.per_second(0) == pytest.approx(5000)
    assert rate.per_second(1) == pytest.approx(1)


def test_a_rate_needs_two_moments_and_never_goes_down() -> None:
    rate = RateMeter()
    rate.add(1.0, 500)
    assert rate.per_second() == 0
    rate.add(1.0, 900)
    assert rate.per_second() == 0
    rate.add(2.0, 100)
    assert rate.per_second() == 0


def test_lines_that_are_minutes_apart_tell_the_mean_between_them() -> None:
    rate = RateMeter()
    for now, count in ((0.0, 0), (60.0, 600), (120.0, 660)):
        rate.add(now, count)
    assert rate.per_second() == pytest.approx(1)


@pytest.mark.parametrize(
    ("report", "counted", "expected"),
    [
        (Report(found=7, found_bytes=70), None, Totals(7, 70, False)),
        (Report(found=7, found_bytes=70, scan_finished=True), Counted(9, 999), Totals(7, 70, True)),
        # Of 100 files of 110 bytes, 7 were opened: each has 100 bytes of data set.
        (Report(found=7, found_bytes=700, found_file_bytes=770), Counted(100, 11_000), Totals(100, 10_000, True)),
        (
            Report(found=7, found_bytes=700, found_file_bytes=770),
            Counted(50, 5_500, is_complete=False),
            Totals(50, 5_000, False),
        ),
        # Two were not DICOM, and one damaged: they count for the mean of what was counted.
        (
            Report(found=7, found_bytes=770, found_file_bytes=770, problems=1, states=Counter({State.SKIPPED: 2})),
            Counted(100, 11_000),
            Totals(97, 11_000 - 330, True),
        ),
        # An earlier run stored 50, which are not opened.
        (
            Report(found=57, found_before=50, found_bytes=770, found_file_bytes=770),
            Counted(100, 11_000),
            Totals(100, 5_500, True),
        ),
        # There are more than were counted: files come while the run goes on.
        (Report(found=12, found_bytes=1200, found_file_bytes=1200), Counted(10, 1000), Totals(12, 1200, True)),
        (Report(), Counted(is_complete=False), Totals(0, 0, False)),
    ],
)
def test_the_total_is_what_was_counted_corrected_by_what_was_read(
    report: Report, counted: Counted | None, expected: Totals
) -> None:
    assert totals(report, counted) == expected


def test_the_time_left_counts_bytes_and_instances() -> None:
    """A thousand small ones take as long as a large one, and the mean of what is done says nothing about the rest."""
    report = Report(found=1002, found_bytes=32 * MEBIBYTE, scan_finished=True)
    outlook = Outlook(report, TransferView, lambda: None)
    outlook.look(0.0)
    report.states[State.STORED], report.finished_bytes = 1, 16 * MEBIBYTE
    glance = outlook.look(1.0)
    assert glance.left_seconds == pytest.approx((16 * MEBIBYTE + 1001 * 16384) / (16 * MEBIBYTE + 16384))
    assert glance.done_share == pytest.approx(0.5)


def test_a_large_one_that_is_sent_as_more_bytes_than_its_file_has_is_never_more_than_all() -> None:
    report = Report(found=2, found_bytes=30 * MEBIBYTE, scan_finished=True, finished_bytes=10 * MEBIBYTE)
    large = AssociationView(1, "open", "a", 80 * MEBIBYTE, 60 * MEBIBYTE, (60 * MEBIBYTE,), 1)
    glance = Outlook(report, lambda: TransferView((large,)), lambda: None).look(0.0)
    assert (glance.done_bytes, glance.done_share) == (30 * MEBIBYTE, 1.0)


def test_what_an_earlier_run_stored_is_done_and_does_not_count_as_speed() -> None:
    report = Report(found=1_000, scan_finished=True)
    outlook = Outlook(report, TransferView, lambda: None)
    outlook.look(0.0)
    report.states[State.RESUMED], report.states[State.STORED] = 800, 20
    glance = outlook.look(1.0)
    assert glance.instances_per_second == pytest.approx(20)
    assert glance.left_seconds == pytest.approx(9)  # 180 more, 20 in a second


@pytest.mark.parametrize(
    ("view", "waiting_for"),
    [
        (TransferView(is_stopping=True), None),
        (TransferView(trouble=Trouble(ConnectFailed("no"), 60)), None),
        (TransferView(), Waiting(None)),
    ],
)
def test_while_nothing_goes_on_no_time_left_is_promised(view: TransferView, waiting_for: Waiting | None) -> None:
    report = Report(found=10, scan_finished=True, waiting_for=waiting_for)
    outlook = Outlook(report, lambda: view, lambda: None)
    outlook.look(0.0)
    report.states[State.STORED] = 5
    assert outlook.look(1.0).left_seconds is None


def test_without_a_count_the_time_left_is_told_once_the_input_is_read() -> None:
    report = Report(found=10)
    outlook = Outlook(report, TransferView, lambda: None)
    outlook.look(0.0)
    report.states[State.STORED] = 5
    assert outlook.look(1.0).left_seconds is None
    report.scan_finished = True
    assert outlook.look(2.0).left_seconds == pytest.approx(2)


def test_once_an_archive_was_opened_the_count_of_files_says_nothing() -> None:
    report = Report(found=7, found_bytes=70)
    outlook = Outlook(report, TransferView, lambda: Counted(3, 999))
    assert outlook.look(0.0).totals.are_final
    report.archives_opened = 1
    report.states[State.STORED] = 5
    glance = outlook.look(1.0)
    assert glance.totals == Totals(7, 70, False)
    assert glance.left_seconds is None


def test_a_large_instance_moves_from_its_first_byte() -> None:
    """The report counts its bytes beyond the first 8 MiB; the others are those that the association has written."""
    report = Report(found=1, found_bytes=64 * MEBIBYTE, scan_finished=True)
    written = 0

    def view() -> TransferView:
        one = AssociationView(1, "open", "large.dcm", 64 * MEBIBYTE, written, (written,), 1)
        return TransferView((one,), in_flight=1)

    outlook = Outlook(report, view, lambda: None)
    outlook.look(0.0)
    written = 4 * MEBIBYTE
    glance = outlook.look(1.0)
    assert glance.bytes_per_second == pytest.approx(4 * MEBIBYTE)
    assert glance.rates[1].large_bytes_per_second == pytest.approx(4 * MEBIBYTE)
    assert glance.done_share == pytest.approx(1 / 16)
    assert glance.left_seconds == pytest.approx(15, rel=0.01)
    written, report.sent_bytes = 16 * MEBIBYTE, 8 * MEBIBYTE
    assert outlook.look(2.0).bytes_per_second == pytest.approx(8 * MEBIBYTE)


def test_each_association_has_its_own_rate_and_the_time_of_its_answers() -> None:
    answers = {1: 0, 2: 100}
    view = lambda: TransferView(  # noqa: E731
        tuple(AssociationView(number, "open", in_flight=4, answers=count) for number, count in answers.items())
    )
    outlook = Outlook(Report(), view, lambda: None)
    outlook.look(0.0)
    answers[1] = 8
    rates = outlook.look(1.0).rates
    assert rates[1].answers_per_second == pytest.approx(8)
    assert rates[1].answer_seconds == pytest.approx(0.5)  # four at a time, eight in a second
    assert rates[2].answer_seconds is None
    del answers[1]
    assert list(outlook.look(2.0).rates) == [2]


def test_the_time_of_answers_is_right_from_the_first_ones() -> None:
    in_flight = answers = 0
    view = lambda: TransferView((AssociationView(1, "open", in_flight=in_flight, answers=answers),))  # noqa: E731
    outlook = Outlook(Report(), view, lambda: None)
    seconds = {}
    for quarter in range(40):  # sixteen at a time, each answered after three seconds
        in_flight, answers = 16 if quarter else 0, 16 * (quarter // 12)
        seconds[quarter] = outlook.look(quarter / 4).rates[1].answer_seconds
    assert seconds[11] is None
    assert all(2.0 < (seconds[quarter] or 0) < 4.0 for quarter in range(13, 40)), seconds


def test_a_source_is_slow_if_nothing_is_ready_for_a_while() -> None:
    waiting = [0, 0, 5, 0]
    outlook = Outlook(Report(), lambda: TransferView(waiting=waiting.pop(0)), lambda: None)
    assert [outlook.look(float(second)).starved_seconds for second in range(4)] == [0, 1, 0, 0]


def test_an_input_without_bytes_is_told_by_its_instances() -> None:
    report = Report(found=4, scan_finished=True, states=Counter({State.STORED: 1}))
    assert Outlook(report, TransferView, lambda: None).look(0.0).done_share == 0.25
    assert Outlook(Report(), TransferView, lambda: None).look(0.0).done_share == 0
