"""Locks a ledger, and checks where it may be kept.

Only one process may write a ledger. It holds a lock of the system on a companion file `<ledger>-lock`, which ends with
the process, however that ends. The file contains the holder.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import socket
import sys
import time
from typing import Any, Final, NamedTuple

from asyncstore.errors import LedgerError
from asyncstore.ledger.sqlite.file import LOCK_SUFFIX, ledger_errors

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


_TRIES: Final = 5
_TRY_SECONDS: Final = 0.01
_MOUNTS: Final = "/proc/self/mountinfo"
_NETWORK_FILE_SYSTEMS: Final = frozenset((
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf", "vmhgfs",
))  # fmt: skip


# File systems in user space that are known to be on a local disk; any other may be a share.
_LOCAL_FUSE: Final = frozenset((
    "fuse.bindfs", "fuse.encfs", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs", "fuse.ntfs-3g",
))  # fmt: skip


class Holder(NamedTuple):
    """The process that holds a lock. 0 and "" if the lock does not say."""

    pid: int = 0
    host: str = ""
    since: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}" if self.pid else "another process"


def holder_of(ledger_path: str) -> Holder | None:
    """The process that is writing a ledger; None if there is none. Creates nothing."""
    try:
        fd = os.open(ledger_path + LOCK_SUFFIX, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        return None if _lock(fd, shared=True) else _holder(fd)
    finally:
        os.close(fd)


class LedgerLock:
    """Keeps all other runs out of a ledger, from `acquire` until `release` or the end of the process."""

    def __init__(self, path: str) -> None:
        self._ledger_path = path
        self._path = path + LOCK_SUFFIX
        self._fd = -1

    def acquire(self, now: float) -> None:
        """Take the lock; `now` is recorded as its time. Raises LedgerError, which names the holder."""
        with ledger_errors(self._ledger_path, "opened"):
            while True:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
                try:
                    if not self._lock_or_wait(fd):
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
        """Release the lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            # Removed while still locked: a process that has opened it meanwhile sees that it is gone, and starts again.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(fd)

    def _lock_or_wait(self, fd: int) -> bool:
        """Lock the file; try for a moment, since `holder_of` in another process also holds it for an instant."""
        for _ in range(_TRIES):
            if _lock(fd):
                return True
            time.sleep(_TRY_SECONDS)
        return _lock(fd)

    def _is_still_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False


def _lock(fd: int, *, shared: bool = False) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(fd, 1 << 20, os.SEEK_SET)  # beyond what is written: a locked byte cannot be read
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _holder(fd: int) -> Holder:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        holder: dict[str, Any] = json.loads(os.read(fd, 4096))
        return Holder(int(holder["pid"]), str(holder["host"]), str(holder["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Holder()


def check_place(path: str, *, forced: bool = False, mounts: str = _MOUNTS) -> None:
    """Refuse a place where a ledger cannot be kept. Raises LedgerError.

    A network file system is refused unless `forced`, since neither its locks nor a WAL on it can be relied on. The
    system's table of mounts tells the type; a system without that table is not checked.
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
    """The type of the file system of a directory, as `mount` names it; empty if the system has no table of mounts."""
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
