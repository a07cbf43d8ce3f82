"""Entries are read in their order, and a disk is asked for the next ones while one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.inputs import contents
from asyncstore.inputs.contents import found_in
from asyncstore.inputs.entry import FileEntry
from asyncstore.inputs.inventory import Inventory
from asyncstore.instances import source
from asyncstore.instances.instance import Instance
from tests.support.transfers import write_files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.inputs.entry import Found


class OnDisk(FileEntry):
    """A file that is not in memory, if its number is not a multiple of 3: reading it without waiting gives nothing."""

    def __init__(self, name: str, number: int, log: list[tuple[str, int]]) -> None:
        super().__init__(name)
        self.number = number
        self.log = log

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Found | None:
        self.log.append(("reads" if wait else "asks", self.number))
        return super().read_head() if wait or self.number % 3 == 0 else None


@pytest.mark.parametrize("ahead", [1, 2, 5, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_what_waits_for_a_disk_holds_up_nobody_and_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, count: int
) -> None:
    monkeypatch.setattr(contents, "_READ_AHEAD", ahead)
    log: list[tuple[str, int]] = []
    paths = write_files(tmp_path, count)
    entries = (OnDisk(path, number, log) for number, path in enumerate(paths))
    found = [each for _, each in found_in(entries, None)]
    assert [each.path for each in found] == paths
    assert all(isinstance(each, Instance) for each in found)
    if ahead > 1 and count > ahead:
        first_read = log.index(("reads", 1))
        assert sum(what == "asks" for what, _ in log[:first_read]) >= ahead


def test_a_scan_of_files_that_are_not_in_memory_counts_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, 200)
    monkeypatch.setattr(source, "read_cached", lambda *_: None)
    inventory = Inventory()
    inventory.scan([str(tmp_path)], recursive=True)
    assert (inventory.instances.total(), inventory.files, inventory.problems.total()) == (200, 200, 0)
