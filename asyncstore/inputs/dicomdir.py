"""The files that a DICOMDIR references (PS3.3 Annex F), found on disk as they were named, or as nearly as media allow.

A File ID is in capitals and has no extension (PS3.10 8.2, PS3.12). Copies of media have lower case, an extension that
somebody added, or the version that ISO 9660 adds (`IM000001.;1`).
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.inputs.entry import FileEntry, ReadyEntry
from asyncstore.instances.head import problem_of_error
from asyncstore.instances.problem import ProblemKind, ScanProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydicom import Dataset

_VERSION: Final = re.compile(r"\.?;\d+$")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_INACTIVE: Final = 0x0000  # Record In-use Flag
# Records of one series name files of one directory, one after another.
_LISTED_DIRECTORIES: Final = 16


class ReferencedEntry(FileEntry):
    """A file that a DICOMDIR references: it must hold an instance."""

    __slots__ = ()

    may_contain = False


def referenced_files(path: str) -> Iterator[tuple[str, FileEntry | ReadyEntry]]:
    """Yield each file that a DICOMDIR references, once, as its File ID and an entry.

    The entry of a file that is missing, or that is not below the directory of the DICOMDIR, gives a ScanProblem.
    Blocks: pydicom reads the whole DICOMDIR at first.
    """
    folder = _Folder(os.path.dirname(path))
    try:
        records = _records(path)
    except OSError as error:
        yield path, ReadyEntry(problem_of_error(path, error), is_named=True)
        return
    except Exception as error:  # pydicom raises any type, with a traceback below the first line
        reason = str(error).partition("\n")[0] or type(error).__name__
        detail = f"the DICOMDIR cannot be read: {reason}"
        yield path, ReadyEntry(ScanProblem(path, ProblemKind.UNREADABLE, detail, SourceError(detail)), is_named=True)
        return
    seen: set[str] = set()
    for record in records:
        parts = _file_id(record)
        name = "/".join(parts)
        if parts and name not in seen:
            seen.add(name)
            yield name, folder.entry(parts)


def _records(path: str) -> Sequence[Dataset]:
    from pydicom import dcmread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a medium with doubtful values is sent all the same
        directory = dcmread(path, force=True, specific_tags=["DirectoryRecordSequence"])
        records: Sequence[Dataset] = directory.get("DirectoryRecordSequence") or ()
        for record in records:
            record.get("ReferencedFileID")  # read now, while warnings are off
    return records


def _file_id(record: Dataset) -> list[str]:
    """The parts of the file that a record references; empty if it references none, or is not in use."""
    if record.get("RecordInUseFlag", None) == _INACTIVE:
        return []
    value = record.get("ReferencedFileID")
    if not value:
        return []
    text = value if isinstance(value, str) else "\\".join(map(str, value))
    return [part.strip() for part in text.replace("\\", "/").split("/")]


class _Folder:
    """The directory of a DICOMDIR, and the files below it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._real_path = os.path.realpath(path)
        self._listed: dict[str, dict[str, str]] = {}

    def entry(self, parts: list[str]) -> FileEntry | ReadyEntry:
        """The entry of a File ID."""
        named = os.path.join(self._path, *(part for part in parts if part))
        if not parts[0] or ".." in parts or _DRIVE.match(parts[0]):
            return self._problem("/".join(parts), "its name leads out of the directory of the DICOMDIR", errno.EACCES)
        path = self._path
        try:
            for part in parts:
                found = self._find(path, part)
                if found is None:
                    return self._problem(named, "the DICOMDIR references it, and it is missing", errno.ENOENT)
                path = os.path.join(path, found)
        except OSError as error:
            return ReadyEntry(problem_of_error(named, error), is_named=True)
        real_path = os.path.realpath(path)
        if os.path.commonpath((real_path, self._real_path)) != self._real_path:
            return self._problem(path, "a link leads out of the directory of the DICOMDIR", errno.EACCES)
        if not os.path.isfile(real_path):
            return self._problem(path, "the DICOMDIR references it, and it is not a file", errno.EINVAL)
        return ReferencedEntry(path, is_named=True)

    def _problem(self, path: str, detail: str, number: int) -> ReadyEntry:
        kind = ProblemKind.NOT_FOUND if number == errno.ENOENT else ProblemKind.UNREADABLE
        error = FileNotFoundError if number == errno.ENOENT else OSError
        return ReadyEntry(ScanProblem(path, kind, detail, error(number, detail, path)), is_named=True)

    def _find(self, directory: str, part: str) -> str | None:
        """The name in a directory that a part of a File ID means; None if there is none, or no single one."""
        listed = self._listed.get(directory)
        if listed is None:
            while len(self._listed) >= _LISTED_DIRECTORIES:
                del self._listed[next(iter(self._listed))]
            listed = self._listed[directory] = _names_by_key(os.listdir(directory or os.curdir))
        return next((listed[key] for key in _keys(part) if listed.get(key)), None)


def _keys(name: str) -> list[str]:
    """The forms of a name in which it is compared, the most exact one first."""
    folded = name.lower()
    plain = _VERSION.sub("", folded).rstrip(".")
    stem = plain.rpartition(".")[0]
    return [f"={name}", f"~{folded}", f"-{plain}", *([f"-{stem}", f"+{stem}"] if stem else [f"+{plain}"])]


def _names_by_key(names: list[str]) -> dict[str, str]:
    """The name of each form; an empty one where two names have it."""
    by_key: dict[str, str] = {}
    for name in sorted(names):
        folded = name.lower()
        plain = _VERSION.sub("", folded).rstrip(".")
        by_key[f"={name}"] = name
        for key in (f"~{folded}", f"-{plain}"):
            by_key[key] = name if by_key.get(key, name) == name else ""
        stem, dot, extension = plain.rpartition(".")
        if dot:
            key = f"+{stem}"
            if extension == "dcm":
                by_key[key] = name
            elif not by_key.get(key, "").lower().endswith(".dcm"):
                by_key[key] = name if by_key.get(key, name) == name else ""
    return by_key
