"""Encodes and decodes the small data sets of queries and of storage commitment, by pydicom or as plain text."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances.deflated import MESSAGE_BYTES, deflated, inflated
from asyncstore.instances.elements import CutShort, encoding_of, padding_of, read_header, skip_value
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom.dataset import Dataset

    from asyncstore.instances.elements import Encoding

QUERY_RETRIEVE_LEVEL: Final = 0x00080052
SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
SOP_CLASSES_IN_STUDY: Final = 0x00080062
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E
STUDY_RELATED_SERIES: Final = 0x00201206
STUDY_RELATED_INSTANCES: Final = 0x00201208
SERIES_RELATED_INSTANCES: Final = 0x00201209
_VRS: Final = {
    QUERY_RETRIEVE_LEVEL: b"CS",
    STUDY_RELATED_SERIES: b"IS",
    STUDY_RELATED_INSTANCES: b"IS",
    SERIES_RELATED_INSTANCES: b"IS",
}
_SHORT_HEADER: Final = struct.Struct("<HH2sH")
_BARE_HEADER: Final = struct.Struct("<HHI")


def encode_keys(keys: Mapping[int, str], transfer_syntax_uid: str) -> bytes:
    """An identifier of the keys named above, in one of the two little endian transfer syntaxes."""
    is_explicit = encoding_of(transfer_syntax_uid).explicit
    parts: list[bytes] = []
    for tag, text in sorted(keys.items()):
        vr = _VRS.get(tag, b"UI")
        value = text.encode("ascii")
        value += padding_of(vr) * (len(value) % 2)
        place = (tag >> 16, tag & 0xFFFF)
        header = _SHORT_HEADER.pack(*place, vr, len(value)) if is_explicit else _BARE_HEADER.pack(*place, len(value))
        parts += (header, value)
    return b"".join(parts)


def decode_keys(data: bytes, transfer_syntax_uid: str) -> dict[int, str]:
    """The values of an identifier's elements as text, by tag; raises ValueError if they cannot be read."""
    encoding = encoding_of(transfer_syntax_uid)
    values = {}
    at = 0
    try:
        while at < len(data):
            header = read_header(data, at, encoding)
            at = skip_value(data, header, encoding, len(data))
            values[header.tag] = data[header.value_at : at].strip(b"\0 ").decode("ascii", "replace")
    except CutShort as error:
        raise ValueError(f"the identifier is cut short: {error}") from error
    return values


def encode_identifier(data_set: Dataset, transfer_syntax_uid: str) -> bytes:
    """The bytes of a data set in the transfer syntax of its presentation context; raises SourceError."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    encoding = encoding_of(transfer_syntax_uid)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = not encoding.explicit, not encoding.big_endian
    try:
        write_dataset(file, data_set)
    except Exception as error:  # pydicom raises any type, with a traceback below the first line
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SourceError(f"the data set cannot be encoded: {reason}") from error
    encoded = file.getvalue()
    return deflated(encoded) if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else encoded


def decode_identifier(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """The data set that a peer sent in this transfer syntax; raises ValueError if it cannot be read."""
    from pydicom.filereader import read_dataset

    encoding = encoding_of(transfer_syntax_uid)
    try:
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            data = inflated(data, MESSAGE_BYTES)
        _check_whole(data, encoding)  # pydicom takes what there is of a value that is cut off
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote what the peer has sent, as it is
            return read_dataset(BytesIO(data), not encoding.explicit, not encoding.big_endian)
    except Exception as error:
        raise ValueError(f"the data set cannot be decoded: {error}".partition("\n")[0]) from error


def _check_whole(data: bytes, encoding: Encoding) -> None:
    at = 0
    while at < len(data):
        at = skip_value(data, read_header(data, at, encoding), encoding, len(data))
