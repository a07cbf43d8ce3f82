"""The sender of limit.py --receiver: stores instances that are framed already, with next to nothing to do for each.

    python benchmarks/limit_sender.py PORT FILE ASSOCIATIONS      prints seconds, first byte to last answer

FILE holds C-STORE requests as PDUs, one after another, for presentation context 1. It is read into memory and the
associations are established before the clock runs, and they are released after it stopped. In between one thread gives
each association the next message as soon as its last one is answered with the status 0000.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

if not __package__:
    # Run as a script: the project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from asyncstore.dimse import decoding, messages
from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.items import PresentationContext
from asyncstore.upper_layer.user_information import UserInformation
from benchmarks.data import EXPLICIT_VR_LITTLE_ENDIAN, IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Seven PDUs of storescp's 16384 bytes. More at once is slower with large instances: what the sender copies into the
# socket leaves the processor's cache before the receiver reads it. So it would in a socket buffer of megabytes.
SEND_BYTES: Final = 7 * (16384 + pdu.HEADER_BYTES)
NOT_SENT_BYTES: Final = 1 << 18

RECEIVE_BYTES: Final = 4096
SILENCE_SECONDS: Final = 60.0

_WHOLE_COMMAND: Final = 0x03
_CONTROL_AT: Final = pdu.HEADER_BYTES + pdu.PDV_HEADER_BYTES - 1
# The element Status (0000,0900) of 2 bytes with the value 0000. No other element of a response can hold these bytes.
_SUCCESS: Final = b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Messages:
    """The C-STORE requests of a framed file, each with its data set."""

    views: list[memoryview]
    sop_class_uid: str
    longest_pdu_bytes: int


def read_messages(path: Path) -> Messages:
    """Read a framed file into memory and find where each message begins: at a command set of one PDU."""
    data = path.read_bytes()
    starts, longest, offset = [], 0, 0
    while offset < len(data):
        if data[offset + _CONTROL_AT] == _WHOLE_COMMAND:
            starts.append(offset)
        length = int.from_bytes(data[offset + 2 : offset + pdu.HEADER_BYTES], "big")
        longest = max(longest, length)
        offset += pdu.HEADER_BYTES + length
    view = memoryview(data)
    views = [view[start:end] for start, end in zip(starts, [*starts[1:], offset], strict=True)]
    return Messages(views, _sop_class_uid(views[0]), longest)


def _sop_class_uid(view: memoryview) -> str:
    end = pdu.HEADER_BYTES + int.from_bytes(view[2 : pdu.HEADER_BYTES], "big")
    return cast("messages.CStoreRQ", decoding.decode(bytes(view[_CONTROL_AT + 1 : end]))).affected_sop_class_uid


def _receive_exactly(connection: socket.socket, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        received = connection.recv(size_bytes - len(data))
        if not received:
            raise ConnectionError("the receiver closed the connection")
        data += received
    return data


def _receive_pdu(connection: socket.socket) -> pdu.PDU:
    pdu_type, length = pdu.check_header(_receive_exactly(connection, pdu.HEADER_BYTES), 0)
    return pdu.decode(pdu_type, _receive_exactly(connection, length))


def _establish(connection: socket.socket, stored: Messages) -> None:
    context = PresentationContext(1, stored.sop_class_uid, (EXPLICIT_VR_LITTLE_ENDIAN,))
    information = UserInformation(implementation_class_uid=IMPLEMENTATION_CLASS_UID)
    connection.sendall(pdu.AssociateRQ("ANY-SCP", "LIMIT", (context,), information).encode())
    answer = _receive_pdu(connection)
    if not isinstance(answer, pdu.AssociateAC) or answer.results[0].result != 0:
        raise ConnectionError(f"the receiver does not take what is sent: {answer}")
    maximum_length = answer.user_information.maximum_length
    if 0 < maximum_length < stored.longest_pdu_bytes:
        raise ConnectionError(f"the receiver takes PDUs of {maximum_length} bytes: try --pdu {maximum_length}")


def _release(connection: socket.socket) -> None:
    connection.sendall(pdu.ReleaseRQ().encode())
    answer = _receive_pdu(connection)
    if not isinstance(answer, pdu.ReleaseRP):
        raise ConnectionError(f"no answer to the release but {answer}")


@contextlib.contextmanager
def associations(port: int, count: int, stored: Messages) -> Iterator[list[socket.socket]]:
    """So many connections, each with an association that can store the messages; released after the block."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), SILENCE_SECONDS))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
            _establish(connection, stored)
            connections.append(connection)
        yield connections
        for connection in connections:
            connection.settimeout(SILENCE_SECONDS)
            _release(connection)


