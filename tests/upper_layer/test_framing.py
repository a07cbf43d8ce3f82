"""Whatever is laid out decodes to the same message, within the peer's maximum, in both layouts."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import RemoteProtocolError
from asyncstore.instances.source import IOV_MAX, BytesSource
from asyncstore.upper_layer import framing
from asyncstore.upper_layer.framing import HEADER_BYTES, Framer, Run, fragment_capacity, frame_command
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.machine import DataReceived, UpperLayer
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRQ, Fragment
from asyncstore.upper_layer.user_information import UserInformation
from tests.support.strategies import context_ids
from tests.support.wire import CT_CONTEXT

if TYPE_CHECKING:
    from collections.abc import Iterable

MAXIMUM_LENGTHS = (8, 9, 16, 126, 4096, 16382, 16384)
COMMAND = b"a command set of 34 bytes, as it is"

layouts = st.sampled_from(("holes", "memory"))


class Layout(NamedTuple):
    """A message on the wire: its runs, and the bytes that each of them sends."""

    runs: list[Run]
    wires: list[bytes]

    @property
    def wire(self) -> bytes:
        return b"".join(self.wires)


@cache
def data_of(length: int) -> bytes:
    """Bytes of which no two places look alike."""
    return bytes((index * 7 + index // 251) & 0xFF for index in range(length))


def lay_out(framer: Framer, context_id: int, data: bytes, layout: str, command: bytes = b"") -> Layout:
    """Play the sender: fill the holes of every run, and take its bytes before the next run is asked for."""
    found = Layout([], [])
    for run in _runs(framer, context_id, data, layout):
        at = run.offset
        for hole in run.holes:
            hole[:] = data[at : at + len(hole)]
            at += len(hole)
        if command and not found.runs:
            run.put_command(frame_command(context_id, command, framer.capacity))
        found.runs.append(run)
        found.wires.append(b"".join(run.parts))
        assert run.total_bytes == len(found.wires[-1])
    return found


def _runs(framer: Framer, context_id: int, data: bytes, layout: str) -> Iterable[Run]:
    if layout == "memory":
        return framer.runs_from_memory(context_id, memoryview(data))
    return framer.runs_with_holes(context_id, len(data))


def received_by_a_peer(wire: bytes, maximum_length: int) -> list[Fragment]:
    """The fragments, one PDV in each PDU, that an acceptor with this maximum takes without complaint."""
    peer = UpperLayer(acceptor=True)
    information = UserInformation(maximum_length=maximum_length, implementation_class_uid="1.2.3")
    peer.transport_opened(0.0)
    peer.receive_data(AssociateRQ("A", "B", (CT_CONTEXT,), information).encode(), 0.0)
    result = PresentationContextResult(1, 0, CT_CONTEXT.transfer_syntaxes[0])
    peer.accept(AssociateAC("A", "B", (result,), information), 0.0)
    found = []
    for event in peer.receive_data(wire, 0.0):
        assert isinstance(event, DataReceived)
        (fragment,) = event.fragments
        found.append(fragment)
    assert peer.error is None
    return found


def check_message(fragments: list[Fragment], context_id: int, data: bytes, capacity: int) -> None:
    """These fragments are exactly this data set: full and even ones, and one last."""
    assert b"".join(fragment.data for fragment in fragments) == data
    assert {fragment.context_id for fragment in fragments} == {context_id}
    assert not any(fragment.is_command for fragment in fragments)
    assert [fragment.is_last for fragment in fragments] == [False] * (len(fragments) - 1) + [True]
    assert {len(fragment.data) for fragment in fragments[:-1]} <= {capacity}
    assert len(fragments) == max(1, -(-len(data) // capacity))


@pytest.fixture(params=[1, 100, 999])
def short_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of so few bytes that a small message needs many."""
    monkeypatch.setattr(framing, "RUN_BYTES", request.param)


@given(st.integers(8, 300), context_ids, st.integers(0, 2000), layouts, st.integers(1, 700))
def test_any_data_set_arrives_whole_through_any_maximum(
    maximum_length: int, context_id: int, length: int, layout: str, run_bytes: int
) -> None:
    capacity = fragment_capacity(maximum_length)
    data = data_of(length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "RUN_BYTES", run_bytes)
        laid_out = lay_out(Framer(capacity), context_id, data, layout)
    check_message(received_by_a_peer(laid_out.wire, maximum_length), context_id, data, capacity)
    assert [run.is_last for run in laid_out.runs] == [False] * (len(laid_out.runs) - 1) + [True]


