"""The count of an input sees what the feed will see, in a process that never holds up or outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.cli import counting
from asyncstore.cli.counting import InputCount, may_count
from asyncstore.inputs.count import Request, found
from asyncstore.inputs.entry import entries_of
from asyncstore.inputs.selection import Choice, Selection
from tests.support import command

if TYPE_CHECKING:
    from pathlib import Path


EVERYTHING = Selection()


def tree(root: Path) -> Path:
    """Files in directories, links to both, a loop, and what is not a file."""
    for number, name in enumerate(("a.dcm", "sub/b.dcm", "sub/deeper/c.dcm", "sub/notes.txt")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100 * (number + 1)))
    (root / "link.dcm").symlink_to(root / "a.dcm")
    (root / "sub" / "loop").symlink_to(root)
    (root / "dangling").symlink_to(root / "nowhere")
    os.mkfifo(root / "fifo")
    return root


def counted(request: Request) -> tuple[int, int, bool]:
    count = InputCount(request)
    count.start()
    try:
        assert count._thread is not None
        count._thread.join(command.FINISH_SECONDS)
    finally:
        count.close()
    return count.entries, count.size_bytes, count.is_complete


@pytest.mark.parametrize("recursive", [True, False])
def test_what_is_counted_is_what_the_feed_finds(tmp_path: Path, recursive: bool) -> None:
    paths = [str(tree(tmp_path)), str(tmp_path / "sub"), str(tmp_path / "a.dcm"), str(tmp_path / "gone")]
    fed = [entry.name for entry in entries_of(paths, recursive=recursive, walked={})]
    names = [each if isinstance(each, str) else each.path for each in found(Request(paths, recursive))]
    assert names == fed
    sizes = sum(os.stat(name).st_size for name in fed if name and os.path.isfile(name))
    assert counted(Request(paths, recursive)) == (len(fed), sizes, True)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(include=("*.dcm",)),
        Selection(exclude=("sub/deeper/", "*.txt")),
        Selection(newer_than=1000.0),
        Selection(include=("/sub/**",), exclude=("c.*",), newer_than=1000.0, order="largest"),
        Selection(archives=True, order="path"),
    ],
)
def test_what_a_selection_leaves_out_is_not_counted(tmp_path: Path, selection: Selection) -> None:
    root = tree(tmp_path)
    os.utime(root / "sub" / "b.dcm", (1, 1))
    paths = [str(root), str(root / "a.dcm")]
    fed = [entry.name for entry in entries_of(paths, recursive=True, walked={}, choice=Choice.of(selection))]
    request = Request(paths, True, selection=selection)
    names = [each if isinstance(each, str) else each.path for each in found(request)]
    assert sorted(names) == sorted(filter(None, fed))
    assert counted(request)[::2] == (len(fed), True)
    assert may_count(None, selection)


def test_what_files_contain_is_not_counted(tmp_path: Path) -> None:
    """They would have to be opened."""
    (tmp_path / "list").touch()
    for selection in (Selection(modalities=("CT",)), Selection(include=("*.dcm",), archives=True)):
        assert not may_count(None, selection)
    assert not may_count(str(tmp_path / "list"), Selection(include=("*.dcm",)))
    assert may_count(str(tmp_path / "list"), Selection(exclude=("*.txt",), newer_than=1000.0))


@pytest.mark.parametrize("ends_in_nul", [False, True])
def test_a_list_is_counted_as_it_is_fed_each_path_as_often_as_it_is_there(tmp_path: Path, ends_in_nul: bool) -> None:
    tree(tmp_path / "tree")
    end = "\0" if ends_in_nul else "\n"
    listed = tmp_path / "list"
    listed.write_text(end.join([str(tmp_path / "tree" / "a.dcm")] * 2 + [str(tmp_path / "tree" / "sub")] * 2))
    request = Request([str(tmp_path / "tree" / "sub")], False, str(listed), ends_in_nul)
    assert counted(request)[0] == 2 + 3 * 2  # b.dcm and notes.txt each time


def test_names_are_bytes_and_the_files_of_the_run_itself_do_not_count(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe\n.dcm"
    with open(odd, "wb") as stream:
        stream.write(b"1234567")
    (tmp_path / "run.db").write_bytes(bytes(5000))
    request = Request([os.fsdecode(odd), str(tmp_path)], True, own_files=(str(tmp_path / "run.db"),))
    assert counted(request) == (2, 14, True)


def test_it_prints_nothing_and_fails_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    assert counted(Request(["/nowhere"], True, "/no/such/list")) == (0, 0, False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("program", ["import time; print('3 50', flush=True); time.sleep(1000)", "print('nonsense')"])
def test_a_count_that_hangs_or_fails_is_ended_and_reaped(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(counting, "_PROGRAM", program)
    taken = threading.Event()

    class Watched(InputCount):
        def _take(self, line: bytes) -> None:
            taken.set()
            super()._take(line)

    count = Watched(Request([], True))
    count.start()
    assert taken.wait(command.FINISH_SECONDS)
    count.close()
    count.close()
    assert count._process is not None
    assert count._process.returncode is not None
    assert not count.is_complete


def test_a_count_that_was_never_begun_begins_no_more_once_it_is_closed() -> None:
    count = InputCount(Request([], True))
    count.close()
    count.start()
    assert count._process is None


def test_without_a_process_there_is_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", none_left)
    assert counted(Request(["/"], True)) == (0, 0, False)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the lines in between come by a timer")
def test_the_last_line_is_the_one_that_says_so(tmp_path: Path) -> None:
    """However often lines come in between, none comes after it."""
    (tmp_path / "a.dcm").touch()
    program = "from asyncstore.inputs import count; count._LINE_SECONDS = 0.0001; count.main()"
    for _ in range(10):
        done = subprocess.run(
            [sys.executable, "-c", program], input=Request([str(tmp_path)], True).to_json(), capture_output=True
        )
        assert done.stdout.splitlines()[-1] == b"1 0 end"


def test_the_program_ends_when_its_reader_has_gone(tmp_path: Path) -> None:
    """Even while its walk yields nothing: a killed run leaves nothing behind."""
    waiting = (
        "import time\n"
        "from asyncstore.inputs import count\n"
        "count.found = lambda request: filter(None, iter(lambda: time.sleep(0.01), 1))\n"
        "count.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", waiting],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=command.environment(),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(Request([str(tmp_path)], True).to_json())
        process.stdin.close()
        assert process.stdout.readline() == b"0 0\n"
        process.stdout.close()
        assert process.wait(command.FINISH_SECONDS) == 1
    finally:
        process.kill()
        process.wait()


def test_only_a_list_that_can_be_read_twice_is_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "list").touch()
    assert may_count(None, EVERYTHING)
    assert may_count(str(tmp_path / "list"), EVERYTHING)
    for name in ("-", str(tmp_path / "fifo"), str(tmp_path / "gone"), "nul\0"):
        assert not may_count(name, EVERYTHING)
