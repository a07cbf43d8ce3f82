"""The end of an attempt leads to a final outcome, or the instance waits again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import ConnectionLost
from asyncstore.instances.outcome import Outcome, State, source_problem
from asyncstore.net.peer import Peer
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from tests.support.transfers import instance
from tests.transfer.test_outcomes import Recorded

if TYPE_CHECKING:
    from asyncstore.transfer.pending import Pending

PAIR = (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
RETRY = RetryPolicy(first_wait_seconds=0.0)
RESET = ConnectionLost("reset")


class Stations:
    """The stations of a transfer that never begins."""

    def __init__(self) -> None:
        transfer = Transfer(Peer("pacs.example", 104), [], options=TransferOptions(retry=RETRY))
        self.report = transfer.report
        self.destination = transfer._destination
        self.outcomes = transfer._outcomes
        self.work = transfer._supervisor._work
        self.attempts = transfer._pool._attempts
        self.attempts._recorder = self.recorder = Recorded()

    def taken(self, number: int = 1) -> Pending:
        """An instance that an association has taken and begun to send."""
        self.work.add(instance(number), "")
        pending = self.work.take("worker", {PAIR})
        assert pending is not None
        pending.attempts += 1
        return pending

    @property
    def states(self) -> list[State]:
        return [outcome.state for outcome in self.outcomes.unread]


def answer(pending: Pending, value: int) -> Outcome:
    state = State.FAILED if value else State.STORED
    return Outcome(state, None, pending.instance, Status(value), attempts=pending.attempts, bytes_sent=100)


def test_a_success_is_final() -> None:
    stations = Stations()
    pending = stations.taken()
    stations.work.feed_ended = True
    assert not stations.attempts.answered(pending, answer(pending, SUCCESS.value))
    assert stations.states == [State.STORED]
    assert (stations.report.answers, stations.report.sent_bytes) == (1, 100)
    assert stations.work.is_done


@pytest.mark.parametrize(("value", "ends_association"), [(0x0110, False), (0xC000, True)])
def test_an_answer_that_is_worth_another_try_says_whether_on_the_same_association(
    value: int, ends_association: bool
) -> None:
    stations = Stations()
    pending = stations.taken()
    assert stations.attempts.answered(pending, answer(pending, value)) is ends_association
    assert stations.states == []
    assert stations.work.next_retry_at > 0
    assert stations.report.answers == 1


def test_what_was_lost_is_written_down_and_sent_again_until_it_was_lost_too_often() -> None:
    stations = Stations()
    pending = stations.taken()
    for losses in (1, 2):
        stations.attempts.lost([pending], RESET)
        assert (pending.losses, stations.states) == (losses, [])
        assert stations.work.wake_retries(1e12)
        assert stations.work.take("worker", {PAIR}) is pending
    stations.attempts.lost([pending], RESET)
    assert stations.states == [State.UNKNOWN]
    assert [outcome.state for outcome in stations.recorder.outcomes] == [State.UNKNOWN] * 2


def test_a_loss_is_not_charged_to_an_instance_once_the_run_stops() -> None:
    stations = Stations()
    pending = stations.taken()
    stations.destination.stop()
    stations.attempts.lost([pending], RESET)
    assert (pending.losses, stations.states) == (0, [])
    assert list(stations.work.left) == [pending]


def test_what_was_not_sent_waits_again_or_has_its_outcome() -> None:
    stations = Stations()
    first, second = stations.taken(1), stations.taken(2)
    stations.attempts.not_sent(first, None)
    assert (stations.work.waiting, stations.states) == (1, [])
    stations.attempts.not_sent(second, source_problem(OSError("gone"), None, second.instance))
    (outcome,) = stations.outcomes.unread
    assert (outcome.state, outcome.attempts) == (State.SOURCE_PROBLEM, 1)


def test_all_that_waits_of_a_refused_kind_has_its_outcome_with_the_attempts_so_far() -> None:
    stations = Stations()
    pending = stations.taken(1)
    stations.work.retry(pending, 0.0)
    stations.work.wake_retries(1.0)
    stations.work.add(instance(2), "")
    stations.destination.refused[PAIR] = None
    stations.attempts.refuse({PAIR})
    assert stations.states == [State.NO_CONTEXT] * 2
    assert sorted(outcome.attempts for outcome in stations.outcomes.unread) == [0, 1]
    assert stations.work.waiting == 0
    assert stations.attempts.refuse_before(instance(3))
    assert not stations.attempts.refuse_before(instance(4, sop_class_uid="1.2.840.10008.5.1.4.1.1.4"))
