"""Cuts a transfer of three instances at every byte offset of both directions, and holds the records against each other.

    python -m tests.campaigns.cut_anywhere [--every N] [--direction up|down] [--how rst|fin]

Each offset is played twice. A run that does not retry is cut short, and a second run of the same ledger finishes it; a
run with the usual number of retries finishes by itself. After each run: no instance at the SCP is in parts or altered,
the ledger says of none that it is stored unless the SCP has it, and no instance is sent more often than a cut explains.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import shutil
import socket
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import anyio

from asyncstore.errors import AssociateError, AssociationLost
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from tests.support.fault_plan import Cut
from tests.support.faults import FaultProxy
from tests.support.kept import Kept
from tests.support.ledgers import rows_of
from tests.support.tap import Reframer
from tests.support.transfers import KeepingSCP, collect, peer_at, uid_of, write_files
from tests.support.wire import ScriptedSCP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.instances.outcome import Outcome
    from tests.support.transfers import Listening
    from tests.support.wire import Wire

Direction: TypeAlias = Literal["up", "down"]
How: TypeAlias = Literal["rst", "fin"]
INSTANCES: Final = 3
UIDS: Final = frozenset(uid_of(number) for number in range(1, INSTANCES + 1))
# Each data set takes two PDUs.
PADDING_BYTES: Final = 150
MAXIMUM_LENGTH: Final = 256
# Each run must end long before that: nothing waits for the peer once its connection is cut.
RUN_SECONDS: Final = 30.0
TIMEOUTS: Final = Timeouts(RUN_SECONDS, RUN_SECONDS, RUN_SECONDS, RUN_SECONDS)
NO_RETRY: Final = RetryPolicy(retries=0, first_wait_seconds=0.01, outage_seconds=0.0)
USUAL: Final = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.02)


@dataclass
class Recorded:
    """The bytes of a whole transfer that nothing disturbed, by direction."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)

    def of(self, direction: Direction) -> bytearray:
        return self.up if direction == "up" else self.down

    def boundaries(self, direction: Direction) -> list[int]:
        """Where each PDU begins, and where the last one ends."""
        found = [0]
        for unit in Reframer().feed(bytes(self.of(direction))):
            found.append(found[-1] + len(unit))
        return found

    def sample(self, direction: Direction, every: int) -> list[int]:
        """Every n-th offset, and those around each boundary of two PDUs."""
        end = len(self.of(direction))
        near = {boundary + step for boundary in self.boundaries(direction) for step in (-1, 0, 1)}
        return sorted(offset for offset in near | set(range(0, end, every)) if 0 <= offset < end)


@dataclass
class Figures:
    """What the cuts led to, counted over all offsets of one kind."""

    cuts: int = 0
    slowest_seconds: float = 0.0
    never_associated: int = 0
    stored_before_the_cut: Counter[int] = field(default_factory=Counter)
    sent_again: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        stored = ", ".join(f"{count} after {times} cuts" for count, times in sorted(self.stored_before_the_cut.items()))
        again = ", ".join(f"{count} after {times} cuts" for count, times in sorted(self.sent_again.items()))
        return (
            f"{self.cuts} cuts, {self.never_associated} before the association; the slowest run took "
            f"{self.slowest_seconds:.2f} s; stored by the first run: {stored}; requests sent again: {again}"
        )


def _transfer(server: Listening, sources: Path, ledger: Path, retry: RetryPolicy) -> Transfer:
    # Nothing can be left out of the offer: else a run without retries would offer less at once.
    options = TransferOptions(associations=1, window=1, only_needed_contexts=True, timeouts=TIMEOUTS, retry=retry)
    return Transfer(peer_at(server), sources, options=options, ledger=ledger)


async def record(server: Listening, sources: Path, ledger: Path) -> Recorded:
    """What goes over the wire when nothing goes wrong."""
    recorded = Recorded()

    def relay(wire: Wire) -> None:
        with socket.create_connection((server.host, server.port)) as scp:
            pairs = {wire.sock: (scp, recorded.up), scp: (wire.sock, recorded.down)}
            while wire.sock in pairs:  # the SCP closes its side in the event loop, which waits for this thread then
                for source in select.select(list(pairs), [], [], RUN_SECONDS)[0]:
                    data = source.recv(1 << 16)
                    destination, bytes_of = pairs[source]
                    bytes_of += data
                    destination.sendall(data)
                    if not data:
                        destination.shutdown(socket.SHUT_WR)
                        del pairs[source]

    with ScriptedSCP(relay) as proxy:
        outcomes = await collect(_transfer(proxy, sources, ledger, NO_RETRY), [])
    assert [outcome.state for outcome in outcomes] == [State.STORED] * INSTANCES
    return recorded


