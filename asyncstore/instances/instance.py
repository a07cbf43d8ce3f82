"""One SOP Instance, on disk or in memory: who it is, and where its bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

    def let_go(self) -> None:
        """Keep none of the file's bytes in memory: they are read from the file again when they are needed."""
        self.source.let_go()
