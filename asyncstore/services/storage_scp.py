"""Storage Service Class as its provider (PS3.4 Annex B): a small SCP that keeps or discards what it receives.

It is for `asyncstore storescp`, the demonstration, tests and benchmarks. It keeps PS3.10 files, named by SOP Instance
UID; a file gets its final name only when the instance is whole. `on_store` decides what to answer, and when.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias, get_args

import anyio.to_thread

from asyncstore.dimse.messages import C_STORE_RQ, CStoreRQ, CStoreRSP
from asyncstore.dimse.performing import UNRECOGNISED_OPERATION
from asyncstore.errors import LocalProtocolError
from asyncstore.net.acceptor import MAXIMUM_ASSOCIATIONS, MAXIMUM_ASSOCIATIONS_PER_ADDRESS, Acceptor
from asyncstore.net.negotiator import ANY_SCP, several
from asyncstore.net.peer import check_callable, check_range
from asyncstore.net.provider import NO_ANSWER, Silence
from asyncstore.record import record
from asyncstore.services.disk_room import DiskRoom, NoRoom
from asyncstore.services.filing import Filed, OnExisting
from asyncstore.services.leftovers import Claim
from asyncstore.services.part_file import EMPTY, Pace, PartFile, answer_to
from asyncstore.services.verification import VerificationProvider
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import STORAGE_SOP_CLASSES, VERIFICATION

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection
    from types import TracebackType

    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.net.provider import ServiceProvider, Sink
    from asyncstore.net.tls_settings import TLS
    from asyncstore.net.user_identity import Authenticate

logger: logging.Logger = logging.getLogger("asyncstore.net.acceptor")

# PS3.5 9.1; a value that does not look like a UID never becomes part of a file name.
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*\Z")
# The SOP classes of every other service (PS3.6 Table A-1); new ones of the Storage Service are not among them.
_OF_OTHER_SERVICES = re.compile(
    r"1\.2\.840\.10008\.(?:[134]|10|5\.1\.1|5\.1\.4\.(?:1\.1\.200\.[4-6]|1\.1\.201\.[2-6]|1\.2|20|3[1237]"
    r"|34\.[234689]|3[89]\.[234]|4[12]|4[345]\.[234]))(?:\.|\Z)"
)
_INVALID_SOP_INSTANCE: Final = Status(0x0117, "the SOP Instance UID is not a UID")
_OTHER_SOP_CLASS: Final = Status(0x0122, "the presentation context is for another SOP class")
# PS3.4 Table B.2-1: a failure that is none of the others. Senders wait and try again after "out of resources" or 0110;
# a program that fails would do so each time.
_CANNOT_UNDERSTAND: Final = 0xC000
_COMMENT_CHARACTERS: Final = 64  # of an Error Comment (PS3.7 C.4.1)


@record(frozen=True, slots=True)
class Arrival:
    """An instance that a StorageSCP has received whole; `on_store` gets it.

    calling_ae_title     the peer's AE title
    request              the C-STORE request, with `affected_sop_class_uid` and `affected_sop_instance_uid`
    transfer_syntax_uid  transfer syntax of the data set as received
    data_set_bytes       length of the data set
    path                 the file; None if the instance was discarded
    """

    calling_ae_title: str
    request: CStoreRQ
    transfer_syntax_uid: str
    data_set_bytes: int
    path: Path | None


Answer: TypeAlias = Status | int | Silence | None
OnStore: TypeAlias = Callable[[Arrival], Answer | Awaitable[Answer]]
"""Decides the answer to an instance; see StorageSCP."""


class StorageSCP(Acceptor):
    """Receives instances on a TCP port (PS3.4 Annex B), until the block is left.

        async with asyncstore.StorageSCP(ae_title="ARCHIVE", output_directory="in") as scp:
            peer = asyncstore.Peer("127.0.0.1", scp.port, ae_title="ARCHIVE")

    output_directory      directory for the files, named by SOP Instance UID; None: discard the instances
    on_store              called with an Arrival for each instance, and decides the answer; None: success
    sop_classes           SOP classes to accept, besides Verification; None: every Storage SOP Class of the standard
    further_providers     a ServiceProvider for each abstract syntax of another service
    any_class             accept private and unknown SOP classes too: all but those known to be of another service
    host, port            address to listen on; port 0 takes a free one, and `scp.port` is its number
    ae_title              our AE title: calls to any other are rejected; ANY-SCP accepts all
    called_ae_titles      AE titles to accept instead of `ae_title`
    calling_ae_titles     callers to accept; None: all
    transfer_syntaxes     transfer syntaxes to accept, in order of preference; None: all of the standard
    maximum_length        longest PDU to receive, in bytes; 0: no limit
    window                how many operations a peer may have outstanding (PS3.7 D.3.3.3)
    on_existing           what becomes of another data set whose SOP Instance UID is stored: "rename" keeps it beside
                          the stored one, "replace" in its place, "keep" refuses it (0111)
    maximum_disk_bytes    answer A700 before the files of the directory have more bytes; 0: no limit
    sync                  answer only when the file is on the disk, so that a power failure loses nothing of what was
                          answered with success; it costs two or three writes to the disk for each
    maximum_associations  further ones are rejected for now, as "local limit exceeded"; 0: no limit
    maximum_associations_per_address   the same for those of one address, or of one IPv6 network (/64)
    acse_seconds          how long to wait for the request, and for the peer to close at the end (ARTIM, PS3.8 9.1.5)
    idle_seconds          abort an association if its peer neither sends nor takes a byte for this long and no provider
                          owes it an answer; 0: never
    association_seconds   abort an association that is older, whatever its peer does; 0: never
    tls                   accept by TLS only: a TLS with our certificate, or an ssl.SSLContext; None: clear text only
    authenticate          decides about each caller whose AE titles are right (see Authenticate); None: all may

    `on_store` returns one of these, or an awaitable of one: a Status or its value; None, which is success; NO_ANSWER,
    which leaves the sender without an answer until it gives up, 30 seconds by default.

        on_store=lambda arrival: 0xA700 if arrival.data_set_bytes > 1_000_000 else None
        on_store=arrivals.append

    If it raises, or returns anything else, this is logged and the answer is C000 with the reason as its comment.
    Awaitables run side by side, so answers may be late and come in any order. One goes on when its peer has left, and
    is cancelled when the StorageSCP ends.

    `timeouts` and `providers` are what it serves associations with. `stored` counts the answers with success or a
    warning, `failed` all other answers, `associations` the associations that were accepted.

    The same data set again, in the same transfer syntax, is answered as the first time, and the stored file stays as it
    is: `same_again` counts these. `kept_beside` and `replaced` count other data sets of a stored SOP Instance UID, as
    `on_existing` says; a warning is logged for each. The second name has letters behind the UID, which are made of the
    bytes: `1.2.3-4f2a67d0c1b39e58.dcm`. Only one StorageSCP should write to a directory. When it begins, it removes the
    unfinished files that a killed one left there: `.1.2.3.8c1d0f3a5b7e9264.part`. Their peers got no answer.

    Where there is no room for an instance, the same data set again is still answered with success.

    Refused, whatever `on_store` says: an empty data set (A900); and before it is kept, a data set whose SOP Instance
    UID or SOP Class UID is missing or another than the request's (A900), or that cannot be read (C000). A data set that
    is discarded is not looked at.

    Raises LocalProtocolError for a value that makes no sense. Entering the block raises OSError if it cannot listen on
    the port or the directory does not exist, and TLSFailed if `tls` cannot be used.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ae_title: str = ANY_SCP,
        output_directory: str | os.PathLike[str] | None = None,
        called_ae_titles: Collection[str] | None = None,
        calling_ae_titles: Collection[str] | None = None,
        sop_classes: Collection[str] | None = None,
        any_class: bool = False,
        transfer_syntaxes: Collection[str] | None = None,
        maximum_length: int = 131072,
        window: int = 16,
        on_existing: OnExisting = "rename",
        maximum_disk_bytes: int = 0,
        sync: bool = False,
        maximum_associations: int = MAXIMUM_ASSOCIATIONS,
        maximum_associations_per_address: int = MAXIMUM_ASSOCIATIONS_PER_ADDRESS,
        acse_seconds: float = 30.0,
        idle_seconds: float = 600.0,
        association_seconds: float = 0.0,
        tls: TLS | ssl.SSLContext | None = None,
        authenticate: Authenticate | None = None,
        on_store: OnStore | None = None,
        further_providers: Mapping[str, ServiceProvider] | None = None,
    ) -> None:
        if not isinstance(output_directory, str | os.PathLike | None):
            raise LocalProtocolError(f"output_directory is {output_directory!r:.200}: it is the path of a directory")
        self.output_directory: Path | None = None if output_directory is None else Path(output_directory)
        check_callable("on_store", on_store)
        self.on_store = on_store
        self.stored = 0
        self.failed = 0
        self.same_again = 0
        self.kept_beside = 0
        self.replaced = 0
        if on_existing not in get_args(OnExisting):
            raise LocalProtocolError(
                f"on_existing is {on_existing!r:.80}: it is one of {', '.join(get_args(OnExisting))}"
            )
        self.on_existing: OnExisting = on_existing
        self.sync = sync
        check_range("maximum_disk_bytes", maximum_disk_bytes, 0, math.inf)
        self._claim: Claim | None = None
        self._room: DiskRoom | None = None
        if self.output_directory is not None and maximum_disk_bytes:
            self._room = DiskRoom(self.output_directory, maximum_disk_bytes, logger)
        storage = StorageProvider(self)
        providers: dict[str, ServiceProvider] = dict.fromkeys(
            STORAGE_SOP_CLASSES if sop_classes is None else several(sop_classes), storage
        )
        providers[VERIFICATION] = VerificationProvider()
        providers.update(further_providers or {})
        super().__init__(
            _OfAnyClass(providers, storage) if any_class else providers,
            host=host,
            port=port,
            ae_title=ae_title,
            called_ae_titles=called_ae_titles,
            calling_ae_titles=calling_ae_titles,
            transfer_syntaxes=transfer_syntaxes,
            maximum_length=maximum_length,
            window=window,
            maximum_associations=maximum_associations,
            maximum_associations_per_address=maximum_associations_per_address,
            acse_seconds=acse_seconds,
            idle_seconds=idle_seconds,
            association_seconds=association_seconds,
            tls=tls,
            authenticate=authenticate,
        )

    async def __aenter__(self) -> Self:
        directory = self.output_directory
        if directory is not None and not directory.is_dir():
            raise NotADirectoryError(f"output_directory {str(directory)!r} is not a directory: create it first")
        if directory is not None:
            self._claim = await anyio.to_thread.run_sync(_claimed, directory)
        try:
            if self._room is not None:
                await self._room.look()
            await super().__aenter__()
        except BaseException:
            self._let_go()
            raise
        if self._room is not None:
            self._group.start_soon(self._room.watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._claim is not None:
            self._claim.close()


def _claimed(directory: Path) -> Claim | None:
    """Claim a directory, and say what was found unfinished in it; None if it cannot be read."""
    try:
        claim = Claim(directory)
    except OSError:
        return None
    if claim.removed:
        text = "Files of instances that a killed run did not receive whole, removed from %r: %d"
        logger.info(text, str(directory), claim.removed)
    if claim.kept:
        text = "Files of instances that are not whole, and may be those of another receiver, kept in %r: %d"
        logger.warning(text, str(directory), claim.kept)
    return claim


class _OfAnyClass(Mapping[str, "ServiceProvider"]):
    """The providers that are given, and one for every SOP class that may be of the Storage Service."""

    def __init__(self, providers: Mapping[str, ServiceProvider], storage: ServiceProvider) -> None:
        self._providers = providers
        self._storage = storage

    def __getitem__(self, sop_class_uid: str) -> ServiceProvider:
        provider = self._providers.get(sop_class_uid)
        if provider is not None:
            return provider
        if _OF_OTHER_SERVICES.match(sop_class_uid):
            raise KeyError(sop_class_uid)
        return self._storage

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)


