"""Kills a migration again and again, at any moment, and proves that no instance was lost.

    python -m tests.campaigns.kill_loop --kills 300 --seed 7

A round is a source, a ledger and an SCP of its own, with a fault proxy before the SCP. The real command is started,
killed with SIGKILL and started again, until it ends by itself; then the records are held against each other (see
kill_audit). Rounds go on until there were so many kills. A seed gives the same sources, faults and intended moments;
what they hit depends on the machine. The exit code is 1 as soon as a statement is violated: then the directory of the
round is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.campaigns.kill_audit import (
    CommandRun,
    Evidence,
    Finding,
    Row,
    SourceFile,
    audit,
    committed_in,
    read_committed,
    read_kept,
    read_rows,
    says_stored,
    snapshot,
)
from tests.campaigns.kill_plan import MOMENTS, MOMENTS_OF_COMMITMENT, make_plan, make_source
from tests.support import command, peers
from tests.support.fault_plan import SetStatus
from tests.support.faults import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from tests.campaigns.kill_plan import Plan
    from tests.support.peers import RunningPeer

REFUSED_STATUS: Final = 0xA900
START_SECONDS: Final = 0.7  # what the command needs until it opens the ledger, about
# How long after the awaited event a kill comes, at most: making a ledger takes 30 ms, ending a run 200 ms.
LATEST_SECONDS: Final = {"ledger": 0.04, "end": 0.2}
SOON_SECONDS: Final = 0.004
HANGS_SECONDS: Final = 60.0
ENDS_SECONDS: Final = 60.0
RUNS_TO_FINISH: Final = 4
COMPLETE: Final = (0, 3)
# Waits of the command that are as short as a busy machine allows: a stalled association costs this much.
QUICK: Final = (
    *("--retry-wait", "0.05", "--outage-wait", "20", "--connect-timeout", "3"),
    *("-ta", "3", "-td", "3", "-tn", "3"),
)


class Violation(AssertionError):
    """Something that must never happen, found while a round went on."""


# -- a round -----------------------------------------------------------------------------------------------------------


@dataclass
class Round:
    """One source, one ledger, one SCP, in `directory`; `play` runs and kills, `evidence` is what is left behind."""

    plan: Plan
    directory: Path
    runs: list[CommandRun] = field(default_factory=list)
    kills: int = 0
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.plan.seed} moments")
        self.root = self.directory / "source"
        self.ledger = self.directory / "run.db"
        self.report = self.directory / "report.jsonl"
        self.source = make_source(self.root, self.plan.instances, random.Random(f"{self.plan.seed} source"))
        self.before = snapshot(self.root)
        self.faults = list(self.plan.faults)
        if self.plan.is_one_refused:
            refused = self.source[4]
            self.source[4] = SourceFile(refused.path, refused.sop_instance_uid, refused.digest, frozenset(("failed",)))
            self.faults.insert(0, SetStatus(status=REFUSED_STATUS, uids=frozenset((refused.sop_instance_uid,))))

    def play(self) -> list[Finding]:
        """Run, kill and resume until the migration is complete, and audit it."""
        with contextlib.ExitStack() as stack:
            scp = stack.enter_context(self._peer())
            proxy = FaultProxy((scp.host, scp.port), self.faults, seed=self.chance.randrange(1 << 32))
            self.proxy = stack.enter_context(proxy)
            self._run_and_kill()
            self._finish()
            received = scp.received
        self.evidence = self._collect(received)
        return audit(self.evidence)

    def _peer(self) -> contextlib.AbstractContextManager[RunningPeer]:
        directory = self.directory / "scp"
        if self.plan.peer == "asyncstore":
            return peers.asyncstore_storescp(directory, *(["--commitment"] if self.plan.is_committed else []))
        # With a name for every copy, the part of a copy that came later never takes the place of a whole one.
        return peers.dcmtk_storescp(directory, "+uf")

    def _run_and_kill(self) -> None:
        moments = MOMENTS_OF_COMMITMENT if self.plan.is_committed else MOMENTS
        while self.kills < self.plan.kills:
            moment = self.chance.choices(list(moments), list(moments.values()))[0]
            run = self._run(moment)
            self.kills += run.killed_at is not None
            if run.killed_at is None and self._is_complete(run):
                return

    def _finish(self) -> None:
        """Run without faults and kills; it may take more than one run, because of what faults have left behind.

        An instance over which faults have ended three associations is set aside: only then it is asked to be sent
        again. If so many runs are not enough, the audit says what is missing.
        """
        self.proxy.faults = tuple(fault for fault in self.faults if isinstance(fault, SetStatus) and fault.uids)
        for _ in range(RUNS_TO_FINISH):
            if self.runs and self._is_complete(self.runs[-1]):
                return
            self._run("")

    def _is_complete(self, run: CommandRun) -> bool:
        """Whether a run has ended by itself and has left nothing for another."""
        states = Counter(run.states)
        has_left = states["unknown"] or states["failed"] > self.plan.is_one_refused
        is_complete = run.killed_at is None and run.code in COMPLETE and not has_left
        if not is_complete or not self.plan.is_committed:
            return is_complete
        committed = read_committed(self.ledger)
        return all(row.sop_instance_uid in committed for row in read_rows(self.ledger) if _is_stored(row))

    # One run

    def _run(self, moment: str) -> CommandRun:
        """Run the command, and kill it at that moment (`""`: never) if it has not ended before."""
        first = self.proxy.connections
        self.report.unlink(missing_ok=True)
        said = self.directory / f"run-{len(self.runs) + 1:03}.log"
        with said.open("wb") as log:
            process = self._start(log, moment)
            try:
                signalled_at, killed_at = self._kill(process, moment)
                code = process.wait(HANGS_SECONDS)
            except subprocess.TimeoutExpired:
                raise Violation(f"run {len(self.runs) + 1} does not end: see {said}") from None
            finally:
                process.kill()
                process.wait()
        if killed_at is not None and code >= 0:
            signalled_at = killed_at = None  # it was faster
        if b"Traceback" in said.read_bytes():
            raise Violation(f"run {len(self.runs) + 1} printed a traceback: see {said}")
        self.proxy.end_stalled()
        if not self.proxy.wait_until(lambda: self.proxy.is_idle, ENDS_SECONDS):
            raise Violation(f"the SCP or the proxy has an association open {ENDS_SECONDS:g} s after the run ended")
        states = {} if killed_at is not None else self._reported_states()
        run = CommandRun(first, self.proxy.connections, killed_at, code, states, moment, signalled_at)
        self.runs.append(run)
        with (self.directory / "runs.jsonl").open("a") as records:
            records.write(json.dumps(asdict(run)) + "\n")
        self._check_ledger_so_far()
        return run

    def _start(self, log: IO[bytes], moment: str) -> subprocess.Popen[bytes]:
        records: list[str | Path] = ["--ledger", self.ledger, "--report", self.report]
        if not moment and self.ledger.exists() and any(row.is_set_aside for row in read_rows(self.ledger)):
            records.append("--retry-set-aside")
        if self.plan.is_committed:
            records += ["--commit", "--commit-wait", "2"]
        options = ("-r", "-j", self.plan.associations, "-w", 16, *QUICK, *records)
        words = command.words("storescu", *options, self.proxy.host, self.proxy.port, self.root)
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=command.environment(), start_new_session=True
        )

    def _kill(self, process: subprocess.Popen[bytes], moment: str) -> tuple[float | None, float | None]:
        """Kill at that moment: when it was told to end, and when it was dead; None when it has ended before.

        "held" is after an answer, and nothing passes from then on: the process cannot end before it is killed.
        """
        with self.proxy.held() if moment == "held" else contextlib.nullcontext():
            if not moment or not self._await(process, moment):
                return None, None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.chance.uniform(0, LATEST_SECONDS.get(moment, SOON_SECONDS)))
                return None, None
            signalled_at = time.time()
            process.kill()
            process.wait(HANGS_SECONDS)
            return signalled_at, time.time()  # until it is dead it reads answers, and sends more

    def _await(self, process: subprocess.Popen[bytes], moment: str) -> bool:
        """Wait until the moment has come; False when the process ended before."""
        if moment in ("start", "time"):
            latest = START_SECONDS * (1.0 if moment == "start" else 1.8)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.chance.uniform(0, latest))
                return False
            return True
        if moment == "ledger":
            return self._await_ledger(process)
        journal = self.proxy.journal
        done = {entry.sop_instance_uid for entry in journal.entries if says_stored(entry.status)}
        missing = max(1, len(self.source) - 2 - self.plan.is_one_refused - len(done))
        answers = len(journal.entries) + (missing if moment == "end" else self.chance.randint(1, max(1, missing // 2)))
        passed = self.proxy.passed_bytes + self.chance.randrange(1_500_000)
        reports = len(journal.reports) + self.chance.randint(1, 3)
        is_so = {
            "bytes": lambda: self.proxy.passed_bytes >= passed,
            "report": lambda: len(journal.reports) >= reports,
        }.get(moment, lambda: len(journal.entries) >= answers)
        deadline = time.monotonic() + HANGS_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if self.proxy.wait_until(is_so, 0.02):
                return True
        return False

    def _await_ledger(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the run has taken the ledger: then it writes into its lock who has it."""
        lock = Path(f"{self.ledger}-lock")

        def owner() -> int:
            with contextlib.suppress(OSError):
                return lock.stat().st_mtime_ns
            return 0

        before = owner()
        while owner() == before:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.0005)
                return False
        return True

    # What is left behind

    def _reported_states(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError):
            return dict(Counter(json.loads(line)["state"] for line in self.report.read_text().splitlines()))
        return {}

    def _check_ledger_so_far(self) -> None:
        """At no time the ledger may call stored what was not acknowledged, nor committed what was not reported so.

        Nor may it blame an instance for more associations than faults have ended: a kill says nothing about it.
        """
        rows = read_rows(self.ledger) if self.ledger.exists() else []
        acknowledged = {e.sop_instance_uid for e in self.proxy.journal.entries if says_stored(e.status)}
        early = [row.sop_instance_uid for row in rows if _is_stored(row) and row.sop_instance_uid not in acknowledged]
        committed = read_committed(self.ledger) if self.ledger.exists() else frozenset()
        reported = {uid for report in self.proxy.journal.reports for uid in committed_in(report)}
        early += sorted(committed - reported)
        if early:
            raise Violation(f"after run {len(self.runs)} the ledger calls stored or committed what was not so: {early}")
        losses = max((row.losses for row in rows), default=0)
        if losses > len(self.proxy.faulted):
            faults = f"{len(self.proxy.faulted)} were ended by faults"
            raise Violation(f"after run {len(self.runs)} an instance has ended {losses} associations, and {faults}")

    def _collect(self, received: Path) -> Evidence:
        said = command.run("report", "--json", self.ledger)
        return Evidence(
            source=self.source,
            before=self.before,
            after=snapshot(self.root),
            rows=read_rows(self.ledger),
            reported=json.loads(said.stdout)["states"],
            requests=self.proxy.journal.requests,
            responses=self.proxy.journal.entries,
            faulted=frozenset(self.proxy.faulted),
            kept=read_kept(received, self.source),
            runs=self.runs,
            associations=self.plan.associations,
            in_flight=self.plan.in_flight,
            committed=read_committed(self.ledger) if self.plan.is_committed else None,
            reports=self.proxy.journal.reports,
        )


