"""Kills the processes that decompress, at random moments of one run, and looks whether every instance arrived once.

python -m tests.campaigns.codec_kills --instances 2000 --kills 20 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from asyncstore.inputs.opening import instance_from
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import codecs
from tests.support.process import children
from tests.support.transfers import KeepingSCP, transfer_to

if TYPE_CHECKING:
    from asyncstore.instances.outcome import State

_SAMPLE: Final = codecs.BUNDLED / "MR_small_jpeg_ls_lossless.dcm"
_WORKERS: Final = 2


class Result(NamedTuple):
    """What became of the instances, how often each arrived, the kills, the children left, and memory in KiB."""

    states: Counter[State]
    arrivals: Counter[str]
    kills: int
    left: set[int]
    early_kib: int
    late_kib: int


def write_compressed(directory: Path, count: int) -> None:
    """So many compressed files with different SOP Instance UIDs."""
    data, uid = _SAMPLE.read_bytes(), instance_from(_SAMPLE).sop_instance_uid.encode("ascii")
    for number in range(count):
        (directory / f"{number:05}.dcm").write_bytes(data.replace(uid, uid[:-5] + b"%05d" % (10_000 + number)))


def memory_kib() -> int:
    """The memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


async def run(directory: Path, *, instances: int, kills: int, seed: int) -> Result:
    """Send, and kill a process at random outcomes. An instance is at work in each then, or about to be."""
    chance = random.Random(seed)
    moments = Counter(chance.randrange(1, instances) for _ in range(kills))
    before, done, early, late = children(), 0, 0, 0
    killed: Counter[bool] = Counter()
    async with KeepingSCP(transfer_syntaxes=[EXPLICIT_VR_LITTLE_ENDIAN]) as scp:
        transfer = transfer_to(scp, directory, workers=_WORKERS)
        async with transfer:
            async for _ in transfer:
                done += 1
                if done == instances // 4:
                    early = memory_kib()
                for _ in range(moments[done]):
                    ours = sorted(children() - before)
                    if ours:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(chance.choice(ours), signal.SIGKILL)
                            killed[True] += 1
            late = memory_kib()
        return Result(transfer.report.states, scp.uids, killed[True], children() - before, early, late)


def main() -> None:
    """Run it, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_compressed(Path(name), given.instances)
        result = anyio.run(
            lambda: run(Path(name), instances=given.instances, kills=given.kills, seed=given.seed),
        )
    once = sum(count == 1 for count in result.arrivals.values())
    print(f"{result.kills} kills; {dict(result.states)}; {once} of {given.instances} arrived once")
    print(f"children left: {len(result.left)}; memory {result.early_kib} KiB early, {result.late_kib} KiB at the end")


if __name__ == "__main__":
    main()
