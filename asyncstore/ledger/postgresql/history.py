"""What earlier runs recorded in a database, for somebody who writes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncstore.ledger.history import LedgerHistory
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import Database
from asyncstore.ledger.postgresql.ledger import ONE_HOST, check_destination, check_rules
from asyncstore.ledger.postgresql.lookup import PostgresLookup
from asyncstore.ledger.postgresql.places import Places

if TYPE_CHECKING:
    import asyncpg

_ROOT = """
SELECT r.id, m.destination, m.id AS migration FROM migration m
JOIN root r ON r.migration = m.id WHERE m.name = $1 AND r.name = $1"""


class PostgresHistory(LedgerHistory):
    """The files that the ledger of one host has settled. Blocks."""

    def __init__(self, database: Database, root: int) -> None:
        super().__init__(PostgresLookup(database, Places(root, {root: ""}, os.getcwd()), lambda _: {}))

    @classmethod
    def of(cls, dsn: str, *, destination: str, options: str | None = None) -> PostgresHistory | None:
        """What the ledger knows; None if there is none. Raises LedgerError as opening it for a run does.

        `options` are those of that run, as JSON text.
        """
        database = Database(dsn, "look-ups")
        try:
            root = database.run(lambda connection: _root(connection, database.shown, destination, options), "read")
        except BaseException:
            database.close()
            raise
        if root is None:
            database.close()
            return None
        return cls(database, root)


async def _root(connection: asyncpg.Connection, shown: str, destination: str, options: str | None) -> int | None:
    if not await schema.is_there(connection, shown):
        return None
    found = await connection.fetchrow(_ROOT, ONE_HOST)
    if found is None:
        return None
    check_destination(shown, found["destination"], destination)
    if options is not None:
        await check_rules(connection, f"the ledger {shown!r}", found["migration"], options)
    return int(found["id"])
