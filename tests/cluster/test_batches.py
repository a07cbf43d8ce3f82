"""Batches: each directory in one, whole, with its neighbours, and as many together as fit."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.cluster.batches import MOST_BYTES, MOST_FILES, Directory, Size, batches_of

# A directory in one of three places, with up to a batch of files or bytes.
DIRECTORIES = st.lists(
    st.builds(
        lambda place, name, files, size: Directory(
            b"%s/%d/" % (place, name), files * MOST_FILES // 10, size * MOST_BYTES // 10
        ),
        st.sampled_from([b"a", b"b", b"c"]),
        st.integers(0, 99),
        st.integers(0, 10),
        st.integers(0, 10),
    ),
    max_size=40,
)


def neighbours(directories: list[Directory]) -> list[list[Directory]]:
    """Those with files that follow each other in one place."""
    with_files = [each for each in directories if each.files]
    return [list(group) for _, group in itertools.groupby(with_files, key=lambda each: each.path[:1])]


@given(directories=DIRECTORIES)
def test_each_directory_with_files_is_in_one_batch_in_order(directories: list[Directory]) -> None:
    batches = list(batches_of(directories))
    assert [each for batch in batches for each in batch] == [each for each in directories if each.files]


@given(directories=DIRECTORIES)
def test_a_batch_is_larger_only_for_neighbours_that_stay_together(directories: list[Directory]) -> None:
    together = [group for group in neighbours(directories) if Size.of(group).fits(4)]
    for batch in batches_of(directories):
        assert Size.of(batch).fits() or batch in together or len(batch) == 1


@given(directories=DIRECTORIES)
def test_neighbours_of_up_to_four_batches_are_not_cut(directories: list[Directory]) -> None:
    batches = list(batches_of(directories))
    place_of = {id(each): number for number, batch in enumerate(batches) for each in batch}
    for group in neighbours(directories):
        if Size.of(group).fits(4):
            assert len({place_of[id(each)] for each in group}) == 1


@given(directories=DIRECTORIES)
def test_what_fits_into_a_batch_with_the_next_directories_is_in_it(directories: list[Directory]) -> None:
    together = [group for group in neighbours(directories) if Size.of(group).fits(4)]
    for batch, after in itertools.pairwise(batches_of(directories)):
        unit = next((group for group in together if any(each is after[0] for each in group)), [after[0]])
        assert not Size.of([*batch, *unit]).fits()


def test_a_flat_directory_is_one_batch() -> None:
    flat = Directory(b"flat/", 1_000_000, 500 << 30)
    assert list(batches_of([Directory(b"a/", 1, 1), flat, Directory(b"z/", 1, 1)])) == [
        [Directory(b"a/", 1, 1)],
        [flat],
        [Directory(b"z/", 1, 1)],
    ]
