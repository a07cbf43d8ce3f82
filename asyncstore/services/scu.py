"""The public association, with one method for each service that a program can ask of a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from asyncstore.dimse.messages import LOW
from asyncstore.net.requestor import Requestor
from asyncstore.net.transport import connect as connect_by_tcp
from asyncstore.services import storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from pydicom.dataset import Dataset

    from asyncstore.errors import AsyncStoreError
    from asyncstore.inputs.opening import AnyPath
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.net.peer import Peer, Timeouts
    from asyncstore.net.provider import Providers
    from asyncstore.net.transport import Connect
    from asyncstore.status import Status
    from asyncstore.upper_layer.contexts import AcceptedContext
    from asyncstore.upper_layer.items import UserIdentity


class Association:
    """An association that we request from a peer (PS3.8 7.1 to 7.3), for one block.

        ct = ("1.2.840.10008.5.1.4.1.1.2", ["1.2.840.10008.1.2.1"])
        async with asyncstore.associate(peer, contexts=[ct]) as association:
            outcome = await association.store("ct.dcm")

    contexts             presentation contexts to propose, at most 128: pairs of an abstract syntax and the transfer
                         syntaxes for it
    calling_ae_title     our AE title
    timeouts             how long to wait for the peer
    window               asynchronous operations window to propose (PS3.7 D.3.3.3); 1: none
    maximum_length       longest PDU to receive, in bytes; 0: no limit
    maximum_send_length  longest PDU to send, in bytes, if the peer accepts longer ones; 0: only the peer's limit
    user_identity        user identity to propose (PS3.7 D.3.3.7)
    allow_plaintext_credentials  send a passcode, ticket or token also without TLS
    providers            a ServiceProvider for each abstract syntax that the peer may ask of us
    connect              opens the connection; by default TCP, and TLS if `peer.tls` says so

    Raises LocalProtocolError for a value that cannot be proposed, before it connects. Entering the block raises
    ConnectFailed, TLSFailed, Timeout, AssociationRejected, Aborted, ConnectionLost, RemoteProtocolError,
    NoAcceptedContext or IdentityNotConfirmed. Leaving the block releases the association, or aborts it after an
    exception or cancellation, or with operations outstanding. An exception of a callback or a logging handler aborts it
    too, and is raised out of the block. The block can be entered once.

    Several tasks may call `store` at once: the negotiated `window` limits how many requests are outstanding, and the
    others wait.
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
        providers: Providers | None = None,
        connect: Connect = connect_by_tcp,
    ) -> None:
        self._requestor = Requestor(
            peer,
            contexts,
            calling_ae_title=calling_ae_title,
            timeouts=timeouts,
            window=window,
            maximum_length=maximum_length,
            maximum_send_length=maximum_send_length,
            user_identity=user_identity,
            allow_plaintext_credentials=allow_plaintext_credentials,
            providers=providers,
            connect=connect,
        )

    def __repr__(self) -> str:
        return f"<Association {self.peer}, {self._requestor.state}>"

    async def __aenter__(self) -> Self:
        await self._requestor.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._requestor.__aexit__(kind, error, traceback)

    @property
    def peer(self) -> Peer:
        """The peer that the association is requested from."""
        return self._requestor.peer

    @property
    def timeouts(self) -> Timeouts:
        """How long the association waits for the peer."""
        return self._requestor.timeouts

    @property
    def is_open(self) -> bool:
        """Whether the association is established, and has neither failed nor been released."""
        return self._requestor.is_open

    @property
    def failure(self) -> AsyncStoreError | None:
        """Why the association ended too early; None while all is well."""
        return self._requestor.failure

    @property
    def contexts(self) -> tuple[AcceptedContext, ...]:
        """The presentation contexts that the peer accepted; none before the block is entered."""
        return tuple(self._requestor.contexts.by_id.values())

    @property
    def window(self) -> int:
        """How many operations may be outstanding, as negotiated (PS3.7 D.3.3.3); 1 without negotiation."""
        return self._requestor.window

    @property
    def outstanding(self) -> tuple[int, ...]:
        """The Message IDs of the requests that the peer has not answered, or not with a final response."""
        return tuple(self._requestor.outstanding)

    async def store(self, source: Instance | Dataset | AnyPath, *, priority: int = LOW) -> Outcome:
        """Store one instance: a file by its path, a scanned Instance, or a pydicom Dataset.

        Returns an Outcome also when the instance fails: the peer refuses it, no accepted presentation context fits, the
        file cannot be read, or the Dataset cannot be encoded. The data set is converted to another uncompressed
        transfer syntax if that helps. `outcome.instance` is the Instance that was passed in.

        Raises AssociationLost or RemoteProtocolError when the association ends before the answer: then it is not known
        whether the peer has the instance. PS3.4 Annex B, PS3.7 9.1.1.

        Cancelling a call in the middle of its message, for example by a timeout, ends the association for every task:
        half a message cannot be taken back. Cancelling it before or after that does not affect the others.
        """
        return await storage.store(self._requestor, source, priority=priority)

    async def echo(self) -> Status:
        """Verify that the peer answers (C-ECHO, PS3.7 9.1.5), and return its status.

        Needs a context for Verification, 1.2.840.10008.1.1: raises LocalProtocolError if the peer accepted none. Raises
        AssociationLost or RemoteProtocolError when the association ends before the answer.
        """
        from asyncstore.services import verification

        return await verification.echo(self._requestor)

    async def release(self) -> None:
        """Release the association before the end of the block (PS3.8 7.2); the second time does nothing.

        It is not an error if the peer closes the connection, answers nonsense or does not answer: what it acknowledged
        before still counts. Raises LocalProtocolError while requests are outstanding, and outside of the block.
        """
        await self._requestor.release()

    async def abort(self) -> None:
        """Abort the association (PS3.8 7.3); does nothing if it has ended.

        A request that is partly written is cut off: its last fragment is never sent. Raises LocalProtocolError outside
        of the block.
        """
        await self._requestor.abort()


associate = Association
"""Establish an association; Association under a name that reads well after `async with`."""
