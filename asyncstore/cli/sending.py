"""One transfer as a command runs it: signals, progress, records of the outcomes, a summary and an exit code."""

from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncstore import __version__
from asyncstore.cli import exit_codes, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.documented_log import QUIET, logger
from asyncstore.cli.output.plain_text import count_text, duration_text, path_text, size_text
from asyncstore.errors import AssociationRejected, AsyncStoreError, LedgerError
from asyncstore.instances.outcome import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.cli.output.records import JsonLines, RecordWriter
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Ledger
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.engine import Transfer
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.report import Report

# After a run with only these states, and without a request, there was nothing to send.
_NOTHING_TO_SEND = frozenset((State.RESUMED, State.DUPLICATE, State.SKIPPED, State.SOURCE_PROBLEM))
# PS3.8 Table 9-21: the rejections that another AE title would have avoided.
_AE_TITLE_REJECTIONS = ((1, 3), (1, 7))


@dataclass(slots=True)
class StorescuRun:
    """One run of storescu: sources, destination, options, and where its records go.

    `progress` None shows a bar if stderr is a terminal. `records_path` and `ledger` are file names or None.
    `force_ledger` allows a ledger on a network file system.
    """

    peer: Peer
    sources: Iterable[str]
    options: TransferOptions
    ledger: str | None = None
    force_ledger: bool = False
    records_path: str | None = None
    json: bool = False
    progress: bool | None = None
    _cannot_record: bool = field(default=False, init=False)

    def run(self, log: DocumentedLog) -> int:
        """Send everything and return the exit code."""
        _say_hello()
        with contextlib.ExitStack() as stack:
            try:
                writers, json_lines = self._open_records(stack)
            except OSError as error:
                self._say_cannot_record(error)
                return ExitCode.CANNOT_RECORD
            return running.run_async(self._send, log, writers, json_lines)

    def _open_records(self, stack: contextlib.ExitStack) -> tuple[list[RecordWriter], JsonLines | None]:
        """The writers of outcomes; and among them that of stdout, which also gets the summary."""
        if self.records_path is None and not self.json:
            return [], None
        from asyncstore.cli.output.records import JsonLines, RecordFile

        writers: list[RecordWriter] = []
        if self.records_path is not None:
            writers.append(stack.enter_context(contextlib.closing(RecordFile(self.records_path))))
        json_lines = JsonLines(running.Results()) if self.json else None
        return [*writers, json_lines] if json_lines else writers, json_lines

    async def _send(self, log: DocumentedLog, writers: list[RecordWriter], json_lines: JsonLines | None) -> int:
        from asyncstore.transfer.engine import Transfer

        transfer = Transfer(self.peer, self.sources, options=self.options, ledger=self._open_ledger())
        failure: AsyncStoreError | None = None

        def drain() -> None:
            _notice(log, logging.WARNING, "Interrupted: finishing what is in flight; once more aborts it")
            transfer.drain()

        def abort() -> None:
            _notice(log, logging.WARNING, "Interrupted again: aborting")
            transfer.abort()

        with running.interrupts(drain, abort) as received, self._progress(transfer.report, log):
            try:
                async with transfer:
                    async for outcome in transfer:
                        self._record(outcome, writers, transfer)
                self._record(None, writers, transfer)
            except AsyncStoreError as error:
                failure = error
        code = self._exit_code(transfer.report, failure, received.signal_number)
        self._explain(failure, transfer.report, log)
        if code != ExitCode.NO_ASSOCIATION:
            self._summarize(transfer.report, log, nothing_to_send=code == ExitCode.NOTHING_TO_SEND)
        if json_lines is not None and not self._cannot_record:
            json_lines.write_summary(transfer.report, code)
        return code

    def _exit_code(self, report: Report, failure: AsyncStoreError | None, signal_number: int | None) -> int:
        cannot_record = self._cannot_record or isinstance(failure, LedgerError)
        cannot_record = cannot_record or isinstance(report.stopped_because, LedgerError)
        if failure is not None and not cannot_record and signal_number is None:
            return ExitCode.NO_ASSOCIATION
        return exit_codes.of_report(report, signal_number=signal_number, cannot_record=cannot_record)

    def _open_ledger(self) -> Ledger | None:
        """The ledger, not opened yet: the transfer opens it."""
        if self.ledger is None:
            return None
        from asyncstore.ledger.opening import open_ledger
        from asyncstore.transfer.options import options_as_data

        return open_ledger(
            self.ledger,
            destination=str(self.peer),
            options=options_as_data(self.options),
            forced=self.force_ledger,
        )

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _progress(self, report: Report, log: DocumentedLog) -> contextlib.AbstractContextManager[None]:
        wanted = sys.stderr.isatty() if self.progress is None else self.progress
        if not wanted or log.threshold >= QUIET:
            return contextlib.nullcontext()
        from asyncstore.cli.output import progress

        return progress.shown(report, log)

    def _record(self, outcome: Outcome | None, writers: list[RecordWriter], transfer: Transfer) -> None:
        """Write an outcome; None, at the end, makes the report exist even if it is empty.

        If that fails, nothing new is sent: there would be no record of it.
        """
        for writer in tuple(writers):
            try:
                if outcome is None:
                    writer.begin()
                else:
                    writer.write(outcome)
            except (OSError, running.ResultsLost) as error:
                writers.remove(writer)
                self._say_cannot_record(error)
                transfer.drain()

    def _say_cannot_record(self, error: OSError | running.ResultsLost) -> None:
        self._cannot_record = True
        cause = error.__cause__ if isinstance(error, running.ResultsLost) else error
        where = (
            "stdout" if isinstance(error, running.ResultsLost) else f"the report {path_text(self.records_path or '')}"
        )
        logger.error("cannot write to %s: %s", where, running.system_text(cause))

    # -- when it has ended ---------------------------------------------------------------------------------------------

    def _explain(self, failure: AsyncStoreError | None, report: Report, log: DocumentedLog) -> None:
        """Log the failure of the ledger, or why there was no association unless the log has said it already."""
        ledger_failure = failure or report.stopped_because
        if isinstance(ledger_failure, LedgerError):
            logger.error("%s", ledger_failure)
            return
        if failure is None:
            return
        if not log.errors:
            logger.error("%s", failure)
        if isinstance(failure, AssociationRejected) and (failure.source, failure.reason) in _AE_TITLE_REJECTIONS:
            ours, theirs = self.options.calling_ae_title, self.peer.ae_title
            logger.warning("We are %s and called %s: -aet and -aec set other AE titles", ours, theirs)

    def _summarize(self, report: Report, log: DocumentedLog, *, nothing_to_send: bool) -> None:
        if nothing_to_send:
            _notice(log, logging.WARNING, "No suitable DICOM files found")
        if report.left_out:
            _notice(log, logging.INFO, f"{count_text(report.left_out, 'file')} left out by the selection")
        total = report.finished - report.states[State.SKIPPED]
        if total < 2:
            return
        if report.failed:
            logger.error("%s of %s were not stored (see above)", f"{report.failed:,}", count_text(total, "instance"))
        if report.left:
            is_said = isinstance(report.stopped_because, LedgerError)
            why = f": {report.stopped_because}" if report.stopped_because and not is_said else ""
            again = "run the same command again to resume" if self.ledger else "run it again"
            logger.error("Stopped early%s; %s left: %s", why, count_text(report.left, "instance"), again)
        _notice(log, logging.INFO, summary_text(report))

    # -- without sending -----------------------------------------------------------------------------------------------

    def plan(self, log: DocumentedLog) -> int:
        """Scan the sources and print what would be sent, and how. Opens no association."""
        from asyncstore.cli.output import inventory_text
        from asyncstore.inputs.inventory import Inventory

        _say_hello()
        inventory = Inventory()
        inventory.scan(self.sources, recursive=self.options.recursive, selection=self.options.selection)
        if self.json:
            running.Results().print(inventory_text.json_line(inventory))
        else:
            plan_lines = inventory_text.plan_lines(inventory, self.options)
            running.Results().print(*inventory_text.lines(inventory), *plan_lines)
        return inventory_text.exit_code(inventory)


