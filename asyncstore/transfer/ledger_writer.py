"""Turns outcomes into rows of a ledger, a batch at a time; knows SQLite and nothing of threads.

Every path has one row. To find it, `hashed` holds a hash of each path and of each SOP Instance UID. New hashes come in
no order at all: put into the index one by one, each would write a page of its own, which costs more than all the rest.
So they wait in memory and enter in sorted runs of some thousands, many to a page. What waits is looked up in memory;
what waited when a process ended is put in when the ledger is opened again.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from asyncstore.net.outcome import State
from asyncstore.transfer.ledger import STORED, is_settled, ledger_path, pack_uid, unpack_uid

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from asyncstore.net.outcome import Outcome

# Those of 32768 instances, at most twice: 20 MB. Measured with 1,000,000 rows: six of them share the writing of a page.
_WAITING_HASHES: Final = 65536
# One commit of the index; more would let the WAL grow, and keep outcomes waiting.
_INDEXED_AT_ONCE: Final = 2048
# Rows and hashes of one statement: every step of one gives up Python's lock and has to get it back.
_ROWS_OF_A_STATEMENT: Final = 25
_HASHES_OF_A_STATEMENT: Final = 256
_LOOKUP_SIZES: Final = (16, 128, 512)

_TEXTS_IN_MEMORY: Final = 4096
_LONGEST_TEXT: Final = 1000
# A file this young may be written to again without its modification time telling.
_YOUNG_NS: Final = 2_000_000_000

_LARGEST: Final = (1 << 63) - 1


class Row(NamedTuple):
    """A row of the table `instance`; what is said there holds here."""

    id: int
    path: bytes | bytearray
    sop_instance_uid: bytes | bytearray | str
    sop_class: int
    transfer_syntax: int
    sent_transfer_syntax: int
    study_instance_uid: bytes | bytearray | str
    series_instance_uid: bytes | bytearray | str
    size_bytes: int
    mtime_ns: int
    state: str
    settled: int
    retryable: int
    attempts: int
    earlier_attempts: int
    status: int
    reason: int
    comment: int
    offending_elements: bytearray | bytes
    association_number: int
    context_id: int
    run: int
    recorded_at: int
    bytes_sent: int


_Waiting: TypeAlias = dict[int, tuple[int, ...]]
_INSERT: Final = "INSERT OR REPLACE INTO instance VALUES "
_ROW_MARKS: Final = f"({', '.join('?' * len(Row._fields))})"
_INSERT_ROWS: Final = _INSERT + ", ".join([_ROW_MARKS] * _ROWS_OF_A_STATEMENT)
_INSERT_ROW: Final = _INSERT + _ROW_MARKS
_INDEX: Final = "INSERT OR IGNORE INTO hashed VALUES "
_INDEX_HASHES: Final = _INDEX + ", ".join(["(?, ?)"] * _HASHES_OF_A_STATEMENT)
_INDEX_HASH: Final = f"{_INDEX}(?, ?)"
_CANDIDATES: Final = "SELECT * FROM instance WHERE id IN "
_INDEXED: Final = "SELECT id FROM hashed WHERE hash IN "


def hash_of_path(key: bytes) -> int:
    """The hash by which a path is found: 47 bits, of which the upper 15 are the directory's.

    So what lies together on the disk lies together in the index: it is written and looked up with few pages.
    """
    return (zlib.crc32(key[: key.rfind(b"/")]) & 0x7FFF) << 32 | zlib.crc32(key)


def hash_of_uid(uid: str) -> int:
    """The hash by which a UID is found; those that differ in their last component only are neighbours too."""
    key = uid.encode("utf-8", "surrogatepass")
    return (zlib.crc32(key[: key.rfind(b".")]) & 0x7FFF) << 32 | zlib.crc32(key)


def storable(number: int) -> int:
    """A number of the system's as SQLite can hold it: some file systems have times beyond its 64 bits."""
    return number if -_LARGEST <= number <= _LARGEST else number % _LARGEST


def padded(numbers: Sequence[int]) -> tuple[str, list[int]]:
    """The marks and values of an IN that has one of few lengths, so that its statement is prepared once."""
    size = next(size for size in _LOOKUP_SIZES if len(numbers) <= size)
    return f"({', '.join('?' * size)})", [*numbers, *itertools.repeat(numbers[-1], size - len(numbers))]


def _key_in_memory(packed_uid: bytes | bytearray | str) -> bytes:
    # No path begins with a NUL.
    return b"\0" + (packed_uid.encode() if isinstance(packed_uid, str) else packed_uid)


