"""The A-ASSOCIATE-RQ that we send: what it says about us, and how long it is (PS3.8 9.3.2)."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from asyncstore.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from asyncstore.upper_layer.pdu import AssociateRQ
from asyncstore.upper_layer.user_information import (
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserInformation,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncstore.upper_layer.user_information import UserIdentity

_ITEM_HEADER_BYTES: Final = 4
_CONTEXT_HEADER_BYTES: Final = _ITEM_HEADER_BYTES + 4  # its ID, and three reserved bytes


def information_of_requestor(
    *,
    maximum_length: int,
    window: int = 1,
    user_identity: UserIdentity | None = None,
    both_roles: Iterable[str] = (),
    extended_negotiations: Mapping[str, bytes] = MappingProxyType({}),
) -> UserInformation:
    """The user information of our request: a `window` of 1 proposes none, and `both_roles` are SOP Class UIDs.

    Without a role selection the peer may only perform what we ask for (PS3.7 D.3.3.4). `extended_negotiations` are by
    SOP Class UID (PS3.7 D.3.3.5).
    """
    return UserInformation(
        maximum_length=maximum_length,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        operations_window=OperationsWindow(window, 1) if window > 1 else None,
        role_selections=tuple(RoleSelection(uid, True, True) for uid in both_roles),
        extended_negotiations=tuple(ExtendedNegotiation(*each) for each in extended_negotiations.items()),
        user_identity=user_identity,
    )


def request_bytes(information: UserInformation, contexts: Iterable[tuple[str, Sequence[str]]] = ()) -> int:
    """The length of the whole A-ASSOCIATE-RQ PDU with these contexts, its header included."""
    return len(AssociateRQ("", "", (), information).encode()) + sum(context_bytes(*context) for context in contexts)


def context_bytes(abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> int:
    """The length that a proposed presentation context adds to an A-ASSOCIATE-RQ."""
    return _CONTEXT_HEADER_BYTES + _ITEM_HEADER_BYTES + len(abstract_syntax) + _uids_bytes(tuple(transfer_syntaxes))


@lru_cache(maxsize=256)
def _uids_bytes(uids: tuple[str, ...]) -> int:
    """The length of their items; nearly all contexts of a request have the same transfer syntaxes."""
    return sum(_ITEM_HEADER_BYTES + len(uid) for uid in uids)
