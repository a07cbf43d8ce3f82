"""DICOMDIR: the files that it references, as media name them and as copies of media have them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from asyncstore import Instance, Selection, State, scan
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, MEDIA_STORAGE_DIRECTORY
from tests.support import command
from tests.support.archives import dicom
from tests.support.kept import TEST_FILES
from tests.support.transfers import KeepingSCP, check_account, on_one_loop, outcomes_of, transfer_to, uid_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FileID = str | list[str] | None


def write_dicomdir(folder: Path, file_ids: Sequence[FileID], *, in_use: Sequence[int] = ()) -> Path:
    """A DICOMDIR with a record for each File ID, and one that references no file."""
    records = []
    for at, file_id in enumerate([None, *file_ids]):
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = 0
        record.RecordInUseFlag = in_use[at - 1] if at and in_use else 0xFFFF
        record.DirectoryRecordType = "IMAGE" if file_id else "PATIENT"
        if file_id:
            with pydicom.config.disable_value_validation():
                record.ReferencedFileID = file_id
        records.append(record)
    data_set = Dataset()
    data_set.FileSetID = "CD"
    data_set.DirectoryRecordSequence = records
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(MEDIA_STORAGE_DIRECTORY)
    data_set.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
    data_set.file_meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT_VR_LITTLE_ENDIAN)
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "DICOMDIR"
    with pydicom.config.disable_value_validation():
        data_set.save_as(path, enforce_file_format=True)
    return path


def write(folder: Path, *names: str) -> None:
    for number, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dicom(number))


def found(path: Path, selection: Selection | None = None) -> tuple[list[str], list[tuple[str, str]]]:
    """What is sent and what is a problem, by the path below the folder."""
    sent, problems = [], []
    for each in scan(path, selection=selection):
        name = os.path.relpath(str(each.path), path.parent) if os.path.isabs(str(each.path)) else str(each.path)
        if isinstance(each, ScanProblem):
            problems.append((name, each.detail))
        else:
            sent.append(name)
    return sent, problems


@pytest.mark.parametrize(
    ("on_disk", "named"),
    [
        ("DICOM/IM01", ["DICOM", "IM01"]),
        ("dicom/im01", ["DICOM", "IM01"]),
        ("DICOM/IM01", ["dicom", "im01"]),
        ("DICOM/im01.dcm", ["DICOM", "IM01"]),
        ("DICOM/IM01.DCM", ["DICOM", "IM01"]),
        ("DICOM/IM01.ima", ["DICOM", "IM01"]),
        ("DICOM/IM01", ["DICOM", "IM01.DCM"]),
        ("DICOM/IM01.;1", ["DICOM", "IM01"]),
        ("DICOM/IM01;1", ["DICOM", "IM01"]),
        ("DICOM/IM01.DCM;1", ["DICOM", "IM01.DCM"]),
        ("DICOM/IM01.", ["DICOM", "IM01"]),
        ("DICOM/IM01", "DICOM/IM01"),
        ("IM01", "IM01"),
    ],
)
def test_a_file_is_found_as_copies_of_media_name_it(on_disk: str, named: FileID, tmp_path: Path) -> None:
    write(tmp_path, on_disk)
    assert found(write_dicomdir(tmp_path, [named])) == ([on_disk], [])


def test_the_name_that_fits_best_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "IM1.txt", "im1", "IM1", "IM2.txt", "IM2.dcm", "IM3.txt", "IM3.ima")
    sent, problems = found(write_dicomdir(tmp_path, ["IM1", "IM2", "IM3"]))
    assert sent == ["IM1", "IM2.dcm"]
    assert problems == [("IM3", "the DICOMDIR references it, and it is missing")]  # which of the two is not known


def test_each_missing_file_is_told_with_its_name_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, "A/1", "A/3")
    ids: list[FileID] = [["A", "1"], ["A", "2"], ["B", "1"], ["A", "3"], ["A", "3", "4"]]
    sent, problems = found(write_dicomdir(tmp_path, ids))
    assert sent == ["A/1", "A/3"]
    assert [name for name, _ in problems] == ["A/2", "B/1", "A/3/4"]


@pytest.mark.parametrize(
    "named",
    [["..", "X"], ["A", "..", "..", "X"], "../X", "/etc/hostname", ["", "etc", "hostname"], "C:\\X", ["A", "..", "1"]],
    ids=str,
)
def test_a_name_that_leads_out_is_refused(named: FileID, tmp_path: Path) -> None:
    write(tmp_path, "X", "cd/A/1")
    path = write_dicomdir(tmp_path / "cd", [named, ["A", "1"]])
    problem, instance = scan(path)
    assert instance.path == str(tmp_path / "cd" / "A" / "1")
    assert isinstance(problem, ScanProblem)
    assert problem.detail == "its name leads out of the directory of the DICOMDIR"
    # Not a path that would be sent if what has failed is sent once more.
    assert problem.path.startswith(f"{path}!/")
    assert not os.path.exists(problem.path)


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside/1", "cd/inside/1")
    (tmp_path / "cd" / "OUT").symlink_to(tmp_path / "outside")
    (tmp_path / "cd" / "FILE").symlink_to(tmp_path / "outside" / "1")
    (tmp_path / "cd" / "IN").symlink_to("inside")
    sent, problems = found(write_dicomdir(tmp_path / "cd", [["OUT", "1"], "FILE", ["IN", "1"]]))
    assert sent == ["IN/1"]
    detail = "a link leads out of the directory of the DICOMDIR"
    assert problems == [("OUT/1", detail), ("FILE", detail)]


def test_a_dicomdir_behind_a_link_is_read_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "cd", "A")
    write_dicomdir(tmp_path / "cd", ["A"])
    (tmp_path / "link").symlink_to("cd")
    assert found(tmp_path / "link" / "DICOMDIR") == (["A"], [])


def test_a_file_is_read_once_and_one_that_is_not_in_use_not_at_all(tmp_path: Path) -> None:
    write(tmp_path, "A", "B")
    assert found(write_dicomdir(tmp_path, ["A", "A", "B"], in_use=[0xFFFF, 0xFFFF, 0])) == (["A"], [])


def test_a_referenced_file_that_holds_no_instance_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "A").write_text("hello")
    write_dicomdir(tmp_path / "B", [])
    (each,) = scan(write_dicomdir(tmp_path, ["A"]))
    assert isinstance(each, ScanProblem)
    assert each.reason is ProblemKind.NOT_DICOM


def test_a_selection_applies_to_the_referenced_names(tmp_path: Path) -> None:
    write(tmp_path, "CT/1", "MR/1")
    path = write_dicomdir(tmp_path, [["CT", "1"], ["MR", "1"]])
    assert found(path, Selection(include=("/CT/*",))) == (["CT/1"], [])


def test_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    path = write_dicomdir(tmp_path, ["A"])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x04\x00\x20\x12") + 30])
    for each in scan(path):
        assert isinstance(each, ScanProblem)
        assert "\n" not in each.detail


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-nooffset"])
def test_those_of_pydicom_are_read_in_each_encoding(name: str, tmp_path: Path) -> None:
    shutil.copytree(TEST_FILES / "dicomdirtests", tmp_path / "cd")
    instances = [each for each in scan(tmp_path / "cd" / name) if isinstance(each, Instance)]
    assert len(instances) == len({each.sop_instance_uid for each in instances}) == 31


def test_one_that_is_found_in_a_directory_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "A", "B")
    write_dicomdir(tmp_path, ["A"])
    sent = [Path(str(each.path)).name for each in scan(tmp_path) if isinstance(each, Instance)]
    assert sorted(sent) == ["A", "B"]


@on_one_loop
async def test_a_transfer_sends_what_it_references(tmp_path: Path) -> None:
    write(tmp_path, "A/1", "A/2")
    path = write_dicomdir(tmp_path, [["A", "1"], ["A", "2"], ["A", "3"]])
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [path])
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, [str(tmp_path / "A" / name) for name in "123"])
    assert scp.uids == {uid_of(1): 1, uid_of(2): 1}
    assert transfer.report.states == {State.STORED: 2, State.SOURCE_PROBLEM: 1}


def test_the_command_tells_each_missing_file_and_ends_with_code_3(tmp_path: Path) -> None:
    write(tmp_path, "A/1")
    path = write_dicomdir(tmp_path, [["A", "1"], ["A", "2"]])
    done = command.run("scan", path)
    assert done.returncode == 3
    assert "1 instance," in done.stdout
    assert f"  {tmp_path}/A/2: the DICOMDIR references it, and it is missing" in done.stdout
