"""PDUs and DIMSE messages as the debug lines of the documented log. Never prints a secret of a user identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.plain_text import count_text, peer_text
from asyncstore.errors import Aborted, AssociationRejected
from asyncstore.instances.elements import tag_text
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.dimse.messages import CEchoRQ, CStoreRQ
    from asyncstore.net.trace import Answered
    from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
    from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ
    from asyncstore.upper_layer.user_information import (
        CommonExtendedNegotiation,
        ExtendedNegotiation,
        OperationsWindow,
        RoleSelection,
        UserIdentity,
    )

_WIDTH: Final = 76
_PRIORITIES: Final = {0: "Medium", 1: "High", 2: "Low"}
_IDENTITY_KINDS: Final = {
    1: "Username",
    2: "Username/Password",
    3: "Kerberos",
    4: "SAML",
    5: "JSON Web Token",
}
_SECRETS: Final = {3: "Kerberos Service Ticket", 4: "SAML Assertion", 5: "JSON Web Token"}
_REJECT_RESULTS: Final = {1: "Rejected (Permanent)", 2: "Rejected (Transient)"}
_REJECT_SOURCES: Final = {
    1: "DUL service-user",
    2: "DUL service-provider (ACSE related)",
    3: "DUL service-provider (presentation related)",
}


def banner(text: str) -> str:
    """A line of 76 characters with the text in the middle."""
    return f" {text} ".center(_WIDTH, "=")


def _framed(name: str, lines: Iterable[str]) -> list[str]:
    return [banner(f"BEGIN {name} PDU"), *lines, banner(f"END {name} PDU")]


def _name(uid: str) -> str:
    return peer_text(name_of(uid))


def request_lines(request: AssociateRQ) -> list[str]:
    """An A-ASSOCIATE-RQ that we send."""
    user = request.user_information
    many = len(request.presentation_contexts) != 1
    roles = {role.sop_class_uid: role for role in user.role_selections}
    lines = [
        f"Our Implementation Class UID:      {user.implementation_class_uid}",
        f"Our Implementation Version Name:   {user.implementation_version_name}",
        f"Application Context Name:    {request.application_context}",
        f"Calling Application Name:    {request.calling_ae_title}",
        f"Called Application Name:     {request.called_ae_title}",
        f"Our Max PDU Receive Size:    {user.maximum_length}",
        "Presentation Contexts:" if many else "Presentation Context:",
    ]
    for context in request.presentation_contexts:
        lines += _proposed_context(context, roles.get(context.abstract_syntax))
    lines += _extended(user.extended_negotiations, "Requested Extended Negotiation:")
    lines += _common_extended(user.common_extended_negotiations)
    lines += _window(user.operations_window, "Requested Asynchronous Operations Window Negotiation:")
    lines += _identity(user.user_identity)
    return ["Request Parameters:", *_framed("A-ASSOCIATE-RQ", lines)]


def _proposed_context(context: PresentationContext, role: RoleSelection | None) -> list[str]:
    many = len(context.transfer_syntaxes) != 1
    return [
        f"  Context ID:        {context.context_id} (Proposed)",
        f"    Abstract Syntax: ={_name(context.abstract_syntax)}",
        f"    Proposed SCP/SCU Role: {_role(role)}",
        "    Proposed Transfer Syntaxes:" if many else "    Proposed Transfer Syntax:",
        *(f"      ={_name(uid)}" for uid in context.transfer_syntaxes),
    ]


def _role(role: RoleSelection | None) -> str:
    if role is None:
        return "Default"
    return "/".join(name for name, has in (("SCP", role.scp), ("SCU", role.scu)) if has) or "None"


def answer_lines(request: AssociateRQ, answer: AssociateAC) -> list[str]:
    """An A-ASSOCIATE-AC that the peer answered our request with."""
    user = answer.user_information
    proposed = {context.context_id: context for context in request.presentation_contexts}
    roles = {role.sop_class_uid: role for role in user.role_selections}
    lines = [
        f"Their Implementation Class UID:    {peer_text(user.implementation_class_uid) or 'unknown'}",
        f"Their Implementation Version Name: {peer_text(user.implementation_version_name) or 'unknown'}",
        f"Application Context Name:    {peer_text(answer.application_context)}",
        f"Calling Application Name:    {peer_text(answer.calling_ae_title)}",
        f"Called Application Name:     {peer_text(answer.called_ae_title)}",
        f"Their Max PDU Receive Size:  {user.maximum_length}",
        "Presentation Contexts:",
    ]
    for result in sorted(answer.results, key=lambda result: result.context_id):
        lines += _answered_context(result, proposed.get(result.context_id), roles)
    identity = "None" if user.user_identity_response is None else "Yes"
    lines += _extended(user.extended_negotiations, "Accepted Extended Negotiation:")
    lines += _window(user.operations_window, "Accepted Asynchronous Operations Window Negotiation:")
    lines.append(f"User Identity Negotiation Response: {identity}")
    return ["Accept Parameters:", *_framed("A-ASSOCIATE-AC", lines)]


def _answered_context(
    result: PresentationContextResult, proposed: PresentationContext | None, roles: dict[str, RoleSelection]
) -> Iterator[str]:
    abstract_syntax = proposed.abstract_syntax if proposed else ""
    yield f"  Context ID:        {result.context_id} ({result.result_text})"
    yield f"    Abstract Syntax: ={_name(abstract_syntax) if proposed else 'never proposed'}"
    if result.result == 0:
        yield f"    Accepted SCP/SCU Role: {_role(roles.get(abstract_syntax))}"
        yield f"    Accepted Transfer Syntax: ={_name(result.transfer_syntax)}"


def _extended(items: Iterable[ExtendedNegotiation], title: str) -> list[str]:
    lines = [
        f"  SOP Class: ={_name(item.sop_class_uid)}, {count_text(len(item.information), 'byte')}" for item in items
    ]
    return [title, *lines] if lines else [f"{title} None"]


def _common_extended(items: Iterable[CommonExtendedNegotiation]) -> list[str]:
    title = "Requested Common Extended Negotiation:"
    lines = []
    for item in items:
        lines += [f"  SOP Class: ={_name(item.sop_class_uid)}", f"    Service Class: ={_name(item.service_class_uid)}"]
        lines += [f"    Related General SOP Class: ={_name(uid)}" for uid in item.related_sop_class_uids]
    return [title, *lines] if lines else [f"{title} None"]


def _window(window: OperationsWindow | None, title: str) -> list[str]:
    if window is None:
        return [f"{title} None"]
    return [
        title,
        f"  Maximum Invoked Operations:     {window.invoked}",
        f"  Maximum Performed Operations:   {window.performed}",
    ]


def _identity(identity: UserIdentity | None) -> list[str]:
    title = "Requested User Identity Negotiation:"
    if identity is None:
        return [f"{title} None"]
    lines = [title, f"  Authentication Mode: {identity.kind} - {_IDENTITY_KINDS.get(identity.kind, 'unknown')}"]
    if identity.kind in (1, 2):
        lines.append(f"  Username: [{peer_text(identity.user_name)}]")
    if identity.kind == 2:
        lines.append("  Password: [not shown]")
    if identity.kind in _SECRETS:
        lines.append(f"  {_SECRETS[identity.kind]} (not dumped) length: {len(identity.primary)}")
    lines.append(f"  Positive Response Requested: {'Yes' if identity.response_requested else 'No'}")
    return lines


def reject_lines(answer: AssociateRJ) -> list[str]:
    """An A-ASSOCIATE-RJ that the peer answered our request with."""
    said = AssociationRejected(answer.result, answer.source, answer.reason)
    lines = [
        f"Result:    {_REJECT_RESULTS.get(answer.result, said.result_text)}",
        f"Source:    {_REJECT_SOURCES.get(answer.source, said.source_text)}",
        f"Reason:    {said.reason_text}",
    ]
    return ["Reject Parameters:", *_framed("A-ASSOCIATE-RJ", lines)]


def abort_lines(source: int, reason: int) -> list[str]:
    """An A-ABORT, sent or received."""
    said = Aborted(source, reason)
    lines = [f"Abort Source: {said.source_text}", f"Abort Reason: {said.reason_text}"]
    return ["Abort Parameters:", *_framed("A-ABORT", lines)]


def store_request_lines(request: CStoreRQ) -> list[str]:
    """A C-STORE-RQ that we send."""
    return [
        banner("OUTGOING DIMSE MESSAGE"),
        "Message Type                  : C-STORE RQ",
        f"Message ID                    : {request.message_id}",
        f"Affected SOP Class UID        : {_name(request.affected_sop_class_uid)}",
        f"Affected SOP Instance UID     : {peer_text(request.affected_sop_instance_uid)}",
        "Data Set                      : Present",
        f"Priority                      : {_PRIORITIES.get(request.priority, str(request.priority))}",
        banner("END DIMSE MESSAGE"),
    ]


def store_response_lines(event: Answered) -> list[str]:
    """The C-STORE-RSP of an event, with the peer's explanation of a warning or failure."""
    status = event.status
    lines = [
        banner("INCOMING DIMSE MESSAGE"),
        "Message Type                  : C-STORE RSP",
        f"Presentation Context ID       : {event.context_id}",
        f"Message ID Being Responded To : {event.request.message_id}",
        f"Affected SOP Class UID        : {_name(event.affected_sop_class_uid)}",
        f"Affected SOP Instance UID     : {peer_text(event.affected_sop_instance_uid)}",
        f"Status                        : {status}",
    ]
    if status.offending_elements:
        tags = ", ".join(tag_text(tag) for tag in status.offending_elements)
        lines.append(f"Offending Element             : {tags}")
    if status.comment:
        lines.append(f"Error Comment                 : {peer_text(status.comment)}")
    return [*lines, banner("END DIMSE MESSAGE")]


def message_type(request: CStoreRQ | CEchoRQ) -> str:
    """ "Store" or "Echo", as the log calls a request and its response."""
    return "Store" if request.name == "C-STORE-RQ" else "Echo"
