"""The log is, to the letter, what reference/logs.md documents; the lines here are typed from it."""

from __future__ import annotations

import logging
import re

import pytest

from asyncstore.cli.output import documented_log
from asyncstore.cli.output.documented_log import QUIET, DocumentedLog
from asyncstore.dimse.messages import CEchoRQ, CStoreRQ
from asyncstore.errors import MissingUID, NotDicom, SourceChanged, Timeout
from asyncstore.inputs.trace import LeftOut
from asyncstore.instances.outcome import Outcome, State
from asyncstore.net import trace
from asyncstore.net.peer import Peer
from asyncstore.status import Status
from asyncstore.trace import TraceEvent, emit
from asyncstore.transfer.trace import (
    KindRefused,
    MoreMetaDiffer,
    MorePadded,
    NotStored,
    Passing,
    PeerTakesAgain,
    PeerTakesNothing,
)
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ
from asyncstore.upper_layer.user_information import OperationsWindow, UserIdentity, UserInformation

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
INSTANCE = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"

REQUEST = AssociateRQ(
    called_ae_title="ANY-SCP",
    calling_ae_title="STORESCU",
    presentation_contexts=(PresentationContext(1, CT, (IMPLICIT,)),),
    user_information=UserInformation(
        maximum_length=16382, implementation_class_uid="1.2.3.4", implementation_version_name="OURS_1"
    ),
)
ANSWER = AssociateAC(
    called_ae_title="ANY-SCP",
    calling_ae_title="STORESCU",
    results=(PresentationContextResult(1, 0, EXPLICIT),),
    user_information=UserInformation(
        maximum_length=16384, implementation_class_uid="1.2.3.5", implementation_version_name="THEIRS_1"
    ),
)
STORE = CStoreRQ(1, CT, INSTANCE)


def printed(*events: TraceEvent, level: int = logging.DEBUG) -> str:
    """What a log at `level` prints of the events."""
    lines: list[str] = []
    log = DocumentedLog(level, lines.append)
    for event in events:
        log.emit(logging.LogRecord("asyncstore.net", event.level, "", 0, event, None, None))
    return "".join(f"{line}\n" for line in lines)


def answered(
    request: CStoreRQ | CEchoRQ = STORE, status: int = 0, *, comment: str = "", number: int = 0
) -> trace.Answered:
    return trace.Answered(
        context_id=73,
        request=request,
        status=Status(status, comment),
        affected_sop_class_uid=request.affected_sop_class_uid,
        affected_sop_instance_uid=INSTANCE,
        association_number=number,
    )


def not_stored(state: State, path: str = "a.dcm", **known: object) -> str:
    return printed(NotStored(outcome=Outcome(state, path, **known)), level=logging.ERROR)  # type: ignore[arg-type]


def test_a_request_is_dumped_as_documented() -> None:
    assert printed(trace.Requesting(peer=Peer("host", 104)), trace.RequestSent(request=REQUEST)) == (
        "I: Requesting Association\n"
        "D: Request Parameters:\n"
        "D: ========================= BEGIN A-ASSOCIATE-RQ PDU =========================\n"
        "D: Our Implementation Class UID:      1.2.3.4\n"
        "D: Our Implementation Version Name:   OURS_1\n"
        "D: Application Context Name:    1.2.840.10008.3.1.1.1\n"
        "D: Calling Application Name:    STORESCU\n"
        "D: Called Application Name:     ANY-SCP\n"
        "D: Our Max PDU Receive Size:    16382\n"
        "D: Presentation Context:\n"
        "D:   Context ID:        1 (Proposed)\n"
        "D:     Abstract Syntax: =CT Image Storage\n"
        "D:     Proposed SCP/SCU Role: Default\n"
        "D:     Proposed Transfer Syntax:\n"
        "D:       =Implicit VR Little Endian\n"
        "D: Requested Extended Negotiation: None\n"
        "D: Requested Common Extended Negotiation: None\n"
        "D: Requested Asynchronous Operations Window Negotiation: None\n"
        "D: Requested User Identity Negotiation: None\n"
        "D: ========================== END A-ASSOCIATE-RQ PDU ==========================\n"
    )


