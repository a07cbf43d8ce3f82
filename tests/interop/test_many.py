"""Much of everything: SOP classes beyond what one association can carry, Message IDs beyond 65535, a file of 1 GiB."""

from __future__ import annotations

import collections
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore import Instance, Peer, Transfer
from asyncstore.inputs.opening import instance_from_bytes
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_SOP_CLASSES
from tests.support import command, peers
from tests.support.files import data_set, dicom_file, element, file_meta
from tests.support.kept import Kept, assert_all_arrived, kept_by, storescu
from tests.support.peers import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore import Outcome
    from tests.support.peers import RunningPeer

SOP_CLASSES: Final = 130
INSTANCES: Final = 70_000
LARGE_BYTES: Final = 1 << 30
RESIDENT_BYTES: Final = 80 << 20
# The parent of what is measured must be small: Linux counts its memory as the child's until the program is loaded.
MEASURE: Final = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


# -- presentation contexts ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_every_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an instance of each of 130 SOP classes, some of them private."""
    directory = tmp_path_factory.mktemp("classes")
    private = [f"1.2.3.99.{number}" for number in range(10)]
    for number, sop_class_uid in enumerate([*private, *STORAGE_SOP_CLASSES][:SOP_CLASSES]):
        uid = f"1.2.3.88.{number}"
        meta = file_meta(EXPLICIT_VR_LITTLE_ENDIAN, sop_class_uid, uid)
        (directory / f"{number}.dcm").write_bytes(dicom_file(meta=meta, body=data_set(sop_class_uid, uid)))
    return directory


@pytest.mark.parametrize("options", [[], ["-cx"], ["-xi"]], ids=["default", "-cx", "-xi"])
def test_more_sop_classes_than_an_association_has_contexts_all_arrive(
    of_every_class: Path, tmp_path: Path, options: list[str]
) -> None:
    with peers.dcmtk_storescp(tmp_path, "--promiscuous") as peer:
        run = storescu(peer, of_every_class, *options)
    assert (run.code, run.stderr) == (0, "")
    assert run.summary["stored"] == SOP_CLASSES
    assert run.summary["associations_established"] >= 2
    sent = [Kept.at(path) for path in of_every_class.iterdir()]
    assert assert_all_arrived(sent, kept_by(peer)) == (0 if "-xi" in options else SOP_CLASSES)


def test_classes_that_a_peer_does_not_know_fail_alone(of_every_class: Path, storescp: RunningPeer) -> None:
    run = storescu(storescp, of_every_class)
    assert run.code == 3
    assert len(run.records) == SOP_CLASSES
    assert run.names("stored", "no-context") == {path.name for path in of_every_class.iterdir()}
    assert {f"{number}.dcm" for number in range(10)} <= run.names("no-context")
    assert len(run.paths("stored")) > 100
    assert assert_all_arrived(run.stored, kept_by(storescp)) == len(run.stored)


# -- Message IDs -------------------------------------------------------------------------------------------------------


def _tiny_instances() -> Iterator[Instance]:
    """Small data sets, each with a UID of its own, which are nothing but bytes in memory."""
    uid = "1.2.826.0.1.3680043.10.1.1000000"
    template = dicom_file(meta=file_meta(sop_instance_uid=uid), body=data_set(sop_instance_uid=uid) + bytes(200))
    for number in range(INSTANCES):
        yield instance_from_bytes(template.replace(b".1000000", b".%d" % (1_000_000 + number)))


@pytest.mark.campaign
def test_message_ids_begin_anew_on_a_long_association(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []

    async def main(port: int) -> None:
        async with Transfer(Peer(LOOPBACK, port), _tiny_instances(), associations=1, window=16) as transfer:
            outcomes.extend([outcome async for outcome in transfer])
        assert transfer.report.stored == INSTANCES
        assert transfer.report.associations_established == 1

    with peers.asyncstore_storescp(tmp_path, ignore=True) as peer:
        anyio.run(main, peer.port)
    used = collections.Counter(outcome.message_id for outcome in outcomes)
    assert set(used) == set(range(1, 65536))
    assert collections.Counter(used.values()) == {1: 2 * 65535 - INSTANCES, 2: INSTANCES - 65535}
    lines = peer.output().splitlines()
    received = {line.split()[5] for line in lines if line.startswith("I: Received CT Image Storage ")}
    assert len(received) == INSTANCES
    assert lines[-1] == "I: 70,000 instances received on 1 association"


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.campaign
def test_a_file_of_1_gib_is_sent_in_little_memory(tmp_path: Path) -> None:
    pixels = element(0x7FE00010, b"OB", b"")[:-4] + struct.pack("<I", LARGE_BYTES)
    path = tmp_path / "large.dcm"
    path.write_bytes(dicom_file(body=data_set(more=pixels)))
    with path.open("r+b") as file:
        length = file.seek(0, 2) + LARGE_BYTES
        file.truncate(length)
    with peers.asyncstore_storescp(tmp_path, ignore=True) as peer:
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *command.words("storescu", LOOPBACK, peer.port, path)],
            capture_output=True,
            env=command.environment(),
            timeout=command.FINISH_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert 0 < int(done.stdout) < RESIDENT_BYTES
    assert "(Explicit VR Little Endian, 1.07 GB)" in peer.output()
