"""The DIMSE side of an association without its network: what it makes of the fragments that come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.dimse.operations import Operations
from asyncstore.dimse.performing import Performing
from asyncstore.dimse.reassembly import Incoming
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.contexts import AcceptedContext

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.dimse.reassembly import Received
    from asyncstore.errors import RemoteProtocolError
    from asyncstore.upper_layer.pdu import Fragment

CONTEXT_ID = 3


class Exchange(Operations):
    """The operations of an association, and the requests that its peer sends, from the same fragments.

    `other_contexts` are accepted besides CONTEXT_ID; `told` has the answers that did not quite fit their request.
    """

    def __init__(self, *, window: int = 1, other_contexts: Iterable[AcceptedContext] = ()) -> None:
        self.told: list[RemoteProtocolError] = []
        super().__init__(window=window, tolerate=self.told.append)
        accepted = (AcceptedContext(CONTEXT_ID, CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN), *other_contexts)
        self.contexts = {context.context_id: context for context in accepted}
        self.performing = Performing(
            {CONTEXT_ID: AcceptedContext(CONTEXT_ID, CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)}
        )
        self.performed = 0
        self._incoming = Incoming()
        self._request: PeerRequest | None = None

    def receive(self, fragment: Fragment) -> Received | None:
        """The message that a fragment completes, or a part of a request."""
        return self._incoming.receive(fragment)

    def perform(self, received: Received) -> None:
        """Take a request, or a piece of its data set; it is performed when it is whole."""
        request = self._request or self.performing.begin(received)
        self._request = None if received.is_last else request
        if received.is_last and request is not None:
            self.performing.end(request)
            self.performed += 1
