"""The other end of a soak: a Storage SCP that keeps nothing, and a forwarder before it that makes a fault now and then.

It runs as a process of its own (`python -m tests.campaigns.soak_receiver --fault-every 1000`): it prints the port that
it listens on, ends when its standard input does, and prints then what it did, as JSON. FaultProxy makes more kinds of
fault and keeps a journal; this one counts by instance, costs little for each, and remembers only those that were lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import struct
import sys
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.to_thread

from asyncstore.services.storage_scp import StorageSCP

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

UID_ROOT: Final = b"1.2.826.0.1.3680043.8.498."
UID_DIGITS: Final = 12
_UID: Final = re.compile(re.escape(UID_ROOT) + b"([0-9]{%d})" % UID_DIGITS)
_UID_BYTES: Final = len(UID_ROOT) + UID_DIGITS
_HEADER_BYTES: Final = 6
_PEEKED_BYTES: Final = 1 << 20
_OUT_OF_ORDER: Final = 64  # instances come in the order of their numbers, but for what several associations mix
_A_ABORT: Final = struct.pack(">BxIxxBB", 0x07, 4, 2, 0)
_A_ASSOCIATE_RJ: Final = struct.pack(">BxIxBBB", 0x03, 4, 2, 3, 2)  # transient, local limit exceeded

KINDS: Final = ("reset", "stall", "abort", "refuse", "cut", "drop")
"""The faults in turn: a reset amid a request; silence; A-ABORT; the end of every association and A-ASSOCIATE-RJ for the
next; the end of the connection amid a response; a reset of every association, and no word to the next.

Whoever refuses an association while it has others is asked for fewer from then on: so the two end all of them first.
"""


class Instances:
    """Finds the instances that the bytes of one direction name, however they are cut."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        data = self._tail + data
        self._tail = data[1 - _UID_BYTES :]  # too short for a whole UID: none is found twice
        return _UID.findall(data)

    def coming(self, data: bytes) -> list[bytes]:
        """What `feed` would find."""
        return _UID.findall(self._tail + data)


class Boundaries:
    """Knows where PDUs end in the bytes of one direction."""

    def __init__(self) -> None:
        self._left = 0  # of the present PDU, header included; 0 between two
        self._head = b""

    def last_in(self, data: bytes) -> int | None:
        """The offset after the last PDU that ends within `data`, 0 when one ended just before it."""
        end = 0 if not self._left and not self._head else None
        at = 0
        while at < len(data):
            if not self._left:
                wanted = _HEADER_BYTES - len(self._head)
                self._head += data[at : at + wanted]
                at += wanted
                if len(self._head) == _HEADER_BYTES:
                    (self._left,) = struct.unpack_from(">I", self._head, 2)
                    self._head = b""
                continue
            taken = min(self._left, len(data) - at)
            self._left -= taken
            at += taken
            if not self._left:
                end = at
        return end


