"""Sources of instances before they are opened: a file by its path, an Instance, a pydicom Dataset.

The feed uses only what `Entry` declares, so another kind of source is one more class here.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

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
    from asyncstore.inputs.selection import Choice
    from asyncstore.inputs.walk import Walked

Source: TypeAlias = "AnyPath | Instance | ScanProblem | Dataset"
"""Anything that can be sent: a path, a result of `scan`, or a pydicom Dataset.

The path is that of a file, a directory, a ZIP or TAR archive, a member of one (`study.zip!/CT/1.dcm`), or a DICOMDIR.
"""

Found: TypeAlias = Instance | ScanProblem | Outcome


class Entry(Protocol):
    """One source that may contain an instance.

    `name` is its path, None in memory. `is_named` says that the user named it: it is a failure then if it contains no
    instance, but not if it was found in a directory. `instance` is the Instance, if it is known already. `may_contain`
    says that it may turn out to be an archive or a DICOMDIR.
    """

    @property
    def name(self) -> str | None: ...

    @property
    def is_named(self) -> bool: ...

    @property
    def instance(self) -> Instance | None: ...

    @property
    def may_contain(self) -> bool: ...

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
    may_contain = True

    def __init__(self, name: str, *, is_named: bool = False) -> None:
        self.name: str = name
        self.is_named: bool = is_named
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

    may_contain = True  # a path that was not found may name a member of an archive

    def __init__(self, found: Found, *, is_named: bool = False) -> None:
        self.name: str | None = found.path
        self.is_named: bool = is_named
        self.instance: Instance | None = found if isinstance(found, Instance) else None
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
    may_contain = False

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
    sources: Iterable[Source | Outcome],
    *,
    recursive: bool,
    walked: Walked | None = None,
    choice: Choice | None = None,
) -> Iterator[Entry]:
    """The entries of sources, and of the directories among them, that `choice` takes, in its order.

    Blocks as the walk does; see `walk` for `walked`.
    """
    order = "found" if choice is None else choice.order
    entries = _entries_as_found(sources, recursive=recursive, walked=walked, choice=choice, is_sorted=order == "path")
    return _sorted(entries, order) if order in _SORT_KEYS else entries


def _entries_as_found(
    sources: Iterable[Source | Outcome],
    *,
    recursive: bool,
    walked: Walked | None,
    choice: Choice | None,
    is_sorted: bool,
) -> Iterator[Entry]:
    for source in sources:
        if isinstance(source, str | bytes | os.PathLike):
            name = os.fsdecode(source)
            found = walk(name, recursive=recursive, walked=walked, is_sorted=is_sorted)
            for first in found:  # a root that is a file, or cannot be walked, is all that its walk gives
                path = first.path if isinstance(first, ScanProblem) else first
                entry = _entry(first, is_named=path == name)
                if choice is None:
                    yield entry
                    for each in found:
                        yield FileEntry(each) if type(each) is str else _entry(each)
                else:
                    yield from _chosen(name, itertools.chain([entry], map(_entry, found)), choice)
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
    if is_data_set(sources) or isinstance(sources, str | bytes | os.PathLike | Instance | ScanProblem):
        return True  # a Dataset is iterable too
    return not hasattr(sources, "__iter__") and not hasattr(sources, "__aiter__")


def is_data_set(source: Any) -> bool:
    """Whether this is a pydicom Dataset."""
    # While pydicom is not loaded there cannot be one.
    pydicom = sys.modules.get("pydicom")
    return pydicom is not None and isinstance(source, pydicom.Dataset)


_SORT_KEYS: Final[dict[str, int]] = {"largest": 0, "newest": 1}  # -> the part of a stamp


def _sorted(entries: Iterable[Entry], order: str) -> Iterator[Entry]:
    """All entries, those with the highest size or time first; those that have none come last, in their order."""
    part = _SORT_KEYS[order]

    def key(entry: Entry) -> int:
        stamp = entry.stamp()
        return 1 if stamp is None else -stamp[part]

    waiting = sorted(entries, key=key)
    waiting.reverse()
    while waiting:
        yield waiting.pop()


def _chosen(root: str, entries: Iterable[Entry], choice: Choice) -> Iterator[Entry]:
    """The entries at a root and below it that are taken; what is no file is not asked for."""
    below = len(os.path.join(root, ""))
    for entry in entries:
        if type(entry) is not FileEntry:
            yield entry
        else:
            relative = os.path.basename(entry.name) if entry.is_named else entry.name[below:]
            if choice.takes_file(entry.name, relative, entry.stamp, is_named=entry.is_named):
                yield entry


def _entry(found: str | ScanProblem, *, is_named: bool = False) -> Entry:
    if isinstance(found, str):
        return FileEntry(found, is_named=is_named)
    return ReadyEntry(found, is_named=is_named)
