"""Send whole imaging archives to a PACS by DICOM C-STORE, from an asyncio or trio program.

    archive = asyncstore.Peer("pacs.example", 11112, ae_title="ARCHIVE")
    report = await asyncstore.store(["study/"], to=archive)      # one call
    async with asyncstore.Transfer(archive, ["study/"]) as transfer: ...       # one outcome for each instance
    async with asyncstore.associate(archive, contexts=[...]) as association: ...      # one association

Each name is loaded when it is first used, so importing the package is cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing and importlib would take longer than everything else here
if TYPE_CHECKING:  # for type checkers a name that is imported as itself is public
    from asyncstore.dimse.messages import HIGH as HIGH
    from asyncstore.dimse.messages import LOW as LOW
    from asyncstore.dimse.messages import MEDIUM as MEDIUM
    from asyncstore.dimse.messages import CStoreRQ as CStoreRQ
    from asyncstore.dimse.performing import PeerRequest as PeerRequest
    from asyncstore.errors import Aborted as Aborted
    from asyncstore.errors import AssociateError as AssociateError
    from asyncstore.errors import AssociationLost as AssociationLost
    from asyncstore.errors import AssociationRejected as AssociationRejected
    from asyncstore.errors import AsyncStoreError as AsyncStoreError
    from asyncstore.errors import ConnectFailed as ConnectFailed
    from asyncstore.errors import ConnectionLost as ConnectionLost
    from asyncstore.errors import IdentityNotConfirmed as IdentityNotConfirmed
    from asyncstore.errors import LedgerError as LedgerError
    from asyncstore.errors import LocalProtocolError as LocalProtocolError
    from asyncstore.errors import MissingUID as MissingUID
    from asyncstore.errors import NoAcceptedContext as NoAcceptedContext
    from asyncstore.errors import NotDicom as NotDicom
    from asyncstore.errors import OperationFailed as OperationFailed
    from asyncstore.errors import ProtocolError as ProtocolError
    from asyncstore.errors import RemoteProtocolError as RemoteProtocolError
    from asyncstore.errors import SourceChanged as SourceChanged
    from asyncstore.errors import SourceError as SourceError
    from asyncstore.errors import StoreFailed as StoreFailed
    from asyncstore.errors import Timeout as Timeout
    from asyncstore.errors import TLSFailed as TLSFailed
    from asyncstore.inputs.entry import Source as Source
    from asyncstore.inputs.opening import AnyPath as AnyPath
    from asyncstore.inputs.opening import instance_from as instance_from
    from asyncstore.inputs.opening import instance_from_bytes as instance_from_bytes
    from asyncstore.inputs.scan import scan as scan
    from asyncstore.inputs.selection import Order as Order
    from asyncstore.inputs.selection import Selection as Selection
    from asyncstore.instances.instance import Instance as Instance
    from asyncstore.instances.outcome import Outcome as Outcome
    from asyncstore.instances.outcome import SentUIDs as SentUIDs
    from asyncstore.instances.outcome import State as State
    from asyncstore.instances.problem import ProblemKind as ProblemKind
    from asyncstore.instances.problem import ScanProblem as ScanProblem
    from asyncstore.instances.source import BytesSource as BytesSource
    from asyncstore.instances.source import DataSource as DataSource
    from asyncstore.instances.source import FileSource as FileSource
    from asyncstore.ledger.protocol import Commitments as Commitments
    from asyncstore.ledger.protocol import KeepsCommitments as KeepsCommitments
    from asyncstore.ledger.protocol import KnownInstance as KnownInstance
    from asyncstore.ledger.protocol import Ledger as Ledger
    from asyncstore.ledger.protocol import Offered as Offered
    from asyncstore.ledger.protocol import Suspicion as Suspicion
    from asyncstore.ledger.protocol import Uncommitted as Uncommitted
    from asyncstore.ledger.rows import ChangeCount as ChangeCount
    from asyncstore.ledger.rows import Commitment as Commitment
    from asyncstore.ledger.rows import CommitmentCount as CommitmentCount
    from asyncstore.ledger.rows import DirectoryCount as DirectoryCount
    from asyncstore.ledger.rows import LedgerRow as LedgerRow
    from asyncstore.ledger.rows import ReasonCount as ReasonCount
    from asyncstore.ledger.rows import RunRecord as RunRecord
    from asyncstore.ledger.rows import RunState as RunState
    from asyncstore.ledger.rows import StateCount as StateCount
    from asyncstore.ledger.rows import StoredOverTime as StoredOverTime
    from asyncstore.ledger.rows import StoredPart as StoredPart
    from asyncstore.ledger.rows import StudyCount as StudyCount
    from asyncstore.ledger.sqlite.ledger import SqliteLedger as SqliteLedger
    from asyncstore.ledger.sqlite.reader import LedgerReader as LedgerReader
    from asyncstore.net.acceptor import Acceptor as Acceptor
    from asyncstore.net.mock import MockTransport as MockTransport
    from asyncstore.net.peer import Peer as Peer
    from asyncstore.net.peer import Timeouts as Timeouts
    from asyncstore.net.provider import NO_ANSWER as NO_ANSWER
    from asyncstore.net.provider import ServiceProvider as ServiceProvider
    from asyncstore.net.provider import Silence as Silence
    from asyncstore.net.provider import Sink as Sink
    from asyncstore.net.tls_settings import TLS as TLS
    from asyncstore.net.transport import Connect as Connect
    from asyncstore.net.transport import Transport as Transport
    from asyncstore.net.user_identity import Authenticate as Authenticate
    from asyncstore.net.user_identity import Caller as Caller
    from asyncstore.preparation.conversions import Contexts as Contexts
    from asyncstore.preparation.conversions import Conversions as Conversions
    from asyncstore.preparation.prepare import LATER as LATER
    from asyncstore.preparation.prepare import Change as Change
    from asyncstore.preparation.prepare import Changed as Changed
    from asyncstore.preparation.prepare import Later as Later
    from asyncstore.preparation.prepare import Preparation as Preparation
    from asyncstore.preparation.prepare import Prepared as Prepared
    from asyncstore.preparation.prepare import Preparer as Preparer
    from asyncstore.services.query import Matches as Matches
    from asyncstore.services.references import CommitmentReport as CommitmentReport
    from asyncstore.services.references import Reference as Reference
    from asyncstore.services.scu import Association as Association
    from asyncstore.services.scu import associate as associate
    from asyncstore.services.storage_commitment import CommitmentAnswers as CommitmentAnswers
    from asyncstore.services.storage_commitment import CommitmentReports as CommitmentReports
    from asyncstore.services.storage_scp import Arrival as Arrival
    from asyncstore.services.storage_scp import OnStore as OnStore
    from asyncstore.services.storage_scp import StorageSCP as StorageSCP
    from asyncstore.status import Category as Category
    from asyncstore.status import Status as Status
    from asyncstore.transfer.engine import Transfer as Transfer
    from asyncstore.transfer.engine import store as store
    from asyncstore.transfer.limits import Limits as Limits
    from asyncstore.transfer.observer import Observer as Observer
    from asyncstore.transfer.options import KeepTogether as KeepTogether
    from asyncstore.transfer.options import OnDuplicate as OnDuplicate
    from asyncstore.transfer.options import RetryPolicy as RetryPolicy
    from asyncstore.transfer.options import TransferOptions as TransferOptions
    from asyncstore.transfer.proof.committing import CommitOptions as CommitOptions
    from asyncstore.transfer.reactions import Reaction as Reaction
    from asyncstore.transfer.reactions import Reactions as Reactions
    from asyncstore.transfer.reactions import StatusReaction as StatusReaction
    from asyncstore.transfer.report import Report as Report
    from asyncstore.transfer.report import Waiting as Waiting
    from asyncstore.transfer.schedule import Timetable as Timetable
    from asyncstore.transfer.view import AssociationView as AssociationView
    from asyncstore.transfer.view import TransferView as TransferView
    from asyncstore.transfer.view import Trouble as Trouble
    from asyncstore.upper_layer.contexts import AcceptedContext as AcceptedContext
    from asyncstore.upper_layer.user_information import UserIdentity as UserIdentity


__version__ = "0.1.0"

# The public names, by the module that has them: a test compares them with the imports above.
_NAMES = {
    # to whom, and one association
    "asyncstore.net.peer": "Peer Timeouts",
    "asyncstore.net.tls_settings": "TLS",
    "asyncstore.upper_layer.user_information": "UserIdentity",
    "asyncstore.services.scu": "associate Association",
    "asyncstore.upper_layer.contexts": "AcceptedContext",
    "asyncstore.services.query": "Matches",
    "asyncstore.dimse.messages": "LOW MEDIUM HIGH CStoreRQ",
    # many instances
    "asyncstore.transfer.engine": "store Transfer",
    "asyncstore.transfer.options": "TransferOptions RetryPolicy KeepTogether OnDuplicate",
    "asyncstore.transfer.limits": "Limits",
    "asyncstore.transfer.schedule": "Timetable",
    "asyncstore.inputs.entry": "Source",
    "asyncstore.transfer.reactions": "StatusReaction Reaction Reactions",
    # how far a transfer is
    "asyncstore.transfer.report": "Report Waiting",
    "asyncstore.transfer.view": "TransferView AssociationView Trouble",
    "asyncstore.transfer.observer": "Observer",
    # what is sent, and what became of it
    "asyncstore.inputs.scan": "scan",
    "asyncstore.inputs.selection": "Selection Order",
    "asyncstore.instances.problem": "ScanProblem ProblemKind",
    "asyncstore.instances.instance": "Instance",
    "asyncstore.inputs.opening": "AnyPath instance_from instance_from_bytes",
    "asyncstore.instances.source": "DataSource FileSource BytesSource",
    "asyncstore.instances.outcome": "Outcome State SentUIDs",
    "asyncstore.status": "Status Category",
    # what is changed on the way
    "asyncstore.preparation.prepare": "Preparer Prepared Preparation Change Changed Later LATER",
    "asyncstore.preparation.conversions": "Contexts Conversions",
    # the durable record
    "asyncstore.ledger.protocol": "Ledger Offered Suspicion KnownInstance KeepsCommitments Commitments Uncommitted",
    "asyncstore.ledger.sqlite.ledger": "SqliteLedger",
    "asyncstore.ledger.sqlite.reader": "LedgerReader",
    "asyncstore.ledger.rows": (
        "LedgerRow RunRecord RunState StateCount ReasonCount StudyCount ChangeCount DirectoryCount StoredOverTime "
        "StoredPart Commitment CommitmentCount"
    ),
    # the other end
    "asyncstore.services.storage_scp": "StorageSCP Arrival OnStore",
    "asyncstore.net.acceptor": "Acceptor",
    "asyncstore.net.user_identity": "Caller Authenticate",
    "asyncstore.net.provider": "NO_ANSWER Silence ServiceProvider Sink",
    "asyncstore.dimse.performing": "PeerRequest",
    "asyncstore.net.transport": "Transport Connect",
    "asyncstore.net.mock": "MockTransport",
    # storage commitment
    "asyncstore.transfer.proof.committing": "CommitOptions",
    "asyncstore.services.storage_commitment": "CommitmentReports CommitmentAnswers",
    "asyncstore.services.references": "CommitmentReport Reference",
    # errors
    "asyncstore.errors": (
        "AsyncStoreError SourceError NotDicom MissingUID SourceChanged AssociateError ConnectFailed TLSFailed "
        "AssociationRejected NoAcceptedContext IdentityNotConfirmed AssociationLost Aborted ConnectionLost "
        "Timeout ProtocolError LocalProtocolError RemoteProtocolError LedgerError StoreFailed OperationFailed"
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # type checkers read the imports above; with __getattr__ they would accept any misspelt name
    __all__ = [*_MODULE_OF]

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
