"""The machine: every cell of Table 9-10 driven from outside, two machines joined in memory, and any bytes at all."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncstore.errors import LocalProtocolError, RemoteProtocolError
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.machine import (
    AbortReceived,
    AssociationAccepted,
    AssociationRefused,
    AssociationRequested,
    DataReceived,
    ReleaseConfirmed,
    ReleaseRequested,
    TransportClosed,
    UpperLayer,
    UpperLayerEvent,
)
from asyncstore.upper_layer.pdu import (
    PDU,
    UNLIMITED_DATA_BYTES,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    DataTF,
    Fragment,
    ReleaseRP,
    ReleaseRQ,
)
from asyncstore.upper_layer.states import TRANSITIONS, Event, State, next_state
from asyncstore.upper_layer.user_information import UserInformation
from tests.support import strategies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asyncstore.upper_layer.states import Action

INFORMATION = UserInformation(maximum_length=16382)
REQUEST = AssociateRQ("SCP", "SCU", (PresentationContext(1, "1.2", ("1.3",)),), INFORMATION)
ANSWER = AssociateAC("SCP", "SCU", (PresentationContextResult(1, 0, "1.3"),), INFORMATION)
REJECTION = AssociateRJ(1, 1, 7)
DATA = DataTF((Fragment(1, True, True, b"command"),))
# Two fragments, so that it does not take the shortest way through the machine.
MORE_DATA = DataTF((Fragment(1, False, False, b"data"), Fragment(1, False, True, b"set")))
NO_PDU = b"HTTP/1.1 400 Bad Request"

ARTIM_SECONDS = 30.0
STARTED_AT = 100.0
NOW = 110.0


def machine_in(state: State, *, acceptor: bool = False) -> UpperLayer:
    """A machine that was led into a state; nothing is left for it to send."""
    if state in ("Sta2", "Sta3", "Sta10", "Sta12"):
        acceptor = True
    elif state in ("Sta4", "Sta5", "Sta9", "Sta11"):
        acceptor = False
    machine = UpperLayer(acceptor=acceptor, artim_seconds=ARTIM_SECONDS)
    for step in _steps_to(state, acceptor):
        step(machine)
    machine.data_to_send()
    assert machine.state is state
    return machine


def _steps_to(state: State, acceptor: bool) -> Iterable[Callable[[UpperLayer], object]]:
    def receive(pdu: Any) -> Callable[[UpperLayer], object]:
        return lambda machine: machine.receive_data(pdu.encode(), STARTED_AT)

    def release(machine: UpperLayer) -> None:
        machine.release(STARTED_AT)

    def answer_release(machine: UpperLayer) -> None:
        machine.answer_release(STARTED_AT)

    opening: list[Callable[[UpperLayer], object]] = [
        lambda machine: machine.transport_opened(STARTED_AT),
        receive(REQUEST),
        lambda machine: machine.accept(ANSWER, STARTED_AT),
    ]
    if not acceptor:
        opening = [
            lambda machine: machine.associate(REQUEST, STARTED_AT),
            lambda machine: machine.transport_opened(STARTED_AT),
            receive(ANSWER),
        ]
    early = {"Sta1": 0, "Sta2": 1, "Sta3": 2, "Sta4": 1, "Sta5": 2}
    if state in early:
        return opening[: early[state]]
    closing: dict[State, list[Callable[[UpperLayer], object]]] = {
        "Sta6": [],
        "Sta7": [release],
        "Sta8": [receive(ReleaseRQ())],
        "Sta9": [release, receive(ReleaseRQ())],
        "Sta10": [release, receive(ReleaseRQ())],
        "Sta11": [release, receive(ReleaseRQ()), answer_release],
        "Sta12": [release, receive(ReleaseRQ()), receive(ReleaseRP())],
        "Sta13": [lambda machine: machine.abort(STARTED_AT)],
    }
    return opening + closing[state]


# Each event of Table 9-10 as its caller or the peer brings it about.
CAUSES: dict[Event, Callable[[UpperLayer], object]] = {
    "associate request": lambda m: m.associate(REQUEST, NOW),
    "transport confirmed": lambda m: m.transport_opened(NOW),
    "associate ac received": lambda m: m.receive_data(ANSWER.encode(), NOW),
    "associate rj received": lambda m: m.receive_data(REJECTION.encode(), NOW),
    "transport indicated": lambda m: m.transport_opened(NOW),
    "associate rq received": lambda m: m.receive_data(REQUEST.encode(), NOW),
    "associate accept": lambda m: m.accept(ANSWER, NOW),
    "associate reject": lambda m: m.reject(REJECTION, NOW),
    "data request": lambda m: m.check_can_send_data(),
    "data tf received": lambda m: m.receive_data(DATA.encode(), NOW),
    "release request": lambda m: m.release(NOW),
    "release rq received": lambda m: m.receive_data(ReleaseRQ().encode(), NOW),
    "release rp received": lambda m: m.receive_data(ReleaseRP().encode(), NOW),
    "release answer": lambda m: m.answer_release(NOW),
    "abort request": lambda m: m.abort(NOW),
    "abort received": lambda m: m.receive_data(Abort(2, 4).encode(), NOW),
    "transport closed": lambda m: m.receive_eof(NOW),
    "artim expired": lambda m: m.check_deadline(STARTED_AT + ARTIM_SECONDS),
    "invalid pdu received": lambda m: m.receive_data(NO_PDU, NOW),
}

# What an action hands out and what it sends; A-ABORT of AA-7 and AA-8 depends on the event.
INDICATIONS: dict[Action, UpperLayerEvent] = {
    "AE-3": AssociationAccepted(ANSWER),
    "AE-4": AssociationRefused(REJECTION),
    "AE-6": AssociationRequested(REQUEST),
    "DT-2": DataReceived(DATA.fragments),
    "AR-2": ReleaseRequested(),
    "AR-3": ReleaseConfirmed(),
    "AR-6": DataReceived(DATA.fragments),
    "AR-8": ReleaseRequested(),
    "AR-10": ReleaseConfirmed(),
    "AA-3": AbortReceived(2, 4),
    "AA-4": TransportClosed(),
}
SENDS: dict[Action, bytes] = {
    "AE-2": REQUEST.encode(),
    "AE-7": ANSWER.encode(),
    "AE-8": REJECTION.encode(),
    "AR-1": ReleaseRQ().encode(),
    "AR-4": ReleaseRP().encode(),
    "AR-9": ReleaseRP().encode(),
    "AA-1": Abort(0, 0).encode(),
}
ARTIM_STARTS = {"AE-5", "AE-8", "AR-4", "AA-1", "AA-8"}


def artim_after(action: Action, before: float | None) -> float | None:
    if action in ARTIM_STARTS:
        return NOW + ARTIM_SECONDS
    return before if action in ("AA-6", "AA-7") else None


def bring_about(machine: UpperLayer, event: Event) -> tuple[object, RemoteProtocolError | None]:
    """The events that came of it, and the error that was raised."""
    try:
        return CAUSES[event](machine) or [], None
    except RemoteProtocolError as error:
        return [], error


# Evt5 in Sta4 cannot be brought about: for a requestor, a transport that opens is Evt2.
CELLS = [
    (event, state)
    for event in get_args(Event)
    for state in get_args(State)
    if (event, state) != ("transport indicated", "Sta4")
]


@pytest.mark.parametrize(("event", "state"), [cell for cell in CELLS if cell in TRANSITIONS])
def test_every_cell_of_table_9_10_does_what_its_action_says(event: Event, state: State) -> None:
    machine = machine_in(state, acceptor=event == "transport indicated")
    action = TRANSITIONS[event, state]
    deadline_before = machine.artim_deadline_at
    assert machine.allows(event)
    events, error = bring_about(machine, event)
    if event != "data request":
        assert machine.state == next_state(action, acceptor=machine.acceptor)
    assert events == ([INDICATIONS[action]] if action in INDICATIONS else [])
    assert machine.artim_deadline_at == artim_after(action, deadline_before)
    assert machine.closing == (machine.state == "Sta1")
    sent = machine.data_to_send()
    if action in ("AA-7", "AA-8"):
        assert sent == Abort(2, 1 if event == "invalid pdu received" else 2).encode()
    else:
        assert sent == SENDS.get(action, b"")
    is_violation = action == "AA-8" or (action == "AA-1" and event != "abort request")
    assert (error is not None) == is_violation
    assert machine.error is error


@pytest.mark.parametrize(("event", "state"), [cell for cell in CELLS if cell not in TRANSITIONS])
def test_a_blank_cell_of_table_9_10_changes_nothing(event: Event, state: State) -> None:
    machine = machine_in(state)
    assert not machine.allows(event)
    deadline = machine.artim_deadline_at
    if event == "artim expired":
        machine.check_deadline(1e9)  # the timer does not run there: there is nothing to expire
    else:
        with pytest.raises(LocalProtocolError):
            CAUSES[event](machine)
    assert (machine.state, machine.artim_deadline_at, machine.closing) == (state, deadline, False)
    assert machine.data_to_send() == b""


# Two machines joined in memory.


class Pair:
    """A requestor and an acceptor; what one has to send reaches the other when `deliver` is called."""

    def __init__(self) -> None:
        self.scu = UpperLayer()
        self.scp = UpperLayer(acceptor=True)

    def deliver(self, to: UpperLayer) -> list[UpperLayerEvent]:
        sender = self.scp if to is self.scu else self.scu
        return to.receive_data(sender.data_to_send(), NOW)

    def associate(self) -> Pair:
        self.scu.associate(REQUEST, NOW)
        self.scu.transport_opened(NOW)
        self.scp.transport_opened(NOW)
        assert self.deliver(self.scp) == [AssociationRequested(REQUEST)]
        self.scp.accept(ANSWER, NOW)
        assert self.deliver(self.scu) == [AssociationAccepted(ANSWER)]
        return self


def test_association_data_and_release() -> None:
    pair = Pair().associate()
    pair.scu.check_can_send_data()
    assert pair.scp.receive_data(MORE_DATA.encode(), NOW) == [DataReceived(MORE_DATA.fragments)]
    pair.scp.check_can_send_data()
    assert pair.scu.receive_data(DATA.encode(), NOW) == [DataReceived(DATA.fragments)]
    pair.scu.release(NOW)
    with pytest.raises(LocalProtocolError):
        pair.scu.check_can_send_data()
    assert pair.deliver(pair.scp) == [ReleaseRequested()]
    pair.scp.check_can_send_data()
    assert pair.scu.receive_data(DATA.encode(), NOW) == [DataReceived(DATA.fragments)]
    pair.scp.answer_release(NOW)
    assert pair.deliver(pair.scu) == [ReleaseConfirmed()]
    assert pair.scu.closing
    assert not pair.scp.closing
    assert pair.scp.receive_eof(NOW) == []
    assert pair.scp.closing


def test_a_release_by_the_acceptor() -> None:
    pair = Pair().associate()
    pair.scp.release(NOW)
    assert pair.deliver(pair.scu) == [ReleaseRequested()]
    pair.scu.answer_release(NOW)
    assert pair.deliver(pair.scp) == [ReleaseConfirmed()]
    assert pair.scp.closing


def test_a_release_collision() -> None:
    pair = Pair().associate()
    pair.scu.release(NOW)
    pair.scp.release(NOW)
    from_scu, from_scp = pair.scu.data_to_send(), pair.scp.data_to_send()
    assert pair.scu.receive_data(from_scp, NOW) == [ReleaseRequested()]
    assert pair.scp.receive_data(from_scu, NOW) == [ReleaseRequested()]
    # The requestor answers first.
    with pytest.raises(LocalProtocolError):
        pair.scp.answer_release(NOW)
    pair.scu.answer_release(NOW)
    assert pair.deliver(pair.scp) == [ReleaseConfirmed()]
    pair.scp.answer_release(NOW)
    assert pair.deliver(pair.scu) == [ReleaseConfirmed()]
    assert pair.scu.closing
    assert pair.scp.receive_eof(NOW) == []
    assert pair.scp.closing


@pytest.mark.parametrize("aborting", ["scu", "scp"])
def test_an_abort_by_either_side(aborting: str) -> None:
    pair = Pair().associate()
    one, other = (pair.scu, pair.scp) if aborting == "scu" else (pair.scp, pair.scu)
    one.abort(NOW, source=2, reason=6)
    assert pair.deliver(other) == [AbortReceived(2, 6)]
    assert other.closing
    # Data that was on its way when we aborted is ignored.
    assert one.receive_data(MORE_DATA.encode(), NOW) == []
    assert one.receive_eof(NOW) == []
    assert one.closing


def test_two_aborts_at_the_same_time_end_both() -> None:
    pair = Pair().associate()
    pair.scu.abort(NOW)
    pair.scp.abort(NOW)
    assert pair.deliver(pair.scu) == []
    assert pair.scu.closing
    assert pair.scp.receive_data(Abort(0, 0).encode(), NOW) == []
    assert pair.scp.closing


def test_a_rejected_association() -> None:
    pair = Pair()
    pair.scu.associate(REQUEST, NOW)
    pair.scu.transport_opened(NOW)
    pair.scp.transport_opened(NOW)
    pair.deliver(pair.scp)
    pair.scp.reject(REJECTION, NOW)
    assert pair.deliver(pair.scu) == [AssociationRefused(REJECTION)]
    assert pair.scu.closing


# What belongs to the states but is no cell of the table.


def test_an_unknown_protocol_version_is_rejected_without_asking() -> None:
    machine = machine_in("Sta2")
    wire = AssociateRQ("SCP", "SCU", (), INFORMATION, protocol_version=2).encode()
    assert machine.receive_data(wire, NOW) == []
    assert machine.data_to_send() == AssociateRJ(1, 2, 2).encode()
    assert machine.state == "Sta13"
    assert machine.artim_deadline_at == NOW + ARTIM_SECONDS


def test_a_protocol_version_besides_the_first_does_no_harm() -> None:
    request = AssociateRQ("SCP", "SCU", (), INFORMATION, protocol_version=3)
    assert machine_in("Sta2").receive_data(request.encode(), NOW) == [AssociationRequested(request)]


def test_a_context_that_was_never_proposed_is_refused() -> None:
    machine = machine_in("Sta5")
    answer = AssociateAC("SCP", "SCU", (PresentationContextResult(3, 0, "1.3"),), INFORMATION)
    with pytest.raises(RemoteProtocolError, match="3 was never proposed"):
        machine.receive_data(answer.encode(), NOW)
    assert machine.data_to_send() == Abort(2, 6).encode()
    assert machine.state == "Sta13"


def test_an_answer_may_leave_contexts_out() -> None:
    answer = AssociateAC("SCP", "SCU", (), INFORMATION)
    assert machine_in("Sta5").receive_data(answer.encode(), NOW) == [AssociationAccepted(answer)]


def test_the_artim_timer_expires_at_its_deadline_and_not_before() -> None:
    machine = machine_in("Sta2")
    machine.check_deadline(STARTED_AT + ARTIM_SECONDS - 0.001)
    assert not machine.closing
    machine.check_deadline(STARTED_AT + ARTIM_SECONDS)
    assert machine.closing
    assert machine.artim_deadline_at is None


def test_a_machine_serves_one_association() -> None:
    machine = machine_in("Sta4")
    machine.abort(NOW)
    assert machine.closing
    assert machine.data_to_send() == b""
    with pytest.raises(LocalProtocolError, match="over"):
        machine.associate(REQUEST, NOW)


def test_a_connection_that_fails_ends_the_association() -> None:
    machine = machine_in("Sta4")
    assert machine.receive_eof(NOW) == [TransportClosed()]
    assert machine.closing


def test_an_acceptor_does_not_ask() -> None:
    with pytest.raises(LocalProtocolError):
        UpperLayer(acceptor=True).associate(REQUEST, NOW)


def test_after_the_end_nothing_happens_any_more() -> None:
    machine = machine_in("Sta6")
    assert machine.receive_data(Abort(0, 0).encode() + DATA.encode(), NOW) == [AbortReceived(0, 0)]
    assert machine.receive_data(DATA.encode(), NOW) == []
    assert machine.receive_data(NO_PDU, NOW) == []
    assert machine.receive_eof(NOW) == []
    assert machine.receive_eof(NOW) == []
    machine.check_deadline(1e9)
    assert machine.data_to_send() == b""


@pytest.mark.parametrize(
    ("state", "call"),
    [
        ("Sta1", lambda m: m.associate(AssociateRQ("A" * 17, "B", (), INFORMATION), NOW)),
        ("Sta3", lambda m: m.accept(AssociateAC("A" * 17, "B", (), INFORMATION), NOW)),
        ("Sta3", lambda m: m.reject(AssociateRJ(0, 0, 256), NOW)),
        ("Sta6", lambda m: m.abort(NOW, 0, 256)),
    ],
)
def test_what_cannot_be_encoded_changes_nothing(state: State, call: Callable[[UpperLayer], None]) -> None:
    machine = machine_in(state)
    with pytest.raises(ValueError, match=r"."):
        call(machine)
    assert machine.state is state
    assert machine.data_to_send() == b""


def test_the_maximum_that_was_announced_is_the_one_that_holds() -> None:
    machine = UpperLayer(maximum_length=100)
    request = AssociateRQ("SCP", "SCU", REQUEST.presentation_contexts, UserInformation(maximum_length=20))
    machine.associate(request, NOW)
    machine.transport_opened(NOW)
    machine.receive_data(ANSWER.encode(), NOW)
    just_fits = DataTF((Fragment(1, False, True, bytes(14)),))
    assert machine.receive_data(just_fits.encode(), NOW) == [DataReceived(just_fits.fragments)]
    with pytest.raises(RemoteProtocolError, match="21 bytes, 20 are allowed"):
        machine.receive_data(DataTF((Fragment(1, False, True, bytes(15)),)).encode(), NOW)


def test_an_acceptor_too_holds_the_maximum_that_it_announced() -> None:
    machine = machine_in("Sta3")
    machine.accept(AssociateAC("SCP", "SCU", ANSWER.results, UserInformation(maximum_length=0)), NOW)
    large = DataTF((Fragment(1, False, True, bytes(100_000)),))
    assert machine.receive_data(large.encode(), NOW) == [DataReceived(large.fragments)]
    assert machine.maximum_length == 0
    with pytest.raises(RemoteProtocolError, match=f"{UNLIMITED_DATA_BYTES} are allowed"):
        machine.receive_data(b"\4\0\xff\xff\xff\xff", NOW)


# What the peer does against the standard.


def test_events_before_bad_bytes_are_not_lost_and_the_error_is_raised_once() -> None:
    machine = machine_in("Sta6")
    assert machine.receive_data(DATA.encode() + MORE_DATA.encode() + NO_PDU, NOW) == [
        DataReceived(DATA.fragments),
        DataReceived(MORE_DATA.fragments),
    ]
    assert machine.error is not None
    assert machine.data_to_send() == Abort(2, 1).encode()
    with pytest.raises(RemoteProtocolError, match="HTTP server") as caught:
        machine.receive_data(b"", NOW)
    assert caught.value is machine.error
    assert machine.receive_data(b"", NOW) == []


def test_the_end_of_the_transport_raises_what_is_still_to_be_raised() -> None:
    machine = machine_in("Sta6")
    assert machine.receive_data(DATA.encode() + NO_PDU, NOW) == [DataReceived(DATA.fragments)]
    with pytest.raises(RemoteProtocolError):
        machine.receive_eof(NOW)
    assert machine.closing


def test_after_a_header_that_is_none_nothing_more_is_read() -> None:
    machine = machine_in("Sta6")
    with pytest.raises(RemoteProtocolError):
        machine.receive_data(NO_PDU + Abort(0, 0).encode(), NOW)
    assert machine.receive_data(Abort(0, 0).encode(), NOW) == []
    assert machine.state == "Sta13"


def test_after_a_bad_body_the_next_pdu_is_still_understood() -> None:
    machine = machine_in("Sta6")
    with pytest.raises(RemoteProtocolError, match="P-DATA-TF, PDV"):
        machine.receive_data(b"\4\0\0\0\0\0" + Abort(0, 0).encode(), NOW)
    assert machine.data_to_send() == Abort(2, 6).encode()
    assert machine.closing


def test_a_pdu_at_the_wrong_time_is_named() -> None:
    with pytest.raises(RemoteProtocolError, match="not expected in state Sta6") as caught:
        machine_in("Sta6").receive_data(REQUEST.encode(), NOW)
    assert caught.value.pdu == "A-ASSOCIATE-RQ"


@pytest.mark.parametrize("state", [state for state in get_args(State) if state not in ("Sta1", "Sta4")])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_bad_bytes_are_refused_however_they_are_split(state: State, step: int) -> None:
    machine = machine_in(state)
    errors = []
    for start in range(0, len(NO_PDU), step):
        try:
            assert machine.receive_data(NO_PDU[start : start + step], NOW) == []
        except RemoteProtocolError as error:
            errors.append(error)
    assert len(errors) == (state != "Sta13")
    assert machine.state == "Sta13"


def test_a_pdu_of_4_gib_is_refused_from_its_header() -> None:
    machine = machine_in("Sta6")
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="4294967295 bytes"):
            machine.receive_data(b"\4\0\xff\xff\xff\xff", NOW)
        assert tracemalloc.get_traced_memory()[1] < 32_768
    finally:
        tracemalloc.stop()


# How the bytes are split makes no difference.

SCRIPT: list[PDU] = [ANSWER, DATA, MORE_DATA, DATA, ReleaseRQ()]
SCRIPT_EVENTS: list[UpperLayerEvent] = [
    AssociationAccepted(ANSWER),
    DataReceived(DATA.fragments),
    DataReceived(MORE_DATA.fragments),
    DataReceived(DATA.fragments),
    ReleaseRequested(),
]
WIRE = b"".join(pdu.encode() for pdu in SCRIPT)


def feed(machine: UpperLayer, parts: Iterable[bytes | bytearray | memoryview]) -> list[UpperLayerEvent]:
    return [event for part in parts for event in machine.receive_data(part, NOW)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_whole_conversation_at_once(kind: type[Any]) -> None:
    assert feed(machine_in("Sta5"), [kind(WIRE)]) == SCRIPT_EVENTS


def test_a_whole_conversation_byte_by_byte() -> None:
    assert feed(machine_in("Sta5"), [WIRE[at : at + 1] for at in range(len(WIRE))]) == SCRIPT_EVENTS


def test_a_whole_conversation_split_at_every_point() -> None:
    for at in range(len(WIRE) + 1):
        assert feed(machine_in("Sta5"), [WIRE[:at], b"", WIRE[at:]]) == SCRIPT_EVENTS


def test_a_conversation_cut_at_every_point_gives_what_was_complete() -> None:
    ends = [0]
    for pdu in SCRIPT:
        ends.append(ends[-1] + len(pdu.encode()))
    for at in range(len(WIRE)):
        machine = machine_in("Sta5")
        complete = sum(end <= at for end in ends[1:])
        assert machine.receive_data(WIRE[:at], NOW) == SCRIPT_EVENTS[:complete]
        assert machine.receive_eof(NOW) == [TransportClosed()]


@pytest.mark.parametrize("length", [1, 100, 10_000])
def test_it_is_known_whether_the_end_of_a_pdu_is_still_to_come(length: int) -> None:
    wire = DataTF((Fragment(3, False, True, bytes(length)),)).encode()
    for step in (1, 5, 12, 300, 5000):
        machine = machine_in("Sta6")
        parts = [wire[at : at + step] for at in range(0, len(wire), step)]
        amid = [(machine.receive_data(part, NOW), machine.is_amid_pdu)[1] for part in parts]
        assert amid == [True] * (len(parts) - 1) + [False]


def test_a_request_split_at_every_point_reaches_the_acceptor() -> None:
    wire = REQUEST.encode()
    for at in range(len(wire) + 1):
        machine = machine_in("Sta2")
        assert feed(machine, [wire[:at], wire[at:]]) == [AssociationRequested(REQUEST)]
        assert machine.artim_deadline_at is None


def test_nothing_refers_to_the_callers_buffer_afterwards() -> None:
    machine = machine_in("Sta6")
    buffer = bytearray(DATA.encode() + MORE_DATA.encode()[:7])
    events = machine.receive_data(memoryview(buffer), NOW)
    buffer[:] = b"\xff" * len(buffer)
    buffer.extend(b"growing fails while a view of it is alive")
    events += machine.receive_data(MORE_DATA.encode()[7:], NOW)
    assert events == [DataReceived(DATA.fragments), DataReceived(MORE_DATA.fragments)]


@given(st.lists(strategies.data_pdus, min_size=1, max_size=4), st.data())
def test_any_data_split_anyhow_gives_the_same_fragments(pdus: list[DataTF], data: st.DataObject) -> None:
    wire = b"".join(pdu.encode() for pdu in pdus)
    parts = strategies.pieces(data.draw, wire)
    assert feed(machine_in("Sta6"), parts) == [DataReceived(pdu.fragments) for pdu in pdus]


def outcome(machine: UpperLayer, parts: Iterable[bytes]) -> tuple[Any, ...]:
    """All that can be seen of a machine after it was fed: events, errors, what it sends, where it is."""
    events, errors = [], []
    for part in [*parts, b""]:
        try:
            events += machine.receive_data(part, NOW)
        except RemoteProtocolError as error:
            errors.append((error.pdu, error.field, str(error)))
    return events, errors, machine.data_to_send(), machine.state, machine.closing, machine.artim_deadline_at


LEGAL_STREAMS = st.lists(strategies.pdus, max_size=4).map(lambda pdus: b"".join(pdu.encode() for pdu in pdus))
ANY_STREAM = st.one_of(st.binary(max_size=60), LEGAL_STREAMS, strategies.damaged(LEGAL_STREAMS))


@given(st.sampled_from([state for state in get_args(State) if state not in ("Sta1", "Sta4")]), ANY_STREAM, st.data())
def test_any_bytes_in_any_state_are_events_or_an_error_of_the_peer(
    state: State, wire: bytes, data: st.DataObject
) -> None:
    whole = outcome(machine_in(state), [wire])
    assert len(whole[1]) <= 1
    assert outcome(machine_in(state), strategies.pieces(data.draw, wire)) == whole


# Two machines whose users do what they like, whenever they like.


class TwoUsers(RuleBasedStateMachine):
    """Whatever two lawful users do, neither machine ever finds fault with the other."""

    def __init__(self) -> None:
        super().__init__()
        pair = Pair().associate()
        self.sides = (pair.scu, pair.scp)
        self.wires = (bytearray(), bytearray())
        self.ended = [False, False]

    def _flush(self, side: int) -> None:
        self.wires[side].extend(self.sides[side].data_to_send())

    @rule(side=st.integers(0, 1), request=st.sampled_from(("release", "answer_release", "abort")))
    def ask(self, side: int, request: str) -> None:
        events: dict[str, Event] = {"release": "release request", "answer_release": "release answer"}
        event = events.get(request, "abort request")
        if self.sides[side].allows(event):
            getattr(self.sides[side], request)(NOW)
            self._flush(side)

    @rule(side=st.integers(0, 1), pdu=strategies.data_pdus)
    def send(self, side: int, pdu: DataTF) -> None:
        if self.sides[side].allows("data request"):
            self.wires[side].extend(pdu.encode())

    @rule(side=st.integers(0, 1), count=st.integers(1, 200))
    def deliver(self, side: int, count: int) -> None:
        wire, receiver = self.wires[side], self.sides[1 - side]
        if not self.ended[1 - side]:
            part = bytes(wire[:count])
            del wire[:count]
            receiver.receive_data(part, NOW)
            self._flush(1 - side)

    @rule(side=st.integers(0, 1))
    @precondition(lambda self: any(machine.closing for machine in self.sides))
    def close(self, side: int) -> None:
        if self.sides[side].closing and not self.wires[side] and not self.ended[1 - side]:
            self.sides[1 - side].receive_eof(NOW)
            self.ended[1 - side] = True

    @invariant()
    def no_fault_is_found(self) -> None:
        assert self.sides[0].error is None
        assert self.sides[1].error is None
        assert all(machine.closing == (machine.state == "Sta1") for machine in self.sides)


TestTwoUsers = TwoUsers.TestCase
