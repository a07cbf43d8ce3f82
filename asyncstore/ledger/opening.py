"""Makes the ledger that is kept in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from asyncstore.ledger.protocol import Ledger

_SQLITE: Final = b"SQLite format 3\0"


def is_ledger(path: str) -> bool:
    """Whether a file is a ledger, or another database of SQLite."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def open_ledger(
    path: str | os.PathLike[str], *, destination: str, options: Mapping[str, Any], forced: bool = False
) -> Ledger:
    """The ledger in a file, for `async with`: nothing is opened before that.

    `destination` is the peer as AE@host:port, `options` plain data that the run is noted with; `forced` allows a
    network file system.
    """
    from asyncstore.ledger.sqlite.ledger import SqliteLedger  # most runs need no sqlite3

    return SqliteLedger(path, destination=destination, options=options, forced=forced)
