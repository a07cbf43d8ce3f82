"""A small Storage SCP: for `asyncstore storescp`, the demonstration, tests and benchmarks.

It keeps what it receives as PS3.10 files named by SOP Instance UID, or discards it. A file has its final name only when
the instance is whole. `on_store` decides what is answered, and when.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel

from asyncstore.aio.loop_share import LoopShare
from asyncstore.aio.signal import Signal
from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP
from asyncstore.dimse.reassembly import Reassembler
from asyncstore.errors import AsyncStoreError, LocalProtocolError, RemoteProtocolError
from asyncstore.net.peer import check_ae_title
from asyncstore.net.transport import ABORT_SECONDS, SocketTransport
from asyncstore.services.part_file import PartFile
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from asyncstore.upper_layer.framing import MINIMUM_LENGTH, fragment_capacity, frame_command
from asyncstore.upper_layer.items import OperationsWindow, PresentationContextResult, UserInformation
from asyncstore.upper_layer.machine import (
    AssociationRequested,
    DataReceived,
    ReleaseRequested,
    UpperLayer,
)
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ, Fragment

if TYPE_CHECKING:
    import os
    from collections.abc import Collection
    from types import TracebackType

    from asyncstore.upper_layer.machine import UpperLayerEvent

logger = logging.getLogger("asyncstore.net.acceptor")

# PS3.5 9.1; what does not look like a UID never becomes part of a file name.
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*\Z")
_INVALID_SOP_INSTANCE: Final = Status(0x0117, "the SOP Instance UID is not a UID")
_OUT_OF_RESOURCES: Final = Status(0xA700, "cannot write the file")
_OTHER_SOP_CLASS: Final = Status(0x0122, "the presentation context is for another SOP class")
_HOOK_FAILED: Final = Status(0x0110, "the receiver failed to handle the instance")
_UNLIMITED_WINDOW: Final = 64
# How often an association is looked at until it counts as idle. What is counted is looks, and no time: nobody was idle
# while the whole program stood still.
_LOOKS: Final = 10

# The AE title of an acceptor that may be called by any.
ANY_SCP: Final = "ANY-SCP"
# PS3.8 Table 9-21: permanent, by the service user, called AE title not recognised; transient, local limit exceeded.
_WRONG_CALLED_AE_TITLE: Final = AssociateRJ(1, 1, 7)
_WRONG_CALLING_AE_TITLE: Final = AssociateRJ(1, 1, 3)
_LIMIT_EXCEEDED: Final = AssociateRJ(2, 3, 2)
# PS3.8 Table 9-18, result/reason of a presentation context.
_ACCEPTED, _ABSTRACT_SYNTAX_UNKNOWN, _TRANSFER_SYNTAXES_UNKNOWN = 0, 3, 4


@dataclass(frozen=True, slots=True)
class Arrival:
    """An instance that was wholly received: who sent it as what, how long its data set is, and where it was kept.

    `path` is None when it was discarded.
    """

    calling_ae_title: str
    request: CStoreRQ
    transfer_syntax_uid: str
    data_set_bytes: int
    path: Path | None


Answer: TypeAlias = Status | int | None
OnStore: TypeAlias = Callable[[Arrival], Answer | Awaitable[Answer]]
"""Decides the answer to an instance: a Status or its value, or None for no answer at all. An awaitable one is awaited
beside the others, so that answers can be late and come in any order; it goes on when its peer has gone, and is
cancelled when the StorageSCP ends. When it raises, or gives anything else, that is logged, and the answer is 0110."""


@dataclass(slots=True)
class _Incoming:
    """An instance whose data set is arriving."""

    context_id: int
    request: CStoreRQ
    transfer_syntax_uid: str
    status: Status = SUCCESS
    data_set_bytes: int = 0
    file: PartFile | None = None


class StorageSCP:
    """Receives instances on a TCP port: `async with StorageSCP(port=0) as scp` listens until the block is left.

    `port` 0 takes a free one, which `port` then tells. `output_directory` None discards. Whoever calls another AE title
    than `ae_title` is rejected, unless that is ANY-SCP; `called_ae_titles` are those to accept in its place, and
    `calling_ae_titles` the callers that are accepted (None: any). `sop_classes` and `transfer_syntaxes` likewise (None:
    every one of the standard), in order of preference. `maximum_length` is in bytes (0: unlimited), `window` is how
    many operations a peer may have outstanding. `maximum_associations` more are rejected as "local limit exceeded".
    An association is aborted when its peer neither sends nor takes a byte for `idle_seconds` (0: without limit) and
    does not wait for `on_store`; leaving the block aborts all that are open. Entering it raises OSError when the port
    cannot be had, or when there is no such directory.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ae_title: str = ANY_SCP,
        output_directory: str | os.PathLike[str] | None = None,
        called_ae_titles: Collection[str] | None = None,
        calling_ae_titles: Collection[str] | None = None,
        sop_classes: Collection[str] | None = None,
        transfer_syntaxes: Collection[str] | None = None,
        maximum_length: int = 131072,
        window: int = 16,
        maximum_associations: int = 0,
        acse_seconds: float = 30.0,
        idle_seconds: float = 600.0,
        on_store: OnStore | None = None,
    ) -> None:
        _check_range("port", port, 0, 65535)
        _check_range("maximum_length", maximum_length or MINIMUM_LENGTH, MINIMUM_LENGTH, 0xFFFFFFFF)
        _check_range("window", window, 1, 0xFFFF)
        _check_range("maximum_associations", maximum_associations, 0, math.inf)
        _check_range("acse_seconds", acse_seconds, 0.001, math.inf)
        _check_range("idle_seconds", idle_seconds, 0, math.inf)
        self.host = host
        self.port = port
        self.ae_title = check_ae_title(ae_title)
        self.output_directory = None if output_directory is None else Path(output_directory)
        if called_ae_titles is None and ae_title != ANY_SCP:
            called_ae_titles = ae_title
        self.called_ae_titles = None if called_ae_titles is None else _titles(called_ae_titles)
        self.calling_ae_titles = None if calling_ae_titles is None else _titles(calling_ae_titles)
        self.sop_classes = frozenset(STORAGE_SOP_CLASSES if sop_classes is None else _several(sop_classes))
        self.sop_classes |= {VERIFICATION}
        self.transfer_syntaxes = None if transfer_syntaxes is None else _several(transfer_syntaxes)
        self.maximum_length = maximum_length
        self.window = window
        self.maximum_associations = maximum_associations
        self.acse_seconds = acse_seconds
        self.idle_seconds = idle_seconds
        self.on_store = on_store
        self.stored = 0
        self.failed = 0
        self.associations = 0
        self._open: set[AcceptedAssociation] = set()
        self._stack: contextlib.AsyncExitStack

    async def __aenter__(self) -> Self:
        self._check_directory()
        listener = socket.create_server((self.host, self.port), backlog=128, family=_family(self.host))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(listener.close)
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._group.start_soon(self._listen, listener)
            self._group.start_soon(self._watch)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._stack.aclose()

    def _check_directory(self) -> None:
        directory = self.output_directory
        if directory is not None and not directory.is_dir():
            raise NotADirectoryError(f"output_directory {str(directory)!r} is not a directory: create it first")

    async def _listen(self, listener: socket.socket) -> None:
        loop_share = LoopShare()
        while True:
            if loop_share.is_used_up():
                await loop_share.renew()
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                await anyio.wait_readable(listener)
            except OSError as error:  # out of descriptors, or a connection that was reset before it was accepted
                logger.error("cannot accept a connection: %s", error)
                await anyio.sleep(0.05)
            else:
                self._group.start_soon(self._serve, sock)

    async def _serve(self, sock: socket.socket) -> None:
        """One association from its first byte to its last; nothing that a peer does ends another's."""
        transport = SocketTransport(sock)
        over_limit = 0 < self.maximum_associations <= len(self._open)
        association = AcceptedAssociation(self, transport, over_limit=over_limit)
        self._open.add(association)
        async with anyio.create_task_group() as hooks:  # those at work finish also when the peer has gone
            try:
                await association.run(hooks)
            except AsyncStoreError as error:
                logger.info("association ended: %s", error)
            finally:
                association.close()
                with anyio.CancelScope(shield=True):
                    await association.discard()
                self._open.remove(association)

    async def _watch(self) -> None:
        """Look for associations that are idle."""
        while self.idle_seconds:
            await anyio.sleep(self.idle_seconds / _LOOKS)
            for association in tuple(self._open):
                association.look()


