"""A transfer: sends many instances over as many associations as pay, and gives each exactly one outcome.

It puts the stations together; the docstring of the package tells what each does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from typing import TYPE_CHECKING, Any, Self

import anyio

from asyncstore.errors import AsyncStoreError, LocalProtocolError, cause_of
from asyncstore.inputs.feed import Feed
from asyncstore.inputs.own_files import OwnFiles
from asyncstore.inputs.selection import Choice
from asyncstore.net.connecting import connect
from asyncstore.net.peer import Peer, check_secret, check_type
from asyncstore.preparation.prepare import Preparation
from asyncstore.transfer.admission import Admission
from asyncstore.transfer.attempts import Attempts
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.destination import Destination
from asyncstore.transfer.judge import Judge
from asyncstore.transfer.learned import Learned
from asyncstore.transfer.limiter import Limiter
from asyncstore.transfer.options import TransferOptions, options_as_data
from asyncstore.transfer.outcomes import Outcomes, ToldOutcomes
from asyncstore.transfer.pool import Pool
from asyncstore.transfer.preparing import Preparing
from asyncstore.transfer.report import Report
from asyncstore.transfer.supervisor import Supervisor
from asyncstore.transfer.work import Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable
    from types import TracebackType

    from anyio.abc import TaskGroup

    from asyncstore.inputs.entry import Source
    from asyncstore.inputs.opening import AnyPath
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Ledger
    from asyncstore.net.transport import Connect
    from asyncstore.transfer.limits import Limits
    from asyncstore.transfer.observer import Observer, Teller
    from asyncstore.transfer.proof.committing import CommitOptions, Committing
    from asyncstore.transfer.view import TransferView


class Transfer:
    """Sends many instances to a peer and yields one Outcome for each.

        async with asyncstore.Transfer(peer, ["study/"], ledger="run.db") as transfer:
            async for outcome in transfer:
                print(outcome.path, outcome.state, outcome.reason)
        print(transfer.report.stored, "stored")

    `sources` is a path, an Instance, a pydicom Dataset, a result of `scan`, or an iterable or asynchronous iterable of
    these, even an endless one. A path is that of a file, a directory, a ZIP or TAR archive, a member of one
    (`study.zip!/CT/1.dcm`), or a DICOMDIR, which stands for the files that it references; `options.selection` says what
    is taken of it. A generator may yield the same Dataset repeatedly, modified in between: each is encoded before the
    next is requested. Do not modify a Dataset in a list until its outcome has arrived.

    Every instance gets exactly one final Outcome, and so does every file that holds none. If an Instance was handed in,
    `outcome.instance` is that very object. `report` counts them as they come. Instances that a run leaves when it stops
    early are only counted (`State.LEFT`). `associations` and `window` override those of `options`.

    `ledger` is a Ledger, or the path of the file in which to keep one. Files that an earlier run with it stored are not
    opened again: their outcome is `State.RESUMED`. The retry policy is then `RetryPolicy.for_ledger()`, unless
    `options` has one of its own. Entering raises LedgerError if the ledger cannot be opened. The run stops if the
    ledger cannot be written any more; check `report.stopped_because` after the block, since leaving the block commits
    the last outcomes.

    Iterating raises AssociateError or AssociationLost (which includes Timeout) if no association could be established
    at all, and any exception that the caller's iterable raised. If a run that worked must stop later, the iteration
    just ends, and `report.stopped_because` says why.

    `commit` asks the peer to commit to keep what it stored, beside the sending: study by study, and with a ledger also
    for what earlier runs stored. The iteration then ends when everything is committed or is known not to be: see
    `report.committed` and `report.not_committed`. What the peer does not have is sent once more.

        Transfer(peer, ["study/"], ledger="run.db", commit=asyncstore.CommitOptions(port=11113))

    `observer` is told what happens, an Observer. `own_files` are files that the caller writes meanwhile, a log for
    example. They and those of the ledger are passed over without a word if they lie in a directory that is sent.

    Leaving the block early finishes what is in flight and stops. It also closes `sources` if that is an asynchronous
    generator. A Transfer can be entered once.
    """

    def __init__(
        self,
        peer: Peer,
        sources: Source | Iterable[Source] | AsyncIterable[Source],
        *,
        options: TransferOptions | None = None,
        associations: int | None = None,
        window: int | None = None,
        ledger: Ledger | str | os.PathLike[str] | None = None,
        commit: CommitOptions | None = None,
        observer: Observer | None = None,
        own_files: Iterable[AnyPath] = (),
    ) -> None:
        check_type("peer", peer, Peer)
        check_type("options", options := options or TransferOptions(), TransferOptions)
        options = _with(options, associations=associations, window=window)
        check_secret(options.user_identity, peer, may_be_in_clear=options.allow_plaintext_credentials)
        self.peer = peer
        self.options: TransferOptions = options if ledger is None else options.for_ledger()
        self.report: Report = Report()
        self._ledger = _ledger_of(ledger, peer, self.options)
        self._teller = None if observer is None else _teller_of(observer)
        self._was_entered = False
        self._group: TaskGroup
        self._stack = contextlib.AsyncExitStack()
        self._own_files = OwnFiles(own_files)
        self._committing = None if commit is None else self._committing_of(commit)
        self._again: Transfer | None = None
        self._build(sources)

    def _committing_of(self, commit: CommitOptions) -> Committing:
        from asyncstore.transfer.proof.committing import CommitOptions, Committing

        check_type("commit", commit, CommitOptions)
        return Committing(commit, self.peer, self.options, self.report, self._ledger)

    def _build(self, sources: Source | Iterable[Source] | AsyncIterable[Source]) -> None:
        """Make the stations, from the last one to the first."""
        options, report, ledger = self.options, self.report, self._ledger
        by_study = options.keep_together == "study"
        learned = self._make_learned()
        plan = learned.plan
        self._work = work = Work(strict=by_study)
        concurrency = self._make_concurrency()
        self._destination = destination = Destination(
            options.retry, concurrency, refused=learned.refused, refuses_with=learned.refuses_with
        )
        self._limiter = limiter = Limiter(options, concurrency, report)
        if self._teller is None or not self._teller.tells_outcomes:
            outcomes = Outcomes(report, destination, ledger, fail_fast=options.fail_fast)
        else:
            outcomes = ToldOutcomes(report, destination, ledger, self._teller, fail_fast=options.fail_fast)
        self._outcomes = outcomes
        duplicates = None
        if ledger is not None:
            from asyncstore.transfer.duplicates import Duplicates

            duplicates = Duplicates(ledger)
        preparing = Preparing(work, options.prepare or Preparation(), options.conversions)
        judge = Judge(options.retry, destination, work)
        attempts = Attempts(judge, outcomes, work, destination, report, ledger)
        admission = Admission(
            attempts,
            outcomes=outcomes,
            duplicates=duplicates,
            work=work,
            destination=destination,
            limiter=limiter,
            plan=plan,
            report=report,
            recorder=ledger,
            own_files=self._own_files,
            by_study=by_study,
            strict_source=options.strict_source,
        )
        self._pool = Pool(
            self.peer,
            options,
            admission=admission,
            attempts=attempts,
            preparing=preparing,
            work=work,
            destination=destination,
            limiter=limiter,
            plan=plan,
            offers=learned.offers,
            report=report,
            teller=self._teller,
            connect=self._make_connect(),
        )
        self._supervisor = Supervisor(
            self._make_feed(
                sources,
                recursive=options.recursive,
                find_studies=by_study or self._committing is not None,
                choice=Choice.of(options.selection),
                deliver=admission.deliver,
            ),
            self._pool,
            admission=admission,
            outcomes=outcomes,
            duplicates=duplicates,
            preparing=preparing,
            work=work,
            destination=destination,
            limiter=limiter,
            report=report,
            teller=self._teller,
            recorder=ledger,
            history=ledger,
            retry_set_aside=options.retry_set_aside,
            drain_seconds=options.drain_seconds,
        )

    def _make_concurrency(self) -> Concurrency:
        """What says how many associations to keep open."""
        return Concurrency(self.options.associations)

    def _make_learned(self) -> Learned:
        """What is known about the peer."""
        return Learned(self.options)

    def _make_feed(self, sources: Any, **settings: Any) -> Feed:
        """What reads the sources."""
        return Feed(sources, **settings)

    def _make_connect(self) -> Connect:
        """What opens connections to the peer."""
        return connect

    def __repr__(self) -> str:
        report = self.report
        if not self._was_entered:
            state = "not entered"
        elif self._outcomes.are_complete:
            state = "ended"
        else:
            count = len(self._pool.workers)
            draining = ", draining" if self._destination.is_stopped else ""
            state = f"{count} association{'' if count == 1 else 's'}{draining}"
        return f"<Transfer {self.peer}, {state}, {report.finished_instances} of {report.found} finished>"

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise LocalProtocolError("a Transfer is entered once: make another one to send again")
        async with contextlib.AsyncExitStack() as stack:
            if self._ledger is not None:
                await stack.enter_async_context(self._ledger)
                self._own_files.add(self._ledger.files)
            if self._committing is not None:
                await stack.enter_async_context(self._committing)
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._was_entered = True
            self._group.start_soon(self._supervisor.run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.drain()
            self._outcomes.unread.clear()
        else:
            self.abort()
        failure: Exception | None = None
        try:
            await self._group.__aexit__(None, None, None)
        except ExceptionGroup as group:
            failure = cause_of(group)
        finally:
            await self._conclude(kind, error, traceback)
        if failure is not None:  # raised out here, it keeps the cause that it has
            raise failure

    async def _conclude(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Have the ledger note how the run ended, and close it; then nothing changes any more."""
        try:
            if self._ledger is not None:
                self._ledger.note_end(scan_finished=self.report.scan_finished, stopped=self._why_stopped())
            await self._stack.__aexit__(kind, error, traceback)
            if self._ledger is not None:
                self.report.stopped_because = self._ledger.failure or self.report.stopped_because
        finally:
            if self._teller is not None:
                self._teller.finished(self.report)

    def _why_stopped(self) -> str:
        report = self.report
        return str(report.stopped_because or "interrupted") if report.stopped_early else ""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        outcomes = self._outcomes
        while not outcomes.unread:
            if outcomes.are_complete:
                if failure := self._destination.start_failure or self._supervisor.sources_error:
                    raise failure
                if self._committing is not None:
                    await self._finish_committing(self._committing)
                raise StopAsyncIteration
            if not self._was_entered:
                raise LocalProtocolError("a Transfer is iterated over inside `async with`, which begins it")
            await outcomes.readable.wait()
        outcome = outcomes.take()
        if self._committing is not None:
            await self._committing.take(outcome)
        return outcome

    def take_ready(self) -> list[Outcome]:
        """The outcomes that iterating would yield without a wait, at a fraction of its cost; with `commit` none."""
        return [] if self._committing is not None else self._outcomes.take_all()

    async def _finish_committing(self, committing: Committing) -> None:
        """Wait for commitment, and send again what the peer does not have."""
        while paths := await committing.finish():
            self._again = Transfer(self.peer, paths, options=self.options, ledger=committing.ledger_again())
            failure: AsyncStoreError | None = None
            try:
                async with self._again as again:
                    async for outcome in again:
                        committing.take_again(outcome)
            except AsyncStoreError as error:
                failure = error
            committing.end_again(failure)
            self._again = None

    @property
    def limits(self) -> Limits:
        """How much of the network and of the day the run may take now."""
        return self._limiter.limits

    def limit(self, limits: Limits) -> None:
        """Have other limits from now on; no association is aborted for it. Raises LocalProtocolError for anything else.

        transfer.limit(dataclasses.replace(transfer.limits, is_paused=True))
        """
        self._limiter.change(limits)

    @property
    def ledger_files(self) -> tuple[str, ...]:
        """The files in which the ledger is kept, if there is one."""
        return () if self._ledger is None else self._ledger.files

    def view(self) -> TransferView:
        """The run as it is now: its associations, and what it waits for."""
        from asyncstore.transfer.view import TransferView

        now = time.monotonic()
        work, destination = self._work, self._destination
        retrying, suspected = work.retrying
        retry_at = work.next_retry_at
        associations = tuple(worker.view(now) for worker in self._pool.workers)
        return TransferView(
            associations=associations,
            waiting=work.waiting,
            in_flight=sum(each.in_flight for each in associations),  # without those that are being converted
            retrying=retrying,
            suspected=suspected,
            retry_seconds=None if retry_at == math.inf else max(0.0, retry_at - now),
            trouble=destination.trouble(now),
            is_stopping=destination.is_stopped,
            drain_seconds=self._supervisor.drain_seconds_left(now),
        )

    def drain(self, because: Exception | None = None) -> None:
        """Take no new work, finish what is in flight, and release; the iteration ends after the last outcome.

        Associations that still have instances in flight after `options.drain_seconds` are aborted. `because` is what
        `report.stopped_because` says then. Storage commitment is not waited for.
        """
        self._supervisor.drain(because)
        if self._committing is not None:
            self._committing.interrupt()
        if self._again is not None:
            self._again.drain()

    def abort(self) -> None:
        """Abort every association at once; instances in flight have no known outcome and are left for another run."""
        self._supervisor.abort()
        if self._committing is not None:
            self._committing.interrupt()
        if self._again is not None:
            self._again.abort()


