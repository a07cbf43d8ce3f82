"""Events for the log.

Each event is the message of a log record (`logger.log(level, event)`). `str(event)` is one plain line for any logging
set-up. A handler that knows the events can print more, as the documented log of the command line does.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar


class TraceEvent:
    """One thing that happened. The fields that a subclass annotates are given by keyword, and `text` may name them.

    This is not a dataclass: building twenty of those would slow down each start, and most runs use none of them.
    """

    level: ClassVar[int] = logging.INFO
    text: ClassVar[str] = ""
    association_number: int = 0

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return self.text.format_map(vars(self))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


def emit(logger: logging.Logger, event: TraceEvent) -> None:
    """Log an event at its own level."""
    if logger.isEnabledFor(event.level):
        logger.log(event.level, event)
