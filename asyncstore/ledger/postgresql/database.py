"""A connection to PostgreSQL for threads that block, and its errors.

asyncpg needs an event loop of asyncio. Each `Database` has one of its own, so that a ledger works on trio too.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import re
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Final, TypeVar

from asyncstore.errors import LedgerError
from asyncstore.ledger.buffered import StoreAway, StoreError
from asyncstore.ledger.packing import one_line, without_password

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    import asyncpg

_Result = TypeVar("_Result")

SCHEMA: Final = "asyncstore"
_CONNECT_SECONDS: Final = 10.0
_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 0.5
_LAST_PORT: Final = 0xFFFF
_PORT_DIGITS: Final = 5
# Rows of a migration are written by the index, whatever the planner thinks of a table that was empty a second ago.
_SETTINGS: Final = {
    "search_path": SCHEMA,
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
# Where only indexes are used, the same plan is good for any values, and is made once.
WRITER_SETTINGS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
# The classes and values of SQLSTATE that may pass: connection, resources, operator, system; read-only, serialization,
# deadlock, lock. A disk that is full may be emptied, and a server that only reads may be a standby that takes over.
_MAY_PASS: Final = ("08", "53", "57", "58", "25006", "40001", "40P01", "55P03")
_NOT_ALLOWED: Final = ("28", "3D000", "42501")


async def connect(dsn: str, name: str, settings: dict[str, str] | None = None) -> asyncpg.Connection:
    """A connection in the running loop of asyncio; `name` says in the server's views what it is for."""
    import asyncpg

    # An empty name of a database is none, as in libpq; asyncpg takes it for one, before that of a service. And it does
    # not look at PGSERVICE.
    dsn = re.sub(r"^(\w+://[^/?#]*)/(?=\?|$)", r"\1", dsn)
    parts = urllib.parse.urlsplit(dsn)
    query = urllib.parse.parse_qs(parts.query)
    service = query["service"][-1] if "service" in query else os.environ.get("PGSERVICE")
    values = _service(service) if service else {}
    named = (host.rpartition("]")[2].rpartition(":") for host in parts.netloc.rpartition("@")[2].split(","))
    _check_ports([port for _, colon, port in named if colon])
    _check_ports(",".join((*query.get("port", ()), values.get("port", ""), os.environ.get("PGPORT", ""))).split(","))
    return await asyncpg.connect(
        dsn,
        service=service,
        timeout=_CONNECT_SECONDS,
        server_settings={**_SETTINGS, "application_name": f"asyncstore {name}", **(settings or {})},
    )


def _check_ports(ports: list[str]) -> None:
    """Raise ValueError for what is not a port: of a number beyond them, the system takes the last 16 bits."""
    for port in filter(None, ports):
        if not (port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS and 0 < int(port) <= _LAST_PORT):
            raise ValueError(f"{port!r} is not a TCP port")


def _service(service: str) -> dict[str, str]:
    """What a file says of it. Raises ValueError if none does: asyncpg would call the server of this machine instead.

    Of what asyncpg cannot read no text is shown, since a password may be in it.
    """
    file = os.environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    services = configparser.ConfigParser()
    try:
        services.read(file)
        values = dict(services[service]) if service in services else None
    except configparser.InterpolationError:
        raise ValueError(f"{file!r} has a % that is not written %%; a password may also be in PGPASSFILE") from None
    except (configparser.Error, UnicodeDecodeError):
        raise ValueError(f"{file!r} is not a service file") from None
    if values is None:
        raise ValueError(f"the service {service!r} is not in {file!r}")
    return values


def driver_errors() -> tuple[type[Exception], ...]:
    """What the driver raises, for the server, the network or a wrong DSN; `ledger_error` takes each."""
    import asyncpg

    return OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError


