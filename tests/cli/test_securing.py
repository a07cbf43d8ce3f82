"""The options for TLS and user identity: what they ask for, what is refused, and that no secret shows anywhere."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.cli.app import run_command_line
from asyncstore.cli.sending import StorescuRun
from asyncstore.net.tls_settings import CIPHERS, TLS
from tests.support import peers
from tests.support.certificates import PASSPHRASE, Authority
from tests.support.command import FINISH_SECONDS, environment, run, words
from tests.support.kept import TEST_FILES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.upper_layer.user_information import UserIdentity

CT = TEST_FILES / "CT_small.dcm"
SECRETS = ("hunter2-passcode", "hunter2-token", "hunter2-assertion", "hunter2-ticket", PASSPHRASE.decode())


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ASYNCSTORE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StorescuRun]:
    """What a storescu command line asks for, in the place of doing it."""
    runs: list[StorescuRun] = []

    def remember(self: StorescuRun, log: object) -> int:
        runs.append(self)
        return 0

    monkeypatch.setattr(StorescuRun, "run", remember)

    def parse(*arguments: str) -> StorescuRun:
        assert run_command_line(["storescu", "localhost", "104", "x.dcm", *arguments]) == 0
        return runs.pop()

    return parse


def tls_of(run: StorescuRun) -> TLS:
    assert isinstance(run.peer.tls, TLS)
    return run.peer.tls


def test_every_option_of_tls_reaches_the_settings(asked: Callable[..., StorescuRun], authority: Authority) -> None:
    client, crl = authority.issue("client"), authority.revocations()
    given = ["--tls", "--tls-ca", str(authority.ca), *client.words, "--tls-crl", str(crl), "--tls-server-name", "pacs"]
    settings = tls_of(asked(*given, "--tls-profile", "modified", "--tls-fingerprint", "sha256:" + "0" * 64))
    assert (settings.ca, settings.crl, settings.server_name) == (str(authority.ca), str(crl), "pacs")
    assert (settings.certificate, settings.key) == (str(client.certificate), str(client.key))
    assert (settings.fingerprint, settings.verify) == ("sha256:" + "0" * 64, True)
    assert settings.cipher_list == CIPHERS["modified"]
    settings = tls_of(asked("--tls", "--insecure", "--tls-ciphers", "DEFAULT:AES128-SHA"))
    assert (settings.verify, settings.cipher_list) == (False, "DEFAULT:AES128-SHA")


def test_each_option_of_tls_reads_the_environment(
    asked: Callable[..., StorescuRun], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCSTORE_TLS_CA", str(authority.ca))
    assert asked().peer.tls is None
    monkeypatch.setenv("ASYNCSTORE_TLS", "1")
    assert tls_of(asked()).ca == str(authority.ca)


def test_without_tls_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys, asyncstore\n"
        "assert 'ssl' not in sys.modules\n"
        "asyncstore.Peer('x', 1), asyncstore.TLS()\n"
        "from asyncstore.cli.app import load\n"
        "load('storescu')\n"
        "assert not {'asyncstore.net.tls', 'asyncstore.net.tls_context', 'getpass'} & set(sys.modules)\n"
    )
    program = words()[0]
    subprocess.run([program, "-c", code], check=True, env=environment(), timeout=FINISH_SECONDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-ca", "x.pem"], "--tls-ca: it needs --tls"),
        (["--insecure"], "--insecure: it needs --tls"),
        (["--tls", "--tls-ca", "none.pem"], "cannot read 'none.pem': No such file"),
        (["--tls", "--tls-key", "x.key"], "a key without a certificate"),
        (["--tls", "--tls-fingerprint", "sha1:00"], "is not a fingerprint"),
        (["--tls", "--tls-profile", "best"], "is not one of bcp195, non-downgrading, modified"),
        (["--tls", "--tls-ciphers", "NOTHING"], "none of the ciphers 'NOTHING'"),
        (["--tls", "--tls-cert", "x", "--tls-key-passphrase-file", "none"], "--tls-key-passphrase-file: cannot read"),
        (["--user", "me", "--passcode-file", "none"], "--passcode-file: cannot read 'none': No such file"),
        (["--user", "me", "--passcode-file", "secret"], "--user: a secret would be sent in clear text"),
        (["--jwt-file", "secret"], "--jwt-file: a secret would be sent in clear text"),
        (["--passcode-file", "secret"], "a passcode needs a user name"),
        (["--require-identity-response"], "there is no user identity"),
        (["--tls", "--user", "me", "--saml-file", "secret"], "--user and --saml-file: an association has one"),
        (["--tls", "--kerberos-file", "large"], "--kerberos-file: it is longer than 65535 bytes"),
        (["--tls", "--user", "me", "--passcode-file", "large"], "--passcode-file: it is longer than 65535 bytes"),
        (["--tls", "--user", "m" * 70_000], "--user: it is longer than 65535 bytes"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "secret").write_text(SECRETS[0])
    (tmp_path / "large").write_bytes(bytes(70_000))
    done = run("storescu", "localhost", 104, CT, *options, directory=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert SECRETS[0] not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--tls"], "it needs --tls-cert"), (["--tls-client-ca", "x.pem"], "--tls-client-ca: it needs --tls")],
)
def test_a_mistake_of_storescp(options: list[str], message: str) -> None:
    done = run("storescp", *options, 0)
    assert (done.returncode, message in done.stderr) == (2, True)


def test_a_secret_comes_from_a_file_or_the_environment(
    asked: Callable[..., StorescuRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(*options: str) -> UserIdentity:
        claimed = asked("--allow-plaintext-credentials", *options).options.user_identity
        assert claimed is not None
        return claimed

    file = tmp_path / "secret"
    file.write_bytes(b"from the file\r\n")
    assert identity("--user", "me").kind == 1
    assert identity("--user", "me", "--passcode-file", str(file)).secondary == b"from the file"
    monkeypatch.setenv("ASYNCSTORE_PASSCODE", "from the environment")
    claimed = identity("--user", "me", "--require-identity-response")
    assert (claimed.kind, claimed.secondary, claimed.response_requested) == (2, b"from the environment", True)
    monkeypatch.setenv("ASYNCSTORE_JWT", "a token")
    assert (identity().kind, identity().primary) == (5, b"a token")
    monkeypatch.delenv("ASYNCSTORE_JWT")
    monkeypatch.setenv("ASYNCSTORE_SAML", "an assertion")
    assert (identity().kind, identity().primary) == (4, b"an assertion")


def typed(answer: bytes, *arguments: str | Path | int) -> tuple[int, bytes]:
    """Run a command at a terminal, where one answer is typed; the exit code, and what the terminal shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
    )
    os.close(theirs)
    shown = bytearray()
    was_typed = False
    while True:
        try:
            shown += os.read(ours, 1024)
        except OSError:  # the other end was closed
            break
        if not was_typed and b": " in shown:
            os.write(ours, answer + b"\n")
            was_typed = True
    os.close(ours)
    return process.wait(FINISH_SECONDS), bytes(shown)


