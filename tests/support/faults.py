"""A proxy before a real SCP that understands PDUs, makes faults by plan, and keeps a journal of what it passed on.

    with FaultProxy(("127.0.0.1", 11112), [Cut(within=200_000, every=3), Latency(0.01)], seed=7) as proxy:
        ...                                          # send to proxy.host, proxy.port
    proxy.journal.entries                            # every whole C-STORE-RSP that was passed on

or as a process of its own, until SIGTERM or SIGINT (the port is printed when it listens):

    python -m tests.support.faults --listen 0 --to 127.0.0.1:11112 --seed 7 --journal run.jsonl \\
        --plan cut:within=200000,every=3 --plan latency:seconds=0.01

"up" is the direction to the SCP, "down" the one back. The n-th association is the n-th connection, counted from 1, and
the same seed makes the same faults in it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import random
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from tests.support.fault_plan import Abort, Cut, Fault, Latency, Limit, Refuse, Reject, SetStatus, parse_fault
from tests.support.ports import LOOPBACK, free_port
from tests.support.tap import C_STORE_RQ, C_STORE_RSP, Command, Follower, Journal, Reframer, replace_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

F = TypeVar("F")

READ_BYTES: Final = 1 << 18
# How often a thread that waits for a socket looks whether its association has ended.
LOOK_MILLISECONDS: Final = 100
FLUSH_SECONDS: Final = 2.0
A_ABORT: Final = struct.pack(">BxIxxBB", 0x07, 4, 0, 0)
# The latency proxy must not become a limit to the rate: 64 MiB in flight is 6 GB/s at 10 ms.
DELAYED_BYTES: Final = 1 << 26
# Stands in a stream for the reset that its source made; compared by identity.
_RESET: Final = b"reset"


class _Ended(Exception):
    """The association that a thread works for has ended."""


class _Direction(threading.Thread):
    """Carries the bytes of one direction of one association."""

    def __init__(self, link: _Link, name: str, source: socket.socket, destination: socket.socket) -> None:
        super().__init__(daemon=True)
        self.link = link
        self.is_up = name == "up"
        self.source = source
        self.destination = destination
        self.passed = 0
        self.cut = link.cut if link.cut and link.cut.direction == name else None
        self.cut_at = link.cut_at
        self.abort = None if self.is_up or self.cut else link.abort
        self.responses = 0
        self.abort_at: int | None = None
        self.follower = Follower()
        self.pending: collections.deque[tuple[int, Command]] = collections.deque()
        self.reframer = Reframer() if not self.is_up and link.proxy.statuses else None
        latency = link.proxy.latency_seconds
        self.line = _DelayLine(self, latency) if latency else None

    def run(self) -> None:
        deliver = self.line.put if self.line else self.deliver
        with contextlib.suppress(_Ended):
            try:
                while data := self.link.receive(self.source):
                    for part in self._reframed(data):
                        deliver(part)
                end = _RESET if self.source in self.link.lost else b""
            except OSError:
                end = _RESET
            if self.reframer and (rest := self.reframer.rest()):
                deliver(rest)
            deliver(end)
        if self.line:
            self.line.join()
        self.link.direction_ended()

    def _reframed(self, data: bytes) -> Iterable[bytes]:
        if self.reframer is None:
            return [data]
        return [replace_status(unit, self.link.choose_status) for unit in self.reframer.feed(data)]

    def deliver(self, data: bytes) -> None:
        """Send on what may pass, and make the cut when its byte has come; b"" and _RESET are ends of the stream."""
        if data is _RESET:
            self._end("rst")
        if not data:
            with contextlib.suppress(OSError):
                self.destination.shutdown(socket.SHUT_WR)
            return
        found = self.follower.feed(data)
        self.link.proxy.journal.reports += self.follower.reports
        self.follower.reports.clear()
        self.pending.extend(found)
        if self.abort:
            self._find_abort(self.abort, found)
        if self.abort_at is not None and self.abort_at < self.passed + len(data):
            self._pass(data[: max(0, self.abort_at - self.passed)])
            self.link.proxy.note_fault(self.link)
            self.link.send(self.destination, A_ABORT)
            self._end("fin")
        room = self._room()
        if room is None or room > len(data):
            self._pass(data)
            return
        self._pass(data[:room])
        self._make_cut(data[room:])

    def _find_abort(self, abort: Abort, found: list[tuple[int, Command]]) -> None:
        """Where the response begins that the A-ABORT takes the place of: where the one before it ends."""
        if abort.response == 1:
            self.abort_at = self.follower.data_starts_at
        for offset, command in found:
            self.responses += command.field == C_STORE_RSP
            if self.abort_at is None and self.responses == abort.response - 1:
                self.abort_at = offset

    def _room(self) -> int | None:
        """How many bytes may pass before the cut; None when there is no cut, or not yet a place to count from."""
        if self.cut is None:
            return None
        if not self.cut.in_data:
            return self.cut_at - self.passed
        start = self.follower.data_starts_at
        return None if start is None else start + self.cut_at - self.passed

    def _make_cut(self, rest: bytes) -> None:
        assert self.cut is not None
        if self.cut.how != "dribble":
            self.link.proxy.note_fault(self.link)
        if self.cut.how == "dribble":
            for byte in rest:
                self.link.pause(self.cut.pause_seconds)
                self._pass(bytes((byte,)))
        elif self.cut.how == "stall":
            self.link.stall()
        else:
            self._end(self.cut.how)

    def _end(self, how: str) -> NoReturn:
        _flush(self.destination)
        self.link.end(how)
        raise _Ended

    def _pass(self, data: bytes) -> None:
        self.passed += len(data)
        while self.pending and self.pending[0][0] <= self.passed:
            self.link.command_passes(self.pending.popleft()[1])
        self.link.send(self.destination, data)
        self.link.proxy.note_passed(len(data))


class _DelayLine(threading.Thread):
    """Delivers what is put in `seconds` later, in order."""

    def __init__(self, direction: _Direction, seconds: float) -> None:
        super().__init__(daemon=True)
        self.direction = direction
        self.seconds = seconds
        self.queue: collections.deque[tuple[float, bytes]] = collections.deque()
        self.queued_bytes = 0
        self.changed = threading.Condition()
        self.start()

    def put(self, data: bytes) -> None:
        due = time.monotonic() + self.seconds
        with self.changed:
            while self.queued_bytes > DELAYED_BYTES:
                self._wait(None)
            self.queue.append((due, data))
            self.queued_bytes += len(data)
            self.changed.notify()

    def run(self) -> None:
        with contextlib.suppress(_Ended):
            data = b"begin"
            while data:
                data = self._take()
                self.direction.deliver(data)

    def _take(self) -> bytes:
        with self.changed:
            while not self.queue:
                self._wait(None)
            due, data = self.queue[0]
            while (left := due - time.monotonic()) > 0:
                self._wait(left)
            self.queue.popleft()
            self.queued_bytes -= len(data)
            self.changed.notify()
            return data

    def _wait(self, seconds: float | None) -> None:
        look = LOOK_MILLISECONDS / 1000
        self.changed.wait(look if seconds is None else min(seconds, look))
        self.direction.link.check()


class _Link:
    """One association through the proxy: the sender's connection, the SCP's, and the faults that are theirs."""

    def __init__(self, proxy: FaultProxy, number: int, client: socket.socket, server: socket.socket | None) -> None:
        self.proxy = proxy
        self.number = number
        self.client = client
        self.server = server
        self.cut = next((cut for cut in proxy.each(Cut) if cut.chooses(number)), None)
        self.abort = next((abort for abort in proxy.each(Abort) if abort.chooses(number)), None)
        self.cut_at = 0
        if self.cut:
            chance = random.Random(f"{proxy.seed}/{number}")
            self.cut_at = self.cut.at if self.cut.within is None else chance.randrange(self.cut.within)
        self.requests: dict[int, str] = {}
        self.replaced: dict[int, int] = {}
        # Connections that a send found dead. What the other direction can still read from them is passed on first.
        self.lost: set[socket.socket] = set()
        self._verdict: str | None = None
        self.is_stalled = False
        self._directions_left = 2
        self._lock = threading.Lock()

    def carry(self) -> list[threading.Thread]:
        assert self.server is not None
        up = _Direction(self, "up", self.client, self.server)
        down = _Direction(self, "down", self.server, self.client)
        for direction in (up, down):
            direction.start()
        return [up, down]

    def reject(self, fault: Reject | Limit) -> None:
        """Read the A-ASSOCIATE-RQ, answer A-ASSOCIATE-RJ, and let the sender close."""
        answer = struct.pack(">BxIxBBB", 0x03, 4, fault.result, fault.source, fault.reason)
        reframer = Reframer()
        with contextlib.suppress(OSError, _Ended):
            while data := self.receive(self.client):
                if reframer.feed(data):
                    self.send(self.client, answer)
        self.client.close()
        self.proxy.link_ended(self)

    # What the directions need

    def check(self) -> None:
        """Raise _Ended when the association has ended; stays here while it is stalled."""
        while self.is_stalled and not self._verdict and not self.proxy.stopping.is_set():
            if self.is_client_gone(LOOK_MILLISECONDS):
                self.end("rst")
        if self._verdict or self.proxy.stopping.is_set():
            raise _Ended

    def receive(self, sock: socket.socket) -> bytes:
        while True:
            self._wait(sock, select.POLLIN)
            with contextlib.suppress(BlockingIOError):
                return sock.recv(READ_BYTES)

    def send(self, sock: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self.check()
            try:
                view = view[sock.send(view) :]
            except BlockingIOError:
                self._wait(sock, select.POLLOUT)
            except OSError as error:
                self.lost.add(sock)
                raise _Ended from error

    def _wait(self, sock: socket.socket, event: int) -> None:
        poll = select.poll()
        poll.register(sock, event)
        ready: list[tuple[int, int]] = []
        while not ready:
            self.check()
            ready = poll.poll(LOOK_MILLISECONDS)
        self.check()

    def pause(self, seconds: float) -> None:
        self.proxy.stopping.wait(seconds)
        self.check()

    def stall(self) -> None:
        self.is_stalled = True
        self.check()

    def is_client_gone(self, milliseconds: int = 0) -> bool:
        """The sender has closed or reset its connection, though its last bytes may not have been read yet."""
        with self._lock:
            if self.client.fileno() < 0:
                return True
            poll = select.poll()
            poll.register(self.client, select.POLLRDHUP)
        return bool(poll.poll(milliseconds))

    def command_passes(self, command: Command) -> None:
        if command.field == C_STORE_RQ and command.message_id is not None:
            self.requests[command.message_id] = command.sop_instance_uid
            self.proxy.journal.note_request(self.number, command)
        elif command.field == C_STORE_RSP:
            replaced = self.replaced.pop(command.responded_to or 0, None)
            self.proxy.journal.write(self.number, command, self.requests, replaced)

    def choose_status(self, command: Command) -> int | None:
        message_id = command.responded_to or 0
        status = self.proxy.choose_status(self.requests.get(message_id, command.sop_instance_uid))
        if status is not None and command.status is not None:
            self.replaced[message_id] = command.status
        return status

    # The end

    def end(self, how: str) -> None:
        """The first to say how decides: "rst" or "fin"."""
        with self._lock:
            self._verdict = self._verdict or how
            if self._verdict == "rst":
                for sock in self._sockets():
                    # Wakes the thread that reads it, and sends nothing.
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RD)

    def direction_ended(self) -> None:
        with self._lock:
            self._directions_left -= 1
            if self._directions_left:
                return
        if self._verdict == "fin":
            _close_gently(self._sockets())
        with self._lock:
            for sock in self._sockets():
                if self._verdict == "rst":
                    _reset(sock)
                sock.close()
        self.proxy.link_ended(self)

    def _sockets(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _flush(sock: socket.socket) -> None:
    """Wait until the other side's kernel has everything: a reset throws away what has not left yet."""
    deadline = time.monotonic() + FLUSH_SECONDS
    with contextlib.suppress(OSError):
        while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0] and time.monotonic() < deadline:
            time.sleep(0.001)


