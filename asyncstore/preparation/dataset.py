"""Encodes a pydicom Dataset as an Instance."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import TYPE_CHECKING, Final

from asyncstore.errors import MissingUID, SourceError
from asyncstore.instances.elements import encoding_of
from asyncstore.instances.identity import difference_of
from asyncstore.instances.instance import Instance
from asyncstore.instances.source import BytesSource
from asyncstore.preparation.convert import convert
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)

if TYPE_CHECKING:
    from pydicom import Dataset


def instance_of_dataset(data_set: Dataset) -> Instance:
    """Encode a pydicom Dataset as an Instance; see asyncstore.instance_from."""
    from pydicom import Dataset

    if not isinstance(data_set, Dataset):
        raise TypeError(f"neither a path, nor an Instance, nor a Dataset: {data_set!r:.200}")
    meta = getattr(data_set, "file_meta", None) or {}
    wanted = str(meta.get("TransferSyntaxUID") or "").strip("\0 ")
    try:
        instance = _encoded_instance(data_set, meta, wanted)
    except SourceError:
        raise
    except Exception as error:  # pydicom raises any type
        raise SourceError(f"the data set cannot be encoded: {_without_values(error)}") from error
    if wanted and wanted != instance.transfer_syntax_uid:
        source = convert(instance, wanted)
        return dataclasses.replace(
            instance, transfer_syntax_uid=wanted, data_set_length=source.length_bytes, source=source
        )
    return instance


def _without_values(error: Exception) -> str:
    """What is wrong, for a log: pydicom's own words may quote the value of an element."""
    tag = _TAG.search(str(error))
    return f"{type(error).__name__} at {tag[0]}" if tag else type(error).__name__


def _encoded_instance(data_set: Dataset, meta: Dataset | dict[str, str], wanted: str) -> Instance:
    in_data_set = tuple(_uid(data_set, name) for name in ("SOPClassUID", "SOPInstanceUID"))
    in_meta = tuple(_uid(meta, name) for name in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID"))
    sop_class, sop_instance = (one or other for one, other in zip(in_data_set, in_meta, strict=True))
    if not sop_class or not sop_instance:
        raise MissingUID("the data set has no " + ("SOP Instance UID" if sop_class else "SOP Class UID"))
    encoded_as, data = _encode(data_set, wanted)
    if not data:
        raise SourceError("the data set is empty")
    source = BytesSource(data)
    return Instance(
        None,
        sop_class,
        sop_instance,
        encoded_as,
        0,
        source.length_bytes,
        source,
        source.length_bytes,
        0,
        str(data_set.get("StudyInstanceUID") or "") or None,
        str(data_set.get("SeriesInstanceUID") or "") or None,
        # A program that gives a Dataset another UID need not change its File Meta Information.
        difference_of(
            tuple(None if one else other for one, other in zip(in_data_set, in_meta, strict=True)), in_data_set
        ),
    )


def _uid(data_set: Dataset | dict[str, str], keyword: str) -> str:
    return str(data_set.get(keyword) or "").strip("\0 ")


def _encode(data_set: Dataset, wanted: str) -> tuple[str, bytes]:
    """Encode a Dataset in the transfer syntax `wanted`, or in an uncompressed one of the byte order it was read in.

    pydicom writes the bytes of OB and OW values unchanged, so convert() must change their byte order.
    """
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    little = data_set.original_encoding[1]
    as_read = _UNCOMPRESSED_BY_ENCODING.get(data_set.original_encoding, EXPLICIT_VR_LITTLE_ENDIAN)
    if not wanted:
        wanted = as_read
    elif wanted in UNCOMPRESSED_TRANSFER_SYNTAXES:
        if little is not None and encoding_of(wanted).big_endian == little:
            wanted = as_read
        elif wanted == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            wanted = EXPLICIT_VR_LITTLE_ENDIAN
    # Writing would resolve ambiguous VRs in the caller's Dataset.
    data_set = copy.deepcopy(data_set)
    for tag in [tag for tag in data_set.keys() if tag.group in (0x0000, 0x0002)]:  # noqa: SIM118 - a Dataset yields elements
        del data_set[tag]
    if "PixelData" in data_set:
        pixel_data = data_set["PixelData"]
        is_to_be_compressed = wanted not in UNCOMPRESSED_TRANSFER_SYNTAXES
        if not is_to_be_compressed and _is_compressed(pixel_data.value):
            raise SourceError("the pixel data is compressed, and no Transfer Syntax UID says how")
        pixel_data.is_undefined_length = is_to_be_compressed
    encoding = encoding_of(wanted)
    file = DicomBytesIO()
    file.is_implicit_VR = not encoding.explicit
    file.is_little_endian = not encoding.big_endian
    write_dataset(file, data_set)
    return wanted, file.getvalue()


def _is_compressed(pixel_data: object) -> bool:
    """Whether pixel data looks compressed: a Basic Offset Table, and another item behind it (PS3.5 A.4).

    Only the bytes tell: pydicom keeps the flag for undefined length when a caller replaces the pixels.
    """
    if not isinstance(pixel_data, bytes) or not pixel_data.startswith(_ITEM):
        return False
    table_bytes = int.from_bytes(pixel_data[4:8], "little")
    return pixel_data.startswith(_ITEM, 8 + table_bytes)


_TAG: Final = re.compile(r"\([0-9A-Fa-f]{4}, ?[0-9A-Fa-f]{4}\)")
_ITEM: Final = b"\xfe\xff\x00\xe0"
# The key is what pydicom calls the original encoding of a Dataset: (implicit, little endian).
_UNCOMPRESSED_BY_ENCODING: Final[dict[tuple[bool | None, bool | None], str]] = {
    (True, True): IMPLICIT_VR_LITTLE_ENDIAN,
    (False, True): EXPLICIT_VR_LITTLE_ENDIAN,
    (False, False): EXPLICIT_VR_BIG_ENDIAN,
}
