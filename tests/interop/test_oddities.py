"""Peers that do what the standard allows and few do: answer out of order, reject by AE title, grant a window."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import peers
from tests.support.kept import TEST_FILES, Kept, assert_all_arrived, copies, kept_by, storescu

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.peers import RunningPeer

INSTANCES = 50


@pytest.mark.parametrize("window", [1, 4, 16])
def test_a_peer_that_answers_the_newest_first_gets_everything(
    dcmjs_scp: RunningPeer, tmp_path: Path, window: int
) -> None:
    paths = copies(tmp_path / "study", INSTANCES)
    run = storescu(dcmjs_scp, tmp_path / "study", "-j", 1, "-w", window)
    assert (run.code, run.stderr) == (0, "")
    assert run.summary["associations_established"] == 1
    assert assert_all_arrived(map(Kept.at, paths), kept_by(dcmjs_scp)) == INSTANCES
    lines = [json.loads(line) for line in dcmjs_scp.output().splitlines()]
    answers = [line["message_id"] for line in lines if line["event"] == "response"]
    assert sorted(answers) == list(range(1, INSTANCES + 1))
    assert (answers == sorted(answers)) is (window == 1)
    assert max(line["outstanding"] for line in lines) == min(window, 4)


def test_pynetdicom_rejects_another_ae_title_and_takes_its_own(tmp_path: Path) -> None:
    with peers.pynetdicom_server(called_ae_title="ARCHIVE") as server:
        rejected = storescu(server, TEST_FILES / "CT_small.dcm")
        taken = storescu(server, TEST_FILES / "CT_small.dcm", "-aec", "ARCHIVE")
    assert (rejected.code, rejected.stderr) == (
        1,
        "E: Association Rejected\n"
        "E: Result: Rejected Permanent, Source: Service User\n"
        "E: Reason: Called AE title not recognised\n"
        "E: We are STORESCU and called ANY-SCP: -aet and -aec set other AE titles\n",
    )
    assert rejected.records == []
    assert (taken.code, taken.stderr) == (0, "")
    assert [each.calling_ae_title for each in server.received] == ["STORESCU"]
