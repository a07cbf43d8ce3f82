"""Writes outcomes as rows of a ledger, a batch at a time. It uses SQLite, and no threads.

Each path has one row. To find it, `hashed` has a hash of each path and of each SOP Instance UID. New hashes come in
random order: inserted one by one, each would write a page of its own, which takes longer than everything else. So they
wait in memory and are inserted in sorted runs of some thousands, many to a page. Waiting hashes are looked up in
memory. Those that were waiting when a process ended are inserted when the ledger is opened again.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from asyncstore.ledger.accounts import ACCOUNT_FIELDS, account_of, account_values, size_and_time, stays
from asyncstore.ledger.hashes import FIRST_UID_HASH, HashFilter, hash_of_path, hash_of_uid, hashes_of_paths
from asyncstore.ledger.packing import PATH_ENCODING, ledger_path, pack_uid, storable, unpack_uid

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.buffered import Entry

# The hashes of 32768 instances; twice as many wait at most, in 20 MB. With 1,000,000 rows, six share one page write.
_WAITING_HASHES: Final = 65536
# Hashes per commit; more would let the WAL grow and make outcomes wait.
_INDEXED_AT_ONCE: Final = 2048
# Rows and hashes per statement: each step of a statement gives up Python's lock and must get it back. Older builds of
# SQLite allow 999 values.
_ROWS_OF_A_STATEMENT: Final = 90
_HASHES_OF_A_STATEMENT: Final = 256
_LOOKUP_SIZES: Final = (16, 128, 512)

_ACCOUNTS_IN_MEMORY: Final = 4096
_PACKED_IN_MEMORY: Final = 1024
_NO_UID: Final[bytearray | str] = ""

_Row: TypeAlias = tuple[Any, ...]

_INSERT: Final = "INSERT OR REPLACE INTO instance VALUES "
_ROW_MARKS: Final = f"({', '.join('?' * 11)})"
_INSERT_ROWS: Final = _INSERT + ", ".join([_ROW_MARKS] * _ROWS_OF_A_STATEMENT)
_INSERT_ROW: Final = _INSERT + _ROW_MARKS
_INSERT_ACCOUNT: Final = (
    f"INSERT INTO account (id, {', '.join(ACCOUNT_FIELDS)}, run) VALUES ({', '.join('?' * (len(ACCOUNT_FIELDS) + 2))})"
)
_INSERT_SENT: Final = "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)"
_DELETE_SENT: Final = "DELETE FROM sent WHERE id = ?"
_INDEX: Final = "INSERT OR IGNORE INTO hashed VALUES "
_INDEX_HASHES: Final = _INDEX + ", ".join(["(?, ?)"] * _HASHES_OF_A_STATEMENT)
_INDEX_HASH: Final = f"{_INDEX}(?, ?)"
_EARLIER: Final = """
SELECT i.path, i.id, i.sop_instance_uid, i.size_bytes, i.mtime_ns, i.earlier_attempts, a.state, a.attempts, a.run
FROM instance i JOIN account a ON a.id = i.account WHERE i.id IN """
_INDEXED: Final = "SELECT id FROM hashed WHERE hash IN "


class _Earlier(NamedTuple):
    """The part of a path's present row that its new row depends on."""

    id: int
    sop_instance_uid: bytes | bytearray | str
    size_bytes: int
    mtime_ns: int
    earlier_attempts: int
    state: str
    attempts: int
    run: int


def padded(numbers: Sequence[int]) -> tuple[str, list[int]]:
    """The marks and values of an IN, padded to one of a few lengths, so that its statement is prepared only once."""
    size = next(size for size in _LOOKUP_SIZES if len(numbers) <= size)
    return f"({', '.join('?' * size)})", [*numbers, *itertools.repeat(numbers[-1], size - len(numbers))]


def _key_in_memory(packed_uid: bytes | bytearray | str) -> bytes:
    # No path begins with a NUL.
    return b"\0" + (packed_uid.encode() if isinstance(packed_uid, str) else packed_uid)