def test_a_kind_that_the_peer_refuses_is_told_with_a_count() -> None:
    event = KindRefused(sop_class_uid=CT, transfer_syntax_uid=IMPLICIT, status=Status(0xA801, "\x1b[1mno"), count=1200)
    assert printed(event, level=logging.ERROR) == (
        "E: Store failed: 1,200 more instances of 'CT Image Storage' with 'Implicit VR Little Endian' transfer syntax\n"
        f"E: Reason: {Status(0xA801).meaning} (0xA801)\n"
    )


def test_a_peer_that_is_away_is_told_by_two_lines_at_the_default_level() -> None:
    gone = PeerTakesNothing(because="\x1b[1m[Errno 111] Connection refused", left_seconds=58.0)
    back = PeerTakesAgain(seconds=20.4)
    first, second = printed(gone, back, level=logging.ERROR).splitlines()
    start = "W: The peer takes nothing: [1m[Errno 111] Connection refused; trying again for 58 s, until "
    assert re.fullmatch(re.escape(start) + r"\d\d:\d\d:\d\d", first)
    assert second == "W: The peer takes instances again, after 20 s"
    assert printed(gone, back, level=logging.CRITICAL) == ""


def test_an_error_that_the_run_gets_over_is_told_with_v_only() -> None:
    rejected = Passing(event=trace.Rejected(answer=AssociateRJ(2, 3, 1)))
    assert printed(rejected, level=logging.ERROR) == ""
    assert printed(rejected, level=logging.INFO) == (
        "I: Association Rejected\n"
        "I: Result: Rejected Transient, Source: Service Provider (Presentation)\n"
        "I: Reason: Temporary congestion\n"
    )
    assert "A-ASSOCIATE-RJ" in printed(rejected, level=logging.DEBUG)
    assert str(rejected) == str(rejected.event)


def test_file_meta_that_differs_is_a_warning_and_the_others_are_counted() -> None:
    differs = trace.MetaDiffers(path="/a/\x1b1.dcm", difference="the meta has 1.2, the data set has 1.3")
    in_memory = trace.MetaDiffers(path=None, difference="the meta has 1.2, the data set has 1.3")
    more = MoreMetaDiffer(count=1)
    assert printed(differs, in_memory, more, level=logging.WARNING) == (
        "W: /a/\\x1b1.dcm: the meta has 1.2, the data set has 1.3, which is used\n"
        "W: (in memory): the meta has 1.2, the data set has 1.3, which is used\n"
        "W: 1 more instance whose UIDs or File Meta Information are doubtful\n"
    )
    assert not printed(differs, more, level=logging.ERROR)


def test_the_first_padded_data_set_is_a_warning_and_the_others_are_counted() -> None:
    padded, also = trace.Padded(path="/a/\x1b1.dcm"), trace.AlsoPadded(path=None)
    text = "the data set has an odd length, and is sent with a padding byte\n"
    assert printed(padded, also, MorePadded(count=2), level=logging.WARNING) == (
        f"W: /a/\\x1b1.dcm: {text}W: 2 more data sets of odd length sent with a padding byte\n"
    )
    assert printed(also) == f"D: (in memory): {text}"


def test_what_is_left_out_is_told_at_level_debug() -> None:
    event = LeftOut(path="/a/\x1b1.dcm", why="its modality is \x1bMR")
    assert printed(event) == "D: Left out: /a/\\x1b1.dcm: its modality is \\x1bMR\n"
    assert str(event) == r"left out: '/a/\x1b1.dcm': 'its modality is \x1bMR'"
    assert not printed(event, level=logging.INFO)


