"""Timetables: values that change with the local time of the week.

A time is a minute of the week, from Monday 00:00, as the clock on the wall shows it. Nothing here has a clock, and no
answer is kept: the caller asks again and again what holds at the minute that the clock shows. So a clock that jumps and
the hour that summer time takes or gives, need no rule of their own. What begins in an hour that is left out begins at
its end, and what begins in an hour that comes twice begins twice.
"""

from __future__ import annotations

import re
import time
from typing import Final, Generic, TypeVar

from asyncstore.errors import LocalProtocolError
from asyncstore.record import record

T = TypeVar("T")

DAY: Final = 24 * 60
WEEK: Final = 7 * DAY
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOMENT: Final = rf"(?:({'|'.join(_DAYS)})-)?(\d\d?):(\d\d)"
_TIMETABLE_ENTRY: Final = rf"{_MOMENT},(\S+)"
_WINDOW: Final = f"{_MOMENT}-{_MOMENT}"


@record(frozen=True, slots=True)
class Timetable(Generic[T]):
    """Values that change with the local time of the week.

        Timetable(((8 * 60, 2), (18 * 60, 8)))      # on Monday: 2 from 08:00, 8 from 18:00, until next Monday 08:00

    entries  pairs of a minute of the week and the value from then on, in order; the last one holds until the first

    Raises LocalProtocolError if there is no entry, or if they are not in order.
    """

    entries: tuple[tuple[int, T], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.entries, tuple | list) or not all(_is_entry(entry) for entry in self.entries):
            raise LocalProtocolError(
                f"entries is {self.entries!r:.200}: it is pairs of a minute of the week and a value"
            )
        minutes = [minute for minute, _ in self.entries]
        if not minutes or minutes != sorted(set(minutes)) or not 0 <= minutes[0] <= minutes[-1] < WEEK:
            raise LocalProtocolError(f"a timetable has minutes of the week, 0 to {WEEK - 1}, in order: not {minutes}")

    @classmethod
    def always(cls, value: T) -> Timetable[T]:
        """A timetable of one value."""
        return cls(((0, value),))

    def at(self, minute: int) -> T:
        """The value that holds at this minute of the week."""
        return next((value for begins, value in reversed(self.entries) if begins <= minute), self.entries[-1][1])

    def minutes_until_change(self, minute: int) -> int | None:
        """How many minutes later another value holds; None if it never does."""
        value = self.at(minute)
        return min(((begins - minute) % WEEK for begins, other in self.entries if other != value), default=None)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], int)


def minute_of_week(local: time.struct_time) -> int:
    """The minute of the week that a local time is in."""
    return local.tm_wday * DAY + local.tm_hour * 60 + local.tm_min


def minutes_later(local: time.struct_time, minutes: int) -> float:
    """When the clock will show a time this many minutes later, in seconds since 1970."""
    # The day is turned too, not just the hour: mktime then finds out whether summer time holds there.
    return time.mktime((*local[:4], local.tm_min + minutes, 0, 0, 0, -1))


def timetable_texts(text: str) -> Timetable[str]:
    """Read `08:00,20M 18:00,off`, or with days `Mon-08:00,20M Fri-18:00,off`: values as text, every day or on that day.

    An entry with a day overrules one without at the same time. Raises LocalProtocolError with one line that says what
    is wrong.
    """
    every_day: dict[int, str] = {}
    on_days: dict[int, str] = {}
    for word in text.split():
        found = re.fullmatch(_TIMETABLE_ENTRY, word, re.IGNORECASE | re.ASCII)
        if found is None:
            raise LocalProtocolError(f"{word!r:.80} is not a time and a value, as in 08:00,20M or Sat-08:00,off")
        day, hour, minute, value = found.groups()
        (on_days if day else every_day).update(dict.fromkeys(_minutes_of(day, hour, minute), value))
    return Timetable(tuple(sorted((every_day | on_days).items())))


def windows(text: str) -> Timetable[bool]:
    """Read windows of time such as `18:00-06:00,Sat-00:00-Mon-06:00`: a timetable that is True inside of them.

    Raises LocalProtocolError with one line that says what is wrong.
    """
    spans = [span for word in re.split(r"[,\s]+", text.strip()) for span in _spans_of(word)]
    changes = sorted({minute % WEEK for begins, length in spans for minute in (begins, begins + length)})
    return Timetable(
        tuple((minute, any((minute - begins) % WEEK < length for begins, length in spans)) for minute in changes)
    )


def _spans_of(word: str) -> list[tuple[int, int]]:
    """The minutes of the week in which a window begins, each with its length."""
    found = re.fullmatch(_WINDOW, word, re.IGNORECASE | re.ASCII)
    if found is None:
        raise LocalProtocolError(f"{word!r:.80} is not a window of time, as in 18:00-06:00 or Fri-18:00-Mon-06:00")
    first_day, *first, last_day, last_hour, last_minute = found.groups()
    if last_day and not first_day:
        raise LocalProtocolError(
            f"{word!r}: a window that ends on a certain day begins on one, as in Fri-18:00-Mon-06:00"
        )
    begins = _minutes_of(first_day, *first)
    ends = _minutes_of(last_day, last_hour, last_minute)[0]
    most = WEEK if last_day else DAY
    length = (ends - begins[0]) % most
    if not length and int(first[0]) >= int(last_hour):  # 00:00-24:00 is the whole day
        raise LocalProtocolError(f"{word!r}: a window ends at another time than it begins")
    return [(minute, length or most) for minute in begins]


def _minutes_of(day: str | None, hour: str, minute: str) -> list[int]:
    """The minutes of the week at which a day has this time; of every day when none is given. 24:00 is a day's end."""
    at = int(hour) * 60 + int(minute)
    if int(minute) > 59 or at > DAY:
        raise LocalProtocolError(f"{hour}:{minute} is not a time of day")
    days = range(7) if day is None else (_DAYS.index(day.lower()),)
    return [(number * DAY + at) % WEEK for number in days]
