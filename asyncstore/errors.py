"""Every exception that asyncstore raises.

A failed instance is returned as an `Outcome`. A failed association raises one of these:

    AsyncStoreError                          .retryable: whether trying again may help
      SourceError                            the file or data set itself
        NotDicom                               it contains no DICOM data set
        MissingUID                             the SOP class, SOP instance or transfer syntax is not known
        SourceChanged                          it changed, shrank or vanished after it was scanned
      AssociateError                         no association could be established
        ConnectFailed                          DNS or TCP: the host is unknown or does not answer
          TLSFailed                              TCP, but no TLS on it: a certificate, a version, a cipher
        AssociationRejected                    A-ASSOCIATE-RJ: result, source, reason
        NoAcceptedContext                      accepted, but without any usable presentation context
        IdentityNotConfirmed                   accepted, but without the answer to our user identity
      AssociationLost                        an association ended before its work was done
        Aborted                                A-ABORT or A-P-ABORT: source, reason
        ConnectionLost                         the transport connection closed or broke
        Timeout                                the peer sent or accepted nothing within a deadline
      ProtocolError
        LocalProtocolError                     the caller asked for something impossible, or not possible now
        RemoteProtocolError                    the peer sent something that PS3.7 or PS3.8 forbids: pdu, field
      LedgerError                            the durable record cannot be opened, read or written
      StoreFailed                            only from Outcome.raise_for_failure()
      OperationFailed                        the peer refused a query or another request, or ended its list early

To catch every failure of an association, catch AssociateError and AssociationLost. A Timeout is an AssociationLost even
when no association was established yet (`which` is "connect" or "acse"), and the peer can abort before it accepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.status import Status


class AsyncStoreError(Exception):
    """The base of all errors of asyncstore. `retryable` says whether trying again may help."""

    retryable: bool = False

    def __reduce__(self) -> tuple[object, ...]:
        # Copies and pickles carry the attributes: Exception would call the constructor with the message alone.
        return type(self).__new__, (type(self), *self.args), vars(self)


class SourceError(AsyncStoreError):
    """The file or data set cannot be sent. The peer is not at fault."""


class NotDicom(SourceError):
    """The file contains no DICOM data set."""


class MissingUID(SourceError):
    """The SOP Class, SOP Instance or Transfer Syntax UID of a data set is not known."""


class SourceChanged(SourceError):
    """The file changed, shrank or vanished between being scanned and being sent."""


class AssociateError(AsyncStoreError):
    """No association could be established. A Timeout (an AssociationLost) may be raised for that as well."""


class ConnectFailed(AssociateError):
    """The host does not accept the connection; or, not retryable, a name cannot be resolved, or the source address is
    not one of this machine."""

    retryable = True


class TLSFailed(ConnectFailed):
    """There is no TLS on the connection, or the peer ended it because of our certificate. Not retryable.

    `cause` says what must be mended:

        authority                      the peer's certificate is not of an authority that we trust
        name, fingerprint              it is for other names; it is another one
        expired, not-yet-valid         its dates
        revoked, no-crl                it was revoked; there is no current list of revocations
        not-tls                        the peer does not seem to speak TLS on this port
        no-answer                      the peer did not finish the handshake in time
        no-common                      there is no common version or cipher
        our-certificate                the peer refused our certificate, or wants one
        files, passphrase              a file of ours cannot be used; its key needs another passphrase
        other
    """

    retryable = False

    def __init__(self, message: str, cause: str = "other") -> None:
        super().__init__(message)
        self.cause = cause


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

    `result` is 1 (permanent) or 2 (transient), `source` 1 to 3, `reason` a number of PS3.8 Table 9-21. `result_text`,
    `source_text` and `reason_text` are the standard's words for them. A transient rejection is retryable, and so is
    every one of source 3 (congestion): DCMTK's receivers call it permanent when they cannot start a process.
    """

    def __init__(self, result: int, source: int, reason: int) -> None:
        self.result = result
        self.source = source
        self.reason = reason
        self.result_text: str = _REJECT_RESULTS.get(result, f"Rejected (result {result})")
        self.source_text: str = _REJECT_SOURCES.get(source, f"unknown source {source}")
        self.reason_text: str = _REJECT_REASONS.get((source, reason), f"unknown reason {reason}")
        self.retryable: bool = result == 2 or source == 3
        super().__init__(f"association rejected: {self.result_text}, {self.source_text}: {self.reason_text}")


