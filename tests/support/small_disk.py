"""A disk that a test can fill, and empty again: a file system in memory, which only root can mount."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.postgresql import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MEGABYTES: Final = 64
# Few of its segments, of 1 MiB, are kept: what is written is soon more than there is room for.
_SMALL_LOG: Final = {"min_wal_size": "2MB", "max_wal_size": "8MB", "wal_recycle": "off"}
_CHUNK: Final = bytes(1 << 16)


class SmallDisk:
    """One that is mounted."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Leave no room on it."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_CHUNK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def empty(self) -> None:
        """Give back the room."""
        self._ballast.unlink()


@contextlib.contextmanager
def mounted(place: Path, owner: str) -> Iterator[SmallDisk]:
    """A small disk that belongs to somebody. The test is skipped where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place.mkdir()
    settings = f"size={_MEGABYTES}m,mode=0700,uid={pwd.getpwnam(owner).pw_uid}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", settings, "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield SmallDisk(place)
    finally:
        # The server may still have files open there.
        subprocess.run(["umount", "--lazy", place], check=True)


class SmallDatabase:
    """A database that finds no room from `fill` on, until `empty`. Its errors have the `text`."""

    text = "could not extend file"

    def __init__(self, dsn: str, disk: SmallDisk) -> None:
        self.dsn = dsn
        self._disk = disk

    @property
    def answers(self) -> bool:
        """Whether it can be read while it is full."""
        return True

    def fill(self) -> None:
        """Leave no room for its tables."""
        self._disk.fill()

    def empty(self) -> None:
        """Give back the room."""
        self._disk.empty()


class SmallLog(SmallDatabase):
    """A server whose log of changes (WAL) lies on the disk: without room it crashes, and stays down or starts anew."""

    text = ""  # the server is away, in one of many ways

    def __init__(self, server: Cluster, disk: SmallDisk) -> None:
        super().__init__(server.new_database(), disk)
        self._server = server

    @property
    def answers(self) -> bool:
        """Never: nobody can connect."""
        return False

    def fill(self) -> None:
        """Leave no room, and have it write until it notices."""
        self._server.sql("CREATE TABLE ballast AS SELECT ''::text AS content")
        super().fill()
        with contextlib.suppress(subprocess.CalledProcessError):
            while True:
                self._server.sql("INSERT INTO ballast SELECT repeat('x', 1000) FROM generate_series(1, 1000)")

    def empty(self) -> None:
        """Give back the room, and start it unless it starts by itself."""
        super().empty()
        self._server.bring_back()


@contextlib.contextmanager
def log_on_small_disk(place: Path) -> Iterator[SmallLog]:
    """A server of its own, with its log on a small disk."""
    with (
        mounted(place, "postgres") as disk,
        Cluster(is_durable=True, log_on=disk.place / "log", **_SMALL_LOG) as server,
    ):
        yield SmallLog(server, disk)


@contextlib.contextmanager
def tables_on_small_disk(cluster: Cluster) -> Iterator[SmallDatabase]:
    """An empty database with its tables on a small disk."""
    with mounted(cluster.directory / "small", "postgres") as disk:
        tables = disk.place / "tables"
        tables.mkdir()
        os.chown(tables, pwd.getpwnam("postgres").pw_uid, -1)
        cluster.sql(f"CREATE TABLESPACE small LOCATION '{tables}'")
        cluster.sql("CREATE DATABASE small TABLESPACE small")
        yield SmallDatabase(cluster.dsn("small"), disk)
