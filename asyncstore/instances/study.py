"""Finds the study, patient and modality of an instance, for who keeps studies together, chooses or counts instances."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances import elements
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.instances.elements import Buffer, Encoding
    from asyncstore.instances.instance import Instance

# All come before the pixel data, and rarely after more than a few kilobytes.
LOOKED_AT_BYTES: Final = 65536
_USUAL_BYTES: Final = 8192
_MODALITY: Final = 0x00080060
_PATIENT_ID: Final = 0x00100020
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E

_SHORT_VRS: Final = elements.VRS - elements.LONG_VRS
_EXPLICIT_HEADER: Final = struct.Struct("<H2x2sH").unpack_from
_IMPLICIT_HEADER: Final = struct.Struct("<H2xI").unpack_from


def study_of(instance: Instance) -> str | None:
    """The Study Instance UID in the first 64 KiB of the data set; None if there is none or it cannot be read.

    Blocks: it reads the file, unless the file is small and was read before.
    """
    return _text(_values_of(instance, (_STUDY_INSTANCE_UID,))[0])


def modality_of(instance: Instance) -> str | None:
    """The Modality (0008,0060) of an instance, in the same way."""
    return _text(_values_of(instance, (_MODALITY,))[0])


def keys_of(instance: Instance) -> tuple[str | None, str | None]:
    """The Study Instance UID and the Series Instance UID of an instance, in the same way."""
    study, series = _values_of(instance, (_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID))
    return _text(study), _text(series)


def patient_and_study_of(instance: Instance) -> Sequence[bytes]:
    """The Patient ID and the Study Instance UID as they are encoded, without padding; b"" for one that is not there."""
    return _values_of(instance, (_PATIENT_ID, _STUDY_INSTANCE_UID))


def _text(value: bytes) -> str | None:
    return value.decode("ascii", "replace") or None


def _values_of(instance: Instance, tags: tuple[int, ...]) -> list[bytes]:
    """The values of some tags in ascending order; b"" for each that is not found."""
    found = [b""] * len(tags)
    view = instance.source.view()
    try:
        if view is not None:
            _look(found, view[:LOOKED_AT_BYTES], instance.transfer_syntax_uid, tags)
            return found
        for at_most in (_USUAL_BYTES, LOOKED_AT_BYTES):
            data = bytearray(min(instance.data_set_length, at_most))
            instance.source.read_into((memoryview(data),), 0)
            if _look(found, data, instance.transfer_syntax_uid, tags):
                break
    except (SourceError, OSError, zlib.error):
        pass  # sending the instance will report the error
    finally:
        instance.source.close()
    return found


def _look(found: list[bytes], data: Buffer, syntax: str, tags: tuple[int, ...]) -> bool:
    """Look for the tags in the beginning of a data set; whether it reaches far enough to tell."""
    if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, LOOKED_AT_BYTES)
    try:
        return _find(found, data, tags, elements.encoding_of(syntax))
    except elements.CutShort:
        return False


def _find(found: list[bytes], data: Buffer, tags: tuple[int, ...], encoding: Encoding) -> bool:
    at, end = 0, len(data)
    for index, tag in enumerate(tags):
        while True:
            at = _skip_plain(data, at, end, tag >> 16, encoding)
            if at >= end:
                return False
            header = elements.read_header(data, at, encoding)
            if header.tag > tag:
                break
            at = elements.skip_value(data, header, encoding, end)
            if header.tag == tag:
                found[index] = bytes(data[header.value_at : at]).strip(b"\0 ")
                break
    return True


def _skip_plain(data: Buffer, at: int, end: int, group: int, encoding: Encoding) -> int:
    """Step over elements below a group whose headers need no second look: nearly all, four times as fast."""
    if encoding.big_endian:
        return at
    last = end - 8
    if encoding.explicit:
        while at <= last:
            here, vr, length = _EXPLICIT_HEADER(data, at)
            if here >= group or vr not in _SHORT_VRS:
                break
            at += 8 + length
        return at
    while at <= last:
        here, length = _IMPLICIT_HEADER(data, at)
        if here >= group or length == elements.UNDEFINED_LENGTH:
            break
        at += 8 + length
    return at
