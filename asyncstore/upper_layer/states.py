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

import enum
from typing import Final, Literal, TypeAlias, cast


class State(enum.Enum):
    """The states of PS3.8 9.2.1; the values are the standard's numbers."""

    __hash__ = object.__hash__  # as a key of the table: that of an Enum is a function in Python

    STA1 = 1  # idle
    STA2 = 2  # transport connection open, awaiting A-ASSOCIATE-RQ
    STA3 = 3  # awaiting the local answer to A-ASSOCIATE-RQ
    STA4 = 4  # awaiting the transport connection
    STA5 = 5  # awaiting A-ASSOCIATE-AC or -RJ
    STA6 = 6  # association established
    STA7 = 7  # awaiting A-RELEASE-RP
    STA8 = 8  # awaiting the local answer to A-RELEASE-RQ
    STA9 = 9  # release collision, requestor: awaiting the local answer
    STA10 = 10  # release collision, acceptor: awaiting A-RELEASE-RP
    STA11 = 11  # release collision, requestor: awaiting A-RELEASE-RP
    STA12 = 12  # release collision, acceptor: awaiting the local answer
    STA13 = 13  # awaiting the close of the transport connection


class Event(enum.Enum):
    """The events of PS3.8 Table 9-10; the values are the standard's numbers."""

    __hash__ = object.__hash__

    ASSOCIATE_REQUEST = 1
    TRANSPORT_CONFIRMED = 2
    ASSOCIATE_AC_RECEIVED = 3
    ASSOCIATE_RJ_RECEIVED = 4
    TRANSPORT_INDICATED = 5
    ASSOCIATE_RQ_RECEIVED = 6
    ASSOCIATE_ACCEPT = 7
    ASSOCIATE_REJECT = 8
    DATA_REQUEST = 9
    DATA_TF_RECEIVED = 10
    RELEASE_REQUEST = 11
    RELEASE_RQ_RECEIVED = 12
    RELEASE_RP_RECEIVED = 13
    RELEASE_ANSWER = 14
    ABORT_REQUEST = 15
    ABORT_RECEIVED = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU_RECEIVED = 19


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
    rows = (line.split()[1:] for line in _TABLE_9_10.strip().splitlines())
    states = tuple(State)
    return {
        (event, state): cast("Action", cell)
        for event, row in zip(Event, rows, strict=True)
        for state, cell in zip(states, row, strict=True)
        if cell != "."
    }


TRANSITIONS: Final[dict[tuple[Event, State], Action]] = _read_table()

_NEXT_STATE: dict[Action, State] = {
    "AE-1": State.STA4,
    "AE-2": State.STA5,
    "AE-3": State.STA6,
    "AE-4": State.STA1,
    "AE-5": State.STA2,
    "AE-6": State.STA3,
    "AE-7": State.STA6,
    "AE-8": State.STA13,
    "DT-1": State.STA6,
    "DT-2": State.STA6,
    "AR-1": State.STA7,
    "AR-2": State.STA8,
    "AR-3": State.STA1,
    "AR-4": State.STA13,
    "AR-5": State.STA1,
    "AR-6": State.STA7,
    "AR-7": State.STA8,
    "AR-8": State.STA9,
    "AR-9": State.STA11,
    "AR-10": State.STA12,
    "AA-1": State.STA13,
    "AA-2": State.STA1,
    "AA-3": State.STA1,
    "AA-4": State.STA1,
    "AA-5": State.STA1,
    "AA-6": State.STA13,
    "AA-7": State.STA13,
    "AA-8": State.STA13,
}

# Actions that start or restart the ARTIM timer, and those that stop it.
STARTS_ARTIM: Final = frozenset({"AE-5", "AE-8", "AR-4", "AA-1", "AA-8"})
STOPS_ARTIM: Final = frozenset({"AE-6", "AR-5", "AA-2", "AA-5"})


def next_state(action: Action, *, acceptor: bool, acceptable: bool = True) -> State:
    """The state after an action, for an acceptor or a requestor.

    `acceptable` matters only for AE-6: a request that the provider refuses leads to Sta13, not to Sta3.
    """
    if action == "AR-8" and acceptor:
        return State.STA10
    if action == "AE-6" and not acceptable:
        return State.STA13
    return _NEXT_STATE[action]
