"""The encoding of values in a ledger."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final

PATH_ENCODING: Final = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""What makes the name of a file bytes, as on disk: `os.fsencode` takes three times as long."""

_LARGEST: Final = (1 << 63) - 1
_LONGEST_LINE: Final = 200


def pack_uid(uid: str) -> bytearray | str:
    """Pack a UID into half its size, four bits per digit or dot; a UID with other characters stays text.

    The bytes are readable in hexadecimal: A is a dot, and F fills the last byte.
    """
    if uid.isascii() and uid.replace(".", "").isdigit():
        digits = uid.replace(".", "a")
        return bytearray.fromhex(digits + "f" if len(digits) & 1 else digits)
    return uid.encode("utf-8", "backslashreplace").decode()


def unpack_uid(packed: bytes | bytearray | str) -> str:
    """The UID that pack_uid packed."""
    return packed if isinstance(packed, str) else packed.hex().replace("a", ".").rstrip("f")


def storable(number: int) -> int:
    """A number as a database can store it: some file systems have times beyond 64 bits."""
    return number if -_LARGEST <= number <= _LARGEST else number % _LARGEST


def status_value(kept: int | None) -> int | None:
    """The status in a ledger, None if there is none. Raises ValueError for a number that is not a status."""
    if kept is None or kept == -1:
        return None
    if not 0 <= kept <= 0xFFFF:
        raise ValueError(f"{kept!r} is not a status")
    return kept


def checked(value: Any, kind: Any) -> Any:
    """A value from a ledger. Raises TypeError unless it is of this kind, which only damage can cause."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not of type {kind}")
    return value


def ledger_path(path: str, working_directory: str) -> str:
    """A path as a ledger keeps it: absolute, without empty or `.` parts, and otherwise exactly as on disk.

    A part `..` stays, since behind a symbolic link it does not lead back.
    """
    if not path.startswith(os.sep) and not os.path.isabs(path):
        path = os.path.join(working_directory, path)
    if os.sep == "/" and ("/." in path or "//" in path):
        return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return path


def one_line(text: str) -> str:
    """Text as one line that is safe to print: text from a damaged ledger may contain anything."""
    return text if text.isprintable() else text[:_LONGEST_LINE].encode("unicode_escape").decode()


def uid_bytes(uid: str) -> bytes:
    """A packed UID where a column has one type: that of a UID with other characters begins with FF."""
    packed = pack_uid(uid)
    return b"\xff" + packed.encode() if isinstance(packed, str) else bytes(packed)


def uid_of_bytes(packed: bytes) -> str:
    """The UID that uid_bytes packed."""
    return packed[1:].decode() if packed.startswith(b"\xff") else unpack_uid(packed)


def has_password(dsn: str) -> bool:
    """Whether the URI of a database contains a password."""
    return without_password(dsn) != dsn


def without_password(dsn: str) -> str:
    """The URI of a database as it may be shown."""
    return re.sub(r"((?:ssl)?password)=[^&#]*", r"\1=***", re.sub(r"^(\w+://[^/?#@:]*):[^/?#]*@", r"\1@", dsn))
