"""Types of all DIMSE messages of this stack: our requests, the peer's responses, and its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from asyncstore.dimse.messages import RESPONSE_BIT, CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, UnknownMessage

if TYPE_CHECKING:
    from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
    from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
    from asyncstore.status import Status

Request: TypeAlias = "CStoreRQ | CFindRQ | CEchoRQ | NActionRQ | NEventReportRQ"
"""The requests that we send, each of which the peer must answer."""

Response: TypeAlias = "CStoreRSP | CFindRSP | CEchoRSP | NActionRSP | NEventReportRSP"

Message: TypeAlias = "Request | Response | CCancelRQ | UnknownMessage"


def response_to(request: Request | UnknownMessage, status: Status) -> Response | UnknownMessage:
    """The final response to a request of the peer, without a data set; `request` must have a Message ID."""
    match request:
        case CStoreRQ():
            uids = (request.affected_sop_class_uid, request.affected_sop_instance_uid)
            return CStoreRSP(request.message_id, status, *uids)
        case CEchoRQ():
            return CEchoRSP(request.message_id, status)
        case UnknownMessage():
            return UnknownMessage(request.command_field | RESPONSE_BIT, None, request.message_id, False, status)
    return _response_to_other(request, status)


def _response_to_other(request: CFindRQ | NActionRQ | NEventReportRQ, status: Status) -> Response:
    from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
    from asyncstore.dimse.query_messages import CFindRSP

    match request:
        case NActionRQ():
            uids = (request.requested_sop_class_uid, request.requested_sop_instance_uid)
            return NActionRSP(request.message_id, status, *uids, request.action_type_id)
        case NEventReportRQ():
            uids = (request.affected_sop_class_uid, request.affected_sop_instance_uid)
            return NEventReportRSP(request.message_id, status, *uids, request.event_type_id)
    return CFindRSP(request.message_id, status, request.affected_sop_class_uid)
