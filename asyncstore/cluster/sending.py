"""Sends one batch over one association, with an ordinary transfer, while its worker has the right to."""

from __future__ import annotations

import dataclasses
import enum
import os
from typing import TYPE_CHECKING, Any

from asyncstore.cluster.entering import Entering, EnteringFeed
from asyncstore.cluster.fencing import connect_within
from asyncstore.errors import AssociationRejected, AsyncStoreError
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.cluster.claims import Batch
    from asyncstore.cluster.heart import Fence
    from asyncstore.cluster.link import Link
    from asyncstore.inputs.feed import Feed
    from asyncstore.ledger.postgresql.batch import BatchLedger
    from asyncstore.net.peer import Peer
    from asyncstore.net.transport import Connect
    from asyncstore.transfer.learned import Learned
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.report import Report


class Ended(enum.Enum):
    """How the sending of a batch ended, and what its worker says of it."""

    DONE = "done"
    LEFT = "the rest is left for later"
    TAKEN = "another worker has taken it over"


class _Watch(Observer):
    def __init__(self, opened: Callable[[], None], reject: Callable[[], None]) -> None:
        self._opened = opened
        self._reject = reject

    def on_association_opened(self, number: int) -> None:
        self._opened()

    def on_association_ended(self, number: int, error: AsyncStoreError | None) -> None:
        if isinstance(error, AssociationRejected) and error.retryable:
            self._reject()


class _OneOfMany(Concurrency):
    """One association; what the peer says about more of them is for all workers."""

    def __init__(self, press: Callable[[], None]) -> None:
        super().__init__(1)
        self._press = press

    def pressed(self, now: float) -> None:
        self._press()
        super().pressed(now)

    def lost(self, now: float) -> None:
        self._press()
        super().lost(now)


class _BatchTransfer(Transfer):
    """A transfer of one batch among many that are sent at the same time."""

    def __init__(
        self,
        peer: Peer,
        paths: Sequence[str],
        options: TransferOptions,
        ledger: BatchLedger,
        entering: Entering,
        fence: Fence,
        learned: Learned,
        *,
        opened: Callable[[], None],
        press: Callable[[], None],
        reject: Callable[[], None],
    ) -> None:
        self._entering = entering
        self._fence = fence
        self._learned = learned
        self._press = press
        super().__init__(peer, paths, options=options, ledger=ledger, observer=_Watch(opened, reject))

    def _make_concurrency(self) -> Concurrency:
        return _OneOfMany(self._press)

    def _make_learned(self) -> Learned:
        return self._learned

    def _make_connect(self) -> Connect:
        return connect_within(self._fence)

    def _make_feed(self, sources: Any, **settings: Any) -> Feed:
        return EnteringFeed(self._entering, sources, **settings)


class Sending:
    """One batch on its way. `slot` is its number among those that are sent at the same time."""

    def __init__(
        self,
        batch: Batch,
        slot: int,
        mount: str,
        peer: Peer,
        options: TransferOptions,
        ledger: BatchLedger,
        link: Link,
        fence: Fence,
        learned: Learned,
        *,
        opened: Callable[[], None],
        press: Callable[[], None],
        reject: Callable[[], None],
    ) -> None:
        self.slot: int = slot
        self._ledger = ledger
        self._entering = Entering(link, batch.claim, ledger)
        self._transfer = _BatchTransfer(
            peer,
            [os.fsdecode(os.path.join(os.fsencode(mount), path)) for path in batch.directories],
            dataclasses.replace(options, associations=1, recursive=False),
            ledger,
            self._entering,
            fence,
            learned,
            opened=opened,
            press=press,
            reject=reject,
        )
        self.failure: Exception | None = None
        """What keeps this worker from sending any batch."""

    @property
    def report(self) -> Report:
        """What was done so far."""
        return self._transfer.report

    def drain(self) -> None:
        """Finish what is in flight, and leave the rest."""
        self._transfer.drain()

    def abort(self) -> None:
        """Abort the association."""
        self._transfer.abort()

    def hurry(self) -> None:
        """Do not wait long for a database that is away."""
        self._ledger.hurry()

    async def run(self) -> Ended:
        """Send it; returns when everything that became of it is written, or can be no more."""
        try:
            async with self._transfer as transfer:
                async for _ in transfer:
                    pass
        except AsyncStoreError as error:
            self.failure = error
        report, ledger = self._transfer.report, self._ledger
        self.failure = self.failure or report.stopped_because
        if ledger.was_taken:
            self.failure = None
            return Ended.TAKEN
        if ledger.failure is not None:
            self.failure = ledger.failure
        if self.failure is not None or report.stopped_early or self._entering.put_off:
            return Ended.LEFT
        return Ended.DONE
