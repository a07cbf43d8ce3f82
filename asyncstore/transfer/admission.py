"""Decides what may be taken now: the feed delivers instances here, and associations take them.

Gates keep everything back for a while: the destination needs a pause, the ledger cannot write as fast as outcomes
come, too many instances are being compared, the caller has too many outcomes to read, or nothing may be sent at this
time. Single instances are kept back too: those of a kind that the peer has refused, and those that may be stored
already from another file.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from asyncstore.aio.signal import Signal, wait_for_any
from asyncstore.errors import SourceError
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import State, source_problem
from asyncstore.transfer.groups import directory_of

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import Protocol

    from asyncstore.inputs.feed import Fed
    from asyncstore.inputs.own_files import OwnFiles
    from asyncstore.ledger.protocol import Recorder, Suspicion
    from asyncstore.transfer.attempts import Attempts
    from asyncstore.transfer.destination import Destination
    from asyncstore.transfer.duplicates import Duplicates
    from asyncstore.transfer.limiter import Limiter
    from asyncstore.transfer.outcomes import Outcomes
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair, Plan
    from asyncstore.transfer.report import Report
    from asyncstore.transfer.work import Work

    class Gate(Protocol):
        """Something that may keep every instance back.

        `closed_until(now)` is the time at which the gate opens: not after `now` if it is open, math.inf if that time is
        not known. Then the station that closed the gate sets a signal when it opens it.
        """

        def closed_until(self, now: float) -> float: ...


# A ledger does not signal that it has room again: look after this time.
_RECORDER_SECONDS: Final = 0.025


class RecorderGate:
    """Closed while a ledger does not write outcomes as fast as they come."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def closed_until(self, now: float) -> float:
        return 0.0 if self._recorder.has_room else now + _RECORDER_SECONDS


class ProbeGate:
    """Closed while an instance is on its way that is sent alone.

    It shows whether a peer in trouble takes any; or it may end the associations of all others, as only suspected ones
    wait and the peer dies as one.
    """

    def __init__(self, destination: Destination, work: Work) -> None:
        self._destination = destination
        self._work = work

    def closed_until(self, now: float) -> float:
        is_alone = self._destination.is_probed or self.spares_others
        return math.inf if is_alone and self._work.in_flight else 0.0

    @property
    def spares_others(self) -> bool:
        """Whether the next instance is sent alone, since it may end the associations of all others."""
        return self._destination.dies_as_one and self._work.suspected_waiting > 0


