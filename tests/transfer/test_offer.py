"""Offers: what a run offers after an association that its offer may have ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import (
    Aborted,
    AssociationLost,
    AssociationRejected,
    AsyncStoreError,
    ConnectFailed,
    ConnectionLost,
    NoAcceptedContext,
    RemoteProtocolError,
    Timeout,
)
from asyncstore.transfer.offer import Offer, Offers

if TYPE_CHECKING:
    from collections.abc import Sequence

CLOSED = ConnectionLost("the peer closed the connection")
ABORTED = Aborted(2, 6)
NO_REASON = AssociationRejected(1, 1, 1)
ALL, WITHOUT_WINDOW, LEAST = Offer(16, True), Offer(1, True), Offer(1, False)


def offers_of(first: Offer = ALL) -> Offers:
    return Offers(window=first.window, is_filled=first.is_filled)


def refuse(offers: Offers, error: AsyncStoreError) -> bool:
    """The peer refuses the association with the current offer."""
    return offers.learn(offers.current, error, was_established=False)


@pytest.mark.parametrize(
    ("first", "errors", "made"),
    [
        (ALL, [CLOSED, CLOSED], [ALL, WITHOUT_WINDOW, LEAST]),
        (ALL, [ABORTED, ABORTED], [ALL, WITHOUT_WINDOW, LEAST]),
        (ALL, [NO_REASON, CLOSED], [ALL, WITHOUT_WINDOW, LEAST]),
        (ALL, [NO_REASON], [ALL, WITHOUT_WINDOW]),
        (ALL, [AssociationRejected(1, 2, 1)], [ALL, WITHOUT_WINDOW]),
        (ALL, [AssociationRejected(1, 1, 99)], [ALL, WITHOUT_WINDOW]),
        (WITHOUT_WINDOW, [CLOSED], [WITHOUT_WINDOW, LEAST]),
        (Offer(16, False), [ABORTED], [Offer(16, False), LEAST]),
    ],
)
def test_an_offer_that_is_refused_shrinks(first: Offer, errors: Sequence[AsyncStoreError], made: list[Offer]) -> None:
    offers = offers_of(first)
    seen = [offers.current]
    for error in errors:
        assert refuse(offers, error)
        seen.append(offers.current)
    assert seen == made


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ([CLOSED, CLOSED, CLOSED], ALL),
        ([NO_REASON, NO_REASON], ALL),
        ([CLOSED, CLOSED, NO_REASON], ALL),
        ([NO_REASON], WITHOUT_WINDOW),
        ([CLOSED], LEAST),
    ],
)
def test_a_peer_that_refuses_the_smallest_offer_too_gets_the_first_one_next_time(
    errors: Sequence[AsyncStoreError], first: Offer
) -> None:
    offers = offers_of(first)
    assert [refuse(offers, error) for error in errors] == [True] * (len(errors) - 1) + [False]
    assert offers.current == first


@pytest.mark.parametrize(
    "error",
    [
        AssociationRejected(1, 1, 2),
        AssociationRejected(1, 1, 3),
        AssociationRejected(1, 1, 7),
        AssociationRejected(1, 2, 2),
        AssociationRejected(1, 3, 1),
        AssociationRejected(1, 3, 2),
        AssociationRejected(2, 1, 1),
        ConnectFailed("[Errno 111] Connection refused"),
        NoAcceptedContext("none"),
        RemoteProtocolError("no", pdu="A-ASSOCIATE-AC", field="any"),
        Timeout("acse", 30),
        Timeout("connect", 10),
        AssociationLost("the association was aborted"),
    ],
    ids=str,
)
def test_a_failure_that_is_not_over_the_offer_leaves_it_as_it_is(error: AsyncStoreError) -> None:
    offers = offers_of()
    assert not refuse(offers, error)
    assert offers.current == ALL


@pytest.mark.parametrize("error", [CLOSED, ABORTED, Timeout("dimse", 30)], ids=str)
def test_an_association_that_ends_at_its_first_message_costs_the_window(error: AsyncStoreError) -> None:
    offers = offers_of()
    assert offers.learn(ALL, error, was_established=True)
    assert offers.current == WITHOUT_WINDOW
    assert offers.learn(ALL, error, was_established=True), "another association with the old offer"
    assert offers.current == WITHOUT_WINDOW
    assert not offers.learn(WITHOUT_WINDOW, error, was_established=True)
    assert offers.current == WITHOUT_WINDOW


@pytest.mark.parametrize("was_established", [False, True])
def test_nothing_is_learned_once_the_peer_has_shown_that_it_bears_the_offer(was_established: bool) -> None:
    offers = offers_of()
    offers.was_answered, offers.was_accepted = was_established, not was_established
    assert not offers.learn(ALL, CLOSED, was_established=was_established)
    assert offers.current == ALL


def test_an_association_that_we_ended_ourselves_teaches_nothing() -> None:
    offers = offers_of()
    assert not offers.learn(ALL, AssociationLost("aborted"), was_established=True)
    assert offers.current == ALL


def test_the_log_says_once_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "asyncstore")
    offers = offers_of()
    for _ in range(2):
        for error in (NO_REASON, CLOSED, CLOSED):
            refuse(offers, error)
    assert [record.getMessage() for record in caplog.records] == [
        f"{NO_REASON}; trying without an asynchronous operations window",
        "the peer closed the connection; trying without the default presentation contexts",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
