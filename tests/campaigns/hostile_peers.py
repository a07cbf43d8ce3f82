"""A storescp among hostile peers: hundreds of associations that do everything wrong, while a good peer sends.

    python -m tests.campaigns.hostile_peers --attacks 1000 --instances 2000 [--tls] [--workers 40]

The good peer sends as many instances before the attacks begin, and then while they last. It prints what it saw as JSON,
and what went wrong; the exit code is 1 if something did. The attacks come from addresses of their own, as from other
machines, and their process has the lowest priority, since other machines have processors of their own.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support import command, hostile_peers
from tests.support.associations import image_file
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK
from tests.support.wire import play_scu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KINDS: Final = (
    "garbage first",
    "4 GiB of PDU 4 first",
    "half a request and silence",
    "TLS first",
    "connect and close",
    "connect and reset",
    "nothing",
    "a request, a byte at a time",
    "128 contexts",
    "a command that never ends",
    "a data set that never ends",
    "fragments without bytes",
    "a data set of crumbs",
    "requests whose answers are not read",
    "amid: silence",
    "amid: a million PDVs",
    "UID: ..",
)
# Kinds that begin before TLS: what they send is not TLS.
_BEFORE_TLS: Final = frozenset({"garbage first", "TLS first", "half a request and silence", "nothing"})
_SILENT_SECONDS: Final = 3.0
_SOURCES: Final = tuple(f"127.0.0.{number}" for number in range(2, 10))
# All data sets that are collected together and what threads keep; and of one attack at a time, a read that is decoded.
_GROWTH_BYTES: Final = 24 << 20
_GROWTH_BYTES_EACH: Final = 2 << 20
_WAIT_SECONDS: Final = 600.0


@dataclasses.dataclass
class Seen:
    """What a run saw; `problems` are empty if all is well."""

    attacks: dict[str, int] = dataclasses.field(default_factory=dict)
    alone_seconds: float = 0.0
    attacked_seconds: float = 0.0
    attack_seconds: float = 0.0
    stored: int = 0
    memory_bytes: int = 0
    grown_bytes: int = 0
    descriptors: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times as long the good peer needs under attack."""
        return self.attacked_seconds / self.alone_seconds


class Receiver:
    """A running storescp."""

    def __init__(self, directory: Path, authority: Authority | None) -> None:
        self.directory = directory / "in"
        self.log = directory / "log"
        words: list[str | Path | int] = [
            "storescp",
            0,
            "-v",
            "-ba",
            LOOPBACK,
            "-ta",
            5,
            "-od",
            self.directory,
            "--max-disk",
            "2G",
        ]
        if authority is not None:
            server = authority.issue()
            words += ["--tls", "--tls-cert", server.certificate, "--tls-key", server.key]
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command.words(*words), stderr=file, stdin=subprocess.DEVNULL, env=command.environment()
            )
        found = None
        while found is None:
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            found = re.search(r" port (\d+) as ", self.log.read_text())
        self.port = int(found[1])

    def number(self, name: str) -> int:
        """VmRSS or VmHWM, in bytes."""
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def run(
    attacks: int,
    instances: int,
    directory: Path,
    *,
    workers: int = 40,
    by_tls: bool = False,
    kinds: Sequence[str] = KINDS,
) -> Seen:
    """Let the good peer send alone, then among this many attacks."""
    seen = Seen()
    authority = Authority(directory / "certificates") if by_tls else None
    receiver = Receiver(directory, authority)
    ca = None if authority is None else authority.ca
    try:
        sources = [
            _sources(directory / name, number, instances) for number, name in enumerate(("alone", "attacked"), 1)
        ]
        _send(_sources(directory / "first", 3, 20), receiver.port, ca)
        at_first, descriptors = receiver.number("VmRSS"), receiver.descriptors()
        seen.alone_seconds = _send(sources[0], receiver.port, ca)
        with _attacking(receiver.port, attacks, workers, ca, kinds) as attacker:
            seen.attacked_seconds = _send(sources[1], receiver.port, ca)
            began_at = time.monotonic()
            told, _ = attacker.communicate(timeout=_WAIT_SECONDS)
            seen.attack_seconds = time.monotonic() - began_at + seen.attacked_seconds
        seen.attacks = json.loads(told)
        seen.memory_bytes = receiver.number("VmHWM")
        seen.grown_bytes = seen.memory_bytes - at_first
        seen.descriptors = _settled(receiver, descriptors) - descriptors
    finally:
        receiver.process.terminate()
        code = receiver.process.wait(_WAIT_SECONDS)
    _audit(seen, receiver, attacks, 2 * instances + 20, code)
    if seen.grown_bytes > _GROWTH_BYTES + workers * _GROWTH_BYTES_EACH:
        seen.problems.append("memory grows")
    return seen


