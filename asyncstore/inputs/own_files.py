"""The files that a run itself writes: they may lie in a directory that it sends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.inputs.opening import AnyPath


class OwnFiles:
    """`path in own_files`: whether a path leads to one of these files, under its own name. Looks at the disk."""

    def __init__(self, paths: Iterable[AnyPath] = ()) -> None:
        self._paths: list[str] = []
        # A tree may hold a million files that are not DICOM: only those with the right name are worth a look.
        self._names: set[str] = set()
        self.add(paths)

    def add(self, paths: Iterable[AnyPath]) -> None:
        """Add some more; a single one may be given as it is."""
        for path in map(os.fsdecode, [paths] if isinstance(paths, str | bytes | os.PathLike) else paths):
            self._paths.append(path)
            self._names.add(os.path.basename(path))

    def __contains__(self, path: str) -> bool:
        return os.path.basename(path) in self._names and any(_is_same(path, own) for own in self._paths)


def _is_same(path: str, own: str) -> bool:
    try:
        return os.path.samefile(path, own)
    except (OSError, ValueError):
        return False
