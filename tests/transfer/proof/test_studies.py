"""References by study: a study is due when nothing of it has come for a while, and is not split without need."""

from __future__ import annotations

import math
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.transfer.proof.studies import LONGEST_SECONDS, QUIET_SECONDS, Studies


def lots_of(studies: Studies[int], now: float) -> list[list[int]]:
    return list(studies.take(now))


def test_a_study_is_due_when_it_has_been_quiet() -> None:
    studies: Studies[int] = Studies(300)
    assert (studies.due_at(), bool(studies)) == (math.inf, False)
    assert not studies.add("1", 1, 0.0)
    studies.add("2", 2, 1.0)
    studies.add("1", 3, 1.5)
    assert studies.due_at() == 1.0 + QUIET_SECONDS
    assert lots_of(studies, 2.9) == []
    assert lots_of(studies, 3.0) == [[2]]
    assert lots_of(studies, 3.5) == [[1, 3]]
    assert not studies


def test_a_study_that_never_ends_is_due_after_a_while() -> None:
    studies: Studies[int] = Studies(300)
    for second in range(int(LONGEST_SECONDS) + 1):
        studies.add("1", second, float(second))
    assert lots_of(studies, LONGEST_SECONDS - 0.1) == []
    assert lots_of(studies, LONGEST_SECONDS) == [list(range(int(LONGEST_SECONDS) + 1))]


def test_a_large_study_is_due_in_parts_at_once() -> None:
    studies: Studies[int] = Studies(3)
    assert [studies.add("1", number, 0.0) for number in range(7)] == [False, False, True, False, False, True, False]
    assert studies.due_at() == -math.inf
    assert lots_of(studies, 0.0) == [[0, 1, 2], [3, 4, 5]]
    assert lots_of(studies, math.inf) == [[6]]


def test_studies_share_a_lot_and_are_not_split() -> None:
    studies: Studies[int] = Studies(5)
    for number in range(9):
        studies.add(str(number // 3), number, 0.0)
    assert lots_of(studies, math.inf) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for number in range(8):
        studies.add(str(number // 2), number, 0.0)
    assert lots_of(studies, math.inf) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 5))), st.integers(1, 20))
def test_each_instance_is_given_back_once_in_lots_of_no_more(added: list[tuple[int, float]], most: int) -> None:
    studies: Studies[int] = Studies(most)
    now, taken = 0.0, []
    for number, (study, later) in enumerate(added):
        now += later
        studies.add(str(study), number, now)
        taken += lots_of(studies, now)
    taken += lots_of(studies, math.inf)
    assert all(0 < len(lot) <= most for lot in taken)
    assert sorted(chain.from_iterable(taken)) == list(range(len(added)))
