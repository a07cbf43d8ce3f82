"""User identity negotiation (PS3.7 D.3.3.7): no secret in clear text, and an acceptor that decides about callers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import asyncstore
from asyncstore import Caller, LocalProtocolError, Peer, StorageSCP, Transfer, TransferOptions, UserIdentity
from asyncstore.errors import AssociationRejected, IdentityNotConfirmed
from tests.net.test_tls import VERIFICATION
from tests.support.associations import LIMIT_SECONDS
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore import Authenticate

pytestmark = pytest.mark.every_loop

USER = UserIdentity(1, b"scanner")
SECRETS = [UserIdentity(kind, b"hidden", b"hidden", True) for kind in (2, 3, 4, 5)]


async def echo(scp: StorageSCP, identity: UserIdentity | None, **peer: Any) -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        options: dict[str, Any] = {"user_identity": identity, "allow_plaintext_credentials": not peer}
        where = Peer("localhost", scp.port, **peer)
        async with asyncstore.associate(where, contexts=[VERIFICATION], **options) as association:
            assert (await association.echo()).value == 0


async def awaited(decision: bool | bytes) -> bool | bytes:
    await anyio.lowlevel.checkpoint()
    return decision


@pytest.mark.parametrize("identity", SECRETS, ids=lambda identity: f"kind {identity.kind}")
async def test_a_secret_is_not_sent_in_clear_text(identity: UserIdentity) -> None:
    peer = Peer("localhost", 1)
    with pytest.raises(LocalProtocolError, match="would be sent in clear text") as raised:
        asyncstore.associate(peer, contexts=[VERIFICATION], user_identity=identity)
    assert "hidden" not in str(raised.value)
    with pytest.raises(LocalProtocolError, match="would be sent in clear text"):
        Transfer(peer, [], options=TransferOptions(user_identity=identity))
    asyncstore.associate(peer, contexts=[VERIFICATION], user_identity=identity, allow_plaintext_credentials=True)


async def test_a_user_name_is_no_secret() -> None:
    asyncstore.associate(Peer("localhost", 1), contexts=[VERIFICATION], user_identity=USER)


@pytest.mark.parametrize("is_later", [False, True])
async def test_an_acceptor_decides_about_its_callers(is_later: bool) -> None:
    callers: list[Caller] = []

    def decide(caller: Caller) -> Any:
        callers.append(caller)
        identity = caller.user_identity
        may = identity is not None and (identity.user_name, identity.secondary) == ("scanner", b"hidden")
        return awaited(may) if is_later else may

    async with StorageSCP(authenticate=decide) as scp:
        await echo(scp, UserIdentity(2, b"scanner", b"hidden"))
        for other in (UserIdentity(2, b"scanner", b"guessed"), USER, None):
            with pytest.raises(AssociationRejected) as raised:
                await echo(scp, other)
            assert (raised.value.result, raised.value.source, raised.value.reason) == (1, 1, 1)
        assert scp.associations == 1
    assert [caller.calling_ae_title for caller in callers] == ["STORESCU"] * 4
    assert "hidden" not in repr(callers)


@pytest.mark.parametrize("decision", [True, b"a ticket"])
async def test_the_identity_is_confirmed_if_that_was_asked_for(decision: bool | bytes) -> None:
    async with StorageSCP(authenticate=lambda caller: awaited(decision)) as scp:
        for identity in SECRETS:
            await echo(scp, identity)


async def test_an_acceptor_that_takes_anyone_confirms_the_identity() -> None:
    async with StorageSCP() as scp:
        await echo(scp, SECRETS[0])


async def test_an_identity_that_is_not_confirmed_although_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StorageSCP() as scp:
        answer_to = scp._answer_to

        def without_response(request: Any, identity_response: bytes) -> Any:
            answer = answer_to(request, identity_response)
            information = dataclasses.replace(answer.user_information, user_identity_response=None)
            return dataclasses.replace(answer, user_information=information)

        monkeypatch.setattr(scp, "_answer_to", without_response)
        with pytest.raises(IdentityNotConfirmed, match="did not confirm the user identity"):
            await echo(scp, SECRETS[0])
        await echo(scp, UserIdentity(2, b"scanner", b"hidden"))


def raising(caller: Caller) -> bool:
    raise RuntimeError("the directory does not answer")


async def raising_later(caller: Caller) -> bool:
    return raising(caller)


@pytest.mark.parametrize("authenticate", [raising, raising_later])
async def test_a_failure_to_decide_is_logged_and_rejects(
    authenticate: Authenticate, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(authenticate=authenticate) as scp:
        with pytest.raises(AssociationRejected):
            await echo(scp, UserIdentity(2, b"scanner", b"hidden"))
    assert "the directory does not answer" in caplog.text
    assert "hidden" not in caplog.text


async def test_an_acceptor_sees_the_certificate_of_its_caller(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    subjects: list[Any] = []

    def decide(caller: Caller) -> bool:
        subjects.append(caller.certificate and caller.certificate["subject"])
        return True

    settings = authority.issue().tls(ca=authority.ca, client_certificate="optional")
    async with StorageSCP(tls=settings, authenticate=decide) as scp:
        await echo(scp, SECRETS[0], tls=authority.issue("client").tls(ca=authority.ca))
        await echo(scp, SECRETS[0], tls=asyncstore.TLS(ca=authority.ca))
    assert subjects == [((("commonName", "client"),),), None]
