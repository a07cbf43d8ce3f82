"""The Storage SCP: a peer that sends without a pause, or too much, does it to nobody but itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asyncstore.dimse.messages import CStoreRQ
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import CT_IMAGE_STORAGE
from asyncstore.upper_layer.pdu import MAXIMUM_FRAGMENTS, DataTF, Fragment
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support.associations import LIMIT_SECONDS
from tests.support.wire import Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.services.storage_scp import Arrival

pytestmark = [pytest.mark.every_loop, pytest.mark.timed]

COUNT = 2000
HOOK_SECONDS = 0.01


def one_after_the_other() -> bytes:
    """Many instances, each in PDUs of its own."""
    return b"".join(DataTF((fragment,)).encode() for fragment in fragments())


def all_in_few_pdus() -> bytes:
    """As many fragments in a PDU as it may have, whatever their length."""
    every = fragments()
    pieces = [every[at : at + MAXIMUM_FRAGMENTS] for at in range(0, len(every), MAXIMUM_FRAGMENTS)]
    return b"".join(DataTF(tuple(piece)).encode() for piece in pieces)


def fragments() -> list[Fragment]:
    found = []
    for number in range(COUNT):
        request = CStoreRQ(number + 1, CT_IMAGE_STORAGE, f"1.2.{number}").encode()
        found += [Fragment(1, True, True, request), Fragment(1, False, True, b"ab")]
    return found


class Busy:
    """A hook that lets nothing wait: it uses the processor for a while, until it is told that this is enough."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.is_enough = False

    def __call__(self, _: Arrival) -> Status:
        self.began.set()
        ends_at = time.perf_counter() + HOOK_SECONDS
        while not self.is_enough and time.perf_counter() < ends_at:
            pass
        return SUCCESS


def sends(data: bytes) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.associate()
        wire.send(data)
        for _ in range(COUNT):
            wire.read_message()
        wire.release()

    return script


async def play(script: Callable[[Wire], Any], scp: StorageSCP) -> None:
    await anyio.to_thread.run_sync(play_scu, script, scp.port, abandon_on_cancel=True)


@pytest.mark.parametrize("data", [one_after_the_other(), all_in_few_pdus()], ids=["many PDUs", "few PDUs"])
async def test_another_association_is_served_while_one_sends_without_a_pause(data: bytes) -> None:
    def stores_one(wire: Wire) -> None:
        wire.associate()
        assert wire.store(b"ab").value == 0
        wire.release()

    busy = Busy()
    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(on_store=busy, maximum_length=0) as scp, anyio.create_task_group() as group:
            group.start_soon(play, sends(data), scp)
            await busy.began.wait()
            await play(stores_one, scp)
            busy.is_enough = True
            assert scp.stored < COUNT
    assert scp.stored == COUNT + 1


async def test_the_acceptor_can_be_stopped_while_a_peer_sends_without_a_pause() -> None:
    def sends_and_is_cut_off(wire: Wire) -> None:
        wire.associate()
        wire.send(one_after_the_other())
        while wire.read_bytes(1000):
            pass

    busy = Busy()
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            async with StorageSCP(on_store=busy) as scp:
                group.start_soon(play, sends_and_is_cut_off, scp)
                await busy.began.wait()
            assert scp.stored < COUNT


@pytest.mark.parametrize(("proposed", "most"), [(None, 1), (OperationsWindow(3, 1), 3)])
async def test_no_more_hooks_are_at_work_than_the_window_has_room(proposed: OperationsWindow | None, most: int) -> None:
    at_work: list[int] = []
    working = 0

    async def hook(_: Arrival) -> Status:
        nonlocal working
        working += 1
        at_work.append(working)
        for _turn in range(3):
            await anyio.lowlevel.checkpoint()
        working -= 1
        return SUCCESS

    def ignores_its_window(wire: Wire) -> None:
        wire.associate(operations_window=proposed)
        wire.send(one_after_the_other())
        answers = [wire.read_message().message for _ in range(COUNT)]
        assert {answer.responded_to for answer in answers} == set(range(1, COUNT + 1))
        wire.release()

    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(on_store=hook) as scp:
            await play(ignores_its_window, scp)
    assert len(at_work) == COUNT
    assert max(at_work) == most
