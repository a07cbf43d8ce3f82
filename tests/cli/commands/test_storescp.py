"""The real `asyncstore storescp`, with storescu and echoscu of DCMTK as its clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from tests.support import command
from tests.support.files import data_set, dicom_file, file_meta
from tests.support.peers import LOOPBACK, require

if TYPE_CHECKING:
    from collections.abc import Iterator

CT = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


@contextlib.contextmanager
def listening(*options: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running storescp, and the port that it listens on."""
    process = command.start("storescp", 0, "-v", "-ba", LOOPBACK, *options)
    assert process.stderr is not None
    try:
        port = re.match(rb"I: Listening on 127\.0\.0\.1 port (\d+) as ", process.stderr.readline())
        assert port is not None
        yield process, int(port[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_it_says_that_it_listens_and_what_it_got() -> None:
    import pty

    ours, theirs = pty.openpty()
    words = command.words("storescp", 0, "-ba", LOOPBACK, "--ignore")
    with subprocess.Popen(words, stderr=theirs, stdin=subprocess.DEVNULL, env=command.environment()) as process:
        os.close(theirs)
        try:
            assert re.match(rb"I: Listening on 127\.0\.0\.1 port \d+ as ", os.read(ours, 200))
            process.send_signal(signal.SIGINT)
            assert os.read(ours, 200) == b"I: 0 instances received on 0 associations\r\n"
        finally:
            process.kill()
            os.close(ours)


def dcmtk(program: str, *arguments: str | Path | int) -> int:
    """Run a program of DCMTK; gives its exit code."""
    words = [require(program, "dcmtk"), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, timeout=30, check=False).returncode


def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, list[str]]:
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr.decode().splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_received_is_kept_and_told(tmp_path: Path, number: signal.Signals) -> None:
    with listening("-od", tmp_path) as (process, port):
        assert dcmtk("storescu", "-aet", "CLIENT", LOOPBACK, port, CT) == 0
        code, lines = ended(process, number)
    kept = tmp_path / f"{CT_UID}.dcm"
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(CT).PixelData
    assert code == 0
    assert lines[0] == (
        f"I: Received CT Image Storage {CT_UID} from CLIENT (Explicit VR Little Endian, 38.7 kB): {kept}"
    )
    assert lines[-1] == "I: 1 instance received on 1 association"


def test_the_directory_is_made_and_told(tmp_path: Path) -> None:
    new = tmp_path / "some" / "in"
    process = command.start("storescp", 0, "-v", "-ba", LOOPBACK, "-od", new)
    assert process.stderr is not None
    try:
        assert process.stderr.readline().decode() == f"I: Created the directory {new}\n"
        port = int(process.stderr.readline().split()[5])
        assert dcmtk("storescu", LOOPBACK, port, CT) == 0
    finally:
        code, _ = ended(process, signal.SIGINT)
    assert code == 0
    assert [path.name for path in new.iterdir()] == [f"{CT_UID}.dcm"]


def test_another_data_set_in_the_place_of_one_is_told_and_counted(tmp_path: Path) -> None:
    with listening("-od", tmp_path) as (process, port):
        for option in ("-xe", "-xe", "-xi"):
            assert dcmtk("storescu", option, LOOPBACK, port, CT) == 0
        code, lines = ended(process, signal.SIGINT)
    assert code == 0
    (warning,) = (line for line in lines if line.startswith("W:"))
    assert f"{CT_UID}.dcm': another data set, of " in warning
    assert lines[-1] == "I: 3 instances received on 3 associations, 1 in place of another data set"


def test_private_classes_are_accepted_on_demand(tmp_path: Path) -> None:
    private = tmp_path / "private.dcm"
    class_uid = b"1.3.6.1.4.1.5962.99.1"
    private.write_bytes(dicom_file(meta=file_meta(sop_class_uid=class_uid.decode()), body=data_set(class_uid.decode())))
    for options, code in (([], 3), (["--any-class"], 0)):
        with listening("--ignore", *options) as (_, port):
            assert command.run("storescu", LOOPBACK, port, private).returncode == code


def test_ignore_keeps_nothing(tmp_path: Path) -> None:
    process = command.start("storescp", 0, "-v", "-ba", LOOPBACK, "--ignore", directory=tmp_path)
    assert process.stderr is not None
    port = int(process.stderr.readline().split()[5])
    try:
        assert dcmtk("storescu", LOOPBACK, port, CT) == 0
    finally:
        code, _ = ended(process, signal.SIGINT)
    assert code == 0
    assert list(tmp_path.iterdir()) == []


def test_it_answers_an_echo() -> None:
    with listening("--ignore") as (_, port):
        assert dcmtk("echoscu", LOOPBACK, port) == 0


@pytest.mark.parametrize(("called", "calling", "code"), [("MINE", "GOOD", 0), ("OTHER", "GOOD", 1), ("MINE", "BAD", 1)])
def test_ae_titles_can_be_limited(called: str, calling: str, code: int) -> None:
    with listening("--ignore", "--accept", "MINE", "--accept-calling", "GOOD") as (_, port):
        assert dcmtk("echoscu", "-aec", called, "-aet", calling, LOOPBACK, port) == code


@pytest.mark.parametrize(("called", "code"), [("MINE", 0), ("OTHER", 1)])
def test_who_has_a_name_is_called_by_it(called: str, code: int) -> None:
    with listening("--ignore", "-aet", "MINE") as (_, port):
        assert dcmtk("echoscu", "-aec", called, LOOPBACK, port) == code


def test_a_port_that_is_taken_is_one_line_and_code_1() -> None:
    with listening("--ignore") as (_, port):
        done = command.run("storescp", port, "-ba", LOOPBACK, "--ignore")
    assert done.returncode == 1
    assert re.fullmatch(rf"E: Cannot listen on 127\.0\.0\.1 port {port}: Address already in use.*\n", done.stderr)
