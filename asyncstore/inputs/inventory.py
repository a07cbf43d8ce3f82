"""Counts the instances in files and directories by SOP class and transfer syntax, and the problems by kind."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from asyncstore.inputs.entry import entries_of
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import FOUND_EARLIER_STATES, Outcome, State
from asyncstore.instances.problem import PASSED_OVER, ProblemKind, ScanProblem
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.inputs.entry import Entry
    from asyncstore.inputs.feed import Settled
    from asyncstore.inputs.own_files import OwnFiles

_ASKED_AT_ONCE: Final = 1024
_EXAMPLES: Final = 5  # of each kind of problem or difference


class Inventory:
    """Counts of what a scan finds. Its memory grows with the number of kinds, not with the number of files.

    `instances` and `size_bytes` are by (SOP class UID, transfer syntax UID). `problems` are by kind, with some
    `examples` of each as (path, detail). `differing` counts instances whose File Meta Information contradicts the data
    set; `differences` has examples. `failed` counts paths that a transfer would count as a failure, `settled` the
    instances that a ledger has already, by their state, and `set_aside` those that an earlier run set aside.
    """

    def __init__(self) -> None:
        self.instances: Counter[tuple[str, str]] = Counter()
        self.size_bytes: Counter[tuple[str, str]] = Counter()
        self.problems: Counter[ProblemKind] = Counter()
        self.examples: dict[ProblemKind, list[tuple[str, str]]] = {}
        self.differing = 0
        self.differences: list[tuple[str, str]] = []
        self.failed = 0
        self.settled: Counter[State] = Counter()
        self.set_aside = 0

    def scan(
        self,
        sources: Iterable[str],
        *,
        recursive: bool,
        settled: Settled | None = None,
        own_files: OwnFiles | None = None,
    ) -> None:
        """Count everything under the sources, except `own_files`. Blocks.

        `settled` is that of a ledger, which then also says what an earlier run has stored.
        """
        entries = entries_of(sources, recursive=recursive, walked={})
        for entry in entries if settled is None else self._unsettled(entries, settled):
            found = entry.read_head()
            if isinstance(found, ScanProblem) and not entry.is_named and own_files and found.path in own_files:
                continue
            if isinstance(found, Instance | ScanProblem):
                self.add(found, is_named=entry.is_named)

    def _unsettled(self, entries: Iterator[Entry], settled: Settled) -> Iterator[Entry]:
        """Count the instances that a ledger has settled, and yield the other entries."""
        while asked := list(itertools.islice(entries, _ASKED_AT_ONCE)):
            for entry, outcome in zip(asked, settled(asked), strict=True):
                if isinstance(outcome, Outcome) and outcome.is_set_aside:
                    self.set_aside += 1
                elif isinstance(outcome, Outcome) and outcome.state in FOUND_EARLIER_STATES:
                    self.settled[outcome.state] += 1
                else:
                    yield entry

    def add(self, found: Instance | ScanProblem, *, is_named: bool = False) -> None:
        """Count one result of a scan; `is_named` says that its path was a source itself, not found in a directory."""
        if isinstance(found, ScanProblem):
            self.problems[found.reason] += 1
            if is_named or found.reason not in PASSED_OVER:
                self.failed += 1
            _keep(self.examples.setdefault(found.reason, []), found.path, found.detail)
        else:
            pair = (found.sop_class_uid, found.transfer_syntax_uid)
            self.instances[pair] += 1
            self.size_bytes[pair] += found.data_set_length
            if found.meta_difference is not None:
                self.differing += 1
                _keep(self.differences, found.path or "", found.meta_difference)

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data, for JSON."""
        return {
            "instances": self.instances.total(),
            "bytes": self.size_bytes.total(),
            "resumed": self.settled[State.RESUMED],
            "duplicates": self.settled[State.DUPLICATE],
            "set_aside": self.set_aside,
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


def _keep(examples: list[tuple[str, str]], path: str, detail: str) -> None:
    if len(examples) < _EXAMPLES:
        examples.append((path, detail))


def _example_data(examples: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": path, "detail": detail} for path, detail in examples]