def _close_gently(socks: Sequence[socket.socket]) -> None:
    """Send FIN, and read until the other sides close too: closing with unread bytes would send RST instead."""
    deadline = time.monotonic() + FLUSH_SECONDS
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            while sock.recv(READ_BYTES) and time.monotonic() < deadline:
                pass


class FaultProxy:
    """Listens on `host`:`port` of loopback for as long as the `with` block lasts, and passes on to the SCP `to`.

    `journal` tells what was acknowledged, `connections` how many connections were taken, `passed_bytes` how much went
    through in both directions, `faulted` which associations a fault has ended or stalled. Without faults, every byte
    passes unchanged. A connection that the SCP does not take is reset.
    """

    def __init__(
        self,
        to: tuple[str, int],
        faults: Iterable[Fault] = (),
        *,
        seed: int = 0,
        journal: Path | None = None,
        port: int = 0,
    ) -> None:
        self.to = to
        self.faults = tuple(faults)
        self.seed = seed
        self.host = LOOPBACK
        self.port = port or free_port()  # which the system gives to nobody while connections are refused
        self.journal = Journal(journal)
        self.connections = 0
        self.passed_bytes = 0
        self.faulted: set[int] = set()
        self._changed = threading.Condition()
        self.stopping = threading.Event()
        self.statuses = self.each(SetStatus)
        self.latency_seconds = sum(fault.seconds for fault in self.each(Latency))
        self._matched: collections.Counter[SetStatus] = collections.Counter()
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._listens_at: float | None = None
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def each(self, kind: type[F]) -> list[F]:
        """The faults of one kind, in the order of the plan."""
        return [fault for fault in self.faults if isinstance(fault, kind)]

    def __enter__(self) -> Self:
        self.accept_again()
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.refuse()
        self._accepting.join()
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._links and time.monotonic() < deadline:
            time.sleep(0.005)
        self.journal.close()

    def refuse(self) -> None:
        """From now on every new connection is refused; those that there are go on."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener:
            # Closing alone would not wake the thread that waits in accept().
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def accept_again(self) -> None:
        """Take connections, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(128)
        listener.settimeout(LOOK_MILLISECONDS / 1000)
        self.port = listener.getsockname()[1]
        with self._lock:
            self._listener = listener

    def choose_status(self, sop_instance_uid: str) -> int | None:
        """The status that replaces the one of this instance's response, or None."""
        with self._lock:
            for fault in self.statuses:
                if fault.matches(sop_instance_uid):
                    self._matched[fault] += 1
                    if fault.chooses(self._matched[fault]):
                        return fault.status
        return None

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Wait until what passes, or a fault, or an end makes `is_so` true; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(is_so, seconds)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, only `wait_until` lets anything pass; when it returns, at most what is on its way still does."""
        with self._changed:
            yield

    def end_stalled(self) -> None:
        """Reset the associations that a fault has stalled: the kernel of a dead sender says nothing while it waits."""
        with self._lock:
            stalled = [link for link in self._links if link.is_stalled]
        for link in stalled:
            link.end("rst")

    @property
    def is_idle(self) -> bool:
        """No association is open, neither to the sender nor to the SCP."""
        return not self._links

    def note_passed(self, count: int) -> None:
        with self._changed:
            self.passed_bytes += count
            self._changed.notify_all()

    def note_fault(self, link: _Link) -> None:
        with self._lock:
            self.faulted.add(link.number)
        with self._changed:
            self._changed.notify_all()

    def link_ended(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        with self._changed:
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            listener = self._listener
            if listener is None:
                self._wait_to_listen()
                continue
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            self.connections += 1
            self._refuse_by_plan()
            self._begin(client, self.connections)

    def _wait_to_listen(self) -> None:
        look = LOOK_MILLISECONDS / 1000
        left = look if self._listens_at is None else self._listens_at - time.monotonic()
        if self._listens_at is not None and left <= 0:
            with contextlib.suppress(OSError):  # another program has the port for a moment: the next look is soon
                self.accept_again()
                self._listens_at = None
        else:
            self.stopping.wait(min(look, max(left, look / 10)))

    def _refuse_by_plan(self) -> None:
        for fault in self.each(Refuse):
            if fault.after == self.connections:
                self._listens_at = time.monotonic() + fault.seconds
                self.refuse()

    def _begin(self, client: socket.socket, number: int) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        rejection = self._rejection(number)
        server: socket.socket | None = None
        if rejection is None:
            try:
                server = socket.create_connection(self.to, timeout=FLUSH_SECONDS)
            except OSError:
                _reset(client)
                return
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setblocking(False)
        link = _Link(self, number, client, server)
        with self._lock:
            self._links.add(link)
        if rejection is None:
            link.carry()
        else:
            threading.Thread(target=link.reject, args=(rejection,), daemon=True).start()

    def _rejection(self, number: int) -> Reject | Limit | None:
        for fault in self.each(Reject):
            if fault.chooses(number):
                return fault
        with self._lock:
            live = sum(link.server is not None and not link.is_client_gone() for link in self._links)
        return next((limit for limit in self.each(Limit) if live >= limit.associations), None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.faults", description="a fault proxy before an SCP")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="port of 127.0.0.1 (0: a free one)")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the SCP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", type=Path, metavar="FILE", help="append a JSON line per C-STORE-RSP passed on")
    parser.add_argument("--plan", type=parse_fault, action="append", default=[], metavar="FAULT:KEY=VALUE,...")
    options = parser.parse_args(arguments)
    host, _, port = options.to.rpartition(":")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with FaultProxy(
        (host, int(port)), options.plan, seed=options.seed, journal=options.journal, port=options.listen
    ) as proxy:
        sys.stdout.write(f"listening on {proxy.host}:{proxy.port}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