class Admission:
    """Takes in what the feed has read, and gives the next instance to an association that asks.

    An association that got none waits for one of the signals in `changed`, and then asks again.
    """

    def __init__(
        self,
        attempts: Attempts,
        *,
        outcomes: Outcomes,
        duplicates: Duplicates | None,
        work: Work,
        destination: Destination,
        limiter: Limiter,
        plan: Plan,
        report: Report,
        recorder: Recorder | None,
        own_files: OwnFiles,
        by_study: bool,
        strict_source: bool = False,
    ) -> None:
        self._attempts = attempts
        self._outcomes = outcomes
        self._duplicates = duplicates
        self._work = work
        self._destination = destination
        self._plan = plan
        self._report = report
        self._recorder = recorder
        self._own_files = own_files
        self._by_study = by_study
        self._strict_source = strict_source
        gates: list[Gate] = [destination, outcomes]
        if duplicates is not None:
            gates.append(duplicates)
        if recorder is not None:
            gates.append(RecorderGate(recorder))
        # Before each instance only the gates that may be closed then: that of the probe is open while the peer is well,
        # and that of the limits ends the associations that would ask.
        self._probe_gate = ProbeGate(destination, work)
        self._gates = [gate.closed_until for gate in gates]
        self._all_gates = [*self._gates, self._probe_gate.closed_until, limiter.closed_until]
        self._was_closed = False
        self._feed_waits = False
        self._room = Signal()
        self.changed: tuple[Signal, Signal] = (work.available, outcomes.room)

    # -- from the feed -------------------------------------------------------------------------------------------------

    async def deliver(
        self, found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
    ) -> None:
        """Take in what the feed has read, without the files that the run itself writes; returns when it may read more.

        `are_settled`: these are outcomes that the ledger has from an earlier run. `suspicion`: that run suspected them.
        """
        for entry in found:
            if isinstance(entry, Instance):
                self._take_in(entry, suspicion)
            elif entry.state is not State.SKIPPED or (entry.path or "") not in self._own_files:
                self._outcomes.add(entry, is_settled=are_settled)
        self._work.available.set()
        while not self._work.has_room or self._outcomes.closed_until(0.0):
            self._feed_waits = True
            await wait_for_any(self._room, self._outcomes.room)

    def _take_in(self, instance: Instance, suspicion: Suspicion | None) -> None:
        self._plan.see((instance.sop_class_uid, instance.transfer_syntax_uid))
        self._report.find(instance)
        if instance.meta_difference is not None and self._is_doubtful(instance, instance.meta_difference):
            return
        if self._destination.refused and self._attempts.refuse_before(instance):
            return
        study = instance.study_instance_uid if self._by_study else None
        key = study or directory_of(instance.path)
        if suspicion is None:
            self._work.add(instance, key)
        else:
            self._work.add_suspected(instance, key, suspicion, time.monotonic())

    def _is_doubtful(self, instance: Instance, difference: str) -> bool:
        """Log how the File Meta Information of an instance differs; or finish it, if it must not be sent so."""
        if not self._strict_source:
            self._outcomes.tell_difference(instance.path, difference)
            return False
        instance.let_go()
        self._outcomes.add(source_problem(SourceError(difference), instance.path, instance))
        return True

    def note_codecs(self, pairs: frozenset[Pair]) -> None:
        """See Work. The feed may read more then."""
        if pairs:
            self._work.note_codecs(pairs)
            if self._work.has_room:
                self._let_feed_read()

    # -- for the associations ------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether no more instances are given out."""
        return self._destination.is_stopped

    @property
    def needs_one_association(self) -> bool:
        """Whether no more than one is of use now."""
        return self._destination.is_doubtful or self._probe_gate.spares_others

    def closed_until(self, now: float) -> float:
        """The time until which nothing may be taken: that of the gate that opens last."""
        return max(closed_until(now) for closed_until in self._all_gates)

    def take(self, taker: object, served: Container[Pair]) -> Pending | None:
        """The next instance for an association that can carry the pairs `served`; None when there is none now."""
        destination, work = self._destination, self._work
        while not destination.is_stopped:
            now = time.monotonic()
            is_well = destination.is_well
            for closed_until in self._gates if is_well and not destination.dies_as_one else self._all_gates:
                if closed_until(now) > now:
                    self._was_closed = True
                    return None
            pending = work.take(taker, served) if is_well else work.take_probe(taker, served)
            if self._feed_waits and work.has_room:
                self._let_feed_read()
            if pending is None or not (destination.refused or self._duplicates) or not self._keep_back(pending):
                return pending
        return None

    def _keep_back(self, pending: Pending) -> bool:
        """Finish an instance that must not be sent, or have it compared first; False when it may be sent."""
        if self._destination.refused and self._attempts.finish_refused(pending):
            return True
        if self._duplicates is not None and self._duplicates.is_suspect(pending):
            self._duplicates.hold(pending)
            return True
        return False

    def has_more_for(self, taker: object) -> bool:
        """Whether an association without work should stay: something may come that it can carry."""
        if self._destination.is_stopped or self._work.is_done:
            return False
        now = time.monotonic()
        if self.closed_until(now) > now:
            return True
        return not self._work.waits_for(taker)  # what waits needs another association: this one was given nothing

    # -- from above, now and then --------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Release the instances that may be sent by now, and wake the associations and the feed."""
        self._destination.look(now)
        if self._recorder is not None and self._destination.refusals:
            self._recorder.note_refusal()
        has_more = self._work.wake_retries(now)
        if self._duplicates is not None:
            has_more |= self._end_comparisons(self._duplicates)
        if self._was_closed and self.closed_until(now) <= now:
            self._was_closed = False
            has_more = True
        if has_more:
            self._work.available.set()
        if self._work.has_room:  # perhaps no association is left that would wake the feed
            self._let_feed_read()

    def _end_comparisons(self, duplicates: Duplicates) -> bool:
        """Finish the instances that are stored already, and let the others be sent; True when there were any."""
        if duplicates.failure is not None:  # an instance that may be stored already must not be sent
            self._destination.stop(duplicates.failure)
        decided = duplicates.take_decided()
        for pending, outcome in decided:
            self._attempts.not_sent(pending, outcome)
        return bool(decided)

    def conclude(self) -> None:
        """Leave the instances that were held back for another run: this one has ended."""
        for pending in tuple(self._duplicates.held) if self._duplicates is not None else ():
            self._work.put_back(pending)
        self._outcomes.conclude(self._work.left)

    def _let_feed_read(self) -> None:
        self._feed_waits = False
        self._room.set()