def test_what_is_stored_from_another_file_names_that_file() -> None:
    conflict = not_stored(State.CONFLICT, reason="another one is stored", stored_path="/a/\x1b1.dcm")
    assert conflict == "E: Store failed: a.dcm\nE: Reason: another one is stored, from /a/\\x1b1.dcm\n"
    duplicate = NotStored(outcome=Outcome(State.DUPLICATE, "a.dcm", stored_path="/a/1.dcm"))
    assert printed(duplicate, level=logging.WARNING) == "W: Already there: a.dcm, stored from /a/1.dcm\n"


def test_several_contexts_and_transfer_syntaxes_are_plural() -> None:
    contexts = (PresentationContext(1, CT, (IMPLICIT, EXPLICIT)), PresentationContext(3, MR, (IMPLICIT,)))
    text = printed(trace.RequestSent(request=AssociateRQ("A", "B", contexts, UserInformation())))
    assert (
        "D: Presentation Contexts:\n"
        "D:   Context ID:        1 (Proposed)\n"
        "D:     Abstract Syntax: =CT Image Storage\n"
        "D:     Proposed SCP/SCU Role: Default\n"
        "D:     Proposed Transfer Syntaxes:\n"
        "D:       =Implicit VR Little Endian\n"
        "D:       =Explicit VR Little Endian\n"
        "D:   Context ID:        3 (Proposed)\n"
        "D:     Abstract Syntax: =MR Image Storage\n"
    ) in text


def test_an_acceptance_is_dumped_as_documented() -> None:
    assert printed(trace.Accepted(request=REQUEST, answer=ANSWER)) == (
        "D: Accept Parameters:\n"
        "D: ========================= BEGIN A-ASSOCIATE-AC PDU =========================\n"
        "D: Their Implementation Class UID:    1.2.3.5\n"
        "D: Their Implementation Version Name: THEIRS_1\n"
        "D: Application Context Name:    1.2.840.10008.3.1.1.1\n"
        "D: Calling Application Name:    STORESCU\n"
        "D: Called Application Name:     ANY-SCP\n"
        "D: Their Max PDU Receive Size:  16384\n"
        "D: Presentation Contexts:\n"
        "D:   Context ID:        1 (Accepted)\n"
        "D:     Abstract Syntax: =CT Image Storage\n"
        "D:     Accepted SCP/SCU Role: Default\n"
        "D:     Accepted Transfer Syntax: =Explicit VR Little Endian\n"
        "D: Accepted Extended Negotiation: None\n"
        "D: Accepted Asynchronous Operations Window Negotiation: None\n"
        "D: User Identity Negotiation Response: None\n"
        "D: ========================== END A-ASSOCIATE-AC PDU ==========================\n"
        "I: Association Accepted\n"
    )


def test_a_peer_without_a_version_name_is_unknown() -> None:
    answer = AssociateAC("A", "B", (), UserInformation(implementation_class_uid="1.2"))
    assert "D: Their Implementation Version Name: unknown\n" in printed(trace.Accepted(request=REQUEST, answer=answer))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (1, "User Rejection"),
        (2, "Provider Rejection"),
        (3, "Rejected - Abstract Syntax Not Supported"),
        (4, "Rejected - Transfer Syntax Not Supported"),
    ],
)
def test_a_rejected_context_is_named_in_the_documented_words(result: int, words: str) -> None:
    answer = AssociateAC("A", "B", (PresentationContextResult(1, result, ""),), UserInformation())
    text = printed(trace.Accepted(request=REQUEST, answer=answer))
    assert f"D:   Context ID:        1 ({words})\nD:     Abstract Syntax: =CT Image Storage\nD: Accepted Ext" in text


