"""Ends each attempt: after an answer or a loss an instance has its outcome, or is sent again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from asyncstore.instances.outcome import Outcome
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.transfer.judge import Again, unknown_outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from asyncstore.errors import AsyncStoreError
    from asyncstore.instances.instance import Instance
    from asyncstore.ledger.protocol import Recorder
    from asyncstore.transfer.destination import Destination
    from asyncstore.transfer.judge import Judge
    from asyncstore.transfer.outcomes import Outcomes
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.report import Report
    from asyncstore.transfer.work import Work


class Attempts:
    """Ends the attempts: asks the judge, and hands the instance on to the outcomes or gives it back to the work."""

    def __init__(
        self,
        judge: Judge,
        outcomes: Outcomes,
        work: Work,
        destination: Destination,
        report: Report,
        recorder: Recorder | None,
    ) -> None:
        self._judge = judge
        self._outcomes = outcomes
        self._work = work
        self._destination = destination
        self._report = report
        self._recorder = recorder

    def answered(self, pending: Pending, outcome: Outcome) -> bool:
        """Handle an answer; True when the association that carried the instance should end."""
        report = self._report
        report.answers += 1
        sent_bytes = outcome.bytes_sent
        report.sent_bytes += sent_bytes if sent_bytes < STREAMED_AFTER_BYTES else STREAMED_AFTER_BYTES
        now = time.monotonic()
        verdict = self._judge.answered(pending, outcome, now)
        if isinstance(verdict, Outcome):
            self.finish(pending, verdict)
            return False
        self._again(pending, verdict.due_at)
        return verdict.on_new_association

    def tell_padded(self, pending: Pending) -> None:
        """Log, before the first attempt, that the data set of an instance is sent with a padding byte."""
        if not pending.attempts:
            self._outcomes.tell_padded(pending.instance.path)

    def not_sent(self, pending: Pending, outcome: Outcome | None) -> None:
        """Handle an instance that was not sent: `outcome` says why; None lets another association have it."""
        if outcome is None:
            self._work.put_back(pending)
        else:
            outcome.attempts = pending.attempts
            self.finish(pending, outcome)

    def lost(self, pendings: Iterable[Pending], error: AsyncStoreError) -> None:
        """Handle the end of an association that had these instances in flight."""
        now = time.monotonic()
        for pending in pendings:
            verdict = Again(now) if self._destination.is_stopped else self._judge.lost(pending, error, now)
            if isinstance(verdict, Outcome):
                self.finish(pending, verdict)
                continue
            if self._recorder is not None:  # before the next attempt: the peer may have this instance
                self._recorder.record(unknown_outcome(pending, error))
            self._again(pending, verdict.due_at)

    def finish(self, pending: Pending, outcome: Outcome) -> None:
        """Hand on the final outcome of an instance that was taken."""
        self._work.finish(pending)
        pending.instance.source.let_go()
        self._outcomes.add(outcome)

    def finish_refused(self, pending: Pending) -> bool:
        """Finish an instance that was taken if the peer has refused its kind; False if it has not."""
        refused = self._judge.refused_before(pending.instance, pending.attempts)
        if refused is not None:
            self.finish(pending, refused)
        return refused is not None

    def refuse_before(self, instance: Instance) -> bool:
        """The same for an instance that the feed has just read."""
        refused = self._judge.refused_before(instance)
        if refused is not None:
            instance.let_go()
            self._outcomes.add(refused)
        return refused is not None

    def refuse(self, pairs: Collection[Pair]) -> None:
        """Finish every waiting instance of these pairs: the peer takes none of them."""
        for pending in self._work.take_all(pairs):
            refused = self._judge.refused_before(pending.instance, pending.attempts)
            assert refused is not None
            pending.instance.let_go()
            self._outcomes.add(refused)

    def _again(self, pending: Pending, due_at: float) -> None:
        pending.instance.let_go()
        self._work.retry(pending, due_at)
