"""The certificates of the scenes with TLS, made once by the command openssl: an authority, a receiver and a sender."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_EXTENSIONS: Final = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The PEM files below a directory."""

    directory: Path

    def file(self, name: str) -> str:
        """The path of "ca.crt", "receiver.key", "sender.crt", ..."""
        return str(self.directory / name)


def missing() -> str | None:
    """Why there are none."""
    return None if shutil.which("openssl") else "not available: no openssl"


@cache
def certificates() -> Certificates:
    """Certificates of 30 days, for as long as this process runs."""
    directory = Path(tempfile.mkdtemp(prefix="asyncstore-benchmark-tls-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "extensions").write_text(_EXTENSIONS)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
    for name in ("receiver", "sender"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30")
        openssl("x509", "-req", *signed, "-extfile", "extensions", "-out", f"{name}.crt")
    return Certificates(directory)