@given(st.integers(8, 300), context_ids, st.integers(0, 2000), st.integers(1, 700))
def test_both_layouts_send_the_same_bytes(maximum_length: int, context_id: int, length: int, run_bytes: int) -> None:
    data = data_of(length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "RUN_BYTES", run_bytes)
        framer = Framer(fragment_capacity(maximum_length))
    holes = lay_out(framer, context_id, data, "holes", COMMAND)
    memory = lay_out(framer, context_id, data, "memory", COMMAND)
    assert holes.wires == memory.wires
    for one, other in zip(holes.runs, memory.runs, strict=True):
        assert (one.offset, one.is_last, one.total_bytes) == (other.offset, other.is_last, other.total_bytes)


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("layout", ["holes", "memory"])
@pytest.mark.parametrize("maximum_length", MAXIMUM_LENGTHS)
def test_lengths_around_a_multiple_of_the_capacity(maximum_length: int, layout: str) -> None:
    capacity = fragment_capacity(maximum_length)
    framer = Framer(capacity)
    for count in range(5):
        for length in {max(0, count * capacity + difference) for difference in range(-2, 3)}:
            data = data_of(length)
            fragments = received_by_a_peer(lay_out(framer, 3, data, layout).wire, maximum_length)
            check_message(fragments, 3, data, capacity)
            assert all(len(fragment.data) % 2 == 0 for fragment in fragments) == (length % 2 == 0)


