"""Data sets of odd length, over which DCMTK aborts: they arrive with a padding byte."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests.support.files import bare, dicom_file, element, file_meta
from tests.support.kept import Kept, kept_by, storescu

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.peers import RunningOrthanc, RunningPeer

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
JPEG: Final = "1.2.840.10008.1.2.4.50"
IMAGE: Final = (
    (0x00280002, b"US", b"\1\0"),
    (0x00280004, b"CS", b"MONOCHROME2 "),
    (0x00280010, b"US", b"\3\0"),
    (0x00280011, b"US", b"\5\0"),
    (0x00280100, b"US", b"\x08\0"),
    (0x00280101, b"US", b"\x08\0"),
    (0x00280102, b"US", b"\x07\0"),
    (0x00280103, b"US", b"\0\0"),
)
PIXELS: Final = bytes(range(1, 16))
FRAME: Final = b"\xff\xd8" + bytes(11) + b"\xff\xd9"


def image(number: int, transfer_syntax_uid: str, pixels: bytes, *, description: bytes = b"Abdomen ") -> bytes:
    """A file of an image of 5 x 3 pixels; `pixels` is the whole last element."""
    uid = f"1.2.826.0.1.3680043.10.3.{number}"
    identity = (
        (0x00080016, b"UI", SECONDARY_CAPTURE.encode() + b"\0"),
        (0x00080018, b"UI", uid.encode() + b"\0" * (len(uid) % 2)),
        (0x00081030, b"LO", description),
        (0x00100010, b"PN", b"Doe^Jane"),
        (0x00100020, b"LO", b"ID01"),
        (0x0020000D, b"UI", b"1.2.826.0.1.3680043.10.3"),
        (0x0020000E, b"UI", b"1.2.826.0.1.3680043.10.3.0"),
    )
    is_implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    body = b"".join(bare(tag, v) if is_implicit else element(tag, vr, v) for tag, vr, v in (*identity, *IMAGE))
    return dicom_file(meta=file_meta(transfer_syntax_uid, SECONDARY_CAPTURE, uid), body=body + pixels)


def write_images(directory: Path) -> int:
    """Four files with odd data sets, each for another reason, and four even ones; returns how many."""
    directory.mkdir()
    explicit, implicit = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
    fragment = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(FRAME)) + FRAME
    encapsulated = element(0x7FE00010, b"OB", b"")[:-4] + bytes.fromhex("fffffffffeff00e000000000") + fragment
    encapsulated += bytes.fromhex("feffdde000000000")
    even = element(0x7FE00010, b"OB", PIXELS + b"\0")
    images = [
        image(1, explicit, element(0x7FE00010, b"OB", PIXELS)),
        image(2, implicit, bare(0x7FE00010, PIXELS)),
        image(3, explicit, even, description=b"Abdomen"),
        image(4, JPEG, encapsulated),
        *(image(number, explicit, even) for number in range(5, 9)),
    ]
    for number, data in enumerate(images, 1):
        assert len(Kept("", data).data_set) % 2 == (number <= 4)
        (directory / f"{number}.dcm").write_bytes(data)
    return len(images)


def assert_arrived_whole(kept: list[Kept]) -> None:
    for each in kept:
        data_set = each.decode()
        assert data_set.StudyDescription == "Abdomen"
        is_jpeg = data_set.file_meta.TransferSyntaxUID == JPEG
        assert (FRAME if is_jpeg else PIXELS) + b"\0" in data_set.PixelData
        assert len(each.data_set) % 2 == 0


@pytest.mark.parametrize("options", [[], ["-j", "4", "-w", "4"], ["-xi"]], ids=" ".join)
def test_storescp_keeps_odd_and_even_ones(storescp: RunningPeer, tmp_path: Path, options: list[str]) -> None:
    count = write_images(tmp_path / "in")
    if "-xi" in options:
        (tmp_path / "in" / "4.dcm").unlink()  # compressed: it cannot be converted
        count -= 1
    run = storescu(storescp, tmp_path / "in", *options)
    assert (run.code, run.stderr) == (0, "")
    padded = {record["path"].rpartition("/")[2] for record in run.records if "padding byte" in record["note"]}
    assert padded == {"1.dcm", "2.dcm", "3.dcm", "4.dcm"} - ({"4.dcm"} if "-xi" in options else set())
    kept = kept_by(storescp)
    assert len(kept) == count
    assert_arrived_whole(kept)


def test_orthanc_keeps_odd_and_even_ones(orthanc: RunningOrthanc, tmp_path: Path) -> None:
    count = write_images(tmp_path / "in")
    run = storescu(orthanc, tmp_path / "in")
    assert (run.code, run.stderr) == (0, "")
    kept = [Kept(uid, orthanc.instance_file(uid)) for uid in orthanc.sop_instance_uids()]
    assert len(kept) == count
    assert_arrived_whole(kept)
