"""Sends a great many instances through a great many faults, and watches what the sending process keeps of them.

    python -m tests.campaigns.soak                     1,000,000 instances, a fault every 1,000
    python -m tests.campaigns.soak --instances 300000 --tracemalloc
                                                       which lines hold more than they did (three times as slow)

Resets, stalls, aborts, refused associations, and connections that end amid a PDU (see soak_receiver.py, which runs in a
process of its own). At the end every instance is stored and has exactly one outcome, here and in the ledger; open
descriptors and tasks are what they were before, and about the same all the time; memory has grown by no more than
16 MiB after the first 100,000, until when the ledger fills its buffers. Else the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncstore import Instance, Peer, RetryPolicy, State, Timeouts, Transfer, TransferOptions
from asyncstore.inputs.opening import instance_from_bytes
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from tests.campaigns.soak_receiver import KINDS, UID_DIGITS, UID_ROOT
from tests.support import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore import Outcome, Report

MEMORY_BOUND_BYTES: Final = 16 << 20
# What the ledger holds by design, whatever its size: 20 MB of hashes that wait for its index (ledger_writer.py), 16 MiB
# that tell which UIDs it may know (ledger_hashes.py), and its pages.
LEDGER_BYTES: Final = 48 << 20
LEDGER_IS_FULL: Final = 100_000  # outcomes, at the latest
FIRST_SAMPLE: Final = 10_000
SAMPLE_EVERY: Final = 50_000
ASSOCIATIONS: Final = 4
# Associations come and go, and so do the readers of the feed; what leaked with every fault would be hundreds.
TASKS_OF_AN_ASSOCIATION: Final = 4
READERS: Final = 4
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_RECEIVER_SECONDS: Final = 30.0
_NOBODY: Final = UID_ROOT.decode() + "0" * UID_DIGITS
_DATA_SET: Final = files.data_set(CT_IMAGE_STORAGE, _NOBODY)


@dataclass(frozen=True)
class Sample:
    """What the process held when so many outcomes had come; `associations` says how many were open."""

    outcomes: int
    seconds: float
    memory_bytes: int
    descriptors: int
    tasks: int
    threads: int
    associations: int
    wal_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.outcomes:9} {self.seconds:8.1f} {self.memory_bytes / (1 << 20):11.2f} {self.descriptors:11} "
            f"{self.tasks:5} {self.threads:7} {self.associations:12} {self.wal_bytes / (1 << 20):8.2f}"
        )


_HEADINGS: Final = " outcomes  seconds  memory MiB descriptors tasks threads associations  WAL MiB"


@dataclass
class Soak:
    """One run: what it is to do, what was seen, and what was wrong."""

    instances: int
    fault_every: int
    ledger: Path
    first_sample: int = FIRST_SAMPLE
    sample_every: int = SAMPLE_EVERY
    timeout_seconds: float = 1.0
    memory_bound_bytes: int = MEMORY_BOUND_BYTES
    traces_memory: bool = False
    snapshots: list[tracemalloc.Snapshot] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    receiver: dict[str, Any] = field(default_factory=dict)
    report: Report | None = None
    _outcomes: int = 0
    _started_at: float = field(default_factory=time.monotonic)

    def sample(self, associations: int) -> Sample:
        wal_bytes = 0
        with contextlib.suppress(FileNotFoundError):
            wal_bytes = Path(f"{self.ledger}-wal").stat().st_size
        return Sample(self._outcomes, *self._held(), associations, wal_bytes)

    def _held(self) -> tuple[float, int, int, int, int]:
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return (
            time.monotonic() - self._started_at,
            resident_pages * _PAGE_BYTES,
            len(os.listdir("/proc/self/fd")) - 1,  # without the one that lists them
            len(asyncio.all_tasks()),
            threading.active_count(),
        )

    async def run(self, port: int) -> None:
        """Send everything, and check what can be checked from here."""
        numbers = bytearray(b"0") * self.instances  # how many outcomes each has had; in memory from the beginning
        before = self.sample(0)
        await self._send(port, numbers)
        await anyio.lowlevel.checkpoint()
        after = self.sample(0)
        for name in ("descriptors", "tasks"):
            was, left = getattr(before, name), getattr(after, name)
            self._check(left <= was, f"{left} {name} after the transfer, {was} before it")
        others = Counter(count - ord("0") for count in numbers if count != ord("1"))
        self._check(not others, f"not every instance has one outcome: outcomes -> instances {dict(others)}")

    async def _send(self, port: int, numbers: bytearray) -> None:
        transfer = Transfer(
            Peer("127.0.0.1", port),
            instances(self.instances),
            options=TransferOptions(
                associations=ASSOCIATIONS,
                timeouts=Timeouts(dimse_seconds=self.timeout_seconds, acse_seconds=self.timeout_seconds),
                retry=RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.05),
            ),
            ledger=self.ledger,
        )
        self.report = report = transfer.report
        sample_at = self.first_sample
        async with transfer:
            async for outcome in transfer:
                self._count(outcome, numbers)
                if self._outcomes >= sample_at and self._is_quiet(report, sample_at):
                    self._add_sample(self.sample(report.associations_open))
                    sample_at = min((self._outcomes // self.sample_every + 1) * self.sample_every, self.instances)
        self._check(report.stopped_because is None, f"stopped: {report.stopped_because}")
        self._check(report.stored == report.finished == self.instances, f"counted {dict(report.states)}")

    def _is_quiet(self, report: Report, sample_at: int) -> bool:
        """Whether all associations are open, so that samples can be compared; that is not waited for very long."""
        patience = self.sample_every // 10 if self.samples else sample_at
        is_late = self._outcomes >= min(sample_at + patience, self.instances)
        return is_late or report.associations_open == ASSOCIATIONS

    def _count(self, outcome: Outcome, numbers: bytearray) -> None:
        self._outcomes += 1
        if outcome.instance is not None:
            numbers[int(outcome.instance.sop_instance_uid[-UID_DIGITS:])] += 1
        if outcome.state is not State.STORED and len(self.problems) < 10:
            self.problems.append(f"{outcome.state}: {outcome.reason}")

    def _add_sample(self, sample: Sample) -> None:
        if not self.samples:
            print(_HEADINGS)
        self.samples.append(sample)
        print(sample, flush=True)
        if self.traces_memory and sample.outcomes >= LEDGER_IS_FULL:
            self.snapshots[1:] = [tracemalloc.take_snapshot()]  # the first stays, the last is replaced

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def check_samples(self) -> None:
        """The last sample against the first."""
        self._check(len(self.samples) > 1, f"{len(self.samples)} samples, nothing to compare")
        if len(self.samples) > 1:
            first, last = self.samples[0], self.samples[-1]
            allowed = {
                "descriptors": first.descriptors + ASSOCIATIONS,
                "tasks": first.tasks + ASSOCIATIONS * TASKS_OF_AN_ASSOCIATION + READERS,
                "threads": first.threads + READERS,
            }
            for name, number in allowed.items():
                now = getattr(last, name)
                self._check(now <= number, f"{now} {name} at the end, {getattr(first, name)} after {first.outcomes}")
            self._check_memory(first, self.memory_bound_bytes + LEDGER_BYTES)
            full = next((sample for sample in self.samples if sample.outcomes >= LEDGER_IS_FULL), last)
            self._check_memory(full, self.memory_bound_bytes)

    def _check_memory(self, since: Sample, bound_bytes: int) -> None:
        grown_bytes = self.samples[-1].memory_bytes - since.memory_bytes
        self._check(
            grown_bytes <= bound_bytes, f"{grown_bytes / (1 << 20):.1f} MiB of memory more than at {since.outcomes}"
        )

    def check_others(self) -> None:
        """What the ledger and the receiver say."""
        with LedgerReader(self.ledger) as ledger:
            states = {row.state: row.instances for row in ledger.by_state()}
        self._check(states == {State.STORED: self.instances}, f"the ledger counts {states}")
        faults = self.receiver["faults"]
        # One that is due may find nothing in flight that it may strike, and the run ends with what is overdue.
        wanted = self.instances // self.fault_every // 2 if self.fault_every else 0
        self._check(sum(faults.values()) >= wanted, f"only {sum(faults.values())} faults of {wanted}")
        self._check(wanted < len(KINDS) or len(faults) == len(KINDS), f"only these faults were made: {faults}")
        self._check(self.receiver["answered"] >= self.instances, f"the receiver answered {self.receiver['answered']}")


def instances(count: int) -> Iterator[Instance]:
    """Small instances, each with a UID of its own, made when they are asked for."""
    before, after = _DATA_SET.split(_NOBODY.encode())
    for number in range(count):
        uid = UID_ROOT + b"%0*d" % (UID_DIGITS, number)
        yield instance_from_bytes(before + uid + after, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN)


def run(soak: Soak) -> Soak:
    """A whole soak with its receiver; `problems` is empty when all is well."""
    command = [sys.executable, "-m", "tests.campaigns.soak_receiver", "--fault-every", str(soak.fault_every)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as receiver:
        assert receiver.stdout is not None
        try:
            anyio.run(soak.run, int(receiver.stdout.readline()))
        finally:
            told, _ = receiver.communicate(timeout=_RECEIVER_SECONDS)
    soak.receiver = json.loads(told)
    soak.check_samples()
    soak.check_others()
    return soak


def _print_growth(snapshots: Sequence[tracemalloc.Snapshot]) -> None:
    if len(snapshots) > 1:
        for difference in snapshots[-1].compare_to(snapshots[0], "lineno")[:20]:
            print(difference)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.soak", description="Many instances through many faults."
    )
    parser.add_argument("--instances", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--fault-every", type=int, default=1000, metavar="K", help="instances for each fault, 0: none")
    parser.add_argument("--first-sample", type=int, default=FIRST_SAMPLE, metavar="N", help="outcomes before the first")
    parser.add_argument("--sample-every", type=int, default=SAMPLE_EVERY, metavar="N", help="outcomes between two")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="SECONDS", help="what a stall costs")
    parser.add_argument("--tracemalloc", action="store_true", help="tell which lines hold more memory than they did")
    options = parser.parse_args(arguments)
    logging.getLogger("asyncstore").addHandler(logging.NullHandler())  # faults are no news here
    if options.tracemalloc:
        tracemalloc.start()
    with tempfile.TemporaryDirectory(prefix="asyncstore-soak-") as directory:
        soak = run(
            Soak(
                options.instances,
                options.fault_every,
                Path(directory) / "soak.ledger",
                options.first_sample,
                options.sample_every,
                options.timeout,
                traces_memory=options.tracemalloc,
            )
        )
    _print_growth(soak.snapshots)
    assert soak.report is not None
    rate = soak.instances / soak.report.elapsed_seconds
    print(f"{soak.instances} instances in {soak.report.elapsed_seconds:.0f} s, {rate:.0f} a second")
    print(f"{soak.report.associations_established} associations, {soak.report.attempts} requests")
    print(f"receiver: {soak.receiver['passed']} requests passed, faults {soak.receiver['faults']}")
    for problem in soak.problems:
        print(f"FAILED {problem}")
    print("failed" if soak.problems else "all is well")
    return int(bool(soak.problems))


if __name__ == "__main__":
    sys.exit(main())
