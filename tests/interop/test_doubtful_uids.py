"""SOP Instance UIDs that PS3.5 9.1 does not allow: DCMTK and Orthanc take them, if the request names 64 characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.files import data_set, dicom_file, element, file_meta
from tests.support.kept import kept_by, storescu

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.peers import RunningOrthanc, RunningPeer

UIDS = ("1.2." + "8" * 64, "1.02.3", "1.2.A-b")
IDENTITY = (
    element(0x00100020, b"LO", b"ID01")
    + element(0x0020000D, b"UI", b"1.2.3\0")
    + element(0x0020000E, b"UI", b"1.2.3.4\0")
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A file for each of the UIDs."""
    for number, uid in enumerate(UIDS):
        body = data_set(sop_instance_uid=uid, more=IDENTITY)
        (tmp_path / f"{number}.dcm").write_bytes(dicom_file(meta=file_meta(sop_instance_uid=uid), body=body))
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_storescp_keeps_them_and_each_has_a_note(storescp: RunningPeer, directory: Path) -> None:
    run = storescu(storescp, directory)
    assert (run.code, run.stderr) == (0, "")
    assert sorted(str(each.decode().SOPInstanceUID) for each in kept_by(storescp)) == sorted(UIDS)
    assert all(record["note"].endswith(f"{record['sop_instance_uid']}, which is used") for record in run.records)


def test_orthanc_keeps_them_under_their_own_uids(orthanc: RunningOrthanc, directory: Path) -> None:
    run = storescu(orthanc, directory)
    assert (run.code, run.stderr) == (0, "")
    assert sorted(orthanc.sop_instance_uids()) == sorted(UIDS)


def test_strict_about_the_source_none_is_sent(storescp: RunningPeer, directory: Path) -> None:
    run = storescu(storescp, directory, "--strict-source")
    assert run.code == 3
    assert run.names("source-problem") == {"0.dcm", "1.dcm", "2.dcm"}
    assert run.stderr.count("E: Store failed: ") == run.stderr.count("E: Reason: the SOP Instance UID ") == 3
    assert kept_by(storescp) == []
