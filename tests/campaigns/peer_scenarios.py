"""Plays peers in trouble against real transfers, and tells how much time each trouble cost.

    python -m tests.campaigns.peer_scenarios [--scale S] [--instances N] [NAME ...]

Each scenario is one transfer with a ledger to an SCP that keeps what it gets, over one association unless said
otherwise. It must end complete: every instance is at the SCP, and stored according to the ledger. The same work against
the SCP in good health gives the time to compare with. What a trouble may cost follows from the timeouts and waits in
force; that bound stands next to what it did cost. `--scale` multiplies every time but that of an abort (5 s).
"""

from __future__ import annotations

import argparse
import functools
import logging
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts
from asyncstore.net.provider import NO_ANSWER
from asyncstore.net.transport import ABORT_SECONDS
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from tests.support.fault_plan import Cut, Refuse
from tests.support.faults import FaultProxy
from tests.support.ledgers import rows_of
from tests.support.transfers import KeepingSCP, peer_at, uid_of, write_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncstore.services.storage_scp import Arrival
    from tests.support.fault_plan import Fault

INSTANCES: Final = 30
# So many in flight are more than the buffers of a connection hold: a peer that stops reading stops the sender.
PADDING_BYTES: Final = 1_500_000
STORED_FIRST: Final = 5
AFTER_BYTES: Final = STORED_FIRST * PADDING_BYTES + PADDING_BYTES // 2
OUT_OF_RESOURCES: Final = Status(0xA700)
# How late a busy machine may be over a whole run.
NOISE_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A peer in trouble: `faults` before the SCP, `answer` in it; `bound_seconds` is what that may cost, and why."""

    name: str
    faults: tuple[Fault, ...] = ()
    answer: Callable[[KeepingSCP, Arrival], Any] | None = None
    bound_seconds: float
    healthy_times: float = 1.0
    why: str
    maximum_associations: int = 0
    options: TransferOptions
    takes_seconds: float = 0.0


@dataclass(frozen=True)
class Played:
    """What came of a scenario. `sent_again` counts requests, `arrived_again` those that reached the SCP whole."""

    scenario: Scenario
    healthy_seconds: float
    seconds: float
    sent_again: int
    arrived_again: int

    @property
    def lost_seconds(self) -> float:
        return self.seconds - self.healthy_seconds

    @property
    def bound_seconds(self) -> float:
        """What was in flight is sent again: that costs no more than the whole work."""
        scenario = self.scenario
        return scenario.bound_seconds + scenario.healthy_times * self.healthy_seconds + NOISE_SECONDS

    def __str__(self) -> str:
        return (
            f"{self.scenario.name:24} {self.seconds:8.2f} s  healthy {self.healthy_seconds:6.2f} s  "
            f"lost {self.lost_seconds:7.2f} s  bound {self.bound_seconds:7.2f} s  sent again {self.sent_again:3}  "
            f"arrived again {self.arrived_again:3}\n{'':25}{self.scenario.why}"
        )


def scenarios(scale: float, abort_seconds: float = ABORT_SECONDS) -> list[Scenario]:
    """All of them, their times but that of an abort multiplied by `scale`."""
    timeout, first_wait = 10 * scale, 1 * scale

    def options(outage_seconds: float = 60.0, associations: int = 1, window: int = 16) -> TransferOptions:
        retry = RetryPolicy(
            first_wait_seconds=first_wait, cap_seconds=300 * scale, outage_seconds=outage_seconds * scale
        )
        timeouts = Timeouts(dimse_seconds=timeout, network_seconds=timeout)
        return TransferOptions(associations=associations, window=window, retry=retry, timeouts=timeouts)

    return [
        Scenario(
            name="stops reading",
            faults=(Cut(how="stall", at=AFTER_BYTES, times=1),),
            options=options(),
            bound_seconds=timeout + abort_seconds + first_wait,
            why="response or network timeout, the abort that nobody reads, the first wait",
        ),
        Scenario(
            name="never answers",
            answer=_silent_on_the_first,
            options=options(),
            bound_seconds=timeout + first_wait,
            why="response timeout, the first wait",
        ),
        Scenario(
            name="answers a byte a second",
            faults=(Cut(how="dribble", direction="down", in_data=True, pause_seconds=1 * scale, times=1),),
            options=options(),
            bound_seconds=timeout + first_wait,
            why="response timeout, which is for the whole response, the first wait",
        ),
        Scenario(
            name="A700 for a minute",
            answer=_Refusing(60 * scale),
            options=options(outage_seconds=90.0),
            bound_seconds=90 * scale,
            why="the last try is made when the longest outage (90 s) ends; the waits before it are random, and double",
        ),
        Scenario(
            name="takes 2 associations",
            maximum_associations=2,
            options=options(associations=8, window=1),
            takes_seconds=0.02,
            bound_seconds=0.0,
            healthy_times=8 / 2,
            why="no wait: 2 associations carry what 8 would have, and take four times as long",
        ),
        Scenario(
            name="restarts",
            faults=(Cut(at=AFTER_BYTES, times=1), Refuse(after=1, seconds=20 * scale)),
            options=options(),
            bound_seconds=60 * scale,
            why="away for 20 s; the last try is made when the longest outage (60 s) ends; the waits grow as above",
        ),
    ]


def _silent_on_the_first(scp: KeepingSCP, arrival: Arrival) -> Any:
    """Answers nothing while there was one association only."""
    return NO_ANSWER if scp.associations < 2 else SUCCESS


@dataclass
class _Refusing:
    """Answers that it is out of resources, for so long, when it has taken a few."""

    seconds: float
    _until: float | None = field(default=None, init=False)

    def __call__(self, scp: KeepingSCP, arrival: Arrival) -> Status:
        if len(scp.arrivals) <= STORED_FIRST:
            return SUCCESS
        self._until = self._until or time.monotonic() + self.seconds
        return OUT_OF_RESOURCES if time.monotonic() < self._until else SUCCESS


async def play(scenario: Scenario, sources: Path, directory: Path) -> Played:
    """Run the work against the peer in good health, then against the one in trouble; check and compare."""
    healthy, _, _ = await _run(scenario, sources, directory / "healthy", is_healthy=True)
    seconds, sent, arrived = await _run(scenario, sources, directory / "in trouble", is_healthy=False)
    count = len(list(sources.iterdir()))
    return Played(scenario, healthy, seconds, sent - count, arrived - count)


async def healthy_seconds(sources: Path, place: Path) -> float:
    """How long this machine takes for the work when nothing is wrong, and no timeout is short."""
    seconds, _, _ = await _run(scenarios(1.0)[0], sources, place, is_healthy=True)
    return seconds


async def _run(scenario: Scenario, sources: Path, place: Path, *, is_healthy: bool) -> tuple[float, int, int]:
    """One transfer to its end: its seconds, its requests, and how many of them the SCP took or kept silent on."""
    kept = place / "kept"
    kept.mkdir(parents=True)
    taken = 0

    async def answer(arrival: Arrival) -> Any:
        nonlocal taken
        await anyio.sleep(scenario.takes_seconds)
        status = SUCCESS if is_healthy or scenario.answer is None else scenario.answer(scp, arrival)
        taken += status is not OUT_OF_RESOURCES
        return status

    limit = 0 if is_healthy else scenario.maximum_associations
    async with KeepingSCP(answer, output_directory=kept, maximum_associations=limit) as scp:
        with FaultProxy((scp.host, scp.port), () if is_healthy else scenario.faults) as proxy:
            transfer = Transfer(peer_at(proxy), sources, options=scenario.options, ledger=place / "run.db")
            began_at = time.monotonic()
            async with transfer:
                states = [outcome.state async for outcome in transfer]
            seconds = time.monotonic() - began_at
    await anyio.to_thread.run_sync(functools.partial(_check, transfer, states, sources, place))
    return seconds, transfer.report.attempts, taken


def _check(transfer: Transfer, states: Sequence[State], sources: Path, place: Path) -> None:
    """Everything was stored, once, by every account."""
    uids = {uid_of(int(path.stem)) for path in sources.iterdir()}
    assert list(states) == [State.STORED] * len(uids), transfer.report
    assert transfer.report.stopped_because is None
    rows = rows_of(place / "run.db")
    assert [row.state for row in rows] == [State.STORED] * len(uids)
    assert {row.sop_instance_uid for row in rows} == uids
    kept = list((place / "kept").iterdir())
    assert len(kept) == len(uids)
    assert {uid for uid in uids if any(uid in path.name for path in kept)} == uids


def write_sources(directory: Path, count: int = INSTANCES) -> Path:
    """The files that the scenarios send."""
    write_files(directory, count, padding_bytes=PADDING_BYTES)
    return directory


async def _main(scale: float, count: int, names: Sequence[str]) -> bool:
    within = True
    with tempfile.TemporaryDirectory(prefix="peer-scenarios-") as directory:
        sources = write_sources(Path(directory, "in"), count)
        for scenario in scenarios(scale):
            if names and scenario.name not in names:
                continue
            place = Path(directory, scenario.name)
            played = await play(scenario, sources, place)
            within = within and played.lost_seconds <= played.bound_seconds
            print(played, flush=True)
            await anyio.to_thread.run_sync(shutil.rmtree, place)
    return within


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.peer_scenarios", description="what peers in trouble cost"
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="multiplies every time (default 1)")
    parser.add_argument("--instances", type=int, default=INSTANCES, metavar="N")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a scenario; all when none is given")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if not anyio.run(_main, options.scale, options.instances, options.names):
        sys.exit("a scenario has cost more than its bound")


if __name__ == "__main__":
    main()
