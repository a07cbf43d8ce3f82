"""What a kill loop is to do: the source of a round, the faults of its proxy, and when it may kill, from a seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.campaigns.kill_audit import SourceFile, digest
from tests.support import files
from tests.support.fault_plan import Abort, Cut, Fault, Latency, Refuse, Reject, SetStatus
from tests.support.kept import Kept

UID_ROOT: Final = "1.2.826.0.1.3680043.8.498.9"
BIG_BYTES: Final = 300_000
# The moments of a kill and their weights: while Python starts, when the ledger is taken, after a time, after so many
# bytes, after so many answers, after the last answer.
MOMENTS: Final = {"start": 10, "ledger": 15, "time": 10, "bytes": 20, "answer": 35, "end": 10}
# With commitment also when a report has come, and between the last answer and its report.
MOMENTS_OF_COMMITMENT: Final = MOMENTS | {"report": 40, "end": 30}


# -- the source --------------------------------------------------------------------------------------------------------


def make_source(root: Path, count: int, chance: random.Random) -> list[SourceFile]:
    """So many instances in several directories, a few of them big, with awkward names and files that are no DICOM."""
    directories = [root, *(root / f"study-{number}" / f"series {number % 2}" for number in range(3))]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    found = []
    serial = chance.randrange(1 << 32)
    for number in range(count):
        name = {1: b"line\nbreak.dcm", 2: b"bytes\xff\xfe.dcm", 3: b"[red]-x .dcm"}.get(number, b"IM%04d" % number)
        size = BIG_BYTES if number % 20 == 5 else chance.randrange(0, 8000, 2)
        path = os.path.join(os.fsencode(chance.choice(directories)), name)
        found.append(_make_instance(path, f"{UID_ROOT}.{serial}.{number}", chance.randbytes(size)))
    for name, data in ((b"notes.txt", b"no DICOM"), (b"empty.dcm", b"")):
        path = os.path.join(os.fsencode(chance.choice(directories)), name)
        Path(os.fsdecode(path)).write_bytes(data)
        found.append(SourceFile(path, "", digest(data), frozenset(("skipped",))))
    return found


def _make_instance(path: bytes, uid: str, pixels: bytes) -> SourceFile:
    body = files.data_set(sop_instance_uid=uid, more=files.element(0x7FE00010, b"OW", pixels))
    data = files.dicom_file(meta=files.file_meta(sop_instance_uid=uid), body=body)
    Path(os.fsdecode(path)).write_bytes(data)
    return SourceFile(path, uid, digest(Kept("", data).data_set), frozenset(("stored", "warning")))


# -- the plan of a round -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a round is to be; `in_flight` is how many operations the SCP lets an association have outstanding."""

    seed: str
    peer: str
    instances: int
    kills: int
    associations: int
    in_flight: int
    faults: tuple[Fault, ...]
    is_one_refused: bool
    is_committed: bool = False


def make_plan(seed: str, instances: int, kills: int, peer: str = "", *, is_committed: bool = False) -> Plan:
    """The plan that follows from a seed; `is_committed`: commitment is asked for, of our own SCP."""
    chance = random.Random(seed)
    peer = peer or chance.choice(("dcmtk", "dcmtk", "asyncstore"))
    peer = "asyncstore" if is_committed else peer
    return Plan(
        seed,
        peer,
        instances,
        min(kills, chance.randint(6, 12)),
        chance.randint(1, 4),
        1 if peer == "dcmtk" else 16,
        tuple(_choose_faults(chance)),
        chance.random() < 0.5,
        is_committed,
    )


def _choose_faults(chance: random.Random) -> list[Fault]:
    def some() -> dict[str, Any]:
        return {"first": chance.randint(1, 6), "every": chance.randint(3, 9)}

    faults: list[Fault] = [
        Cut(how="rst", within=chance.choice((5_000, 400_000)), in_data=True, **some()),
        Cut(how="fin", within=chance.choice((5_000, 400_000)), **some()),
        Cut(how="rst", direction="down", within=2_000, **some()),
        Cut(how="fin", direction="down", within=2_000, in_data=True, **some()),
        Cut(how="stall", within=100_000, first=chance.randint(1, 12), times=1),
        Cut(how="stall", direction="down", within=1_500, first=chance.randint(5, 25), times=1),
        Abort(response=chance.randint(1, 12), **some()),
        Reject(**some()),
        Refuse(after=chance.randint(1, 15), seconds=0.2),
        SetStatus(status=chance.choice((0xC001, 0x0110, 0xB000)), times=3, **some()),
    ]
    chance.shuffle(faults)
    kept = faults[: chance.randint(3, len(faults))]
    return [*kept, Latency(0.002)] if chance.random() < 0.3 else kept
