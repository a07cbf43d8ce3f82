"""Destination: what the ends of associations say about the peer, how long it is left alone, and what is told of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import (
    Aborted,
    AssociationRejected,
    ConnectFailed,
    ConnectionLost,
    RemoteProtocolError,
    StoreFailed,
    Timeout,
)
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.destination import Destination, Ended
from asyncstore.transfer.options import RetryPolicy
from asyncstore.transfer.trace import PeerTakesAgain, PeerTakesNothing

if TYPE_CHECKING:
    from asyncstore.errors import AsyncStoreError

NOW = 1000.0
ABORTED = Aborted(0, 0)
NO_ROOM = StoreFailed("out of resources")


def destination_of(*, has_answered: bool = True, **policy: Any) -> Destination:
    destination = Destination(RetryPolicy(**policy), Concurrency(None))
    destination.was_established = True
    if has_answered:
        destination.took_one(NOW)
    return destination


def died(destination: Destination, now: float = NOW, *, error: AsyncStoreError = ABORTED, suspected: int = 0) -> None:
    """An association dies over one instance."""
    destination.learn_from(Ended(error, True, 0, 0.0, 0, in_flight=1, suspected=suspected), now)


# -- associations that die over instances ------------------------------------------------------------------------------


def test_after_a_death_over_an_instance_others_are_tried_at_once() -> None:
    destination = destination_of()
    for _ in range(5):
        died(destination)
    assert destination.closed_until(NOW) <= NOW
    assert not destination.is_probed
    assert not destination.is_doubtful


def test_a_hundred_deaths_in_a_row_of_a_peer_that_has_answered_cost_seconds() -> None:
    destination, now = destination_of(), NOW
    for _ in range(100):
        died(destination, now)
        now = max(now, destination.closed_until(now))
    assert now - NOW < 25  # a quarter of the first wait each, at most
    assert not destination.is_probed
    assert destination.stopped_because is None


def test_many_more_are_about_the_peer() -> None:
    destination, now = destination_of(outage_seconds=60), NOW
    deaths = 0
    while destination.stopped_because is None:
        died(destination, now)
        now = max(now, destination.closed_until(now))
        deaths += 1
    assert 128 < deaths < 400
    assert now - NOW >= 60
    assert destination.start_failure is None


def test_an_answer_between_deaths_begins_the_count_again() -> None:
    destination, now = destination_of(outage_seconds=60), NOW
    for _ in range(1000):
        died(destination, now)
        destination.took_one(now)
        now += 1
    assert destination.stopped_because is None
    assert destination.is_well


def test_a_peer_that_has_answered_nothing_yet_is_suspected_itself_after_three() -> None:
    destination = destination_of(has_answered=False)
    died(destination)
    died(destination)
    assert not destination.is_probed
    died(destination)
    assert destination.is_probed


def test_deaths_over_instances_that_were_suspected_before_are_not_about_the_peer() -> None:
    destination = destination_of(has_answered=False, outage_seconds=60)
    for number in range(500):
        died(destination, NOW + number, suspected=1)
    assert not destination.is_probed
    assert destination.stopped_because is None


def test_a_peer_over_whose_silence_everything_dies_is_given_up_in_the_end() -> None:
    destination, now = destination_of(outage_seconds=60), NOW
    while destination.stopped_because is None:
        died(destination, now, error=Timeout("dimse", 30))
        now += 30
        assert now - NOW <= 20 * 60 + 30
    assert isinstance(destination.stopped_because, Timeout)


def test_a_peer_that_violates_the_protocol_in_the_same_way_each_time_is_given_up_at_once() -> None:
    destination, now = destination_of(has_answered=False, outage_seconds=3600), NOW
    wrong = RemoteProtocolError("4 bytes", pdu="C-STORE-RSP", field="Status")
    deaths = 0
    while destination.stopped_because is None:
        died(destination, now, error=wrong)
        now = max(now, destination.closed_until(now))
        deaths += 1
        assert deaths < 10
    assert destination.stopped_because is wrong


def test_what_a_peer_does_wrong_in_different_ways_is_waited_out() -> None:
    destination, now = destination_of(has_answered=False, outage_seconds=60), NOW
    for number in range(8):
        died(destination, now, error=RemoteProtocolError(str(number), pdu="C-STORE-RSP", field="Status"))
    assert destination.stopped_because is None


def test_instances_that_the_peer_has_taken_others_since_may_die_for_as_long_as_they_like() -> None:
    destination = destination_of(outage_seconds=60)
    for number in range(500):
        died(destination, NOW + 30 * number, error=Timeout("dimse", 30), suspected=1)
    assert destination.stopped_because is None


def test_a_run_without_patience_stands_bad_instances_and_a_refusal() -> None:
    destination = destination_of(outage_seconds=0)
    for number in range(10):
        died(destination, NOW + number)
    destination.took_one(NOW + 10)
    destination.pressed(NOW + 11, NO_ROOM)
    assert destination.stopped_because is None
    assert destination.closed_until(NOW + 11) <= NOW + 11
    destination.pressed(NOW + 12, NO_ROOM)
    assert destination.stopped_because is NO_ROOM


@pytest.mark.parametrize(
    ("error", "left_seconds"),
    [
        (ConnectFailed("refused"), None),
        (AssociationRejected(result=2, source=3, reason=2), 50),
    ],
)
def test_before_the_first_association_only_a_peer_that_is_busy_is_promised_the_time_of_an_outage(
    error: AsyncStoreError, left_seconds: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "asyncstore")
    destination = Destination(RetryPolicy.for_ledger(outage_seconds=60), Concurrency(None))
    destination.failed(NOW, error)
    destination.look(NOW + 10)
    trouble = destination.trouble(NOW + 10)
    assert trouble is not None
    assert trouble.left_seconds == left_seconds
    assert len(caplog.records) == (left_seconds is not None)


def test_deaths_without_an_answer_are_told_and_so_is_their_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "asyncstore")
    destination = destination_of()
    for number in range(3):  # it may be one bad instance
        died(destination, NOW + number)
    destination.look(NOW + 100)
    assert not caplog.records
    assert destination.trouble(NOW + 100) is None
    died(destination, NOW + 100)
    destination.look(NOW + 100)
    assert destination.trouble(NOW + 100) is not None
    destination.took_one(NOW + 110)
    told: list[Any] = [record.msg for record in caplog.records]
    assert [type(event) for event in told] == [PeerTakesNothing, PeerTakesAgain]
    assert (told[0].because, told[0].left_seconds, told[1].seconds) == (str(ABORTED), 1100, 110)
    assert destination.trouble(NOW + 110) is None


@pytest.mark.parametrize(
    ("errors", "seconds", "dies_as_one"),
    [
        ([ConnectionLost("reset"), ConnectionLost("reset")], 0.1, True),
        ([ConnectionLost("reset"), ConnectionLost("reset")], 10.0, False),
        ([ABORTED, ABORTED], 0.1, False),
        ([ConnectionLost("reset"), ConnectionLost("reset"), Timeout("dimse", 30)], 0.1, False),
    ],
)
def test_a_peer_that_loses_several_associations_together_dies_as_one(
    errors: list[AsyncStoreError], seconds: float, dies_as_one: bool
) -> None:
    destination = destination_of()
    for number, error in enumerate(errors):
        died(destination, NOW + seconds * number, error=error)
    assert destination.dies_as_one is dies_as_one


# -- pauses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away_seconds", [1.0, 20.0, 60.0, 600.0])
def test_the_return_of_a_peer_is_noticed_within_a_quarter_of_its_absence(away_seconds: float) -> None:
    for _ in range(50):
        destination, now = destination_of(outage_seconds=3600), NOW
        while now < NOW + away_seconds:
            destination.failed(now, ConnectFailed("refused"))
            now = max(now + 0.001, destination.closed_until(now))
        assert now - NOW - away_seconds <= max(1.0, min(15.0, away_seconds / 4))


def test_the_first_pause_for_room_is_short_since_a_probe_follows() -> None:
    for _ in range(20):
        destination = destination_of()
        destination.pressed(NOW, NO_ROOM)
        assert NOW < destination.closed_until(NOW) <= NOW + 0.1
        assert destination.is_probed
        destination.took_one(NOW + 0.1)
        assert not destination.is_probed


def test_pauses_for_room_become_longer() -> None:
    destination, now, pauses = destination_of(outage_seconds=3600), NOW, []
    while now < NOW + 300:
        destination.pressed(now, NO_ROOM)
        pauses.append(destination.closed_until(now) - now)
        now = destination.closed_until(now)
    assert max(pauses[:5]) <= 1
    assert 5 < max(pauses) <= 15


def test_time_in_which_nothing_was_sent_makes_no_outage_longer() -> None:
    destination = destination_of(outage_seconds=60)
    destination.failed(NOW, ConnectFailed("refused"))
    destination.excuse(3600.0)
    destination.failed(NOW + 3600 + 59, ConnectFailed("refused"))
    assert not destination.is_stopped
    destination.failed(NOW + 3600 + 61, ConnectFailed("refused"))
    assert destination.is_stopped


def test_a_peer_that_is_well_needs_no_excuse() -> None:
    destination = destination_of(outage_seconds=60)
    destination.excuse(3600.0)
    destination.failed(NOW, ConnectFailed("refused"))
    destination.failed(NOW + 61, ConnectFailed("refused"))
    assert destination.is_stopped


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_trouble_is_told_when_it_lasts_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "asyncstore")
    destination = destination_of(outage_seconds=60)
    destination.failed(NOW, ConnectFailed("refused"))
    destination.look(NOW + 1)
    assert caplog.records == []
    for later in (2, 3, 20):
        destination.look(NOW + later)
    destination.failed(NOW + 21, ConnectFailed("refused"))
    destination.took_one(NOW + 23)
    destination.took_one(NOW + 24)
    told: list[Any] = [record.msg for record in caplog.records]
    assert [type(event) for event in told] == [PeerTakesNothing, PeerTakesAgain]
    assert (told[0].because, told[0].left_seconds) == ("refused", 58)
    assert told[1].seconds == 23
    assert str(told[0]) == "the peer takes nothing (refused): trying again for 58 s"
    assert str(told[1]) == "the peer takes instances again, after 23 s"


@pytest.mark.parametrize("outage_seconds", [0, 0.5, 2, 2.9])
def test_a_trouble_is_not_told_if_its_end_tells_of_it_at_once(
    outage_seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "asyncstore")
    destination = destination_of(outage_seconds=outage_seconds)
    destination.failed(NOW, ConnectFailed("refused"))
    destination.look(NOW + 2)
    destination.look(NOW + 5)
    destination.took_one(NOW + 6)
    assert (caplog.records, destination.waiting_for) == ([], None)


@pytest.mark.parametrize("error", [ABORTED, ConnectionLost("reset")])
def test_a_trouble_that_is_over_soon_is_not_told(error: AsyncStoreError, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "asyncstore")
    destination = destination_of()
    died(destination, error=error)
    destination.failed(NOW, error)
    destination.look(NOW + 1.9)
    destination.took_one(NOW + 1.9)
    destination.look(NOW + 100)
    assert caplog.records == []
