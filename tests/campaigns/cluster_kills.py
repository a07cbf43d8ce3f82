"""Kills the workers of a cluster again and again, and proves that no instance was lost, and none sent from two hosts.

    python -m tests.campaigns.cluster_kills --kills 100 --instances 20000 --seed 7

Three hosts send one archive from one queue, each in a network namespace of its own if this process may make them (as
root). Each runs `asyncstore worker`, which is started again whenever it is killed. Processes are also stopped, and
hosts cut off, for longer than the others wait for a sign of life; PostgreSQL is restarted as if it had crashed. When
all is done, the records are held against each other (see cluster_audit). A seed gives the same archive and the same
faults; what they hit depends on the machine. The exit code is 1 if a statement is violated: then everything is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.campaigns.cluster_audit import Evidence, Row, Trouble, WorkerRun, audit, goes_on_in_time, takeover_line
from tests.campaigns.cluster_plan import (
    CUT,
    CUT_DATABASE,
    KILL,
    RESTART,
    ROOTS,
    SHARE_WITH_FAULTS,
    STOP,
    make_archive,
    make_plan,
    one_by_one,
)
from tests.campaigns.cluster_receiver import Receiver
from tests.campaigns.kill_audit import Finding, snapshot
from tests.support import command, peers, postgresql
from tests.support.hosts import Door, Namespaces, Network, network
from tests.support.process import children

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.campaigns.cluster_plan import Fault

MIGRATION: Final = "move"
AGAIN_SECONDS: Final = 1.0  # before a worker is started that ended by itself
DONE: Final = (0, 3)  # 3: a batch is set aside, or an instance has failed
STALLS: Final = 15.0  # in times of the heartbeat: so long without an instance, and something hangs
MOST_SHOWN: Final = 12
_ROWS: Final = f"""
SELECT encode(v.path, 'hex'), coalesce(v.sop_instance_uid, ''), v.state, v.recorded_at
FROM asyncstore.instances v JOIN asyncstore.migration m ON m.id = v.migration WHERE m.name = '{MIGRATION}'"""
_BATCHES: Final = "SELECT state, count(*) FROM asyncstore.batch GROUP BY state"
_DIRECTORIES: Final = """
SELECT encode(convert_to(r.name || ':', 'UTF8') || d.path, 'hex'), d.batch
FROM asyncstore.directory d JOIN asyncstore.root r ON r.id = d.root WHERE d.batch IS NOT NULL"""


class Violation(AssertionError):
    """Something that must never happen, found while the campaign went on."""


@dataclass(frozen=True)
class Settings:
    """What a campaign is to be."""

    seed: str
    instances: int
    kills: int
    heartbeat_seconds: int = 6
    hosts: int = 3
    cap: int = 4
    associations: int = 2  # of each host at most: more than the cap in all
    is_calm: bool = False
    is_one_host: bool = False


class Host:
    """One host of the cluster, whose worker is started again until it says that all is done."""

    def __init__(self, number: int, place: Path, network: Network, door: Door) -> None:
        self.number = number
        self.door = door
        self.runs: list[WorkerRun] = []
        self.is_well = asyncio.Event()
        self.is_well.set()
        self.process: asyncio.subprocess.Process | None = None
        self.is_done = False
        self._log = place / f"host-{number}.log"
        self._network = network
        self._is_up = asyncio.Event()
        self._troubles: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            STOP: (lambda: self._signal(signal.SIGSTOP), lambda: self._signal(signal.SIGCONT)),
            CUT: (lambda: network.cut(number), lambda: network.mend(number)),
            CUT_DATABASE: (door.shut, door.open),
        }

    @property
    def processes(self) -> set[int]:
        """The worker's process IDs."""
        return set() if self.process is None else {self.process.pid, *children(self.process.pid)}

    async def keep(self, words: Sequence[str]) -> None:
        """Run the worker; again when it was killed, and when it ended with work left."""
        while not self.is_done:
            begun = self._log.stat().st_size if self._log.exists() else 0
            with self._log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *self._network.prefix(self.number),
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=command.environment(),
                    start_new_session=True,
                )
            self._is_up.set()
            try:
                code = await self.process.wait()
            finally:
                self._is_up.clear()
                self._signal(signal.SIGKILL)
            said = self._log.read_bytes()[begun:]
            self.runs.append(WorkerRun(self.number, code, b"Traceback" in said))
            self.is_done = code in DONE
            if self.is_done:
                self._is_up.set()  # for whoever waits to strike it
            if code > 0:
                await asyncio.sleep(AGAIN_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        """To the worker and to whatever it has started."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def kill(self) -> None:
        """SIGKILL, as when the host is switched off."""
        await self._is_up.wait()
        if self.process is not None and not self.is_done:
            self._signal(signal.SIGKILL)
            await self.process.wait()

    async def trouble(self, kind: str, seconds: float) -> None:
        """Be stopped or cut off for a while."""
        begin, end = self._troubles[kind]
        await self._is_up.wait()
        begin()
        try:
            await asyncio.sleep(seconds)
        finally:
            end()


@dataclass
class Campaign:
    """One archive, one database, one receiver and some hosts, in `directory`; `play` goes through it all."""

    settings: Settings
    directory: Path
    troubles: list[Trouble] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)
    evidence: Evidence | None = None
    set_aside: int = 0
    command_seconds: float = 0.0

    async def play(self) -> list[Finding]:
        """Send everything through all faults, and audit it."""
        settings = self.settings
        self.root = self.directory / "archive"
        self.source = make_archive(self.root, settings.instances, random.Random(f"{settings.seed} archive"))
        before = snapshot(self.root)
        async with contextlib.AsyncExitStack() as stack:
            hosts = Network(settings.hosts) if settings.is_one_host else network(settings.hosts)
            self.network = stack.enter_context(hosts)
            self.cluster = stack.enter_context(postgresql.cluster())
            chance = random.Random(f"{settings.seed} receiver")
            receiver = Receiver(self.network.address, self.network.host_of, chance)
            self.receiver = await stack.enter_async_context(receiver)
            for number in self.network.hosts:
                door = await stack.enter_async_context(Door(self.network.address, self.cluster.port))
                self.hosts.append(Host(number, self.directory, self.network, door))
            self.network.host_processes = lambda: {
                process: host.number for host in self.hosts for process in host.processes
            }
            await self._enqueue()
            await self._send()
            self._write_records()
            self.evidence = await self._collect()
        untouched = Finding("the source is untouched", f"{len(before)} names")
        untouched.violations += ["it is not"] if snapshot(self.root) != before else []
        in_time = [goes_on_in_time(self.evidence)] if settings.is_calm else []
        return [*audit(self.evidence), untouched, *in_time]

    async def _enqueue(self) -> None:
        words = ("enqueue", self.cluster.dsn(), MIGRATION, self.receiver.address, self.receiver.port)
        options = ("--cap", self.settings.cap, "--heartbeat", self.settings.heartbeat_seconds)
        begun_at = time.monotonic()
        await self._command(*words, *_roots_at(self.root), *options)
        self.command_seconds = time.monotonic() - begun_at

    async def _command(self, *arguments: str | int) -> str:
        done = await asyncio.to_thread(command.run, *arguments)
        if done.returncode:
            raise Violation(f"{arguments[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    async def _send(self) -> None:
        """Run all workers and the faults, and at the end once more what a batch was set aside for."""
        faults: list[Fault] = make_plan(
            self.settings.seed,
            self.settings.instances,
            self.settings.kills,
            self.settings.hosts,
            self.settings.heartbeat_seconds,
        )
        await self._work(one_by_one(faults, self.settings.heartbeat_seconds) if self.settings.is_calm else faults)
        self.set_aside = int(await self._sql("SELECT count(*) FROM asyncstore.batch WHERE state NOT IN ('done')"))
        if self.set_aside:
            await self._command("retry", self.cluster.dsn(), MIGRATION)
            await self._work([])

    async def _work(self, faults: Sequence[Fault]) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            striking = group.create_task(self._strike(faults))
            keeping = [self._keep(group, host) for host in self.hosts]
            await asyncio.wait(keeping)
            striking.cancel()
            watching.cancel()

    def _keep(self, group: asyncio.TaskGroup, host: Host) -> asyncio.Task[None]:
        host.is_done = False
        mount = self.directory / f"mount-{host.number}"
        if not mount.exists():
            mount.symlink_to(self.root)
        dsn = self.cluster.dsn().replace(f"127.0.0.1:{self.cluster.port}", f"{host.door.address}:{host.door.port}")
        # The first host has a process for each association.
        processes = self.settings.associations if host.number == 1 else 1
        options = ("--processes", processes, "-j", self.settings.associations // processes, "--until-done", "-v")
        words = command.words("worker", dsn, MIGRATION, *_roots_at(mount), *options)
        return group.create_task(host.keep(words))

    async def _watch(self) -> None:
        """Raise Violation when no instance comes any more."""
        seconds = STALLS * self.settings.heartbeat_seconds
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await self.receiver.progress.wait()
            except TimeoutError:
                raise Violation(f"no instance has come for {seconds:g} s: see {self.directory}") from None

    # What goes wrong

    async def _strike(self, faults: Sequence[Fault]) -> None:
        async with asyncio.TaskGroup() as group:
            if faults and not self.settings.is_calm:
                self.receiver.holds_from = self.settings.instances * SHARE_WITH_FAULTS
            for fault in faults:
                while len(self.receiver.whole) < fault.after_instances:
                    await self.receiver.progress.wait()
                await asyncio.sleep(fault.delay_seconds)
                if fault.kind == RESTART:
                    await self._restart()
                    continue
                host = await self._well_one(fault.host)
                kind = fault.kind if fault.kind != CUT or self.network.can_cut else CUT_DATABASE
                if kind == KILL:
                    await self._note(kind, host.number, host.kill())
                else:
                    host.is_well.clear()
                    group.create_task(self._trouble(host, kind, fault.seconds))
            self.receiver.let_go()

    async def _well_one(self, number: int) -> Host:
        """This host, or the next that has no other trouble."""
        hosts = [*self.hosts[number - 1 :], *self.hosts[: number - 1]]
        waiting = [asyncio.ensure_future(host.is_well.wait()) for host in hosts]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return next(host for host in hosts if host.is_well.is_set())

    async def _trouble(self, host: Host, kind: str, seconds: float) -> None:
        try:
            await self._note(kind, host.number, host.trouble(kind, seconds))
        finally:
            host.is_well.set()

    async def _restart(self) -> None:
        restarting = asyncio.ensure_future(asyncio.to_thread(self.cluster.restart, "immediate"))
        try:
            await self._note(RESTART, 0, asyncio.shield(restarting))
        finally:
            await restarting  # even if all is done

    async def _note(self, kind: str, host: int, happening: Awaitable[None]) -> None:
        begun_at = time.monotonic()
        try:
            await happening
        finally:
            self.troubles.append(Trouble(kind, host, begun_at, time.monotonic()))

    # What is left behind

    async def _sql(self, statement: str) -> str:
        return (await asyncio.to_thread(self.cluster.sql, statement)).strip()

    def _write_records(self) -> None:
        """For whoever looks into what was kept."""
        records: dict[str, Sequence[Any]] = {
            "associations": self.receiver.associations,
            "requests": self.receiver.requests,
            "troubles": self.troubles,
        }
        for name, each in records.items():
            lines = [json.dumps(asdict(record)) + "\n" for record in each]
            (self.directory / f"{name}.jsonl").write_text("".join(lines))

    async def _collect(self) -> Evidence:
        begun = time.time() - time.monotonic()
        found = await self._sql(_ROWS)
        rows = []
        for path, uid, state, recorded_at in (line.split("|") for line in found.splitlines()):
            rows.append(Row(bytes.fromhex(path), uid, state, int(recorded_at) / 1000 - begun))
        batches = dict(line.split("|") for line in (await self._sql(_BATCHES)).splitlines())
        directories = dict(line.split("|") for line in (await self._sql(_DIRECTORIES)).splitlines())
        return Evidence(
            source=self.source,
            rows=rows,
            batches={state: int(count) for state, count in batches.items()},
            batch_of={
                file.path: int(directories.get(file.path[: file.path.rfind(b"/") + 1].hex(), 0)) for file in self.source
            },
            reported=Counter(row.state for row in rows),
            associations=self.receiver.associations,
            requests=self.receiver.requests,
            troubles=self.troubles,
            runs=[run for host in self.hosts for run in host.runs],
            cap=self.settings.cap,
            heartbeat_seconds=self.settings.heartbeat_seconds,
            set_aside=self.set_aside,
            command_seconds=self.command_seconds,
        )


def _roots_at(mount: Path) -> list[str]:
    return [word for name in ROOTS for word in ("--root", f"{name}={mount / name}")]


# -- the command -------------------------------------------------------------------------------------------------------


async def run(settings: Settings, directory: Path) -> bool:
    """Play a campaign and print what was found; False when a statement is violated."""
    campaign = Campaign(settings, directory)
    begun = time.monotonic()
    try:
        findings = await campaign.play()
    except* Violation as errors:
        findings = [Finding("nothing goes wrong on the way", "", [str(error) for error in errors.exceptions])]
    where = "in network namespaces" if isinstance(campaign.network, Namespaces) else "as processes of one host"
    struck = ", ".join(f"{count} {kind}" for kind, count in Counter(each.kind for each in campaign.troubles).items())
    print(f"seed {settings.seed!r}: {settings.hosts} hosts {where}, cap {settings.cap}: {struck}")
    for number, finding in enumerate(findings, 1):
        print(f"  ({number}) {'VIOLATED' if finding.violations else 'holds'}: {finding.statement}; {finding.numbers}")
        for violation in finding.violations[:MOST_SHOWN]:
            print(f"      {violation}")
        if len(finding.violations) > MOST_SHOWN:
            print(f"      and {len(finding.violations) - MOST_SHOWN} more")
    if campaign.evidence is not None:
        print(takeover_line(campaign.evidence))
    is_good = not any(finding.violations for finding in findings)
    kills = sum(each.kind == KILL for each in campaign.troubles)
    print(
        f"{kills} kills, {settings.instances} instances, {campaign.set_aside} batches were set aside on the way, "
        f"{time.monotonic() - begun:.0f} seconds: {'no violation' if is_good else 'VIOLATED'}"
    )
    return is_good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.cluster_kills", description="kills the workers of a cluster at any moment"
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many kills (100)")
    parser.add_argument("--instances", type=int, default=20_000, metavar="M", help="instances of the archive (20000)")
    parser.add_argument("--seed", default="1", help="what the archive and the faults follow from (1)")
    parser.add_argument("--heartbeat", type=int, default=6, metavar="SECONDS", help="as of enqueue (6)")
    parser.add_argument("--calm", action="store_true", help="only kills, one by one: the work must go on in time")
    parser.add_argument("--one-host", action="store_true", help="no network namespaces: processes, as without root")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep everything in this directory")
    options = parser.parse_args(arguments)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="asyncstore-cluster-"))
    directory.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        options.seed,
        options.instances,
        options.kills,
        options.heartbeat,
        is_calm=options.calm,
        is_one_host=options.one_host,
    )
    is_kept = options.keep is not None
    try:
        peers.require(postgresql.program("initdb") or "initdb", "postgresql")
        is_good = asyncio.run(run(settings, directory))
        is_kept = is_kept or not is_good
    except pytest.skip.Exception as missing:
        print(missing)
        return 2
    except Exception:
        is_kept = True
        raise
    finally:
        if is_kept:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
