"""Who is in a file: the same answer as pydicom's for files of every kind, and a plain reason for everything else."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import tracemalloc
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncstore.errors import MissingUID, NotDicom, SourceChanged
from asyncstore.inputs.opening import instance_from, instance_from_bytes
from asyncstore.instances import head as file_meta
from asyncstore.instances import source
from asyncstore.instances.head import HEAD_BYTES, SMALL_FILE_BYTES, read_head
from asyncstore.instances.identity import HEAD_LIMIT_BYTES, Identity, identify
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import FileSource, HeldSource
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MEDIA_STORAGE_DIRECTORY,
    MR_IMAGE_STORAGE,
)
from tests.support.files import (
    BUNDLED,
    INSTANCE_UID,
    bare,
    bundled,
    data_set,
    dicom_file,
    element,
    read_all,
    uid,
)
from tests.support.files import (
    file_meta as meta_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

JPEG = "1.2.840.10008.1.2.4.50"


def instance_in(path: Path, data: bytes) -> Instance:
    path.write_bytes(data)
    found = read_head(str(path))
    assert isinstance(found, Instance), found
    return found


def problem_in(path: Path, data: bytes) -> ScanProblem:
    path.write_bytes(data)
    found = read_head(str(path))
    assert isinstance(found, ScanProblem), found
    assert found.path == str(path)
    assert "\n" not in found.detail
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instance"


# pydicom's files

REFUSED = {
    "DICOMDIR": ProblemKind.DICOMDIR,
    "meta_missing_tsyntax.dcm": ProblemKind.MISSING_UID,
    "nested_priv_SQ.dcm": ProblemKind.MISSING_UID,
    "empty_charset_LEI.dcm": ProblemKind.MISSING_UID,
    "no_meta.dcm": ProblemKind.NOT_DICOM,
}


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_every_bundled_file_is_what_pydicom_finds_or_a_problem(path: Path) -> None:
    found = read_head(str(path))
    if isinstance(found, ScanProblem):
        expected = REFUSED.get(path.name.split("-")[0], ProblemKind.NOT_DICOM)
        assert found.reason is expected
        # What is no DICOM file by its name alone is none by its content.
        assert (
            path.name in REFUSED or "DICOMDIR" in path.name or path.suffix not in {"", ".dcm"} or path.name == "README"
        )
        return
    assert found is not None
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pydicom.filereader.read_preamble(file, force=True)
            meta = pydicom.filereader._read_file_meta_info(file)
            offset = file.tell()
            content = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        finally:
            file.seek(0)
        whole = file.read()
    assert found.sop_class_uid == content.get("SOPClassUID", meta.get("MediaStorageSOPClassUID"))
    assert found.sop_instance_uid == content.get("SOPInstanceUID", meta.get("MediaStorageSOPInstanceUID"))
    implicit, little = content.original_encoding
    guess = IMPLICIT_VR_LITTLE_ENDIAN if implicit else EXPLICIT_VR_LITTLE_ENDIAN if little else EXPLICIT_VR_BIG_ENDIAN
    assert found.transfer_syntax_uid == meta.get("TransferSyntaxUID", guess)
    assert found.data_set_offset == offset
    padding = found.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN and len(whole[offset:]) % 2
    assert read_all(found.source) == whole[offset:] + bytes(padding)
    assert found.size_bytes == len(whole)
    assert found.mtime_ns == path.stat().st_mtime_ns
    found.source.close()


def test_ordinary_files_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[str] = []

    def noted(*args: Any, **options: Any) -> Identity:
        slow.append(name)
        return identify(*args, **options)

    monkeypatch.setattr(file_meta, "identify", noted)
    for name in ("CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "image_dfl.dcm"):
        assert isinstance(read_head(str(bundled(name))), Instance)
    assert slow == ["image_dfl.dcm"]


# Files that are unusual but whole


def test_a_plain_file(path: Path) -> None:
    found = instance_in(path, dicom_file())
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert found.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN
    assert found.path == str(path)
    assert read_all(found.source) == data_set()
    assert found.meta_difference is None


def implicit_data_set() -> bytes:
    return bare(0x00080016, uid(CT_IMAGE_STORAGE)) + bare(0x00080018, uid(INSTANCE_UID)) + bare(0x00100010, b"Doe^Jane")


def big_endian_data_set() -> bytes:
    return b"".join(
        struct.pack(">HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(uid(text))) + uid(text)
        for tag, text in ((0x00080016, CT_IMAGE_STORAGE), (0x00080018, INSTANCE_UID))
    )


def big_endian_meta(transfer_syntax_uid: str = EXPLICIT_VR_BIG_ENDIAN) -> bytes:
    """Group 0002 as the standard does not have it."""
    uids = ((2, CT_IMAGE_STORAGE), (3, INSTANCE_UID), (0x10, transfer_syntax_uid))
    group = b"".join(struct.pack(">HH2sH", 2, tag, b"UI", len(uid(text))) + uid(text) for tag, text in uids)
    return struct.pack(">HH2sHI", 2, 0, b"UL", 4, len(group)) + group


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


UNDEFINED_SEQUENCE = (
    element(0x00080006, b"SQ", b"")[:-4]
    + b"\xff\xff\xff\xff"
    + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    + element(0x00080018, b"UI", b"9.9.9\0")
    + element(0x00080110, b"UN", b"")[:-4]
    + b"\xff\xff\xff\xff"
    + b"\xfe\xff\x00\xe0\x0e\0\0\0"
    + bare(0x00080018, b"8.8.8\0")
    + b"\xfe\xff\xdd\xe0\0\0\0\0"
    + b"\xfe\xff\x0d\xe0\0\0\0\0"
    + b"\xfe\xff\xdd\xe0\0\0\0\0"
)

WHOLE: dict[str, tuple[bytes, str, bytes]] = {
    "no preamble": (meta_of() + data_set(), EXPLICIT_VR_LITTLE_ENDIAN, data_set()),
    "no File Meta Information": (bytes(128) + b"DICM" + data_set(), EXPLICIT_VR_LITTLE_ENDIAN, data_set()),
    "neither": (data_set(), EXPLICIT_VR_LITTLE_ENDIAN, data_set()),
    "neither, implicit": (implicit_data_set(), IMPLICIT_VR_LITTLE_ENDIAN, implicit_data_set()),
    "neither, big endian": (big_endian_data_set(), EXPLICIT_VR_BIG_ENDIAN, big_endian_data_set()),
    "implicit": (
        dicom_file(meta=meta_of(IMPLICIT_VR_LITTLE_ENDIAN), body=implicit_data_set()),
        IMPLICIT_VR_LITTLE_ENDIAN,
        implicit_data_set(),
    ),
    "big endian": (
        dicom_file(meta=meta_of(EXPLICIT_VR_BIG_ENDIAN), body=big_endian_data_set()),
        EXPLICIT_VR_BIG_ENDIAN,
        big_endian_data_set(),
    ),
    "no group length": (dicom_file(meta=meta_of()[12:]), EXPLICIT_VR_LITTLE_ENDIAN, data_set()),
    "a group length too small": (
        dicom_file(meta=meta_of()[:8] + b"\x0c\0\0\0" + meta_of()[12:]),
        EXPLICIT_VR_LITTLE_ENDIAN,
        data_set(),
    ),
    "a group length too large": (
        dicom_file(meta=meta_of()[:8] + b"\xff\xff\0\0" + meta_of()[12:]),
        EXPLICIT_VR_LITTLE_ENDIAN,
        data_set(),
    ),
    "UIDs only in the data set": (
        dicom_file(meta=meta_of(EXPLICIT_VR_LITTLE_ENDIAN, "", "")),
        EXPLICIT_VR_LITTLE_ENDIAN,
        data_set(),
    ),
    "UIDs only in the File Meta Information": (
        dicom_file(meta=meta_of(), body=element(0x00100010, b"PN", b"Doe^Jane")),
        EXPLICIT_VR_LITTLE_ENDIAN,
        element(0x00100010, b"PN", b"Doe^Jane"),
    ),
    "no transfer syntax": (dicom_file(meta=meta_of("")), EXPLICIT_VR_LITTLE_ENDIAN, data_set()),
    "a command set before the data set": (
        dicom_file(body=bare(0, b"\x0a\0\0\0") + bare(0x00000100, b"\1\0") + data_set()),
        EXPLICIT_VR_LITTLE_ENDIAN,
        data_set(),
    ),
    "UIDs padded with spaces": (
        dicom_file(meta=meta_of(EXPLICIT_VR_LITTLE_ENDIAN, CT_IMAGE_STORAGE + " ", INSTANCE_UID + " ")),
        EXPLICIT_VR_LITTLE_ENDIAN,
        data_set(),
    ),
    "sequences before the UIDs": (
        dicom_file(meta=meta_of(EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=UNDEFINED_SEQUENCE + data_set()[18:]),
        EXPLICIT_VR_LITTLE_ENDIAN,
        UNDEFINED_SEQUENCE + data_set()[18:],
    ),
    "deflated": (
        dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=deflated(data_set()) + b"\0\0"),
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        deflated(data_set()) + b"\0\0" + bytes(len(deflated(data_set())) % 2),
    ),
    "a group length of one element too many": (
        dicom_file(
            meta=meta_of()[:8] + struct.pack("<I", len(meta_of())) + meta_of()[12:],
            body=element(0x00080000, b"UL", b"\x60\0\0\0") + data_set(),
        ),
        EXPLICIT_VR_LITTLE_ENDIAN,
        element(0x00080000, b"UL", b"\x60\0\0\0") + data_set(),
    ),
    "compressed": (dicom_file(meta=meta_of(JPEG)), JPEG, data_set()),
    "File Meta Information in the other byte order": (
        dicom_file(meta=big_endian_meta(), body=big_endian_data_set()),
        EXPLICIT_VR_BIG_ENDIAN,
        big_endian_data_set(),
    ),
    "File Meta Information in another byte order than the data set": (
        dicom_file(meta=big_endian_meta(EXPLICIT_VR_LITTLE_ENDIAN)),
        EXPLICIT_VR_LITTLE_ENDIAN,
        data_set(),
    ),
    "an element whose VR is none": (
        dicom_file(
            meta=meta_of(EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=element(0x00080001, b"??", b"TEXT") + data_set()
        ),
        EXPLICIT_VR_LITTLE_ENDIAN,
        element(0x00080001, b"??", b"TEXT") + data_set(),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_other_software_would_read_is_an_instance(path: Path, name: str) -> None:
    data, transfer_syntax_uid, body = WHOLE[name]
    found = instance_in(path, data)
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert found.transfer_syntax_uid == transfer_syntax_uid
    assert read_all(found.source) == body
    assert found.data_set_length == found.source.length_bytes == len(body)
    assert (found.meta_difference is None) is (name != "UIDs only in the File Meta Information")
    # In memory it is the same.
    again = instance_from_bytes(data)
    assert (again.sop_class_uid, again.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert again.transfer_syntax_uid == transfer_syntax_uid
    assert read_all(again.source) == body


@pytest.mark.parametrize("name", WHOLE)
def test_a_large_file_is_what_a_small_one_is(path: Path, name: str) -> None:
    data, transfer_syntax_uid, body = WHOLE[name]
    tail = bytes(SMALL_FILE_BYTES + 1 + len(data) % 2)
    found = instance_in(path, data + tail)
    assert type(found.source) is FileSource
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert found.transfer_syntax_uid == transfer_syntax_uid
    assert found.data_set_length == found.source.length_bytes
    assert read_all(found.source)[: len(body) - 1] == body[:-1]
    found.source.close()


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("large", [False, True])
def test_a_deflated_data_set_has_an_even_length(path: Path, odd: int, large: bool) -> None:
    stream = deflated(data_set(more=element(0x00420011, b"OB", os.urandom(SMALL_FILE_BYTES if large else 10))))
    stream += bytes(len(stream) % 2 != odd)
    found = instance_in(path, dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), body=stream))
    assert type(found.source) is (FileSource if large else HeldSource)
    assert (found.source.view() is None) is large
    assert found.data_set_length == found.source.length_bytes == len(stream) + odd
    assert read_all(found.source) == stream + bytes(odd)
    found.let_go()
    assert found.source.view() is None
    assert found.source.length_bytes == len(stream) + odd
    assert read_all(found.source) == stream + bytes(odd)
    found.source.close()


def test_a_deflated_stream_that_looks_like_group_0002_is_not_taken_for_it(path: Path) -> None:
    # A stored block: 00, its length twice, then the data; here a length whose bytes are those of a tag of group 0000.
    body = data_set()
    stream = b"\x00" + struct.pack("<HH", len(body), len(body) ^ 0xFFFF) + body + b"\x01\0\0\xff\xff"
    for prefix in (b"", b"\x02\x00"):
        # 02 00 begins a block of fixed codes: it does not go on so, but it is where the data set begins.
        meta = meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
        path.write_bytes(dicom_file(meta=meta, body=prefix + stream))
        found = read_head(str(path))
        if isinstance(found, Instance):
            assert found.data_set_offset == 132 + len(meta)
        else:
            assert found is not None
            assert "deflated" in found.detail


@pytest.mark.parametrize("size", [0, -1, 1])
def test_up_to_the_limit_a_files_bytes_are_held(path: Path, size: int) -> None:
    whole = SMALL_FILE_BYTES + size
    empty = dicom_file(body=data_set(more=element(0x00420011, b"OB", b"")))
    data = empty[:-4] + struct.pack("<I", whole - len(empty)) + bytes(whole - len(empty))
    found = instance_in(path, data)
    assert found.size_bytes == whole
    assert type(found.source) is (FileSource if size > 0 else HeldSource)
    assert (found.source.view() is None) is (size > 0)
    assert read_all(found.source) == data[found.data_set_offset :]
    found.source.close()


@pytest.mark.parametrize("length", [HEAD_BYTES, HEAD_LIMIT_BYTES - 2048])
@pytest.mark.parametrize("where", ["File Meta Information", "data set"])
def test_uids_may_lie_far_into_a_large_file(path: Path, length: int, where: str) -> None:
    filler = bytes(length)
    if where == "data set":
        body = element(0x00080001, b"OB", filler) + data_set()[18:]
        data = dicom_file(meta=meta_of(EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=body)
    else:
        data = dicom_file(meta=meta_of(more=element(0x00020102, b"OB", filler)))
    found = instance_in(path, data + bytes(SMALL_FILE_BYTES))
    assert found.sop_instance_uid == INSTANCE_UID
    assert found.size_bytes == len(data) + SMALL_FILE_BYTES


@pytest.mark.parametrize("length", [0, HEAD_BYTES, HEAD_LIMIT_BYTES - 2048])
def test_uids_may_lie_far_into_a_deflated_stream(path: Path, length: int) -> None:
    stream = deflated(element(0x00080001, b"OB", bytes(length)) + data_set()[18:])
    data = dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=stream)
    assert instance_in(path, data).sop_instance_uid == INSTANCE_UID


def test_uids_beyond_any_reason_are_not_looked_for(path: Path) -> None:
    body = element(0x00080001, b"OB", bytes(HEAD_LIMIT_BYTES)) + data_set()[18:]
    found = problem_in(path, dicom_file(meta=meta_of(EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=body))
    assert found.reason is ProblemKind.MISSING_UID
    far = meta_of(more=element(0x00020102, b"OB", bytes(HEAD_LIMIT_BYTES)))
    assert problem_in(path, dicom_file(meta=far)).reason is ProblemKind.DAMAGED


# Two sets of UIDs


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        (meta_of(sop_instance_uid="1.2.3.9"), "SOP Instance UID 1.2.3.9"),
        (meta_of(sop_class_uid=MR_IMAGE_STORAGE), f"SOP Class UID {MR_IMAGE_STORAGE}"),
    ],
)
def test_the_data_set_says_who_an_instance_is_and_a_difference_is_reported(path: Path, meta: bytes, name: str) -> None:
    found = instance_in(path, dicom_file(meta=meta))
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert found.meta_difference is not None
    assert name in found.meta_difference


@pytest.mark.parametrize(
    ("named", "body", "true"),
    [
        (IMPLICIT_VR_LITTLE_ENDIAN, data_set(), EXPLICIT_VR_LITTLE_ENDIAN),
        (IMPLICIT_VR_LITTLE_ENDIAN, big_endian_data_set(), EXPLICIT_VR_BIG_ENDIAN),
        (EXPLICIT_VR_LITTLE_ENDIAN, implicit_data_set(), IMPLICIT_VR_LITTLE_ENDIAN),
        (EXPLICIT_VR_LITTLE_ENDIAN, big_endian_data_set(), EXPLICIT_VR_BIG_ENDIAN),
        (EXPLICIT_VR_BIG_ENDIAN, implicit_data_set(), IMPLICIT_VR_LITTLE_ENDIAN),
        (EXPLICIT_VR_BIG_ENDIAN, data_set(), EXPLICIT_VR_LITTLE_ENDIAN),
    ],
    ids=["EL as IL", "EB as IL", "IL as EL", "EB as EL", "IL as EB", "EL as EB"],
)
@pytest.mark.parametrize("tail", [b"", bytes(SMALL_FILE_BYTES)], ids=["small", "large"])
def test_the_data_set_says_how_it_is_encoded_and_a_difference_is_reported(
    path: Path, named: str, body: bytes, true: str, tail: bytes
) -> None:
    body += tail
    found = instance_in(path, dicom_file(meta=meta_of(named), body=body))
    assert (found.sop_instance_uid, found.transfer_syntax_uid) == (INSTANCE_UID, true)
    assert read_all(found.source) == body
    assert found.meta_difference is not None
    assert named in found.meta_difference
    assert true in found.meta_difference
    found.source.close()


def test_what_is_not_deflated_is_damaged(path: Path) -> None:
    found = problem_in(path, dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), body=data_set()))
    assert found.reason is ProblemKind.DAMAGED


@pytest.mark.parametrize("size", [1000, SMALL_FILE_BYTES, HEAD_LIMIT_BYTES - 2048])
def test_damage_before_the_uids_is_seen_in_a_file_of_any_size(path: Path, size: int) -> None:
    body = element(0x00080005, b"CS", b"ISO_IR 100") + b"\x08\0\x08\0UT\0\0\0\0\0\x70" + bytes(size)
    found = problem_in(path, dicom_file(body=body))
    assert found.reason is ProblemKind.DAMAGED


def test_a_uid_in_a_sequence_is_not_the_data_sets_own(path: Path) -> None:
    earlier = INSTANCE_UID[:-1] + "7"
    assert earlier != INSTANCE_UID
    was = element(0x00080016, b"UI", uid(CT_IMAGE_STORAGE)) + element(0x00080018, b"UI", uid(earlier))
    original_attributes = element(0x04000561, b"SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(was)) + was)
    body = data_set(more=original_attributes)
    found = instance_in(path, dicom_file(meta=meta_of(sop_instance_uid=earlier), body=body))
    assert found.sop_instance_uid == INSTANCE_UID
    assert found.meta_difference is not None


@pytest.mark.parametrize("where", [100, HEAD_BYTES, 2 * HEAD_LIMIT_BYTES])
@pytest.mark.parametrize("meta", [None, meta_of("")], ids=["no meta", "no syntax"])
def test_compressed_pixels_without_a_transfer_syntax_are_refused_wherever_they_are(
    path: Path, where: int, meta: bytes | None
) -> None:
    pixels = element(0x7FE00010, b"OB", b"")[:-4] + b"\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0"
    body = data_set(more=element(0x00420011, b"OB", bytes(where)) + pixels + bytes(SMALL_FILE_BYTES))
    found = problem_in(path, body if meta is None else dicom_file(meta=meta, body=body))
    assert found.reason is ProblemKind.MISSING_UID
    assert "compressed" in found.detail


def test_a_uid_that_cannot_be_sent_is_told_apart_from_none(path: Path) -> None:
    long = "1.2.840." + "1" * 121
    found = problem_in(path, dicom_file(meta=meta_of(sop_instance_uid=long), body=data_set(sop_instance_uid=long)))
    assert long[:100] in found.detail
    # The data set's own counts, and nobody may make up another for it.
    found = problem_in(path, dicom_file(body=data_set(sop_instance_uid=long)))
    assert long[:100] in found.detail
    # A presentation context has no room for more.
    long = "1.2.840." + "1" * 57
    found = problem_in(path, dicom_file(meta=meta_of(sop_class_uid=long), body=data_set(long)))
    assert long in found.detail


@pytest.mark.parametrize("text", ["", " ", "1.2\\1.3", "1.2 3", "1.2\n3", "1.2.\u00e4", "1" * 129])
def test_what_no_message_can_carry_is_no_uid(path: Path, text: str) -> None:
    raw = text.encode("latin-1")
    raw += b" " * (len(raw) % 2)
    body = element(0x00080016, b"UI", uid(CT_IMAGE_STORAGE)) + element(0x00080018, b"UI", raw)
    found = problem_in(path, dicom_file(meta=meta_of(sop_instance_uid=""), body=body))
    assert found.reason is ProblemKind.MISSING_UID
    assert "SOP Instance UID" in found.detail
    assert isinstance(found.error, MissingUID)


@pytest.mark.parametrize("text", ["1.2.B", "1.02.3", "1..2", "1.2.", ".1.2", "00.1"])
def test_an_ill_formed_uid_that_a_peer_may_take_is_kept_and_told(path: Path, text: str) -> None:
    told = []
    for sop_class, sop_instance in ((text, INSTANCE_UID), (CT_IMAGE_STORAGE, text)):
        meta = meta_of(sop_class_uid=sop_class, sop_instance_uid=sop_instance)
        found = instance_in(path, dicom_file(meta=meta, body=data_set(sop_class, sop_instance)))
        assert (found.sop_class_uid, found.sop_instance_uid) == (sop_class, sop_instance)
        told.append(found.meta_difference)
    assert told == [f"the {name} is not well-formed: {text}" for name in ("SOP Class UID", "SOP Instance UID")]


@pytest.mark.parametrize("text", ["1.2.3", "0.0", "1.0.10.100", "1." * 31 + "10"])
def test_a_well_formed_uid_is_nothing_to_tell(path: Path, text: str) -> None:
    found = instance_in(path, dicom_file(meta=meta_of(sop_instance_uid=text), body=data_set(sop_instance_uid=text)))
    assert (found.sop_instance_uid, found.meta_difference) == (text, None)


@pytest.mark.parametrize("length", [65, 68, 128])
def test_a_uid_that_is_too_long_is_kept_and_told(path: Path, length: int) -> None:
    text = "1.2." + "8" * (length - 4)
    found = instance_in(path, dicom_file(meta=meta_of(sop_instance_uid=text), body=data_set(sop_instance_uid=text)))
    assert found.sop_instance_uid == text
    assert found.meta_difference == (f"the SOP Instance UID has {length} characters, more than 64: {text}")


OUT_OF_ORDER = (
    element(0x00080005, b"CS", b"ISO_IR 100")
    + element(0x00080060, b"CS", b"CT")
    + element(0x00080018, b"UI", uid(INSTANCE_UID))
    + element(0x00100010, b"PN", b"Doe^Jane")
    + element(0x00080016, b"UI", uid(CT_IMAGE_STORAGE))
)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("far", [0, HEAD_BYTES])
@pytest.mark.parametrize("form", ["bare", "deflated"])
def test_uids_that_are_out_of_order_are_found(path: Path, large: bool, far: int, form: str) -> None:
    filler = element(0x00091001, b"OB", os.urandom(far)) if far else b""
    body = filler + OUT_OF_ORDER + element(0x7FE00010, b"OB", bytes(2 * SMALL_FILE_BYTES if large else 16))
    if filler:
        body = element(0x00080005, b"CS", b"ISO_IR 100") + body
    data = body
    if form == "deflated":
        data = dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "", ""), body=deflated(body))
    found = instance_in(path, data)
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert found.meta_difference is None
    found.source.close()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("value", [None, b"", b"\0\0", b"  "], ids=["no element", "an empty one", "zeros", "spaces"])
def test_a_uid_that_only_the_file_meta_information_has_is_used_and_told(
    path: Path, value: bytes | None, large: bool
) -> None:
    body = element(0x00080016, b"UI", uid(CT_IMAGE_STORAGE))
    body += b"" if value is None else element(0x00080018, b"UI", value)
    body += element(0x00100010, b"PN", b"Doe^Jane") + element(0x7FE00010, b"OB", bytes(SMALL_FILE_BYTES * large))
    found = instance_in(path, dicom_file(body=body))
    assert found.sop_instance_uid == INSTANCE_UID
    assert found.meta_difference == (
        f"the data set has no SOP Instance UID, the File Meta Information has {INSTANCE_UID}"
    )
    found.source.close()


def twice(first: str, second: str, *, is_behind: bool) -> bytes:
    """File Meta Information with two Transfer Syntax UIDs, the second behind its end or before it."""
    again = element(0x00020010, b"UI", uid(second))
    return meta_of(first) + again if is_behind else meta_of(first, more=again)


FRAGMENTS = element(0x7FE00010, b"OB", b"")[:-4] + b"\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 2
FRAGMENTS += b"\xfe\xff\xdd\xe0\0\0\0\0"
NATIVE = element(0x7FE00010, b"OB", bytes(16))
LOSSLESS = "1.2.840.10008.1.2.4.70"


@pytest.mark.parametrize("is_behind", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "pixels", "used"),
    [
        (JPEG, EXPLICIT_VR_LITTLE_ENDIAN, FRAGMENTS, JPEG),
        (EXPLICIT_VR_LITTLE_ENDIAN, JPEG, NATIVE, EXPLICIT_VR_LITTLE_ENDIAN),
        (JPEG, IMPLICIT_VR_LITTLE_ENDIAN, FRAGMENTS, JPEG),
        (JPEG, LOSSLESS, FRAGMENTS, JPEG),
        (LOSSLESS, JPEG, b"", LOSSLESS),
        # What the data set is not in does not count, though it is the first.
        (EXPLICIT_VR_LITTLE_ENDIAN, JPEG, FRAGMENTS, JPEG),
        (JPEG, EXPLICIT_VR_LITTLE_ENDIAN, NATIVE, EXPLICIT_VR_LITTLE_ENDIAN),
        (IMPLICIT_VR_LITTLE_ENDIAN, JPEG, FRAGMENTS, JPEG),
        (EXPLICIT_VR_BIG_ENDIAN, JPEG, FRAGMENTS, JPEG),
    ],
)
def test_the_first_of_two_transfer_syntaxes_counts_if_it_can_be(
    path: Path, first: str, second: str, pixels: bytes, used: str, is_behind: bool
) -> None:
    body = data_set(more=pixels)
    found = instance_in(path, dicom_file(meta=twice(first, second, is_behind=is_behind), body=body))
    assert (found.sop_instance_uid, found.transfer_syntax_uid) == (INSTANCE_UID, used)
    assert read_all(found.source) == body
    if used == first:
        told = f"the File Meta Information has a second Transfer Syntax UID, {second}, after {first}"
    else:
        told = f"the File Meta Information has the Transfer Syntax UID {first}, the data set is in {used}"
    assert found.meta_difference == told


def test_a_deflated_data_set_shows_which_of_two_transfer_syntaxes_it_is_in(path: Path) -> None:
    deflated_uid = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    meta = twice(EXPLICIT_VR_LITTLE_ENDIAN, deflated_uid, is_behind=False)
    found = instance_in(path, dicom_file(meta=meta, body=deflated(data_set())))
    assert (found.sop_instance_uid, found.transfer_syntax_uid) == (INSTANCE_UID, deflated_uid)
    found = instance_in(path, dicom_file(meta=meta))
    assert (found.sop_instance_uid, found.transfer_syntax_uid) == (INSTANCE_UID, EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("is_behind", [True, False])
@pytest.mark.parametrize(
    ("tag", "second", "name", "first"),
    [
        (0x00020002, MR_IMAGE_STORAGE, "SOP Class UID", CT_IMAGE_STORAGE),
        (0x00020003, "1.2.3.9", "SOP Instance UID", INSTANCE_UID),
    ],
)
def test_the_first_of_two_uids_counts(
    path: Path, tag: int, second: str, name: str, first: str, is_behind: bool
) -> None:
    again = element(tag, b"UI", uid(second))
    found = instance_in(path, dicom_file(meta=meta_of() + again if is_behind else meta_of(more=again)))
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert found.meta_difference == (f"the File Meta Information has a second {name}, {second}, after {first}")


def test_the_same_element_twice_is_no_contradiction(path: Path) -> None:
    again = element(0x00020010, b"UI", uid(EXPLICIT_VR_LITTLE_ENDIAN))
    assert instance_in(path, dicom_file(meta=meta_of() + again)).meta_difference is None


def test_many_layouts_by_turns_are_told_apart_and_few_are_remembered(path: Path) -> None:
    for _ in range(2):
        for number in range(20):
            sop_class, sop_instance = f"1.2.{number}", f"1.2.3.{10**number}"
            meta = meta_of(sop_class_uid=sop_class, sop_instance_uid=sop_instance)
            found = instance_in(path, dicom_file(meta=meta, body=data_set(sop_class, sop_instance)))
            assert (found.sop_class_uid, found.sop_instance_uid) == (sop_class, sop_instance)
    assert len(file_meta._layouts) == file_meta._REMEMBERED_LAYOUTS


def test_a_file_with_the_layout_of_another_is_still_held_against_its_data_set(path: Path) -> None:
    one = instance_in(path, dicom_file(meta=meta_of(), body=data_set()))
    other_uid = one.sop_instance_uid[:-1] + "9"
    assert other_uid != one.sop_instance_uid
    other = instance_in(path, dicom_file(meta=meta_of(sop_instance_uid=other_uid), body=data_set()))
    assert other.sop_instance_uid == one.sop_instance_uid
    assert other.meta_difference is not None


# What is no instance


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", ProblemKind.NOT_DICOM, "empty"),
        (b"x", ProblemKind.NOT_DICOM, "neither"),
        (b"\x08\0\5\0CS", ProblemKind.NOT_DICOM, "neither"),
        (b"Subject: hello\n" * 30, ProblemKind.NOT_DICOM, "neither"),
        (bytes(400), ProblemKind.NOT_DICOM, "no data set"),
        (meta_of(), ProblemKind.NOT_DICOM, "no data set follows"),
        (meta_of()[:59], ProblemKind.NOT_DICOM, "damaged"),
        (bytes(128) + b"DICM", ProblemKind.DAMAGED, "nothing behind"),
        (bytes(128) + b"DICM" + meta_of(), ProblemKind.DAMAGED, "no data set follows"),
        (bytes(128) + b"DICM" + meta_of()[:59], ProblemKind.DAMAGED, "damaged"),
        (bytes(128) + b"DICM" + meta_of()[:-3], ProblemKind.DAMAGED, "damaged"),
        (dicom_file(meta=meta_of(sop_class_uid=MEDIA_STORAGE_DIRECTORY)), ProblemKind.DICOMDIR, "lists the files"),
        (dicom_file(meta=meta_of("", "", ""), body=data_set()[18:52]), ProblemKind.MISSING_UID, "SOP Instance UID"),
        (
            dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), body=b"\xff" * 100),
            ProblemKind.DAMAGED,
            "not a deflated stream",
        ),
        (
            dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), body=deflated(b"") + bytes(8)),
            ProblemKind.DAMAGED,
            "empty",
        ),
        (
            dicom_file(
                meta=meta_of(""),
                body=data_set(more=element(0x7FE00010, b"OB", b"")[:-4] + b"\xff\xff\xff\xff" + bytes(20)),
            ),
            ProblemKind.MISSING_UID,
            "compressed",
        ),
        (dicom_file(meta=meta_of("", "", ""), body=UNDEFINED_SEQUENCE[:60]), ProblemKind.MISSING_UID, "SOP Class UID"),
    ],
)
def test_what_is_no_instance_is_a_problem_with_a_reason(path: Path, data: bytes, kind: ProblemKind, text: str) -> None:
    found = problem_in(path, data)
    assert found.reason is kind
    assert text in found.detail
    expected = MissingUID if kind is ProblemKind.MISSING_UID else NotDicom
    assert type(found.error) is expected
    assert found.detail in str(found.error)
    with pytest.raises(expected):
        instance_from(path)
    with pytest.raises(expected):
        instance_from_bytes(data)


@pytest.mark.parametrize("prefix", [bytes(128) + b"DICM", b""], ids=["prefix", "no prefix"])
@pytest.mark.parametrize(
    ("syntax", "body", "element_ends"),
    [
        (EXPLICIT_VR_LITTLE_ENDIAN, data_set()[18:], [34, 58]),
        (IMPLICIT_VR_LITTLE_ENDIAN, implicit_data_set(), [34, 58]),
        (EXPLICIT_VR_BIG_ENDIAN, big_endian_data_set(), [34, 58]),
        (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, deflated(data_set()), []),
    ],
    ids=["explicit", "implicit", "big endian", "deflated"],
)
def test_a_file_that_ends_within_an_element_is_no_instance_as_far_as_its_uids_go(
    path: Path, prefix: bytes, syntax: str, body: bytes, element_ends: list[int]
) -> None:
    meta = prefix + meta_of(syntax)
    # Between two elements it may end: there are data sets whose UIDs are in the File Meta Information only.
    whole = [len(meta) + end for end in element_ends]
    for length in range(1, len(meta) + 58):
        path.write_bytes((meta + body)[:length])
        found = read_head(str(path))
        assert isinstance(found, Instance if length in whole else ScanProblem), length
        if isinstance(found, ScanProblem) and length > len(prefix) > 0:
            assert found.reason is ProblemKind.DAMAGED


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    base=st.sampled_from([data for data, _, _ in WHOLE.values()] + [bundled("nested_priv_SQ.dcm").read_bytes()]),
)
def test_damaged_files_are_instances_or_problems(path: Path, data: st.DataObject, base: bytes) -> None:
    """Nothing but an Instance or a ScanProblem comes of any bytes, and the source then holds them."""
    damaged = bytearray(base)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(damaged)
    found = read_head(str(path))
    assert isinstance(found, Instance | ScanProblem)
    if isinstance(found, Instance):
        assert found.sop_class_uid
        assert found.sop_instance_uid.isascii()
        assert len(found.sop_instance_uid) <= 64
        stored = bytes(damaged[found.data_set_offset :])
        assert read_all(found.source)[: len(stored)] == stored


@given(data=st.binary(max_size=2000))
@example(data=b"\x08\0\x06\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 100)
@example(data=b"\x08\0\x06\0\xff\xff\xff\xff" + b"\xfe\xff\xdd\xe0\0\0\0\0")
def test_any_bytes_are_an_instance_or_refused(data: bytes) -> None:
    try:
        found = instance_from_bytes(data)
    except (NotDicom, MissingUID):
        return
    assert found.data_set_length <= len(data) + 1


def test_deep_nesting_takes_no_stack_and_little_time() -> None:
    opening = b"\x08\0\x06\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    data = dicom_file(meta=meta_of("", "", ""), body=opening * 50_000)
    with pytest.raises(MissingUID):
        instance_from_bytes(data)


def test_a_deflate_bomb_is_inflated_only_a_little(path: Path) -> None:
    bomb = deflated(element(0x00080001, b"OB", b"")[:-4] + b"\xf0\xff\xff\x0f" + bytes(64 << 20))
    path.write_bytes(dicom_file(meta=meta_of(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), body=bomb))
    tracemalloc.start()
    try:
        found = read_head(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found, Instance)
    assert peak < 4 << 20


# What the system may answer


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("size", [0, SMALL_FILE_BYTES])
def test_every_system_can_read_a_head(path: Path, system: str, wait: bool, size: int) -> None:
    path.write_bytes(dicom_file() + bytes(size))
    found = read_head(str(path), wait=wait, regular=True)
    assert isinstance(found, Instance)
    assert read_all(found.source) == data_set() + bytes(size)
    found.source.close()


@pytest.mark.parametrize("size", [0, SMALL_FILE_BYTES])
@pytest.mark.parametrize("cached", [None, 100])
def test_a_cold_file_is_left_to_somebody_who_may_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int, cached: int | None
) -> None:
    path.write_bytes(dicom_file() + bytes(size))
    monkeypatch.setattr(source, "read_cached", lambda fd, holes, at, device: cached)
    assert read_head(str(path), wait=False) is None
    found = read_head(str(path))
    assert isinstance(found, Instance)
    found.source.close()


@pytest.mark.parametrize("cached", [None, 10])
def test_a_path_that_had_to_be_waited_for_is_noted(
    path: Path, monkeypatch: pytest.MonkeyPatch, cached: int | None
) -> None:
    path.write_bytes(dicom_file())
    missed: list[str] = []
    assert isinstance(read_head(str(path), missed=missed), Instance)
    assert missed == []
    monkeypatch.setattr(source, "read_cached", lambda fd, holes, at, device: cached)
    assert isinstance(read_head(str(path), missed=missed), Instance)
    assert missed == [str(path)]


@pytest.mark.parametrize("size", [0, SMALL_FILE_BYTES])
@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("wait", [True, False])
def test_a_file_that_changes_while_it_is_read_is_a_problem(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int, change: int, wait: bool
) -> None:
    path.write_bytes(dicom_file() + bytes(size))
    real_fstat = os.fstat
    truth: list[int] = []

    def fstat(fd: int) -> os.stat_result:
        status = real_fstat(fd)
        if truth:
            return status
        truth.append(status.st_size)
        # Before the read the file was longer or shorter; a large head shows it only when the file got very short.
        os.truncate(path, status.st_size + change if not size else 50)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    found = read_head(str(path), wait=wait)
    assert isinstance(found, ScanProblem)
    assert found.reason is ProblemKind.CHANGED
    assert isinstance(found.error, SourceChanged)


@pytest.mark.parametrize("at_most", [7, 500])
@pytest.mark.parametrize("size", [0, SMALL_FILE_BYTES])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_head_that_comes_in_pieces_is_read_to_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int, size: int, is_there: bool
) -> None:
    data = dicom_file() + bytes(size)
    path.write_bytes(data)
    whole = read_head(str(path))
    assert isinstance(whole, Instance)

    def preadv(fd: int, holes: Sequence[memoryview], at: int, flags: int = 0) -> int:
        part = os.pread(fd, min(at_most, sum(map(len, holes))), at)
        memoryview(holes[0])[: len(part)] = part
        return len(part)

    monkeypatch.setattr(source, "preadv", preadv if is_there else None)
    found = read_head(str(path))
    assert isinstance(found, Instance)
    assert (found.sop_instance_uid, found.data_set_offset) == (whole.sop_instance_uid, whole.data_set_offset)
    view = found.source.view()
    if not size:
        assert view is not None
        assert bytes(view) == data[found.data_set_offset :]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EACCES, "Permission denied"), ProblemKind.UNREADABLE),
        (OSError(errno.EIO, "Input/output error"), ProblemKind.UNREADABLE),
        (OSError(errno.EMFILE, "Too many open files"), ProblemKind.UNREADABLE),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), ProblemKind.NOT_FOUND),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), ProblemKind.NOT_FOUND),
        (OSError(errno.ELOOP, "Too many levels of symbolic links"), ProblemKind.SYMLINK_LOOP),
    ],
)
@pytest.mark.parametrize("call", ["stat", "open", "preadv"])
def test_an_error_of_the_system_is_a_problem(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: ProblemKind, call: str
) -> None:
    path.write_bytes(dicom_file())

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(*(source, "preadv") if call == "preadv" else (os, call), fail)
    found = read_head(str(path))
    assert isinstance(found, ScanProblem)
    assert found.reason is kind
    assert found.detail == error.strerror
    with pytest.raises(OSError, match=error.strerror):
        instance_from(path)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_not_found(tmp_path: Path, name: str) -> None:
    found = read_head(f"{tmp_path}/{name}")
    assert isinstance(found, ScanProblem)
    assert found.reason is ProblemKind.NOT_FOUND


def make_fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def make_directory(path: Path) -> str:
    path.mkdir()
    return str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("make", [make_fifo, make_directory, lambda _: os.devnull])
def test_what_is_no_regular_file_is_never_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], str]
) -> None:
    name = make(path)

    def fail(*args: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", fail)
    found = read_head(name)
    assert isinstance(found, ScanProblem)
    assert found.reason is ProblemKind.NOT_A_FILE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_in_the_place_of_a_file_does_not_hang(path: Path) -> None:
    os.mkfifo(path)
    found = read_head(str(path), regular=True)
    assert isinstance(found, ScanProblem)
    assert found.reason is ProblemKind.NOT_A_FILE
    assert not stat.S_ISREG(path.stat().st_mode)


def test_a_bare_data_set_needs_its_transfer_syntax_named() -> None:
    body = io.BytesIO(big_endian_data_set()).getbuffer()
    found = instance_from_bytes(body, transfer_syntax_uid=EXPLICIT_VR_BIG_ENDIAN)
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT_IMAGE_STORAGE, INSTANCE_UID)
    assert read_all(found.source) == body
    assert found.path is None
    with pytest.raises(MissingUID, match="the data in memory: there is no SOP Class UID"):
        instance_from_bytes(body, transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("rest_bytes", range(1, 8))
@pytest.mark.parametrize("header", [b"\x08\0\x08\0CS\0\0", b"\x20\0\0\0\0\0\0\0"], ids=["known VR", "no VR"])
def test_a_header_that_is_cut_off_is_damage_in_a_file_as_in_memory(
    tmp_path: Path, header: bytes, rest_bytes: int
) -> None:
    body = element(0x00080005, b"CS", b"ISO_IR 100") + header[:rest_bytes]
    whole = bytes(128) + b"DICM" + meta_of() + body
    (tmp_path / "a.dcm").write_bytes(whole)
    with pytest.raises(NotDicom, match="cut off"):
        instance_from_bytes(whole)
    with pytest.raises(NotDicom, match="cut off"):
        instance_from(tmp_path / "a.dcm")
