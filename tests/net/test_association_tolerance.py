"""An association with a peer that is a little off the standard: what does not decide is taken, and told with -d."""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.dimse import command_set
from asyncstore.errors import RemoteProtocolError
from asyncstore.instances.outcome import State
from asyncstore.net import trace
from asyncstore.status import SUCCESS
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, MR_IMAGE_STORAGE
from asyncstore.upper_layer.pdu import Abort, AssociateRQ, ReleaseRQ
from tests.support.associations import instance, to
from tests.support.transfers import LIMIT_SECONDS
from tests.support.wire import IncomingStore, ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

CT_EXPLICIT = (CT_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN])
CT_IMPLICIT = (CT_IMAGE_STORAGE, [IMPLICIT_VR_LITTLE_ENDIAN])
MR = (MR_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN])
CONTEXTS = [CT_EXPLICIT, CT_IMPLICIT, MR]


def element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, tag, len(value)) + value


def response_to(store: IncomingStore, *, longer: int = 0, group_length: int = 0, behind: bytes = b"") -> bytes:
    """A success in which the element `longer` has two zeros more, with a wrong group length, and with more behind."""
    elements = [
        (command_set.AFFECTED_SOP_CLASS_UID, command_set.pad_uid(CT_IMAGE_STORAGE.encode())),
        (command_set.COMMAND_FIELD, b"\1\x80"),
        (command_set.RESPONDED_TO, struct.pack("<H", store.message_id)),
        (command_set.DATA_SET_TYPE, b"\1\1"),
        (command_set.STATUS, b"\0\0"),
    ]
    body = b"".join(element(tag, value + bytes(2 * (tag == longer))) for tag, value in elements)
    return element(0, struct.pack("<I", len(body) + group_length)) + body + behind


ODD_RESPONSES: dict[str, Callable[[IncomingStore], bytes]] = {
    "a group length that counts itself": lambda store: response_to(store, group_length=12),
    "a status of 4 bytes": lambda store: response_to(store, longer=command_set.STATUS),
    "a Message ID of 4 bytes": lambda store: response_to(store, longer=command_set.RESPONDED_TO),
    "a data set type of 4 bytes": lambda store: response_to(store, longer=command_set.DATA_SET_TYPE),
    "an offending element of 2 bytes": lambda store: response_to(store, behind=element(0x0901, b"\x10\0")),
    "an element twice": lambda store: response_to(store, behind=element(0x0900, b"\0\0")),
    "a UID that is not ASCII": lambda store: response_to(store, behind=element(0x1000, b"1.2.\xe9\0")),
    "zeros behind": lambda store: response_to(store, behind=bytes(10)),
    "an element of another group": lambda store: response_to(store, behind=b"\x08\0\x18\0\2\0\0\0" + b"1\0"),
}


def events(caplog: pytest.LogCaptureFixture, kind: type[Any]) -> list[Any]:
    return [record.msg for record in caplog.records if isinstance(record.msg, kind)]


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncstore.net")


@pytest.mark.parametrize("odd", ODD_RESPONSES)
async def test_an_answer_that_says_what_it_answers_counts(odd: str, caplog: pytest.LogCaptureFixture) -> None:
    def answers_oddly(wire: Wire) -> None:
        wire.accept()
        for _ in range(3):
            store = wire.read_store()
            wire.send_message(store.context_id, ODD_RESPONSES[odd](store))
        wire.answer_release()

    with ScriptedSCP(answers_oddly) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            outcomes = [await association.store(instance(uid=f"1.2.{number}")) for number in range(3)]
    assert [(outcome.state, outcome.status) for outcome in outcomes] == [(State.STORED, SUCCESS)] * 3
    told = [event.detail for event in events(caplog, trace.Tolerated)]
    assert told
    assert len(set(told)) == len(told)
    assert all(text.startswith("command set, ") for text in told)
    assert not events(caplog, trace.InvalidAnswer)


async def test_an_answer_in_another_context_of_the_sop_class_counts_and_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answers_in_the_last(wire: Wire) -> None:
        request = wire.accept()
        last = max(
            context.context_id
            for context in request.presentation_contexts
            if context.abstract_syntax == CT_IMAGE_STORAGE
        )
        for _ in range(3):
            wire.answer(wire.read_store(), context_id=last)
        wire.answer_release()

    with ScriptedSCP(answers_in_the_last) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            outcomes = [await association.store(instance(uid=f"1.2.{number}")) for number in range(3)]
    assert {outcome.state for outcome in outcomes} == {State.STORED}
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage() == (
        "an answer of the peer does not fit its request, and counts by its Message ID: C-STORE-RSP, Presentation "
        "Context ID: 3, but the request went out in 1"
    )


async def test_an_answer_in_a_context_of_another_sop_class_ends_the_association() -> None:
    def answers_for_another_class(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store(), context_id=5)
        wire.expect(Abort)

    with ScriptedSCP(answers_for_another_class) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            with pytest.raises(RemoteProtocolError, match="5, but the request went out in 1"):
                await association.store(instance())


@pytest.mark.parametrize("length", [0, 10, 256])
async def test_a_release_is_answered_by_a_pdu_of_any_small_length(
    length: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answers_oddly(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wire.expect(ReleaseRQ)
        wire.send(b"\6\0" + struct.pack(">I", length) + bytes(length))
        wire.expect_closed()

    with ScriptedSCP(answers_oddly) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            await association.store(instance())
    (event,) = events(caplog, trace.Tolerated)
    assert event.detail == f"A-RELEASE-RP, PDU length: {length} bytes where there should be 4"


async def test_nonsense_instead_of_the_answer_to_a_release_is_told_at_debug_level_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answers_nonsense(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wire.expect(ReleaseRQ)
        wire.send(b"\6\0\0\1\0\0")
        wire.drain()

    with ScriptedSCP(answers_nonsense) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            assert (await association.store(instance())).state is State.STORED
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert [event.detail for event in events(caplog, trace.Tolerated)] == [
        "A-RELEASE-RP, PDU length: 65536 bytes where there should be 4"
    ]


async def test_an_acceptance_without_user_information_is_one(caplog: pytest.LogCaptureFixture) -> None:
    def accepts_oddly(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        body = request.encode()[6:74]
        results = b"".join(
            struct.pack(">BxHBxBx", 0x21, 8 + len(syntax), context.context_id, 0)
            + struct.pack(">BxH", 0x40, len(syntax))
            + syntax
            for context in request.presentation_contexts
            for syntax in [context.transfer_syntaxes[0].encode()]
        )
        body += results * 2
        wire.send(b"\2\0" + struct.pack(">I", len(body)) + body)
        wire.serve_stores()

    with ScriptedSCP(accepts_oddly) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            assert (await association.store(instance())).state is State.STORED
    assert [event.detail.split(":")[0] for event in events(caplog, trace.Tolerated)] == [
        "A-ASSOCIATE-AC, Presentation context ID",
        "A-ASSOCIATE-AC, Application context name",
        "A-ASSOCIATE-AC, User information",
    ]
