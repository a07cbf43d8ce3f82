"""Every trace event is one plain line, at its level, and only where somebody listens."""

from __future__ import annotations

import logging

import pytest

import asyncstore.cluster.trace
import asyncstore.inputs.trace
import asyncstore.ledger.trace
import asyncstore.transfer.trace
from asyncstore.cluster.trace import BatchClaimed, BatchEnded, BatchSetAside, Fenced
from asyncstore.dimse.messages import CEchoRQ, CStoreRQ
from asyncstore.inputs.trace import LeftOut
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.trace import LedgerAway, LedgerBack, TableChanged
from asyncstore.net import trace
from asyncstore.net.peer import Peer
from asyncstore.status import Status
from asyncstore.trace import TraceEvent, emit
from asyncstore.transfer.trace import (
    KindRefused,
    LimitChanged,
    MoreMetaDiffer,
    MorePadded,
    NotStored,
    OffersLess,
    Passing,
    PeerTakesAgain,
    PeerTakesNothing,
    SendingBegins,
    SendingWaits,
)
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ
from asyncstore.upper_layer.user_information import UserInformation
from tests.support.wire import CT_CONTEXT

REQUEST = AssociateRQ("CALLED", "CALLING", (CT_CONTEXT,), UserInformation())
ANSWER = AssociateAC(
    "CALLED",
    "CALLING",
    (PresentationContextResult(1, 0, IMPLICIT_VR_LITTLE_ENDIAN), PresentationContextResult(3, 4, "")),
    UserInformation(),
)
STORE = CStoreRQ(7, CT_IMAGE_STORAGE, "1.2.3")

EVENTS = [
    (
        trace.Requesting(peer=Peer("host", 104, "CALLED")),
        logging.INFO,
        "requesting an association with CALLED@host:104",
    ),
    (trace.RequestSent(request=REQUEST), logging.DEBUG, "proposing 1 presentation contexts"),
    (
        trace.Accepted(request=REQUEST, answer=ANSWER),
        logging.INFO,
        "association accepted with 1 presentation contexts",
    ),
    (trace.Rejected(answer=AssociateRJ(1, 2, 3)), logging.ERROR, "association rejected: result 1, reason 2.3"),
    (trace.ConnectionFailed(detail="refused"), logging.ERROR, "cannot connect: refused"),
    (trace.NotSecured(detail="has expired", cause="expired"), logging.ERROR, "no TLS: has expired"),
    (trace.NothingAccepted(), logging.ERROR, "no accepted presentation contexts"),
    (
        trace.StoreSent(path="a.dcm", context_id=1, transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN, request=STORE),
        logging.INFO,
        "C-STORE 7: 1.2.3",
    ),
    (trace.EchoSent(context_id=1, request=CEchoRQ(8)), logging.INFO, "C-ECHO 8"),
    (
        trace.Answered(context_id=1, request=STORE, status=Status(0xA700), affected_sop_class_uid=CT_IMAGE_STORAGE),
        logging.INFO,
        "answer to 7: 0xA700 - Failure",
    ),
    (trace.Releasing(), logging.INFO, "releasing the association"),
    (trace.ReleasedByPeer(), logging.INFO, "association released by the peer"),
    (trace.Aborting(), logging.INFO, "aborting the association"),
    (trace.AbortedByPeer(source=2, reason=6), logging.INFO, "association aborted by the peer, source 2, reason 6"),
    (trace.ConnectionBroken(detail="reset"), logging.ERROR, "connection lost: reset"),
    (trace.TimedOut(which="dimse", seconds=30.0), logging.ERROR, "dimse timeout after 30 s"),
    (
        trace.InvalidAnswer(to_request="C-STORE", detail="no Status"),
        logging.ERROR,
        "invalid answer to C-STORE: no Status",
    ),
    (
        trace.Tolerated(detail="A-RELEASE-RP, PDU length: 10 bytes"),
        logging.DEBUG,
        "not as the standard says, but no harm: A-RELEASE-RP, PDU length: 10 bytes",
    ),
    (
        trace.AnsweredAmiss(detail="5, sent in 3"),
        logging.WARNING,
        "an answer of the peer does not fit its request, and counts by its Message ID: 5, sent in 3",
    ),
    (
        NotStored(outcome=Outcome(State.FAILED, "a.dcm", reason="no")),
        logging.ERROR,
        "not stored: 'a.dcm': 'no'",
    ),
    (
        KindRefused(
            sop_class_uid=CT_IMAGE_STORAGE,
            transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN,
            status=Status(0xA801),
            count=1200,
        ),
        logging.ERROR,
        "not stored: 1,200 more of CT Image Storage in Implicit VR Little Endian, which the peer refuses with "
        "0xA801 - Failure",
    ),
    (
        trace.MetaDiffers(path="a.dcm", difference="the File Meta Information has 1.2, the data set has 1.3"),
        logging.WARNING,
        "'a.dcm': the File Meta Information has 1.2, the data set has 1.3, which is used",
    ),
    (
        OffersLess(because="the peer closed the connection", without="the default presentation contexts"),
        logging.WARNING,
        "the peer closed the connection; trying without the default presentation contexts",
    ),
    (
        PeerTakesNothing(because="[Errno 111] Connection refused", left_seconds=60.0),
        logging.ERROR,
        "the peer takes nothing ([Errno 111] Connection refused): trying again for 60 s",
    ),
    (PeerTakesAgain(seconds=12.4), logging.ERROR, "the peer takes instances again, after 12 s"),
    (
        Passing(event=trace.ConnectionBroken(detail="reset")),
        logging.INFO,
        "connection lost: reset",
    ),
    (
        MoreMetaDiffer(count=1200),
        logging.WARNING,
        "1,200 more whose UIDs or File Meta Information are doubtful",
    ),
    (
        trace.Padded(path="a.dcm"),
        logging.WARNING,
        "'a.dcm': the data set has an odd length, and is sent with a padding byte",
    ),
    (
        trace.AlsoPadded(path="a.dcm"),
        logging.DEBUG,
        "'a.dcm': the data set has an odd length, and is sent with a padding byte",
    ),
    (
        MorePadded(count=1200),
        logging.WARNING,
        "1,200 more data sets of odd length were sent with a padding byte",
    ),
    (LimitChanged(name="Bandwidth", value="20 MiB/s"), logging.INFO, "Bandwidth: 20 MiB/s"),
    (SendingWaits(waiting="paused"), logging.INFO, "Sending nothing now: paused"),
    (SendingBegins(), logging.INFO, "Sending again"),
    (LeftOut(path="a.dcm", why="modality CT"), logging.DEBUG, "left out: 'a.dcm': 'modality CT'"),
    (
        LedgerAway(because="connection refused", left_seconds=59.6),
        logging.ERROR,
        "Nothing new is sent: connection refused; trying again for 60 s",
    ),
    (
        TableChanged(),
        logging.WARNING,
        "The table of values has changed: what is stored already keeps the values that it was sent with",
    ),
    (LedgerBack(seconds=12.4), logging.ERROR, "The ledger is written again, after 12 s"),
    (BatchClaimed(batch=7, first="archive!/a", directories=1), logging.INFO, "Batch 7: 'archive!/a'"),
    (BatchClaimed(batch=7, first="archive!/a", directories=3), logging.INFO, "Batch 7: 'archive!/a' and 2 more"),
    (BatchEnded(batch=7, how="done"), logging.INFO, "Batch 7: done"),
    (BatchSetAside(batch=7, reason="5 tries"), logging.ERROR, "Batch 7 is set aside: 5 tries"),
    (
        Fenced(seconds=12.4, is_aborted=False),
        logging.ERROR,
        "The database was not reached for 12 s: nothing new is sent, since others may take it over",
    ),
    (
        Fenced(seconds=12.4, is_aborted=True),
        logging.ERROR,
        "The database was not reached for 12 s: aborting what is in flight, since others may take it over",
    ),
]


