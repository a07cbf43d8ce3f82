"""The real `asyncstore storescp`, with storescu and echoscu of DCMTK as its clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from asyncstore.upper_layer.pdu import Abort
from tests.support import command
from tests.support.files import data_set, dicom_file, file_meta
from tests.support.peers import LOOPBACK, require
from tests.support.wire import Wire

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
    return subprocess.run(words, capture_output=True, timeout=120, check=False).returncode


def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, list[str]]:
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
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


@pytest.mark.parametrize(
    ("options", "codes", "summary"),
    [
        ((), [0, 0, 0], "3 instances received on 3 associations, 1 the same again, 1 kept beside another data set"),
        (
            ("--on-existing", "replace"),
            [0, 0, 0],
            "3 instances received on 3 associations, 1 the same again, 1 in place of another data set",
        ),
        (
            ("--on-existing", "keep"),
            [0, 0, 3],
            "2 instances received on 3 associations, 1 refused, 1 the same again",
        ),
    ],
    ids=["rename", "replace", "keep"],
)
def test_what_is_sent_again_is_told_and_counted(
    options: tuple[str, ...], codes: list[int], summary: str, tmp_path: Path
) -> None:
    with listening("-od", tmp_path, *options) as (process, port):
        sent = [
            command.run("storescu", "--on-duplicate", "failed", x, LOOPBACK, port, CT) for x in ("-xe", "-xe", "-xi")
        ]
        code, lines = ended(process, signal.SIGINT)
    assert [each.returncode for each in sent] == codes
    assert code == 0
    assert lines[-1] == f"I: {summary}"
    (told,) = (line for line in lines if line.startswith(("W:", "E:")))
    assert CT_UID in told
    assert "another data set " in told
    assert len(list(tmp_path.iterdir())) == (1 if options else 2)


def test_the_disk_that_it_may_use_has_a_limit(tmp_path: Path) -> None:
    with listening("-od", tmp_path, "--max-disk", "30k") as (process, port):
        done = command.run("storescu", "--retries", "0", LOOPBACK, port, CT)
        code, lines = ended(process, signal.SIGINT)
    assert (done.returncode, code) == (3, 0)
    assert "A700" in done.stderr
    assert [line for line in lines if line.startswith("W:")] == [
        f"W: instances are refused: 0 bytes are kept in '{tmp_path}', and no more than 30,720 may be"
    ]
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    with socket.create_connection((LOOPBACK, port)) as sock:
        yield Wire(sock, 10, threading.Event())


def test_associations_can_be_limited() -> None:
    with listening("--ignore", "--max-associations", "1") as (process, port), wire_to(port) as wire:
        wire.associate()
        done = command.run("echoscu", LOOPBACK, port)
        code, lines = ended(process, signal.SIGINT)
    assert (done.returncode, code) == (1, 0)
    assert "Result: Rejected Transient, Source: Service Provider (Presentation)" in done.stderr
    assert "Local limit exceeded" in done.stderr
    assert [line for line in lines if line.startswith("W:")] == [
        "W: an association is refused: 1 are open, the most that may be"
    ]


@pytest.mark.parametrize("option", ["--idle-timeout", "--max-association-time"])
def test_associations_can_be_limited_in_time(option: str) -> None:
    with listening("--ignore", option, "0.2") as (process, port), wire_to(port) as wire:
        wire.associate()
        wire.expect(Abort)
        wire.expect_closed()
        code, lines = ended(process, signal.SIGINT)
    assert code == 0
    assert any("0.2 s" in line for line in lines)


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
    assert re.fullmatch(rf"E: Cannot listen on 127\.0\.0\.1 port {port}: Address already in use\n", done.stderr)
