"""The library as its documentation shows it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

import asyncstore
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests.support import files
from tests.support.transfers import write_files

pytestmark = pytest.mark.every_loop

CONTEXTS = [(CT_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])]


async def test_one_association(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 1)
    async with asyncstore.StorageSCP(calling_ae_titles=["MIGRATE"]) as scp:
        archive = asyncstore.Peer("127.0.0.1", scp.port, ae_title="ARCHIVE")
        data_set = pydicom.dcmread(files.bundled("CT_small.dcm"))
        async with asyncstore.associate(archive, calling_ae_title="MIGRATE", contexts=CONTEXTS) as association:
            for source in (asyncstore.instance_from(paths[0]), paths[0], data_set):
                outcome = await association.store(source)
                outcome.raise_for_failure()
                assert outcome.state is asyncstore.State.STORED
        assert scp.stored == 3


async def test_an_instance_that_was_not_stored_raises_when_it_is_asked_to(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, 1)
    async with asyncstore.StorageSCP(on_store=lambda arrival: asyncstore.Status(0xA900)) as scp:
        archive = asyncstore.Peer("127.0.0.1", scp.port)
        async with asyncstore.associate(archive, contexts=CONTEXTS) as association:
            outcome = await association.store(path)
    with pytest.raises(asyncstore.StoreFailed) as raised:
        outcome.raise_for_failure()
    assert raised.value.status == asyncstore.Status(0xA900)
    assert not raised.value.retryable


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
async def test_an_outcome_has_the_very_instance_that_was_handed_in(syntax: str, tmp_path: Path) -> None:
    given = [asyncstore.instance_from(path) for path in write_files(tmp_path, 3)]
    answers = iter([0xA900, *[0] * 100])
    options = asyncstore.TransferOptions(only_transfer_syntax=syntax)
    async with asyncstore.StorageSCP(on_store=lambda arrival: next(answers)) as scp:
        peer = asyncstore.Peer("127.0.0.1", scp.port)
        async with asyncstore.associate(peer, contexts=[(CT_IMAGE_STORAGE, syntax)]) as association:
            assert (await association.store(given[0])).instance is given[0]
        for ledger in (None, tmp_path / "run.db", tmp_path / "run.db"):
            async with asyncstore.Transfer(peer, given, options=options, ledger=ledger) as transfer:
                came = [outcome.instance async for outcome in transfer]
            assert sorted(map(id, came)) == sorted(map(id, given))


async def test_many_instances_over_several_associations(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 50)
    async with asyncstore.StorageSCP() as scp:
        archive = asyncstore.Peer("127.0.0.1", scp.port)
        stored = []
        async with asyncstore.Transfer(archive, [str(tmp_path)], associations=8) as transfer:
            async for outcome in transfer:
                outcome.raise_for_failure()
                stored.append(outcome.path)
    assert sorted(map(str, stored)) == sorted(paths)
    assert transfer.report.stored == 50


async def test_all_in_one_call(tmp_path: Path) -> None:
    write_files(tmp_path / "study", 10)
    async with asyncstore.StorageSCP(output_directory=tmp_path) as scp:
        archive = asyncstore.Peer("127.0.0.1", scp.port)
        report = await asyncstore.store([f"{tmp_path}/study/"], to=archive)
    assert isinstance(report, asyncstore.Report)
    assert (report.stored, report.failed) == (10, 0)
    assert len(list(tmp_path.glob("*.dcm"))) == 10


async def test_one_call_takes_options_too(tmp_path: Path) -> None:
    write_files(tmp_path, 10)
    options = asyncstore.TransferOptions(
        calling_ae_title="MIGRATE",
        retry=asyncstore.RetryPolicy(retries=0),
        timeouts=asyncstore.Timeouts(dimse_seconds=5),
    )
    async with asyncstore.StorageSCP(calling_ae_titles=["MIGRATE"]) as scp:
        archive = asyncstore.Peer("127.0.0.1", scp.port)
        report = await asyncstore.store(tmp_path, to=archive, options=options, associations=2, window=4)
    assert report.stored == 10


async def test_one_call_raises_when_nobody_answers(tmp_path: Path) -> None:
    write_files(tmp_path, 1)
    async with asyncstore.StorageSCP(called_ae_titles=["OTHER"]) as scp:
        with pytest.raises(asyncstore.AssociationRejected):
            await asyncstore.store(tmp_path, to=asyncstore.Peer("127.0.0.1", scp.port))
    with pytest.raises(asyncstore.ConnectFailed):
        await asyncstore.store(tmp_path, to=asyncstore.Peer("127.0.0.1", scp.port))


def test_scanning_needs_no_event_loop(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no DICOM file")
    found = list(asyncstore.scan([tmp_path]))
    assert sum(isinstance(entry, asyncstore.Instance) for entry in found) == 3
    assert len(found) == 4


NOTHING_STORED = """
import sys, anyio, asyncstore

async def main():
    async with asyncstore.StorageSCP() as scp:
        report = await asyncstore.store(["no such file"], to=asyncstore.Peer("127.0.0.1", scp.port))
    assert report.failed == 1

anyio.run(main)
"""


def test_nothing_is_printed_where_no_log_is_set_up() -> None:
    done = subprocess.run([sys.executable, "-c", NOTHING_STORED], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_every_public_name_is_there() -> None:
    for name in asyncstore._MODULE_OF:
        assert getattr(asyncstore, name) is not None
    assert set(asyncstore._MODULE_OF) <= set(dir(asyncstore))
    with pytest.raises(AttributeError, match="no attribute 'Session'"):
        asyncstore.Session  # type: ignore[attr-defined]  # noqa: B018  (a type checker must see it too)


def test_type_checkers_see_the_names_that_are_there() -> None:
    source = Path(asyncstore.__file__).read_text()
    (for_checkers,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        name.name: node.module
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.asname == name.name
    }
    assert seen == asyncstore._MODULE_OF


async def test_everything_that_a_typed_program_names_can_be_had_from_the_package(tmp_path: Path) -> None:
    arrivals: list[asyncstore.Arrival] = []

    def keep(arrival: asyncstore.Arrival) -> asyncstore.Status:
        arrivals.append(arrival)
        return asyncstore.Status(0)

    on_store: asyncstore.OnStore = keep
    (path,) = write_files(tmp_path, 1)
    row = asyncstore.StatusReaction(0xA702, 0xA702, asyncstore.Reactions.STOP.value)
    options = asyncstore.TransferOptions(
        priority=asyncstore.HIGH,
        user_identity=asyncstore.UserIdentity(1, b"somebody"),
        retry=asyncstore.RetryPolicy(overrides=(row,)),
    )
    async with asyncstore.StorageSCP(on_store=on_store) as scp:
        archive = asyncstore.Peer("127.0.0.1", scp.port)
        report = await asyncstore.store(asyncstore.scan([path, tmp_path / "missing"]), to=archive, options=options)
    assert (report.stored, report.failed) == (1, 1)
    assert [arrival.request.priority for arrival in arrivals] == [asyncstore.HIGH]
    assert isinstance(row.reaction, asyncstore.Reaction)
    assert len({asyncstore.LOW, asyncstore.MEDIUM, asyncstore.HIGH}) == 3
    (problem,) = asyncstore.scan(tmp_path / "missing")
    assert isinstance(problem, asyncstore.ScanProblem)


def test_importing_it_costs_neither_pydicom_nor_what_the_command_line_needs() -> None:
    code = "import sys, asyncstore; print(sorted({'pydicom', 'typer', 'rich', 'anyio'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
