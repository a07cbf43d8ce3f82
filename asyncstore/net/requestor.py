"""Requests an association, and releases or aborts it at the end (PS3.8 7.1 to 7.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import anyio

from asyncstore.errors import (
    AssociationRejected,
    AsyncStoreError,
    ConnectFailed,
    ConnectionLost,
    IdentityNotConfirmed,
    LocalProtocolError,
    NoAcceptedContext,
    Timeout,
    TLSFailed,
)
from asyncstore.net import trace
from asyncstore.net.association import Association
from asyncstore.net.connecting import connect as connect_to
from asyncstore.net.peer import Peer, Timeouts, check_ae_title, check_length, check_secret, check_type, check_window
from asyncstore.upper_layer.contexts import AcceptedContexts, propose
from asyncstore.upper_layer.framing import fragment_capacity
from asyncstore.upper_layer.machine import AssociationAccepted, AssociationRefused
from asyncstore.upper_layer.pdu import AssociateRQ
from asyncstore.upper_layer.request import information_of_requestor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from asyncstore.net.provider import Providers
    from asyncstore.net.transport import Connect
    from asyncstore.upper_layer.items import PresentationContext
    from asyncstore.upper_layer.machine import UpperLayerEvent
    from asyncstore.upper_layer.pdu import AssociateAC
    from asyncstore.upper_layer.user_information import UserIdentity


class Requestor(Association):
    """An association that we request: `async with` establishes it, and the end of the block releases it.

    `extended_negotiations` is what the peer accepted of those that we proposed, by SOP class (PS3.7 D.3.3.5).
    See `asyncstore.Association` for the arguments and for what is raised.
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
        allow_plaintext_credentials: bool = False,
        extended_negotiations: Mapping[str, bytes] | None = None,
        providers: Providers | None = None,
        connect: Connect = connect_to,
    ) -> None:
        check_type("peer", peer, Peer)
        check_type("timeouts", timeouts or Timeouts(), Timeouts)
        check_type("providers", providers or {}, Mapping)
        check_ae_title(calling_ae_title)
        check_window(window)
        check_length("maximum_length", maximum_length)
        check_length("maximum_send_length", maximum_send_length)
        check_secret(user_identity, peer, may_be_in_clear=allow_plaintext_credentials)
        super().__init__(
            acceptor=False,
            maximum_length=maximum_length,
            timeouts=timeouts or Timeouts(),
            providers=providers,
            calling_ae_title=calling_ae_title,
        )
        try:
            proposed = propose(contexts)
            self._request = AssociateRQ(
                called_ae_title=peer.ae_title,
                calling_ae_title=calling_ae_title,
                presentation_contexts=proposed,
                user_information=information_of_requestor(
                    maximum_length=maximum_length,
                    window=window,
                    user_identity=user_identity,
                    both_roles=_performed(providers, proposed) if providers else (),
                    extended_negotiations=extended_negotiations or {},
                ),
            )
            self._upper_layer.associate(self._request, time.monotonic())
        except ValueError as error:
            raise LocalProtocolError(f"the association cannot be asked for: {error}") from error
        self.peer = peer
        self.extended_negotiations: dict[str, bytes] = {}
        self._maximum_send_length = maximum_send_length
        self._connect = connect
        self._was_entered = False

    def _other_end(self) -> str:
        return str(self.peer)

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise LocalProtocolError("an association is entered once: make another one")
        self._was_entered = True
        self._trace(trace.Requesting, peer=self.peer)
        try:
            transport = await self._connect(self.peer, self.timeouts.connect_seconds)
        except TLSFailed as error:
            self._trace_failure(error)
            raise
        except (ConnectFailed, Timeout) as error:
            self._trace(trace.ConnectionFailed, detail=str(error))
            raise
        if not hasattr(transport, "send_some"):
            raise LocalProtocolError(f"connect returned {transport!r:.200}: it is a Transport")
        self._receive = self._on_first_readable
        await self._open(transport, self.timeouts.network_seconds)
        try:
            await self._establish()
        except BaseException as error:
            await self._give_up(error)
            if isinstance(error, Exception):
                self._raise_mistake()
            raise
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
            self._background.cancel_scope.cancel()  # what is still performed: its response cannot be sent
            await self._close()
        if error is None or isinstance(error, Exception):  # a cancellation stays one
            self._raise_mistake()

    async def _establish(self) -> None:
        """Send A-ASSOCIATE-RQ and wait for the answer, all within the ACSE timeout."""
        self._upper_layer.transport_opened(time.monotonic())
        self._trace(trace.RequestSent, request=self._request)
        with anyio.move_on_after(self.timeouts.acse_seconds) as scope:
            await self._flush()
            while not self.established:
                self.check_not_failed()
                await self.changed.wait()
        if scope.cancelled_caught and not self.established:
            raise Timeout("acse", self.timeouts.acse_seconds)

    async def _give_up(self, error: BaseException) -> None:
        """End an association that was not established; the caller raises `error`."""
        try:
            if isinstance(error, AsyncStoreError):
                self.fail(error)
            await self._abort()
        finally:
            await self._close()

    def _on_first_readable(self) -> None:
        """Take in the answer. An association that ends together with its acceptance was never established."""
        self._on_readable()
        if not self.established:
            return
        if self.failure is not None:
            self.established = False
        else:
            self._receive = self._on_readable
            self._watching.cancel()

    def _negotiate(self, event: UpperLayerEvent) -> None:
        if isinstance(event, AssociationAccepted):
            self._accepted(event.answer)
        elif isinstance(event, AssociationRefused):
            self._trace(trace.Rejected, answer=event.rejection)
            raise AssociationRejected(event.rejection.result, event.rejection.source, event.rejection.reason)

    def _closed_by_peer(self) -> None:
        if not self.established:
            raise ConnectionLost("the peer closed the connection before it answered the association request")
        super()._closed_by_peer()

    def _accepted(self, answer: AssociateAC) -> None:
        self._trace(trace.Accepted, request=self._request, answer=answer)
        identity = self._request.user_information.user_identity
        if (
            identity is not None
            and identity.response_requested
            and answer.user_information.user_identity_response is None
        ):
            raise IdentityNotConfirmed(f"{self.peer} did not confirm the user identity")
        contexts = AcceptedContexts.of(self._request.presentation_contexts, answer.results)
        proposed, granted = self._request.user_information.operations_window, answer.user_information.operations_window
        if proposed and granted:  # 0 is unlimited (PS3.7 D.3.3.3): then what we proposed is the limit
            self.operations.window = min(granted.invoked or proposed.invoked, proposed.invoked)
        if not contexts:
            self._trace(trace.NothingAccepted)
            raise NoAcceptedContext(f"{self.peer} accepted none of the proposed presentation contexts")
        capacity = fragment_capacity(answer.user_information.maximum_length, self._maximum_send_length)
        self.extended_negotiations = {
            item.sop_class_uid: item.information for item in answer.user_information.extended_negotiations
        }
        self._begin_data(contexts, capacity, window=1)


def _performed(providers: Providers, proposed: Iterable[PresentationContext]) -> Iterable[str]:
    """The proposed abstract syntaxes of which we perform the SCP."""
    from asyncstore.net.provider import performs_as_scu

    abstract_syntaxes = {context.abstract_syntax for context in proposed}
    return (uid for uid, each in providers.items() if uid in abstract_syntaxes and not performs_as_scu(each))
