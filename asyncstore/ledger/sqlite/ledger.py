"""The ledger in an SQLite file: one thread writes, the event loop only appends to a list.

Outcomes are committed after 250 ms, or as soon as there are 500. After an error the writer thread keeps the outcomes
that are not written and tries again with the next commit. `failure` is the first error, and ends the transfer.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import math
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import State
from asyncstore.ledger.protocol import STORED, KnownInstance, Suspicion
from asyncstore.ledger.sqlite.file import FILE_SUFFIXES, ledger_errors, one_line, open_to_write
from asyncstore.ledger.sqlite.hashes import HashFilter, hash_of_uid
from asyncstore.ledger.sqlite.lock import LedgerLock, check_place
from asyncstore.ledger.sqlite.lookup import LedgerLookup
from asyncstore.ledger.sqlite.packing import ledger_path
from asyncstore.ledger.sqlite.writer import LedgerWriter, storable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Commitments, Offered
    from asyncstore.ledger.sqlite.writer import Entry

COMMIT_SECONDS: Final = 0.25
COMMIT_OUTCOMES: Final = 500
_MAXIMUM_WAITING: Final = 4096
# The longest time until committed outcomes are forced to the disk and the WAL starts again.
_CHECKPOINT_SECONDS: Final = 10.0


class SqliteLedger:
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
        self.path: str = os.fsdecode(path)
        self._given_path = self.path
        self.failure: LedgerError | None = None
        self._destination = destination
        self._options = json.dumps(options or {}, default=str)
        self._forced = forced
        self._clock = clock
        self._lock: LedgerLock | None = None
        self._working_directory = os.sep
        self._waiting: collections.deque[Entry] = collections.deque()
        self._moving = threading.Lock()  # from _waiting to _batch
        self._batch: list[Entry] = []
        self._flushes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._lookup: LedgerLookup | None = None
        self._was_empty = False
        self._end: tuple[bool | None, str | None] = (None, None)
        self._refused_ms: int | None = None
        self._refusal_is_written = False
        self._uids = HashFilter(0)

    @property
    def files(self) -> tuple[str, ...]:
        """The files in which it is kept, which are not input; once it is open, with those behind a link."""
        return (self._given_path, *(self.path + suffix for suffix in FILE_SUFFIXES))

    # -- for the event loop --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(self.open)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def record(self, outcome: Outcome) -> None:
        """Record an outcome, which may not be final: the last one for an instance is kept. Never blocks.

        It is committed within 250 ms. RESUMED is not recorded: the ledger has that instance already.
        """
        if outcome.state is State.RESUMED:
            return
        instance = outcome.instance
        uid_hash = 0
        if instance is not None:
            uid_hash = hash_of_uid(instance.sop_instance_uid)
            if outcome.state in STORED:
                self._uids.add(uid_hash)
        self._waiting.append((int(self._clock() * 1000), outcome, uid_hash))
        count = len(self._waiting)
        if count == 1 or (count >= COMMIT_OUTCOMES and not self._wake.is_set()):
            self._wake.set()

    def may_know(self, sop_instance_uid: str) -> bool:
        """Whether `stored_elsewhere` may find this UID. False is certain: nothing with this UID is stored.

        Never blocks. Includes outcomes that are recorded but not written yet, and those of earlier runs.
        """
        return hash_of_uid(sop_instance_uid) in self._uids

    @property
    def has_earlier(self) -> bool:
        """Whether an earlier run has recorded anything. If not, `settled` need not be called."""
        return not self._was_empty

    @property
    def has_room(self) -> bool:
        """Whether outcomes are written as fast as they come. If not, no new instance should be sent."""
        return len(self._waiting) < _MAXIMUM_WAITING

    def note_refusal(self) -> None:
        """Note that the peer is out of resources; the first time in a run is kept. Never blocks."""
        if self._refused_ms is None:
            self._refused_ms = self._now_ms()
            self._wake.set()

    def note_end(self, *, scan_finished: bool, stopped: str) -> None:
        """Note how the run ended: whether it read its input to the end, and why it stopped early ("": it did not)."""
        self._end = scan_finished, stopped

    async def flush(self) -> None:
        """Wait until everything recorded so far would survive the end of the process. Raises LedgerError."""
        if self._thread is None:
            raise LedgerError(f"the ledger {self.path!r} is not open")
        written: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._flushes.append(written)
        self._wake.set()
        await anyio.to_thread.run_sync(written.result, abandon_on_cancel=True)

    # -- for other threads: these block --------------------------------------------------------------------------------

    def open(self) -> None:
        """Open and lock the ledger, as entering the context does. Blocks. Raises LedgerError."""
        self._working_directory = os.getcwd()
        # A link is followed once, so the locked file is the written file, even if the link changes meanwhile.
        self.path = os.path.realpath(ledger_path(self.path, self._working_directory))
        check_place(self.path, forced=self._forced)
        try:
            self._lock = LedgerLock(self.path)
            self._lock.acquire(self._clock())
            opened: concurrent.futures.Future[LedgerWriter] = concurrent.futures.Future()
            self._thread = threading.Thread(target=self._run, args=(opened,), name="asyncstore ledger", daemon=True)
            self._thread.start()
            writer = opened.result()
            self._was_empty = writer.was_empty
            self._uids = writer.uids
            self._lookup = LedgerLookup(self.path, self._working_directory, writer.waiting_ids, self._uncommitted)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Commit everything and unlock the ledger, as leaving the context does. Blocks. Never raises LedgerError."""
        if self._lookup is not None:
            self._lookup.close()
        if self._thread is not None:
            self._closing = True
            self._wake.set()
            self._thread.join()
            self._thread = None
            for flush in self._flushes:
                flush.set_exception(LedgerError(f"the ledger {self.path!r} is closed"))
        if self._lock is not None:
            self._lock.release()

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """For each, the outcome that still holds, or None if it must be sent. Blocks. Raises LedgerError.

        No file is opened; a file that the ledger knows costs one stat.
        """
        assert self._lookup is not None, "the ledger is not open"
        if self._was_empty:
            return [None] * len(offered)
        return self._lookup.settled(offered)

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """For each instance, the stored ones with its SOP Instance UID that came from another path.

        Blocks. Includes outcomes that are recorded but not written yet. Raises LedgerError.
        """
        assert self._lookup is not None, "the ledger is not open"
        return self._lookup.stored_elsewhere(instances)

    def known_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """The stored instance with a SOP Instance UID, from any path; None if there is none. Raises LedgerError."""
        assert self._lookup is not None, "the ledger is not open"
        return self._lookup.known_instance(sop_instance_uid)

    def commitments(self) -> Commitments:
        """The record of storage commitment in the same file. Blocks. Raises LedgerError."""
        from asyncstore.ledger.sqlite.commitments import CommitmentRecord

        return CommitmentRecord(self.path)

    # -- the writer thread ---------------------------------------------------------------------------------------------

    def _run(self, opened: concurrent.futures.Future[LedgerWriter]) -> None:
        try:
            connection = open_to_write(self.path, self._destination, self._now_ms())
            with contextlib.closing(connection):
                with ledger_errors(self.path, "written"):
                    run = self._begin_run(connection)
                    writer = LedgerWriter(connection, run, self._working_directory)
                opened.set_result(writer)
                self._write_until_closed(connection, writer, run)
                self._end_run(connection, run)
        except BaseException as error:
            if opened.done():
                self._fail(error)
            else:
                opened.set_exception(error)

    def _begin_run(self, connection: sqlite3.Connection) -> int:
        values = (self._now_ms(), os.getpid(), socket.gethostname(), self._options)
        columns = "(started_at, pid, host, options)"
        run = connection.execute(f"INSERT INTO run {columns} VALUES (?, ?, ?, ?)", values).lastrowid
        assert run is not None, "an INSERT gives a row"
        return run

    def _end_run(self, connection: sqlite3.Connection, run: int) -> None:
        if not self._batch:
            update = "UPDATE run SET finished_at = ?, scan_finished = ?, stopped = ? WHERE id = ?"
            self._attempt(connection.execute, update, (self._now_ms(), *self._end, run))
            self._attempt(connection.execute, "PRAGMA wal_checkpoint(TRUNCATE)")

    def _write_refusal(self, connection: sqlite3.Connection, run: int) -> None:
        """Write the time of the first refusal, as soon as there is one: the run may be killed later."""
        if self._refused_ms is not None and not self._refusal_is_written:
            update = "UPDATE run SET refused_at = ? WHERE id = ?"
            self._refusal_is_written = self._attempt(connection.execute, update, (self._refused_ms, run))

    def _write_until_closed(self, connection: sqlite3.Connection, writer: LedgerWriter, run: int) -> None:
        due_at = checkpoint_at = math.inf
        while not self._closing:
            deadline = min(due_at, checkpoint_at)
            self._wake.wait(None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
            self._wake.clear()
            self._write_refusal(connection, run)
            now = time.monotonic()
            if due_at == math.inf and self._waiting:
                due_at = now + COMMIT_SECONDS
            is_full = len(self._waiting) >= COMMIT_OUTCOMES and not self._batch
            if now >= due_at or is_full or self._flushes:
                self._write_and_answer(writer, all_of_them=bool(self._flushes))
                # Outcomes that came during the writing count as if they had come when it began.
                due_at = now + COMMIT_SECONDS if self._waiting or self._batch else math.inf
                checkpoint_at = min(checkpoint_at, now + _CHECKPOINT_SECONDS)
            elif now >= checkpoint_at:
                self._attempt(connection.execute, "PRAGMA wal_checkpoint(PASSIVE)")
                checkpoint_at = math.inf
        self._write_refusal(connection, run)
        self._write_and_answer(writer, all_of_them=True)

    def _write_and_answer(self, writer: LedgerWriter, *, all_of_them: bool) -> None:
        """Commit the outcomes that are due, and wake the callers of `flush`."""
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        is_written = self._write_batch(writer)
        while is_written and len(self._waiting) >= (1 if all_of_them else COMMIT_OUTCOMES):
            is_written = self._write_batch(writer)
        for flush in flushes:
            if is_written:
                flush.set_result(None)
            else:
                flush.set_exception(self.failure or LedgerError("the ledger is not written"))

    def _write_batch(self, writer: LedgerWriter) -> bool:
        """Commit the next outcomes, or those that could not be committed before. Returns False if that failed."""
        if not self._batch:
            with self._moving:
                self._batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), COMMIT_OUTCOMES))]
        if self._batch:
            if not self._attempt(writer.write, self._batch):
                return False
            self._batch = []
            self._attempt(writer.index_some)
        return True

    def _attempt(self, action: Callable[..., object], *arguments: object) -> bool:
        try:
            action(*arguments)
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = LedgerError(f"the ledger {self.path!r} cannot be written: {one_line(str(error))}")
            self.failure.__cause__ = error

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _uncommitted(self, uids: Collection[str]) -> dict[str, list[KnownInstance]]:
        """The stored instances with these SOP Instance UIDs that may not have a row yet. Any thread may call this."""
        found: dict[str, list[KnownInstance]] = {}
        with self._moving:
            outcomes = [outcome for _, outcome, _ in (*self._waiting.copy(), *self._batch)]
        for outcome in outcomes:
            instance = outcome.instance
            if instance is not None and instance.sop_instance_uid in uids and outcome.state in STORED:
                path = None if outcome.path is None else ledger_path(outcome.path, self._working_directory)
                known = KnownInstance(path, instance.size_bytes, storable(instance.mtime_ns), outcome.state)
                found.setdefault(instance.sop_instance_uid, []).append(known)
        return found
