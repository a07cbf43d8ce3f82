"""Providers perform a peer's requests; an association of either role has one for each abstract syntax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.messages import UnknownMessage
    from asyncstore.dimse.performing import PeerRequest

Answer: TypeAlias = "Response | UnknownMessage | None"
"""The response to a peer's request; None to send no response."""


class Sink(Protocol):
    """Takes the data set of one request, piece by piece."""

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Take a piece. If this returns an awaitable, nothing more is read from the peer until it is done."""

    def finish(self) -> Awaitable[None] | None:
        """End: the data set is whole. An awaitable is awaited before the request is performed."""

    async def discard(self) -> None:
        """Give up: the association ended before the data set was whole."""


class ServiceProvider(Protocol):
    """Performs the requests of a peer, for one abstract syntax or several (PS3.7 7.5).

    This one answers every request with success:

        from asyncstore.dimse.message_types import response_to
        from asyncstore.status import SUCCESS

        class Agreeable:
            def begin(self, request):
                return None

            def perform(self, request, data_set):
                return response_to(request.message, SUCCESS)

    `asyncstore.associate(..., providers={abstract_syntax: Agreeable()})` registers it. One provider may serve several
    associations at once. If `begin` or `perform` raises, that is logged and the answer is 0110.
    """

    def begin(self, request: PeerRequest) -> Sink | None:
        """Take a request; return a Sink for its data set, which comes next, or None to get it in memory (up to 16 MiB).

        Set `request.refused_with` to a Status to refuse the request; its data set is skipped then. For a message that
        the provider does not perform, that is UNRECOGNISED_OPERATION.
        """

    def perform(self, request: PeerRequest, data_set: Sink | bytes | None) -> Answer | Awaitable[Answer]:
        """Perform the request and return the response; `data_set` is None if the request has none.

        Awaitables run side by side, as many as the operations window allows, so responses may be late and come in any
        order. One goes on when its peer has left.
        """


Providers: TypeAlias = "Mapping[str, ServiceProvider]"
"""Providers by abstract syntax (SOP Class UID)."""
