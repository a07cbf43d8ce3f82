"""TLS with other people's programs, at both ends; and each refusal of theirs as one line of ours, at once."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import peers
from tests.support.certificates import PASSPHRASE, Authority, Certificate
from tests.support.command import FINISH_SECONDS, run
from tests.support.kept import TEST_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.peers import RunningPeer

CT = TEST_FILES / "CT_small.dcm"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.issue()


@pytest.fixture(scope="module")
def client(authority: Authority) -> Certificate:
    return authority.issue("client")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"), "stranger", key_number=1)


@contextmanager
def dcmtk(
    directory: Path, authority: Authority, server: Certificate, *options: str, demands: bool = True
) -> Iterator[RunningPeer]:
    """DCMTK's storescp by TLS, which demands a certificate from its callers."""
    keys = ["+tls", str(server.key), str(server.certificate), "+cf", str(authority.ca), "-rc" if demands else "-ic"]
    with peers.dcmtk_storescp(directory, *keys, *options) as peer:
        yield peer


@pytest.fixture(scope="module")
def demanding(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, server: Certificate
) -> Iterator[RunningPeer]:
    with dcmtk(tmp_path_factory.mktemp("demanding"), authority, server) as peer:
        yield peer


def call(peer: RunningPeer, *options: str, host: str = "localhost", **variables: str) -> tuple[int, list[str]]:
    """Send one file; the exit code, and the lines on stderr."""
    done = run("storescu", host, peer.port, CT, *options, variables=variables)
    return done.returncode, done.stderr.splitlines()


def secured(authority: Authority, *more: str) -> list[str]:
    return ["--tls", "--tls-ca", str(authority.ca), *more]


# -- whom we call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [[], ["+px"], ["+py"], ["+pz"]])
@pytest.mark.parametrize("ours", ["bcp195", "non-downgrading", "modified"])
def test_dcmtk_storescp_with_certificates_of_both(
    tmp_path: Path, authority: Authority, server: Certificate, client: Certificate, profile: list[str], ours: str
) -> None:
    with dcmtk(tmp_path, authority, server, *profile) as peer:
        options = secured(authority, *client.words, "--tls-profile", ours)
        assert call(peer, *options) == (0, [])
        assert run("echoscu", "127.0.0.1", peer.port, *options).returncode == 0
        assert len(peer.received_files()) == 1


def test_orthanc_with_certificates_of_both(
    tmp_path: Path, authority: Authority, server: Certificate, client: Certificate
) -> None:
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(server.certificate),
        "DicomTlsPrivateKey": str(server.key),
        "DicomTlsTrustedCertificates": str(authority.ca),
        "DicomTlsRemoteCertificateRequired": True,
    }
    with peers.orthanc(tmp_path, **settings) as peer:
        assert call(peer, *secured(authority, *client.words)) == (0, [])
        assert len(peer.instance_ids()) == 1
        code, lines = call(peer, *secured(authority))
        assert (code, len(lines)) == (1, 1)
        assert "none was sent" in lines[0]


def test_pynetdicom_with_certificates_of_both(authority: Authority, server: Certificate, client: Certificate) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.certificate, server.key)
    with peers.pynetdicom_server(ssl_context=context) as peer:
        done = run("storescu", "localhost", peer.port, CT, *secured(authority, *client.words))
        assert (done.returncode, done.stderr, len(peer.received)) == (0, "", 1)


def test_dcmjs_dimse_with_certificates_of_both(
    tmp_path: Path, authority: Authority, server: Certificate, client: Certificate
) -> None:
    files = {"key": str(server.key), "cert": str(server.certificate), "ca": str(authority.ca)}
    with peers.dcmjs_scp(tmp_path, hold=1, tls=files) as peer:
        assert call(peer, *secured(authority, *client.words)) == (0, [])
        assert len(peer.received_files()) == 1
        code, lines = call(peer, *secured(authority))
        assert code == 1
        assert "none was sent" in lines[0]


