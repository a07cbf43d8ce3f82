"""Sends one batch over one association, with an ordinary transfer, while its worker has the right to.

No two workers send the same UID at the same time, although two directories may have it: before an instance is sent, its
UID is entered for the batch. One that another batch has there is left for later, when that batch is done.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from typing import TYPE_CHECKING, Final

from asyncstore.errors import AssociationRejected, AsyncStoreError
from asyncstore.instances.instance import Instance
from asyncstore.ledger.packing import uid_bytes, uid_of_bytes
from asyncstore.ledger.protocol import STORED
from asyncstore.transfer.concurrency import Concurrency
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import asyncpg

    from asyncstore.cluster.claims import Batch
    from asyncstore.cluster.link import Link
    from asyncstore.inputs.feed import Deliver, Fed
    from asyncstore.ledger.postgresql.batch import BatchLedger
    from asyncstore.ledger.protocol import Suspicion
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.admission import Admission
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.report import Report

_ENTER: Final = """
INSERT INTO in_flight (sop_instance_uid, batch)
SELECT DISTINCT t.uid, b.id FROM unnest($1::bytea[]) AS t (uid), (
    SELECT id FROM batch WHERE id = $2 AND epoch = $3 FOR SHARE) AS b
ORDER BY t.uid ON CONFLICT DO NOTHING"""
_ENTERED: Final = """
SELECT f.sop_instance_uid FROM in_flight f JOIN batch b ON b.id = f.batch
WHERE f.sop_instance_uid = ANY($1::bytea[]) AND b.id = $2 AND b.epoch = $3"""
_STATES: Final = ", ".join(f"'{state}'" for state in sorted(STORED))
_STORED: Final = f"""
SELECT DISTINCT i.sop_instance_uid FROM unnest($1::bytea[]) AS t (uid)
JOIN instance i ON i.sop_instance_uid = t.uid JOIN account a ON a.id = i.account
JOIN directory d ON d.id = i.directory JOIN root r ON r.id = d.root
WHERE a.state IN ({_STATES}) AND r.migration = (SELECT migration FROM root WHERE id = $2)"""


class Ended(enum.Enum):
    """How the sending of a batch ended, and what its worker says of it."""

    DONE = "done"
    LEFT = "the rest is left for later"
    TAKEN = "another worker has taken it over"


class Entering:
    """Enters the UIDs of a batch before they are sent; `put_off` counts the instances that must wait."""

    def __init__(self, link: Link, batch: Batch, ledger: BatchLedger) -> None:
        self.put_off: int = 0
        self._link = link
        self._claim = batch.claim
        self._ledger = ledger

    async def admitted(self, found: Sequence[Fed]) -> Sequence[Fed]:
        """What of it may be sent now; the ledger learns which of them are stored already."""
        uids = {uid_bytes(each.sop_instance_uid) for each in found if isinstance(each, Instance)}
        if not uids:
            return found
        entered = await self._link.run(lambda connection: self._enter(connection, list(uids)))
        if len(entered) == len(uids):
            return found
        admitted: list[Fed] = []
        for each in found:
            if isinstance(each, Instance) and uid_bytes(each.sop_instance_uid) not in entered:
                each.let_go()
                self.put_off += 1
            else:
                admitted.append(each)
        return admitted

    async def _enter(self, connection: asyncpg.Connection, uids: list[bytes]) -> set[bytes]:
        claim = self._claim
        await connection.execute(_ENTER, uids, claim.batch, claim.epoch)
        entered = {row[0] for row in await connection.fetch(_ENTERED, uids, claim.batch, claim.epoch)}
        # Only now: a batch that had one of them until now has written before what became of it.
        stored = await connection.fetch(_STORED, uids, claim.root)
        self._ledger.add_known(uid_of_bytes(row[0]) for row in stored)
        return entered


class _Watch(Observer):
    def __init__(self, reject: Callable[[], None]) -> None:
        self._reject = reject

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
        *,
        press: Callable[[], None],
        reject: Callable[[], None],
    ) -> None:
        self._entering = entering
        self._press = press
        super().__init__(peer, paths, options=options, ledger=ledger, observer=_Watch(reject))

    def _make_concurrency(self) -> Concurrency:
        return _OneOfMany(self._press)

    def _make_deliver(self, admission: Admission) -> Deliver:
        async def deliver(
            found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
        ) -> None:
            if not are_settled:
                found = await self._entering.admitted(found)
            await admission.deliver(found, are_settled=are_settled, suspicion=suspicion)

        return deliver


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
        *,
        press: Callable[[], None],
        reject: Callable[[], None],
    ) -> None:
        self.slot: int = slot
        self._ledger = ledger
        self._entering = Entering(link, batch, ledger)
        self._transfer = _BatchTransfer(
            peer,
            [os.fsdecode(os.path.join(os.fsencode(mount), path)) for path in batch.directories],
            dataclasses.replace(options, associations=1, recursive=False),
            ledger,
            self._entering,
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
