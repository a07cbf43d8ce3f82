"""What a killed receiver left unfinished is removed, and nothing else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from asyncstore.services import part_file
from asyncstore.services.leftovers import Claim
from asyncstore.services.storage_scp import StorageSCP
from tests.support.associations import image_in_memory, to

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it removes nothing there")

TOKEN = "0123456789abcdef"
OURS = (f".1.2.3.{TOKEN}.part", f".1.2.4.{TOKEN}.part", f".1.2.5.{TOKEN}.part")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three files of ours, and some that are not."""
    (tmp_path / OURS[0]).write_bytes(part_file.UNFINISHED + b"the beginning")
    (tmp_path / OURS[1]).write_bytes(b"")
    (tmp_path / OURS[2]).write_bytes(part_file.WHOLE + b"whole, and without a name")
    for name in ("1.2.3.dcm", f".1.2.3.{TOKEN}.part.old", f"1.2.3.{TOKEN}.part", f".a.{TOKEN}.part", ".1.2.3.part"):
        (tmp_path / name).write_bytes(part_file.UNFINISHED)
    (tmp_path / f".1.2.6.{TOKEN}.part").write_bytes(b"of another program")
    (tmp_path / f".1.2.7.{TOKEN}.part").symlink_to(tmp_path / "1.2.3.dcm")
    (tmp_path / f".1.2.8.{TOKEN}.part").mkdir()
    os.mkfifo(tmp_path / f".1.2.9.{TOKEN}.part")
    return tmp_path


def test_what_is_ours_is_removed_and_nothing_else(directory: Path) -> None:
    before = names(directory)
    claim = Claim(directory)
    assert (claim.removed, claim.kept) == (3, 0)
    assert names(directory) == before - set(OURS)
    claim.close()
    claim.close()


def test_while_another_receives_nothing_is_removed(directory: Path) -> None:
    before = names(directory)
    first, second = Claim(directory), Claim(directory)
    (directory / OURS[0]).write_bytes(part_file.UNFINISHED)
    third = Claim(directory)
    first.close()
    fourth = Claim(directory)
    assert [(each.removed, each.kept) for each in (first, second, third, fourth)] == [(3, 0), (0, 0), (0, 1), (0, 1)]
    assert names(directory) == before - set(OURS[1:])
    for each in (second, third, fourth):
        each.close()
    last = Claim(directory)
    assert (last.removed, last.kept) == (1, 0)
    last.close()


@pytest.mark.every_loop
async def test_a_receiver_keeps_what_another_one_is_receiving(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(output_directory=directory) as scp:
        (directory / OURS[0]).write_bytes(part_file.UNFINISHED)
        async with StorageSCP(output_directory=directory):
            assert (directory / OURS[0]).exists()
        assert caplog.messages == [
            "Files of instances that are not whole, and may be those of another receiver, kept in "
            f"{str(directory)!r}: 1"
        ]
        async with to(scp) as association:
            assert (await association.store(image_in_memory(1000, "1.2.3.4"))).is_stored
    async with StorageSCP(output_directory=directory):
        assert not (directory / OURS[0]).exists()


async def test_a_port_that_is_taken_leaves_nothing_locked(tmp_path: Path) -> None:
    async with StorageSCP() as other:
        with pytest.raises(OSError, match="in use"):
            await StorageSCP(port=other.port, output_directory=tmp_path).__aenter__()
    (tmp_path / OURS[0]).write_bytes(part_file.UNFINISHED)
    async with StorageSCP(output_directory=tmp_path):
        assert names(tmp_path) == set()


@pytest.mark.every_loop
@pytest.mark.parametrize("value_bytes", [1000, 3_000_000])
async def test_an_answer_may_wait_for_the_disk(
    value_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).rpartition(".")[2])

    def replaced(source: Path, target: Path) -> None:
        replace(source, target)
        done.append("named")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    directory = tmp_path / "in"
    directory.mkdir()
    async with (
        StorageSCP(output_directory=directory, sync=True, on_store=lambda _: done.append("answered")) as scp,
        to(scp) as association,
    ):
        for _ in range(2):
            assert (await association.store(image_in_memory(value_bytes, "1.2.3.4"))).is_stored
    again = ["part", "dcm", "in", "answered"]
    assert done == ["part", "named", "dcm", "in", "answered", *again]
