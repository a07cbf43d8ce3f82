"""The real storescp among peers that do everything wrong, over TCP and TLS: it serves the next one, and stays small."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.items import PresentationContext
from tests.support import command, hostile_peers
from tests.support.associations import image
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK
from tests.support.wire import play_scu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.wire import Wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc")

WAIT_SECONDS: Final = 120.0
GROWTH_BYTES: Final = 64 << 20  # what any number of these peers may cost
EXPLICIT: Final = PresentationContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))


@dataclass
class Receiver:
    """A running storescp, and how it is called."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    received: Path
    tls: ssl.SSLContext | None
    stored: int = 0

    @property
    def lines(self) -> str:
        return self.log.read_bytes().decode()

    def number(self, name: str) -> int:
        """What the system says of the process, in bytes."""
        found = re.search(rf"^{name}:\s+(\d+) kB$", self._of_process("status"), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def _of_process(self, name: str) -> str:
        with open(f"/proc/{self.process.pid}/{name}") as file:
            return file.read()

    def stores_for_others(self) -> None:
        """A good peer stores an instance."""
        self.stored += 1
        uid = f"1.2.840.{self.stored}"

        def stores(wire: Wire) -> int:
            wire.associate([EXPLICIT])
            status = wire.store(image(uid), sop_instance_uid=uid).value
            wire.release()
            return status

        assert play_scu(stores, self.port, timeout_seconds=WAIT_SECONDS, tls=self.tls) == 0
        assert (self.received / f"{uid}.dcm").exists()


@pytest.fixture(scope="module", params=["TCP", "TLS"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    directory = tmp_path_factory.mktemp("hostile")
    received, log = directory / "deep" / "in", directory / "log"
    options, tls = [], None
    if request.param == "TLS":
        authority = Authority(directory / "certificates")
        server = authority.issue()
        options = ["--tls", "--tls-cert", str(server.certificate), "--tls-key", str(server.key)]
        tls = ssl.create_default_context(cafile=authority.ca)
    limits = ["-ta", "1", "--idle-timeout", "2", "--max-disk", "20M"]
    words = command.words("storescp", 0, "-d", "-ba", LOOPBACK, "-od", received, *limits, *options)
    with log.open("wb") as file:
        process = subprocess.Popen(words, stderr=file, stdin=subprocess.DEVNULL, env=command.environment())
    try:
        found = None
        while found is None:
            assert process.poll() is None
            found = re.search(r" port (\d+) as ", log.read_text())
        receiver = Receiver(process, int(found[1]), log, received, tls)
        receiver.stores_for_others()
        at_first = receiver.number("VmRSS")
        yield receiver
        assert receiver.number("VmHWM") < at_first + GROWTH_BYTES
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
        _is_clean(receiver)
    finally:
        process.kill()
        process.wait()


def _is_clean(receiver: Receiver) -> None:
    """No traceback, no sequence of a terminal, no line that a peer made; nothing outside of the directory."""
    lines = receiver.lines
    assert "Traceback" not in lines
    assert all(character.isprintable() or character == "\n" for character in lines)
    assert "\nE: forged" not in lines
    assert "\u202e" not in lines
    assert [path.name for path in receiver.received.parent.iterdir()] == ["in"]
    names = sorted(path.name for path in receiver.received.iterdir())
    assert all(re.fullmatch(r"[0-9.]+\.dcm", name) for name in names), names


@pytest.mark.parametrize("name", hostile_peers.CLIENTS)
def test_a_hostile_client_is_ended_and_others_are_served(name: str, receiver: Receiver) -> None:
    play_scu(
        hostile_peers.hostile(hostile_peers.CLIENTS[name]),
        receiver.port,
        timeout_seconds=WAIT_SECONDS,
        tls=receiver.tls,
    )
    receiver.stores_for_others()
    assert "Traceback" not in receiver.lines


@pytest.mark.parametrize("name", [*hostile_peers.STRANGERS, "nothing", "half a hello", "connect and reset"])
def test_what_is_not_tls_where_tls_must_be(name: str, receiver: Receiver) -> None:
    scripts = {
        "nothing": hostile_peers.CLIENTS["nothing"],
        "half a hello": lambda wire: wire.send(hostile_peers.STRANGERS["TLS"][:50]),
        "connect and reset": hostile_peers.CLIENTS["connect and reset"],
    }
    script = scripts.get(name, lambda wire: wire.send(hostile_peers.STRANGERS[name]))
    play_scu(hostile_peers.hostile(script), receiver.port, timeout_seconds=WAIT_SECONDS)
    receiver.stores_for_others()
