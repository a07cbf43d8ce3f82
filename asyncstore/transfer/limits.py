"""How much of the network and of the day a transfer may take, as data; and how people write it."""

from __future__ import annotations

import math
import re
from typing import Final

from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import check_seconds
from asyncstore.record import record
from asyncstore.transfer.schedule import Timetable, timetable_texts

LEAST_BYTES_PER_SECOND: Final = 1024.0  # with less, peers would time out in the middle of a message
MOST_ASSOCIATIONS: Final = 1024

_UNITS: Final[dict[str, float]] = {
    **{unit: 1024.0**power for power, letter in enumerate("kmg", 1) for unit in (letter, f"{letter}i", f"{letter}ib")},
    **{f"{letter}bit": 1000.0**power / 8 for power, letter in enumerate("kmg", 1)},
    "b": 1.0,
}
_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@record(frozen=True, slots=True)
class Limits:
    """How much of the network and of the day a transfer may take.

        Limits(bytes_per_second=rates("08:00,20M 18:00,off"), between=windows("18:00-06:00"))

    bytes_per_second  how many bytes of data sets to send per second, on all associations together; None: as many as go
    associations      how many associations to keep open at which time, in place of `TransferOptions.associations`;
                      None in the timetable: as many as pay
    between           when to send: True in the timetable. At other times what is in flight is finished, and no
                      association is open
    maximum_seconds   how long the run may last; then it finishes what is in flight and leaves the rest
    is_paused         send nothing until other limits say so, as outside the times of `between`

    `rates`, `association_counts` and `duration` in this module, and `windows` in `asyncstore.transfer.schedule`, read
    what the command line accepts. Raises LocalProtocolError for a value that makes no sense.
    """

    bytes_per_second: float | Timetable[float | None] | None = None
    associations: Timetable[int | None] | None = None
    between: Timetable[bool] | None = None
    maximum_seconds: float | None = None
    is_paused: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("associations", Timetable), ("between", Timetable), ("is_paused", bool)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise LocalProtocolError(f"{name} is {value!r:.200}: it is a {kind.__name__}")
        for each in _values_of(self.bytes_per_second):
            if each is not None and not (isinstance(each, int | float) and LEAST_BYTES_PER_SECOND <= each < math.inf):
                raise LocalProtocolError(f"bytes_per_second is {each!r:.200}: it is 1024 or more, or None")
        for each in _values_of(self.associations):
            if each is not None and not (isinstance(each, int) and 1 <= each <= MOST_ASSOCIATIONS):
                raise LocalProtocolError(f"associations are {each!r:.200}: they are 1 to {MOST_ASSOCIATIONS}, or None")
        if self.maximum_seconds is not None:
            check_seconds("maximum_seconds", self.maximum_seconds)


def _values_of(value: object) -> list[object]:
    return [each for _, each in value.entries] if isinstance(value, Timetable) else [value]


# -- as people write it ------------------------------------------------------------------------------------------------


def rate(text: str) -> float | None:
    """Read `20M`, `512k` or `100Mbit`: bytes per second; None for `off`.

    k, M and G are binary multiples of a byte (KiB, MiB, GiB); kbit, Mbit and Gbit decimal ones of a bit. A number alone
    is refused: programs differ on what it means. Raises LocalProtocolError.
    """
    if text.lower() == "off":
        return None
    found = re.fullmatch(f"{_NUMBER}([a-z]+)", text, re.IGNORECASE | re.ASCII)
    unit = found[2].lower() if found else ""
    if found is None or unit not in _UNITS:
        raise LocalProtocolError(f"{text!r:.80} is not a rate with its unit, such as 512k, 20M, 1G, 100Mbit, or off")
    bytes_per_second = float(found[1]) * _UNITS[unit]
    if not LEAST_BYTES_PER_SECOND <= bytes_per_second < math.inf:
        raise LocalProtocolError(f"{text!r:.80} is less than 1k, the least rate; off is no limit")
    return bytes_per_second


def rates(text: str) -> float | Timetable[float | None] | None:
    """Read a rate, or a timetable of rates such as `08:00,20M 18:00,off`. Raises LocalProtocolError."""
    if not is_timetable(text):
        return rate(text.strip())
    return Timetable(tuple((minute, rate(value)) for minute, value in timetable_texts(text).entries))


def association_count(text: str) -> int | None:
    """Read a number of associations; None for `auto`. Raises LocalProtocolError."""
    if text.lower() == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_ASSOCIATIONS):
        raise LocalProtocolError(f"{text!r:.80} is not auto or a number of associations from 1 to {MOST_ASSOCIATIONS}")
    return int(text)


def association_counts(text: str) -> Timetable[int | None]:
    """Read a number of associations, or a timetable of them such as `08:00,2 18:00,auto`. Raises LocalProtocolError."""
    if not is_timetable(text):
        return Timetable.always(association_count(text.strip()))
    return Timetable(tuple((minute, association_count(value)) for minute, value in timetable_texts(text).entries))


def is_timetable(text: str) -> bool:
    """Whether this is written as a timetable, and not as one value."""
    return "," in text or ":" in text


def duration(text: str) -> float:
    """Read `8h`, `1h30m`, `2d` or a number of seconds. Raises LocalProtocolError."""
    written = f"{text}s" if re.fullmatch(_NUMBER, text, re.ASCII) else text.lower()
    found = re.findall(f"{_NUMBER}([dhms])", written, re.ASCII)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in found)
    if "".join(number + unit for number, unit in found) != written or not 0 < seconds < math.inf:
        raise LocalProtocolError(f"{text!r:.80} is not a duration above 0, such as 8h, 1h30m or 90s")
    return seconds


def rate_text(bytes_per_second: float | None) -> str:
    """A rate for the log, in the largest binary unit of which it has one: "20 MiB/s"."""
    if bytes_per_second is None:
        return "no limit"
    power = next((power for power in (3, 2) if bytes_per_second >= 1024**power), 1)
    return f"{bytes_per_second / 1024**power:.4g} {'KMG'[power - 1]}iB/s"
