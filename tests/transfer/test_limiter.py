"""Limiter: what holds now, by both clocks, and what is told of it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import Peer
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.limiter import Limiter
from asyncstore.transfer.limits import Limits, association_counts, rates
from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.report import Report, Waiting
from asyncstore.transfer.schedule import Timetable, windows

if TYPE_CHECKING:
    from asyncstore.transfer.throttle import Throttle

NOON = (2026, 11, 25, 12, 0)  # a Wednesday


def local(hour: int, minute: int = 0) -> time.struct_time:
    return time.localtime(time.mktime((*NOON[:3], hour, minute, 30, 0, 0, -1)))


class Looking:
    """A limiter, and what it says at some time of that day."""

    def __init__(self, limits: Limits, associations: int | None = None) -> None:
        self.report = Report()
        self.concurrency = Concurrency(associations)
        options = TransferOptions(associations=associations, limits=limits)
        self.limiter = Limiter(options, self.concurrency, self.report)
        self.now = 1000.0

    def at(self, hour: int, minute: int = 0) -> Limiter:
        self.now += 1.0
        self.limiter.look(self.now, local(hour, minute))
        return self.limiter


def rate_of(pacer: Throttle | None) -> float | None:
    return pacer.bucket.bytes_per_second if pacer is not None else None


def test_without_limits_there_is_no_pacer_and_nothing_to_wait_for() -> None:
    looking = Looking(Limits(), associations=3)
    assert looking.at(12).pacer is None
    assert not looking.limiter.is_closed
    assert looking.limiter.ended_because(1e9) is None
    assert looking.concurrency.maximum == 3


def test_the_rate_follows_the_timetable() -> None:
    looking = Looking(Limits(rates("08:00,20M 18:00,off 22:00,10M")))
    by_hour = [(7, 10), (8, 20), (17, 20), (18, None), (22, 10)]
    assert [rate_of(looking.at(hour).pacer) for hour, _ in by_hour] == [each and each * 2**20 for _, each in by_hour]


def test_a_rate_keeps_its_pacer_when_it_changes() -> None:
    """Those that wait in its queue keep their turns."""
    looking = Looking(Limits(1024))
    before = looking.at(1).pacer
    looking.limiter.change(Limits(2048))
    assert looking.at(1).pacer is before


def test_the_number_of_associations_follows_the_timetable_and_then_the_options() -> None:
    looking = Looking(Limits(associations=association_counts("08:00,2 18:00,auto")), associations=5)
    looking.at(9)
    assert (looking.concurrency.target, looking.concurrency.maximum) == (2, 2)
    looking.at(18)
    assert (looking.concurrency.target, looking.concurrency.maximum) == (2, 8)
    looking.limiter.change(Limits())
    looking.at(19)
    assert looking.concurrency.maximum == 5


def test_it_is_closed_outside_the_windows_and_says_until_when() -> None:
    looking = Looking(Limits(between=windows("18:00-06:00")))
    assert not looking.at(5, 59).is_closed
    assert looking.at(6).is_closed
    assert looking.report.waiting_for == Waiting(time.mktime(local(18)) - 30)
    assert str(looking.report.waiting_for) == "waiting until Wed 18:00"
    assert looking.at(17, 59).is_closed
    assert not looking.at(18).is_closed
    assert looking.report.waiting_for is None


def test_it_is_a_gate_whose_state_is_its_own() -> None:
    """The report only shows it: whoever resets what is shown opens nothing."""
    looking = Looking(Limits(between=windows("18:00-06:00")))
    assert looking.at(5).closed_until(looking.now) <= looking.now
    assert looking.at(6).closed_until(looking.now) > looking.now
    looking.report.waiting_for = None
    assert looking.at(6).is_closed
    assert looking.limiter.closed_until(looking.now) > looking.now


def test_a_pause_comes_before_the_windows_and_ends_when_the_caller_says() -> None:
    looking = Looking(Limits(between=windows("18:00-06:00"), is_paused=True))
    assert looking.at(5).is_closed
    assert str(looking.report.waiting_for) == "paused"
    looking.limiter.change(Limits(between=windows("18:00-06:00")))
    assert not looking.at(5).is_closed


def test_what_never_opens_waits_for_the_caller() -> None:
    looking = Looking(Limits(between=Timetable.always(False)))
    assert looking.at(5).is_closed
    assert looking.report.waiting_for == Waiting(None)


def test_the_clock_on_the_wall_may_jump() -> None:
    looking = Looking(Limits(rates("08:00,20M 18:00,off"), between=windows("18:00-06:00")))
    for hour, is_closed in [(12, True), (3, False), (23, False), (7, True), (12, True), (18, False)]:
        assert looking.at(hour).is_closed is is_closed
        assert (looking.limiter.pacer is None) is not (8 <= hour < 18)


def test_the_run_ends_by_the_other_clock() -> None:
    looking = Looking(Limits(maximum_seconds=10.0))
    looking.at(12)
    assert looking.limiter.ended_because(looking.now + 9.9) is None
    assert looking.limiter.ended_because(looking.now + 10.0) is not None
    looking.limiter.change(Limits(maximum_seconds=20.0))
    assert looking.limiter.ended_because(looking.now + 10.0) is None


@pytest.mark.parametrize("limits", [None, "20M", {"is_paused": True}])
def test_what_is_no_limits_is_refused_at_once(limits: Any) -> None:
    transfer = Transfer(Peer("127.0.0.1", 104), [])
    before = transfer.limits
    with pytest.raises(LocalProtocolError, match="they are a Limits"):
        transfer.limit(limits)
    assert transfer.limits is before


def test_each_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(rates("08:00,20M 18:00,off"), association_counts("08:00,2 18:00,auto"), windows("18:00-06:00"))
    looking = Looking(limits)
    with caplog.at_level(logging.INFO, "asyncstore.transfer"):
        for hour in (5, 5, 9, 9, 10, 18, 19, 6, 6):
            looking.at(hour)
    assert [record.getMessage() for record in caplog.records] == [
        "Bandwidth: 20 MiB/s",
        "Associations: 2",
        "Sending nothing now: waiting until Wed 18:00",
        "Bandwidth: no limit",
        "Associations: auto",
        "Sending again",
        "Sending nothing now: waiting until Wed 18:00",
    ]
