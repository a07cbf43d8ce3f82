"""What an outcome says, and what it raises."""

from __future__ import annotations

import pytest

from asyncstore.errors import SourceChanged, StoreFailed
from asyncstore.instances.outcome import Outcome, State
from asyncstore.status import Status

STORED = {State.STORED, State.WARNING, State.RESUMED}


@pytest.mark.parametrize("state", State)
def test_an_instance_is_stored_only_where_the_peer_said_so(state: State) -> None:
    outcome = Outcome(state, "a.dcm")
    assert outcome.is_stored == (state in STORED)
    if outcome.is_stored:
        outcome.raise_for_failure()
    else:
        with pytest.raises(StoreFailed, match=state.value):
            outcome.raise_for_failure()


def test_a_failure_raises_the_peers_answer() -> None:
    status = Status(0xA700)
    outcome = Outcome(State.FAILED, "a.dcm", status=status, reason="out of resources", retryable=True)
    with pytest.raises(StoreFailed, match="out of resources") as caught:
        outcome.raise_for_failure()
    assert caught.value.status is status
    assert caught.value.retryable


def test_what_was_at_fault_is_raised_itself() -> None:
    error = SourceChanged("it shrank")
    with pytest.raises(SourceChanged) as caught:
        Outcome(State.SOURCE_PROBLEM, "a.dcm", error=error, reason="it shrank").raise_for_failure()
    assert caught.value is error


def test_a_foreign_error_is_the_cause_of_the_failure() -> None:
    error = PermissionError("no")
    with pytest.raises(StoreFailed, match="cannot be read") as caught:
        Outcome(State.SOURCE_PROBLEM, "a.dcm", error=error, reason="cannot be read").raise_for_failure()
    assert caught.value.__cause__ is error
