"""Requests of the peer, on an association of either role: who performs them, and what is answered."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asyncstore.dimse import command_set
from asyncstore.dimse.message_types import response_to
from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, UnknownMessage
from asyncstore.dimse.n_messages import NEventReportRSP
from asyncstore.dimse.performing import UNRECOGNISED_OPERATION
from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
from asyncstore.errors import Aborted, ConnectionLost, RemoteProtocolError, Timeout
from asyncstore.instances.source import BytesSource
from asyncstore.net import transport
from asyncstore.net.acceptor import Acceptor
from asyncstore.net.mock import MockTransport
from asyncstore.net.peer import Peer, Timeouts
from asyncstore.net.provider import NO_ANSWER, Reply
from asyncstore.preparation.prepare import Prepared
from asyncstore.services.scu import associate
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.services.verification import VerificationProvider
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.pdu import Abort, AssociateAC, AssociateRQ, DataTF, Fragment, ReleaseRP
from asyncstore.upper_layer.user_information import ExtendedNegotiation, RoleSelection, UserInformation
from tests.support.associations import LIMIT_SECONDS, TINY_SECONDS, accepting, inside, instance, to, units_of
from tests.support.wire import ScriptedSCP, Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.net.provider import Sink

pytestmark = pytest.mark.every_loop

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
EVENT_REPORT = UnknownMessage(0x0100, 7, None, True)
CONTEXTS = [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)), (FIND, (IMPLICIT_VR_LITTLE_ENDIAN,))]


def accept(sent: bytes) -> bytes | None:
    """Accepts every context that a whole A-ASSOCIATE-RQ proposes, with its first transfer syntax."""
    (request,) = units_of(sent) or (None,)
    if not isinstance(request, AssociateRQ):
        return None
    results = tuple(
        PresentationContextResult(context.context_id, 0, context.transfer_syntaxes[0])
        for context in request.presentation_contexts
    )
    information = UserInformation(maximum_length=16384, implementation_class_uid="1.2.3")
    return AssociateAC("PEER", "STORESCU", results, information).encode()


def says(context_id: int, message: Any, data_set: bytes | None = None, cut: int = 10) -> bytes:
    """A message on the wire, its data set in fragments of `cut` bytes."""
    encoded = DataTF((Fragment(context_id, True, True, message.encode()),)).encode()
    pieces = [] if data_set is None else [data_set[at : at + cut] for at in range(0, max(len(data_set), 1), cut)]
    for number, piece in enumerate(pieces, 1):
        encoded += DataTF((Fragment(context_id, False, number == len(pieces), piece),)).encode()
    return encoded


def answers(sent: bytes) -> list[dict[int, Any]]:
    """The command sets that were sent in whole PDUs."""
    return [
        command_set.decode(bytes(fragment.data))
        for unit in units_of(sent)
        if isinstance(unit, DataTF)
        for fragment in unit.fragments
        if fragment.is_command
    ]


def released(sent: bytes) -> bytes | None:
    """Confirms the release."""
    return ReleaseRP().encode() if sent.endswith(pdu.ReleaseRQ().encode()) else None


class Recorder:
    """A provider that takes what it is told to, keeps what it got, and answers success."""

    def __init__(self, answer: Callable[[PeerRequest], Any] | None = None, sink: Any = None) -> None:
        self.got: list[tuple[str, object]] = []
        self.requests: list[PeerRequest] = []
        self._answer = answer
        self._sink = sink

    def begin(self, request: PeerRequest) -> Sink | None:
        self.requests.append(request)
        return self._sink  # type: ignore[no-any-return]

    def perform(self, request: PeerRequest, data_set: object) -> Any:
        self.got.append((request.message.name, data_set))
        return response_to(request.message, SUCCESS) if self._answer is None else self._answer(request)


async def asked(
    *requests: bytes, providers: Any = None, contexts: Any = CONTEXTS, until: Callable[[bytes], bool] | None = None
) -> list[dict[int, Any]]:
    """Have a peer ask on the association that we opened; our answers. The association is released afterwards."""
    has_answered = anyio.Event()
    count = len(requests) if until is None else 0

    def awaits(sent: bytes) -> bytes | None:
        if (until(sent) if until is not None else len(answers(sent)) >= count) and sent:
            has_answered.set()
        return released(sent)

    transport = MockTransport([accept, b"".join(requests), awaits])
    connect = opened(transport)
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(PEER, contexts, providers=providers, connect=connect) as association:
            await has_answered.wait()
            assert association.failure is None
    return [answer for answer in answers(bytes(transport.sent)) if answer[command_set.COMMAND_FIELD] & 0x8000]


PEER = Peer("nowhere.invalid", 104)


def opened(transport: MockTransport) -> Any:
    async def connect(peer: Peer, seconds: float) -> MockTransport:
        return transport

    return connect


def facts(answer: dict[int, Any]) -> tuple[int, int, int]:
    """Command Field, Message ID Being Responded To and Status."""
    return answer[command_set.COMMAND_FIELD], answer[command_set.RESPONDED_TO], answer[command_set.STATUS]


# -- on an association that we opened ----------------------------------------------------------------------------------


async def test_a_request_that_nobody_performs_is_refused_and_the_association_lives_on() -> None:
    given = await asked(
        says(1, CEchoRQ(3)),
        says(1, CStoreRQ(4, CT_IMAGE_STORAGE, "1.2.3"), bytes(25)),
        says(3, CFindRQ(5, FIND), b""),
        says(1, EVENT_REPORT, b"abc"),
    )
    assert [facts(answer) for answer in given] == [
        (0x8030, 3, 0x0122),
        (0x8001, 4, 0x0122),
        (0x8020, 5, 0x0122),
        (0x8100, 7, 0x0122),
    ]


async def test_a_provider_gets_the_requests_for_its_abstract_syntax_with_their_data_sets_whole() -> None:
    provider = Recorder()
    given = await asked(
        says(1, EVENT_REPORT, b"a data set in three pieces"),
        says(3, CFindRQ(8, FIND), b"query"),
        says(1, CEchoRQ(9)),
        providers={CT_IMAGE_STORAGE: provider},
    )
    assert [facts(answer) for answer in given] == [(0x8100, 7, 0), (0x8020, 8, 0x0122), (0x8030, 9, 0)]
    assert provider.got == [("N-EVENT-REPORT-RQ", b"a data set in three pieces"), ("C-ECHO-RQ", None)]
    assert [request.context.context_id for request in provider.requests] == [1, 1]
    assert provider.requests[0].data_set_bytes == 26


async def test_a_provider_refuses_what_it_does_not_perform() -> None:
    provider = VerificationProvider()
    given = await asked(
        says(1, EVENT_REPORT, b"abc"),
        says(1, CEchoRQ(3)),
        providers={VERIFICATION: provider},
        contexts=[(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))],
    )
    assert [facts(answer) for answer in given] == [(0x8100, 7, UNRECOGNISED_OPERATION.value), (0x8030, 3, 0)]


def fails(_: object) -> Any:
    raise ZeroDivisionError


async def fails_later(*_: object) -> Any:
    await anyio.lowlevel.checkpoint()
    raise ZeroDivisionError


@pytest.mark.parametrize("answer", [fails, fails_later])
async def test_a_provider_that_fails_is_answered_for_and_logged(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    (given,) = await asked(says(1, EVENT_REPORT, b"abc"), providers={CT_IMAGE_STORAGE: Recorder(answer)})
    assert facts(given) == (0x8100, 7, 0x0110)
    assert "performing a N-EVENT-REPORT-RQ failed" in caplog.text


async def test_a_provider_that_fails_before_the_data_set_is_answered_for_after_it() -> None:
    provider = Recorder()
    provider.begin = fails  # type: ignore[method-assign, assignment]
    (given,) = await asked(says(1, EVENT_REPORT, bytes(35)), providers={CT_IMAGE_STORAGE: provider})
    assert facts(given) == (0x8100, 7, 0x0110)
    assert not provider.got


async def test_a_message_id_that_is_still_outstanding_is_refused() -> None:
    goes_on = anyio.Event()

    async def late(request: PeerRequest) -> Any:
        await goes_on.wait()
        return response_to(request.message, SUCCESS)

    def answer(request: PeerRequest) -> Awaitable[Any]:
        return late(request)

    class Provider(Recorder):
        def begin(self, request: PeerRequest) -> Sink | None:
            if request.refused_with is None and self.requests:
                goes_on.set()
            return super().begin(request)

    provider = Provider(answer)
    given = await asked(
        says(1, CEchoRQ(3)), says(1, CEchoRQ(3)), says(1, CEchoRQ(4)), providers={CT_IMAGE_STORAGE: provider}
    )
    assert facts(given[0]) == (0x8030, 3, 0x0210)
    assert sorted(facts(answer) for answer in given[1:]) == [(0x8030, 3, 0), (0x8030, 4, 0)]


async def test_a_cancel_is_told_to_the_request_that_it_means_and_gets_no_answer() -> None:
    cancelled: list[bool] = []

    async def answer_when_cancelled(request: PeerRequest) -> Any:
        while not request.is_cancelled:
            await anyio.lowlevel.checkpoint()
        cancelled.append(True)
        return response_to(request.message, Status(0xFE00))

    provider = Recorder(answer_when_cancelled)
    given = await asked(
        says(3, CFindRQ(5, FIND), b"query"),
        says(3, CCancelRQ(99)),
        says(3, CCancelRQ(5)),
        providers={FIND: provider},
        until=lambda sent: len(answers(sent)) > 0,
    )
    assert [facts(answer) for answer in given] == [(0x8020, 5, 0xFE00)]
    assert cancelled == [True]


async def test_an_answer_that_the_peer_does_not_take_in_time_ends_the_association() -> None:
    async def late(request: PeerRequest) -> Any:
        return response_to(request.message, SUCCESS)

    transport = MockTransport([accept])
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(
            PEER,
            CONTEXTS,
            providers={CT_IMAGE_STORAGE: Recorder(late)},
            timeouts=Timeouts(network_seconds=TINY_SECONDS),
            connect=opened(transport),
        ) as association:
            transport.room = 10
            transport.play(says(1, CEchoRQ(3)))
            await transport.has_stalled.wait()
            while association.failure is None:
                await anyio.lowlevel.checkpoint()
            assert isinstance(association.failure, Timeout)
            transport.make_room()
    units_of(bytes(transport.sent))  # nothing went out in the middle of it


def later(answer: Callable[[PeerRequest], Any]) -> Callable[[PeerRequest], Any]:
    """The same answer, awaited."""

    async def answer_later(request: PeerRequest) -> Any:
        await anyio.lowlevel.checkpoint()
        return answer(request)

    return answer_later


SOONER_OR_LATER = pytest.mark.parametrize("when", [lambda answer: answer, later], ids=["at once", "later"])


@SOONER_OR_LATER
async def test_a_request_is_left_without_an_answer_where_the_provider_says_so(when: Any) -> None:
    provider = Recorder(when(lambda request: NO_ANSWER if request.message_id == 3 else None))
    given = await asked(
        says(1, CEchoRQ(3)),
        says(1, CEchoRQ(4)),
        providers={CT_IMAGE_STORAGE: provider},
        until=lambda sent: len(answers(sent)) > 0,
    )
    assert [facts(answer) for answer in given] == [(0x8030, 4, 0)]


@SOONER_OR_LATER
async def test_a_provider_that_returns_nothing_answers_success(when: Any) -> None:
    requests = (says(1, EVENT_REPORT, b"abc"), says(1, CEchoRQ(3)), says(1, CStoreRQ(4, CT_IMAGE_STORAGE, "1.2"), b"x"))
    given = await asked(*requests, providers={CT_IMAGE_STORAGE: Recorder(when(lambda request: None))})
    assert sorted(facts(answer) for answer in given) == [(0x8001, 4, 0), (0x8030, 3, 0), (0x8100, 7, 0)]


@SOONER_OR_LATER
@pytest.mark.parametrize(
    "wrong",
    [0, True, SUCCESS, "0000", CEchoRQ(7), CEchoRSP(8, SUCCESS), UnknownMessage(0x8100, None, 7, False, Status(70000))],
    ids=repr,
)
async def test_what_is_no_response_to_the_request_is_logged_once_and_answered_for(
    wrong: Any, when: Any, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Recorder(when(lambda request: wrong))
    (given,) = await asked(says(1, EVENT_REPORT, b"abc"), providers={CT_IMAGE_STORAGE: provider})
    assert facts(given) == (0x8100, 7, 0x0110)
    assert caplog.text.count("performing a N-EVENT-REPORT-RQ failed") == 1


@pytest.mark.parametrize("wrong", [True, io.BytesIO()], ids=["bool", "file"])
async def test_a_provider_that_gives_no_sink_is_answered_for(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    (given,) = await asked(says(1, EVENT_REPORT, bytes(35)), providers={CT_IMAGE_STORAGE: Recorder(sink=wrong)})
    assert facts(given) == (0x8100, 7, 0x0110)
    assert "not a Sink or None" in caplog.text


async def test_a_request_refused_with_what_is_no_status_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    class Provider(Recorder):
        def begin(self, request: PeerRequest) -> Sink | None:
            request.refused_with = 0xA700  # type: ignore[assignment]
            return None

    (given,) = await asked(says(1, EVENT_REPORT, bytes(35)), providers={CT_IMAGE_STORAGE: Provider()})
    assert facts(given) == (0x8100, 7, 0x0110)
    assert "performing a N-EVENT-REPORT-RQ failed" in caplog.text


async def test_an_answer_waits_for_the_message_that_is_being_written() -> None:
    """The peer asks in the middle of our C-STORE-RQ: its answer comes behind the last fragment of that."""
    transport = MockTransport([accept])
    data_set = bytes(range(256)) * 200
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(
            PEER, CONTEXTS, providers={CT_IMAGE_STORAGE: Recorder()}, connect=opened(transport)
        ) as association:
            transport.room = 20000
            async with anyio.create_task_group() as group:
                stored = instance(len(data_set))
                stored.source = BytesSource(data_set)
                group.start_soon(association.store, stored)
                await transport.has_stalled.wait()
                transport.play(says(1, CEchoRQ(3)), lambda sent: _store_answer(bytes(transport.sent)))
                await anyio.wait_all_tasks_blocked()
                assert len(answers(bytes(transport.sent))) == 1
                transport.make_room()
            transport.play(released)
    kinds = [
        (fragment.is_command, fragment.is_last)
        for unit in units_of(bytes(transport.sent))
        if isinstance(unit, DataTF)
        for fragment in unit.fragments
    ]
    assert kinds == [(True, True), *[(False, False)] * 3, (False, True), (True, True)]


def _store_answer(sent: bytes) -> bytes | None:
    given = answers(sent)
    return None if len(given) < 2 else says(1, CStoreRSP(1, SUCCESS))


async def test_a_data_set_in_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncstore.net import performer

    monkeypatch.setattr(performer, "MAXIMUM_DATA_SET_BYTES", 100)
    for length, is_taken in ((100, True), (101, False)):
        provider = Recorder()
        transport = MockTransport([accept, says(1, EVENT_REPORT, bytes(length)), released])
        failed = anyio.Event()
        with anyio.fail_after(LIMIT_SECONDS):
            async with associate(
                PEER, CONTEXTS, providers={CT_IMAGE_STORAGE: provider}, connect=opened(transport)
            ) as association:
                inside(association).on_failure = failed.set
                while not provider.got and association.failure is None:
                    await anyio.lowlevel.checkpoint()
                assert isinstance(association.failure, RemoteProtocolError) is not is_taken
        assert bool(provider.got) is is_taken


async def test_the_roles_that_a_provider_needs_are_proposed() -> None:
    transport = MockTransport([accept, released])
    async with associate(PEER, CONTEXTS, providers={FIND: Recorder(), "1.2.3": Recorder()}, connect=opened(transport)):
        pass
    (request, *_) = units_of(bytes(transport.sent))
    assert isinstance(request, AssociateRQ)
    (selection,) = request.user_information.role_selections
    assert (selection.sop_class_uid, selection.scu, selection.scp) == (FIND, True, True)


# -- sinks -------------------------------------------------------------------------------------------------------------


class SlowSink:
    """Takes a piece only when it may, and tells when it waits."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.waits = anyio.Event()
        self.goes_on = anyio.Event()
        self.is_finished = False
        self.is_discarded = False

    def write(self, data: bytes) -> Awaitable[None] | None:
        self.taken.append(data)
        return self._wait() if len(self.taken) == 2 else None

    async def _wait(self) -> None:
        self.waits.set()
        await self.goes_on.wait()

    def finish(self) -> Awaitable[None] | None:
        self.is_finished = True
        return None

    async def discard(self) -> None:
        self.is_discarded = True


