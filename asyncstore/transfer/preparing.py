"""Converts instances ahead of the associations that send them, so that a conversion holds up nobody.

A worker hands over an instance that its association can carry only after a conversion, and goes on with others. Once it
is converted, the worker finds it on its bench and sends it. A converted data set may take 64 MiB of memory, so only a
few are converted or wait to be sent at any time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal
from asyncstore.errors import SourceError
from asyncstore.instances.outcome import Outcome, source_problem
from asyncstore.preparation.prepare import Prepared, prepare

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from asyncstore.transfer.work import Pending, Work
    from asyncstore.upper_layer.contexts import AcceptedContexts

Result: TypeAlias = Prepared | Outcome
"""An instance as it can be sent, or why it cannot be."""

# Conversions share one interpreter; more threads than two only help where files are waited for.
_CONVERTED_AT_ONCE: Final = 4
# Being converted, or converted and not taken by their workers yet; of all associations together.
_MAXIMUM_HELD: Final = 6


class Preparing:
    """Converts in threads what workers lay on their benches.

    `changed` is set when something on a bench is ready, or when there is room again. While `is_full`, nothing may be
    handed over.
    """

    def __init__(self, work: Work) -> None:
        self.changed = Signal()
        self.is_full = False
        self._work = work
        self._limiter = anyio.CapacityLimiter(_CONVERTED_AT_ONCE)
        self._held = 0
        self._scopes: set[anyio.CancelScope] = set()
        self._group: TaskGroup

    def start(self, group: TaskGroup) -> None:
        """Convert in tasks of this group."""
        self._group = group

    def cancel(self) -> None:
        """Convert no more; threads that are at it are left to themselves, and the run must not read their files."""
        for scope in self._scopes:
            scope.cancel()

    def begin(self, bench: Bench, pending: Pending, contexts: AcceptedContexts) -> None:
        """Have an instance converted for a bench."""
        self._count(1)
        self._group.start_soon(self._convert, bench, pending, contexts)

    def release(self) -> None:
        """One less is held: its worker has taken it."""
        self._count(-1)

    def give_back(self, pending: Pending) -> None:
        """One less is held: another association may have it."""
        self._count(-1)
        self._work.put_back(pending)
        self._work.available.set()

    def _count(self, more: int) -> None:
        self._held += more
        self.is_full = self._held >= _MAXIMUM_HELD
        if more < 0:
            self.changed.set()

    async def _convert(self, bench: Bench, pending: Pending, contexts: AcceptedContexts) -> None:
        """Convert one instance in a thread.

        The thread goes on when the bench was cleared meanwhile. Another association gets the instance when the thread
        has ended and not before, since two must not read one source.
        """
        result: Result | None = None
        try:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                result = await anyio.to_thread.run_sync(
                    prepare, pending.instance, contexts, abandon_on_cancel=True, limiter=self._limiter
                )
        except SourceError as error:
            result = source_problem(error, pending.instance.path, pending.instance)
        finally:
            self._scopes.discard(scope)
            if result is None or not bench.put(pending, result):
                self.give_back(pending)
        self.changed.set()


class Bench:
    """What one worker has handed over to be converted; `held` counts what it has not taken yet."""

    def __init__(self, preparing: Preparing) -> None:
        self.held = 0
        self._preparing = preparing
        self._ready: deque[tuple[Pending, Result]] = deque()
        self._is_cleared = False

    @property
    def is_ready(self) -> bool:
        """Whether `take` gives something."""
        return bool(self._ready)

    def hand_over(self, pending: Pending, contexts: AcceptedContexts) -> None:
        """Have an instance converted to what these contexts can carry."""
        self.held += 1
        self._preparing.begin(self, pending, contexts)

    def put(self, pending: Pending, result: Result) -> bool:
        """Lay down what has become of an instance; False when the bench was cleared."""
        if not self._is_cleared:
            self._ready.append((pending, result))
        return not self._is_cleared

    def take(self) -> tuple[Pending, Result]:
        """The next instance that is ready."""
        self.held -= 1
        self._preparing.release()
        return self._ready.popleft()

    def clear(self) -> None:
        """Give everything back, for good; what is being converted follows when that has ended."""
        self._is_cleared = True
        self.held = 0
        while self._ready:
            self._preparing.give_back(self._ready.popleft()[0])
