"""Which SOP classes a StorageSCP accepts, when it accepts more than the standard's, and where it writes files."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.dimse.messages import CStoreRQ
from asyncstore.instances import identity
from asyncstore.instances.source import BytesSource
from asyncstore.services import part_file
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_SOP_CLASSES, VERIFICATION
from tests.support.associations import LIMIT_SECONDS, image, instance_of, to
from tests.support.files import data_set
from tests.test_uids import DICTIONARY

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

PRIVATE = "1.3.12.2.1107.5.9.1"
NOT_YET_IN_THE_STANDARD = "1.2.840.10008.5.1.4.1.1.999"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"

# Every class, service and meta class that has a name and is none of the Storage Service.
OF_OTHER_SERVICES = [
    uid
    for uid, (name, kind, *_) in DICTIONARY.items()
    if "Class" in kind and name and uid not in STORAGE_SOP_CLASSES and uid != VERIFICATION
]


def test_any_class_is_any_but_those_of_other_services() -> None:
    providers = StorageSCP(any_class=True).providers
    storage = providers[CT_IMAGE_STORAGE]
    accepted = [*STORAGE_SOP_CLASSES, PRIVATE, NOT_YET_IN_THE_STANDARD, "1.2.840.100080.1", "no UID"]
    assert [uid for uid in accepted if providers.get(uid) is not storage] == []
    assert len(OF_OTHER_SERVICES) > 100
    assert [uid for uid in OF_OTHER_SERVICES if uid in providers] == []
    assert providers[VERIFICATION] is not storage
    assert set(providers) == {*STORAGE_SOP_CLASSES, VERIFICATION}
    assert len(providers) == len(STORAGE_SOP_CLASSES) + 1


@pytest.mark.every_loop
@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({}, {CT_IMAGE_STORAGE}),
        ({"any_class": True}, {CT_IMAGE_STORAGE, PRIVATE, NOT_YET_IN_THE_STANDARD}),
        ({"any_class": True, "sop_classes": [STUDY_ROOT_FIND]}, {CT_IMAGE_STORAGE, PRIVATE, NOT_YET_IN_THE_STANDARD}),
        ({"sop_classes": PRIVATE}, {PRIVATE}),
    ],
)
async def test_instances_of_accepted_classes_are_kept(
    settings: dict[str, Any], accepted: set[str], tmp_path: Path
) -> None:
    proposed = [CT_IMAGE_STORAGE, PRIVATE, NOT_YET_IN_THE_STANDARD]
    contexts = [(uid, EXPLICIT_VR_LITTLE_ENDIAN) for uid in [*proposed, "1.2.840.10008.5.1.4.31"]]
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(output_directory=tmp_path, **settings) as scp, to(scp, contexts=contexts) as association:
            assert {context.abstract_syntax for context in association.contexts} == accepted
            for number, uid in enumerate(sorted(accepted)):
                given = instance_of(BytesSource(data_set(uid, f"1.2.{number}")), f"1.2.{number}")
                given.sop_class_uid = uid
                assert (await association.store(given)).is_stored
    assert len(list(tmp_path.iterdir())) == len(accepted)


class SlowWhen:
    """The clock of a machine on which a file takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.mark.anyio
async def test_small_files_are_written_at_once_until_one_is_slow_and_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = part_file.Pace()
    clock = SlowWhen(0.001)
    monkeypatch.setattr(part_file, "time", clock)

    uids = (f"1.2.3.{number}" for number in itertools.count())

    async def is_written_at_once(value_bytes: int = 1000) -> bool:
        uid = next(uids)
        part = part_file.PartFile(tmp_path, CStoreRQ(1, CT_IMAGE_STORAGE, uid), EXPLICIT_VR_LITTLE_ENDIAN, pace)
        part.write(image(uid, value_bytes))
        rest = part.finish()
        assert (part.path is None) is (rest is not None)
        if rest is not None:
            await rest
        assert part.path is not None
        assert part.path.read_bytes().endswith(image(uid, value_bytes))
        return rest is None

    assert [await is_written_at_once() for _ in range(3)] == [True] * 3
    assert not await is_written_at_once(100_000)
    assert await is_written_at_once()
    clock.seconds = 0.1
    assert await is_written_at_once()  # which was slow
    clock.seconds = 0.001
    assert not await is_written_at_once()
    clock.now += 1
    assert await is_written_at_once()
    clock.seconds = 0.1
    for wait_seconds in (1, 2, 4, 8, 16, 32, 64, 64):  # each is slow again
        assert await is_written_at_once()
        clock.now += wait_seconds - 0.5
        assert not await is_written_at_once()
        clock.now += 0.5


async def test_an_instance_whose_uid_is_longer_than_a_request_can_say_is_kept(tmp_path: Path) -> None:
    uid = "1.2." + "8" * 64
    async with StorageSCP(output_directory=tmp_path) as scp, to(scp) as association:
        assert (await association.store(instance_of(BytesSource(data_set(CT_IMAGE_STORAGE, uid)), uid))).is_stored
    assert [path.name for path in tmp_path.iterdir()] == [f"{uid[:64]}.dcm"]


async def test_a_data_set_of_elements_without_values_is_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    look = identity.uids_of_data_set

    def counted(data: bytes, syntax: str, *, complete: bool) -> tuple[str, str] | None:
        looked_at.append(len(data))
        return look(data, syntax, complete=complete)

    monkeypatch.setattr(part_file, "uids_of_data_set", counted)
    part = part_file.PartFile(tmp_path, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4"), EXPLICIT_VR_LITTLE_ENDIAN)
    waits = part.write(bytes(2_000_000))
    assert waits is not None
    await waits
    await part.discard()
    assert looked_at == [part_file._HEAD_BYTES]


def test_a_data_set_that_comes_in_crumbs_takes_no_more_memory_than_its_bytes(tmp_path: Path) -> None:
    part = part_file.PartFile(tmp_path, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4"), EXPLICIT_VR_LITTLE_ENDIAN)
    data = image("1.2.3.4", 300_000)
    tracemalloc.start()
    try:
        for at in range(0, len(data), 2):
            assert part.write(data[at : at + 2]) is None
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()
    part._keep()
    assert part.path is not None
    assert part.path.read_bytes().endswith(data)


@pytest.mark.parametrize(("beside", "pieces"), [(0, 2), (15, 4), (1000, 32)])
def test_the_more_arrive_at_once_the_less_of_each_is_collected(beside: int, pieces: int, tmp_path: Path) -> None:
    request = CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4")
    part = part_file.PartFile(tmp_path, request, EXPLICIT_VR_LITTLE_ENDIAN, beside=beside)
    data = image("1.2.3.4", (2 << 20) - 1000)
    written = 0
    for at in range(0, len(data), 1 << 14):
        if (pause := part.write(data[at : at + (1 << 14)])) is not None:
            written += 1
            anyio.run(awaited, pause)
    part._keep()
    assert written in (pieces - 1, pieces)
    assert part.path is not None
    assert part.path.read_bytes().endswith(data)


async def awaited(pause: Awaitable[None]) -> None:
    await pause
