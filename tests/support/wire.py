"""A peer that does exactly what a script says, over plain sockets and threads: for asyncio, uvloop and trio alike.

A script is a function of a `Wire`, the one connection that it plays on:

    def refuses_the_second(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wire.answer(wire.read_store(), status=0xA700)
        wire.answer_release()

    with ScriptedSCP(refuses_the_second) as scp:
        ...                                   # associate with scp.host, scp.port
    assert scp.wires[0].stores[1].message_id == 2

Leaving the block waits for the scripts to end and raises what went wrong in them. The first script plays the first
connection, the second the second; the last one plays all that follow. Nothing waits longer than `timeout_seconds`.
`play_scu(script, port)` plays one as the requestor, against an acceptor under test.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from asyncstore.dimse import decoding, messages
from asyncstore.status import Status
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.user_information import OperationsWindow, UserInformation

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.dimse.message_types import Message

LOOPBACK = "127.0.0.1"
HEADER_BYTES = 6
CT_CONTEXT = PresentationContext(1, CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,))

PDU: TypeAlias = (
    pdu.AssociateRQ | pdu.AssociateAC | pdu.AssociateRJ | pdu.ReleaseRQ | pdu.ReleaseRP | pdu.Abort | pdu.DataTF
)
P = TypeVar("P", bound=PDU)
T = TypeVar("T")


class ScriptError(AssertionError):
    """The other side did not do what the script expects of it."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A whole DIMSE message as it came: `data_set` is None where the command set announced none."""

    context_id: int
    message: Message
    data_set: bytes | None


@dataclass(frozen=True, slots=True)
class IncomingStore:
    """A whole C-STORE-RQ as it came."""

    context_id: int
    request: messages.CStoreRQ
    data_set: bytes

    @property
    def message_id(self) -> int:
        return self.request.message_id


