"""A ledger whose files have moved: each path is found at its new place, and nowhere else."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import LedgerError, LocalProtocolError
from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.sqlite import writer as ledger_writer
from asyncstore.ledger.sqlite.rebind import rebind
from asyncstore.status import Status
from tests.support.ledgers import DESTINATION, instance_of, offered, opened, outcome_of, rows_of, stored
from tests.support.transfers import write_files

if TYPE_CHECKING:
    from pathlib import Path


def recorded(ledger: Path, *outcomes: Outcome) -> Path:
    with opened(ledger) as open_ledger:
        for outcome in outcomes:
            open_ledger.record(outcome)
    return ledger


def moved(ledger: Path, **places: str) -> dict[str, int]:
    return rebind(str(ledger), {f"/{old}": new for old, new in places.items()}, destination=DESTINATION)


def paths_of(ledger: Path) -> list[str | None]:
    return [row.path for row in rows_of(ledger)]


@pytest.mark.parametrize("in_index", [False, True])
def test_what_did_not_change_is_settled_at_its_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_index: bool
) -> None:
    if in_index:
        monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", 4)
    write_files(tmp_path / "old", 30)
    paths = sorted((tmp_path / "old").iterdir())
    outcomes = [outcome_of(instance_from(path)) for path in paths]
    ledger = recorded(tmp_path / "run.db", *outcomes[:20])
    recorded(ledger, *outcomes[20:])
    shutil.move(tmp_path / "old", tmp_path / "new")
    changed = tmp_path / "new" / paths[0].name
    os.utime(changed, ns=(0, 0))
    places = {str(tmp_path / "old"): str(tmp_path / "new")}
    assert list(rebind(str(ledger), places, destination=DESTINATION).values()) == [30]
    now = [str(tmp_path / "new" / path.name) for path in paths]
    with opened(ledger) as open_ledger:
        answers = open_ledger.settled(offered(*now))
        assert [isinstance(answer, Outcome) and answer.state for answer in answers] == [False] + [State.RESUMED] * 29
        uid = outcomes[1].instance.sop_instance_uid  # type: ignore[union-attr]
        assert open_ledger.may_know(uid)
        known = open_ledger.known_instance(uid)
        assert known is not None
        assert known.path == now[1]
    assert paths_of(ledger) == now
    assert list(rebind(str(ledger), places, destination=DESTINATION).values()) == [0]
    assert paths_of(ledger) == now


def test_only_what_is_at_the_place_moves(tmp_path: Path) -> None:
    at = ["/old", "/old/a", "/old/b/c", "/old!/member", "/old/x.zip!/m", "/old/\udcff"]
    beside = ["/older", "/old.zip!/m", "/other/old/a", "/"]
    ledger = recorded(tmp_path / "run.db", *(stored(number, path) for number, path in enumerate(at + beside)))
    assert moved(ledger, old="/new place/here/") == {"/old": 6}
    assert paths_of(ledger) == ["/new place/here" + path.removeprefix("/old") for path in at] + beside


def test_an_archive_may_move_alone_and_the_inner_one_of_two_places_counts(tmp_path: Path) -> None:
    ledger = recorded(tmp_path / "run.db", stored(1, "/a/x.zip!/m"), stored(2, "/a/y"), stored(3, "/a/b/z"))
    assert rebind(str(ledger), {"/a": "/n", "/a/x.zip": "/z.zip", "/a/b": "/b"}, destination=DESTINATION) == {
        "/a": 1,
        "/a/x.zip": 1,
        "/a/b": 1,
    }
    assert paths_of(ledger) == ["/z.zip!/m", "/n/y", "/b/z"]


def test_a_path_that_was_recorded_at_both_places_keeps_one_row(tmp_path: Path) -> None:
    """A run began without being told: what the peer has stays stored."""
    failed = Status(0xA900)
    ledger = recorded(
        tmp_path / "run.db",
        stored(1, "/old/1"),
        outcome_of(instance_of(2, "/old/2"), State.FAILED, failed),
        stored(3, "/old/3"),
        outcome_of(instance_of(1, "/new/1"), State.FAILED, failed),
        stored(2, "/new/2"),
        stored(4, "/new/4"),
    )
    moved(ledger, old="/new")
    assert sorted((row.path, row.state) for row in rows_of(ledger)) == [
        (f"/new/{number}", State.STORED) for number in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"/odl": "/new"}, "the ledger has nothing at '/odl', nor at '/new'"),
        ({"/old": "/new", "/odl": "/newer"}, "the ledger has nothing at '/odl', nor at '/newer'"),
        ({"/old": "/old/inner"}, "the places '/old' and '/old/inner' are not apart"),
        ({"/old/a": "/old"}, "the places '/old/a' and '/old' are not apart"),
        ({"/old": "/a", "/b": "/old"}, "the places '/old' and '/old' are not apart"),
        ({"/old": "/a", "/b": "/a"}, "the places '/a' and '/a' are not apart"),
        ({"/": "/new"}, "the places '/' and '/new' are not apart"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_moves_nothing(
    places: dict[str, str], message: str, tmp_path: Path
) -> None:
    ledger = recorded(tmp_path / "run.db", stored(1, "/old/1"))
    with pytest.raises(LocalProtocolError) as caught:
        rebind(str(ledger), places, destination=DESTINATION)
    assert message in str(caught.value)
    assert paths_of(ledger) == ["/old/1"]


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="no ledger"):
        moved(tmp_path / "run.db", old="/new")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_in_use_or_of_another_destination_stays_as_it_is(tmp_path: Path) -> None:
    ledger = recorded(tmp_path / "run.db", stored(1, "/old/1"))
    with opened(ledger), pytest.raises(LedgerError):
        moved(ledger, old="/new")
    with pytest.raises(LedgerError, match="belongs to"):
        rebind(str(ledger), {"/old": "/new"}, destination="OTHER@host:1")
    assert paths_of(ledger) == ["/old/1"]
