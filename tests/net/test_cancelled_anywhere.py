"""An association that is cancelled at any of its awaits ends in time, leaves nothing open, and has claimed nothing."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from asyncstore.net.transport import ABORT_SECONDS
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from tests.support.associations import LIMIT_SECONDS, MR_IMAGE_STORAGE, descriptors, image_file, tasks, to
from tests.support.transfers import KeepingSCP, instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.instances.instance import Instance

pytestmark = [pytest.mark.every_loop, pytest.mark.timed]

# An instance of MR is converted in a thread: that class is accepted in Implicit VR only.
_CONTEXTS = (
    (CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    (MR_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
)
_MORE_TURNS_THAN_A_RUN_HAS = 1_000_000


def turns_to_try() -> Iterator[int]:
    """Every turn of the event loop at first, then at growing distances: threads take any number of them."""
    turns = 0
    while turns < _MORE_TURNS_THAN_A_RUN_HAS:
        yield turns
        turns += 1 + turns // 60


async def everything(scp: KeepingSCP, path: Path, stored: set[str]) -> None:
    """All that an association can do, each by itself; `stored` gets the SOP Instance UIDs that it called stored."""
    sources: list[Instance | Path] = [instance(1), path, instance(2, sop_class_uid=MR_IMAGE_STORAGE)]
    async with to(scp, contexts=_CONTEXTS, window=4) as association:
        for source in sources:
            outcome = await association.store(source)
            assert outcome.is_stored
            assert outcome.instance is not None
            stored.add(outcome.instance.sop_instance_uid)
        await association.echo()


async def test_cancelled_at_any_turn_it_ends_in_time_and_leaves_nothing_open(tmp_path: Path) -> None:
    path = image_file(tmp_path / "a.dcm", "1.2.3.4.5", value_bytes=600_000)
    async with KeepingSCP() as scp:
        await anyio.lowlevel.checkpoint()
        tasks_before, descriptors_before = tasks(), descriptors()
        cancelled = 0
        for turns in turns_to_try():
            scp.arrivals.clear()
            stored: set[str] = set()
            with anyio.fail_after(4 * ABORT_SECONDS), anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(everything, scp, path, stored)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    if len(stored) < 3 or scp._open:
                        scope.cancel()
            with anyio.fail_after(LIMIT_SECONDS):
                while scp._open or tasks() > tasks_before:
                    await anyio.lowlevel.checkpoint()
                while descriptors() > descriptors_before:
                    gc.collect()  # slow after many other tests
                    await anyio.lowlevel.checkpoint()
            assert stored <= scp.uids.keys()
            if not scope.cancel_called:
                break
            cancelled += 1
        assert not scope.cancel_called
        assert len(stored) == 3
    assert cancelled > 10