def test_a_window_is_two_lines_in_the_place_of_none() -> None:
    window = UserInformation(operations_window=OperationsWindow(16, 1))
    request = AssociateRQ("A", "B", REQUEST.presentation_contexts, window)
    answer = AssociateAC("A", "B", ANSWER.results, UserInformation(operations_window=OperationsWindow(8, 1)))
    assert (
        "D: Requested Asynchronous Operations Window Negotiation:\n"
        "D:   Maximum Invoked Operations:     16\n"
        "D:   Maximum Performed Operations:   1\n"
    ) in printed(trace.RequestSent(request=request))
    assert (
        "D: Accepted Asynchronous Operations Window Negotiation:\n"
        "D:   Maximum Invoked Operations:     8\n"
        "D:   Maximum Performed Operations:   1\n"
    ) in printed(trace.Accepted(request=request, answer=answer))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
def test_a_user_identity_never_shows_a_secret(kind: int) -> None:
    primary = b"alice" if kind in (1, 2) else b"s3cret"
    identity = UserInformation(user_identity=UserIdentity(kind, primary, b"s3cret"))
    text = printed(trace.RequestSent(request=AssociateRQ("A", "B", REQUEST.presentation_contexts, identity)))
    assert f"Authentication Mode: {kind} - " in text
    assert "s3cret" not in text
    assert ("Username: [alice]" in text) == (kind in (1, 2))


def test_one_instance_is_logged_as_documented() -> None:
    sent = trace.StoreSent(path="CTImageStorage.dcm", context_id=73, transfer_syntax_uid=EXPLICIT, request=STORE)
    assert printed(sent, answered(), trace.Releasing()) == (
        "I: Sending file: CTImageStorage.dcm\n"
        "I: Sending Store Request: MsgID 1, (CT)\n"
        "D: ========================== OUTGOING DIMSE MESSAGE ==========================\n"
        "D: Message Type                  : C-STORE RQ\n"
        "D: Message ID                    : 1\n"
        "D: Affected SOP Class UID        : CT Image Storage\n"
        "D: Affected SOP Instance UID     : 1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322\n"
        "D: Data Set                      : Present\n"
        "D: Priority                      : Low\n"
        "D: ============================ END DIMSE MESSAGE =============================\n"
        'D: pydicom.read_dataset() TransferSyntax="Little Endian Implicit"\n'
        "I: Received Store Response (Status: 0x0000 - Success)\n"
        "D: ========================== INCOMING DIMSE MESSAGE ==========================\n"
        "D: Message Type                  : C-STORE RSP\n"
        "D: Presentation Context ID       : 73\n"
        "D: Message ID Being Responded To : 1\n"
        "D: Affected SOP Class UID        : CT Image Storage\n"
        "D: Affected SOP Instance UID     : 1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322\n"
        "D: Status                        : 0x0000 - Success\n"
        "D: ============================ END DIMSE MESSAGE =============================\n"
        "I: Releasing Association\n"
    )


def test_info_level_prints_the_steps_without_the_dumps() -> None:
    sent = trace.StoreSent(path="a.dcm", context_id=1, transfer_syntax_uid=EXPLICIT, request=STORE)
    events = trace.Requesting(peer=Peer("host", 104)), trace.Accepted(request=REQUEST, answer=ANSWER), sent, answered()
    assert printed(*events, level=logging.INFO) == (
        "I: Requesting Association\n"
        "I: Association Accepted\n"
        "I: Sending file: a.dcm\n"
        "I: Sending Store Request: MsgID 1, (CT)\n"
        "I: Received Store Response (Status: 0x0000 - Success)\n"
    )


@pytest.mark.parametrize(("sop_class", "modality"), [(CT, ", (CT)"), (MR, ", (MR)"), (SECONDARY_CAPTURE, "")])
def test_only_ct_and_mr_are_named_beside_the_message_id(sop_class: str, modality: str) -> None:
    sent = trace.StoreSent(
        path="a.dcm", context_id=1, transfer_syntax_uid=EXPLICIT, request=CStoreRQ(7, sop_class, INSTANCE)
    )
    assert f"I: Sending Store Request: MsgID 7{modality}\n" in printed(sent)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0x0000, "0x0000 - Success"),
        (0xB000, "0xB000 - Warning"),
        (0xA700, "0xA700 - Failure"),
        (0xFE00, "0xFE00 - Cancel"),
        (0xFF00, "0xFF00 - Pending"),
        (0x1234, "0x1234 - Unknown"),
    ],
)
def test_a_status_is_its_code_and_category(status: int, words: str) -> None:
    assert printed(answered(status=status), level=logging.INFO) == f"I: Received Store Response (Status: {words})\n"


