"""Archives for the tests, and DICOM files to put into them."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import files
from tests.support.transfers import uid_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def dicom(
    number: int, *, pixels: bytes = b"", modality: str = "", transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN
) -> bytes:
    """A DICOM file with the SOP Instance UID `uid_of(number)`."""
    more = files.element(0x00080060, b"CS", modality.encode()) if modality else b""
    uid = files.element(0x00080018, b"UI", files.uid(uid_of(number)))
    body = files.element(0x00080016, b"UI", files.uid(CT_IMAGE_STORAGE)) + uid + more
    if pixels:
        body += files.element(0x7FE00010, b"OW", pixels)
    meta = files.file_meta(transfer_syntax_uid, sop_instance_uid=uid_of(number))
    return files.dicom_file(meta=meta, body=body)


def members(count: int, **options: Any) -> dict[str, bytes]:
    """So many DICOM files by name, in two directories."""
    return {f"study/{number % 2}/{number:03}.dcm": dicom(number, **options) for number in range(1, count + 1)}


def write_zip(path: Path, content: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, content: Mapping[str, bytes], *, mode: str = "w", layout: int = tarfile.PAX_FORMAT) -> Path:
    """`mode` is that of tarfile: "w", or "w:gz"."""
    with tarfile.open(path, mode, format=layout) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_any(path: Path, content: Mapping[str, bytes]) -> Path:
    """An archive of the kind that the name ends in: .stored.zip, .zip, .tar, .tgz."""
    if path.suffix == ".zip":
        is_stored = path.name.endswith(".stored.zip")
        return write_zip(path, content, method=zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED)
    return write_tar(path, content, mode="w:gz" if path.suffix == ".tgz" else "w")


def write_same_names(path: Path, name: str, contents: Sequence[bytes]) -> Path:
    """An archive, of a kind as with `write_any`, in which all members have one name."""
    if path.suffix == ".zip":
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:
            for data in contents:
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for data in contents:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


KINDS = ("a.stored.zip", "a.zip", "a.tar", "a.tgz")
"""Names for `write_any`, one of each kind."""
