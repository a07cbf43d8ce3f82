"""The options for TLS and user identity of the commands that call a peer, or are called; and what they ask for.

A command takes them by a decorator and reads them from its context.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import typer

from asyncstore.cli import options
from asyncstore.cli.output.plain_text import path_text
from asyncstore.cli.output.tls_text import with_advice
from asyncstore.errors import LocalProtocolError, TLSFailed

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.net.tls_settings import TLS
    from asyncstore.upper_layer.user_information import UserIdentity

_PANEL: Final = "Security Options"
_NOT_VERIFIED: Final = (
    "--insecure: the peer's certificate is not verified; anyone on the way can read and change what is sent"
)


def _file(help_text: str) -> Any:
    return _value("FILE", help_text)


def _flag(name: str, help_text: str) -> Any:
    return options.Annotated[bool, options.option(name, help=help_text, panel=_PANEL)]


def _value(metavar: str, help_text: str, parser: Callable[[object], Any] = options.text) -> Any:
    return options.Annotated[str | None, options.option(parser=parser, metavar=metavar, help=help_text, panel=_PANEL)]


# Parameter -> its type.
_OF_BOTH: Final = {
    "tls_cert": _file("Our certificate, and the chain above it (PEM)."),
    "tls_key": _file("Its private key (PEM)." + options.default_text("in the file of the certificate")),
    "tls_key_passphrase_file": _file(
        "The passphrase of the key. Or set ASYNCSTORE_TLS_KEY_PASSPHRASE, or be asked at the terminal."
    ),
    "tls_profile": _value(
        "PROFILE",
        "bcp195 (PS3.15 B.12), non-downgrading (B.10) or modified (B.13): the ciphers of TLS 1.2."
        + options.default_text("bcp195"),
        options.choice("bcp195", "non-downgrading", "modified"),
    ),
    "tls_ciphers": _value(
        "LIST", "OpenSSL's list of ciphers of TLS 1.2, in place of the profile's: DEFAULT:AES128-SHA for old peers."
    ),
    "tls_crl": _file("Lists of revoked certificates (PEM), which the peer's authority must have one of."),
}
_OF_CALLERS: Final = {
    "tls": _flag("--tls", "Call the peer by TLS 1.2 or 1.3."),
    "tls_ca": _file("Authorities to trust (PEM file or directory)." + options.default_text("those of the system")),
    **_OF_BOTH,
    "tls_server_name": _value("NAME", "Name that the peer's certificate must have." + options.default_text("ADDR")),
    "tls_fingerprint": _value(
        "sha256:...", "Trust the certificate with this fingerprint alone, whatever its authority, name and dates."
    ),
    "insecure": _flag("--insecure", "Accept any certificate: anyone on the way can read and change what is sent."),
    "user": _value("NAME", "Claim a user identity (PS3.7 D.3.3.7) by this user name."),
    "passcode_file": _file("Its passcode; -: ask at the terminal. Or set ASYNCSTORE_PASSCODE."),
    "kerberos_file": _file("Claim a user identity by a Kerberos service ticket."),
    "saml_file": _file("Claim one by a SAML assertion. Or set ASYNCSTORE_SAML."),
    "jwt_file": _file("Claim one by a JSON Web Token. Or set ASYNCSTORE_JWT."),
    "require_identity_response": _flag(
        "--require-identity-response", "Send nothing unless the peer confirms the user identity."
    ),
    "allow_plaintext_credentials": _flag(
        "--allow-plaintext-credentials", "Send a passcode, ticket or token also without TLS."
    ),
}
_OF_THE_CALLED: Final = {
    "tls": _flag("--tls", "Accept associations by TLS 1.2 or 1.3 only; needs --tls-cert."),
    **_OF_BOTH,
    "tls_client_ca": _file("Demand certificates of these authorities from the callers (PEM file or directory)."),
    "tls_client_cert": _value(
        "required|optional",
        "Whether a caller may come without a certificate." + options.default_text("required"),
        options.choice("required", "optional"),
    ),
}


def calls(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of one that calls a peer."""
    return with_options(command, _OF_CALLERS)


