"""Makes OpenSSL's contexts from the settings of a program, anew whenever one of their files has changed."""

from __future__ import annotations

import dataclasses
import functools
import os
import ssl
from typing import TYPE_CHECKING, Final

from asyncstore.errors import TLSFailed

if TYPE_CHECKING:
    from asyncstore.net.tls_settings import TLS

_Stamp = tuple[int, int, int]

# OpenSSL's reasons for not loading a certificate or key.
_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it (PEM)",
    "NO_START_LINE": "there is no certificate in it (PEM)",
    "EE_KEY_TOO_SMALL": "the key is too short for today's OpenSSL",
    "CA_MD_TOO_WEAK": "its signature is too weak for today's OpenSSL",
}


def client_context(settings: TLS) -> ssl.SSLContext:
    """The context to call a peer with. It reads files. Raises TLSFailed("files") for one that cannot be used."""
    return _made(settings, _stamps(settings), is_server=False)


def server_context(settings: TLS) -> ssl.SSLContext:
    """The context to be called with. It reads files. Raises TLSFailed("files") for one that cannot be used."""
    return _made(settings, _stamps(settings), is_server=True)


def looking_context(settings: TLS, cause: str) -> ssl.SSLContext:
    """The context to look once at a certificate that was refused because of its name, or of its authority."""
    context = _new(dataclasses.replace(settings, certificate=None, key=None), is_server=False)
    context.check_hostname = False
    if cause == "authority":
        context.verify_mode = ssl.CERT_NONE
    return context


def _stamps(settings: TLS) -> tuple[_Stamp, ...]:
    """What changes with the files: of the system's authorities too, which also are renewed in the weeks of a run."""
    system = ssl.get_default_verify_paths()
    places = [path for path in (system.cafile, system.capath) if path is not None] if settings.ca is None else []
    return tuple(map(_stamp, settings.files)) + tuple(map(_stamp, places))


def _stamp(path: str | os.PathLike[str]) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unusable(error, path) from error
    except ValueError as error:  # a NUL in the name
        raise TLSFailed(f"cannot read {_name(path)}: {error}", "files") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _made(settings: TLS, stamps: tuple[_Stamp, ...], *, is_server: bool) -> ssl.SSLContext:
    """The context for files that look like this: loading the authorities of the system takes 30 ms."""
    return _new(settings, is_server=is_server)


def _new(settings: TLS, *, is_server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.set_ciphers(settings.cipher_list)
    except ssl.SSLError as error:
        raise TLSFailed(f"OpenSSL knows none of the ciphers {settings.cipher_list!r} for TLS 1.2", "files") from error
    if settings.certificate is not None:
        _load_certificate(context, settings)
    elif is_server:
        raise TLSFailed("an acceptor needs a certificate and its key", "files")
    if is_server:
        _ask_clients(context, settings)
    elif not settings.verify or settings.fingerprint is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, settings)
    return context


def _ask_clients(context: ssl.SSLContext, settings: TLS) -> None:
    context.num_tickets = 0  # an association lasts, and nobody resumes one
    wanted = settings.client_certificate or ("required" if settings.ca is not None else "none")
    if wanted != "none":
        _trust(context, settings)
        context.verify_mode = ssl.CERT_REQUIRED if wanted == "required" else ssl.CERT_OPTIONAL


def _trust(context: ssl.SSLContext, settings: TLS) -> None:
    # A certificate that is trusted ends the chain, even if it is not a root: one of the peer itself, for example.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.ca is None:
        context.load_default_certs()
    else:
        _load(context, settings.ca)
    if settings.crl is not None:
        _load(context, settings.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _load(context: ssl.SSLContext, path: str | os.PathLike[str]) -> None:
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:  # an SSLError among them
        raise _unusable(error, path) from error


def _load_certificate(context: ssl.SSLContext, settings: TLS) -> None:
    certificate = settings.certificate
    assert certificate is not None
    was_asked = False

    def passphrase() -> str | bytes:
        nonlocal was_asked
        was_asked = True
        # Without a function, OpenSSL asks at the terminal.
        if settings.passphrase is None:
            raise TLSFailed(f"the key {_name(settings.key or certificate)} needs a passphrase", "passphrase")
        return settings.passphrase() if callable(settings.passphrase) else settings.passphrase

    try:
        context.load_cert_chain(certificate, settings.key, passphrase)
    except OSError as error:
        if was_asked and isinstance(error, ssl.SSLError):
            raise TLSFailed(f"the passphrase of {_name(settings.key or certificate)} is wrong", "passphrase") from error
        raise _unusable(error, certificate, settings.key) from error


def _unusable(error: OSError, *paths: str | os.PathLike[str] | None) -> TLSFailed:
    names = " with ".join(_name(path) for path in paths if path is not None)
    if isinstance(error, ssl.SSLError):
        reason = _REASONS.get(error.reason, error.reason) if error.reason else "there is no key in it (PEM)"
        return TLSFailed(f"cannot use {names}: {reason}", "files")
    return TLSFailed(f"cannot read {names}: {error.strerror or error}", "files")


def _name(path: str | os.PathLike[str]) -> str:
    return repr(os.fspath(path))
