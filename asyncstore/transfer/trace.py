"""Events that a transfer logs besides those of its associations."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from asyncstore.trace import TraceEvent
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from asyncstore.instances.outcome import Outcome
    from asyncstore.status import Status


class NotStored(TraceEvent):
    """An instance will not be stored by this run; `outcome` has the reason."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "not stored: {outcome.path!r}: {outcome.reason!r}"
    outcome: Outcome


class KindRefused(TraceEvent):
    """At the end of a run: `count` more instances of a kind that the peer refuses, after the first one."""

    level: ClassVar[int] = logging.ERROR
    sop_class_uid: str
    transfer_syntax_uid: str
    status: Status
    count: int

    def __str__(self) -> str:
        kind = f"{name_of(self.sop_class_uid)} in {name_of(self.transfer_syntax_uid)}"
        return f"not stored: {self.count:,} more of {kind}, which the peer refuses with {self.status}"


class MoreMetaDiffer(TraceEvent):
    """At the end of a run: `count` more instances with a `meta_difference`, after the first one."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{count:,} more whose UIDs or File Meta Information are doubtful"
    count: int


class MorePadded(TraceEvent):
    """At the end of a run: `count` more instances were sent with a padding byte, after the first one."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{count:,} more data sets of odd length were sent with a padding byte"
    count: int


class OffersLess(TraceEvent):
    """The associations of this run offer less from now on: the peer may not bear `without`."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{because}; trying without {without}"
    because: str
    without: str


class PeerTakesNothing(TraceEvent):
    """The peer has taken nothing for a while, for the reason `because`; the run goes on for `left_seconds`."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "the peer takes nothing ({because}): trying again for {left_seconds:.0f} s"
    because: str
    left_seconds: float


class PeerTakesAgain(TraceEvent):
    """The peer takes instances again; it took none for `seconds`."""

    level: ClassVar[int] = logging.ERROR  # whoever read of the beginning reads of the end
    text: ClassVar[str] = "the peer takes instances again, after {seconds:.0f} s"
    seconds: float


class LimitChanged(TraceEvent):
    """A limit of the run is another one from now on: `name` says which, `value` what it is."""

    text: ClassVar[str] = "{name}: {value}"
    name: str
    value: str


class SendingWaits(TraceEvent):
    """The run finishes what is in flight, and then sends nothing for a while; `waiting` says until when."""

    text: ClassVar[str] = "Sending nothing now: {waiting}"
    waiting: str


class SendingBegins(TraceEvent):
    """The run may send again."""

    text: ClassVar[str] = "Sending again"


class Passing(TraceEvent):
    """`event` is an error of one association, which the run gets over by itself."""

    event: TraceEvent

    def __str__(self) -> str:
        return str(self.event)
