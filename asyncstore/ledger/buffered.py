"""What the ledgers share: one thread writes, the event loop only appends to a list.

Outcomes are committed after 250 ms, or as soon as there are 500. After an error the writer thread keeps the outcomes
that are not written and tries again with the next commit. `failure` is the first error, and ends the transfer. While a
database cannot be reached there is no error yet: `has_room` is False, so that nothing new is sent.
"""

from __future__ import annotations

import abc
import collections
import concurrent.futures
import contextlib
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import anyio.to_thread

from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import State
from asyncstore.ledger.hashes import HashFilter, hash_of_uid
from asyncstore.ledger.packing import ledger_path, one_line, storable
from asyncstore.ledger.protocol import STORED, KnownInstance
from asyncstore.ledger.settling import options_text
from asyncstore.ledger.telling import Absence, Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Offered, Suspicion

COMMIT_SECONDS: Final = 0.25
COMMIT_OUTCOMES: Final = 500
_MAXIMUM_WAITING: Final = 4096
# The longest time until committed outcomes are settled: what that is, the store knows.
_SETTLE_SECONDS: Final = 10.0
_CLOSING_SECONDS: Final = 10.0

Entry = tuple[int, "Outcome", int]
"""The time at which an outcome was recorded, in milliseconds; the outcome; and the hash of its SOP Instance UID."""


class StoreError(LedgerError):
    """The database cannot be used: the text says which one, and why."""


class StoreAway(StoreError):
    """The database cannot be reached now, and nothing was written; it may come back."""


class Hashes(Protocol):
    """A set of the hashes of UIDs; others may seem to be in it."""

    def __contains__(self, number: int, /) -> bool:
        """Whether a hash may be in it."""

    def add(self, number: int, /) -> None:
        """Add a hash."""


class Store(Protocol):
    """Where the rows of one run are written, by the thread that opened it. Any method may raise an error."""

    @property
    def was_empty(self) -> bool:
        """Whether no earlier run has recorded anything."""

    @property
    def uids(self) -> Hashes:
        """The hashes of the UIDs that are stored, and perhaps others."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit outcomes: all of them, or none if it raises."""

    def after_write(self) -> None:
        """Do what a write makes necessary, and what may fail without harm."""

    def settle(self) -> None:
        """Do what should be done some seconds after a write."""

    def note_refusal(self, refused_ms: int) -> None:
        """Write when the peer was first out of resources in this run."""

    def end(self, finished_ms: int, scan_finished: bool | None, stopped: str | None) -> None:
        """Write how the run ended."""

    def close(self) -> None:
        """Close it; never raises."""


class Lookups(Protocol):
    """Answers the questions of a transfer. Blocks; threads take turns."""

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """See History.settled."""

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """See History.stored_elsewhere."""

    def known_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """The stored instance with a SOP Instance UID, from any path."""


