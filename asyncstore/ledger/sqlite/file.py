"""The file of a ledger: its schema, how it is opened, and its errors."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import stat
import struct
import sys
from typing import TYPE_CHECKING, Final

from asyncstore.errors import LedgerError
from asyncstore.ledger.accounts import CONTENT_COLUMNS, SHARED_COLUMNS
from asyncstore.ledger.packing import one_line
from asyncstore.ledger.settling import check_changes

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID: Final = int.from_bytes(b"ASLG", "big")
SCHEMA_VERSION: Final = 4
OLDEST_SCHEMA: Final = 3
# Behind the name of a ledger: its own file, those of SQLite, and that of the lock.
LOCK_SUFFIX: Final = "-lock"
FILE_SUFFIXES: Final = ("", "-wal", "-shm", "-journal", LOCK_SUFFIX)
BUSY_SECONDS: Final = 10.0  # how long a connection waits for another one that writes

# SQLite checks the size of the WAL after each commit. 2000 pages are 8 MB; a larger WAL saves little writing.
_CHECKPOINT_PAGES: Final = 2000
_WAL_LIMIT_BYTES: Final = 32 << 20  # a WAL that grew beyond this, because of a slow reader, is truncated to it
_CACHE_KIB: Final = 16384  # per connection: holds the upper pages of the index and the hot part of the rest


# Errors from damaged bytes that SQLite does not detect: text that is not UTF-8, a value of another type, an unknown
# state, a time beyond the calendar.
_DAMAGE: Final = (ValueError, TypeError, AttributeError, OverflowError, struct.error)


def _uid_text(column: str) -> str:
    packed = f"rtrim(replace(hex({column}), 'A', '.'), 'F')"
    return f"nullif(CASE typeof({column}) WHEN 'blob' THEN {packed} ELSE {column} END, '')"


# An instance takes one row of about 130 bytes, and two of about 20 in `hashed`, which finds candidates for a path or a
# SOP Instance UID (see hash_of_path). `hashed` is filled later than the rows, in sorted runs: rows beyond
# ledger.indexed_id are not in it yet. `account` has what many instances share of their outcome; equal rows may occur.
# Paths are bytes, UIDs of an instance are packed (see pack_uid), times are milliseconds since 1970, UTC. Unknown values
# are empty, or -1 for numbers, but never NULL: sqlite3 takes ten times as long to bind NULL as a number.
# In `run`, `scan_finished` says whether the input was read to its end, `stopped` why the run stopped early ('': it did
# not), `refused_at` when the peer first said that it is out of resources. NULL: not known, or not yet.
# `account.changes` says how an instance was changed on the way, a line for each change. Only an instance that was sent
# under another UID than its file's has a row in `sent`, with the same id as in `instance`.
# The view `instances` has everything in readable form.
_TABLES: Final = """
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    destination TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    indexed_id INTEGER NOT NULL
);
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    options TEXT NOT NULL,
    scan_finished INTEGER,
    stopped TEXT,
    refused_at INTEGER
);
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    sop_class TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    sent_transfer_syntax TEXT NOT NULL,
    state TEXT NOT NULL,
    standing INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    retryable INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reason TEXT NOT NULL,
    comment TEXT NOT NULL,
    offending_elements BLOB NOT NULL,
    association_number INTEGER NOT NULL,
    context_id INTEGER NOT NULL,
    run INTEGER NOT NULL,
    changes TEXT NOT NULL DEFAULT ''
);
CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL,
    sop_instance_uid NOT NULL,
    study_instance_uid NOT NULL,
    series_instance_uid NOT NULL,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    account INTEGER NOT NULL,
    earlier_attempts INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    bytes_sent INTEGER NOT NULL
);
CREATE TABLE hashed (hash INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (hash, id)) WITHOUT ROWID;
"""
_SENT: Final = """
CREATE TABLE sent (
    id INTEGER PRIMARY KEY,
    sop_instance_uid NOT NULL,
    study_instance_uid NOT NULL,
    series_instance_uid NOT NULL
)"""
_VIEW: Final = f"""
CREATE VIEW instances AS SELECT
    i.id AS id,
    nullif(i.path, x'') AS path,
    {_uid_text("i.sop_instance_uid")} AS sop_instance_uid,
{CONTENT_COLUMNS}    {_uid_text("i.study_instance_uid")} AS study_instance_uid,
    {_uid_text("i.series_instance_uid")} AS series_instance_uid,
{SHARED_COLUMNS}    {_uid_text("s.sop_instance_uid")} AS sent_sop_instance_uid,
    {_uid_text("s.study_instance_uid")} AS sent_study_instance_uid,
    {_uid_text("s.series_instance_uid")} AS sent_series_instance_uid
