"""Prints what was put into batches for many hosts: as text, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.cli.output.plain_text import count_text, path_text, peer_text, size_text
from asyncstore.cli.output.records import event_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.cluster.tables import Totals

_PROBLEMS: Final = 20


class Enqueued(NamedTuple):
    """What a migration has after its roots were walked."""

    name: str
    destination: str
    totals: Totals
    new_batches: int

    def lines(self) -> Iterator[str]:
        """The counts, for people."""
        totals = self.totals
        content = f"{count_text(totals.files, 'file')} ({size_text(totals.size_bytes)})"
        batches = f"{count_text(totals.batches, 'batch')}, {self.new_batches:,} of them new"
        yield f"Migration {self.name} to {peer_text(self.destination)}: {content} in {batches}"
        for path, files in totals.large:
            yield f"{path_text(path)}: {files:,} files in one directory are one batch, for one association"
        if totals.problems:
            yield "Not in a batch"
            yield from (f"  {path_text(problem)}" for problem in totals.problems[:_PROBLEMS])
        if len(totals.problems) > _PROBLEMS:
            yield f"  and {len(totals.problems) - _PROBLEMS:,} more: --json has all"

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        totals = self.totals
        return {
            "migration": self.name,
            "destination": self.destination,
            "batches": totals.batches,
            "new_batches": self.new_batches,
            "files": totals.files,
            "size_bytes": totals.size_bytes,
            "problems": totals.problems,
            "large_directories": [{"path": path, "files": files} for path, files in totals.large],
        }

    def json_line(self) -> str:
        """One line of JSON in ASCII."""
        return event_line("enqueued", self.to_dict())
