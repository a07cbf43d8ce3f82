"""The file of a ledger: who may have it, where it may lie, what it looks like inside.

One process writes a ledger. A companion file `<ledger>-lock` is locked while it does, by a lock of the system that
goes when the process goes, however it goes; inside stands who holds it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import re
import socket
import sqlite3
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import LedgerError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID: Final = int.from_bytes(b"ASLG", "big")
SCHEMA_VERSION: Final = 2

# A ledger is checked for its WAL's size after each commit. 2000 pages are 8 MB; a larger WAL saves little writing.
_CHECKPOINT_PAGES: Final = 2000
_WAL_LIMIT_BYTES: Final = 32 << 20  # what is kept of a WAL that grew beyond because of a slow reader
_BUSY_SECONDS: Final = 10.0
_CACHE_KIB: Final = 16384  # of either connection: the upper pages of the index and the hot part of the rest

_MOUNTS: Final = "/proc/self/mountinfo"
_NETWORK_FILE_SYSTEMS: Final = frozenset((
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf", "vmhgfs",
))  # fmt: skip
# Of the file systems in user space these are known to lie on a local disk; any other may be a share.
_LOCAL_FUSE: Final = frozenset((
    "fuse.bindfs", "fuse.encfs", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs", "fuse.ntfs-3g",
))  # fmt: skip

# What damaged bytes end in that SQLite takes for good ones: text that is no UTF-8, a value of another kind, a state of
# no such name, a time beyond the calendar.
_DAMAGE: Final = (ValueError, TypeError, AttributeError, OverflowError, struct.error)
_LONGEST_TEXT: Final = 200


def _uid_text(column: str) -> str:
    packed = f"rtrim(replace(hex({column}), 'A', '.'), 'F')"
    return f"nullif(CASE typeof({column}) WHEN 'blob' THEN {packed} ELSE {column} END, '')"


# An instance takes one row of about 130 bytes and two of about 20 in `hashed`, by which candidates are found for a path
# or a SOP Instance UID (see hash_of_path). It is filled behind the rows, in sorted runs: rows beyond ledger.indexed_id
# are not in it yet. What became of an instance many others share: it stands in `account`, not necessarily once.
# Paths are bytes; UIDs of an instance are packed (see pack_uid); times are milliseconds since 1970, UTC. What is not
# known is empty, and -1 for numbers, and never NULL: sqlite3 takes ten times as long to bind that as a number.
# The view has all of it readable.
_SCHEMA: Final = f"""
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
    options TEXT NOT NULL
);
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    sop_class TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    sent_transfer_syntax TEXT NOT NULL,
    state TEXT NOT NULL,
    settled INTEGER NOT NULL,
    retryable INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reason TEXT NOT NULL,
    comment TEXT NOT NULL,
    offending_elements BLOB NOT NULL,
    association_number INTEGER NOT NULL,
    context_id INTEGER NOT NULL,
    run INTEGER NOT NULL
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
CREATE VIEW instances AS SELECT
    i.id AS id,
    nullif(i.path, x'') AS path,
    {_uid_text("i.sop_instance_uid")} AS sop_instance_uid,
    nullif(a.sop_class, '') AS sop_class_uid,
    nullif(a.transfer_syntax, '') AS transfer_syntax_uid,
    nullif(coalesce(nullif(a.sent_transfer_syntax, ''), a.transfer_syntax), '') AS sent_transfer_syntax_uid,
    {_uid_text("i.study_instance_uid")} AS study_instance_uid,
    {_uid_text("i.series_instance_uid")} AS series_instance_uid,
    nullif(i.size_bytes, -1) AS size_bytes,
    CASE i.size_bytes WHEN -1 THEN NULL ELSE i.mtime_ns END AS mtime_ns,
    a.state AS state,
    a.retryable AS retryable,
    a.attempts + i.earlier_attempts AS attempts,
    nullif(a.status, -1) AS status,
    nullif(a.reason, '') AS reason,
    nullif(a.comment, '') AS comment,
    a.offending_elements AS offending_elements,
    a.association_number AS association_number,
    a.context_id AS context_id,
    a.run AS run,
    i.recorded_at AS recorded_at,
    i.bytes_sent AS bytes_sent
FROM instance i JOIN account a ON a.id = i.account;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


@contextlib.contextmanager
def ledger_errors(path: str, what: str) -> Iterator[None]:
    """Raises LedgerError, in one line, for what SQLite or the system says about a ledger, or what is damaged in it."""
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
    # The low byte is the code, the rest says more about it. That text is no UTF-8 is said by Python, which has no code.
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT or "decode to UTF-8" in str(error):
        return "it is damaged"
    return one_line(str(error))


def one_line(text: str) -> str:
    """A text as one line that is safe to print: what is quoted from a damaged ledger may be anything."""
    return text if text.isprintable() else text[:_LONGEST_TEXT].encode("unicode_escape").decode()


def open_to_write(path: str, destination: str, now_ms: int) -> sqlite3.Connection:
    """The ledger at `path`, made if there is none, for the thread that calls.

    A new file is readable by its owner only. Raises LedgerError: not a ledger, of another version, for another
    destination, not writable.
    """
    with ledger_errors(path, "opened"):
        _make_file(path)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path, destination, now_ms)
        except BaseException:
            connection.close()
            raise
        return connection