FROM instance i JOIN account a ON a.id = i.account LEFT JOIN sent s ON s.id = i.id"""
_VERSION: Final = f"PRAGMA user_version = {SCHEMA_VERSION}"
_NEW: Final = (*_TABLES.split(";\n")[:-1], _SENT, _VIEW, f"PRAGMA application_id = {APPLICATION_ID}", _VERSION)
# A ledger of the version before has none of it. One that is only read gets the same for the time that it is open.
_MIGRATION: Final = (
    "ALTER TABLE account ADD COLUMN changes TEXT NOT NULL DEFAULT ''",
    _SENT,
    "DROP VIEW instances",
    _VIEW,
    _VERSION,
)
_SEEN_AS_NEW: Final = (
    "PRAGMA temp_store = MEMORY",
    "CREATE TEMP VIEW account AS SELECT *, '' AS changes FROM main.account",
    _SENT.replace("CREATE", "CREATE TEMP"),
    _VIEW.replace("CREATE", "CREATE TEMP"),
)


@contextlib.contextmanager
def ledger_errors(path: str, what: str) -> Iterator[None]:
    """Turn errors of SQLite and of the system, and those from damaged bytes, into LedgerError of one line."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise _not_a_ledger(path) from error
        raise LedgerError(f"the ledger {path!r} cannot be {what}: {_sqlite_text(error)}") from error
    except OSError as error:
        raise LedgerError(f"the ledger {path!r} cannot be {what}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise LedgerError(f"the ledger {path!r} cannot be {what}: it is damaged") from error


def _sqlite_text(error: sqlite3.Error) -> str:
    # The low byte is the primary code. Text that is not UTF-8 is an error of Python's, which has no code.
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT or "decode to UTF-8" in str(error):
        return "it is damaged"
    return one_line(str(error))


def open_to_write(path: str, destination: str, now_ms: int) -> sqlite3.Connection:
    """Open the ledger at `path` for writing, in the calling thread; creates it if there is none.

    Only the owner can read a new file. Raises LedgerError if it is not a ledger, has another version or destination,
    or cannot be written.
    """
    with ledger_errors(path, "opened"):
        _make_file(path)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path, destination, now_ms)
        except BaseException:
            connection.close()
            raise
        return connection


def open_to_read(path: str) -> sqlite3.Connection:
    """Open the ledger at `path` for reading, while another process or thread may be writing it.

    Several threads may use the connection, one at a time. Raises LedgerError.
    """
    with ledger_errors(path, "read"):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise LedgerError(f"the ledger {path!r} cannot be read: it is not a file")
        # Escape every byte that means something in a URI as %XX; importing urllib.parse would take 2 ms.
        uri = "file:" + re.sub(rb"[^\w/.-]", lambda byte: b"%%%02X" % ord(byte[0]), os.fsencode(path)).decode()
        try:
            # Not mode=ro: the last connection that closes must remove the WAL, and a read-only one cannot.
            return _connect_to_read(f"{uri}?mode=rw", path)
        except sqlite3.OperationalError:
            # In a directory without write permission, SQLite cannot create the file that readers share with a writer.
            # Without a WAL there is no writer, so that file is not needed.
            if os.path.exists(f"{os.path.realpath(path)}-wal"):
                raise
            return _connect_to_read(f"{uri}?mode=ro&immutable=1", path)


def _connect_to_read(uri: str, path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, timeout=BUSY_SECONDS, isolation_level=None, uri=True, check_same_thread=False)
    try:
        version = _version_of(connection, path)
        if version is None:
            raise _not_a_ledger(path) if _has_tables(connection) else _empty_ledger(path)
        if version < SCHEMA_VERSION:
            for statement in _SEEN_AS_NEW:
                connection.execute(statement)
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def _make_file(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        _sync_directory(os.path.dirname(path) or ".")
    # SQLite would open a read-only file for reading, and leave files behind that it cannot remove.
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "Permission denied", path)


def _sync_directory(directory: str) -> None:
    """Force the name of a new file to the disk, so a power loss cannot remove it."""
    if sys.platform != "win32":
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _prepare(connection: sqlite3.Connection, path: str, destination: str, now_ms: int) -> None:
    version = _version_of(connection, path)
    if version is None and _has_tables(connection):
        raise _not_a_ledger(path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LedgerError(f"the ledger {path!r} cannot be opened: its file system has no shared memory for a WAL")
    # The system has what is committed, so it survives the end of the process, even kill -9. A power loss may undo the
    # commits since the last checkpoint, but never half of one; those instances are sent again.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    with connection:  # commits, or rolls back if it raises
        connection.execute("BEGIN IMMEDIATE")
        if version is None:
            for statement in _NEW:
                connection.execute(statement)
            connection.execute("INSERT INTO ledger VALUES (1, ?, ?, 0)", (destination, now_ms))
        check_destination(connection, path, destination)
        if version is not None and version < SCHEMA_VERSION:
            for statement in _MIGRATION:
                connection.execute(statement)


def check_destination(connection: sqlite3.Connection, path: str, destination: str) -> None:
    """Raise LedgerError if the ledger is for another destination."""
    owner = connection.execute("SELECT destination FROM ledger").fetchone()[0]
    if owner != destination:
        raise LedgerError(f"the ledger {path!r} belongs to {one_line(owner)}, not to {destination}: use another file")


def check_rules(connection: sqlite3.Connection, path: str, options: str) -> None:
    """Raise LedgerError if what is stored was changed by other rules than those in the options of a run."""
    last = "SELECT options FROM run WHERE EXISTS (SELECT 1 FROM instance) ORDER BY id DESC LIMIT 1"
    earlier = connection.execute(last).fetchone()
    check_changes(f"the ledger {path!r}", earlier and earlier[0], options)


def _version_of(connection: sqlite3.Connection, path: str) -> int | None:
    """The version of a ledger's schema; None if it is still empty, or not a ledger."""
    application_id: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        return None
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if not OLDEST_SCHEMA <= version <= SCHEMA_VERSION:
        age = "a newer" if version > SCHEMA_VERSION else "an older"
        raise LedgerError(
            f"the ledger {path!r} was written by {age} version of asyncstore: "
            f"it has schema {version}, this one knows {SCHEMA_VERSION}: use that version, or another file"
        )
    return version


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _empty_ledger(path: str) -> LedgerError:
    return LedgerError(f"the ledger {path!r} is empty: no run has recorded anything, or it was copied during a run")


def _not_a_ledger(path: str) -> LedgerError:
    return LedgerError(f"{path!r} is not a ledger: it is left as it is")