@dataclass(slots=True)
class _Association:
    """What one association is at: the rest of its message to send, or the answer as far as it came."""

    connection: socket.socket
    rest: memoryview
    answer: bytes = b""
    waits_to_send: bool = False


class StoringLoop:
    """The loop that is measured: one thread, one operation outstanding on each association."""

    def __init__(self, poller: select.epoll, connections: Sequence[socket.socket], stored: Messages) -> None:
        self._poller = poller
        self._messages = iter(stored.views)
        self._busy = len(connections)
        self._associations: dict[int, _Association] = {}
        for connection in connections:
            connection.setblocking(False)
            self._associations[connection.fileno()] = _Association(connection, memoryview(b""))
            poller.register(connection, select.EPOLLIN)

    def run(self) -> float:
        """Store every message; returns the seconds from the first byte to the last answer."""
        started = time.perf_counter()
        for association in self._associations.values():
            self._begin(association)
        while self._busy:
            events = self._poller.poll(SILENCE_SECONDS)
            if not events:
                raise TimeoutError(f"the receiver did nothing for {SILENCE_SECONDS:.0f} s")
            for descriptor, _ in events:
                association = self._associations[descriptor]
                if association.rest:
                    self._send(association)
                else:
                    self._receive(association)
        return time.perf_counter() - started

    def _begin(self, association: _Association) -> None:
        message = next(self._messages, None)
        if message is None:
            self._busy -= 1
            return
        association.rest = message
        self._send(association)

    def _send(self, association: _Association) -> None:
        """Send once, so that one association does not keep the others waiting."""
        try:
            sent = association.connection.send(association.rest[:SEND_BYTES])
        except BlockingIOError:
            sent = 0
        association.rest = association.rest[sent:]
        waits_to_send = len(association.rest) > 0
        if waits_to_send != association.waits_to_send:
            association.waits_to_send = waits_to_send
            self._poller.modify(association.connection, select.EPOLLOUT if waits_to_send else select.EPOLLIN)

    def _receive(self, association: _Association) -> None:
        data = association.connection.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the receiver closed the connection")
        answer = association.answer + data
        if len(answer) < pdu.HEADER_BYTES + int.from_bytes(answer[2 : pdu.HEADER_BYTES], "big"):
            association.answer = answer
            return
        association.answer = b""
        if answer[0] != pdu.DATA_TF or answer[_CONTROL_AT] != _WHOLE_COMMAND or _SUCCESS not in answer:
            raise ConnectionError(f"not stored: {_text(answer)}")
        self._begin(association)


def _text(answer: bytes) -> str:
    """What the receiver said, for the error message."""
    received = pdu.decode(answer[0], answer[pdu.HEADER_BYTES :])
    if isinstance(received, pdu.DataTF) and received.fragments[0].is_last:
        return str(decoding.decode(received.fragments[0].data))
    return str(received)


def store(port: int, path: Path, count: int) -> float:
    """Store all messages of a framed file over so many associations; returns the seconds that the loop took."""
    stored = read_messages(path)
    with associations(port, count, stored) as connections, select.epoll() as poller:
        return StoringLoop(poller, connections, stored).run()


def main() -> int:
    """Store what the arguments name."""
    parser = argparse.ArgumentParser(description="The sender of limit.py --receiver.")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("associations", type=int)
    arguments = parser.parse_args()
    print(store(arguments.port, arguments.file, arguments.associations))
    return 0


if __name__ == "__main__":
    sys.exit(main())
