"""A PostgreSQL cluster of the test's own, in a temporary directory, on a port of its own."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.peers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS: Final = 60
_FAST: Final = {"fsync": "off", "full_page_writes": "off"}


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian keeps most of them out of PATH."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return found[-1] if found else shutil.which(name)


class Cluster:
    """A running server, and its control. `is_durable`: it keeps what is committed through a crash of the machine.

    `log_on` is where it logs changes ahead of the tables, if not beside them. `more` are settings.
    """

    def __init__(self, *, is_durable: bool = False, log_on: Path | None = None, **more: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="asyncstore-pg-"))
        self._data = self.directory / "data"
        self._numbers = itertools.count(1)
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        self.port = free_port()
        where = () if log_on is None else ("--waldir", str(log_on), "--wal-segsize", "1")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", *where)
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": f"'{self.directory}'",
            "max_connections": "100",
            "log_min_messages": "fatal",
            **({} if is_durable else _FAST),
            **more,
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._control("start", "-l", str(self.directory / "log"))

    def bring_back(self) -> None:
        """Have it answer again after a crash, whether it has ended then or starts by itself."""
        give_up_at = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.sql("SELECT 1")
            except subprocess.CalledProcessError:
                if time.monotonic() >= give_up_at:
                    raise
                with contextlib.suppress(subprocess.CalledProcessError):  # it runs, or has just begun to
                    self.start()
                time.sleep(0.1)
            else:
                return

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` as if it crashed."""
        self._control("stop", "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start it."""
        self._control("restart", "-m", mode, "-l", str(self.directory / "log"))

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The URI of a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URI of an empty database."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def require_passwords(self, user: str) -> None:
        """Let a role in only with its password."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all {user} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self._control("reload")

    def configure(self, name: str, value: str) -> None:
        """Restart it with another setting."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{name} = {value}\n")
        self.restart()

    def use_tls(self, certificate: Path, key: Path) -> None:
        """Take TLS too, and from the network nothing else."""
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            target = self._data / name
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)
            if self._user is not None:
                shutil.chown(target, self._user)
        rules = self._data / "pg_hba.conf"
        rules.write_text(rules.read_text().replace("host ", "hostssl "))
        self.configure("ssl", "on")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Execute one statement; its rows as text, a line each."""
        return self._run("psql", "-XAtq", "-h", str(self.directory), "-p", str(self.port), "-U", "postgres", "-d",
                         database, "-c", statement)  # fmt: skip

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-s", "-t", str(_START_SECONDS), *arguments)

    def _run(self, name: str, *arguments: str) -> str:
        path = program(name)
        assert path is not None, f"{name} is not installed"
        done = subprocess.run(
            [path, *arguments],
            user=self._user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            # A server that was started keeps a pipe open for as long as it runs.
            stdout=subprocess.DEVNULL if name == "pg_ctl" else subprocess.PIPE,
            stderr=subprocess.STDOUT if name == "pg_ctl" else subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout or ""


@contextlib.contextmanager
def cluster(*, is_durable: bool = False) -> Iterator[Cluster]:
    """A cluster that is gone afterwards."""
    with Cluster(is_durable=is_durable) as running:
        yield running
