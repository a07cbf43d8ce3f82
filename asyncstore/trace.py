"""What happens, as events for the log.

Each event is logged as the message of a record (`logger.log(level, event)`): `str(event)` is one plain line for any
logging set-up, and a handler that knows the events can print more, as the documented log of the command line does.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar


class TraceEvent:
    """One thing that happened on an association; what its class annotates is given by keyword.

    No dataclass: every start of a program would pay for building twenty of them, and mostly none is ever used.
    """

    level: ClassVar[int] = logging.INFO
    association_number: int = 0

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


def emit(logger: logging.Logger, event: TraceEvent) -> None:
    """Log an event at its own level."""
    if logger.isEnabledFor(event.level):
        logger.log(event.level, event)