class AcceptedAssociation:
    """One association as its acceptor."""

    def __init__(self, scp: StorageSCP, transport: SocketTransport, *, over_limit: bool) -> None:
        self._scp = scp
        self._transport = transport
        self._over_limit = over_limit
        self._upper_layer = UpperLayer(acceptor=True, maximum_length=scp.maximum_length, artim_seconds=scp.acse_seconds)
        self._reassembler = Reassembler()
        self._contexts: dict[int, tuple[str, str]] = {}
        self._calling_ae_title = ""
        self._capacity = 0
        self._incoming: _Incoming | None = None
        self._writing = anyio.Lock(fast_acquire=True)
        self._is_amid_sending = False
        self._window = 1
        self._hooks_at_work = 0
        self._unanswered = 0  # those, and the hooks that have ended and whose answers are still being sent
        self._answered = Signal()
        self._quiet_looks = 0
        self._loop_share = LoopShare()
        self._hooks: anyio.abc.TaskGroup

    async def run(self, hooks: anyio.abc.TaskGroup) -> None:
        """Serve until the association ends; hooks that are awaited run in `hooks`, and may last longer."""
        self._hooks = hooks
        self._upper_layer.transport_opened(time.monotonic())
        while not self._upper_layer.closing:
            if self._loop_share.is_used_up():
                await self._loop_share.renew()
            data = await self._receive()
            self._quiet_looks = 0
            if data is None:
                continue
            now = time.monotonic()
            try:
                events = self._upper_layer.receive_data(data, now) if data else self._upper_layer.receive_eof(now)
                for event in events:
                    await self._handle(event)
            except RemoteProtocolError:
                with contextlib.suppress(LocalProtocolError):  # the upper layer has queued one for what it found itself
                    self._upper_layer.abort(now, source=2)
                with anyio.move_on_after(ABORT_SECONDS):
                    await self._flush()
                raise
            await self._flush()

    async def _receive(self) -> bytes | None:
        """Bytes from the peer; None when the ARTIM timer ran out meanwhile."""
        deadline_at = self._upper_layer.artim_deadline_at
        if deadline_at is None:
            return await self._transport.receive()
        with anyio.move_on_after(deadline_at - time.monotonic()):
            return await self._transport.receive()
        self._upper_layer.check_deadline(time.monotonic())
        return None

    async def _flush(self) -> None:
        data = self._upper_layer.data_to_send()
        if data:
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        async with self._writing:
            view = memoryview(data)
            while view:
                taken = self._transport.send_some((view,))
                view = view[taken:]
                if view:
                    self._is_amid_sending = True
                    await self._transport.wait_writable()
                    self._quiet_looks = 0
            self._is_amid_sending = False

    async def _handle(self, event: UpperLayerEvent) -> None:
        if isinstance(event, DataReceived):
            for fragment in event.fragments:
                await self._take(fragment)
                if self._loop_share.is_used_up():
                    await self._loop_share.renew()
        elif isinstance(event, AssociationRequested):
            self._negotiate(event.request)
        elif isinstance(event, ReleaseRequested):
            self._upper_layer.answer_release(time.monotonic())

    # -- the association -----------------------------------------------------------------------------------------------

    def _negotiate(self, request: AssociateRQ) -> None:
        """Accept or reject what the peer proposes."""
        scp, now = self._scp, time.monotonic()
        if self._over_limit:
            self._upper_layer.reject(_LIMIT_EXCEEDED, now)
        elif scp.called_ae_titles is not None and request.called_ae_title not in scp.called_ae_titles:
            self._upper_layer.reject(_WRONG_CALLED_AE_TITLE, now)
        elif scp.calling_ae_titles is not None and request.calling_ae_title not in scp.calling_ae_titles:
            self._upper_layer.reject(_WRONG_CALLING_AE_TITLE, now)
        else:
            scp.associations += 1
            self._calling_ae_title = request.calling_ae_title
            self._capacity = fragment_capacity(request.user_information.maximum_length)
            self._upper_layer.accept(self._answer(request), now)

    def _answer(self, request: AssociateRQ) -> AssociateAC:
        results = []
        for context in request.presentation_contexts:
            syntax = self._choose(context.transfer_syntaxes)
            if context.abstract_syntax not in self._scp.sop_classes:
                result = PresentationContextResult(context.context_id, _ABSTRACT_SYNTAX_UNKNOWN, "")
            elif syntax is None:
                result = PresentationContextResult(context.context_id, _TRANSFER_SYNTAXES_UNKNOWN, "")
            else:
                result = PresentationContextResult(context.context_id, _ACCEPTED, syntax)
                self._contexts[context.context_id] = (context.abstract_syntax, syntax)
            results.append(result)
        window = request.user_information.operations_window
        self._window = granted = min(window.invoked or _UNLIMITED_WINDOW, self._scp.window) if window else 1
        return AssociateAC(
            called_ae_title=request.called_ae_title,
            calling_ae_title=request.calling_ae_title,
            results=tuple(results),
            user_information=UserInformation(
                maximum_length=self._scp.maximum_length,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
                operations_window=OperationsWindow(granted, 1) if granted > 1 else None,
            ),
        )

    def _choose(self, proposed: Collection[str]) -> str | None:
        """The transfer syntax to accept: our first that is proposed, or, without a wish of ours, the peer's first."""
        wanted = self._scp.transfer_syntaxes
        if wanted is None:
            return next((uid for uid in proposed if uid in TRANSFER_SYNTAXES), None)
        return next((uid for uid in wanted if uid in proposed), None)

    # -- messages ------------------------------------------------------------------------------------------------------

    async def _take(self, fragment: Fragment) -> None:
        """One fragment of a command set or of a data set."""
        if fragment.is_command:
            message = self._reassembler.receive_command(fragment)
            if message is not None:
                await self._begin(fragment.context_id, message)
            return
        self._reassembler.receive_data_set(fragment)
        incoming = self._incoming
        assert incoming is not None, "only a C-STORE-RQ is followed by a data set"
        incoming.data_set_bytes += len(fragment.data)
        if incoming.file is not None:
            await incoming.file.write(fragment.data)
        if fragment.is_last:
            self._incoming = None
            await self._end(incoming)

    async def _begin(self, context_id: int, message: object) -> None:
        """A request has come; of a C-STORE the data set is still to come."""
        if context_id not in self._contexts:
            raise RemoteProtocolError(
                f"{context_id} was not accepted", pdu="P-DATA-TF", field="Presentation Context ID"
            )
        if isinstance(message, CEchoRQ):
            await self._answer_message(context_id, CEchoRSP(message.message_id, SUCCESS))
        elif isinstance(message, CStoreRQ):
            abstract_syntax, transfer_syntax_uid = self._contexts[context_id]
            self._incoming = incoming = _Incoming(context_id, message, transfer_syntax_uid)
            if message.affected_sop_class_uid != abstract_syntax:
                incoming.status = _OTHER_SOP_CLASS
            elif self._scp.output_directory is not None:
                if _UID.match(message.affected_sop_instance_uid):
                    incoming.file = PartFile(self._scp.output_directory, message, transfer_syntax_uid)
                else:
                    incoming.status = _INVALID_SOP_INSTANCE
        else:
            raise RemoteProtocolError(
                f"{getattr(message, 'name', 'the message')} is not supported", pdu="DIMSE", field="Command Field"
            )

    async def _end(self, incoming: _Incoming) -> None:
        """The data set is whole: keep it, and answer."""
        path: Path | None = None
        if incoming.file is not None:
            try:
                path = await incoming.file.keep()
            except OSError as error:
                logger.error("cannot keep an instance: %s", error)
                incoming.status = _OUT_OF_RESOURCES
        on_store = self._scp.on_store
        if on_store is None or not incoming.status.is_stored:
            await self._answer_store(incoming, incoming.status)
            return
        request, transfer_syntax_uid = incoming.request, incoming.transfer_syntax_uid
        arrival = Arrival(self._calling_ae_title, request, transfer_syntax_uid, incoming.data_set_bytes, path)
        while self._unanswered >= self._window:  # the peer does not keep to it
            await self._answered.wait()
        status: Status | Awaitable[Answer] | None = _HOOK_FAILED
        with _FailureLogged(request):
            answer = on_store(arrival)
            status = answer if isinstance(answer, Awaitable) else _checked(answer)
        if status is not None and not isinstance(status, Status):
            self._unanswered += 1
            self._hooks.start_soon(self._answer_later, incoming, status)
        else:
            await self._answer_store(incoming, status)

    async def _answer_later(self, incoming: _Incoming, awaitable: Awaitable[Answer]) -> None:
        status: Status | None = _HOOK_FAILED
        self._hooks_at_work += 1
        with _FailureLogged(incoming.request):
            status = _checked(await awaitable)
        self._hooks_at_work -= 1
        with contextlib.suppress(AsyncStoreError):  # the peer has gone before its answer
            await self._answer_store(incoming, status)
        self._unanswered -= 1
        self._answered.set()

    async def _answer_store(self, incoming: _Incoming, status: Status | None) -> None:
        if status is None:
            return
        if status.is_stored:
            self._scp.stored += 1
        else:
            self._scp.failed += 1
        request = incoming.request
        await self._answer_message(
            incoming.context_id,
            CStoreRSP(request.message_id, status, request.affected_sop_class_uid, request.affected_sop_instance_uid),
        )

    async def _answer_message(self, context_id: int, message: CEchoRSP | CStoreRSP) -> None:
        await self._send(frame_command(context_id, message.encode(), self._capacity))

    def look(self) -> None:
        """Abort when nothing has come from the peer, and nothing is owed to it, for some looks."""
        self._quiet_looks = 0 if self._hooks_at_work else self._quiet_looks + 1
        if self._quiet_looks > _LOOKS:
            logger.info("an association was idle for %g s", self._scp.idle_seconds)
            self.close()

    def close(self) -> None:
        """Close the connection, now; what is still open is aborted, if the peer takes that at once."""
        with contextlib.suppress(AsyncStoreError):  # there is nobody to tell
            self._upper_layer.abort(time.monotonic())
            if not self._is_amid_sending:
                self._transport.send_some((self._upper_layer.data_to_send(),))
        self._transport.close()

    async def discard(self) -> None:
        """Forget an instance that was not whole when the association ended."""
        if self._incoming is not None and self._incoming.file is not None:
            await self._incoming.file.discard()


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} cannot be {value}")


def _several(words: Collection[str]) -> tuple[str, ...]:
    """The words; a single one may stand for itself."""
    return (words,) if isinstance(words, str) else tuple(words)


def _titles(titles: Collection[str]) -> frozenset[str]:
    """AE titles as they arrive, without the spaces that pad them."""
    return frozenset(check_ae_title(title).strip(" ") for title in _several(titles))


def _checked(answer: Answer) -> Status | None:
    """What on_store gave, as a Status that can be sent; raises TypeError or LocalProtocolError when it is none."""
    if answer is None or answer is SUCCESS:
        return answer
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = Status(answer)
    if not isinstance(answer, Status):
        raise TypeError(f"on_store gave a {type(answer).__name__}, not a Status, the value of one, or None")
    CStoreRSP(1, answer).encode()
    return answer


class _FailureLogged:
    """What a hook raises ends nothing but the block; a generator would take three times as long for every instance."""

    def __init__(self, request: CStoreRQ) -> None:
        self._uid = request.affected_sop_instance_uid

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        logger.error("on_store failed for %r", self._uid, exc_info=error)
        return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
