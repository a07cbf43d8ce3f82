"""Events that a ledger logs."""

from __future__ import annotations

import logging
from typing import ClassVar

from asyncstore.trace import TraceEvent


class LedgerAway(TraceEvent):
    """Nothing could be written for a while, for the reason `because`; nothing new is sent for up to `left_seconds`."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "Nothing new is sent: {because}; trying again for {left_seconds:.0f} s"
    because: str
    left_seconds: float


class TableChanged(TraceEvent):
    """The table by which values are set is another one than that of the run before."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = (
        "The table of values has changed: what is stored already keeps the values that it was sent with"
    )


class LedgerBack(TraceEvent):
    """The ledger is written again; it was not for `seconds`."""

    level: ClassVar[int] = logging.ERROR  # whoever read of the beginning reads of the end
    text: ClassVar[str] = "The ledger is written again, after {seconds:.0f} s"
    seconds: float
