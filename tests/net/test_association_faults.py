"""What a peer can do wrong on an association, and how each ends: never as stored, never as a hang."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.dimse import command_set
from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRSP, UnknownMessage
from asyncstore.errors import Aborted, AssociationLost, AsyncStoreError, ConnectionLost, RemoteProtocolError, Timeout
from asyncstore.inputs import opening
from asyncstore.instances.outcome import State
from asyncstore.net import link, trace
from asyncstore.net import transport as transport_module
from asyncstore.status import SUCCESS
from asyncstore.uids import CT_IMAGE_STORAGE
from asyncstore.upper_layer.pdu import Abort, DataTF, Fragment, ReleaseRP, ReleaseRQ
from tests.support.associations import (
    LIMIT_SECONDS,
    TINY_SECONDS,
    ReadPiecewise,
    accepting,
    connect_stalling,
    fragments_of,
    has_last_data_fragment,
    image_file,
    inside,
    instance,
    instance_of,
    send,
    set_timeouts,
    stalling,
    tiny,
    to,
    units_of,
    with_window,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncstore.services.scu import Association

pytestmark = pytest.mark.every_loop

Answer = Any  # a function of a Wire and an IncomingStore

LARGE = 8 << 20
NO_STATUS: list[tuple[int, command_set.Value]] = [
    (command_set.AFFECTED_SOP_CLASS_UID, CT_IMAGE_STORAGE),
    (command_set.COMMAND_FIELD, 0x8001),
    (command_set.RESPONDED_TO, 1),
    (command_set.DATA_SET_TYPE, 0x0101),
]
NO_MESSAGE_ID: list[tuple[int, command_set.Value]] = [
    (command_set.AFFECTED_SOP_CLASS_UID, CT_IMAGE_STORAGE),
    (command_set.COMMAND_FIELD, 0x0100),
    (command_set.DATA_SET_TYPE, 0x0101),
]


def ends_with_abort(wire: Wire) -> None:
    """What a peer must see after it did something wrong."""
    wire.expect(Abort)
    wire.expect_closed()


# Answers that are none


def _sends(*what: Any) -> Answer:
    return lambda wire, _: wire.send(*what)


def _answers(status: int = 0, **wrong: Any) -> Answer:
    return lambda wire, store: wire.answer(store, status, **wrong)


def _says(command: Any, data_set: bytes | None = None) -> Answer:
    return lambda wire, _: wire.send_message(1, command, data_set)


WRONG_ANSWERS: dict[str, tuple[Answer, str]] = {
    "Message ID": (_answers(message_id=999), "Message ID Being Responded To"),
    "context": (_answers(context_id=77), "Presentation Context ID"),
    "with a data set": (_answers(data_set=bytes(10)), "Command Data Set Type"),
    "C-ECHO-RSP": (_says(CEchoRSP(1, SUCCESS)), "Command Field"),
    "request without a Message ID": (_says(command_set.encode(NO_MESSAGE_ID)), "Message ID"),
    "C-MOVE-RSP": (_says(UnknownMessage(0x8021, None, 1, False, SUCCESS)), "Command Field"),
    "no status": (_says(command_set.encode(NO_STATUS)), "Status"),
    "pending": (_answers(0xFF00), "Status"),
    "cancelled": (_answers(0xFE00), "Status"),
    "no command set": (_says(b"\0" * 10), "Command Field"),
    "data set without a command": (_sends(DataTF((Fragment(1, False, True, b"ab"),))), "message control header"),
    "second acceptance": (lambda wire, _: wire.send(b"\x02\0\0\0\0\x04abcd"), "PDU length"),
    "HTTP": (_sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "PDU type"),
    "TLS": (_sends(b"\x15\x03\x03\x00\x02\x02\x46"), "PDU type"),
    "4 GiB": (_sends(b"\x04\0\xff\xff\xff\xff"), "PDU length"),
    "empty PDU": (_sends(b"\x04\0\0\0\0\0"), "PDV"),
    "even context": (_sends(b"\x04\0\0\0\0\x06\0\0\0\x02\x02\x03"), "Presentation context ID"),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
async def test_a_wrong_answer_ends_the_association_and_stores_nothing(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer, field = WRONG_ANSWERS[wrong]

    def answers_wrong(wire: Wire) -> None:
        answer(wire, wire.read_store())
        ends_with_abort(wire)

    with ScriptedSCP(accepting(answers_wrong)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            with pytest.raises(RemoteProtocolError) as caught:
                await association.store(instance())
            assert field in caught.value.field or field in str(caught.value)
            assert association.failure is caught.value
            for call in (lambda: association.store(instance()), association.echo, association.release):
                with pytest.raises(RemoteProtocolError) as again:
                    await call()
                assert again.value is caught.value
            assert list(association.outstanding) == [1]
    (event,) = [record.msg for record in caplog.records if isinstance(record.msg, trace.InvalidAnswer)]
    assert (event.to_request, event.detail) == ("C-STORE", str(caught.value))


async def test_a_request_in_a_context_that_was_not_accepted_ends_the_association() -> None:
    def asks(wire: Wire) -> None:
        wire.read_store()
        wire.send_message(77, CEchoRQ(1))
        ends_with_abort(wire)

    with ScriptedSCP(accepting(asks)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            with pytest.raises(RemoteProtocolError, match="Presentation Context ID: 77 was not accepted"):
                await association.store(instance())


async def test_a_wrong_answer_to_an_echo_is_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    def answers_wrong(wire: Wire) -> None:
        wire.send_message(wire.read_message().context_id, CEchoRSP(999, SUCCESS))
        ends_with_abort(wire)

    with ScriptedSCP(accepting(answers_wrong)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            with pytest.raises(RemoteProtocolError):
                await association.echo()
    (event,) = [record.msg for record in caplog.records if isinstance(record.msg, trace.InvalidAnswer)]
    assert event.to_request == "C-ECHO"


async def test_a_second_answer_takes_nothing_back_and_ends_the_association() -> None:
    def answers_twice(wire: Wire) -> None:
        store = wire.read_store()
        answer = CStoreRSP(store.message_id, SUCCESS).encode()
        wire.send(*[DataTF((Fragment(1, True, True, answer),))] * 2)
        ends_with_abort(wire)

    with ScriptedSCP(accepting(answers_twice)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).state is State.STORED
            with pytest.raises(RemoteProtocolError, match="1 is not outstanding"):
                await association.store(instance())
            assert not association.outstanding


async def test_one_wrong_answer_ends_every_wait_with_the_same_error() -> None:
    all_wait = threading.Event()

    def answers_wrong(wire: Wire) -> None:
        stores = wire.read_stores(2)
        wire.wait(all_wait)
        wire.answer(stores[0], message_id=999)
        ends_with_abort(wire)

    errors: list[AsyncStoreError] = []

    async def fails(call: Awaitable[object]) -> None:
        try:
            await call
        except AsyncStoreError as error:
            errors.append(error)

    with ScriptedSCP(accepting(answers_wrong, **with_window(2))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=2) as association:
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(fails, association.store(instance(uid=f"1.2.{number}")))
                await anyio.wait_all_tasks_blocked()
                group.start_soon(fails, association.echo())
                await anyio.wait_all_tasks_blocked()
                all_wait.set()
            assert association.failure is not None
            assert errors == [association.failure] * 5


# The end of the association while it has work, while it is idle, and in the middle of a message


def _closes(wire: Wire) -> None:
    wire.fin()
    wire.read_bytes(1 << 30)


def _resets(wire: Wire) -> None:
    wire.rst()


def _aborts(wire: Wire) -> None:
    wire.send(Abort(0, 0))
    wire.close()


def _aborts_as_provider(wire: Wire) -> None:
    wire.send(Abort(2, 6))
    wire.close()


def _releases(wire: Wire) -> None:
    wire.send(ReleaseRQ())
    wire.expect(ReleaseRP)
    wire.expect_closed()


ENDS: dict[str, tuple[Callable[[Wire], None], type[AssociationLost], str]] = {
    "EOF": (_closes, ConnectionLost, "the peer closed the connection"),
    "RST": (_resets, ConnectionLost, r"Connection reset|Broken pipe"),
    "A-ABORT": (_aborts, Aborted, "DUL service-user"),
    "A-P-ABORT": (_aborts_as_provider, Aborted, "Invalid PDU parameter value"),
    "A-RELEASE-RQ": (_releases, ConnectionLost, "released"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_with_operations_outstanding_is_known_at_once(end: str) -> None:
    how, kind, text = ENDS[end]

    def ends(wire: Wire) -> None:
        wire.read_stores(2)
        how(wire)

    with ScriptedSCP(accepting(ends, **with_window(2))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=2) as association:
            await send(association, instance(uid="1.2.1"), lambda *_: pytest.fail("it was answered"))
            with pytest.raises(kind, match=text) as caught:
                await association.store(instance(uid="1.2.2"))
            assert caught.value.outstanding == (1, 2)
            assert caught.value.retryable
            assert association.failure is caught.value


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_while_idle_is_known_at_the_next_use_and_takes_nothing_back(end: str) -> None:
    how, kind, text = ENDS[end]

    def ends(wire: Wire) -> None:
        wire.answer(wire.read_store())
        how(wire)

    with ScriptedSCP(accepting(ends)) as scp, anyio.fail_after(LIMIT_SECONDS):
        failed = anyio.Event()
        async with to(scp) as association:
            inside(association).on_failure = failed.set
            assert (await association.store(instance())).is_stored
            await failed.wait()
            with pytest.raises(kind, match=text) as caught:
                await association.store(instance())
            assert caught.value.outstanding == ()
        assert association.failure is caught.value


async def test_an_end_while_idle_that_nobody_uses_is_no_error() -> None:
    def ends(wire: Wire) -> None:
        wire.answer(wire.read_store())
        _aborts(wire)

    with ScriptedSCP(accepting(ends)) as scp, anyio.fail_after(LIMIT_SECONDS):
        failed = anyio.Event()
        async with to(scp) as association:
            inside(association).on_failure = failed.set
            assert (await association.store(instance())).is_stored
            await failed.wait()
        assert isinstance(association.failure, Aborted)


async def test_a_failed_association_can_be_tried_again_and_again_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    path = image_file(tmp_path / "a.dcm")
    with ScriptedSCP(accepting(Wire.fin)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            failed = anyio.Event()
            inside(association).on_failure = failed.set
            await failed.wait()
            lengths = set()
            for _ in range(5):
                for call in (lambda: association.store(path), lambda: send(association, instance(), lambda *_: None)):
                    with pytest.raises(ConnectionLost) as caught:
                        await call()
                    assert caught.value is association.failure
                lengths.add(len(list(traceback.walk_tb(caught.value.__traceback__))))
            assert len(lengths) == 1


async def test_a_failed_association_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "read_head", lambda _: pytest.fail("it looked at the file"))
    with ScriptedSCP(accepting(Wire.fin)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            failed = anyio.Event()
            inside(association).on_failure = failed.set
            await failed.wait()
            with pytest.raises(ConnectionLost):
                await association.store(tmp_path / "a")
            unread = instance_of(ReadPiecewise(bytes(100)))
            monkeypatch.setattr(unread.source, "read_into", lambda *_, **__: pytest.fail("it read the file"))
            with pytest.raises(ConnectionLost):
                await send(association, unread, lambda *_: None)


async def test_an_answer_counts_also_when_the_end_comes_with_it() -> None:
    def answers_and_aborts(wire: Wire) -> None:
        store = wire.read_store()
        answer = CStoreRSP(store.message_id, SUCCESS).encode()
        wire.send(DataTF((Fragment(1, True, True, answer),)), Abort(2, 0))

    with ScriptedSCP(accepting(answers_and_aborts)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).state is State.STORED
            assert isinstance(association.failure, Aborted)


@pytest.mark.parametrize("end", ["EOF", "RST", "A-ABORT", "A-P-ABORT"])
async def test_an_end_in_the_middle_of_a_message_interrupts_a_blocked_send(end: str) -> None:
    how, kind, text = ENDS[end]

    def ends(wire: Wire) -> None:
        wire.read_bytes(100_000)
        how(wire)

    with ScriptedSCP(accepting(ends), receive_buffer_bytes=8192) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            with pytest.raises(kind, match=text) as caught:
                await association.store(instance(LARGE))
            assert caught.value.outstanding == (1,)
            assert association.failure is caught.value


# Inside of the second of three fragments of a data set: its command set has about 100 bytes.
MIDDLE = 500


@pytest.mark.parametrize("what", ["nothing", "A-RELEASE-RQ", "early answer"])
async def test_what_comes_in_the_middle_of_a_message_is_answered_by_abort_after_the_pdu(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = threading.Event()
    stream: list[bytes] = []
    interruptions: dict[str, Callable[[Wire], None]] = {
        "nothing": Wire.fin,
        "A-RELEASE-RQ": lambda wire: wire.send(ReleaseRQ()),
        "early answer": lambda wire: wire.send_message(1, CStoreRSP(1, SUCCESS)),
    }

    def interrupts(wire: Wire) -> None:
        wire.wait(stalled)
        interruptions[what](wire)
        stream.append(wire.read_bytes(1 << 30))

    kind = RemoteProtocolError if what == "early answer" else ConnectionLost
    script = accepting(interrupts, maximum_length=306)
    with ScriptedSCP(script) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, connect=connect_stalling) as association:
            stalling(association).stall_after(MIDDLE)
            async with anyio.create_task_group() as group:
                group.start_soon(_fails, association, kind)
                await stalling(association).has_stalled.wait()
                stalled.set()
    units = list(units_of(stream[0]))
    assert b"".join(unit.encode() for unit in units) == stream[0]
    assert not has_last_data_fragment(units)
    assert len(fragments_of(units)) == 3
    if what == "nothing":  # whoever has closed needs no abort
        assert len(units) == 3
    else:
        assert isinstance(units[-1], Abort)


async def _fails(association: Association, kind: type[AsyncStoreError]) -> None:
    with pytest.raises(kind) as caught:
        await association.store(instance(900))
    assert association.failure is caught.value


async def test_a_failure_that_comes_just_when_the_peer_takes_more_ends_the_sending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ScriptedSCP(accepting(Wire.drain)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, connect=connect_stalling) as association:

            async def fails_and_is_writable() -> None:
                stalling(association).room = None
                inside(association).fail(ConnectionLost("at this moment"))

            stalling(association).stall_after(100)
            monkeypatch.setattr(stalling(association), "wait_writable", fails_and_is_writable)
            with pytest.raises(ConnectionLost, match="at this moment"):
                await association.store(instance(LARGE))
    assert not has_last_data_fragment(scp.received)


# Release


async def test_a_release_that_both_ask_for_at_once_is_answered_and_is_no_error() -> None:
    def collides(wire: Wire) -> None:
        wire.answer(wire.read_store())
        wire.expect(ReleaseRQ)
        wire.send(ReleaseRQ())
        wire.expect(ReleaseRP)
        wire.send(ReleaseRP())
        wire.expect_closed()

    with ScriptedSCP(accepting(collides)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).is_stored
        assert association.failure is None


@pytest.mark.parametrize(
    "instead",
    [Wire.drain, Wire.fin, Wire.rst, lambda wire: wire.send(b"HTTP/1.1 400\r\n"), lambda w: w.send(Abort(0, 0))],
)
async def test_a_release_that_is_not_answered_takes_nothing_back(instead: Callable[[Wire], None]) -> None:
    def does_not_answer(wire: Wire) -> None:
        wire.answer(wire.read_store())
        wire.expect(ReleaseRQ)
        instead(wire)
        with contextlib.suppress(OSError):
            wire.read_bytes(1 << 20)

    with ScriptedSCP(accepting(does_not_answer)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).is_stored
            set_timeouts(association, acse_seconds=TINY_SECONDS)


# Deadlines


async def test_a_store_that_is_never_answered_is_given_up_and_aborted(caplog: pytest.LogCaptureFixture) -> None:
    def never_answers(wire: Wire) -> None:
        wire.read_store()
        ends_with_abort(wire)

    with ScriptedSCP(accepting(never_answers)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=tiny(dimse_seconds=TINY_SECONDS)) as association:
            with pytest.raises(Timeout) as caught:
                await association.store(instance())
    assert (caught.value.which, caught.value.seconds, caught.value.outstanding) == ("dimse", TINY_SECONDS, (1,))
    assert [record.msg.which for record in caplog.records if isinstance(record.msg, trace.TimedOut)] == ["dimse"]


async def test_an_answer_that_waits_to_be_read_is_in_time_though_the_program_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_answer, has_answered = threading.Event(), threading.Event()

    def answers(wire: Wire) -> None:
        store = wire.read_store()
        wire.wait(may_answer)
        wire.answer(store)
        has_answered.set()
        wire.answer_release()

    with ScriptedSCP(accepting(answers)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            answer: list[object] = []
            await send(association, instance(), lambda *what: answer.append(what))
            may_answer.set()
            assert has_answered.wait(LIMIT_SECONDS)  # nothing else moves meanwhile
            now = time.monotonic() + 2 * association.timeouts.dimse_seconds
            watching = inside(association)._watch_deadlines()
            with monkeypatch.context() as later:
                later.setattr(time, "monotonic", lambda: now)
                watching.send(None)
                watching.close()
            assert answer
            assert association.failure is None


@pytest.mark.timed
async def test_the_deadline_is_one_for_the_whole_answer_however_it_comes() -> None:
    def dribbles(wire: Wire) -> None:
        store = wire.read_store()
        answer = CStoreRSP(store.message_id, SUCCESS).encode()
        with contextlib.suppress(OSError):
            wire.dribble(DataTF((Fragment(1, True, True, answer),)), pause_seconds=TINY_SECONDS / 4)

    with ScriptedSCP(accepting(dribbles)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=tiny(dimse_seconds=TINY_SECONDS)) as association:
            with pytest.raises(Timeout, match=f"not answered within {TINY_SECONDS} s"):
                await association.store(instance())


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_the_deadline_of_the_next_answer_begins_with_the_last_one() -> None:
    def answers_slowly(wire: Wire) -> None:
        for store in wire.read_stores(2):
            wire._stopping.wait(1.2)
            wire.answer(store)
        wire.answer_release()

    with ScriptedSCP(accepting(answers_slowly, **with_window(2))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=2, timeouts=tiny(dimse_seconds=2.2)) as association:
            async with anyio.create_task_group() as group:
                for number in range(2):
                    group.start_soon(association.store, instance(uid=f"1.2.{number}"))
            assert association.failure is None


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_the_time_that_the_sending_takes_does_not_count_for_the_answer() -> None:
    def takes_its_time(wire: Wire) -> None:
        wire._stopping.wait(4 * TINY_SECONDS)
        wire.answer(wire.read_store())
        wire.answer_release()

    script = accepting(takes_its_time, maximum_length=0)
    with ScriptedSCP(script, receive_buffer_bytes=8192) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=tiny(dimse_seconds=3 * TINY_SECONDS)) as association:
            assert (await association.store(instance(LARGE))).is_stored


@pytest.mark.timed
async def test_a_peer_that_stops_reading_is_given_up_and_the_abort_is_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ABORT_SECONDS", 2 * LIMIT_SECONDS)  # the peer has had its time: none is added
    with ScriptedSCP(accepting(Wire.hold), receive_buffer_bytes=8192) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=tiny(network_seconds=TINY_SECONDS)) as association:
            with pytest.raises(Timeout) as caught:
                await association.store(instance(LARGE))
            assert (caught.value.which, caught.value.outstanding) == ("network", (1,))
    assert [record.msg.which for record in caplog.records if isinstance(record.msg, trace.TimedOut)] == ["network"]


@pytest.mark.timed
async def test_leaving_while_the_peer_does_not_read_takes_no_longer_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert transport_module.ABORT_SECONDS == 5
    monkeypatch.setattr(link, "ABORT_SECONDS", TINY_SECONDS)
    with ScriptedSCP(accepting(Wire.hold), receive_buffer_bytes=8192) as scp, anyio.fail_after(LIMIT_SECONDS):
        began = time.monotonic()
        with anyio.CancelScope() as scope:
            async with to(scp) as association:
                scope.deadline = anyio.current_time() + TINY_SECONDS
                await association.store(instance(LARGE))
        assert time.monotonic() - began < transport_module.ABORT_SECONDS
        assert inside(association).transport.is_closed


async def test_what_the_library_logs_at_a_broken_connection_is_an_event(caplog: pytest.LogCaptureFixture) -> None:
    def closes(wire: Wire) -> None:
        wire.read_store()

    with caplog.at_level(logging.INFO, "asyncstore.net"), ScriptedSCP(accepting(closes)) as scp:
        async with to(scp) as association:
            with pytest.raises(ConnectionLost):
                await association.store(instance())
    assert [type(record.msg) for record in caplog.records][-1] is trace.ConnectionBroken


# -- how long a peer may take ------------------------------------------------------------------------------------------


@pytest.mark.timed
async def test_a_peer_has_longer_for_the_answer_to_a_large_data_set() -> None:
    is_late = threading.Event()

    def answers_late(wire: Wire) -> None:
        store = wire.read_store()
        wire.wait(is_late)
        wire.answer(store)
        wire.serve_stores()

    with ScriptedSCP(accepting(answers_late)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=tiny(dimse_seconds=TINY_SECONDS)) as association:
            answers: list[Any] = []
            operation = await send(association, instance(3 * LARGE), lambda *answer: answers.append(answer))
            assert operation.allowance_seconds == 3 * LARGE / 10_000_000
            await anyio.sleep(2 * TINY_SECONDS)
            is_late.set()
            while not answers:
                assert association.failure is None
                await anyio.lowlevel.checkpoint()
            set_timeouts(association)  # the peer is not late with this one, but the machine may be
            small = await send(association, instance(1000), lambda *answer: answers.append(answer))
            assert small.allowance_seconds == 0
            while len(answers) < 2:
                await anyio.lowlevel.checkpoint()
