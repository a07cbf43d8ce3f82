"""The archive of a cluster that is killed: a Storage SCP that keeps nothing, and notes when it was sent what by whom.

What was sent is read without any code of asyncstore, because the notes are evidence about it. It takes long data sets
slowly, and answers late, so that whatever happens to a sender finds some under way. All times are of `time.monotonic`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.user_information import OperationsWindow, UserInformation
from tests.support.hosts import listen
from tests.support.tap import C_STORE_RQ, HEADER_BYTES, P_DATA_TF, Command, Reframer, read_command

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from typing import Self

WINDOW: Final = 16
_A_ASSOCIATE_RQ: Final = 0x01
_A_RELEASE_RQ: Final = 0x05
_A_ABORT: Final = 0x07
_A_RELEASE_RP: Final = struct.pack(">BxI4x", 0x06, 4)
_MAXIMUM_LENGTH: Final = 65536
_KERNEL_BYTES: Final = 1 << 16  # of a connection; the rest stays at its sender
_LONG_BYTES: Final = 1 << 17
_LATEST_ANSWER_SECONDS: Final = 0.02
_REST_SECONDS: Final = 0.05
_RESPONSE_OF_A_REQUEST: Final = 0x8000
_NO_DATA_SET: Final = 0x0101


@dataclass(slots=True)
class Association:
    """One association; it ended by "release", "abort", or "lost" with its connection."""

    number: int
    host: str
    opened_at: float
    ended_at: float | None = None
    ending: str = ""


@dataclass(slots=True)
class Request:
    """One C-STORE-RQ; `last_at` is when its latest byte came, `digest` that of its data set when it was whole."""

    association: int
    sop_instance_uid: str
    begun_at: float
    last_at: float
    whole_at: float | None = None
    answered_at: float | None = None
    digest: str = ""


class Receiver:
    """Listens at `address`, on a port of its own. `host_of` names the sender of a connection by its address there."""

    def __init__(self, address: str, host_of: Callable[[str, int], str], chance: random.Random) -> None:
        self.address = address
        self.port = 0
        self.associations: list[Association] = []
        self.requests: list[Request] = []
        self.whole: set[str] = set()
        """The SOP Instance UIDs that came whole."""
        self.host_of = host_of
        self.chance = chance
        self.progress = asyncio.Event()
        """Set, and replaced, with each instance that came whole."""
        self.holds_from: float = math.inf
        """When so many have come whole, no more is answered until `let_go`: whatever must happen before the end can."""
        self._held: list[Callable[[], None]] = []
        self._connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        listener = listen(self.address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in tuple(self._connections):
            connection.end("lost")
        await asyncio.sleep(0)

    def answer(self, give: Callable[[], None]) -> None:
        """Answer now, or when answers are not held back any more."""
        if len(self.whole) >= self.holds_from:
            self._held.append(give)
        else:
            give()

    def let_go(self) -> None:
        """Hold nothing back from now on."""
        self.holds_from = math.inf
        held, self._held = self._held, []
        for give in held:
            give()

    def joins(self, connection: _Connection) -> None:
        """A sender has connected."""
        self._connections.add(connection)

    def leaves(self, connection: _Connection) -> None:
        """Its connection has ended."""
        self._connections.discard(connection)

    def notes_whole(self, request: Request) -> None:
        """An instance has come whole."""
        self.whole.add(request.sop_instance_uid)
        self.progress.set()
        self.progress = asyncio.Event()


class _Connection(asyncio.Protocol):
    """One sender's connection."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._reframer = Reframer()
        self._transport: asyncio.Transport
        self._association: Association | None = None
        self._command = bytearray()
        self._waiting: Command | None = None  # whose data set comes
        self._request: Request | None = None
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._answer_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._receiver.joins(self)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        for unit in self._reframer.feed(data):
            self._take(unit, now)
        if self._request is not None:
            self._request.last_at = now
            self._bytes += len(data)
            if self._bytes > _LONG_BYTES:
                self._rest()

    def _rest(self) -> None:
        self._transport.pause_reading()
        seconds = self._receiver.chance.uniform(0, _REST_SECONDS)
        asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.end("lost")
        self._receiver.leaves(self)

    def end(self, how: str) -> None:
        """The association has ended, unless it has before."""
        if self._association is not None and self._association.ended_at is None:
            self._association.ended_at, self._association.ending = time.monotonic(), how
        self._transport.close()

    def _take(self, unit: bytes, now: float) -> None:
        if unit[0] == P_DATA_TF:
            self._take_fragments(unit, now)
        elif unit[0] == _A_ASSOCIATE_RQ:
            self._accept(unit)
        elif unit[0] == _A_RELEASE_RQ:
            self._transport.write(_A_RELEASE_RP)
            self.end("release")
        elif unit[0] == _A_ABORT:
            self.end("abort")

    def _accept(self, unit: bytes) -> None:
        asked = pdu.decode(unit[0], unit[HEADER_BYTES:])
        assert isinstance(asked, pdu.AssociateRQ)
        results = tuple(
            PresentationContextResult(each.context_id, 0, each.transfer_syntaxes[0])
            for each in asked.presentation_contexts
        )
        is_asked = asked.user_information.operations_window is not None
        window = OperationsWindow(self._receiver.chance.choice((1, WINDOW)), 1) if is_asked else None
        ours = UserInformation(_MAXIMUM_LENGTH, "1.2.826.0.1.3680043.8.498.1", operations_window=window)
        self._transport.write(pdu.AssociateAC(asked.called_ae_title, asked.calling_ae_title, results, ours).encode())
        host = self._receiver.host_of(*self._transport.get_extra_info("peername")[:2])
        self._association = Association(len(self._receiver.associations) + 1, host, time.monotonic())
        self._receiver.associations.append(self._association)

    def _take_fragments(self, unit: bytes, now: float) -> None:
        position = HEADER_BYTES
        while position + HEADER_BYTES <= len(unit):
            length, context_id, flags = struct.unpack_from(">IBB", unit, position)
            data = unit[position + HEADER_BYTES : position + 4 + length]
            position += 4 + length
            if flags & 1:
                self._command += data
                if flags & 2:
                    self._begin(read_command(context_id, bytes(self._command)), now)
                    self._command.clear()
            elif self._request is not None:
                self._hash.update(data)
                if flags & 2:
                    self._end_request(self._request)

    def _begin(self, command: Command, now: float) -> None:
        assert self._association is not None, "a message without an association"
        if command.field != C_STORE_RQ:
            self._transport.write(_response(command, ""))
            return
        self._waiting = command
        self._request = Request(self._association.number, command.sop_instance_uid, now, now)
        self._receiver.requests.append(self._request)
        self._hash, self._bytes = hashlib.sha256(), 0

    def _end_request(self, request: Request) -> None:
        command, self._request = self._waiting, None
        assert command is not None
        request.last_at = request.whole_at = time.monotonic()
        request.digest = self._hash.hexdigest()
        self._receiver.notes_whole(request)
        # One after the other, as they came.
        latest = self._receiver.chance.uniform(0, _LATEST_ANSWER_SECONDS)
        self._answer_at = max(self._answer_at, request.whole_at + latest)
        give = functools.partial(self._answer, request, command)
        asyncio.get_running_loop().call_at(self._answer_at, self._receiver.answer, give)

    def _answer(self, request: Request, command: Command) -> None:
        if self._association is not None and self._association.ended_at is None and not self._transport.is_closing():
            request.answered_at = time.monotonic()
            self._transport.write(_response(command, request.sop_instance_uid))


def _response(command: Command, sop_instance_uid: str) -> bytes:
    """A success as P-DATA-TF, of a C-STORE-RQ or of a C-ECHO-RQ."""
    uid = sop_instance_uid.encode() + b"\0" * (len(sop_instance_uid) % 2)
    values = {
        0x0100: struct.pack("<H", command.field | _RESPONSE_OF_A_REQUEST),
        0x0120: struct.pack("<H", command.message_id or 0),
        0x0800: struct.pack("<H", _NO_DATA_SET),
        0x0900: struct.pack("<H", 0),
        **({0x1000: uid} if uid else {}),
    }
    elements = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in values.items())
    group = struct.pack("<HHII", 0, 0, 4, len(elements)) + elements
    return struct.pack(">BxIIBB", P_DATA_TF, len(group) + 6, len(group) + 2, command.context_id, 3) + group
