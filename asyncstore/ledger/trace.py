"""Events that a ledger logs."""

from __future__ import annotations

import logging
from typing import ClassVar

from asyncstore.trace import TraceEvent


class LedgerAway(TraceEvent):
    """Nothing could be written for a while, for the reason `because`; nothing new is sent for up to `left_seconds`."""

    level: ClassVar[int] = logging.ERROR
    because: str
    left_seconds: float

    def __str__(self) -> str:
        return f"Nothing new is sent: {self.because}; trying again for {self.left_seconds:.0f} s"


class TableChanged(TraceEvent):
    """The table by which values are set is another one than that of the run before."""

    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return "The table of values has changed: what is stored already keeps the values that it was sent with"


class LedgerBack(TraceEvent):
    """The ledger is written again; it was not for `seconds`."""

    level: ClassVar[int] = logging.ERROR  # whoever read of the beginning reads of the end
    seconds: float

    def __str__(self) -> str:
        return f"The ledger is written again, after {self.seconds:.0f} s"
