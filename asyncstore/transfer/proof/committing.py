"""What a transfer does with storage commitment: hands on what is stored, keeps the account, and sends again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread

from asyncstore.errors import LedgerError, LocalProtocolError
from asyncstore.instances.outcome import State
from asyncstore.ledger.protocol import KeepsCommitments
from asyncstore.net.peer import Peer, check_range, check_seconds
from asyncstore.record import record
from asyncstore.services.references import Reference
from asyncstore.transfer.proof.commitment import MISSING, Committer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from asyncstore.errors import AsyncStoreError
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Commitments, KnownInstance, Ledger, Offered, Suspicion
    from asyncstore.net.tls_settings import TLS
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.proof.commitment import Awaited
    from asyncstore.transfer.report import Report

_AT_THE_PEER: Final = frozenset((State.STORED, State.WARNING, State.DUPLICATE))
# In some 20 MB. What is stored beyond is asked for later, from the ledger; without one, the sending waits.
MOST_WAITING: Final = 50_000
_ROWS_AT_ONCE: Final = 2000


@record(frozen=True, slots=True)
class CommitOptions:
    """How a transfer asks the peer to commit to keep what it stored (storage commitment, PS3.4 Annex J).

    port              where the peer may open an association to report, to our AE title; None: it reports on ours
    wait_seconds      how long to wait for a report before asking again, four times in all
    host              address of this machine to listen on; "": all
    allow_plaintext   take reports on the port without TLS, although the Peer has TLS settings

    With TLS settings of the Peer, its report must come by TLS, too: the port shows the certificate of these settings.
    Raises LocalProtocolError for a value that makes no sense.
    """

    port: int | None = None
    wait_seconds: float = 60.0
    host: str = ""
    allow_plaintext: bool = False

    def __post_init__(self) -> None:
        if self.port is not None:
            check_range("port", self.port, 0, 65535)
        check_seconds("wait_seconds", self.wait_seconds)

    def tls_of(self, peer: Peer) -> TLS | None:
        """How the port is secured for reports of a peer. Raises LocalProtocolError if it cannot be."""
        tls = peer.tls
        if self.port is None or tls is None or self.allow_plaintext:
            return None
        from asyncstore.net.tls_settings import TLS

        if not isinstance(tls, TLS) or tls.certificate is None:
            raise LocalProtocolError(
                "the port for reports of commitment needs TLS, as the peer has it, and so a certificate of ours; "
                "or allow reports without TLS"
            )
        return dataclasses.replace(tls, server_name=None, fingerprint=None)


class Committing:
    """The commitment of one transfer: `async with`, inside of its ledger's block.

    `report` is told of what is committed. Entering raises LocalProtocolError if it cannot listen on the port.
    """

    def __init__(
        self, settings: CommitOptions, peer: Peer, options: TransferOptions, report: Report, ledger: Ledger | None
    ) -> None:
        if ledger is not None and not isinstance(ledger, KeepsCommitments):
            raise LocalProtocolError(f"{type(ledger).__name__} keeps no record of storage commitment")
        self._port = settings.port
        self._ledger = ledger
        self._report = report
        self._committer = Committer(
            peer,
            port=settings.port,
            host=settings.host,
            tls=settings.tls_of(peer),
            wait_seconds=settings.wait_seconds,
            **options.of_each_association,
        )
        report.committed, report.not_committed = 0, self._committer.failures
        self._record: Commitments | None = None
        self._is_in_ledger = False  # more is stored than waits here
        self._is_interrupted = False
        self._waiting = anyio.CancelScope()
        self._again: dict[str | None, Awaited] = {}

    async def __aenter__(self) -> Self:
        ledger = self._ledger
        if isinstance(ledger, KeepsCommitments):
            self._record = self._committer.record = await anyio.to_thread.run_sync(ledger.commitments)
            self._is_in_ledger = ledger.has_earlier
        try:
            await self._committer.__aenter__()
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                text = f"cannot listen on port {self._port}: {error.strerror or error}"
                raise LocalProtocolError(text) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._committer.__aexit__(kind, error, traceback)
        finally:
            self._close()
            self._count()

    def _close(self) -> None:
        if self._record is not None:
            self._record.close()

    def _count(self) -> None:
        self._report.committed = self._committer.committed

    async def take(self, outcome: Outcome) -> None:
        """Have an instance committed if the peer has it; without a ledger, this waits while too many wait."""
        instance, uid = outcome.instance, outcome.sent_sop_instance_uid
        if instance is None or uid is None or outcome.state not in _AT_THE_PEER or outcome.stored_path is not None:
            return
        self._count()
        if self._committer.waiting >= MOST_WAITING:
            if self._record is not None:
                self._is_in_ledger = True
                return
            await self._committer.wait_for_less(MOST_WAITING)
        reference = Reference(instance.sop_class_uid, uid)
        self._committer.add(reference, instance.path, study=_study_of(instance), attempts=outcome.attempts)

    async def finish(self) -> list[str]:
        """Wait until everything is committed or has failed; returns the paths of what must be sent again."""
        with anyio.CancelScope() as self._waiting:
            if not self._is_interrupted:
                await self._committer.finish()
                await self._ask_for_the_rest()
        self._count()
        self._again = {each.path: each for each in self._committer.to_send_again.values()}
        if self._is_interrupted:
            self.end_again()
        return [path for path in self._again if path is not None]

    async def _ask_for_the_rest(self) -> None:
        """Ask for what is stored by the ledger, and was not asked for in this run."""
        if self._record is None or self._ledger is None or not self._is_in_ledger:
            return
        self._is_in_ledger = False
        after = 0
        try:
            await self._ledger.flush()
            while rows := await anyio.to_thread.run_sync(self._record.uncommitted, after, _ROWS_AT_ONCE):
                after = rows[-1].row
                for each in rows:
                    if not self._committer.was_asked_in(each.transaction_uid):
                        reference = Reference(each.sop_class_uid, each.sop_instance_uid)
                        self._committer.add(reference, each.path, study=each.study_instance_uid)
                await self._committer.wait_for_less(MOST_WAITING)
        except LedgerError as error:
            self._committer.failures[f"not asked for: {error}"] += 1
        await self._committer.finish()

    def take_again(self, outcome: Outcome) -> None:
        """Take the outcome of an instance that was sent again."""
        waiting = self._again.pop(outcome.path, None)
        if waiting is not None:
            is_same = outcome.sent_sop_instance_uid == waiting.reference.sop_instance_uid
            is_there = outcome.state in _AT_THE_PEER and is_same
            self._committer.sent_again(waiting, None if is_there else _not_sent_again(outcome.reason))

    def end_again(self, failure: AsyncStoreError | None = None) -> None:
        """What was to be sent again and has no outcome is not at the peer; `failure` is why it was not sent."""
        for waiting in self._again.values():
            self._committer.sent_again(waiting, _not_sent_again("" if failure is None else str(failure)))
        self._again = {}

    def interrupt(self) -> None:
        """Wait for no more reports, and send nothing again."""
        self._is_interrupted = True
        self._waiting.cancel()

    def ledger_again(self) -> Ledger | None:
        """The ledger of the transfer, for the one that sends again: it knows nothing, and keeps the outcomes."""
        if self._ledger is None:
            return None
        return _SendsAgain(self._ledger, {path: waiting.attempts for path, waiting in self._again.items()})


def _not_sent_again(reason: str) -> str:
    return f"{MISSING}, and it was not sent again{reason and f': {reason}'}"


def _study_of(instance: Instance) -> str:
    """The study of an instance; where it has none, its path up to the last directory stands for it."""
    return instance.study_instance_uid or (instance.path or "").rpartition("/")[0]


class _SendsAgain:
    """A ledger that is open, for a second transfer: everything is sent, and its outcome recorded as the latest.

    `attempts` has those before, by path: they belong to the same run.
    """

    def __init__(self, ledger: Ledger, attempts: dict[str | None, int]) -> None:
        self._ledger = ledger
        self._attempts = attempts
        self.has_earlier = False

    @property
    def files(self) -> tuple[str, ...]:
        return self._ledger.files

    @property
    def failure(self) -> LedgerError | None:
        return self._ledger.failure

    @property
    def has_room(self) -> bool:
        return self._ledger.has_room

    def record(self, outcome: Outcome) -> None:
        attempts = outcome.attempts + self._attempts.get(outcome.path, 0)
        self._ledger.record(dataclasses.replace(outcome, attempts=attempts))

    def note_refusal(self) -> None:
        self._ledger.note_refusal()

    async def flush(self) -> None:
        await self._ledger.flush()

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        return [None] * len(offered)

    def may_know(self, sop_instance_uid: str) -> bool:
        return False

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        return [[] for _ in instances]

    def note_end(self, *, scan_finished: bool, stopped: str) -> None:
        """How the transfer ends that all this belongs to is noted by itself."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The other transfer closes it."""
