"""The state table against a copy that was typed the other way round: a line is a state, its words are event:action."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from asyncstore.upper_layer.states import (
    STARTS_ARTIM,
    STOPS_ARTIM,
    TRANSITIONS,
    Event,
    State,
    next_state,
)

if TYPE_CHECKING:
    from asyncstore.upper_layer.states import Action

# PS3.8 Table 9-10, column by column.
BY_STATE = {
    1: "1:AE-1 5:AE-5",
    2: "3:AA-1 4:AA-1 6:AE-6 10:AA-1 12:AA-1 13:AA-1 16:AA-2 17:AA-5 18:AA-2 19:AA-1",
    3: "3:AA-8 4:AA-8 6:AA-8 7:AE-7 8:AE-8 10:AA-8 12:AA-8 13:AA-8 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    4: "2:AE-2 15:AA-2 17:AA-4",
    5: "3:AE-3 4:AE-4 6:AA-8 10:AA-8 12:AA-8 13:AA-8 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    6: "3:AA-8 4:AA-8 6:AA-8 9:DT-1 10:DT-2 11:AR-1 12:AR-2 13:AA-8 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    7: "3:AA-8 4:AA-8 6:AA-8 10:AR-6 12:AR-8 13:AR-3 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    8: "3:AA-8 4:AA-8 6:AA-8 9:AR-7 10:AA-8 12:AA-8 13:AA-8 14:AR-4 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    9: "3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AA-8 14:AR-9 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    10: "3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AR-10 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    11: "3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AR-3 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    12: "3:AA-8 4:AA-8 6:AA-8 10:AA-8 12:AA-8 13:AA-8 14:AR-4 15:AA-1 16:AA-3 17:AA-4 19:AA-8",
    13: "3:AA-6 4:AA-6 6:AA-7 10:AA-6 12:AA-6 13:AA-6 16:AA-2 17:AR-5 18:AA-2 19:AA-7",
}

# PS3.8 Tables 9-6 to 9-9: where each action leads.
LEADS_TO = {
    1: "AE-4 AR-3 AR-5 AA-2 AA-3 AA-4 AA-5",
    2: "AE-5",
    3: "AE-6",
    4: "AE-1",
    5: "AE-2",
    6: "AE-3 AE-7 DT-1 DT-2",
    7: "AR-1 AR-6",
    8: "AR-2 AR-7",
    9: "AR-8",
    11: "AR-9",
    12: "AR-10",
    13: "AE-8 AR-4 AA-1 AA-6 AA-7 AA-8",
}


def expected_actions() -> dict[tuple[int, int], str]:
    cells = {}
    for state, words in BY_STATE.items():
        for word in words.split():
            event, action = word.split(":")
            cells[int(event), state] = action
    return cells


def cell_of(event: Event, state: State) -> tuple[int, int]:
    """The standard's numbers of both."""
    return get_args(Event).index(event) + 1, get_args(State).index(state) + 1


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("event", get_args(Event))
def test_every_cell_of_table_9_10(event: Event, state: State) -> None:
    action = TRANSITIONS.get((event, state))
    assert action == expected_actions().get(cell_of(event, state))


def test_the_table_has_thirteen_states_and_nineteen_events() -> None:
    assert [*get_args(State)] == [f"Sta{number}" for number in range(1, 14)]
    assert len(get_args(Event)) == 19
    assert len(TRANSITIONS) == len(expected_actions())


@pytest.mark.parametrize("action", sorted(set(TRANSITIONS.values())))
def test_each_action_leads_to_the_state_of_the_standard(action: Action) -> None:
    (number,) = (state for state, words in LEADS_TO.items() if action in words.split())
    assert next_state(action, acceptor=False) == f"Sta{number}"
    assert next_state(action, acceptor=True) == ("Sta10" if action == "AR-8" else f"Sta{number}")


def test_a_request_that_the_provider_refuses_leads_to_the_end() -> None:
    assert next_state("AE-6", acceptor=True, acceptable=False) == "Sta13"


def test_every_action_of_the_standard_is_used() -> None:
    assert set(TRANSITIONS.values()) == set(" ".join(LEADS_TO.values()).split())


def test_artim_runs_where_the_standard_runs_it() -> None:
    assert {"AE-5", "AE-8", "AR-4", "AA-1", "AA-8"} == STARTS_ARTIM
    assert {"AE-6", "AR-5", "AA-2", "AA-5"} == STOPS_ARTIM
