"""One transfer as a command runs it: signals, progress, records of the outcomes, a summary and an exit code."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Final

from asyncstore import __version__
from asyncstore.cli import exit_codes, recording, running
from asyncstore.cli.advice import explain_failure, may_pass, reason_text
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.named_paths import NamedPaths, why_not_all, why_nothing
from asyncstore.cli.output.documented_log import QUIET, logger
from asyncstore.cli.output.plain_text import count_text, path_text
from asyncstore.cli.output.report_text import instances_left_text, may_lack_changes, summary_text
from asyncstore.errors import AsyncStoreError, LedgerError, LocalProtocolError, passing
from asyncstore.instances.outcome import MAY_LACK_CHANGES, State
from asyncstore.record import field, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.cli.counting import InputCount
    from asyncstore.cli.metering import Meter
    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.cli.output.records import JsonLines, RecordWriter
    from asyncstore.cli.verifying import Verification
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.history import LedgerHistory
    from asyncstore.ledger.protocol import Ledger
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.engine import Transfer
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.proof.committing import CommitOptions
    from asyncstore.transfer.report import Report

# A shorter run ends before a count of its input would be of use: to whoever watches it, or only to tell what is left.
_COUNT_AFTER_SECONDS: Final = 1.0
_COUNT_UNSEEN_AFTER_SECONDS: Final = 5.0


@record(slots=True)
class StorescuRun:
    """One run of storescu: paths, destination, options, and where its records go.

    `progress` None shows a display if stderr is a terminal, `summary` a table at the end. `stats_seconds` is the time
    between two lines that say how far the run is. `is_counted`: the input is counted ahead. `records_path`, `ledger`,
    `control_path` and `log_path` are file names or None. `force_ledger` allows a ledger on a network file system.
    `moved` are places of which the ledger has paths, each with the place where the files are now.
    `commit`: the peer is asked to commit to what it stores. `verify`: it is asked for that afterwards.
    """

    peer: Peer
    paths: NamedPaths
    options: TransferOptions
    ledger: str | None = None
    force_ledger: bool = False
    moved: dict[str, str] = field(default_factory=dict)
    records_path: str | None = None
    json: bool = False
    progress: bool | None = None
    control_path: str | None = None
    stats_seconds: float | None = None
    is_counted: bool = True
    summary: bool = False
    log_path: str | None = None
    metrics_path: str | None = None
    commit: CommitOptions | None = None
    verify: bool = False
    _cannot_record: bool = field(default=False, init=False)
    _count: InputCount | None = field(default=None, init=False)
    _meter: Meter | None = field(default=None, init=False)

    def run(self, log: DocumentedLog) -> int:
        """Send everything and return the exit code."""
        _say_hello()
        if self.moved and self.ledger is not None:
            from asyncstore.cli.rebinding import rebind_ledger

            try:
                rebind_ledger(self.ledger, self.moved, destination=str(self.peer), forced=self.force_ledger)
            except LocalProtocolError as error:
                logger.error("--rebind: %s", error)
                return ExitCode.USAGE
        with contextlib.ExitStack() as stack:
            try:
                writers, json_lines = self._open_records(stack)
            except OSError as error:
                self._say_cannot_record(error)
                return ExitCode.CANNOT_RECORD
            if not self._begin_metrics():
                return ExitCode.CANNOT_RECORD
            verification = self._verification(stack)
            return running.run_async(self._send, log, writers, json_lines, verification)

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

    def _begin_metrics(self) -> bool:
        """Write the first metrics, if they are wanted; False if that is not possible."""
        if self.metrics_path is None:
            return True
        from asyncstore.cli.metering import Meter

        self._meter = Meter(self.metrics_path, self.peer)
        try:
            self._meter.begin()
        except OSError as error:
            logger.error("cannot write the metrics %s: %s", path_text(self.metrics_path), running.system_text(error))
            return False
        return True

    def _verification(self, stack: contextlib.ExitStack) -> Verification | None:
        if not self.verify:
            return None
        from asyncstore.cli.verifying import Verification

        form = "json" if self.json else "text"
        return stack.enter_context(Verification(self.peer, self.options, self.ledger, form))

    async def _send(
        self,
        log: DocumentedLog,
        writers: list[RecordWriter],
        json_lines: JsonLines | None,
        verification: Verification | None,
    ) -> int:
        from asyncstore.transfer.engine import Transfer

        transfer = Transfer(
            self.peer,
            self.paths.sources(),
            options=self.options,
            ledger=self._open_ledger(),
            commit=self.commit,
            own_files=self._own_files,
        )
        failure: AsyncStoreError | None = None

        await recording.tell_history(self.ledger, log)
        interrupts = running.interrupts_of(transfer, log)
        with interrupts as received, self._counted(transfer, log), self._watched(transfer, log):
            async with self._control(transfer), self._metered(transfer):
                try:
                    async with transfer:
                        async for outcome in transfer:
                            outcomes = (outcome, *transfer.take_ready())
                            self._record(outcomes, writers, transfer)
                            if verification is not None:
                                await verification.take(outcomes)
                    self._record((), writers, transfer)
                except AsyncStoreError as error:
                    failure = error
        code = self._exit_code(transfer.report, failure, received.signal_number)
        self._explain(failure, transfer.report, log)
        left = instances_left_text(transfer.report, self._count)
        if self.commit is not None and failure is None:
            from asyncstore.cli import committing

            committing.tell(transfer.report)
        sent_with = code
        if verification is not None and failure is None:
            code = await verification.run(code, log)
        is_unverified = code not in (sent_with, ExitCode.DIFFERENT)
        if failure is None and code != ExitCode.NO_ASSOCIATION:
            self._summarize(transfer.report, log, left, nothing_to_send=code == ExitCode.NOTHING_TO_SEND)
        because = failure or transfer.report.stopped_because
        self._print_summary(transfer.report, log, left, code, because=because, is_unverified=is_unverified)
        if json_lines is not None and not self._cannot_record:
            count = self._count
            files = count.entries if count is not None and count.is_complete else None
            json_lines.write_summary(transfer.report, code, input_files=files)
        if self._meter is not None:
            await self._meter.finish(transfer.report, code)
        return code

    def _exit_code(self, report: Report, failure: AsyncStoreError | None, signal_number: int | None) -> int:
        cannot_record = self._cannot_record or isinstance(report.stopped_because, LedgerError)
        if failure is not None and not cannot_record and signal_number is None:
            return exit_codes.of_failure(failure, ExitCode.NO_ASSOCIATION)
        cannot_record = cannot_record or isinstance(failure, LedgerError)
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

    def _watched(self, transfer: Transfer, log: DocumentedLog) -> contextlib.AbstractContextManager[None]:
        """Show how far the transfer is, if that is wanted."""
        if not self._may_watch(log):
            return contextlib.nullcontext()
        from asyncstore.cli import watching

        watch = watching.Watch.of(log, progress=self.progress, stats_seconds=self.stats_seconds)
        return watching.watched(transfer, watch, log, lambda: self._count)

    def _may_watch(self, log: DocumentedLog) -> bool:
        """Whether somebody may want to see how far the transfer is."""
        wants = sys.stderr.isatty() or self.progress or self.stats_seconds is not None or log.threshold <= logging.INFO
        return log.threshold < QUIET and bool(wants)

    @contextlib.contextmanager
    def _counted(self, transfer: Transfer, log: DocumentedLog) -> Iterator[None]:
        """Count the input while the transfer reads it, if it does so for a while and the count is shown anywhere."""
        is_wanted = self.is_counted and (log.threshold < QUIET or self.json)
        begin = functools.partial(self._begin_count, transfer)
        after = _COUNT_AFTER_SECONDS if self._may_watch(log) else _COUNT_UNSEEN_AFTER_SECONDS
        with running.later(after, begin) if is_wanted else contextlib.nullcontext():
            try:
                yield
            finally:
                if self._count is not None:
                    self._count.close()

    def _begin_count(self, transfer: Transfer) -> None:
        from asyncstore.cli.counting import InputCount, may_count

        options, paths = self.options, self.paths
        has_ended = transfer.report.scan_finished or transfer.view().is_stopping
        if has_ended or not may_count(paths.list_name, options.selection):
            return
        own_files = (*self._own_files, *transfer.ledger_files)
        self._count = InputCount.of(paths, options.selection, recursive=options.recursive, own_files=own_files)
        self._count.start()

    def _control(self, transfer: Transfer) -> contextlib.AbstractAsyncContextManager[None]:
        if self.control_path is None:
            return contextlib.nullcontext()
        from asyncstore.cli import control

        return control.controlled(transfer, self.control_path)

    def _metered(self, transfer: Transfer) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext() if self._meter is None else self._meter.watching(transfer)

    def _record(self, outcomes: Iterable[Outcome], writers: list[RecordWriter], transfer: Transfer) -> None:
        """Write outcomes; none, at the end, makes the report exist even if it is empty.

        If that fails, nothing new is sent: there would be no record of it.
        """
        for writer in tuple(writers):
            try:
                writer.begin()
                for outcome in outcomes:
                    writer.write(outcome)
            except (OSError, running.ResultsLost) as error:
                writers.remove(writer)
                transfer.drain(self._say_cannot_record(error))

    def _say_cannot_record(self, error: OSError | running.ResultsLost) -> AsyncStoreError:
        """Log it; the error is why the run stops, and what a ledger says of that."""
        self._cannot_record = True
        cause = error.__cause__ if isinstance(error, running.ResultsLost) else error
        where = (
            "stdout" if isinstance(error, running.ResultsLost) else f"the report {path_text(self.records_path or '')}"
        )
        stopped = passing(f"cannot write to {where}: {running.system_text(cause)}")
        logger.error("%s", stopped)
        return stopped

    # -- when it has ended ---------------------------------------------------------------------------------------------

    def _explain(self, failure: AsyncStoreError | None, report: Report, log: DocumentedLog) -> None:
        """Log the failure of the ledger, or why there was no association."""
        ledger_failure = failure or report.stopped_because
        if isinstance(ledger_failure, LedgerError):
            logger.error("%s", ledger_failure)
        elif failure is not None:
            explain_failure(failure, self.peer, self.options.calling_ae_title, log)

    def _summarize(self, report: Report, log: DocumentedLog, left: str, *, nothing_to_send: bool) -> None:
        if nothing_to_send:
            log.notice(logging.WARNING, "No suitable DICOM files found")
            logger.error("Nothing to send: %s", self._why_nothing(report.skipped, report.left_out))
        is_more_than_one = report.found + report.problems > 1
        if report.failed_instances and is_more_than_one:
            failed, found = f"{report.failed_instances:,}", count_text(report.found, "instance")
            logger.error("%s of %s were not stored (see above)", failed, found)
        lossy = self._lossy_refused(report)
        if lossy:
            what = count_text(lossy, "instance")
            logger.error(
                "%s compressed with loss: --decompress lossy sends uncompressed what the peer accepts so", what
            )
        unchanged = may_lack_changes(report)
        if unchanged:
            logger.error(
                "%s sent with changes, and there already: %s", count_text(unchanged, "instance"), MAY_LACK_CHANGES
            )
        if report.problems and is_more_than_one:
            logger.error("%s could not be sent (see above)", count_text(report.problems, "path"))
        if report.stopped_early:
            logger.error("Stopped early%s", self._how_it_stopped(report, left))
        if report.skipped and not nothing_to_send:
            what = "that is not a DICOM instance was" if report.skipped == 1 else "that are not DICOM instances were"
            log.notice(logging.INFO, f"{count_text(report.skipped, 'file')} {what} skipped")
        if report.left_out and not nothing_to_send:
            log.notice(logging.INFO, f"{count_text(report.left_out, 'file')} left out by the selection")
        if not nothing_to_send and (self.summary or self._may_watch(log)):
            tell = log.tell if self.summary else log.notice
            for unread in self._not_read():
                tell(logging.INFO, unread)
        if is_more_than_one and self._has_table(report, log):
            logger.info("%s", summary_text(report))
        elif is_more_than_one:
            log.notice(logging.INFO, summary_text(report))
        elif report.states[State.STORED] + report.states[State.WARNING] and sys.stderr.isatty():
            log.tell(logging.INFO, summary_text(report))

    def _lossy_refused(self, report: Report) -> int:
        """How many instances the peer did not accept as they are, that the options allow to be sent otherwise."""
        may_become = self.options.conversions.spares_lossy
        return sum(count for uid, count in report.not_accepted.items() if may_become(uid))

    def _why_nothing(self, skipped: int, left_out: int) -> str:
        return why_nothing(self.paths, skipped=skipped, left_out=left_out, recursive=self.options.recursive)

    def _has_table(self, report: Report, log: DocumentedLog) -> bool:
        """Whether a table ends the run: if it was asked for, or on a terminal if one line cannot say all."""
        has_more = report.found + report.problems > 1 or report.failed > 0
        return log.threshold < QUIET and (self.summary or (has_more and sys.stderr.isatty()))

    def _print_summary(
        self,
        report: Report,
        log: DocumentedLog,
        left: str,
        code: int,
        *,
        because: Exception | None,
        is_unverified: bool,
    ) -> None:
        if not self._has_table(report, log):
            return
        from asyncstore.cli.next_steps import next_steps
        from asyncstore.cli.output.summary import Summary

        can_repeat = may_pass(because) and self.paths.list_name != "-"
        lossy = self._lossy_refused(report)
        steps = next_steps(
            report, ledger=self.ledger, can_repeat=can_repeat, lossy_refused=lossy, is_unverified=is_unverified
        )
        with log.turn():
            log.write("\n".join(Summary(report, code, left, steps).lines()))

    def _how_it_stopped(self, report: Report, left: str) -> str:
        """Why a run stopped, what is left, and what to do: nothing, if trying again cannot help."""
        because = report.stopped_because
        is_said = because is None or self._cannot_record or isinstance(because, LedgerError)
        text = "" if because is None or is_said else f": {reason_text(because, self.peer)}"
        text += "" if report.scan_finished else "; the input was not read to its end"
        text += f"{';' if report.scan_finished else ','} {left}" if left else ""
        if may_pass(because) and not self._cannot_record:
            text += ": run the same command again to resume" if self.ledger else ": run it again"
        return text

    def _not_read(self) -> Iterable[str]:
        return () if self.options.recursive else why_not_all(self.paths)

    # -- without sending -----------------------------------------------------------------------------------------------

    def plan(self, log: DocumentedLog) -> int:
        """Scan the sources, ask the peer, and print what would be sent, and how. Sends nothing, writes no ledger."""
        from asyncstore.cli.output import inventory_text
        from asyncstore.cli.planning import Planning
        from asyncstore.ledger.protocol import settled_for

        _say_hello()
        planning = Planning(self.options, self.peer, "json" if self.json else None, progress=self.progress)
        with contextlib.ExitStack() as stack:
            history, ledger_files = self._open_history(stack)
            retries = self.options.retry_set_aside
            settled = None if history is None else settled_for(history.settled, retry_set_aside=retries)
            own_files = [*ledger_files, *self._own_files]
            inventory = planning.scan(self.paths.sources(), log, settled=settled, own_files=own_files)
        known = [] if self.ledger is None else inventory_text.ledger_lines(inventory, exists=history is not None)
        code = planning.tell(inventory, log, paths=self.paths.given, before=[*known, *self._not_read()])
        if code == ExitCode.NOTHING_TO_SEND:
            logger.error("Nothing to send: %s", self._why_nothing(inventory.problems.total(), inventory.left_out))
        return code

    def _open_history(self, stack: contextlib.ExitStack) -> tuple[LedgerHistory | None, tuple[str, ...]]:
        """What the ledger knows, None if there is none yet; and its files."""
        ledger = self._open_ledger()
        if ledger is None or self.ledger is None:
            return None, ()
        from asyncstore.ledger.opening import open_history
        from asyncstore.transfer.options import options_as_data

        history = open_history(self.ledger, destination=str(self.peer), options=options_as_data(self.options))
        return None if history is None else stack.enter_context(history), ledger.files

    @property
    def _own_files(self) -> tuple[str, ...]:
        metrics = () if self._meter is None else self._meter.file.files
        return (*(path for path in (self.records_path, self.log_path) if path is not None), *metrics)


def _say_hello() -> None:
    logger.debug("asyncstore storescu v%s", __version__)
    logger.debug("")
    logger.debug("Checking input file")
