"""The ledger in an SQLite file."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from asyncstore.ledger.buffered import BufferedLedger
from asyncstore.ledger.packing import ledger_path
from asyncstore.ledger.sqlite.file import FILE_SUFFIXES, check_rules, ledger_errors, open_to_write
from asyncstore.ledger.sqlite.lock import LedgerLock, check_place
from asyncstore.ledger.sqlite.lookup import LedgerLookup
from asyncstore.ledger.sqlite.writer import LedgerWriter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from asyncstore.ledger.buffered import Entry, Store
    from asyncstore.ledger.hashes import HashFilter
    from asyncstore.ledger.protocol import Commitments


class SqliteStore:
    """The rows of one run in the file `path`, and how they are written."""

    def __init__(self, connection: sqlite3.Connection, path: str, working_directory: str) -> None:
        self._connection = connection
        self._path = path
        self.writer: LedgerWriter
        self._working_directory = working_directory
        self._run = 0

    def begin(self, started_ms: int, options: str) -> None:
        """Note the run, and read what earlier runs have left."""
        with ledger_errors(self._path, "written"):
            check_rules(self._connection, self._path, options)
            values = (started_ms, os.getpid(), socket.gethostname(), options)
            columns = "(started_at, pid, host, options)"
            run = self._connection.execute(f"INSERT INTO run {columns} VALUES (?, ?, ?, ?)", values).lastrowid
            assert run is not None, "an INSERT gives a row"
            self._run = run
            self.writer = LedgerWriter(self._connection, run, self._working_directory)

    @property
    def was_empty(self) -> bool:
        """Whether no earlier run has recorded anything."""
        return self.writer.was_empty

    @property
    def uids(self) -> HashFilter:
        """The hashes of the UIDs that are stored, and perhaps others."""
        return self.writer.uids

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit outcomes: all of them, or none if it raises."""
        self.writer.write(entries)

    def after_write(self) -> None:
        """Insert some of the waiting hashes into the index."""
        self.writer.index_some()

    def settle(self) -> None:
        """Force what is committed to the disk."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def note_refusal(self, refused_ms: int) -> None:
        """Write when the peer was first out of resources in this run."""
        self._connection.execute("UPDATE run SET refused_at = ? WHERE id = ?", (refused_ms, self._run))

    def end(self, finished_ms: int, scan_finished: bool | None, stopped: str | None) -> None:
        """Write how the run ended, and force all to the disk."""
        update = "UPDATE run SET finished_at = ?, scan_finished = ?, stopped = ? WHERE id = ?"
        self._connection.execute(update, (finished_ms, scan_finished, stopped, self._run))
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class SqliteLedger(BufferedLedger):
    """The durable record of a migration, in the file `path`: `Transfer(..., ledger=SqliteLedger(...))`.

    `destination` is the peer as AE@host:port; it is written into a new ledger and cannot change. `options` is plain
    data that is recorded with the run. `forced` allows a network file system. `clock` returns seconds since 1970.

    Entering the context raises LedgerError if another run uses the ledger, if the file is not a ledger or has another
    destination or version, or if it cannot be written. Leaving it commits everything; check `failure` afterwards.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        *,
        destination: str,
        options: Mapping[str, Any] | None = None,
        forced: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(os.fsdecode(path), options=options, clock=clock)
        self._given_path = self.path
        self._destination = destination
        self._forced = forced
        self._lock: LedgerLock | None = None
        self._lookup: LedgerLookup | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files in which it is kept, which are not input; once it is open, with those behind a link."""
        return (self._given_path, *(self.path + suffix for suffix in FILE_SUFFIXES))

    @property
    def _lookups(self) -> LedgerLookup:
        assert self._lookup is not None, "the ledger is not open"
        return self._lookup

    def _prepare(self) -> None:
        # A link is followed once, so the locked file is the written file, even if the link changes meanwhile.
        self.path: str = os.path.realpath(ledger_path(self.path, self._working_directory))
        check_place(self.path, forced=self._forced)
        self._lock = LedgerLock(self.path)
        self._lock.acquire(self._clock())

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def commitments(self) -> Commitments:
        """The record of storage commitment in the same file. Blocks. Raises LedgerError."""
        from asyncstore.ledger.sqlite.commitments import CommitmentRecord

        return CommitmentRecord(self.path)

    def _open_store(self) -> SqliteStore:
        connection = open_to_write(self.path, self._destination, self._now_ms())
        store = SqliteStore(connection, self.path, self._working_directory)
        try:
            store.begin(self._now_ms(), self._options)
        except BaseException:
            connection.close()
            raise
        return store

    def _begin_lookups(self, store: Store) -> None:
        assert isinstance(store, SqliteStore), "it is the one that was opened"
        waiting_ids = store.writer.waiting_ids
        self._lookup = LedgerLookup(self.path, self._working_directory, waiting_ids, self._uncommitted)

    def _end_lookups(self) -> None:
        if self._lookup is not None:
            self._lookup.close()
