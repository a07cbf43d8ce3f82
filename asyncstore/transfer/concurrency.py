"""How many associations a transfer keeps open: a careful hill climb, with time as an argument and no I/O.

A climb begins with one association. When it is accepted, others are opened at once: four where many small instances
wait, since such an instance takes the peer less time than it takes to hear of its answer; two where a few large ones
do. Where many larger ones wait, the first answers show for how many associations the sender has time, up to four. A
later probe finds out if these do not pay. Each further step is a trial: of two numbers the larger is kept only if its
throughput pays, for every association costs the peer a process. A sender that has no time left makes no trial upwards:
it is the bottleneck, not the peer. After the climb a trial is made now and then, up and down by turns, at growing
distances. Throughput is weight per second: data set bytes, plus a fixed cost for each instance. A period of measuring
ends when there is enough evidence (time, answers, weight): a fast peer is judged within 50 ms, and one that takes two
seconds for an answer by whole answers.
"""

from __future__ import annotations

import math
from typing import Final

from asyncstore.record import record

MOST_BY_ITSELF: Final = 8  # more made every receiver that was measured slower
ANSWER_WEIGHT_BYTES: Final = 16384  # an empty instance takes fast receivers about as long as this many bytes more
# An association works on this much for about as long as it takes to open another.
MANY_WAITING: Final = 200
MUCH_WAITING_BYTES: Final = 16 << 20
SMALL_BYTES: Final = 1 << 16  # up to there an instance costs the sender about the same, whatever its size
MOST_BEGUN_WITH: Final = 4  # more are for trials to find
BEGUN_WITH_FEW_LARGE: Final = 2  # four spoil each other's place in the processor's cache
PERIOD_SECONDS: Final = 0.04  # two ticks of the engine: one alone would measure the tick, not the peer
PERIOD_ANSWERS: Final = 20  # one answer more or less is then 5 %
PERIOD_BYTES: Final = 8 << 20  # large instances are even in their cost: fewer answers say as much
PERIOD_ROUNDS: Final = 2  # answers of each association: a phase of the slowest is not a gain
BEGINNING_PERIODS: Final = 0.2  # how busy the sender is shows sooner than how fast the peer is: four answers
PERIODS_WHEN_UNCLEAR: Final = 4  # halves the noise of one period (15 % of jitter becomes 7 %)
ENOUGH_GAIN: Final = 0.15  # above the usual noise; a smaller gain is not worth a process of the peer
BUSY_SHARE: Final = 1 / (1 + ENOUGH_GAIN)  # a sender that works for more than this of the time cannot gain enough
IDEAL_GAIN_SHARE: Final = 1 / 3  # is enough where the ideal gain is small (3 to 4: 33 %)
CHANGED: Final = 1.4  # throughput this many times higher or lower than usual is not noise: the peer has changed
SMOOTHING: Final = 0.5  # of the newest period: two or three of them outweigh one odd one
FIRST_PROBE_SECONDS: Final = 1.0  # a wrong end of the climb should not last; doubles with each probe that moved nothing
LONGEST_PROBE_SECONDS: Final = 300.0  # a dozen an hour: the peer does not notice, an archive's night shift is found
HURRY_SECONDS: Final = 60.0  # a peer whose speed goes up and down is not tried more often than a steady one
PROBE_COST: Final = 8  # a probe of a slow peer lasts long: at most an eighth of the time is spent on them
CHANGE_PROBE_SECONDS: Final = 5.0  # a mix of sizes may look like change after change
HALVING_SECONDS: Final = 1.0  # answers to what was under way already are one and the same pressure
QUIET_SECONDS: Final = 5.0  # without a new A7xx before more is tried
CALM_SECONDS: Final = 600.0  # longer than any distance of probes: what comes later was not caused by one
CAP_SECONDS: Final = 120.0  # limits of peers are configured, congestion passes in minutes
LONGEST_CAP_SECONDS: Final = 1800.0  # two rejections an hour disturb no peer


