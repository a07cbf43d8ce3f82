"""What performs a peer's requests: providers, registered by abstract syntax on an association of either role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.messages import UnknownMessage
    from asyncstore.dimse.performing import PeerRequest

Answer: TypeAlias = "Response | UnknownMessage | None"
"""The response to a peer's request; None for none at all."""


class Sink(Protocol):
    """Takes the data set of one request, piece by piece."""

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Take a piece. Where an awaitable is given, nothing more is read from the peer until it is done."""

    def finish(self) -> Awaitable[None] | None:
        """The data set is whole; awaited as in `write`, before the request is performed."""

    async def discard(self) -> None:
        """The association ended before the data set was whole."""


class ServiceProvider(Protocol):
    """Performs what a peer asks for, on each association that it is registered with."""

    def begin(self, request: PeerRequest) -> Sink | None:
        """A request has come, its data set not yet: where that is to go, or None to have it in memory (16 MiB at most).

        Set `request.refused_with` to refuse it; its data set is passed over then. UNRECOGNISED_OPERATION is the status
        for a message that the provider does not perform.
        """

    def perform(self, request: PeerRequest, data_set: Sink | bytes | None) -> Answer | Awaitable[Answer]:
        """Do what was asked for, and give the response; `data_set` is None where the request has none.

        An awaitable is awaited beside the others, as many as the operations window has room for; so responses may be
        late and come in any order. It goes on when its peer has gone.
        """


Providers: TypeAlias = "Mapping[str, ServiceProvider]"
"""Providers by abstract syntax (SOP Class UID)."""
