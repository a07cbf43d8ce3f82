"""What files and directories hold: counts by SOP class and transfer syntax, and what cannot be sent."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.plain_text import count_text, path_text, peer_text, size_text
from asyncstore.instances.instance import ProblemKind, ScanProblem
from asyncstore.instances.scan import scan
from asyncstore.transfer.plan import Plan
from asyncstore.uids import UNCOMPRESSED_TRANSFER_SYNTAXES, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.instances.instance import Instance
    from asyncstore.transfer.policy import TransferOptions

_EXAMPLES: Final = 5  # of each kind of problem or difference, paths enough to see what it is about

# What lies beside instances in any archive, and takes nothing away from it; a transfer passes over it, too.
_HARMLESS: Final = (ProblemKind.NOT_DICOM, ProblemKind.DICOMDIR, ProblemKind.NOT_A_FILE)


class Inventory:
    """Counts of what a scan finds; its size depends on how many kinds there are, not on how many files."""

    def __init__(self) -> None:
        self.instances: Counter[tuple[str, str]] = Counter()
        self.size_bytes: Counter[tuple[str, str]] = Counter()
        self.problems: Counter[ProblemKind] = Counter()
        self.examples: dict[ProblemKind, list[tuple[str, str]]] = {}
        self.differing = 0
        self.differences: list[tuple[str, str]] = []
        self.failed = 0

    def scan(self, sources: Iterable[str], *, recursive: bool) -> None:
        """Look at everything under the sources."""
        source = ""

        def begun() -> Iterator[str]:
            nonlocal source
            for source in sources:  # noqa: UP028  (the scan asks for the next one when it is through with this)
                yield source

        for found in scan(begun(), recursive=recursive):
            self.add(found, is_named=found.path == source)

    def add(self, found: Instance | ScanProblem, *, is_named: bool = False) -> None:
        """Count one thing that a scan has found: in a directory, or `is_named` as a source itself."""
        if isinstance(found, ScanProblem):
            self.problems[found.reason] += 1
            if is_named or found.reason not in _HARMLESS:
                self.failed += 1
            _keep(self.examples.setdefault(found.reason, []), found.path, found.detail)
        else:
            pair = (found.sop_class_uid, found.transfer_syntax_uid)
            self.instances[pair] += 1
            self.size_bytes[pair] += found.data_set_length
            if found.meta_difference is not None:
                self.differing += 1
                _keep(self.differences, found.path or "", found.meta_difference)

    @property
    def exit_code(self) -> ExitCode:
        """Whether everything could be read, and there is something to send; as a transfer would say it."""
        if self.failed:
            return ExitCode.SOME_FAILED
        return ExitCode.STORED if self.instances else ExitCode.NOTHING_TO_SEND

    # -- as text -------------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """A table of the instances; with examples, whose File Meta Information differs, and the problems."""
        total = count_text(self.instances.total(), "instance")
        yield f"{total}, {size_text(self.size_bytes.total())} of data sets"
        pairs = self.instances.most_common()
        width = max((len(f"{count:,}") for _, count in pairs), default=1)
        for pair, count in pairs:
            sop_class, syntax = (peer_text(name_of(uid)) for uid in pair)
            yield f"  {count:>{width},}  {size_text(self.size_bytes[pair]):>10}  {sop_class}, {syntax}"
        if self.differing:
            what = "the File Meta Information differs from the data set, which is used"
            yield f"{count_text(self.differing, 'instance')}: {what}"
            yield from _example_lines(self.differences, self.differing)
        for kind, count in self.problems.most_common():
            yield f"{count_text(count, 'file')}: {kind.value}"
            yield from _example_lines(self.examples[kind], count)

    def plan_lines(self, options: TransferOptions) -> Iterator[str]:
        """How the instances would be sent."""
        if not self.instances:
            return
        needed = [pair for pair, _ in self.instances.most_common()]
        associations = sum(1 for _ in Plan(options).proposals_for(needed))
        kinds = f"{count_text(len(needed), 'kind')} of instances"
        yield f"{kinds}, to be sent on {count_text(associations, 'association')} at least"
        compressed = sum(
            count for (_, syntax), count in self.instances.items() if syntax not in UNCOMPRESSED_TRANSFER_SYNTAXES
        )
        if compressed:
            yield f"{count_text(compressed, 'instance')} compressed: sent only where the peer accepts the syntax"

    # -- as JSON -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "instances": self.instances.total(),
            "bytes": self.size_bytes.total(),
            "kinds": [
                {
                    "sop_class_uid": pair[0],
                    "sop_class": name_of(pair[0]),
                    "transfer_syntax_uid": pair[1],
                    "transfer_syntax": name_of(pair[1]),
                    "instances": count,
                    "bytes": self.size_bytes[pair],
                }
                for pair, count in self.instances.most_common()
            ],
            "meta_differences": {"instances": self.differing, "examples": _example_data(self.differences)},
            "problems": [
                {
                    "problem": kind.name.lower().replace("_", "-"),
                    "files": count,
                    "examples": _example_data(self.examples[kind]),
                }
                for kind, count in self.problems.most_common()
            ],
        }

    def json_lines(self) -> Iterator[str]:
        """The inventory as one line of JSON."""
        yield json.dumps({"event": "inventory", **self.to_dict()}, separators=(",", ":"))


def _keep(examples: list[tuple[str, str]], path: str, detail: str) -> None:
    if len(examples) < _EXAMPLES:
        examples.append((path, detail))


def _example_lines(examples: list[tuple[str, str]], count: int) -> Iterator[str]:
    for path, detail in examples:
        yield f"  {path_text(path)}: {path_text(detail)}"
    if count > len(examples):
        yield f"  and {count - len(examples):,} more"


def _example_data(examples: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": path, "detail": detail} for path, detail in examples]
