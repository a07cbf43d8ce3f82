"""Writes the File Meta Information of a DICOM file (PS3.10 7.1)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from asyncstore.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from asyncstore.dimse.messages import CStoreRQ


def file_meta_information(request: CStoreRQ, transfer_syntax_uid: str) -> bytes:
    """File Meta Information behind preamble and prefix (PS3.10 7.1), Explicit VR Little Endian."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _ui(0x0002, request.affected_sop_class_uid),
            _ui(0x0003, request.affected_sop_instance_uid),
            _ui(0x0010, transfer_syntax_uid),
            _ui(0x0012, IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode(), b" "),
        )
    )
    return struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _ui(element: int, uid: str) -> bytes:
    return _short(element, b"UI", uid.encode("ascii"), b"\0")


def _short(element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    value += padding * (len(value) & 1)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
