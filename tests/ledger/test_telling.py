"""For how long a ledger may be away; that it is, is one line, however many notice, and so is that it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.ledger.telling import Absence, Telling

if TYPE_CHECKING:
    from collections.abc import Sequence

GONE = OSError("gone")
MOST = 600.0
AWAY = "Nothing new is sent: gone; trying again for 598 s"


@pytest.mark.parametrize(
    ("missed_at", "most_seconds", "tries_again"),
    [
        ([0], MOST, True),
        ([0], 0.0, False),
        ([0, 599.9], MOST, True),
        ([0, 600], MOST, False),
        ([100, 699], MOST, True),
        ([100, 700], MOST, False),
        ([0, 5], 5.0, False),
    ],
)
def test_it_is_given_up_when_it_has_been_away_for_so_long(
    missed_at: Sequence[float], most_seconds: float, tries_again: bool
) -> None:
    absence = Absence(Telling())
    answers = [absence.missed(GONE, now, most_seconds) for now in missed_at]
    assert answers[-1] is tries_again
    assert all(answers[:-1])
    assert absence.since == missed_at[0]


def test_each_absence_has_its_own_beginning() -> None:
    absence = Absence(Telling())
    assert absence.missed(GONE, 0, MOST)
    absence.reached(1)
    assert absence.since is None
    assert absence.missed(GONE, 900, MOST)
    assert absence.since == 900


def test_who_is_in_a_hurry_gives_up_earlier() -> None:
    absence = Absence(Telling())
    assert absence.missed(GONE, 0, MOST)
    assert not absence.missed(GONE, 10, 5.0)


def test_the_first_tells_that_it_is_away_and_the_last_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    telling = Telling()
    one, other = Absence(telling), Absence(telling)
    one.missed(GONE, 0, MOST)
    one.missed(GONE, 1.9, MOST)
    one.reached(1.9)
    assert caplog.messages == [], "a restart is not worth a line"
    for absence in (one, other):
        absence.missed(GONE, 10, MOST)
    for absence in (one, other, one):
        absence.missed(GONE, 12, MOST)
    one.reached(13)
    assert caplog.messages == [AWAY]
    other.reached(14)
    assert caplog.messages == [AWAY, "The ledger is written again, after 4 s"]


@pytest.mark.parametrize("ends", [True, False])
def test_who_tries_no_more_keeps_nobody_from_telling_of_the_next_time(
    ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    telling = Telling()
    one, other = Absence(telling), Absence(telling)
    for absence in (one, other):
        absence.missed(GONE, 0, MOST)
    one.missed(GONE, 2, MOST)
    if ends:
        one.end()
        other.missed(GONE, 2, MOST)
        assert caplog.messages == [AWAY, AWAY]
    else:
        other.missed(GONE, 2, MOST)
        one.end()
        other.reached(3)
        assert caplog.messages == [AWAY, "The ledger is written again, after 3 s"]
