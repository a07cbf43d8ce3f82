"""Timetables: what holds at a minute of the week, and how people write it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import LocalProtocolError
from asyncstore.transfer.schedule import (
    DAY,
    WEEK,
    Timetable,
    minute_of_week,
    minutes_later,
    timetable_texts,
    windows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTES = st.integers(0, WEEK - 1)
TIMETABLES = st.dictionaries(MINUTES, st.integers(0, 3), min_size=1, max_size=12).map(
    lambda entries: Timetable(tuple(sorted(entries.items())))
)


def at(day: str, hour: int, minute: int = 0) -> int:
    return DAYS.index(day) * DAY + hour * 60 + minute


def time_text(minute_of_day: int) -> str:
    return f"{minute_of_day // 60:02}:{minute_of_day % 60:02}"


# -- what holds when ---------------------------------------------------------------------------------------------------


@given(TIMETABLES, MINUTES)
def test_what_holds_is_the_latest_entry_around_the_week(timetable: Timetable[int], minute: int) -> None:
    values = dict(timetable.entries)
    earlier = next(each for back in range(WEEK) if (each := (minute - back) % WEEK) in values)
    assert timetable.at(minute) == values[earlier]


@given(TIMETABLES, MINUTES)
def test_the_next_change_is_the_first_minute_with_another_value(timetable: Timetable[int], minute: int) -> None:
    minutes = timetable.minutes_until_change(minute)
    if minutes is None:
        assert len({value for _, value in timetable.entries}) == 1
        return
    value = timetable.at(minute)
    assert 0 < minutes < WEEK
    assert timetable.at((minute + minutes) % WEEK) != value
    assert timetable.at((minute + minutes - 1) % WEEK) == value


def test_one_value_always_holds() -> None:
    assert Timetable.always("x").at(WEEK - 1) == "x"
    assert Timetable.always("x").minutes_until_change(5) is None


@pytest.mark.parametrize("entries", [(), ((5, 1), (5, 2)), ((6, 1), (5, 2)), ((-1, 1),), ((WEEK, 1),)])
def test_entries_that_are_out_of_order_are_refused(entries: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(LocalProtocolError, match="minutes of the week"):
        Timetable(entries)


@pytest.mark.parametrize("entries", ["08:00,2", ("08:00,2",), ((480,),), (("08:00", 2),), 5])
def test_entries_that_are_not_pairs_are_refused(entries: object) -> None:
    with pytest.raises(LocalProtocolError, match="pairs of a minute of the week and a value"):
        Timetable(entries)  # type: ignore[arg-type]


# -- as people write it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minute", "value"),
    [
        ("08:00,20M 18:00,off", at("Mon", 7, 59), "off"),
        ("08:00,20M 18:00,off", at("Mon", 8), "20M"),
        ("08:00,20M 18:00,off", at("Sun", 17, 59), "20M"),
        ("18:00,off  8:00,20M\n", at("Wed", 23, 59), "off"),
        ("Mon-00:00,512k Fri-23:59,10M Mon-10:00,1M Sun-20:00,off", at("Fri", 23, 58), "1M"),
        ("Mon-00:00,512k Fri-23:59,10M Mon-10:00,1M Sun-20:00,off", at("Sat", 12), "10M"),
        ("08:00,20M sat-08:00,off", at("Sat", 9), "off"),
        ("Sat-08:00,off 08:00,20M", at("Sat", 9), "off"),
        ("Sat-08:00,off 08:00,20M", at("Sun", 9), "20M"),
        ("24:00,a 12:00,b", at("Tue", 0), "a"),
    ],
)
def test_a_timetable_is_read(text: str, minute: int, value: str) -> None:
    assert timetable_texts(text).at(minute) == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "minutes of the week"),
        ("08:00", "'08:00' is not a time and a value"),
        ("08:00,", "is not a time and a value"),
        ("8,20M", "is not a time and a value"),
        ("Mo-08:00,1M", "is not a time and a value"),
        ("25:00,1M", "25:00 is not a time of day"),
        ("24:01,1M", "24:01 is not a time of day"),
        ("08:60,1M", "08:60 is not a time of day"),
        ("08:00,1M,2M 9", "'9' is not a time and a value"),
        ("\u0668:00,1M", "is not a time and a value"),
    ],
)
def test_a_timetable_that_makes_no_sense_says_why(text: str, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        timetable_texts(text)


@pytest.mark.parametrize(
    ("text", "minute", "is_open"),
    [
        ("18:00-06:00", at("Mon", 17, 59), False),
        ("18:00-06:00", at("Mon", 18), True),
        ("18:00-06:00", at("Mon", 0), True),
        ("18:00-06:00", at("Mon", 5, 59), True),
        ("18:00-06:00", at("Mon", 6), False),
        ("12:00-13:00,18:00-24:00", at("Sun", 23, 59), True),
        ("12:00-13:00,18:00-24:00", at("Mon", 0), False),
        ("12:00-13:00, 18:00-24:00", at("Tue", 12, 30), True),
        ("00:00-24:00", at("Thu", 3), True),
        ("Fri-18:00-Mon-06:00", at("Sun", 12), True),
        ("Fri-18:00-Mon-06:00", at("Mon", 5, 59), True),
        ("Fri-18:00-Mon-06:00", at("Mon", 6), False),
        ("Fri-18:00-06:00", at("Sat", 5), True),
        ("Fri-18:00-06:00", at("Sun", 5), False),
        ("Sat-00:00-Sun-24:00", at("Sun", 23, 59), True),
        ("Sat-00:00-Sun-24:00", at("Mon", 0), False),
        ("Mon-00:00-Sun-24:00", at("Thu", 0), True),
        ("18:00-20:00,19:00-21:00,20:00-22:00", at("Thu", 20), True),
    ],
)
def test_windows_are_read(text: str, minute: int, is_open: bool) -> None:
    assert windows(text).at(minute) is is_open


SPANS = st.tuples(st.integers(0, DAY - 1), st.integers(1, DAY)).filter(lambda span: span[0] != span[1])


@given(st.lists(SPANS, min_size=1, max_size=4), MINUTES)
def test_it_is_open_in_any_of_the_windows(spans: list[tuple[int, int]], minute: int) -> None:
    table = windows(",".join(f"{time_text(begins)}-{time_text(ends)}" for begins, ends in spans))
    now = minute % DAY
    is_open = any(begins <= now < ends if begins < ends else now >= begins or now < ends for begins, ends in spans)
    assert table.at(minute) is is_open


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a window"),
        ("18:00", "is not a window"),
        ("18:00-06:00,", "'' is not a window"),
        ("18:00-18:00", "another time than it begins"),
        ("24:00-24:00", "another time than it begins"),
        ("18:00-Mon-06:00", "begins on one"),
        ("18:00-30:00", "30:00 is not a time of day"),
    ],
)
def test_windows_that_make_no_sense_say_why(text: str, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        windows(text)


# -- the clock on the wall ---------------------------------------------------------------------------------------------


@pytest.fixture
def _central_europe() -> Iterator[None]:
    """Summer time from 02:00 on 29 March 2026, until 03:00 on 25 October."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def local(*moment: int) -> time.struct_time:
    year, month, day, hour, minute, second = (*moment, 0, 0, 0)[:6]
    return time.localtime(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))


