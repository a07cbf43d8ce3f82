"""Batches: each directory in one, whole, and as many together as fit."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.cluster.batches import Directory, batches_of

DIRECTORIES = st.lists(st.builds(Directory, st.binary(max_size=3), st.integers(0, 9), st.integers(0, 90)), max_size=40)


@given(directories=DIRECTORIES)
def test_each_directory_with_files_is_in_one_batch_in_order(directories: list[Directory]) -> None:
    batches = list(batches_of(directories, most_files=10, most_bytes=100))
    assert [each for batch in batches for each in batch] == [each for each in directories if each.files]


@given(directories=DIRECTORIES)
def test_a_batch_is_as_large_as_may_be_and_only_one_directory_is_larger(directories: list[Directory]) -> None:
    batches = list(batches_of(directories, most_files=10, most_bytes=100))

    def fits(batch: list[Directory]) -> bool:
        return sum(each.files for each in batch) <= 10 and sum(each.size_bytes for each in batch) <= 100

    assert all(fits(batch) or len(batch) == 1 for batch in batches)
    assert not any(fits([*batch, after[0]]) for batch, after in itertools.pairwise(batches))
