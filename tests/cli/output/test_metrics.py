"""The text of the metrics: as Prometheus reads it, with each state from the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asyncstore.cli.output.metrics import BEGINNING, Reading, metrics_text
from asyncstore.instances.outcome import Outcome, State
from asyncstore.transfer.report import Report
from asyncstore.transfer.view import TransferView

if TYPE_CHECKING:
    from prometheus_client import Metric

STARTED_AT = 1_790_000_000.25


def reading(**changes: Any) -> Reading:
    return Reading("night", "ARCHIVE@pacs:104", Report(), TransferView(), STARTED_AT, STARTED_AT)._replace(**changes)


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(text: str) -> dict[str, float]:
    """The metrics that have one sample."""
    found = families(text).values()
    return {family.samples[0].name: family.samples[0].value for family in found if len(family.samples) == 1}


def test_a_run_that_begins_has_every_number_and_each_state_but_no_exit_code() -> None:
    text = metrics_text(reading())
    assert text.startswith(BEGINNING)
    assert text.endswith("\n")
    states = {sample.labels["state"]: sample.value for sample in families(text)["asyncstore_instances"].samples}
    assert states == {state.value: 0 for state in State}
    numbers = values(text)
    assert "asyncstore_exit_code" not in numbers
    assert numbers["asyncstore_finished"] == 0
    assert numbers["asyncstore_start_timestamp_seconds"] == STARTED_AT
    assert numbers["asyncstore_latest_answer_timestamp_seconds"] == STARTED_AT


def test_the_numbers_are_those_of_the_report_and_the_view() -> None:
    report = Report(attempts=5, answers=4, sent_bytes=1 << 53, stored_bytes=7, associations_open=2, scan_finished=True)
    report.add(Outcome(State.NO_CONTEXT, "a.dcm", attempts=0))
    view = TransferView(waiting=3, in_flight=2, retrying=1)
    text = metrics_text(reading(report=report, view=view, answered_at=STARTED_AT + 9, exit_code=3))
    by_state = {sample.labels["state"]: sample.value for sample in families(text)["asyncstore_instances"].samples}
    assert by_state["no-context"] == 1
    assert {name.removeprefix("asyncstore_"): value for name, value in values(text).items()} == {
        "run_info": 1,
        "instances_found_total": 0,
        "input_complete": 1,
        "attempts_total": 5,
        "answers_total": 4,
        "sent_bytes_total": 1 << 53,
        "stored_bytes_total": 7,
        "associations_open": 2,
        "associations_established_total": 0,
        "instances_waiting": 3,
        "instances_in_flight": 2,
        "retries_waiting": 1,
        "outage": 0,
        "paused": 0,
        "start_timestamp_seconds": STARTED_AT,
        "latest_answer_timestamp_seconds": STARTED_AT + 9,
        "finished": 1,
        "exit_code": 3,
    }


def test_every_metric_says_what_it_is_and_only_counters_are_totals() -> None:
    for family in families(metrics_text(reading(exit_code=0))).values():
        assert family.name.startswith("asyncstore_")
        assert family.documentation.endswith(".")
        is_counter = family.type == "counter"
        assert is_counter or family.type == "gauge"
        for sample in family.samples:
            assert sample.name == (f"{family.name}_total" if is_counter else family.name)
            assert sample.labels["run"] == "night"


@pytest.mark.parametrize("name", ['a"b', "a\\nb", "a\nb", "a}b", "Łódź"])
def test_names_come_back_whole(name: str) -> None:
    (sample,) = families(metrics_text(reading(run=name, destination=name)))["asyncstore_run_info"].samples
    assert (sample.labels["run"], sample.labels["destination"]) == (name, name)
