"""Finds the study and the modality of an instance, for a sender that keeps studies together or chooses instances."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances import elements
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance

# Both come before the pixel data, and rarely after more than a few kilobytes.
LOOKED_AT_BYTES: Final = 65536
_MODALITY: Final = 0x00080060
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E


def study_of(instance: Instance) -> str | None:
    """The Study Instance UID in the first 64 KiB of the data set; None if there is none or it cannot be read.

    Blocks: it reads the file, unless the file is small and was read before.
    """
    return _value_of(instance, _STUDY_INSTANCE_UID)


def modality_of(instance: Instance) -> str | None:
    """The Modality (0008,0060) of an instance, in the same way."""
    return _value_of(instance, _MODALITY)


def keys_of(instance: Instance) -> tuple[str | None, str | None]:
    """The Study Instance UID and the Series Instance UID of an instance, in the same way."""
    study, series = _values_of(instance, (_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID))
    return study, series


def _value_of(instance: Instance, tag: int) -> str | None:
    return _values_of(instance, (tag,))[0]


def _values_of(instance: Instance, tags: tuple[int, ...]) -> list[str | None]:
    data = bytearray(min(instance.data_set_length, LOOKED_AT_BYTES))
    try:
        instance.source.read_into((memoryview(data),), 0)
        if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            data = bytearray(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, LOOKED_AT_BYTES))
        return _find(data, tags, elements.encoding_of(instance.transfer_syntax_uid))
    except (SourceError, OSError, zlib.error, elements.CutShort):
        return [None] * len(tags)  # sending the instance will report the error
    finally:
        instance.source.close()


def _find(data: bytearray, tags: tuple[int, ...], encoding: elements.Encoding) -> list[str | None]:
    """The values of elements; `tags` are in order."""
    found: dict[int, str | None] = {}
    at = 0
    while at < len(data) and tags[-1] not in found:
        header = elements.read_header(data, at, encoding)
        if header.tag > tags[-1]:
            break
        at = elements.skip_value(data, header, encoding, len(data))
        if header.tag in tags:
            found[header.tag] = data[header.value_at : at].rstrip(b"\0 ").decode("ascii", "replace") or None
    return [found.get(tag) for tag in tags]
