"""Ports for servers that cannot be told to take any, and for calls that nobody is to answer."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK: Final = "127.0.0.1"


def _ports() -> Iterator[int]:
    """Ports below those that a system gives out by itself: another part of them for each worker of pytest.

    A port is bound some time after it was chosen, or is to stay closed: no other test may choose it meanwhile.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(range(20_000, 32_768))[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    # By chance, whatever seed a test has given to its own: another run may be beside this one.
    random.SystemRandom().shuffle(ports)
    return itertools.cycle(ports)


_PORTS = _ports()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now, and that no other test of this run gets."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return port
