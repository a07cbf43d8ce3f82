"""How values lie in the file of a ledger."""

from __future__ import annotations

import os
from typing import Any


def pack_uid(uid: str) -> bytearray | str:
    """A UID at half its size, a digit or a dot in four bits; one with other characters stays text.

    In hexadecimal the bytes can be read: A stands for a dot, and F fills up the last byte.
    """
    if uid.isascii() and uid.replace(".", "").isdigit():
        digits = uid.replace(".", "a")
        return bytearray.fromhex(digits + "f" if len(digits) & 1 else digits)
    return uid.encode("utf-8", "backslashreplace").decode()


def unpack_uid(packed: bytes | bytearray | str) -> str:
    """The UID that pack_uid made smaller."""
    return packed if isinstance(packed, str) else packed.hex().replace("a", ".").rstrip("f")


def status_value(kept: int | None) -> int | None:
    """The status that a ledger keeps, None where there is none. Raises ValueError for what no peer can have sent."""
    if kept is None or kept == -1:
        return None
    if not 0 <= kept <= 0xFFFF:
        raise ValueError(f"{kept!r} is no status")
    return kept


def checked(value: Any, kind: Any) -> Any:
    """A value that a ledger keeps, if it is of a kind. Raises TypeError for another, which only damage can bring."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind}")
    return value


def ledger_path(path: str, working_directory: str) -> str:
    """A path as a ledger keeps it: absolute, with no empty or `.` parts, and otherwise exactly as on disk.

    The part `..` stays: behind a symbolic link it does not lead back.
    """
    if not path.startswith(os.sep) and not os.path.isabs(path):
        path = os.path.join(working_directory, path)
    if os.sep == "/" and ("/." in path or "//" in path):
        return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return path
