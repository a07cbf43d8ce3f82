"""An association of either role: a link, the operations that we invoke, and those that we perform.

`requestor.py` requests one, `acceptor.py` accepts the request of a peer; after that both roles are the same.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import anyio

from asyncstore.dimse.reassembly import Incoming
from asyncstore.errors import AsyncStoreError, ConnectionLost, RemoteProtocolError, Timeout, TLSFailed
from asyncstore.net import trace
from asyncstore.net.invoker import Invoker
from asyncstore.net.link import Link
from asyncstore.net.usual_answers import UsualAnswers
from asyncstore.upper_layer.contexts import AcceptedContexts
from asyncstore.upper_layer.machine import DataReceived, UpperLayerEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asyncstore.aio.lane import Lane
    from asyncstore.dimse.message_types import Response
    from asyncstore.net.peer import Timeouts
    from asyncstore.net.performer import Performer
    from asyncstore.net.provider import Providers


class Association(Link):
    """An association with its accepted presentation contexts (`contexts`); see Link for the other attributes.

    `invoker` writes our requests; it exists once the association is established. `performer` has the peer's requests
    performed; it exists after the first one. `calling_ae_title` is that of the requestor. Associations of one acceptor
    share a `lane`.
    """

    invoker: Invoker

    def __init__(
        self,
        *,
        acceptor: bool,
        maximum_length: int,
        timeouts: Timeouts,
        providers: Providers | None,
        calling_ae_title: str = "",
    ) -> None:
        super().__init__(acceptor=acceptor, maximum_length=maximum_length, timeouts=timeouts)
        self.contexts: AcceptedContexts = AcceptedContexts(())
        self.calling_ae_title = calling_ae_title
        self.performer: Performer | None = None
        self.lane: Lane | None = None
        self._providers: Providers = providers or {}
        self._performed_window = 1
        self._incoming = Incoming(self._tolerate)
        self._usual_answers = UsualAnswers(self.operations)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._other_end()}, {self.state}>"

    @property
    def state(self) -> str:
        """What it is doing, for people who debug a program."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        if self._released:
            return "released"
        if not self.established:
            return "not established"
        return f"established, {len(self.outstanding)} of {self.window} operations outstanding"

    def _other_end(self) -> str:
        return self.calling_ae_title

    @property
    def window(self) -> int:
        """How many operations may be outstanding, as negotiated (PS3.7 D.3.3.3); 1 without negotiation."""
        return self.operations.window

    def _begin_data(self, contexts: AcceptedContexts, capacity: int, *, window: int) -> None:
        """Begin to exchange data: fragments hold `capacity` bytes, and `window` requests of the peer may be at work."""
        self.contexts = contexts
        self.operations.contexts = contexts.by_id
        self.invoker = Invoker(self, capacity)
        self._performed_window = window
        self.established = self.is_open = True
        self.changed.set()

    async def _close(self) -> None:
        """Close the connection; returns when nothing is at work for the association any more."""
        try:
            await super()._close()
        finally:
            if self.established:
                self.invoker.framer.let_go()  # else its buffer stays until the collector finds the reference cycles

    def _is_amid_message(self) -> bool:
        return self._incoming.is_amid_message

    async def _discard(self) -> None:
        if self.performer is not None:
            await self.performer.discard()

    def _take_in(self, data: bytes) -> None:
        """See Link. The usual answers are known by their bytes; the upper layer gets what is left."""
        if data and self._upper_layer.is_amid_pdu:
            data = self._upper_layer.joined(data)
            self._is_amid = self._upper_layer.is_amid_pdu or self._is_amid_message()
        end = 0
        while end < len(data) and self.is_open and not (self._is_amid or self._is_paused):
            usual = self._usual_answers.take(data, end)
            if usual is None:
                break
            operation, response, end = usual
            self.invoker.take(operation, response, None)
        if not end or end < len(data):
            super()._take_in(data[end:])

    def _on_event(self, event: UpperLayerEvent) -> None:
        if not isinstance(event, DataReceived):
            super()._on_event(event)
            return
        for number, fragment in enumerate(event.fragments, 1):
            received = self._incoming.receive(fragment)
            if received is None:
                continue
            if received.message.responded_to is not None:
                operation = self.operations.match(received)
                if self._usual_answers.may_learn_from(received.message):
                    self._usual_answers.learn(fragment.data, received)
                self.invoker.take(operation, cast("Response", received.message), received.data_set)
            elif (pause := (self.performer or self._begin_performing()).receive(received)) is not None:
                self._backlog.appendleft(DataReceived(event.fragments[number:]))
                self._begin_pause(pause)
                return

    def _resume(self) -> Awaitable[object] | None:
        return None if self.performer is None else self.performer.resume()

    def _begin_performing(self) -> Performer:
        """Make the performer, on the first request of the peer; most peers never send one."""
        from asyncstore.net.performer import Performer

        self.performer = Performer(
            self,
            self.contexts,
            self._providers,
            calling_ae_title=self.calling_ae_title,
            capacity=self.invoker.framer.capacity,
            window=self._performed_window,
            group=self._background,
            lane=self.lane,
        )
        return self.performer

    @property
    def answer_limit_seconds(self) -> float:
        """How long the peer may take, from `waiting_since` on, for one of the answers that it owes."""
        allowed = [operation.allowance_seconds for operation in self.outstanding.values() if operation.is_sent]
        return self.timeouts.dimse_seconds + max(allowed, default=0.0)

    async def _watch_deadlines(self) -> None:
        """See Link.

        A peer with a window works on one operation after another: the deadline runs from the last complete answer, or
        from the sending when nothing was outstanding. Large data sets give the peer more time. An answer that came
        while the program stood still counts.
        """
        longest = min(self.timeouts.dimse_seconds, self.timeouts.acse_seconds)
        while self.failure is None:
            now = time.monotonic()
            limit = self.answer_limit_seconds
            owes_answer = any(operation.is_sent for operation in self.outstanding.values())
            left = self.waiting_since + limit - now if owes_answer else limit
            if left <= 0:
                answered_at = self.waiting_since
                self._on_readable()
                if self.waiting_since == answered_at:
                    self.fail(Timeout("dimse", limit, tuple(self.outstanding)))
                continue
            if (artim_at := self._upper_layer.artim_deadline_at) is not None:
                left = min(left, artim_at - now)
                if artim_at <= now:
                    self._upper_layer.check_deadline(now)
                    self.changed.set()
                    continue
            await anyio.sleep(min(left, longest))

    def _trace_failure(self, error: AsyncStoreError) -> None:
        if isinstance(error, TLSFailed):
            self._trace(trace.NotSecured, detail=str(error), cause=error.cause)
        elif isinstance(error, Timeout):
            self._trace(trace.TimedOut, which=error.which, seconds=error.seconds)
        elif isinstance(error, RemoteProtocolError) and self._releasing:
            self._tolerate(error)  # everything was answered before
        elif isinstance(error, RemoteProtocolError):
            self._trace(trace.InvalidAnswer, to_request=self._asked_for(), detail=str(error))
        elif isinstance(error, ConnectionLost) and not self._releasing:
            self._trace(trace.ConnectionBroken, detail=str(error))

    def _asked_for(self) -> str:
        """The request that the peer must answer, such as "C-STORE"."""
        if not self.established:
            return "A-ASSOCIATE"
        names = {operation.request.name for operation in self.outstanding.values()}
        other = next(iter(sorted(names - {"C-STORE-RQ"})), "C-STORE-RQ")
        return other.removesuffix("-RQ")
