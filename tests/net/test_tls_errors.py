"""No TLS: each reason is told as what it is, within the connect timeout, with what is needed to mend it."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import asyncstore
from asyncstore import TLS, Peer, StorageSCP, Timeouts, TLSFailed
from asyncstore.errors import ConnectionLost
from asyncstore.net.tls_errors import names_in
from tests.net.test_tls import VERIFICATION, caller, read_all, serving
from tests.support.associations import LIMIT_SECONDS
from tests.support.certificates import PASSPHRASE, Authority, Certificate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.issue()


async def call(peer: Peer, **timeouts: float) -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        async with asyncstore.associate(peer, contexts=[VERIFICATION], timeouts=Timeouts(**timeouts)) as association:
            assert (await association.echo()).value == 0


async def failure_of(peer: Peer, **timeouts: float) -> TLSFailed:
    with pytest.raises(TLSFailed) as raised:
        await call(peer, **timeouts)
    assert not raised.value.retryable
    return raised.value


async def failure_with(certificate: Certificate, settings: TLS, **scp_settings: Any) -> TLSFailed:
    """Why there is no TLS with a StorageSCP that has this certificate."""
    async with StorageSCP(tls=certificate.tls(**scp_settings)) as scp:
        return await failure_of(Peer("localhost", scp.port, tls=settings))


async def test_another_authority(server: Certificate, tmp_path: Path) -> None:
    error = await failure_with(server, TLS(ca=Authority(tmp_path, "stranger", key_number=1).ca))
    assert error.cause == "authority"
    assert str(error) == (
        "the peer's certificate is not of an authority that we trust; its fingerprint is " + server.fingerprint
    )


async def test_the_authorities_of_the_system_do_not_know_it(server: Certificate) -> None:
    assert (await failure_with(server, TLS())).cause == "authority"


async def test_a_self_signed_certificate_and_its_fingerprint(authority: Authority) -> None:
    alone = authority.issue("alone", self_signed=True)
    error = await failure_with(alone, TLS(ca=authority.ca))
    assert error.cause == "authority"
    assert "signed by itself alone" in str(error)
    assert str(error).endswith(alone.fingerprint)
    async with StorageSCP(tls=alone.tls()) as scp:
        await call(Peer("127.0.0.1", scp.port, tls=TLS(fingerprint=alone.fingerprint)))
        await call(Peer("127.0.0.1", scp.port, tls=TLS(ca=alone.certificate)))


async def test_another_fingerprint(server: Certificate) -> None:
    other = "sha256:" + "ab" * 32
    error = await failure_with(server, TLS(fingerprint=other))
    assert error.cause == "fingerprint"
    assert str(error) == f"the peer's certificate has the fingerprint {server.fingerprint}, and {other} is expected"


async def test_another_name(authority: Authority) -> None:
    pacs = authority.issue("pacs", names=("pacs.example", "10.0.0.1"))
    error = await failure_with(pacs, TLS(ca=authority.ca))
    assert error.cause == "name"
    assert str(error) == "the peer's certificate is for pacs.example, 10.0.0.1, and localhost is expected"
    async with StorageSCP(tls=pacs.tls()) as scp:
        await call(Peer("localhost", scp.port, tls=TLS(ca=authority.ca, server_name="pacs.example")))


@pytest.mark.parametrize(("days", "cause"), [((-30, -1), "expired"), ((1, 30), "not-yet-valid")])
async def test_dates(authority: Authority, days: tuple[int, int], cause: str) -> None:
    error = await failure_with(authority.issue("dated", days=days), TLS(ca=authority.ca))
    assert error.cause == cause
    assert str(error) == f"the peer's certificate {'has expired' if cause == 'expired' else 'is not valid yet'}"


async def test_a_certificate_that_was_revoked(authority: Authority, server: Certificate) -> None:
    error = await failure_with(server, TLS(ca=authority.ca, crl=authority.revocations(server)))
    assert (error.cause, str(error)) == ("revoked", "the peer's certificate has been revoked")
    async with StorageSCP(tls=server.tls()) as scp:
        await call(Peer("localhost", scp.port, tls=TLS(ca=authority.ca, crl=authority.revocations())))


async def test_a_list_of_revocations_that_is_old_or_of_another_authority(
    authority: Authority, server: Certificate, tmp_path: Path
) -> None:
    old = authority.revocations(days=(-30, -1))
    assert (await failure_with(server, TLS(ca=authority.ca, crl=old))).cause == "no-crl"
    other = Authority(tmp_path, "stranger", key_number=1).revocations()
    assert (await failure_with(server, TLS(ca=authority.ca, crl=other))).cause == "no-crl"


async def test_no_common_cipher(authority: Authority, server: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    context.load_cert_chain(server.certificate, server.key)
    async with StorageSCP(tls=context) as scp:
        error = await failure_of(caller(authority, scp.port))
        assert error.cause == "no-common"
        assert "no cipher in common" in str(error)
        await call(Peer("localhost", scp.port, tls=TLS(ca=authority.ca, ciphers="AES128-SHA")))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
async def test_no_common_version(authority: Authority, server: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(server.certificate, server.key)
    async with StorageSCP(tls=context) as scp:
        error = await failure_of(caller(authority, scp.port))
        assert error.cause == "no-common"
        assert "no common version" in str(error)


async def test_a_certificate_that_is_demanded_and_was_not_sent(authority: Authority, server: Certificate) -> None:
    error = await failure_with(server, TLS(ca=authority.ca), ca=authority.ca)
    assert error.cause == "our-certificate"
    assert str(error) == "the peer wants a certificate from us, and none was sent (certificate required)"


async def test_a_certificate_of_ours_that_is_refused(authority: Authority, server: Certificate, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger", key_number=1).issue("client")
    error = await failure_with(server, stranger.tls(ca=authority.ca), ca=authority.ca)
    assert error.cause == "our-certificate"
    assert str(error) == f"the peer refused our certificate '{stranger.certificate}' (unknown ca)"


async def test_a_client_certificate_may_be_optional(authority: Authority, server: Certificate) -> None:
    settings = server.tls(ca=authority.ca, client_certificate="optional")
    async with StorageSCP(tls=settings) as scp:
        await call(caller(authority, scp.port))
        await call(Peer("localhost", scp.port, tls=authority.issue("client").tls(ca=authority.ca)))


@pytest.mark.parametrize("has_certificate", [True, False])
async def test_a_peer_that_just_closes_after_the_handshake_may_have_refused_our_certificate(
    authority: Authority, server: Certificate, has_certificate: bool
) -> None:
    client = authority.issue("client")
    with serving(server, lambda secured: secured.recv(1)) as port:
        settings = client.tls(ca=authority.ca) if has_certificate else TLS(ca=authority.ca)
        with pytest.raises(ConnectionLost) as raised:
            await call(Peer("localhost", port, tls=settings))
    why = f"refused our certificate '{client.certificate}'" if has_certificate else "wants a certificate from us"
    assert f"before it answered: it may be that it {why}" in str(raised.value)


async def test_a_peer_that_answers_and_closes_later_has_not_refused_our_certificate(
    authority: Authority, server: Certificate
) -> None:
    def play(secured: ssl.SSLSocket) -> None:
        secured.recv(1)
        secured.sendall(bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 0)))
        read_all(secured)

    with serving(server, play) as port, pytest.raises(asyncstore.Aborted):
        await call(caller(authority, port))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 1)), "it sends a PDU of DICOM, A-ABORT"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it looks like an HTTP server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it looks like an SSH server"),
        (b"\xff" * 20, "it looks like another protocol"),
        (b"", "the peer closed the connection during the TLS handshake"),
    ],
)
async def test_a_port_without_tls(authority: Authority, answer: bytes, words: str) -> None:
    async def play(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        if answer:
            await stream.send(answer)
        await stream.aclose()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, play)
        error = await failure_of(caller(authority, listener.extra(anyio.abc.SocketAttribute.local_port)))
        group.cancel_scope.cancel()
    assert error.cause == "not-tls"
    assert words in str(error)


async def test_a_silent_port_is_given_up_within_the_connect_timeout(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = await failure_of(caller(authority, listener.getsockname()[1]), connect_seconds=0.3)
    assert error.cause == "no-answer"
    assert "the peer did not finish the TLS handshake within 0.3 s" in str(error)


async def test_a_caller_without_tls_is_told_apart_and_others_are_served(
    authority: Authority, server: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(tls=server.tls(), acse_seconds=LIMIT_SECONDS) as scp:
        with pytest.raises((asyncstore.AssociationLost, asyncstore.RemoteProtocolError)):
            await call(Peer("localhost", scp.port))
        await call(caller(authority, scp.port))
        assert scp.associations == 1
    assert "does not speak TLS on this port: it sends a PDU of DICOM, A-ASSOCIATE-RQ" in caplog.text


@pytest.mark.parametrize(
    ("settings", "cause", "words"),
    [
        (lambda server, tmp: TLS(ca=tmp / "none.pem"), "files", "none.pem': No such file"),
        (lambda server, tmp: TLS(ca="a\0b"), "files", "cannot read 'a\\x00b': embedded null"),
        (lambda server, tmp: TLS(ca=server.key), "files", "there is no certificate in it"),
        (lambda server, tmp: TLS(certificate=server.certificate), "files", "there is no key in it"),
        (lambda server, tmp: TLS(certificate=server.certificate, key=server.encrypted_key), "passphrase", "needs a"),
        (
            lambda server, tmp: TLS(certificate=server.certificate, key=server.encrypted_key, passphrase=b"wrong"),
            "passphrase",
            "encrypted.key' is wrong",
        ),
        (lambda server, tmp: TLS(ciphers="NO-SUCH-CIPHER"), "files", "none of the ciphers 'NO-SUCH-CIPHER'"),
    ],
)
async def test_files_that_cannot_be_used(
    server: Certificate, tmp_path: Path, settings: Callable[[Certificate, Path], TLS], cause: str, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = await failure_of(Peer("localhost", listener.getsockname()[1], tls=settings(server, tmp_path)))
    assert error.cause == cause
    assert words in str(error)
    assert PASSPHRASE.decode() not in str(error)


async def test_a_key_of_another_certificate(authority: Authority, server: Certificate) -> None:
    with pytest.raises(TLSFailed, match="the key does not belong to the certificate"):
        async with StorageSCP(tls=TLS(certificate=server.certificate, key=authority.issue("client").key)):
            pass


async def test_an_acceptor_without_a_certificate() -> None:
    with pytest.raises(TLSFailed, match="an acceptor needs a certificate"):
        async with StorageSCP(tls=TLS()):
            pass


def test_the_names_in_a_certificate_are_few_and_safe_to_print() -> None:
    names = tuple(("DNS", f"{number}.example") for number in range(7))
    assert names_in({"subjectAltName": names}).endswith("4.example, and 2 more")
    assert names_in({"subjectAltName": (("DNS", "a\x1b[2J\n"),)}) == "a\\x1b[2J\\n"
    assert names_in({"subject": ((("commonName", "old"),),)}) == "old"
    assert names_in({}) == "no name at all"
