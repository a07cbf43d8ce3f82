"""Queries and comparisons with the archives of others, and others' queries of a provider of ours."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from pydicom import Dataset

from asyncstore.net.acceptor import Acceptor
from asyncstore.uids import CT_IMAGE_STORAGE, STUDY_ROOT_FIND
from tests.support import command, files
from tests.support.archive import Archive
from tests.support.peers import LOOPBACK, dcmtk_qrscp, require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.peers import RunningOrthanc, RunningPeer

STUDIES, SERIES, INSTANCES = 4, 2, 3


def uid_of(study: int, series: int, number: int) -> str:
    return f"1.2.826.0.1.3680043.9.77.{study}.{series}.{number}"


def image(study: int, series: int, number: int) -> bytes:
    """A file that archives index: it names a patient, a study and a series."""
    uid = uid_of(study, series, number)
    body = files.data_set(
        sop_instance_uid=uid,
        more=files.element(0x00100020, b"LO", b"4711")
        + files.element(0x0020000D, b"UI", files.uid(f"1.2.826.0.1.3680043.9.77.{study}"))
        + files.element(0x0020000E, b"UI", files.uid(f"1.2.826.0.1.3680043.9.77.{study}.{series}"))
        + files.element(0x00200010, b"SH", b"1 ")
        + files.element(0x00200011, b"IS", b"1 ")
        + files.element(0x00200013, b"IS", b"1 "),
    )
    return files.dicom_file(meta=files.file_meta(sop_instance_uid=uid), body=body)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Studies, series and instances; of the last study, one file is in `later`, not in the tree."""
    (tmp_path / "tree").mkdir()
    for study in range(1, STUDIES + 1):
        for series in range(1, SERIES + 1):
            for number in range(1, INSTANCES + 1):
                name = f"{study}-{series}-{number}.dcm"
                (tmp_path / "tree" / name).write_bytes(image(study, series, number))
    return tmp_path / "tree"


@pytest.fixture
def qrscp(tmp_path: Path) -> Iterator[RunningPeer]:
    with dcmtk_qrscp(tmp_path) as peer:
        yield peer


@pytest.fixture
def archive(request: pytest.FixtureRequest) -> RunningPeer:
    peer: RunningPeer = request.getfixturevalue(request.param)
    return peer


@pytest.mark.parametrize("archive", ["orthanc", "qrscp"], indirect=True)
def test_what_an_archive_lacks_is_named_and_can_be_sent(archive: RunningPeer, tree: Path) -> None:
    where = ("-aec", archive.ae_title, archive.host, archive.port)
    taken = [*tree.glob("1-1-2.dcm"), *tree.glob("2-2-*.dcm"), *tree.glob("3-*.dcm")]
    aside = tree.parent / "aside"
    aside.mkdir()
    for path in taken:
        path.rename(aside / path.name)
    assert command.run("storescu", "-j", 1, "-r", *where, tree).returncode == 0
    extra = tree / "4-1-1.dcm"
    extra.rename(tree.parent / "extra.dcm")
    for path in taken:
        (aside / path.name).rename(path)
    done = command.run("verify", "--json", tree, *where)
    *studies, summary = map(json.loads, done.stdout.splitlines())
    differences = [each for study in studies for each in study["differences"]]
    assert {each["path"] for each in differences if each["kind"] == "missing"} == {str(path) for path in taken}
    assert {each["sop_instance_uid"] for each in differences if each["kind"] == "extra"} == {uid_of(4, 1, 1)}
    assert (done.returncode, summary["other_class"], summary["incomplete_studies"]) == (7, 0, 0)
    missing = command.run("verify", "--missing-files", tree, *where).stdout.encode()
    assert command.run("storescu", "-j", 1, "--files-from", "-", *where, stdin=missing).returncode == 0
    (tree.parent / "extra.dcm").rename(extra)
    done = command.run("verify", tree, *where)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no difference")


async def test_orthanc_counts_and_is_cancelled(orthanc: RunningOrthanc, tree: Path) -> None:
    import asyncstore

    peer = asyncstore.Peer(orthanc.host, orthanc.port, orthanc.ae_title)
    await asyncstore.store([tree], to=peer)
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.NumberOfStudyRelatedInstances = "STUDY", "", ""
    contexts = [(STUDY_ROOT_FIND, ("1.2.840.10008.1.2.1",))]
    async with asyncstore.associate(peer, contexts=contexts) as association:
        matches = [match async for match in association.find(query)]
        assert [match.NumberOfStudyRelatedInstances for match in matches] == [SERIES * INSTANCES] * STUDIES
        async with association.find(query) as some:
            await anext(some)
        assert some.status is not None
        assert len([match async for match in association.find(query)]) == STUDIES


async def test_pynetdicom_answers_and_refuses() -> None:
    from pynetdicom import AE, evt

    import asyncstore

    def handle(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel != "STUDY":
            yield 0xA900, None
            return
        for number in range(3):
            match = Dataset()
            match.QueryRetrieveLevel, match.StudyInstanceUID = "STUDY", f"1.2.{number}"
            yield 0xFF00, match

    entity = AE()
    entity.add_supported_context(STUDY_ROOT_FIND)
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_FIND, handle)])
    assert server is not None
    try:
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
        peer = asyncstore.Peer(LOOPBACK, server.server_address[1])
        contexts = [(STUDY_ROOT_FIND, ("1.2.840.10008.1.2",))]
        async with asyncstore.associate(peer, contexts=contexts) as association:
            uids = [str(match.StudyInstanceUID) async for match in association.find(query)]
            assert uids == ["1.2.0", "1.2.1", "1.2.2"]
            query.QueryRetrieveLevel = "IMAGE"
            with pytest.raises(asyncstore.OperationFailed) as caught:
                await anext(association.find(query))
            assert caught.value.status.value == 0xA900
    finally:
        server.shutdown()


def findscu(provider: Archive, *options: str) -> str:
    """What DCMTK's findscu prints of the answers of a provider."""
    program = require("findscu", "dcmtk")
    words = ["-S", "-v", *options, "-k", "QueryRetrieveLevel=IMAGE", "-k", "StudyInstanceUID=1.2", "-k"]

    async def main() -> str:
        async with Acceptor({STUDY_ROOT_FIND: provider}) as acceptor:
            line = [program, *words, "SOPInstanceUID", LOOPBACK, str(acceptor.port)]

            def run() -> str:
                done = subprocess.run(line, capture_output=True, timeout=120, check=True)
                return (done.stdout + done.stderr).replace(b"\0", b"").decode()

            return await anyio.to_thread.run_sync(run)

    return anyio.run(main)


def test_findscu_reads_the_matches_of_a_provider_and_cancels_it() -> None:
    provider = Archive([("1.2", "1.2.1", f"1.2.1.{number}", CT_IMAGE_STORAGE) for number in range(5000)])
    printed = findscu(provider)
    assert len(re.findall(r"Find Response: \d+ \(Pending\)", printed)) == 5000
    assert "Success" in printed
    printed = findscu(provider, "--cancel", "10")
    assert 10 <= len(re.findall(r"Find Response: \d+ \(Pending\)", printed)) < 5000
    assert "Cancel" in printed
