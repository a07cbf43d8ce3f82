"""Says once that a ledger is away, and once that it is back, whoever of a process notices."""

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
        self._missing: set[int] = set()
        self._turn = threading.Lock()

    def away(self, who: object, error: Exception, *, seconds: float, left_seconds: float) -> None:
        """Somebody has not reached it for so many seconds, and tries on for so many."""
        if seconds < _TOLD_AFTER_SECONDS:
            return
        with self._turn:
            is_known = bool(self._missing)
            self._missing.add(id(who))
        if not is_known:
            emit(_logger, LedgerAway(because=str(error), left_seconds=left_seconds))

    def back(self, who: object, *, seconds: float) -> None:
        """Somebody has reached it again, after so many seconds."""
        if self.forget(who):
            emit(_logger, LedgerBack(seconds=seconds))

    def forget(self, who: object) -> bool:
        """Somebody tries no more; returns whether that was the last one who missed it."""
        with self._turn:
            was_missing = id(who) in self._missing
            self._missing.discard(id(who))
            return was_missing and not self._missing