def open_to_read(path: str) -> sqlite3.Connection:
    """The ledger at `path`, for reading while another process or thread may be writing it.

    The connection may go from thread to thread. Raises LedgerError.
    """
    with ledger_errors(path, "read"):
        os.stat(path)
        # Every byte that SQLite could take for something else, as %XX; urllib.parse would take 2 ms to import.
        uri = "file:" + re.sub(rb"[^\w/.-]", lambda byte: b"%%%02X" % ord(byte[0]), os.fsencode(path)).decode()
        try:
            # Not mode=ro: the last one that closes a ledger has to tidy up, and one that may not write cannot.
            return _connect_to_read(f"{uri}?mode=rw", path)
        except sqlite3.OperationalError:
            # In a directory that we may not write, SQLite cannot make the file by which readers and a writer agree.
            # Without a WAL there is no writer, and no need for it.
            if os.path.exists(f"{os.path.realpath(path)}-wal"):
                raise
            return _connect_to_read(f"{uri}?mode=ro&immutable=1", path)


def _connect_to_read(uri: str, path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True, check_same_thread=False)
    try:
        if not _is_ledger(connection, path):
            raise _not_a_ledger(path)
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
    # SQLite would open what cannot be written for reading, and leave files behind that it then cannot remove.
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "Permission denied", path)


def _sync_directory(directory: str) -> None:
    """A file that a power loss takes away with its name is no record."""
    if sys.platform != "win32":
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _prepare(connection: sqlite3.Connection, path: str, destination: str, now_ms: int) -> None:
    is_ledger = _is_ledger(connection, path)
    if not is_ledger and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise _not_a_ledger(path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LedgerError(f"the ledger {path!r} cannot be opened: its file system has no shared memory for a WAL")
    # What is committed has been given to the system, so that it survives the end of the process, kill -9 too. A power
    # loss may take the commits since the last checkpoint, never half of one: those instances are sent again.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not is_ledger:
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO ledger VALUES (1, ?, ?, 0)", (destination, now_ms))
        owner = connection.execute("SELECT destination FROM ledger").fetchone()[0]
        if owner != destination:
            raise LedgerError(
                f"the ledger {path!r} is that of {one_line(owner)}, and not of {destination}: use another file"
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_ledger(connection: sqlite3.Connection, path: str) -> bool:
    """Whether a database is a ledger; False too for one that is still empty."""
    application_id: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        return False
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        age = "a newer" if version > SCHEMA_VERSION else "an older"
        raise LedgerError(
            f"the ledger {path!r} was written by {age} version of asyncstore: "
            f"it has schema {version}, this one knows {SCHEMA_VERSION}"
        )
    return True


def _not_a_ledger(path: str) -> LedgerError:
    return LedgerError(f"{path!r} is not a ledger: it is left as it is")


class LedgerLock:
    """Keeps every other run from a ledger, from `acquire` to `release` or to the end of the process."""

    def __init__(self, path: str) -> None:
        self._ledger_path = path
        self._path = f"{path}-lock"
        self._fd = -1

    def acquire(self, now: float) -> None:
        """Take the ledger; `now` is what the holder's since says. Raises LedgerError, which names who has it."""
        with ledger_errors(self._ledger_path, "opened"):
            while True:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
                try:
                    if not _lock(fd):
                        raise LedgerError(f"the ledger {self._ledger_path!r} is in use by {_holder(fd)}")
                    if self._is_still_there(fd):
                        break
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
            self._fd = fd
            since = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps(holder).encode())

    def release(self) -> None:
        """Give the ledger free."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            # Removed while it is still locked: who has opened it meanwhile sees that it is gone, and begins again.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(fd)

    def _is_still_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False


def _lock(fd: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(fd, 1 << 20, os.SEEK_SET)  # beyond what is written: a locked byte cannot be read
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _holder(fd: int) -> str:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        holder: dict[str, Any] = json.loads(os.read(fd, 4096))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def check_place(path: str, *, forced: bool = False, mounts: str = _MOUNTS) -> None:
    """Refuse a place where a ledger cannot be kept. Raises LedgerError.

    On a network file system neither locks nor a WAL can be relied on: refused unless it is `forced`. It is looked up in
    the system's table of mounts; a system without one is not checked for it.
    """
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise LedgerError(f"the ledger {path!r} cannot be opened: there is no directory {directory!r}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise LedgerError(f"the ledger {path!r} cannot be opened: it is not a file")
    kind = file_system_of(os.path.realpath(directory), mounts)
    is_remote_fuse = kind.startswith("fuse.") and kind not in _LOCAL_FUSE
    if not forced and (kind in _NETWORK_FILE_SYSTEMS or is_remote_fuse):
        raise LedgerError(
            f"the ledger {path!r} would lie on a network file system ({kind}), whose locks and shared memory cannot be "
            "relied on: put it on a local disk, or force it"
        )


def file_system_of(directory: str, mounts: str = _MOUNTS) -> str:
    """The type of the file system that a directory lies on, as `mount` names it; empty where the system tells none."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as table:
            lines = table.read().splitlines()
    except OSError:
        return ""
    found, length = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]).rstrip("/")
        # A later mount on the same point lies on top of the earlier.
        if (directory == point or directory.startswith(f"{point}/")) and len(point) >= length:
            found, length = after.split(" ")[0], len(point)
    return found
