"""Storage Commitment Service Class, push model, as its user (PS3.4 Annex J): will the peer keep what it has?

A request names instances under a Transaction UID (N-ACTION). The peer reports later (N-EVENT-REPORT): on the same
association, or on one that it opens to a port of ours, in one part or several, perhaps twice, perhaps never. The same
`CommitmentReports` takes the reports in both cases:

    reports = asyncstore.CommitmentReports()
    providers = {STORAGE_COMMITMENT_PUSH_MODEL: reports}
    async with (
        Acceptor(providers, host="", port=11113),  # listens before anything is asked
        associate(peer, contexts=contexts, providers=providers) as association,
    ):
        transaction_uid = await association.request_commitment(references)
        answers = await reports.wait(transaction_uid, references)
"""

from __future__ import annotations

import enum
import uuid
from collections import OrderedDict
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.aio.signal import Signal
from asyncstore.dimse.n_messages import NActionRQ, NEventReportRQ, NEventReportRSP
from asyncstore.dimse.performing import UNRECOGNISED_OPERATION
from asyncstore.errors import LocalProtocolError, OperationFailed
from asyncstore.instances.outcome import reason_of
from asyncstore.net.invoker import FinalResponse
from asyncstore.services.references import CommitmentReport, Reference, encode_report, read_report
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import STORAGE_COMMITMENT_PUSH_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.net.association import Association
    from asyncstore.net.provider import Answer

# PS3.4 J.3: the well-known SOP Instance, and the types of its action and events.
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT: Final = 1
ALL_COMMITTED: Final = 1
SOME_FAILED: Final = 2

MAXIMUM_REFERENCES: Final = 300
"""References in one request. Orthanc needs 0.1 s for some hundred, 2 s for 1,000 and 52 s for 5,000."""

# Reports that nobody has waited for yet: they may come before the request is answered, or long after.
_KEPT_TRANSACTIONS: Final = 1000
_NO_SUCH_EVENT_TYPE: Final = Status(0x0113)
_INVALID_ARGUMENT: Final = Status(0x0115, "the report cannot be read")


class Remedy(enum.Enum):
    """What helps an instance that the peer did not commit."""

    SEND_AGAIN = "send it again"
    ASK_AGAIN = "ask again"
    NONE = "failed"


class _Reason(NamedTuple):
    text: str
    remedy: Remedy


# PS3.3 C.14.1.1.
_REASONS: Final = {
    0x0110: _Reason("processing failure", Remedy.ASK_AGAIN),
    0x0112: _Reason("the peer does not have the instance", Remedy.SEND_AGAIN),
    0x0119: _Reason("the peer has it with another SOP class", Remedy.NONE),
    0x0122: _Reason("the peer does not support its SOP class", Remedy.NONE),
    0x0131: _Reason("the Transaction UID is in use", Remedy.ASK_AGAIN),
    0x0213: _Reason("resource limitation", Remedy.ASK_AGAIN),
}


def text_of_reason(reason: int) -> str:
    """A Failure Reason (0008,1197) in words."""
    known = _REASONS.get(reason)
    return f"{known.text} (0x{reason:04X})" if known else f"unknown failure reason (0x{reason:04X})"


def remedy_of(reason: int) -> Remedy:
    """What helps against a Failure Reason."""
    known = _REASONS.get(reason)
    return known.remedy if known else Remedy.NONE


class CommitmentAnswers(NamedTuple):
    """The answers to the references of a transaction, all parts of the report together.

    `committed` are the SOP Instance UIDs that the peer commits to keep, `failed` the others, each with its Failure
    Reason (PS3.3 C.14.1.1).
    """

    committed: set[str]
    failed: dict[str, int]

    def are_complete(self, uids: Iterable[str]) -> bool:
        """Whether each of these SOP Instance UIDs has its answer."""
        return all(uid in self.committed or uid in self.failed for uid in uids)


