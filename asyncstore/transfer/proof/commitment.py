"""Has a peer commit to keep what it stored, beside the sending (PS3.4 Annex J).

References are collected by study into transactions, each recorded before it is sent. A transaction without a whole
report after a while is asked for again under a new Transaction UID; a report that comes later still counts.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal, wait_for_any
from asyncstore.errors import (
    Aborted,
    AssociateError,
    AssociationLost,
    AsyncStoreError,
    LedgerError,
    OperationFailed,
    RemoteProtocolError,
)
from asyncstore.net.acceptor import Acceptor
from asyncstore.net.peer import Timeouts
from asyncstore.net.requestor import Requestor
from asyncstore.record import field, record
from asyncstore.services.storage_commitment import (
    MAXIMUM_REFERENCES,
    CommitmentReports,
    Remedy,
    new_transaction_uid,
    remedy_of,
    request_commitment,
    text_of_reason,
)
from asyncstore.services.verification import VerificationProvider
from asyncstore.transfer.proof.studies import Studies
from asyncstore.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    VERIFICATION,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from anyio.abc import TaskGroup

    from asyncstore.ledger.protocol import Commitments
    from asyncstore.net.peer import Peer
    from asyncstore.net.provider import ServiceProvider
    from asyncstore.net.tls_settings import TLS
    from asyncstore.services.references import CommitmentReport, Reference
    from asyncstore.upper_layer.user_information import UserIdentity

_CONTEXTS: Final = ((STORAGE_COMMITMENT_PUSH_MODEL, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),)
_TRIES: Final = 4
_AGAIN_SECONDS: Final = 1.0  # before the second request for an instance; it doubles each time
_LOOK_SECONDS: Final = 0.5  # between two looks at the studies, which may be thousands
_TRANSACTIONS_AT_ONCE: Final = 16
_NO_SUCH_INSTANCE: Final = 0x0112
_MOST_TO_SEND_AGAIN: Final = 10_000  # a peer that lost more has another problem
NO_REPORT: Final = "the peer never reported"
NOT_WAITED_FOR: Final = "the run ended before the peer reported"
MISSING: Final = text_of_reason(_NO_SUCH_INSTANCE)


@record(slots=True, eq=False)
class Awaited:
    """An instance without an answer that decides, which stands for `count` files; `path` is one of them.

    `attempts` is how often it was sent in this run.
    """

    reference: Reference
    path: str | None
    attempts: int = 0
    count: int = 1
    tries: int = 0
    answer: int | None = None  # 0: committed, else the Failure Reason
    transactions: list[str] = field(default_factory=list)


class Committer:
    """Asks a peer to commit to instances, until the block is left.

        async with Committer(peer, port=11113, calling_ae_title="MIGRATE") as committer:
            committer.add(reference, path)
            await committer.finish()

    `port` is where the peer may open an association to report, `tls` how it is secured; None: it must report on ours.
    `wait_seconds` is how long to wait for a report before asking again, `record` a ledger's Commitments or None. The
    other arguments are those of `associate`. Entering raises OSError if it cannot listen.

    `committed` counts the committed instances. `failures` counts the others by reason, once `finish` has returned.
    `to_send_again` are the instances that the peer does not have. `refusal` says why nothing is asked for any more.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        port: int | None = None,
        tls: TLS | None = None,
        calling_ae_title: str = "STORESCU",
        timeouts: Timeouts | None = None,
        user_identity: UserIdentity | None = None,
        allow_plaintext_credentials: bool = False,
        wait_seconds: float = 60.0,
        record: Commitments | None = None,
        host: str = "",
    ) -> None:
        self.committed: int = 0
        self.failures: Counter[str] = Counter()
        self.to_send_again: dict[str, Awaited] = {}
        self.refusal: AsyncStoreError | None = None
        self.record = record
        self._peer = peer
        self._wait_seconds = wait_seconds
        self._reports = CommitmentReports(self._on_report)
        self._providers = {STORAGE_COMMITMENT_PUSH_MODEL: self._reports}
        self._options: dict[str, Any] = {
            "calling_ae_title": calling_ae_title,
            "timeouts": timeouts or Timeouts(),
            "user_identity": user_identity,
            "allow_plaintext_credentials": allow_plaintext_credentials,
        }
        self._listener: Acceptor | None = None
        if port is not None:
            providers: dict[str, ServiceProvider] = {**self._providers, VERIFICATION: VerificationProvider()}
            self._listener = Acceptor(providers, host=host, port=port, ae_title=calling_ae_title, tls=tls)
        self._studies: Studies[Awaited] = Studies(MAXIMUM_REFERENCES)
        self._waiting: dict[str, Awaited] = {}
        self._sent_again: set[str] = set()
        self._transactions: set[str] = set()
        self._is_finishing = self._is_over = False
        self._changed = Signal()
        self._due = Signal()
        self._ended = Signal()
        self._collecting = anyio.CancelScope()
        self._asking = anyio.Lock()
        # Some peers, pynetdicom's SCP for one, lose an association on which a request comes while they report. After
        # that, one transaction is asked for at a time.
        self._is_careful = False
        self._was_answered = False
        self._association: Requestor | None = None
        self._room = anyio.Semaphore(_TRANSACTIONS_AT_ONCE)
        self._stack: contextlib.AsyncExitStack
        self._group: TaskGroup

    @property
    def port(self) -> int | None:
        """The port on which reports are taken."""
        return None if self._listener is None else self._listener.port

    @property
    def waiting(self) -> int:
        """The number of instances without an answer that decides."""
        return len(self._waiting)

    def was_asked_in(self, transaction_uid: str) -> bool:
        """Whether a transaction is one of this committer's."""
        return transaction_uid in self._transactions

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            if self._listener is not None:
                await stack.enter_async_context(self._listener)
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._group.start_soon(self._collect)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        self._ended.set()
        if error is not None or self._waiting:
            self._group.cancel_scope.cancel()
        self._collecting.cancel()
        await self._stack.aclose()
        for waiting in tuple(self._waiting.values()):
            self._fail(waiting, NOT_WAITED_FOR)

    def add(self, reference: Reference, path: str | None = None, *, study: str = "", attempts: int = 0) -> None:
        """Have an instance of a study committed that the peer has stored; `path` is its file."""
        uid = reference.sop_instance_uid
        known = self._waiting.get(uid)
        if known is not None:
            known.count += 1
            return
        self._waiting[uid] = waiting = Awaited(reference, path, attempts)
        was_empty = not self._studies
        if self._studies.add(study, waiting, time.monotonic()) or was_empty:
            self._due.set()

    def sent_again(self, waiting: Awaited, failure: str | None = None) -> None:
        """Have an instance committed that was sent again, or count it as a failure."""
        uid = waiting.reference.sop_instance_uid
        self.to_send_again.pop(uid, None)
        if failure is not None:
            self.failures[failure] += waiting.count
            return
        self._sent_again.add(uid)
        self.add(waiting.reference, waiting.path)
        self._waiting[uid].count = waiting.count

    async def wait_for_less(self, than: int) -> None:
        """Wait until fewer instances wait for an answer than so many."""
        while len(self._waiting) >= than:
            await self._changed.wait()

    async def finish(self) -> None:
        """Ask for the rest, and wait until every instance has its answer or was asked for often enough."""
        self._is_finishing = True
        self._due.set()
        try:
            await self.wait_for_less(1)
        finally:
            self._is_finishing = False

    # -- one transaction after another ---------------------------------------------------------------------------------

    async def _collect(self) -> None:
        """Begin the transactions of the studies that are due; at the end of all."""
        with self._collecting:
            while True:
                now = time.monotonic()
                due_at = -math.inf if self._is_finishing and self._studies else self._studies.due_at()
                if due_at <= now:
                    for lot in self._studies.take(math.inf if self._is_finishing else now):
                        self._group.start_soon(self._see_to, lot)
                with anyio.move_on_after(max(self._studies.due_at() - now, _LOOK_SECONDS)):
                    await self._due.wait()

    async def _see_to(self, lot: list[Awaited]) -> None:
        """Ask for one transaction, and again for what is not decided, under a new Transaction UID each time."""
        async with self._room:
            while lot and self.refusal is None:
                trouble = await self._ask_and_wait(lot)
                lot = [each for each in lot if not self._settle(each, trouble)]
                self._changed.set()
                if lot and self.refusal is None:
                    tries = lot[0].tries
                    pause = _AGAIN_SECONDS * (2.0 ** (tries - 1) if trouble is None else 4.0**tries)
                    await anyio.sleep(min(pause, self._wait_seconds))
        for each in lot:
            self._fail(each, self._not_asked(self.refusal))
        self._changed.set()

    async def _ask_and_wait(self, lot: list[Awaited]) -> AsyncStoreError | None:
        """Ask, and wait for the report; returns why it could not ask."""
        for each in lot:
            each.tries += 1
            each.answer = None
        association: Requestor | None = None
        try:
            async with self._asking:
                if self.refusal is None:
                    association = await self._ask(lot)
                if self._is_careful:
                    await self._wait_for_report(lot, association)
                    return None
        except (AssociationLost, RemoteProtocolError, AssociateError, OperationFailed, LedgerError) as error:
            is_refusal = isinstance(error, Aborted | AssociateError) and not self._was_answered
            if is_refusal or not error.retryable:
                self.refusal = error
            self._is_careful |= self._was_answered
            return error
        await self._wait_for_report(lot, association)
        return None

    async def _wait_for_report(self, lot: list[Awaited], association: Requestor | None) -> None:
        with anyio.move_on_after(self._wait_seconds):
            while association is not None and any(each.answer is None for each in lot):
                if self._listener is None and not association.is_open:
                    self._is_careful = True
                    break  # there is no way left for a report
                await self._changed.wait()

    async def _ask(self, lot: list[Awaited]) -> Requestor:
        """Send one request, which is on record before."""
        references = [each.reference for each in lot]
        transaction_uid = new_transaction_uid()
        self._transactions.add(transaction_uid)
        for each in lot:
            each.transactions.append(transaction_uid)
        if self.record is not None:
            uids = [reference.sop_instance_uid for reference in references]
            await anyio.to_thread.run_sync(self.record.note_request, transaction_uid, uids)
        association = await self._associated()
        await request_commitment(association, references, transaction_uid)
        self._was_answered = True
        return association

    def _settle(self, waiting: Awaited, trouble: AsyncStoreError | None) -> bool:
        """Count an instance whose answer decides, or that was asked for often enough; else it is asked for again."""
        answer = waiting.answer
        uid = waiting.reference.sop_instance_uid
        remedy = Remedy.ASK_AGAIN if answer is None else remedy_of(answer)
        if answer == 0:
            self.committed += waiting.count
            del self._waiting[uid]
        elif remedy is Remedy.ASK_AGAIN and (self.refusal is not None or waiting.tries < _TRIES):
            return False
        elif remedy is Remedy.SEND_AGAIN and self._may_be_sent_again(waiting):
            self.to_send_again[uid] = waiting
            del self._waiting[uid]
        elif answer is not None:
            self._fail(waiting, text_of_reason(answer))
        else:
            self._fail(waiting, NO_REPORT if trouble is None else self._not_asked(trouble))
        return True

    def _may_be_sent_again(self, waiting: Awaited) -> bool:
        is_second = waiting.reference.sop_instance_uid in self._sent_again
        return waiting.path is not None and not is_second and len(self.to_send_again) < _MOST_TO_SEND_AGAIN

    def _fail(self, waiting: Awaited, reason: str) -> None:
        del self._waiting[waiting.reference.sop_instance_uid]
        self.failures[reason] += waiting.count

    def _not_asked(self, error: AsyncStoreError | None) -> str:
        us = self._options["calling_ae_title"]
        hint = f"; Orthanc aborts so if {us} is not among its DicomModalities" if isinstance(error, Aborted) else ""
        return f"not asked for: {error}{hint}"

    # -- the association for requests, and the reports -----------------------------------------------------------------

    async def _associated(self) -> Requestor:
        """The association for requests, which stays open for reports; another one if it has ended."""
        if self._association is None or not self._association.is_open:
            opened = anyio.Event()
            failures: list[AsyncStoreError] = []
            self._group.start_soon(self._keep_open, opened, failures)
            await opened.wait()
            if failures:
                raise failures[0]
        assert self._association is not None
        return self._association

    async def _keep_open(self, opened: anyio.Event, failures: list[AsyncStoreError]) -> None:
        """Keep an association open until it ends or the block is left."""
        try:
            association = Requestor(self._peer, _CONTEXTS, providers=self._providers, **self._options)
            async with association:
                self._association = association
                opened.set()
                while association.is_open and not self._is_over:
                    await wait_for_any(self._ended, association.changed)
        except AsyncStoreError as error:
            if not opened.is_set():
                failures.append(error)
        finally:
            opened.set()
            self._changed.set()

    async def _on_report(self, report: CommitmentReport) -> None:
        """Record a report, before it is acknowledged, and take its answers."""
        answers = {reference.sop_instance_uid: 0 for reference in report.committed}
        answers.update((reference.sop_instance_uid, reason) for reference, reason in report.failed.items())
        if report.transaction_uid not in self._transactions:  # an earlier run asked
            if self.record is not None:
                await anyio.to_thread.run_sync(self.record.note_answers, report.transaction_uid, answers)
            return
        # One that is not waited for had its answer before. A late one is recorded as an answer to the latest request.
        taken = [
            (waiting, answer)
            for uid, answer in answers.items()
            if (waiting := self._waiting.get(uid)) is not None and report.transaction_uid in waiting.transactions
        ]
        if self.record is not None:
            by_request: dict[str, dict[str, int]] = {}
            for waiting, answer in taken:
                by_request.setdefault(waiting.transactions[-1], {})[waiting.reference.sop_instance_uid] = answer
            await anyio.to_thread.run_sync(_note_all, self.record, by_request)
        for waiting, answer in taken:
            waiting.answer = answer
        self._changed.set()


def _note_all(record: Commitments, by_request: Mapping[str, Mapping[str, int]]) -> None:
    for transaction_uid, answers in by_request.items():
        record.note_answers(transaction_uid, answers)
