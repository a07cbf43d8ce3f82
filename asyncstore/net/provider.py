"""Providers perform a peer's requests; an association of either role has one for each abstract syntax."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.messages import UnknownMessage
    from asyncstore.dimse.performing import PeerRequest


class Silence(enum.Enum):
    """The type of NO_ANSWER."""

    NO_ANSWER = enum.auto()


NO_ANSWER: Final = Silence.NO_ANSWER
"""Returned by `on_store` or by `ServiceProvider.perform` to leave the peer without an answer, until it gives up."""


class Reply(NamedTuple):
    """A response with a data set, encoded in the transfer syntax of the request's presentation context."""

    response: Response
    data_set: bytes


Answer: TypeAlias = "Response | UnknownMessage | Reply | Silence | None"
"""The response to a peer's request; None is success, NO_ANSWER sends no response."""


class Sink(Protocol):
    """Takes the data set of one request, piece by piece.

    If `write` or `finish` raises, that is logged, the sink is discarded, the rest of the data set is skipped, and the
    answer is 0110. If `discard` raises, that is logged. What they return is awaited if it is awaitable, and ignored if
    it is anything else, such as the count that the `write` of a file returns.
    """

    def write(self, data: bytes) -> Awaitable[object] | object:
        """Take a piece. If this returns an awaitable, nothing more is read from the peer until it is done."""

    def finish(self) -> Awaitable[object] | object:
        """End: the data set is whole. An awaitable is awaited before the request is performed."""

    async def discard(self) -> None:
        """Give up: the association ended before the data set was whole, or the sink failed."""


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
    associations at once. If `begin` or `perform` raises, or returns anything but what it says here, that is logged and
    the answer is 0110, "processing failure", which exists for every service (PS3.7 C.5). An exception that is not an
    Exception ends the association.
    """

    def begin(self, request: PeerRequest) -> Sink | None:
        """Take a request; return a Sink for its data set, which comes next, or None to get it in memory (up to 16 MiB).

        Set `request.refused_with` to a Status to refuse the request; its data set is skipped then. For a message that
        the provider does not perform, that is UNRECOGNISED_OPERATION.
        """

    def perform(
        self, request: PeerRequest, data_set: Sink | bytes | None
    ) -> Answer | Awaitable[Answer] | AsyncIterator[Answer]:
        """Perform the request and return the response; `data_set` is None if the request has none.

        None stands for a response with success, NO_ANSWER for no response at all: the peer then waits until it gives
        up. Awaitables run side by side, as many as the operations window allows, so responses may be late and come in
        any order. One goes on when its peer has left.

        An async iterator gives several responses, for example the matches of a C-FIND: pending ones, then the final
        one, which is success if it ends without one. It is closed early when the peer cancels the request (C-CANCEL),
        which is then answered with FE00, and when the peer has left.
        """


def performs_as_scu(provider: ServiceProvider) -> bool:
    """Whether a provider performs what an SCP asks of its SCU, such as the reports of storage commitment.

    Its attribute `performs_as_scu` says so. An SCP that we ask needs no role selection for that; one that asks for the
    association itself does, and is given the role (PS3.7 D.3.3.4).
    """
    return getattr(provider, "performs_as_scu", False)


Providers: TypeAlias = "Mapping[str, ServiceProvider]"
"""Providers by abstract syntax (SOP Class UID)."""