class Wire:
    """One connection in a script's hands: reads and writes PDUs and messages, ends the connection as it is told.

    `received` has every PDU that came, in order, and `stores` every whole C-STORE-RQ. Each read waits for at most
    `timeout_seconds`; TimeoutError tells that nothing came.
    """

    def __init__(self, sock: socket.socket, timeout_seconds: float, stopping: threading.Event) -> None:
        sock.settimeout(timeout_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.timeout_seconds = timeout_seconds
        self.received: list[PDU] = []
        self.stores: list[IncomingStore] = []
        self.maximum_length = 16384
        self._stopping = stopping
        self._fragments: list[pdu.Fragment] = []

    # Reading

    def read_bytes(self, count: int) -> bytes:
        """Exactly `count` bytes; fewer when the other side closed or reset the connection before."""
        parts = []
        while count:
            try:
                part = self.sock.recv(min(count, 1 << 20))
            except ConnectionError:
                break
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def read_pdu(self) -> PDU | None:
        """The next PDU, or None when the connection ended before another one was whole."""
        header = self.read_bytes(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return None
        length = int.from_bytes(header[2:], "big")
        body = self.read_bytes(length)
        if len(body) < length:
            return None
        unit = pdu.decode(header[0], body)
        self.received.append(unit)
        return unit

    def expect(self, kind: type[P]) -> P:
        """The next PDU, which must be of this class: `wire.expect(Abort)`."""
        unit = self.read_pdu()
        if not isinstance(unit, kind):
            raise ScriptError(f"expected {kind.__name__}, but got {unit!r}")
        return unit

    def expect_closed(self) -> None:
        """Nothing more may come: neither a PDU nor a part of one, but the end of the connection."""
        rest = self.read_bytes(1)
        if rest:
            raise ScriptError(f"expected the end of the connection, but got 0x{rest[0]:02X}")

    def read_message(self) -> Incoming:
        """The next whole DIMSE message, however it was cut into PDUs and fragments."""
        command = self._read_fragments(is_command=True)
        message = decoding.decode(b"".join(fragment.data for fragment in command))
        data_set = None
        if message.has_data_set:
            data_set = b"".join(fragment.data for fragment in self._read_fragments(is_command=False))
        return Incoming(command[0].context_id, message, data_set)

    def read_store(self) -> IncomingStore:
        """The next whole message, which must be a C-STORE-RQ; it is also added to `stores`."""
        incoming = self.read_message()
        if not isinstance(incoming.message, messages.CStoreRQ) or incoming.data_set is None:
            raise ScriptError(f"expected a C-STORE-RQ, but got {incoming.message!r}")
        store = IncomingStore(incoming.context_id, incoming.message, incoming.data_set)
        self.stores.append(store)
        return store

    def read_stores(self, count: int) -> list[IncomingStore]:
        """The next `count` C-STORE-RQs; none is answered, so that they must fit the operations window."""
        return [self.read_store() for _ in range(count)]

    def _read_fragments(self, *, is_command: bool) -> list[pdu.Fragment]:
        """Fragments up to the last one of a command set or a data set."""
        found: list[pdu.Fragment] = []
        while not found or not found[-1].is_last:
            if not self._fragments:
                self._fragments.extend(self.expect(pdu.DataTF).fragments)
                continue
            fragment = self._fragments.pop(0)
            if fragment.is_command is not is_command or (found and fragment.context_id != found[0].context_id):
                raise ScriptError(f"a fragment out of place: {fragment!r:.200}")
            found.append(fragment)
        return found

    # Writing

    def send(self, *what: PDU | bytes) -> None:
        """Send PDUs and plain bytes, all in one piece."""
        self.sock.sendall(_encode(what))

    def dribble(self, *what: PDU | bytes, pause_seconds: float = 0.0) -> None:
        """Send them a byte at a time, each in a segment of its own, `pause_seconds` apart."""
        for byte in _encode(what):
            self.sock.sendall(bytes((byte,)))
            self._stopping.wait(pause_seconds)

    def send_message(self, context_id: int, command: Message | bytes, data_set: bytes | None = None) -> None:
        """Send a message, legal or not: the command set in one PDU, the data set in as many as it needs."""
        encoded = command if isinstance(command, bytes) else command.encode()
        self.send(pdu.DataTF((pdu.Fragment(context_id, True, True, encoded),)))
        if data_set is None:
            return
        step = self.maximum_length - HEADER_BYTES
        for start in range(0, max(len(data_set), 1), step):
            is_last = start + step >= len(data_set)
            self.send(pdu.DataTF((pdu.Fragment(context_id, False, is_last, data_set[start : start + step]),)))

    # Waiting

    def wait(self, event: threading.Event) -> None:
        """Go on when the test sets the event."""
        if not event.wait(self.timeout_seconds):
            raise ScriptError("the event that the script waits for was not set")

    def hold(self) -> None:
        """Neither read, nor write, nor close, until the `with` block of the test ends."""
        self._stopping.wait()

    def drain(self) -> None:
        """Read and record everything, answer nothing, until the other side ends the connection."""
        while self.read_pdu() is not None:
            pass

    # Ending

    def fin(self) -> None:
        """Send FIN; what comes is still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def rst(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    # As the acceptor

    def accept(
        self,
        *then: PDU | bytes,
        request: pdu.AssociateRQ | None = None,
        maximum_length: int = 16384,
        operations_window: OperationsWindow | None = None,
        transfer_syntax: str | None = None,
        results: Sequence[PresentationContextResult] | None = None,
    ) -> pdu.AssociateRQ:
        """Read the A-ASSOCIATE-RQ, unless `request` is the one that was read, and answer it with an A-ASSOCIATE-AC.

        Each context is accepted with `transfer_syntax` where it was proposed, else with its first one, and refused for
        its transfer syntaxes when another one is asked for; `results` replace all that. What comes `then` goes out in
        the same piece.
        """
        request = request or self.expect(pdu.AssociateRQ)
        self.maximum_length = request.user_information.maximum_length or self.maximum_length
        if results is None:
            results = [_result(context, transfer_syntax) for context in request.presentation_contexts]
        self.send(
            pdu.AssociateAC(
                request.called_ae_title,
                request.calling_ae_title,
                tuple(results),
                _user_information(maximum_length, operations_window),
            ),
            *then,
        )
        return request

    def answer(
        self,
        store: IncomingStore,
        status: int | Status = 0x0000,
        *,
        message_id: int | None = None,
        context_id: int | None = None,
        data_set: bytes | None = None,
    ) -> None:
        """Answer a C-STORE-RQ; the keyword arguments make the answer a wrong one."""
        response = messages.CStoreRSP(
            store.message_id if message_id is None else message_id,
            Status(status) if isinstance(status, int) else status,
            store.request.affected_sop_class_uid,
            store.request.affected_sop_instance_uid,
            data_set is not None,
        )
        self.send_message(store.context_id if context_id is None else context_id, response, data_set)

    def answer_release(self) -> None:
        """Read the A-RELEASE-RQ, answer it, and see the other side close the connection."""
        self.expect(pdu.ReleaseRQ)
        self.send(pdu.ReleaseRP())
        self.expect_closed()

    def serve_stores(self, status: int = 0x0000) -> int:
        """Answer every C-STORE-RQ with `status` and at last the release; returns how many there were."""
        count = 0
        while self._next_is_data():
            self.answer(self.read_store(), status)
            count += 1
        self.send(pdu.ReleaseRP())
        self.expect_closed()
        return count

    def _next_is_data(self) -> bool:
        """False when an A-RELEASE-RQ was read instead."""
        if self._fragments:
            return True
        unit = self.read_pdu()
        if isinstance(unit, pdu.DataTF):
            self._fragments.extend(unit.fragments)
            return True
        if isinstance(unit, pdu.ReleaseRQ):
            return False
        raise ScriptError(f"expected a C-STORE-RQ or A-RELEASE-RQ, but got {unit!r}")

    # As the requestor

    def associate(
        self,
        contexts: Sequence[PresentationContext] = (CT_CONTEXT,),
        *,
        called_ae_title: str = "ANY-SCP",
        calling_ae_title: str = "SCRIPTED",
        maximum_length: int = 16384,
        operations_window: OperationsWindow | None = None,
    ) -> pdu.AssociateAC:
        """Request an association, which must be accepted."""
        user_information = _user_information(maximum_length, operations_window)
        self.send(pdu.AssociateRQ(called_ae_title, calling_ae_title, tuple(contexts), user_information))
        answer = self.expect(pdu.AssociateAC)
        self.maximum_length = answer.user_information.maximum_length or self.maximum_length
        return answer

    def store(
        self,
        data_set: bytes,
        *,
        sop_instance_uid: str = "1.2.3.4",
        sop_class_uid: str = CT_IMAGE_STORAGE,
        message_id: int = 1,
        context_id: int = 1,
    ) -> Status:
        """Send a C-STORE-RQ and read its answer."""
        request = messages.CStoreRQ(message_id, sop_class_uid, sop_instance_uid)
        self.send_message(context_id, request, data_set)
        response = self.read_message().message
        if not isinstance(response, messages.CStoreRSP) or response.responded_to != message_id:
            raise ScriptError(f"expected the C-STORE-RSP to {message_id}, but got {response!r}")
        return response.status

    def release(self) -> None:
        """Release the association in good order and close the connection."""
        self.send(pdu.ReleaseRQ())
        self.expect(pdu.ReleaseRP)
        self.close()


Script: TypeAlias = Callable[[Wire], object]


def stores_everything(wire: Wire) -> None:
    """A script: a well-behaved Storage SCP without an operations window, for one association."""
    wire.accept()
    wire.serve_stores()


def stays_silent(wire: Wire) -> None:
    """A script: takes the connection and never reads nor answers."""
    wire.hold()


def _encode(what: Sequence[PDU | bytes]) -> bytes:
    return b"".join(part if isinstance(part, bytes) else part.encode() for part in what)


def _user_information(maximum_length: int, operations_window: OperationsWindow | None) -> UserInformation:
    return UserInformation(
        maximum_length=maximum_length,
        implementation_class_uid="1.2.3.4.5",
        implementation_version_name="SCRIPTED",
        operations_window=operations_window,
    )


def _result(context: PresentationContext, wanted: str | None) -> PresentationContextResult:
    syntax = wanted or context.transfer_syntaxes[0]
    result = 0 if syntax in context.transfer_syntaxes else 4
    return PresentationContextResult(context.context_id, result, syntax)


class ScriptedSCP:
    """An acceptor on a loopback port of its own (`host`, `port`) that plays scripts; `wires` are its connections.

    `receive_buffer_bytes` makes the kernel take little before it stops the sender: for scripts that never read. With
    `tls` each script begins behind the handshake.
    Everything runs in threads, so it may be used in blocking and in async tests; only leaving the block blocks, while
    the last script comes to its end.
    """

    ae_title = "SCRIPTED"

    def __init__(
        self,
        *scripts: Script,
        timeout_seconds: float = 30.0,
        receive_buffer_bytes: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._scripts = scripts or (stores_everything,)
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        self._waker, self._woken = socket.socketpair()
        if receive_buffer_bytes is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._listener.bind((LOOPBACK, 0))
        self.host = LOOPBACK
        self.port: int = self._listener.getsockname()[1]
        self.wires: list[Wire] = []
        self.errors: list[BaseException] = []

    @property
    def received(self) -> list[PDU]:
        """Every PDU of every connection, in the order of the connections."""
        return [unit for wire in self.wires for unit in wire.received]

    def __enter__(self) -> Self:
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._start(self._serve)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._waker.send(b"!")
        self._threads[0].join()
        for sock in (self._listener, self._waker, self._woken):
            sock.close()
        for wire in self.wires if error is not None else ():
            with contextlib.suppress(OSError):
                wire.sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        if error is None and self.errors:
            raise self.errors[0]

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        """Play a script for every connection, also for those that were made before the end and not accepted yet."""
        while True:
            select.select([self._listener, self._woken], [], [])
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                if self._stopping.is_set():
                    return
                continue
            except ConnectionAbortedError:
                continue
            sock.setblocking(True)
            wire = Wire(sock, self._timeout_seconds, self._stopping)
            script = self._scripts[min(len(self.wires), len(self._scripts) - 1)]
            self.wires.append(wire)
            self._start(self._play, script, wire)

    def _play(self, script: Script, wire: Wire) -> None:
        try:
            if self._tls is not None:
                wire.sock = self._tls.wrap_socket(wire.sock, server_side=True)
            script(wire)
        except BaseException as error:
            self.errors.append(error)
        finally:
            wire.close()


def play_scu(
    script: Callable[[Wire], T],
    port: int,
    host: str = LOOPBACK,
    timeout_seconds: float = 30.0,
    *,
    tls: ssl.SSLContext | None = None,
    source: str | None = None,
) -> T:
    """Connect as the requestor, play the script in this thread, close; returns what the script returned.

    An async test awaits it in a worker thread: `await anyio.to_thread.run_sync(play_scu, script, port)`. With `tls` the
    script begins behind the handshake; `source` is the address to call from.
    """
    with socket.create_connection((host, port), timeout_seconds, (source, 0) if source else None) as sock:
        secured = sock if tls is None else tls.wrap_socket(sock, server_hostname=host)
        with secured:
            return script(Wire(secured, timeout_seconds, threading.Event()))
