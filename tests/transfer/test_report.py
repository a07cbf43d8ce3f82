"""Report: the counts that everything else shows."""

from __future__ import annotations

import json

from asyncstore.errors import ConnectionLost
from asyncstore.instances.outcome import Outcome, State
from asyncstore.status import Status
from asyncstore.transfer.report import Report
from tests.support.transfers import instance


def report_of(*states: State) -> Report:
    report = Report()
    for number, state in enumerate(states):
        report.add(Outcome(state, None, instance(number)))
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
    report.add(Outcome(State.STORED, None, sent, Status(0), attempts=3))
    report.add(Outcome(State.FAILED, None, refused, Status(0xA900), reason="no", attempts=1))
    assert report.stored_bytes == sent.data_set_length
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
