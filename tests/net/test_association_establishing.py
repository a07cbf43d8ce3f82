"""How an association comes to be, or does not: each refusal, silence and nonsense has its own error."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import (
    Aborted,
    AssociationRejected,
    AsyncStoreError,
    ConnectFailed,
    ConnectionLost,
    LocalProtocolError,
    NoAcceptedContext,
    RemoteProtocolError,
    Timeout,
)
from asyncstore.net import trace
from asyncstore.net.peer import Peer, Timeouts
from asyncstore.services.scu import associate
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.user_information import UserInformation
from tests.net.test_transport import unanswering
from tests.support.associations import (
    CONTEXTS,
    LIMIT_SECONDS,
    TINY_SECONDS,
    accepting,
    inside,
    instance,
    tasks,
    tiny,
    to,
)
from tests.support.peers import free_port
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.services.scu import Association

pytestmark = pytest.mark.every_loop

INFORMATION = UserInformation(maximum_length=16384, implementation_class_uid="1.2.3")


def refused(*results: int) -> list[PresentationContextResult]:
    return [PresentationContextResult(2 * index + 1, result, "") for index, result in enumerate(results)]


def acceptance(**information: Any) -> pdu.AssociateAC:
    result = PresentationContextResult(1, 0, EXPLICIT_VR_LITTLE_ENDIAN)
    user_information = UserInformation(implementation_class_uid="1.2.3", **information)
    return pdu.AssociateAC("SCRIPTED", "STORESCU", (result,), user_information)


async def fails_to_enter(association: Association, kind: type[AsyncStoreError]) -> AsyncStoreError:
    """Enter the association, which must fail with exactly this, and leave nothing behind."""
    before = tasks()
    with anyio.fail_after(LIMIT_SECONDS), pytest.raises(kind) as caught:
        async with association:
            pytest.fail("there is no association")
    assert type(caught.value) is kind
    assert tasks() == before
    return caught.value


def logged(caplog: pytest.LogCaptureFixture) -> list[type[object]]:
    return [type(record.msg) for record in caplog.records]


# No connection


async def test_a_refused_connection(caplog: pytest.LogCaptureFixture) -> None:
    association = associate(Peer("127.0.0.1", free_port()), contexts=CONTEXTS)
    error = await fails_to_enter(association, ConnectFailed)
    assert "Connection refused" in str(error)
    assert logged(caplog) == [trace.ConnectionFailed]


async def test_an_unknown_host(caplog: pytest.LogCaptureFixture) -> None:
    error = await fails_to_enter(associate(Peer("no-such-host.invalid", 104), contexts=CONTEXTS), ConnectFailed)
    assert "cannot resolve 'no-such-host.invalid'" in str(error)
    assert logged(caplog) == [trace.ConnectionFailed]


async def test_a_host_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    with unanswering() as port:
        association = associate(
            Peer("127.0.0.1", port), contexts=CONTEXTS, timeouts=Timeouts(connect_seconds=TINY_SECONDS)
        )
        error = await fails_to_enter(association, Timeout)
    assert isinstance(error, Timeout)
    assert error.which == "connect"
    assert logged(caplog) == [trace.ConnectionFailed]


# No association


@pytest.mark.parametrize(
    ("rejection", "text", "retryable"),
    [
        ((1, 1, 7), "Called AE title not recognised", False),
        ((1, 1, 3), "Calling AE title not recognised", False),
        ((1, 1, 2), "Application context name not supported", False),
        ((1, 2, 2), "Protocol version not supported", False),
        ((2, 3, 1), "Temporary congestion", True),
        ((2, 3, 2), "Local limit exceeded", True),
        ((1, 3, 2), "Local limit exceeded", True),
        ((9, 9, 9), "unknown reason 9", False),
    ],
)
async def test_a_rejection_says_by_whom_and_why(
    rejection: tuple[int, int, int], text: str, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def rejects(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        wire.send(pdu.AssociateRJ(*rejection))
        wire.expect_closed()

    with ScriptedSCP(rejects) as scp:
        error = await fails_to_enter(to(scp), AssociationRejected)
    assert isinstance(error, AssociationRejected)
    assert (error.result, error.source, error.reason) == rejection
    assert text in str(error)
    assert error.retryable is retryable
    assert logged(caplog) == [trace.Rejected]


@pytest.mark.parametrize("results", [refused(3, 3, 3), refused(4, 1, 2), []], ids=["3", "4, 1, 2", "none"])
async def test_an_acceptance_without_a_context_is_aborted(
    results: list[PresentationContextResult], caplog: pytest.LogCaptureFixture
) -> None:
    def accepts_nothing(wire: Wire) -> None:
        wire.accept(results=results)
        wire.expect(pdu.Abort)
        wire.expect_closed()

    with ScriptedSCP(accepts_nothing) as scp:
        error = await fails_to_enter(to(scp), NoAcceptedContext)
    assert "accepted none of the proposed presentation contexts" in str(error)
    assert logged(caplog) == [trace.NothingAccepted]


@pytest.mark.parametrize(
    ("abort", "text"), [(pdu.Abort(0, 0), "DUL service-user"), (pdu.Abort(2, 2), "Unexpected PDU")]
)
async def test_an_abort_instead_of_an_answer(abort: pdu.Abort, text: str, caplog: pytest.LogCaptureFixture) -> None:
    def aborts(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        wire.send(abort)
        wire.expect_closed()

    with caplog.at_level("INFO", "asyncstore.net"), ScriptedSCP(aborts) as scp:
        error = await fails_to_enter(to(scp), Aborted)
    assert text in str(error)
    assert logged(caplog) == [trace.Requesting, trace.AbortedByPeer]


@pytest.mark.parametrize("end", [Wire.fin, Wire.rst])
async def test_an_end_instead_of_an_answer(end: Callable[[Wire], None], caplog: pytest.LogCaptureFixture) -> None:
    def ends(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        end(wire)

    with ScriptedSCP(ends) as scp:
        error = await fails_to_enter(to(scp), ConnectionLost)
    assert "closed the connection before it answered" in str(error) or "reset" in str(error)
    assert logged(caplog) == [trace.ConnectionBroken]


@pytest.mark.timed
@pytest.mark.parametrize("begins", [True, False], ids=["a part of an answer", "nothing"])
async def test_a_peer_that_never_answers_is_given_up_and_aborted(
    begins: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def never_answers(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        if begins:
            wire.send(acceptance().encode()[:-1])
        wire.expect(pdu.Abort)
        wire.expect_closed()

    with ScriptedSCP(never_answers) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            error = await fails_to_enter(to(scp, timeouts=tiny(acse_seconds=TINY_SECONDS)), Timeout)
    assert isinstance(error, Timeout)
    assert (error.which, error.outstanding) == ("acse", ())
    assert logged(caplog) == [trace.TimedOut]


STRANGERS: dict[str, tuple[Any, str]] = {
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this looks like an HTTP server"),
    "TLS": (b"\x15\x03\x03\x00\x02\x02\x46", "this looks like a TLS server"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "this looks like an SSH server"),
    "SMTP": (b"220 mail.example ESMTP\r\n", "this looks like an SMTP"),
    "4 GiB": (b"\x02\0\xff\xff\xff\xff", "4294967295 bytes"),
    "data": (pdu.DataTF((pdu.Fragment(1, True, True, b"ab"),)), "not expected"),
    "release": (pdu.ReleaseRQ(), "not expected"),
    "request": (pdu.AssociateRQ("A", "B", (), INFORMATION), "not expected"),
    "maximum of 7": (acceptance(maximum_length=7), "leaves no room"),
    "another context": (
        pdu.AssociateAC("A", "B", (PresentationContextResult(99, 0, EXPLICIT_VR_LITTLE_ENDIAN),), INFORMATION),
        "99 was never proposed",
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_nonsense_instead_of_an_answer_says_what_it_looks_like(
    stranger: str, caplog: pytest.LogCaptureFixture
) -> None:
    what, text = STRANGERS[stranger]

    def talks_nonsense(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        wire.send(what)
        wire.expect(pdu.Abort)
        wire.expect_closed()

    with ScriptedSCP(talks_nonsense) as scp:
        error = await fails_to_enter(to(scp), RemoteProtocolError)
    assert text in str(error)
    (event,) = [record.msg for record in caplog.records if isinstance(record.msg, trace.InvalidAnswer)]
    assert event.to_request == "A-ASSOCIATE"


@pytest.mark.parametrize(
    ("also", "kind"),
    [
        (pdu.Abort(2, 0), Aborted),
        (pdu.ReleaseRQ(), ConnectionLost),
        (pdu.DataTF((pdu.Fragment(1, False, True, b"ab"),)), RemoteProtocolError),
        (b"HTTP/1.1 400\r\n", RemoteProtocolError),
    ],
)
async def test_what_comes_together_with_the_acceptance_counts(also: Any, kind: type[AsyncStoreError]) -> None:
    def accepts_and_more(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        wire.send(acceptance(), also)
        wire.drain()

    with ScriptedSCP(accepts_and_more) as scp:
        await fails_to_enter(to(scp), kind)


async def test_an_acceptance_that_comes_a_byte_at_a_time_is_one() -> None:
    def dribbles(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        wire.dribble(acceptance(maximum_length=16384))
        wire.serve_stores()

    with ScriptedSCP(dribbles) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).is_stored


async def test_cancelled_while_it_is_being_established_it_is_aborted() -> None:
    is_asked = threading.Event()

    def never_answers(wire: Wire) -> None:
        wire.expect(pdu.AssociateRQ)
        is_asked.set()
        wire.expect(pdu.Abort)
        wire.expect_closed()

    async def enter() -> None:
        async with to(scp):
            pytest.fail("there is no association")

    with ScriptedSCP(never_answers) as scp, anyio.fail_after(LIMIT_SECONDS):
        before = tasks()
        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            assert await anyio.to_thread.run_sync(is_asked.wait, LIMIT_SECONDS)
            group.cancel_scope.cancel()
        assert tasks() == before


async def test_an_association_is_used_once() -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        association = to(scp)
        async with association:
            pass
    with ScriptedSCP(Wire.drain) as scp:
        again = Peer(scp.host, scp.port)
        inside(association).peer = again
        await fails_to_enter(association, LocalProtocolError)


@pytest.mark.parametrize("count", [0, 129])
def test_more_contexts_than_an_association_has_are_refused_before_anything_is_opened(count: int) -> None:
    with pytest.raises(LocalProtocolError, match="1 to 128"):
        associate(Peer("127.0.0.1", 104), contexts=[(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))] * count)


async def test_all_128_contexts_can_be_used() -> None:
    contexts = [(f"1.2.3.{number}", (EXPLICIT_VR_LITTLE_ENDIAN,)) for number in range(127)] + list(CONTEXTS[:1])
    with ScriptedSCP(accepting(Wire.serve_stores)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=contexts) as association:
            assert (await association.store(instance())).context_id == 255
    assert scp.wires[0].stores[0].context_id == 255
