"""Orthanc as an archive: far away, and refusing some instances for good with a status that says "later"."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore import Peer, RetryPolicy, Timeouts, Transfer, TransferOptions
from tests.support.fault_plan import Latency
from tests.support.faults import FaultProxy
from tests.support.kept import TEST_FILES, Kept, assert_one_of_each_arrived, copies, storescu

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore import Report
    from tests.support.peers import RunningOrthanc

# They name no patient, study or series; Orthanc answers A700 (out of resources), however often they come.
WITHOUT_A_STUDY: Final = sorted([*TEST_FILES.glob("JPEGLS*.dcm"), *TEST_FILES.glob("SC_rgb_jls_*.dcm")])
OPTIONS: Final = TransferOptions(
    timeouts=Timeouts(dimse_seconds=5),
    retry=RetryPolicy(first_wait_seconds=0.02, cap_seconds=0.1, outage_seconds=2),
)


def test_many_instances_over_a_slow_line_all_arrive(orthanc: RunningOrthanc, tmp_path: Path) -> None:
    paths = copies(tmp_path / "study", 30)
    with FaultProxy((orthanc.host, orthanc.port), [Latency(0.01)]) as proxy:
        run = storescu(proxy, tmp_path / "study")
        answered = [entry.sop_instance_uid for entry in proxy.journal.entries if entry.status == 0]
    assert (run.code, run.stderr) == (0, "")
    kept = [Kept(uid, orthanc.instance_file(uid)) for uid in orthanc.sop_instance_uids()]
    assert assert_one_of_each_arrived([Kept.at(path) for path in paths], kept) == 30
    assert sorted(answered) == sorted(orthanc.sop_instance_uids())


@pytest.mark.parametrize("own_directory", [False, True], ids=["in one directory", "in a directory of their own"])
def test_instances_that_are_refused_for_good_do_not_keep_the_others_from_arriving(
    orthanc: RunningOrthanc, tmp_path: Path, own_directory: bool
) -> None:
    others = copies(tmp_path / "study", 20)
    refused = tmp_path / ("refused" if own_directory else "study")
    refused.mkdir(exist_ok=True)
    sources = [shutil.copy(path, refused / path.name) for path in WITHOUT_A_STUDY] + others

    async def main() -> Report:
        async with Transfer(
            Peer(orthanc.host, orthanc.port), sources, options=OPTIONS, associations=1, window=1
        ) as transfer:
            async for _ in transfer:
                pass
        return transfer.report

    report = anyio.run(main)
    assert len(orthanc.sop_instance_uids()) == report.stored == len(others)
    assert report.failed + report.left == len(WITHOUT_A_STUDY) == 4
