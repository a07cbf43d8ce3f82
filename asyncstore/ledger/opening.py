"""Opens a ledger by its name: that of a file, or the URI of a PostgreSQL database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import LedgerError, install_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore.ledger.history import LedgerHistory
    from asyncstore.ledger.protocol import Ledger
    from asyncstore.ledger.reading import RecordReader

_SQLITE: Final = b"SQLite format 3\0"
_DATABASE: Final = ("postgresql://", "postgres://")


def is_database(name: str) -> bool:
    """Whether a ledger is in a database and not in a file."""
    return name.startswith(_DATABASE)


def is_ledger(path: str) -> bool:
    """Whether this is a database, or a file that is a ledger or another database of SQLite."""
    if is_database(path):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def may_have_rows(name: str) -> bool:
    """Whether a ledger may have been written already; a database must be asked."""
    return is_database(name) or (os.path.exists(name) and os.path.getsize(name) > 0)


def open_ledger(
    path: str | os.PathLike[str], *, destination: str, options: Mapping[str, Any], forced: bool = False
) -> Ledger:
    """A ledger, for `async with`: nothing is opened before that.

    `destination` is the peer as AE@host:port, `options` plain data that the run is noted with; `forced` allows a
    network file system.
    """
    name = os.fspath(path)
    if is_database(name):
        check_driver(name)
        from asyncstore.ledger.postgresql.ledger import PostgresLedger

        return PostgresLedger(name, destination=destination, options=options)
    if "\0" in os.fsdecode(name):
        raise LedgerError(f"the ledger {name!r} cannot be opened: no file has a NUL in its name")
    from asyncstore.ledger.sqlite.ledger import SqliteLedger  # most runs need no sqlite3

    return SqliteLedger(path, destination=destination, options=options, forced=forced)


def open_reader(name: str, migration: str | None = None) -> RecordReader:
    """What reads a ledger. Blocks. Raises LedgerError. See `PostgresReader` for the migration; a file has one."""
    if is_database(name):
        check_driver(name)
        from asyncstore.ledger.postgresql.reader import PostgresReader

        return PostgresReader(name, migration)
    from asyncstore.ledger.sqlite.reader import LedgerReader

    return LedgerReader(name)


def open_history(name: str, *, destination: str, options: Mapping[str, Any] | None = None) -> LedgerHistory | None:
    """What a ledger has settled, for a run that writes nothing; None if there is none yet. Blocks. LedgerError.

    With the `options` of that run, it is refused where a run that writes would be.
    """
    from asyncstore.ledger.settling import options_text

    text = None if options is None else options_text(options)
    if is_database(name):
        check_driver(name)
        from asyncstore.ledger.postgresql.history import PostgresHistory

        return PostgresHistory.of(name, destination=destination, options=text)
    if not may_have_rows(name):
        return None
    from asyncstore.ledger.sqlite.history import SqliteHistory

    return SqliteHistory(name, destination=destination, options=text)


def check_driver(name: str, needed: Sequence[str] = ("asyncpg",)) -> None:
    """Raise LedgerError unless the packages that a database needs are installed."""
    import importlib.util

    missing = " and ".join(package for package in needed if importlib.util.find_spec(package) is None)
    if missing:
        from asyncstore.ledger.packing import without_password

        raise LedgerError(f"the database {without_password(name)!r} needs {missing}: {install_text('cluster')}")