async def test_what_comes_behind_a_slow_sink_waits_in_order_and_is_not_read() -> None:
    sink = SlowSink()
    provider = Recorder(sink=sink)
    transport = MockTransport(
        [accept, says(1, EVENT_REPORT, bytes(40)) + says(3, CFindRQ(8, FIND), b"q"), says(3, CFindRQ(9, FIND), b"q")]
    )
    providers = {CT_IMAGE_STORAGE: provider, FIND: Recorder()}
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(PEER, CONTEXTS, providers=providers, connect=opened(transport)) as association:
            await sink.waits.wait()
            await anyio.wait_all_tasks_blocked()
            assert len(sink.taken) == 2
            assert transport.receive_some() == says(3, CFindRQ(9, FIND), b"q")  # nobody else has read it
            sink.goes_on.set()
            while len(answers(bytes(transport.sent))) < 2:
                await anyio.lowlevel.checkpoint()
            transport.play(released)
            assert association.failure is None
    assert [facts(answer) for answer in answers(bytes(transport.sent))] == [(0x8100, 7, 0), (0x8020, 8, 0)]
    assert (b"".join(sink.taken), sink.is_finished, sink.is_discarded) == (bytes(40), True, False)
    assert provider.got == [("N-EVENT-REPORT-RQ", sink)]