def is_called(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of one that a peer calls."""
    return with_options(command, _OF_THE_CALLED)


def with_options(command: Callable[..., None], more: dict[str, Any]) -> Callable[..., None]:
    """A command with more options, which it reads from its context: flags, or values that are None if not given."""
    options.added_options(command).update(more)
    return command


# -- TLS ---------------------------------------------------------------------------------------------------------------


def caller_tls(context: typer.Context) -> "TLS | None":
    """The TLS settings that the options ask for, tried once; None: clear text."""
    given = context.params
    return _tls(
        context,
        is_caller=True,
        ca=given["tls_ca"],
        server_name=given["tls_server_name"],
        fingerprint=given["tls_fingerprint"],
        verify=not given["insecure"],
    )


def called_tls(context: typer.Context) -> "TLS | None":
    """The same of a command that is called."""
    given = context.params
    if given["tls"] and given["tls_cert"] is None:
        raise typer.BadParameter("it needs --tls-cert, and --tls-key if the key is in another file", param_hint="--tls")
    return _tls(context, is_caller=False, ca=given["tls_client_ca"], client_certificate=given["tls_client_cert"])


def _tls(context: typer.Context, *, is_caller: bool, **settings: Any) -> "TLS | None":
    given = context.params
    if not given["tls"]:
        _refuse_without_tls(context)
        return None
    from asyncstore.net.tls_settings import TLS

    passphrase = _secret(given["tls_key_passphrase_file"], "--tls-key-passphrase-file", "ASYNCSTORE_TLS_KEY_PASSPHRASE")

    def made(passphrase: bytes | None) -> TLS:
        return TLS(
            certificate=given["tls_cert"],
            key=given["tls_key"],
            passphrase=passphrase,
            crl=given["tls_crl"],
            profile=given["tls_profile"] or "bcp195",
            ciphers=given["tls_ciphers"],
            **settings,
        )

    try:
        tls = made(passphrase)
        error = _problem_with(tls, is_caller=is_caller)
        if error is not None and error.cause == "passphrase" and passphrase is None and sys.stdin.isatty():
            from asyncstore.cli.asking import asked_for

            key = path_text(given["tls_key"] or given["tls_cert"])
            tls = made(asked_for(f"Passphrase of {key}", "--tls-key-passphrase-file"))
            error = _problem_with(tls, is_caller=is_caller)
    except LocalProtocolError as mistake:
        raise typer.BadParameter(str(mistake), param_hint="--tls") from None
    if error is not None:
        raise typer.BadParameter(path_text(with_advice(str(error), error.cause)), param_hint="--tls")
    return tls


def _problem_with(tls: "TLS", *, is_caller: bool) -> TLSFailed | None:
    """What is wrong with the files, if anything; the first association finds them loaded."""
    from asyncstore.net import tls_context

    try:
        (tls_context.client_context if is_caller else tls_context.server_context)(tls)
    except TLSFailed as error:
        return error
    return None


def _refuse_without_tls(context: typer.Context) -> None:
    """An option of TLS on the command line without --tls is a mistake that would send everything in clear text."""
    for name in (*_OF_CALLERS, *_OF_THE_CALLED):
        is_about_tls = name.startswith("tls_") or name == "insecure"
        if is_about_tls and context.params.get(name) and options.is_typed(context, name):
            spelled = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("it needs --tls; without that, everything is in clear text", param_hint=spelled)


def telling(context: typer.Context, command: Callable[["DocumentedLog"], int]) -> Callable[["DocumentedLog"], int]:
    """The command, which says first that certificates are not verified, if so."""
    if not (context.params["insecure"] and context.params["tls"]):
        return command

    def told(log: "DocumentedLog") -> int:
        log.tell(logging.WARNING, _NOT_VERIFIED)
        return command(log)

    return told


# -- user identity -----------------------------------------------------------------------------------------------------


def user_identity(context: typer.Context) -> "UserIdentity | None":
    """The user identity that the options and the environment ask for; None: none."""
    from asyncstore.upper_layer.user_information import UserIdentity

    given = context.params
    confirmed = given["require_identity_response"]
    claims: dict[str, UserIdentity] = {}
    if given["user"] is not None:
        passcode = _secret(given["passcode_file"], "--passcode-file", "ASYNCSTORE_PASSCODE", asks_for="Passcode")
        name = given["user"].encode()
        claims["--user"] = UserIdentity(1 if passcode is None else 2, name, passcode or b"", confirmed)
    elif given["passcode_file"] is not None:
        raise typer.BadParameter("a passcode needs a user name: --user", param_hint="--passcode-file")
    for kind, parameter, variable in (
        (3, "kerberos_file", None),
        (4, "saml_file", "ASYNCSTORE_SAML"),
        (5, "jwt_file", "ASYNCSTORE_JWT"),
    ):
        spelled = f"--{parameter.replace('_', '-')}"
        secret = _secret(given[parameter], spelled, variable, is_text=kind != 3)
        if secret is not None:
            claims[spelled] = UserIdentity(kind, secret, b"", confirmed)
    if len(claims) > 1:
        raise typer.BadParameter(f"{' and '.join(claims)}: an association has one user identity", param_hint="--user")
    identity = next(iter(claims.values()), None)
    if identity is None and confirmed:
        raise typer.BadParameter("there is no user identity: give --user", param_hint="--require-identity-response")
    if identity is not None:
        for spelled, field in ((next(iter(claims)), identity.primary), ("--passcode-file", identity.secondary)):
            if len(field) > 0xFFFF:
                raise typer.BadParameter("it is longer than 65535 bytes", param_hint=spelled)
    if identity is not None and identity.kind > 1 and not (given["tls"] or given["allow_plaintext_credentials"]):
        text = "a secret would be sent in clear text: use --tls, or --allow-plaintext-credentials"
        raise typer.BadParameter(text, param_hint=next(iter(claims)))
    return identity


def _secret(
    path: str | None, spelled: str, variable: str | None, *, is_text: bool = True, asks_for: str | None = None
) -> bytes | None:
    """A secret from a file, the terminal or the environment; None if there is none. It is never in an argument."""
    if path == "-" and asks_for is not None:
        from asyncstore.cli.asking import asked_for

        return asked_for(asks_for, spelled)
    if path is None:
        value = os.environ.get(variable) if variable is not None else None
        return None if value is None else os.fsencode(value)
    try:
        with open(path, "rb") as file:
            secret = file.read(1 << 20)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path_text(path)!r}: {error.strerror}", param_hint=spelled) from None
    return secret.rstrip(b"\r\n") if is_text else secret
