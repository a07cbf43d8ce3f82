"""How far a run is, how fast it goes, and how long it will take: the numbers that a display or a line of text shows."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.record import record
from asyncstore.transfer.concurrency import ANSWER_WEIGHT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from asyncstore.transfer.report import Report
    from asyncstore.transfer.view import AssociationView, TransferView

    class Counted(Protocol):
        """What is known of the input ahead of the run; see InputCount."""

        entries: int
        size_bytes: int
        is_complete: bool


# The time over which rates are averaged: steady enough to read, short enough to show a stall.
_RATE_SECONDS: Final = 10.0
# The time left is read less often, and should not jump with each large file.
_STEADY_SECONDS: Final = 60.0


class RateMeter:
    """The means of some numbers' growth per second, over the last ten seconds or so."""

    def __init__(self, seconds: float = _RATE_SECONDS) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, ...]] = deque()

    def add(self, now: float, *numbers: float) -> None:
        """Take the numbers at the time `now`, in monotonic seconds."""
        self._samples.append((now, *numbers))
        while now - self._samples[0][0] > self._seconds and len(self._samples) > 2:
            self._samples.popleft()

    def per_second(self, index: int = 0) -> float:
        """How fast a number grows; it does not shrink."""
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        elapsed = last[0] - first[0]
        return max(0.0, (last[index + 1] - first[index + 1]) / elapsed) if elapsed > 0 else 0.0

    def mean(self, index: int) -> float:
        """The mean of a number itself."""
        return sum(sample[index + 1] for sample in self._samples) / max(1, len(self._samples))


class Totals(NamedTuple):
    """The instances of the input and the bytes of their data sets; `are_final`: nothing more will be found."""

    instances: int
    size_bytes: int
    are_final: bool


def totals(report: Report, counted: Counted | None) -> Totals:
    """What a run has to send, with what is done.

    Files that are counted and not read yet are taken for instances, and the sizes of those that an earlier run stored
    for the mean. Both turn into what they are as the run reads them.
    """
    if report.scan_finished or counted is None:
        return Totals(report.found, report.found_bytes, report.scan_finished)
    passed_over = report.skipped + report.problems
    instances = max(report.found, counted.entries - passed_over)
    unopened = passed_over + report.found_before
    mean_bytes = counted.size_bytes / max(1, counted.entries)
    unread_bytes = max(0.0, counted.size_bytes - report.found_file_bytes - unopened * mean_bytes)
    if instances == report.found:
        unread_bytes = 0.0
    data_set_share = report.found_bytes / report.found_file_bytes if report.found_file_bytes else 1.0
    return Totals(instances, report.found_bytes + round(unread_bytes * data_set_share), counted.is_complete)


@record(frozen=True, slots=True)
class Glance:
    """A run at one moment. `left_seconds` is None if nobody can say; `rates` are those of each association."""

    report: Report
    view: TransferView
    totals: Totals
    done_bytes: int
    bytes_per_second: float
    instances_per_second: float
    left_seconds: float | None
    rates: dict[int, AssociationRates]
    starved_seconds: float

    @property
    def done_share(self) -> float:
        """The part that is done, from 0 to 1: of the bytes, or of the instances if they have none."""
        done, total = self.done_bytes, self.totals.size_bytes
        if not total:
            done, total = self.report.finished_instances, self.totals.instances
        return min(1.0, done / total) if total else 0.0


class AssociationRates(NamedTuple):
    """How fast one association is. `answer_seconds` is the mean time from a request to its answer, None if unknown."""

    answers_per_second: float = 0.0
    large_bytes_per_second: float = 0.0
    answer_seconds: float | None = None


class _AssociationMeter:
    """Follows one association from glance to glance."""

    def __init__(self) -> None:
        self._meter = RateMeter()
        self._large_bytes = 0
        self._latest: tuple[str | None, int] = (None, 0)
        self._written = 0

    def rates(self, now: float, view: AssociationView) -> AssociationRates:
        written, latest = view.written_bytes or 0, (view.path, view.size_bytes)
        self._large_bytes += max(0, written - self._written) if latest == self._latest else written
        self._written, self._latest = written, latest
        self._meter.add(now, view.answers, self._large_bytes, view.in_flight)
        answers = self._meter.per_second(0)
        # Little's law: what is in flight on average is the rate times the time of each. At the beginning, those that
        # have no answer yet have had half of it.
        ended = answers and answers + self._meter.per_second(2) / 2
        return AssociationRates(answers, self._meter.per_second(1), self._meter.mean(2) / ended if ended else None)


class Outlook:
    """Looks at a run now and then; the rates are those between the looks."""

    def __init__(self, report: Report, view: Callable[[], TransferView], counted: Callable[[], Counted | None]) -> None:
        self._report = report
        self._view = view
        self._counted = counted
        self._rate = RateMeter()
        self._steady = RateMeter(_STEADY_SECONDS)
        self._associations: dict[int, _AssociationMeter] = {}
        self._starved_since: float | None = None

    def look(self, now: float) -> Glance:
        """The run at the time `now`, in monotonic seconds."""
        report, view = self._report, self._view()
        # Files are counted, and nobody knows how many instances are in an archive.
        counted = None if report.archives_opened else self._counted()
        known = totals(report, counted)
        large = [written for each in view.associations for written in each.large_bytes]
        # Those of the files: a large one that is decompressed has more, once it is on its way.
        done_bytes = min(report.finished_bytes + sum(large), max(known.size_bytes, report.finished_bytes))
        # Looking up what an earlier run stored takes no time: it must not count as speed.
        sent = report.finished_instances - report.resumed
        # Of a large instance, the bytes behind the first are counted while it is sent.
        self._rate.add(now, report.sent_bytes + sum(min(each, STREAMED_AFTER_BYTES) for each in large), sent)
        self._steady.add(now, done_bytes + ANSWER_WEIGHT_BYTES * sent)
        return Glance(
            report,
            view,
            known,
            done_bytes,
            self._rate.per_second(0),
            self._rate.per_second(1),
            self._left_seconds(known, done_bytes) if self._is_told(view, counted) else None,
            self._look_at_associations(now, view),
            self._starved_seconds(now, view),
        )

    def _is_told(self, view: TransferView, counted: Counted | None) -> bool:
        """Whether a time left means anything: something is known of the input, and the run goes on."""
        is_waiting = view.is_stopping or view.trouble is not None or self._report.waiting_for is not None
        return not is_waiting and (counted is not None or self._report.scan_finished)

    def _left_seconds(self, known: Totals, done_bytes: int) -> float | None:
        """The time left. Bytes take time, and so does each instance, whatever its size."""
        rate = self._steady.per_second()
        if rate <= 0 or not known.instances:
            return None
        instances = max(0, known.instances - self._report.finished_instances)
        return (max(0, known.size_bytes - done_bytes) + ANSWER_WEIGHT_BYTES * instances) / rate

    def _look_at_associations(self, now: float, view: TransferView) -> dict[int, AssociationRates]:
        meters = self._associations
        self._associations = {each.number: meters.get(each.number) or _AssociationMeter() for each in view.associations}
        return {each.number: self._associations[each.number].rates(now, each) for each in view.associations}

    def _starved_seconds(self, now: float, view: TransferView) -> float:
        """For how long no instance has been ready although the input goes on: the source is slow."""
        if view.waiting or self._report.scan_finished:
            self._starved_since = None
        elif self._starved_since is None:
            self._starved_since = now
        return 0.0 if self._starved_since is None else now - self._starved_since
