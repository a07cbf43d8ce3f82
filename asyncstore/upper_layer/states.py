"""The upper layer's state machine as data: states, events, actions and PS3.8 Table 9-10.

An association is one walk through thirteen states. A requestor goes

    Sta1 idle -> Sta4 connecting -> Sta5 asked, waiting for the answer -> Sta6 data

and an acceptor

    Sta1 idle -> Sta2 connected, waiting for the request -> Sta3 its user decides -> Sta6 data

In Sta6 both sides may send. The side that has finished sends A-RELEASE-RQ and waits in Sta7, where it still receives
data; the other side is in Sta8, where it may still send, until it answers. If both ask at once (a release collision),
the requestor answers first (Sta9, Sta11) and the acceptor second (Sta10, Sta12). Every walk on which we spoke last ends
in Sta13: the peer should close the transport connection, and if it does not, we close it when the ARTIM timer expires.

An event is a request of the local user, a PDU, or a change of the transport connection or the timer. Every (event,
state) that can occur has one action; cells that the standard leaves blank are absent here. A local request in a blank
cell is a mistake of the caller. Nearly everything unexpected from the peer leads to A-ABORT: by AA-1 before there is an
association, by AA-8 within one. In Sta13 it is ignored (AA-6), so two sides that abort at the same time do not answer
each other for ever.

Each action leads to one state, except for two: AE-6 (the request may be refused at once) and AR-8 (the collision).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

State: TypeAlias = Literal[
    "Sta1",  # idle
    "Sta2",  # transport connection open, awaiting A-ASSOCIATE-RQ
    "Sta3",  # awaiting the local answer to A-ASSOCIATE-RQ
    "Sta4",  # awaiting the transport connection
    "Sta5",  # awaiting A-ASSOCIATE-AC or -RJ
    "Sta6",  # association established
    "Sta7",  # awaiting A-RELEASE-RP
    "Sta8",  # awaiting the local answer to A-RELEASE-RQ
    "Sta9",  # release collision, requestor: awaiting the local answer
    "Sta10",  # release collision, acceptor: awaiting A-RELEASE-RP
    "Sta11",  # release collision, requestor: awaiting A-RELEASE-RP
    "Sta12",  # release collision, acceptor: awaiting the local answer
    "Sta13",  # awaiting the close of the transport connection
]
"""The states of PS3.8 9.2.1, by the standard's names."""

Event: TypeAlias = Literal[
    "associate request",
    "transport confirmed",
    "associate ac received",
    "associate rj received",
    "transport indicated",
    "associate rq received",
    "associate accept",
    "associate reject",
    "data request",
    "data tf received",
    "release request",
    "release rq received",
    "release rp received",
    "release answer",
    "abort request",
    "abort received",
    "transport closed",
    "artim expired",
    "invalid pdu received",
]
"""The events of PS3.8 Table 9-10, Evt1 to Evt19."""

if TYPE_CHECKING:  # nothing looks at it while the program runs
    Action: TypeAlias = Literal[
        "AE-1",  # open a transport connection
        "AE-2",  # send A-ASSOCIATE-RQ
        "AE-3",  # tell the user: accepted
        "AE-4",  # tell the user: rejected; close
        "AE-5",  # start ARTIM
        "AE-6",  # stop ARTIM; tell the user of the request, or send A-ASSOCIATE-RJ and start ARTIM
        "AE-7",  # send A-ASSOCIATE-AC
        "AE-8",  # send A-ASSOCIATE-RJ, start ARTIM
        "DT-1",  # send P-DATA-TF
        "DT-2",  # hand data to the user
        "AR-1",  # send A-RELEASE-RQ
        "AR-2",  # tell the user: the peer asks for release
        "AR-3",  # tell the user: released; close
        "AR-4",  # send A-RELEASE-RP, start ARTIM
        "AR-5",  # stop ARTIM
        "AR-6",  # hand data to the user
        "AR-7",  # send P-DATA-TF
        "AR-8",  # tell the user of the release collision
        "AR-9",  # send A-RELEASE-RP
        "AR-10",  # tell the user: released
        "AA-1",  # send A-ABORT (user), start ARTIM
        "AA-2",  # stop ARTIM; close
        "AA-3",  # tell the user: aborted by the peer; close
        "AA-4",  # tell the user: the transport connection is gone
        "AA-5",  # stop ARTIM
        "AA-6",  # ignore the PDU
        "AA-7",  # send A-ABORT
        "AA-8",  # send A-ABORT (provider), tell the user, start ARTIM
    ]
    """The actions of PS3.8 Tables 9-6 to 9-9, by the standard's names."""


