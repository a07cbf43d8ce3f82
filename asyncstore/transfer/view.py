"""The state of a run at one moment, for those who watch it: read when it is shown, never kept up to date."""

from __future__ import annotations

import math
from typing import NamedTuple


class AssociationView(NamedTuple):
    """One association as it is now.

    `number` is its number in the run, from 1. `state` is "connecting", "open", "ending" or "failed". `path` is the file
    of the instance that was begun last among those in flight (None: there is none, or it is in memory), `size_bytes`
    the length of its data set. `written_bytes` is how much of it is written if it is a large one, else None;
    `large_bytes` has the same of all large ones in flight. `in_flight` counts the requests without an answer, `answers`
    the answers so far. `silent_seconds` is how long the peer has owed an answer to a request that it has in full; 0 if
    it owes none. After `answer_limit_seconds` of that the association is given up.
    """

    number: int
    state: str
    path: str | None = None
    size_bytes: int = 0
    written_bytes: int | None = None
    large_bytes: tuple[int, ...] = ()
    in_flight: int = 0
    answers: int = 0
    silent_seconds: float = 0.0
    answer_limit_seconds: float = math.inf


class Trouble(NamedTuple):
    """The peer takes nothing: `because` is why, `left_seconds` for how much longer the run keeps trying.

    `left_seconds` is None if there has been no association yet: then it is a few tries, and not a time.
    """

    because: Exception
    left_seconds: float | None


class TransferView(NamedTuple):
    """A run as it is now.

    `associations` has each that is open or being opened, in the order of their numbers. `waiting` counts the instances
    that are ready to be sent, `in_flight` those that are sent and not answered yet, `retrying` those that will be sent
    again, `suspected` those of them that may be at fault themselves and so come last; `retry_seconds` is the time until
    the next of them, None if none waits for its time. `trouble` is None while the peer takes instances. `is_stopping`:
    nothing new is sent; `drain_seconds` is then the time until what is in flight is aborted, None if it is not.
    """

    associations: tuple[AssociationView, ...] = ()
    waiting: int = 0
    in_flight: int = 0
    retrying: int = 0
    suspected: int = 0
    retry_seconds: float | None = None
    trouble: Trouble | None = None
    is_stopping: bool = False
    drain_seconds: float | None = None
