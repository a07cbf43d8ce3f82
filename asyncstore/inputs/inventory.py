"""Counts what files and directories hold: instances by kind, studies, patients, doubles; and problems by kind."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import SourceError
from asyncstore.inputs.contents import found_in
from asyncstore.inputs.entry import entries_of
from asyncstore.inputs.hash_set import HashSet
from asyncstore.inputs.selection import Choice, Selection
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import FOUND_EARLIER_STATES, Outcome, State
from asyncstore.instances.problem import PASSED_OVER, ProblemKind, ScanProblem
from asyncstore.instances.study import patient_and_study_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from asyncstore.inputs.entry import Entry
    from asyncstore.inputs.feed import Settled
    from asyncstore.inputs.own_files import OwnFiles

_EXAMPLES: Final = 5  # of each kind of problem or difference
_LARGEST: Final = 10


class Inventory:
    """Counts of what a scan finds. An instance takes 11 to 22 bytes of memory, and so does each study and patient.

    `instances` and `size_bytes` are by (SOP class UID, transfer syntax UID). `studies` and `patients` have the
    different Study Instance UIDs and Patient IDs, `without_study` counts the instances that show none of the first.
    `repeated` counts instances whose SOP Instance UID an earlier file has, too; `repetitions` has examples of them as
    (path, UID). `largest` are the largest files as (bytes, path). `problems` are by kind, with some `examples` of each
    as (path, detail). `differing` counts instances whose File Meta Information contradicts the data set; `differences`
    has examples. `failed` counts paths that a transfer would count as a failure, `settled` the instances that a ledger
    has already, by their state, `set_aside` those that an earlier run set aside, and `left_out` what the selection
    leaves out.

    `changes_of` says how an instance would be changed on the way, or raises why it would not be sent: `changes` and
    `unchangeable` count these by their texts.

    All counts are exact but those of different UIDs and IDs, which are as exact as a HashSet.
    """

    def __init__(self, changes_of: Callable[[Instance], Iterable[str]] | None = None) -> None:
        self.instances: Counter[tuple[str, str]] = Counter()
        self.size_bytes: Counter[tuple[str, str]] = Counter()
        self.studies: HashSet = HashSet()
        self.patients: HashSet = HashSet()
        self.without_study: int = 0
        self.repeated: int = 0
        self.repetitions: list[tuple[str, str]] = []
        self.problems: Counter[ProblemKind] = Counter()
        self.examples: dict[ProblemKind, list[tuple[str, str]]] = {}
        self.differing: int = 0
        self.differences: list[tuple[str, str]] = []
        self.failed: int = 0
        self.settled: Counter[State] = Counter()
        self.set_aside: int = 0
        self.left_out: int = 0
        self.changes: Counter[str] = Counter()
        self.unchangeable: Counter[str] = Counter()
        self._changes_of = changes_of
        self._uids = HashSet()
        self._largest: list[tuple[int, str]] = []  # a heap: the smallest of them first

    @property
    def largest(self) -> list[tuple[int, str]]:
        """The largest files with an instance, as (bytes, path); the largest first."""
        return sorted(self._largest, key=lambda file: (-file[0], file[1]))

    def scan(
        self,
        sources: Iterable[str],
        *,
        recursive: bool,
        selection: Selection | None = None,
        settled: Settled | None = None,
        own_files: OwnFiles | None = None,
    ) -> None:
        """Count everything under the sources that `selection` takes, except `own_files`. Blocks.

        `settled` is that of a ledger, which then also says what an earlier run has stored.
        """
        choice = None if selection is None else Choice.of(selection)
        entries = entries_of(sources, recursive=recursive, walked={}, choice=choice)
        unsettled = None if settled is None else functools.partial(self._unsettled, settled)
        for entry, found in found_in(entries, choice, unsettled):
            if isinstance(found, ScanProblem) and not entry.is_named and own_files and found.path in own_files:
                continue
            if isinstance(found, Instance | ScanProblem):
                self.add(found, is_named=entry.is_named)
        self.left_out += choice.left_out if choice is not None else 0

    def _unsettled(self, settled: Settled, entries: Iterator[Entry], at_once: int) -> Iterator[Entry]:
        """Count the instances that a ledger has settled, and yield the other entries; asks for some at once."""
        while asked := list(itertools.islice(entries, at_once)):
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
            self._add_instance(found)

    def _add_instance(self, found: Instance) -> None:
        pair = (found.sop_class_uid, found.transfer_syntax_uid)
        self.instances[pair] += 1
        self.size_bytes[pair] += found.data_set_length
        if self._changes_of is not None:
            try:
                self.changes.update(self._changes_of(found))
            except SourceError as error:
                self.unchangeable[str(error)] += 1
                self.failed += 1
        patient_id, study_uid = patient_and_study_of(found)
        if patient_id:
            self.patients.add(patient_id)
        if study_uid:
            self.studies.add(study_uid)
        else:
            self.without_study += 1
        if not self._uids.add(found.sop_instance_uid):
            self.repeated += 1
            _keep(self.repetitions, found.path or "", found.sop_instance_uid)
        if len(self._largest) < _LARGEST:
            heapq.heappush(self._largest, (found.size_bytes, found.path or ""))
        elif found.size_bytes > self._largest[0][0]:
            heapq.heapreplace(self._largest, (found.size_bytes, found.path or ""))
        if found.meta_difference is not None:
            self.differing += 1
            _keep(self.differences, found.path or "", found.meta_difference)

    @property
    def files(self) -> int:
        """The number of files, and of paths that are none, so far."""
        return self.instances.total() + self.problems.total() + self.settled.total() + self.set_aside

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data, for JSON."""
        return {
            "instances": self.instances.total(),
            "bytes": self.size_bytes.total(),
            "studies": len(self.studies),
            "patients": len(self.patients),
            "without_study": self.without_study,
            "left_out": self.left_out,
            "resumed": self.settled[State.RESUMED],
            "duplicates": self.settled[State.DUPLICATE],
            "set_aside": self.set_aside,
            "repeated_uids": {
                "instances": self.repeated,
                "examples": [{"path": path, "sop_instance_uid": uid} for path, uid in self.repetitions],
            },
            "largest": [{"path": path, "bytes": size_bytes} for size_bytes, path in self.largest],
            "changes": dict(self.changes.most_common()),
            "not_changed": dict(self.unchangeable.most_common()),
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
