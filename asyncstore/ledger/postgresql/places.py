"""Where files are: what a process calls them, and what the ledger does.

The ledger has a directory below a root, which ends in a slash, and the rest of the name. A root may lie elsewhere on
each host. That of storescu is the root directory itself, and has no name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from asyncstore.ledger.packing import PATH_ENCODING, ledger_path, uid_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY: Final = b"\0"
"""The first byte of the name of an instance that has no file."""


class Places:
    """The names of the files below one root, as this process sees them.

    `mounts` has the path of each root that files may come from, by its number. One without a path is "", and its
    files have absolute paths.
    """

    def __init__(self, root: int, mounts: Mapping[int, str], working_directory: str) -> None:
        self.root: int = root
        self.roots: list[int] = list(mounts)
        self._prefixes = {number: _prefix_of(mount) for number, mount in mounts.items()}
        self._own = self._prefixes[root]
        self._working_directory = working_directory
        self._last: tuple[str, bytes] = ("", b"")  # neighbours share their directory

    def key(self, path: str | None, uid: str = "") -> tuple[bytes, bytes]:
        """The directory and the name under which the ledger has a file, or an instance from memory."""
        if path is None:
            return b"", MEMORY + uid_bytes(uid)
        path = ledger_path(path, self._working_directory)
        end = path.rfind("/") + 1
        directory = path[:end]
        last = self._last  # other threads look up, too
        if directory != last[0]:
            last = self._last = directory, os.fsencode(directory).removeprefix(self._own)
        return last[1], path[end:].encode(*PATH_ENCODING)

    def absolute(self, path: str) -> str:
        """A path as `path_of` gives it."""
        return ledger_path(path, self._working_directory)

    def path_of(self, root: int, directory: bytes, name: bytes) -> str | None:
        """The path of a file in the ledger; None for an instance from memory."""
        return None if name.startswith(MEMORY) else os.fsdecode(self._prefixes[root] + directory + name)


def _prefix_of(mount: str) -> bytes:
    return os.fsencode(mount.rstrip("/")) + b"/" if mount else b""
