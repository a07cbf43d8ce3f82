"""Walks files and directories and yields paths one by one, without listing or sorting them first.

Paths and problems come in one stream, so a caller can send the first file while the walk goes on. Nothing is kept of a
file. The identity of each directory is kept, so that none is walked twice, whatever the symbolic links and however the
roots overlap.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, TypeAlias

from asyncstore.instances.head import problem_of_error
from asyncstore.instances.problem import ProblemKind, ScanProblem

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from asyncstore.inputs.opening import AnyPath

Walked: TypeAlias = "dict[tuple[int, int], int]"
"""The directories that were walked, by device and inode number, each with its change time at that moment."""


def walk(
    roots: AnyPath | Iterable[AnyPath], *, recursive: bool, walked: Walked | None = None, is_sorted: bool = False
) -> Generator[str | ScanProblem, None, None]:
    """Yield the path of every regular file under the roots, and a problem for anything else or unreadable.

    Paths are exactly as on disk: os.fsencode gives the bytes back. A root may be a symbolic link. Links to files are
    followed, and links to directories if `recursive`, but no directory is walked twice. Without `recursive` only the
    files directly in a directory are yielded. `walked` remembers directories between calls.

    With `is_sorted` each directory gives its files by name and then its subdirectories by name; its names are in memory
    at once.
    """
    walked = {} if walked is None else walked
    # A str is iterable too, and its first character may be the root directory.
    for root in (roots,) if isinstance(roots, str | bytes | os.PathLike) else roots:
        path = os.fsdecode(root)
        found = _look(path)
        if isinstance(found, _Directory):
            yield from _walk_directory(found, recursive, walked, is_sorted)
        else:
            yield found


class _Directory(str):
    """The path of a directory that must still be walked."""

    __slots__ = ()


def _look(path: str) -> str | _Directory | ScanProblem:
    """The file, directory or problem at a path; follows symbolic links."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return problem_of_error(path, error)
    if stat.S_ISREG(mode):
        return path
    if stat.S_ISDIR(mode):
        return _Directory(path)
    what = _NAMES_OF_TYPES.get(stat.S_IFMT(mode), "something that is not a file")
    return ScanProblem(path, ProblemKind.NOT_A_FILE, f"it is {what}", OSError(f"{path!r} is {what}"))


_NAMES_OF_TYPES = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def _walk_directory(
    root: str, recursive: bool, walked: Walked, is_sorted: bool
) -> Generator[str | ScanProblem, None, None]:
    # Below one root the change time does not matter: links may form a loop through a directory that changes meanwhile.
    walked_below: set[tuple[int, int]] = set()
    # Directories wait in a list and only one is open at a time, so a deep tree does not use up the file descriptors.
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            status = os.stat(directory)
            identity = (status.st_dev, status.st_ino)
            # A caller may yield roots for weeks, and a new directory may get the number of a removed one.
            if identity in walked_below or walked.get(identity) == status.st_ctime_ns:
                continue
            walked_below.add(identity)
            walked[identity] = status.st_ctime_ns
            with os.scandir(directory) as entries:
                first_waiting = len(waiting)
                for entry in sorted(entries, key=_name_of) if is_sorted else entries:
                    try:
                        if entry.is_file(follow_symlinks=False):
                            yield entry.path
                        elif not entry.is_dir(follow_symlinks=False):
                            # A link, or something that is not a file: worth a look of its own.
                            found = _look(entry.path)
                            if not isinstance(found, _Directory):
                                yield found
                            elif recursive:
                                waiting.append(found)
                        elif recursive:
                            waiting.append(entry.path)
                    except OSError as error:  # some file systems need a system call to tell the type
                        yield problem_of_error(entry.path, error)
                if is_sorted:  # the last one is walked next
                    waiting[first_waiting:] = reversed(waiting[first_waiting:])
        except OSError as error:
            yield problem_of_error(directory, error)


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name
