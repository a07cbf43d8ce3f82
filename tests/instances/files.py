"""DICOM files for these tests: pydicom's bundled ones, and small ones built byte by byte."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pydicom

from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource

_DATA: Final = Path(pydicom.__file__).parent / "data"
BUNDLED: Final = sorted(
    path
    for folder in ("test_files", "charset_files")
    for path in (_DATA / folder).rglob("*")
    if path.is_file() and path.suffix not in {".py", ".pyc"}
)

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