class WaitingHashes:
    """Hashes that are not in the index yet, and their rows. Other threads may ask while one adds."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}  # few paths or UIDs share a hash

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from self._first.items()
        for number, ids in self._more.items():
            yield from zip(itertools.repeat(number), ids)

    def add(self, pairs: Sequence[tuple[int, int]]) -> None:
        first = self._first
        for number, row_id in pairs:
            if first.setdefault(number, row_id) != row_id:
                self._more.setdefault(number, []).append(row_id)

    def rows_of(self, hashes: Sequence[int]) -> list[int]:
        first = self._first
        return [
            row_id for number in hashes if number in first for row_id in (first[number], *self._more.get(number, ()))
        ]


def unindexed_hashes(connection: sqlite3.Connection) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """The hashes of rows that are not in the index, some thousands at a time, each time with the last of these rows."""
    last = connection.execute("SELECT indexed_id FROM ledger").fetchone()[0]
    select = f"SELECT id, path, sop_instance_uid FROM instance WHERE id > ? ORDER BY id LIMIT {_WAITING_HASHES}"
    while rows := connection.execute(select, (last,)).fetchall():
        hashes = [(hash_of_path(path or _key_in_memory(uid)), row_id) for row_id, path, uid in rows]
        hashes += [(hash_of_uid(unpack_uid(uid)), row_id) for row_id, _, uid in rows if uid]
        if rows[-1][0] <= last:
            raise ValueError("the rows are in no order")
        last = rows[-1][0]
        yield hashes, last


class LedgerWriter:
    """Writes the rows of one run, in the thread that owns `connection`.

    `was_empty` says that no earlier run has recorded anything. `uids` tells which UIDs they may have recorded.
    """

    def __init__(self, connection: sqlite3.Connection, run: int, working_directory: str) -> None:
        self._connection = connection
        self._run = run
        self._working_directory = working_directory
        last_row, last_account = connection.execute(
            "SELECT (SELECT coalesce(max(id), 0) FROM instance), (SELECT coalesce(max(id), 0) FROM account)"
        ).fetchone()
        self.was_empty: bool = last_row == 0
        self._last_row: int = last_row
        self._last_account: int = last_account
        self._has_sent: bool = bool(connection.execute("SELECT EXISTS (SELECT 1 FROM sent)").fetchone()[0])
        self._accounts: dict[tuple[Any, ...], int] = {}
        self._packed: dict[str, bytearray | str] = {}
        # Hashes that are not in the index yet: those since the last sorted run began, and those of that run.
        self._waiting = (WaitingHashes(), WaitingHashes())
        self._new_hashes: list[tuple[int, int]] = []
        self._sorted: list[tuple[int, int]] = []
        self._sorted_until = 0
        self._index_left_over()
        self.uids: HashFilter = self._recorded_uids()

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit outcomes: all of them, or none if it raises."""
        last_row, last_account = self._last_row, self._last_account
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = self._rows(entries)
            whole = len(rows) - len(rows) % _ROWS_OF_A_STATEMENT
            for at in range(0, whole, _ROWS_OF_A_STATEMENT):
                values = list(itertools.chain.from_iterable(rows[at : at + _ROWS_OF_A_STATEMENT]))
                connection.execute(_INSERT_ROWS, values)
            connection.executemany(_INSERT_ROW, rows[whole:])
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(last_row, last_account)
            raise
        self._waiting[0].add(self._new_hashes)
        self._new_hashes.clear()

    def waiting_ids(self, hashes: Sequence[int]) -> list[int]:
        """The rows with one of these hashes that are not in the index yet. Any thread may call it, before the index."""
        new, older = self._waiting
        return new.rows_of(hashes) + older.rows_of(hashes)

    def index_some(self) -> None:
        """Insert some of the waiting hashes into the index, if there are enough. Call it after each `write`."""
        new = self._waiting[0]
        if not self._sorted and len(new) >= _WAITING_HASHES:
            self._sorted = sorted(new, reverse=True)
            self._sorted_until = self._last_row
            self._waiting = (WaitingHashes(), new)
        if self._sorted:
            self._insert_hashes(self._sorted[-_INDEXED_AT_ONCE:], self._sorted_until)
            del self._sorted[-_INDEXED_AT_ONCE:]
            if not self._sorted:
                self._waiting = (self._waiting[0], WaitingHashes())

    def _insert_hashes(self, hashes: Sequence[tuple[int, int]], until: int) -> None:
        """Commit hashes of a sorted run. With the last of them, rows up to `until` are in the index."""
        connection = self._connection
        with connection:  # commits, or rolls back if it raises
            connection.execute("BEGIN IMMEDIATE")
            ascending = hashes[::-1]
            whole = len(hashes) - len(hashes) % _HASHES_OF_A_STATEMENT
            for at in range(0, whole, _HASHES_OF_A_STATEMENT):
                values = list(itertools.chain.from_iterable(ascending[at : at + _HASHES_OF_A_STATEMENT]))
                connection.execute(_INDEX_HASHES, values)
            connection.executemany(_INDEX_HASH, ascending[whole:])
            if len(self._sorted) <= _INDEXED_AT_ONCE:
                connection.execute("UPDATE ledger SET indexed_id = ?", (until,))

    def _index_left_over(self) -> None:
        """Insert the hashes that were waiting when an earlier run ended."""
        for hashes, until in unindexed_hashes(self._connection):
            self._insert_hashes(sorted(hashes, reverse=True), until)

    def _recorded_uids(self) -> HashFilter:
        uids = HashFilter(self._last_row)
        uids.add_rows(self._connection.execute("SELECT hash FROM hashed WHERE hash >= ?", (FIRST_UID_HASH,)))
        return uids

    def _rows(self, entries: Sequence[Entry]) -> list[_Row]:
        """The rows to write for a batch; a path that occurs twice gets one."""
        keys = [self._key(outcome) for _, outcome, _ in entries]
        hashes = hashes_of_paths(keys)
        before = self._find(hashes)
        has_repeats = len(set(keys)) < len(keys)
        rows: dict[int, _Row] = {}
        for key, number, (recorded_at, outcome, uid_hash) in zip(keys, hashes, entries, strict=True):
            earlier = before.get(key) if before else None
            if earlier is None:
                self._last_row = row_id = self._last_row + 1
                row = self._row(row_id, key, outcome, recorded_at, 0)
                self._new_hashes.append((number, row_id))
                if outcome.instance is not None:
                    self._new_hashes.append((uid_hash, row_id))
            else:
                attempts = earlier.earlier_attempts + (earlier.attempts if earlier.run != self._run else 0)
                row = self._row(earlier.id, key, outcome, recorded_at, attempts)
                if _stays(earlier, outcome, row):
                    continue
                if outcome.instance is not None and row[_UID] != earlier.sop_instance_uid:
                    # Opening the ledger does not look again at rows that are in the index.
                    self._connection.execute(_INDEX_HASH, (uid_hash, earlier.id))
            rows[row[0]] = row
            if outcome.sent_uids is not None:
                self._connection.execute(_INSERT_SENT, (row[0], *(self._pack(uid or "") for uid in outcome.sent_uids)))
                self._has_sent = True
            elif earlier is not None and self._has_sent:
                self._connection.execute(_DELETE_SENT, (row[0],))
            if has_repeats:
                values = (row[_EARLIER_ATTEMPTS], outcome.state.value, outcome.attempts, self._run)
                before[key] = _Earlier(row[0], row[_UID], row[_SIZE], row[_MTIME], *values)
        return list(rows.values())

    def _key(self, outcome: Outcome) -> bytes:
        if outcome.path is not None:
            return ledger_path(outcome.path, self._working_directory).encode(*PATH_ENCODING)
        return _key_in_memory(pack_uid(outcome.instance.sop_instance_uid) if outcome.instance is not None else "")

    def _find(self, hashes: list[int]) -> dict[bytes, _Earlier]:
        """The rows of the ledger with these hashes, by key."""
        found: list[Any] = []
        waiting = self.waiting_ids(hashes)
        for at in range(0, len(waiting), _LOOKUP_SIZES[-1]):
            marks, values = padded(waiting[at : at + _LOOKUP_SIZES[-1]])
            found += self._connection.execute(_EARLIER + marks, values)
        if not self.was_empty or self._sorted_until:
            for at in range(0, len(hashes), _LOOKUP_SIZES[-1]):
                marks, values = padded(hashes[at : at + _LOOKUP_SIZES[-1]])
                found += self._connection.execute(f"{_EARLIER}({_INDEXED}{marks})", values)
        return {path or _key_in_memory(values[1]): _Earlier(*values) for path, *values in found}

    def _row(self, row_id: int, key: bytes, outcome: Outcome, recorded_at: int, earlier_attempts: int) -> _Row:
        # Only numbers, text and bytearrays: sqlite3 takes ten times as long to bind anything else.
        instance = outcome.instance
        sop_instance: bytearray | str = ""
        study = series = _NO_UID
        if instance is not None:
            sop_instance = pack_uid(instance.sop_instance_uid)
            if instance.study_instance_uid:
                study = self._pack(instance.study_instance_uid)
            if instance.series_instance_uid:
                series = self._pack(instance.series_instance_uid)
            size, mtime = instance.size_bytes, storable(instance.mtime_ns)
        else:
            size, mtime = size_and_time(outcome.path, recorded_at)
        return (
            row_id,
            bytearray(key if outcome.path is not None else b""),
            sop_instance,
            study,
            series,
            size,
            mtime,
            self._account(outcome),
            earlier_attempts,
            recorded_at,
            outcome.bytes_sent,
        )

    def _pack(self, uid: str) -> bytearray | str:
        """pack_uid with a cache, for a UID that many instances share."""
        packed = self._packed.get(uid)
        if packed is None:
            if len(self._packed) >= _PACKED_IN_MEMORY:
                self._packed.clear()
            self._packed[uid] = packed = pack_uid(uid)
        return packed

    def _account(self, outcome: Outcome) -> int:
        """The number of the row in `account` with the part of an outcome that others share."""
        account = account_of(outcome)
        number = self._accounts.get(account)
        return self._new_account(account) if number is None else number

    def _new_account(self, account: tuple[Any, ...]) -> int:
        if len(self._accounts) >= _ACCOUNTS_IN_MEMORY:
            self._accounts.clear()
        self._last_account = number = self._last_account + 1
        self._connection.execute(_INSERT_ACCOUNT, (number, *account_values(account), self._run))
        self._accounts[account] = number
        return number

    def _roll_back(self, last_row: int, last_account: int) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._last_row = last_row
        if self._last_account != last_account:
            self._last_account = last_account
            self._accounts.clear()
        self._new_hashes.clear()


# Positions in a row of `instance`.
_UID, _SIZE, _MTIME, _EARLIER_ATTEMPTS = 2, 5, 6, 8


def _stays(earlier: _Earlier, outcome: Outcome, row: _Row) -> bool:
    """Whether an earlier row must be kept instead of a new one for the same file."""
    is_same_file = row[_SIZE] < 0 or (row[_SIZE], row[_MTIME]) == (earlier.size_bytes, earlier.mtime_ns)
    return stays(earlier.state, outcome, is_same_file=is_same_file)
