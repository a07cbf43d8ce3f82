"""The peer to call, and how long to wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.errors import LocalProtocolError
from asyncstore.record import record
from asyncstore.upper_layer.framing import MINIMUM_LENGTH

if TYPE_CHECKING:
    import ssl

    from asyncstore.net.tls_settings import TLS
    from asyncstore.upper_layer.user_information import UserIdentity

MAXIMUM_AE_TITLE_CHARACTERS = 16
# What each kind of user identity (PS3.7 D.3.3.7) holds that nobody else may know; a user name (1) is none.
_SECRETS = {2: "passcode", 3: "Kerberos ticket", 4: "SAML assertion", 5: "JSON Web Token"}
_LARGEST_WINDOW = 0xFFFF  # 16 bits (PS3.7 D.3.3.3), as a Message ID has


@record(frozen=True, slots=True)
class Peer:
    """A peer: its host name or address, its TCP port, and its AE title.

        asyncstore.Peer("pacs.example", 11112, ae_title="ARCHIVE")

    `ae_title` is sent as the Called AE title (PS3.8 9.3.2). An IPv6 address may be in brackets, as URLs write it.
    `source_address` is the address of this machine from which the peer is called, and a port, as for
    `socket.create_connection`: ("192.0.2.7", 0). Port 0 is any; another one serves one association at a time.
    `tls` secures the connection: a TLS, or an ssl.SSLContext of your own; None: clear text.
    """

    host: str
    port: int
    ae_title: str = "ANY-SCP"
    source_address: tuple[str, int] | None = None
    tls: TLS | ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", check_host(self.host))
        _check_port(self.port, 1)
        check_ae_title(self.ae_title)
        if self.source_address is not None:
            if not isinstance(self.source_address, tuple | list) or len(self.source_address) != 2:
                raise LocalProtocolError(f"source_address is {self.source_address!r:.200}: it is an address and a port")
            host, port = self.source_address
            object.__setattr__(self, "source_address", (_without_brackets(host), port))
            _check_port(port, 0)
        check_tls(self.tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def check_host(host: str) -> str:
    """Give back a host name or an address, without brackets; raises LocalProtocolError if it is neither."""
    host = _without_brackets(host)
    if not host.strip():  # to the system an empty name is this machine
        raise LocalProtocolError(f"host {host!r}: it is a host name or an address")
    if host.count(":") == 1 or "/" in host or "]:" in host:
        raise LocalProtocolError(f"host {host!r:.200}: it is a host name or an address, without a scheme or a port")
    return host


def _without_brackets(host: str) -> str:
    if not isinstance(host, str):
        raise LocalProtocolError(f"host {host!r:.200}: it is a host name or an address")
    return host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host


def _check_port(port: int, least: int) -> None:
    if not isinstance(port, int) or isinstance(port, bool):
        raise LocalProtocolError(f"port {port!r:.200}: a TCP port is a whole number")
    if not least <= port <= 0xFFFF:
        raise LocalProtocolError(f"port {port} is out of range: a TCP port is {least} to 65535")


@record(frozen=True, slots=True)
class Timeouts:
    """How long to wait for the peer, in seconds; each limits the whole wait, not each read.

    connect_seconds  host name look-up, TCP connection and TLS
    acse_seconds     the answer to an association or release request
    dimse_seconds    a DIMSE response; one to a large data set has a second more for each 10 MB
    network_seconds  the longest time without the peer accepting data

    math.inf waits for ever. Raises LocalProtocolError for a value that is not 0 or more.
    """

    connect_seconds: float = 10.0
    acse_seconds: float = 30.0
    dimse_seconds: float = 30.0
    network_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("connect_seconds", "acse_seconds", "dimse_seconds", "network_seconds"):
            check_seconds(name, getattr(self, name))


def check_ae_title(title: str) -> str:
    """Give back an AE title that can be sent (PS3.5 6.2, VR AE).

    Raises LocalProtocolError when it is empty, over 16 characters, or has a backslash, a control or a non-ASCII
    character.
    """
    if not isinstance(title, str):
        raise LocalProtocolError(f"AE title {title!r}: an AE title is text")
    if title and not title.strip():
        raise LocalProtocolError(f"AE title {title!r} has only spaces: an AE title has 1 to 16 characters")
    if not title or len(title) > MAXIMUM_AE_TITLE_CHARACTERS:
        raise LocalProtocolError(f"AE title {title!r} has {len(title)} characters: an AE title has 1 to 16")
    if "\\" in title or not title.isascii() or not title.isprintable():
        raise LocalProtocolError(f"AE title {title!r} has a character that an AE title cannot have")
    return title


def check_secret(identity: UserIdentity | None, peer: Peer, *, may_be_in_clear: bool) -> None:
    """Refuse to send the secret of a user identity where everybody on the way can read it."""
    if identity is None:
        return
    from asyncstore.upper_layer.user_information import UserIdentity

    check_type("user_identity", identity, UserIdentity)
    if not isinstance(identity.primary, bytes) or not isinstance(identity.secondary, bytes):  # may be secret: not shown
        raise LocalProtocolError("the texts of a user identity are bytes, such as b'scanner'")
    secret = _SECRETS.get(identity.kind)
    if secret is not None and peer.tls is None and not may_be_in_clear:
        text = "would be sent in clear text: use TLS, or allow it (allow_plaintext_credentials)"
        raise LocalProtocolError(f"the {secret} {text}")


def check_tls(tls: object) -> None:
    """Refuse what is neither a TLS nor an ssl.SSLContext; None: clear text."""
    if tls is not None and not hasattr(tls, "cipher_list") and not hasattr(tls, "wrap_bio"):
        raise LocalProtocolError(f"tls is {tls!r:.200}: it is a TLS, an ssl.SSLContext or None")


def check_type(name: str, value: object, kind: type) -> None:
    """Refuse a value that is of another type."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise LocalProtocolError(f"{name} is {value!r:.200}: it is {article} {kind.__name__}")


def check_callable(name: str, value: object) -> None:
    """Refuse what cannot be called; None: there is nothing to call."""
    if value is not None and not callable(value):
        raise LocalProtocolError(f"{name} is {value!r:.200}: it is a function")


def check_seconds(name: str, seconds: object) -> None:
    """Refuse a value that is not a number of seconds, 0 or more."""
    if not isinstance(seconds, int | float):
        raise LocalProtocolError(f"{name} is {seconds!r}: it is a number of seconds, math.inf for no limit")
    if not seconds >= 0:  # a NaN is not 0 or more either
        raise LocalProtocolError(f"{name} is {seconds}: it is 0 or more")


def check_length(name: str, length: int) -> None:
    """Refuse a maximum PDU length that leaves no room for data, or that no PDU can have; 0: no limit."""
    if not isinstance(length, int) or (length != 0 and not MINIMUM_LENGTH <= length <= 0xFFFFFFFF):
        raise LocalProtocolError(f"{name} is {length!r}: it is 0 for no limit, or {MINIMUM_LENGTH} or more in 32 bits")


def check_window(window: int) -> None:
    """Refuse an asynchronous operations window that cannot be proposed (PS3.7 D.3.3.3); 1 proposes none."""
    if not isinstance(window, int) or not 1 <= window <= _LARGEST_WINDOW:
        raise LocalProtocolError(f"an operations window of {window!r}: it is 1 to {_LARGEST_WINDOW}")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside of a range, both ends included."""
    if not isinstance(value, int | float):
        raise LocalProtocolError(f"{name} is {value!r:.200}: it is a number")
    if not least <= value <= most:
        raise LocalProtocolError(f"{name} is {value}: it is {least:g} to {most:g}")
