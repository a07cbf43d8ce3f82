"""The requests of the peer that are being performed on one association (PS3.7 9.1, 10.1).

    request = performing.begin(received)     # the command set has come
    ...                                      # take its data set, and perform it
    performing.end(request)                  # before its response is written

A peer may send requests on an association of either role. `outstanding` has those without an answer, by Message ID.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from asyncstore.dimse.query_messages import CCancelRQ
from asyncstore.errors import RemoteProtocolError
from asyncstore.record import record
from asyncstore.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.dimse.message_types import Request
    from asyncstore.dimse.messages import UnknownMessage
    from asyncstore.dimse.reassembly import Received
    from asyncstore.upper_layer.contexts import AcceptedContext

# PS3.7 C.5.
SOP_CLASS_NOT_SUPPORTED: Final = Status(0x0122)
DUPLICATE_INVOCATION: Final = Status(0x0210)
UNRECOGNISED_OPERATION: Final = Status(0x0211)


@record(slots=True, eq=False)
class PeerRequest:
    """A request of the peer, from its command set to its response.

    `message` is the request as it came, `context` the accepted presentation context that it came in. `calling_ae_title`
    is that of the peer if it requested the association. `data_set_bytes` is how much of its data set has come.
    `refused_with` is the status of its response if it is refused before its data set is whole. `is_cancelled`: the peer
    asked to end it (C-CANCEL). `association` is the one on which it came: a provider may invoke operations on it in
    turn.
    """

    context: AcceptedContext
    message: Request | UnknownMessage
    calling_ae_title: str = ""
    data_set_bytes: int = 0
    refused_with: Status | None = None
    is_cancelled: bool = False
    association: Any = None

    @property
    def message_id(self) -> int:
        """The request's Message ID."""
        assert self.message.message_id is not None
        return self.message.message_id


class Performing:
    """The requests of one peer on `association`; `contexts` are the accepted presentation contexts, by ID."""

    def __init__(
        self, contexts: Mapping[int, AcceptedContext], calling_ae_title: str = "", association: object = None
    ) -> None:
        self._contexts = contexts
        self._calling_ae_title = calling_ae_title
        self._association = association
        self._requests: dict[int, PeerRequest] = {}
        self.outstanding: Mapping[int, PeerRequest] = MappingProxyType(self._requests)

    def begin(self, received: Received) -> PeerRequest | None:
        """Take a request whose command set has come; None if it must not be answered (C-CANCEL).

        One whose Message ID is still outstanding is refused (`refused_with`). Raises RemoteProtocolError when it came
        in a presentation context that was not accepted, or has no Message ID.
        """
        message = received.message
        context = self._contexts.get(received.context_id)
        if context is None:
            raise RemoteProtocolError(
                f"{received.context_id} was not accepted", pdu="P-DATA-TF", field="Presentation Context ID"
            )
        if isinstance(message, CCancelRQ):
            if message.cancelled_message_id in self._requests:
                self._requests[message.cancelled_message_id].is_cancelled = True
            return None
        assert message.responded_to is None, "a request of the peer"
        if message.message_id is None:
            raise RemoteProtocolError("missing", pdu=message.name, field="Message ID")
        request = PeerRequest(context, message, self._calling_ae_title, association=self._association)
        if message.message_id in self._requests:
            request.refused_with = DUPLICATE_INVOCATION
        else:
            self._requests[message.message_id] = request
        return request

    def end(self, request: PeerRequest) -> None:
        """Forget a request: its response is written next, or it gets none."""
        if self._requests.get(request.message_id) is request:
            del self._requests[request.message_id]