def test_an_echo_is_logged_without_a_message_dump() -> None:
    request = CEchoRQ(1)
    assert printed(trace.EchoSent(context_id=1, request=request), answered(request)) == (
        "I: Sending Echo Request: MsgID 1\n"
        'D: pydicom.read_dataset() TransferSyntax="Little Endian Implicit"\n'
        "I: Received Echo Response (Status: 0x0000 - Success)\n"
    )


def test_with_several_associations_every_line_carries_its_number() -> None:
    sent = trace.StoreSent(
        path="a.dcm",
        context_id=1,
        transfer_syntax_uid=EXPLICIT,
        request=CStoreRQ(7, CT, INSTANCE),
        association_number=2,
    )
    response = answered(CStoreRQ(7, CT, INSTANCE), number=2)
    assert printed(sent, response, level=logging.INFO) == (
        "I: [2] Sending file: a.dcm\n"
        "I: [2] Sending Store Request: MsgID 7, (CT)\n"
        "I: [2] Received Store Response (MsgID 7, Status: 0x0000 - Success)\n"
    )
    assert all(line.startswith(("I: [2] ", "D: [2] ")) for line in printed(sent, response).splitlines())


def test_a_rejection_is_three_error_lines_and_a_dump() -> None:
    rejected = trace.Rejected(answer=AssociateRJ(1, 1, 7))
    lines = (
        "E: Association Rejected\n"
        "E: Result: Rejected Permanent, Source: Service User\n"
        "E: Reason: Called AE title not recognised\n"
    )
    assert printed(rejected, level=logging.ERROR) == lines
    assert (
        printed(rejected)
        == (
            "D: Reject Parameters:\n"
            "D: ========================= BEGIN A-ASSOCIATE-RJ PDU =========================\n"
            "D: Result:    Rejected (Permanent)\n"
            "D: Source:    DUL service-user\n"
            "D: Reason:    Called AE title not recognised\n"
            "D: ========================== END A-ASSOCIATE-RJ PDU ==========================\n"
        )
        + lines
    )


@pytest.mark.parametrize(
    ("source", "reason", "source_words", "dump_words", "reason_words"),
    [
        (1, 1, "Service User", "DUL service-user", "No reason given"),
        (1, 2, "Service User", "DUL service-user", "Application context name not supported"),
        (1, 3, "Service User", "DUL service-user", "Calling AE title not recognised"),
        (2, 1, "Service Provider (ACSE)", "DUL service-provider (ACSE related)", "No reason given"),
        (2, 2, "Service Provider (ACSE)", "DUL service-provider (ACSE related)", "Protocol version not supported"),
        (
            *(3, 1, "Service Provider (Presentation)", "DUL service-provider (presentation related)"),
            "Temporary congestion",
        ),
        (
            *(3, 2, "Service Provider (Presentation)", "DUL service-provider (presentation related)"),
            "Local limit exceeded",
        ),
    ],
)
def test_every_reason_of_a_rejection_has_its_words(
    source: int, reason: int, source_words: str, dump_words: str, reason_words: str
) -> None:
    text = printed(trace.Rejected(answer=AssociateRJ(2, source, reason)))
    assert f"E: Result: Rejected Transient, Source: {source_words}\nE: Reason: {reason_words}\n" in text
    assert f"D: Result:    Rejected (Transient)\nD: Source:    {dump_words}\nD: Reason:    {reason_words}\n" in text


