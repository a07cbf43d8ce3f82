"""One association as a machine without I/O: bytes in, events out; requests in, bytes out; time as an argument.

The owner of the transport connection reads bytes and calls `receive_data`, writes what `data_to_send` gives, calls
`check_deadline` when `artim_deadline_at` has passed, and closes the transport when `closing` is set and everything is
written. An `UpperLayer` serves one association.

If the peer sends bytes that are not a legal PDU, or a PDU that the state forbids, the machine queues A-ABORT as PS3.8
Table 9-10 says and raises `RemoteProtocolError` (the A-P-ABORT indication of AA-8), once. Events that were complete
before are not lost: they are returned, `error` is set at once, and the next call of `receive_data` or `receive_eof`
raises it. An owner that does not want to wait for more bytes calls `receive_data(b"", now)`. In Sta13 nothing that the
peer sends raises.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.errors import LocalProtocolError, RemoteProtocolError, say_nothing
from asyncstore.record import record
from asyncstore.upper_layer.pdu import (
    CONTROL_FLAGS,
    DATA_TF,
    HEADER_BYTES,
    PDU,
    PDU_NAMES,
    PDU_TYPE_FIELD,
    UNLIMITED_DATA_BYTES,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    DataTF,
    Fieldless,
    Fragment,
    ReleaseRP,
    ReleaseRQ,
    check_header,
    decode,
    decode_fragments,
)
from asyncstore.upper_layer.states import STARTS_ARTIM, STOPS_ARTIM, TRANSITIONS, next_state

if TYPE_CHECKING:
    from asyncstore.errors import Tolerate
    from asyncstore.upper_layer.states import Action, Event, State


@record(frozen=True, slots=True)
class AssociationRequested:
    """The peer asks for an association: `accept` or `reject` it."""

    request: AssociateRQ


@record(frozen=True, slots=True)
class AssociationAccepted:
    """The peer accepted the association."""

    answer: AssociateAC


@record(frozen=True, slots=True)
class AssociationRefused:
    """The peer rejected the association. The owner must close the transport."""

    rejection: AssociateRJ


# Not frozen, although nothing should change one: building a frozen one costs three times as much, and each answer needs
# one.
@record(slots=True, unsafe_hash=True)
class DataReceived:
    """The fragments of one P-DATA-TF PDU."""

    fragments: tuple[Fragment, ...]


class ReleaseRequested(Fieldless):
    """The peer asks for release: call `answer_release` when nothing is left to send.

    After a release collision an acceptor must wait for `ReleaseConfirmed` first: see `allows("release answer")`.
    """


class ReleaseConfirmed(Fieldless):
    """The peer answered our release request."""


@record(frozen=True, slots=True)
class AbortReceived:
    """The peer aborted: `source` 0 is its user, 2 its provider with a `reason` of PS3.8 Table 9-26."""

    source: int
    reason: int


class TransportClosed(Fieldless):
    """The transport connection ended in the middle of the association."""


UpperLayerEvent: TypeAlias = (
    AssociationRequested
    | AssociationAccepted
    | AssociationRefused
    | DataReceived
    | ReleaseRequested
    | ReleaseConfirmed
    | AbortReceived
    | TransportClosed
)

_EVENT_OF: dict[type[PDU], Event] = {
    AssociateRQ: "associate rq received",
    AssociateAC: "associate ac received",
    AssociateRJ: "associate rj received",
    DataTF: "data tf received",
    ReleaseRQ: "release rq received",
    ReleaseRP: "release rp received",
    Abort: "abort received",
}

# A-ABORT reasons of the service provider, PS3.8 Table 9-26.
_UNRECOGNISED_PDU: Final = 1
_UNEXPECTED_PDU: Final = 2
_INVALID_PARAMETER_VALUE: Final = 6
# PS3.8 9.3.4: permanent, by the service provider (ACSE), protocol version not supported.
_WRONG_VERSION = AssociateRJ(1, 2, 2)

_PDU_AND_PDV_HEADER = struct.Struct(">BxLLBB")
# Peers that write a response in two pieces begin with its headers. A longer beginning is not copied again.
_JOINED_BYTES: Final = 256


class UpperLayer:
    """One association's upper layer, for the requestor or the `acceptor`, in the states of PS3.8 9.2.

    `maximum_length` is the longest P-DATA-TF body to accept, in bytes (0: no limit), until an association PDU of ours
    announces another one. `artim_seconds` is the ARTIM timer. `tolerate` is told of the peer's violations that do no
    harm.

    Attributes to read: `state`; `closing` (close the transport once `data_to_send` is written); `artim_deadline_at` (on
    the caller's monotonic clock, None if the timer is not running); `error` (the peer's violation, if any);
    `is_amid_pdu` (part of a PDU has come, its end has not).
    """

    def __init__(
        self,
        *,
        acceptor: bool = False,
        maximum_length: int = 16382,
        artim_seconds: float = 30.0,
        tolerate: Tolerate = say_nothing,
    ) -> None:
        self.acceptor = acceptor
        self.artim_seconds = artim_seconds
        self.state: State = "Sta1"
        self.artim_deadline_at: float | None = None
        self.closing: bool = False
        self.error: RemoteProtocolError | None = None
        self.is_amid_pdu: bool = False
        self._set_maximum_length(maximum_length)
        self._tolerate = tolerate
        self._error_to_raise: RemoteProtocolError | None = None
        self._outgoing = bytearray()
        self._request: AssociateRQ | None = None
        self._encoded_request = b""
        # The beginning of a PDU whose end has not come yet, and the number of bytes at which it can be looked at.
        self._partial = bytearray()
        self._wanted_bytes = HEADER_BYTES
        # Set after an invalid header: the beginning of the next PDU is unknown.
        self._is_deaf = False

    # Requests of the local user.

    def allows(self, event: Event) -> bool:
        """Whether Table 9-10 allows this event now. Call it before a request that may come at a bad time."""
        return (event, self.state) in TRANSITIONS and not self.closing

    def associate(self, request: AssociateRQ, now: float) -> None:
        """Ask for an association (Evt1); open the transport next. Raises ValueError if `request` cannot be encoded."""
        if self.acceptor:
            raise LocalProtocolError("an acceptor does not ask for associations")
        self._require("associate request")
        self._encoded_request = request.encode()
        self._request = request
        self._set_maximum_length(request.user_information.maximum_length)
        self._step("associate request", now)

    def transport_opened(self, now: float) -> None:
        """The transport is open: a requestor sends its request (Evt2), an acceptor waits for one with ARTIM (Evt5)."""
        self._step("transport indicated" if self.acceptor else "transport confirmed", now)
        self._outgoing += self._encoded_request

    def accept(self, answer: AssociateAC, now: float) -> None:
        """Accept the association that the peer asked for (Evt7)."""
        self._require("associate accept")
        encoded = answer.encode()
        self._set_maximum_length(answer.user_information.maximum_length)
        self._step("associate accept", now)
        self._outgoing += encoded

    def reject(self, rejection: AssociateRJ, now: float) -> None:
        """Reject the association that the peer asked for (Evt8)."""
        encoded = rejection.encode()
        self._step("associate reject", now)
        self._outgoing += encoded

    def check_can_send_data(self) -> None:
        """Raise LocalProtocolError unless data may be sent now (Evt9): in Sta6, and in Sta8 until we answer."""
        self._require("data request")

    def release(self, now: float) -> None:
        """Ask the peer for release (Evt11)."""
        self._step("release request", now)
        self._outgoing += ReleaseRQ().encode()

    def answer_release(self, now: float) -> None:
        """Answer the peer's release request (Evt14)."""
        self._step("release answer", now)
        self._outgoing += ReleaseRP().encode()

    def abort(self, now: float, source: int = 0, reason: int = 0) -> None:
        """End the association at once (Evt15). Before the transport is open nothing is sent."""
        encoded = Abort(source, reason).encode()
        if self._step("abort request", now) == "AA-1":
            self._outgoing += encoded

    def data_to_send(self) -> bytes:
        """Take the bytes to write; empty if there are none."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    # The other side.

    def joined(self, data: bytes) -> bytes:
        """These bytes from the peer, behind those that came before of the same PDU, for `receive_data`.

        Of a PDU of which many bytes have come, these alone: they are not copied.
        """
        if self.state == "Sta6" and len(self._partial) <= _JOINED_BYTES:
            data = bytes(self._partial) + data
            self._partial, self._wanted_bytes, self.is_amid_pdu = bytearray(), HEADER_BYTES, False
        return data

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> list[UpperLayerEvent]:
        """The events that these bytes from the peer complete, in order. The bytes may be split anywhere.

        Nothing refers to `data` afterwards. A violation of PS3.8 raises RemoteProtocolError, see the module.
        """
        if self.state == "Sta6":
            size = len(data)
            if size >= _PDU_AND_PDV_HEADER.size and not self._partial:
                # One P-DATA-TF with one PDV, as most responses are, or its beginning: 1.1 us here, 2 us the long way.
                pdu_type, length, pdv_length, context_id, control = _PDU_AND_PDV_HEADER.unpack_from(data)
                if pdu_type == DATA_TF and length <= self._data_limit_bytes:
                    if length == size - 6 and pdv_length == size - 10 and context_id & 1:
                        is_command, is_last = CONTROL_FLAGS[control & 3]
                        return [DataReceived((Fragment(context_id, is_command, is_last, bytes(data[12:])),))]
                    if length > size - 6:
                        self._partial, self._wanted_bytes, self.is_amid_pdu = bytearray(data), 6 + length, True
                        return self._hand_over([])
        if self.state == "Sta4" or (self.state == "Sta1" and not self.closing):
            raise LocalProtocolError("the transport is not open")
        events: list[UpperLayerEvent] = []
        self._feed(memoryview(data), now, events)
        self.is_amid_pdu = bool(self._partial)
        return self._hand_over(events)

    def receive_eof(self, now: float) -> list[UpperLayerEvent]:
        """The transport ended, by the peer or by a failure (Evt17); afterwards `closing` is set."""
        events: list[UpperLayerEvent] = []
        if not self.closing and self._step("transport closed", now) == "AA-4":
            events.append(TransportClosed())
        return self._hand_over(events)

    def check_deadline(self, now: float) -> None:
        """Set `closing` when the ARTIM timer has run out (Evt18); the user is told nothing."""
        if self.artim_deadline_at is not None and now >= self.artim_deadline_at:
            self._step("artim expired", now)

    # Inside.

    def _set_maximum_length(self, maximum_length: int) -> None:
        self.maximum_length = maximum_length
        self._data_limit_bytes = maximum_length or UNLIMITED_DATA_BYTES

    def _require(self, event: Event) -> Action:
        action = TRANSITIONS.get((event, self.state))
        if action is None or self.closing:
            over = " of an association that is over" if self.closing else ""
            raise LocalProtocolError(f"{event} is not possible in state {self.state}{over}")
        return action

    def _step(self, event: Event, now: float, *, acceptable: bool = True) -> Action:
        action = self._require(event)
        self.state = next_state(action, acceptor=self.acceptor, acceptable=acceptable)
        if action in STARTS_ARTIM or not acceptable:
            self.artim_deadline_at = now + self.artim_seconds
        elif action in STOPS_ARTIM:
            self.artim_deadline_at = None
        self.closing = self.state == "Sta1"
        return action

    def _hand_over(self, events: list[UpperLayerEvent]) -> list[UpperLayerEvent]:
        if events or self._error_to_raise is None:
            return events
        error, self._error_to_raise = self._error_to_raise, None
        raise error

    def _feed(self, view: memoryview, now: float, events: list[UpperLayerEvent]) -> None:
        offset, size = 0, len(view)
        while offset < size and not self.closing and not self._is_deaf:
            if self._partial or size - offset < HEADER_BYTES:
                offset += self._feed_partial(view[offset:], now, events)
                continue
            header = self._check_header(view[offset : offset + HEADER_BYTES], now)
            if header is None:
                return
            pdu_type, length = header
            body_at, offset = offset + HEADER_BYTES, offset + HEADER_BYTES + length
            if offset <= size:
                self._receive_body(pdu_type, view[body_at:offset], now, events)
            else:
                self._partial += view[body_at - HEADER_BYTES :]
                self._wanted_bytes = HEADER_BYTES + length

    def _feed_partial(self, view: memoryview, now: float, events: list[UpperLayerEvent]) -> int:
        # Only bytes of this PDU are collected, so each byte is copied once, however the data was split.
        partial = self._partial
        taken = min(self._wanted_bytes - len(partial), len(view))
        partial += view[:taken]
        if len(partial) == HEADER_BYTES and self._wanted_bytes == HEADER_BYTES:
            header = self._check_header(partial, now)
            if header is None:
                return taken
            self._wanted_bytes += header[1]
        if len(partial) == self._wanted_bytes:
            self._partial = bytearray()
            self._wanted_bytes = HEADER_BYTES
            self._receive_body(partial[0], memoryview(partial)[HEADER_BYTES:], now, events)
        return taken

    def _check_header(self, header: bytearray | memoryview, now: float) -> tuple[int, int] | None:
        try:
            return check_header(header, self.maximum_length)
        except RemoteProtocolError as error:
            self._is_deaf = True
            self._partial = bytearray()
            self._receive_invalid(error, now)
            return None

    def _receive_body(self, pdu_type: int, body: memoryview, now: float, events: list[UpperLayerEvent]) -> None:
        try:
            if pdu_type == DATA_TF and self.state == "Sta6":
                events.append(DataReceived(decode_fragments(body)))
                return
            pdu = decode(pdu_type, body, self._tolerate)
            self._check_answer(pdu)
        except RemoteProtocolError as error:
            self._receive_invalid(error, now)
            return
        acceptable = not (isinstance(pdu, AssociateRQ) and self.state == "Sta2") or pdu.protocol_version & 1 == 1
        state = self.state
        action = self._step(_EVENT_OF[type(pdu)], now, acceptable=acceptable)
        if not acceptable:
            self._outgoing += _WRONG_VERSION.encode()
        elif action in ("AA-1", "AA-7", "AA-8"):
            text = f"not expected in state {state}"
            unexpected = RemoteProtocolError(text, pdu=PDU_NAMES[pdu_type], field=PDU_TYPE_FIELD)
            self._send_abort(action, _UNEXPECTED_PDU, unexpected)
        elif action not in ("AA-6", "AA-2"):
            events.append(_indication(pdu))

    def _check_answer(self, pdu: PDU) -> None:
        # A context that was never proposed has no abstract syntax, so its data would have no meaning.
        if isinstance(pdu, AssociateAC) and self.state == "Sta5" and self._request is not None:
            proposed = {context.context_id for context in self._request.presentation_contexts}
            for result in pdu.results:
                if result.context_id not in proposed:
                    text = f"{result.context_id} was never proposed"
                    raise RemoteProtocolError(text, pdu="A-ASSOCIATE-AC", field="Presentation context ID")

    def _receive_invalid(self, error: RemoteProtocolError, now: float) -> None:
        reason = _UNRECOGNISED_PDU if error.field == PDU_TYPE_FIELD else _INVALID_PARAMETER_VALUE
        self._send_abort(self._step("invalid pdu received", now), reason, error)

    def _send_abort(self, action: Action, reason: int, error: RemoteProtocolError) -> None:
        self._outgoing += (Abort(0, 0) if action == "AA-1" else Abort(2, reason)).encode()
        if action != "AA-7":
            self.error = self._error_to_raise = error


def _indication(pdu: PDU) -> UpperLayerEvent:
    match pdu:
        case DataTF(fragments):
            return DataReceived(fragments)
        case AssociateRQ():
            return AssociationRequested(pdu)
        case AssociateAC():
            return AssociationAccepted(pdu)
        case AssociateRJ():
            return AssociationRefused(pdu)
        case ReleaseRQ():
            return ReleaseRequested()
        case ReleaseRP():
            return ReleaseConfirmed()
    return AbortReceived(pdu.source, pdu.reason)
