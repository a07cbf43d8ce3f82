"""For how long a ledger is away, when that is given up, and what is said of it: that it is away, and that it is back.

Each is said once, whoever of a process notices. Times come from the caller.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from asyncstore.ledger.trace import LedgerAway, LedgerBack
from asyncstore.trace import emit

_logger: Final = logging.getLogger("asyncstore.ledger")
_TOLD_AFTER_SECONDS: Final = 2.0  # a restart of the database is not worth a line


class Telling:
    """What all that use one ledger have noticed. Any thread may call."""

    def __init__(self) -> None:
        self._missing: set[Absence] = set()
        self._turn = threading.Lock()

    def away(self, absence: Absence, error: Exception, left_seconds: float) -> None:
        """Somebody has not reached it for a while, and tries on for so many seconds."""
        with self._turn:
            is_known = bool(self._missing)
            self._missing.add(absence)
        if not is_known:
            emit(_logger, LedgerAway(because=str(error), left_seconds=left_seconds))

    def back(self, absence: Absence, seconds: float) -> None:
        """Somebody has reached it again, after so many seconds."""
        if self.forget(absence):
            emit(_logger, LedgerBack(seconds=seconds))

    def forget(self, absence: Absence) -> bool:
        """Somebody tries no more; returns whether that was the last one who missed it."""
        with self._turn:
            was_missing = absence in self._missing
            self._missing.discard(absence)
            return was_missing and not self._missing


class Absence:
    """For how long one who uses a ledger has not reached it: `since` is None while it is there."""

    def __init__(self, telling: Telling) -> None:
        self.since: float | None = None
        self._telling = telling

    def missed(self, error: Exception, now: float, most_seconds: float) -> bool:
        """It cannot be reached now; returns whether to try again, which is for `most_seconds` of its absence."""
        if self.since is None:
            self.since = now
        seconds = now - self.since
        left_seconds = most_seconds - seconds
        if left_seconds > 0 and seconds >= _TOLD_AFTER_SECONDS:
            self._telling.away(self, error, left_seconds)
        return left_seconds > 0

    def reached(self, now: float) -> None:
        """It is there."""
        if self.since is not None:
            self._telling.back(self, now - self.since)
        self.since = None

    def end(self) -> None:
        """Nobody tries any more; of its return somebody else tells."""
        self._telling.forget(self)
