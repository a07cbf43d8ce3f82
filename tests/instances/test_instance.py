"""One instance: made from a path, from bytes, from a Dataset, and what it keeps."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from asyncstore.errors import MissingUID, NotDicom, SourceError
from asyncstore.inputs.opening import instance_from, instance_from_bytes
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import BytesSource, HeldSource
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)
from tests.support.files import INSTANCE_UID, bundled, data_set, decode, dicom_file, read_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("form", [os.fspath, os.fsencode, lambda path: path])
def test_from_path(tmp_path: Path, form: Callable[[Path], str]) -> None:
    path = tmp_path / "instance"
    path.write_bytes(dicom_file())
    instance = instance_from(form(path))
    assert instance.path == str(path)
    assert instance.sop_class_uid == CT_IMAGE_STORAGE
    assert instance.sop_instance_uid == INSTANCE_UID
    assert instance.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN
    assert instance.data_set_length == len(data_set())
    assert instance.data_set_offset + instance.data_set_length == instance.size_bytes == path.stat().st_size
    assert instance.mtime_ns == path.stat().st_mtime_ns
    assert instance.study_instance_uid is None


def test_from_path_raises_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        instance_from(tmp_path / "absent")
    with pytest.raises(OSError, match="not a regular file"):
        instance_from(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(NotDicom, match=r"text': there is neither"):
        instance_from(tmp_path / "text")


def test_from_bytes_takes_any_buffer() -> None:
    for data in (dicom_file(), bytearray(dicom_file()), memoryview(dicom_file())):
        instance = instance_from_bytes(data)
        assert isinstance(instance.source, BytesSource)
        assert read_all(instance.source) == data_set()


def test_instances_are_told_apart_by_identity() -> None:
    one, other = instance_from_bytes(dicom_file()), instance_from_bytes(dicom_file())
    assert len({one, other, one}) == 2


def test_a_held_files_bytes_can_be_let_go_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "instance"
    path.write_bytes(dicom_file())
    instance = instance_from(path)
    assert isinstance(instance.source, HeldSource)
    assert instance.source.view() is not None
    instance.let_go()
    assert instance.source.view() is None
    assert instance.source.length_bytes == instance.data_set_length
    for _ in range(2):
        instance.let_go()
        assert read_all(instance.source) == data_set()
        instance.source.close()


def test_what_no_file_holds_is_never_let_go() -> None:
    instance = instance_from_bytes(dicom_file())
    instance.let_go()
    assert read_all(instance.source) == data_set()


def test_a_problem_is_a_value() -> None:
    error = NotDicom("x")
    problem = ScanProblem("p", ProblemKind.NOT_DICOM, "d", error)
    assert problem == ScanProblem("p", ProblemKind.NOT_DICOM, "d", error)
    with pytest.raises(AttributeError):
        problem.detail = "other"  # type: ignore[misc]


def test_scanning_needs_no_pydicom() -> None:
    code = (
        "import sys; from asyncstore.inputs.scan import scan; "
        f"print(len(list(scan([{os.path.dirname(bundled('CT_small.dcm'))!r}]))), 'pydicom' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    count, loaded = answer.stdout.split()
    assert int(count) > 90
    assert loaded == "False"


# from_dataset


def image(transfer_syntax_uid: str | None = None) -> Dataset:
    """A small Dataset made in memory."""
    dataset = Dataset()
    dataset.SOPClassUID = CT_IMAGE_STORAGE
    dataset.SOPInstanceUID = INSTANCE_UID
    dataset.StudyInstanceUID = "1.2.1"
    dataset.SeriesInstanceUID = "1.2.2"
    dataset.PatientName = "Doe^Jane"
    dataset.Rows = dataset.Columns = 2
    dataset.BitsAllocated = 16
    dataset.PixelRepresentation = 0
    dataset.add_new(0x00280106, "US", 1)
    dataset.add_new(0x7FE00010, "OW", b"\1\2\3\4\5\6\7\x08")
    if transfer_syntax_uid:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return dataset


@pytest.mark.parametrize("transfer_syntax_uid", [None, *UNCOMPRESSED_TRANSFER_SYNTAXES])
def test_from_dataset_encodes_as_the_file_meta_says(transfer_syntax_uid: str | None) -> None:
    dataset = image(transfer_syntax_uid)
    instance = instance_from(dataset)
    assert instance.transfer_syntax_uid == (transfer_syntax_uid or EXPLICIT_VR_LITTLE_ENDIAN)
    assert (instance.sop_class_uid, instance.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert (instance.study_instance_uid, instance.series_instance_uid) == ("1.2.1", "1.2.2")
    assert instance.path is None
    assert instance.data_set_length == instance.source.length_bytes
    assert list(decode(instance)) == list(dataset)
    assert bytes(instance.source.view() or b"") == read_all(instance.source)
    # Nothing lies on a disk to read it from again.
    instance.let_go()
    assert list(decode(instance)) == list(dataset)


@pytest.mark.parametrize(
    ("name", "transfer_syntax_uid"),
    [
        ("CT_small.dcm", EXPLICIT_VR_LITTLE_ENDIAN),
        ("MR_small_implicit.dcm", IMPLICIT_VR_LITTLE_ENDIAN),
        ("MR_small_bigendian.dcm", EXPLICIT_VR_BIG_ENDIAN),
        ("image_dfl.dcm", DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
        ("JPEG2000.dcm", "1.2.840.10008.1.2.4.91"),
        ("ExplVR_BigEndNoMeta.dcm", EXPLICIT_VR_BIG_ENDIAN),
        ("rtstruct.dcm", IMPLICIT_VR_LITTLE_ENDIAN),
    ],
)
def test_from_dataset_of_a_file_that_was_read(name: str, transfer_syntax_uid: str) -> None:
    dataset = pydicom.dcmread(bundled(name), force=True)
    instance = instance_from(dataset)
    assert instance.transfer_syntax_uid == transfer_syntax_uid
    again = decode(instance)
    assert again.keys() == {tag for tag in dataset.keys() if tag.element or tag.group <= 2}  # noqa: SIM118
    assert all(again[tag] == dataset[tag] for tag in again.keys())  # noqa: SIM118


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm"])
def test_from_dataset_changes_the_byte_order_of_pixels_too(name: str) -> None:
    dataset = pydicom.dcmread(bundled(name))
    before = dataset.PixelData
    order = dataset.original_encoding[1]
    other = EXPLICIT_VR_BIG_ENDIAN if order else IMPLICIT_VR_LITTLE_ENDIAN
    dataset.file_meta.TransferSyntaxUID = UID(other)
    instance = instance_from(dataset)
    assert instance.transfer_syntax_uid == other
    again = decode(instance)
    assert again.Rows == dataset.Rows
    assert again.PixelData[0::2] == before[1::2]
    assert again.PixelData[1::2] == before[0::2]


def test_from_dataset_leaves_the_dataset_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(bundled("MR_small_implicit.dcm"))
        untouched = pydicom.dcmread(bundled("MR_small_implicit.dcm"))
        dataset.add_new(0x00000100, "US", 1)
        untouched.add_new(0x00000100, "US", 1)
        dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT_VR_LITTLE_ENDIAN)
        instance = instance_from(dataset)
    assert 0x00000100 not in decode(instance)
    assert dataset == untouched
    assert dataset["PixelData"].VR == untouched["PixelData"].VR


@pytest.mark.parametrize(
    ("keyword", "meta_keyword"),
    [("SOPClassUID", "MediaStorageSOPClassUID"), ("SOPInstanceUID", "MediaStorageSOPInstanceUID")],
)
def test_from_dataset_needs_both_uids(keyword: str, meta_keyword: str) -> None:
    dataset = image(EXPLICIT_VR_LITTLE_ENDIAN)
    expected = str(dataset[keyword].value)
    delattr(dataset, keyword)
    with pytest.raises(MissingUID, match=keyword[:3]):
        instance_from(dataset)
    setattr(dataset.file_meta, meta_keyword, expected)
    instance = instance_from(dataset)
    assert expected in (instance.sop_class_uid, instance.sop_instance_uid)


@pytest.mark.parametrize(
    ("tag", "vr", "value"), [(0x00280010, "US", 70000), (0x00091001, "ZZ", b"x"), (0x7FE00010, "OW", "text")]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_that_cannot_be_encoded_is_a_problem_in_one_line(tag: int, vr: str, value: object) -> None:
    dataset = image(EXPLICIT_VR_LITTLE_ENDIAN)
    dataset.add_new(tag, vr, value)
    with pytest.raises(SourceError, match=r"cannot be encoded: .") as caught:
        instance_from(dataset)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transfer_syntax_uid", [None, *UNCOMPRESSED_TRANSFER_SYNTAXES])
def test_compressed_pixels_are_not_sent_as_others(transfer_syntax_uid: str | None) -> None:
    read = pydicom.dcmread(bundled("JPEG2000.dcm"))
    made = image()
    made.PixelData = encapsulate([b"\xff\x4f\xff\xd9"])
    for dataset in (read, made):
        dataset.file_meta = FileMetaDataset()
        if transfer_syntax_uid:
            dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
        with pytest.raises(SourceError, match="compressed, and no Transfer Syntax UID says how"):
            instance_from(dataset)


def test_pixels_that_took_the_place_of_compressed_ones_are_sent() -> None:
    dataset = pydicom.dcmread(bundled("JPEG2000.dcm"))
    dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT_VR_LITTLE_ENDIAN)
    for pixels in (bytes(1024 * 256 * 2), b"\xfe\xff\x00\xe0" * 4):  # the second begins like an item, by chance
        dataset.PixelData = pixels  # pydicom still calls it one of undefined length
        assert decode(instance_from(dataset)).PixelData == pixels


def test_an_empty_data_set_is_not_sent() -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(CT_IMAGE_STORAGE)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    with pytest.raises(SourceError, match="the data set is empty"):
        instance_from(dataset)


def test_a_uid_that_only_the_file_meta_information_has_is_used_and_told() -> None:
    dataset = image(EXPLICIT_VR_LITTLE_ENDIAN)
    del dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    found = instance_from(dataset)
    assert found.sop_instance_uid == "1.2.3"
    assert found.meta_difference == "the data set has no SOP Instance UID, the File Meta Information has 1.2.3"
    # A program that gives a Dataset another UID need not change its File Meta Information.
    dataset.SOPInstanceUID = UID("1.2.4")
    assert instance_from(dataset).meta_difference is None


ODD_UIDS = ["1.2.840." + "1" * 121, "1.2.\u00e9", "1.2\n3", "1.2\\3", "1.2 3"]


@pytest.mark.parametrize("uid", ODD_UIDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_uid_that_no_message_has_room_for_is_a_problem_in_one_line(uid: str) -> None:
    images = [image(), image(), image(EXPLICIT_VR_LITTLE_ENDIAN)]
    images[0].SOPClassUID = uid
    images[1].SOPInstanceUID = uid
    images[2].file_meta.TransferSyntaxUID = UID(uid)
    del images[2].PixelData
    for each, name in zip(images, ("SOP Class", "SOP Instance", "Transfer Syntax"), strict=True):
        with pytest.raises(MissingUID, match=rf"the {name} UID .* is not 1 to \d+ visible ASCII characters") as raised:
            instance_from(each)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("uid", ["", *ODD_UIDS])
def test_bytes_of_a_transfer_syntax_that_cannot_be_named_are_a_problem(uid: str) -> None:
    with pytest.raises(MissingUID, match="the Transfer Syntax UID"):
        instance_from_bytes(data_set(), transfer_syntax_uid=uid)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_padding_of_a_uid_is_no_part_of_it() -> None:
    padded = image()
    padded.SOPInstanceUID = UID("1.2.3\0")
    assert instance_from(padded).sop_instance_uid == "1.2.3"


def test_what_is_no_dataset_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="nor a Dataset: 5"):
        instance_from(5)  # type: ignore[arg-type]
