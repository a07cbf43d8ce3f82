"""Judge and Destination: every row of what an answer, and the end of an association, mean to the sender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import (
    Aborted,
    AssociateError,
    AssociationLost,
    AssociationRejected,
    ConnectFailed,
    ConnectionLost,
    NoAcceptedContext,
    RemoteProtocolError,
    StoreFailed,
    Timeout,
)
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.protocol import Suspicion
from asyncstore.status import Status
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.destination import FAILURES_UNTIL_SINGLE, Destination, Ended, is_our_doing
from asyncstore.transfer.judge import Again, Judge
from asyncstore.transfer.options import RetryPolicy
from asyncstore.transfer.pending import Pending
from asyncstore.transfer.reactions import parse_overrides
from asyncstore.transfer.work import Work
from tests.support.transfers import LOSSLESS_JPEG, instance

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENT = RetryPolicy(outage_seconds=1e9)
NOW = 1000.0


def destination_with(retry: RetryPolicy) -> Destination:
    return Destination(retry, Concurrency(None))


class CountingPresses(Concurrency):
    """Counts how often the peer was out of resources."""

    presses = 0

    def pressed(self, now: float) -> None:
        self.presses += 1
        super().pressed(now)


@dataclass
class Scene:
    """A judge, the destination that it judges for, and a clock."""

    retry: RetryPolicy = PATIENT
    now: float = NOW

    def __post_init__(self) -> None:
        self.concurrency = CountingPresses(None)
        self.destination = Destination(self.retry, self.concurrency)
        self.destination.was_established = True
        self.work = Work()
        self.judge = Judge(self.retry, self.destination, self.work)

    def answer(self, pending: Pending, value: int, *, others_wait: bool = True) -> Outcome | Again:
        """The peer answers a request for the instance."""
        pending.attempts += 1
        by_itself = State.FAILED if value else State.STORED
        answered = Outcome(by_itself, None, pending.instance, Status(value), reason=f"{value:04X}")
        self.work.feed_ended = not others_wait
        return self.judge.answered(pending, answered, self.now)

    def answer_until_final(self, value: int) -> tuple[Outcome, int, list[Again]]:
        """The same answer each time: the final outcome, the number of requests, and what was said before."""
        pending = Pending(instance(), "")
        verdicts: list[Again] = []
        while isinstance(verdict := self.answer(pending, value), Again):
            verdicts.append(verdict)
            assert verdict.due_at >= self.now
            self.now = verdict.due_at
            assert len(verdicts) < 20
        return verdict, pending.attempts, verdicts

    def answer_in_later_run(self) -> tuple[Outcome, int]:
        """The only instance that is left, which an earlier run was refused, is refused again: outcome and requests."""
        pending = Pending(instance(), "", is_suspected=True, was_refused_earlier=True)
        while isinstance(verdict := self.answer(pending, 0xA700, others_wait=False), Again):
            self.now = max(self.now, verdict.due_at)
            assert pending.attempts < 20
        return verdict, pending.attempts

    def store_others(self, count: int) -> None:
        for _ in range(count):
            assert isinstance(self.answer(Pending(instance(), ""), 0x0000), Outcome)


def codes(*spans: int | tuple[int, int]) -> Iterable[int]:
    """The first, the last and one between of each span."""
    for span in spans:
        first, last = (span, span) if isinstance(span, int) else span
        yield from {first, (first + last) // 2, last}


# What each answer means: codes, final state, requests until then, and whether the retry needs a new association, the
# whole destination waits, the kind is refused, the run stops.
ROWS = [
    (codes(0x0000), State.STORED, 1, False, False, False, False),
    (codes((0xB000, 0xBFFF), 0xB006, 0xB007, 0x0001, 0x0107, 0x0116), State.WARNING, 1, False, False, False, False),
    (codes((0xA700, 0xA7FF), 0x0213), State.FAILED, 5, False, True, False, False),
    (codes((0xA800, 0xA8FF), 0x0122, 0x0112), State.FAILED, 1, False, False, True, False),
    (codes((0xA900, 0xA9FF)), State.FAILED, 1, False, False, False, False),
    (codes((0xC000, 0xCFFF)), State.FAILED, 2, True, False, False, False),
    (codes(0x0110), State.FAILED, 5, False, False, False, False),
    (codes(0x0111), State.DUPLICATE, 1, False, False, False, False),
    (
        codes(0x0105, 0x0106, (0x0113, 0x0115), (0x0117, 0x0119), 0x0120, 0x0121, 0x0123),
        State.FAILED,
        1,
        False,
        False,
        False,
        False,
    ),
    (codes(0x0124), State.LEFT, 3, False, False, False, True),
    (codes(0x0210, 0x0212), State.FAILED, 2, True, False, False, False),
    (codes(0x0211), State.LEFT, 2, True, False, False, True),
    (codes(0x1234, (0x011A, 0x011F), 0xA000, 0xD000, 0xFFFF), State.FAILED, 2, False, False, False, False),
]
ALL = [(value, *rest) for values, *rest in ROWS for value in values]


@pytest.mark.parametrize(
    ("value", "state", "requests", "elsewhere", "presses", "refuses", "stops"),
    ALL,
    ids=[f"{row[0]:04X}" for row in ALL],
)
def test_what_a_status_leads_to(
    value: int, state: State, requests: int, elsewhere: bool, presses: bool, refuses: bool, stops: bool
) -> None:
    scene = Scene()
    outcome, attempts, verdicts = scene.answer_until_final(value)
    assert outcome.state is state
    assert outcome.status == Status(value)
    assert attempts == requests
    assert all(verdict.on_new_association is elsewhere for verdict in verdicts)
    assert scene.concurrency.presses == (len(verdicts) if presses else 0)
    assert ((CT_PAIR in scene.destination.refused), scene.destination.stopped_because is not None) == (refuses, stops)


CT_PAIR = Pending(instance(), "").pair


@pytest.mark.parametrize("value", [0xA700, 0xC000, 0x0110, 0x0210, 0x1234])
def test_without_retries_the_first_answer_is_final(value: int) -> None:
    outcome, attempts, _ = Scene(RetryPolicy(retries=0)).answer_until_final(value)
    assert (outcome.state, attempts) == (State.FAILED, 1)


def test_fewer_retries_than_an_answer_is_worth_are_kept_to() -> None:
    assert Scene(RetryPolicy(retries=2)).answer_until_final(0x0110)[1] == 3


# -- out of resources --------------------------------------------------------------------------------------------------


def test_even_success_can_be_taken_for_something_else() -> None:
    scene = Scene(RetryPolicy(overrides=parse_overrides(["0000=failed"])))
    outcome, attempts, _ = scene.answer_until_final(0x0000)
    assert (outcome.state, outcome.reason, attempts) == (State.FAILED, "0000", 1)


def test_answers_to_what_was_in_flight_when_the_waiting_began_do_not_make_it_longer() -> None:
    scene = Scene(RetryPolicy(first_wait_seconds=100.0, outage_seconds=1e9))
    scene.destination.pressed(scene.now, StoreFailed("no room"))
    until = scene.destination.hold_until
    for _ in range(20):
        scene.destination.pressed(scene.now, StoreFailed("no room"))
    assert scene.destination.hold_until == until


def test_refusals_of_everything_are_charged_to_no_instance() -> None:
    scene = Scene()
    pendings = [Pending(instance(number), "") for number in range(10)]
    for _ in range(30):
        for pending in pendings:
            assert isinstance(scene.answer(pending, 0xA700), Again)
        scene.now = scene.destination.hold_until


def test_an_instance_that_alone_is_refused_fails_after_five_times() -> None:
    scene = Scene()
    odd = Pending(instance(), "")
    for _ in range(4):
        assert isinstance(scene.answer(odd, 0xA702), Again)
        scene.store_others(20)
    last = scene.answer(odd, 0xA702)
    assert isinstance(last, Outcome)
    assert (last.state, last.status) == (State.FAILED, Status(0xA702))


def test_an_instance_is_not_charged_while_many_others_are_refused_as_well() -> None:
    scene = Scene()
    odd = Pending(instance(), "")
    scene.answer(odd, 0xA700)
    for _ in range(30):
        for number in range(5):
            scene.answer(Pending(instance(number), ""), 0xA700)
        scene.store_others(5)
        assert isinstance(scene.answer(odd, 0xA700), Again)


def test_when_only_refused_ones_are_left_they_fail_if_the_peer_took_others_since() -> None:
    scene = Scene()
    pendings = [Pending(instance(number), "") for number in range(10)]
    for pending in pendings:
        scene.answer(pending, 0xA700)
    scene.store_others(1)
    verdicts: list[Outcome | Again] = [Again(scene.now)]
    rounds = 0
    while any(isinstance(verdict, Again) for verdict in verdicts):
        scene.now = max(scene.now, scene.destination.hold_until)
        verdicts = [scene.answer(pending, 0xA700, others_wait=False) for pending in pendings]
        rounds += 1
        assert rounds < 10
    assert rounds >= 4
    assert scene.destination.stopped_because is None


def test_when_only_refused_ones_are_left_and_the_peer_took_none_since_it_is_the_peer() -> None:
    scene = Scene()
    scene.store_others(5)
    pendings = [Pending(instance(number), "") for number in range(10)]
    for _ in range(20):
        for pending in pendings:
            assert isinstance(scene.answer(pending, 0xA700, others_wait=False), Again)
        scene.now = scene.destination.hold_until


def test_a_peer_that_stays_out_of_resources_stops_the_run_in_bounded_time() -> None:
    scene = Scene(RetryPolicy(outage_seconds=60))
    pendings = [Pending(instance(number), "") for number in range(3)]
    began_at = scene.now
    while scene.destination.stopped_because is None:
        for pending in pendings:
            scene.answer(pending, 0xA700)
        scene.now = max(scene.now + 0.001, scene.destination.hold_until)
        assert scene.now - began_at < 61
    assert scene.now - began_at >= 60
    assert isinstance(scene.destination.stopped_because, StoreFailed)


def test_of_a_source_that_rests_refused_instances_do_not_end_the_run() -> None:
    scene = Scene(RetryPolicy(outage_seconds=60))
    odd = [Pending(instance(number), "") for number in range(2)]
    for pending in odd:
        scene.answer(pending, 0xA700)
    scene.store_others(3)
    began_at, presses = scene.now, scene.concurrency.presses
    while scene.now < began_at + 3600:
        verdicts = [scene.answer(pending, 0xA700) for pending in odd]
        assert all(isinstance(verdict, Again) for verdict in verdicts)
        scene.now = max(verdict.due_at for verdict in verdicts if isinstance(verdict, Again))
    assert scene.destination.stopped_because is None
    assert scene.concurrency.presses == presses
    assert odd[0].attempts < 500


@pytest.mark.parametrize(("stored_now", "is_set_aside"), [(0, False), (1, True)])
def test_what_an_earlier_run_was_refused_is_set_aside_if_this_one_has_stored_others(
    stored_now: int, is_set_aside: bool
) -> None:
    scene = Scene()
    scene.store_others(stored_now)
    outcome, attempts = scene.answer_in_later_run()
    assert (outcome.state, outcome.is_suspected, outcome.is_set_aside) == (State.FAILED, True, is_set_aside)
    assert attempts == 5


def test_what_an_earlier_run_was_refused_waits_if_this_one_has_had_others_of_them_taken() -> None:
    scene = Scene(RetryPolicy(outage_seconds=60))
    for _ in range(10):
        scene.answer(Pending(instance(), "", is_suspected=True, was_refused_earlier=True), 0x0000)
    left = [Pending(instance(number), "", is_suspected=True, was_refused_earlier=True) for number in range(2)]
    while scene.destination.stopped_because is None:
        for pending in left:
            assert isinstance(scene.answer(pending, 0xA700, others_wait=False), Again)
        scene.now = max(scene.now + 0.001, scene.destination.hold_until)


def test_while_the_peer_refuses_others_as_well_nothing_is_set_aside() -> None:
    scene = Scene()
    first = Pending(instance(), "")
    scene.answer(first, 0xA700)
    scene.store_others(50)
    scene.now = scene.destination.hold_until
    scene.answer(Pending(instance(2), ""), 0xA700)  # it is full again
    while isinstance(verdict := scene.answer(first, 0xA700, others_wait=False), Again):
        scene.now = max(scene.now + 0.001, verdict.due_at)
    assert (verdict.is_suspected, verdict.is_set_aside) == (True, False)


# -- in a row ----------------------------------------------------------------------------------------------------------


def test_not_authorised_stops_only_when_it_comes_three_times_in_a_row() -> None:
    scene = Scene()
    for number in range(5):
        scene.answer(Pending(instance(number), ""), 0x0124)
        scene.answer(Pending(instance(number), ""), 0x0124)
        scene.store_others(1)
    assert scene.destination.stopped_because is None
    for number in range(3):
        assert scene.destination.stopped_because is None
        scene.answer(Pending(instance(number), ""), 0x0124)
    assert isinstance(scene.destination.stopped_because, StoreFailed)


def test_the_first_reason_to_stop_is_the_one_that_is_kept() -> None:
    destination = destination_with(PATIENT)
    first = ConnectionLost("first")
    destination.stop(first)
    destination.stop(ConnectionLost("second"), at_start=True)
    assert destination.stopped_because is first
    assert destination.start_failure is None


# -- kinds that are refused --------------------------------------------------------------------------------------------


def test_no_more_of_a_refused_kind_is_sent() -> None:
    scene = Scene()
    assert scene.judge.refused_before(instance()) is None
    scene.answer_until_final(0xA801)
    outcome = scene.judge.refused_before(instance(2), attempts=1)
    assert outcome is not None
    assert (outcome.state, outcome.status, outcome.attempts) == (State.FAILED, Status(0xA801), 1)
    assert "0xA801" in outcome.reason
    assert scene.judge.refused_before(instance(transfer_syntax_uid=LOSSLESS_JPEG)) is None


def test_a_kind_without_an_accepted_context_is_refused_as_such() -> None:
    scene = Scene()
    scene.destination.refused[CT_PAIR] = None
    outcome = scene.judge.refused_before(instance())
    assert outcome is not None
    assert (outcome.state, outcome.status, outcome.attempts) == (State.NO_CONTEXT, None, 0)
    assert "CT Image Storage" in outcome.reason


# -- the end of an association -----------------------------------------------------------------------------------------

PEERS_DOING = [
    Aborted(0, 0),
    Aborted(2, 2),
    ConnectionLost("reset"),
    RemoteProtocolError("0xFF00 is no answer", pdu="C-STORE-RSP", field="Status"),
]


@pytest.mark.parametrize("error", PEERS_DOING, ids=lambda error: type(error).__name__)
def test_what_was_in_flight_is_sent_again_at_once_and_set_aside_after_three_losses(error: Exception) -> None:
    scene = Scene()
    pending = Pending(instance(), "", attempts=3)
    assert scene.judge.lost(pending, error, NOW) == Again(NOW)
    again = scene.judge.lost(pending, error, NOW)  # a second time after a pause: the peer may be restarting
    assert isinstance(again, Again)
    assert NOW <= again.due_at <= NOW + 2
    outcome = scene.judge.lost(pending, error, NOW)
    assert isinstance(outcome, Outcome)
    assert (outcome.state, outcome.attempts, outcome.error) == (State.UNKNOWN, 3, error)
    assert outcome.retryable
    assert "3 times" in outcome.reason


def test_after_a_deadline_there_is_a_pause_before_the_instance_is_sent_again() -> None:
    scene = Scene(RetryPolicy(first_wait_seconds=1e6, cap_seconds=1e6))
    dues = [scene.judge.lost(Pending(instance(), ""), Timeout("dimse", 30), NOW) for _ in range(5)]
    assert all(isinstance(again, Again) and again.due_at >= NOW for again in dues)
    assert max(again.due_at for again in dues if isinstance(again, Again)) > NOW + 1


def test_without_retries_a_loss_is_final() -> None:
    outcome = Scene(RetryPolicy(retries=0)).judge.lost(Pending(instance(), ""), Aborted(0, 0), NOW)
    assert isinstance(outcome, Outcome)
    assert outcome.reason == f"sent, and not answered: {Aborted(0, 0)}"


def test_an_association_that_we_ended_ourselves_is_charged_to_nobody() -> None:
    ours = AssociationLost("aborted in the middle of a message")
    assert is_our_doing(ours)
    assert not any(is_our_doing(error) for error in PEERS_DOING)
    scene, pending = Scene(), Pending(instance(), "")
    for _ in range(10):
        assert scene.judge.lost(pending, ours, NOW) == Again(NOW)
    assert pending.losses == 0


# -- associations that do not come to be -------------------------------------------------------------------------------

PERMANENT = [AssociationRejected(1, 1, 3), AssociationRejected(1, 1, 7), AssociationRejected(1, 1, 2)]
PERMANENT += [AssociationRejected(1, 2, 2), AssociationRejected(1, 1, 1)]
TRANSIENT = [AssociationRejected(2, 1, 1), AssociationRejected(2, 3, 1), AssociationRejected(2, 3, 2)]
TRANSIENT += [AssociationRejected(1, 3, 1), AssociationRejected(1, 3, 2)]
UNREACHABLE: list[Exception] = [
    ConnectFailed("refused"),
    Timeout("connect", 10),
    Timeout("acse", 30),
    ConnectionLost("closed"),
    Aborted(2, 0),
    NoAcceptedContext("none"),
]


def name_of(error: Exception) -> str:
    return str(error)


def unresolved(message: str) -> ConnectFailed:
    error = ConnectFailed(message)
    error.retryable = False
    return error


@pytest.mark.parametrize("error", [*PERMANENT, *UNREACHABLE], ids=name_of)
def test_at_the_start_what_keeps_an_association_away_ends_the_run(error: Exception) -> None:
    destination = destination_with(PATIENT)
    destination.failed(NOW, error)
    assert destination.stopped_because is error
    assert destination.start_failure is error


@pytest.mark.parametrize("error", UNREACHABLE[:-1], ids=name_of)
def test_at_the_start_a_peer_that_cannot_be_reached_is_tried_again_as_often_as_is_wished(error: Exception) -> None:
    destination = destination_with(RetryPolicy(retries_at_start=4))
    for _ in range(4):
        destination.failed(NOW, error)
        assert destination.stopped_because is None
    destination.failed(NOW, error)
    assert destination.start_failure is error


@pytest.mark.parametrize("error", [*PERMANENT, UNREACHABLE[-1], unresolved("no such host")], ids=name_of)
def test_at_the_start_what_will_not_change_is_not_tried_again(error: Exception) -> None:
    destination = destination_with(RetryPolicy(retries_at_start=4))
    destination.failed(NOW, error)
    assert destination.start_failure is error


@pytest.mark.parametrize("error", TRANSIENT, ids=name_of)
def test_at_the_start_a_rejection_for_now_is_tried_again_until_the_outage_is_too_long(error: AssociateError) -> None:
    destination = destination_with(RetryPolicy(outage_seconds=60))
    now = NOW
    while destination.stopped_because is None:
        destination.failed(now, error)
        assert now <= NOW + 60
        now = max(now, destination.hold_until)
    assert now == NOW + 60
    assert destination.start_failure is error


@pytest.mark.parametrize("error", [*PERMANENT, *TRANSIENT, *UNREACHABLE], ids=name_of)
def test_after_an_association_an_outage_is_ridden_out_for_so_long_and_no_longer(error: Exception) -> None:
    destination = destination_with(RetryPolicy(outage_seconds=60))
    destination.was_established = True
    tries, now = 0, NOW
    while destination.stopped_because is None:
        destination.failed(now, error)
        now = max(now, destination.hold_until)
        tries += 1
    assert tries >= 4
    assert now == NOW + 60
    assert destination.stopped_because is error
    assert destination.start_failure is None


def test_after_an_association_a_permanent_rejection_is_tried_again_each_minute() -> None:
    destination = destination_with(RetryPolicy(outage_seconds=3600))
    destination.was_established = True
    destination.failed(NOW, AssociationRejected(1, 1, 7))
    assert destination.hold_until == NOW + 60


def test_an_outage_begins_with_the_first_failure_however_long_nothing_was_sent_before() -> None:
    destination = destination_with(RetryPolicy(outage_seconds=60))
    destination.was_established = True
    destination.took_one(NOW)
    destination.failed(NOW + 1e6, ConnectFailed("refused"))
    assert destination.stopped_because is None


def test_an_answer_ends_an_outage() -> None:
    destination = destination_with(RetryPolicy(outage_seconds=60))
    destination.was_established = True
    destination.failed(NOW, ConnectFailed("refused"))
    destination.took_one(NOW)
    destination.failed(NOW + 59, ConnectFailed("refused"))
    destination.failed(NOW + 61, ConnectFailed("refused"))
    assert destination.stopped_because is None


def test_after_five_failures_in_a_row_one_association_at_a_time_is_tried_until_one_succeeds() -> None:
    destination = destination_with(PATIENT)
    destination.was_established = True
    for _ in range(FAILURES_UNTIL_SINGLE):
        assert not destination.is_doubtful
        destination.failed(NOW, ConnectionLost("reset"))
    assert destination.is_doubtful
    destination.took_one(NOW)
    assert not destination.is_doubtful


def ended(answers: int = 0, **facts: Any) -> Ended:
    """An association that was established and then reset by the peer."""
    return Ended(ConnectionLost("reset"), True, answers, 0.0, facts.pop("associations_open", 0), **facts)


def test_many_associations_that_end_at_once_leave_one_to_be_tried_but_no_time_to_wait() -> None:
    destination = destination_with(PATIENT)
    destination.was_established = True
    for _ in range(FAILURES_UNTIL_SINGLE):
        assert not destination.is_doubtful
        destination.learn_from(ended(answers=100), NOW)
    assert destination.is_doubtful
    assert destination.closed_until(NOW) <= NOW
    destination.took_one(NOW)
    assert not destination.is_doubtful


def test_answers_between_losses_keep_all_associations() -> None:
    destination = destination_with(PATIENT)
    destination.was_established = True
    for _ in range(20):
        destination.learn_from(ended(answers=1), NOW)
        destination.took_one(NOW)
        assert not destination.is_doubtful


def test_what_a_caller_wishes_stops_the_destination_without_an_error() -> None:
    destination = destination_with(PATIENT)
    destination.stop()
    assert (destination.is_stopped, destination.stopped_because) == (True, None)
    destination.stop(error := ConnectionLost("later"))
    assert destination.stopped_because is error


@pytest.mark.parametrize(("stored_now", "is_set_aside"), [(0, False), (1, True)])
def test_what_earlier_runs_lost_is_set_aside_if_this_one_has_stored_others(stored_now: int, is_set_aside: bool) -> None:
    scene = Scene()
    scene.work.add_suspected(instance(), "", Suspicion(3), NOW)
    scene.store_others(stored_now)
    pending = scene.work.take("taker", {CT_PAIR})
    assert pending is not None
    outcome = scene.judge.lost(pending, Aborted(0, 0), NOW)
    assert isinstance(outcome, Outcome)
    assert (outcome.losses, outcome.is_suspected, outcome.is_set_aside) == (4, True, is_set_aside)


@pytest.mark.parametrize(
    ("well_seconds", "others_wait", "waits_seconds"),
    [(10.0, False, 10.0), (3600.0, False, 30.0), (0.0, False, 0.0), (3600.0, True, 0.0)],
)
def test_the_last_try_of_what_may_not_be_at_fault_waits_for_as_long_as_the_peer_was_well(
    well_seconds: float, others_wait: bool, waits_seconds: float
) -> None:
    scene = Scene(RetryPolicy(first_wait_seconds=0.0))
    scene.answer(Pending(instance(2), ""), 0x0000)
    scene.work.feed_ended = not others_wait
    pending = Pending(instance(), "")
    died_at = NOW + well_seconds
    first = scene.judge.lost(pending, Aborted(0, 0), died_at)
    scene.destination.learn_from(Ended(Aborted(0, 0), True, 0, 0.0, 0, in_flight=1), died_at)
    second = scene.judge.lost(pending, Aborted(0, 0), died_at)
    assert first == Again(died_at)
    assert second == Again(died_at + waits_seconds)
    outcome = scene.judge.lost(pending, Aborted(0, 0), died_at + waits_seconds)
    assert isinstance(outcome, Outcome)
    assert not outcome.is_set_aside
