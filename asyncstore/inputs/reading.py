"""Reads entries: their heads, the studies of instances if these are asked for, and what archives contain."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.inputs.contents import Opener
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, problem_outcome
from asyncstore.instances.problem import ScanProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncstore.inputs.contents import Contents
    from asyncstore.inputs.entry import Entry, Found
    from asyncstore.inputs.selection import Choice
    from asyncstore.ledger.protocol import Suspicion

Fed: TypeAlias = Instance | Outcome
"""What the feed delivers: an instance to send, or the outcome of a file without one."""

Settled: TypeAlias = "Callable[[Sequence[Entry]], list[Outcome | Suspicion | None]]"

# Members that are read in order are handed on at this time, or when they hold this much memory.
_IN_ORDER_SECONDS: Final = 0.02
_IN_ORDER_BYTES: Final = 1 << 20
_IN_ORDER_MEMBERS: Final = 64


class Gathered:
    """What was read of some entries: what is to be delivered, and the contents that are to be read."""

    def __init__(self) -> None:
        self.found: list[Fed] = []
        self.contents: list[Contents] = []
        self.settled: list[Outcome] = []
        self.suspected: list[tuple[Fed, Suspicion]] = []
        self.has_more = True


class Reader:
    """Reads entries, in the event loop or in threads.

    `looks_inside` says that reading takes more than the head of a file, and belongs into a thread.
    """

    def __init__(self, choice: Choice | None, *, find_studies: bool) -> None:
        self.looks_inside: bool = find_studies or (choice is not None and choice.looks_inside)
        self._choice = choice
        self._find_studies = find_studies
        self._opener = Opener(choice)

    def gather(self, entry: Entry, found: Found, gathered: Gathered) -> None:
        """Add what was read of an entry. For an instance whose head is all that is asked for, this is not needed."""
        if isinstance(found, Instance):
            if self._is_taken(found):
                gathered.found.append(found)
            return
        contents = self._opener.contents_of(entry, found)
        if contents is not None:
            gathered.contents.append(contents)
        elif isinstance(found, ScanProblem):
            gathered.found.append(problem_outcome(found, is_named=entry.is_named))
        else:
            gathered.found.append(found)

    def _is_taken(self, instance: Instance) -> bool:
        """Whether an instance is chosen; its study is known then if it is asked for."""
        if self._choice is not None and not self._choice.takes_instance(instance):
            instance.let_go()
            return False
        if self._find_studies and instance.study_instance_uid is None:
            from asyncstore.instances.study import study_of

            instance.study_instance_uid = study_of(instance)
        return True

    def read_batch(self, batch: Sequence[Entry]) -> tuple[Gathered, float, bool]:
        """Read a batch of entries, the seconds that the fastest took, and whether all were in memory. Blocks."""
        gathered = Gathered()
        missed: list[str] = []
        fastest = math.inf
        began_at = time.perf_counter()
        read = 0
        try:
            for entry in batch:
                entry.begin_reading()
            opening_seconds = (time.perf_counter() - began_at) / len(batch)
            for entry in batch:
                began_at = time.perf_counter()
                head = entry.read_head(missed=missed)
                read += 1
                assert head is not None
                self.gather(entry, head, gathered)
                fastest = min(fastest, time.perf_counter() - began_at)
        finally:
            for entry in batch[read:]:
                entry.close()
        return gathered, opening_seconds + fastest, not missed

    def read_in_order(self, entries: Iterator[Entry], settled: Settled | None) -> Gathered:
        """Read the next of entries that must be read one after another. Blocks.

        `settled` is asked about each before it is read: what is settled in a deflated archive is only inflated.
        """
        gathered = Gathered()
        ends_at = time.perf_counter() + _IN_ORDER_SECONDS
        room = _IN_ORDER_BYTES
        for _ in range(_IN_ORDER_MEMBERS):
            entry = next(entries, None)
            if entry is None:
                gathered.has_more = False
                break
            answer = None if settled is None else settled([entry])[0]
            if isinstance(answer, Outcome):
                gathered.settled.append(answer)
            else:
                found = entry.read_head()
                assert found is not None
                self.gather(entry, found, gathered)
                if answer is not None and gathered.found:
                    gathered.suspected.append((gathered.found.pop(), answer))
                room -= getattr(found.source, "held_bytes", 0) if isinstance(found, Instance) else 0
            if room <= 0 or time.perf_counter() > ends_at:
                break
        return gathered
