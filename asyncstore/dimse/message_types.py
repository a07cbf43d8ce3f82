"""Types of all DIMSE messages of this stack: our requests, the peer's responses, and its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from asyncstore.dimse.messages import RESPONSE_BIT, CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP, UnknownMessage

if TYPE_CHECKING:
    from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
    from asyncstore.status import Status

Request: TypeAlias = "CStoreRQ | CFindRQ | CEchoRQ"
"""The requests that we send, each of which the peer must answer."""

Response: TypeAlias = "CStoreRSP | CFindRSP | CEchoRSP"

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
    from asyncstore.dimse.query_messages import CFindRSP

    return CFindRSP(request.message_id, status, request.affected_sop_class_uid)
