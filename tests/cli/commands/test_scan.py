"""The real `asyncstore scan`."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pydicom
import pytest

from asyncstore.services.storage_scp import StorageSCP
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import command
from tests.support.archives import KINDS, dicom, write_any
from tests.support.peers import LOOPBACK, free_port
from tests.support.transfers import on_one_loop

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
    assert kinds[2] == "2 presentation contexts needed; at least 1 association"
    assert kinds[-2] == "1 file: not a DICOM file"
    assert kinds[-1].startswith(f"  {tmp_path}/no\\nte.txt: ")


def test_studies_patients_and_repeated_uids_are_counted(tmp_path: Path) -> None:
    for name in ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "again.dcm").write_bytes((SAMPLES / "CT_small.dcm").read_bytes())
    read = [pydicom.dcmread(path) for path in tmp_path.rglob("*.dcm")]
    record = json.loads(command.run("scan", "--json", tmp_path).stdout)
    assert (record["instances"], record["contexts"], record["associations"]) == (5, 4, 1)
    assert record["studies"] == len({data_set.StudyInstanceUID for data_set in read})
    assert record["patients"] == len({data_set.PatientID for data_set in read})
    repeated = len(read) - len({data_set.SOPInstanceUID for data_set in read})
    assert record["repeated_uids"]["instances"] == repeated
    assert record["largest"][0]["bytes"] == max(path.stat().st_size for path in tmp_path.rglob("*.dcm"))


def test_csv_has_a_row_per_kind() -> None:
    done = command.run("scan", "--csv", SAMPLES / "CT_small.dcm", SAMPLES / "MR_small_RLE.dcm")
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert {(row["sop_class"], row["transfer_syntax"], row["instances"]) for row in rows} == {
        ("CT Image Storage", "Explicit VR Little Endian", "1"),
        ("MR Image Storage", "RLE Lossless", "1"),
    }
    assert command.run("scan", "--csv", "--json", SAMPLES / "CT_small.dcm").returncode == 2


# -- asking a peer -----------------------------------------------------------------------------------------------------


async def scanned(scp: StorageSCP, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    address = f"{LOOPBACK}:{scp.port}"
    return await anyio.to_thread.run_sync(lambda: command.run("scan", "--to", address, *arguments))


@on_one_loop
async def test_a_peer_is_asked_and_sent_nothing() -> None:
    async with StorageSCP(transfer_syntaxes=[EXPLICIT_VR_LITTLE_ENDIAN], ae_title="ARCHIVE") as scp:
        names = ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm")
        files = [SAMPLES / name for name in names]
        done = await scanned(scp, "-aec", "ARCHIVE", *files)
        assert (done.returncode, done.stderr) == (0, "")
        assert "accepts 1 of 3 instances as they are, 2 converted (" in done.stdout
        assert "MR Image Storage, RLE Lossless: converted to Explicit VR Little Endian\n" in done.stdout
        done = await scanned(scp, "-aec", "ARCHIVE", "--decompress", "no", *files)
        assert (done.returncode, done.stderr) == (3, "")
        said = f"ARCHIVE@{LOOPBACK}:{scp.port} accepts 1 of 3 instances as they are, 1 converted ("
        assert said in done.stdout
        assert " kB), 1 not at all\n" in done.stdout
        assert "MR Image Storage, RLE Lossless: not accepted\n" in done.stdout
        done = await scanned(scp, "-aec", "ARCHIVE", "--json", SAMPLES / "CT_small.dcm")
        assert (done.returncode, json.loads(done.stdout)["kinds"][0]["acceptance"]) == (0, "unchanged")
        assert (scp.associations, scp.stored) == (3, 0)


@on_one_loop
async def test_a_peer_that_rejects_us_is_code_1_and_the_rest_is_told(tmp_path: Path) -> None:
    async with StorageSCP(ae_title="ARCHIVE") as scp:
        done = await scanned(scp, "--html", tmp_path / "page.html", SAMPLES / "CT_small.dcm")
    assert done.returncode == 1
    assert done.stdout.startswith("1 instance, ")
    assert "We are STORESCU and called ANY-SCP: -aet and -aec set other AE titles" in done.stderr
    assert "could not be asked what it accepts: " in (tmp_path / "page.html").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_ends_the_wait_for_a_peer_that_does_not_answer() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        silent.settimeout(command.FINISH_SECONDS)
        process = command.start("scan", "--to", f"{LOOPBACK}:{silent.getsockname()[1]}", SAMPLES / "CT_small.dcm")
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1) == b"\1"  # of the A-ASSOCIATE-RQ
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=command.FINISH_SECONDS)
    assert (process.returncode, stdout, stderr) == (130, b"", b"")


def test_a_peer_is_not_asked_about_nothing(tmp_path: Path) -> None:
    assert command.run("scan", "--to", f"{LOOPBACK}:{free_port()}", tmp_path).returncode == 5


@pytest.mark.parametrize("address", ["host", "host:", ":104", "host:0", "host:65536", "::1:104", "host:x", "[::1]"])
def test_an_address_without_a_port_is_a_usage_error(address: str) -> None:
    done = command.run("scan", "--to", address, SAMPLES / "CT_small.dcm")
    assert (done.returncode, done.stdout) == (2, "")


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_has_what_the_text_has(tmp_path: Path) -> None:
    archive = tmp_path / "<b>archive&"
    archive.mkdir()
    (archive / "ct.dcm").write_bytes((SAMPLES / "CT_small.dcm").read_bytes())
    (archive / "<script>.txt").write_text("not DICOM, and longer than a preamble " * 10)
    for _ in range(2):  # the second time it is there already, and no part of the input
        done = command.run("scan", archive, "--html", archive / "scan.html")
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 file: not a DICOM file\n" in done.stdout
    text = (archive / "scan.html").read_text()
    assert "CT Image Storage" in text
    assert "&lt;script&gt;.txt" in text
    assert "<script" not in text
    assert "<b>archive" not in text
    assert sorted(path.name for path in archive.iterdir()) == ["<script>.txt", "ct.dcm", "scan.html"]


def test_a_file_that_is_no_page_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.html"
    path.write_text("shopping list")
    done = command.run("scan", SAMPLES / "CT_small.dcm", "--html", path)
    assert done.returncode == 6
    assert done.stderr == (
        f"E: cannot write the page {path}: the file is not an HTML page of an earlier run, and is left as it is\n"
    )
    assert path.read_text() == "shopping list"
    assert command.run("scan", SAMPLES / "CT_small.dcm", "--html", tmp_path / "page.txt").returncode == 2


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
    assert process.wait(60) == 6
    assert stderr == "E: cannot write to stdout: Broken pipe\n"


def test_an_internal_error_is_no_traceback() -> None:
    broken = (
        "import asyncstore.inputs.inventory as i; i.entries_of = None; "
        "import asyncstore.__main__ as m, sys; sys.exit(m.main())"
    )
    words = [command.words()[0], "-c", broken, "scan", "."]
    done = subprocess.run(words, capture_output=True, text=True, env=command.environment(), timeout=120, check=False)
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