class BufferedLedger(abc.ABC):
    """The part of a ledger that is the same in every database. See `Ledger` for what its methods do.

    `path` names it in errors.
    """

    _away_seconds: float = 0.0
    """For how long the database may be away until that is an error."""

    _closing_seconds: float = _CLOSING_SECONDS
    """For how long the end of a run waits for it then."""

    _most_outcomes: int = COMMIT_OUTCOMES
    """How many are committed at once, if this many wait."""

    _hash_of_uid: Callable[[str], int] = staticmethod(hash_of_uid)
    """The hash by which `Store.uids` has a UID."""

    def __init__(self, path: str, *, options: Mapping[str, Any] | None, clock: Callable[[], float]) -> None:
        self.path: str = path
        self.failure: LedgerError | None = None
        self._options = options_text(options or {})
        self._clock = clock
        self._working_directory = os.sep
        self._waiting: collections.deque[Entry] = collections.deque()
        self._moving = threading.Lock()  # from _waiting to _batch
        self._batch: list[Entry] = []
        self._flushes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._wake = threading.Event()
        self._closing = False
        self._one_at_a_time = threading.RLock()  # opens or closes
        self._is_given_up = False
        self._thread: threading.Thread | None = None
        self._was_empty = False
        self._end: tuple[bool | None, str | None] = (None, None)
        self._refused_ms: int | None = None
        self._refusal_is_written = False
        self._uids: Hashes = HashFilter(0)
        self._absence = Absence(Telling())

    # -- for the event loop --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(self.open)
        except BaseException:
            self._is_given_up = True
            await self._close_surely()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close_surely()

    async def _close_surely(self) -> None:
        """Close, whatever cancels it: asyncio's own cancellation passes a shield, perhaps before a thread begins."""
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)
        except BaseException:
            threading.Thread(target=self.close, name="asyncstore ledger closing").start()
            raise

    def record(self, outcome: Outcome) -> None:
        """Record an outcome, which may not be final: the last one for an instance is kept. Never blocks.

        It is committed within 250 ms. RESUMED is not recorded: the ledger has that instance already.
        """
        if outcome.state is State.RESUMED:
            return
        instance = outcome.instance
        uid_hash = 0
        if instance is not None:
            uid_hash = self._hash_of_uid(instance.sop_instance_uid)
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
        return self._hash_of_uid(sop_instance_uid) in self._uids

    @property
    def has_earlier(self) -> bool:
        """Whether an earlier run has recorded anything. If not, `settled` need not be called."""
        return not self._was_empty

    @property
    def has_room(self) -> bool:
        """Whether outcomes are written as fast as they come. If not, no new instance should be sent."""
        return len(self._waiting) < _MAXIMUM_WAITING and self._absence.since is None

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
        """Open the ledger, as entering the context does. Blocks. Raises LedgerError."""
        with self._one_at_a_time:
            if not self._is_given_up:
                self._open()

    def _open(self) -> None:
        self._working_directory = os.getcwd()
        try:
            self._prepare()
            opened: concurrent.futures.Future[Store] = concurrent.futures.Future()
            self._thread = threading.Thread(target=self._run, args=(opened,), name="asyncstore ledger", daemon=True)
            self._thread.start()
            store = opened.result()
            self._was_empty = store.was_empty
            self._uids = store.uids
            self._begin_lookups(store)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Commit everything and unlock the ledger, as leaving the context does. Blocks. Never raises LedgerError."""
        with self._one_at_a_time:
            self._end_lookups()
            if self._thread is not None:
                self._closing = True
                self._wake.set()
                self._thread.join()
                self._thread = None
                for flush in self._flushes:
                    flush.set_exception(LedgerError(f"the ledger {self.path!r} is closed"))
            self._unlock()

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """For each, the outcome that still holds, or None if it must be sent. Blocks. Raises LedgerError.

        No file is opened; a file that the ledger knows costs one stat.
        """
        return [None] * len(offered) if self._was_empty else self._lookups.settled(offered)

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """For each instance, the stored ones with its SOP Instance UID that came from another path.

        Blocks. Includes outcomes that are recorded but not written yet. Raises LedgerError.
        """
        return self._lookups.stored_elsewhere(instances)

    def known_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """The stored instance with a SOP Instance UID, from any path; None if there is none. Raises LedgerError."""
        return self._lookups.known_instance(sop_instance_uid)

    # -- what each database does in its own way ------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def _lookups(self) -> Lookups:
        """What answers the questions of a transfer."""

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Look whether the ledger can be there, and lock it."""

    @abc.abstractmethod
    def _unlock(self) -> None:
        """Undo `_prepare`; never raises."""

    @abc.abstractmethod
    def _open_store(self) -> Store:
        """Open it for writing, and note that a run begins."""

    @abc.abstractmethod
    def _begin_lookups(self, store: Store) -> None:
        """Prepare to answer."""

    @abc.abstractmethod
    def _end_lookups(self) -> None:
        """Answer no more; never raises."""

    # -- the writer thread ---------------------------------------------------------------------------------------------

    def _run(self, opened: concurrent.futures.Future[Store]) -> None:
        try:
            store = self._open_store()
            opened.set_result(store)
            with contextlib.closing(store):
                self._write_until_closed(store)
                if not self._batch:
                    self._attempt(store.end, self._now_ms(), *self._end)
        except BaseException as error:
            if opened.done():
                self._fail(error)
            else:
                opened.set_exception(error)

    def _write_refusal(self, store: Store) -> None:
        """Write the time of the first refusal, as soon as there is one: the run may be killed later."""
        if self._refused_ms is not None and not self._refusal_is_written:
            self._refusal_is_written = self._attempt(store.note_refusal, self._refused_ms)

    def _write_until_closed(self, store: Store) -> None:
        due_at = settle_at = math.inf
        while not self._closing:
            deadline = min(due_at, settle_at)
            self._wake.wait(None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
            self._wake.clear()
            self._write_refusal(store)
            now = time.monotonic()
            if due_at == math.inf and self._waiting:
                due_at = now + COMMIT_SECONDS
            is_full = len(self._waiting) >= COMMIT_OUTCOMES and not self._batch
            if now >= due_at or is_full or self._flushes:
                self._write_and_answer(store, all_of_them=bool(self._flushes))
                # Outcomes that came during the writing count as if they had come when it began.
                has_more = self._waiting or self._batch or self._flushes
                due_at = now + COMMIT_SECONDS if has_more else math.inf
                settle_at = min(settle_at, now + _SETTLE_SECONDS)
            elif now >= settle_at:
                self._attempt(store.settle)
                settle_at = math.inf
        self._write_the_last(store)

    def _write_the_last(self, store: Store) -> None:
        """Write everything; a database that is away is waited for, but not for long: somebody waits for the end."""
        closing_since = time.monotonic()
        self._write_refusal(store)
        self._write_and_answer(store, all_of_them=True)
        while self._absence.since is not None and self.failure is None:
            if time.monotonic() >= closing_since + min(self._away_seconds, self._closing_seconds):
                self._away_seconds = 0.0  # the next attempt is the last
            time.sleep(COMMIT_SECONDS)
            self._write_and_answer(store, all_of_them=True)

    def _write_and_answer(self, store: Store, *, all_of_them: bool) -> None:
        """Commit the outcomes that are due, and wake the callers of `flush`."""
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        is_written = self._write_batch(store)
        while is_written and len(self._waiting) >= (1 if all_of_them else COMMIT_OUTCOMES):
            is_written = self._write_batch(store)
        if not is_written and self._absence.since is not None and self.failure is None:
            self._flushes.extendleft(reversed(flushes))  # they wait until the database is back
            return
        for flush in flushes:
            if is_written:
                flush.set_result(None)
            else:
                flush.set_exception(self.failure or LedgerError("the ledger is not written"))

    def _write_batch(self, store: Store) -> bool:
        """Commit the next outcomes, or those that could not be committed before. Returns False if that failed."""
        if not self._batch:
            with self._moving:
                self._batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most_outcomes))]
        if self._batch:
            if not self._attempt(store.write, self._batch):
                return False
            self._absence.reached(time.monotonic())
            self._batch = []
            self._attempt(store.after_write)
        return True

    def _attempt(self, action: Callable[..., object], *arguments: object) -> bool:
        try:
            action(*arguments)
        except StoreAway as error:
            if not self._absence.missed(error, time.monotonic(), self._away_seconds):
                self._fail(error)
            return False
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: BaseException) -> None:
        self._absence.end()
        if isinstance(error, StoreError):
            self.failure = self.failure or error
        elif self.failure is None:
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
