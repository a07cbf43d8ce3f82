"""Events that an association logs, and how it logs them.

`association_number` is 0 unless several associations are open at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from asyncstore.trace import TraceEvent, emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.dimse.messages import CEchoRQ, CStoreRQ
    from asyncstore.errors import RemoteProtocolError
    from asyncstore.net.peer import Peer
    from asyncstore.status import Status
    from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ

_logger = logging.getLogger("asyncstore.net")


class Requesting(TraceEvent):
    """An association will be requested; the connection is not open yet."""

    text: ClassVar[str] = "requesting an association with {peer}"
    peer: Peer


class RequestSent(TraceEvent):
    """The connection is open and the A-ASSOCIATE-RQ goes out."""

    level: ClassVar[int] = logging.DEBUG
    request: AssociateRQ

    def __str__(self) -> str:
        return f"proposing {len(self.request.presentation_contexts)} presentation contexts"


class Accepted(TraceEvent):
    """The peer accepted the association."""

    request: AssociateRQ
    answer: AssociateAC

    def __str__(self) -> str:
        accepted = sum(result.result == 0 for result in self.answer.results)
        return f"association accepted with {accepted} presentation contexts"


class Rejected(TraceEvent):
    """The peer rejected the association."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "association rejected: result {answer.result}, reason {answer.source}.{answer.reason}"
    answer: AssociateRJ


class ConnectionFailed(TraceEvent):
    """The connection could not be opened, for the reason that the system gave."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "cannot connect: {detail}"
    detail: str


class NotSecured(ConnectionFailed):
    """There is no TLS on the connection; `cause` is that of TLSFailed."""

    text: ClassVar[str] = "no TLS: {detail}"
    cause: str


class NothingAccepted(TraceEvent):
    """The association was accepted without a single presentation context."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "no accepted presentation contexts"


class StoreSent(TraceEvent):
    """A C-STORE request goes out on `context_id`, its data set in `transfer_syntax_uid`."""

    text: ClassVar[str] = "C-STORE {request.message_id}: {request.affected_sop_instance_uid}"
    path: str | None
    context_id: int
    transfer_syntax_uid: str
    request: CStoreRQ


class EchoSent(TraceEvent):
    """A C-ECHO request goes out on `context_id`."""

    text: ClassVar[str] = "C-ECHO {request.message_id}"
    context_id: int
    request: CEchoRQ


class Answered(TraceEvent):
    """The response to `request` came; the UIDs are those of the request if the response has none."""

    text: ClassVar[str] = "answer to {request.message_id}: {status}"
    context_id: int
    request: CStoreRQ | CEchoRQ
    status: Status
    affected_sop_class_uid: str
    affected_sop_instance_uid: str = ""


class Releasing(TraceEvent):
    """The association's work is done and its release is requested."""

    text: ClassVar[str] = "releasing the association"


class ReleasedByPeer(TraceEvent):
    """The peer asked for the release."""

    text: ClassVar[str] = "association released by the peer"


class Aborting(TraceEvent):
    """We abort the association."""

    text: ClassVar[str] = "aborting the association"
    source: int = 0
    reason: int = 0


class AbortedByPeer(TraceEvent):
    """The peer aborted: `source` 0 is its user, 2 its service provider."""

    text: ClassVar[str] = "association aborted by the peer, source {source}, reason {reason}"
    source: int
    reason: int


class ConnectionBroken(TraceEvent):
    """The transport connection ended in the middle of the association."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "connection lost: {detail}"
    detail: str


class TimedOut(TraceEvent):
    """A deadline passed: `which` is "connect", "acse", "dimse" or "network"."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "{which} timeout after {seconds:g} s"
    which: str
    seconds: float


class InvalidAnswer(TraceEvent):
    """The peer violated the standard; `to_request` is "A-ASSOCIATE", "C-STORE", "C-FIND" or so."""

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str] = "invalid answer to {to_request}: {detail}"
    to_request: str
    detail: str


class Tolerated(TraceEvent):
    """The peer violated the standard in a way that does no harm; logged once for each kind and association."""

    level: ClassVar[int] = logging.DEBUG
    text: ClassVar[str] = "not as the standard says, but no harm: {detail}"
    detail: str


class AnsweredAmiss(TraceEvent):
    """A response names another presentation context or instance than its request, and counts by its Message ID.

    Logged once of each for each association.
    """

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "an answer of the peer does not fit its request, and counts by its Message ID: {detail}"
    detail: str


class MetaDiffers(TraceEvent):
    """An instance has a `meta_difference`: its File Meta Information contradicts its data set, or a UID is doubtful."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{path!r}: {difference}, which is used"
    path: str | None
    difference: str


class Padded(TraceEvent):
    """The data set of an instance is of odd length, and is sent with a padding byte."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "{path!r}: the data set has an odd length, and is sent with a padding byte"
    path: str | None


class AlsoPadded(Padded):
    """The same of an instance after the first one of a run."""

    level: ClassVar[int] = logging.DEBUG


class Tracing:
    """Logs what happens on one association.

    `trace_number` is its number in the log, 0 while it is the only one. `on_trouble` is called with each event of level
    error, and by default logs it.
    """

    def __init__(self) -> None:
        self.trace_number = 0
        self.on_trouble: Callable[[TraceEvent], object] = _log
        self._tolerated: set[tuple[type[TraceEvent], str, str]] = set()

    def _tolerate(self, error: RemoteProtocolError, kind: type[TraceEvent] = Tolerated) -> None:
        """Log a violation of the peer that does no harm, the first of each kind."""
        if (what := (kind, error.pdu, error.field)) not in self._tolerated:
            self._tolerated.add(what)
            self._trace(kind, detail=str(error))

    def _trace(self, kind: type[TraceEvent], **fields: object) -> None:
        """Log what happened."""
        if _logger.isEnabledFor(kind.level):
            event = kind(association_number=self.trace_number, **fields)
            if kind.level >= logging.ERROR:
                self.on_trouble(event)
            else:
                _logger.log(kind.level, event)


def _log(event: TraceEvent) -> None:
    emit(_logger, event)
