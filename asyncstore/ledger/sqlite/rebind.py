"""Moves the paths of a ledger, when what was at one place is at another now: a mount, a directory, an archive.

The rows are rewritten. If paths were mapped each time instead, every look-up, report and list of failed files would
have to know the mapping, and a place that is used again for something else would share its rows. So the ledger is as if
the files had always been there, and the next command needs to know nothing; it may say the same again, though, since a
run that stopped is repeated with its own command.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from asyncstore.errors import LocalProtocolError
from asyncstore.ledger.accounts import STORED_STATES
from asyncstore.ledger.hashes import FIRST_UID_HASH
from asyncstore.ledger.packing import ledger_path
from asyncstore.ledger.sqlite.file import ledger_errors, open_to_write
from asyncstore.ledger.sqlite.lock import LedgerLock, check_place

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

# A path is at a place if it is the place, or goes on after it in one of these ways: a file in it, or a member of it.
_AFTER_PLACE: Final = (b"/", b"!/")

# Of two rows for one path the newer place's stays, unless only the other one is stored.
_DROP_ONE_OF_TWO: Final = f"""
DELETE FROM instance WHERE id IN (
    SELECT CASE WHEN a.state IN ({STORED_STATES}) AND b.state NOT IN ({STORED_STATES}) THEN new.id ELSE old.id END
    FROM moved JOIN instance old ON old.id = moved.id JOIN account a ON a.id = old.account
    JOIN instance new ON new.path = moved.path JOIN account b ON b.id = new.account)"""

_MOVE: Final = """
UPDATE instance SET path = (SELECT path FROM moved WHERE moved.id = instance.id) WHERE id IN (SELECT id FROM moved)"""


def rebind(path: str, places: Mapping[str, str], *, destination: str, forced: bool = False) -> dict[str, int]:
    """Move the paths recorded under each old place to its new one: `rebind("run.db", {"/mnt/old": "/mnt/new"}, ...)`.

    Returns how many paths were moved from each old place; 0 if all of them were moved before. A file counts as the same
    as long as its size and modification time are. All are moved, or none.

    Blocks: 20 seconds for a million paths. Raises LocalProtocolError if a new place is in another place or the
    other way round, or if nothing is recorded at an old place nor at its new one; LedgerError if another run uses the
    ledger, or if it cannot be written.
    """
    working_directory = os.getcwd()
    moves = {_place(old, working_directory): _place(new, working_directory) for old, new in places.items()}
    _check_apart(moves)
    path = os.path.realpath(ledger_path(path, working_directory))
    if not (os.path.exists(path) and os.path.getsize(path)):
        raise LocalProtocolError(f"there is no ledger {path!r} yet")
    check_place(path, forced=forced)
    lock = LedgerLock(path)
    lock.acquire(time.time())
    try:
        with (
            contextlib.closing(open_to_write(path, destination, int(time.time() * 1000))) as connection,
            ledger_errors(path, "written"),
        ):
            moved = _move(connection, moves)
    finally:
        lock.release()
    return dict(zip(places, moved, strict=True))


def _move(connection: sqlite3.Connection, moves: Mapping[bytes, bytes]) -> list[int]:
    """Move all in one transaction; the numbers of rows that were at each old place."""
    counts = dict.fromkeys(moves, 0)
    with connection:  # commits, or rolls back if it raises
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TEMP TABLE moved (id INTEGER PRIMARY KEY, path BLOB NOT NULL)")
        # A path may be at two places, one in the other: the inner one counts.
        for old in sorted(moves, key=len, reverse=True):
            counts[old] = connection.execute(
                f"INSERT INTO moved SELECT id, CAST(:new || substr(path, :rest) AS BLOB) FROM instance WHERE {_AT}"
                " AND id NOT IN (SELECT id FROM moved)",
                {"new": moves[old], "rest": len(old) + 1, **_at(old)},
            ).rowcount
        for old, new in moves.items():
            if not counts[old] and not _has_any(connection, new):
                raise LocalProtocolError(f"the ledger has nothing at {_text(old)!r}, nor at {_text(new)!r}")
        if any(counts.values()):
            if any(_has_any(connection, new) for new in moves.values()):
                connection.execute(_DROP_ONE_OF_TWO)
            connection.execute(_MOVE)
            # The index is filled again when the ledger is opened, as after a run that was killed.
            connection.execute("DELETE FROM hashed WHERE hash < ?", (FIRST_UID_HASH,))
            connection.execute("UPDATE ledger SET indexed_id = 0")
        connection.execute("DROP TABLE moved")
    return [counts[old] for old in moves]


# In bytes: a path need not be text.
_AT: Final = "(path = :place OR substr(path, 1, :length + 1) = :directory OR substr(path, 1, :length + 2) = :archive)"


def _at(place: bytes) -> dict[str, object]:
    directory, archive = (place + after for after in _AFTER_PLACE)
    return {"place": place, "length": len(place), "directory": directory, "archive": archive}


def _has_any(connection: sqlite3.Connection, place: bytes) -> bool:
    query = f"SELECT EXISTS (SELECT 1 FROM instance WHERE {_AT} AND id NOT IN (SELECT id FROM moved))"
    return bool(connection.execute(query, _at(place)).fetchone()[0])


def _check_apart(moves: Mapping[bytes, bytes]) -> None:
    """Raise an error if the same moves might do something else when they are made again."""
    news = list(moves.values())
    for at, new in enumerate(news):
        for other in (*moves, *news[:at]):
            if _is_at(new, other) or _is_at(other, new):
                raise LocalProtocolError(f"the places {_text(other)!r} and {_text(new)!r} are not apart")


def _is_at(path: bytes, place: bytes) -> bool:
    return path == place or path.startswith(tuple(place + after for after in _AFTER_PLACE))


def _place(path: str, working_directory: str) -> bytes:
    """A place as the beginning of paths: absolute, without a slash at its end, so that the root is empty."""
    return os.fsencode(ledger_path(path, working_directory)).rstrip(b"/")


def _text(place: bytes) -> str:
    return os.fsdecode(place) or "/"