async def request_commitment(
    association: Association, references: Sequence[Reference], transaction_uid: str | None = None
) -> str:
    """Ask the peer to commit to instances; see asyncstore.Association.request_commitment."""
    association.check_open()
    context_id = association.contexts.any_of(STORAGE_COMMITMENT_PUSH_MODEL)
    if context_id is None:
        raise LocalProtocolError("the peer accepted no presentation context for Storage Commitment")
    transaction_uid = transaction_uid or new_transaction_uid()
    syntax = association.contexts.by_id[context_id].transfer_syntax_uid
    information = encode_report(transaction_uid, references, {}, syntax)
    arguments = (STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, REQUEST_COMMITMENT)
    response = FinalResponse()
    await association.invoker.send_command(
        context_id, NActionRQ, response.on_response, *arguments, data_set=information
    )
    status = (await association.invoker.wait_for(response)).status
    if not status.is_stored:
        raise OperationFailed(f"the peer refused the request for commitment: {reason_of(status)}", status)
    return transaction_uid


def new_transaction_uid() -> str:
    """A UID of its own for a request (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


class CommitmentReports:
    """Takes the reports of storage commitment: a ServiceProvider for associations of either role.

    `on_report(report)` is called with each report, also with one for a transaction that nobody waits for; what it
    returns is awaited if it is awaitable. Until then the report is not acknowledged. If it raises, the peer is answered
    0110, and may report again.
    """

    performs_as_scu = True

    def __init__(self, on_report: Callable[[CommitmentReport], object] | None = None) -> None:
        self._on_report = on_report
        self._answers: OrderedDict[str, CommitmentAnswers] = OrderedDict()
        self._changed = Signal()

    async def wait(self, transaction_uid: str, references: Iterable[Reference]) -> CommitmentAnswers:
        """Wait until the peer has reported on every reference; no deadline: use `anyio.move_on_after` or the like."""
        uids = {reference.sop_instance_uid for reference in references}
        while not (answers := self.answers_to(transaction_uid)).are_complete(uids):
            await self._changed.wait()
        self._answers.pop(transaction_uid, None)
        return answers

    def answers_to(self, transaction_uid: str) -> CommitmentAnswers:
        """What the peer has reported so far on a transaction."""
        return self._answers.get(transaction_uid) or CommitmentAnswers(set(), {})

    def begin(self, request: PeerRequest) -> None:
        """Refuse everything but a report of one of the two types."""
        message = request.message
        if not isinstance(message, NEventReportRQ):
            request.refused_with = UNRECOGNISED_OPERATION
        elif message.event_type_id not in (ALL_COMMITTED, SOME_FAILED):
            request.refused_with = _NO_SUCH_EVENT_TYPE

    async def perform(self, request: PeerRequest, data_set: object) -> Answer:
        """Take a report."""
        message = request.message
        assert isinstance(message, NEventReportRQ)
        try:
            report = read_report(data_set if isinstance(data_set, bytes) else b"", request.context.transfer_syntax_uid)
        except ValueError:
            return self._response(message, _INVALID_ARGUMENT)
        if self._on_report is not None:
            told = self._on_report(report)
            if isinstance(told, Awaitable):
                await told
        answers = self._answers.setdefault(report.transaction_uid, CommitmentAnswers(set(), {}))
        answers.committed.update(reference.sop_instance_uid for reference in report.committed)
        answers.failed.update((reference.sop_instance_uid, reason) for reference, reason in report.failed.items())
        while len(self._answers) > _KEPT_TRANSACTIONS:
            self._answers.popitem(last=False)
        self._changed.set()
        return self._response(message, SUCCESS)

    def _response(self, message: NEventReportRQ, status: Status) -> NEventReportRSP:
        uids = (message.affected_sop_class_uid, message.affected_sop_instance_uid)
        return NEventReportRSP(message.message_id, status, *uids, message.event_type_id)
