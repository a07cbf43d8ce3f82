"""What cannot be asked for, and what is asked for at the wrong time: said at once, and by what is at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import ConnectFailed, LocalProtocolError
from asyncstore.net.peer import Peer
from asyncstore.services.scu import associate
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.pdu import AssociateRQ, ReleaseRP, ReleaseRQ
from asyncstore.upper_layer.user_information import UserIdentity
from tests.support.associations import CONTEXTS, LIMIT_SECONDS, accepting, inside, instance, to
from tests.support.peers import free_port
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from asyncstore.services.scu import Association

pytestmark = pytest.mark.every_loop

CT = CT_IMAGE_STORAGE


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"calling_ae_title": "X" * 17}, "AE title"),
        ({"calling_ae_title": ""}, "AE title"),
        ({"calling_ae_title": "A\\B"}, "AE title"),
        ({"window": 0}, "window of 0"),
        ({"window": 65536}, "window of 65536"),
        ({"maximum_length": -1}, "maximum_length is -1"),
        ({"maximum_length": 7}, "maximum_length is 7"),
        ({"maximum_length": 1 << 32}, "32 bits"),
        ({"maximum_send_length": 7}, "maximum_send_length is 7"),
        ({"maximum_send_length": -5}, "maximum_send_length is -5"),
        ({"contexts": [CT]}, "is not a pair of an abstract syntax and its transfer syntaxes"),
        ({"contexts": CT}, "'1' is not a pair"),
        ({"contexts": [5]}, "5 is not a pair"),
        ({"contexts": [(CT, 5)]}, "is not a pair"),
        ({"contexts": [(CT, [5])]}, "is not a pair"),
        ({"contexts": None}, "contexts is None"),
        ({"peer": "localhost"}, "peer is 'localhost': it is a Peer"),
        ({"timeouts": 5}, "timeouts is 5: it is a Timeouts"),
        ({"providers": 5}, "providers is 5: it is a Mapping"),
        ({"user_identity": "scanner"}, "user_identity is 'scanner': it is a UserIdentity"),
        ({"user_identity": UserIdentity(1, "scanner")}, "are bytes, such as b'scanner'"),  # type: ignore[arg-type]
        ({"contexts": [(CT, [])]}, "no transfer syntax"),
        ({"contexts": [("", [EXPLICIT_VR_LITTLE_ENDIAN])]}, "UID"),
        ({"contexts": []}, "0 presentation contexts"),
    ],
)
def test_what_cannot_be_proposed_is_refused_before_there_is_a_connection(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=text):
        associate(**{"peer": Peer("127.0.0.1", 104), "contexts": CONTEXTS, **wrong})


async def test_a_priority_that_no_request_may_have_is_refused_before_anything_is_sent() -> None:
    async with StorageSCP() as scp, associate(Peer("127.0.0.1", scp.port), CONTEXTS) as association:
        with pytest.raises(LocalProtocolError, match="priority is 7: it is LOW, MEDIUM or HIGH"):
            await association.store(instance(), priority=7)
        assert (await association.store(instance())).is_stored


async def test_one_transfer_syntax_need_not_be_in_a_list() -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=[(CT, EXPLICIT_VR_LITTLE_ENDIAN)]) as association:
            assert (await association.store(instance())).is_stored
    request = scp.wires[0].received[0]
    assert isinstance(request, AssociateRQ)
    assert request.presentation_contexts[0].transfer_syntaxes == (EXPLICIT_VR_LITTLE_ENDIAN,)


async def is_unusable(association: Association) -> None:
    for call in (lambda: association.store(instance()), association.echo, association.release, association.abort):
        with pytest.raises(LocalProtocolError, match="there is no association"):
            await call()


async def test_an_association_that_was_not_entered_or_never_came_to_be_is_none() -> None:
    association = associate(Peer("127.0.0.1", free_port()), contexts=CONTEXTS)
    await is_unusable(association)
    with pytest.raises(ConnectFailed):
        await association.__aenter__()
    await is_unusable(association)


async def test_what_does_not_connect_to_anything_is_told_as_itself() -> None:
    async def connects_to_nothing(*_: object) -> Any:
        return None

    async def fails(*_: object) -> Any:
        raise ZeroDivisionError

    for connect, error in ((connects_to_nothing, LocalProtocolError), (fails, ZeroDivisionError)):
        with pytest.raises(error):
            async with associate(Peer("127.0.0.1", 104), contexts=CONTEXTS, connect=connect):
                pass


async def enters(association: Association) -> None:
    with pytest.raises(LocalProtocolError, match="entered once"):
        await association.__aenter__()


async def test_an_association_is_entered_once() -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            await enters(association)
            assert (await association.store(instance())).is_stored
        await enters(association)
    assert len(scp.wires) == 1


async def test_who_asks_for_the_release_too_waits_for_it() -> None:
    released: list[int] = []

    async def release(association: Association, number: int) -> None:
        await association.release()
        assert inside(association).transport.is_closed
        released.append(number)

    def answers(wire: Wire) -> None:
        wire.expect(ReleaseRQ)
        wire.send(ReleaseRP())
        wire.expect_closed()

    with ScriptedSCP(accepting(answers)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association, anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(release, association, number)
    assert sorted(released) == [0, 1, 2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_association_can_be_made_before_there_is_an_event_loop(backend: str) -> None:
    association = associate(Peer("127.0.0.1", free_port()), contexts=CONTEXTS)

    async def use() -> None:
        async with StorageSCP() as scp:
            inside(association).peer = Peer(scp.host, scp.port)
            async with association:
                assert (await association.store(instance())).is_stored

    anyio.run(use, backend=backend)