class _Side(asyncio.Protocol):
    """One connection of a link: the sender's or the SCP's."""

    def __init__(self, link: _Link, *, is_client: bool) -> None:
        self.link = link
        self.is_client = is_client
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.is_client:
            self.link.begin()

    def data_received(self, data: bytes) -> None:
        if self.is_client:
            self.link.passes_up(data)
        else:
            self.link.passes_down(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.link.ended()

    def pause_writing(self) -> None:
        self._other_reads(False)

    def resume_writing(self) -> None:
        self._other_reads(True)

    def _other_reads(self, reads: bool) -> None:
        other = self.link.server if self.is_client else self.link.client
        if other.transport is not None and not other.transport.is_closing():
            (other.transport.resume_reading if reads else other.transport.pause_reading)()

    def reset(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Link:
    """One association through the forwarder."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self.client = _Side(self, is_client=True)
        self.server = _Side(self, is_client=False)
        self.in_flight: set[bytes] = set()
        self._answered: set[bytes] = set()  # of those, what the sender may not have seen yet
        self._up = Instances()
        self._down = Instances()
        self._boundaries = Boundaries()
        self._early: list[bytes] = []  # what came before the SCP was reached
        self.fault = ""  # made, or to be made with the next bytes from the SCP

    def begin(self) -> None:
        """A sender has connected: connect to the SCP, unless this one is to be refused."""
        self.fault = self._forwarder.welcomes.popleft() if self._forwarder.welcomes else ""
        if self.fault == "drop":
            self.client.reset()
        elif not self.fault:
            self._forwarder.links.add(self)
            self._forwarder.start(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self.server, "127.0.0.1", self._forwarder.to_port
            )
        except OSError:
            self.client.reset()
            return
        assert self.client.transport is not None
        if self.client.transport.is_closing():
            self.server.reset()
        elif self._early:
            self.passes_up(b"".join(self._early))

    def has_something_in_flight(self) -> bool:
        return bool(self.in_flight - self._answered)

    def at_stake(self) -> set[bytes]:
        """The instances that are lost if this link ends now: in flight, or still to be read."""
        client = self.client.transport
        if client is None or client.is_closing():
            return self.in_flight
        with socket.socket(fileno=os.dup(client.get_extra_info("socket").fileno())) as peeking:
            peeking.setblocking(False)
            try:
                waiting = peeking.recv(_PEEKED_BYTES, socket.MSG_PEEK)
            except OSError:
                waiting = b""
        return self.in_flight | set(self._up.coming(waiting))

    def may_be_struck(self) -> bool:
        """Whether nothing is lost with this link that was lost before, or it has its fault and is lost anyway."""
        return bool(self.fault) or self.at_stake().isdisjoint(self._forwarder.hurt)

    def passes_up(self, data: bytes) -> None:
        if self.server.transport is None and self.fault == "refuse":
            assert self.client.transport is not None
            self.client.transport.write(_A_ASSOCIATE_RJ)
        elif self.server.transport is None:
            self._early.append(data)
        else:
            self._pass_up(data, self.server.transport)

    def _pass_up(self, data: bytes, server: asyncio.Transport) -> None:
        found = self._up.feed(data)
        if found:  # a sender that waits for one answer before it goes on has it
            self.in_flight -= self._answered
            self._answered.clear()
        for uid in found:
            if uid not in self.in_flight:
                self.in_flight.add(uid)
                self._forwarder.sees(uid)
        if self.fault:  # what is still sent goes nowhere, and will have been lost
            return
        self.fault = self._forwarder.fault_for(self)
        if self.fault == "reset":
            server.write(data[: len(data) // 2])
            self.reset()
            return
        server.write(data)
        if self.fault == "refuse":
            for link in tuple(self._forwarder.links):
                link.close()
        elif self.fault == "drop":
            for link in tuple(self._forwarder.links):
                link.reset()

    def passes_down(self, data: bytes) -> None:
        assert self.client.transport is not None
        boundary = self._boundaries.last_in(data)
        if self.fault == "abort" and boundary is not None:
            self._pass(data[:boundary])
            self.client.transport.write(_A_ABORT)
            self.close()
        elif self.fault == "cut":
            self._pass(data[:-1])
            self.close()
        elif self.fault in ("", "abort"):
            self._pass(data)

    def _pass(self, data: bytes) -> None:
        """Pass on answers."""
        assert self.client.transport is not None
        self._answered.update(self._down.feed(data))
        self.client.transport.write(data)

    def reset(self) -> None:
        self.client.reset()
        self.server.reset()

    def close(self) -> None:
        for side in (self.client, self.server):
            if side.transport is not None:
                side.transport.close()

    def ended(self) -> None:
        """One of the connections has ended, and so does the other."""
        self._forwarder.links.discard(self)
        self._forwarder.hurt |= self.at_stake()
        self.in_flight.clear()
        self.close()


class Forwarder:
    """Passes associations on to the SCP at `to_port`; each `fault_every` instances one of KINDS, in turn (0: none).

    An instance that was lost once is spared from then on: three losses make it a failure by the rules of a transfer,
    and the soak is to store everything.
    """

    def __init__(self, to_port: int, fault_every: int) -> None:
        self.to_port = to_port
        self.passed = 0
        self.faults: Counter[str] = Counter()
        self.links: set[_Link] = set()
        self.hurt: set[bytes] = set()
        self.welcomes: deque[str] = deque()
        self._fault_every = fault_every
        self._turns = deque(KINDS)
        self._highest = 0
        self._connecting: set[asyncio.Task[None]] = set()

    def link(self) -> _Side:
        return _Link(self).client

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something without waiting for it."""
        running = asyncio.get_running_loop().create_task(work)
        self._connecting.add(running)
        running.add_done_callback(self._connecting.discard)

    def sees(self, uid: bytes) -> None:
        """An instance has come; one that is late may have been lost where nobody saw it."""
        self.passed += 1
        number = int(uid)
        if number < self._highest - _OUT_OF_ORDER:
            self.hurt.add(uid)
        self._highest = max(self._highest, number)

    def fault_for(self, link: _Link) -> str:
        """The fault that is due, if it may strike this link; "" for none.

        The kind whose turn it is has half an interval to itself: moments at which all links may be struck are fewer.
        """
        overdue = self.passed - (self.faults.total() + 1) * self._fault_every
        if not self._fault_every or overdue < 0 or not link.has_something_in_flight() or not link.may_be_struck():
            return ""
        alone = overdue < self._fault_every // 2
        for kind in (self._turns[0],) if alone else self._turns:
            strikes_all = kind in ("refuse", "drop")
            if not strikes_all or all(each.may_be_struck() for each in self.links):
                self._turns.remove(kind)
                self._turns.append(kind)
                self.faults[kind] += 1
                if strikes_all:
                    self.welcomes.append(kind)
                return kind
        return ""


async def receive(fault_every: int) -> None:
    async with StorageSCP() as scp:
        forwarder = Forwarder(scp.port, fault_every)
        server = await asyncio.get_running_loop().create_server(forwarder.link, "127.0.0.1", 0)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.read)
        server.close()
        did = {"passed": forwarder.passed, "answered": scp.stored, "faults": forwarder.faults}
        sys.stdout.write(json.dumps(did) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.soak_receiver", description="The other end of tests.campaigns.soak."
    )
    parser.add_argument("--fault-every", type=int, default=1000, metavar="K", help="instances for each fault, 0: none")
    options = parser.parse_args(arguments)
    anyio.run(receive, options.fault_every, backend_options={"use_uvloop": sys.platform != "win32"})


if __name__ == "__main__":
    main()
