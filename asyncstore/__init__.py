"""Send whole imaging archives to a PACS by DICOM C-STORE, from an asyncio or trio program.

    archive = asyncstore.Peer("pacs.example", 11112, ae_title="ARCHIVE")
    report = await asyncstore.store(["study/"], to=archive)      # one call
    async with asyncstore.Transfer(archive, ["study/"]) as transfer: ...       # one outcome for each instance
    async with asyncstore.associate(archive, contexts=[...]) as association: ...      # one association

Each name is loaded when it is first used, so importing the package is cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing and importlib would take longer than everything else here
if TYPE_CHECKING:
    from asyncstore.dimse.messages import HIGH, LOW, MEDIUM, CStoreRQ
    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.errors import (
        Aborted,
        AssociateError,
        AssociationLost,
        AssociationRejected,
        AsyncStoreError,
        ConnectFailed,
        ConnectionLost,
        IdentityNotConfirmed,
        LedgerError,
        LocalProtocolError,
        MissingUID,
        NoAcceptedContext,
        NotDicom,
        OperationFailed,
        ProtocolError,
        RemoteProtocolError,
        SourceChanged,
        SourceError,
        StoreFailed,
        Timeout,
        TLSFailed,
    )
    from asyncstore.inputs.entry import Source
    from asyncstore.inputs.opening import AnyPath, instance_from, instance_from_bytes
    from asyncstore.inputs.scan import scan
    from asyncstore.inputs.selection import Order, Selection
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome, SentUIDs, State
    from asyncstore.instances.problem import ProblemKind, ScanProblem
    from asyncstore.instances.source import BytesSource, DataSource, FileSource
    from asyncstore.ledger.protocol import (
        Commitments,
        KeepsCommitments,
        KnownInstance,
        Ledger,
        Offered,
        Suspicion,
        Uncommitted,
    )
    from asyncstore.ledger.rows import (
        ChangeCount,
        Commitment,
        CommitmentCount,
        DirectoryCount,
        LedgerRow,
        ReasonCount,
        RunRecord,
        RunState,
        StateCount,
        StoredOverTime,
        StoredPart,
        StudyCount,
    )
    from asyncstore.ledger.sqlite.ledger import SqliteLedger
    from asyncstore.ledger.sqlite.reader import LedgerReader
    from asyncstore.net.acceptor import Acceptor
    from asyncstore.net.mock import MockTransport
    from asyncstore.net.peer import Peer, Timeouts
    from asyncstore.net.provider import NO_ANSWER, ServiceProvider, Silence, Sink
    from asyncstore.net.tls_settings import TLS
    from asyncstore.net.transport import Connect, Transport
    from asyncstore.net.user_identity import Authenticate, Caller
    from asyncstore.preparation.conversions import Contexts, Conversions
    from asyncstore.preparation.prepare import LATER, Change, Changed, Later, Preparation, Prepared, Preparer
    from asyncstore.services.query import Matches
    from asyncstore.services.references import CommitmentReport, Reference
    from asyncstore.services.scu import Association, associate
    from asyncstore.services.storage_commitment import CommitmentAnswers, CommitmentReports
    from asyncstore.services.storage_scp import Arrival, OnStore, StorageSCP
    from asyncstore.status import Category, Status
    from asyncstore.transfer.engine import Transfer, store
    from asyncstore.transfer.limits import Limits
    from asyncstore.transfer.observer import Observer
    from asyncstore.transfer.options import KeepTogether, OnDuplicate, RetryPolicy, TransferOptions
    from asyncstore.transfer.proof.committing import CommitOptions
    from asyncstore.transfer.reactions import Reaction, Reactions, StatusReaction
    from asyncstore.transfer.report import Report, Waiting
    from asyncstore.transfer.schedule import Timetable
    from asyncstore.transfer.view import AssociationView, TransferView, Trouble
    from asyncstore.upper_layer.contexts import AcceptedContext
    from asyncstore.upper_layer.items import UserIdentity

__version__ = "0.1.0"

__all__ = [
    # to whom, and one association
    "Peer", "TLS", "Timeouts", "UserIdentity", "associate", "Association", "AcceptedContext", "Matches", "LOW",
    "MEDIUM", "HIGH",
    # many instances
    "store", "Transfer", "TransferOptions", "RetryPolicy", "Limits", "Timetable", "Source", "AnyPath", "KeepTogether",
    "OnDuplicate", "StatusReaction", "Reaction", "Reactions",
    # how far a transfer is
    "Report", "Waiting", "TransferView", "AssociationView", "Trouble", "Observer",
    # what is sent, and what became of it
    "scan", "Selection", "Order", "ScanProblem", "ProblemKind", "Instance", "instance_from", "instance_from_bytes",
    "DataSource", "FileSource", "BytesSource", "Outcome", "State", "Status", "Category",
    # what is changed on the way
    "Preparer", "Prepared", "Preparation", "Contexts", "Conversions", "Change", "Changed", "Later", "LATER", "SentUIDs",
    # the durable record
    "Ledger", "Offered", "Suspicion", "KnownInstance", "SqliteLedger", "LedgerReader", "LedgerRow", "RunRecord",
    "RunState", "StateCount", "ReasonCount", "StudyCount", "ChangeCount", "DirectoryCount", "StoredOverTime",
    "StoredPart", "Commitment", "CommitmentCount", "KeepsCommitments", "Commitments", "Uncommitted",
    # the other end
    "StorageSCP", "Acceptor", "Arrival", "CStoreRQ", "OnStore", "Caller", "Authenticate", "NO_ANSWER", "Silence",
    "ServiceProvider", "PeerRequest", "Sink", "Transport", "Connect", "MockTransport",
    # storage commitment
    "CommitOptions", "CommitmentReports", "CommitmentReport", "CommitmentAnswers", "Reference",
    # errors
    "AsyncStoreError", "SourceError", "NotDicom", "MissingUID", "SourceChanged", "AssociateError", "ConnectFailed",
    "TLSFailed", "AssociationRejected", "NoAcceptedContext", "IdentityNotConfirmed", "AssociationLost", "Aborted",
    "ConnectionLost", "Timeout", "ProtocolError", "LocalProtocolError", "RemoteProtocolError", "LedgerError",
    "StoreFailed", "OperationFailed",
]  # fmt: skip

_MODULES = {
    "asyncstore.dimse.messages": (
        "HIGH",
        "LOW",
        "MEDIUM",
        "CStoreRQ",
    ),
    "asyncstore.dimse.performing": ("PeerRequest",),
    "asyncstore.inputs.entry": ("Source",),
    "asyncstore.inputs.opening": (
        "AnyPath",
        "instance_from",
        "instance_from_bytes",
    ),
    "asyncstore.inputs.scan": ("scan",),
    "asyncstore.inputs.selection": (
        "Order",
        "Selection",
    ),
    "asyncstore.instances.instance": ("Instance",),
    "asyncstore.instances.outcome": (
        "Outcome",
        "SentUIDs",
        "State",
    ),
    "asyncstore.instances.problem": (
        "ProblemKind",
        "ScanProblem",
    ),
    "asyncstore.instances.source": (
        "BytesSource",
        "DataSource",
        "FileSource",
    ),
    "asyncstore.ledger.protocol": (
        "Commitments",
        "KeepsCommitments",
        "KnownInstance",
        "Ledger",
        "Offered",
        "Suspicion",
        "Uncommitted",
    ),
    "asyncstore.ledger.rows": (
        "ChangeCount",
        "Commitment",
        "CommitmentCount",
        "DirectoryCount",
        "LedgerRow",
        "ReasonCount",
        "RunRecord",
        "RunState",
        "StateCount",
        "StoredOverTime",
        "StoredPart",
        "StudyCount",
    ),
    "asyncstore.ledger.sqlite.ledger": ("SqliteLedger",),
    "asyncstore.ledger.sqlite.reader": ("LedgerReader",),
    "asyncstore.net.acceptor": ("Acceptor",),
    "asyncstore.net.mock": ("MockTransport",),
    "asyncstore.net.peer": (
        "Peer",
        "Timeouts",
    ),
    "asyncstore.net.provider": (
        "NO_ANSWER",
        "ServiceProvider",
        "Silence",
        "Sink",
    ),
    "asyncstore.net.tls_settings": ("TLS",),
    "asyncstore.net.transport": (
        "Connect",
        "Transport",
    ),
    "asyncstore.net.user_identity": (
        "Authenticate",
        "Caller",
    ),
    "asyncstore.preparation.conversions": ("Contexts", "Conversions"),
    "asyncstore.preparation.prepare": (
        "Change",
        "Changed",
        "LATER",
        "Later",
        "Preparation",
        "Prepared",
        "Preparer",
    ),
    "asyncstore.services.query": ("Matches",),
    "asyncstore.services.references": (
        "CommitmentReport",
        "Reference",
    ),
    "asyncstore.services.scu": (
        "Association",
        "associate",
    ),
    "asyncstore.services.storage_commitment": (
        "CommitmentAnswers",
        "CommitmentReports",
    ),
    "asyncstore.services.storage_scp": (
        "Arrival",
        "OnStore",
        "StorageSCP",
    ),
    "asyncstore.status": (
        "Category",
        "Status",
    ),
    "asyncstore.transfer.engine": (
        "Transfer",
        "store",
    ),
    "asyncstore.transfer.limits": ("Limits",),
    "asyncstore.transfer.observer": ("Observer",),
    "asyncstore.transfer.options": (
        "KeepTogether",
        "OnDuplicate",
        "RetryPolicy",
        "TransferOptions",
    ),
    "asyncstore.transfer.proof.committing": ("CommitOptions",),
    "asyncstore.transfer.reactions": (
        "Reaction",
        "Reactions",
        "StatusReaction",
    ),
    "asyncstore.transfer.report": (
        "Report",
        "Waiting",
    ),
    "asyncstore.transfer.schedule": ("Timetable",),
    "asyncstore.transfer.view": (
        "AssociationView",
        "TransferView",
        "Trouble",
    ),
    "asyncstore.upper_layer.contexts": ("AcceptedContext",),
    "asyncstore.upper_layer.items": ("UserIdentity",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # type checkers read the imports above; with __getattr__ they would accept any misspelt name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(_MODULE_OF.get(name, "asyncstore.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
