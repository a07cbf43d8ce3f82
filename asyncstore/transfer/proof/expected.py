"""What a peer must have: instances by study, from a ledger or from files, in a temporary database on disk."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.errors import SourceError
from asyncstore.inputs.contents import found_in
from asyncstore.inputs.entry import entries_of
from asyncstore.inputs.opening import instance_from
from asyncstore.inputs.selection import Choice, Selection
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import PASSED_OVER, ScanProblem
from asyncstore.instances.study import keys_of
from asyncstore.ledger.protocol import STORED
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from asyncstore.ledger.reading import RecordReader
    from asyncstore.ledger.rows import LedgerRow

    Row = tuple[str, str, str, str, bytes | None]
    OnProblem = Callable[[str, str], object]

# A million instances take some 200 MB on disk, and no more memory than this.
_CACHE_KIB: Final = 8192
_ROWS_AT_ONCE: Final = 2000
_SCHEMA: Final = """
CREATE TABLE instance (
    study TEXT NOT NULL,
    uid TEXT NOT NULL,
    series TEXT NOT NULL,
    sop_class TEXT NOT NULL,
    path BLOB,
    PRIMARY KEY (study, uid)
) WITHOUT ROWID
"""
_STORED_SCHEMA: Final = "CREATE TABLE stored (path BLOB, sop_class TEXT NOT NULL, uid TEXT NOT NULL, study TEXT)"
NO_STUDY: Final = "no Study Instance UID in its first 64 KiB: it cannot be asked for"


class ExpectedInstance(NamedTuple):
    """An instance that the peer must have; `series_instance_uid` is "" if it is not known."""

    series_instance_uid: str
    sop_class_uid: str
    path: str | None


class StoredInstance(NamedTuple):
    """An instance that was stored, under the UIDs that the peer got, as far as a run or a ledger knows them."""

    path: str | None
    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


@record(slots=True, eq=False)
class ExpectedStudy:
    """A study with the instances that the peer must have, by SOP Instance UID."""

    study_instance_uid: str
    instances: dict[str, ExpectedInstance]

    @property
    def series(self) -> set[str]:
        """The known Series Instance UIDs of the study."""
        return {each.series_instance_uid for each in self.instances.values()} - {""}

    @property
    def sop_classes(self) -> set[str]:
        """The known SOP Class UIDs of the study."""
        return {each.sop_class_uid for each in self.instances.values()} - {""}


class Expected:
    """Collects instances, and gives them back by study: `with Expected(on_problem) as expected`. Blocks.

    `on_problem(path, detail)` is told of each instance that cannot be asked for; `problems` counts them. One thread at
    a time may use it.
    """

    def __init__(self, on_problem: OnProblem) -> None:
        self.problems: int = 0
        self._on_problem = on_problem
        # An empty name: a file that SQLite removes by itself, and that is not written while it fits into the cache.
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute(_SCHEMA)
        self._connection.execute(_STORED_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def add_files(self, sources: Iterable[str], selection: Selection | None = None) -> None:
        """Add every instance in files, directories and archives."""
        choice = None if selection is None else Choice.of(selection)
        self._add(self._rows_of_files(sources, choice))

    def add_ledger(self, ledger: RecordReader) -> None:
        """Add every instance that a ledger calls stored; of one whose study it does not know, the file is read."""
        stored = map(_stored_by_the_ledger, ledger.rows(STORED))
        self._add(row for each in stored if (row := self._row_of_stored(each)) is not None)

    def note_stored(self, stored: Iterable[StoredInstance]) -> None:
        """Keep instances that were stored, for `add_stored` later; this reads no file."""
        rows = [(os.fsencode(each.path) if each.path else None, *each[1:4]) for each in stored]
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO stored VALUES (?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def add_stored(self) -> None:
        """Add every instance that was noted; the file is read of one whose study is not known."""
        last = 0
        query = "SELECT rowid, path, sop_class, uid, study FROM stored WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._connection.execute(query, (last, _ROWS_AT_ONCE)).fetchall():
            last = rows[-1][0]
            stored = [StoredInstance(os.fsdecode(path) if path else None, *uids) for _, path, *uids in rows]
            self._add(row for each in stored if (row := self._row_of_stored(each)) is not None)

    def counts(self) -> tuple[int, int]:
        """The number of instances, and of studies."""
        row = self._connection.execute("SELECT count(*), count(DISTINCT study) FROM instance").fetchone()
        return int(row[0]), int(row[1])

    def studies(self) -> Iterator[ExpectedStudy]:
        """The studies, one after another."""
        study: ExpectedStudy | None = None
        rows = self._connection.execute("SELECT study, uid, series, sop_class, path FROM instance ORDER BY study")
        for uid, sop_instance_uid, series, sop_class, path in rows:
            if study is None or study.study_instance_uid != uid:
                if study is not None:
                    yield study
                study = ExpectedStudy(uid, {})
            name = None if path is None else os.fsdecode(path)
            study.instances[sop_instance_uid] = ExpectedInstance(series, sop_class, name)
        if study is not None:
            yield study

    def _add(self, rows: Iterator[Row]) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        # The same instance may come twice: the first file is named.
        connection.executemany("INSERT OR IGNORE INTO instance VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    def _problem(self, path: str | None, detail: str) -> None:
        self.problems += 1
        self._on_problem(path or "(from memory)", detail)

    def _rows_of_files(self, sources: Iterable[str], choice: Choice | None) -> Iterator[Row]:
        for entry, found in found_in(entries_of(sources, recursive=True, walked={}, choice=choice), choice):
            if isinstance(found, ScanProblem):
                if entry.is_named or found.reason not in PASSED_OVER:
                    self._problem(found.path, found.detail)
            elif isinstance(found, Instance) and (row := self._row_of_instance(found)) is not None:
                yield row

    def _row_of_instance(self, instance: Instance) -> Row | None:
        study, series = keys_of(instance)
        instance.let_go()
        path = instance.path
        if study is None:
            self._problem(path, NO_STUDY)
            return None
        name = None if path is None else os.fsencode(path)
        return study, instance.sop_instance_uid, series or "", instance.sop_class_uid, name

    def _row_of_stored(self, stored: StoredInstance) -> Row | None:
        if stored.sop_instance_uid is None:
            return None
        if stored.study_instance_uid is not None:
            name = None if stored.path is None else os.fsencode(stored.path)
            series = stored.series_instance_uid or ""
            return stored.study_instance_uid, stored.sop_instance_uid, series, stored.sop_class_uid or "", name
        if stored.path is None:
            self._problem(None, f"the study of {stored.sop_instance_uid} is not known")
            return None
        try:
            instance = instance_from(stored.path)
        except (SourceError, OSError) as error:
            self._problem(stored.path, f"its study is not known, and it cannot be read: {error}")
            return None
        if instance.sop_instance_uid != stored.sop_instance_uid:
            self._problem(stored.path, f"it is no longer the instance {stored.sop_instance_uid} that was stored")
            return None
        return self._row_of_instance(instance)


def _stored_by_the_ledger(row: LedgerRow) -> StoredInstance:
    uids = (row.sop_instance_uid, row.study_instance_uid, row.series_instance_uid)
    if row.sent_sop_instance_uid is not None:
        uids = (row.sent_sop_instance_uid, row.sent_study_instance_uid, row.sent_series_instance_uid)
    return StoredInstance(row.path, row.sop_class_uid, *uids)
