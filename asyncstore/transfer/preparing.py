"""Converts instances ahead of the associations that send them, so that a conversion does not hold up other instances.

If an association can carry an instance only after a conversion, or padded to an even length, its worker lays the
instance on its bench and goes on with others. Once the instance is converted, the worker takes it from there and sends
it. A converted data set may take 64 MiB of memory, so benches have room for a few only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal
from asyncstore.errors import SourceError
from asyncstore.instances.outcome import Outcome, source_problem
from asyncstore.preparation.prepare import Prepared

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from asyncstore.preparation.prepare import Preparer
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.work import Work
    from asyncstore.upper_layer.contexts import AcceptedContexts

Result: TypeAlias = Prepared | Outcome
"""An instance as it can be sent, or why it cannot be."""

# Conversions share one interpreter: more threads help only while they wait for files.
_CONVERTED_AT_ONCE: Final = 4
# All benches together have room for this many, and each for one at least.
_PLACES: Final = 8


class Preparing:
    """Converts in threads, a few at once; each worker has a Bench here."""

    def __init__(self, work: Work, preparer: Preparer) -> None:
        self.benches = 0
        self._work = work
        self._preparer = preparer
        self._limiter = anyio.CapacityLimiter(_CONVERTED_AT_ONCE)
        self._scopes: set[anyio.CancelScope] = set()
        self._group: TaskGroup

    def start(self, group: TaskGroup) -> None:
        """Convert in tasks of this group."""
        self._group = group

    def cancel(self) -> None:
        """Stop converting. A running thread is left to itself, and the run must not read its file."""
        for scope in self._scopes:
            scope.cancel()

    def begin(self, bench: Bench, pending: Pending, contexts: AcceptedContexts) -> None:
        """Begin to convert an instance for a bench."""
        self._group.start_soon(self._convert, bench, pending, contexts)

    def give_back(self, pending: Pending) -> None:
        """Let another association have an instance."""
        self._work.put_back(pending)
        self._work.available.set()

    async def _convert(self, bench: Bench, pending: Pending, contexts: AcceptedContexts) -> None:
        """Convert one instance in a thread.

        The thread goes on when the bench was closed meanwhile. Another association gets the instance when the thread
        has ended and not before, since two must not read one source.
        """
        result: Result | None = None
        try:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                result = await anyio.to_thread.run_sync(
                    self._preparer.prepare, pending.instance, contexts, abandon_on_cancel=True, limiter=self._limiter
                )
        except SourceError as error:
            result = source_problem(error, pending.instance.path, pending.instance)
        finally:
            self._scopes.discard(scope)
            if result is None or not bench.put(pending, result):
                self.give_back(pending)


class Bench:
    """The conversions of one worker; `held` counts the instances that it laid here and has not taken back.

    `changed` is set when something is ready.
    """

    def __init__(self, preparing: Preparing) -> None:
        self.held: int = 0
        self.changed: Signal = Signal()
        self._preparing = preparing
        self._ready: deque[tuple[Pending, Result]] = deque()
        self._is_open = True
        preparing.benches += 1

    @property
    def is_full(self) -> bool:
        """Whether nothing may be laid here now."""
        return self.held >= max(1, _PLACES // self._preparing.benches)

    @property
    def is_crowded(self) -> bool:
        """Whether nothing may be taken that might be laid here: one of odd length is, whatever its transfer syntax."""
        return self.held >= 2 * max(1, _PLACES // self._preparing.benches)

    @property
    def is_ready(self) -> bool:
        """Whether `take` gives something."""
        return bool(self._ready)

    def lay(self, pending: Pending, contexts: AcceptedContexts) -> None:
        """Begin to convert an instance to a transfer syntax that these contexts can carry."""
        self.held += 1
        self._preparing.begin(self, pending, contexts)

    def put(self, pending: Pending, result: Result) -> bool:
        """Take a converted instance from its thread; False when the bench was closed."""
        if self._is_open:
            self._ready.append((pending, result))
            self.changed.set()
        return self._is_open

    def take(self) -> tuple[Pending, Result]:
        """The next instance that is ready."""
        self.held -= 1
        return self._ready.popleft()

    def close(self) -> None:
        """Give everything back to the work; an instance in a thread follows when its conversion has ended."""
        if self._is_open:
            self._is_open = False
            self._preparing.benches -= 1
        self.held = 0
        while self._ready:
            self._preparing.give_back(self._ready.popleft()[0])
