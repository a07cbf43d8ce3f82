"""Walking: every file once, as it is met, whatever its name, and whatever else lies about."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import NotDicom
from asyncstore.inputs.opening import instance_from
from asyncstore.inputs.scan import scan
from asyncstore.inputs.walk import walk
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from tests.support.files import INSTANCE_UID, dicom_file
from tests.support.process import counts_descriptors, descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.inputs.walk import Walked

needs_links = pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege there")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two files in the root, one in a folder, one in a folder's folder."""
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    for name in ("1", "2", "a/3", "a/b/4"):
        (root / name).write_bytes(dicom_file())
    return root


def names(found: Iterator[str | ScanProblem], root: Path) -> list[str]:
    """The paths below the root, problems marked, in alphabetical order."""
    return sorted(
        os.path.relpath(each, root)
        if isinstance(each, str)
        else f"{os.path.relpath(each.path, root)}: {each.reason.name}"
        for each in found
    )


def test_a_directory_gives_its_own_files_and_with_recursive_all_below(tree: Path) -> None:
    assert names(walk([tree], recursive=False), tree) == ["1", "2"]
    assert names(walk([tree], recursive=True), tree) == ["1", "2", "a/3", "a/b/4"]


@pytest.mark.parametrize("make", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
def test_one_path_is_one_root(tree: Path, make: Callable[[Path], Any]) -> None:
    assert names(islice(walk(make(tree), recursive=True), 5), tree) == ["1", "2", "a/3", "a/b/4"]
    assert len(list(islice(scan(make(tree / "1")), 2))) == 1


def test_instances_and_problems_come_in_one_stream(tree: Path) -> None:
    (tree / "notes.txt").write_text("not DICOM")
    found = list(scan([tree / "absent", tree]))
    assert sorted(each.path or "" for each in found if isinstance(each, Instance)) == sorted(
        str(tree / name) for name in ("1", "2", "a/3", "a/b/4")
    )
    problems = {each.path: each for each in found if isinstance(each, ScanProblem)}
    assert problems.keys() == {str(tree / "absent"), str(tree / "notes.txt")}
    assert problems[str(tree / "absent")].reason is ProblemKind.NOT_FOUND
    assert problems[str(tree / "notes.txt")].reason is ProblemKind.NOT_DICOM
    assert isinstance(problems[str(tree / "notes.txt")].error, NotDicom)


def test_scan_goes_into_directories_unless_told_otherwise(tree: Path) -> None:
    assert len(list(scan([tree]))) == 4
    assert len(list(scan([tree], recursive=False))) == 2


@pytest.mark.parametrize("form", [os.fspath, os.fsencode, lambda path: path])
def test_roots_are_paths_of_any_form(tree: Path, form: type) -> None:
    assert list(walk([form(tree / "1")], recursive=False)) == [str(tree / "1")]
    assert names(walk([form(tree)], recursive=False), tree) == ["1", "2"]


def test_overlapping_directories_are_walked_once(tree: Path) -> None:
    assert names(walk([tree / "a", tree, tree], recursive=True), tree) == ["1", "2", "a/3", "a/b/4"]


def test_what_one_walk_has_walked_the_next_one_passes_over(tree: Path) -> None:
    walked: Walked = {}
    assert names(walk([tree / "a"], recursive=True, walked=walked), tree) == ["a/3", "a/b/4"]
    assert names(walk([tree], recursive=True, walked=walked), tree) == ["1", "2"]
    assert names(walk([tree / "a" / "b"], recursive=False, walked=walked), tree) == []


def test_a_file_that_is_named_is_given_however_often(tree: Path) -> None:
    assert names(walk([tree, tree / "1", tree / "1"], recursive=False), tree) == ["1", "1", "1", "2"]


def test_another_directory_with_the_number_of_one_that_is_gone_is_walked(tree: Path) -> None:
    """Told by when it was changed: whoever makes one here may get the number again, or not."""
    folder = tree / "a"

    def roots() -> Iterator[Path]:
        yield folder
        changed_at = folder.stat().st_ctime_ns
        while folder.stat().st_ctime_ns == changed_at:  # the clock of a file system may be coarse
            (folder / "3").rename(folder / "5")
            (folder / "5").rename(folder / "3")
        yield folder

    assert names(walk(roots(), recursive=False), tree) == ["a/3", "a/3"]


ODD_NAMES = [
    b"a\nb",
    b"[red]markup[bold]",
    b"\xff\xfe\x80",
    " caf\u00e9 ".encode(),
    b"-rf",
    b"a\x1b[31mb",
    b"\xed\xa0\x80",
]


@pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere only")
@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("content", [dicom_file(), b"not DICOM"])
def test_names_are_kept_exactly(tmp_path: Path, name: bytes, content: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(content)
    (found,) = scan([tmp_path])
    assert isinstance(found, Instance if len(content) > 100 else ScanProblem)
    assert found.path is not None
    assert os.fsencode(found.path) == path
    if isinstance(found, Instance):
        assert instance_from(path).sop_instance_uid == INSTANCE_UID


# Symbolic links


@needs_links
def test_a_root_may_be_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(tree)
    (tmp_path / "file").symlink_to(tree / "1")
    assert names(walk([tmp_path / "folder"], recursive=False), tmp_path) == ["folder/1", "folder/2"]
    assert names(walk([tmp_path / "file"], recursive=False), tmp_path) == ["file"]


@needs_links
def test_links_are_followed_once(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "5").write_bytes(dicom_file())
    (outside / "back").symlink_to(tree)
    (tree / "out").symlink_to(outside)
    (tree / "again").symlink_to(outside)
    (tree / "up").symlink_to("..")
    (tree / "self").symlink_to(".")
    found = [os.path.realpath(path) for path in walk([tree], recursive=True) if isinstance(path, str)]
    assert sorted(found) == sorted(
        str(path) for path in (tree / "1", tree / "2", tree / "a/3", tree / "a/b/4", outside / "5")
    )


@needs_links
def test_a_link_to_a_directory_is_not_followed_without_recursive(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "a")
    (tree / "file link").symlink_to(tree / "a" / "3")
    assert names(walk([tree], recursive=False), tree) == ["1", "2", "file link"]


@needs_links
def test_links_that_lead_nowhere_are_problems(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("absent")
    (tmp_path / "round").symlink_to("about")
    (tmp_path / "about").symlink_to("round")
    expected = ["about: SYMLINK_LOOP", "broken: NOT_FOUND", "round: SYMLINK_LOOP"]
    assert names(walk([tmp_path], recursive=True), tmp_path) == expected
    assert names(walk([tmp_path / "round"], recursive=True), tmp_path) == ["round: SYMLINK_LOOP"]


# What is not a file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_fifos_sockets_and_devices_are_problems_and_stay_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        (tmp_path / "device").symlink_to(os.devnull)
        details = {os.path.basename(each.path or ""): each for each in scan([tmp_path])}
    (null,) = scan([os.devnull])
    details["null"] = null
    found = {name: each.detail for name, each in details.items() if isinstance(each, ScanProblem)}
    assert found == {
        "fifo": "it is a FIFO",
        "socket": "it is a socket",
        "device": "it is a character device",
        "null": "it is a character device",
    }
    assert {each.reason for each in details.values() if isinstance(each, ScanProblem)} == {ProblemKind.NOT_A_FILE}


def test_what_is_no_name_is_not_found() -> None:
    (found,) = walk(["a\0b"], recursive=True)
    assert isinstance(found, ScanProblem)
    assert found.reason is ProblemKind.NOT_FOUND


# What happens meanwhile


def test_a_file_that_vanishes_between_listing_and_opening_is_a_problem(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).write_bytes(dicom_file())
    found = scan([tmp_path])
    first = next(found)
    assert isinstance(first, Instance)
    other = tmp_path / ("2" if first.path == str(tmp_path / "1") else "1")
    other.unlink()
    (second,) = found
    assert isinstance(second, ScanProblem)
    assert (second.path, second.reason) == (str(other), ProblemKind.NOT_FOUND)


def test_a_directory_that_cannot_be_read_is_a_problem_and_the_others_are_walked(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if path == str(tree / "a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(walk([tree], recursive=True), tree) == ["1", "2", "a: UNREADABLE"]


def test_a_directory_that_fails_half_way_keeps_what_it_gave(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    class Failing:
        def __init__(self, path: str) -> None:
            self.entries = real(path)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *exc_info: object) -> None:
            self.entries.close()

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            yield from (entry for entry in self.entries if entry.is_file())
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", Failing)
    assert names(walk([tree], recursive=True), tree) == [".: UNREADABLE", "1", "2"]


def test_an_entry_that_cannot_be_looked_at_hides_no_other(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system gives no types with the names, each has to be asked for, and that may fail."""
    real = os.scandir

    class Untyped:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.path = entry.path
            self._entry = entry

        def is_file(self, *, follow_symlinks: bool) -> bool:
            if self._entry.name == "1":
                raise OSError(errno.EIO, "Input/output error", self.path)
            return self._entry.is_file(follow_symlinks=follow_symlinks)

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            if self._entry.name == "a":
                raise OSError(errno.EIO, "Input/output error", self.path)
            return self._entry.is_dir(follow_symlinks=follow_symlinks)

    @contextlib.contextmanager
    def scandir(path: str) -> Iterator[Iterator[Untyped]]:
        with real(path) as entries:
            yield map(Untyped, sorted(entries, key=lambda entry: entry.name))

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(walk([tree], recursive=True), tree) == ["1: UNREADABLE", "2", "a: UNREADABLE"]


@counts_descriptors
def test_a_large_directory_is_given_as_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10_000):
        os.close(os.open(tmp_path / f"{number:05}", os.O_CREAT | os.O_WRONLY))
    listed = 0
    real = os.scandir

    class Counting:
        def __init__(self, path: str) -> None:
            self.entries = real(path)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *exc_info: object) -> None:
            self.entries.close()

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            nonlocal listed
            for entry in self.entries:
                listed += 1
                yield entry

    monkeypatch.setattr(os, "scandir", Counting)
    before = descriptors()
    found = walk([tmp_path], recursive=True)
    assert len(list(islice(found, 10))) == 10
    assert listed == 10
    # Stopping early leaves nothing open.
    found.close()
    assert descriptors() == before
    assert len(set(walk([tmp_path], recursive=True))) == 10_000


def test_a_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    deep = tmp_path
    for _ in range(200):
        deep = deep / "d"
        deep.mkdir()
        (deep / "f").write_bytes(b"")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        found = list(walk([tmp_path], recursive=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(found) == 200
    assert all(isinstance(path, str) for path in found)