def summary_text(report: Report) -> str:
    """The instances that this run stored, their bytes and the time; then earlier ones and duplicates by count."""
    seconds = report.elapsed_seconds
    rate = f", {size_text(report.stored_bytes / seconds)}/s" if seconds > 0 else ""
    resumed = report.states[State.RESUMED]
    duplicates = [count_text(report.duplicates, "duplicate")] if report.duplicates else []
    if resumed and report.scan_finished and not report.attempts and _NOTHING_TO_SEND.issuperset(+report.states):
        return ", ".join([f"nothing new to send; {resumed:,} already stored by an earlier run", *duplicates])
    extra = [f"{resumed:,} stored by an earlier run", *duplicates] if resumed else duplicates
    stored = count_text(report.stored - resumed, "instance")
    parts = [f"{stored} stored ({size_text(report.stored_bytes)} in {duration_text(seconds)}{rate})", *extra]
    return ", ".join(parts)


def _notice(log: DocumentedLog, level: int, text: str) -> None:
    """Log a line that is shown on a terminal at any level but quiet."""
    if not logger.isEnabledFor(level) and log.threshold < QUIET and sys.stderr.isatty():
        log.notice(level, text)
    else:
        logger.log(level, "%s", text)


def _say_hello() -> None:
    logger.debug("asyncstore storescu v%s", __version__)
    logger.debug("")
    logger.debug("Checking input file")