class LedgerWriter:
    """Writes the rows of one run, in the thread that owns `connection`.

    `was_empty` says that no run before this one has recorded anything.
    """

    def __init__(self, connection: sqlite3.Connection, run: int, working_directory: str) -> None:
        self._connection = connection
        self._run = run
        self._working_directory = working_directory
        last_row, last_text = connection.execute(
            "SELECT (SELECT coalesce(max(id), 0) FROM instance), (SELECT coalesce(max(id), 0) FROM text)"
        ).fetchone()
        self.was_empty = last_row == 0
        self._last_row: int = last_row
        self._last_text: int = last_text
        latest = "SELECT text, id FROM text ORDER BY id DESC LIMIT ?"
        self._texts: dict[str, int] = dict(connection.execute(latest, (_TEXTS_IN_MEMORY // 2,)))
        self._new_texts: list[str] = []
        # What is not in the index yet, hash -> rows: what came since the last sorted run began, and that run.
        self._waiting: tuple[_Waiting, _Waiting] = ({}, {})
        self._new_hashes: list[tuple[int, int]] = []
        self._sorted: list[tuple[int, int]] = []
        self._sorted_until = 0
        self._index_left_over()

    def write(self, entries: Sequence[tuple[int, Outcome]]) -> None:
        """Commit outcomes, each with the time that it was recorded at; all of them, or none and an exception."""
        last_row = self._last_row
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
            self._roll_back(last_row)
            raise
        self._new_texts.clear()
        waiting = self._waiting[0]
        for number, row_id in self._new_hashes:
            waiting[number] = (*waiting.get(number, ()), row_id)
        self._new_hashes.clear()

    def waiting_ids(self, hashes: Sequence[int]) -> list[int]:
        """The rows with one of these hashes that are not in the index yet; for any thread, before it asks the index."""
        new, older = self._waiting
        return [row_id for number in hashes for row_id in (*new.get(number, ()), *older.get(number, ()))]

    def index_some(self) -> None:
        """Put some of the hashes that wait into the index, if there are enough; called after each `write`."""
        new = self._waiting[0]
        if not self._sorted and len(new) >= _WAITING_HASHES:
            self._sorted = sorted(((number, row_id) for number, ids in new.items() for row_id in ids), reverse=True)
            self._sorted_until = self._last_row
            self._waiting = ({}, new)
        if self._sorted:
            self._insert_hashes(self._sorted[-_INDEXED_AT_ONCE:], self._sorted_until)
            del self._sorted[-_INDEXED_AT_ONCE:]
            if not self._sorted:
                self._waiting = (self._waiting[0], {})

    def _insert_hashes(self, hashes: Sequence[tuple[int, int]], until: int) -> None:
        """Commit hashes; `until` counts once none of a sorted run is left."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            ascending = hashes[::-1]
            whole = len(hashes) - len(hashes) % _HASHES_OF_A_STATEMENT
            for at in range(0, whole, _HASHES_OF_A_STATEMENT):
                values = list(itertools.chain.from_iterable(ascending[at : at + _HASHES_OF_A_STATEMENT]))
                connection.execute(_INDEX_HASHES, values)
            connection.executemany(_INDEX_HASH, ascending[whole:])
            if len(self._sorted) <= _INDEXED_AT_ONCE:
                connection.execute("UPDATE ledger SET indexed_id = ?", (until,))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _index_left_over(self) -> None:
        """Put into the index what an earlier run had no time for."""
        select = (
            "SELECT id, path, sop_instance_uid FROM instance WHERE id > (SELECT indexed_id FROM ledger) ORDER BY id "
            f"LIMIT {_WAITING_HASHES}"
        )
        while rows := self._connection.execute(select).fetchall():
            hashes = [(hash_of_path(path or _key_in_memory(uid)), row_id) for row_id, path, uid in rows]
            hashes += [(hash_of_uid(unpack_uid(uid)), row_id) for row_id, _, uid in rows if uid]
            self._insert_hashes(sorted(hashes, reverse=True), rows[-1][0])

    def _rows(self, entries: Sequence[tuple[int, Outcome]]) -> list[Row]:
        """The rows to write for a batch; a path that occurs twice in it has one."""
        keys = [self._key(outcome) for _, outcome in entries]
        hashes = [hash_of_path(key) for key in keys]
        before = self._find(hashes)
        rows: dict[int, Row] = {}
        for key, number, (recorded_at, outcome) in zip(keys, hashes, entries, strict=True):
            earlier = before.get(key)
            if earlier is None:
                self._last_row += 1
                row = self._row(self._last_row, key, outcome, recorded_at)
                self._new_hashes.append((number, row.id))
                if outcome.instance is not None:
                    self._new_hashes.append((hash_of_uid(outcome.instance.sop_instance_uid), row.id))
            else:
                row = self._row(earlier.id, key, outcome, recorded_at)
                if _stays(earlier, row):
                    continue
                attempts = earlier.earlier_attempts + (earlier.attempts if earlier.run != self._run else 0)
                row = row._replace(earlier_attempts=attempts)
                if outcome.instance is not None and row.sop_instance_uid != earlier.sop_instance_uid:
                    # Rows that are in the index already are not looked at again when the ledger is opened.
                    number = hash_of_uid(outcome.instance.sop_instance_uid)
                    self._connection.execute(_INDEX_HASH, (number, row.id))
            before[key] = rows[row.id] = row
        return list(rows.values())

    def _key(self, outcome: Outcome) -> bytes:
        if outcome.path is not None:
            return os.fsencode(ledger_path(outcome.path, self._working_directory))
        return _key_in_memory(pack_uid(outcome.instance.sop_instance_uid) if outcome.instance is not None else "")

    def _find(self, hashes: list[int]) -> dict[bytes, Row]:
        """The rows that the ledger has with these hashes, by their keys."""
        found: list[Any] = []
        waiting = self.waiting_ids(hashes)
        for at in range(0, len(waiting), _LOOKUP_SIZES[-1]):
            marks, values = padded(waiting[at : at + _LOOKUP_SIZES[-1]])
            found += self._connection.execute(_CANDIDATES + marks, values)
        if not self.was_empty or self._sorted_until:
            for at in range(0, len(hashes), _LOOKUP_SIZES[-1]):
                marks, values = padded(hashes[at : at + _LOOKUP_SIZES[-1]])
                found += self._connection.execute(f"{_CANDIDATES}({_INDEXED}{marks})", values)
        rows = map(Row._make, found)
        return {bytes(row.path) or _key_in_memory(row.sop_instance_uid): row for row in rows}

    def _row(self, row_id: int, key: bytes, outcome: Outcome, recorded_at: int) -> Row:
        # Only numbers, texts and bytearrays: anything else takes sqlite3 ten times as long to bind.
        instance, status, text = outcome.instance, outcome.status, self._text
        comment, offending = 0, bytearray()
        if status is not None and (status.comment or status.offending_elements):
            comment = text(status.comment)
            tags = status.offending_elements
            offending = bytearray(struct.pack(f">{len(tags)}I", *tags))
        sop_instance: bytearray | str = ""
        study: bytearray | str = ""
        series: bytearray | str = ""
        sop_class = syntax = sent = 0
        if instance is not None:
            sop_instance = pack_uid(instance.sop_instance_uid)
            sop_class = text(instance.sop_class_uid)
            syntax = text(instance.transfer_syntax_uid)
            if outcome.transfer_syntax_uid and outcome.transfer_syntax_uid != instance.transfer_syntax_uid:
                sent = text(outcome.transfer_syntax_uid)
            if instance.study_instance_uid:
                study = pack_uid(instance.study_instance_uid)
            if instance.series_instance_uid:
                series = pack_uid(instance.series_instance_uid)
            size, mtime = instance.size_bytes, storable(instance.mtime_ns)
        else:
            size, mtime = _size_and_time(outcome.path, recorded_at)
        return Row._make(
            (
                row_id,
                bytearray(key if outcome.path is not None else b""),
                sop_instance,
                sop_class,
                syntax,
                sent,
                study,
                series,
                size,
                mtime,
                outcome.state.value,
                int(is_settled(outcome)),
                int(outcome.retryable),
                outcome.attempts,
                0,
                -1 if status is None else status.value,
                text(outcome.reason) if outcome.reason else 0,
                comment,
                offending,
                outcome.association_number,
                outcome.context_id,
                self._run,
                recorded_at,
                outcome.bytes_sent,
            )
        )

    def _text(self, text: str) -> int:
        """The number of a text that may occur again."""
        number = self._texts.get(text)
        if number is not None:
            return number
        if not text:
            return 0
        if len(self._texts) >= _TEXTS_IN_MEMORY:
            self._texts.clear()
        self._last_text = number = self._last_text + 1
        # A peer's comment, or the name of a file in a reason, may have what UTF-8 has no bytes for.
        storable_text = text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()
        self._connection.execute("INSERT INTO text VALUES (?, ?)", (number, storable_text))
        self._texts[text] = number
        self._new_texts.append(text)
        return number

    def _roll_back(self, last_row: int) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._last_row = last_row
        for text in self._new_texts:
            self._texts.pop(text, None)
        self._new_texts.clear()
        self._new_hashes.clear()


def _stays(earlier: Row, row: Row) -> bool:
    """Whether an earlier row says more than a new one of the same file.

    What is stored stays stored while the file is the same, and an instance that was only left keeps the account of
    what was tried before.
    """
    is_same_file = row.size_bytes < 0 or (row.size_bytes, row.mtime_ns) == (earlier.size_bytes, earlier.mtime_ns)
    if not is_same_file or row.state in STORED:
        return False
    return earlier.state in STORED or (row.state == State.LEFT and not row.attempts)


def _size_and_time(path: str | None, recorded_at: int) -> tuple[int, int]:
    """Size and modification time of a file of which no Instance tells; -1 when they could be out of date soon."""
    try:
        status = os.stat(path or "")
    except (OSError, ValueError):
        return -1, -1
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    if not stat.S_ISREG(status.st_mode) or newest > recorded_at * 1_000_000 - _YOUNG_NS:
        return -1, -1
    return status.st_size, storable(status.st_mtime_ns)
