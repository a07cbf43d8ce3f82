"""The options that change attributes: what they ask for, what is refused before the run, and a whole run with them."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from asyncstore.cli.exit_codes import ExitCode
from tests.cli.commands.test_storescp import listening
from tests.support import peers
from tests.support.command import run
from tests.support.kept import TEST_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CT = TEST_FILES / "CT_small.dcm"
KEY = b"a key of the test, not secret"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "PatientID"], "--set: 'PatientID' is not TAG=VALUE"),
        (["--set", "PatientId=1"], "--set: 'PatientId' is not the keyword of an attribute"),
        (["--set", "StudyInstanceUID=1.2"], "--set: StudyInstanceUID is a UID: UIDs are only changed all together"),
        (["--set", "PatientBirthDate=31.2.1970"], "--set: PatientBirthDate: '31.2.1970' has 9 characters"),
        (["--erase", "PixelData"], "--erase: PixelData is not before the pixel data"),
        (["--map", "missing.csv"], "--map: cannot read 'missing.csv': No such file or directory"),
        (["--map", "bad.csv"], "--map: bad.csv: line 3: its old value is that of line 2"),
        (["--rules", "bad.toml"], "--rules: bad.toml: rule 1: 'sets' is not known"),
        (["--new-uids", "short.key"], "--new-uids: short.key: the key has 3 bytes"),
        (["--set", "PatientID=1", "--erase", "PatientID"], "PatientID is set, and PatientID is erased: leave out one"),
        (["--erase", "(0040,*)", "--set", "RequestAttributesSequence[0].StudyID=1"], "is set, and (0040,*) is erased"),
        (["--no-original-attributes"], "--no-original-attributes: no attribute is changed"),
        (["--modification-reason", "correct"], "--modification-reason: no attribute is changed"),
    ],
)
def test_a_mistake_is_told_before_the_run(tmp_path: Path, options: list[str], message: str) -> None:
    write(tmp_path / "bad.csv", "PatientID,PatientID\n1,2\n1,3\n")
    write(tmp_path / "bad.toml", "[[rule]]\nsets = { PatientID = '1' }")
    write(tmp_path / "short.key", "abc")
    done = run("storescu", "127.0.0.1", "9", CT, *options, directory=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[peers.RunningPeer]:
    """DCMTK's storescp, which keeps what it gets byte for byte."""
    (tmp_path / "out").mkdir()
    with peers.dcmtk_storescp(tmp_path / "out") as scp:
        yield scp


def test_a_run_with_all_of_them(tmp_path: Path, receiver: peers.RunningPeer) -> None:
    write(tmp_path / "map.csv", "PatientID,PatientID,IssuerOfPatientID\n1CT1,N-1,NORTH\n")
    write(tmp_path / "rules.toml", '[[rule]]\nwhen = { Modality = "CT" }\nset = { InstitutionName = "North" }\n')
    write(tmp_path / "key", KEY)
    words = ("--map", "map.csv", "--rules", "rules.toml", "--set", "StudyID=7", "--erase", "private")
    more = (
        "--new-uids",
        "key",
        "--modification-reason",
        "correct",
        "--report",
        "report.csv",
        "--ledger",
        "run.db",
        "-cx",
    )
    files = (CT, TEST_FILES / "MR_small.dcm")
    done = run("storescu", *words, *more, "127.0.0.1", receiver.port, *files, directory=tmp_path)
    assert done.returncode == ExitCode.SOME_FAILED, done.stderr
    (kept,) = receiver.received_files()
    before, after = dcmread(CT), dcmread(kept)
    assert (after.PatientID, after.IssuerOfPatientID) == ("N-1", "NORTH")
    assert (after.InstitutionName, after.StudyID) == ("North", "7")
    assert not any(element.tag.is_private for element in after)
    assert after.PixelData == before.PixelData
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID != before.SOPInstanceUID
    (original,) = after.OriginalAttributesSequence
    assert original.ReasonForTheAttributeModification == "CORRECT"
    assert original.ModifiedAttributesSequence[0].PatientID == "1CT1"
    rows = {row["state"]: row for row in csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text()))}
    assert rows["stored"]["sent_sop_instance_uid"] == after.SOPInstanceUID
    assert rows["stored"]["sop_instance_uid"] == before.SOPInstanceUID
    assert "PatientID set from the map; " in rows["stored"]["changes"]
    assert rows["source-problem"]["reason"] == "its PatientID is not in the map"
    told = run("report", "run.db", directory=tmp_path).stdout
    assert re.search(r"Changed on the way\n( +1 +.+\n)+", told)
    assert "UIDs replaced" in told
    for again, differ in (
        ((*words, "--set", "StudyID=8", "--no-original-attributes", *more[:2]), "--no-original-attributes, --set"),
        (words, "--new-uids"),
        ((), "--erase, --map, --new-uids, --rules, --set"),
    ):
        other = run("storescu", *again, "--ledger", "run.db", "127.0.0.1", receiver.port, CT, directory=tmp_path)
        assert other.returncode == ExitCode.CANNOT_RECORD
        assert f"sent under other rules for their attributes ({differ}): use another one" in other.stderr


def test_a_peer_that_keeps_what_it_had_may_lack_the_changes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(TEST_FILES / name, tmp_path / "in")
    (tmp_path / "out").mkdir()
    with listening("--on-existing", "keep", "-od", tmp_path / "out") as (_, port):
        words = ("storescu", "--summary", "127.0.0.1", port, tmp_path / "in")
        assert run(*words).returncode == ExitCode.STORED
        done = run(*words, "--set", "PatientID=NEW", "-ll", "warn")
    lacks = "the peer keeps the data set that it had, which may lack the changes"
    assert f"CT_small.dcm: {lacks}\n" in done.stderr
    assert f"E: 2 instances sent with changes, and there already: {lacks}\n" in done.stderr
    assert "2  duplicate\n" in done.stderr
    assert f"2 Duplicate SOP instance (0x0111): {lacks}" in " ".join(done.stderr.split())
    assert done.returncode == ExitCode.STORED


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="DCMTK is not installed")
def test_dcmtk_sees_no_other_difference(tmp_path: Path, receiver: peers.RunningPeer) -> None:
    words = ("--set", "PatientID=NEW", "--no-original-attributes")
    done = run("storescu", *words, "127.0.0.1", receiver.port, CT, directory=tmp_path)
    assert done.returncode == ExitCode.STORED, done.stderr
    (kept,) = receiver.received_files()

    def dumped(path: Path) -> list[str]:
        done = subprocess.run(["dcmdump", "-q", "+L", "+R", "4096", str(path)], capture_output=True, check=True)
        return [line for line in done.stdout.decode("latin-1").splitlines() if re.match(r" *\((?!0002)", line)]

    before, after = dumped(CT), dumped(kept)
    assert len(before) == len(after) > 100
    assert [one for one, other in zip(before, after, strict=True) if one != other] == [
        one for one in before if one.startswith("(0010,0020)")
    ]


def test_a_dry_run_says_what_would_be_changed_and_what_not_be_sent(tmp_path: Path) -> None:
    write(tmp_path / "map.csv", "PatientID,PatientID\n1CT1,N-1\n")
    files = (CT, TEST_FILES / "MR_small.dcm")
    options = ("--dry-run", "--map", "map.csv", "--erase", "PatientSex")
    done = run("storescu", *options, "127.0.0.1", peers.free_port(), *files, directory=tmp_path)
    assert "Changed on the way\n  1  PatientID set from the map\n  1  PatientSex erased\n" in done.stdout
    assert "Not sent\n  1  its PatientID is not in the map\n" in done.stdout