@pytest.mark.parametrize("end", [b"", pdu.Abort(0, 0).encode(), ConnectionLost("reset")])
async def test_a_sink_is_told_when_its_data_set_does_not_come_whole(end: Any) -> None:
    sink = SlowSink()
    sink.goes_on.set()
    begun = says(1, EVENT_REPORT, bytes(40))[:-22]  # without its last fragment
    failed = anyio.Event()
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(
            PEER,
            CONTEXTS,
            providers={CT_IMAGE_STORAGE: Recorder(sink=sink)},
            connect=opened(MockTransport([accept, begun, end])),
        ) as association:
            inside(association).on_failure = failed.set
            while association.failure is None:
                await anyio.lowlevel.checkpoint()
            assert isinstance(association.failure, ConnectionLost | Aborted)
    assert sink.is_discarded
    assert not sink.is_finished


async def ends_cancelled(*_: object) -> Any:
    """What awaiting a future gives that somebody has cancelled."""
    await anyio.lowlevel.checkpoint()
    raise asyncio.CancelledError


def _skip_on_trio() -> None:
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        pytest.skip("nobody but a scope cancels anything there")


async def test_a_provider_that_awaits_what_was_cancelled_has_failed() -> None:
    _skip_on_trio()
    given = await asked(
        says(1, EVENT_REPORT, b"abc"),
        says(3, CFindRQ(8, FIND), b"q"),
        providers={CT_IMAGE_STORAGE: Recorder(ends_cancelled)},
    )
    assert sorted(facts(answer) for answer in given) == [(0x8020, 8, 0x0122), (0x8100, 7, 0x0110)]