@pytest.mark.parametrize(
    ("cause", "advice"), [("other", ""), ("name", "; --tls-server-name NAME expects another name")]
)
def test_a_lack_of_tls_is_one_line_with_what_may_help(cause: str, advice: str) -> None:
    text = printed(trace.NotSecured(detail="a reason\n\x1b[2J", cause=cause))
    assert text == f"E: TLS was not established: a reason[2J{advice}\n"


def test_errors_are_the_documented_lines() -> None:
    events = (
        trace.NothingAccepted(),
        trace.ConnectionFailed(detail="[Errno 111] Connection refused"),
        trace.TimedOut(which="acse", seconds=30),
        trace.TimedOut(which="dimse", seconds=30),
        trace.TimedOut(which="network", seconds=30),
    )
    assert printed(*events, level=logging.ERROR) == (
        "E: No accepted presentation contexts\n"
        "E: Association request failed: unable to connect to remote\n"
        "E: TCP Initialisation Error: [Errno 111] Connection refused\n"
        "E: ACSE timeout reached while waiting for response to association request\n"
        "E: DIMSE timeout reached while waiting for message response\n"
        "E: Network timeout reached\n"
    )


@pytest.mark.parametrize("message", ["A-ASSOCIATE", "C-STORE"])
def test_an_invalid_answer_is_named_and_explained(message: str) -> None:
    event = trace.InvalidAnswer(to_request=message, detail="it looks like an HTTP server")
    assert printed(event, level=logging.ERROR) == (
        f"E: Received an invalid {message} response from the peer\nE: it looks like an HTTP server\n"
    )


def test_ends_of_an_association_are_info_lines() -> None:
    events = (
        trace.Releasing(),
        trace.ReleasedByPeer(),
        trace.Aborting(),
        trace.AbortedByPeer(source=0, reason=0),
        trace.AbortedByPeer(source=2, reason=1),
    )
    assert printed(*events, level=logging.INFO) == (
        "I: Releasing Association\n"
        "I: Association Released\n"
        "I: Aborting Association\n"
        "I: Association Aborted\n"
        "I: Association Aborted (A-P-ABORT)\n"
    )


def test_an_abort_is_dumped_as_documented() -> None:
    assert printed(trace.AbortedByPeer(source=2, reason=6)) == (
        "D: Abort Parameters:\n"
        "D: ============================ BEGIN A-ABORT PDU =============================\n"
        "D: Abort Source: DUL service-provider\n"
        "D: Abort Reason: Invalid PDU parameter value\n"
        "D: ============================= END A-ABORT PDU ==============================\n"
        "I: Association Aborted (A-P-ABORT)\n"
    )


@pytest.mark.parametrize(
    ("state", "error", "line"),
    [
        (
            State.SOURCE_PROBLEM,
            FileNotFoundError(2, "No such file"),
            "E: Cannot access path: a.dcm\nE: Reason: No such file\n",
        ),
        (State.SOURCE_PROBLEM, OSError("no number"), "E: Cannot access path: a.dcm\nE: Reason: it \\x1bshrank\n"),
        (State.SOURCE_PROBLEM, NotDicom("no"), "E: Bad DICOM file: a.dcm\nE: Reason: it \\x1bshrank\n"),
        (
            State.SOURCE_PROBLEM,
            MissingUID("no"),
            "E: Unknown SOP Class or Transfer Syntax UID: a.dcm\nE: Reason: it \\x1bshrank\n",
        ),
        (State.SOURCE_PROBLEM, SourceChanged("no"), "E: Store failed: a.dcm\nE: Reason: it \\x1bshrank\n"),
    ],
)
def test_a_file_that_cannot_be_sent_has_its_documented_line_and_the_reason(
    state: State, error: Exception, line: str
) -> None:
    assert not_stored(state, error=error, reason="it \x1bshrank") == line


def test_what_is_passed_over_in_a_directory_is_no_error() -> None:
    outcome = Outcome(State.SKIPPED, "a\nb", reason="not a DICOM file: it is\ttext", error=NotDicom("no"))
    assert printed(NotStored(outcome=outcome), level=logging.ERROR) == ""
    assert printed(NotStored(outcome=outcome)) == "I: Skipped: a\\nb: not a DICOM file: it is\\ttext\n"


