"""A connection to the ledger's database in the running event loop, which is made again whenever it was lost.

Whoever waits for an answer meanwhile gets it later. So an action must be one that may be done twice: the connection may
be lost after the server has done it, and before it has said so.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

from asyncstore.ledger.buffered import StoreAway
from asyncstore.ledger.postgresql.database import Renewed, driver_errors
from asyncstore.ledger.telling import Absence, Telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType
    from typing import Self

    import asyncpg

_Result = TypeVar("_Result")
_Listener = tuple[str, "Callable[..., None]"]

_AGAIN_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 30.0


@contextlib.asynccontextmanager
async def unhurried(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction that is on the server's disk with the next one that waits for it, and not when it ends.

    For what a crash of the server may undo, with everything after it: what it says is then found out again.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")
        yield


class Link(Renewed):
    """A connection for one action at a time; see Renewed.

    While the server is away, actions are tried again for `away_seconds`; then they raise LedgerError, and so does every
    other one at once. An answer is waited for for `answer_seconds`. `telling` has the log say when the server is away,
    and when it is back.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        *,
        away_seconds: float = 0.0,
        answer_seconds: float = _ANSWER_SECONDS,
        settings: dict[str, str] | None = None,
        telling: Telling | None = None,
    ) -> None:
        super().__init__(dsn, name, settings)
        self._away_seconds = away_seconds
        self._answer_seconds = answer_seconds
        self._telling = telling or Telling()
        self._turn = asyncio.Lock()
        self._listeners: list[_Listener] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._forget()

    async def run(self, action: Callable[[asyncpg.Connection], Awaitable[_Result]]) -> _Result:
        """What an action with the connection returns, as soon as there is one."""
        now = asyncio.get_running_loop().time
        absence = Absence(self._telling)
        try:
            while True:
                try:
                    result = await self.once(action)
                except StoreAway as error:
                    if not absence.missed(error, now(), self._away_seconds):
                        self._away_seconds = 0.0
                        raise
                    await asyncio.sleep(_AGAIN_SECONDS)
                else:
                    absence.reached(now())
                    return result
        finally:
            absence.end()

    def hurry(self, away_seconds: float) -> None:
        """Do not wait longer for a server that is away: somebody wants the end."""
        self._away_seconds = min(self._away_seconds, away_seconds)

    async def once(self, action: Callable[[asyncpg.Connection], Awaitable[_Result]]) -> _Result:
        """What an action returns that is tried once. Raises LedgerError, StoreAway if the server may come back."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._answer_seconds):
                    return await action(await self._connected())
            except driver_errors() as error:
                raise self._refused(error, "used") from error
            except BaseException:
                self._forget()  # an answer may still be on its way
                raise

    async def listen(self, channel: str, call: Callable[..., None]) -> None:
        """Have notifications of a channel, also after the connection was made again."""
        self._listeners.append((channel, call))
        await self.run(lambda connection: connection.add_listener(channel, call))

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        await super()._prepare(connection)
        for channel, call in self._listeners:
            await connection.add_listener(channel, call)
