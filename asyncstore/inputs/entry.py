"""Sources of instances before they are opened: a file by its path, an Instance, a pydicom Dataset.

The feed uses only what `Entry` declares, so another kind of source is one more class here.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from asyncstore.errors import SourceError
from asyncstore.inputs.walk import walk
from asyncstore.instances import head
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, source_problem
from asyncstore.instances.problem import ScanProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom.dataset import Dataset

    from asyncstore.inputs.opening import AnyPath
    from asyncstore.inputs.walk import Walked

Source: TypeAlias = "AnyPath | Instance | ScanProblem | Dataset"
"""Anything that can be sent: the path of a file or directory, a result of `scan`, or a pydicom Dataset."""

Found: TypeAlias = Instance | ScanProblem | Outcome


class Entry(Protocol):
    """One source that may contain an instance.

    `name` is its path, None in memory. `is_named` says that the user named it: it is a failure then if it contains no
    instance, but not if it was found in a directory. `instance` is the Instance, if it is known already.
    """

    @property
    def name(self) -> str | None: ...

    @property
    def is_named(self) -> bool: ...

    @property
    def instance(self) -> Instance | None: ...

    def stamp(self) -> tuple[int, int] | None:
        """Size in bytes and modification time in ns: while both stay the same, so does the entry. None if it has none.

        Blocks.
        """

    def begin_reading(self) -> None:
        """Have the system read the beginning in the background. Blocks while the file is opened."""

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Found | None:
        """The instance or problem in it. If that would block: None with `wait=False`, else `missed` gets the name."""

    def close(self) -> None:
        """Close what `begin_reading` opened, if `read_head` was not called."""


class FileEntry:
    """A regular file."""

    __slots__ = ("_fd", "is_named", "name")

    instance: Instance | None = None

    def __init__(self, name: str, *, is_named: bool = False) -> None:
        self.name = name
        self.is_named = is_named
        self._fd = -1

    def stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.name)
        except (OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns

    def begin_reading(self) -> None:
        self._fd = head.open_head(self.name)

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Found | None:
        fd, self._fd = self._fd, -1
        return head.read_head(self.name, wait=wait, missed=missed, regular=True, fd=fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class ReadyEntry:
    """An Instance, or a problem, that needs no more reading."""

    __slots__ = ("_found", "instance", "is_named", "name")

    def __init__(self, found: Found, *, is_named: bool = False) -> None:
        self.name = found.path
        self.is_named = is_named
        self.instance = found if isinstance(found, Instance) else None
        self._found = found

    def stamp(self) -> tuple[int, int] | None:
        return None if self.instance is None else (self.instance.size_bytes, self.instance.mtime_ns)

    def begin_reading(self) -> None:
        """Nothing to do."""

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Found | None:
        return self._found

    def close(self) -> None:
        """Nothing to do."""


class DataSetEntry:
    """A pydicom Dataset, which a thread must encode."""

    __slots__ = ("_data_set",)

    name: str | None = None
    is_named = False
    instance: Instance | None = None

    def __init__(self, data_set: Dataset) -> None:
        self._data_set = data_set

    def stamp(self) -> tuple[int, int] | None:
        return None

    def begin_reading(self) -> None:
        """Nothing to do."""

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Found | None:
        return encoded(self._data_set) if wait else None  # TypeError for anything but a Dataset

    def close(self) -> None:
        """Nothing to do."""


def entries_of(
    sources: Iterable[Source | Outcome], *, recursive: bool, walked: Walked | None = None
) -> Iterator[Entry]:
    """The entries of sources, and of the directories among them. Blocks as the walk does; see `walk` for `walked`."""
    for source in sources:
        if isinstance(source, str | bytes | os.PathLike):
            name = os.fsdecode(source)
            found = walk(name, recursive=recursive, walked=walked)
            for first in found:  # a root that is a file, or cannot be walked, is all that its walk gives
                path = first.path if isinstance(first, ScanProblem) else first
                yield _entry(first, is_named=path == name)
                for each in found:
                    yield FileEntry(each) if type(each) is str else _entry(each)
        elif isinstance(source, Instance | ScanProblem | Outcome):
            yield ReadyEntry(source)
        else:
            yield DataSetEntry(source)


def encoded(data_set: Dataset) -> Instance | Outcome:
    """A Dataset encoded as it is now, or an outcome that says what is wrong with it. Blocks."""
    from asyncstore.inputs.opening import instance_from

    try:
        return instance_from(data_set)
    except (SourceError, OSError) as error:
        return source_problem(error, None)


def is_one(sources: object) -> bool:
    """Whether this is one source, and not an iterable of them."""
    # A Dataset is iterable too.
    return is_data_set(sources) or isinstance(sources, str | bytes | os.PathLike | Instance | ScanProblem)


def is_data_set(source: Any) -> bool:
    """Whether this is a pydicom Dataset."""
    # While pydicom is not loaded there cannot be one.
    pydicom = sys.modules.get("pydicom")
    return pydicom is not None and isinstance(source, pydicom.Dataset)


def _entry(found: str | ScanProblem, *, is_named: bool = False) -> Entry:
    if isinstance(found, str):
        return FileEntry(found, is_named=is_named)
    return ReadyEntry(found, is_named=is_named)
