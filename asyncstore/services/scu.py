"""The public association, with one method for each service that a program can ask of a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from asyncstore.dimse.messages import LOW, MEDIUM
from asyncstore.net.connecting import connect as connect_to
from asyncstore.net.requestor import Requestor
from asyncstore.services import storage
from asyncstore.uids import STUDY_ROOT_FIND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from pydicom.dataset import Dataset

    from asyncstore.errors import AsyncStoreError
    from asyncstore.inputs.opening import AnyPath
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.net.peer import Peer, Timeouts
    from asyncstore.net.provider import Providers
    from asyncstore.net.transport import Connect
    from asyncstore.services.query import Matches
    from asyncstore.services.references import Reference
    from asyncstore.status import Status
    from asyncstore.upper_layer.contexts import AcceptedContext
    from asyncstore.upper_layer.user_information import UserIdentity


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
    extended_negotiations  bytes to propose for SOP classes (PS3.7 D.3.3.5), such as {STUDY_ROOT_FIND: b"\x01"} for
                         relational queries (PS3.4 C.5.1.1); what the peer accepts is in the attribute of that name
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
        extended_negotiations: Mapping[str, bytes] | None = None,
        providers: Providers | None = None,
        connect: Connect = connect_to,
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
            extended_negotiations=extended_negotiations,
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
    def extended_negotiations(self) -> Mapping[str, bytes]:
        """What the peer accepted of the proposed ones, by SOP class (PS3.7 D.3.3.5)."""
        return self._requestor.extended_negotiations

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

    def find(self, identifier: Dataset, *, model: str = STUDY_ROOT_FIND, priority: int = MEDIUM) -> Matches:
        """Query the peer (C-FIND, PS3.4 Annex C): an async iterator of its matches, as pydicom Datasets.

            query = Dataset()
            query.QueryRetrieveLevel, query.PatientID, query.StudyInstanceUID = "STUDY", "4711", ""
            async for match in association.find(query):
                print(match.StudyInstanceUID)

        `identifier` has the keys: a value to match, or an empty one to be told. `model` is the SOP class of the query,
        for which the peer must have accepted a context. `async with association.find(query) as matches` cancels the
        query if the block is left before the last match; `await matches.aclose()` does so too.

        The iterator raises OperationFailed when the peer refuses the query, or after the matches if it ended its list
        early; AssociationLost or RemoteProtocolError when the association ends before that. LocalProtocolError when
        there is no context for the model, and SourceError when the identifier cannot be encoded.
        """
        from asyncstore.services.query import Matches

        return Matches(self._requestor, identifier, model=model, priority=priority)

    async def request_commitment(self, references: Sequence[Reference], *, transaction_uid: str | None = None) -> str:
        """Ask the peer to commit to keep instances (N-ACTION, PS3.4 Annex J); returns the Transaction UID.

        `references` are pairs of a SOP Class UID and a SOP Instance UID, at most some hundred: some peers need much
        longer for more. The peer reports later, to a `CommitmentReports`: see there. Its report may come before this
        returns; who keeps a record gives a `transaction_uid` of their own, and writes it down before.

        Needs a context for Storage Commitment: raises LocalProtocolError if the peer accepted none. Raises
        OperationFailed if the peer refuses, AssociationLost or RemoteProtocolError when the association ends before
        the answer: Orthanc aborts it if our AE title is not in its list of modalities.
        """
        from asyncstore.services.storage_commitment import request_commitment

        return await request_commitment(self._requestor, references, transaction_uid)

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
