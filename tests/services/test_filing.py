"""The same SOP Instance UID again: the same bytes, other bytes, two at once, and what is left after a crash."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pydicom
import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.services import filing
from asyncstore.services.filing import AlreadyStored, Filed, settle
from asyncstore.services.storage_scp import Arrival, StorageSCP
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.items import PresentationContext
from tests.support import command, files
from tests.support.associations import LIMIT_SECONDS, image, image_in_memory, to
from tests.support.wire import Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.services.filing import OnExisting

UID = "1.2.3.4"
EXPLICIT_CONTEXT = PresentationContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))


async def status_of(scp: StorageSCP, value_bytes: int) -> int:
    async with to(scp) as association:
        outcome = await association.store(image_in_memory(value_bytes, UID))
        assert outcome.status is not None
        return outcome.status.value


def state_of(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# As storescp keeps them


@pytest.mark.every_loop
@pytest.mark.parametrize("value_bytes", [10, 100_000, 2_500_000])
async def test_the_same_again_is_stored_and_changes_nothing(value_bytes: int, tmp_path: Path) -> None:
    arrivals: list[Arrival] = []
    for on_existing in ("keep", "replace", "rename"):
        async with StorageSCP(output_directory=tmp_path, on_existing=on_existing, on_store=arrivals.append) as scp:
            assert await status_of(scp, value_bytes) == 0
            before = state_of(tmp_path / f"{UID}.dcm")
            assert await status_of(scp, value_bytes) == 0
            assert (scp.stored, scp.kept_beside, scp.replaced, scp.failed) == (2, 0, 0, 0)
            assert scp.same_again == (1 if on_existing == "keep" else 2)
        assert state_of(tmp_path / f"{UID}.dcm") == before
        assert names(tmp_path) == [f"{UID}.dcm"]
    assert {arrival.path for arrival in arrivals} == {tmp_path / f"{UID}.dcm"}


@pytest.mark.every_loop
@pytest.mark.parametrize("value_bytes", [10, 2_500_000])
async def test_other_bytes_are_kept_beside_and_found_again(
    value_bytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(output_directory=tmp_path) as scp:
        for length in (20, value_bytes, value_bytes, 20, value_bytes):
            assert await status_of(scp, length) == 0
        assert (scp.stored, scp.same_again, scp.kept_beside, scp.replaced) == (5, 3, 1, 0)
    first, beside = sorted(tmp_path.iterdir(), key=lambda path: len(path.name))
    assert first.name == f"{UID}.dcm"
    assert len(pydicom.dcmread(first).PixelData) == 20
    assert beside.name.startswith(f"{UID}-")
    assert len(pydicom.dcmread(beside).PixelData) == value_bytes
    (line,) = (line for line in caplog.messages if "another data set" in line)
    assert line.startswith(f"{str(beside)!r}: another data set of its UID, of ")
    assert "from 'STORESCU', is kept beside the file of " in line


async def test_other_bytes_are_refused_where_the_first_is_to_stay(tmp_path: Path) -> None:
    async with StorageSCP(output_directory=tmp_path, on_existing="keep") as scp:
        assert [await status_of(scp, length) for length in (20, 10, 20)] == [0, 0x0111, 0]
        assert (scp.stored, scp.same_again, scp.failed) == (2, 1, 1)
    assert names(tmp_path) == [f"{UID}.dcm"]
    assert len(pydicom.dcmread(tmp_path / f"{UID}.dcm").PixelData) == 20


async def test_a_file_of_another_program_with_the_same_data_set_is_the_same(tmp_path: Path) -> None:
    more = files.element(0x00020016, b"AE", b"ANOTHER ")
    meta = files.file_meta(sop_instance_uid=UID, more=more)
    (tmp_path / f"{UID}.dcm").write_bytes(files.dicom_file(meta=meta, body=image(UID, 20)))
    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await status_of(scp, 20) == 0
        assert scp.same_again == 1
    assert names(tmp_path) == [f"{UID}.dcm"]


async def test_a_file_of_that_name_that_is_no_dicom_file_stays(tmp_path: Path) -> None:
    (tmp_path / f"{UID}.dcm").write_text("mine")
    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await status_of(scp, 20) == 0
        assert scp.kept_beside == 1
    assert (tmp_path / f"{UID}.dcm").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("leads_to", ["nowhere", "a file outside", "a directory outside"])
async def test_a_link_of_that_name_is_not_written_through(leads_to: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    if leads_to == "a file outside":
        outside.write_text("mine")
    elif leads_to == "a directory outside":
        outside.mkdir()
    (inside / f"{UID}.dcm").symlink_to(outside)
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(output_directory=inside) as scp:
            status = await status_of(scp, 20)
    assert status == 0xA700
    assert not outside.is_file() or outside.read_text() == "mine"
    assert not outside.is_dir() or names(outside) == []
    assert names(inside) == [f"{UID}.dcm"]


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="on_existing is 'overwrite': it is one of keep, replace, rename"):
        StorageSCP(on_existing="overwrite")  # type: ignore[arg-type]


# Two associations bring the same UID at once


def begins(wire: Wire, data_set: bytes) -> Callable[[], int]:
    """Send an instance but for its last byte; gives what sends that, and reads the answer."""
    from asyncstore.dimse.messages import CStoreRQ, CStoreRSP
    from asyncstore.upper_layer.pdu import DataTF, Fragment

    wire.associate([EXPLICIT_CONTEXT])
    wire.send(DataTF((Fragment(1, True, True, CStoreRQ(1, CT_IMAGE_STORAGE, UID).encode()),)))
    step = wire.maximum_length - 6
    for at in range(0, len(data_set) - 1, step):
        wire.send(DataTF((Fragment(1, False, False, data_set[at : min(at + step, len(data_set) - 1)]),)))

    def ends() -> int:
        wire.send(DataTF((Fragment(1, False, True, data_set[-1:]),)))
        answer = wire.read_message().message
        assert isinstance(answer, CStoreRSP)
        return answer.status.value

    return ends


@pytest.mark.parametrize("second_first", [False, True])
@pytest.mark.parametrize("value_bytes", [(10, 12), (3_000_000, 3_000_002), (10, 3_000_000)])
async def test_two_that_bring_other_bytes_at_once_are_both_kept(
    value_bytes: tuple[int, int], second_first: bool, tmp_path: Path
) -> None:
    def play(first: Wire) -> list[int]:
        def within(second: Wire) -> list[int]:
            ends = [begins(wire, image(UID, length)) for wire, length in zip((first, second), value_bytes, strict=True)]
            return [end() for end in (reversed(ends) if second_first else ends)]

        return play_scu(within, scp.port)

    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await anyio.to_thread.run_sync(play_scu, play, scp.port) == [0, 0]
        assert (scp.kept_beside, scp.same_again) == (1, 0)
    kept = {len(pydicom.dcmread(path).PixelData): path.name for path in tmp_path.iterdir()}
    assert set(kept) == set(value_bytes)
    assert kept[value_bytes[second_first]] == f"{UID}.dcm"  # of the one that was whole first


@pytest.mark.parametrize("on_existing", ["keep", "replace", "rename"])
async def test_many_at_once_leave_whole_files_and_lose_none_without_a_word(
    on_existing: OnExisting, tmp_path: Path
) -> None:
    lengths = [10, 12, 10, 100_000, 100_002, 2_500_000, 10, 2_500_000] * 3
    statuses: list[int] = []

    async def store(length: int) -> None:
        statuses.append(await status_of(scp, length))

    async with StorageSCP(output_directory=tmp_path, on_existing=on_existing) as scp:
        async with anyio.create_task_group() as group:
            for length in lengths:
                group.start_soon(store, length)
        counted = 1 + scp.same_again + scp.kept_beside + scp.replaced + scp.failed
    assert counted == len(lengths)
    kept = [len(pydicom.dcmread(path).PixelData) for path in tmp_path.iterdir()]
    if on_existing == "rename":
        assert sorted(kept) == sorted(set(lengths))
        assert set(statuses) == {0}
    else:
        assert len(kept) == 1
        assert statuses.count(0x0111) == scp.failed == (0 if on_existing == "replace" else scp.failed)


def test_in_the_place_of_one_that_another_replaced_meanwhile_it_is_compared_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, part, other = tmp_path / "a.dcm", tmp_path / "part", tmp_path / "other"
    path.write_bytes(b"first")
    part.write_bytes(b"mine")
    other.write_bytes(b"other")
    are_same = filing._are_same
    compared: list[bytes] = []

    def replaced_meanwhile(one: Path, stored: Path) -> bool:
        compared.append(stored.read_bytes())
        answer = are_same(one, stored)
        if other.exists():
            os.replace(other, stored)
        return answer

    monkeypatch.setattr(filing, "_are_same", replaced_meanwhile)
    assert settle(part, path, "replace").how is Filed.REPLACED
    assert compared == [b"first", b"other"]
    assert path.read_bytes() == b"mine"


def test_a_file_that_is_removed_meanwhile_leaves_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, part = tmp_path / "a.dcm", tmp_path / "part"
    path.write_bytes(b"first")
    part.write_bytes(b"mine")
    are_same = filing._are_same

    def removed_meanwhile(one: Path, stored: Path) -> bool:
        stored.unlink()
        return are_same(one, stored)

    monkeypatch.setattr(filing, "_are_same", removed_meanwhile)
    assert settle(part, path, "keep").how is Filed.NEW
    assert path.read_bytes() == b"mine"


def test_a_second_name_that_other_bytes_have_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filing, "_digest_of", lambda path: "0")
    path, part = tmp_path / "a.dcm", tmp_path / "part"
    path.write_bytes(b"first")
    (tmp_path / "a-0.dcm").write_bytes(b"second")
    part.write_bytes(b"mine")
    with pytest.raises(AlreadyStored):
        settle(part, path, "rename")
    assert names(tmp_path) == ["a-0.dcm", "a.dcm", "part"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
def test_a_crash_leaves_no_half_file_under_a_name(tmp_path: Path) -> None:
    def sends_a_part(wire: Wire) -> None:
        begins(wire, image(UID, 3_000_000))
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert not threading.Event().wait(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()

    process = command.start("storescp", 0, "-v", "-ba", "127.0.0.1", "-od", tmp_path)
    assert process.stderr is not None
    try:
        play_scu(sends_a_part, int(process.stderr.readline().split()[5]))
    finally:
        process.kill()
        process.communicate()
    (left,) = names(tmp_path)
    assert left.endswith(".part")
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(tmp_path / left)
    again = command.start("storescp", 0, "-v", "-ba", "127.0.0.1", "-od", tmp_path)
    try:
        assert again.stderr is not None
        told = again.stderr.readline().decode()
        what = "Files of instances that a killed run did not receive whole, removed from"
        assert told == f"I: {what} '{tmp_path}': 1\n"
        assert again.stderr.readline().startswith(b"I: Listening on ")
        assert names(tmp_path) == []
    finally:
        again.kill()
        again.communicate()
