"""Encodes and decodes the small data sets of queries and of storage commitment, with pydicom."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING

from asyncstore.errors import SourceError
from asyncstore.instances.elements import encoding_of
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


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
    if transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return encoded
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(encoded) + deflate.flush()
    return deflated + b"\0" * (len(deflated) % 2)  # PS3.5 A.5


def decode_identifier(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """The data set that a peer sent in this transfer syntax; raises ValueError if it cannot be read."""
    from pydicom.filereader import read_dataset

    encoding = encoding_of(transfer_syntax_uid)
    try:
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
        return read_dataset(BytesIO(data), not encoding.explicit, not encoding.big_endian)
    except Exception as error:
        raise ValueError(f"the data set cannot be decoded: {error}".partition("\n")[0]) from error
