"""Verification Service Class (PS3.4 Annex A): does a peer answer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.dimse.messages import CEchoRQ, CEchoRSP
from asyncstore.dimse.performing import UNRECOGNISED_OPERATION
from asyncstore.errors import LocalProtocolError
from asyncstore.net.invoker import FinalResponse
from asyncstore.status import SUCCESS
from asyncstore.uids import VERIFICATION

if TYPE_CHECKING:
    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.net.association import Association
    from asyncstore.net.provider import Answer
    from asyncstore.status import Status


async def echo(association: Association) -> Status:
    """Verify that the peer answers, and return its status; see asyncstore.Association.echo."""
    association.check_open()
    context_id = association.contexts.any_of(VERIFICATION)
    if context_id is None:
        raise LocalProtocolError("the peer accepted no presentation context for Verification")
    response = FinalResponse()
    await association.invoker.send_command(context_id, CEchoRQ, response.on_response)
    return (await association.invoker.wait_for(response)).status


class VerificationProvider:
    """Answers every C-ECHO with success."""

    def begin(self, request: PeerRequest) -> None:
        """Refuse everything but a C-ECHO."""
        if not isinstance(request.message, CEchoRQ):
            request.refused_with = UNRECOGNISED_OPERATION

    def perform(self, request: PeerRequest, data_set: object) -> Answer:
        """Answer."""
        return CEchoRSP(request.message_id, SUCCESS)
