"""An association as its requestor: established, used for C-STORE and C-ECHO, released or aborted.

Responses are taken as they come, also while a request is being written, so that a peer's abort or an early answer can
interrupt a blocked send. An association that failed stays failed: every wait on it ends with the same exception, and
`outstanding` says which operations the peer never answered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Final, NoReturn, Self, cast

import anyio

from asyncstore.aio.signal import Signal, Turn
from asyncstore.dimse.messages import LOW, CEchoRQ, CStoreRQ
from asyncstore.dimse.operations import LAST_MESSAGE_ID, Exchange
from asyncstore.errors import (
    Aborted,
    AssociationLost,
    AssociationRejected,
    AsyncStoreError,
    ConnectFailed,
    ConnectionLost,
    LocalProtocolError,
    NoAcceptedContext,
    RemoteProtocolError,
    SourceError,
    Timeout,
)
from asyncstore.instances.outcome import Outcome, outcome_of, source_problem
from asyncstore.instances.problem import unreadable
from asyncstore.net import trace
from asyncstore.net.peer import Peer, Timeouts, check_ae_title, check_length
from asyncstore.net.source_reader import Reads
from asyncstore.net.transport import ABORT_SECONDS, connect
from asyncstore.net.writer import Sender
from asyncstore.preparation.prepare import Prepared, prepare, prepare_now
from asyncstore.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, VERIFICATION
from asyncstore.upper_layer.contexts import AcceptedContexts, propose
from asyncstore.upper_layer.framing import Framer, Run, fragment_capacity, frame_command
from asyncstore.upper_layer.items import OperationsWindow, UserIdentity, UserInformation
from asyncstore.upper_layer.machine import (
    AbortReceived,
    AssociationAccepted,
    AssociationRefused,
    DataReceived,
    ReleaseConfirmed,
    ReleaseRequested,
    TransportClosed,
    UpperLayer,
)
from asyncstore.upper_layer.pdu import AssociateRQ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup
    from pydicom.dataset import Dataset

    from asyncstore.dimse.messages import Response
    from asyncstore.dimse.operations import Operation
    from asyncstore.inputs.walk import AnyPath
    from asyncstore.instances.instance import Instance
    from asyncstore.net.transport import SocketTransport
    from asyncstore.status import Status
    from asyncstore.trace import TraceEvent
    from asyncstore.upper_layer.machine import UpperLayerEvent
    from asyncstore.upper_layer.pdu import AssociateAC

logger = logging.getLogger("asyncstore.net")

# A message longer than this shows its progress before its answer: so much is sure to have left the buffers between here
# and the peer.
STREAMED_AFTER_BYTES: Final = 8 << 20

_CANCELLED: Final = "cancelled in the middle of a message"


class Association:
    """An association with a peer: `async with associate(peer, contexts=...) as association`.

    `contexts` are pairs of an abstract syntax and the transfer syntaxes to propose for it, at most 128. `window` is the
    asynchronous operations window to propose, 1 for none. `maximum_length` is what we announce to receive,
    `maximum_send_length` a cap of our own below what the peer announces, both in bytes (0: none). What cannot be
    proposed raises LocalProtocolError here, before there is a connection.

    The block is entered once. Entering it raises ConnectFailed, Timeout, AssociationRejected, Aborted, ConnectionLost,
    RemoteProtocolError or NoAcceptedContext. Leaving it releases the association, leaving it by an exception or by
    cancellation aborts it. An exception that a callback raises, or a logging handler, aborts it too, and leaves the
    block as itself. PS3.8 7.1 to 7.3.

    Several tasks may call `store` at once; as many requests are outstanding as the peer agreed to (`window`), the
    others wait for room. `outstanding` has the operations that were begun and not answered, by Message ID. `failure` is
    why the association ended before its work did, None while all is well.
    """

    def __init__(
        self,
        peer: Peer,
        contexts: Iterable[tuple[str, Sequence[str]]],
        *,
        calling_ae_title: str = "STORESCU",
        timeouts: Timeouts | None = None,
        window: int = 1,
        maximum_length: int = 16382,
        maximum_send_length: int = 0,
        user_identity: UserIdentity | None = None,
    ) -> None:
        check_ae_title(calling_ae_title)
        if not 1 <= window <= LAST_MESSAGE_ID:
            raise LocalProtocolError(f"an operations window of {window}: it is 1 to {LAST_MESSAGE_ID}")
        check_length("maximum_length", maximum_length)
        check_length("maximum_send_length", maximum_send_length)
        information = UserInformation(
            maximum_length=maximum_length,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            operations_window=OperationsWindow(window, 1) if window > 1 else None,
            user_identity=user_identity,
        )
        try:
            self._request = AssociateRQ(
                called_ae_title=peer.ae_title,
                calling_ae_title=calling_ae_title,
                presentation_contexts=propose(contexts),
                user_information=information,
            )
            self._request.encode()
        except ValueError as error:
            raise LocalProtocolError(f"the association cannot be asked for: {error}") from error
        self.peer = peer
        self.timeouts = timeouts or Timeouts()
        self.contexts = AcceptedContexts(())
        self.on_failure: Callable[[], object] = _nothing
        self.trace_number = 0
        self.established = False
        self.streamed_bytes = 0  # of data sets, beyond their first STREAMED_AFTER_BYTES
        self._maximum_send_length = maximum_send_length
        self._upper_layer = UpperLayer(maximum_length=maximum_length, artim_seconds=self.timeouts.acse_seconds)
        self._exchange = Exchange()
        self.outstanding: Mapping[int, Operation] = self._exchange.outstanding
        self.failure: AsyncStoreError | None = None
        self._mistake: Exception | None = None
        self._releasing = False
        self._released = False
        self._waiting_since = 0.0
        self._reads = Reads()
        self._changed = Signal()  # for who waits for room, or for the release; each answer has its own
        self._awaited: set[_Answer] = set()
        self._writing = Turn()
        self._transport: SocketTransport
        self._sender: Sender
        self._framer: Framer
        self._background: TaskGroup
        self._attention: anyio.CancelScope
        self._was_entered = False

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """How many operations may be outstanding, as negotiated (PS3.7 D.3.3.3); 1 without negotiation."""
        return self._exchange.window

    # -- its beginning and its end -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise LocalProtocolError("an association is entered once: make another one")
        self._was_entered = True
        self._attention = anyio.CancelScope()
        self._trace(trace.Requesting, peer=self.peer)
        try:
            self._transport = await connect(self.peer, self.timeouts.connect_seconds)
            self._sender = Sender(self._transport, self.timeouts.network_seconds)
        except (ConnectFailed, Timeout) as error:
            self._trace(trace.ConnectionFailed, detail=str(error))
            raise
        try:
            await self._establish()
        except BaseException as error:
            await self._give_up(error)
            raise
        self._background = anyio.create_task_group()
        await self._background.__aenter__()
        self._background.start_soon(self._attend)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self.failure is None and not self.outstanding:
                await self.release()
            else:
                await self.abort()
        finally:
            self._transport.close()
            self._attention.cancel()
            await self._background.__aexit__(None, None, None)
            self._framer.let_go()  # its buffer would stay until the collector finds the cycles of what is here
        if self._mistake is not None and (error is None or isinstance(error, Exception)):  # a cancellation stays one
            raise self._mistake

    async def _establish(self) -> None:
        """Send A-ASSOCIATE-RQ and wait for the answer, all within the ACSE timeout."""
        now = time.monotonic()
        self._upper_layer.associate(self._request, now)
        self._upper_layer.transport_opened(now)
        self._trace(trace.RequestSent, request=self._request)
        with anyio.move_on_after(self.timeouts.acse_seconds) as scope:
            await self._flush()
            while not self.established:
                self._take_in(await self._transport.receive(), self._on_association_event)
        if scope.cancelled_caught:
            raise Timeout("acse", self.timeouts.acse_seconds)

    def _on_association_event(self, event: UpperLayerEvent) -> None:
        if self.established:  # it came together with the answer
            self._on_event(event)
        elif isinstance(event, AssociationAccepted):
            self._accepted(event.answer)
        elif isinstance(event, AssociationRefused):
            self._trace(trace.Rejected, answer=event.rejection)
            raise AssociationRejected(event.rejection.result, event.rejection.source, event.rejection.reason)
        elif isinstance(event, AbortReceived):
            self._aborted_by_peer(event)
        else:
            raise ConnectionLost("the peer closed the connection before it answered the association request")

    def _accepted(self, answer: AssociateAC) -> None:
        self._trace(trace.Accepted, request=self._request, answer=answer)
        self.contexts = AcceptedContexts.of(self._request.presentation_contexts, answer.results)
        proposed, granted = self._request.user_information.operations_window, answer.user_information.operations_window
        if proposed and granted:  # 0 is unlimited (PS3.7 D.3.3.3): then what we proposed is the limit
            self._exchange.window = min(granted.invoked or proposed.invoked, proposed.invoked)
        if not self.contexts:
            self._trace(trace.NothingAccepted)
            raise NoAcceptedContext(f"{self.peer} accepted none of the proposed presentation contexts")
        capacity = fragment_capacity(answer.user_information.maximum_length, self._maximum_send_length)
        self._framer = Framer(capacity)
        self.established = True

    async def _give_up(self, error: BaseException) -> None:
        """End an association that did not come to be; the caller raises `error`."""
        try:
            if isinstance(error, Timeout):
                self._trace(trace.TimedOut, which=error.which, seconds=error.seconds)
            elif isinstance(error, ConnectionLost):
                self._trace(trace.ConnectionBroken, detail=str(error))
            elif isinstance(error, RemoteProtocolError):
                self._trace(trace.InvalidAnswer, to_request="A-ASSOCIATE", detail=str(error))
            if not isinstance(error, AssociationRejected | Aborted | ConnectionLost):
                await self._send_abort()
        finally:
            self._transport.close()

    async def release(self) -> None:
        """Release the association (PS3.8 7.2) and close the connection; does nothing when that was done.

        A peer that closes the connection instead of answering, answers nonsense, or never answers, takes nothing back
        of what it answered before: that is no error. Raises LocalProtocolError while operations are outstanding.
        """
        self._check_established()
        if self._releasing:
            while not self._transport.is_closed:
                await self._changed.wait()
            return
        self._check_not_failed()
        if self.outstanding:
            raise LocalProtocolError(f"{len(self.outstanding)} operations are outstanding: they would be lost")
        self._trace(trace.Releasing)
        self._releasing = True
        self._upper_layer.release(time.monotonic())
        lost = contextlib.suppress(AssociationLost, RemoteProtocolError)
        try:
            with anyio.move_on_after(self.timeouts.acse_seconds), lost:
                await self._flush()
                while not self._released:
                    self._check_not_failed()
                    await self._changed.wait()
        finally:
            self._transport.close()
            self._wake()

    async def abort(self) -> None:
        """Abort the association (PS3.8 7.3) and close the connection, within 5 seconds, even when cancelled.

        A request that is partly written ends in the abort, never in its last fragment.
        """
        self._check_established()
        if self._transport.is_closed:
            return
        self._fail(AssociationLost("the association was aborted"))
        try:
            await self._send_abort()
        finally:
            self._transport.close()

    async def _send_abort(self) -> None:
        """Send an A-ABORT where the protocol allows one, within a bounded time."""
        with anyio.move_on_after(ABORT_SECONDS, shield=True), contextlib.suppress(AsyncStoreError):
            await self._writing.wait()  # another task may be in the middle of a PDU, and is on its way out
            with self._writing:
                if not await self._sender.finish_pdu():
                    self._transport.close(reset=True)
                    return
                with contextlib.suppress(LocalProtocolError):  # one may be queued already, or the peer's may have come
                    self._upper_layer.abort(time.monotonic())
                    self._trace(trace.Aborting)
                await self._flush()

    # -- C-STORE and C-ECHO --------------------------------------------------------------------------------------------

    async def store(self, source: Instance | Dataset | AnyPath, *, priority: int = LOW) -> Outcome:
        """Store one instance: a file by its path, a scanned Instance, or a pydicom Dataset.

        Gives the outcome, also when the peer refuses the instance, when no accepted presentation context fits (the data
        set is converted among the uncompressed transfer syntaxes where that helps), or when the file cannot be read or
        the Dataset cannot be encoded. Raises AssociationLost or RemoteProtocolError when the association ends before
        the answer: what became of the instance at the peer is unknown then. PS3.4 Annex B, PS3.7 9.1.1.

        Cancelling it in the middle of its message, by a timeout say, ends the association for everybody: half a message
        cannot be taken back. Cancelled before or after that, it leaves the others alone.
        """
        self._check_open()
        try:
            instance = await self._reads.instance_of(source)
        except (SourceError, OSError) as error:
            path = os.fsdecode(source) if isinstance(source, str | bytes | os.PathLike) else None
            return source_problem(error, path)
        if instance.meta_difference is not None:
            self._trace(trace.MetaDiffers, path=instance.path, difference=instance.meta_difference)
        try:
            prepared = prepare_now(instance, self.contexts) or await self.prepare(instance)
            if isinstance(prepared, Outcome):
                return prepared
            transfer_syntax_uid, bytes_sent = prepared.transfer_syntax_uid, prepared.data_set_length
            answer = _Answer()
            operation = await self.send(prepared, answer.come, priority=priority)
            del prepared  # what a conversion made is not kept in memory for the answer
            status = await self._wait_for(answer)
        except SourceError as problem:
            return source_problem(problem, instance.path, instance)
        finally:
            if instance is not source:  # the outcome may be kept, with the instance, and need not keep the file's bytes
                instance.let_go()
        return outcome_of(instance, operation, status, transfer_syntax_uid, bytes_sent)

    async def prepare(self, instance: Instance) -> Prepared | Outcome:
        """The instance as it can be sent here, which a thread finds out; see preparation.prepare."""
        return await self._reads.in_thread(prepare, instance, self.contexts)

    async def send(
        self,
        prepared: Prepared,
        on_answer: Callable[[Operation, Status], None],
        *,
        on_begin: Callable[[Operation], object] | None = None,
        priority: int = LOW,
    ) -> Operation:
        """Write one C-STORE request; `on_answer(operation, status)` is called when its response has come.

        `on_begin(operation)` is called before its first byte is written: from then on the peer may have the instance.

        Waits for room in the window. Raises SourceError when the file cannot be read: before
        the first byte was written the association goes on, after that it is aborted (`failure` says which). Raises what
        ended the association otherwise; then `on_answer` is never called.
        """
        if self._writing.is_taken:
            await self._writing.wait()
        with self._writing:
            if self.failure is not None:
                self._check_not_failed()
            return await self._write(prepared, on_answer, on_begin, priority)

    async def echo(self) -> Status:
        """Verify that the peer answers (C-ECHO, PS3.7 9.1.5): its status.

        Raises LocalProtocolError when no context for Verification was accepted, and what ended the association when it
        ended before the answer.
        """
        self._check_open()
        context_id = self.contexts.any_of(VERIFICATION)
        if context_id is None:
            raise LocalProtocolError("the peer accepted no presentation context for Verification")
        answer = _Answer()
        await self._writing.wait()
        with self._writing:
            await self._wait_room()
            operation = self._exchange.begin(context_id, CEchoRQ)
            request = operation.request
            assert isinstance(request, CEchoRQ)
            self._trace(trace.EchoSent, context_id=context_id, request=request)
            operation.on_answer = answer.come
            await self._write_command(frame_command(context_id, request.encode(), self._framer.capacity))
            self._sent(operation)
        return await self._wait_for(answer)

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _write(
        self,
        prepared: Prepared,
        on_answer: Callable[[Operation, Status], None],
        on_begin: Callable[[Operation], object] | None,
        priority: int,
    ) -> Operation:
        """Write a C-STORE request, run by run; the first is read while there is no room for the operation yet."""
        operation: Operation | None = None
        try:
            for run in self._runs(prepared):
                if run.holes:
                    try:
                        self._framer.makes_long_runs = not self._reads.read_now(prepared.source, run)
                        if self._framer.makes_long_runs:
                            await self._reads.read_in_thread(prepared.source, run)
                    except SourceError:
                        raise
                    except Exception as error:
                        raise unreadable(prepared.instance, error) from error
                if operation is None:
                    await self._wait_room()
                    operation, command_set = self._begin_store(prepared, priority)
                    operation.on_answer = on_answer
                    if on_begin is not None:
                        on_begin(operation)
                    run.put_command(frame_command(prepared.context_id, command_set, self._framer.capacity))
                sent_bytes = self._transport.send_some(run.parts)
                if sent_bytes != run.total_bytes:
                    await self._sender.send_rest(run, sent_bytes)
                if prepared.data_set_length > STREAMED_AFTER_BYTES:
                    end = run.offset + run.data_bytes
                    self.streamed_bytes += max(0, end - max(run.offset, STREAMED_AFTER_BYTES))
            assert operation is not None
            self._sent(operation)
            return operation
        except SourceError as problem:
            if operation is not None:
                self._fail(AssociationLost(f"aborted in the middle of a message: {problem}"))
            raise
        except LocalProtocolError:  # released meanwhile: no byte of it has left
            raise
        except AsyncStoreError as error:
            failure = self._ended_by(error)
            raise failure.with_traceback(None) from failure.__cause__
        except BaseException as error:  # cancelled, or an exception of `on_begin` or of a logging handler
            if self.outstanding and (operation is not None or isinstance(error, Exception)):
                why = f"aborted because of an exception: {error!r}" if isinstance(error, Exception) else _CANCELLED
                self._fail(AssociationLost(why))
            else:  # a thread may go on to fill the holes of this wire buffer: nobody else may use it
                self._framer.let_go()
            raise
        finally:
            prepared.source.close()

    async def _write_command(self, pdus: bytes) -> None:
        """Write the PDUs of a command set that no data set follows."""
        run = Run([], (), 0, False, 0, len(pdus))
        run.put_command(pdus)
        try:
            await self._sender.send_rest(run, 0)
        except AsyncStoreError as error:
            failure = self._ended_by(error)
            raise failure.with_traceback(None) from failure.__cause__
        except BaseException:
            self._fail(AssociationLost(_CANCELLED))
            raise

    def _begin_store(self, prepared: Prepared, priority: int) -> tuple[Operation, bytes]:
        operation = self._exchange.begin(
            prepared.context_id, CStoreRQ, prepared.sop_class_uid, prepared.sop_instance_uid, priority
        )
        try:
            command_set = operation.request.encode()
        except LocalProtocolError as error:  # a UID that cannot be sent: the others can
            self._exchange.withdraw(operation.message_id)
            raise SourceError(str(error)) from error
        if logger.isEnabledFor(logging.INFO):
            self._trace_store(prepared, operation)
        return operation, command_set

    def _runs(self, prepared: Prepared) -> Iterable[Run]:
        try:
            data_set = prepared.source.view()
        except SourceError:
            raise
        except Exception as error:
            raise unreadable(prepared.instance, error) from error
        if data_set is not None:
            return self._framer.runs_from_memory(prepared.context_id, data_set)
        return self._framer.runs_with_holes(prepared.context_id, prepared.data_set_length)

    def _sent(self, operation: Operation) -> None:
        """The request is wholly written: from now on it can be answered, and the clock runs."""
        self._exchange.sent(operation.message_id)
        if len(self.outstanding) == 1:
            self._waiting_since = time.monotonic()

    async def _flush(self) -> None:
        """Write what the upper layer has queued."""
        data = self._upper_layer.data_to_send()
        if data:
            await self._sender.send_bytes(data)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        """Take in what has arrived; called by the event loop."""
        if self._released or self.failure is not None or self._transport.is_closed:
            return
        try:
            data = self._transport.receive_some()
            if data is not None:
                self._take_in(data, self._on_event)
                if self._upper_layer.is_amid_pdu:
                    self._transport.acknowledge()  # the rest may wait for that
        except AsyncStoreError as error:
            self._fail(error)
        except Exception as mistake:  # of a callback, or of a logging handler: the event loop would keep it to itself
            self._fail(self._lost_by(mistake))

    def _take_in(self, data: bytes, handle: Callable[[UpperLayerEvent], None]) -> None:
        """Hand over the events that these bytes complete; then raise what the peer did wrong after them."""
        now = time.monotonic()
        for event in self._upper_layer.receive_data(data, now) if data else self._upper_layer.receive_eof(now):
            handle(event)
        if self._upper_layer.error is not None:
            self._upper_layer.receive_data(b"", now)

    def _on_event(self, event: UpperLayerEvent) -> None:
        if isinstance(event, DataReceived):
            for fragment in event.fragments:
                received = self._exchange.receive(fragment)
                if received is None:
                    self._transport.acknowledge()  # here too
                    continue
                operation = self._exchange.match(received)
                self._answered(operation, cast("Response", received.message))
        elif isinstance(event, ReleaseConfirmed):
            self._released = True
            self._wake()
        elif isinstance(event, ReleaseRequested):
            self._answer_release()
        elif isinstance(event, AbortReceived):
            self._aborted_by_peer(event)
        else:
            assert isinstance(event, TransportClosed)
            raise ConnectionLost("the peer closed the connection", tuple(self.outstanding))

    def _answered(self, operation: Operation, response: Response) -> None:
        status = response.status
        self._waiting_since = time.monotonic()
        if logger.isEnabledFor(logging.INFO):
            request = operation.request
            self._trace(
                trace.Answered,
                context_id=operation.context_id,
                request=request,
                status=status,
                affected_sop_class_uid=response.affected_sop_class_uid or request.affected_sop_class_uid,
                affected_sop_instance_uid=getattr(request, "affected_sop_instance_uid", ""),
            )
        assert operation.on_answer is not None
        operation.on_answer(operation, status)
        self._wake()

    def _answer_release(self) -> None:
        """The peer wants the release: it gets its answer, and what is outstanding is unknown."""
        self._trace(trace.ReleasedByPeer)
        if all(operation.is_sent for operation in self.outstanding.values()):  # else it would come amidst a message
            with contextlib.suppress(AsyncStoreError):
                self._upper_layer.answer_release(time.monotonic())
                self._transport.send_some((self._upper_layer.data_to_send(),))
        if self._releasing:  # both asked at once (PS3.8 9.2.2.6): our own request is still to be answered
            return
        raise ConnectionLost("the peer released the association", tuple(self.outstanding))

    def _aborted_by_peer(self, event: AbortReceived) -> NoReturn:
        self._trace(trace.AbortedByPeer, source=event.source, reason=event.reason)
        raise Aborted(event.source, event.reason, tuple(self.outstanding))

    # -- failing and waiting -------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Take in what the peer sends and watch the deadline, until the association ends; abort it when it failed.

        A peer that is in the middle of a message need not wait until the block is left.
        """
        with self._attention:
            async with anyio.create_task_group() as group:
                group.start_soon(self._transport.watch, self._on_readable)
                group.start_soon(self._watch_deadline)
        if self.failure is not None:
            try:
                await self.abort()
            except Exception as mistake:  # of a logging handler
                self._mistake = self._mistake or mistake

    async def _watch_deadline(self) -> None:
        """Fail the association when an answer is overdue.

        A peer with a window works on one operation after another: the deadline runs from the last complete answer, or
        from the sending when nothing was outstanding. A program that stood still for longer finds the answer waiting.
        """
        limit = self.timeouts.dimse_seconds
        while self.failure is None:
            left = self._waiting_since + limit - time.monotonic()
            waits = any(operation.is_sent for operation in self.outstanding.values())
            if waits and left <= 0:
                answered_at = self._waiting_since
                self._on_readable()
                if self._waiting_since == answered_at:
                    self._fail(Timeout("dimse", limit, tuple(self.outstanding)))
            else:
                await anyio.sleep(left if waits else limit)

    def _fail(self, error: AsyncStoreError) -> None:
        """Record why the association ended, and let everybody who waits for it know."""
        if self.failure is not None:
            return
        if isinstance(error, AssociationLost) and not error.outstanding:
            error.outstanding = tuple(self.outstanding)
        self.failure = error
        self._sender.interrupt(error)
        self._attention.cancel()
        self._wake()
        for answer in self._awaited:
            answer.changed.set()
        try:
            try:
                self._trace_failure(error)
            finally:
                self.on_failure()
        except Exception as mistake:
            self._mistake = self._mistake or mistake

    def _trace_failure(self, error: AsyncStoreError) -> None:
        if isinstance(error, Timeout):
            self._trace(trace.TimedOut, which=error.which, seconds=error.seconds)
        elif isinstance(error, RemoteProtocolError):
            echoes = any(isinstance(operation.request, CEchoRQ) for operation in self.outstanding.values())
            to_request = "C-ECHO" if echoes else "C-STORE"
            self._trace(trace.InvalidAnswer, to_request=to_request, detail=str(error))
        elif isinstance(error, ConnectionLost) and not self._releasing:
            self._trace(trace.ConnectionBroken, detail=str(error))

    def _lost_by(self, mistake: Exception) -> AssociationLost:
        """What everybody who waits is told of an exception that is not ours; it leaves the block as itself."""
        self._mistake = mistake
        lost = AssociationLost(f"aborted because of an exception: {mistake!r}")
        lost.__cause__ = mistake
        return lost

    def _ended_by(self, error: AsyncStoreError) -> AsyncStoreError:
        """Why the association ended, after sending failed with `error`: the peer may have said why before."""
        if isinstance(error, ConnectionLost) and self.failure is None:
            try:
                if data := self._transport.receive_some():
                    self._take_in(data, self._on_event)
            except AsyncStoreError as told:
                error = told
            except Exception as mistake:
                error = self._lost_by(mistake)
        self._fail(error)
        assert self.failure is not None
        return self.failure

    def _check_open(self) -> None:
        """Raise what ended the association, if something did, or that it never began."""
        self._check_established()
        self._check_not_failed()
        if self._releasing:
            raise LocalProtocolError("the association was released")

    def _check_established(self) -> None:
        if not self.established:
            raise LocalProtocolError("there is no association: it is there inside `async with`, which establishes it")

    def _check_not_failed(self) -> None:
        """Raise why the association failed, if it did.

        Everybody gets the same exception. It forgets where it was raised before, or the frames of every try, and what
        they hold, would stay with it.
        """
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    def _wake(self) -> None:
        self._changed.set()

    async def _wait_room(self) -> None:
        """Wait until another operation may begin."""
        while True:
            if self.failure is not None or self._releasing:
                self._check_open()
            if self._exchange.has_room:
                return
            await self._changed.wait()

    async def _wait_for(self, answer: _Answer) -> Status:
        """Wait until a request is answered; raises what ended the association before that."""
        self._awaited.add(answer)
        try:
            while answer.status is None:  # what the peer answered before the end counts
                self._check_not_failed()
                await answer.changed.wait()
        finally:
            self._awaited.discard(answer)
        return answer.status

    def _trace(self, kind: type[TraceEvent], **fields: object) -> None:
        """Log what happened."""
        if logger.isEnabledFor(kind.level):
            logger.log(kind.level, kind(association_number=self.trace_number, **fields))

    def _trace_store(self, prepared: Prepared, operation: Operation) -> None:
        assert isinstance(operation.request, CStoreRQ)
        self._trace(
            trace.StoreSent,
            path=prepared.instance.path,
            context_id=operation.context_id,
            transfer_syntax_uid=prepared.transfer_syntax_uid,
            request=operation.request,
        )


associate = Association
"""Establish an association: the verb for `async with`."""


class _Answer:
    """The status that a request gets, for the task that waits for it: it alone is woken when it has come."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.changed = Signal()

    def come(self, _: Operation, status: Status) -> None:
        """The answer is there."""
        self.status = status
        self.changed.set()


def _nothing() -> None:
    pass