# PS3.8 Table 9-10. A row is an event (Evt1 to Evt19), a column a state (Sta1 to Sta13).
_TABLE_9_10 = """
 1  AE-1  .     .     .     .     .     .     .     .     .      .     .     .
 2  .     .     .     AE-2  .     .     .     .     .     .      .     .     .
 3  .     AA-1  AA-8  .     AE-3  AA-8  AA-8  AA-8  AA-8  AA-8   AA-8  AA-8  AA-6
 4  .     AA-1  AA-8  .     AE-4  AA-8  AA-8  AA-8  AA-8  AA-8   AA-8  AA-8  AA-6
 5  AE-5  .     .     .     .     .     .     .     .     .      .     .     .
 6  .     AE-6  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8   AA-8  AA-8  AA-7
 7  .     .     AE-7  .     .     .     .     .     .     .      .     .     .
 8  .     .     AE-8  .     .     .     .     .     .     .      .     .     .
 9  .     .     .     .     .     DT-1  .     AR-7  .     .      .     .     .
10  .     AA-1  AA-8  .     AA-8  DT-2  AR-6  AA-8  AA-8  AA-8   AA-8  AA-8  AA-6
11  .     .     .     .     .     AR-1  .     .     .     .      .     .     .
12  .     AA-1  AA-8  .     AA-8  AR-2  AR-8  AA-8  AA-8  AA-8   AA-8  AA-8  AA-6
13  .     AA-1  AA-8  .     AA-8  AA-8  AR-3  AA-8  AA-8  AR-10  AR-3  AA-8  AA-6
14  .     .     .     .     .     .     .     AR-4  AR-9  .      .     AR-4  .
15  .     .     AA-1  AA-2  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1   AA-1  AA-1  .
16  .     AA-2  AA-3  .     AA-3  AA-3  AA-3  AA-3  AA-3  AA-3   AA-3  AA-3  AA-2
17  .     AA-5  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4   AA-4  AA-4  AR-5
18  .     AA-2  .     .     .     .     .     .     .     .      .     .     AA-2
19  .     AA-1  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8   AA-8  AA-8  AA-7
"""


def _read_table() -> dict[tuple[Event, State], Action]:
    rows = [line.split()[1:] for line in _TABLE_9_10.strip().splitlines()]
    return {
        (event, state): cast("Action", cell)
        for event, row in zip(get_args(Event), rows, strict=True)
        for state, cell in zip(get_args(State), row, strict=True)
        if cell != "."
    }


TRANSITIONS: Final[dict[tuple[Event, State], Action]] = _read_table()

_NEXT_STATE: dict[Action, State] = {
    "AE-1": "Sta4",
    "AE-2": "Sta5",
    "AE-3": "Sta6",
    "AE-4": "Sta1",
    "AE-5": "Sta2",
    "AE-6": "Sta3",
    "AE-7": "Sta6",
    "AE-8": "Sta13",
    "DT-1": "Sta6",
    "DT-2": "Sta6",
    "AR-1": "Sta7",
    "AR-2": "Sta8",
    "AR-3": "Sta1",
    "AR-4": "Sta13",
    "AR-5": "Sta1",
    "AR-6": "Sta7",
    "AR-7": "Sta8",
    "AR-8": "Sta9",
    "AR-9": "Sta11",
    "AR-10": "Sta12",
    "AA-1": "Sta13",
    "AA-2": "Sta1",
    "AA-3": "Sta1",
    "AA-4": "Sta1",
    "AA-5": "Sta1",
    "AA-6": "Sta13",
    "AA-7": "Sta13",
    "AA-8": "Sta13",
}

# Actions that start or restart the ARTIM timer, and those that stop it.
STARTS_ARTIM: Final = frozenset({"AE-5", "AE-8", "AR-4", "AA-1", "AA-8"})
STOPS_ARTIM: Final = frozenset({"AE-6", "AR-5", "AA-2", "AA-5"})


def next_state(action: Action, *, acceptor: bool, acceptable: bool = True) -> State:
    """The state after an action, for an acceptor or a requestor.

    `acceptable` matters only for AE-6: a request that the provider refuses leads to Sta13, not to Sta3.
    """
    if action == "AR-8" and acceptor:
        return "Sta10"
    if action == "AE-6" and not acceptable:
        return "Sta13"
    return _NEXT_STATE[action]