@pytest.mark.parametrize(("event", "level", "line"), EVENTS, ids=lambda value: type(value).__name__)
def test_an_event_is_logged_as_itself_and_reads_as_one_line(
    event: TraceEvent, level: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("asyncstore.net")
    with caplog.at_level(logging.DEBUG, logger.name):
        emit(logger, event)
    (record,) = caplog.records
    assert record.msg is event
    assert (record.levelno, record.getMessage()) == (level, line)


def test_every_kind_of_event_is_tested_here() -> None:
    modules = (
        trace,
        asyncstore.transfer.trace,
        asyncstore.ledger.trace,
        asyncstore.inputs.trace,
        asyncstore.cluster.trace,
    )
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    kinds = {kind for kind in kinds if issubclass(kind, TraceEvent)}
    assert {type(event) for event, _, _ in EVENTS} == kinds - {TraceEvent}


def test_an_event_below_the_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("asyncstore.net")
    with caplog.at_level(logging.ERROR, logger.name):
        emit(logger, trace.Releasing())
    assert not caplog.records


def test_events_of_several_associations_carry_their_number() -> None:
    assert trace.Releasing().association_number == 0
    assert trace.Releasing(association_number=3).association_number == 3


@pytest.mark.parametrize("event", [event for event, _, _ in EVENTS], ids=lambda event: type(event).__name__)
def test_an_event_has_the_fields_that_its_class_names(event: TraceEvent) -> None:
    named = {name for kind in type(event).__mro__ for name in vars(kind).get("__annotations__", ())} - {"level", "text"}
    assert vars(event).keys() <= named
    assert all(hasattr(event, name) for name in named)
    assert repr(event).startswith(f"{type(event).__name__}(")
