"""What may help where there is no TLS: the options of the command line for each cause."""

from __future__ import annotations

from typing import Final

_ADVICE: Final = {
    "authority": "--tls-ca FILE trusts another authority, --tls-fingerprint this certificate alone",
    "name": "--tls-server-name NAME expects another name",
    "fingerprint": "ask those who run the peer whether --tls-fingerprint has changed",
    "expired": "the peer needs a new one",
    "not-yet-valid": "compare the clocks of both machines",
    "no-crl": "--tls-crl FILE gives one",
    "not-tls": "leave --tls out only if the data may travel in clear text",
    "no-answer": "--connect-timeout gives it more time",
    "no-common": "--tls-ciphers takes other ciphers of TLS 1.2",
    "our-certificate": "--tls-cert and --tls-key say which one to send",
    "passphrase": "--tls-key-passphrase-file FILE gives it",
}


def with_advice(text: str, cause: str) -> str:
    """A text about TLS that failed, with what may help."""
    advice = _ADVICE.get(cause)
    return f"{text}; {advice}" if advice else text
