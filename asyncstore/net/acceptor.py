"""Accepts associations: listens on a TCP port, and answers the peers that request one (PS3.8 7.1)."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.abc

from asyncstore.aio.lane import BulkShare, Lane
from asyncstore.aio.loop_share import LoopShare
from asyncstore.errors import AsyncStoreError, RemoteProtocolError, TLSFailed
from asyncstore.net.association import Association
from asyncstore.net.connections import Connections, Rarely
from asyncstore.net.negotiator import ANY_SCP, Negotiator
from asyncstore.net.peer import Timeouts, check_callable, check_range, check_tls
from asyncstore.net.transport import SocketTransport
from asyncstore.net.user_identity import Caller
from asyncstore.upper_layer.contexts import AcceptedContexts
from asyncstore.upper_layer.framing import fragment_capacity
from asyncstore.upper_layer.machine import AssociationRequested
from asyncstore.upper_layer.pdu import AssociateRJ

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection
    from types import TracebackType

    from asyncstore.net.connections import Connection
    from asyncstore.net.provider import Providers
    from asyncstore.net.tls_settings import TLS
    from asyncstore.net.transport import Transport
    from asyncstore.net.user_identity import Answer as Decision
    from asyncstore.net.user_identity import Authenticate
    from asyncstore.trace import TraceEvent
    from asyncstore.upper_layer.machine import UpperLayerEvent
    from asyncstore.upper_layer.pdu import AssociateRQ

logger: logging.Logger = logging.getLogger("asyncstore.net.acceptor")

# An association is idle after this many looks without a byte. Looks are counted, not time: a peer is not idle because
# the whole program stood still.
_LOOKS: Final = 10
# One address cannot use up all. A process often has 1024 descriptors: these, as many connections that wait, and files.
MAXIMUM_ASSOCIATIONS: Final = 256
MAXIMUM_ASSOCIATIONS_PER_ADDRESS: Final = 128
# PS3.8 Table 9-21: transient, by the service provider, local limit exceeded; permanent, by the user, no reason given.
_LIMIT_EXCEEDED: Final = AssociateRJ(2, 3, 2)
_NOT_AUTHENTICATED: Final = AssociateRJ(1, 1, 1)


class Acceptor(Negotiator):
    """Listens on a TCP port and accepts associations (PS3.8 7.1), until the block is left.

        async with Acceptor({"1.2.840.10008.1.1": VerificationProvider()}, port=11112) as acceptor: ...

    providers             a ServiceProvider for each abstract syntax; others are refused
    host, port            address to listen on; port 0 takes a free one, and `acceptor.port` is its number
    ae_title              our AE title: calls to any other are rejected; ANY-SCP accepts all
    called_ae_titles      AE titles to accept instead of `ae_title`
    calling_ae_titles     callers to accept; None: all
    transfer_syntaxes     transfer syntaxes to accept, in order of preference; None: all of the standard
    maximum_length        longest PDU to receive, in bytes; 0: no limit
    window                how many operations a peer may have outstanding (PS3.7 D.3.3.3)
    maximum_associations  further ones are rejected for now, as "local limit exceeded"; 0: no limit
    maximum_associations_per_address   the same for those of one address, or of one IPv6 network (/64)
    acse_seconds          how long to wait for the request, and for the peer to close at the end (ARTIM, PS3.8 9.1.5)
    idle_seconds          abort an association if its peer neither sends nor takes a byte for this long and no provider
                          owes it an answer; 0: never
    association_seconds   abort an association that is older, whatever its peer does; 0: never
    tls                   accept by TLS only: a TLS with our certificate, or an ssl.SSLContext; None: clear text only
    authenticate          decides about each caller whose AE titles are right (see Authenticate); None: all may

    Peers that connect without an association take none from others: as many of them as may be associations (32 to 256)
    may wait at a time. When there are more, the one that has waited longest is closed.

    `timeouts` are those of its associations; `associations` counts the accepted ones. Raises LocalProtocolError for a
    value that makes no sense. Entering the block raises OSError if it cannot listen on the port, and TLSFailed if `tls`
    cannot be used; leaving it aborts what is open.
    """

    def __init__(
        self,
        providers: Providers,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ae_title: str = ANY_SCP,
        called_ae_titles: Collection[str] | None = None,
        calling_ae_titles: Collection[str] | None = None,
        transfer_syntaxes: Collection[str] | None = None,
        maximum_length: int = 131072,
        window: int = 16,
        maximum_associations: int = MAXIMUM_ASSOCIATIONS,
        maximum_associations_per_address: int = MAXIMUM_ASSOCIATIONS_PER_ADDRESS,
        acse_seconds: float = 30.0,
        idle_seconds: float = 600.0,
        association_seconds: float = 0.0,
        tls: TLS | ssl.SSLContext | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        check_range("port", port, 0, 65535)
        check_range("maximum_associations", maximum_associations, 0, math.inf)
        check_range("maximum_associations_per_address", maximum_associations_per_address, 0, math.inf)
        check_range("acse_seconds", acse_seconds, 0.001, math.inf)
        check_range("idle_seconds", idle_seconds, 0, math.inf)
        check_range("association_seconds", association_seconds, 0, math.inf)
        super().__init__(
            providers,
            ae_title=ae_title,
            called_ae_titles=called_ae_titles,
            calling_ae_titles=calling_ae_titles,
            transfer_syntaxes=transfer_syntaxes,
            maximum_length=maximum_length,
            window=window,
        )
        self.host = host
        self.port: int = port
        self._connections: Connections = Connections(maximum_associations, maximum_associations_per_address)
        self.idle_seconds = idle_seconds
        self.association_seconds = association_seconds
        check_tls(tls)
        check_callable("authenticate", authenticate)
        self.tls: TLS | ssl.SSLContext | None = tls
        self.authenticate: Authenticate | None = authenticate
        self.timeouts: Timeouts = Timeouts(acse_seconds=acse_seconds, dimse_seconds=math.inf, network_seconds=math.inf)
        self.associations = 0
        self._open: set[AcceptedAssociation] = set()
        self._lane: Lane
        self._bulk_share: BulkShare = BulkShare()
        self._stack: contextlib.AsyncExitStack

    async def __aenter__(self) -> Self:
        await self._check_tls()
        listener = _listening(self.host, self.port)
        self.port = listener.getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(listener.close)
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._lane = Lane(self._group.start_soon)
            self._group.start_soon(self._listen, listener)
            self._group.start_soon(self._watch)
            self._group.start_soon(self._watch_ages)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._stack.aclose()

    async def _listen(self, listener: socket.socket) -> None:
        loop_share = LoopShare()
        not_accepted = Rarely(logger)
        while True:
            if loop_share.is_used_up():
                await loop_share.renew()
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                await anyio.wait_readable(listener)
            except OSError as error:  # out of descriptors, or a connection that was reset before it was accepted
                not_accepted.warn(f"cannot accept a connection: {error}")
                await anyio.sleep(0.05)
            else:
                tcp = SocketTransport(sock)
                self._group.start_soon(self._serve, tcp, self._connections.opened(address[0], tcp.close))

    async def _serve(self, tcp: SocketTransport, connection: Connection) -> None:
        """Serve one association from its first byte to its last; no peer can end the association of another."""
        try:
            transport = tcp if self.tls is None else await self._secured(tcp, self.tls, connection)
            if transport is not None:
                await self._run(AcceptedAssociation(self, connection), transport, connection)
        finally:
            self._connections.closed(connection)

    async def _run(self, association: AcceptedAssociation, transport: Transport, connection: Connection) -> None:
        connection.close = association.close
        self._open.add(association)
        try:
            await association.run(transport)
        finally:
            self._open.remove(association)
            self._connections.closed(connection)  # what its providers still do holds up no other
            await association.finish()

    async def _check_tls(self) -> None:
        """Raise TLSFailed for settings that cannot be used, so that not every peer finds that out."""
        if self.tls is not None and not hasattr(self.tls, "wrap_bio"):
            import anyio.to_thread

            from asyncstore.net.tls_context import server_context

            await anyio.to_thread.run_sync(server_context, self.tls)

    async def _secured(
        self, tcp: SocketTransport, tls: TLS | ssl.SSLContext, connection: Connection
    ) -> Transport | None:
        """TLS on a connection; None if there is none, which is logged."""
        from asyncstore.net.tls import accept

        where = tcp.peer_address
        try:
            return await accept(tcp, tls, self.timeouts.acse_seconds)
        except TLSFailed as error:
            if not connection.is_given_up:
                logger.warning("no TLS with %s: %s", where, error)
            return None

    async def _watch(self) -> None:
        """Abort associations that are idle."""
        while self.idle_seconds:
            await anyio.sleep(self.idle_seconds / _LOOKS)
            for association in tuple(self._open):
                association.look()

    async def _watch_ages(self) -> None:
        """Abort associations that are too old."""
        while self.association_seconds:
            await anyio.sleep(self.association_seconds / _LOOKS)
            youngest_at = time.monotonic() - self.association_seconds
            for association in tuple(self._open):
                if association.began_at < youngest_at:
                    logger.info("an association is aborted that was open for %g s", self.association_seconds)
                    association.close()


class AcceptedAssociation(Association):
    """One association as its acceptor; it was begun at `began_at`, on the monotonic clock."""

    def __init__(self, acceptor: Acceptor, connection: Connection) -> None:
        super().__init__(
            acceptor=True,
            maximum_length=acceptor.maximum_length,
            timeouts=acceptor.timeouts,
            providers=acceptor.providers,
        )
        self._acceptor = acceptor
        self.lane: Lane | None = acceptor._lane
        self._connection = connection
        self.began_at: float = time.monotonic()
        self._quiet_looks = 0
        self._waits = 0

    async def run(self, transport: Transport) -> None:
        """Serve until the association ends."""
        self._upper_layer.transport_opened(time.monotonic())
        await self._open(transport, self.timeouts.network_seconds)
        try:
            while not self._upper_layer.closing and not self.transport.is_closed:
                await self.changed.wait()
        finally:
            if self._mistake is not None:  # of a sink, say: nobody else hears of it
                logger.error("association aborted because of an exception", exc_info=self._mistake)
            elif self.failure is not None:
                logger.info("association ended: %s", self.failure)
            self.close()
            self._attention.cancel()
            with anyio.CancelScope(shield=True):
                await self._has_ended.wait()

    async def finish(self) -> None:
        """Return when the providers have finished what they were performing, although the peer has left."""
        await self._close()

    def look(self) -> None:
        """Abort when, for some looks in a row, nothing has come from the peer and nothing is owed to it."""
        is_busy = (self.performer is not None and self.performer.at_work) or self.writer.waits != self._waits
        self._waits = self.writer.waits
        self._quiet_looks = 0 if is_busy else self._quiet_looks + 1
        if self._quiet_looks > _LOOKS:
            logger.info("an association was idle for %g s", self._acceptor.idle_seconds)
            self.close()

    def close(self) -> None:
        """Close the connection now; an open association is aborted if the peer takes the A-ABORT at once."""
        with contextlib.suppress(AsyncStoreError):  # the peer has left, or never requested one
            self._upper_layer.abort(time.monotonic(), source=self._abort_source())
            if not self.writer.turn.is_taken:  # else the A-ABORT would be in the middle of a response
                self.transport.send_some((self._upper_layer.data_to_send(),))
        self.transport.close()
        self.changed.set()

    def _take_in(self, data: bytes) -> None:
        self._quiet_looks = 0
        super()._take_in(data)

    def _on_readable(self) -> None:
        performer = self.performer
        if performer is None:
            super()._on_readable()
            return
        performer.begin_turn()
        share = self._acceptor._bulk_share
        if not performer.is_amid_bulk:
            share.others_at = performer.turn_began_at
            super()._on_readable()
        elif share.has_room(performer.turn_began_at):
            super()._on_readable()
            share.took(performer.turn_began_at, time.monotonic())

    def _negotiate(self, event: UpperLayerEvent) -> Awaitable[object] | None:
        assert isinstance(event, AssociationRequested)
        request = event.request
        has_room = self._acceptor._connections.has_room(self._connection)
        rejection = self._acceptor._rejection_of(request) if has_room else _LIMIT_EXCEEDED
        if rejection is not None or self._acceptor.authenticate is None:
            return self._answer(request, rejection)
        decided = self._decided_on(request, self._acceptor.authenticate)
        if isinstance(decided, Awaitable):
            return self._answer_later(request, decided)
        return self._answer_authenticated(request, decided)

    def _decided_on(self, request: AssociateRQ, authenticate: Authenticate) -> Decision | Awaitable[Decision]:
        certificate = getattr(self.transport, "peer_certificate", None)
        identity = request.user_information.user_identity
        try:
            return authenticate(Caller(request.calling_ae_title, request.called_ae_title, identity, certificate))
        except Exception as error:
            return _not_decided(error)

    async def _answer_later(self, request: AssociateRQ, awaitable: Awaitable[Decision]) -> None:
        try:
            decided = await awaitable
        except Exception as error:
            decided = _not_decided(error)
        rest = self._answer_authenticated(request, decided)
        if rest is not None:
            await rest

    def _answer_authenticated(self, request: AssociateRQ, decided: Decision) -> Awaitable[object] | None:
        if isinstance(decided, bytes):
            return self._answer(request, None, decided)
        return self._answer(request, None if decided is True else _NOT_AUTHENTICATED)

    def _answer(
        self, request: AssociateRQ, rejection: AssociateRJ | None, identity_response: bytes = b""
    ) -> Awaitable[object] | None:
        now = time.monotonic()
        if rejection is None and not self._acceptor._connections.becomes_association(self._connection):
            rejection = _LIMIT_EXCEEDED  # others came while it was being authenticated
        if rejection is not None:
            self._upper_layer.reject(rejection, now)
        else:
            self._acceptor.associations += 1
            self.calling_ae_title: str = request.calling_ae_title
            answer = self._acceptor._answer_to(request, identity_response)
            capacity = fragment_capacity(request.user_information.maximum_length)
            self._upper_layer.accept(answer, now)
            window = answer.user_information.operations_window
            contexts = AcceptedContexts.of(request.presentation_contexts, answer.results)
            self._begin_data(contexts, capacity, window=window.invoked if window else 1)
        return self._write_queued()

    def _on_release_requested(self) -> Awaitable[object] | None:
        self._upper_layer.answer_release(time.monotonic())
        return self._write_queued()

    def _write_queued(self) -> Awaitable[object] | None:
        return self.writer.write(self._upper_layer.data_to_send())

    def _closed_by_peer(self) -> None:
        """Do nothing: a peer may leave at any time."""

    def _abort_source(self) -> int:
        return 2 if isinstance(self.failure, RemoteProtocolError) else 0

    def _trace(self, kind: type[TraceEvent], **fields: object) -> None:
        """Do nothing: only requestors log events."""


def _not_decided(error: Exception) -> bool:
    logger.error("authenticate failed", exc_info=error)
    return False


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), backlog=128, family=family)
    except OSError as error:
        # Python says behind the system's words which address it was, and callers say that themselves.
        error.strerror = (error.strerror or str(error)).partition(" (while attempting")[0]
        raise
    listener.setblocking(False)
    return listener
