"""What an acceptor answers to a request for an association (PS3.8 9.3.3, PS3.7 D.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import check_ae_title, check_range
from asyncstore.net.provider import performs_as_scu
from asyncstore.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, TRANSFER_SYNTAXES
from asyncstore.upper_layer.framing import MINIMUM_LENGTH
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRJ
from asyncstore.upper_layer.user_information import (
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserInformation,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from asyncstore.net.provider import Providers
    from asyncstore.upper_layer.pdu import AssociateRQ

_UNLIMITED_WINDOW: Final = 64
# The AE title of an acceptor that takes calls to any AE title.
ANY_SCP: Final = "ANY-SCP"
# PS3.8 Table 9-21: permanent, by the service user, called or calling AE title not recognised.
_WRONG_CALLED_AE_TITLE: Final = AssociateRJ(1, 1, 7)
_WRONG_CALLING_AE_TITLE: Final = AssociateRJ(1, 1, 3)
# PS3.8 Table 9-18, result/reason of a presentation context.
_ACCEPTED, _ABSTRACT_SYNTAX_UNKNOWN, _TRANSFER_SYNTAXES_UNKNOWN = 0, 3, 4


class Negotiator:
    """Knows whom an acceptor accepts, and what; see Acceptor for the attributes."""

    def __init__(
        self,
        providers: Providers,
        *,
        ae_title: str,
        called_ae_titles: Collection[str] | None,
        calling_ae_titles: Collection[str] | None,
        transfer_syntaxes: Collection[str] | None,
        maximum_length: int,
        window: int,
    ) -> None:
        check_range("maximum_length", maximum_length or MINIMUM_LENGTH, MINIMUM_LENGTH, 0xFFFFFFFF)
        check_range("window", window, 1, 0xFFFF)
        self.providers = providers
        self.ae_title: str = check_ae_title(ae_title)
        if called_ae_titles is None and ae_title != ANY_SCP:
            called_ae_titles = ae_title
        self.called_ae_titles: frozenset[str] | None = _titles(called_ae_titles)
        self.calling_ae_titles: frozenset[str] | None = _titles(calling_ae_titles)
        self.transfer_syntaxes: tuple[str, ...] | None = (
            None if transfer_syntaxes is None else several(transfer_syntaxes)
        )
        self.maximum_length = maximum_length
        self.window = window

    def _rejection_of(self, request: AssociateRQ) -> AssociateRJ | None:
        """The rejection of a request; None if it is accepted."""
        if self.called_ae_titles is not None and request.called_ae_title not in self.called_ae_titles:
            return _WRONG_CALLED_AE_TITLE
        if self.calling_ae_titles is not None and request.calling_ae_title not in self.calling_ae_titles:
            return _WRONG_CALLING_AE_TITLE
        return None

    def _answer_to(self, request: AssociateRQ, identity_response: bytes = b"") -> AssociateAC:
        """The acceptance of a request, with a result for each presentation context."""
        identity = request.user_information.user_identity
        window = request.user_information.operations_window
        granted = min(window.invoked or _UNLIMITED_WINDOW, self.window) if window else 1
        return AssociateAC(
            called_ae_title=request.called_ae_title,
            calling_ae_title=request.calling_ae_title,
            results=tuple(
                self._result_of(context.context_id, context.abstract_syntax, context.transfer_syntaxes)
                for context in request.presentation_contexts
            ),
            user_information=UserInformation(
                maximum_length=self.maximum_length,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version_name=IMPLEMENTATION_VERSION_NAME,
                operations_window=OperationsWindow(granted, 1) if granted > 1 else None,
                user_identity_response=identity_response if identity and identity.response_requested else None,
                role_selections=tuple(self._roles(request)),
                extended_negotiations=tuple(self._negotiated(request)),
            ),
        )

    def _roles(self, request: AssociateRQ) -> Iterator[RoleSelection]:
        """The SCP role for peers that propose it, where our provider performs as the SCU (PS3.7 D.3.3.4)."""
        for proposed in request.user_information.role_selections:
            provider = self.providers.get(proposed.sop_class_uid)
            if provider is not None and performs_as_scu(provider):
                yield RoleSelection(proposed.sop_class_uid, False, proposed.scp)

    def _negotiated(self, request: AssociateRQ) -> Iterator[ExtendedNegotiation]:
        """What the providers' `negotiate`, if they have it, answers to the proposed bytes (PS3.7 D.3.3.5)."""
        for proposed in request.user_information.extended_negotiations:
            negotiate = getattr(self.providers.get(proposed.sop_class_uid), "negotiate", None)
            if negotiate is not None:
                yield ExtendedNegotiation(proposed.sop_class_uid, negotiate(proposed.information))

    def _result_of(self, context_id: int, abstract_syntax: str, proposed: Collection[str]) -> PresentationContextResult:
        syntax = self._choose(proposed)
        if abstract_syntax not in self.providers:
            return PresentationContextResult(context_id, _ABSTRACT_SYNTAX_UNKNOWN, "")
        if syntax is None:
            return PresentationContextResult(context_id, _TRANSFER_SYNTAXES_UNKNOWN, "")
        return PresentationContextResult(context_id, _ACCEPTED, syntax)

    def _choose(self, proposed: Collection[str]) -> str | None:
        """The transfer syntax to accept: our first one that is proposed, or the peer's first if we prefer none."""
        wanted = self.transfer_syntaxes
        if wanted is None:
            return next((uid for uid in proposed if uid in TRANSFER_SYNTAXES), None)
        return next((uid for uid in wanted if uid in proposed), None)


def several(words: Collection[str]) -> tuple[str, ...]:
    """The words as a tuple; a single one may be given as a plain string."""
    if not hasattr(words, "__iter__"):
        raise LocalProtocolError(f"{words!r:.200} is neither text nor a collection of texts")
    return (words,) if isinstance(words, str) else tuple(words)


def _titles(titles: Collection[str] | None) -> frozenset[str] | None:
    """AE titles as they arrive, without the spaces that pad them; None, which is all of them, stays None."""
    return None if titles is None else frozenset(check_ae_title(title).strip(" ") for title in several(titles))
