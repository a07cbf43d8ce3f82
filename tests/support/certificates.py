"""Certificates made for a test: an authority, what it signs, and what is wrong with some of it."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from asyncstore import TLS

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

DAY = datetime.timedelta(days=1)
PASSPHRASE = b"correct horse"


@functools.cache
def _key(number: int) -> rsa.RSAPrivateKey:
    """The same few keys for all tests: making one takes a tenth of a second."""
    return rsa.generate_private_key(65537, 2048)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The PEM files of a certificate and its key."""

    certificate: Path
    key: Path
    encrypted_key: Path
    x509: x509.Certificate

    @property
    def fingerprint(self) -> str:
        return f"sha256:{self.x509.fingerprint(hashes.SHA256()).hex()}"

    @property
    def words(self) -> list[str]:
        """The options of our commands that make it our own."""
        return ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)]

    def tls(self, **settings: Any) -> TLS:
        return TLS(certificate=self.certificate, key=self.key, **settings)


class Authority:
    """A certificate authority of one test, in a directory of its own."""

    def __init__(self, directory: Path, name: str = "authority", *, key_number: int = 0) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.name = name
        self._key_number = key_number
        self._count = 0
        own = self._sign(name, (), key_number, days=(-1, 30), is_authority=True)
        self.x509 = own
        self.ca = directory / f"{name}.pem"
        self.ca.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str = "server",
        *,
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
        days: tuple[int, int] = (-1, 30),
        self_signed: bool = False,
    ) -> Certificate:
        """A certificate for these names, valid from one day to another, counted from today."""
        number = 10 + sum(map(ord, name)) % 5
        certificate = self._sign(name, names, number, days=days, self_signed=self_signed)
        paths = [self.directory / f"{name}{suffix}" for suffix in (".crt", ".key", ".encrypted.key")]
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        for path, encryption in (
            (paths[1], serialization.NoEncryption()),
            (paths[2], serialization.BestAvailableEncryption(PASSPHRASE)),
        ):
            encoding, how = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            path.write_bytes(_key(number).private_bytes(encoding, how, encryption))
        return Certificate(paths[0], paths[1], paths[2], certificate)

    def revocations(self, *certificates: Certificate, days: tuple[int, int] = (-1, 30)) -> Path:
        """A list of the authority that revokes these."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(_name(self.name))
        builder = builder.last_update(now + days[0] * DAY).next_update(now + days[1] * DAY)
        for each in certificates:
            revoked = x509.RevokedCertificateBuilder().serial_number(each.x509.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY / 2).build())
        path = self.directory / "revoked.pem"
        signed = builder.sign(_key(self._key_number), hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    def _sign(
        self,
        name: str,
        names: tuple[str, ...],
        key_number: int,
        *,
        days: tuple[int, int],
        self_signed: bool = False,
        is_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        signer = key_number if self_signed else self._key_number
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name if self_signed else self.name))
            .public_key(_key(key_number).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_alternative(each) for each in names])
            builder = builder.add_extension(alternatives, critical=False)
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(_key(signer), hashes.SHA256())