@record(frozen=True, slots=True)
class Progress:
    """The work that a transfer has done since it began, and its present state.

    `data_set_bytes` are those of the answered requests. `waiting` counts instances that are ready and that no
    association has taken: without any the source is the bottleneck. `suspected` counts those that are sent alone, where
    only such wait. `unsent_bytes` are those of the data sets that were found and not sent yet. `busy_seconds` is the
    processor time that the sending itself took. `is_doubtful`: the destination failed several times in a row, and one
    association at a time is tried until it answers.
    """

    answers: int
    data_set_bytes: int
    associations_open: int
    waiting: int
    unsent_bytes: int = 0
    busy_seconds: float = 0.0
    suspected: int = 0
    is_doubtful: bool = False


@record(frozen=True, slots=True)
class _Trial:
    level: int  # the number of associations to compare with
    rate: float  # and its throughput, in weight a second
    began_at: float


@record(frozen=True, slots=True)
class _Measured:
    rate: float  # weight a second
    periods: float  # how many periods' worth of evidence it is
    busy_share: float  # the share of the time in which the sender itself was at work


class _Meter:
    """Measures from answer to answer, beginning when each association has answered about once."""

    def __init__(self) -> None:
        self._settled_answers: int | None = None
        self._begun: tuple[float, Progress] | None = None
        self._answers = 0

    def restart(self) -> None:
        """Begin a new period."""
        self._settled_answers = self._begun = None

    def measure(self, now: float, progress: Progress) -> _Measured | None:
        """The throughput since the period began; None between answers."""
        has_answered, self._answers = progress.answers > self._answers, progress.answers
        if self._settled_answers is None:
            self._settled_answers = progress.answers + progress.associations_open
        if not has_answered or progress.answers < self._settled_answers:
            return None
        began_at, begun = self._begun = self._begun or (now, progress)
        if now <= began_at:
            return None
        seconds, answers = now - began_at, progress.answers - begun.answers
        weight = progress.data_set_bytes - begun.data_set_bytes + answers * ANSWER_WEIGHT_BYTES
        size = max(answers / PERIOD_ANSWERS, weight / PERIOD_BYTES)
        rounds = answers / progress.associations_open / PERIOD_ROUNDS
        busy_seconds = progress.busy_seconds - begun.busy_seconds
        return _Measured(weight / seconds, min(seconds / PERIOD_SECONDS, size, rounds), busy_seconds / seconds)


class _LearnedCap:
    """How many associations the peer lets us have, learned from its rejections."""

    def __init__(self, maximum: int) -> None:
        self.value = self.maximum = maximum
        self._wait_seconds = CAP_SECONDS
        self._retry_at = math.inf
        self._raise_by = 1

    def lower(self, now: float, associations_open: int) -> None:
        self.value = min(self.value, max(1, associations_open))
        self._retry_at = now + self._wait_seconds
        self._raise_by = 1

    def change_maximum(self, maximum: int) -> None:
        """Have another maximum; what was learned from rejections stays."""
        self.value = maximum if self.value == self.maximum else min(self.value, maximum)
        self.maximum = maximum

    def update(self, now: float, progress: Progress) -> None:
        """Take the number that is open as the cap; after a long while allow one more, then two more, then four."""
        self.value = min(max(self.value, progress.associations_open), self.maximum)
        if now >= self._retry_at and progress.waiting:
            self.value = min(self.value + self._raise_by, self.maximum)
            self._raise_by *= 2
            self._wait_seconds = min(2 * self._wait_seconds, LONGEST_CAP_SECONDS)
            self._retry_at = now + self._wait_seconds


