"""The paths that the user names, and what to say when there is nothing to send in them."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.plain_text import count_text, path_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_REMEMBERED: Final = 1000
# Of a directory with a million files on a slow share, not all are listed once more only to tell of subdirectories.
_LOOKED_INTO: Final = 100
_MOST_ENTRIES: Final = 10_000


class NamedPaths:
    """Paths from the command line, and from a list that is read as the run goes on.

    `count` is the number of those that were read so far; `first` are the first of them. `given` are those from the
    command line. `list_name` is the name of the list, None if there is none, and `ends_in_nul` says how its paths end.
    """

    def __init__(
        self,
        paths: list[str],
        listed: Iterator[str] | None = None,
        *,
        list_name: str | None = None,
        ends_in_nul: bool = False,
    ) -> None:
        self.list_name = list_name
        self.ends_in_nul = ends_in_nul
        self.count: int = len(paths)
        self.first: list[str] = list(paths)
        self.given = paths
        self._listed = listed

    def sources(self) -> Iterable[str]:
        """The paths, for a Transfer. Can be called once if there is a list."""
        return self.given if self._listed is None else self._read(self._listed)

    def _read(self, listed: Iterator[str]) -> Iterator[str]:
        yield from self.given
        for path in listed:
            self.count += 1
            if len(self.first) < _REMEMBERED:
                self.first.append(path)
            yield path


def why_nothing(paths: NamedPaths, *, skipped: int, left_out: int, recursive: bool) -> str:
    """Why there is nothing to send, if none of these paths was a problem.

    `skipped` files in them are not DICOM, and the selection has left out `left_out` others.
    """
    if not paths.count:
        return "no path was given"
    where = path_text(paths.first[0]) if paths.count == 1 else f"the {paths.count:,} directories"
    if left_out:
        others = f", {count_text(skipped, 'other')} not DICOM" if skipped else ""
        return f"{count_text(left_out, 'file')} in {where} left out by the selection{others}"
    has_more = not recursive and any(map(_has_subdirectory, paths.first))
    if skipped:
        what = f"{count_text(skipped, 'file')} in {where}, but no DICOM instance"
        return f"{what}; -r includes subdirectories" if has_more else what
    return f"only subdirectories in {where}: -r includes them" if has_more else f"no files in {where}"


def why_not_all(paths: NamedPaths) -> Iterator[str]:
    """A line about what a run without -r did not read; none if there is nothing, or if it would take long to know."""
    above = [path for path in paths.first[:_LOOKED_INTO] if _has_subdirectory(path)]
    if above:
        where = path_text(above[0]) if len(above) == 1 else f"{len(above):,} directories"
        yield f"Subdirectories of {where} were not read: -r includes them"


def _has_subdirectory(path: str) -> bool:
    """Whether there is one among the first entries of a directory."""
    try:
        with os.scandir(path) as entries:
            return any(entry.is_dir() for entry in itertools.islice(entries, _MOST_ENTRIES))
    except (OSError, ValueError):  # a name with a NUL: there is no such directory
        return False
