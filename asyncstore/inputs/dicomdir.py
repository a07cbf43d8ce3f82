"""The files that a DICOMDIR references (PS3.3 Annex F), found on disk as they were named, or as nearly as media allow.

A File ID is in capitals and has no extension (PS3.10 8.2, PS3.12). Copies of media have lower case, an extension that
somebody added, or the version that ISO 9660 adds (`IM000001.;1`).
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.inputs.archives.archive import Archive, member_path
from asyncstore.inputs.entry import FileEntry, ReadyEntry
from asyncstore.inputs.hash_set import HashSet
from asyncstore.instances import elements
from asyncstore.instances.elements import UNDEFINED_LENGTH, CutShort, Encoding, Header
from asyncstore.instances.head import problem_of_error
from asyncstore.instances.identity import data_set_in
from asyncstore.instances.problem import ProblemKind, ScanProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION: Final = re.compile(r"\.?;\d+$")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
# Records of one series name files of one directory, one after another.
_LISTED_DIRECTORIES: Final = 16
# A record takes about 500 bytes, so this is one of 500,000 images.
_LONGEST_BYTES: Final = 1 << 28
_LONGEST_FILE_ID: Final = 4096  # no path is longer, and so no longer one leads to a file

_RECORDS: Final = 0x00041220
_IN_USE_FLAG: Final = 0x00041410
_FILE_ID: Final = 0x00041500
_NOT_IN_USE: Final = b"\0\0"


class ReferencedEntry(FileEntry):
    """A file that a DICOMDIR references: it must hold an instance."""

    __slots__ = ()

    may_contain = False


def referenced_files(path: str) -> Iterator[tuple[str, FileEntry | ReadyEntry]]:
    """Yield each file that a DICOMDIR references, once, as its File ID and an entry.

    The entry of a file that is missing, or that is not below the directory of the DICOMDIR, gives a ScanProblem; so
    does a DICOMDIR that is damaged, behind the files that can be told. Blocks.
    """
    folder = _Folder(path)
    seen = HashSet()
    try:
        for parts in _file_ids(_content(path)):
            name = "/".join(parts)
            if seen.add(name):
                yield name, folder.entry(parts)
    except OSError as error:
        yield path, ReadyEntry(problem_of_error(path, error), is_named=True)
    except (SourceError, CutShort) as error:
        detail = f"the DICOMDIR cannot be read: {error}"
        yield path, ReadyEntry(ScanProblem(path, ProblemKind.UNREADABLE, detail, SourceError(detail)), is_named=True)


def _content(path: str) -> bytearray:
    """The bytes of a DICOMDIR."""
    file = Archive(path)
    if file.size_bytes > _LONGEST_BYTES:
        raise SourceError(f"it has {file.size_bytes:,} bytes, more than {_LONGEST_BYTES:,}")
    data = bytearray(file.size_bytes)
    if file.fill((memoryview(data),), 0) < len(data):
        raise SourceError("it was cut while it was read")
    return data


def _file_ids(data: bytearray) -> Iterator[list[str]]:
    """The parts of each File ID, in the order of the records; not of those that are not in use. Raises CutShort."""
    at, encoding = data_set_in(data, len(data))
    end = len(data)
    while at < end:
        header = elements.read_header(data, at, encoding)
        if header.tag == _RECORDS:
            yield from _in_records(data, header, encoding)
            return
        at = elements.skip_value(data, header, encoding, end)


def _in_records(data: bytearray, sequence: Header, encoding: Encoding) -> Iterator[list[str]]:
    at, end = sequence.value_at, _end_of(sequence, len(data))
    while at < end:
        item = elements.read_header(data, at, encoding)
        if item.tag == elements.SEQUENCE_DELIMITATION:
            return
        if item.tag != elements.ITEM:
            raise CutShort(f"an element stands where a record must, at byte {at}")
        record: dict[int, bytes] = {}
        cut: CutShort | None = None
        try:
            at = _read_record(record, data, item, encoding)
        except CutShort as error:
            cut = error
        file_id = record.get(_FILE_ID, b"").rstrip(b" \0")
        if file_id and record.get(_IN_USE_FLAG) != _NOT_IN_USE:
            yield [part.strip(" \0") for part in _text(file_id).replace("\\", "/").split("/")]
        if cut is not None:
            raise cut
    if sequence.length == UNDEFINED_LENGTH:
        raise CutShort("the records have no end")


def _read_record(record: dict[int, bytes], data: bytearray, item: Header, encoding: Encoding) -> int:
    """Add the beginnings of the values of a directory record; returns the offset behind it. Raises CutShort."""
    at, end = item.value_at, _end_of(item, len(data))
    while at < end:
        header = elements.read_header(data, at, encoding)
        if header.tag == elements.ITEM_DELIMITATION:
            return header.value_at
        at = elements.skip_value(data, header, encoding, min(end, len(data)))
        if header.tag in (_FILE_ID, _IN_USE_FLAG):
            record[header.tag] = bytes(data[header.value_at : min(at, header.value_at + _LONGEST_FILE_ID)])
    if item.length == UNDEFINED_LENGTH:
        raise CutShort("a record has no end")
    return end


def _end_of(header: Header, end: int) -> int:
    return end if header.length == UNDEFINED_LENGTH else header.value_at + header.length


def _text(file_id: bytes) -> str:
    """A File ID, which should be ASCII, as file systems have it, or as older programs wrote it."""
    try:
        return file_id.decode("utf-8")
    except UnicodeDecodeError:
        return file_id.decode("latin-1")


class _Folder:
    """The directory of a DICOMDIR, and the files below it."""

    def __init__(self, dicomdir: str) -> None:
        self._dicomdir = dicomdir
        self._path = path = os.path.dirname(dicomdir)
        self._real_path = os.path.realpath(path)
        self._listed: dict[str, dict[str, str]] = {}

    def entry(self, parts: list[str]) -> FileEntry | ReadyEntry:
        """The entry of a File ID."""
        named = os.path.join(self._path, *(part for part in parts if part))
        if not parts[0] or ".." in parts or _DRIVE.match(parts[0]):
            # Not the path itself: whoever sends what has failed once more would send what lies there.
            inner = member_path(self._dicomdir, "/".join(parts))
            return self._problem(inner, "its name leads out of the directory of the DICOMDIR", errno.EACCES)
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
