"""Events that a worker logs."""

from __future__ import annotations

import logging
from typing import ClassVar

from asyncstore.trace import TraceEvent


class BatchClaimed(TraceEvent):
    """The worker begins with a batch, which begins at `first`, a root and a path below it."""

    level: ClassVar[int] = logging.INFO
    batch: int
    first: str
    directories: int

    def __str__(self) -> str:
        more = f" and {self.directories - 1} more" if self.directories > 1 else ""
        return f"Batch {self.batch}: {self.first!r}{more}"


class BatchEnded(TraceEvent):
    """The worker has no more to do with a batch: `how` it ended."""

    level: ClassVar[int] = logging.INFO
    text: ClassVar[str] = "Batch {batch}: {how}"
    batch: int
    how: str


class BatchSetAside(TraceEvent):
    """Nobody works on a batch any more, for a `reason`."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "Batch {batch} is set aside: {reason}"
    batch: int
    reason: str


class Fenced(TraceEvent):
    """The database was not reached for `seconds`: other workers may soon do what this one does."""

    level: ClassVar[int] = logging.ERROR
    seconds: float
    is_aborted: bool

    def __str__(self) -> str:
        what = "aborting what is in flight" if self.is_aborted else "nothing new is sent"
        return f"The database was not reached for {self.seconds:.0f} s: {what}, since others may take it over"