def test_an_encrypted_key_with_its_passphrase_from_a_file_or_the_environment(
    demanding: RunningPeer, authority: Authority, client: Certificate, tmp_path: Path
) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(PASSPHRASE + b"\n")
    options = secured(authority, "--tls-cert", str(client.certificate), "--tls-key", str(client.encrypted_key))
    assert call(demanding, *options, "--tls-key-passphrase-file", str(file))[0] == 0
    assert call(demanding, *options, ASYNCSTORE_TLS_KEY_PASSPHRASE=PASSPHRASE.decode())[0] == 0
    code, lines = call(demanding, *options)
    assert code == 2
    assert "needs a passphrase; --tls-key-passphrase-file FILE gives it" in lines[-1]
    code, lines = call(demanding, *options, ASYNCSTORE_TLS_KEY_PASSPHRASE="wrong")
    assert (code, "is wrong" in lines[-1]) == (2, True)


# -- who calls us ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, authority: Authority, server: Certificate) -> Iterator[RunningPeer]:
    """Our own storescp, which demands a certificate from its callers."""
    options = ["--tls", *server.words, "--tls-client-ca", str(authority.ca)]
    with peers.asyncstore_storescp(tmp_path_factory.mktemp("ours"), *options) as peer:
        yield peer


def test_dcmtk_storescu_calls_us_by_tls_and_not_without_a_certificate(
    ours: RunningPeer, authority: Authority, client: Certificate
) -> None:
    program = peers.require("storescu", "dcmtk")
    where = ["localhost", str(ours.port), str(CT)]
    keys = ["+tls", str(client.key), str(client.certificate), "+cf", str(authority.ca)]
    ours.clear()
    done = subprocess.run([program, *keys, *where], capture_output=True, timeout=FINISH_SECONDS, check=False)
    assert (done.returncode, len(ours.received_files())) == (0, 1)
    without = [program, "+tla", "+cf", str(authority.ca), *where]
    assert subprocess.run(without, capture_output=True, timeout=FINISH_SECONDS, check=False).returncode != 0
    assert "the peer sent no certificate, and one is required" in ours.output()


def test_dcmtk_storescu_calls_us_without_tls(ours: RunningPeer) -> None:
    program = peers.require("storescu", "dcmtk")
    plain = [program, "localhost", str(ours.port), str(CT)]
    assert subprocess.run(plain, capture_output=True, timeout=FINISH_SECONDS, check=False).returncode != 0
    assert "does not speak TLS on this port: it sends a PDU of DICOM, A-ASSOCIATE-RQ" in ours.output()


def test_pynetdicom_calls_us_by_tls(ours: RunningPeer, authority: Authority, client: Certificate) -> None:
    from pynetdicom import AE

    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(client.certificate, client.key)
    entity = AE()
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("localhost", ours.port, tls_args=(context, "localhost"))
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()


def test_orthanc_calls_us_by_tls(ours: RunningPeer, authority: Authority, client: Certificate, tmp_path: Path) -> None:
    modality = {"AET": "STORESCP", "Host": "127.0.0.1", "Port": ours.port, "UseDicomTls": True}
    settings = {
        "DicomModalities": {"ours": modality},
        "DicomTlsCertificate": str(client.certificate),
        "DicomTlsPrivateKey": str(client.key),
        "DicomTlsTrustedCertificates": str(authority.ca),
    }
    ours.clear()
    with peers.orthanc(tmp_path, **settings) as peer:
        peer.get("/instances", CT.read_bytes())
        peer.get("/modalities/ours/store", "\n".join(peer.instance_ids()).encode())
    assert len(ours.received_files()) == 1


def test_our_storescu_calls_our_storescp(ours: RunningPeer, authority: Authority, client: Certificate) -> None:
    assert call(ours, *secured(authority, *client.words))[0] == 0


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def assert_one_line(result: tuple[int, list[str]], *words: str) -> None:
    code, lines = result
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith("E: TLS was not established: ")
    for each in words:
        assert each in lines[0]


def test_no_certificate_of_ours(demanding: RunningPeer, authority: Authority, tmp_path: Path) -> None:
    options = [*secured(authority), "--ledger", str(tmp_path / "run.db")]
    assert_one_line(call(demanding, *options), "wants a certificate from us, and none was sent", "--tls-cert")


