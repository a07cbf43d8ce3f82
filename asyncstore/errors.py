"""Every exception that asyncstore raises.

An instance that fails is data (an `Outcome`); an association that fails is one of these:

    AsyncStoreError                          .retryable: would trying again make sense?
      SourceError                            the file or data set itself
        NotDicom                               no DICOM data set could be found in it
        MissingUID                             SOP class, SOP instance or transfer syntax is not known
        SourceChanged                          it changed, shrank or vanished after it was scanned
      AssociateError                         no association came to be
        ConnectFailed                          DNS or TCP: nobody answered
        AssociationRejected                    A-ASSOCIATE-RJ: result, source, reason
        NoAcceptedContext                      accepted, but with no presentation context that we can use
      AssociationLost                        an association ended before its work did
        Aborted                                A-ABORT or A-P-ABORT: source, reason
        ConnectionLost                         the transport connection closed or broke
        Timeout                                nothing came, or went, within a deadline
      ProtocolError
        LocalProtocolError                     the caller asked for what cannot be, or cannot be now
        RemoteProtocolError                    the peer sent what PS3.7 or PS3.8 forbids: pdu, field
      LedgerError                            the durable record cannot be opened, read or written
      StoreFailed                            only from Outcome.raise_for_failure()

A Timeout is AssociationLost also where it kept an association from coming to be (`which` is "connect" or "acse"), and
an association can be aborted or lost before it is accepted: to be safe, catch AssociateError and AssociationLost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.status import Status


class AsyncStoreError(Exception):
    """Anything that asyncstore itself reports; `retryable` says whether trying again makes sense."""

    retryable: bool = False

    def __reduce__(self) -> tuple[object, ...]:
        # Copied and pickled by what it has: Exception would call the constructor with the message alone.
        return type(self).__new__, (type(self), *self.args), vars(self)


class SourceError(AsyncStoreError):
    """The file or data set cannot be sent; the peer has nothing to do with it."""


class NotDicom(SourceError):
    """No DICOM data set could be found in the file."""


class MissingUID(SourceError):
    """The SOP Class, SOP Instance or Transfer Syntax UID of a data set is not known."""


class SourceChanged(SourceError):
    """The file changed, shrank or vanished between being scanned and being sent."""


class AssociateError(AsyncStoreError):
    """No association could be established; a Timeout, which is AssociationLost, may be why as well."""


class ConnectFailed(AssociateError):
    """The peer's host could not be resolved, or did not take the connection; a wrong name is not retryable."""

    retryable = True


# PS3.8 Table 9-21: the texts are those of the standard; (result source, reason) -> text.
_REJECT_REASONS: dict[tuple[int, int], str] = {
    (1, 1): "No reason given",
    (1, 2): "Application context name not supported",
    (1, 3): "Calling AE title not recognised",
    (1, 7): "Called AE title not recognised",
    (2, 1): "No reason given",
    (2, 2): "Protocol version not supported",
    (3, 1): "Temporary congestion",
    (3, 2): "Local limit exceeded",
}
_REJECT_RESULTS = {1: "Rejected Permanent", 2: "Rejected Transient"}
_REJECT_SOURCES = {1: "Service User", 2: "Service Provider (ACSE)", 3: "Service Provider (Presentation)"}


class AssociationRejected(AssociateError):
    """The peer answered with A-ASSOCIATE-RJ (PS3.8 9.3.4).

    `result` is 1 (permanent) or 2 (transient), `source` 1 to 3, `reason` as PS3.8 Table 9-21 numbers it; the `*_text`
    attributes are the standard's words for them. Congestion (source 3) is retryable whatever the result.
    """

    def __init__(self, result: int, source: int, reason: int) -> None:
        self.result = result
        self.source = source
        self.reason = reason
        self.result_text = _REJECT_RESULTS.get(result, f"Rejected (result {result})")
        self.source_text = _REJECT_SOURCES.get(source, f"unknown source {source}")
        self.reason_text = _REJECT_REASONS.get((source, reason), f"unknown reason {reason}")
        self.retryable = result == 2 or source == 3
        super().__init__(f"association rejected: {self.result_text}, {self.source_text}: {self.reason_text}")


class NoAcceptedContext(AssociateError):
    """The peer accepted the association but none of the presentation contexts that were proposed."""


class AssociationLost(AsyncStoreError):
    """An association ended before its work did.

    `outstanding` lists the Message IDs of the operations that were sent and not answered: what became of them at the
    peer is unknown.
    """

    retryable = True

    def __init__(self, message: str, outstanding: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.outstanding = tuple(outstanding)


# PS3.8 Table 9-26, source 2 (service provider).
_ABORT_REASONS = {
    0: "No reason given",
    1: "Unrecognised PDU",
    2: "Unexpected PDU",
    4: "Unrecognised PDU parameter",
    5: "Unexpected PDU parameter",
    6: "Invalid PDU parameter value",
}


class Aborted(AssociationLost):
    """The peer aborted the association (PS3.8 9.3.8): `source` 0 is its user, 2 its service provider."""

    def __init__(self, source: int, reason: int, outstanding: Sequence[int] = ()) -> None:
        self.source = source
        self.reason = reason
        self.source_text = {0: "DUL service-user", 2: "DUL service-provider"}.get(source, f"unknown source {source}")
        self.reason_text = _ABORT_REASONS.get(reason, f"unknown reason {reason}") if source == 2 else "No reason given"
        super().__init__(f"association aborted by the peer: {self.source_text}: {self.reason_text}", outstanding)


class ConnectionLost(AssociationLost):
    """The transport connection closed or broke in the middle of an association."""


class Timeout(AssociationLost):
    """A deadline passed; `which` is "connect", "acse", "dimse" or "network", `seconds` how long it was."""

    _TEXTS: ClassVar[dict[str, str]] = {
        "connect": "the connection was not established",
        "acse": "the association request was not answered",
        "dimse": "the message was not answered",
        "network": "the peer took no data",
    }

    def __init__(self, which: str, seconds: float, outstanding: Sequence[int] = ()) -> None:
        self.which = which
        self.seconds = seconds
        super().__init__(f"{self._TEXTS.get(which, which)} within {seconds:g} s", outstanding)


class ProtocolError(AsyncStoreError):
    """The rules of the protocol were broken, by us or by the peer."""


class LocalProtocolError(ProtocolError):
    """What was asked for cannot be, or is not allowed in the present state of the association or transfer."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the standard forbids.

    `pdu` names the PDU or message ("A-ASSOCIATE-AC", "C-STORE-RSP"), `field` the field at fault.
    """

    retryable = True

    def __init__(self, message: str, *, pdu: str, field: str) -> None:
        super().__init__(f"{pdu}, {field}: {message}")
        self.pdu = pdu
        self.field = field


class LedgerError(AsyncStoreError):
    """The ledger cannot be opened, read or written, or belongs to another run or destination."""


class StoreFailed(AsyncStoreError):
    """An instance was not stored; `status` is the peer's answer where there was one."""

    def __init__(self, message: str, status: Status | None = None, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


# What the task groups of asyncio (as anyio makes them) and trio call the group in which they raise an error.
_TASK_GROUP_MESSAGES = ("unhandled errors in a TaskGroup", "Exceptions from Trio nursery")


def cause_of(error: Exception) -> Exception:
    """The one error that task groups were raised around; any other error, a group of somebody else's too, is itself."""
    while isinstance(error, ExceptionGroup) and error.message in _TASK_GROUP_MESSAGES and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
