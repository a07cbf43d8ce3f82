"""A cluster whose workers are killed loses nothing; and the audit that says so finds whatever contradicts it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from asyncstore.dimse.messages import CStoreRQ
from asyncstore.status import SUCCESS
from asyncstore.uids import CT_IMAGE_STORAGE
from asyncstore.upper_layer.pdu import DataTF, Fragment
from tests.campaigns.cluster_audit import (
    Evidence,
    Row,
    Trouble,
    WorkerRun,
    audit,
    cap_is_kept,
    ends,
    every_instance,
    goes_on_in_time,
    in_flight_once,
    late_ones_send_nothing,
    received,
    sent_again,
    takeovers,
)
from tests.campaigns.cluster_kills import main
from tests.campaigns.cluster_plan import COPIED, CUT, CUT_DATABASE, KILL, RESTART, STOP, make_archive, make_plan
from tests.campaigns.cluster_receiver import Association, Receiver, Request
from tests.campaigns.kill_audit import SourceFile, digest
from tests.support import command, files
from tests.support.hosts import LOOPBACK, Door, Namespaces, Network, network
from tests.support.wire import Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.campaigns.kill_audit import Finding

HEARTBEAT = 6.0
SECONDS = 600  # it takes 60: only what hangs ends so


def association(number: int, host: str, opened_at: float, ended_at: float, ending: str = "release") -> Association:
    return Association(number, host, opened_at, ended_at, ending)


def request(number: int, uid: str, begun_at: float, *, seconds: float | None = 0.1) -> Request:
    """One that is whole and answered so many seconds later; None: never."""
    if seconds is None:
        return Request(number, uid, begun_at, begun_at + 0.01)
    return Request(number, uid, begun_at, begun_at + seconds, begun_at + seconds, begun_at + seconds, f"digest {uid}")


def evidence() -> Evidence:
    """Three instances and a copy, a worker that was killed at 5.0, and another that went on at 11.0."""
    files = [(b"a/1", "1.1"), (b"a/2", "1.2"), (b"b/1", "1.3")]
    source = [SourceFile(path, uid, f"digest {uid}", frozenset(("stored",))) for path, uid in files[:2]]
    source += [SourceFile(path, "1.3", "digest 1.3", COPIED) for path in (b"b/1", b"c/1")]
    return Evidence(
        source=source,
        rows=[
            Row(b"a/1", "1.1", "stored", 11.2),
            Row(b"a/2", "1.2", "stored", 11.5),
            Row(b"b/1", "1.3", "stored", 3.2),
            Row(b"c/1", "1.3", "duplicate", 4.0),
        ],
        batches={"done": 3},
        batch_of={b"a/1": 1, b"a/2": 1, b"b/1": 2, b"c/1": 3},
        reported={"stored": 3, "duplicate": 1},
        associations=[
            association(1, "1", 3.9, 5.0, "lost"),
            association(2, "2", 3.0, 3.5),
            association(3, "2", 11.0, 12.0),
        ],
        requests=[
            request(2, "1.3", 3.05),
            request(1, "1.1", 4.5),
            request(1, "1.2", 4.95, seconds=None),
            request(3, "1.1", 11.05),
            request(3, "1.2", 11.3),
        ],
        troubles=[Trouble(KILL, 1, 5.0, 5.01)],
        runs=[WorkerRun(1, -9), WorkerRun(1, 0), WorkerRun(2, 0)],
        cap=2,
        heartbeat_seconds=HEARTBEAT,
    )


def found_by(check: Callable[[Evidence], Finding], changed: Evidence) -> list[str]:
    """What this check finds, and no other."""
    found = {finding.statement: finding.violations for finding in audit(changed) if finding.violations}
    violations = found.pop(check(changed).statement, [])
    assert not found
    return violations


def test_records_that_agree_hold() -> None:
    assert [finding.violations for finding in audit(evidence())] == [[]] * 7


def test_a_batch_that_goes_on_too_late_is_found() -> None:
    ((killed_at, seconds),) = takeovers(evidence())
    assert killed_at == 5.0
    assert seconds == pytest.approx(6.05)
    assert goes_on_in_time(evidence()).violations == []
    late = dataclasses.replace(evidence(), heartbeat_seconds=5.0)
    assert goes_on_in_time(late).violations == ["a batch went on 6.05 s after its worker was killed"]
    others = [association(number, "2", 4.0, 20.0) for number in (4, 5)]
    full = dataclasses.replace(late, associations=[*late.associations, *others])
    assert goes_on_in_time(full).violations == []


def replaced(records: list[Row], at: int, **changes: object) -> list[Row]:
    return [dataclasses.replace(row, **changes) if row is records[at] else row for row in records]  # type: ignore[arg-type]


def test_an_instance_without_a_row_or_with_another_is_found() -> None:
    good = evidence()
    rows = list(good.rows)
    assert "b'c/1' has no row" in every_instance(dataclasses.replace(good, rows=rows[:3])).violations[0]
    twice = dataclasses.replace(good, rows=[*rows, rows[0]], reported={"stored": 4, "duplicate": 1})
    assert "['stored', 'stored']" in every_instance(twice).violations[0]
    assert "1.1 counts as stored 2 times" in every_instance(twice).violations
    other = dataclasses.replace(good, rows=replaced(rows, 1, sop_instance_uid="1.9"))
    assert "b'a/2' has SOP Instance UID '1.9'" in every_instance(other).violations
    stray = dataclasses.replace(good, rows=[*rows, Row(b"d/1", "", "skipped", 1.0)])
    assert "a row for b'd/1', which is not in the source" in every_instance(stray).violations
    both = dataclasses.replace(good, rows=replaced(rows, 3, state="stored"), reported={"stored": 4})
    assert found_by(every_instance, both) == ["1.3 counts as stored 2 times"]


def test_a_batch_that_is_not_done_and_a_report_that_counts_otherwise_are_found() -> None:
    left = dataclasses.replace(evidence(), batches={"done": 2, "doing": 1})
    assert found_by(every_instance, left) == ["not every batch is done: {'done': 2, 'doing': 1}"]
    miscounted = dataclasses.replace(evidence(), reported={"stored": 4})
    assert "the report says {'stored': 4}" in found_by(every_instance, miscounted)[0]


def test_what_is_recorded_falsely_is_found() -> None:
    good = evidence()
    early = dataclasses.replace(good, rows=replaced(list(good.rows), 0, recorded_at=4.2))
    assert found_by(received, early) == ["1.1 was recorded 0.400 s before it was answered"]
    unanswered = [dataclasses.replace(each, answered_at=None) for each in good.requests]
    assert (
        "1.2 is stored for the ledger, and was never answered"
        in received(dataclasses.replace(good, requests=unanswered)).violations
    )
    damaged = [*good.requests[:-1], dataclasses.replace(good.requests[-1], digest="another")]
    assert found_by(received, dataclasses.replace(good, requests=damaged)) == ["1.2 was received otherwise than it is"]
    lost = dataclasses.replace(good, rows=good.rows[1:])
    assert "1.1 was received, and is not stored for the ledger" in received(lost).violations


@pytest.mark.parametrize("trouble", [[], [Trouble(KILL, 2, 5.0, 5.01)], [Trouble(KILL, 1, 8.0, 8.01)]])
def test_what_is_sent_twice_without_a_fault_that_explains_it_is_found(trouble: list[Trouble]) -> None:
    unexplained = dataclasses.replace(evidence(), troubles=trouble)
    assert found_by(sent_again, unexplained) == [
        "1.1 was received on association 1, and 6.45 s later on 3: no fault explains it"
    ]


@pytest.mark.parametrize(
    "troubles",
    [
        [Trouble(STOP, 1, 4.7, 14.0)],
        [Trouble(CUT, 1, 4.7, 14.0)],
        [Trouble(RESTART, 0, 4.7, 5.5)],
        [Trouble(CUT_DATABASE, 1, 4.0, 6.0), Trouble(KILL, 1, 7.0, 7.1)],
    ],
)
def test_a_fault_that_may_have_lost_the_record_explains_it(troubles: list[Trouble]) -> None:
    assert sent_again(dataclasses.replace(evidence(), troubles=troubles)).violations == []


def test_more_associations_than_the_cap_are_found() -> None:
    good = evidence()
    more = [*good.associations, association(4, "3", 3.2, 3.9), association(5, "3", 3.3, 4.2)]
    assert found_by(cap_is_kept, dataclasses.replace(good, associations=more)) == [
        "associations [2, 4, 5] are open at once"
    ]
    # The same moment is not before it.
    after = [*good.associations, association(4, "3", 3.2, 3.9), association(5, "3", 3.5, 3.8)]
    assert found_by(cap_is_kept, dataclasses.replace(good, associations=after)) == []
    # One that is lost as soon as it is there is not there for ever.
    brief = association(9, "1", 0.0, 0.001, "lost")
    assert found_by(cap_is_kept, dataclasses.replace(good, associations=[*after, brief])) == []


@pytest.mark.parametrize(("seconds", "found"), [(8.0, 0), (2.0, 1)])
def test_the_associations_of_one_that_is_away_for_long_do_not_count(seconds: float, found: int) -> None:
    away = dataclasses.replace(
        evidence(),
        cap=1,
        associations=[
            association(1, "1", 3.0, 12.0, "abort"),
            association(2, "2", 5.5, 6.0),
            association(3, "2", 13, 14),
        ],
        troubles=[Trouble(STOP, 1, 5.0, 5.0 + seconds)],
    )
    assert len(cap_is_kept(away).violations) == found


def test_an_instance_that_is_under_way_twice_at_the_same_time_is_found() -> None:
    good = evidence()
    requests = [*good.requests[:2], request(2, "1.1", 4.55), *good.requests[2:]]
    found = in_flight_once(dataclasses.replace(good, requests=requests)).violations
    assert found == ["1.1 is under way on associations 1 and 2, for 0.050 s at the same time"]
    # The half of a sender that is dead does not move.
    half = [request(1, "1.1", 4.5, seconds=None), request(3, "1.1", 4.6)]
    assert in_flight_once(dataclasses.replace(good, requests=half)).violations == []


@pytest.mark.parametrize(
    ("kind", "begun_at", "found"),
    [(STOP, 14.1, 1), (STOP, 5.5, 0), (CUT, 14.1, 1), (CUT_DATABASE, 10.0, 1), (CUT_DATABASE, 6.0, 0)],
)
def test_one_that_sends_on_after_it_was_away_for_too_long_is_found(kind: str, begun_at: float, found: int) -> None:
    ended_at = 14.2 if kind == CUT_DATABASE and found else 9.0
    late = dataclasses.replace(
        evidence(),
        associations=[association(1, "1", 3.9, ended_at, "abort"), *evidence().associations[1:]],
        requests=[*evidence().requests, request(1, "1.3", begun_at, seconds=None)],
        troubles=[Trouble(kind, 1, 5.0, 14.0)],
    )
    violations = late_ones_send_nothing(late).violations
    assert len([each for each in violations if "1.3 was begun" in each]) == found
    assert len([each for each in violations if "did not end" in each]) == (kind == CUT_DATABASE and found)


def test_one_that_was_away_for_a_moment_may_go_on() -> None:
    short = dataclasses.replace(evidence(), troubles=[Trouble(STOP, 1, 4.2, 4.3), Trouble(KILL, 1, 5.0, 5.01)])
    assert found_by(late_ones_send_nothing, short) == []


@pytest.mark.parametrize("run", [WorkerRun(2, 1), WorkerRun(2, -11), WorkerRun(2, 6, has_traceback=True)])
def test_a_worker_that_ends_otherwise_is_found(run: WorkerRun) -> None:
    assert len(found_by(ends, dataclasses.replace(evidence(), runs=[*evidence().runs, run]))) == 1


def test_a_seed_gives_the_same_archive_and_the_same_faults(tmp_path: Path) -> None:
    archives = [make_archive(tmp_path / name, 600, random.Random(5)) for name in ("one", "other")]
    assert archives[0] == archives[1]
    assert len(archives[0]) == 600
    assert len({file.sop_instance_uid for file in archives[0]}) == 597
    assert make_plan("5", 600, 20, 3, HEARTBEAT) == make_plan("5", 600, 20, 3, HEARTBEAT)
    plan = make_plan("5", 600, 20, 3, HEARTBEAT)
    assert sum(fault.kind == KILL for fault in plan) == 20
    for kind in (STOP, CUT, CUT_DATABASE):
        assert any(fault.kind == kind and fault.seconds > HEARTBEAT for fault in plan)
    assert any(fault.kind == RESTART and fault.host == 0 for fault in plan)


async def receive_from_both(place: Path, hosts: Network) -> Receiver:
    """What comes when two hosts that know nothing of each other send the same archive."""
    async with Receiver(hosts.address, hosts.host_of, random.Random(2)) as receiver:
        words = command.words("storescu", "-r", "-j", 3, hosts.address, receiver.port, place)
        senders = [
            await asyncio.create_subprocess_exec(*hosts.prefix(host), *words, env=command.environment())
            for host in hosts.hosts
        ]
        hosts.host_processes = lambda: {sender.pid: host for host, sender in enumerate(senders, 1)}
        assert [await sender.wait() for sender in senders] == [0, 0]
        return receiver


def test_the_receiver_sees_who_sends_what(tmp_path: Path) -> None:
    source = make_archive(tmp_path / "archive", 400, random.Random(1))
    with network(2) as hosts:
        receiver = asyncio.run(receive_from_both(tmp_path / "archive", hosts))
    assert {each.host for each in receiver.associations} == {"1", "2"}
    assert {each.ending for each in receiver.associations} == {"release"}
    sent = {(file.sop_instance_uid, file.digest) for file in source}
    assert len(sent) == 398
    assert {(each.sop_instance_uid, each.digest) for each in receiver.requests} == sent
    assert receiver.whole == {uid for uid, _ in sent}
    seen = dataclasses.replace(evidence(), associations=receiver.associations, requests=receiver.requests, troubles=[])
    assert len(sent_again(seen).violations) == len(receiver.requests) - 398 >= 398


def test_without_namespaces_a_host_is_known_by_its_process(tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", 400, random.Random(1))
    with Network(2) as hosts:
        receiver = asyncio.run(receive_from_both(tmp_path / "archive", hosts))
    assert {"1", "2"} <= {each.host for each in receiver.associations} <= {"1", "2", ""}


def test_the_receiver_sees_two_associations_with_one_instance(tmp_path: Path) -> None:
    data = files.data_set(sop_instance_uid="1.1")
    half = len(data) // 2
    has_half, has_sent = threading.Event(), threading.Event()

    def first(wire: Wire) -> None:
        wire.associate()
        wire.send_message(1, CStoreRQ(1, CT_IMAGE_STORAGE, "1.1"))
        wire.send(DataTF((Fragment(1, False, False, data[:half]),)))
        has_half.set()
        wire.wait(has_sent)
        wire.send(DataTF((Fragment(1, False, True, data[half:]),)))
        assert wire.read_message().data_set is None
        wire.release()

    def second(wire: Wire) -> None:
        wire.wait(has_half)
        wire.associate()
        assert wire.store(data, sop_instance_uid="1.1") == SUCCESS
        has_sent.set()
        wire.sock.close()

    async def receive() -> Receiver:
        async with Receiver(LOOPBACK, lambda *_: "", random.Random(2)) as receiver:
            calls = [asyncio.to_thread(play_scu, script, receiver.port) for script in (first, second)]
            await asyncio.gather(*calls)
            return receiver

    receiver = asyncio.run(receive())
    assert {each.ending for each in receiver.associations} == {"release", "lost"}
    assert {each.digest for each in receiver.requests} == {digest(data)}
    seen = dataclasses.replace(evidence(), associations=receiver.associations, requests=receiver.requests, cap=1)
    assert cap_is_kept(seen).violations == ["associations [1, 2] are open at once"]
    assert len(in_flight_once(seen).violations) == 1


def test_nothing_passes_a_door_that_is_shut() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(100):
                writer.write(data)

    async def use() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(await asyncio.start_server(echo, LOOPBACK, 0))
            door = await stack.enter_async_context(Door(LOOPBACK, server.sockets[0].getsockname()[1]))
            reader, writer = await asyncio.open_connection(LOOPBACK, door.port)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            door.shut()
            writer.write(b"two")
            answer = asyncio.ensure_future(reader.readexactly(3))
            late = await asyncio.open_connection(LOOPBACK, door.port)
            late[1].write(b"three")
            later = asyncio.ensure_future(late[0].readexactly(5))
            assert (await asyncio.wait((answer, later), timeout=0.2))[0] == set()
            door.open()
            assert [await answer, await later] == [b"two", b"three"]
            for each in (writer, late[1]):
                each.close()
                await each.wait_closed()

    asyncio.run(use())


TALKS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as sock:
    for line in sys.stdin:
        sock.sendall(line.encode())
        print(sock.recv(100).decode(), end="", flush=True)
"""


