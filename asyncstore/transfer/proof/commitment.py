"""Has a peer commit to keep what it stored, beside the sending (PS3.4 Annex J).

References are collected into transactions, each recorded before it is sent. A transaction without a whole report after
a while is asked for again under a new Transaction UID; a report that comes later still counts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal
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
from asyncstore.record import record
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
from asyncstore.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    VERIFICATION,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup

    from asyncstore.net.peer import Peer
    from asyncstore.net.provider import ServiceProvider
    from asyncstore.services.references import CommitmentReport, Reference
    from asyncstore.upper_layer.items import UserIdentity

_CONTEXTS: Final = ((STORAGE_COMMITMENT_PUSH_MODEL, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),)
_COLLECTED_SECONDS: Final = 5.0  # a transaction is asked for after this time, even if it has few references
_TRIES: Final = 4
_TRANSACTIONS_AT_ONCE: Final = 16
_NO_SUCH_INSTANCE: Final = 0x0112
NO_REPORT: Final = "the peer never reported"


class Record(Protocol):
    """Where requests are recorded before they are sent, and answers before they are acknowledged; called in threads."""

    def note_request(self, transaction_uid: str, sop_instance_uids: Sequence[str]) -> None: ...
    def note_answers(self, transaction_uid: str, answers: Mapping[str, int]) -> None: ...


@record(slots=True)
class _Waiting:
    """An instance without an answer that decides."""

    reference: Reference
    path: str | None
    tries: int = 0
    answer: int | None = None  # 0: committed, else the Failure Reason


class Committer:
    """Asks a peer to commit to instances, until the block is left.

        async with Committer(peer, port=11113, calling_ae_title="MIGRATE") as committer:
            committer.add(reference, path)
            await committer.finish()

    `port` is where the peer may open an association to report; None: it must report on ours. `wait_seconds` is how long
    to wait for a report before asking again, `record` a Record or None, which may be set later. The other arguments are
    those of `associate`. Entering raises OSError if it cannot listen.

    `committed` counts the committed instances. `failures` counts the others by reason, once `finish` has returned.
    `to_send_again` are the paths of instances that the peer does not have. `refusal` says why nothing is asked for any
    more.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        port: int | None = None,
        calling_ae_title: str = "STORESCU",
        timeouts: Timeouts | None = None,
        user_identity: UserIdentity | None = None,
        allow_plaintext_credentials: bool = False,
        wait_seconds: float = 60.0,
        record: Record | None = None,
        host: str = "",
    ) -> None:
        self.committed: int = 0
        self.failures: Counter[str] = Counter()
        self.to_send_again: list[str] = []
        self.refusal: AsyncStoreError | None = None
        self._peer = peer
        self._wait_seconds = wait_seconds
        self.record = record
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
            self._listener = Acceptor(providers, host=host, port=port, ae_title=calling_ae_title)
        self._collected: list[_Waiting] = []
        self._open: dict[str, _Waiting] = {}
        self._transactions: set[str] = set()
        self._at_work = 0
        self._is_finishing = self._is_over = False
        self._changed = Signal()
        self._ended = Signal()
        self._collecting = anyio.CancelScope()
        self._asking = anyio.Lock()
        self._was_answered = False
        self._association: Requestor | None = None
        self._room = anyio.Semaphore(_TRANSACTIONS_AT_ONCE)
        self._stack: contextlib.AsyncExitStack
        self._group: TaskGroup

    @property
    def port(self) -> int | None:
        """The port on which reports are taken."""
        return None if self._listener is None else self._listener.port

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
        if error is not None or self._at_work:
            self._group.cancel_scope.cancel()
        self._collecting.cancel()
        await self._stack.aclose()

    def add(self, reference: Reference, path: str | None = None, *, was_sent_again: bool = False) -> None:
        """Have an instance committed that the peer has stored; `path` is its file.

        One that `was_sent_again` no longer counts as a failure.
        """
        if was_sent_again:
            self.failures[text_of_reason(_NO_SUCH_INSTANCE)] -= 1
        self._collected.append(_Waiting(reference, path))
        if len(self._collected) >= MAXIMUM_REFERENCES:
            self._changed.set()

    async def finish(self) -> None:
        """Ask for the rest, and wait until every instance has its answer or was asked for often enough."""
        self._is_finishing = True
        self._changed.set()
        while self._collected or self._at_work:
            await self._changed.wait()
        self._is_finishing = False

    async def _collect(self) -> None:
        """Begin a transaction when it is full, when it has waited for a while, and for the rest at the end."""
        with self._collecting:
            await self._collect_on()

    async def _collect_on(self) -> None:
        while True:
            with anyio.move_on_after(_COLLECTED_SECONDS):
                while len(self._collected) < MAXIMUM_REFERENCES and not (self._is_finishing and self._collected):
                    await self._changed.wait()
            lot, self._collected = self._collected[:MAXIMUM_REFERENCES], self._collected[MAXIMUM_REFERENCES:]
            if lot:
                self._at_work += 1
                self._group.start_soon(self._see_to, lot)

    async def _see_to(self, lot: list[_Waiting]) -> None:
        """Ask for one transaction, and again for what is not decided, under a new Transaction UID each time."""
        try:
            async with self._room:
                while lot and self.refusal is None:
                    await self._ask_and_wait(lot)
                    lot = [each for each in lot if not self._settle(each)]
            for each in lot:
                self._fail(each, f"not asked for: {self.refusal}")
        finally:
            self._at_work -= 1
            self._changed.set()

    async def _ask_and_wait(self, lot: list[_Waiting]) -> None:
        for each in lot:
            each.tries += 1
            each.answer = None
            self._open[each.reference.sop_instance_uid] = each
        if await self._ask(lot):
            with anyio.move_on_after(self._wait_seconds):
                while any(each.answer is None for each in lot):
                    await self._changed.wait()
        elif self.refusal is None:
            await anyio.sleep(min(2.0 ** lot[0].tries, self._wait_seconds))

    def _settle(self, waiting: _Waiting) -> bool:
        """Count an instance whose answer decides, or that was asked for often enough; else it is asked for again."""
        answer = waiting.answer
        remedy = Remedy.ASK_AGAIN if answer is None else remedy_of(answer)
        if answer == 0:
            self.committed += 1
        elif remedy is Remedy.ASK_AGAIN and (self.refusal is not None or waiting.tries < _TRIES):
            return False
        else:
            self._fail(waiting, NO_REPORT if answer is None else text_of_reason(answer))
            if remedy is Remedy.SEND_AGAIN and waiting.path is not None:
                self.to_send_again.append(waiting.path)
        return True

    def _fail(self, waiting: _Waiting, reason: str) -> None:
        self._open.pop(waiting.reference.sop_instance_uid, None)
        self.failures[reason] += 1

    async def _ask(self, lot: list[_Waiting]) -> bool:
        """Send one request; returns False if it must be sent again, or if the peer refuses it (`refusal`)."""
        references = [each.reference for each in lot]
        transaction_uid = new_transaction_uid()
        async with self._asking:
            try:
                if self.refusal is not None:
                    return False
                self._transactions.add(transaction_uid)
                if self.record is not None:
                    uids = [reference.sop_instance_uid for reference in references]
                    await anyio.to_thread.run_sync(self.record.note_request, transaction_uid, uids)
                association = await self._associated()
                await request_commitment(association, references, transaction_uid)
                self._was_answered = True
            except (AssociationLost, RemoteProtocolError, AssociateError, OperationFailed, LedgerError) as error:
                is_refusal = isinstance(error, Aborted | AssociateError) and not self._was_answered
                if is_refusal or not error.retryable:
                    self.refusal = error
                return False
        return True

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
                    await self._ended.wait()
        except AsyncStoreError as error:
            if not opened.is_set():
                failures.append(error)
        finally:
            opened.set()

    async def _on_report(self, report: CommitmentReport) -> None:
        """Record a report, before it is acknowledged, and take its answers."""
        answers = {reference.sop_instance_uid: 0 for reference in report.committed}
        answers.update((reference.sop_instance_uid, reason) for reference, reason in report.failed.items())
        if self.record is not None:
            await anyio.to_thread.run_sync(self.record.note_answers, report.transaction_uid, answers)
        if report.transaction_uid not in self._transactions:
            return
        for uid, answer in answers.items():
            waiting = self._open.pop(uid, None)
            if waiting is not None:
                waiting.answer = answer
        self._changed.set()
