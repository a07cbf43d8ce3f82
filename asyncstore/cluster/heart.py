"""Tells the other workers that this one lives, and hears what holds for all of them.

The peer cannot tell a worker that was taken for dead from its successor. So a worker that does not reach the database
stops by itself before that: it sends nothing new after half the timeout, and aborts after three quarters of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.ledger.buffered import StoreAway
from asyncstore.ledger.postgresql.ledger import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from asyncstore.cluster.link import Link

_MOST_BEAT_SECONDS: Final = 1.0
_QUICK_SECONDS: Final = 0.02
_CLOSED_SHARE: Final = 1 / 2
_ABORTED_SHARE: Final = 3 / 4
_SILENT_SHARE: Final = 7 / 8  # until then an A-ABORT may be sent
_ONE_PRESSURE_MS: Final = 1000  # answers to what was under way already are one and the same pressure
_SEEN: Final = f"""
UPDATE worker SET seen_at = ({NOW_MS}), associations = $2, answers = $3, sent_bytes = $4 WHERE id = $1
RETURNING seen_at"""
# Whatever changes what holds for all of them is heard at once, and not only with the next beat.
_CHANGED: Final = "asyncstore_orders"
TOLD: Final = f"SELECT pg_notify('{_CHANGED}', changed.id::text) FROM changed"
_ORDERS: Final = """
SELECT is_paused, cap, least(target, cap) AS target, pressed_at, rejected_at FROM migration WHERE id = $1"""
_PRESS: Final = f"""
WITH changed AS (
    UPDATE migration SET target = greatest(1, least(target, cap) / 2), pressed_at = ({NOW_MS})
    WHERE id = $1 AND coalesce(pressed_at, 0) < ({NOW_MS}) - {_ONE_PRESSURE_MS} RETURNING id
) {TOLD}"""
_REJECT: Final = f"""
WITH changed AS (
    UPDATE migration m SET rejected_at = ({NOW_MS}),
        target = greatest(1, least(m.target, m.cap, (SELECT sum(w.associations) FROM worker w
            WHERE w.migration = m.id AND w.seen_at > ({NOW_MS}) - 1000 * m.timeout_seconds)))
    WHERE m.id = $1 AND coalesce(m.rejected_at, 0) < ({NOW_MS}) - {_ONE_PRESSURE_MS} RETURNING id
) {TOLD}"""


boottime: Final = functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds that go on while the machine sleeps, as those of the other hosts do."""


class Orders(NamedTuple):
    """What holds for all workers of a migration."""

    is_paused: bool = True
    cap: int = 1
    target: int = 0
    pressed_at: int | None = None
    rejected_at: int | None = None

    @property
    def most(self) -> int:
        """How many associations all of them may have now."""
        return 0 if self.is_paused else self.target


class Done(NamedTuple):
    """What a worker has done: associations that are open now, answers and bytes so far."""

    associations: int
    answers: int
    sent_bytes: int


class Fence:
    """For how long the others have not heard of this worker, and what follows from that."""

    def __init__(self, timeout_seconds: float, clock: Callable[[], float] = boottime) -> None:
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._heard_at = -math.inf
        self.heard(clock())

    def now(self) -> float:
        """The time of its clock."""
        return self._clock()

    def heard(self, began_at: float) -> None:
        """They have heard of it by a beat that began at this time."""
        # The ends of its rights are times: each send looks at them.
        self._heard_at = heard_at = max(self._heard_at, began_at)
        self._closed_at = heard_at + _CLOSED_SHARE * self._timeout_seconds
        self._aborted_at = heard_at + _ABORTED_SHARE * self._timeout_seconds
        self._silent_at = heard_at + _SILENT_SHARE * self._timeout_seconds

    @property
    def silent_seconds(self) -> float:
        return self._clock() - self._heard_at

    def may_send(self) -> bool:
        """Whether a new instance may be sent."""
        return self._clock() < self._closed_at

    @property
    def must_abort(self) -> bool:
        """Whether nothing may be in flight any more."""
        return self._clock() >= self._aborted_at

    @property
    def must_be_silent(self) -> bool:
        """Whether not a byte may be sent any more."""
        return self._clock() >= self._silent_at

    @property
    def seconds_to_silence(self) -> float:
        """For how long bytes may be sent, unless another beat is heard."""
        return self._silent_at - self._clock()


class Heart:
    """Beats about once a second; `orders` are those that were heard last, `shift_ms` what the server's clock is ahead.

    With each beat it calls `beat`, which has the same connection. `away_seconds`: after so long without the database,
    `run` raises LedgerError.
    """

    def __init__(self, link: Link, migration: int, worker: int, *, timeout_seconds: float, away_seconds: float) -> None:
        self.fence: Fence = Fence(timeout_seconds)
        self.orders: Orders = Orders()
        self.shift_ms: int = 0
        self.beat_seconds: float = min(_MOST_BEAT_SECONDS, timeout_seconds / 10)
        self._link = link
        self._migration = migration
        self._worker = worker
        self._away_seconds = away_seconds
        self._is_pressed = False
        self._is_rejected = False
        self._doubt_seconds = math.inf
        self._is_wanted = asyncio.Event()

    def press(self) -> None:
        """Have all workers hear that the peer is out of resources."""
        self._is_pressed = True
        self._is_wanted.set()

    def reject(self) -> None:
        """Have all workers hear that the peer wants no further association."""
        self._is_rejected = True
        self._is_wanted.set()

    def tell(self) -> None:
        """Beat now: what this worker does has changed."""
        self._is_wanted.set()

    async def run(self, beat: Callable[[asyncpg.Connection], Awaitable[None]], done: Callable[[], Done]) -> None:
        """Beat, for ever."""
        with contextlib.suppress(StoreAway):  # the link listens as soon as there is a connection
            await self._link.listen(_CHANGED, self._hear)
        while True:
            began_at = self.fence.now()
            self._is_wanted.clear()
            try:
                await self._link.once(lambda connection: self._beat(connection, beat, done()))
                self.fence.heard(began_at)
            except StoreAway:
                if self.fence.silent_seconds >= self._away_seconds:
                    raise
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_wanted.wait(), self.beat_seconds)

    def _hear(self, _connection: object, _pid: int, _channel: str, migration: str) -> None:
        if migration == str(self._migration):
            self._is_wanted.set()

    async def _beat(
        self, connection: asyncpg.Connection, beat: Callable[[asyncpg.Connection], Awaitable[None]], done: Done
    ) -> None:
        if self._is_pressed:
            await connection.execute(_PRESS, self._migration)
            self._is_pressed = False
        if self._is_rejected:
            await connection.execute(_REJECT, self._migration)
            self._is_rejected = False
        asked_at = time.time()
        seen_ms = await connection.fetchval(_SEEN, self._worker, *done)
        self._set_clock(seen_ms, asked_at, time.time())
        self.orders = Orders(*await connection.fetchrow(_ORDERS, self._migration))
        await beat(connection)

    def _set_clock(self, server_ms: int, asked_at: float, answered_at: float) -> None:
        """Take what the server's clock said, unless the answer was longer on its way than an earlier one."""
        doubt_seconds = answered_at - asked_at
        if doubt_seconds <= max(self._doubt_seconds, _QUICK_SECONDS):
            self._doubt_seconds = doubt_seconds
            self.shift_ms = server_ms - int(500 * (asked_at + answered_at))
