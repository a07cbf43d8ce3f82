"""The two processes of limit.py: one sends bytes that are ready, one reads and discards them.

    python benchmarks/limit_worker.py sink PORT
    python benchmarks/limit_worker.py memory|file PORT FILE CONNECTIONS      prints the seconds that the loop took
    python benchmarks/limit_worker.py --smoke

It imports next to nothing, because its start is part of the ceiling for whole processes.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

BUFFER_BYTES = 1024 * 1024


def _discard(connection: socket.socket) -> None:
    with connection:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        total = 0
        while received := connection.recv_into(buffer):
            total += received
        connection.sendall(struct.pack(">Q", total))


def sink(port: int) -> NoReturn:
    """Take connections, read them to their end, and answer with the number of bytes."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_discard, args=(connection,), daemon=True).start()


def _read(path: str, start: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def _send_from_memory(path: str, start: int, end: int) -> Callable[[socket.socket], None]:
    view = memoryview(_read(path, start, end))

    def send(connection: socket.socket) -> None:
        offset = 0
        while offset < len(view):
            offset += connection.send(view[offset : offset + BUFFER_BYTES])

    return send


def _send_from_file(path: str, start: int, end: int) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        descriptor = os.open(path, os.O_RDONLY)
        try:
            offset = start
            while offset < end:
                length = os.preadv(descriptor, [buffer[: min(BUFFER_BYTES, end - offset)]], offset)
                sent = 0
                while sent < length:
                    sent += connection.send(buffer[sent:length])
                offset += length
        finally:
            os.close(descriptor)

    return send


def _push_one(connection: socket.socket, send: Callable[[socket.socket], None], wanted: int) -> None:
    send(connection)
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    while len(answer) < 8:
        data = connection.recv(8 - len(answer))
        if not data:
            raise ConnectionError("the receiving process ended")
        answer += data
    (received,) = struct.unpack(">Q", answer)
    if received != wanted:
        raise ConnectionError(f"{received} of {wanted} bytes arrived")


def push(path: str, port: int, connections: int, *, from_memory: bool) -> float:
    """Send the file over so many connections, an equal part on each; returns the seconds that the loop took."""
    size = os.stat(path).st_size
    prepare_part = _send_from_memory if from_memory else _send_from_file
    bounds = [size * number // connections for number in range(connections + 1)]
    parts = [
        (bounds[number + 1] - bounds[number], prepare_part(path, bounds[number], bounds[number + 1]))
        for number in range(connections)
    ]
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in parts]
    try:
        threads = [
            threading.Thread(target=_push_one, args=(connection, send, length))
            for connection, (length, send) in zip(sockets, parts, strict=True)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started
    finally:
        for connection in sockets:
            connection.close()


def smoke() -> int:
    """Send this file through a sink in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            for _ in range(2):
                _discard(listener.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        port: int = listener.getsockname()[1]
        for from_memory in (True, False):
            print(f"{push(__file__, port, 1, from_memory=from_memory):.6f} s")
    return 0


def main() -> int:
    """Be the process that the first argument names."""
    arguments = sys.argv[1:]
    if arguments == ["--smoke"]:
        return smoke()
    if len(arguments) == 2 and arguments[0] == "sink":
        sink(int(arguments[1]))
    if len(arguments) != 4 or arguments[0] not in ("memory", "file"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    source, port, path, connections = arguments
    print(push(path, int(port), int(connections), from_memory=source == "memory"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