def test_a_host_that_is_cut_off_hears_nothing_and_goes_on_when_it_is_back() -> None:
    async def talk(hosts: Network) -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                while line := await reader.readline():
                    heard.put_nowait(line)
                    writer.write(line)

        async with await asyncio.start_server(listen, hosts.address, 0) as server:
            words = [sys.executable, "-c", TALKS, hosts.address, str(server.sockets[0].getsockname()[1])]
            pipe = asyncio.subprocess.PIPE
            host = await asyncio.create_subprocess_exec(*hosts.prefix(1), *words, stdin=pipe, stdout=pipe)
            assert host.stdin is not None
            assert host.stdout is not None
            host.stdin.write(b"one\n")
            assert await host.stdout.readline() == await heard.get() == b"one\n"
            hosts.cut(1)
            host.stdin.write(b"two\n")
            hearing = asyncio.ensure_future(heard.get())
            assert (await asyncio.wait((hearing,), timeout=0.3))[0] == set()
            hosts.mend(1)
            assert await host.stdout.readline() == await hearing == b"two\n"
            host.stdin.close()
            assert await host.wait() == 0

    with network(1) as hosts:
        if not isinstance(hosts, Namespaces):
            pytest.skip("this process may not make network namespaces")
        asyncio.run(talk(hosts))


def test_nothing_is_left_of_namespaces() -> None:
    with network(2) as hosts:
        if not isinstance(hosts, Namespaces):
            pytest.skip("this process may not make network namespaces")
        link = hosts._link(1)
    assert subprocess.run(["ip", "link", "show", link], capture_output=True, check=False).returncode == 1


@pytest.mark.campaign
@pytest.mark.timeout(SECONDS)
def test_a_cluster_whose_workers_are_killed_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--instances", "1500", "--kills", "8", "--seed", "1", "--heartbeat", "5", "--keep", str(tmp_path)]
    code = main(words)
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.count(") holds: ") == 8
    assert "8 kills, 1500 instances" in said