class Scene:
    """The files that are sent, the bytes that this takes undisturbed, and a place for what each cut leaves behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sources = directory / "in"
        self.recorded = Recorded()
        self.originals: dict[str, bytes] = {}
        self._played = 0

    async def prepare(self) -> None:
        """Write the files and record one transfer of them."""
        for path in map(Path, write_files(self.sources, INSTANCES, padding_bytes=PADDING_BYTES)):
            os.utime(path, (1e9, 1e9))  # a ledger looks into a file again that changed just now
            kept = Kept.at(path)
            self.originals[kept.sop_instance_uid] = kept.data_set
        async with KeepingSCP(maximum_length=MAXIMUM_LENGTH) as scp:
            self.recorded = await record(scp, self.sources, self.directory / "undisturbed.db")

    async def play(self, cut: Cut, figures: Figures, *, retries: bool) -> None:
        """Make one cut, with a run that retries or with two runs, and check what every one of them leaves."""
        self._played += 1
        place = self.directory / str(self._played)
        place.mkdir()
        try:
            await _Played(self, place, cut, figures).play(retries=retries)
        except Exception as error:
            error.add_note(f"{cut}, {'one run that retries' if retries else 'two runs'}, kept in {place}")
            raise
        shutil.rmtree(place)

    def is_before_the_association(self, cut: Cut) -> bool | None:
        """None where it depends on which of the peer's answer and the cut is noticed first."""
        end = self.recorded.boundaries(cut.direction)[1]
        if cut.at == end and (cut.direction == "up" or cut.how == "rst"):
            return None
        return cut.at < end