@pytest.mark.parametrize(
    ("which", "option"), [("connect", "--connect-timeout"), ("acse", "-ta"), ("dimse", "-td"), ("network", "-tn")]
)
def test_a_time_that_was_exceeded_names_its_option(which: str, option: str) -> None:
    error = Timeout(which, 1)
    text = not_stored(State.UNKNOWN, reason=f"sent, and not answered: {error}", error=error)
    assert text.endswith(f" within 1 s ({option})\n")


def test_an_instance_without_a_context_has_the_documented_reason() -> None:
    reason = (
        "No presentation context for 'CT Image Storage' has been accepted by the peer with 'JPEG 2000 Image "
        "Compression' transfer syntax for the SCU role"
    )
    assert not_stored(State.NO_CONTEXT, reason=reason) == f"E: {reason}\nE: Store failed: a.dcm\n"


def test_a_failed_instance_tells_the_reason_and_the_peers_comment() -> None:
    text = not_stored(State.FAILED, reason="Refused: out of resources (0xA700)", status=Status(0xA700, "disk full"))
    assert text == (
        'E: Store failed: a.dcm\nE: Reason: Refused: out of resources (0xA700), the peer says "disk full"\n'
    )


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a\nE: forged.dcm", r"a\nE: forged.dcm"),
        ("\x1b[31mred.dcm", r"\x1b[31mred.dcm"),
        ("bad\udcff.dcm", r"bad\xff.dcm"),
        ("[bold]plain[/bold].dcm", "[bold]plain[/bold].dcm"),
        ("right\u202eleft.dcm", r"right\u202eleft.dcm"),
        ("Łódź 山.dcm", "Łódź 山.dcm"),
    ],
)
def test_a_file_name_stays_one_line_and_is_escaped(path: str, shown: str) -> None:
    text = not_stored(State.SOURCE_PROBLEM, path, error=NotDicom("no"), reason="no")
    assert text == f"E: Bad DICOM file: {shown}\nE: Reason: no\n"


def test_what_a_peer_wrote_loses_its_control_characters_and_is_capped() -> None:
    user = UserInformation(implementation_version_name="EVIL\x1b[2J\n" + "x" * 500)
    text = printed(trace.Accepted(request=REQUEST, answer=AssociateAC("A", "B\x07", (), user)))
    version = next(line for line in text.splitlines() if "Version Name" in line)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert version.startswith("D: Their Implementation Version Name: EVIL[2Jxxx")
    assert len(version) < 200


def test_a_record_that_is_no_event_is_one_line_of_its_level() -> None:
    lines: list[str] = []
    log = DocumentedLog(logging.WARNING, lines.append)
    for level, text in ((logging.INFO, "hidden"), (logging.WARNING, "seen\nonce"), (logging.CRITICAL, "worst")):
        log.emit(logging.LogRecord("asyncstore", level, "", 0, text, None, None))
    assert lines == [r"W: seen\nonce", "F: worst"]


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with documented_log.installed(QUIET):
        logging.getLogger("asyncstore.net").critical("anything")
    assert capsys.readouterr() == ("", "")


def test_everything_goes_to_stderr_and_the_set_up_is_undone(capsys: pytest.CaptureFixture[str]) -> None:
    package = logging.getLogger("asyncstore")
    before = (package.level, package.propagate, list(package.handlers))
    with documented_log.installed(logging.INFO) as log:
        emit(logging.getLogger("asyncstore.net"), trace.Releasing())
        emit(logging.getLogger("asyncstore.net"), trace.NothingAccepted())
    assert capsys.readouterr() == ("", "I: Releasing Association\nE: No accepted presentation contexts\n")
    assert log.errors == 1
    assert (package.level, package.propagate, list(package.handlers)) == before