@pytest.mark.parametrize("name", ["write", "finish"])
@pytest.mark.parametrize("fault", [fails, fails_later, ends_cancelled], ids=["at once", "later", "cancelled"])
async def test_a_sink_that_fails_is_discarded_and_answered_for_and_the_association_lives_on(
    name: str, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if fault is ends_cancelled:
        _skip_on_trio()
    sink = SlowSink()
    sink.goes_on.set()
    setattr(sink, name, fault if name == "write" else lambda: fault(None))
    provider = Recorder(sink=sink)
    given = await asked(
        says(1, EVENT_REPORT, bytes(40)),
        says(3, CFindRQ(8, FIND), b"q"),
        providers={CT_IMAGE_STORAGE: provider},
    )
    assert [facts(answer) for answer in given] == [(0x8100, 7, 0x0110), (0x8020, 8, 0x0122)]
    assert sink.is_discarded
    assert not provider.got
    assert caplog.text.count("performing a N-EVENT-REPORT-RQ failed") == 1


async def test_what_a_sink_returns_is_of_no_concern_if_it_cannot_be_awaited() -> None:
    kept = io.BytesIO()
    sink = SlowSink()
    sink.write = kept.write  # type: ignore[method-assign, assignment]
    sink.finish = kept.tell  # type: ignore[method-assign, assignment]
    given = await asked(says(1, EVENT_REPORT, bytes(40)), providers={CT_IMAGE_STORAGE: Recorder(sink=sink)})
    assert [facts(answer) for answer in given] == [(0x8100, 7, 0)]
    assert (kept.getvalue(), sink.is_discarded) == (bytes(40), False)


async def test_a_sink_that_cannot_be_discarded_keeps_no_acceptor_from_its_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = SlowSink()
    sink.discard = fails_later  # type: ignore[method-assign]

    def begins(wire: Wire) -> None:
        wire.associate()
        wire.send(says(1, EVENT_REPORT, bytes(40))[:-22])

    def tells(data: bytes) -> None:
        is_there.set()

    is_there = anyio.Event()
    sink.write = tells  # type: ignore[method-assign]
    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({CT_IMAGE_STORAGE: Recorder(sink=sink)}) as acceptor:
            await anyio.to_thread.run_sync(play_scu, begins, acceptor.port)
            await is_there.wait()
            while acceptor._open:
                await anyio.lowlevel.checkpoint()
    assert "a data set cannot be discarded" in caplog.text


async def test_an_association_that_ends_while_a_sink_waits_leaves_nothing() -> None:
    sink = SlowSink()
    transport = MockTransport([accept, says(1, EVENT_REPORT, bytes(40))])
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(
            PEER, CONTEXTS, providers={CT_IMAGE_STORAGE: Recorder(sink=sink)}, connect=opened(transport)
        ) as association:
            await sink.waits.wait()
            await association.abort()
    assert sink.is_discarded


@pytest.mark.parametrize(
    ("is_read", "piece_bytes"),
    [(True, 1 << 16), (False, 1 << 16), (False, 4)],
    ids=["with the request", "alone", "alone, and in pieces"],
)
async def test_an_abort_behind_a_slow_sink_is_told_as_one_although_the_answer_finds_the_connection_reset(
    is_read: bool, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_left = threading.Event()

    def aborts(wire: Wire) -> None:
        wire.accept()
        request = says(1, EVENT_REPORT, bytes(40))
        if is_read:
            wire.send(request + Abort(0, 0).encode())
        else:
            wire.send(request)
            may_abort.wait(LIMIT_SECONDS)
            wire.send(Abort(0, 0))
        wire.rst()
        has_left.set()

    may_abort = threading.Event()
    sink = SlowSink()
    with ScriptedSCP(aborts) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS, providers={CT_IMAGE_STORAGE: Recorder(sink=sink)}) as association:
            await sink.waits.wait()
            monkeypatch.setattr(transport, "RECEIVE_BYTES", piece_bytes)
            may_abort.set()
            await anyio.to_thread.run_sync(has_left.wait, LIMIT_SECONDS)
            sink.goes_on.set()
            while association.failure is None:
                await anyio.lowlevel.checkpoint()
            assert isinstance(association.failure, Aborted)


class CountsAcknowledgements(MockTransport):
    """Tells how many pieces were received when each acknowledgement was asked for."""

    def __init__(self, script: Iterable[Any]) -> None:
        super().__init__(script)
        self.received = 0
        self.acknowledged_after: list[int] = []

    def receive_some(self) -> bytes | None:
        arrived = super().receive_some()
        self.received += arrived is not None
        return arrived

    def acknowledge(self) -> None:
        self.acknowledged_after.append(self.received)


async def test_every_piece_that_ends_amid_a_message_is_acknowledged_at_once_and_no_other() -> None:
    """Otherwise a peer with Nagle's algorithm on would wait 40 ms with the next piece."""
    command, *fragments = (
        DataTF((Fragment(1, True, True, CStoreRQ(4, CT_IMAGE_STORAGE, "1.2.3").encode()),)).encode(),
        DataTF((Fragment(1, False, False, bytes(40)),)).encode(),
        DataTF((Fragment(1, False, True, bytes(40)),)).encode(),
    )
    half_command = CStoreRQ(5, CT_IMAGE_STORAGE, "1.2.3").encode()
    command_in_two = [
        DataTF((Fragment(1, True, is_last, part),)).encode()
        for is_last, part in ((False, half_command[:20]), (True, half_command[20:]))
    ]
    pieces = [
        *[command, fragments[0], fragments[1]],  # as peers send that write each PDU by itself
        *[command + fragments[0], fragments[1][:7], fragments[1][7:]],
        *[*command_in_two, fragments[1]],
        command + fragments[0] + fragments[1],
        says(1, CEchoRQ(9)),
    ]
    transport = CountsAcknowledgements([accept, *pieces, released])
    with anyio.fail_after(LIMIT_SECONDS):
        async with associate(
            PEER, CONTEXTS, providers={CT_IMAGE_STORAGE: Recorder()}, connect=opened(transport)
        ) as association:
            while len(answers(bytes(transport.sent))) < 5:
                await anyio.lowlevel.checkpoint()
            assert association.failure is None
    # The first piece is the acceptance. The turn of a busy process may end amid the eleventh, which is a whole message.
    assert [piece for piece in transport.acknowledged_after if piece != 11] == [2, 3, 5, 6, 8, 9]


# -- several responses -------------------------------------------------------------------------------------------------


async def test_several_responses_to_one_request_arrive_in_order_with_their_data_sets() -> None:
    matches = [b"first match", b"", b"x" * 40000]

    def answers_with_matches(wire: Wire) -> None:
        message = wire.read_message()
        assert message.message == CFindRQ(1, FIND)
        assert message.data_set == b"identifier"
        for match in matches:
            wire.send_message(3, CFindRSP(1, Status(0xFF00), FIND, has_data_set=True), match)
        wire.send_message(3, CFindRSP(1, SUCCESS, FIND))
        wire.answer_release()

    contexts = [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)), (FIND, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    came: list[tuple[int, bytes | None, bool]] = []
    is_over = anyio.Event()

    def on_response(operation: Any, response: Any, data_set: bytes | None) -> None:
        came.append((response.status.value, data_set, operation.is_final))
        if operation.is_final:
            is_over.set()

    source = BytesSource(b"identifier")
    with ScriptedSCP(accepting(answers_with_matches)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=contexts) as association:
            query = Prepared(instance(), 3, FIND, "", EXPLICIT_VR_LITTLE_ENDIAN, source.length_bytes, source)
            await inside(association).invoker.send(query, CFindRQ, (FIND,), on_response)
            await is_over.wait()
            assert not association.outstanding
    assert came == [*[(0xFF00, match, False) for match in matches], (0, None, True)]


def _pending(message_id: int, data_set: bytes) -> Reply:
    return Reply(CFindRSP(message_id, Status(0xFF00), FIND, has_data_set=True), data_set)


class Finds:
    """A provider whose matches are these; `ended` is set when it is told to give no more."""

    def __init__(self, matches: Iterable[Any], last: Any = None) -> None:
        self.given = 0
        self.ended = anyio.Event()
        self._matches = matches
        self._last = last

    def begin(self, request: PeerRequest) -> None:
        """Take the identifier in memory."""

    async def perform(self, request: PeerRequest, data_set: object) -> Any:
        try:
            for match in self._matches:
                if isinstance(match, Exception):
                    raise match
                yield _pending(request.message_id, match)
                self.given += 1
                await anyio.lowlevel.checkpoint()
            if self._last is not None:
                yield CFindRSP(request.message_id, self._last, FIND)
        finally:
            self.ended.set()


def _read_all(wire: Wire) -> list[tuple[int, bytes | None]]:
    """The responses up to the final one."""
    came: list[tuple[int, bytes | None]] = []
    while not came or came[-1][0] in (0xFF00, 0xFF01):
        incoming = wire.read_message()
        assert isinstance(incoming.message, CFindRSP)
        came.append((incoming.message.status.value, incoming.data_set))
    return came


FIND_CONTEXT = PresentationContext(1, FIND, (IMPLICIT_VR_LITTLE_ENDIAN,))


async def played(provider: Any, script: Callable[[Wire], Any]) -> Any:
    """What a script gives that queries a provider."""

    def whole(wire: Wire) -> Any:
        wire.associate([FIND_CONTEXT])
        wire.send_message(1, CFindRQ(5, FIND), b"identifier")
        given = script(wire)
        wire.release()
        return given

    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({FIND: provider}) as acceptor:
            return await anyio.to_thread.run_sync(play_scu, whole, acceptor.port)


MATCHES = [b"first match", b"", b"x" * 40000]


@pytest.mark.parametrize(
    ("last", "status"),
    [(None, 0x0000), (Status(0xA700), 0xA700), (SUCCESS, 0x0000)],
    ids=["none", "failure", "success"],
)
async def test_a_provider_gives_several_responses_and_then_the_final_one(last: Status | None, status: int) -> None:
    came = await played(Finds(MATCHES, last), _read_all)
    assert came == [*((0xFF00, match) for match in MATCHES), (status, None)]


async def test_a_provider_that_fails_after_some_matches_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    came = await played(Finds([b"match", ValueError("broken")]), _read_all)
    assert came == [(0xFF00, b"match"), (0x0110, None)]
    assert "performing a C-FIND-RQ failed" in caplog.text


async def test_a_provider_whose_data_set_is_not_announced_is_answered_for() -> None:
    class Wrong(Finds):
        async def perform(self, request: PeerRequest, data_set: object) -> Any:
            yield Reply(CFindRSP(request.message_id, SUCCESS, FIND), b"not announced")

    assert await played(Wrong([]), _read_all) == [(0x0110, None)]


async def test_a_cancelled_query_ends_early_and_is_answered_as_cancelled() -> None:
    provider = Finds(b"match" for _ in itertools.count())

    def cancels(wire: Wire) -> list[tuple[int, bytes | None]]:
        wire.read_message()
        wire.send_message(1, CCancelRQ(5))
        return _read_all(wire)

    came = await played(provider, cancels)
    assert came[-1] == (0xFE00, None)
    assert provider.ended.is_set()


async def test_a_query_ends_when_its_peer_has_left() -> None:
    provider = Finds(b"match" for _ in itertools.count())

    def leaves(wire: Wire) -> None:
        wire.associate([FIND_CONTEXT])
        wire.send_message(1, CFindRQ(5, FIND), b"identifier")
        wire.read_message()
        wire.send(Abort(0, 0))
        wire.close()

    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({FIND: provider}) as acceptor:
            await anyio.to_thread.run_sync(play_scu, leaves, acceptor.port)
            await provider.ended.wait()


async def test_the_roles_and_the_negotiation_that_a_provider_wants_are_accepted() -> None:
    class TakesReports(Recorder):
        performs_as_scu = True

        def negotiate(self, information: bytes) -> bytes:
            return information[:1]

    def asks(wire: Wire) -> UserInformation:
        information = UserInformation(
            implementation_class_uid="1.2.3",
            role_selections=(RoleSelection(FIND, False, True), RoleSelection(VERIFICATION, True, True)),
            extended_negotiations=(ExtendedNegotiation(FIND, b"\1\1"), ExtendedNegotiation(VERIFICATION, b"\1")),
        )
        wire.send(AssociateRQ("ANY-SCP", "SCRIPTED", (FIND_CONTEXT,), information))
        answer = wire.expect(AssociateAC)
        wire.release()
        return answer.user_information

    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({FIND: TakesReports(), VERIFICATION: VerificationProvider()}) as acceptor:
            answered = await anyio.to_thread.run_sync(play_scu, asks, acceptor.port)
    assert answered.role_selections == (RoleSelection(FIND, False, True),)
    assert answered.extended_negotiations == (ExtendedNegotiation(FIND, b"\1"),)


# -- on an association that a peer opened ------------------------------------------------------------------------------


def _exchange(requests: Iterable[tuple[int, Any, bytes | None]]) -> Callable[[Wire], list[Any]]:
    def script(wire: Wire) -> list[Any]:
        wire.associate()
        given = []
        for context_id, message, data_set in requests:
            wire.send_message(context_id, message, data_set)
            given.append(wire.read_message().message)
        wire.release()
        return given

    return script


async def test_an_acceptor_of_other_services_performs_them_by_the_same_providers() -> None:
    provider = Recorder()
    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({CT_IMAGE_STORAGE: provider}) as acceptor:
            script = _exchange([(1, EVENT_REPORT, b"abc"), (1, CEchoRQ(8), None)])
            given = await anyio.to_thread.run_sync(play_scu, script, acceptor.port)
    assert given == [NEventReportRSP(7, SUCCESS), CEchoRSP(8, SUCCESS)]
    assert provider.got == [("N-EVENT-REPORT-RQ", b"abc"), ("C-ECHO-RQ", None)]


async def test_a_storage_scp_refuses_another_operation_and_goes_on() -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP() as scp:
            script = _exchange(
                [(1, CFindRQ(3, CT_IMAGE_STORAGE), b"q"), (1, CStoreRQ(4, CT_IMAGE_STORAGE, "1.2"), b"ab")]
            )
            found, stored = await anyio.to_thread.run_sync(play_scu, script, scp.port)
    assert (found.responded_to, found.status.value) == (3, 0x0211)
    assert (stored.responded_to, stored.status) == (4, SUCCESS)
    assert (scp.stored, scp.failed) == (1, 0)
