"""Files that hold no instance but lead to some: archives, and the DICOMDIR of a medium.

They are recognised by their bytes, once a file has turned out to hold no instance: all other files cost nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.inputs.entry import ReadyEntry
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from asyncstore.inputs.archives.members import MemberEntry
    from asyncstore.inputs.archives.opening import MemberFinder
    from asyncstore.inputs.entry import Entry, Found
    from asyncstore.inputs.selection import Choice


# How many entries a ledger is asked about at once.
_ASKED_AT_ONCE: Final = 1024
# How many files a disk is asked for before the first of them must be there: a file system reads them in its own order.
_READ_AHEAD: Final = 64


@record(frozen=True, slots=True)
class Contents:
    """The entries that a file leads to.

    `in_order`: asking for the next entry may take long, and each must be read before that, or not at all.
    """

    entries: Iterator[Entry]
    in_order: bool


class Opener:
    """Opens the archives and DICOMDIRs that a run meets: those that the user named, or all if `choice` says so."""

    def __init__(self, choice: Choice | None) -> None:
        self._choice = choice
        self._finder: MemberFinder | None = None

    def contents_of(self, entry: Entry, found: Found) -> Contents | None:
        """What an entry leads to that was read and gave `found`; None for nearly all. Blocks for a moment."""
        if not isinstance(found, ScanProblem) or not entry.may_contain:
            return None
        reason = found.reason
        if reason is ProblemKind.NOT_DICOM:
            is_wanted = entry.is_named or (self._choice is not None and self._choice.archives)
            return self._archive(found.path) if is_wanted else None
        if not entry.is_named:
            return None
        if reason is ProblemKind.DICOMDIR:
            return self._dicomdir(found.path)
        return self._member(found) if reason is ProblemKind.NOT_FOUND and "!/" in found.path else None

    def _archive(self, path: str) -> Contents | None:
        from asyncstore.inputs.archives.opening import members_of

        try:
            members = members_of(path)
        except (OSError, SourceError):  # then it is what it seemed to be
            return None
        return None if members is None else Contents(self._chosen(members.entries), members.in_order)

    def _dicomdir(self, path: str) -> Contents:
        from asyncstore.inputs.dicomdir import referenced_files

        choice = self._choice
        files = (
            entry
            for relative, entry in referenced_files(path)
            if choice is None or choice.takes_file(entry.name or "", relative, entry.stamp)
        )
        return Contents(files, in_order=True)

    def _chosen(self, members: Iterable[MemberEntry | ScanProblem]) -> Iterator[Entry]:
        choice = self._choice
        for member in members:
            if isinstance(member, ScanProblem):
                yield ReadyEntry(member)
            elif choice is None or choice.takes_name(member.name, member.inner_name):
                yield member

    def _member(self, problem: ScanProblem) -> Contents | None:
        """The member that the user named; successive ones of an archive are found in one pass."""
        from asyncstore.inputs.archives.opening import MemberFinder

        if self._finder is None or not self._finder.fits(problem.path):
            self._finder = MemberFinder.of(problem.path)
        return None if self._finder is None else Contents(self._chosen(self._finder.find(problem.path)), in_order=True)


def found_in(
    entries: Iterator[Entry],
    choice: Choice | None,
    unsettled: Callable[[Iterator[Entry], int], Iterator[Entry]] | None = None,
) -> Iterator[tuple[Entry, Found]]:
    """Read the chosen ones of entries and of what they lead to, one after another. Blocks.

    `unsettled(entries, at_once)` yields those of some entries that are to be read, and may look ahead so far.
    """

    def read(some: Iterator[Entry], at_once: int) -> Iterator[tuple[Entry, Found | None]]:
        return _read(some if unsettled is None else unsettled(some, at_once), min(at_once, _READ_AHEAD))

    opener = Opener(choice)
    for entry, found in read(entries, _ASKED_AT_ONCE):
        contents = None if found is None else opener.contents_of(entry, found)
        if contents is None:
            chosen: Iterable[tuple[Entry, Found | None]] = [(entry, found)]
        else:
            chosen = read(contents.entries, 1 if contents.in_order else _ASKED_AT_ONCE)
        for each, what in chosen:
            if what is not None and (choice is None or not isinstance(what, Instance) or choice.takes_instance(what)):
                yield each, what


def _read(entries: Iterator[Entry], ahead: int) -> Iterator[tuple[Entry, Found | None]]:
    """Read entries in their order. While one waits for a disk, the next ones are asked for, `ahead` in all."""
    waiting: deque[tuple[Entry, Found | None]] = deque()
    for entry in entries:
        found = entry.read_head(wait=ahead == 1)
        if found is not None and not waiting:
            yield entry, found
            continue
        waiting.append((entry, found))
        if len(waiting) >= ahead:
            yield _read_now(*waiting.popleft())
        while waiting and waiting[0][1] is not None:
            yield waiting.popleft()
    for entry, found in waiting:
        yield _read_now(entry, found)


def _read_now(entry: Entry, found: Found | None) -> tuple[Entry, Found | None]:
    return entry, entry.read_head() if found is None else found
