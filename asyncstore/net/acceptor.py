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

from asyncstore.aio.loop_share import LoopShare
from asyncstore.errors import AsyncStoreError, RemoteProtocolError, TLSFailed
from asyncstore.net.association import Association
from asyncstore.net.peer import Timeouts, check_ae_title, check_range, check_tls
from asyncstore.net.provider import performs_as_scu
from asyncstore.net.transport import SocketTransport
from asyncstore.net.user_identity import Caller
from asyncstore.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, TRANSFER_SYNTAXES
from asyncstore.upper_layer.contexts import AcceptedContexts
from asyncstore.upper_layer.framing import MINIMUM_LENGTH, fragment_capacity
from asyncstore.upper_layer.items import (
    ExtendedNegotiation,
    OperationsWindow,
    PresentationContextResult,
    RoleSelection,
    UserInformation,
)
from asyncstore.upper_layer.machine import AssociationRequested
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Iterator
    from types import TracebackType

    from asyncstore.net.provider import Providers
    from asyncstore.net.tls_settings import TLS
    from asyncstore.net.transport import Transport
    from asyncstore.net.user_identity import Answer as Decision
    from asyncstore.net.user_identity import Authenticate
    from asyncstore.trace import TraceEvent
    from asyncstore.upper_layer.machine import UpperLayerEvent
    from asyncstore.upper_layer.pdu import AssociateRQ

logger: logging.Logger = logging.getLogger("asyncstore.net.acceptor")

_UNLIMITED_WINDOW: Final = 64
# An association is idle after this many looks without a byte. Looks are counted, not time: a peer is not idle because
# the whole program stood still.
_LOOKS: Final = 10

# The AE title of an acceptor that takes calls to any AE title.
ANY_SCP: Final = "ANY-SCP"
# PS3.8 Table 9-21: permanent, by the service user, called AE title not recognised; transient, local limit exceeded.
_WRONG_CALLED_AE_TITLE: Final = AssociateRJ(1, 1, 7)
_WRONG_CALLING_AE_TITLE: Final = AssociateRJ(1, 1, 3)
_LIMIT_EXCEEDED: Final = AssociateRJ(2, 3, 2)
_NOT_AUTHENTICATED: Final = AssociateRJ(1, 1, 1)
# PS3.8 Table 9-18, result/reason of a presentation context.
_ACCEPTED, _ABSTRACT_SYNTAX_UNKNOWN, _TRANSFER_SYNTAXES_UNKNOWN = 0, 3, 4


