"""`storescu --commit`: has the peer commit to keep what it stored, and says what it did not commit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, peer_text
from asyncstore.errors import Aborted
from asyncstore.instances.outcome import State
from asyncstore.services.references import Reference
from asyncstore.transfer.commitment import Committer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncstore.instances.outcome import Outcome
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.options import TransferOptions

_AT_THE_PEER: Final = frozenset((State.STORED, State.WARNING, State.DUPLICATE))


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """The port on which the peer may report (None: only on our association), and how long to wait for a report."""

    port: int | None = None
    wait_seconds: float = 60.0


@dataclass(slots=True)
class Committing:
    """The commitment of one run."""

    committer: Committer
    calling_ae_title: str
    _records: contextlib.ExitStack
    _finishing: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _is_done: bool = False

    @classmethod
    @contextlib.asynccontextmanager
    async def of(
        cls, options: CommitOptions, peer: Peer, transfer_options: TransferOptions
    ) -> AsyncIterator[Committing]:
        """Commitment for a run. Raises OSError if it cannot listen on the port."""
        committer = Committer(
            peer,
            port=options.port,
            calling_ae_title=transfer_options.calling_ae_title,
            timeouts=transfer_options.timeouts,
            wait_seconds=options.wait_seconds,
        )
        with contextlib.ExitStack() as records:
            async with committer:
                yield cls(committer, transfer_options.calling_ae_title, records)

    async def open_record(self, ledger: str) -> None:
        """Record what is asked for in a ledger; also ask for what earlier runs have stored. LedgerError if it fails."""
        from asyncstore.ledger.sqlite.commitments import CommitmentRecord

        record = self._records.enter_context(await anyio.to_thread.run_sync(CommitmentRecord, ledger))
        self.committer.record = record
        for reference, path in await anyio.to_thread.run_sync(record.uncommitted):
            self.committer.add(Reference(*reference), path)

    def add(self, outcome: Outcome, *, was_sent_again: bool = False) -> None:
        """Have an instance committed if the peer has it."""
        instance = outcome.instance
        if instance is not None and outcome.state in _AT_THE_PEER:
            reference = Reference(instance.sop_class_uid, instance.sop_instance_uid)
            self.committer.add(reference, instance.path, was_sent_again=was_sent_again)

    async def finish(self) -> list[str]:
        """Wait for the reports; returns the paths of what the peer does not have, after all."""
        with self._finishing:
            await self.committer.finish()
            self._is_done = True
        paths, self.committer.to_send_again = self.committer.to_send_again, []
        return paths if self._is_done else []

    def interrupt(self) -> None:
        """Do not wait for reports any more."""
        self._finishing.cancel()

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
            us = self.calling_ae_title
            logger.error("Orthanc aborts so if %s (-aet) is not among its DicomModalities, with our port", us)
        if self._finishing.cancel_called:
            logger.error("Interrupted: the commitment of what was stored is not known; run it again with the ledger")
        logger.info("%s committed", count_text(committer.committed, "instance"))
