"""Peers that need more of the event loop than others: they go on one after another, the most useful first."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from asyncstore.aio.lane import BulkShare, Lane

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]


async def test_who_is_alone_goes_on_at_once() -> None:
    async with anyio.create_task_group() as group:
        lane = Lane(group.start_soon)
        with anyio.fail_after(60):
            for _ in range(100):
                await lane.wait(0)
        assert not lane._waiting


async def test_the_most_useful_goes_first_and_of_equal_ones_the_first() -> None:
    went: list[str] = []
    started: list[object] = []

    async def go(name: str, usefulness: int) -> None:
        await lane.wait(usefulness)
        went.append(name)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            lane = Lane(started.append)
            lane._members = 1  # somebody is there already
            for name, usefulness in (("idle", 0), ("good", 9000), ("better", 90_000), ("as idle", 0)):
                before = len(lane._waiting)
                group.start_soon(go, name, usefulness)
                while len(lane._waiting) == before:
                    await anyio.lowlevel.checkpoint()
            (lead,) = started
            await lead()  # type: ignore[operator]
    assert went == ["better", "good", "idle", "as idle"]


async def test_one_goes_on_each_time_that_the_others_have_run() -> None:
    turns: list[int] = []
    rounds = 0
    is_over = False

    async def go_on(number: int) -> None:
        for _ in range(50):
            await lane.wait(0)
            turns.append(rounds)

    async def count() -> None:
        nonlocal rounds
        while not is_over:
            rounds += 1
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            lane = Lane(group.start_soon)
            group.start_soon(count)
            async with anyio.create_task_group() as waiting:
                for number in range(10):
                    waiting.start_soon(go_on, number)
            is_over = True
    assert len(turns) == 500
    # Ten that went on in every round would need 50; the few rounds in which nobody waits yet do not matter.
    assert len(set(turns)) > 300


async def test_who_is_cancelled_holds_up_nobody() -> None:
    async with anyio.create_task_group() as group:
        lane = Lane(group.start_soon)
        with anyio.fail_after(60):
            for _ in range(20):
                async with anyio.create_task_group() as waiting:
                    for _ in range(3):
                        waiting.start_soon(lane.wait, 0)
                    await anyio.lowlevel.checkpoint()
                    waiting.cancel_scope.cancel()
            await lane.wait(0)
        assert lane._members == 0


def test_those_who_send_much_have_half_of_the_time_while_others_are_at_work() -> None:
    share = BulkShare()
    assert share.has_room(100.0)
    share.took(100.0, 100.01)
    assert share.has_room(100.011)  # nobody else is there
    share.others_at = 100.012
    assert not share.has_room(100.012)
    assert share.has_room(100.021)
    share.took(100.02, 100.2)
    assert not share.has_room(100.06)
    assert share.has_room(100.07)  # the others have gone
