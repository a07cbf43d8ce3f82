"""Events that the reading of the input logs."""

from __future__ import annotations

import logging
from typing import ClassVar

from asyncstore.trace import TraceEvent


class LeftOut(TraceEvent):
    """A file or an instance was left out by the selection, for the reason `why`."""

    level: ClassVar[int] = logging.DEBUG
    text: ClassVar[str] = "left out: {path!r}: {why!r}"
    path: str | None
    why: str
