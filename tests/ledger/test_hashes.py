"""What a ledger may know: no stored UID is ever denied, few others are taken for one, and memory stays flat."""

from __future__ import annotations

import random
import sys
import tracemalloc
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger import buffered
from asyncstore.ledger import hashes as ledger_hashes
from asyncstore.ledger.hashes import FIRST_UID_HASH, HashFilter, hash_of_path, hash_of_uid, hashes_of_paths
from asyncstore.status import Status
from tests.support.ledgers import instance_of, opened, outcome_of, stored, uid_of

if TYPE_CHECKING:
    from pathlib import Path

UIDS = st.from_regex(r"[0-9.]{0,64}", fullmatch=True) | st.text(max_size=64)


# -- hashes ------------------------------------------------------------------------------------------------------------


@given(uid=UIDS, key=st.binary(max_size=64))
def test_a_hash_of_a_uid_is_none_of_a_path(uid: str, key: bytes) -> None:
    assert 0 <= hash_of_path(key) < FIRST_UID_HASH <= hash_of_uid(uid) < 2 * FIRST_UID_HASH


@given(keys=st.lists(st.from_regex(rb"(/[ab]{0,2}){0,3}[ab]?", fullmatch=True), max_size=20))
def test_paths_are_hashed_together_as_they_are_one_by_one(keys: list[bytes]) -> None:
    assert hashes_of_paths(keys) == [hash_of_path(key) for key in keys]


def test_neighbours_are_neighbours_in_the_index_too() -> None:
    assert len({hash_of_path(b"/a/b/%d" % number) >> 32 for number in range(100)}) == 1
    assert len({hash_of_uid(f"1.2.3.{number}") >> 32 for number in range(100)}) == 1
    assert len({hash_of_uid(f"1.2.{number}.3") >> 32 for number in range(100)}) > 50


# -- the filter --------------------------------------------------------------------------------------------------------


@given(uids=st.lists(UIDS, max_size=60), earlier=st.integers(0, 60), room=st.integers(1, 70))
def test_a_filter_never_denies_what_was_added(uids: list[str], earlier: int, room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_hashes, "_FIRST_HASHES", room)
        hashes = [hash_of_uid(uid) for uid in uids]
        known = HashFilter(len(hashes[:earlier]))
        known.add_rows((number,) for number in hashes[:earlier])
        assert all(number in known for number in hashes[:earlier])
        for end, number in enumerate(hashes[earlier:], start=earlier + 1):
            known.add(number)
            assert all(each in known for each in hashes[:end])


@pytest.mark.parametrize(("count", "one_in"), [(16000, 250), (100_000, 250)])
def test_a_filter_takes_few_others_for_what_was_added(count: int, one_in: int) -> None:
    known = HashFilter(0)
    assert not any(hash_of_uid(uid_of(number)) in known for number in range(100))
    rng = random.Random(5)
    for _ in range(count):
        known.add(rng.getrandbits(47))
    asked = 20000
    assert 0 < sum(rng.getrandbits(47) in known for _ in range(asked)) < asked / one_in


def test_a_filter_takes_the_same_memory_whatever_is_added() -> None:
    tracemalloc.start()
    try:
        known = HashFilter(0)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
        sizes = []
        for first in range(0, 60000, 20000):
            for number in range(first, first + 20000):
                known.add(number * 2654435761 & 0xFFFFFFFF)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(sizes) < 18 << 20
    assert max(sizes) - min(sizes) < 10000


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_a_new_ledger_knows_of_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        assert not ledger.has_earlier
        assert not any(ledger.may_know(uid_of(number)) for number in range(100))


def test_what_is_recorded_as_stored_may_be_known_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "COMMIT_SECONDS", 3600.0)
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
        ledger.record(outcome_of(instance_of(2), State.WARNING, Status(0xB000)))
        ledger.record(Outcome(State.SKIPPED, "/a/README"))
        assert ledger.may_know(uid_of(1))
        assert ledger.may_know(uid_of(2))
        anyio.run(ledger.flush)
        assert ledger.may_know(uid_of(1))


@pytest.mark.parametrize("state", sorted(set(State) - {State.STORED, State.WARNING}))
def test_what_is_not_stored_is_not_taken_for_it(tmp_path: Path, state: State) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(outcome_of(instance_of(1), state, None))
        assert not ledger.may_know(uid_of(1))


def test_what_earlier_runs_stored_may_be_known_however_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_hashes, "_FIRST_HASHES", 200)
    for run in range(3):
        with opened(tmp_path / "run.db") as ledger:
            assert ledger.has_earlier == bool(run)
            assert all(ledger.may_know(uid_of(number)) for number in range(150 * run))
            assert sum(ledger.may_know(uid_of(number)) for number in range(5000, 6000)) < 20
            for number in range(150 * run, 150 * run + 150):
                ledger.record(stored(number))


def test_asking_does_not_fill_memory(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
        before = sys.getallocatedblocks()
        for number in range(2000):
            ledger.may_know(f"1.2.{number}")
        assert sys.getallocatedblocks() - before < 500
