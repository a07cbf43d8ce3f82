"""The study of an instance, found without decoding the data set."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pydicom
import pytest

from asyncstore.errors import SourceError
from asyncstore.inputs.opening import instance_from, instance_from_bytes
from asyncstore.instances.study import LOOKED_AT_BYTES, keys_of, patient_and_study_of, study_of
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.instance import Instance


def instance(*more: bytes) -> Instance:
    """An instance in memory, with these elements behind its SOP Instance UID and the patient's name."""
    return instance_from_bytes(files.data_set(more=b"".join(more)), transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN)


STUDY = files.element(0x0020000D, b"UI", files.uid("1.2.3.4"))
PIXELS = files.element(0x7FE00010, b"OW", bytes(300_000))


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "MR_small_implicit.dcm", "rtplan.dcm"],
)
def test_it_is_the_one_that_pydicom_reads(name: str) -> None:
    path = files.bundled(name)
    assert study_of(instance_from(path)) == pydicom.dcmread(path).StudyInstanceUID


@pytest.mark.parametrize(
    ("more", "study"),
    [
        ((STUDY, PIXELS), "1.2.3.4"),
        ((STUDY,), "1.2.3.4"),
        ((PIXELS,), None),
        ((), None),
        ((files.element(0x0020000D, b"UI", b""), PIXELS), None),
        ((files.element(0x00190010, b"OB", bytes(LOOKED_AT_BYTES)), STUDY), None),
        ((b"\x18\x00\x10\x00",), None),
    ],
    ids=["among others", "last", "none", "ends before", "empty", "too far in", "cut short"],
)
def test_it_is_looked_for_where_it_should_be_and_no_further(more: tuple[bytes, ...], study: str | None) -> None:
    assert study_of(instance(*more)) == study


@pytest.mark.parametrize("name", ["CT_small.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"])
def test_study_and_series_are_found_at_once(name: str) -> None:
    path = files.bundled(name)
    data_set = pydicom.dcmread(path)
    assert keys_of(instance_from(path)) == (data_set.StudyInstanceUID, data_set.SeriesInstanceUID)


def test_a_study_is_found_without_a_series() -> None:
    assert keys_of(instance(STUDY, PIXELS)) == ("1.2.3.4", None)
    assert keys_of(instance(PIXELS)) == (None, None)


def test_a_file_that_went_away_has_none(tmp_path: Path) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(files.dicom_file(body=files.data_set(more=STUDY + PIXELS)))
    found = instance_from(path)
    assert study_of(found) == "1.2.3.4"
    path.unlink()
    assert study_of(found) is None


@pytest.mark.parametrize("path", files.BUNDLED, ids=lambda path: path.name)
def test_patient_and_study_are_those_that_pydicom_reads(path: Path) -> None:
    try:
        found = instance_from(path)
    except (SourceError, OSError):
        pytest.skip("not an instance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = files.decode(found)
        expected = [data_set.get_item(tag) for tag in (0x00100020, 0x0020000D)]
    values = [b"" if each is None or each.value is None else each.value for each in expected]
    values = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    assert list(patient_and_study_of(found)) == [value.strip(b"\0 ") for value in values]


@pytest.mark.parametrize("private_bytes", [0, 7000, 9000, 60_000])
def test_in_a_large_file_more_is_read_only_if_it_is_needed(private_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "1.dcm"
    private = files.element(0x00190010, b"OB", bytes(private_bytes))
    patient = files.element(0x00100020, b"LO", b"P 1 ")
    path.write_bytes(files.dicom_file(body=files.data_set(more=patient + private + STUDY + PIXELS)))
    assert list(patient_and_study_of(instance_from(path))) == [b"P 1", b"1.2.3.4"]
