"""Waiting and taking turns, on every event loop."""

from __future__ import annotations

import anyio
import pytest

from asyncstore.aio.signal import Signal, Turn, wait_for_any
from tests.support.associations import LIMIT_SECONDS

pytestmark = pytest.mark.every_loop


async def test_a_signal_wakes_everybody_who_waits() -> None:
    signal = Signal()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await signal.wait()
        woken.append(number)

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            signal.set()
    assert sorted(woken) == [0, 1, 2]


async def test_a_signal_that_nobody_waits_for_is_not_remembered() -> None:
    signal = Signal()
    signal.set()
    with anyio.move_on_after(0.05) as scope:
        await signal.wait()
    assert scope.cancelled_caught


async def test_a_signal_after_a_wait_that_was_cancelled_wakes_the_others() -> None:
    signal = Signal()
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await signal.wait()
            group.start_soon(signal.wait)
            await anyio.wait_all_tasks_blocked()
            signal.set()


async def test_a_signal_wakes_for_one_set_once() -> None:
    signal = Signal()
    times = 0

    async def count() -> None:
        nonlocal times
        while True:
            await signal.wait()
            times += 1

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            for expected in (1, 2, 3):
                await anyio.wait_all_tasks_blocked()
                signal.set()
                signal.set()
                await anyio.wait_all_tasks_blocked()
                assert times == expected
            group.cancel_scope.cancel()


async def test_a_turn_is_taken_by_one_task_at_a_time() -> None:
    turn = Turn()
    inside = 0
    done: list[int] = []

    async def take(number: int) -> None:
        nonlocal inside
        await turn.wait()
        with turn:
            inside += 1
            assert inside == 1
            await anyio.lowlevel.checkpoint()
            inside -= 1
            done.append(number)

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(take, number)
    assert sorted(done) == list(range(10))


async def test_a_turn_is_free_again_after_an_exception_and_after_a_cancellation() -> None:
    turn = Turn()
    with anyio.fail_after(LIMIT_SECONDS):
        await turn.wait()
        with pytest.raises(ZeroDivisionError), turn:
            raise ZeroDivisionError
        with anyio.CancelScope() as scope:
            await turn.wait()
            with turn:
                scope.cancel()
                await anyio.sleep_forever()
        await turn.wait()
        with turn:
            pass


async def test_who_is_cancelled_while_it_waits_for_its_turn_does_not_take_it() -> None:
    turn = Turn()
    took_it: list[str] = []

    async def take(name: str) -> None:
        await turn.wait()
        with turn:
            took_it.append(name)

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            with turn:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await take("cancelled")
                group.start_soon(take, "patient")
                await anyio.wait_all_tasks_blocked()
    assert took_it == ["patient"]


async def test_turns_are_taken_in_the_order_of_asking_also_by_who_comes_later() -> None:
    turn = Turn()
    took_it: list[int] = []

    async def take(number: int) -> None:
        await turn.wait()
        with turn:
            took_it.append(number)
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            with turn:
                for number in range(5):
                    group.start_soon(take, number)
                    await anyio.wait_all_tasks_blocked()
            await take(5)
    assert took_it == [0, 1, 2, 3, 4, 5]


async def test_the_end_of_a_turn_wakes_one_task_only() -> None:
    turn = Turn()
    woken = 0

    async def take() -> None:
        nonlocal woken
        await turn.wait()
        with turn:
            woken += 1
            await anyio.sleep_forever()

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            with turn:
                for _ in range(5):
                    group.start_soon(take)
                await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            assert (woken, len(turn._waiting)) == (1, 4)
            group.cancel_scope.cancel()
        assert not turn.is_taken


async def test_who_is_cancelled_just_when_the_turn_comes_passes_it_on() -> None:
    turn = Turn()
    took_it: list[str] = []

    async def take(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await turn.wait()
            with turn:
                took_it.append(name)
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            with turn:
                group.start_soon(take, "cancelled", scope)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(take, "patient", anyio.CancelScope())
                await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert took_it[-1] == "patient"
    assert not turn.is_taken


async def test_a_task_that_waits_for_several_signals_is_woken_by_each_of_them() -> None:
    signals = [Signal(), Signal(), Signal()]
    times = 0

    async def count() -> None:
        nonlocal times
        while True:
            await wait_for_any(*signals)
            times += 1

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            for signal in (*signals, signals[0]):
                await anyio.wait_all_tasks_blocked()
                signal.set()
                signal.set()
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert times == 4


async def test_signals_keep_nobody_who_was_woken_by_another_or_cancelled() -> None:
    woken, quiet = Signal(), Signal()
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_any, quiet, woken)
            await anyio.wait_all_tasks_blocked()
            woken.set()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait_for_any(quiet, woken)
    for signal in (woken, quiet):
        assert not signal._waiting
        assert not signal._events
