"""What fuzz.py feeds: the decoders of asyncstore, each with a corpus and with what must hold for every input.

- Events, messages and RemoteProtocolError come out of every decoder, and nothing else.
- However a stream is split, the same events come, the same error after them, and the same bytes are to be sent.
- What a decoder accepts can be encoded, and then decodes to an equal object.
- A response ends one operation that was wholly sent, once; a refused one ends none.
"""

from __future__ import annotations

import copy
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.dimse import command_set, decoding
from asyncstore.dimse.messages import C_STORE_RQ, CEchoRQ, CStoreRQ, UnknownMessage
from asyncstore.dimse.reassembly import Reassembler
from asyncstore.errors import RemoteProtocolError
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN, MR_IMAGE_STORAGE
from asyncstore.upper_layer import items, pdu
from asyncstore.upper_layer.contexts import AcceptedContext
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.machine import DataReceived, UpperLayer
from asyncstore.upper_layer.pdu import Abort, DataTF, Fragment
from asyncstore.upper_layer.user_information import (
    USER_INFORMATION,
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserIdentity,
    UserInformation,
)
from tests.campaigns.fuzz_corpus import (
    ANSWER,
    COMMAND_SETS,
    CONTEXT_ID,
    DATA,
    IN_FLIGHT,
    ITEMS,
    MAXIMUM_LENGTH,
    PDUS,
    REQUEST,
)
from tests.campaigns.fuzz_files import FILE_TARGETS
from tests.campaigns.fuzz_support import Target, Violation, check, pieces_of
from tests.campaigns.fuzz_tls import TLS_TARGETS
from tests.support.dimse import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asyncstore.upper_layer.states import State

_MAXIMUM_ITEM_BYTES: Final = 0xFFFF
_NOW: Final = 0.0


# -- machines ----------------------------------------------------------------------------------------------------------


def _requestor(*steps: Callable[[UpperLayer], object]) -> UpperLayer:
    machine = UpperLayer(maximum_length=MAXIMUM_LENGTH)
    machine.associate(REQUEST, _NOW)
    machine.transport_opened(_NOW)
    return _walked(machine, steps)


def _acceptor(*steps: Callable[[UpperLayer], object]) -> UpperLayer:
    machine = UpperLayer(acceptor=True, maximum_length=MAXIMUM_LENGTH)
    machine.transport_opened(_NOW)
    return _walked(machine, steps)


def _walked(machine: UpperLayer, steps: Iterable[Callable[[UpperLayer], object]]) -> UpperLayer:
    for step in steps:
        step(machine)
    machine.data_to_send()
    return machine


def _receives(data: bytes) -> Callable[[UpperLayer], object]:
    return lambda machine: machine.receive_data(data, _NOW)


_RELEASES: Final = methodcaller("release", _NOW)
_ANSWERS_RELEASE: Final = methodcaller("answer_release", _NOW)
_ABORTS: Final = methodcaller("abort", _NOW)
_ACCEPTS: Final = methodcaller("accept", ANSWER, _NOW)
_IS_ACCEPTED: Final = _receives(ANSWER.encode())
_IS_ASKED: Final = _receives(REQUEST.encode())
_IS_RELEASED: Final = _receives(pdu.ReleaseRQ().encode())
_IS_ANSWERED: Final = _receives(pdu.ReleaseRP().encode())

