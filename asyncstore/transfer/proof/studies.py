"""Collects what is to be asked for by study, so that a study is asked for when its last instance is stored."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from asyncstore.record import field, record

if TYPE_CHECKING:
    from collections.abc import Iterator

# Nobody knows the last instance of a study before the input is read to its end: when others are stored for so long and
# none of this study is, it is taken as complete. If one comes after all, it is asked for by itself.
QUIET_SECONDS: Final = 2.0
# An instance of a study that comes as slowly as it is made waits no longer than this.
LONGEST_SECONDS: Final = 60.0

Each = TypeVar("Each")


@record(slots=True)
class _Study(Generic[Each]):
    """The instances of a study that are stored, and when its first and its last one was."""

    begun_at: float
    seen_at: float
    instances: list[Each] = field(default_factory=list)


class Studies(Generic[Each]):
    """Instances by study, given back in lots of at most `most`: whole studies, unless one has more.

    A study is due when it has been quiet, when its first instance has waited for long, or when it fills a lot. `now` is
    any clock in seconds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[str, _Study[Each]] = OrderedDict()  # the one that has been quiet for longest is first
        self._full: list[list[Each]] = []

    def __bool__(self) -> bool:
        return bool(self._open or self._full)

    def add(self, study: str, instance: Each, now: float) -> bool:
        """Add an instance; whether a lot is full."""
        collected = self._open.get(study)
        if collected is None:
            self._open[study] = collected = _Study(now, now)
        else:
            collected.seen_at = now
            self._open.move_to_end(study)
        collected.instances.append(instance)
        if len(collected.instances) < self._most:
            return False
        self._full.append(self._open.pop(study).instances)
        return True

    def due_at(self) -> float:
        """When the next study is due; math.inf if there is none."""
        if self._full:
            return -math.inf
        return min(map(_due_at, self._open.values()), default=math.inf)

    def take(self, now: float) -> Iterator[list[Each]]:
        """The lots of all studies that are due at a time; math.inf: of all."""
        yield from self._full
        self._full = []
        lot: list[Each] = []
        for study in [study for study, collected in self._open.items() if _due_at(collected) <= now]:
            instances = self._open.pop(study).instances
            if len(lot) + len(instances) > self._most:
                yield lot
                lot = []
            lot += instances
        if lot:
            yield lot


def _due_at(study: _Study[Each]) -> float:
    return min(study.seen_at + QUIET_SECONDS, study.begun_at + LONGEST_SECONDS)
