"""What a cluster is to go through: the archive that it sends, and the faults that strike it, from a seed."""

from __future__ import annotations

import dataclasses
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.campaigns.kill_audit import SourceFile, digest
from tests.support import files
from tests.support.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UID_ROOT: Final = "1.2.826.0.1.3680043.8.498.19"
ROOTS: Final = ("nas1", "nas2", "nas3", "nas4")
FILES_OF_A_SERIES: Final = 10
SERIES_OF_A_STUDY: Final = (1, 2, 4, 8)
LONG_BYTES: Final = 1_000_000
EACH_LONG: Final = 200
EACH_COPIED: Final = 200
COPIED_BEHIND: Final = 80
# Faults begin before so much has come: none so late that nobody is there to feel it.
SHARE_WITH_FAULTS: Final = 0.95
CALM: Final = 1.5
COPIED: Final = frozenset(("stored", "duplicate"))

KILL: Final = "kill"
STOP: Final = "stop"
CUT: Final = "cut off"
CUT_DATABASE: Final = "cut off from the database"
RESTART: Final = "database restarts"
"""SIGKILL; SIGSTOP, and later SIGCONT; the link of a host is down; the link stands, and the database does not answer;
the database is restarted as if it had crashed."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong: `delay_seconds` after so many instances have come, on a host (0: on none).

    `seconds` is how long it lasts, 0 where it does not.
    """

    after_instances: int
    delay_seconds: float
    kind: str
    host: int
    seconds: float = 0.0


def make_plan(seed: str, instances: int, kills: int, hosts: int, heartbeat_seconds: float) -> list[Fault]:
    """The faults that follow from a seed, in their order: so many kills, and some of each other kind."""
    chance = random.Random(f"{seed} faults")
    kinds = [KILL] * kills
    for kind, share in ((STOP, 8), (CUT, 12), (CUT_DATABASE, 16), (RESTART, 16)):
        kinds += [kind] * max(1, kills // share)
    chance.shuffle(kinds)
    moments = sorted(chance.randrange(int(instances * SHARE_WITH_FAULTS)) for _ in kinds)
    seen: set[str] = set()
    faults = []
    for moment, kind in zip(moments, kinds, strict=True):
        host = 0 if kind == RESTART else chance.randint(1, hosts)
        seconds = 0.0
        if kind not in (KILL, RESTART):
            # The first of its kind, and most others, last longer than others wait for a sign of life.
            is_long = kind not in seen or chance.random() < 0.7
            seconds = heartbeat_seconds * (chance.uniform(1.3, 1.8) if is_long else chance.uniform(0.1, 0.4))
        seen.add(kind)
        faults.append(Fault(moment, chance.uniform(0, 0.5), kind, host, seconds))
    return faults


def one_by_one(plan: Sequence[Fault], heartbeat_seconds: float) -> list[Fault]:
    """Only the kills of a plan, each when what the one before has left is under way again."""
    kills = [fault for fault in plan if fault.kind == KILL]
    return [dataclasses.replace(fault, delay_seconds=CALM * heartbeat_seconds) for fault in kills]


def make_archive(place: Path, instances: int, chance: random.Random) -> list[SourceFile]:
    """So many instances below patient/study/series, some long, in a directory of `place` for each of ROOTS.

    Paths are as the ledger has them. Some instances are there twice: once more in one of the next studies, which
    perhaps another host sends meanwhile.
    """
    copies = instances // EACH_COPIED
    found: list[SourceFile] = []
    while len(found) < instances - copies:
        study = 1 + (int(found[-1].sop_instance_uid.split(".")[-3]) if found else 0)
        for series in range(chance.choice(SERIES_OF_A_STUDY)):
            directory = f"{ROOTS[study % len(ROOTS)]}:p{study // 16:04}/s{study:05}/r{series}"
            path_of(place, directory.encode()).mkdir(parents=True)
            found += [
                _write(place, f"{directory}/IM{file:04}", f"{study}.{series}", file, chance)
                for file in range(min(FILES_OF_A_SERIES, instances - copies - len(found)))
            ]
    for number, at in enumerate(chance.sample(range(len(found) - COPIED_BEHIND), copies)):
        one, other = found[at], found[at + COPIED_BEHIND]
        path = other.path[: other.path.rfind(b"/") + 1] + b"copy%04d" % number
        shutil.copyfile(path_of(place, one.path), path_of(place, path))
        found.append(SourceFile(path, one.sop_instance_uid, one.digest, COPIED))
        found[at] = dataclasses.replace(one, states=COPIED)
    return found


def path_of(place: Path, path: bytes) -> Path:
    """Where a file of the archive is that the ledger calls so."""
    return place / path.decode().replace(":", "/", 1)


def _write(place: Path, path: str, series: str, number: int, chance: random.Random) -> SourceFile:
    uid = f"{UID_ROOT}.{series}.{number}"
    size = LONG_BYTES if chance.randrange(EACH_LONG) == 0 else chance.randrange(0, 4000, 2)
    more = files.element(0x0020000D, b"UI", files.uid(f"{UID_ROOT}.1.{series.partition('.')[0]}"))
    more += files.element(0x0020000E, b"UI", files.uid(f"{UID_ROOT}.2.{series}"))
    body = files.data_set(sop_instance_uid=uid, more=more + files.element(0x7FE00010, b"OW", chance.randbytes(size)))
    data = files.dicom_file(meta=files.file_meta(sop_instance_uid=uid), body=body)
    path_of(place, path.encode()).write_bytes(data)
    return SourceFile(path.encode(), uid, digest(Kept("", data).data_set), frozenset(("stored",)))
