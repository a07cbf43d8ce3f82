"""A disk that a test can fill, and empty again: a file system in memory, which only root can mount."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgresql import Cluster

_MEGABYTES: Final = 64
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


@contextlib.contextmanager
def database_on(cluster: Cluster) -> Iterator[tuple[str, SmallDisk]]:
    """The URI of an empty database whose tables lie on a small disk, and the disk."""
    with mounted(cluster.directory / "small", "postgres") as disk:
        tables = disk.place / "tables"
        tables.mkdir()
        os.chown(tables, pwd.getpwnam("postgres").pw_uid, -1)
        cluster.sql(f"CREATE TABLESPACE small LOCATION '{tables}'")
        cluster.sql("CREATE DATABASE small TABLESPACE small")
        yield cluster.dsn("small"), disk