def test_without_a_terminal_a_passcode_is_not_asked_for() -> None:
    line = words("echoscu", "localhost", 104, "--allow-plaintext-credentials", "--user", "me", "--passcode-file", "-")
    done = subprocess.run(line, input=b"secret\n", capture_output=True, env=environment(), start_new_session=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--passcode-file: there is no terminal to ask at" in done.stderr
    assert b"Warning" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_passcode_is_asked_for_leaves_a_terminal_that_shows_what_is_typed(number: int) -> None:
    ours, theirs = pty.openpty()
    line = words("echoscu", "localhost", 104, "--allow-plaintext-credentials", "--user", "me", "--passcode-file", "-")
    process = subprocess.Popen(
        line, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
    )
    shown = bytearray()
    while b"Passcode: " not in shown:
        shown += os.read(ours, 1024)
    process.send_signal(number)
    assert process.wait(FINISH_SECONDS) == 128 + number
    assert termios.tcgetattr(theirs)[3] & termios.ECHO
    os.close(ours)
    os.close(theirs)


def test_a_passphrase_and_a_passcode_are_asked_for_at_the_terminal(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue(), authority.issue("client")
    options = ["--tls", *server.words, "--tls-client-ca", str(authority.ca)]
    ours: list[Any] = ["--tls", "--tls-ca", authority.ca, "--tls-cert", client.certificate]
    with peers.asyncstore_storescp(tmp_path / "scp", *options) as peer:
        where: list[Any] = ["echoscu", "localhost", peer.port]
        code, shown = typed(PASSPHRASE, *where, *ours, "--tls-key", client.encrypted_key)
        assert (code, b"Passphrase of" in shown, PASSPHRASE in shown) == (0, True, False)
        passcode = SECRETS[0].encode()
        code, shown = typed(passcode, *where, *ours, "--tls-key", client.key, "--user", "me", "--passcode-file", "-")
        assert (code, b"Passcode: " in shown, passcode in shown) == (0, True, False)


@pytest.mark.parametrize(
    ("identity", "variables"),
    [
        (["--user", "me"], {"ASYNCSTORE_PASSCODE": SECRETS[0]}),
        (["--jwt-file", "token"], {}),
        ([], {"ASYNCSTORE_SAML": SECRETS[2]}),
        (["--kerberos-file", "ticket"], {}),
    ],
)
@pytest.mark.parametrize("is_refused", [False, True])
def test_no_secret_shows_anywhere(
    authority: Authority, tmp_path: Path, identity: list[str], variables: dict[str, str], is_refused: bool
) -> None:
    (tmp_path / "token").write_text(SECRETS[1])
    (tmp_path / "ticket").write_text(SECRETS[3])
    where = tmp_path / "results"
    where.mkdir()
    server, client = authority.issue(), authority.issue("client")
    options: list[Any] = ["--tls", "--tls-ca", authority.ca, "--tls-cert", client.certificate]
    options += ["--tls-key", client.encrypted_key, "--json", "-d", "--retries", "0", "--log-file", where / "log"]
    options += ["--ledger", where / "ledger.db", "--report", where / "report.csv", *identity]
    more = ["--accept-calling", "ANOTHER"] if is_refused else []
    with peers.asyncstore_storescp(where, "-ll", "debug", "--tls", *server.words, *more) as peer:
        done = run(
            "storescu",
            "localhost",
            peer.port,
            CT,
            *options,
            directory=tmp_path,
            variables={"ASYNCSTORE_TLS_KEY_PASSPHRASE": PASSPHRASE.decode(), **variables},
        )
    assert done.returncode == (1 if is_refused else 0)
    assert "Requested User Identity Negotiation:" in done.stderr
    with sqlite3.connect(where / "ledger.db") as ledger:
        dump = "\n".join(ledger.iterdump())
    ledger.close()
    written = [path.read_bytes() for path in where.rglob("*") if path.is_file()]
    everything = b"\n".join([done.stdout.encode(), done.stderr.encode(), dump.encode(), *written])
    for secret in SECRETS:
        assert secret.encode() not in everything