@pytest.mark.parametrize("layout", ["holes", "memory"])
@pytest.mark.parametrize("maximum_length", [16384, 0])
def test_a_data_set_of_several_real_runs(maximum_length: int, layout: str) -> None:
    capacity = fragment_capacity(maximum_length)
    data = bytes(range(256)) * (3 * framing.RUN_BYTES // 256 + 1)
    laid_out = lay_out(Framer(capacity), 1, data, layout)
    check_message(received_by_a_peer(laid_out.wire, maximum_length), 1, data, capacity)
    assert len(laid_out.runs) >= 4
    assert all(len(wire) <= framing.RUN_BYTES for wire in laid_out.wires)


@pytest.mark.parametrize("layout", ["holes", "memory"])
def test_an_empty_data_set_is_one_empty_last_fragment(layout: str) -> None:
    laid_out = lay_out(Framer(100), 5, b"", layout)
    assert received_by_a_peer(laid_out.wire, 106) == [Fragment(5, False, True, b"")]
    assert [list(run.holes) for run in laid_out.runs] == [[]]


@given(st.integers(8, 200), st.lists(st.tuples(context_ids, st.integers(0, 900), layouts), min_size=2, max_size=8))
def test_one_wire_buffer_serves_one_message_after_another(
    maximum_length: int, messages: list[tuple[int, int, str]]
) -> None:
    capacity = fragment_capacity(maximum_length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "RUN_BYTES", 256)
        framer = Framer(capacity)
    for context_id, length, layout in messages:
        data = data_of(length)
        wire = lay_out(framer, context_id, data, layout).wire
        check_message(received_by_a_peer(wire, maximum_length), context_id, data, capacity)


@given(st.integers(8, 200), st.integers(0, 5000), st.lists(st.booleans(), min_size=1, max_size=20))
def test_runs_become_long_and_short_again_in_the_middle_of_a_message(
    maximum_length: int, length: int, are_long: list[bool]
) -> None:
    capacity = fragment_capacity(maximum_length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "RUN_BYTES", 256)
        patch.setattr(framing, "LONG_RUN_BYTES", 1024)
        framer = Framer(capacity)
    data, wires = data_of(length), []
    framer.makes_long_runs = are_long[0]
    for run, next_is_long in zip(framer.runs_with_holes(1, length), itertools.cycle([*are_long[1:], are_long[0]])):
        most = 1024 if framer.makes_long_runs else 256
        BytesSource(data).read_into(run.holes, run.offset)
        assert run.total_bytes <= max(most, framer.frame_bytes)
        assert run.is_last or run.total_bytes + framer.frame_bytes > most
        wires.append(bytes(run.parts[0]))
        framer.makes_long_runs = next_is_long
    check_message(received_by_a_peer(b"".join(wires), maximum_length), 1, data, capacity)


@given(st.integers(8, 200), st.integers(0, 300), layouts, st.binary(min_size=1, max_size=120))
def test_the_sending_may_stop_at_every_byte_and_knows_where_the_pdu_ends(
    maximum_length: int, length: int, layout: str, command: bytes
) -> None:
    capacity = fragment_capacity(maximum_length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "RUN_BYTES", 128)
        laid_out = lay_out(Framer(capacity), 1, data_of(length), layout, command)
    for index, (run, wire) in enumerate(zip(laid_out.runs, laid_out.wires, strict=True)):
        command_bytes = len(frame_command(1, command, capacity)) if index == 0 else 0
        ends = [0, *([command_bytes] if command_bytes else []), *_pdu_ends(wire, command_bytes)]
        for sent in range(len(wire) + 1):
            assert run.end_of_pdu(sent) == next(end for end in ends if end >= sent)


def _pdu_ends(wire: bytes, start: int) -> list[int]:
    ends = []
    while start < len(wire):
        start += 6 + int.from_bytes(wire[start + 2 : start + 6], "big")
        ends.append(start)
    return ends


@given(st.integers(8, 300), context_ids, st.binary(min_size=1, max_size=2000))
def test_a_command_set_is_cut_like_anything_else(maximum_length: int, context_id: int, command: bytes) -> None:
    capacity = fragment_capacity(maximum_length)
    fragments = received_by_a_peer(frame_command(context_id, command, capacity), maximum_length)
    assert b"".join(fragment.data for fragment in fragments) == command
    assert [fragment.is_last for fragment in fragments] == [False] * (len(fragments) - 1) + [True]
    assert all(fragment.is_command and fragment.context_id == context_id for fragment in fragments)
    assert len(fragments) == -(-len(command) // capacity)


@pytest.mark.parametrize("layout", ["holes", "memory"])
def test_the_command_set_goes_out_before_the_data_in_the_first_run(layout: str) -> None:
    data = data_of(300)
    laid_out = lay_out(Framer(100), 7, data, layout, COMMAND)
    command, *rest = received_by_a_peer(laid_out.wire, 106)
    assert command == Fragment(7, True, True, COMMAND)
    check_message(rest, 7, data, 100)
    assert laid_out.runs[0].command_bytes == HEADER_BYTES + len(COMMAND)


def test_a_data_set_in_memory_is_not_copied() -> None:
    data = data_of(1000)
    (run,) = Framer(100).runs_from_memory(1, memoryview(data))
    assert b"".join(part for part in run.parts if isinstance(part, memoryview) and part.obj is data) == data


def test_holes_lie_in_the_one_piece_that_is_sent() -> None:
    (run,) = Framer(100).runs_with_holes(1, 250)
    (wire,) = run.parts
    assert [len(hole) for hole in run.holes] == [100, 100, 50]
    for hole in run.holes:
        hole[:] = b"\xff" * len(hole)
    assert bytes(wire).count(b"\xff") == 250


@pytest.mark.parametrize("maximum_length", [8, 1024])
def test_no_run_has_more_buffers_than_a_system_call_takes(maximum_length: int) -> None:
    framer = Framer(fragment_capacity(maximum_length))
    data = bytes(framer.capacity * 2000)
    for layout in ("holes", "memory"):
        for run in lay_out(framer, 1, data, layout, COMMAND).runs:
            assert len(run.parts) <= IOV_MAX
            assert len(run.holes) <= IOV_MAX


@pytest.mark.parametrize(
    ("maximum_length", "own_limit", "capacity"),
    [
        (8, 0, 2),
        (9, 0, 2),
        (10, 0, 4),
        (16382, 0, 16376),
        (16383, 0, 16376),
        (16384, 0, 16378),
        (16384, 4096, 4090),
        (4096, 16384, 4090),
        (0, 4096, 4090),
        (0, 0, framing.RUN_BYTES - framing.HEADER_BYTES),
        (0xFFFFFFFF, 0, framing.RUN_BYTES - framing.HEADER_BYTES),
    ],
)
def test_a_fragment_takes_what_the_smaller_limit_leaves_in_even_bytes(
    maximum_length: int, own_limit: int, capacity: int
) -> None:
    assert fragment_capacity(maximum_length, own_limit) == capacity


@pytest.mark.parametrize("maximum_length", range(1, 8))
def test_a_maximum_without_room_for_data_is_the_peers_error(maximum_length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="leaves no room for data") as caught:
        fragment_capacity(maximum_length)
    assert caught.value.field == "Maximum Length Received"


def test_a_run_tells_how_much_of_the_data_set_it_carries() -> None:
    framer = Framer(100)
    for runs in (framer.runs_from_memory(1, memoryview(bytes(1234))), framer.runs_with_holes(1, 1234)):
        carried = []
        for run in runs:
            if not run.offset:
                run.put_command(b"command")
            carried.append(run.data_bytes)
        assert sum(carried) == 1234


@given(st.integers(1, 300), st.integers(2, 60).map(lambda half: 2 * half), st.data())
def test_a_small_message_has_the_bytes_of_its_runs_and_ends_its_pdus_where_they_do(
    command_bytes: int, capacity: int, data: st.DataObject
) -> None:
    command_set, data_set = bytes(command_bytes), bytes(data.draw(st.integers(1, capacity)))
    framer = Framer(capacity)
    parts = framer.small_message(5, command_set, memoryview(data_set))
    small = framer.run_of_small(parts)
    (run,) = framer.runs_from_memory(5, memoryview(data_set))
    run.put_command(frame_command(5, command_set, capacity))
    assert b"".join(parts) == b"".join(run.parts)
    assert (small.total_bytes, small.data_bytes, small.is_last) == (run.total_bytes, len(data_set), True)
    assert [small.end_of_pdu(sent) for sent in range(run.total_bytes + 1)] == [
        run.end_of_pdu(sent) for sent in range(run.total_bytes + 1)
    ]