def _is_stored(row: Row) -> bool:
    return row.state in ("stored", "warning")


# -- the loop ----------------------------------------------------------------------------------------------------------


@dataclass
class Totals:
    """What all rounds came to."""

    kills: int = 0
    rounds: int = 0
    instances: int = 0
    resends: int = 0
    moments: Counter[str] = field(default_factory=Counter)


def run_round(plan: Plan, directory: Path, totals: Totals) -> bool:
    """Play one round and print what was found; False when a statement is violated."""
    directory.mkdir(parents=True)
    played = Round(plan, directory)
    try:
        findings = played.play()
    except Violation as error:
        findings = [Finding("nothing goes wrong on the way", "", [str(error)])]
    totals.rounds += 1
    totals.kills += played.kills
    totals.instances += plan.instances
    totals.moments.update(run.moment for run in played.runs if run.killed_at is not None)
    if played.evidence is not None:
        requests = played.evidence.requests
        totals.resends += len(requests) - len({request.sop_instance_uid for request in requests})
    print(
        f"round {totals.rounds}, seed {plan.seed!r}: {plan.peer}, -j {plan.associations}, {plan.in_flight} in flight, "
        f"{played.kills} kills in {len(played.runs)} runs, {len(plan.faults)} kinds of fault"
    )
    for number, finding in enumerate(findings, 1):
        print(f"  ({number}) {'VIOLATED' if finding.violations else 'holds'}: {finding.statement}; {finding.numbers}")
        for violation in finding.violations:
            print(f"      {violation}")
    sys.stdout.flush()
    return not any(finding.violations for finding in findings)


