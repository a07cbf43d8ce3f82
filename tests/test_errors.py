"""Errors: the tree is the documented one, each says whether trying again makes sense, and in which words."""

from __future__ import annotations

import copy
import pickle
import re
from typing import TYPE_CHECKING

import pytest

from asyncstore import errors
from asyncstore.errors import (
    Aborted,
    AssociateError,
    AssociationLost,
    AssociationRejected,
    AsyncStoreError,
    ConnectFailed,
    ConnectionLost,
    IdentityNotConfirmed,
    LedgerError,
    LocalProtocolError,
    MissingUID,
    NoAcceptedContext,
    NotDicom,
    OperationFailed,
    ProtocolError,
    RemoteProtocolError,
    SourceChanged,
    SourceError,
    StoreFailed,
    Timeout,
    TLSFailed,
    cause_of,
)
from asyncstore.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable


def documented_tree() -> dict[str, str]:
    """Class -> base class, by the indentation in the module's docstring."""
    bases: dict[str, str] = {}
    above: list[tuple[int, str]] = [(-1, "Exception")]
    for indentation, name in re.findall(r"^( {4,})([A-Z]\w+)(?: {2,}|$)", errors.__doc__ or "", re.MULTILINE):
        while above[-1][0] >= len(indentation):
            above.pop()
        bases[name] = above[-1][1]
        above.append((len(indentation), name))
    return bases


def test_the_tree_is_the_one_in_the_docstring() -> None:
    defined = {
        name: each.__bases__[0].__name__
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    }
    assert documented_tree() == defined
    assert len(defined) == 21


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (AsyncStoreError("x"), False),
        (NotDicom("x"), False),
        (MissingUID("x"), False),
        (SourceChanged("x"), False),
        (ConnectFailed("x"), True),
        (TLSFailed("x"), False),
        (NoAcceptedContext("x"), False),
        (AssociationLost("x"), True),
        (Aborted(0, 0), True),
        (ConnectionLost("x"), True),
        (Timeout("dimse", 30), True),
        (LocalProtocolError("x"), False),
        (RemoteProtocolError("x", pdu="C-STORE-RSP", field="Status"), True),
        (LedgerError("x"), False),
        (StoreFailed("x"), False),
        (StoreFailed("x", retryable=True), True),
    ],
)
def test_each_error_says_whether_trying_again_makes_sense(error: AsyncStoreError, retryable: bool) -> None:
    assert error.retryable is retryable


@pytest.mark.parametrize(
    ("result", "source", "retryable"),
    [(1, 1, False), (1, 2, False), (1, 3, True), (2, 1, True), (2, 2, True), (2, 3, True)],
)
def test_a_rejection_is_retryable_when_it_is_transient_or_congestion(result: int, source: int, retryable: bool) -> None:
    assert AssociationRejected(result, source, 1).retryable is retryable


@pytest.mark.parametrize(
    ("source", "reason", "source_text", "reason_text"),
    [
        (1, 1, "Service User", "No reason given"),
        (1, 2, "Service User", "Application context name not supported"),
        (1, 3, "Service User", "Calling AE title not recognised"),
        (1, 7, "Service User", "Called AE title not recognised"),
        (2, 1, "Service Provider (ACSE)", "No reason given"),
        (2, 2, "Service Provider (ACSE)", "Protocol version not supported"),
        (3, 1, "Service Provider (Presentation)", "Temporary congestion"),
        (3, 2, "Service Provider (Presentation)", "Local limit exceeded"),
        (1, 4, "Service User", "unknown reason 4"),
        (9, 1, "unknown source 9", "unknown reason 1"),
    ],
)
def test_a_rejection_has_the_words_of_the_standard(
    source: int, reason: int, source_text: str, reason_text: str
) -> None:
    error = AssociationRejected(1, source, reason)
    assert (error.result_text, error.source_text, error.reason_text) == ("Rejected Permanent", source_text, reason_text)
    assert str(error) == f"association rejected: Rejected Permanent, {source_text}: {reason_text}"
    assert (error.result, error.source, error.reason) == (1, source, reason)


