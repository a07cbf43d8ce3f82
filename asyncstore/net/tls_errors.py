"""Says why there is no TLS on a connection: OpenSSL's errors in the words of somebody who must mend it."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import TLSFailed
from asyncstore.upper_layer.pdu import PDU_NAMES, stranger_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# X509_V_ERR_...: cause, and what is wrong with the peer's certificate.
_VERIFICATION: Final[Mapping[int, tuple[str, str]]] = {
    2: ("authority", "is not of an authority that we trust"),
    3: ("no-crl", "is of an authority whose list of revocations we do not have"),
    9: ("not-yet-valid", "is not valid yet"),
    10: ("expired", "has expired"),
    11: ("no-crl", "is of an authority whose list of revocations is not valid yet"),
    12: ("no-crl", "is of an authority whose list of revocations has expired"),
    18: ("authority", "is signed by itself alone, and we do not trust it"),
    19: ("authority", "is not of an authority that we trust"),
    20: ("authority", "is not of an authority that we trust"),
    21: ("authority", "is not of an authority that we trust"),
    23: ("revoked", "has been revoked"),
    62: ("name", "is for other names"),
    64: ("name", "is for other names"),
}
_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(\w+)")
# Alerts (RFC 8446 6.2) of a peer that does not take our certificate.
_OF_OUR_CERTIFICATE: Final = frozenset(
    (
        "ACCESS_DENIED",
        "BAD_CERTIFICATE",
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_REQUIRED",
        "CERTIFICATE_REVOKED",
        "CERTIFICATE_UNKNOWN",
        "UNKNOWN_CA",
        "UNSUPPORTED_CERTIFICATE",
    )
)
_VERSIONS: Final = frozenset(("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "VERSION_TOO_LOW"))
_CIPHERS: Final = frozenset(("HANDSHAKE_FAILURE", "INSUFFICIENT_SECURITY", "NO_SHARED_CIPHER", "NO_CIPHERS_AVAILABLE"))
# With Python 3.11.2, as Debian 12 has it, a connection that just ends looks like one that ended TLS properly.
_ENDS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_TLS_RECORDS: Final = (0x14, 0x15, 0x16, 0x17)  # RFC 8446 5.1
_MOST_NAMES: Final = 5
_MOST_CHARACTERS: Final = 100


class Suspicion:
    """What a peer may hold against us that ends a connection: our certificate, or that it got none."""

    def __init__(self, certificate: str | None, *, is_known: bool = True) -> None:
        self.refused: str
        if certificate is not None:
            self.refused = f"refused our certificate {certificate}"
        elif is_known:
            self.refused = "wants a certificate from us, and none was sent"
        else:
            self.refused = "refused our certificate, or wants one"


def not_established(error: ssl.SSLError, first: bytes, suspicion: Suspicion) -> TLSFailed:
    """Why a handshake failed; `first` are the first bytes of the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        cause, text = _VERIFICATION.get(error.verify_code, ("other", f"cannot be used: {error.verify_message}"))
        return TLSFailed(f"the peer's certificate {text}", cause)
    if first and first[0] not in _TLS_RECORDS:
        return TLSFailed(f"the peer does not speak TLS on this port: {_looks_like(first)}", "not-tls")
    if isinstance(error, _ENDS):
        return closed_early()
    return ended_by_alert(error, suspicion)


def closed_early() -> TLSFailed:
    """For a peer that closed the connection before the end of the handshake."""
    text = "the peer closed the connection during the TLS handshake: it may not speak TLS on this port"
    return TLSFailed(text, "not-tls")


def silent(seconds: float) -> TLSFailed:
    """For a peer that did not answer."""
    text = f"the peer did not finish the TLS handshake within {seconds:g} s: it may not speak TLS on this port"
    return TLSFailed(text, "no-answer")


def ended_by_alert(error: ssl.SSLError, suspicion: Suspicion) -> TLSFailed:
    """Why the peer, or we, ended TLS: the handshake, or in TLS 1.3 the first read after it."""
    reason = error.reason or str(error)
    found = _ALERT.fullmatch(reason)
    name = found[1] if found else reason
    said = name.lower().replace("_", " ")
    if found and name in _OF_OUR_CERTIFICATE:
        return TLSFailed(f"the peer {suspicion.refused} ({said})", "our-certificate")
    if name in _VERSIONS:
        text = f"no common version of TLS: we take 1.2 and 1.3, as the profile demands ({said})"
        return TLSFailed(text, "no-common")
    if found and name in _CIPHERS:
        text = f"the peer ended the TLS handshake ({said}): it has no cipher in common with us, or {suspicion.refused}"
        return TLSFailed(text, "no-common")
    if name in _CIPHERS:
        return TLSFailed(f"no cipher of TLS in common ({said})", "no-common")
    if name == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TLSFailed("the peer sent no certificate, and one is required", "other")
    return TLSFailed(f"the peer ended TLS: {said}" if found else f"TLS failed: {said}", "other")


def _looks_like(first: bytes) -> str:
    if first[0] in PDU_NAMES and (len(first) < 2 or not first[1]):
        return f"it sends a PDU of DICOM, {PDU_NAMES[first[0]]}"
    return f"it looks like {stranger_of(first) or 'another protocol'}"


def names_in(certificate: Mapping[str, Any]) -> str:
    """The names that a certificate is for, as `SSLSocket.getpeercert` gives it; safe to print."""
    names = [value for _, value in certificate.get("subjectAltName", ())]
    if not names:
        names = [value for parts in certificate.get("subject", ()) for key, value in parts if key == "commonName"]
    shown = [ascii(name[:_MOST_CHARACTERS])[1:-1] for name in names[:_MOST_NAMES]]
    more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*shown, *more]) or "no name at all"