# Every state in which a byte of the peer can come; the last of each is an association that is over.
_MACHINES: Final = (
    _requestor(),
    _requestor(_IS_ACCEPTED),
    _requestor(_IS_ACCEPTED, _RELEASES),
    _requestor(_IS_ACCEPTED, _IS_RELEASED),
    _requestor(_IS_ACCEPTED, _RELEASES, _IS_RELEASED),
    _requestor(_IS_ACCEPTED, _RELEASES, _IS_RELEASED, _ANSWERS_RELEASE),
    _requestor(_ABORTS),
    _requestor(_IS_ACCEPTED, _RELEASES, _IS_ANSWERED),
    _acceptor(),
    _acceptor(_IS_ASKED),
    _acceptor(_IS_ASKED, _ACCEPTS),
    _acceptor(_IS_ASKED, _ACCEPTS, _RELEASES),
    _acceptor(_IS_ASKED, _ACCEPTS, _IS_RELEASED),
    _acceptor(_IS_ASKED, _ACCEPTS, _RELEASES, _IS_RELEASED),
    _acceptor(_IS_ASKED, _ACCEPTS, _RELEASES, _IS_RELEASED, _IS_ANSWERED),
    _acceptor(_IS_ASKED, _ABORTS),
    _acceptor(_IS_ASKED, _ACCEPTS, _receives(Abort(0, 0).encode())),
)
_ASSOCIATED: Final = next(machine for machine in _MACHINES if machine.state == "Sta6" and not machine.acceptor)
_ACCEPTED: Final = next(machine for machine in _MACHINES if machine.state == "Sta6" and machine.acceptor)


def _copy_of(machine: UpperLayer) -> UpperLayer:
    """A machine in the same state with buffers of its own."""
    copied = copy.copy(machine)
    for name, value in vars(copied).items():
        if type(value) is bytearray:
            setattr(copied, name, bytearray(value))
    return copied


class _Course(NamedTuple):
    """All that the outside sees of a machine that was given bytes."""

    events: list[Any]
    errors: list[str]
    state: State
    is_closing: bool
    deadline_at: float | None
    sent: bytes


def _course_of(machine: UpperLayer, pieces: Iterable[bytes]) -> _Course:
    events: list[Any] = []
    errors: list[str] = []
    for piece in (*pieces, b"", b""):  # an error that waited behind events comes with the first, and none with the last
        try:
            completed = machine.receive_data(piece, _NOW)
        except RemoteProtocolError as error:
            errors.append(str(error))
        else:
            check(not (errors and completed), "events after an error")
            events += completed
    check(len(errors) < 2, "a second error")
    check(bool(errors) == (machine.error is not None), "`error` tells another story than what was raised")
    return _Course(events, errors, machine.state, machine.closing, machine.artim_deadline_at, machine.data_to_send())


def run_machine(template: UpperLayer, data: bytes) -> None:
    """The same course however the bytes come, and an end of the stream that ends it."""
    machine = _copy_of(template)
    whole = _course_of(machine, (data,))
    check(whole == _course_of(_copy_of(template), pieces_of(data)), "split bytes make another course")
    at_end = machine.receive_eof(_NOW)
    check(machine.closing and len(at_end) < 2, "the end of the stream does not end the association")


# -- decoders ----------------------------------------------------------------------------------------------------------


def _check_again(decoded: Any, again: Any) -> None:
    check(again == decoded, "decoding what was encoded gives something else")


def _run_pdu(data: bytes) -> None:
    if len(data) < pdu.HEADER_BYTES:
        return
    try:
        pdu_type, length = pdu.check_header(data[: pdu.HEADER_BYTES], MAXIMUM_LENGTH)
    except RemoteProtocolError:
        pdu_type, length = data[0], 0
    check(length <= pdu.MAXIMUM_ASSOCIATE_BYTES, "a header of a longer PDU than is taken")
    try:
        decoded = pdu.decode(pdu_type, data[pdu.HEADER_BYTES :])
    except RemoteProtocolError:
        return
    if len(data) < _MAXIMUM_ITEM_BYTES:  # else what was filled in might not fit any more
        encoded = decoded.encode()
        _check_again(decoded, pdu.decode(encoded[0], encoded[pdu.HEADER_BYTES :]))


def _run_fragments(data: bytes) -> None:
    try:
        fragments = pdu.decode_fragments(memoryview(data))
    except RemoteProtocolError:
        return
    encoded = DataTF(fragments).encode()
    check(len(encoded) == len(data) + pdu.HEADER_BYTES, "bytes were lost or found")
    _check_again(fragments, pdu.decode_fragments(memoryview(encoded)[pdu.HEADER_BYTES :]))


