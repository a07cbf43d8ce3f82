"""One SOP Instance, on disk or in memory: its UIDs, and where its bytes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.record import record

if TYPE_CHECKING:
    from asyncstore.instances.source import DataSource


# Not frozen, although nothing should change one: building a frozen one costs three times as much, and there are
# millions of them. They are compared and hashed by identity.
@record(slots=True, eq=False)
class Instance:
    """A SOP Instance that can be sent. Its data set is not parsed and, unless the file is small, not read yet.

    `sop_class_uid`, `sop_instance_uid` and `transfer_syntax_uid` say what it is. `path` is the file exactly as on disk
    (os.fsencode gives the bytes back), or None for an instance in memory. `source` gives the bytes of the data set.
    `data_set_offset` is where the data set begins in the file, in bytes. `data_set_length` is the number of bytes to
    send; a deflated data set of odd length is sent with a padding byte that the file does not have (PS3.5 A.5).
    `size_bytes` and `mtime_ns` are the file's. `study_instance_uid` and `series_instance_uid` are None unless known.

    `meta_difference` is a sentence for the user if the File Meta Information contradicts the data set or itself, or if
    the data set lacks a UID or has one that is not well-formed, else None. The UIDs here are those of the data set if
    it has any, since a peer compares them with the data set (PS3.4 B.2.3). The sentence ends with the one that is used.
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
    study_instance_uid: str | None
    series_instance_uid: str | None
    meta_difference: str | None

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        path: str | None,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        data_set_offset: int,
        data_set_length: int,
        source: DataSource,
        size_bytes: int,
        mtime_ns: int,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
        meta_difference: str | None = None,
    ) -> None:
        self.path = path
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.data_set_offset = data_set_offset
        self.data_set_length = data_set_length
        self.source = source
        self.size_bytes = size_bytes
        self.mtime_ns = mtime_ns
        self.study_instance_uid = study_instance_uid
        self.series_instance_uid = series_instance_uid
        self.meta_difference = meta_difference

    def let_go(self) -> None:
        """Free the memory that holds bytes of the file. They are read from the file again when needed."""
        self.source.let_go()
