"""Which files are taken, what is said of those that are left out, and the order in which they come."""

from __future__ import annotations

import logging
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore import Instance, LocalProtocolError, Selection, State, TransferOptions, scan
from asyncstore.inputs import feed as feed_module
from asyncstore.inputs.entry import entries_of
from asyncstore.inputs.selection import Choice
from asyncstore.inputs.trace import LeftOut
from tests.support.archives import KINDS, dicom, write_any, write_zip
from tests.support.transfers import KeepingSCP, check_account, on_one_loop, outcomes_of, transfer_to, uid_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NAMES = ("1.dcm", "notes.txt", "CT/2.dcm", "CT/raw/3.ima", "MR/2.dcm", "backup/CT/4.dcm")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that hold instances, whatever they are called, in an order of their times and of their sizes."""
    for number, name in enumerate(NAMES, 1):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(number, pixels=bytes(100 * (number * 5 % 7)), modality=name.partition("/")[0][:2]))
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    return tmp_path / "tree"


def taken(root: Path, **chosen: Any) -> list[str]:
    found = [each for each in scan(root, selection=Selection(**chosen)) if isinstance(each, Instance)]
    return [str(each.path).removeprefix(f"{root}").lstrip("!/") for each in found]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, NAMES),
        ({"include": ("*.dcm",)}, ("1.dcm", "CT/2.dcm", "MR/2.dcm", "backup/CT/4.dcm")),
        ({"include": ("/CT/**",)}, ("CT/2.dcm", "CT/raw/3.ima")),
        ({"include": ("/*.dcm", "*.ima")}, ("1.dcm", "CT/raw/3.ima")),
        ({"exclude": ("*.txt", "backup/")}, ("1.dcm", "CT/2.dcm", "CT/raw/3.ima", "MR/2.dcm")),
        ({"include": ("CT/*",), "exclude": ("/backup/**",)}, ("CT/2.dcm",)),
        ({"include": ("*",), "exclude": ("*",)}, ()),
        ({"newer_than": 1_000_004}, ("MR/2.dcm", "backup/CT/4.dcm")),
        ({"newer_than": 1_000_003.5}, ("CT/raw/3.ima", "MR/2.dcm", "backup/CT/4.dcm")),
        ({"modalities": ("CT",)}, ("CT/2.dcm", "CT/raw/3.ima")),
        ({"modalities": ("mr", "CT ")}, ("CT/2.dcm", "CT/raw/3.ima", "MR/2.dcm")),
        ({"modalities": ("CT",), "include": ("*.ima",), "newer_than": 5.0}, ("CT/raw/3.ima",)),
    ],
)
def test_what_is_asked_for_is_taken(chosen: dict[str, Any], expected: tuple[str, ...], tree: Path) -> None:
    assert sorted(taken(tree, **chosen)) == sorted(expected)


def test_a_named_file_is_chosen_by_its_name(tree: Path) -> None:
    assert taken(tree / "CT" / "2.dcm", include=("2.dcm",)) == [""]
    assert taken(tree / "CT" / "2.dcm", exclude=("*.dcm",)) == []
    assert taken(tree / "CT" / "2.dcm", include=("CT/*",)) == []  # its path relative to the source is its name


@pytest.mark.parametrize("name", KINDS)
def test_a_member_is_chosen_by_its_name_in_the_archive_and_the_archive_is_not(name: str, tmp_path: Path) -> None:
    content = {"CT/1.dcm": dicom(1, modality="CT"), "MR/2.dcm": dicom(2, modality="MR"), "3.ima": dicom(3)}
    path = write_any(tmp_path / name, content)
    assert taken(path, include=("*.dcm",), exclude=("/MR/**",)) == ["CT/1.dcm"]
    assert taken(path, modalities=("MR",)) == ["MR/2.dcm"]
    assert taken(path, newer_than=4e9) == []
    assert taken(path, exclude=("a*",)) == []
    assert taken(path.parent, archives=True, include=("*.dcm",)) == [f"{name}!/CT/1.dcm", f"{name}!/MR/2.dcm"]
    assert taken(path.parent, archives=True, include=("*.dcm",), exclude=(name,)) == []
    assert taken(path.parent, include=("*.dcm",)) == []


def test_what_is_left_out_is_counted_and_told(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    selection = Selection(include=("*.dcm",), exclude=("backup/",), newer_than=1_000_004)
    choice = Choice(selection)
    with caplog.at_level(logging.DEBUG, logger="asyncstore.inputs"):
        entries = list(entries_of([str(tree)], recursive=True, choice=choice))
    assert [entry.name for entry in entries] == [str(tree / "MR" / "2.dcm")]
    assert choice.left_out == 5
    told = {str(record.msg.path): record.msg.why for record in caplog.records if isinstance(record.msg, LeftOut)}
    assert {path.removeprefix(f"{tree}/"): why for path, why in told.items()} == {
        "1.dcm": "not new enough",
        "notes.txt": "not included",
        "CT/2.dcm": "not new enough",
        "CT/raw/3.ima": "not included",
        "backup/CT/4.dcm": "excluded",
    }


@on_one_loop
async def test_what_is_left_out_of_a_transfer_has_no_outcome_and_is_no_failure(tree: Path, tmp_path: Path) -> None:
    write_zip(tree / "a.zip", {"CT/7.dcm": dicom(7, modality="CT"), "MR/8.dcm": dicom(8, modality="MR")})
    selection = Selection(modalities=("CT",), exclude=("*.txt",), archives=True)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [tree], selection=selection)
        outcomes = await outcomes_of(transfer)
    sent = [tree / "CT/2.dcm", tree / "CT/raw/3.ima", f"{tree / 'a.zip'}!/CT/7.dcm"]
    check_account(transfer, outcomes, map(str, sent))
    assert transfer.report.states == {State.STORED: 3}
    assert (transfer.report.found, transfer.report.left_out) == (3, 5)
    assert transfer.report.to_dict()["left_out"] == 5


@on_one_loop
async def test_modalities_are_looked_for_in_large_files_too(tmp_path: Path) -> None:
    for number, modality in enumerate(("CT", "MR", "", "CT"), 1):
        pixels = random.Random(number).randbytes(300_000 * (number % 2) + 10)
        (tmp_path / f"{number}").write_bytes(dicom(number, pixels=pixels, modality=modality))
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path, selection=Selection(modalities=("CT",)), keep_together="study")
        await outcomes_of(transfer)
    assert scp.uids == {uid_of(1): 1, uid_of(4): 1}
    assert transfer.report.left_out == 2


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("path", ("1.dcm", "notes.txt", "CT/2.dcm", "CT/raw/3.ima", "MR/2.dcm", "backup/CT/4.dcm")),
        ("newest", ("backup/CT/4.dcm", "MR/2.dcm", "CT/raw/3.ima", "CT/2.dcm", "notes.txt", "1.dcm")),
        ("largest", ("CT/raw/3.ima", "1.dcm", "MR/2.dcm", "notes.txt", "backup/CT/4.dcm", "CT/2.dcm")),
    ],
)
def test_files_come_in_the_order_that_is_asked_for(order: str, expected: tuple[str, ...], tree: Path) -> None:
    assert taken(tree, order=order) == list(expected)


def test_in_path_order_each_directory_is_whole_and_only_its_names_are_kept(tmp_path: Path) -> None:
    names = [f"{a}/{b}/{c}" for a in "ba" for b in "dc" for c in "fe"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(dicom(number))
    assert taken(tmp_path, order="path") == sorted(names)


@on_one_loop
@pytest.mark.parametrize("kind", ["list", "iterator", "asynchronous"])
async def test_sorting_covers_all_sources_of_every_kind(kind: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(tree / name) for name in random.Random(3).sample(NAMES, len(NAMES))]

    async def one_by_one() -> AsyncIterator[str]:
        for path in paths:
            yield path

    def iterated() -> Iterator[str]:
        yield from paths

    sources = {"list": paths, "iterator": iterated(), "asynchronous": one_by_one()}[kind]
    order: list[str | None] = []

    def noted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for entry in entries_of(*arguments, **options):
            order.append(entry.name)
            yield entry

    monkeypatch.setattr(feed_module, "entries_of", noted)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, sources, selection=Selection(order="newest"))
        await outcomes_of(transfer)
    assert order == [str(tree / name) for name in reversed(NAMES)]
    assert len(scp.uids) == len(NAMES)


# -- what makes no sense -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"include": "*.dcm"}, "include is '*.dcm': it is a tuple of texts"),
        ({"include": ("a[",)}, "include has 'a[': a [ has no ]"),
        ({"exclude": ("",)}, "exclude has '': it is empty"),
        ({"modalities": ("",)}, "modalities has '': it is a value such as CT"),
        ({"modalities": "CT"}, "modalities is 'CT': it is a tuple of texts"),
        ({"newer_than": "yesterday"}, "newer_than is 'yesterday': it is a time in seconds since 1970"),
        ({"order": "smallest"}, "order is 'smallest': it is one of found, path, newest, largest"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Selection(**chosen)
    assert str(caught.value) == message


def test_options_take_a_selection_only() -> None:
    with pytest.raises(LocalProtocolError, match="selection is"):
        TransferOptions(selection="*.dcm")  # type: ignore[arg-type]


def test_without_a_selection_nothing_is_asked() -> None:
    assert Choice.of(Selection()) is None