_ITEM_CLASSES: Final[dict[int, Any]] = {
    items.PROPOSED_CONTEXT: PresentationContext,
    items.CONTEXT_RESULT: PresentationContextResult,
    USER_INFORMATION: UserInformation,
    0x53: OperationsWindow,
    0x54: RoleSelection,
    0x56: ExtendedNegotiation,
    0x57: CommonExtendedNegotiation,
    0x58: UserIdentity,
}


def _run_item(data: bytes) -> None:
    """The content as the class that its type names (any, when it names none), and all of it as a list of items."""
    known = list(_ITEM_CLASSES.values())
    first = data[0] if data else 0
    item_class = _ITEM_CLASSES.get(first, known[first % len(known)])
    try:
        decoded = item_class.decode(memoryview(data)[4:], pdu="fuzz")
    except RemoteProtocolError:
        pass
    else:
        _check_again(decoded, item_class.decode(memoryview(decoded.encode())[4:], pdu="fuzz"))
    try:
        found = list(items.decode_items(memoryview(data), pdu="fuzz", field="fuzz"))
    except RemoteProtocolError:
        return
    end = sum(4 + len(content) for _, content in found)
    check(end <= len(data) < end + 4 and not any(data[end:]), "bytes were lost or found")


def _run_uid(data: bytes) -> None:
    try:
        uid = items.decode_uid(memoryview(data), pdu="fuzz", field="fuzz")
    except RemoteProtocolError:
        return
    _check_again(uid, items.decode_uid(memoryview(items.encode_uid(uid, field="fuzz")), pdu="fuzz", field="fuzz"))


def _even(value: Any) -> Any:
    """An element that is not known is padded to even length when it is written."""
    return value + b" " if isinstance(value, bytes) and len(value) & 1 else value


def _run_command_set(data: bytes) -> None:
    try:
        elements = command_set.decode(data)
    except RemoteProtocolError:
        return
    elements.pop(command_set.GROUP_LENGTH, None)
    again = command_set.decode(command_set.encode(elements.items()))
    del again[command_set.GROUP_LENGTH]
    _check_again({tag: _even(value) for tag, value in elements.items()}, again)


def _run_message(data: bytes) -> None:
    try:
        message = decoding.decode(data)
    except RemoteProtocolError:
        return
    check(bool(message.name), "a message without a name")
    if isinstance(message, UnknownMessage) and message.command_field == C_STORE_RQ:
        return  # without a data set; it is answered, and never written
    _check_again(message, decoding.decode(message.encode()))


# -- exchanges ---------------------------------------------------------------------------------------------------------


_OTHER_CONTEXTS: Final = (
    AcceptedContext(CONTEXT_ID, CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN),
    AcceptedContext(CONTEXT_ID + 4, MR_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN),
)


def _exchange() -> Exchange:
    """An exchange with requests in flight: C-STOREs, a C-ECHO, and a C-STORE that is not wholly sent."""
    exchange = Exchange(window=IN_FLIGHT, other_contexts=_OTHER_CONTEXTS)
    for number in range(1, IN_FLIGHT + 1):
        is_echo = number == IN_FLIGHT - 1
        request = CEchoRQ(number) if is_echo else CStoreRQ(number, CT_IMAGE_STORAGE, f"1.2.3.{number}")
        exchange.begin(CONTEXT_ID, lambda _, request=request: request)
        if number < IN_FLIGHT:
            exchange.sent(number)
    return exchange


def _take(exchange: Exchange, fragment: Fragment, ended: list[int]) -> None:
    """Give an exchange a fragment as its association does; RemoteProtocolError is the caller's."""
    received = exchange.receive(fragment)
    if received is None:
        return
    before = dict(exchange.outstanding)
    if received.message.responded_to is None:
        exchange.perform(received)
        check(dict(exchange.outstanding) == before, "a request of the peer ended an operation")
        return
    try:
        operation = exchange.match(received)
    except RemoteProtocolError:
        check(dict(exchange.outstanding) == before, "a response that was refused ended an operation")
        raise
    del before[operation.message_id]
    check(dict(exchange.outstanding) == before, "a response ended another operation, or more than one")
    check(operation.is_sent, "a response ended an operation that was not sent")
    check(
        exchange.contexts[operation.context_id].abstract_syntax
        == exchange.contexts[received.context_id].abstract_syntax,
        "a response of another SOP class ended an operation",
    )
    ended.append(operation.message_id)
    try:
        exchange.match(received)
    except RemoteProtocolError:
        return
    raise Violation("the same response ended two operations")


