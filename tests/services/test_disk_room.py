"""A directory that may have so many bytes and no more."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import pytest

from asyncstore.services import disk_room
from asyncstore.services.disk_room import DiskRoom, NoRoom
from asyncstore.services.storage_scp import StorageSCP
from tests.support.associations import image, image_in_memory, to

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("asyncstore.net.acceptor")
KEPT_BYTES = 400  # at most, of what a file has beside its data set


async def status_of(scp: StorageSCP, value_bytes: int, uid: str = "1.2.3.4") -> int:
    async with to(scp) as association:
        outcome = await association.store(image_in_memory(value_bytes, uid))
        assert outcome.status is not None
        return outcome.status.value


def used(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


@pytest.mark.every_loop
@pytest.mark.parametrize("value_bytes", [1000, 3_000_000])
async def test_what_has_no_room_is_refused_and_leaves_nothing(
    value_bytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 2 * (value_bytes + len(image()) - 1000 + KEPT_BYTES)
    async with StorageSCP(output_directory=tmp_path, maximum_disk_bytes=limit) as scp:
        statuses = [await status_of(scp, value_bytes, f"1.2.{number}") for number in range(4)]
        assert statuses == [0, 0, 0xA700, 0xA700]
        assert (scp.stored, scp.failed) == (2, 2)
        assert scp._room is not None
        assert scp._room._used_bytes == used(tmp_path)
    assert used(tmp_path) <= limit
    assert len(list(tmp_path.iterdir())) == 2
    (line,) = caplog.messages
    assert line.startswith("instances are refused: ")
    assert line.endswith(f" bytes are kept in {str(tmp_path)!r}, and no more than {limit:,} may be")


async def test_what_is_there_counts_and_what_is_sent_again_or_replaced_does_not_twice(tmp_path: Path) -> None:
    (tmp_path / "earlier").write_bytes(bytes(5000))
    async with StorageSCP(output_directory=tmp_path, maximum_disk_bytes=20_000, on_existing="replace") as scp:
        assert scp._room is not None
        for value_bytes in (1000, 1000, 3000, 3000, 2000):
            assert await status_of(scp, value_bytes) == 0
            assert scp._room._used_bytes == used(tmp_path)
        assert (scp.same_again, scp.replaced) == (2, 2)
        assert await status_of(scp, 14_000) == 0xA700
        assert scp._room._used_bytes == used(tmp_path)


@pytest.mark.every_loop
@pytest.mark.parametrize("value_bytes", [1000, 200_000, 3_000_000])
async def test_what_is_stored_already_needs_no_room(
    value_bytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(output_directory=tmp_path) as scp:
        for stored_bytes in (value_bytes, value_bytes + 2):  # the second one is kept beside the first
            assert await status_of(scp, stored_bytes) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    caplog.clear()
    # Full from the start, or while the file is written.
    for room_bytes in (0, 1_500_000):
        limit = used(tmp_path) + room_bytes
        async with StorageSCP(output_directory=tmp_path, maximum_disk_bytes=limit) as scp:
            assert scp._room is not None
            for stored_bytes in (value_bytes, value_bytes + 2):
                assert await status_of(scp, stored_bytes) == 0
            assert (scp.stored, scp.same_again, scp._room._used_bytes) == (2, 2, used(tmp_path))
            assert not caplog.messages
            if not room_bytes:
                assert await status_of(scp, value_bytes + 4) == 0xA700
                assert await status_of(scp, value_bytes, "1.2.3.5") == 0xA700
                assert len(caplog.messages) == 1
                caplog.clear()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_on_a_disk_that_is_full_too(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, written = os.write, 0

    def full_after_a_while(descriptor: int, data: bytes) -> int:
        nonlocal written
        if written > 1_500_000:
            raise OSError(error, os.strerror(error))
        written += (count := write(descriptor, data[:700_000]))
        return count

    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await status_of(scp, 3_000_000) == 0
        monkeypatch.setattr(os, "write", full_after_a_while)
        assert await status_of(scp, 3_000_000) == (0xA700 if error == errno.EIO else 0)
        assert await status_of(scp, 3_000_000, "1.2.3.5") == 0xA700
        assert await status_of(scp, 3_000_002) == 0xA700
        monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.4.dcm"]
    assert len(caplog.messages) == (3 if error == errno.EIO else 2)


async def test_what_others_remove_is_found_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "earlier").write_bytes(bytes(5000))
    monkeypatch.setattr(disk_room, "_LOOK_SECONDS", 0.01)
    async with StorageSCP(output_directory=tmp_path, maximum_disk_bytes=5500) as scp:
        assert await status_of(scp, 1000) == 0xA700
        (tmp_path / "earlier").unlink()
        while await status_of(scp, 1000):
            pass


async def test_what_comes_during_a_look_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = DiskRoom(tmp_path, 1000, logger)

    def bytes_in(directory: Path) -> int:
        room.take(300)
        return 500

    monkeypatch.setattr(disk_room, "_bytes_in", bytes_in)
    await room.look()
    with pytest.raises(NoRoom):
        room.take(201)
    room.take(200)
    room.give_back(1000)
    room.take(1000)
