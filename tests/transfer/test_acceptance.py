"""A peer is asked what it accepts; what it says is what a transfer then does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.errors import AssociationRejected, ConnectFailed, NoAcceptedContext
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Peer
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.transfer.acceptance import ask
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import TransferOptions
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MR_IMAGE_STORAGE,
    STORAGE_SOP_CLASSES,
)
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.pdu import AssociateRQ
from asyncstore.upper_layer.user_information import UserIdentity
from tests.support import transfers
from tests.support.peers import LOOPBACK, free_port
from tests.support.transfers import LIMIT_SECONDS, LOSSLESS_JPEG, outcomes_of, peer_at
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.net.user_identity import Caller
    from asyncstore.transfer.acceptance import Acceptance
    from asyncstore.transfer.plan import Pair

OPTIONS = TransferOptions()
PAIRS = [
    (sop_class, syntax)
    for sop_class in (CT_IMAGE_STORAGE, MR_IMAGE_STORAGE)
    for syntax in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, LOSSLESS_JPEG)
]


async def answers(server: transfers.Listening, pairs: Iterable[Pair], options: TransferOptions = OPTIONS) -> Acceptance:
    with anyio.fail_after(LIMIT_SECONDS):
        return await ask(peer_at(server), pairs, options)


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        TransferOptions(convert=False),
        TransferOptions(only_needed_contexts=True),
        TransferOptions(only_transfer_syntax=EXPLICIT_VR_LITTLE_ENDIAN),
    ],
    ids=["usual", "no conversion", "only needed contexts", "one syntax"],
)
@pytest.mark.parametrize("accepted", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, LOSSLESS_JPEG])
async def test_what_is_accepted_is_what_a_transfer_sends(options: TransferOptions, accepted: str) -> None:
    instances = [
        transfers.instance(number, sop_class_uid=pair[0], transfer_syntax_uid=pair[1])
        for number, pair in enumerate(PAIRS)
        if pair[1] != IMPLICIT_VR_LITTLE_ENDIAN  # the data sets at hand are explicit
    ]
    pairs = [(each.sop_class_uid, each.transfer_syntax_uid) for each in instances]
    async with StorageSCP(sop_classes=[CT_IMAGE_STORAGE], transfer_syntaxes=[accepted]) as scp:
        said = await answers(scp, pairs, options)
        assert (set(said), scp.stored) == (set(pairs), 0)
        transfer = Transfer(peer_at(scp), instances, options=options)
        try:
            outcomes = await outcomes_of(transfer)
        except NoAcceptedContext:
            assert set(said.values()) == {None}
            return
    for outcome in outcomes:
        assert outcome.instance is not None
        sent_as = said[outcome.instance.sop_class_uid, outcome.instance.transfer_syntax_uid]
        assert (outcome.state is State.STORED) == (sent_as is not None)
        if sent_as is not None:
            assert outcome.transfer_syntax_uid == sent_as


async def test_more_kinds_than_an_association_has_contexts_for_take_several() -> None:
    pairs = [(sop_class, EXPLICIT_VR_LITTLE_ENDIAN) for sop_class in STORAGE_SOP_CLASSES]
    assert len(pairs) > 128
    async with StorageSCP() as scp:
        assert await answers(scp, pairs) == dict.fromkeys(pairs, EXPLICIT_VR_LITTLE_ENDIAN)
        assert scp.associations == -(-len(pairs) // 64)  # each takes two: its own, and the uncompressed ones


async def test_the_peer_is_asked_as_the_user_that_the_run_is_of() -> None:
    callers: list[Caller] = []

    def decide(caller: Caller) -> bool:
        callers.append(caller)
        return True

    identity = UserIdentity(2, b"scanner", b"hidden")
    options = TransferOptions(user_identity=identity, allow_plaintext_credentials=True)
    async with StorageSCP(authenticate=decide) as scp:
        await answers(scp, PAIRS[:1], options)
        await outcomes_of(Transfer(peer_at(scp), [transfers.instance(1)], options=options))
    assert [caller.user_identity for caller in callers] == [identity, identity]


async def test_no_accepted_context_at_all_is_an_answer() -> None:
    async with StorageSCP(sop_classes=[MR_IMAGE_STORAGE]) as scp:
        pair = (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
        assert await answers(scp, [pair]) == {pair: None}


async def test_a_peer_that_takes_few_contexts_at_once_is_asked_again() -> None:
    pairs = [(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN), (MR_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)]
    no_reason = 2

    def first_only(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        results = [
            PresentationContextResult(context.context_id, no_reason if index else 0, context.transfer_syntaxes[0])
            for index, context in enumerate(request.presentation_contexts)
        ]
        wire.accept(request=request, results=results)
        wire.serve_stores()

    with ScriptedSCP(first_only) as scp:
        assert await answers(scp, pairs) == dict.fromkeys(pairs, EXPLICIT_VR_LITTLE_ENDIAN)


async def test_who_cannot_be_asked_raises() -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        with pytest.raises(ConnectFailed):
            await ask(Peer(LOOPBACK, free_port()), PAIRS, OPTIONS)
        async with StorageSCP(ae_title="ARCHIVE") as scp:
            with pytest.raises(AssociationRejected):
                await ask(peer_at(scp), PAIRS, OPTIONS)
