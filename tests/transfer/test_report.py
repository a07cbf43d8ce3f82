"""Report: the counts that everything else shows."""

from __future__ import annotations

import json

import pytest

from asyncstore.errors import ConnectionLost
from asyncstore.instances.outcome import Outcome, State
from asyncstore.status import Status
from asyncstore.transfer.report import Report
from asyncstore.uids import CT_IMAGE_STORAGE, MR_IMAGE_STORAGE
from tests.support.transfers import instance


def report_of(*states: State) -> Report:
    report = Report()
    for number, state in enumerate(states):
        report.add(Outcome(state, None, instance(number), bytes_sent=instance(number).data_set_length))
    return report


def test_every_state_is_counted_as_stored_failed_or_left() -> None:
    report = report_of(*State)
    assert report.finished == len(State)
    assert report.stored == 3  # stored, warning, resumed
    assert report.failed == 5  # failed, no-context, source-problem, conflict, unknown
    assert (report.duplicates, report.left) == (1, 1)
    assert report.finished == report.stored + report.failed + report.duplicates + report.left + 1  # skipped


def test_bytes_and_attempts_are_those_of_the_instances() -> None:
    sent, refused = instance(1), instance(2)
    report = Report()
    report.add(Outcome(State.STORED, None, sent, Status(0), attempts=3, bytes_sent=7))
    report.add(Outcome(State.FAILED, None, refused, Status(0xA900), reason="no", attempts=1))
    assert report.stored_bytes == 7  # it was sent as something else than its file
    assert report.finished_bytes == sent.data_set_length + refused.data_set_length
    assert report.attempts == 4
    assert report.statuses == {0: 1, 0xA900: 1}
    assert report.reasons == {"no": 1}


def test_reasons_that_are_all_different_do_not_fill_the_memory() -> None:
    report = Report()
    for number in range(1500):
        report.add(Outcome(State.FAILED, None, reason=f"reason {number}"))
    report.add(Outcome(State.FAILED, None, reason="reason 1"))
    assert len(report.reasons) == 1000
    assert report.reasons["reason 1"] == 2
    assert report.failed == 1501


def test_it_is_plain_data_for_json() -> None:
    report = report_of(State.STORED, State.WARNING, State.LEFT)
    report.found, report.stopped_because = 3, ConnectionLost("gone")
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["found"] == 3
    assert plain["stored"] == 2
    assert plain["states"] == {"left": 1, "stored": 1, "warning": 1}
    assert plain["stopped_because"] == "gone"
    assert plain["elapsed_seconds"] >= 0


def test_time_stands_still_when_the_run_has_ended() -> None:
    report = Report(started_at=10.0, finished_at=12.5)
    assert report.elapsed_seconds == 2.5


def test_what_an_earlier_run_stored_is_found_and_finished_and_no_problem() -> None:
    report = Report()
    for state in (State.RESUMED, State.RESUMED, State.DUPLICATE):
        report.add(Outcome(state, "a.dcm", attempts=0), is_settled=True)
    report.find(instance(1))
    report.add(Outcome(State.STORED, None, instance(1)))
    assert (report.found, report.finished_instances, report.resumed, report.problems) == (4, 4, 2, 0)
    assert (report.stored, report.failed) == (3, 0)
    assert report.to_dict()["resumed"] == 2


def test_what_is_no_instance_is_neither_found_nor_finished() -> None:
    report = Report()
    report.add(Outcome(State.SKIPPED, "README"))
    report.add(Outcome(State.SKIPPED, "README"), is_settled=True)
    report.add(Outcome(State.SOURCE_PROBLEM, "missing"))
    report.add(Outcome(State.SOURCE_PROBLEM, "damaged"), is_settled=True)
    assert (report.found, report.finished_instances, report.failed_instances) == (0, 0, 0)
    assert (report.skipped, report.problems, report.failed) == (2, 2, 2)


def test_an_instance_that_cannot_be_read_any_more_is_one() -> None:
    report = Report()
    report.find(instance(1))
    report.add(Outcome(State.SOURCE_PROBLEM, None, instance(1)))
    assert (report.found, report.finished_instances, report.failed_instances, report.problems) == (1, 1, 1, 0)


@pytest.mark.parametrize(("left", "scan_finished", "early"), [(0, True, False), (1, True, True), (0, False, True)])
def test_a_run_stopped_early_if_anything_is_left_known_or_not(left: int, scan_finished: bool, early: bool) -> None:
    report = report_of(*[State.LEFT] * left)
    report.scan_finished = scan_finished
    assert report.stopped_early is early
    assert report.finished_instances == 0


def test_what_was_stored_is_counted_by_sop_class_and_by_its_bytes() -> None:
    report = report_of(State.STORED, State.WARNING, State.FAILED, State.DUPLICATE, State.LEFT)
    report.add(Outcome(State.STORED, None, instance(9, sop_class_uid=MR_IMAGE_STORAGE), bytes_sent=100))
    report.add(Outcome(State.RESUMED, None, instance(10), attempts=0))
    assert report.sop_classes == {CT_IMAGE_STORAGE: 2, MR_IMAGE_STORAGE: 1}
    assert report.stored_bytes == 2 * instance(3).data_set_length + 100
    assert report.finished_bytes == 5 * instance(3).data_set_length  # also of the failed one and the duplicate


def test_what_was_found_is_read_or_known_from_before() -> None:
    report = Report()
    report.find(instance(1))
    report.add(Outcome(State.RESUMED, "a", attempts=0), is_settled=True)
    report.add(Outcome(State.UNKNOWN, "b", attempts=0, is_set_aside=True), is_settled=True)
    assert (report.found, report.found_before, report.set_aside) == (3, 2, 1)
    assert report.found_file_bytes == instance(1).size_bytes
