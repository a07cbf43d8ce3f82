"""Performs the peer's requests: takes their fragments, calls the providers, and writes the responses.

A fragment is handled in the call that read it, unless it must wait: for a slow sink, a full window, a response that the
peer does not take, or the other tasks of the program. Then the fragments behind it wait in order, and nothing more is
read meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio.lowlevel

from asyncstore.aio.signal import Signal, is_cancelled
from asyncstore.dimse.message_types import response_to
from asyncstore.dimse.performing import SOP_CLASS_NOT_SUPPORTED, Performing
from asyncstore.dimse.reassembly import MAXIMUM_DATA_SET_BYTES, MAXIMUM_EMPTY_FRAGMENTS
from asyncstore.errors import AsyncStoreError, RemoteProtocolError, Timeout
from asyncstore.net.provider import NO_ANSWER, Reply, Silence
from asyncstore.status import SUCCESS, Category, Status
from asyncstore.uids import name_of
from asyncstore.upper_layer.framing import frame_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from asyncstore.aio.lane import Lane
    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.messages import UnknownMessage
    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.dimse.reassembly import Received
    from asyncstore.net.link import Link
    from asyncstore.net.provider import Answer, Providers, ServiceProvider, Sink
    from asyncstore.upper_layer.contexts import AcceptedContexts

logger: logging.Logger = logging.getLogger("asyncstore.net")

# How long the requests of one peer may keep the event loop to themselves; a pause costs 50 us.
_TURN_SECONDS: Final = 0.002
_BULK_BYTES: Final = 1 << 22
_FAILED: Final = Status(0x0110, "the receiver failed to handle the request")
_CANCELLED: Final = Status(0xFE00)


class Performer:
    """Performs the requests of one peer; awaitable answers run in tasks of `group`.

    `window` is how many may be performed at once. `at_work` counts the answers that providers still owe. Responses are
    sent in fragments of `capacity` bytes. After a turn it waits in the `lane`, if there is one, where peers that bring
    more bytes of data sets go first.
    """

    def __init__(
        self,
        link: Link,
        contexts: AcceptedContexts,
        providers: Providers,
        *,
        calling_ae_title: str,
        capacity: int,
        window: int,
        group: TaskGroup,
        lane: Lane | None = None,
    ) -> None:
        self.at_work: int = 0
        self._window = window
        self._link = link
        self._capacity = capacity
        self._performing = Performing(contexts.by_id, calling_ae_title, link)
        self._providers = providers
        self._group = group
        self._request: PeerRequest | None = None  # the one whose data set is arriving
        self._sink: Sink | None = None
        self._told: Awaitable[object] | None = None  # returned by the sink, until it is awaited
        self._data_set: bytearray | None = None
        self._unanswered = 0  # requests at work, and those whose response is being written
        self._answered = Signal()
        self._next: Callable[[], Awaitable[object] | None] | None = None
        self._lane = lane
        self._empty_pieces = 0
        self._turn_bytes = 0
        self.turn_began_at: float = time.monotonic()
        self._turn_ends_at = self.turn_began_at + _TURN_SECONDS

    @property
    def is_amid_bulk(self) -> bool:
        """Whether a data set is arriving that is large, and may never end."""
        return self._request is not None and self._request.data_set_bytes > _BULK_BYTES

    def begin_turn(self) -> None:
        """Begin a new turn in the event loop: fragments are handled at once again."""
        self._turn_bytes = 0
        self.turn_began_at = time.monotonic()
        self._turn_ends_at = self.turn_began_at + _TURN_SECONDS

    def receive(self, received: Received) -> Awaitable[object] | None:
        """Take a request or a piece of its data set. If this returns an awaitable, await it, then call `resume`."""
        request = self._request
        if request is None:
            request = self._performing.begin(received)
            if request is None:
                return self._pause_if_due(None)
            self._begin(request)
            if not received.is_last:
                self._request = request
                return self._pause_if_due(None)
            return self._pause_if_due(self._end(request))
        pause = self._take(request, received.data_set) if received.data_set is not None else None
        if not received.is_last:
            return self._pause_if_due(pause)
        if pause is None:
            return self._pause_if_due(self._end(request))
        self._next = partial(self._end, request)
        return pause

    def resume(self) -> Awaitable[object] | None:
        """Go on after a pause; an awaitable that is returned must be awaited in turn."""
        step, self._next = self._next, None
        pause = None if step is None else step()
        if pause is None:
            self.begin_turn()
        return pause

    async def discard(self) -> None:
        """Give up a sink: its data set was not whole when the association ended, or it failed."""
        sink, self._sink = self._sink, None
        told, self._told = self._told, None
        if told is not None and hasattr(told, "close"):  # a coroutine, for example, that is not awaited any more
            told.close()
        if sink is not None:
            try:
                await sink.discard()
            except Exception as error:
                logger.error("a data set cannot be discarded", exc_info=error)

    def _begin(self, request: PeerRequest) -> None:
        """Find the provider that performs it, and where its data set goes."""
        provider = self._provider_of(request)
        if request.refused_with is None:
            if provider is None:
                kind = (request.message.name, name_of(request.context.abstract_syntax))
                logger.info("refusing a %s for %s: no provider is registered for it", *kind)
                request.refused_with = SOP_CLASS_NOT_SUPPORTED
            else:
                try:
                    self._sink = _checked_sink(provider.begin(request))
                except Exception as error:
                    self._failed(request, error)
                    request.refused_with = _FAILED
        if request.refused_with is None and self._sink is None and request.message.has_data_set:
            self._data_set = bytearray()

    def _provider_of(self, request: PeerRequest) -> ServiceProvider | None:
        return self._providers.get(request.context.abstract_syntax)

    def _take(self, request: PeerRequest, piece: bytes) -> Awaitable[object] | None:
        if not piece:
            self._empty_pieces += 1
            if self._empty_pieces > MAXIMUM_EMPTY_FRAGMENTS:
                text = f"more than {MAXIMUM_EMPTY_FRAGMENTS} without data"
                raise RemoteProtocolError(text, pdu=request.message.name, field="PDV")
            return None
        request.data_set_bytes += len(piece)
        self._turn_bytes += len(piece)
        if self._sink is not None:
            return self._tell(request, self._sink.write, piece)
        if self._data_set is not None:
            if request.data_set_bytes > MAXIMUM_DATA_SET_BYTES:
                text = f"more than {MAXIMUM_DATA_SET_BYTES} bytes"
                raise RemoteProtocolError(text, pdu=request.message.name, field="data set")
            self._data_set += piece
        return None

    def _tell(self, request: PeerRequest, call: Callable[..., object], *arguments: object) -> Awaitable[object] | None:
        """Call the sink. If it fails, the request is refused, and the rest of its data set is skipped."""
        try:
            told = call(*arguments)
        except Exception as error:
            return self._give_up(request, error)
        if told is None or not isinstance(told, Awaitable):
            return None
        self._told = told
        return self._wait_for_sink(request)

    async def _wait_for_sink(self, request: PeerRequest) -> None:
        told, self._told = self._told, None
        assert told is not None
        try:
            await told
        except Exception as error:
            await self._give_up(request, error)
        except anyio.get_cancelled_exc_class() as error:
            if is_cancelled():
                raise
            await self._give_up(request, error)

    def _give_up(self, request: PeerRequest, error: BaseException) -> Awaitable[object]:
        self._failed(request, error)
        request.refused_with = _FAILED
        return self.discard()

    def _end(self, request: PeerRequest) -> Awaitable[object] | None:
        """Have a whole request performed, and answer it."""
        self._request = None
        self._empty_pieces = 0
        data_set = None if self._data_set is None else bytes(self._data_set)
        self._data_set = None
        sink = self._sink  # kept until it has finished: it must be discarded if the association ends meanwhile
        finishing = None if sink is None else self._tell(request, sink.finish)
        if finishing is None:
            return self._perform(request, data_set if sink is None else sink)
        self._next = partial(self._perform, request, sink)
        return finishing

    def _perform(self, request: PeerRequest, data_set: Sink | bytes | None) -> Awaitable[object] | None:
        self._sink = None
        if request.refused_with is not None:
            return self._respond(request, response_to(request.message, request.refused_with))
        if self._unanswered >= self._window:  # the peer exceeds the window
            self._next = partial(self._perform, request, data_set)
            return self._wait_for_room()
        return self._perform_now(request, data_set)

    async def _wait_for_room(self) -> None:
        while self._unanswered >= self._window:
            await self._answered.wait()

    def _perform_now(self, request: PeerRequest, data_set: Sink | bytes | None) -> Awaitable[object] | None:
        provider = self._provider_of(request)
        assert provider is not None
        try:
            answer = provider.perform(request, data_set)
        except Exception as error:
            answer = self._failed(request, error)
        if isinstance(answer, Awaitable):
            self._unanswered += 1
            self.at_work += 1
            self._group.start_soon(self._answer_later, request, answer)
        elif isinstance(answer, AsyncIterator):
            self._unanswered += 1
            self.at_work += 1
            self._group.start_soon(self._answer_each, request, answer)
        else:
            return self._respond(request, answer)
        return None

    async def _answer_later(self, request: PeerRequest, awaitable: Awaitable[Answer]) -> None:
        try:
            answer = await awaitable
        except Exception as error:
            answer = self._failed(request, error)
        except anyio.get_cancelled_exc_class() as error:
            if is_cancelled():
                raise
            answer = self._failed(request, error)
        finally:
            self.at_work -= 1
        try:
            await self._write_response(request, answer)
        finally:
            self._unanswered -= 1
            self._answered.set()

    async def _answer_each(self, request: PeerRequest, answers: AsyncIterator[Answer]) -> None:
        """Send the responses of an async iterator, until the peer cancels the request or leaves."""
        try:
            last = await self._write_pending(request, answers)
        finally:
            self.at_work -= 1
            if (close := getattr(answers, "aclose", None)) is not None:
                with anyio.CancelScope(shield=True):
                    await close()
        try:
            await self._write_response(request, last)
        finally:
            self._unanswered -= 1
            self._answered.set()

    async def _write_pending(self, request: PeerRequest, answers: AsyncIterator[Answer]) -> Answer:
        """Send the pending responses; returns the final one."""
        turn_ends_at = time.monotonic() + _TURN_SECONDS
        try:
            async for answer in answers:
                if request.is_cancelled:
                    break
                if not _is_pending(answer):
                    return answer
                if not await self._write_response(request, answer, is_final=False):
                    return NO_ANSWER
                if time.monotonic() >= turn_ends_at:
                    await anyio.lowlevel.checkpoint()
                    turn_ends_at = time.monotonic() + _TURN_SECONDS
        except Exception as error:
            return self._failed(request, error)
        return response_to(request.message, _CANCELLED if request.is_cancelled else SUCCESS)

    async def _write_response(self, request: PeerRequest, answer: Answer, *, is_final: bool = True) -> bool:
        """Send a response; returns False if the peer has left."""
        try:
            if (pause := self._respond(request, answer, is_final=is_final)) is not None:
                await pause
        except Timeout as error:  # part of the response may be on the wire
            self._link.fail(error)
            return False
        except AsyncStoreError:
            return False
        return True

    def _failed(self, request: PeerRequest, error: BaseException) -> Response | UnknownMessage:
        logger.error("performing a %s failed", request.message.name, exc_info=error)
        return response_to(request.message, _FAILED)

    def _respond(self, request: PeerRequest, answer: Answer, *, is_final: bool = True) -> Awaitable[object] | None:
        if is_final:
            self._performing.end(request)
        if answer is NO_ANSWER:
            return None
        data_set = None
        try:
            if isinstance(answer, Reply):
                answer, data_set = answer
                if not answer.has_data_set:
                    raise TypeError(f"perform gave a data set, but its response announces none: {answer!r:.200}")
            command_set = _checked(request, answer).encode()
        except Exception as error:
            command_set, data_set = self._failed(request, error).encode(), None
        self._link.check_not_failed()
        pdus = frame_message(request.context.context_id, command_set, data_set, self._capacity)
        return self._link.writer.write(pdus)

    def _pause_if_due(self, pause: Awaitable[object] | None) -> Awaitable[object] | None:
        """The same pause, or one for the other tasks of the program if this peer has had its turn."""
        if pause is None and time.monotonic() >= self._turn_ends_at:
            return anyio.lowlevel.checkpoint() if self._lane is None else self._lane.wait(self._turn_bytes)
        return pause


def _is_pending(answer: Answer) -> bool:
    """Whether other responses follow this one."""
    response = answer.response if isinstance(answer, Reply) else answer
    status = getattr(response, "status", None)
    return isinstance(status, Status) and status.category is Category.PENDING


def _checked_sink(sink: Sink | None) -> Sink | None:
    """What a provider returned for a data set; raises TypeError if it is not a sink."""
    if sink is not None and not (hasattr(sink, "write") and hasattr(sink, "finish") and hasattr(sink, "discard")):
        raise TypeError(f"begin gave {sink!r:.200}, not a Sink or None")
    return sink


def _checked(request: PeerRequest, answer: Answer) -> Response | UnknownMessage:
    """What a provider returned as a response; raises TypeError if it does not answer the request."""
    if answer is None:
        return response_to(request.message, SUCCESS)
    if isinstance(answer, Silence | Reply) or getattr(answer, "responded_to", None) != request.message_id:
        wanted = f"a response to request {request.message_id}, NO_ANSWER or None"
        raise TypeError(f"perform gave {answer!r:.200}, not {wanted}")
    return answer
