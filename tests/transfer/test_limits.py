"""Limits: how people write a rate, a number of associations and a duration, and what makes no sense."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.transfer.limits import (
    Limits,
    association_counts,
    duration,
    rate,
    rate_text,
    rates,
)
from asyncstore.transfer.options import TransferOptions, options_as_data
from asyncstore.transfer.schedule import Timetable, windows

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [
        ("off", None),
        ("OFF", None),
        ("20M", 20 * 1024**2),
        ("20m", 20 * 1024**2),
        ("20MiB", 20 * 1024**2),
        ("20Mi", 20 * 1024**2),
        ("512k", 512 * 1024),
        ("1.5G", 1.5 * 1024**3),
        ("4096B", 4096),
        ("100Mbit", 12_500_000),
        ("1Gbit", 125_000_000),
        ("64kbit", 8000),
    ],
)
def test_a_rate_is_read(text: str, bytes_per_second: float | None) -> None:
    assert rate(text) == bytes_per_second


@pytest.mark.parametrize("text", ["", "20", "0", "20MB", "20M/s", "-1M", "1e3k", "M", "20 M", "1T", "nanM", "\u0662M"])
def test_a_rate_without_a_unit_that_is_known_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="is not a rate with its unit"):
        rate(text)


@pytest.mark.parametrize("text", ["0k", "1023B", "7kbit", "9" * 400 + "G"])
def test_a_rate_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        rate(text)


def test_rates_may_be_a_timetable() -> None:
    table = rates("08:00,20M 18:00,off")
    assert isinstance(table, Timetable)
    assert (table.at(8 * 60), table.at(0)) == (20 * 1024**2, None)
    assert rates("20M") == 20 * 1024**2
    with pytest.raises(LocalProtocolError, match="'x' is not a rate"):
        rates("08:00,20M 18:00,x")


def test_association_counts_may_be_a_timetable() -> None:
    table = association_counts("08:00,2 18:00,auto")
    assert (table.at(8 * 60), table.at(0)) == (2, None)
    assert association_counts("8") == Timetable.always(8)
    assert association_counts("Auto") == Timetable.always(None)


@pytest.mark.parametrize("text", ["0", "1025", "-1", "x", "1.5", "08:00,0", "\u0662", ""])
def test_a_number_of_associations_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="from 1 to 1024"):
        association_counts(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28800), ("1h30m", 5400), ("90", 90), ("1.5h", 5400), ("2D", 172800), ("1d2h3m4s", 93784), ("0.5", 0.5)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "h", "8 h", "1h30", "-1h", "8x", "1h!", "9" * 400])
def test_a_duration_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="is not a duration above 0"):
        duration(text)


@pytest.mark.parametrize(
    ("bytes_per_second", "text"),
    [
        (None, "no limit"),
        (20 * 1024**2, "20 MiB/s"),
        (12_500_000, "11.92 MiB/s"),
        (1024, "1 KiB/s"),
        (2**31, "2 GiB/s"),
    ],
)
def test_a_rate_is_told_in_binary_units(bytes_per_second: float | None, text: str) -> None:
    assert rate_text(bytes_per_second) == text


WRONG: list[Callable[[], Any]] = [
    lambda: Limits(bytes_per_second=1023),
    lambda: Limits(bytes_per_second=math.inf),
    lambda: Limits(bytes_per_second=math.nan),
    lambda: Limits(bytes_per_second="20M"),  # type: ignore[arg-type]
    lambda: Limits(bytes_per_second=Timetable.always(0.0)),
    lambda: Limits(associations=4),  # type: ignore[arg-type]
    lambda: Limits(associations=Timetable.always(0)),
    lambda: Limits(between="18:00-06:00"),  # type: ignore[arg-type]
    lambda: Limits(maximum_seconds=-1),
    lambda: Limits(is_paused="no"),  # type: ignore[arg-type]
    lambda: TransferOptions(limits=None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("make", WRONG)
def test_a_limit_that_makes_no_sense_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(LocalProtocolError):
        make()


def test_limits_are_plain_data_for_a_ledger() -> None:
    limits = Limits(rates("08:00,20M 18:00,off"), association_counts("2"), windows("18:00-06:00"), 60.0)
    data = options_as_data(TransferOptions(limits=limits))
    assert data["limits"]["associations"] == {"entries": ((0, 2),)}
    assert data["limits"]["maximum_seconds"] == 60.0
