"""Several hosts on one machine: each in a network namespace of its own where that is allowed, else as plain processes.

A `Door` is a way to a server that can be shut: connections stand, and nothing passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

LOOPBACK: Final = "127.0.0.1"
_PIECE_BYTES: Final = 1 << 16
# When a server looks whether the other side of a silent connection is there, as PostgreSQL is asked to.
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


class Network:
    """What `hosts` hosts, numbered from 1, have in common: `address` is where each of them reaches this process."""

    address: str = LOOPBACK
    can_cut: bool = False

    def __init__(self, hosts: int) -> None:
        self.hosts: list[int] = list(range(1, hosts + 1))
        self.host_processes: Callable[[], dict[int, int]] = dict
        """Which process runs on which host: process ID to number; only asked where hosts have no address."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to take down."""

    def prefix(self, host: int) -> list[str]:
        """The words before a command that runs it on a host; its process ID stays."""
        return []

    def host_of(self, address: str, port: int) -> str:
        """The number of the host whose end of a connection this is, as text; "" if it cannot be told any more."""
        inode = _inode_of(port)
        for process, host in self.host_processes().items():
            if inode and any(inode == held for held in _sockets_of(process)):
                return str(host)
        return ""

    def cut(self, host: int) -> None:
        """Pull the cable: nothing reaches the host, and nothing that it sends arrives. It sees no error."""
        raise NotImplementedError

    def mend(self, host: int) -> None:
        """Put the cable back."""
        raise NotImplementedError


class Namespaces(Network):
    """A network namespace for each host, with a link to this one. It needs root."""

    can_cut = True

    def __init__(self, hosts: int) -> None:
        super().__init__(hosts)
        # Addresses that are set aside for measurements in networks of one's own (RFC 2544).
        self._subnet = f"198.18.{os.getpid() % 254 + 1}"
        self.address = f"{self._subnet}.1"

    def __enter__(self) -> Self:
        try:
            for host in self.hosts:
                self._make(host)
            # While a link is down, what is for its host goes nowhere, and not to another network.
            _ip("route", "add", "blackhole", f"{self._subnet}.0/24")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for words in (
            *(("link", "delete", self._link(host)) for host in self.hosts),
            *(("netns", "delete", self._name(host)) for host in self.hosts),
            ("route", "delete", "blackhole", f"{self._subnet}.0/24"),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)

    def _make(self, host: int) -> None:
        name, link, inside = self._name(host), self._link(host), f"{self._link(host)}i"
        ours, theirs = self.address, self._address(host)
        _ip("netns", "add", name)
        _ip("link", "add", link, "type", "veth", "peer", "name", inside, "netns", name)
        _ip("address", "add", ours, "peer", f"{theirs}/32", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", name, "address", "add", theirs, "peer", f"{ours}/32", "dev", inside)
        _ip("-n", name, "link", "set", inside, "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def _name(self, host: int) -> str:
        return f"asyncstore-{os.getpid()}-{host}"

    def _link(self, host: int) -> str:
        return f"as{os.getpid()}h{host}"

    def _address(self, host: int) -> str:
        return f"{self._subnet}.{10 + host}"

    def prefix(self, host: int) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._name(host)}"]

    def host_of(self, address: str, port: int) -> str:
        return next((str(host) for host in self.hosts if self._address(host) == address), "")

    def cut(self, host: int) -> None:
        _ip("link", "set", self._link(host), "down")

    def mend(self, host: int) -> None:
        _ip("link", "set", self._link(host), "up")


@contextlib.contextmanager
def network(hosts: int) -> Iterator[Network]:
    """Hosts in namespaces if this process may make them, else as plain processes."""
    stack = contextlib.ExitStack()
    with stack:
        try:
            if shutil.which("nsenter") is None:
                raise FileNotFoundError("nsenter")
            made: Network = stack.enter_context(Namespaces(hosts))
        except (OSError, subprocess.CalledProcessError):
            made = stack.enter_context(Network(hosts))
        yield made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def listen(address: str) -> socket.socket:
    """A socket for a server, on a port of its own, whose connections end some time after their host is gone."""
    listener = socket.socket()
    listener.bind((address, 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    return listener


def _inode_of(port: int) -> str:
    """The socket with this local port that has a connection, or ""."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
            return fields[9]
    return ""


def _sockets_of(process: int) -> Iterator[str]:
    """The inodes of the sockets that a process has open; none once it has ended."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{process}/fd"):
            target = ""
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{process}/fd/{name}")
            if target.startswith("socket:["):
                yield target[8:-1]


class Door:
    """Passes connections on to a server on this machine: `async with Door(address, port) as door: ... door.port`."""

    def __init__(self, address: str, to_port: int) -> None:
        self.address = address
        self.port = 0
        self._to_port = to_port
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        listener = listen(self.address)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._pass, sock=listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def shut(self) -> None:
        """From now on nothing passes; who connects is heard and not answered."""
        self._is_open.clear()

    def open(self) -> None:
        """What was held passes, and all that comes."""
        self._is_open.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        ends = [writer]
        try:
            await self._is_open.wait()
            to_reader, to_writer = await asyncio.open_connection(LOOPBACK, self._to_port)
            ends.append(to_writer)
            await asyncio.gather(self._pump(reader, to_writer), self._pump(to_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, one of the two has gone, or the door is taken down
        finally:
            self._passing.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE_BYTES):
            await self._is_open.wait()
            if writer.is_closing():
                return
            writer.write(data)
            await writer.drain()
        await self._is_open.wait()
        writer.close()
