"""DICOM files for these tests: pydicom's bundled ones, and small ones built byte by byte."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.tag import BaseTag

from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource

_DATA: Final = Path(pydicom.__file__).parent / "data"
BUNDLED: Final = sorted(
    path
    for folder in ("test_files", "charset_files")
    for path in (_DATA / folder).rglob("*")
    if path.is_file() and path.suffix not in {".py", ".pyc"}
)

# How long the words of a value are whose byte order pydicom leaves to its callers.
_UNITS: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}

INSTANCE_UID: Final = "1.2.3.4.5.6.7.8"


def bundled(name: str) -> Path:
    """The bundled file of that name."""
    return next(path for path in BUNDLED if path.name == name)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def bare(tag: int, value: bytes) -> bytes:
    """One element in Implicit VR Little Endian."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def uid(text: str) -> bytes:
    """A UID's value: padded to even length."""
    return text.encode() + b"\0" * (len(text) % 2)


def file_meta(
    transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN,
    sop_class_uid: str = CT_IMAGE_STORAGE,
    sop_instance_uid: str = INSTANCE_UID,
    *,
    more: bytes = b"",
) -> bytes:
    """Group 0002 with its group length; UIDs given as "" are left out."""
    group = element(0x00020001, b"OB", b"\0\1")
    for tag, text in ((0x00020002, sop_class_uid), (0x00020003, sop_instance_uid), (0x00020010, transfer_syntax_uid)):
        if text:
            group += element(tag, b"UI", uid(text))
    group += more
    return element(0x00020000, b"UL", struct.pack("<I", len(group))) + group


def data_set(
    sop_class_uid: str = CT_IMAGE_STORAGE, sop_instance_uid: str = INSTANCE_UID, *, more: bytes = b""
) -> bytes:
    """A small data set in Explicit VR Little Endian."""
    return (
        element(0x00080005, b"CS", b"ISO_IR 100")
        + element(0x00080016, b"UI", uid(sop_class_uid))
        + element(0x00080018, b"UI", uid(sop_instance_uid))
        + element(0x00100010, b"PN", b"Doe^Jane")
        + more
    )


def dicom_file(*, meta: bytes | None = None, body: bytes | None = None) -> bytes:
    """A whole file."""
    return bytes(128) + b"DICM" + (file_meta() if meta is None else meta) + (data_set() if body is None else body)


def read_all(source: DataSource) -> bytes:
    """A data set's bytes, in one hole."""
    room = bytearray(source.length_bytes)
    assert source.read_into((memoryview(room),), 0)
    return bytes(room)


def decode(instance: Instance) -> Dataset:
    """What pydicom makes of an instance's data set."""
    file = bytes(128) + b"DICM" + file_meta(instance.transfer_syntax_uid) + read_all(instance.source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(file))


def value_of(each: DataElement, big_endian: bool) -> Any:
    """An element's value; pydicom leaves the byte order of what is between OB and OW to its callers."""
    value = each.value
    if big_endian and each.VR in _UNITS and value:
        unit = _UNITS[each.VR]
        value = b"".join(value[at : at + unit][::-1] for at in range(0, len(value), unit))
    return value


def assert_same_elements(before: Dataset, after: Dataset, before_big: bool, after_big: bool) -> None:
    """Two data sets hold the same elements with the same values, those of their items included.

    `before_big` and `after_big` say which were read from Explicit VR Big Endian.
    """
    # Group lengths are left out wherever elements are encoded anew.
    tags = [tag for tag in sorted(before.keys()) if tag.element]
    assert [tag for tag in sorted(after.keys()) if tag.element] == tags
    for tag in tags:
        raw = before.get_item(tag), after.get_item(tag)
        one, other = before[tag], after[tag]
        if one.VR == "SQ":
            assert other.VR == "SQ"
            assert len(one.value) == len(other.value)
            for pair in zip(one.value, other.value, strict=True):
                assert_same_elements(*pair, before_big, after_big)
        elif one.VR == other.VR or {one.VR, other.VR} <= {"OB", "OW"}:
            assert value_of(one, before_big) == value_of(other, after_big), tag
        else:
            assert not dictionary_has_tag(BaseTag(tag)), tag
            assert (raw[0].value or b"") == (raw[1].value or b""), tag
