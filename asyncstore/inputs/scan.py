"""Lists the instances in files, directories and archives."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from asyncstore.inputs.contents import found_in
from asyncstore.inputs.entry import entries_of, is_one
from asyncstore.inputs.selection import Choice, Selection
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ScanProblem

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from asyncstore.inputs.entry import Source
    from asyncstore.inputs.opening import AnyPath


def scan(
    roots: AnyPath | Iterable[AnyPath], *, recursive: bool = True, selection: Selection | None = None
) -> Generator[Instance | ScanProblem, None, None]:
    """Yield each instance in files and directories, and a ScanProblem for each file that cannot be sent.

    `roots` is one path or an iterable of them; a path may also be that of a ZIP or TAR archive, or of a DICOMDIR, which
    is opened. `recursive` includes subdirectories. `selection` leaves files out, or sorts them. Files come in the order
    of the walk otherwise, and nothing is kept of them; but an instance of a small file, or of up to 1 MiB in a
    `.tar.gz`, holds its bytes until `let_go`. Blocks while it reads. Never raises because of a file or directory.
    """
    choice = None if selection is None else Choice.of(selection)
    sources = cast("Iterable[Source]", (roots,) if is_one(roots) else roots)
    for _, found in found_in(entries_of(sources, recursive=recursive, walked={}, choice=choice), choice):
        if isinstance(found, Instance | ScanProblem):
            yield found
