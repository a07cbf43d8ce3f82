"""An upper layer on a transport: PDUs in and out, from the first byte of an association to its last.

Bytes of the peer are taken in as they come, also while a message is being written, so that an abort or an early
response can interrupt a blocked send. A link that failed stays failed: every wait on it ends with the same exception.
`Association`, which is a Link, handles the contents of the PDUs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

from asyncstore.aio.signal import Signal, is_cancelled
from asyncstore.dimse.operations import Operations
from asyncstore.errors import (
    Aborted,
    AssociationLost,
    AssociationRejected,
    AsyncStoreError,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
)
from asyncstore.net import trace
from asyncstore.net.trace import Tracing
from asyncstore.net.transport import ABORT_SECONDS
from asyncstore.net.writer import Writer
from asyncstore.upper_layer.framing import HEADER_BYTES
from asyncstore.upper_layer.machine import (
    AbortReceived,
    ReleaseConfirmed,
    ReleaseRequested,
    TransportClosed,
    UpperLayer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from anyio.abc import TaskGroup

    from asyncstore.dimse.operations import Operation
    from asyncstore.net.peer import Timeouts
    from asyncstore.net.transport import Transport
    from asyncstore.net.writer import Pacer
    from asyncstore.upper_layer.machine import UpperLayerEvent

logger: logging.Logger = logging.getLogger("asyncstore.net")


class Link(Tracing):
    """The part of an Association that knows PS3.8 and the connection.

    `established`: the association was established. `is_open`: since then it has neither failed nor been released.
    `failure` is the reason why it ended too early, None while all is well; `on_failure` is called when it is set.
    `pacer` is what data sets keep pace with, None while there is no limit; it may change at any time. `operations` has
    the operations that we invoked, `outstanding` those of them that the peer has not answered, by Message ID.
    `streamed_bytes` counts data set bytes sent beyond the first STREAMED_AFTER_BYTES of each instance; `written` is the
    Message ID of the latest larger one, and how many bytes of its data set are written. `transport` and `writer` exist
    once it is opened.
    """

    transport: Transport
    writer: Writer

    def __init__(self, *, acceptor: bool, maximum_length: int, timeouts: Timeouts) -> None:
        super().__init__()
        self.timeouts = timeouts
        self.on_failure: Callable[[], object] = _nothing
        self.established = False
        self.is_open: bool = False
        self.streamed_bytes = 0
        self.pacer: Pacer | None = None
        self.written: tuple[int, int] = (0, 0)
        self.failure: AsyncStoreError | None = None
        self.operations: Operations = Operations(tolerate=lambda error: self._tolerate(error, trace.AnsweredAmiss))
        self.outstanding: Mapping[int, Operation] = self.operations.outstanding
        self.waiting_since: float = 0.0  # time of the latest response, or when the only operation was sent
        self.changed: Signal = Signal()  # for tasks that wait for room or the release; each response has its own
        self.awaited: set[Signal] = set()  # set when it fails
        self._upper_layer = UpperLayer(
            acceptor=acceptor,
            maximum_length=maximum_length,
            artim_seconds=timeouts.acse_seconds,
            tolerate=self._tolerate,
        )
        self._receive = self._on_readable  # called when something can be read
        self._pause: Any = None  # an awaitable that the peer's requests wait for; nothing is read meanwhile
        self._is_paused = False
        self._is_amid = False  # a part of a PDU or of a message has come, and its end has not
        self._backlog: deque[UpperLayerEvent] = deque()
        self._mistake: Exception | None = None
        self._releasing = False
        self._released = False
        self._background: TaskGroup
        self._attention: anyio.CancelScope
        self._has_ended: anyio.Event
        self._watching: anyio.CancelScope

    # -- for subclasses ------------------------------------------------------------------------------------------------

    def _negotiate(self, event: UpperLayerEvent) -> Awaitable[object] | None:
        """Handle an event of negotiation; an awaitable that is returned must be awaited."""
        raise NotImplementedError

    def _is_amid_message(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        raise NotImplementedError

    async def _discard(self) -> None:
        """Forget a message that had come only in part when the association ended."""
        raise NotImplementedError

    async def _watch_deadlines(self) -> None:
        """Fail the association when an answer is overdue; close it when the ARTIM timer runs out (PS3.8 9.1.5)."""
        raise NotImplementedError

    def _trace_failure(self, error: AsyncStoreError) -> None:
        """Log why the association ended, unless that was logged already."""
        raise NotImplementedError

    def _resume(self) -> Awaitable[object] | None:
        """Go on after a pause; an awaitable that is returned must be awaited in turn."""
        raise NotImplementedError

    # -- its beginning and its end -------------------------------------------------------------------------------------

    async def _open(self, transport: Transport, network_seconds: float) -> None:
        """Begin to take in what the peer sends."""
        self.transport = transport
        self.writer = Writer(transport, network_seconds)
        self._attention = anyio.CancelScope()
        self._has_ended = anyio.Event()
        self._background = anyio.create_task_group()
        await self._background.__aenter__()
        self._background.start_soon(self._attend)

    async def _close(self) -> None:
        """Close the connection; returns when no task works for the association any more."""
        self.transport.close()
        self._attention.cancel()
        await self._background.__aexit__(None, None, None)

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> None:
        """Run a task that ends with the association at the latest."""
        self._background.start_soon(function, *arguments)

    async def release(self) -> None:
        """Release the association (PS3.8 7.2) and close the connection; does nothing if that was done before.

        It is not an error if the peer closes the connection, answers nonsense or does not answer: what it acknowledged
        before still counts. Raises LocalProtocolError while operations are outstanding.
        """
        self._check_established()
        if self._releasing:
            while not self.transport.is_closed:
                await self.changed.wait()
            return
        self.check_not_failed()
        if self.outstanding:
            raise LocalProtocolError(f"a release would lose operations that are outstanding: {len(self.outstanding)}")
        self._trace(trace.Releasing)
        self._releasing = True
        self.is_open = False
        self._upper_layer.release(time.monotonic())
        lost = contextlib.suppress(AssociationLost, RemoteProtocolError)
        try:
            with anyio.move_on_after(self.timeouts.acse_seconds), lost:
                await self._flush()
                while not self._released:
                    self.check_not_failed()
                    await self.changed.wait()
        finally:
            self.transport.close()
            self.changed.set()

    async def abort(self) -> None:
        """Abort the association (PS3.8 7.3) and close the connection, within 5 seconds, even when cancelled.

        A request that is partly written is cut off: its last fragment is never sent.
        """
        self._check_established()
        await self._abort()

    async def _abort(self) -> None:
        if self.transport.is_closed:
            return
        self.fail(AssociationLost("the association was aborted"))
        try:
            # A peer that rejected, aborted or left before the association was established needs no A-ABORT.
            if self.established or not isinstance(self.failure, AssociationRejected | Aborted | ConnectionLost):
                await self._send_abort()
        finally:
            self.transport.close()
            self.changed.set()

    async def _send_abort(self) -> None:
        """Send an A-ABORT where the protocol allows one, within a bounded time."""
        writer = self.writer
        with anyio.move_on_after(ABORT_SECONDS, shield=True), contextlib.suppress(AsyncStoreError):
            await writer.turn.wait()  # another task may be in the middle of a PDU, and ends soon
            with writer.turn:
                if not await writer.finish_pdu():
                    self.transport.close(reset=True)
                    return
                with contextlib.suppress(LocalProtocolError):  # one may be queued already, or the peer's may have come
                    self._upper_layer.abort(time.monotonic(), source=self._abort_source())
                    self._trace(trace.Aborting)
                await self._flush()

    def _abort_source(self) -> int:
        """The source of an A-ABORT of ours (PS3.8 Table 9-26): 0 is the service user."""
        return 0

    async def _flush(self) -> None:
        """Write what the upper layer has queued."""
        data = self._upper_layer.data_to_send()
        if data:
            await self.writer.send_bytes(data)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take in what the peer sends, but nothing while its requests must wait for something."""
        try:
            while not self.transport.is_closed:
                with anyio.CancelScope() as self._watching:
                    try:
                        await self.transport.watch(self._receive)
                    except ConnectionLost as error:
                        self.fail(error)
                await self._catch_up()
        finally:
            if hasattr(self._pause, "close"):  # a coroutine, for example, that is not awaited any more
                self._pause.close()

    async def _catch_up(self) -> None:
        """Await what the peer's requests wait for, and handle the events behind them."""
        if not self._is_paused:
            return
        try:
            while self._is_paused:
                if (pause := self._pause) is not None:
                    self._pause = None
                    await pause
                    self._pause = self._resume()
                    continue
                self._is_paused = False
                while self._backlog and not self._is_paused:
                    self._on_event(self._backlog.popleft())
            self._raise_error(time.monotonic())
        except AsyncStoreError as error:
            self.ended_by(error)
        except (Exception, anyio.get_cancelled_exc_class()) as mistake:
            if not isinstance(mistake, Exception) and is_cancelled():
                raise
            self.fail(self._lost_by(mistake))

    def _on_readable(self) -> None:
        """Take in what has arrived; called by the event loop."""
        if self._released or self.failure is not None or self.transport.is_closed:
            return
        try:
            data = self.transport.receive_some()
            if data is None:
                return
            if len(data) == HEADER_BYTES and self.outstanding:
                # Some peers write an answer in two pieces, and wait for our acknowledgement of the first, its headers.
                # The second is often there by now, and needs no turn of the event loop.
                self.transport.acknowledge()
                data += self.transport.receive_some() or b""
            self._take_in(data)
            if self._is_amid:
                self.transport.acknowledge()  # the peer may wait for that before it sends the rest
        except AsyncStoreError as error:
            self.fail(error)
        except BaseException as mistake:  # of a callback or logging handler: the event loop would only log it
            self.fail(self._lost_by(mistake))
            if not isinstance(mistake, Exception):
                raise

    def _take_in(self, data: bytes) -> None:
        """Handle the events that these bytes complete; then raise the peer's error behind them, if any."""
        now = time.monotonic()
        for event in self._upper_layer.receive_data(data, now) if data else self._upper_layer.receive_eof(now):
            if self._is_paused:
                self._backlog.append(event)
            else:
                self._on_event(event)
        if not data:
            self.changed.set()
        self._is_amid = self._upper_layer.is_amid_pdu or self._is_amid_message()
        if self._upper_layer.error is not None and not self._is_paused:
            self._raise_error(now)

    def _raise_error(self, now: float) -> None:
        """Raise the peer's violation of the protocol, if any, once."""
        if self._upper_layer.error is not None:
            self._upper_layer.receive_data(b"", now)

    def _on_event(self, event: UpperLayerEvent) -> None:
        """Handle an event other than data, which Association handles."""
        pause: Awaitable[object] | None = None
        if isinstance(event, ReleaseConfirmed):
            self._released = True
            self.changed.set()
        elif isinstance(event, ReleaseRequested):
            pause = self._on_release_requested()
        elif isinstance(event, AbortReceived):
            self._aborted_by_peer(event)
        elif isinstance(event, TransportClosed):
            self._closed_by_peer()
        else:
            pause = self._negotiate(event)
        if pause is not None:
            self._begin_pause(pause)

    def _begin_pause(self, pause: Awaitable[object]) -> None:
        """Read nothing, and handle nothing more, until this has been awaited; `_resume` goes on then."""
        self._pause = pause
        self._is_paused = True
        self._watching.cancel()

    def _on_release_requested(self) -> Awaitable[object] | None:
        """Answer the peer's release request; the fate of outstanding operations is unknown."""
        self._trace(trace.ReleasedByPeer)
        if all(operation.is_sent for operation in self.outstanding.values()):  # else it would be amid a message
            with contextlib.suppress(AsyncStoreError):
                self._upper_layer.answer_release(time.monotonic())
                self.transport.send_some((self._upper_layer.data_to_send(),))
        if self._releasing:  # both asked at once (PS3.8 9.2.2.6): the peer must still answer ours
            return None
        raise ConnectionLost("the peer released the association", tuple(self.outstanding))

    def _closed_by_peer(self) -> None:
        raise ConnectionLost("the peer closed the connection", tuple(self.outstanding))

    def _aborted_by_peer(self, event: AbortReceived) -> None:
        self._trace(trace.AbortedByPeer, source=event.source, reason=event.reason)
        raise Aborted(event.source, event.reason, tuple(self.outstanding))

    # -- failing and waiting -------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Take in what the peer sends and watch the deadlines, until the association ends; abort it when it failed.

        So the peer hears of a failure at once, not only when the block is left.
        """
        try:
            with self._attention:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._read)
                    group.start_soon(self._watch_deadlines)
            if self.failure is not None:
                try:
                    await self._abort()
                except Exception as mistake:  # of a logging handler
                    self._mistake = self._mistake or mistake
        finally:
            with anyio.CancelScope(shield=True):
                await self._discard()
            self._has_ended.set()

    def fail(self, error: AsyncStoreError) -> None:
        """Record why the association ended, and wake every task that waits for it."""
        if self.failure is not None:
            return
        if isinstance(error, AssociationLost) and not error.outstanding:
            error.outstanding = tuple(self.outstanding)
        self.failure = error
        self.is_open = False
        self.writer.interrupt(error)
        self._attention.cancel()
        self.changed.set()
        for response in self.awaited:
            response.set()
        try:
            try:
                self._trace_failure(error)
            finally:
                self.on_failure()
        except Exception as mistake:
            self._mistake = self._mistake or mistake

    def _lost_by(self, mistake: BaseException) -> AssociationLost:
        """The error for waiting tasks after an exception that is not ours; that one is raised out of the block."""
        self._mistake = mistake if isinstance(mistake, Exception) else self._mistake
        lost = AssociationLost(f"aborted because of an exception: {mistake!r}")
        lost.__cause__ = mistake
        return lost

    def _raise_mistake(self) -> None:
        """Raise the exception of a callback or a logging handler, if there was one."""
        if self._mistake is not None:
            raise self._mistake

    def ended_by(self, error: AsyncStoreError) -> AsyncStoreError:
        """Why the association ended, after sending failed with `error`: the peer may have said why before."""
        if isinstance(error, ConnectionLost) and self.failure is None:
            try:
                while data := self.transport.receive_some():
                    self._take_in(data)
                for event in self._backlog:  # what else waits there is void
                    if isinstance(event, AbortReceived):
                        self._on_event(event)
            except AsyncStoreError as told:
                error = told
            except Exception as mistake:
                error = self._lost_by(mistake)
        self.fail(error)
        assert self.failure is not None
        return self.failure

    def check_open(self) -> None:
        """Raise the error that ended the association, or LocalProtocolError if it is not established."""
        self._check_established()
        self.check_not_failed()
        if self._releasing:
            raise LocalProtocolError("the association was released")

    def _check_established(self) -> None:
        if not self.established:
            raise LocalProtocolError("there is no association: it is there inside `async with`, which establishes it")

    def check_not_failed(self) -> None:
        """Raise why the association failed, if it did.

        Every caller gets the same exception, without its earlier traceback: otherwise it would keep the frames of every
        attempt alive.
        """
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    async def wait_room(self) -> None:
        """Return when another operation may begin."""
        while True:
            if not self.is_open:
                self.check_open()
            if self.operations.has_room:
                return
            await self.changed.wait()


def _nothing() -> None:
    pass