@pytest.mark.usefixtures("_central_europe")
def test_a_minute_of_the_week_is_that_of_the_clock_on_the_wall() -> None:
    assert minute_of_week(local(2026, 11, 23)) == 0
    assert minute_of_week(local(2026, 7, 5, 23, 59, 59)) == WEEK - 1


@pytest.mark.usefixtures("_central_europe")
@pytest.mark.parametrize(
    ("begins", "ends", "hours"),
    [
        ((2026, 7, 1, 18), (2026, 7, 2, 6), 12),
        ((2026, 3, 28, 18), (2026, 3, 29, 6), 11),
        ((2026, 10, 24, 18), (2026, 10, 25, 6), 13),
        ((2026, 12, 31, 18), (2027, 1, 1, 6), 12),
        ((2024, 2, 28, 18), (2024, 2, 29, 6), 12),
    ],
)
def test_a_window_ends_when_the_clock_shows_its_end(begins: tuple[int, ...], ends: tuple[int, ...], hours: int) -> None:
    now = local(*begins)
    minutes = windows("18:00-06:00").minutes_until_change(minute_of_week(now))
    assert minutes == 12 * 60
    until = minutes_later(now, minutes)
    assert time.localtime(until)[:5] == (*ends, 0)
    assert until - time.mktime(now) == hours * 3600


def open_minutes(text: str, first: time.struct_time) -> int:
    """For how many of the 24 hours from then it is open, in minutes that pass."""
    table, since = windows(text), time.mktime(first)
    return sum(table.at(minute_of_week(time.localtime(since + 60 * minute))) for minute in range(DAY))


@pytest.mark.usefixtures("_central_europe")
@pytest.mark.parametrize(
    ("text", "usual", "spring", "autumn"),
    [
        ("01:00-04:00", 180, 120, 240),
        ("02:00-03:00", 60, 0, 120),
        ("02:30-04:00", 90, 60, 120),  # in autumn from 02:30, closed again at 02:00, and from 02:30 on
    ],
)
def test_the_hour_that_summer_time_takes_or_gives_needs_no_rule(
    text: str, usual: int, spring: int, autumn: int
) -> None:
    assert open_minutes(text, local(2026, 7, 1)) == usual
    assert open_minutes(text, local(2026, 3, 29)) == spring
    assert open_minutes(text, local(2026, 10, 25)) == autumn
