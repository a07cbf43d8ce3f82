"""That a ledger is away is one line, however many notice, and so is that it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.ledger.telling import Telling

if TYPE_CHECKING:
    import pytest

GONE = OSError("gone")


def test_the_first_tells_that_it_is_away_and_the_last_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    telling, one, other = Telling(), object(), object()
    telling.away(one, GONE, seconds=1.9, left_seconds=600)
    telling.back(one, seconds=1.9)
    assert caplog.messages == [], "a restart is not worth a line"
    for who in (one, other, one):
        telling.away(who, GONE, seconds=2, left_seconds=598)
    telling.back(one, seconds=3)
    away = "Nothing new is sent: gone; trying again for 598 s"
    assert caplog.messages == [away]
    telling.back(other, seconds=4)
    assert caplog.messages == [away, "The ledger is written again, after 4 s"]


def test_who_tries_no_more_keeps_nobody_from_telling_of_the_next_time(caplog: pytest.LogCaptureFixture) -> None:
    telling, one, other = Telling(), object(), object()
    telling.away(one, GONE, seconds=2, left_seconds=0)
    telling.forget(one)
    telling.away(other, GONE, seconds=2, left_seconds=9)
    assert len(caplog.messages) == 2
