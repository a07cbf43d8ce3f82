"""Converts instances ahead of the associations that send them, so that a conversion does not hold up other instances.

If an association can carry an instance only after a conversion, or padded to an even length, its worker lays the
instance on its bench and goes on with others. Once the instance is converted, the worker takes it from there and sends
it. A converted data set may take 64 MiB of memory, so benches have room for a few only.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import anyio.to_thread

from asyncstore.aio.signal import Signal
from asyncstore.errors import SourceError
from asyncstore.instances.outcome import Outcome, source_problem
from asyncstore.preparation.prepare import CannotPrepare, Preparation, Prepared, prepared_or_outcome

if TYPE_CHECKING:
    from collections.abc import Collection

    from anyio.abc import TaskGroup

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource
    from asyncstore.preparation.codec_processes import CodecProcesses
    from asyncstore.preparation.conversions import Conversions
    from asyncstore.preparation.prepare import Preparer
    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair
    from asyncstore.transfer.work import Work
    from asyncstore.upper_layer.contexts import AcceptedContexts

Result: TypeAlias = Prepared | Outcome
"""An instance as it can be sent, or why it cannot be."""

# Conversions in this process share one interpreter: more threads help only while they wait for files.
_CONVERTED_AT_ONCE: Final = 4
# All benches together have room for this many, and each for one at least.
_PLACES: Final = 8


class Preparing:
    """Converts in threads, a few at once; each worker has a Bench here."""

    def __init__(self, work: Work, preparer: Preparer, conversions: Conversions) -> None:
        self.benches = 0
        # Every process that decompresses has one instance at work, and another one waiting.
        self.places: int = max(_PLACES, 2 * conversions.processes)
        self._work = work
        self._preparer = preparer
        self._conversions = conversions
        self._codecs: CodecProcesses | None = None
        self._has_ended = False
        self._lock = threading.Lock()
        if isinstance(preparer, Preparation):
            preparer.conversions, preparer.codec = conversions, self._recode
        self._limiter = anyio.CapacityLimiter(_CONVERTED_AT_ONCE)
        self._limiter_of_codecs = anyio.CapacityLimiter(self.places)
        self._scopes: set[anyio.CancelScope] = set()
        self._group: TaskGroup

    def start(self, group: TaskGroup) -> None:
        """Convert in tasks of this group."""
        self._group = group

    def cancel(self) -> None:
        """Stop converting. A running thread is left to itself, and the run must not read its file."""
        for scope in self._scopes:
            scope.cancel()

    def end(self) -> None:
        """End the processes that decompress; what they are at is left."""
        with self._lock:
            self._has_ended = True
        if self._codecs is not None:
            self._codecs.close()

    def needing_codecs(self, contexts: AcceptedContexts, pairs: Collection[Pair]) -> frozenset[Pair]:
        """Those of the pairs that these contexts carry only decompressed or compressed."""
        return frozenset(pair for pair in pairs if self._conversions.needs_codec(contexts, *pair))

    def begin(self, bench: Bench, pending: Pending, contexts: AcceptedContexts) -> None:
        """Begin to convert an instance for a bench."""
        self._group.start_soon(self._convert, bench, pending, contexts)

    def give_back(self, pending: Pending) -> None:
        """Let another association have an instance."""
        self._work.put_back(pending)
        self._work.available.set()

    def _recode(self, instance: Instance, transfer_syntax_uid: str) -> tuple[DataSource, tuple[str, ...]]:
        """Decompress or compress in another process; called in a thread."""
        with self._lock:
            if self._has_ended:
                raise SourceError("it was not decompressed: the run has ended")
            if self._codecs is None:
                from asyncstore.preparation.codec_processes import CodecProcesses

                self._codecs = CodecProcesses(self._conversions.processes)
        return self._codecs.recoded(instance, transfer_syntax_uid, is_checked=self._conversions.is_checked)

    def _prepare(self, instance: Instance, contexts: AcceptedContexts) -> Result:
        prepared = prepared_or_outcome(self._preparer.prepare, instance, contexts)
        if prepared is None:
            return source_problem(CannotPrepare("preparing it gave None"), instance.path, instance)
        return prepared

    async def _convert(self, bench: Bench, pending: Pending, contexts: AcceptedContexts) -> None:
        """Convert one instance in a thread.

        The thread goes on when the bench was closed meanwhile. Another association gets the instance when the thread
        has ended and not before, since two must not read one source.
        """
        result: Result | None = None
        needs_codec = self._conversions.needs_codec(contexts, *pending.pair)
        limiter = self._limiter_of_codecs if needs_codec else self._limiter
        try:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                result = await anyio.to_thread.run_sync(
                    self._prepare, pending.instance, contexts, abandon_on_cancel=True, limiter=limiter
                )
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
        self._carried: set[Pending] = set()
        self._ready: deque[tuple[Pending, Result]] = deque()
        self._is_open = True
        preparing.benches += 1

    @property
    def is_full(self) -> bool:
        """Whether nothing may be laid here now that must be converted."""
        return self.held >= self._places

    @property
    def is_crowded(self) -> bool:
        """Whether nothing may be taken that might be laid here: one of odd length is, whatever its transfer syntax.

        What must be converted does not count: a codec may hang, and one bench have more than its share, since it had
        all places when it was alone.
        """
        return len(self._carried) >= 2 * self._places

    @property
    def _places(self) -> int:
        return max(1, self._preparing.places // self._preparing.benches)

    @property
    def is_ready(self) -> bool:
        """Whether `take` gives something."""
        return bool(self._ready)

    def lay(self, pending: Pending, contexts: AcceptedContexts) -> None:
        """Begin to convert an instance to a transfer syntax that these contexts can carry."""
        self.held += 1
        if contexts.find(*pending.pair) is not None and not self._preparing.needing_codecs(contexts, [pending.pair]):
            self._carried.add(pending)
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
        pending, result = self._ready.popleft()
        self._carried.discard(pending)
        return pending, result

    def close(self) -> None:
        """Give everything back to the work; an instance in a thread follows when its conversion has ended."""
        if self._is_open:
            self._is_open = False
            self._preparing.benches -= 1
        self.held = 0
        self._carried.clear()
        while self._ready:
            self._preparing.give_back(self._ready.popleft()[0])
