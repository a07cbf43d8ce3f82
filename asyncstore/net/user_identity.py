"""Who decides about the caller of an acceptor, and what that caller claims (PS3.7 D.3.3.7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncstore.record import field, record

if TYPE_CHECKING:
    from asyncstore.upper_layer.user_information import UserIdentity


@record(frozen=True, slots=True)
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
