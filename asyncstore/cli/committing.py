"""`storescu --commit`: has the peer commit to keep what it stored, and says what it did not commit."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, peer_text
from asyncstore.cli.running import system_text
from asyncstore.errors import Aborted, LocalProtocolError
from asyncstore.instances.outcome import State
from asyncstore.record import field, record
from asyncstore.services.references import Reference
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.proof.commitment import Committer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.instances.outcome import Outcome
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.options import TransferOptions

_AT_THE_PEER: Final = frozenset((State.STORED, State.WARNING, State.DUPLICATE))


@record(frozen=True, slots=True)
class CommitOptions:
    """The port on which the peer may report (None: only on our association), and how long to wait for a report."""

    port: int | None = None
    wait_seconds: float = 60.0


@record(slots=True)
class Committing:
    """The commitment of one run."""

    committer: Committer
    _peer: Peer
    _options: TransferOptions
    _records: contextlib.ExitStack
    _waiting: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _again: Transfer | None = None
    _is_done: bool = False
    _is_interrupted: bool = False

    @classmethod
    @contextlib.asynccontextmanager
    async def of(
        cls, options: CommitOptions, peer: Peer, transfer_options: TransferOptions
    ) -> AsyncIterator[Committing]:
        """Commitment for a run. Raises LocalProtocolError if it cannot listen on the port."""
        committer = Committer(
            peer,
            port=options.port,
            calling_ae_title=transfer_options.calling_ae_title,
            timeouts=transfer_options.timeouts,
            user_identity=transfer_options.user_identity,
            allow_plaintext_credentials=transfer_options.allow_plaintext_credentials,
            wait_seconds=options.wait_seconds,
        )
        with contextlib.ExitStack() as records:
            async with contextlib.AsyncExitStack() as beside:
                try:
                    await beside.enter_async_context(committer)
                except OSError as error:
                    text = f"cannot listen on port {options.port}: {system_text(error)}"
                    raise LocalProtocolError(text) from error
                yield cls(committer, peer, transfer_options, records)

    async def open_record(self, ledger: str) -> None:
        """Record what is asked for in a ledger; also ask for what earlier runs have stored. LedgerError if it fails."""
        from asyncstore.ledger.sqlite.commitments import CommitmentRecord

        record = self._records.enter_context(await anyio.to_thread.run_sync(CommitmentRecord, ledger))
        self.committer.record = record
        for each in await anyio.to_thread.run_sync(record.uncommitted, 0, sys.maxsize):
            self.committer.add(Reference(each.sop_class_uid, each.sop_instance_uid), each.path)

    def add(self, outcome: Outcome, *, was_sent_again: bool = False) -> None:
        """Have an instance committed if the peer has it."""
        instance, uid = outcome.instance, outcome.sent_sop_instance_uid
        if instance is not None and uid is not None and outcome.state in _AT_THE_PEER:
            reference = Reference(instance.sop_class_uid, uid)
            self.committer.add(reference, instance.path, was_sent_again=was_sent_again)

    async def finish(self) -> None:
        """Wait for the reports, and send once more what the peer does not have, after all."""
        await self._wait()
        paths, self.committer.to_send_again = self.committer.to_send_again, []
        if paths and self._is_done:
            async with Transfer(self._peer, paths, options=self._options) as self._again:
                async for outcome in self._again:
                    self.add(outcome, was_sent_again=True)
            await self._wait()

    async def _wait(self) -> None:
        self._is_done = False
        with anyio.CancelScope() as self._waiting:
            if not self._is_interrupted:
                await self.committer.finish()
                self._is_done = True

    def interrupt(self) -> None:
        """Wait for no more reports; what is sent once more is drained, and aborted the second time."""
        if self._again is not None:
            (self._again.abort if self._is_interrupted else self._again.drain)()
        self._is_interrupted = True
        self._waiting.cancel()

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is committed."""
        return self._is_done and not self.committer.failures.total()

    def tell(self) -> None:
        """Log how many instances are committed, and why others are not."""
        committer = self.committer
        for reason, count in committer.failures.most_common():
            if count:
                logger.error("%s not committed: %s", count_text(count, "stored instance"), peer_text(reason, 400))
        if isinstance(committer.refusal, Aborted):
            us = self._options.calling_ae_title
            logger.error("Orthanc aborts so if %s (-aet) is not among its DicomModalities, with our port", us)
        if self._is_interrupted:
            logger.error("Interrupted: the commitment of what was stored is not known; run it again with the ledger")
        logger.info("%s committed", count_text(committer.committed, "instance"))
