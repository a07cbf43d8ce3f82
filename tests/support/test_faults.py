"""The fault proxy passes what it must, cuts where it must, and journals exactly what was acknowledged."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.pdu import AssociateRJ, AssociateRQ
from asyncstore.upper_layer.user_information import UserInformation
from tests.support.fault_plan import Abort, Cut, Fault, Latency, Limit, Refuse, Reject, SetStatus, parse_fault
from tests.support.faults import FaultProxy
from tests.support.peers import dcmtk_storescp, pynetdicom_server, require
from tests.support.tap import Follower
from tests.support.wire import CT_CONTEXT, ScriptedSCP, ScriptError, Wire, play_scu, stores_everything

if TYPE_CHECKING:
    from pathlib import Path

DATA_SET = bytes(range(256)) * 200
UIDS = [f"1.2.3.{number}" for number in range(1, 4)]


def stores_three(wire: Wire) -> list[int]:
    wire.associate()
    statuses = [
        wire.store(DATA_SET, sop_instance_uid=uid, message_id=number).value for number, uid in enumerate(UIDS, 10)
    ]
    wire.release()
    return statuses


def answers_one(wire: Wire) -> None:
    """A script: accepts, answers one C-STORE-RQ and closes."""
    wire.accept()
    wire.answer(wire.read_store())


def hears_everything(wire: Wire) -> bytes:
    """A script: what came until the end of the connection, however it ended."""
    return wire.read_bytes(1 << 30)


def proxy_before(scp: ScriptedSCP, *faults: Fault, seed: int = 0) -> FaultProxy:
    return FaultProxy((scp.host, scp.port), faults, seed=seed)


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=120)


def read_until_end(sock: socket.socket) -> tuple[bytes, str]:
    """What came, and whether the end was "fin" or "rst"."""
    heard = b""
    try:
        while part := sock.recv(1 << 16):
            heard += part
    except ConnectionResetError:
        return heard, "rst"
    return heard, "fin"


class Listener:
    """A script that keeps what it heard, for connections that carry no DICOM."""

    def __init__(self) -> None:
        self.heard = b""

    def __call__(self, wire: Wire) -> None:
        self.heard = hears_everything(wire)


def test_a_transfer_between_real_peers_passes_unchanged_and_is_journalled(tmp_path: Path) -> None:
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    storescu = require("storescu", "dcmtk")
    files = [str(get_testdata_file(name)) for name in ("CT_small.dcm", "MR_small.dcm")]
    journal = tmp_path / "journal.jsonl"
    with (
        dcmtk_storescp(tmp_path / "direct") as direct,
        dcmtk_storescp(tmp_path / "behind") as behind,
        FaultProxy((behind.host, behind.port), journal=journal) as proxy,
    ):
        for host, port in ((direct.host, direct.port), (proxy.host, proxy.port)):
            subprocess.run([storescu, host, str(port), *files], check=True, timeout=120)
        stored = [{path.name: path.read_bytes() for path in scp.received_files()} for scp in (direct, behind)]
    assert len(stored[0]) == 2
    assert stored[0] == stored[1]
    uids = [str(dcmread(path).SOPInstanceUID) for path in files]
    assert [entry.sop_instance_uid for entry in proxy.journal.entries] == uids
    assert [(entry.message_id, entry.status) for entry in proxy.journal.entries] == [(1, 0), (2, 0)]
    assert [json.loads(line)["sop_instance_uid"] for line in journal.read_text().splitlines()] == uids


@pytest.mark.parametrize("late", [[], [Latency(0.02)]], ids=["at once", "late"])
@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("count", [0, 1, 70_001])
def test_a_cut_upwards_delivers_exactly_that_many_bytes(how: str, count: int, late: list[Fault]) -> None:
    data = DATA_SET * 4
    listener = Listener()
    cut = parse_fault(f"cut:how={how},at={count}")
    with ScriptedSCP(listener) as scp, proxy_before(scp, cut, *late) as proxy, connect(proxy) as sock:
        sock.sendall(data)
        assert read_until_end(sock) == (b"", how)
    assert listener.heard == data[:count]


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_cut_downwards_delivers_exactly_that_many_bytes(how: str) -> None:
    def sends_ten(wire: Wire) -> None:
        wire.read_bytes(1)  # so that the reset does not meet a connect that has not returned
        wire.send(b"0123456789")
        wire.expect_closed()

    cut = parse_fault(f"cut:how={how},at=5,direction=down")
    with ScriptedSCP(sends_ten) as scp, proxy_before(scp, cut) as proxy, connect(proxy) as sock:
        sock.sendall(b"?")
        assert read_until_end(sock) == (b"01234", how)


def test_a_response_that_was_cut_is_not_in_the_journal_and_a_whole_one_is() -> None:
    def measures(wire: Wire) -> int:
        wire.associate()
        wire.store(DATA_SET)
        return len(wire.received[-1].encode())

    def stores_one(wire: Wire) -> None:
        wire.associate()
        with contextlib.suppress(ScriptError):
            wire.store(DATA_SET)

    with ScriptedSCP(answers_one) as scp:
        length = play_scu(measures, scp.port)
        for missing, journalled in ((1, 0), (0, 1)):
            cut = Cut(direction="down", at=length - missing, in_data=True)
            with proxy_before(scp, cut) as proxy:
                play_scu(stores_one, proxy.port)
            assert len(proxy.journal.entries) == journalled


def test_the_same_seed_cuts_at_the_same_bytes_and_only_the_associations_of_the_plan() -> None:
    def heard_with(seed: int) -> list[int]:
        listeners = [Listener() for _ in range(4)]
        plan = Cut(within=1000, first=2, every=2)
        with ScriptedSCP(*listeners) as scp, proxy_before(scp, plan, seed=seed) as proxy:
            for _ in listeners:
                with connect(proxy) as sock:
                    sock.sendall(bytes(1000))
                    with contextlib.suppress(OSError):  # it may have been cut already
                        sock.shutdown(socket.SHUT_WR)
                    read_until_end(sock)
        return [len(listener.heard) for listener in listeners]

    first = heard_with(1)
    assert first == heard_with(1)
    assert first != heard_with(2)
    assert [count == 1000 for count in first] == [True, False, True, False]


def test_a_stall_passes_nothing_more_and_closes_nothing() -> None:
    listener = Listener()
    with ScriptedSCP(listener) as scp, proxy_before(scp, Cut(how="stall", at=3)) as proxy, connect(proxy) as sock:
        sock.sendall(b"12345")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert listener.heard == b"123"


def test_a_dribble_delivers_all_the_same() -> None:
    with ScriptedSCP(stores_everything) as scp, proxy_before(scp, Cut(how="dribble", at=50, direction="down")) as proxy:
        assert play_scu(stores_three, proxy.port) == [0, 0, 0]
    assert [entry.sop_instance_uid for entry in proxy.journal.entries] == UIDS


@pytest.mark.timed
def test_latency_delays_both_directions_and_does_not_limit_the_rate() -> None:
    def times(wire: Wire) -> tuple[float, float]:
        began = time.monotonic()
        wire.associate()
        answered = time.monotonic()
        wire.store(DATA_SET * 200)
        return answered - began, time.monotonic() - answered

    with ScriptedSCP(answers_one) as scp, proxy_before(scp, Latency(0.05)) as proxy:
        round_trip, transfer = play_scu(times, proxy.port)
    assert round_trip >= 0.1
    # 10 MB in 625 PDUs: one delay each would be 31 s.
    assert 0.1 <= transfer < 20


def test_associations_are_rejected_by_plan() -> None:
    def is_rejected(wire: Wire) -> AssociateRJ:
        wire.send(AssociateRQ("ANY-SCP", "SCRIPTED", (CT_CONTEXT,), UserInformation()))
        return wire.expect(AssociateRJ)

    with ScriptedSCP(stores_everything) as scp, proxy_before(scp, Reject(times=1, reason=2)) as proxy:
        rejection = play_scu(is_rejected, proxy.port)
        assert (rejection.result, rejection.source, rejection.reason) == (2, 3, 2)
        assert play_scu(stores_three, proxy.port) == [0, 0, 0]


def test_more_associations_than_the_limit_are_rejected_until_one_has_ended() -> None:
    def opens_two(wire: Wire) -> None:
        wire.associate()
        with pytest.raises(AssertionError, match="AssociateRJ"):
            play_scu(Wire.associate, proxy.port)
        wire.release()

    with ScriptedSCP(stores_everything) as scp, proxy_before(scp, Limit(1)) as proxy:
        play_scu(opens_two, proxy.port)
        assert play_scu(stores_three, proxy.port) == [0, 0, 0]


@pytest.mark.timed
def test_connections_are_refused_for_a_while_and_then_taken_on_the_same_port() -> None:
    with ScriptedSCP(stores_everything) as scp, proxy_before(scp, Refuse(after=1, seconds=1.5)) as proxy:
        assert play_scu(stores_three, proxy.port) == [0, 0, 0]
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert play_scu(stores_three, proxy.port) == [0, 0, 0]
                break
            except ConnectionRefusedError:
                continue
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.accept_again()
        assert play_scu(stores_three, proxy.port) == [0, 0, 0]


def test_a_status_is_replaced_for_so_many_instances_or_for_those_named() -> None:
    with pynetdicom_server() as scp:
        for fault, expected in (
            (SetStatus(times=2), [0xA700, 0xA700, 0]),
            (SetStatus(status=0xC001, uids=frozenset(UIDS[1:2])), [0, 0xC001, 0]),
            (SetStatus(status=0xB007, predicate=lambda uid: uid.endswith("3")), [0, 0, 0xB007]),
        ):
            with FaultProxy((scp.host, scp.port), [fault]) as proxy:
                assert play_scu(stores_three, proxy.port) == expected
            assert [entry.status for entry in proxy.journal.entries] == expected
            replaced = [None if status == 0 else 0 for status in expected]
            assert [entry.replaced for entry in proxy.journal.entries] == replaced


def test_the_follower_finds_the_same_commands_wherever_the_stream_is_cut() -> None:
    with ScriptedSCP(stores_everything) as scp:
        play_scu(stores_three, scp.port)
    stream = b"".join(unit.encode() for unit in scp.received)
    whole = Follower()
    found = whole.feed(stream)
    assert [command.sop_instance_uid for _, command in found] == UIDS
    assert [command.message_id for _, command in found] == [10, 11, 12]
    for size in (1, 5, 4093):
        follower = Follower()
        again = [each for start in range(0, len(stream), size) for each in follower.feed(stream[start : start + size])]
        assert again == found
        assert follower.data_starts_at == whole.data_starts_at


def test_the_proxy_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with ScriptedSCP(stores_everything) as scp:
        command = [
            sys.executable,
            "-m",
            "tests.support.faults",
            "--to",
            f"{scp.host}:{scp.port}",
            "--journal",
            str(journal),
        ]
        plan = ["--seed", "7", "--plan", "status:status=0xA702,times=1", "--plan", "latency:seconds=0.001"]
        with subprocess.Popen([*command, *plan], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            assert play_scu(stores_three, port) == [0xA702, 0, 0]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert [json.loads(line)["status"] for line in journal.read_text().splitlines()] == [0xA702, 0, 0]


@pytest.mark.parametrize("text", ["melt", "cut:where=3", "status:predicate=x", "latency:seconds=soon"])
def test_a_plan_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no fault|has no|soon"):
        parse_fault(text)


@pytest.mark.parametrize("response", [1, 3])
def test_an_abort_takes_the_place_of_a_response(response: int) -> None:
    def answers_until_the_end(wire: Wire) -> None:
        wire.accept()
        with contextlib.suppress(ScriptError):
            while True:
                wire.answer(wire.read_store())

    def stores_until_the_end(wire: Wire) -> object:
        wire.associate()
        for number in range(1, response):
            wire.store(DATA_SET, message_id=number)
        with contextlib.suppress(ScriptError):
            wire.store(DATA_SET, message_id=response)
        return wire.received[-1]

    with ScriptedSCP(answers_until_the_end) as scp, proxy_before(scp, Abort(response=response)) as proxy:
        assert play_scu(stores_until_the_end, proxy.port) == pdu.Abort(0, 0)
        assert proxy.wait_until(lambda: proxy.is_idle, 5)
    assert [entry.message_id for entry in proxy.journal.entries] == list(range(1, response))
    assert [entry.message_id for entry in proxy.journal.requests] == list(range(1, response + 1))
    assert proxy.faulted == {1}


def test_a_stalled_association_is_ended_when_its_sender_cannot_say_that_it_is_gone() -> None:
    with ScriptedSCP(hears_everything) as scp, proxy_before(scp, Cut(how="stall", at=10)) as proxy:
        with connect(proxy) as sock:
            sock.sendall(bytes(100))
            assert proxy.wait_until(lambda: proxy.faulted == {1}, 5)
            assert not proxy.is_idle
            proxy.end_stalled()
            assert read_until_end(sock) == (b"", "rst")
        assert proxy.wait_until(lambda: proxy.is_idle, 5)
        assert proxy.passed_bytes == 10
