"""Names: members of one name have paths of their own, and always the same ones."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.inputs.archives.names import Names


@pytest.mark.parametrize(
    ("given_names", "own"),
    [
        (["a", "b"], ["a", "b"]),
        (["d/1.dcm", "d/1.dcm", "e/1.dcm", "d/1.dcm"], ["d/1.dcm", "d/1 (2).dcm", "e/1.dcm", "d/1 (3).dcm"]),
        (["v.1/IM", "v.1/IM"], ["v.1/IM", "v.1/IM (2)"]),
        (["a (2)", "a", "a", "a (2)"], ["a (2)", "a", "a (3)", "a (2) (2)"]),
        (["", ""], ["", " (2)"]),
        (["\udcff", "\udcff"], ["\udcff", "\udcff (2)"]),
    ],
)
def test_a_name_that_comes_again_gets_a_number(given_names: list[str], own: list[str]) -> None:
    names = Names()
    assert [names.own(name) for name in given_names] == own


@given(st.lists(st.sampled_from(["a", "a (2)", "a (2) (2)", "b.c", "b (2).c", "b"]), max_size=40))
def test_no_two_are_the_same_and_they_are_the_same_each_time(given_names: list[str]) -> None:
    own = [[names.own(name) for name in given_names] for names in (Names(), Names())]
    assert len(set(own[0])) == len(given_names)
    assert own[0] == own[1]


def test_many_of_one_name_take_no_longer_than_others() -> None:
    names = Names()
    own = {names.own("a") for _ in range(20_000)}
    assert len(own) == 20_000
    assert f"a ({20_000})" in own


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="memory is measured as CPython takes it")
def test_a_name_takes_a_few_bytes() -> None:
    count = 50_000
    tracemalloc.start()
    try:
        names = Names()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            names.own(f"a long directory/of a study/and a series/IM{number:09}.dcm")
        assert tracemalloc.get_traced_memory()[0] - before < 12 * count
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="memory is measured as CPython takes it")
def test_a_long_name_that_comes_again_is_not_kept() -> None:
    count = 10_000
    tracemalloc.start()
    try:
        names = Names()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2 * count):
            names.own(f"{'x' * 4000}{number // 2}")
        assert tracemalloc.get_traced_memory()[0] - before < 200 * count
    finally:
        tracemalloc.stop()
