"""Opens archives: tells by the first bytes what a file is, and gives its members."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from asyncstore.errors import SourceError
from asyncstore.inputs.archives.archive import Archive, Damaged, clean_name, refused_name, split_path, unreadable
from asyncstore.inputs.archives.inflate import GZIP, Inflater, Start
from asyncstore.inputs.archives.members import (
    DeflatedEntry,
    GzipStream,
    MemberEntry,
    RefusedEntry,
    StoredEntry,
    StreamedEntry,
    ZipEntry,
)
from asyncstore.inputs.archives.names import Names
from asyncstore.inputs.archives.tar_members import BLOCK_BYTES, TarMember, is_tar, tar_members
from asyncstore.inputs.archives.zip_members import STORED, ZipMember, is_zip, zip_members
from asyncstore.instances.head import problem_of_error, read_head
from asyncstore.instances.problem import PASSED_OVER, ProblemKind, ScanProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Member: TypeAlias = MemberEntry | ScanProblem


class Members(NamedTuple):
    """The members of an archive, and a ScanProblem at the end if it is damaged.

    `in_order`: each must be read before the next is asked for, or not at all.
    """

    entries: Iterator[Member]
    in_order: bool


def members_of(path: str) -> Members | None:
    """The members of the archive in a file; None if it is not an archive. Raises OSError."""
    archive = Archive(path)
    start = archive.read(0, BLOCK_BYTES)
    if is_zip(archive, start):
        return Members(_telling(archive, "ZIP", _in_zip), in_order=False)
    if is_tar(start):
        return Members(_telling(archive, "TAR", _in_tar), in_order=False)
    if start.startswith(b"\x1f\x8b") and _is_deflated_tar(archive):
        return Members(_telling(archive, "TAR", _in_stream), in_order=True)
    return None


def leads_to_others(path: str) -> bool:
    """Whether a file is an archive or a DICOMDIR. Blocks."""
    found = read_head(path)
    if not isinstance(found, ScanProblem) or found.reason not in PASSED_OVER:
        return False
    try:
        return found.reason is ProblemKind.DICOMDIR or members_of(path) is not None
    except (OSError, SourceError):
        return False


class MemberFinder:
    """Finds members of one archive by name. Looking for them in the order of the archive takes one pass over it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._members: Iterator[Member] = iter(())

    @classmethod
    def of(cls, path: str) -> MemberFinder | None:
        """The finder for the archive in which a path names a member; None if there is none."""
        for archive_path, _ in split_path(path):
            try:
                if members_of(archive_path) is not None:
                    return cls(archive_path)
            except (OSError, ValueError, SourceError):
                continue
        return None

    def fits(self, path: str) -> bool:
        """Whether a path names a member of this archive, which must be as it was."""
        return any(archive == self._path for archive, _ in split_path(path)) and _stamp(self._path) == self._stamp

    def find(self, path: str) -> Iterator[Member]:
        """Yield the member with this path, or a ScanProblem. It must be read before the next is looked for. Blocks."""
        name = clean_name(next(name for archive, name in split_path(path) if archive == self._path))
        problem: ScanProblem | None = None
        for _ in ("from where the last was found", "from the beginning"):
            for member in self._members:
                if isinstance(member, ScanProblem):
                    problem = member
                elif member.inner_name == name:
                    member.is_named = True
                    yield member
                    return
            try:
                members = members_of(self._path)
            except OSError as error:
                problem = problem_of_error(self._path, error)
            else:
                self._members = iter(()) if members is None else members.entries
        yield problem or _missing(path)


def find_member(path: str) -> Member | None:
    """The member that a path names, or a ScanProblem; None if it names none. Blocks."""
    finder = MemberFinder.of(path)
    return None if finder is None else next(finder.find(path))


def _telling(archive: Archive, kind: str, members: Callable[[Archive], Iterator[MemberEntry]]) -> Iterator[Member]:
    """The members, each with a name of its own, and a problem instead of an exception."""
    names = Names()
    try:
        for member in members(archive):
            name = names.own(member.inner_name)
            if name != member.inner_name:
                member.rename(name)
            yield member
    except Damaged as error:
        yield unreadable(archive.path, f"the {kind} archive is damaged: {error}")
    except OSError as error:
        yield problem_of_error(archive.path, error)


def _in_zip(archive: Archive) -> Iterator[MemberEntry]:
    for member in zip_members(archive):
        yield _zip_entry(archive, member)


def _zip_entry(archive: Archive, member: ZipMember) -> MemberEntry:
    refusal = refused_name(member.name) or member.refusal
    if refusal:
        return RefusedEntry(archive, member.name, refusal)
    return (ZipEntry if member.method == STORED else DeflatedEntry)(archive, member)


def _in_tar(archive: Archive) -> Iterator[MemberEntry]:
    for member in tar_members(archive.read):
        yield _refused(archive, member) or StoredEntry(archive, member.name, member.at, member.size_bytes)


def _in_stream(archive: Archive) -> Iterator[MemberEntry]:
    stream = GzipStream(archive)
    for member in tar_members(stream.read):
        yield _refused(archive, member) or StreamedEntry(archive, member, stream)
    stream.skip_rest()  # the CRC is at the end


def _refused(archive: Archive, member: TarMember) -> MemberEntry | None:
    refusal = refused_name(member.name) or member.refusal
    if refusal:
        return RefusedEntry(archive, member.name, refusal)
    return RefusedEntry(archive, member.name, member.other, is_other=True) if member.other else None


def _is_deflated_tar(archive: Archive) -> bool:
    try:
        return is_tar(Inflater(archive, Start(0, archive.size_bytes, GZIP)).read(BLOCK_BYTES))
    except Damaged:
        return False


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _missing(path: str) -> ScanProblem:
    detail = "the archive has no such member"
    return ScanProblem(path, ProblemKind.NOT_FOUND, detail, FileNotFoundError(2, detail, path))