class Concurrency:
    """How many associations should be open now: `target`, at least 1.

    `associations` fixes the number; only a learned cap and a doubtful destination lower it. None lets it climb from
    one to `maximum` while it pays. `now` is monotonic, in seconds; a time before the latest counts as the latest.
    `target` grows in `update` only, and while work is waiting.
    """

    def __init__(self, associations: int | None, maximum: int = MOST_BY_ITSELF) -> None:
        self._most_by_itself = maximum
        self.maximum: int = max(1, maximum if associations is None else associations)
        self.target: int = 1 if associations is None else self.maximum
        self._level = self.target
        self._is_single = False
        self._is_fixed = associations is not None
        self._has_begun = False
        self._cap = _LearnedCap(self.maximum)
        self._now = self._probe_at = self._probed_at = self._halved_at = self._pressed_at = -math.inf
        self._hurried_at = -math.inf
        self._probe_seconds, self._quiet_seconds = FIRST_PROBE_SECONDS, QUIET_SECONDS
        self._meter = _Meter()
        self._upwards = True
        self._trial: _Trial | None = None
        self._rate: float | None = None
        self._usual_rate: float | None = None

    def update(self, now: float, progress: Progress) -> int:
        """Take in the state of the transfer, at each tick, and return how many associations should be open."""
        self._now = now = max(now, self._now)
        self._is_single = progress.is_doubtful
        self._cap.update(now, progress)
        if not self._is_fixed:
            if not self._has_begun and progress.associations_open and (number := _number_at_once(progress)):
                self._begin_with(number)
            self._climb(now, progress)
        wanted = self._wanted()
        if progress.suspected and not self._is_single:  # they wait for their timeouts, and cost the peer little
            wanted = max(wanted, min(progress.suspected, self.maximum, self._cap.value))
        self.target = wanted if progress.waiting else min(self.target, wanted)
        return self.target

    def change(self, associations: int | None, now: float) -> None:
        """Fix another number from now on; None lets it climb, from the number that there is."""
        self._now = now = max(now, self._now)
        self._has_begun = self._has_begun or self._is_fixed
        self._is_fixed = associations is not None
        self.maximum = max(1, self._most_by_itself if associations is None else associations)
        self._cap.change_maximum(self.maximum)
        self._level = self.maximum if self._is_fixed else min(self._level, self.maximum)
        self._forget(now + self._probe_seconds)
        self.target = min(self.target, self._wanted())

    def pressed(self, now: float) -> None:
        """The peer answered that it is out of resources (A7xx, 0213)."""
        self._back_off(now)

    def rejected(self, now: float, associations_open: int) -> None:
        """The peer rejected an association for now, while this many were open."""
        self._now = now = max(now, self._now)
        self._cap.lower(now, associations_open)
        if not self._is_fixed and self._level > self._cap.value:
            self._level = self._cap.value
            self._forget(now + self._probe_seconds)
        self.target = min(self.target, self._wanted())

    def lost(self, now: float) -> None:
        """An association, or the attempt to open one, ended in a timeout, an abort or a lost connection."""
        self._back_off(now)

    def _wanted(self) -> int:
        return 1 if self._is_single else min(self._level, self._cap.value)

    def _back_off(self, now: float) -> None:
        self._now = now = max(now, self._now)
        if self._level > 1 and not self._is_fixed and now - self._halved_at >= HALVING_SECONDS:
            is_new = now - self._pressed_at > CALM_SECONDS
            self._quiet_seconds = QUIET_SECONDS if is_new else min(2 * self._quiet_seconds, LONGEST_PROBE_SECONDS)
            self._level //= 2
            self._halved_at = now
        self._pressed_at = now
        self._upwards = True
        self._forget(now + self._quiet_seconds)
        self.target = min(self.target, self._wanted())

    def _forget(self, probe_at: float) -> None:
        """Drop the measurements: they are no longer true."""
        self._trial = self._rate = self._usual_rate = None
        self._meter.restart()
        self._probe_at = probe_at

    def _begin_with(self, number: int) -> None:
        """Open this many at once, before any measurement; only one if the peer was out of resources before."""
        self._has_begun = True
        if number > 1 and self._pressed_at == -math.inf:
            self._level = min(number, self.maximum, self._cap.value)
            self._meter.restart()

    def _climb(self, now: float, progress: Progress) -> None:
        if not progress.waiting or self._is_single or progress.associations_open != self.target:
            self._meter.restart()
        elif measured := self._meter.measure(now, progress):
            if not self._has_begun and measured.periods >= BEGINNING_PERIODS:
                self._begin_with(_number_after_answers(progress, measured.busy_share))
            elif self._trial is not None:
                self._judge(now, measured, self._trial)
            elif measured.periods >= (1 if self._rate is None else PERIODS_WHEN_UNCLEAR):
                self._meter.restart()
                self._hold(now, measured)

    def _hold(self, now: float, measured: _Measured) -> None:
        newest_rate = measured.rate
        rate = newest_rate if self._rate is None else self._rate + SMOOTHING * (newest_rate - self._rate)
        self._rate, self._usual_rate = rate, self._usual_rate or rate
        if not self._is_usual(rate):
            self._upwards = rate > self._usual_rate
            self._probe_sooner(now)
            self._forget(self._probe_at)
        elif now >= self._probe_at:
            if self._next_level() == self._level:
                self._upwards = not self._upwards
            if self._upwards and measured.busy_share > BUSY_SHARE:
                self._rest(now, began_at=now)
            else:
                self._step(now, rate)

    def _probe_sooner(self, now: float) -> None:
        """Begin with short distances again, as the peer has changed; one that changes all the time is not followed."""
        if now - self._hurried_at >= HURRY_SECONDS:
            self._hurried_at = now
            self._probe_seconds = FIRST_PROBE_SECONDS
            self._probe_at = min(self._probe_at, max(now, self._probed_at + CHANGE_PROBE_SECONDS))

    def _is_usual(self, rate: float) -> bool:
        return 1 / CHANGED < rate / (self._usual_rate or rate) < CHANGED

    def _next_level(self) -> int:
        """Twice as many, or a third less (one where they are few): a smaller step's gain drowns in the noise."""
        if self._upwards:
            return min(2 * self._level, self.maximum, self._cap.value)
        return max(self._level - max(1, self._level // 3), 1)

    def _step(self, now: float, rate: float) -> None:
        level = self._next_level()
        if level != self._level:
            self._trial, self._level = _Trial(self._level, rate, now), level
            self._meter.restart()

    def _judge(self, now: float, measured: _Measured, trial: _Trial) -> None:
        rate = measured.rate
        gain = (rate / trial.rate if self._upwards else trial.rate / rate) - 1
        fewer, more = sorted((self._level, trial.level))
        enough = min(ENOUGH_GAIN, IDEAL_GAIN_SHARE * (more / fewer - 1))
        if measured.periods < (PERIODS_WHEN_UNCLEAR if 0 < gain < 2 * enough else 1):
            return
        self._trial = None
        self._meter.restart()
        is_better = (gain >= enough) is self._upwards
        if is_better:
            # On the way down the best rate stays the measure: many small losses would make a large one.
            self._step(now, rate if self._upwards else max(rate, trial.rate))
        else:
            self._level, rate = trial.level, trial.rate
        self._rate = rate
        if self._trial is None:
            if not self._is_usual(rate):
                self._probe_sooner(now)
            self._usual_rate = rate
            self._rest(now, trial.began_at)

    def _rest(self, now: float, began_at: float) -> None:
        """End a probe that began at that time: the next one goes the other way, after a while."""
        self._upwards = not self._upwards
        self._probed_at = now
        self._probe_at = now + max(self._probe_seconds, PROBE_COST * (now - began_at))
        self._probe_seconds = min(2 * self._probe_seconds, LONGEST_PROBE_SECONDS)


def _number_at_once(progress: Progress) -> int | None:
    """How many associations to begin with before anything was answered; None where the answers must show it."""
    if progress.waiting >= MANY_WAITING:
        return MOST_BEGUN_WITH if progress.unsent_bytes <= progress.waiting * SMALL_BYTES else None
    has_few_large = progress.waiting > 1 and progress.unsent_bytes >= MUCH_WAITING_BYTES
    return BEGUN_WITH_FEW_LARGE if has_few_large else None


def _number_after_answers(progress: Progress, busy_share: float) -> int:
    """How many associations the sender has time for, when one takes this share of it; 1 where little waits.

    While a second one may gain enough it is opened too: a large instance by TLS takes the sender 0.7 of the time.
    """
    if progress.waiting < MANY_WAITING or busy_share > BUSY_SHARE:
        return 1
    return max(2, round(1 / max(busy_share, 1 / MOST_BEGUN_WITH)))
