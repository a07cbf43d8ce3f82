"""One worker as a command runs it: signals, its log, and an exit code; and several of them as one."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from asyncstore.cli import exit_codes, migrating, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text
from asyncstore.errors import AssociateError, AsyncStoreError, LedgerError, SourceError
from asyncstore.record import record

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.cluster.claims import Totals
    from asyncstore.cluster.worker import Worker
    from asyncstore.net.peer import Peer
    from asyncstore.net.tls_settings import TLS
    from asyncstore.transfer.options import TransferOptions

# What several processes end with, the first that any of them has: nobody may think that all is well.
_WORST_FIRST: Final = (
    ExitCode.INTERNAL_ERROR,
    ExitCode.CANNOT_RECORD,
    ExitCode.NO_ASSOCIATION,
    ExitCode.STOPPED_EARLY,
    ExitCode.SOME_FAILED,
)


@record(slots=True)
class Working:
    """A worker that works until it is interrupted, or until all is done."""

    dsn: str
    name: str | None
    mounts: Mapping[str, str]
    options: TransferOptions
    tls: TLS | ssl.SSLContext | None
    most: int
    until_done: bool

    def run(self, level: int, processes: int, command: Callable[[DocumentedLog], int]) -> int:
        """Run so many processes, and return the exit code of all."""
        if processes == 1:
            return running.run(level, command)
        from asyncstore.cli import processes as many

        with contextlib.suppress(ImportError):  # which each process tells
            import asyncstore.cluster.worker  # noqa: F401  once for all of them
        return worst_of(many.run(processes, lambda: running.close_streams(running.run(level, command))))

    def command(self, log: DocumentedLog) -> int:
        """Work, and return the exit code."""
        migrating.check_installed(self.dsn)
        return running.run_async(self._work, log)

    async def _work(self, log: DocumentedLog) -> int:
        from asyncstore.cluster.worker import Worker

        worker = Worker(
            self.dsn,
            self.name,
            self.mounts,
            self.options,
            most=self.most,
            until_done=self.until_done,
            peer=self._peer,
        )

        with running.interrupts_of(worker, log) as received:
            try:
                totals = await worker.run()
            except SourceError as error:  # a root is not what the migration has
                logger.error("%s", error)
                return ExitCode.USAGE
        return self._ended(worker, totals, received.signal_number, log)

    def _peer(self, destination: str) -> Peer:
        from asyncstore.cluster.worker import peer_of

        return peer_of(destination, tls=self.tls)

    def _ended(self, worker: Worker, totals: Totals, signal_number: int | None, log: DocumentedLog) -> int:
        failure = worker.failure
        if failure is not None and not isinstance(failure, AsyncStoreError):
            return running.internal_error(failure)
        if failure is not None:
            logger.error("%s", failure)
        if isinstance(failure, LedgerError):
            return ExitCode.CANNOT_RECORD
        if signal_number is not None:
            return exit_codes.interrupted_by(signal_number)
        if failure is not None:
            return ExitCode.NO_ASSOCIATION if isinstance(failure, AssociateError) else ExitCode.STOPPED_EARLY
        if totals.failed:
            logger.error("%s of the migration not stored", count_text(totals.failed, "instance"))
        if totals.set_aside:
            logger.error("%s of the migration set aside", count_text(totals.set_aside, "batch"))
        log.notice(logging.INFO, f"{count_text(totals.stored, 'instance')} of the migration stored")
        if totals.failed or totals.set_aside:
            return ExitCode.SOME_FAILED
        return ExitCode.STORED if totals.batches else ExitCode.NOTHING_TO_SEND


def worst_of(codes: Sequence[int]) -> int:
    """The exit code of several processes."""
    worst = [code for code in _WORST_FIRST if code in codes]
    return worst[0] if worst else max(codes)
