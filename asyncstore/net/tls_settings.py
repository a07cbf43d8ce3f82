"""What a program says about TLS: whom to trust, who we are, and which versions and ciphers to take (PS3.15 Annex B).

This loads neither ssl nor any certificate; `tls_context.py` does, for each new association.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

from asyncstore.errors import LocalProtocolError
from asyncstore.record import field, record

Profile: TypeAlias = Literal["bcp195", "non-downgrading", "modified"]
ClientCertificate: TypeAlias = Literal["required", "optional", "none"]
Path: TypeAlias = str | os.PathLike[str]
Passphrase: TypeAlias = str | bytes | Callable[[], str | bytes]

# The cipher suites of TLS 1.2, as OpenSSL names them; those of TLS 1.3 are always allowed. Each profile also takes
# nothing below TLS 1.2.
CIPHERS: Final[dict[str, str]] = {
    # PS3.15 B.12: RFC 9325 4.2 recommends these, and none with finite-field Diffie-Hellman.
    "bcp195": "ECDHE+AESGCM:ECDHE+CHACHA20",
    # PS3.15 B.10, which also names DHE suites.
    "non-downgrading": "ECDHE+AESGCM:DHE+AESGCM",
    # PS3.15 B.13: DHE is forbidden where the length of its key cannot be set, as here.
    "modified": "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM",
}
_FINGERPRINT: Final = re.compile(r"sha256:([0-9a-f]{2}:?){32}", re.IGNORECASE)


@record(frozen=True, slots=True)
class TLS:
    """How to secure connections by TLS 1.2 or 1.3.

        asyncstore.Peer("pacs.example", 2762, tls=asyncstore.TLS(ca="hospital-ca.pem"))
        asyncstore.StorageSCP(tls=asyncstore.TLS(certificate="scp.pem", key="scp.key", ca="clients.pem"))

    ca                  PEM file, or directory as `openssl rehash` makes it, of the authorities to trust; None: those of
                        the system. Of an acceptor, those of its clients
    certificate         PEM file of our own certificate, and of the chain above it; an acceptor must have one
    key                 PEM file of its private key; None: it is in the file of the certificate
    passphrase          of an encrypted key, or a function that returns it
    server_name         name that the peer's certificate must have; None: the host of the Peer
    fingerprint         "sha256:..." of the peer's certificate, in place of its authority, name and dates
    crl                 PEM file of revocation lists: the peer's certificate must not be on that of its authority
    client_certificate  of an acceptor: "required" (if there is a `ca`), "optional" or "none" from its clients
    profile             "bcp195" (PS3.15 B.12), "non-downgrading" (B.10) or "modified" (B.13): the ciphers of TLS 1.2
    ciphers             OpenSSL's list of ciphers of TLS 1.2, in place of the profile's
    verify              False: accept any certificate. Then anyone on the way can read and change everything

    The files are read again for each new association if they have changed. Raises LocalProtocolError for a value that
    makes no sense; a file that cannot be used raises TLSFailed when an association begins.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    passphrase: Passphrase | None = field(default=None, repr=False)
    server_name: str | None = None
    fingerprint: str | None = None
    crl: Path | None = None
    client_certificate: ClientCertificate | None = None
    profile: Profile = "bcp195"
    ciphers: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.fingerprint is not None:
            object.__setattr__(self, "fingerprint", _checked_fingerprint(self.fingerprint))
        if self.key is not None and self.certificate is None:
            raise LocalProtocolError("a key without a certificate: give the certificate that it belongs to")
        if self.client_certificate not in (None, *get_args(ClientCertificate)):
            raise LocalProtocolError(
                f"client_certificate is {self.client_certificate!r}: it is required, optional or none"
            )
        if self.client_certificate in ("required", "optional") and self.ca is None:
            raise LocalProtocolError("certificates of clients cannot be checked without a ca")
        if self.profile not in get_args(Profile):
            raise LocalProtocolError(f"profile is {self.profile!r}: it is {', '.join(get_args(Profile))}")

    @property
    def cipher_list(self) -> str:
        """The cipher suites of TLS 1.2, as OpenSSL takes them."""
        return self.ciphers or CIPHERS[self.profile]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return tuple(path for path in (self.ca, self.certificate, self.key, self.crl) if path is not None)


def _checked_fingerprint(text: str) -> str:
    if not _FINGERPRINT.fullmatch(text):
        raise LocalProtocolError(f"{text!r} is not a fingerprint: sha256: and 64 hexadecimal digits, with or without :")
    return "sha256:" + text[len("sha256:") :].replace(":", "").lower()
