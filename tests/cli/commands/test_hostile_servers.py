"""The real storescu against servers that do everything wrong, over TCP and TLS: it ends in time, small, and says so."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.support import forked, hostile_peers
from tests.support.associations import image_file
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK
from tests.support.wire import ScriptedSCP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.wire import Script

SECONDS: Final = 120.0
MEMORY_BYTES: Final = 128 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


class Caller(NamedTuple):
    """How storescu calls over one transport."""

    commands: forked.Commands
    words: list[str | Path]
    tls: ssl.SSLContext | None
    image: Path
    small_image: Path


@pytest.fixture(scope="module")
def commands() -> Iterator[forked.Commands]:
    with forked.commands() as commands:
        yield commands


@pytest.fixture(scope="module", params=["TCP", "TLS"])
def caller(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, commands: forked.Commands
) -> Caller:
    directory = tmp_path_factory.mktemp("caller")
    images = (
        image_file(directory / "image.dcm", value_bytes=4_000_000),
        image_file(directory / "small.dcm", value_bytes=4_000),
    )
    limits = ["--retries", "0", "--outage-wait", "1", "-ta", "1", "-td", "1", "-tn", "1", "--connect-timeout", "5"]
    words: list[str | Path] = ["storescu", "-d", "-w", "4", *limits]
    if request.param == "TCP":
        return Caller(commands, words, None, *images)
    authority = Authority(directory / "certificates")
    server = authority.issue()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(server.certificate, server.key)
    return Caller(commands, [*words, "--tls", "--tls-ca", authority.ca], tls, *images)


def waiting(caller: Caller, *options: str) -> Caller:
    """One that waits long for what this server does not withhold."""
    return caller._replace(words=[*caller.words, *(word for option in options for word in (option, "10"))])


class Ran(NamedTuple):
    code: int
    output: str
    memory_bytes: int


def run(caller: Caller, script: Script, image: Path, directory: Path) -> Ran:
    """Run storescu against this server; its exit code, what it printed, and the most memory that it had."""
    log = directory / "log"
    with ScriptedSCP(hostile_peers.hostile(script), receive_buffer_bytes=4096, tls=caller.tls) as scp:
        scp.errors = _Forgets()
        code, memory_bytes = caller.commands.run([*caller.words, LOOPBACK, scp.port, image], log, SECONDS)
    return Ran(code, log.read_bytes().decode(), memory_bytes)


class _Forgets(list[BaseException]):
    """What goes wrong in a hostile server is of no interest."""

    def append(self, error: BaseException) -> None:
        del error


def is_clean(output: str) -> None:
    """No traceback, no sequence of a terminal, and no line that a peer made."""
    assert "Traceback" not in output
    assert all(character.isprintable() or character == "\n" for character in output)
    assert "\nE: forged" not in output


def is_bounded(ran: Ran) -> None:
    is_clean(ran.output)
    assert 0 < ran.memory_bytes < MEMORY_BYTES


@pytest.mark.parametrize("name", hostile_peers.EARLY_SERVERS)
def test_a_server_that_is_none_is_told_and_no_association_is_established(
    name: str, caller: Caller, tmp_path: Path
) -> None:
    ran = run(caller, hostile_peers.EARLY_SERVERS[name], caller.image, tmp_path)
    is_bounded(ran)
    # An answer that is right may be taken before what follows it comes.
    assert ran.code in ((1, 3) if name == "the same answer twice" else (1,)), ran.output
    assert "\nE: " in ran.output


@pytest.mark.parametrize("name", hostile_peers.SERVERS)
def test_a_server_that_breaks_the_protocol_ends_the_run_in_time(name: str, caller: Caller, tmp_path: Path) -> None:
    ran = run(waiting(caller, "-ta"), hostile_peers.SERVERS[name], caller.image, tmp_path)
    is_bounded(ran)
    # The first of two answers may be taken before the second comes; so may an acceptance before an early answer.
    codes = {"answer twice": (0, 3), "answer too early": (1, 3)}.get(name, (3,))
    assert ran.code in codes, ran.output
    assert ran.code == 0 or "\nE: " in ran.output


@pytest.mark.parametrize("name", hostile_peers.HARMLESS_SERVERS)
def test_a_strange_server_gets_everything(name: str, caller: Caller, tmp_path: Path) -> None:
    ran = run(waiting(caller, "-ta", "-td", "-tn"), hostile_peers.HARMLESS_SERVERS[name], caller.small_image, tmp_path)
    is_bounded(ran)
    assert ran.code == 0, ran.output
