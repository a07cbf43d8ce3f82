"""The real `asyncstore scan`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pydicom
import pytest

from tests.support import command
from tests.support.archives import KINDS, dicom, write_any
from tests.support.peers import LOOPBACK

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def test_an_archive_is_counted_by_kind_and_problems_are_shown(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "deep" / "er" / f"{number}.dcm").write_bytes((SAMPLES / "CT_small.dcm").read_bytes())
    (tmp_path / "mr.dcm").write_bytes((SAMPLES / "MR_small_RLE.dcm").read_bytes())
    (tmp_path / "no\nte.txt").write_text("not DICOM, and longer than a preamble " * 10)
    done = command.run("scan", tmp_path)
    assert done.returncode == 0
    first, *kinds = done.stdout.splitlines()
    assert first.startswith("4 instances, ")
    assert [line.split("B  ")[1] for line in kinds[:2]] == [
        "CT Image Storage, Explicit VR Little Endian",
        "MR Image Storage, RLE Lossless",
    ]
    assert kinds[2] == "1 file: not a DICOM file"
    assert kinds[3].startswith(f"  {tmp_path}/no\\nte.txt: ")


def test_json_is_one_line(tmp_path: Path) -> None:
    done = command.run("scan", "--json", SAMPLES / "CT_small.dcm")
    record = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (record["event"], record["instances"], record["kinds"][0]["sop_class"]) == (
        "inventory",
        1,
        "CT Image Storage",
    )


def test_nothing_to_send_is_code_5(tmp_path: Path) -> None:
    assert command.run("scan", tmp_path).returncode == 5


def test_a_missing_path_beside_an_instance_is_code_3(tmp_path: Path) -> None:
    done = command.run("scan", SAMPLES / "CT_small.dcm", tmp_path / "missing")
    assert done.returncode == 3
    assert "1 file: not found\n" in done.stdout


@pytest.mark.parametrize(
    "command_line", [("scan",), ("storescu", "--dry-run", LOOPBACK, 104), ("storescu", LOOPBACK, 104)]
)
@pytest.mark.parametrize(
    ("sources", "code"),
    [
        (["missing"], 3),
        (["broken"], 3),
        (["notes/notes.txt"], 3),
        (["notes"], 5),
        (["notes", "missing"], 3),
        (["notes", "notes/notes.txt"], 3),
    ],
)
def test_nothing_to_send_is_told_from_nothing_that_could_be_sent(
    tmp_path: Path, command_line: tuple[str | int, ...], sources: list[str], code: int
) -> None:
    """As the transfer itself says it: a file that is no DICOM file is a failure when it was named, and only then."""
    (tmp_path / "broken").mkdir()
    for number in range(10):
        (tmp_path / "broken" / f"{number}.dcm").symlink_to("nowhere")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("not DICOM, and longer than a preamble " * 10)
    os.mkfifo(tmp_path / "notes" / "fifo")
    assert command.run(*command_line, *sources, directory=tmp_path).returncode == code


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    process = command.start("scan", SAMPLES)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        stderr = process.stderr.read().decode()
    assert process.wait(30) == 6
    assert stderr == "E: cannot write to stdout: Broken pipe\n"


def test_an_internal_error_is_no_traceback() -> None:
    broken = (
        "import asyncstore.inputs.inventory as i; i.entries_of = None; "
        "import asyncstore.__main__ as m, sys; sys.exit(m.main())"
    )
    words = [command.words()[0], "-c", broken, "scan", "."]
    done = subprocess.run(words, capture_output=True, text=True, env=command.environment(), timeout=30, check=False)
    assert done.returncode == 70
    assert done.stderr == (
        "F: internal error: TypeError: 'NoneType' object is not callable\nF: run with -d for details\n"
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_named_archive_is_opened_and_one_in_a_directory_with_the_option(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, {"1.dcm": dicom(1), "2.dcm": dicom(2), "../3.dcm": dicom(3)})
    done = command.run("scan", path)
    assert done.returncode == 3
    assert done.stdout.startswith("2 instances, ")
    assert f"1 file: cannot be read\n  {path}!/../3.dcm: its name leads out of the archive\n" in done.stdout
    assert command.run("scan", tmp_path, "--archives").stdout == done.stdout
    passed_over = command.run("scan", tmp_path)
    assert passed_over.returncode == 5
    kind = {".zip": "a ZIP archive", ".tar": "a TAR archive", ".tgz": "a file that gzip has compressed"}[path.suffix]
    assert f"  {path}: it is {kind}\n" in passed_over.stdout


def test_a_selection_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    path = write_any(tmp_path / "a.zip", {"1.dcm": dicom(1, modality="CT"), "2.dcm": dicom(2), "notes.txt": b"hello"})
    done = command.run("scan", path, "--include", "*.dcm", "--modality", "CT", "-d")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == "2 files left out by the selection"
    assert done.stderr == (
        f"D: Left out: {path}!/2.dcm: it has no modality\nD: Left out: {path}!/notes.txt: not included\n"
    )
    record = json.loads(command.run("scan", path, "--include", "*.dcm", "--json").stdout)
    assert (record["instances"], record["left_out"]) == (2, 1)
