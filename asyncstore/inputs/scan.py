"""Lists the instances in files and directories."""

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
    """Yield each instance in files and directories, and a ScanProblem for each file that cannot be sent.

    `roots` is one path or an iterable of them. Files come in the order of the walk, and nothing is kept of them. Blocks
    while it reads. Never raises because of a file or directory.
    """
    for found in walk(roots, recursive=recursive):
        yield read_head(found, regular=True) if isinstance(found, str) else found
