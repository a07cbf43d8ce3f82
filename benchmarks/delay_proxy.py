"""A TCP proxy that makes a peer far away: it delays both directions by half the round trip, and limits nothing else.

    python benchmarks/delay_proxy.py --round-trip 0.020 --to 11112 --port 11113
    python benchmarks/delay_proxy.py --smoke         measures its own delay and rate

It prints `listening on PORT` when it is ready and runs until it is told to end. What was read is sent again at its due
time, however much comes meanwhile, so the rate is what the machine copies: about 0.7 GB/s on two cores that sender and
receiver share with it. Only the round trip of the TCP handshake is missing: a connection is taken at once.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NoReturn

# Enough to keep 50 Gbit/s over 10 ms full; it only keeps a receiver that stands still from eating memory.
BACKLOG_BYTES: Final = 64 * 1024 * 1024
READ_BYTES: Final = 256 * 1024


@dataclass(slots=True, eq=False)
class Direction:
    """What one side sends to the other: read from `source`, due at a time, written to `target`."""

    source: socket.socket
    target: socket.socket
    held: deque[tuple[float, memoryview]] = field(default_factory=deque)
    held_bytes: int = 0
    ended: bool = False
    finished: bool = False

    def wants_read(self) -> bool:
        """There is more to come and room for it."""
        return not self.ended and self.held_bytes < BACKLOG_BYTES

    def is_due(self, now: float) -> bool:
        """Something may be written now."""
        return bool(self.held) and self.held[0][0] <= now

    def read(self, due: float) -> None:
        """Take what has come and keep it until it is due; an empty entry stands for the end of the stream."""
        data = self.source.recv(READ_BYTES)
        self.ended = not data
        self.held.append((due, memoryview(data)))
        self.held_bytes += len(data)

    def write(self, now: float) -> None:
        """Send what is due, as far as the target takes it."""
        while self.is_due(now):
            due, data = self.held.popleft()
            if not data:
                self.finished = True
                self.target.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.target.send(data)
            except BlockingIOError:
                sent = 0
            self.held_bytes -= sent
            if sent < len(data):
                self.held.appendleft((due, data[sent:]))
                return


class DelayProxy:
    """Takes connections on a port of 127.0.0.1 and passes them on to another, later."""

    def __init__(self, to_port: int, round_trip_seconds: float, port: int = 0) -> None:
        self.delay_seconds = round_trip_seconds / 2
        self.to_port = to_port
        self.listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.pairs: list[tuple[Direction, Direction]] = []

    def run(self) -> NoReturn:
        """Pass data on until the process ends."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait until something can be done, and do it."""
        now = time.monotonic()
        directions = [direction for pair in self.pairs for direction in pair if not direction.finished]
        readers = [direction.source for direction in directions if direction.wants_read()]
        writers = [direction.target for direction in directions if direction.is_due(now)]
        dues = [direction.held[0][0] for direction in directions if direction.held and direction.held[0][0] > now]
        # select() because its timeout is exact to a fraction of a millisecond; epoll's is rounded up to a whole one.
        timeout_seconds = max(min(dues) - now, 0.0) if dues else None
        readable, writable, _ = select.select([self.listener, *readers], writers, [], timeout_seconds)
        if self.listener in readable:
            self._accept()
        self._pass_on(set(readable), set(writable))

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                near.close()
                return
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setblocking(False)
            self.pairs.append((Direction(near, far), Direction(far, near)))

    def _pass_on(self, readable: set[socket.socket], writable: set[socket.socket]) -> None:
        for pair in list(self.pairs):
            try:
                for direction in pair:
                    now = time.monotonic()
                    if direction.source in readable:
                        direction.read(now + self.delay_seconds)
                    if direction.target in writable and not direction.finished:
                        direction.write(now)
            except OSError:
                self._end(pair)
                continue
            if all(direction.finished for direction in pair):
                self._end(pair)

    def _end(self, pair: tuple[Direction, Direction]) -> None:
        self.pairs.remove(pair)
        pair[0].source.close()
        pair[0].target.close()

    def close(self) -> None:
        """Close every socket."""
        self.listener.close()
        for pair in list(self.pairs):
            self._end(pair)


def _echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)


def _receive(connection: socket.socket, length: int) -> None:
    while length:
        data = connection.recv(min(length, READ_BYTES))
        if not data:
            raise ConnectionError("the proxy closed the connection")
        length -= len(data)


def _median_round_trip(near: socket.socket) -> float:
    round_trips = []
    for _ in range(20):
        started = time.monotonic()
        near.sendall(b"?")
        _receive(near, 1)
        round_trips.append(time.monotonic() - started)
    return sorted(round_trips)[len(round_trips) // 2]


def _seconds_there_and_back(near: socket.socket, size_bytes: int) -> float:
    started = time.monotonic()
    threading.Thread(target=near.sendall, args=(bytes(size_bytes),), daemon=True).start()
    _receive(near, size_bytes)
    return time.monotonic() - started


def smoke(round_trip_seconds: float) -> int:
    """Measure the round trip and the rate through a proxy process, against an echo in this one."""
    size_bytes = 64 * 1024 * 1024
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        command = [sys.executable, __file__, "--round-trip", str(round_trip_seconds)]
        command += ["--to", str(listener.getsockname()[1])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                port = int(process.stdout.readline().rpartition(" ")[2])
                with socket.create_connection(("127.0.0.1", port)) as near:
                    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    median = _median_round_trip(near)
                    seconds = _seconds_there_and_back(near, size_bytes)
            finally:
                process.terminate()
    print(f"round trip {median * 1e3:.2f} ms (asked for {round_trip_seconds * 1e3:.2f} ms)")
    print(f"rate {size_bytes / seconds / 1e6:,.0f} MB/s each way, both at once")
    return 0 if round_trip_seconds <= median < round_trip_seconds + 0.02 else 1


def main() -> int:
    """Run the proxy, or measure it."""
    parser = argparse.ArgumentParser(description="A TCP proxy that delays both directions and does not limit the rate.")
    parser.add_argument("--to", type=int, metavar="PORT", help="pass connections on to this port of 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="listen here (default: a free port)")
    parser.add_argument("--round-trip", type=float, default=0.020, metavar="SECONDS", help="default: 0.020")
    parser.add_argument("--smoke", action="store_true", help="measure the proxy's own delay and rate, then end")
    arguments = parser.parse_args()
    if arguments.smoke:
        return smoke(arguments.round_trip)
    if arguments.to is None:
        parser.error("--to PORT is needed")
    proxy = DelayProxy(arguments.to, arguments.round_trip, arguments.port)
    print(f"listening on {proxy.port}", flush=True)
    try:
        proxy.run()
    except KeyboardInterrupt:
        return 130
    finally:
        proxy.close()


if __name__ == "__main__":
    sys.exit(main())
