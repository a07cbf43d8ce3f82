"""A codec that is slow or hangs holds up the instances that need it, and no other one on any association."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import State
from asyncstore.status import SUCCESS
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, JPEG_LOSSLESS_SV1, RLE_LOSSLESS
from tests.support import codecs
from tests.support.process import children
from tests.support.transfers import (
    LIMIT_SECONDS,
    KeepingSCP,
    check_account,
    collect,
    instance,
    outcomes_of,
    transfer_to,
    uid_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.services.storage_scp import Arrival
    from asyncstore.status import Status
    from asyncstore.transfer.engine import Transfer

UNCOMPRESSED = codecs.BUNDLED / "CT_small.dcm"
COMPRESSED = codecs.BUNDLED / "SC_rgb_jpeg_gdcm.dcm"
# A codec that waits for this file, and then cannot decode.
SLOW = """
    while not os.path.exists(__file__ + ".may_end"):
        time.sleep(0.01)
    raise ValueError("slow, and of no use")
"""
PLAIN = 20
FIRST_PLAIN = 10_001


def copies_of(given: Path, directory: Path, count: int) -> list[Instance]:
    """Copies of a file, each under a UID of its own."""
    data = given.read_bytes()
    uid = instance_from(given).sop_instance_uid.encode()
    made = []
    for number in range(1, count + 1):
        path = directory / f"{number:05}.dcm"
        path.write_bytes(data.replace(uid, b"%s.%04d" % (uid[:-5], number)))
        made.append(instance_from(path))
        made[-1].let_go()
    return made


def plain() -> list[Instance]:
    return [instance(number) for number in range(FIRST_PLAIN, FIRST_PLAIN + PLAIN)]


class Receiver(KeepingSCP):
    """Takes uncompressed instances, unless said otherwise; `all_plain` is set when all that need no codec are there."""

    def __init__(self, transfer_syntaxes: Sequence[str] = (EXPLICIT_VR_LITTLE_ENDIAN,)) -> None:
        super().__init__(self._answered, transfer_syntaxes=transfer_syntaxes)
        self.all_plain = anyio.Event()

    def _answered(self, _: Arrival) -> Status:
        if {each.request.affected_sop_instance_uid for each in self.arrivals} >= set(map(uid_of, self.numbers)):
            self.all_plain.set()
        return SUCCESS

    numbers = range(FIRST_PLAIN, FIRST_PLAIN + PLAIN)


async def all_plain_stored(scp: Receiver, transfer: Transfer) -> None:
    """Returns when the answers to all instances that need no codec have been read, and the others found."""
    await scp.all_plain.wait()
    while transfer.report.stored < PLAIN or not transfer.report.scan_finished:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("compressed", [12, 1500])
@pytest.mark.parametrize("associations", [1, 4])
async def test_a_slow_codec_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, associations: int, compressed: int
) -> None:
    broken = codecs.broken_codec(tmp_path / "codec", SLOW)
    monkeypatch.syspath_prepend(broken)
    (tmp_path / "in").mkdir()
    sources = [*await anyio.to_thread.run_sync(copies_of, COMPRESSED, tmp_path / "in", compressed), *plain()]
    async with Receiver() as scp:
        transfer = transfer_to(scp, sources, associations=associations, workers=2)

        async def let_end() -> None:
            with anyio.fail_after(LIMIT_SECONDS):
                await scp.all_plain.wait()
            assert transfer.report.states[State.SOURCE_PROBLEM] == 0
            await anyio.to_thread.run_sync((broken / "gdcm.py.may_end").touch)

        async with anyio.create_task_group() as group:
            group.start_soon(let_end)
            outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert transfer.report.states == {State.STORED: PLAIN, State.SOURCE_PROBLEM: compressed}


@pytest.mark.parametrize("associations", [1, 4])
async def test_compressing_that_hangs_does_not_hold_up_what_is_compressed_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, associations: int
) -> None:
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "gdcm.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.syspath_prepend(tmp_path / "codec")
    (tmp_path / "in").mkdir()
    sources = await anyio.to_thread.run_sync(copies_of, UNCOMPRESSED, tmp_path / "in", 30)
    sources += [instance(number, transfer_syntax_uid=JPEG_LOSSLESS_SV1) for number in Receiver.numbers]
    async with Receiver([EXPLICIT_VR_LITTLE_ENDIAN, JPEG_LOSSLESS_SV1, RLE_LOSSLESS]) as scp:
        transfer = transfer_to(scp, sources, associations=associations, workers=2, transcode=RLE_LOSSLESS)

        async def end_it() -> None:
            await all_plain_stored(scp, transfer)
            transfer.abort()

        async with anyio.create_task_group() as group:
            group.start_soon(end_it)
            await collect(transfer, [])
    assert (transfer.report.stored, transfer.report.left) == (PLAIN, 30)


@pytest.mark.parametrize("associations", [1, 4])
@pytest.mark.parametrize("end", ["drain", "abort"])
async def test_a_codec_that_hangs_holds_up_neither_the_others_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, associations: int, end: str
) -> None:
    monkeypatch.syspath_prepend(codecs.broken_codec(tmp_path / "codec", codecs.NEVER_ENDS))
    (tmp_path / "in").mkdir()
    before = children()
    sources = [*await anyio.to_thread.run_sync(copies_of, COMPRESSED, tmp_path / "in", 12), *plain()]
    async with Receiver() as scp:
        transfer = transfer_to(scp, sources, associations=associations, workers=2)

        async def end_it() -> None:
            await all_plain_stored(scp, transfer)
            getattr(transfer, end)()

        async with anyio.create_task_group() as group:
            group.start_soon(end_it)
            outcomes = await collect(transfer, [])
    assert len(outcomes) == transfer.report.stored == PLAIN
    assert transfer.report.left == 12
    assert children() == before