def _story_of(template: UpperLayer, pieces: Iterable[bytes], take: Callable[[Fragment], object]) -> str:
    """Receive bytes and hand on the fragments until something is wrong; what was wrong."""
    machine = _copy_of(template)
    try:
        for piece in (*pieces, b""):
            for event in machine.receive_data(piece, _NOW):
                if isinstance(event, DataReceived):
                    for fragment in event.fragments:
                        take(fragment)
    except RemoteProtocolError as error:
        return str(error)
    return ""


def _run_exchange(data: bytes) -> None:
    """Bytes from the wire to the operations that they end."""
    stories = []
    for pieces in ([data], pieces_of(data)):
        ended: list[int] = []
        exchange = _exchange()
        stories.append((_story_of(_ASSOCIATED, pieces, partial(_take, exchange, ended=ended)), ended))
    check(stories[0] == stories[1], "split bytes end other operations")


def _run_reassembler(data: bytes) -> None:
    """Bytes from the wire to the requests that an acceptor sees."""
    stories = []
    for pieces in ([data], pieces_of(data)):
        reassembler = Reassembler()
        seen: list[Any] = []

        def take(fragment: Fragment, reassembler: Reassembler = reassembler, seen: list[Any] = seen) -> None:
            if fragment.is_command:
                seen.append(reassembler.receive_command(fragment))
            else:
                seen.append(reassembler.receive_data_set(fragment))
                check(seen[-1].has_data_set, "a data set for a message that has none")

        stories.append((_story_of(_ACCEPTED, pieces, take), seen))
    check(stories[0] == stories[1], "split bytes make other messages")


def _run_response(data: bytes) -> None:
    """A command set in one fragment and in several ends the same operation, or none for the same reason."""
    stories = []
    for pieces in ([data], pieces_of(data)):
        ended: list[int] = []
        exchange, problem = _exchange(), ""
        try:
            for index, piece in enumerate(pieces):
                _take(exchange, Fragment(CONTEXT_ID, True, index == len(pieces) - 1, piece), ended)
        except RemoteProtocolError as error:
            problem = str(error)
        stories.append((problem, ended))
    check(stories[0] == stories[1], "a command set in several fragments is another one")


def _machine_targets() -> dict[str, Target]:
    targets = {}
    for machine in _MACHINES:
        side = "acceptor" if machine.acceptor else "requestor"
        state = "closed" if machine.closing else machine.state.lower()
        is_main = machine.state in ("Sta2", "Sta5", "Sta6")
        corpus = PDUS + DATA if machine.state == "Sta6" else PDUS
        targets[f"{side}-{state}"] = Target(partial(run_machine, machine), corpus, 3 if is_main else 1, is_pdu=True)
    return targets


TARGETS: Final[dict[str, Target]] = {
    **_machine_targets(),
    "pdu": Target(_run_pdu, PDUS, 5, is_pdu=True),
    "fragments": Target(_run_fragments, tuple(data[pdu.HEADER_BYTES :] for data in DATA), 3),
    "items": Target(_run_item, ITEMS, 4),
    "uid": Target(_run_uid, (b"1.2.840.10008.1.2\0", CT_IMAGE_STORAGE.encode()), 1),
    "command-set": Target(_run_command_set, COMMAND_SETS, 4),
    "messages": Target(_run_message, COMMAND_SETS, 5),
    "exchange": Target(_run_exchange, DATA, 4, is_pdu=True),
    "responses": Target(_run_response, COMMAND_SETS, 4),
    "reassembler": Target(_run_reassembler, DATA, 3, is_pdu=True),
    **FILE_TARGETS,
    **TLS_TARGETS,
}
