"""User identity negotiation (PS3.7 D.3.3.7): when a secret may be sent, and who decides about one that came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from asyncstore.errors import LocalProtocolError

if TYPE_CHECKING:
    from asyncstore.net.peer import Peer
    from asyncstore.upper_layer.items import UserIdentity

# What each kind of identity holds that nobody else may know; a user name (1) is none.
SECRETS: Final[Mapping[int, str]] = {2: "passcode", 3: "Kerberos ticket", 4: "SAML assertion", 5: "JSON Web Token"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who requests an association, for the `authenticate` of an acceptor.

    calling_ae_title, called_ae_title  as the request has them; anyone can write any
    user_identity                      what the caller claims, None if it does not; its secrets are not in its repr
    certificate                        the checked certificate of a client over TLS, as `ssl.SSLSocket.getpeercert`
                                       gives it; None if it sent none
    """

    calling_ae_title: str
    called_ae_title: str
    user_identity: UserIdentity | None
    certificate: Mapping[str, Any] | None = field(repr=False)


Answer: TypeAlias = bool | bytes
Authenticate: TypeAlias = Callable[[Caller], Answer | Awaitable[Answer]]
"""Decides whether a caller may have an association. It returns one of these, or an awaitable of one:

    True    it may
    bytes   it may, and gets these: a Kerberos server ticket, a SAML response or a JSON Web Token (PS3.7 D.3.3.7.2)
    False   it is rejected, without a reason

    authenticate=lambda caller: caller.user_identity is not None and caller.user_identity.user_name == "scanner"

If it raises, this is logged and the caller is rejected."""


def check_secret(identity: UserIdentity | None, peer: Peer, *, may_be_in_clear: bool) -> None:
    """Refuse to send a secret where everybody on the way can read it. Raises LocalProtocolError."""
    secret = None if identity is None else SECRETS.get(identity.kind)
    if secret is not None and peer.tls is None and not may_be_in_clear:
        raise LocalProtocolError(
            f"the {secret} would be sent in clear text: use TLS, or allow it (allow_plaintext_credentials)"
        )
