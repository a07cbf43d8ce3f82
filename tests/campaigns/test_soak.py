"""The soak: a short one, and that it does notice what has grown, is missing, or came twice."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from asyncstore.transfer.engine import Transfer
from tests.campaigns import soak
from tests.campaigns.soak import LEDGER_BYTES, LEDGER_IS_FULL, MEMORY_BOUND_BYTES, Sample, Soak
from tests.campaigns.soak_receiver import KINDS, UID_DIGITS, UID_ROOT, Boundaries, Instances

FIRST = Sample(
    outcomes=10_000,
    seconds=1.0,
    memory_bytes=80 << 20,
    descriptors=20,
    tasks=20,
    threads=7,
    associations=4,
    wal_bytes=0,
)
UID = UID_ROOT + b"7" * UID_DIGITS
PDUS = b"\x05\0\0\0\0\4\0\0\0\0" + b"\4\0\0\0\0\2ab"


def problems_of(*samples: Sample) -> list[str]:
    compared = Soak(1_000_000, 1000, Path("unused"), samples=list(samples))
    compared.check_samples()
    return compared.problems


@pytest.mark.campaign
def test_3000_instances_through_30_faults_are_all_stored_and_nothing_is_kept(tmp_path: Path) -> None:
    done = soak.run(Soak(3000, 100, tmp_path / "soak.ledger", first_sample=500, sample_every=500))
    assert done.problems == []
    assert set(done.receiver["faults"]) == set(KINDS)
    assert done.report is not None
    assert done.report.attempts > 3000
    assert len(done.samples) > 2


def test_an_outcome_that_is_not_handed_out_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Transfer.__anext__
    taken = []

    async def take_without_the_fifth(transfer: Transfer) -> object:
        taken.append(await take(transfer))
        return await take(transfer) if len(taken) == 5 else taken[-1]

    monkeypatch.setattr(Transfer, "__anext__", take_without_the_fifth)
    done = soak.run(Soak(300, 0, tmp_path / "soak.ledger", first_sample=100, sample_every=50))
    assert "not every instance has one outcome: outcomes -> instances {0: 1}" in done.problems


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"descriptors": 25}, "25 descriptors at the end, 20 after 10000"),
        ({"tasks": 41}, "41 tasks at the end, 20 after 10000"),
        ({"threads": 12}, "12 threads at the end, 7 after 10000"),
        ({"memory_bytes": (81 << 20) + MEMORY_BOUND_BYTES + LEDGER_BYTES}, "MiB of memory more than at 10000"),
    ],
)
def test_what_has_grown_is_noticed(more: dict[str, int], problem: str) -> None:
    last = dataclasses.replace(FIRST, outcomes=50_000, **more)
    assert [problem in found for found in problems_of(FIRST, last)] == [True]


def test_memory_that_grows_when_the_ledger_has_its_own_is_noticed() -> None:
    full = dataclasses.replace(FIRST, outcomes=LEDGER_IS_FULL, memory_bytes=90 << 20)
    last = dataclasses.replace(FIRST, outcomes=900_000, memory_bytes=(90 << 20) + MEMORY_BOUND_BYTES)
    assert problems_of(FIRST, full, last) == []
    last = dataclasses.replace(last, memory_bytes=last.memory_bytes + (1 << 20))
    assert problems_of(FIRST, full, last) == [f"17.0 MiB of memory more than at {LEDGER_IS_FULL}"]


def test_one_sample_is_too_few() -> None:
    assert problems_of(FIRST) == ["1 samples, nothing to compare"]


def test_the_command_prints_a_table_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        soak.main(["--instances", "1500", "--fault-every", "0", "--first-sample", "500", "--sample-every", "500"]) == 0
    )
    told = capsys.readouterr().out
    assert re.search(r"^ outcomes +seconds +memory MiB +descriptors", told, re.MULTILINE)
    assert "1500 requests" in told
    assert "all is well" in told


@pytest.mark.parametrize("cut", range(1, len(UID) + 5))
def test_an_instance_is_found_once_however_its_uid_is_cut(cut: int) -> None:
    data = b"...." + UID + b"...."
    finds = Instances()
    assert finds.feed(data[:cut]) + finds.feed(data[cut:]) == [b"7" * UID_DIGITS]


@pytest.mark.parametrize("cut", range(len(PDUS) + 1))
def test_the_last_end_of_a_pdu_is_found_however_they_are_cut(cut: int) -> None:
    boundaries = Boundaries()
    first = boundaries.last_in(PDUS[:cut])
    assert first == (10 if 10 <= cut < len(PDUS) else len(PDUS) if cut == len(PDUS) else 0)
    assert boundaries.last_in(PDUS[cut:]) == len(PDUS) - cut
