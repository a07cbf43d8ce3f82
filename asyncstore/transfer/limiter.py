"""Applies the limits of a transfer as time goes by: how fast, on how many associations, and whether at all.

Windows and pauses are a gate among others, and the only one that releases the associations: it stays closed for hours,
and nobody knows how long the peer keeps an association that carries nothing.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from asyncstore.aio.signal import Signal
from asyncstore.errors import LocalProtocolError, passing
from asyncstore.trace import emit
from asyncstore.transfer.limits import Limits, rate_text
from asyncstore.transfer.report import Waiting
from asyncstore.transfer.schedule import Timetable, minute_of_week, minutes_later
from asyncstore.transfer.throttle import Throttle
from asyncstore.transfer.trace import LimitChanged, SendingBegins, SendingWaits

if TYPE_CHECKING:
    import time

    from asyncstore.transfer.concurrency import Concurrency
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.report import Report

logger: logging.Logger = logging.getLogger("asyncstore.transfer")


class Limiter:
    """The limits as they are now, after `look`.

    `pacer` is what associations keep pace with; None while there is no limit. `changed` is set when there are other
    limits to look at. While it is closed, no association may be open; the report says what the run waits for.
    """

    def __init__(self, options: TransferOptions, concurrency: Concurrency, report: Report) -> None:
        self.limits: Limits = options.limits
        self.changed: Signal = Signal()
        self.pacer: Throttle | None = None
        self._throttle = Throttle()
        self._usual_associations = self._associations = options.associations
        self._concurrency = concurrency
        self._report = report
        self._began_at = math.inf
        self._waiting: Waiting | None = None

    @property
    def is_closed(self) -> bool:
        return self._waiting is not None

    def closed_until(self, now: float) -> float:
        """When the gate opens: not known, as the clock on the wall may jump. Each look finds out."""
        return math.inf if self._waiting is not None else 0.0

    def change(self, limits: Limits) -> None:
        """Have other limits from now on."""
        if not isinstance(limits, Limits):
            raise LocalProtocolError(f"limits are {limits!r:.200}: they are a Limits")
        self.limits = limits
        self.changed.set()

    def look(self, now: float, local: time.struct_time) -> None:
        """Apply what holds at the monotonic time `now`, which is the local time `local`."""
        self._began_at = min(self._began_at, now)
        minute, limits = minute_of_week(local), self.limits
        rate = limits.bytes_per_second
        self._change_rate(rate.at(minute) if isinstance(rate, Timetable) else rate, now)
        counts = limits.associations
        self._change_associations(self._usual_associations if counts is None else counts.at(minute), now)
        self._open_or_close(self._reason_to_wait(limits, minute, local))

    def ended_because(self, now: float) -> Exception | None:
        """Why the run must end now, if it must."""
        seconds = self.limits.maximum_seconds
        if seconds is None or now < self._began_at + seconds:
            return None
        return passing("it has lasted as long as it may")

    def _change_rate(self, bytes_per_second: float | None, now: float) -> None:
        bucket = self._throttle.bucket
        if bytes_per_second != bucket.bytes_per_second:
            bucket.change(bytes_per_second, now)
            self.pacer = None if bytes_per_second is None else self._throttle
            emit(logger, LimitChanged(name="Bandwidth", value=rate_text(bytes_per_second)))

    def _change_associations(self, associations: int | None, now: float) -> None:
        if associations != self._associations:
            self._associations = associations
            self._concurrency.change(associations, now)
            emit(logger, LimitChanged(name="Associations", value="auto" if associations is None else str(associations)))

    def _reason_to_wait(self, limits: Limits, minute: int, local: time.struct_time) -> Waiting | None:
        """What the run waits for now, if it must wait."""
        if limits.is_paused:
            return Waiting(None)
        if limits.between is None or limits.between.at(minute):
            return None
        minutes = limits.between.minutes_until_change(minute)
        return Waiting(None if minutes is None else minutes_later(local, minutes))

    def _open_or_close(self, waiting: Waiting | None) -> None:
        if waiting != self._waiting:
            self._waiting = self._report.waiting_for = waiting
            emit(logger, SendingBegins() if waiting is None else SendingWaits(waiting=str(waiting)))
