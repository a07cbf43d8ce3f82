"""Compares with what a peer says it has (C-FIND): for `asyncstore verify`, and after the sending of storescu."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from asyncstore.cli import running
from asyncstore.cli.advice import explain_failure
from asyncstore.cli.exit_codes import ExitCode, interrupted_by
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import path_text, peer_text
from asyncstore.cli.output.proof_text import ProofText
from asyncstore.errors import Aborted, AsyncStoreError, LedgerError, NoAcceptedContext
from asyncstore.transfer.proof.comparison import Comparison
from asyncstore.transfer.proof.expected import Expected, StoredInstance

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.instances.outcome import Outcome
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.options import TransferOptions

_NOTED_AT_ONCE: Final = 1000
# A peer may need longer for an answer to a query than for one to an instance.
_LEAST_DIMSE_SECONDS: Final = 120.0


async def compare(peer: Peer, expected: Expected, text: ProofText, settings: dict[str, Any], log: DocumentedLog) -> int:
    """Compare everything, and print what differs; the first signal ends it. The exit code is 0 at the end."""
    code: int = ExitCode.STORED
    comparison = Comparison(peer, expected, text.add, **settings)
    with anyio.CancelScope() as scope, running.interrupts(scope.cancel, scope.cancel) as received:
        try:
            await comparison.run()
        except AsyncStoreError as error:
            explain_failure(error, peer, settings["calling_ae_title"], log)
            if isinstance(error, Aborted) and not text.studies:
                us = settings["calling_ae_title"]
                logger.error(
                    "It aborted the first query: perhaps it does not know us as %s (-aet), or allows no query", us
                )
            if isinstance(error, NoAcceptedContext):
                logger.error("The peer takes no queries from us (C-FIND, study root), so nothing can be verified")
            code = ExitCode.STOPPED_EARLY if comparison.was_established else ExitCode.NO_ASSOCIATION
    if code or received.signal_number is not None:
        _, studies = await anyio.to_thread.run_sync(expected.counts)
        text.not_compared = studies - text.studies
    return code if received.signal_number is None else interrupted_by(received.signal_number)


def log_problem(path: str, detail: str) -> None:
    """Log why an instance cannot be asked for."""
    logger.error("%s: %s", path_text(path), peer_text(detail, 400))


class Verification:
    """What a run of storescu stored, to be compared with what the peer says it has then.

    With a ledger that is what all of its runs have stored. What the peer has besides is no difference: it may have got
    it from others.
    """

    def __init__(self, peer: Peer, options: TransferOptions, ledger: str | None, form: str) -> None:
        self._peer = peer
        dimse_seconds = max(options.timeouts.dimse_seconds, _LEAST_DIMSE_SECONDS)
        patient = dataclasses.replace(options.timeouts, dimse_seconds=dimse_seconds)
        self._settings = {**options.of_each_association, "timeouts": patient, "tells_extra": False}
        self._ledger = ledger
        self._form = form
        self._expected = Expected(log_problem)
        self._stored: list[StoredInstance] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._expected.__exit__(kind, error, traceback)

    async def take(self, outcomes: Iterable[Outcome]) -> None:
        """Note what was stored, if no ledger has it."""
        for outcome in outcomes:
            await self._take(outcome)

    async def _take(self, outcome: Outcome) -> None:
        instance = outcome.instance
        if self._ledger is not None or instance is None or not outcome.is_stored:
            return
        sent = outcome.sent_uids
        study = instance.study_instance_uid if sent is None else sent.study_instance_uid
        uids = (instance.sop_class_uid, outcome.sent_sop_instance_uid, study)
        self._stored.append(StoredInstance(instance.path, *uids))
        if len(self._stored) >= _NOTED_AT_ONCE:
            await self._note()

    async def _note(self) -> None:
        stored, self._stored = self._stored, []
        await anyio.to_thread.run_sync(self._expected.note_stored, stored)

    async def run(self, code: int, log: DocumentedLog) -> int:
        """Compare after a run with this exit code, and print the differences; returns the exit code of both."""
        if code not in (ExitCode.STORED, ExitCode.SOME_FAILED):
            if code != ExitCode.NOTHING_TO_SEND:
                logger.error("Not verified: the run did not finish")
            return code
        log.notice(logging.INFO, "Verifying: asking the peer for what was stored")
        try:
            await self._note()
            await anyio.to_thread.run_sync(self._collect)
        except LedgerError as error:
            logger.error("%s", error)
            return ExitCode.CANNOT_RECORD
        text = ProofText(running.Results(), self._form)
        compared = await compare(self._peer, self._expected, text, self._settings, log)
        text.print_summary()
        if compared > ExitCode.INTERNAL_ERROR:
            return compared
        verified = text.exit_code(self._expected.problems)
        if verified == ExitCode.DIFFERENT:
            return verified
        return ExitCode.SOME_FAILED if compared or verified == ExitCode.SOME_FAILED else code

    def _collect(self) -> None:
        if self._ledger is None:
            self._expected.add_stored()
            return
        from asyncstore.ledger.opening import open_reader

        with open_reader(self._ledger) as reader:
            self._expected.add_ledger(reader)
