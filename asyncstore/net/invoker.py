"""Invokes operations on an association: writes their requests, and hands on the responses (PS3.7 7.5)."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from asyncstore.aio.signal import Signal, Turn
from asyncstore.dimse.messages import CEchoRQ, CStoreRQ
from asyncstore.errors import AssociationLost, AsyncStoreError, LocalProtocolError, SourceError
from asyncstore.instances.problem import unreadable
from asyncstore.net import trace
from asyncstore.net.source_reader import SourceReader
from asyncstore.net.writer import Unwritten
from asyncstore.trace import emit
from asyncstore.upper_layer.framing import Framer, Run, frame_command, frame_message, run_of_pdus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from asyncstore.dimse.message_types import Request, Response
    from asyncstore.dimse.operations import OnResponse, Operation
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource
    from asyncstore.net.link import Link

    class Payload(Protocol):
        """A data set to send with a request: its presentation context, its bytes, and its instance."""

        instance: Instance
        context_id: int
        transfer_syntax_uid: str
        data_set_length: int
        source: DataSource


logger: logging.Logger = logging.getLogger("asyncstore.net")

# A message longer than this shows progress before its answer: the buffers between here and the peer hold less than this
# many bytes.
STREAMED_AFTER_BYTES: Final = 8 << 20

# A peer has the time that this rate needs for the data set, besides the timeout, to work on it after its last byte.
# Measured: a peer that compresses what it receives answers 1.4 GB after 130 s.
ANSWERED_BYTES_PER_SECOND: Final = 10_000_000

_CANCELLED: Final = "cancelled in the middle of a message"


class Invoker:
    """Writes requests one at a time, in fragments of `capacity` bytes, and takes the responses as they come.

    `reader` reads the data sets, in the event loop or in threads.
    """

    def __init__(self, link: Link, capacity: int) -> None:
        self.reader: SourceReader = SourceReader()
        self.framer: Framer = Framer(capacity)
        # One request after the other. The writer's turn is taken only while one is written: a response to the peer must
        # not wait until there is room for the next request, since the answer that makes the room is read behind it.
        self.turn: Turn = Turn()
        self._link = link

    async def send(
        self,
        payload: Payload,
        make_request: Callable[..., Request],
        arguments: tuple[object, ...],
        on_response: OnResponse,
        on_begin: Callable[[Operation], object] | None = None,
    ) -> Operation:
        """Write the request `make_request(message_id, *arguments)` with its data set.

        `on_response(operation, response, data_set)` is called for each of its responses. `on_begin(operation)` is
        called before its first byte is written: after that the peer may have it.

        Waits for room in the window. Raises SourceError when the data set cannot be read: the association goes on if no
        byte was written, else it is aborted (`failure` says which). If the association ends for another reason, raises
        that error; `on_response` is not called any more.
        """
        turn = self.turn
        if turn.is_taken:
            await turn.wait()
        with turn:
            if self._link.failure is not None:
                self._link.check_not_failed()
            return await self._write(payload, make_request, arguments, on_response, on_begin)

    async def _write(
        self,
        payload: Payload,
        make_request: Callable[..., Request],
        arguments: tuple[object, ...],
        on_response: OnResponse,
        on_begin: Callable[[Operation], object] | None,
    ) -> Operation:
        """Write a request, run by run; the first is read while there is no room for the operation yet."""
        link, framer, reader, source = self._link, self.framer, self.reader, payload.source
        operation: Operation | None = None
        has_turn = False
        try:
            for run in self._runs(payload):
                if run.holes:
                    try:
                        framer.makes_long_runs = not reader.read_now(source, run)
                        if framer.makes_long_runs:
                            await reader.read_in_thread(source, run)
                    except SourceError:
                        raise
                    except Exception as error:
                        raise unreadable(error) from error
                if operation is None:
                    if link.writer.turn.is_taken or not (link.is_open and link.operations.has_room):
                        await self._wait_to_write()
                    link.writer.turn.take()
                    has_turn = True
                    operation = link.operations.begin(payload.context_id, make_request, arguments)
                    command_set = self._begin(operation, payload, on_response, on_begin)
                    run.put_command(frame_command(payload.context_id, command_set, framer.capacity))
                sent_bytes = link.transport.send_some(run.parts) if link.pacer is None else 0
                if sent_bytes != run.total_bytes:
                    await link.writer.send_rest(run, sent_bytes, link.pacer)
                if payload.data_set_length > STREAMED_AFTER_BYTES:
                    end = run.offset + run.data_bytes
                    link.streamed_bytes += max(0, end - max(run.offset, STREAMED_AFTER_BYTES))
                    link.written = (operation.message_id, end)
            assert operation is not None
            self._sent(operation)
            return operation
        except SourceError as problem:
            if operation is not None and operation.message_id in link.outstanding:
                link.fail(AssociationLost(f"aborted in the middle of a message: {problem}"))
            raise
        except LocalProtocolError:  # released meanwhile: no byte of it has left
            raise
        except AsyncStoreError as error:
            failure = link.ended_by(error)
            raise failure.with_traceback(None) from failure.__cause__
        except BaseException as error:  # cancelled, or an exception from `on_begin` or a logging handler
            if link.outstanding and (operation is not None or isinstance(error, Exception)):
                why = f"aborted because of an exception: {error!r}" if isinstance(error, Exception) else _CANCELLED
                link.fail(AssociationLost(why))
            else:  # a thread may still fill the holes of this wire buffer: it must not be used again
                framer.let_go()
            raise
        finally:
            if has_turn:
                link.writer.turn.release()
            source.close()

    async def _wait_to_write(self) -> None:
        """Return when another operation may begin, and nothing else is being written: then take the writer's turn."""
        link = self._link
        await link.wait_room()
        await link.writer.turn.wait()
        if not link.is_open:  # released or failed meanwhile
            link.writer.turn.release()
            link.check_open()

    def send_now(
        self,
        payload: Payload,
        make_request: Callable[..., Request],
        arguments: tuple[object, ...],
        on_response: OnResponse,
        on_begin: Callable[[Operation], object] | None = None,
    ) -> bool:
        """Write a request as `send` does, if nothing has to be waited for; else do nothing, and return False.

        There must be room in the window, no other message being written, no pace to keep, and the data set must be in
        memory and fit one fragment. So the callback of an answer can send the next request, without a task in between.
        """
        link, source, length = self._link, payload.source, payload.data_set_length
        operations = link.operations
        if not (link.is_open and operations.has_room) or link.writer.turn.is_taken or link.pacer is not None:
            return False
        if self.turn.is_taken or not 0 < length <= self.framer.capacity:
            return False
        try:
            data_set = source.view()
        except Exception:  # `send` meets it again, and says what it is
            return False
        if data_set is None:
            return False
        operation = operations.begin(payload.context_id, make_request, arguments)
        try:
            command_set = self._begin(operation, payload, on_response, on_begin)
            parts = self.framer.small_message(payload.context_id, command_set, data_set)
            try:
                sent_bytes = link.transport.send_some(parts)
            except AsyncStoreError:  # whoever writes the rest meets it again; answers that have come are read first
                sent_bytes = 0
            if sent_bytes == len(parts[0]) + length:
                self._sent(operation)
            else:
                self.turn.take()  # the rest is in the framer's buffer
                link.start_soon(
                    self._finish, operation, Unwritten(link.writer, self.framer.run_of_small(parts), sent_bytes)
                )
        finally:
            source.close()
        return True

    async def _finish(self, operation: Operation, rest: Unwritten) -> None:
        """Write the rest of a request that the peer did not take at once."""
        try:
            await rest
            self._sent(operation)
        except AsyncStoreError as error:
            self._link.ended_by(error)
        except BaseException:
            self._link.fail(AssociationLost(_CANCELLED))
            raise
        finally:
            self.turn.release()

    def _begin(
        self,
        operation: Operation,
        payload: Payload,
        on_response: OnResponse,
        on_begin: Callable[[Operation], object] | None,
    ) -> bytes:
        """The command set of an operation that begins: what follows may reach the peer."""
        try:
            command_set = operation.request.encode()
        except LocalProtocolError as error:  # a UID that cannot be sent; other instances can
            self._link.operations.withdraw(operation.message_id)
            raise SourceError(str(error)) from error
        operation.on_response = self._traced(operation, payload, on_response)
        if payload.data_set_length > STREAMED_AFTER_BYTES:
            operation.allowance_seconds = payload.data_set_length / ANSWERED_BYTES_PER_SECOND
        if on_begin is not None:
            on_begin(operation)
        return command_set

    async def send_command(
        self,
        context_id: int,
        make_request: Callable[..., Request],
        on_response: OnResponse,
        *arguments: object,
        data_set: bytes | None = None,
    ) -> Operation:
        """Write the request `make_request(message_id, *arguments)`, with a small data set or none; see `send`."""
        link = self._link
        await self.turn.wait()
        with self.turn:
            await self._wait_to_write()
            with link.writer.turn:
                return await self._write_command(context_id, make_request, on_response, arguments, data_set)

    async def _write_command(
        self,
        context_id: int,
        make_request: Callable[..., Request],
        on_response: OnResponse,
        arguments: tuple[object, ...],
        data_set: bytes | None,
    ) -> Operation:
        link = self._link
        operation = link.operations.begin(context_id, make_request, arguments)
        try:
            command_set = operation.request.encode()
        except LocalProtocolError:
            link.operations.withdraw(operation.message_id)
            raise
        operation.on_response = self._traced(operation, None, on_response)
        await self._write_whole(frame_message(context_id, command_set, data_set, self.framer.capacity))
        self._sent(operation)
        return operation

    async def cancel(self, operation: Operation) -> None:
        """Ask the peer to end an operation of several responses (C-CANCEL, PS3.7 9.3.2.3); its final one is to come."""
        from asyncstore.dimse.query_messages import CCancelRQ

        writer = self._link.writer
        await writer.turn.wait()
        with writer.turn:
            self._link.check_open()
            if not operation.is_final:
                command_set = CCancelRQ(operation.message_id).encode()
                await self._write_whole(frame_command(operation.context_id, command_set, self.framer.capacity))

    async def _write_whole(self, pdus: bytes) -> None:
        """Write the PDUs of a message; if that does not succeed, the association has failed."""
        link = self._link
        try:
            await link.writer.send_rest(run_of_pdus(pdus), 0)
        except AsyncStoreError as error:
            failure = link.ended_by(error)
            raise failure.with_traceback(None) from failure.__cause__
        except BaseException:
            link.fail(AssociationLost(_CANCELLED))
            raise

    def _traced(self, operation: Operation, payload: Payload | None, on_response: OnResponse) -> OnResponse:
        """Trace a request that is about to be written; gives what traces its responses too, and hands them on."""
        if not logger.isEnabledFor(logging.INFO):
            return on_response

        def traced(operation: Operation, response: Response, data_set: bytes | None) -> None:
            self._trace_answered(operation, response)
            on_response(operation, response, data_set)

        self._trace_sent(operation, payload)
        return traced

    def _trace_sent(self, operation: Operation, payload: Payload | None) -> None:
        request = operation.request
        common = {"association_number": self._link.trace_number, "context_id": operation.context_id, "request": request}
        if isinstance(request, CStoreRQ) and payload is not None:
            path, transfer_syntax_uid = payload.instance.path, payload.transfer_syntax_uid
            emit(logger, trace.StoreSent(path=path, transfer_syntax_uid=transfer_syntax_uid, **common))
        elif isinstance(request, CEchoRQ):
            emit(logger, trace.EchoSent(**common))

    def _runs(self, payload: Payload) -> Iterable[Run]:
        try:
            data_set = payload.source.view()
        except SourceError:
            raise
        except Exception as error:
            raise unreadable(error) from error
        if data_set is not None:
            return self.framer.runs_from_memory(payload.context_id, data_set)
        return self.framer.runs_with_holes(payload.context_id, payload.data_set_length)

    def _sent(self, operation: Operation) -> None:
        """Take note that the request is wholly written: now the peer can answer it, and the timeout runs."""
        link = self._link
        link.operations.sent(operation.message_id)
        if len(link.outstanding) == 1:
            link.waiting_since = time.monotonic()

    def take(self, operation: Operation, response: Response, data_set: bytes | None) -> None:
        """Hand on a response to its operation."""
        link, on_response = self._link, operation.on_response
        link.waiting_since = time.monotonic()
        assert on_response is not None
        on_response(operation, response, data_set)
        link.changed.set()

    def _trace_answered(self, operation: Operation, response: Response) -> None:
        request = operation.request
        if not isinstance(request, CStoreRQ | CEchoRQ):
            return
        emit(
            logger,
            trace.Answered(
                association_number=self._link.trace_number,
                context_id=operation.context_id,
                request=request,
                status=response.status,
                affected_sop_class_uid=response.affected_sop_class_uid or request.affected_sop_class_uid,
                affected_sop_instance_uid=getattr(request, "affected_sop_instance_uid", ""),
            ),
        )

    async def wait_for(self, response: FinalResponse) -> Response:
        """Wait for the final response of an operation; raises the error that ended the association before it."""
        link = self._link
        link.awaited.add(response.changed)
        try:
            while response.message is None:  # a response that came before the end counts
                link.check_not_failed()
                await response.changed.wait()
        finally:
            link.awaited.discard(response.changed)
        return response.message


class FinalResponse:
    """Takes the responses of one operation; the last one wakes only the task that waits for it."""

    def __init__(self) -> None:
        self.message: Response | None = None
        self.changed: Signal = Signal()

    def on_response(self, operation: Operation, response: Response, data_set: bytes | None) -> None:
        """Keep the response if it is the final one."""
        if operation.is_final:
            self.message = response
            self.changed.set()
