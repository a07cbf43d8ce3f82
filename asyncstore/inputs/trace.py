"""Events that the reading of the input logs."""

from __future__ import annotations

import logging
from typing import ClassVar

from asyncstore.trace import TraceEvent


class LeftOut(TraceEvent):
    """A file or an instance was left out by the selection, for the reason `why`."""

    level: ClassVar[int] = logging.DEBUG
    path: str | None
    why: str

    def __str__(self) -> str:
        return f"left out: {self.path!r}: {self.why!r}"
