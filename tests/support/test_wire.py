"""The scripted peer does what its scripts say: held against itself, and against sockets."""

from __future__ import annotations

import socket
import threading

import pytest

from asyncstore.dimse.messages import CStoreRQ
from asyncstore.upper_layer.pdu import Abort, AssociateRQ, DataTF, ReleaseRQ
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support.wire import ScriptedSCP, ScriptError, Wire, play_scu, stays_silent, stores_everything


def connect(scp: ScriptedSCP) -> socket.socket:
    return socket.create_connection((scp.host, scp.port), timeout=120)


def test_two_scripts_carry_an_association_from_request_to_release() -> None:
    def sends_two(wire: Wire) -> list[int]:
        wire.associate()
        statuses = [wire.store(b"ab" * 20_000, message_id=number).value for number in (1, 2)]
        wire.release()
        return statuses

    with ScriptedSCP(stores_everything) as scp:
        assert play_scu(sends_two, scp.port) == [0, 0]
    assert [store.message_id for store in scp.wires[0].stores] == [1, 2]
    assert scp.wires[0].stores[1].data_set == b"ab" * 20_000
    assert isinstance(scp.received[0], AssociateRQ)
    assert isinstance(scp.received[-1], ReleaseRQ)
    assert sum(isinstance(unit, DataTF) for unit in scp.received) == 2 * (1 + 3)


def test_each_connection_plays_the_next_script_and_the_last_one_all_that_follow() -> None:
    with ScriptedSCP(lambda wire: wire.send(b"one"), lambda wire: wire.send(b"last")) as scp:
        heard = []
        for _ in range(3):
            with connect(scp) as sock:
                heard.append(sock.makefile("rb").read())
    assert heard == [b"one", b"last", b"last"]


def test_a_script_that_was_disappointed_fails_the_block() -> None:
    def expects_a_release(wire: Wire) -> None:
        wire.accept()
        wire.expect(ReleaseRQ)

    def aborts(wire: Wire) -> None:
        wire.associate()
        wire.send(Abort(0, 0))

    with pytest.raises(ScriptError, match="expected ReleaseRQ, but got Abort"), ScriptedSCP(expects_a_release) as scp:
        play_scu(aborts, scp.port)


def test_fin_ends_the_stream_and_still_reads() -> None:
    def says_goodbye(wire: Wire) -> bytes:
        wire.send(b"bye")
        wire.fin()
        return wire.read_bytes(4)

    with ScriptedSCP(says_goodbye) as scp, connect(scp) as sock:
        assert sock.recv(100) == b"bye"
        assert sock.recv(100) == b""
        sock.sendall(b"four")


def test_rst_resets_the_connection() -> None:
    def resets(wire: Wire) -> None:
        wire.read_bytes(1)  # else the reset may come before `connect` has returned
        wire.rst()

    with ScriptedSCP(resets) as scp, connect(scp) as sock:
        sock.sendall(b"!")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_silent_peer_takes_no_more_than_its_receive_buffer() -> None:
    with ScriptedSCP(stays_silent, receive_buffer_bytes=4096) as scp, connect(scp) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(4_000_000))


def test_dribbled_bytes_come_whole() -> None:
    with ScriptedSCP(lambda wire: wire.dribble(Abort(2, 1), b"!")) as scp, connect(scp) as sock:
        assert sock.makefile("rb").read() == Abort(2, 1).encode() + b"!"


def test_a_script_waits_for_the_event_of_the_test() -> None:
    event = threading.Event()

    def waits(wire: Wire) -> None:
        wire.wait(event)
        wire.send(b"now")

    with ScriptedSCP(waits) as scp, connect(scp) as sock:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        event.set()
        sock.settimeout(10)
        assert sock.recv(3) == b"now"


def test_answers_may_be_given_in_any_order_and_wrongly() -> None:
    def answers_backwards(wire: Wire) -> None:
        wire.accept(operations_window=OperationsWindow(2, 2))
        first, second = wire.read_stores(2)
        wire.answer(second, status=0xB000)
        wire.answer(first, message_id=77, context_id=3, data_set=b"no")
        wire.drain()

    def sends_two(wire: Wire) -> list[tuple[int, int | None, bytes | None]]:
        answer = wire.associate(operations_window=OperationsWindow(8, 1))
        assert answer.user_information.operations_window == OperationsWindow(2, 2)
        for message_id in (1, 2):
            wire.send_message(1, CStoreRQ(message_id, "1.2", f"1.2.{message_id}"), b"data")
        answers = [wire.read_message(), wire.read_message()]
        return [(each.context_id, each.message.responded_to, each.data_set) for each in answers]

    with ScriptedSCP(answers_backwards) as scp:
        assert play_scu(sends_two, scp.port) == [(1, 2, None), (3, 77, b"no")]