def _ledger_of(ledger: Ledger | str | os.PathLike[str] | None, peer: Peer, options: TransferOptions) -> Ledger | None:
    """Open the ledger in a file, or return the one that was given."""
    if not isinstance(ledger, str | os.PathLike):
        if ledger is not None and not hasattr(ledger, "record"):
            raise LocalProtocolError(f"ledger is {ledger!r:.200}: it is the path of a file, or a Ledger")
        return ledger
    from asyncstore.ledger.opening import open_ledger

    return open_ledger(ledger, destination=str(peer), options=options_as_data(options))


def _teller_of(observer: Observer) -> Teller:
    from asyncstore.transfer.observer import Teller

    return Teller(observer)


def _with(options: TransferOptions, **overrides: Any) -> TransferOptions:
    given = {name: value for name, value in overrides.items() if value is not None}
    return dataclasses.replace(options, **given) if given else options


async def store(
    sources: Source | Iterable[Source] | AsyncIterable[Source],
    *,
    to: Peer,
    options: TransferOptions | None = None,
    associations: int | None = None,
    window: int | None = None,
    ledger: Ledger | str | os.PathLike[str] | None = None,
    commit: CommitOptions | None = None,
    observer: Observer | None = None,
) -> Report:
    """Send instances to a peer, and return the Report when all is done.

        report = await asyncstore.store(["study/"], to=peer, ledger="run.db")

    sources       what to send: paths, Instances, pydicom Datasets, results of `scan`, and iterables of them
    to            the peer
    options       how to send it
    associations  how many to keep open; None: as `options` say
    window        asynchronous operations window to propose; None: as `options` say
    ledger        the file of a ledger, or a Ledger; with it, the next run goes on where this one ended
    commit        have the peer commit to keep it, too; None: without
    observer      is told what happens while it runs

    See Transfer for more about them and for what is raised. Use a Transfer itself to get each outcome as it comes.
    """
    async with Transfer(
        to,
        sources,
        options=options,
        associations=associations,
        window=window,
        ledger=ledger,
        commit=commit,
        observer=observer,
    ) as transfer:
        async for _ in transfer:
            pass
    return transfer.report
