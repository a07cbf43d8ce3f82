"""The ledger of one batch, which a worker has claimed; its connections are shared by all batches of the worker.

Each batch has rows of its own, and only the worker that has claimed it last may write what is not stored.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from asyncstore.errors import LedgerError
from asyncstore.ledger.buffered import COMMIT_OUTCOMES, BufferedLedger
from asyncstore.ledger.postgresql.lookup import PostgresLookup
from asyncstore.ledger.postgresql.writer import FenceLost, RowWriter
from asyncstore.ledger.telling import Absence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from asyncstore.ledger.buffered import Entry, Store
    from asyncstore.ledger.postgresql.database import Database
    from asyncstore.ledger.postgresql.places import Places
    from asyncstore.ledger.postgresql.writer import Claim
    from asyncstore.ledger.telling import Telling


class BatchTaken(LedgerError):
    """Another worker has the batch now: this one was taken for dead."""


class BatchStore:
    """The rows of one batch, and how they are written."""

    def __init__(self, database: Database, writer: RowWriter) -> None:
        self._database = database
        self._writer = writer
        self.was_empty: bool = writer.claim.epoch == 1
        self.uids: set[int] = set()

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit outcomes: all of them, or none if it raises; what is stored, if the batch was taken over."""
        try:
            self._database.run(lambda connection: self._writer.write(connection, entries))
        except FenceLost as error:
            raise BatchTaken("another worker has taken over the batch") from error

    def after_write(self) -> None:
        """Nothing to do."""

    def settle(self) -> None:
        """Nothing to do: what is committed is on the disk."""

    def note_refusal(self, refused_ms: int) -> None:
        """Write when the peer was first out of resources while this worker ran."""
        run = self._writer.claim.run
        update = "UPDATE worker SET refused_at = coalesce(refused_at, $2) WHERE id = $1"
        self._database.run(lambda connection: connection.execute(update, run, refused_ms))

    def end(self, finished_ms: int, scan_finished: bool | None, stopped: str | None) -> None:
        """Nothing to do: the worker goes on."""

    def close(self) -> None:
        """Nothing to do: other batches use the connection."""


class BatchLedger(BufferedLedger):
    """What becomes of the files of a batch.

    `writing` and `reading` stay open. While `may_send` is false, nothing new is sent. While the database is away, it
    is waited for, for `away_seconds`: what was sent meanwhile is written when it is back.
    """

    _most_outcomes = 4 * COMMIT_OUTCOMES
    _hash_of_uid = staticmethod(hash)  # the UIDs of a batch are few, and no database keeps their hashes

    def __init__(
        self,
        writing: Database,
        reading: Database,
        claim: Claim,
        places: Places,
        *,
        options: Mapping[str, object],
        shift_ms: int,
        away_seconds: float,
        may_send: Callable[[], bool],
        telling: Telling,
        directories: Mapping[bytes, int],
    ) -> None:
        super().__init__(writing.shown, options=options, clock=time.time)
        self._away_seconds = self._closing_seconds = away_seconds
        self._writing = writing
        self._writer = RowWriter(claim, places, shift_ms=shift_ms, directories=directories)
        self._lookup = PostgresLookup(reading, places, self._uncommitted)
        self._may_send = may_send
        self._absence = Absence(telling)

    @property
    def files(self) -> tuple[str, ...]:
        """It is not in files."""
        return ()

    @property
    def has_room(self) -> bool:
        """Whether outcomes are written as fast as they come, and this worker is not about to be taken for dead."""
        return super().has_room and self._may_send()

    @property
    def was_taken(self) -> bool:
        """Whether another worker has the batch now."""
        return self.failure is not None and isinstance(self.failure.__cause__, BatchTaken)

    def add_known(self, sop_instance_uids: Iterable[str]) -> None:
        """Note that these UIDs are stored already, perhaps from another file."""
        for uid in sop_instance_uids:
            self._uids.add(self._hash_of_uid(uid))

    def hurry(self) -> None:
        """Do not wait long for a database that is away: somebody wants the end."""
        self._closing_seconds = BufferedLedger._closing_seconds

    @property
    def _lookups(self) -> PostgresLookup:
        return self._lookup

    def _prepare(self) -> None:
        """Nothing to do: the batch is claimed."""

    def _unlock(self) -> None:
        """Nothing to do."""

    def _open_store(self) -> BatchStore:
        return BatchStore(self._writing, self._writer)

    def _begin_lookups(self, store: Store) -> None:
        """Nothing to do."""

    def _end_lookups(self) -> None:
        """Nothing to do: other batches use the connection."""
