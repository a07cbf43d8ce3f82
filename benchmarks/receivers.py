"""The receivers that the benchmarks send to: each is started on a free port and ended after the block.

`storescp` is DCMTK's with TCP_NODELAY=1, `stock storescp` the same as it is installed: it leaves Nagle's algorithm on.
Both discard what they receive, as do dcmjs-dimse's and our own; Orthanc keeps it in a directory that is removed after.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import certificates
from benchmarks.measure import HERE, background, free_port, native_program
from benchmarks.versions import asyncstore_version, dcmjs_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


_STORESCP: Final = native_program("storescp") or "storescp"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver that runs: where, and how many instances it says it has taken (None: it does not count)."""

    port: int
    count: Callable[[], int | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Receiver:
    """A program that takes instances.

    `keeps` receivers are started anew for every run, because an instance that they have already is less work.
    """

    name: str
    description: str
    start: Callable[[], AbstractContextManager[Endpoint]]
    missing: Callable[[], str | None]
    keeps: bool = False


def _program_missing(name: str) -> Callable[[], str | None]:
    return lambda: None if native_program(name) else f"not available: no {name}"


@contextlib.contextmanager
def _storescp(tuned: bool) -> Iterator[Endpoint]:
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    if tuned:
        environment["TCP_NODELAY"] = "1"
    port = free_port()
    with background([_STORESCP, "--ignore", "--fork", str(port)], [port], environment=environment):
        yield Endpoint(port)


@contextlib.contextmanager
def _storescp_tls() -> Iterator[Endpoint]:
    port = free_port()
    file = certificates.certificates().file
    keys = ["+tls", file("receiver.key"), file("receiver.crt"), "+cf", file("ca.crt"), "-rc"]
    command = [_STORESCP, "--ignore", "--fork", *keys, str(port)]
    with background(command, [port], environment={**os.environ, "TCP_NODELAY": "1"}):
        yield Endpoint(port)


@contextlib.contextmanager
def keeping_storescp(directory: Path) -> Iterator[Endpoint]:
    """DCMTK's storescp, writing data sets into `directory` exactly as they came."""
    port = free_port()
    command = [_STORESCP, "--fork", "+B", "+xa", "-od", str(directory), str(port)]
    with background(command, [port], environment={**os.environ, "TCP_NODELAY": "1"}):
        yield Endpoint(port)


@contextlib.contextmanager
def keeping_asyncstore(directory: Path) -> Iterator[Endpoint]:
    """Our own storescp, writing into `directory`."""
    port = free_port()
    program = [sys.executable, "-m", "asyncstore", "storescp", "--output-directory", str(directory)]
    with background([*program, str(port)], [port]):
        yield Endpoint(port)


@contextlib.contextmanager
def _asyncstore() -> Iterator[Endpoint]:
    port = free_port()
    with background([sys.executable, "-m", "asyncstore", "storescp", "--ignore", str(port)], [port]):
        yield Endpoint(port)


@contextlib.contextmanager
def _dcmjs() -> Iterator[Endpoint]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="asyncstore-dcmjs-") as directory:
        log = Path(directory, "stored")

        def count() -> int:
            words = log.read_text().split()
            return int(words[-1]) if words and words[-1].isdigit() else 0

        with background(["node", str(HERE / "dcmjs_storescp.js"), str(port), "16"], [port], output=log):
            yield Endpoint(port, count)


def _orthanc_count(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/statistics")
        return int(json.loads(connection.getresponse().read())["CountInstances"])
    finally:
        connection.close()


@contextlib.contextmanager
def _orthanc() -> Iterator[Endpoint]:
    port, http_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="asyncstore-orthanc-", ignore_cleanup_errors=True) as directory:
        configuration = {
            "Name": "Benchmark",
            "StorageDirectory": f"{directory}/storage",
            "IndexDirectory": f"{directory}/storage",
            "DicomPort": port,
            "HttpPort": http_port,
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
        }
        path = Path(directory, "orthanc.json")
        path.write_text(json.dumps(configuration))
        environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
        command = [native_program("Orthanc") or "Orthanc", str(path)]
        with background(command, [port, http_port], environment=environment, at_once=True):
            yield Endpoint(port, lambda: _orthanc_count(http_port))


def _asyncstore_missing() -> str | None:
    return None if asyncstore_version("storescp") else "not available: no `asyncstore storescp`"


def _dcmjs_missing() -> str | None:
    return None if dcmjs_version() else "not available: node or dcmjs-dimse (ASYNCSTORE_DCMJS_DIMSE)"


RECEIVERS: Final[dict[str, Receiver]] = {
    receiver.name: receiver
    for receiver in (
        Receiver(
            "storescp",
            "DCMTK storescp --ignore --fork, TCP_NODELAY=1",
            lambda: _storescp(tuned=True),
            _program_missing("storescp"),
        ),
        Receiver(
            "stock storescp",
            "DCMTK storescp --ignore --fork as installed (Nagle's algorithm on)",
            lambda: _storescp(tuned=False),
            _program_missing("storescp"),
        ),
        Receiver(
            "storescp +tls",
            "DCMTK storescp --ignore --fork +tls -rc, TCP_NODELAY=1: TLS 1.3, AES-256-GCM, certificates of both",
            _storescp_tls,
            lambda: _program_missing("storescp")() or certificates.missing(),
        ),
        Receiver("orthanc", "Orthanc as installed, empty storage", _orthanc, _program_missing("Orthanc"), keeps=True),
        Receiver("dcmjs-dimse", "dcmjs-dimse SCP, operations window 16", _dcmjs, _dcmjs_missing),
        Receiver("asyncstore", "asyncstore storescp --ignore", _asyncstore, _asyncstore_missing),
    )
}


def choose_receiver(*names: str) -> str:
    """The first of these receivers that is there; the last one when none is."""
    return next((name for name in names if RECEIVERS[name].missing() is None), names[-1])
