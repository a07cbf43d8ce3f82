"""An association that keeps pace: the same bytes in pieces, and an end at any of them that never looks whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.errors import Aborted, AssociationLost
from asyncstore.instances.outcome import State
from asyncstore.upper_layer.pdu import Abort, DataTF
from tests.support.associations import (
    LIMIT_SECONDS,
    accepting,
    has_last_data_fragment,
    inside,
    instance,
    instance_in,
    send,
    tasks,
    to,
    units_of,
    with_window,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.every_loop

SMALL_MAXIMUM = 206
DATA_SET_BYTES = 450
PDUS_BYTES = 3 * 12 + DATA_SET_BYTES  # fragments of 200, 200 and 50 bytes


class Pieces:
    """Lets pieces of some bytes pass, at once; it stalls after `stalls_after` of them."""

    def __init__(self, piece_bytes: int, stalls_after: float = float("inf")) -> None:
        self.has_stalled = anyio.Event()
        self.go_on = anyio.Event()
        self.granted: list[int] = []
        self._piece_bytes = piece_bytes
        self._stalls_after = stalls_after

    async def grant(self, wanted_bytes: int) -> int:
        if len(self.granted) == self._stalls_after:
            self.has_stalled.set()
            await self.go_on.wait()
        self.granted.append(min(wanted_bytes, self._piece_bytes))
        return self.granted[-1]


class Hearing:
    """A script that accepts the association and keeps every byte that comes then."""

    def __init__(self) -> None:
        self.stream = b""

    def __call__(self, wire: Wire) -> None:
        wire.accept(maximum_length=SMALL_MAXIMUM)
        self.stream = wire.read_bytes(1 << 30)


async def heard(pacer: Pieces | None, path: Path | None) -> bytes:
    """The bytes of one message, without what ends the association."""
    hearing = Hearing()
    each = instance(DATA_SET_BYTES) if path is None else instance_in(path, DATA_SET_BYTES)
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            inside(association).pacer = pacer
            await send(association, each, lambda *_: None)
    units = [unit for unit in units_of(hearing.stream) if isinstance(unit, DataTF)]
    return b"".join(unit.encode() for unit in units)


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
@pytest.mark.parametrize("piece_bytes", [1, 7, 12, 212, 213, PDUS_BYTES - 1, PDUS_BYTES, 1 << 20])
async def test_the_bytes_are_the_same_at_any_pace(piece_bytes: int, in_memory: bool, tmp_path: Path) -> None:
    path = None if in_memory else tmp_path / "a"
    pacer = Pieces(piece_bytes)
    assert await heard(pacer, path) == await heard(None, path)
    assert sum(pacer.granted) == PDUS_BYTES  # the command set is not counted
    assert len(pacer.granted) == -(-PDUS_BYTES // piece_bytes)


async def test_a_large_data_set_is_paced_within_itself(tmp_path: Path) -> None:
    each = instance_in(tmp_path / "a", 3 << 20)
    pacer = Pieces(100_000)
    with ScriptedSCP(accepting(Wire.serve_stores)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            inside(association).pacer = pacer
            outcome = await association.store(each)
    assert outcome.state is State.STORED
    assert max(pacer.granted) == 100_000
    assert 3 << 20 < sum(pacer.granted) < (3 << 20) * 1.01


async def test_a_pace_may_begin_and_end_between_two_instances() -> None:
    pacer = Pieces(100)
    with (
        ScriptedSCP(accepting(Wire.serve_stores, maximum_length=SMALL_MAXIMUM)) as scp,
        anyio.fail_after(LIMIT_SECONDS),
    ):
        async with to(scp) as association:
            for each in (None, pacer, None):
                inside(association).pacer = each
                assert (await association.store(instance(DATA_SET_BYTES))).is_stored
    assert sum(pacer.granted) == PDUS_BYTES


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
@pytest.mark.parametrize("stalls_after", [0, 1, 2, 3, 4, 6])
async def test_cancelled_while_it_keeps_pace_a_store_never_looks_whole(
    stalls_after: int, in_memory: bool, tmp_path: Path
) -> None:
    hearing, pacer = Hearing(), Pieces(70, stalls_after)
    each = instance(DATA_SET_BYTES) if in_memory else instance_in(tmp_path / "a", DATA_SET_BYTES)
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        before = tasks()
        async with to(scp) as association:
            inside(association).pacer = pacer
            async with anyio.create_task_group() as group:
                group.start_soon(association.store, each)
                await pacer.has_stalled.wait()
                group.cancel_scope.cancel()
            assert isinstance(association.failure, AssociationLost)
        assert tasks() == before
    units = list(units_of(hearing.stream))
    assert not has_last_data_fragment(units)
    if units and b"".join(unit.encode() for unit in units) == hearing.stream:
        assert isinstance(units[-1], Abort)


async def test_an_abort_of_the_peer_ends_the_wait_for_the_pace() -> None:
    def aborts(wire: Wire) -> None:
        wire.read_bytes(50)
        wire.send(Abort(2, 0))

    pacer = Pieces(70, 1)
    with ScriptedSCP(accepting(aborts, maximum_length=SMALL_MAXIMUM)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            inside(association).pacer = pacer
            with pytest.raises(Aborted):
                await association.store(instance(DATA_SET_BYTES))
    assert pacer.granted == [70]


async def test_an_answer_is_taken_in_while_the_next_request_keeps_pace() -> None:
    def answers_the_first_at_once(wire: Wire) -> None:
        wire.answer(wire.read_store())
        wire.serve_stores()

    pacer = Pieces(70, 1)
    script = accepting(answers_the_first_at_once, maximum_length=SMALL_MAXIMUM, **with_window(2))
    with ScriptedSCP(script) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=2) as association, anyio.create_task_group() as group:
            answered = anyio.Event()
            await send(association, instance(DATA_SET_BYTES, "1.2.3"), lambda *_: answered.set())
            inside(association).pacer = pacer
            group.start_soon(association.store, instance(DATA_SET_BYTES))
            await pacer.has_stalled.wait()
            await answered.wait()
            pacer.go_on.set()
    assert sum(pacer.granted) == PDUS_BYTES
