"""What earlier runs did, for somebody who writes nothing: the ledger is neither locked nor changed."""

from __future__ import annotations

import os

from asyncstore.ledger.history import LedgerHistory
from asyncstore.ledger.packing import ledger_path
from asyncstore.ledger.sqlite.file import check_destination, check_rules, ledger_errors, open_to_read
from asyncstore.ledger.sqlite.lookup import LedgerLookup
from asyncstore.ledger.sqlite.writer import WaitingHashes, unindexed_hashes


class SqliteHistory(LedgerHistory):
    """The files that the ledger at `path` has settled: `with SqliteHistory(path, destination=...) as history`.

    Blocks. Raises LedgerError if it is not a ledger, has another destination, or has instances that were changed by
    other rules than those in `options`: the options of a run, as JSON text. A run that writes meanwhile is
    not disturbed; what it adds later may be missing.
    """

    def __init__(self, path: str, *, destination: str, options: str | None = None) -> None:
        working_directory = os.getcwd()
        path = os.path.realpath(ledger_path(path, working_directory))
        waiting = WaitingHashes()
        connection = open_to_read(path)
        try:
            with ledger_errors(path, "read"):
                check_destination(connection, path, destination)
                if options is not None:
                    check_rules(connection, path, options)
                for hashes, _ in unindexed_hashes(connection):
                    waiting.add(hashes)
        finally:
            connection.close()
        super().__init__(LedgerLookup(path, working_directory, waiting.rows_of, lambda _: {}))
