"""Keeps two workers from sending the same UID at the same time, although two directories may have it.

Before an instance is sent, its UID is entered for the batch. One that another batch has there is put off until that
batch is done; then it is compared with what was stored, like any other duplicate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncstore.aio.signal import Signal
from asyncstore.inputs.feed import Feed
from asyncstore.instances.instance import Instance
from asyncstore.ledger.accounts import STORED_STATES
from asyncstore.ledger.packing import uid_bytes, uid_of_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from asyncstore.cluster.link import Link
    from asyncstore.inputs.feed import Deliver, Fed, Settled
    from asyncstore.ledger.postgresql.batch import BatchLedger
    from asyncstore.ledger.postgresql.writer import Claim
    from asyncstore.ledger.protocol import Suspicion

# What has come while the database answered is entered together.
_MOST_WAITING: Final = 500
# In one text: for an array, the driver would look at each of them twice to see whether it is one, too.
_UIDS: Final = "(SELECT decode(unnest(string_to_array($1, ',')), 'hex') AS uid) AS t"
_ENTER: Final = f"""
INSERT INTO in_flight (sop_instance_uid, batch)
SELECT t.uid, b.id FROM {_UIDS}, (SELECT id FROM batch WHERE id = $2 AND epoch = $3) AS b
ORDER BY t.uid ON CONFLICT DO NOTHING"""
_ENTERED: Final = f"""
SELECT t.uid FROM {_UIDS} JOIN in_flight f ON f.sop_instance_uid = t.uid JOIN batch b ON b.id = f.batch
WHERE b.id = $2 AND b.epoch = $3"""
# First the few instances, by their UIDs, whatever the planner thinks of tables that were empty a second ago.
_STORED: Final = f"""
WITH found AS MATERIALIZED (
    SELECT i.sop_instance_uid, i.directory, i.account FROM {_UIDS} JOIN instance i ON i.sop_instance_uid = t.uid
)
SELECT DISTINCT f.sop_instance_uid FROM found f JOIN account a ON a.id = f.account
JOIN directory d ON d.id = f.directory JOIN root r ON r.id = d.root
WHERE a.state IN ({STORED_STATES}) AND r.migration = (SELECT migration FROM root WHERE id = $2)"""


class Entering:
    """Enters the UIDs of a batch; `put_off` counts the instances that must wait."""

    def __init__(self, link: Link, claim: Claim, ledger: BatchLedger) -> None:
        self.put_off: int = 0
        self._link = link
        self._claim = claim
        self._ledger = ledger

    async def admitted(self, found: Sequence[Fed]) -> Sequence[Fed]:
        """What of it may be sent now; the ledger learns which of them are stored already."""
        uids = {uid_bytes(each.sop_instance_uid) for each in found if isinstance(each, Instance)}
        if not uids:
            return found
        entered = await self._link.run(lambda connection: self._enter(connection, uids))
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

    async def _enter(self, connection: asyncpg.Connection, uids: set[bytes]) -> set[bytes]:
        batch, epoch = self._claim.batch, self._claim.epoch
        text = ",".join(map(bytes.hex, uids))
        done = await connection.execute(_ENTER, text, batch, epoch)
        entered = uids
        if done != f"INSERT 0 {len(uids)}":
            entered = {row[0] for row in await connection.fetch(_ENTERED, text, batch, epoch)}
        # Only now: a batch that had one of them until now has written before what became of it.
        stored = await connection.fetch(_STORED, text, self._claim.root)
        self._ledger.add_known(uid_of_bytes(row[0]) for row in stored)
        return entered


class EnteringFeed(Feed):
    """A feed whose instances are entered before they are delivered, many at a time, while it reads on."""

    def __init__(self, entering: Entering, sources: Any, *, deliver: Deliver, **settings: Any) -> None:
        super().__init__(sources, deliver=self._enter_later, **settings)
        self._entering = entering
        self._hand_on = deliver
        self._waiting: list[Fed] = []
        self._has_come = Signal()
        self._was_taken = Signal()
        self._has_ended = False

    async def run(self, settled: Settled | None = None) -> None:
        """See Feed."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._enter_all)
            await super().run(settled)
            self._has_ended = True
            self._has_come.set()

    async def _enter_all(self) -> None:
        while True:
            while not self._waiting:
                if self._has_ended:
                    return
                await self._has_come.wait()
            taken, self._waiting = self._waiting, []
            self._was_taken.set()
            await self._hand_on(await self._entering.admitted(taken))

    async def _enter_later(
        self, found: Sequence[Fed], *, are_settled: bool = False, suspicion: Suspicion | None = None
    ) -> None:
        if are_settled:
            await self._hand_on(found, are_settled=True)
        elif suspicion is not None:
            await self._hand_on(await self._entering.admitted(found), suspicion=suspicion)
        else:
            self._waiting += found
            self._has_come.set()
            while len(self._waiting) >= _MOST_WAITING:
                await self._was_taken.wait()