class _Played:
    """One cut: an SCP, a proxy and a ledger of its own."""

    def __init__(self, scene: Scene, place: Path, cut: Cut, figures: Figures) -> None:
        self.scene = scene
        self.cut = cut
        self.figures = figures
        self.kept = place / "kept"
        self.kept.mkdir()
        self.ledger = place / "run.db"
        self.scp = KeepingSCP(output_directory=self.kept, maximum_length=MAXIMUM_LENGTH)

    async def play(self, *, retries: bool) -> None:
        async with self.scp:
            with FaultProxy((self.scp.host, self.scp.port), [self.cut]) as self.proxy:
                stored = await self._run_until_the_cut(retries)
                if stored != UIDS:
                    await self._run_the_rest(stored)
        assert self._check_kept() == UIDS
        assert len(list(self.kept.iterdir())) == INSTANCES, "something was left behind"
        self.figures.cuts += 1

    async def _run_until_the_cut(self, retries: bool) -> frozenset[str]:
        """Run while the cut happens; the SOP Instance UIDs that were stored."""
        transfer = _transfer(self.proxy, self.scene.sources, self.ledger, USUAL if retries else NO_RETRY)
        outcomes = await self._outcomes_of(transfer, may_fail=True)
        stored = await self._check_ledger(outcomes)
        is_before = not transfer.report.associations_established
        assert self.scene.is_before_the_association(self.cut) in (None, is_before)
        self.figures.never_associated += is_before
        if not retries:
            self.figures.stored_before_the_cut[len(stored)] += 1
        elif not is_before:
            assert stored == UIDS, "a run that may retry has not finished"
            self._check_resends(frozenset())
        return stored

    async def _run_the_rest(self, stored: frozenset[str]) -> None:
        transfer = _transfer(self.proxy, self.scene.sources, self.ledger, NO_RETRY)
        outcomes = await self._outcomes_of(transfer)
        resumed = {outcome.path for outcome in outcomes if outcome.state is State.RESUMED}
        assert len(resumed) == len(stored)
        assert transfer.report.stored == INSTANCES
        assert await self._check_ledger(outcomes) == UIDS
        self._check_resends(stored)

    async def _outcomes_of(self, transfer: Transfer, *, may_fail: bool = False) -> list[Outcome]:
        began_at = time.monotonic()
        outcomes: list[Outcome] = []
        with anyio.fail_after(RUN_SECONDS):
            try:
                await collect(transfer, outcomes)
            except (AssociateError, AssociationLost):
                assert may_fail
                assert not transfer.report.associations_established
                assert transfer.report.left == transfer.report.found
        self.figures.slowest_seconds = max(self.figures.slowest_seconds, time.monotonic() - began_at)
        return outcomes

    async def _check_ledger(self, outcomes: list[Outcome]) -> frozenset[str]:
        """Hold the ledger against the outcomes, the proxy's journal and the SCP; what it says is stored."""
        acknowledged = Counter(entry.sop_instance_uid for entry in self.proxy.journal.entries if entry.status == 0)
        rows = await anyio.to_thread.run_sync(rows_of, self.ledger)
        stored = frozenset(row.sop_instance_uid or "" for row in rows if row.state is State.STORED)
        assert {row.state for row in rows} <= {State.STORED, State.UNKNOWN, State.LEFT}
        assert len({row.path for row in rows}) == len(rows) <= INSTANCES
        assert {outcome.path for outcome in outcomes if outcome.is_stored} == {
            row.path for row in rows if row.state is State.STORED
        }
        assert stored <= acknowledged.keys(), "the ledger has an answer that never came"
        if self.cut.how == "fin" and self.cut.direction == "down":  # else the cut may overtake an answer
            assert stored == acknowledged.keys(), "an answer that came is not in the ledger"
        assert stored <= self._check_kept(), "the ledger has what the SCP has not"
        self.rows = rows
        return stored

    def _check_kept(self) -> set[str]:
        """Whatever has its final name at the SCP is whole, and is what was sent."""
        kept = [Kept.at(path) for path in self.kept.iterdir() if path.suffix != ".part"]
        for each in kept:
            assert each.data_set == self.scene.originals[each.sop_instance_uid], f"{each.name} was altered"
        return {each.sop_instance_uid for each in kept}

    def _check_resends(self, stored_before: frozenset[str]) -> None:
        """One cut costs each instance that was in flight one request, and the others none."""
        attempts = {row.sop_instance_uid: row.attempts for row in self.rows}
        assert all(1 <= count <= 2 for count in attempts.values()), attempts
        assert all(self.scp.uids[uid] <= count for uid, count in attempts.items() if uid), attempts
        assert all(attempts[uid] == self.scp.uids[uid] == 1 for uid in stored_before), attempts
        self.figures.sent_again[sum(attempts.values()) - INSTANCES] += 1


async def play_all(scene: Scene, direction: Direction, how: How, offsets: list[int], *, retries: bool) -> Figures:
    """Cut at each of these offsets; raises AssertionError for the first one after which something is wrong."""
    figures = Figures()
    for at in offsets:
        await scene.play(Cut(how=how, direction=direction, at=at, times=1), figures, retries=retries)
    return figures


async def _main(every: int, directions: Sequence[Direction], hows: Sequence[How]) -> None:
    with tempfile.TemporaryDirectory(prefix="cut-anywhere-") as directory:
        scene = Scene(Path(directory))
        await scene.prepare()
        for direction in directions:
            length, boundaries = len(scene.recorded.of(direction)), scene.recorded.boundaries(direction)
            print(f"{direction}: {length} bytes, PDUs begin at {', '.join(map(str, boundaries[:-1]))}", flush=True)
            offsets = list(range(length)) if every == 1 else scene.recorded.sample(direction, every)
            for how in hows:
                for retries in (False, True):
                    began_at = time.monotonic()
                    figures = await play_all(scene, direction, how, offsets, retries=retries)
                    runs = "one run that retries" if retries else "cut, and run again"
                    print(f"  {how}, {runs}: {figures}; {time.monotonic() - began_at:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.cut_anywhere", description="cut a transfer at every byte"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th byte, and around each PDU's ends")
    parser.add_argument("--direction", choices=get_args(Direction), action="append")
    parser.add_argument("--how", choices=get_args(How), action="append")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # thousands of lost connections
    anyio.run(_main, options.every, options.direction or get_args(Direction), options.how or get_args(How))


if __name__ == "__main__":
    main()