def test_a_certificate_of_ours_from_a_stranger(
    demanding: RunningPeer, authority: Authority, stranger: Authority
) -> None:
    certificate = stranger.issue("client")
    result = call(demanding, *secured(authority, *certificate.words))
    assert_one_line(result, f"refused our certificate '{certificate.certificate}' (unknown ca)")


def test_another_authority(demanding: RunningPeer, stranger: Authority, server: Certificate) -> None:
    assert_one_line(call(demanding, *secured(stranger)), "not of an authority", server.fingerprint, "--tls-ca")


def test_another_name(demanding: RunningPeer, authority: Authority, client: Certificate) -> None:
    options = secured(authority, *client.words, "--tls-server-name", "pacs.example")
    words = "is for localhost, 127.0.0.1, and pacs.example is expected; --tls-server-name"
    assert_one_line(call(demanding, *options), words)


@pytest.mark.parametrize(("days", "words"), [((-30, -1), "has expired"), ((1, 30), "is not valid yet")])
def test_dates(tmp_path: Path, authority: Authority, days: tuple[int, int], words: str) -> None:
    with dcmtk(tmp_path, authority, authority.issue("dated", days=days), demands=False) as peer:
        assert_one_line(call(peer, *secured(authority)), f"the peer's certificate {words}")


def test_a_certificate_that_was_revoked(demanding: RunningPeer, authority: Authority, server: Certificate) -> None:
    options = secured(authority, "--tls-crl", str(authority.revocations(server)))
    assert_one_line(call(demanding, *options), "the peer's certificate has been revoked")


def test_no_common_cipher(tmp_path: Path, authority: Authority, server: Certificate) -> None:
    with dcmtk(tmp_path, authority, server, "+pa", demands=False) as peer:
        assert_one_line(call(peer, *secured(authority)), "no cipher in common with us", "--tls-ciphers")
        assert call(peer, *secured(authority, "--tls-ciphers", "DEFAULT:AES128-SHA"))[0] == 0


def test_a_port_without_tls(tmp_path: Path, authority: Authority) -> None:
    with peers.dcmtk_storescp(tmp_path) as peer:
        assert_one_line(call(peer, *secured(authority)), "it may not speak TLS on this port")


def test_a_port_of_pynetdicom_without_tls(authority: Authority) -> None:
    with peers.pynetdicom_server() as peer:
        done = run("storescu", "localhost", peer.port, CT, *secured(authority))
        assert_one_line((done.returncode, done.stderr.splitlines()), "TLS on this port")


def test_a_silent_port(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run("storescu", "127.0.0.1", port, CT, *secured(authority), "--connect-timeout", "0.5")
    words = "did not finish the TLS handshake within 0.5 s"
    assert_one_line((done.returncode, done.stderr.splitlines()), words, "--connect-timeout")


def test_a_port_with_tls_that_is_called_without(demanding: RunningPeer) -> None:
    code, lines = call(demanding)
    assert code == 1
    assert any("the port expects TLS (--tls)" in line or "a TLS server that refuses" in line for line in lines)


def test_a_peer_that_closes_after_the_handshake(authority: Authority, server: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with context.wrap_socket(sock, server_side=True) as peer:
                peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        done = run("storescu", "localhost", listener.getsockname()[1], CT, *secured(authority))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(FINISH_SECONDS)
    assert done.returncode == 1
    assert "it may be that it wants a certificate from us, and none was sent" in done.stderr
    assert "expects TLS" not in done.stderr


def test_insecure_takes_anyone_and_says_so(demanding: RunningPeer, client: Certificate, authority: Authority) -> None:
    code, lines = call(demanding, "--tls", "--insecure", *client.words)
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith("W: --insecure: the peer's certificate is not verified")


def test_a_fingerprint_is_enough_for_a_self_signed_peer(tmp_path: Path, authority: Authority) -> None:
    alone = authority.issue("alone", names=("elsewhere.example",), self_signed=True)
    with dcmtk(tmp_path, authority, alone, demands=False) as peer:
        assert_one_line(call(peer, "--tls"), "signed by itself alone", alone.fingerprint)
        assert call(peer, "--tls", "--tls-fingerprint", alone.fingerprint) == (0, [])
