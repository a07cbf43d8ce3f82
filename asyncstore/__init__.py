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
    from asyncstore.dimse.messages import HIGH, LOW, MEDIUM
    from asyncstore.errors import (
        Aborted,
        AssociateError,
        AssociationLost,
        AssociationRejected,
        AsyncStoreError,
        ConnectFailed,
        ConnectionLost,
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
    )
    from asyncstore.inputs.opening import instance_from, instance_from_bytes
    from asyncstore.inputs.scan import scan
    from asyncstore.inputs.selection import Selection
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome, State
    from asyncstore.instances.problem import ProblemKind, ScanProblem
    from asyncstore.instances.source import BytesSource, DataSource, FileSource
    from asyncstore.ledger.protocol import Ledger
    from asyncstore.ledger.sqlite.ledger import SqliteLedger
    from asyncstore.ledger.sqlite.reader import LedgerReader
    from asyncstore.net.acceptor import Acceptor
    from asyncstore.net.mock import MockTransport
    from asyncstore.net.peer import Peer, Timeouts
    from asyncstore.net.provider import NO_ANSWER, ServiceProvider
    from asyncstore.net.transport import Transport
    from asyncstore.services.query import Matches
    from asyncstore.services.references import CommitmentReport, Reference
    from asyncstore.services.scu import Association, associate
    from asyncstore.services.storage_commitment import CommitmentReports
    from asyncstore.services.storage_scp import Arrival, OnStore, StorageSCP
    from asyncstore.status import Status
    from asyncstore.transfer.engine import Transfer, store
    from asyncstore.transfer.limits import Limits
    from asyncstore.transfer.options import RetryPolicy, TransferOptions
    from asyncstore.transfer.reactions import Reaction, Reactions, StatusReaction
    from asyncstore.transfer.report import Report
    from asyncstore.transfer.schedule import Timetable
    from asyncstore.upper_layer.items import UserIdentity

__version__ = "0.1.0"

__all__ = [
    # to whom, and one association
    "Peer", "Timeouts", "UserIdentity", "associate", "Association", "Matches", "LOW", "MEDIUM", "HIGH",
    # many instances
    "store", "Transfer", "TransferOptions", "RetryPolicy", "Limits", "Timetable", "Report",
    "Ledger", "SqliteLedger", "LedgerReader", "StatusReaction", "Reaction", "Reactions",
    # what is sent, and what became of it
    "scan", "Selection", "ScanProblem", "ProblemKind", "Instance", "instance_from", "instance_from_bytes",
    "DataSource", "FileSource", "BytesSource", "Outcome", "State", "Status",
    # the other end
    "StorageSCP", "Arrival", "OnStore", "NO_ANSWER", "ServiceProvider", "Transport", "MockTransport",
    # storage commitment
    "Acceptor", "CommitmentReports", "CommitmentReport", "Reference",
    # errors
    "AsyncStoreError", "SourceError", "NotDicom", "MissingUID", "SourceChanged", "AssociateError", "ConnectFailed",
    "AssociationRejected", "NoAcceptedContext", "AssociationLost", "Aborted", "ConnectionLost", "Timeout",
    "ProtocolError", "LocalProtocolError", "RemoteProtocolError", "LedgerError", "StoreFailed",
    "OperationFailed",
]  # fmt: skip

_MODULES = {
    "asyncstore.dimse.messages": ("HIGH", "LOW", "MEDIUM"),
    "asyncstore.inputs.opening": ("instance_from", "instance_from_bytes"),
    "asyncstore.inputs.scan": ("scan",),
    "asyncstore.inputs.selection": ("Selection",),
    "asyncstore.instances.instance": ("Instance",),
    "asyncstore.instances.outcome": ("Outcome", "State"),
    "asyncstore.instances.problem": ("ProblemKind", "ScanProblem"),
    "asyncstore.instances.source": ("BytesSource", "DataSource", "FileSource"),
    "asyncstore.ledger.protocol": ("Ledger",),
    "asyncstore.ledger.sqlite.ledger": ("SqliteLedger",),
    "asyncstore.ledger.sqlite.reader": ("LedgerReader",),
    "asyncstore.services.references": ("CommitmentReport", "Reference"),
    "asyncstore.services.storage_commitment": ("CommitmentReports",),
    "asyncstore.services.storage_scp": ("Arrival", "OnStore", "StorageSCP"),
    "asyncstore.services.query": ("Matches",),
    "asyncstore.services.scu": ("Association", "associate"),
    "asyncstore.net.acceptor": ("Acceptor",),
    "asyncstore.net.mock": ("MockTransport",),
    "asyncstore.net.peer": ("Peer", "Timeouts"),
    "asyncstore.net.provider": ("NO_ANSWER", "ServiceProvider"),
    "asyncstore.net.transport": ("Transport",),
    "asyncstore.status": ("Status",),
    "asyncstore.transfer.engine": ("Transfer", "store"),
    "asyncstore.transfer.limits": ("Limits",),
    "asyncstore.transfer.options": ("RetryPolicy", "TransferOptions"),
    "asyncstore.transfer.reactions": ("Reaction", "Reactions", "StatusReaction"),
    "asyncstore.transfer.report": ("Report",),
    "asyncstore.transfer.schedule": ("Timetable",),
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
