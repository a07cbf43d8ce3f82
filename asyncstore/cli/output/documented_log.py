"""The log of the command line: trace events as the documented lines, each `L: text`, on stderr.

An event may have several lines of different levels: the event itself at its own level, its PDU or message at debug
level. While several associations are open, each line of one carries its number: `I: [2] Sending file: ...`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asyncstore.cli.output import pdu_text
from asyncstore.cli.output.plain_text import count_text, duration_text, path_text, peer_text
from asyncstore.cli.output.tls_text import with_advice
from asyncstore.errors import AssociationRejected, MissingUID, NotDicom, Timeout
from asyncstore.inputs.trace import LeftOut
from asyncstore.instances.outcome import MAY_LACK_CHANGES, State, reason_of
from asyncstore.net import trace
from asyncstore.record import record
from asyncstore.trace import TraceEvent
from asyncstore.transfer.trace import (
    KindRefused,
    MoreMetaDiffer,
    MorePadded,
    NotStored,
    Passing,
    PeerTakesAgain,
    PeerTakesNothing,
)
from asyncstore.uids import CT_IMAGE_STORAGE, MR_IMAGE_STORAGE, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from asyncstore.instances.outcome import Outcome

logger: logging.Logger = logging.getLogger("asyncstore.cli")

QUIET: Final = logging.CRITICAL + 1
DETAIL_CHARACTERS: Final = 512

_LETTERS: Final = (
    (logging.CRITICAL, "F"),
    (logging.ERROR, "E"),
    (logging.WARNING, "W"),
    (logging.INFO, "I"),
    (logging.DEBUG, "D"),
)
_TIMEOUT_OPTIONS: Final = {"connect": "--connect-timeout", "acse": "-ta", "dimse": "-td", "network": "-tn"}
_MODALITIES: Final = {CT_IMAGE_STORAGE: ", (CT)", MR_IMAGE_STORAGE: ", (MR)"}
# The command set of a response is always read in this transfer syntax (PS3.7 6.3.1).
_COMMAND_SET_READ: Final = 'pydicom.read_dataset() TransferSyntax="Little Endian Implicit"'


@record(frozen=True, slots=True)
class Line:
    """One line of the log, without its letter. `is_told`: it is printed at the default level, whatever its own."""

    level: int
    text: str
    is_told: bool = False

    @property
    def printed_from(self) -> int:
        """The highest threshold at which it is printed."""
        return max(self.level, logging.ERROR) if self.is_told else self.level


def _at(level: int, *texts: str) -> Iterator[Line]:
    return (Line(level, text) for text in texts)


def _debug(texts: Iterable[str]) -> Iterator[Line]:
    return _at(logging.DEBUG, *texts)


def _error(*texts: str) -> Iterator[Line]:
    return _at(logging.ERROR, *texts)


def _info(*texts: str) -> Iterator[Line]:
    return _at(logging.INFO, *texts)


def with_option(text: str, error: Exception | None) -> str:
    """A text about an error, with the option that sets the time that was exceeded, if it was one."""
    option = _TIMEOUT_OPTIONS.get(error.which) if isinstance(error, Timeout) else None
    return f"{text} ({option})" if option else text


_Event = TypeVar("_Event", bound=TraceEvent)
_LINES_OF: dict[type[TraceEvent], Callable[[Any], Iterator[Line]]] = {}


def lines_of(event: TraceEvent) -> Iterator[Line]:
    """The lines of an event, in order."""
    return next(_LINES_OF[kind] for kind in type(event).__mro__ if kind in _LINES_OF)(event)


def _tells(kind: type[_Event]) -> Callable[[Callable[[_Event], Iterator[Line]]], None]:
    """The function below gives the lines of these events. `singledispatch` takes ten times as long at each start."""

    def note(told: Callable[[_Event], Iterator[Line]]) -> None:
        _LINES_OF[kind] = told

    return note


@_tells(TraceEvent)
def _(event: TraceEvent) -> Iterator[Line]:
    yield Line(event.level, peer_text(str(event), DETAIL_CHARACTERS))


@_tells(trace.Requesting)
def _(event: trace.Requesting) -> Iterator[Line]:
    return _info("Requesting Association")


@_tells(trace.RequestSent)
def _(event: trace.RequestSent) -> Iterator[Line]:
    return _debug(pdu_text.request_lines(event.request))


@_tells(trace.Accepted)
def _(event: trace.Accepted) -> Iterator[Line]:
    yield from _debug(pdu_text.answer_lines(event.request, event.answer))
    yield from _info("Association Accepted")


@_tells(trace.Rejected)
def _(event: trace.Rejected) -> Iterator[Line]:
    answer = event.answer
    said = AssociationRejected(answer.result, answer.source, answer.reason)
    yield from _debug(pdu_text.reject_lines(answer))
    yield from _error(
        "Association Rejected",
        f"Result: {said.result_text}, Source: {said.source_text}",
        f"Reason: {said.reason_text}",
    )


@_tells(trace.ConnectionFailed)
def _(event: trace.ConnectionFailed) -> Iterator[Line]:
    return _connection_failed(event.detail)


@_tells(trace.NotSecured)
def _(event: trace.NotSecured) -> Iterator[Line]:
    detail = peer_text(event.detail, DETAIL_CHARACTERS)
    return _error(f"TLS was not established: {with_advice(detail, event.cause)}")


def _connection_failed(detail: str) -> Iterator[Line]:
    return _error(
        "Association request failed: unable to connect to remote",
        f"TCP Initialisation Error: {peer_text(detail, DETAIL_CHARACTERS)}",
    )


@_tells(trace.NothingAccepted)
def _(event: trace.NothingAccepted) -> Iterator[Line]:
    return _error("No accepted presentation contexts")


@_tells(trace.StoreSent)
def _(event: trace.StoreSent) -> Iterator[Line]:
    request = event.request
    if event.path is not None:
        yield from _info(f"Sending file: {path_text(event.path)}")
    modality = _MODALITIES.get(request.affected_sop_class_uid, "")
    yield from _info(f"Sending Store Request: MsgID {request.message_id}{modality}")
    yield from _debug(pdu_text.store_request_lines(request))


@_tells(trace.EchoSent)
def _(event: trace.EchoSent) -> Iterator[Line]:
    return _info(f"Sending Echo Request: MsgID {event.request.message_id}")


@_tells(trace.Answered)
def _(event: trace.Answered) -> Iterator[Line]:
    kind = pdu_text.message_type(event.request)
    which = f"MsgID {event.request.message_id}, " if event.association_number else ""
    yield from _debug([_COMMAND_SET_READ])
    yield from _info(f"Received {kind} Response ({which}Status: {event.status})")
    if kind == "Store":
        yield from _debug(pdu_text.store_response_lines(event))


@_tells(trace.Releasing)
def _(event: trace.Releasing) -> Iterator[Line]:
    return _info("Releasing Association")


@_tells(trace.ReleasedByPeer)
def _(event: trace.ReleasedByPeer) -> Iterator[Line]:
    return _info("Association Released")


@_tells(trace.Aborting)
def _(event: trace.Aborting) -> Iterator[Line]:
    yield from _info("Aborting Association")
    yield from _debug(pdu_text.abort_lines(event.source, event.reason))


@_tells(trace.AbortedByPeer)
def _(event: trace.AbortedByPeer) -> Iterator[Line]:
    yield from _debug(pdu_text.abort_lines(event.source, event.reason))
    yield from _info("Association Aborted (A-P-ABORT)" if event.source == 2 else "Association Aborted")


@_tells(trace.ConnectionBroken)
def _(event: trace.ConnectionBroken) -> Iterator[Line]:
    return _error(f"Connection lost: {peer_text(event.detail, DETAIL_CHARACTERS)}")


@_tells(trace.TimedOut)
def _(event: trace.TimedOut) -> Iterator[Line]:
    if event.which == "connect":
        return _connection_failed(f"no connection within {event.seconds:g} s")
    texts = {
        "acse": "ACSE timeout reached while waiting for response to association request",
        "dimse": "DIMSE timeout reached while waiting for message response",
        "network": "Network timeout reached",
    }
    return _error(texts.get(event.which, str(event)))


@_tells(trace.InvalidAnswer)
def _(event: trace.InvalidAnswer) -> Iterator[Line]:
    return _error(
        f"Received an invalid {event.to_request} response from the peer",
        peer_text(event.detail, DETAIL_CHARACTERS),
    )


@_tells(NotStored)
def _(event: NotStored) -> Iterator[Line]:
    outcome = event.outcome
    path = path_text(outcome.path or "(in memory)")
    if outcome.state in (State.SOURCE_PROBLEM, State.SKIPPED):
        return _source_problem(outcome, path)
    reason = with_option(peer_text(outcome.reason, DETAIL_CHARACTERS), outcome.error)
    if outcome.state is State.NO_CONTEXT:
        return _error(reason, f"Store failed: {path}")
    if outcome.state is State.DUPLICATE:
        where = f", stored from {path_text(outcome.stored_path)}" if outcome.stored_path else ""
        may_lack = f": {MAY_LACK_CHANGES}" if outcome.reason.endswith(MAY_LACK_CHANGES) else ""
        return _at(logging.WARNING, f"Already there: {path}{where}{may_lack}")
    if outcome.state is State.CONFLICT and outcome.stored_path:
        return _error(f"Store failed: {path}", f"Reason: {reason}, from {path_text(outcome.stored_path)}")
    comment = peer_text(outcome.status.comment) if outcome.status else ""
    return _error(f"Store failed: {path}", f"Reason: {reason}" + (f', the peer says "{comment}"' if comment else ""))


@_tells(KindRefused)
def _(event: KindRefused) -> Iterator[Line]:
    what = count_text(event.count, "more instance")
    kind = f"'{name_of(event.sop_class_uid)}' with '{name_of(event.transfer_syntax_uid)}' transfer syntax"
    reason = reason_of(event.status)
    return _error(f"Store failed: {what} of {kind}", f"Reason: {peer_text(reason)}")


@_tells(trace.MetaDiffers)
def _(event: trace.MetaDiffers) -> Iterator[Line]:
    path = path_text(event.path or "(in memory)")
    return _at(logging.WARNING, f"{path}: {path_text(event.difference)}, which is used")


@_tells(MoreMetaDiffer)
def _(event: MoreMetaDiffer) -> Iterator[Line]:
    what = count_text(event.count, "more instance")
    return _at(logging.WARNING, f"{what} whose UIDs or File Meta Information are doubtful")


@_tells(trace.Padded)
def _(event: trace.Padded) -> Iterator[Line]:
    path = path_text(event.path or "(in memory)")
    return _at(event.level, f"{path}: the data set has an odd length, and is sent with a padding byte")


@_tells(MorePadded)
def _(event: MorePadded) -> Iterator[Line]:
    what = count_text(event.count, "more data set")
    return _at(logging.WARNING, f"{what} of odd length sent with a padding byte")


@_tells(LeftOut)
def _(event: LeftOut) -> Iterator[Line]:
    return _debug([f"Left out: {path_text(event.path or '(in memory)')}: {path_text(event.why)}"])


@_tells(PeerTakesNothing)
def _(event: PeerTakesNothing) -> Iterator[Line]:
    because = peer_text(event.because, DETAIL_CHARACTERS)
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + event.left_seconds))
    waits = duration_text(event.left_seconds)
    yield Line(logging.WARNING, f"The peer takes nothing: {because}; trying again for {waits}, until {until}", True)


@_tells(PeerTakesAgain)
def _(event: PeerTakesAgain) -> Iterator[Line]:
    yield Line(logging.WARNING, f"The peer takes instances again, after {duration_text(event.seconds)}", True)


@_tells(Passing)
def _(event: Passing) -> Iterator[Line]:
    return (Line(min(line.level, logging.INFO), line.text) for line in lines_of(event.event))


def _source_problem(outcome: Outcome, path: str) -> Iterator[Line]:
    """A file that cannot be sent, in the documented words for its kind; one that is passed over is not an error."""
    reason = path_text(outcome.reason)
    if outcome.state is State.SKIPPED:
        return _info(f"Skipped: {path}: {reason}")
    if isinstance(outcome.error, MissingUID):
        what = "Unknown SOP Class or Transfer Syntax UID"
    elif isinstance(outcome.error, OSError):
        what = "Cannot access path"
        reason = path_text(outcome.error.strerror or outcome.reason)
    elif isinstance(outcome.error, NotDicom):
        what = "Bad DICOM file"
    else:
        what = "Store failed"
    return _error(f"{what}: {path}", f"Reason: {reason}")


class DocumentedLog(logging.Handler):
    """Prints log records of level `threshold` and above as documented lines, with one call of `write` per record.

    `errors` counts the lines of level error and above, so a command knows whether a failure was explained.
    """

    def __init__(self, threshold: int, write: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.threshold = threshold
        self.write: Callable[[str], None] = write or write_to_stderr
        self.errors: int = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. If that fails, the run goes on."""
        try:
            printed = [
                self._format(line, record) for line in self._lines(record) if line.printed_from >= self.threshold
            ]
            if printed:
                self.write("\n".join(printed))
        except Exception:
            self.handleError(record)

    def tell(self, level: int, text: str) -> None:
        """Log a line that is printed here whatever the threshold is, unless that is QUIET."""
        if level < self.threshold < QUIET:
            with self.turn():
                self.write(f"{_letter(level)}: {path_text(text)}")
        logger.log(level, "%s", text)

    def notice(self, level: int, text: str) -> None:
        """Log a line that is printed on a terminal whatever the threshold is, unless that is QUIET."""
        if sys.stderr.isatty():
            self.tell(level, text)
        else:
            logger.log(level, "%s", text)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep all others from writing while the block runs: threads log, too."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:
        """Report that a record could not be printed."""
        write_to_stderr(f"E: a line of the log could not be printed: {sys.exc_info()[1]!r}")

    def _lines(self, record: logging.LogRecord) -> Iterator[Line]:
        if isinstance(record.msg, TraceEvent):
            yield from lines_of(record.msg)
        else:
            yield Line(record.levelno, path_text(record.getMessage()))
        if record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
            yield from _debug(map(path_text, text.splitlines()))

    def _format(self, line: Line, record: logging.LogRecord) -> str:
        if line.level >= logging.ERROR:
            self.errors += 1
        letter = _letter(line.level)
        number = record.msg.association_number if isinstance(record.msg, TraceEvent) else 0
        return f"{letter}: [{number}] {line.text}" if number else f"{letter}: {line.text}"


def _letter(level: int) -> str:
    return next((letter for lowest, letter in _LETTERS if level >= lowest), "D")


def write_to_stderr(text: str) -> None:
    """Print lines on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def installed(level: int) -> Iterator[DocumentedLog]:
    """Print the log of the package at `level` and above while the block runs; QUIET prints nothing."""
    handler = DocumentedLog(level)
    package = logging.getLogger("asyncstore")
    before = package.level, package.propagate
    package.addHandler(handler)
    package.setLevel(level)
    package.propagate = False
    try:
        yield handler
    finally:
        package.removeHandler(handler)
        package.setLevel(before[0])
        package.propagate = before[1]
