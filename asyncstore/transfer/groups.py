"""Instances that wait together: those of one directory or study stay on one association while there is other work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncstore.record import field, record

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Iterator

    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair


@record(slots=True, eq=False)
class Group:
    """The waiting instances of one directory or study, and the association that they stay on."""

    key: str
    waiting: dict[Pair, deque[Pending]] = field(default_factory=dict)
    owner: object | None = None


def directory_of(path: str | None) -> str:
    """The key that the instances of one directory share."""
    return path.rpartition(os.sep)[0] if path else ""


def waiting_in(group: Group) -> int:
    return sum(map(len, group.waiting.values()))


def queues_of(groups: Iterable[Group], pairs: frozenset[Pair]) -> Iterator[deque[Pending]]:
    """The waiting instances of these pairs."""
    for group in groups:
        for pair in pairs.intersection(group.waiting):
            yield group.waiting[pair]