def _sources(directory: Path, number: int, count: int) -> Path:
    directory.mkdir()
    for index in range(count):
        image_file(directory / f"{index}.dcm", f"1.2.{number}.{index + 1}", 9000)
    return directory


def _send(source: Path, port: int, ca: Path | None) -> float:
    """Send what is in a directory; gives the seconds that this took."""
    tls: list[str | Path] = [] if ca is None else ["--tls", "--tls-ca", ca]
    began_at = time.monotonic()
    words = command.words("storescu", "-r", LOOPBACK, port, source, *tls)
    done = subprocess.run(
        words, capture_output=True, text=True, env=command.environment(), timeout=_WAIT_SECONDS, check=False
    )
    seconds = time.monotonic() - began_at
    if done.returncode:
        raise RuntimeError(f"the good peer ends with {done.returncode}: {done.stderr}")
    return seconds


@contextlib.contextmanager
def _attacking(
    port: int, attacks: int, workers: int, ca: Path | None, kinds: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "tests.campaigns.hostile_peers", "--attack", str(port), "--attacks", str(attacks)]
    words += ["--workers", str(workers), *(["--ca", str(ca)] if ca is not None else [])]
    words += [word for kind in kinds for word in ("--kind", kind)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=command.environment()) as attacker:
        try:
            assert attacker.stderr is not None
            attacker.stderr.readline()  # they have begun
            yield attacker
        finally:
            attacker.kill()


def _settled(receiver: Receiver, descriptors: int) -> int:
    """How many descriptors are open when the last silent ones had their time."""
    deadline = time.monotonic() + 120
    while (now := receiver.descriptors()) > descriptors and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def _audit(seen: Seen, receiver: Receiver, attacks: int, instances: int, code: int) -> None:
    lines = receiver.log.read_bytes().decode()
    names = [path.name for path in receiver.directory.iterdir()]
    seen.stored = sum(re.fullmatch(r"1\.2\.[123]\.\d+\.dcm", name) is not None for name in names)
    checks = {
        "not every attack was made": sum(seen.attacks.values()) == attacks,
        "not everything of the good peer is there": seen.stored == instances,
        "something else is there": len(names) == instances,
        "descriptors stay": seen.descriptors <= 0,
        "it does not end well": code == 0,
        "a traceback": "Traceback" not in lines,
        "text of a peer is printed as it is": all(each.isprintable() or each == "\n" for each in lines),
    }
    seen.problems += [problem for problem, is_well in checks.items() if not is_well]


# -- the attacks -------------------------------------------------------------------------------------------------------


def attack(port: int, attacks: int, workers: int, ca: Path | None, kinds: Sequence[str]) -> dict[str, int]:
    """Make this many attacks, `workers` at a time; how many of each kind."""
    with contextlib.suppress(OSError):
        os.nice(19)
    context = None if ca is None else ssl.create_default_context(cafile=ca)
    counts: collections.Counter[str] = collections.Counter()
    begun = threading.Event()

    def make(number: int) -> None:
        name = kinds[number % len(kinds)]
        tls = None if name in _BEFORE_TLS and (number // len(kinds)) % 2 else context
        source = _SOURCES[number % len(_SOURCES)]
        with contextlib.suppress(OSError):
            play_scu(
                hostile_peers.hostile(hostile_peers.CLIENTS[name]),
                port,
                timeout_seconds=_SILENT_SECONDS,
                tls=tls,
                source=source,
            )
        counts[name] += 1
        if number >= workers:
            begun.set()

    with ThreadPoolExecutor(workers) as pool:
        made = pool.map(make, range(attacks))
        begun.wait(_SILENT_SECONDS)
        print("begun", file=sys.stderr, flush=True)
        list(made)
    return dict(counts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.hostile_peers")
    parser.add_argument("--attacks", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=40, help="attacks at a time")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--attack", type=int, metavar="PORT", help="only make the attacks, against this port")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only attacks of this kind; repeatable")
    parser.add_argument("--ca", type=Path)
    options = parser.parse_args(arguments)
    kinds = options.kind or KINDS
    if options.attack is not None:
        told: dict[str, Any] = attack(options.attack, options.attacks, options.workers, options.ca, kinds)
        sys.stdout.write(json.dumps(told))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        seen = run(options.attacks, options.instances, where, workers=options.workers, by_tls=options.tls, kinds=kinds)
    sys.stdout.write(json.dumps({**dataclasses.asdict(seen), "ratio": seen.ratio}, indent=2) + "\n")
    return 1 if seen.problems else 0


if __name__ == "__main__":
    sys.exit(main())
