"""A set that keeps hashes only: it knows what is new, and takes little memory."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.inputs.hash_set import HashSet


@given(st.lists(st.text(max_size=3)))
def test_it_tells_what_is_new_as_a_set_does(texts: list[str]) -> None:
    hashes, known = HashSet(), set()
    for text in texts:
        assert hashes.add(text) is (text not in known)
        known.add(text)
    assert len(hashes) == len(known)


def test_it_grows_and_takes_little_memory() -> None:
    count = 50_000
    hashes = HashSet()
    for number in range(count):
        assert hashes.add(f"1.2.3.{number}")
    assert not any(hashes.add(f"1.2.3.{number}") for number in range(0, count, 7))
    assert len(hashes) == count
    assert sum(map(sys.getsizeof, hashes._parts)) < 30 * count
