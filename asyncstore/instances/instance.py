"""One SOP Instance, on disk or in memory: who it is, and where its bytes are."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncstore.errors import MissingUID
from asyncstore.uids import can_be_sent

if TYPE_CHECKING:
    from pydicom import Dataset

    from asyncstore.errors import SourceError
    from asyncstore.instances.source import DataSource


# Not frozen, although nothing should change one: building a frozen one costs three times as much, and there are
# millions of them. Compared and hashed by identity.
@dataclass(slots=True, eq=False)
class Instance:
    """A SOP Instance that can be sent; its data set is not parsed and, unless the file is small, not read yet.

    `path` is the file exactly as on disk (os.fsencode gives the bytes back), or None for one in memory.
    `data_set_offset` is where the data set begins in the file, `data_set_length` how many bytes are sent: one more
    than the file holds where a deflated stream of odd length takes its padding byte (PS3.5 A.5). `size_bytes` and
    `mtime_ns` are the file's. The study and series are named only where they are known. `meta_difference` is None, or
    a sentence for the user when the File Meta Information names another SOP class or instance than the data set: the
    data set's UIDs are the ones used here, since a peer compares them with the data set (PS3.4 B.2.3).
    """

    path: str | None
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    data_set_length: int
    source: DataSource
    size_bytes: int
    mtime_ns: int
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    meta_difference: str | None = None

    @classmethod
    def from_path(cls, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> Instance:
        """The instance in a file.

        Raises NotDicom or MissingUID when the file holds none, OSError when it cannot be read.
        """
        from asyncstore.instances.file_meta import read_head

        found = read_head(os.fsdecode(path))
        if isinstance(found, Instance):
            return found
        raise found.error

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, *, transfer_syntax_uid: str | None = None) -> Instance:
        """The instance in memory: all that a DICOM file holds, or only a data set of the transfer syntax named.

        Raises NotDicom or MissingUID.
        """
        from asyncstore.instances.file_meta import instance_of_bytes

        return _checked(instance_of_bytes(data, transfer_syntax_uid))

    @classmethod
    def from_dataset(cls, data_set: Dataset) -> Instance:
        """The instance that a pydicom Dataset is.

        It is encoded now, in the transfer syntax of its File Meta Information, else in the one it was read in, else in
        Explicit VR Little Endian. The Dataset is left as it is. Raises MissingUID, also where a UID is none that could
        be sent, or SourceError when it has a value that cannot be encoded, or compressed pixel data and no transfer
        syntax that says how.
        """
        from asyncstore.instances.convert import instance_of_dataset

        return _checked(instance_of_dataset(data_set))

    def let_go(self) -> None:
        """Keep none of the file's bytes in memory: they are read from the file again when they are needed."""
        self.source.let_go()


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


class ProblemKind(enum.Enum):
    """Why something that a scan met cannot be sent; the value is a sentence's beginning for the user."""

    NOT_DICOM = "not a DICOM file"
    DAMAGED = "a damaged DICOM file"
    MISSING_UID = "a UID is missing"
    DICOMDIR = "a DICOMDIR, which is not sent"
    NOT_FOUND = "not found"
    UNREADABLE = "cannot be read"
    NOT_A_FILE = "not a file"
    SYMLINK_LOOP = "a loop of symbolic links"
    CHANGED = "changed while it was read"


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """Something on the way that is not an instance: which path, of what kind, and what exactly.

    `detail` is one plain line without the path. `error` is what `Instance.from_path` raises for it.
    """

    path: str
    reason: ProblemKind
    detail: str
    error: SourceError | OSError
