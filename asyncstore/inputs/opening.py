"""Turns whatever a caller hands over into the Instance that it is: a path, a pydicom Dataset, the bytes of a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from asyncstore.errors import MissingUID
from asyncstore.instances.head import error_of, read_head
from asyncstore.instances.identity import Refused, identify, identify_data_set
from asyncstore.instances.instance import Instance
from asyncstore.instances.source import BytesSource
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, can_be_sent

if TYPE_CHECKING:
    from pydicom import Dataset

AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
"""The path of a file or directory, in any form that `open` takes."""


def instance_from(source: Instance | Dataset | AnyPath) -> Instance:
    """The instance in a file, or the one that a pydicom Dataset is; an Instance is given back as it is.

    Blocks. A Dataset is encoded now, and left as it is: in the transfer syntax of its File Meta Information, else in
    the one it was read in, else in Explicit VR Little Endian.

    Raises NotDicom or MissingUID when the file holds no instance, OSError when it cannot be read. Of a Dataset raises
    MissingUID, also where a UID cannot be sent, or SourceError when it has a value that cannot be encoded, or
    compressed pixel data and no transfer syntax that says how. Raises TypeError for anything else.
    """
    if isinstance(source, Instance):
        return source
    if isinstance(source, str | bytes | os.PathLike):
        found = read_head(os.fsdecode(source))
        if isinstance(found, Instance):
            return found
        raise found.error
    from asyncstore.preparation.dataset import instance_of_dataset

    return _checked(instance_of_dataset(source))


def instance_from_bytes(data: bytes | bytearray | memoryview, *, transfer_syntax_uid: str | None = None) -> Instance:
    """The instance in memory: all that a DICOM file holds, or only a data set of the transfer syntax named.

    Raises NotDicom or MissingUID.
    """
    data = bytes(data)
    try:
        if transfer_syntax_uid is None:
            identity = identify(data, len(data), complete=True)
        else:
            identity = identify_data_set(data, 0, len(data), {}, transfer_syntax_uid, True)
    except Refused as refused:
        raise error_of(refused, "the data in memory") from None
    begin = identity.data_set_at
    length = len(data) - begin
    if length % 2 and identity.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data += b"\0"
        length += 1
    held = BytesSource(data, begin, length)
    instance = Instance(None, *identity[:3], begin, length, held, len(data), 0, None, None, identity.meta_difference)
    return _checked(instance)


def _checked(instance: Instance) -> Instance:
    """An instance whose UIDs can be sent, as those of a file always are."""
    uids = {
        "SOP Class": instance.sop_class_uid,
        "SOP Instance": instance.sop_instance_uid,
        "Transfer Syntax": instance.transfer_syntax_uid,
    }
    for name, uid in uids.items():
        if not can_be_sent(uid):
            raise MissingUID(f"the {name} UID {uid[:80]!r} is not 1 to 64 visible ASCII characters without a backslash")
    return instance
