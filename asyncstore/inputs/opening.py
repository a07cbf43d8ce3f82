"""Makes an Instance of what a caller has: a path, a pydicom Dataset, or the bytes of a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from asyncstore.errors import MissingUID
from asyncstore.instances.head import error_of, identity_in, read_head
from asyncstore.instances.identity import Refused, identify_data_set
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import BytesSource
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    LONGEST_INSTANCE_UID_CHARACTERS,
    LONGEST_UID_CHARACTERS,
    can_be_sent,
    can_be_sent_as_instance,
)

if TYPE_CHECKING:
    from pydicom import Dataset

AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
"""The path of a file or directory, in any form that `open` takes; or of a member of an archive, `study.zip!/1.dcm`."""


def instance_from(source: Instance | Dataset | AnyPath) -> Instance:
    """Make an Instance of a file or of a pydicom Dataset; an Instance is returned unchanged.

    `source` is one of these; a file is given by its path. Blocks. A Dataset is encoded now and not modified. Its
    transfer syntax is that of its File Meta Information, or else the one it was read in, or else Explicit VR Little
    Endian.

    For a file, raises NotDicom or MissingUID if it contains no instance, OSError if it cannot be read. For a Dataset,
    raises MissingUID if a UID is missing or cannot be sent, SourceError if a value cannot be encoded or if its pixel
    data is compressed and no transfer syntax says how. Raises TypeError for anything else.
    """
    if isinstance(source, Instance):
        return source
    if isinstance(source, str | bytes | os.PathLike):
        path = os.fsdecode(source)
        found = read_head(path)
        if isinstance(found, ScanProblem) and found.reason is ProblemKind.NOT_FOUND and "!/" in path:
            found = _member(path) or found
        if isinstance(found, Instance):
            return found
        raise found.error
    from asyncstore.preparation.dataset import instance_of_dataset

    return _checked(instance_of_dataset(source))


def instance_from_bytes(data: bytes | bytearray | memoryview, *, transfer_syntax_uid: str | None = None) -> Instance:
    """Make an Instance of bytes: those of a whole DICOM file or, with `transfer_syntax_uid`, of a data set alone.

    Raises NotDicom or MissingUID.
    """
    data = bytes(data)
    try:
        if transfer_syntax_uid is None:
            identity = identity_in(data, len(data), complete=True)
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


def _member(path: str) -> Instance | ScanProblem | None:
    """The instance or problem in the member of an archive that a path names; None if it names none."""
    from asyncstore.inputs.archives.opening import find_member

    member = find_member(path)
    return member if member is None or isinstance(member, ScanProblem) else member.read_head()


def _checked(instance: Instance) -> Instance:
    """The instance, if its UIDs can be sent; those of a file always can."""
    uids = (
        ("SOP Class", instance.sop_class_uid, LONGEST_UID_CHARACTERS, can_be_sent),
        ("SOP Instance", instance.sop_instance_uid, LONGEST_INSTANCE_UID_CHARACTERS, can_be_sent_as_instance),
        ("Transfer Syntax", instance.transfer_syntax_uid, LONGEST_UID_CHARACTERS, can_be_sent),
    )
    for name, uid, longest, is_sendable in uids:
        if not is_sendable(uid):
            characters = f"1 to {longest} visible ASCII characters without a backslash"
            raise MissingUID(f"the {name} UID {uid[:80]!r} is not {characters}")
    return instance