@pytest.mark.parametrize(("result", "text"), [(2, "Rejected Transient"), (7, "Rejected (result 7)")])
def test_a_rejection_names_its_result(result: int, text: str) -> None:
    assert AssociationRejected(result, 1, 1).result_text == text


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (0, "No reason given"),
        (1, "Unrecognised PDU"),
        (2, "Unexpected PDU"),
        (4, "Unrecognised PDU parameter"),
        (5, "Unexpected PDU parameter"),
        (6, "Invalid PDU parameter value"),
        (3, "unknown reason 3"),
    ],
)
def test_an_abort_of_the_provider_has_the_words_of_the_standard(reason: int, text: str) -> None:
    error = Aborted(2, reason, [4, 5])
    assert (error.source_text, error.reason_text) == ("DUL service-provider", text)
    assert str(error) == f"association aborted by the peer: DUL service-provider: {text}"
    assert error.outstanding == (4, 5)


def test_the_reason_of_an_abort_of_the_user_means_nothing() -> None:
    error = Aborted(0, 2)
    assert (error.source_text, error.reason_text) == ("DUL service-user", "No reason given")
    assert Aborted(1, 0).source_text == "unknown source 1"


def test_a_lost_association_lists_what_is_unknown() -> None:
    outstanding = [3, 1]
    error = ConnectionLost("gone", outstanding)
    outstanding.clear()
    assert error.outstanding == (3, 1)
    assert ConnectionLost("gone").outstanding == ()


@pytest.mark.parametrize(
    ("which", "text"),
    [
        ("connect", "the connection was not established within 2.5 s"),
        ("acse", "the association request was not answered within 2.5 s"),
        ("dimse", "the message was not answered within 2.5 s"),
        ("network", "the peer took no data within 2.5 s"),
        ("other", "other within 2.5 s"),
    ],
)
def test_a_timeout_says_what_it_waited_for_and_how_long(which: str, text: str) -> None:
    error = Timeout(which, 2.5, [1])
    assert (str(error), error.which, error.seconds, error.outstanding) == (text, which, 2.5, (1,))


def test_a_protocol_error_of_the_peer_names_pdu_and_field() -> None:
    error = RemoteProtocolError("missing", pdu="C-STORE-RSP", field="Status")
    assert (str(error), error.pdu, error.field) == ("C-STORE-RSP, Status: missing", "C-STORE-RSP", "Status")


ONE_OF_EACH = [
    AsyncStoreError("x"),
    SourceError("x"),
    NotDicom("x"),
    MissingUID("x"),
    SourceChanged("x"),
    AssociateError("x"),
    ConnectFailed("x"),
    TLSFailed("x", "expired"),
    AssociationRejected(2, 3, 1),
    NoAcceptedContext("x"),
    IdentityNotConfirmed("x"),
    AssociationLost("x", [1]),
    Aborted(2, 1, [1, 2]),
    ConnectionLost("x", [3]),
    Timeout("dimse", 2.5, [1]),
    ProtocolError("x"),
    LocalProtocolError("x"),
    RemoteProtocolError("x", pdu="C-STORE-RSP", field="Status"),
    LedgerError("x"),
    StoreFailed("x", Status(0xA700), retryable=True),
    OperationFailed("x", Status(0xA700)),
]


def test_each_error_is_there_once() -> None:
    assert [type(error).__name__ for error in ONE_OF_EACH] == list(documented_tree())


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_goes_to_another_process_and_back(
    error: AsyncStoreError, again: Callable[[AsyncStoreError], AsyncStoreError]
) -> None:
    error.add_note("noted")
    other = again(error)
    assert type(other) is type(error)
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
    assert other.retryable is error.retryable


def test_the_cause_is_what_task_groups_were_wrapped_around_and_nothing_that_others_grouped() -> None:
    ours, theirs = ValueError("ours"), ExceptionGroup("theirs", [ValueError("a")])
    for words in ("unhandled errors in a TaskGroup", "Exceptions from Trio nursery"):
        for error in (ours, theirs):
            assert cause_of(ExceptionGroup(words, [ExceptionGroup(words, [error])])) is error
        several = ExceptionGroup(words, [ours, theirs])
        assert cause_of(several) is several
    assert cause_of(ours) is ours
    assert cause_of(theirs) is theirs


def test_a_failed_store_has_the_status_where_there_was_one() -> None:
    status = Status(0xA700)
    assert StoreFailed("out of resources", status).status is status
    assert StoreFailed("file vanished").status is None
