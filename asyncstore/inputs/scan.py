"""Every instance in files and directories, one by one, without sending any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.inputs.walk import AnyPath, walk
from asyncstore.instances.head import read_head

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.problem import ScanProblem


def scan(
    roots: AnyPath | Iterable[AnyPath], *, recursive: bool = True
) -> Generator[Instance | ScanProblem, None, None]:
    """Every instance in files and directories, and every file that is none, as they are met.

    `roots` is one path or an iterable of them. A file given by name counts like one that was found in a directory.
    Never raises for what is on the disk.
    """
    for found in walk(roots, recursive=recursive):
        yield read_head(found, regular=True) if isinstance(found, str) else found