@record(frozen=True, slots=True)
class _Discarded:
    """Takes a data set that is not kept; `status` is the answer if the instance is refused."""

    status: Status | None = None

    def write(self, data: bytes) -> None:
        """Forget it."""

    def finish(self) -> None:
        """Nothing to do."""

    async def discard(self) -> None:
        """Nothing to do."""


_DISCARDED: Final = _Discarded()


class StorageProvider:
    """Performs C-STORE for a StorageSCP."""

    def __init__(self, scp: StorageSCP) -> None:
        self._scp = scp
        self._pace = Pace()

    def begin(self, request: PeerRequest) -> Sink | None:
        """Choose where the data set goes: into a file, or nowhere."""
        message = request.message
        directory = self._scp.output_directory
        if not isinstance(message, CStoreRQ):
            is_empty = message.command_field == C_STORE_RQ
            self._scp.failed += is_empty
            request.refused_with = EMPTY if is_empty else UNRECOGNISED_OPERATION
            return None
        if message.affected_sop_class_uid != request.context.abstract_syntax:
            return _Discarded(_OTHER_SOP_CLASS)
        if directory is None:
            return _DISCARDED
        if not _UID.match(message.affected_sop_instance_uid):
            return _Discarded(_INVALID_SOP_INSTANCE)
        syntax = request.context.transfer_syntax_uid
        scp = self._scp
        beside = len(scp._open) - 1
        return PartFile(directory, message, syntax, self._pace, scp.on_existing, scp._room, scp.sync, beside)

    def perform(
        self, request: PeerRequest, data_set: Sink | bytes | None
    ) -> CStoreRSP | Silence | Awaitable[CStoreRSP | Silence]:
        """Answer a whole instance, as on_store decides."""
        message = request.message
        assert isinstance(message, CStoreRQ)
        path: Path | None = None
        refusal = EMPTY if not request.data_set_bytes else None
        if isinstance(data_set, _Discarded):
            refusal = data_set.status or refusal
        elif isinstance(data_set, PartFile):
            path = data_set.path
            refusal = self._refusal_of(request, message, data_set)
        if refusal is not None:
            return self._response(message, refusal)
        on_store = self._scp.on_store
        if on_store is None:
            return self._response(message, SUCCESS)
        context = request.context
        arrival = Arrival(request.calling_ae_title, message, context.transfer_syntax_uid, request.data_set_bytes, path)
        try:
            answer = on_store(arrival)
            if answer is not None and isinstance(answer, Awaitable):
                return self._answer_later(message, answer)
            return self._response(message, _checked(answer))
        except Exception as error:
            return self._failed(message, error)

    def _refusal_of(self, request: PeerRequest, message: CStoreRQ, file: PartFile) -> Status | None:
        """Count a file, and log what there is to say about it; returns the answer if it is not kept."""
        if file.error is not None:
            if isinstance(file.error, NoRoom) and file.room is not None:  # which is not told of each
                file.room.tell()
            else:
                logger.error("cannot keep the instance %r: %s", message.affected_sop_instance_uid, file.error)
            return answer_to(file.error)
        place = file.place
        assert place is not None
        if place.how is Filed.SAME_AGAIN:
            self._scp.same_again += 1
        elif place.how is not Filed.NEW:
            is_beside = place.how is Filed.BESIDE
            self._scp.kept_beside += is_beside
            self._scp.replaced += not is_beside
            came = (request.data_set_bytes, request.calling_ae_title)
            what_for = "is kept beside" if is_beside else "replaces"
            text = "%r: another data set of its UID, of %d bytes from %r, %s %s"
            logger.warning(text, str(place.path), *came, what_for, place.earlier)
        return None

    async def _answer_later(self, message: CStoreRQ, awaitable: Awaitable[Answer]) -> CStoreRSP | Silence:
        try:
            return self._response(message, _checked(await awaitable))
        except Exception as error:
            return self._failed(message, error)

    def _failed(self, message: CStoreRQ, error: Exception) -> CStoreRSP | Silence:
        logger.error("on_store failed for %r", message.affected_sop_instance_uid, exc_info=error)
        comment = f"on_store raised {type(error).__name__}"
        return self._response(message, Status(_CANNOT_UNDERSTAND, comment[:_COMMENT_CHARACTERS]))

    def _response(self, message: CStoreRQ, status: Status | Silence) -> CStoreRSP | Silence:
        if status is NO_ANSWER:
            return NO_ANSWER
        if status.is_stored:
            self._scp.stored += 1
        else:
            self._scp.failed += 1
        return CStoreRSP(message.message_id, status, message.affected_sop_class_uid, message.affected_sop_instance_uid)


def _checked(answer: Answer) -> Status | Silence:
    """The answer of on_store as a Status; raises TypeError or LocalProtocolError if it cannot be sent."""
    if answer is None:
        return SUCCESS
    if answer is SUCCESS or answer is NO_ANSWER:
        return answer
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = Status(answer)
    if not isinstance(answer, Status):
        raise TypeError(f"on_store gave a {type(answer).__name__}, not a Status, the value of one, NO_ANSWER or None")
    CStoreRSP(1, answer).encode()
    return answer