def run_loop(
    kills: int,
    seed: int,
    instances: int,
    directory: Path,
    *,
    peer: str = "",
    is_committed: bool = False,
    keep: bool = False,
) -> bool:
    """Play rounds until there were so many kills; False when one violated a statement."""
    totals = Totals()
    begun = time.monotonic()
    is_good = True
    while is_good and totals.kills < kills:
        left = kills - totals.kills
        plan = make_plan(f"{seed}/{totals.rounds + 1}", instances, left, peer, is_committed=is_committed)
        place = directory / f"round-{totals.rounds + 1:03}"
        is_good = run_round(plan, place, totals)
        if not is_good:
            print(f"kept: {place}")
        elif not keep:
            shutil.rmtree(place)
    moments = ", ".join(f"{count} {name}" for name, count in totals.moments.most_common())
    print(
        f"{totals.kills} kills ({moments}), {totals.rounds} rounds, {totals.instances} instances, "
        f"{totals.resends} resends, {time.monotonic() - begun:.0f} seconds: {'no violation' if is_good else 'VIOLATED'}"
    )
    return is_good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kill_loop", description="kills a migration at any moment"
    )
    parser.add_argument("--kills", "--runs", type=int, default=100, metavar="N", help="how many kills (100)")
    parser.add_argument("--seed", type=int, default=1, help="what sources, faults and moments follow from (1)")
    parser.add_argument("--instances", type=int, default=500, metavar="M", help="instances of a source (500)")
    parser.add_argument("--peer", choices=("dcmtk", "asyncstore"), default="", help="the SCP (chosen by the seed)")
    parser.add_argument("--commit", action="store_true", help="with storage commitment, of asyncstore's SCP")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the rounds in this directory")
    options = parser.parse_args(arguments)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="asyncstore-kills-"))
    try:
        is_good = run_loop(
            options.kills,
            options.seed,
            options.instances,
            directory,
            peer=options.peer,
            is_committed=options.commit,
            keep=options.keep is not None,
        )
    except pytest.skip.Exception as missing:
        print(missing)
        return 2
    with contextlib.suppress(OSError):
        directory.rmdir()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