def ledger_error(error: BaseException, shown: str, what: str) -> LedgerError:
    """An error of the driver or the server, as one line; StoreAway if it may pass."""
    state = getattr(error, "sqlstate", None) or ""
    # Without a state it comes from the network or the driver; a wrong DSN or service is a ValueError or a
    # ClientConfigurationError, which is one too.
    may_pass = state.startswith(_MAY_PASS) if state else not isinstance(error, ValueError)
    kind = StoreAway if may_pass else StoreError
    if isinstance(error, TimeoutError):
        text = "the server does not answer"
    else:
        text = one_line(str(error)) or type(error).__name__
    if state.startswith(_NOT_ALLOWED) and not may_pass:
        text += "; passwords come from PGPASSFILE or a service file" if state.startswith("28") else ""
    return kind(f"the database {shown!r} cannot be {what}: {text}")


class Renewed:
    """A connection that is made when it is needed, and made again after it was lost.

    `name` says in the server's views what it is for.
    """

    def __init__(self, dsn: str, name: str, settings: dict[str, str] | None) -> None:
        self.shown: str = without_password(dsn)
        self.greet: Callable[[asyncpg.Connection], Awaitable[object]] | None = None
        """What is done with each new connection, before anything else."""
        self._dsn = dsn
        self._name = name
        self._settings = settings
        self._connection: asyncpg.Connection | None = None

    async def _connected(self) -> asyncpg.Connection:
        if self._is_lost():
            self._forget()
        if self._connection is None:
            connection = await connect(self._dsn, self._name, self._settings)
            try:
                await self._prepare(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return self._connection

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        if self.greet is not None:
            await self.greet(connection)

    def _refused(self, error: BaseException, what: str) -> LedgerError:
        """An error of the driver or the server; a connection that may be broken is not used again."""
        import asyncpg

        if not isinstance(error, asyncpg.PostgresError) or self._is_lost():
            self._forget()
        return ledger_error(error, self.shown, what)

    def _is_lost(self) -> bool:
        return self._connection is not None and self._connection.is_closed()

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class Database(Renewed):
    """A connection in which threads take turns; see Renewed.

    Every method may raise LedgerError; StoreAway if the server may come back, and has not come back for
    `patience_seconds`.
    """

    def __init__(
        self, dsn: str, name: str, settings: dict[str, str] | None = None, *, patience_seconds: float = 0.0
    ) -> None:
        super().__init__(dsn, name, settings)
        self._patience_seconds = patience_seconds
        self._closing = threading.Event()
        self._turn = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        """The rows of a query."""
        return self.run(lambda connection: connection.fetch(query, *values), "read")

    def run(
        self,
        action: Callable[[asyncpg.Connection], Awaitable[_Result]],
        what: str = "written",
        *,
        seconds: float | None = None,
    ) -> _Result:
        """What an action with the connection returns; `what` it does to the database is said in errors."""
        give_up_at = time.monotonic() + self._patience_seconds
        while True:
            try:
                return self._run_once(action, what, seconds or _SECONDS)
            except StoreAway:
                if time.monotonic() >= give_up_at or self._closing.wait(_AGAIN_SECONDS):
                    raise

    def _run_once(
        self, action: Callable[[asyncpg.Connection], Awaitable[_Result]], what: str, seconds: float
    ) -> _Result:
        with self._turn:
            if self._closing.is_set():  # a run that was aborted leaves its questions behind
                raise LedgerError(f"the database {self.shown!r} is closed")
            if self._loop is None:
                self._loop = asyncio.SelectorEventLoop()
            return self._loop.run_until_complete(self._run(action, what, seconds))

    async def _run(
        self,
        action: Callable[[asyncpg.Connection], Awaitable[_Result]],
        what: str,
        seconds: float,
    ) -> _Result:
        try:
            async with asyncio.timeout(seconds):
                return await action(await self._connected())
        except LedgerError:
            raise
        except driver_errors() as error:
            raise self._refused(error, what) from error

    def close(self) -> None:
        """Close the connection; never raises."""
        self._closing.set()
        with self._turn:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            with contextlib.suppress(Exception):
                if self._connection is not None:
                    loop.run_until_complete(self._connection.close(timeout=2.0))
            self._forget()
            with contextlib.suppress(Exception):
                loop.run_until_complete(asyncio.sleep(0))
            loop.close()