class NoAcceptedContext(AssociateError):
    """The peer accepted the association, but none of the proposed presentation contexts."""


class IdentityNotConfirmed(AssociateError):
    """The peer accepted the association, but did not answer the user identity, although it was asked to."""


class AssociationLost(AsyncStoreError):
    """An association ended before its work was done.

    `outstanding` lists the Message IDs of operations that were sent and not answered: the peer may have performed them
    or not.
    """

    retryable = True

    def __init__(self, message: str, outstanding: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.outstanding: tuple[int, ...] = tuple(outstanding)


_ABORT_SOURCES = {0: "DUL service-user", 2: "DUL service-provider"}
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
    """The peer aborted the association (PS3.8 9.3.8).

    `source` is 0 (the peer's application) or 2 (its protocol implementation), `reason` a number of PS3.8 Table 9-26.
    `source_text` and `reason_text` are the standard's words for them.
    """

    def __init__(self, source: int, reason: int, outstanding: Sequence[int] = ()) -> None:
        self.source = source
        self.reason = reason
        self.source_text: str = _ABORT_SOURCES.get(source, f"unknown source {source}")
        reasons = _ABORT_REASONS if source == 2 else {reason: _ABORT_REASONS[0]}
        self.reason_text: str = reasons.get(reason, f"unknown reason {reason}")
        super().__init__(f"association aborted by the peer: {self.source_text}: {self.reason_text}", outstanding)


class ConnectionLost(AssociationLost):
    """The TCP connection closed or broke in the middle of an association."""


class Timeout(AssociationLost):
    """A deadline passed. `seconds` is its length, `which` one of these:

    "connect" (host name and TCP connection), "acse" (answer to an association or release request), "dimse" (answer to a
    message), "network" (the peer accepted no data).
    """

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
    """The caller or the peer broke the rules of the protocol."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something impossible, or not possible in this state of the association or transfer."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the standard forbids.

    `pdu` is the name of the PDU or message ("A-ASSOCIATE-AC", "C-STORE-RSP"), `field` that of the field at fault.
    """

    retryable = True

    def __init__(self, message: str, *, pdu: str, field: str) -> None:
        super().__init__(f"{pdu}, {field}: {message}")
        self.pdu = pdu
        self.field = field


Tolerate: TypeAlias = "Callable[[RemoteProtocolError], object]"
"""Is told of a violation that does no harm: the peer's bytes are used all the same, or the field is left out.

What decides is read strictly: Message IDs, statuses, accepted presentation contexts, and the lengths that hold a stream
together. What only informs is taken as far as it can be read.
"""


def say_nothing(error: RemoteProtocolError) -> None:
    """Tolerate without telling anyone."""


class LedgerError(AsyncStoreError):
    """The ledger cannot be opened, read or written, is in use by another run, or has another destination."""


class StoreFailed(AsyncStoreError):
    """An instance was not stored. `status` is the peer's answer, None if there was none."""

    def __init__(self, message: str, status: Status | None = None, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class OperationFailed(AsyncStoreError):
    """The peer refused a C-FIND or N-ACTION, or ended its list of matches early. `status` is its answer."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status
        self.retryable: bool = status.retryable


def count_text(count: int, noun: str) -> str:
    """A count with its noun: "1 instance", "12,000 instances"."""
    plural = f"{noun}es" if noun.endswith(("x", "ch")) else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def install_text(extra: str) -> str:
    """How to install the packages of an extra, by a user who has what the README tells to install."""
    return f"pip install '.[{extra}]' in the source of asyncstore"


# The messages of the groups in which task groups of asyncio (under anyio) and trio raise an error.
_TASK_GROUP_MESSAGES = ("unhandled errors in a TaskGroup", "Exceptions from Trio nursery")


def passing(text: str) -> AsyncStoreError:
    """An error without a class of its own, after which the same may succeed another time."""
    error = AsyncStoreError(text)
    error.retryable = True
    return error


def cause_of(error: Exception) -> Exception:
    """The error inside the groups that task groups put around it; any other error, or other group, unchanged."""
    while isinstance(error, ExceptionGroup) and error.message in _TASK_GROUP_MESSAGES and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