class Acceptor:
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
    maximum_associations  further ones are rejected as "local limit exceeded"; 0: no limit
    acse_seconds          how long to wait for the request, and for the peer to close at the end (ARTIM, PS3.8 9.1.5)
    authenticate          decides about each caller whose AE titles are right (see Authenticate); None: all may
    tls                   accept by TLS only: a TLS with our certificate, or an ssl.SSLContext; None: clear text only
    idle_seconds          abort an association if its peer neither sends nor takes a byte for this long and no provider
                          owes it an answer; 0: never

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
        maximum_associations: int = 0,
        acse_seconds: float = 30.0,
        idle_seconds: float = 600.0,
        tls: TLS | ssl.SSLContext | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        check_range("port", port, 0, 65535)
        check_range("maximum_length", maximum_length or MINIMUM_LENGTH, MINIMUM_LENGTH, 0xFFFFFFFF)
        check_range("window", window, 1, 0xFFFF)
        check_range("maximum_associations", maximum_associations, 0, math.inf)
        check_range("acse_seconds", acse_seconds, 0.001, math.inf)
        check_range("idle_seconds", idle_seconds, 0, math.inf)
        self.providers = providers
        self.host = host
        self.port: int = port
        self.ae_title: str = check_ae_title(ae_title)
        if called_ae_titles is None and ae_title != ANY_SCP:
            called_ae_titles = ae_title
        self.called_ae_titles: frozenset[str] | None = _titles(called_ae_titles)
        self.calling_ae_titles: frozenset[str] | None = _titles(calling_ae_titles)
        self.transfer_syntaxes: tuple[str, ...] | None = (
            None if transfer_syntaxes is None else several(transfer_syntaxes)
        )
        self.maximum_length = maximum_length
        self.window = window
        self.maximum_associations = maximum_associations
        self.idle_seconds = idle_seconds
        check_tls(tls)
        self.tls: TLS | ssl.SSLContext | None = tls
        self.authenticate: Authenticate | None = authenticate
        self.timeouts: Timeouts = Timeouts(acse_seconds=acse_seconds, dimse_seconds=math.inf, network_seconds=math.inf)
        self.associations = 0
        self._open: set[AcceptedAssociation] = set()
        self._stack: contextlib.AsyncExitStack

    async def __aenter__(self) -> Self:
        await self._check_tls()
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
        """Serve one association from its first byte to its last; no peer can end the association of another."""
        tcp = SocketTransport(sock)
        transport = tcp if self.tls is None else await self._secured(tcp, self.tls)
        if transport is None:
            return
        over_limit = 0 < self.maximum_associations <= len(self._open)
        association = AcceptedAssociation(self, over_limit=over_limit)
        self._open.add(association)
        try:
            await association.run(transport)
        finally:
            self._open.remove(association)
            await association.finish()

    async def _check_tls(self) -> None:
        """Raise TLSFailed for settings that cannot be used, so that not every peer finds that out."""
        if self.tls is not None and not hasattr(self.tls, "wrap_bio"):
            import anyio.to_thread

            from asyncstore.net.tls_context import server_context

            await anyio.to_thread.run_sync(server_context, self.tls)

    async def _secured(self, tcp: SocketTransport, tls: TLS | ssl.SSLContext) -> Transport | None:
        """TLS on a connection; None if there is none, which is logged."""
        from asyncstore.net.tls import accept

        where = tcp.peer_address
        try:
            return await accept(tcp, tls, self.timeouts.acse_seconds)
        except TLSFailed as error:
            logger.warning("no TLS with %s: %s", where, error)
            return None

    async def _watch(self) -> None:
        """Abort associations that are idle."""
        while self.idle_seconds:
            await anyio.sleep(self.idle_seconds / _LOOKS)
            for association in tuple(self._open):
                association.look()

    # -- negotiation ---------------------------------------------------------------------------------------------------

    def _rejection_of(self, request: AssociateRQ) -> AssociateRJ | None:
        """The rejection of a request; None if it is accepted."""
        if self.called_ae_titles is not None and request.called_ae_title not in self.called_ae_titles:
            return _WRONG_CALLED_AE_TITLE
        if self.calling_ae_titles is not None and request.calling_ae_title not in self.calling_ae_titles:
            return _WRONG_CALLING_AE_TITLE
        return None

    def _answer_to(self, request: AssociateRQ, identity_response: bytes = b"") -> AssociateAC:
        """The acceptance of a request, with a result for each presentation context."""
        identity = request.user_information.user_identity
        window = request.user_information.operations_window
        granted = min(window.invoked or _UNLIMITED_WINDOW, self.window) if window else 1
        return AssociateAC(
            called_ae_title=request.called_ae_title,
            calling_ae_title=request.calling_ae_title,
            results=tuple(
                self._result_of(context.context_id, context.abstract_syntax, context.transfer_syntaxes)
                for context in request.presentation_contexts
            ),
            user_information=UserInformation(
                maximum_length=self.maximum_length,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
                operations_window=OperationsWindow(granted, 1) if granted > 1 else None,
                user_identity_response=identity_response if identity and identity.response_requested else None,
                role_selections=tuple(self._roles(request)),
                extended_negotiations=tuple(self._negotiated(request)),
            ),
        )

    def _roles(self, request: AssociateRQ) -> Iterator[RoleSelection]:
        """The SCP role for peers that propose it, where our provider performs as the SCU (PS3.7 D.3.3.4)."""
        for proposed in request.user_information.role_selections:
            provider = self.providers.get(proposed.sop_class_uid)
            if provider is not None and performs_as_scu(provider):
                yield RoleSelection(proposed.sop_class_uid, False, proposed.scp)

    def _negotiated(self, request: AssociateRQ) -> Iterator[ExtendedNegotiation]:
        """What the providers' `negotiate`, if they have it, answers to the proposed bytes (PS3.7 D.3.3.5)."""
        for proposed in request.user_information.extended_negotiations:
            negotiate = getattr(self.providers.get(proposed.sop_class_uid), "negotiate", None)
            if negotiate is not None:
                yield ExtendedNegotiation(proposed.sop_class_uid, negotiate(proposed.information))

    def _result_of(self, context_id: int, abstract_syntax: str, proposed: Collection[str]) -> PresentationContextResult:
        syntax = self._choose(proposed)
        if abstract_syntax not in self.providers:
            return PresentationContextResult(context_id, _ABSTRACT_SYNTAX_UNKNOWN, "")
        if syntax is None:
            return PresentationContextResult(context_id, _TRANSFER_SYNTAXES_UNKNOWN, "")
        return PresentationContextResult(context_id, _ACCEPTED, syntax)

    def _choose(self, proposed: Collection[str]) -> str | None:
        """The transfer syntax to accept: our first one that is proposed, or the peer's first if we prefer none."""
        wanted = self.transfer_syntaxes
        if wanted is None:
            return next((uid for uid in proposed if uid in TRANSFER_SYNTAXES), None)
        return next((uid for uid in wanted if uid in proposed), None)


class AcceptedAssociation(Association):
    """One association as its acceptor."""

    def __init__(self, acceptor: Acceptor, *, over_limit: bool) -> None:
        super().__init__(
            acceptor=True,
            maximum_length=acceptor.maximum_length,
            timeouts=acceptor.timeouts,
            providers=acceptor.providers,
        )
        self._acceptor = acceptor
        self._over_limit = over_limit
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
        if self.performer is not None:
            self.performer.begin_turn()
        super()._on_readable()

    def _negotiate(self, event: UpperLayerEvent) -> Awaitable[object] | None:
        assert isinstance(event, AssociationRequested)
        request = event.request
        rejection = _LIMIT_EXCEEDED if self._over_limit else self._acceptor._rejection_of(request)
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


def several(words: Collection[str]) -> tuple[str, ...]:
    """The words as a tuple; a single one may be given as a plain string."""
    return (words,) if isinstance(words, str) else tuple(words)


def _titles(titles: Collection[str] | None) -> frozenset[str] | None:
    """AE titles as they arrive, without the spaces that pad them; None, which is all of them, stays None."""
    return None if titles is None else frozenset(check_ae_title(title).strip(" ") for title in several(titles))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
