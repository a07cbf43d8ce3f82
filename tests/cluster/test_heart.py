"""The fence of a worker, and what workers tell each other."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.cluster import engine
from asyncstore.cluster import heart as heart_module
from asyncstore.cluster.engine import NotNow, Place, Queue
from asyncstore.cluster.heart import Done, Fence, Heart
from asyncstore.cluster.link import Link
from asyncstore.ledger.buffered import StoreAway
from tests.cluster.support import LIMIT_SECONDS, enqueued, sql, tree
from tests.support.peers import free_port
from tests.support.transfers import on_one_loop

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

WORKER = "INSERT INTO worker (migration, pid, host, options, started_at) VALUES (1, 1, 'h', '{}', 1) RETURNING id"


class Nobody:
    host, port = "127.0.0.1", free_port()


@pytest.mark.parametrize(
    ("silent_seconds", "may_send", "must_abort"),
    [(0, True, False), (29, True, False), (30, False, False), (44, False, False), (45, False, True), (99, False, True)],
)
def test_a_worker_stops_before_others_take_it_for_dead(silent_seconds: float, may_send: bool, must_abort: bool) -> None:
    now = [1000.0]
    fence = Fence(60.0, clock=lambda: now[0])
    now[0] += 500
    fence.heard(1500.0 - silent_seconds)
    assert (fence.may_send(), fence.must_abort) == (may_send, must_abort)


def test_a_beat_counts_from_when_it_was_sent_and_a_late_answer_to_an_earlier_one_does_not() -> None:
    now = [0.0]
    fence = Fence(60.0, clock=lambda: now[0])
    now[0] = 50.0
    fence.heard(40.0)
    fence.heard(10.0)
    assert fence.silent_seconds == 10.0


@on_one_loop
async def test_one_pressure_that_many_feel_halves_the_target_once(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(monkeypatch, database, tree(tmp_path / "nas", studies=1), Nobody(), cap=8)
    heard: list[int] = []
    async with Link(database, "one") as one, Link(database, "other") as other, anyio.create_task_group() as group:
        for link in (one, other):
            ((number,),) = await sql(database, WORKER)
            heart = Heart(link, 1, number, timeout_seconds=60, away_seconds=60)
            heart.press()

            async def beat(_: asyncpg.Connection, heart: Heart = heart) -> None:
                heard.append(heart.orders.target)

            group.start_soon(heart.run, beat, lambda: Done(1, 2, 3))
        with anyio.fail_after(LIMIT_SECONDS):
            while len(heard) < 6:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert heard[-1] == 4
    assert await sql(database, "SELECT target FROM migration") == [(4,)]
    assert await sql(database, "SELECT DISTINCT associations, answers, sent_bytes FROM worker") == [(1, 2, 3)]


@on_one_loop
async def test_what_holds_for_all_is_heard_before_the_next_beat(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(monkeypatch, database, tree(tmp_path / "nas", studies=1), Nobody(), cap=8)
    monkeypatch.setattr(heart_module, "_MOST_BEAT_SECONDS", LIMIT_SECONDS)
    heard: list[int] = []
    async with Link(database, "one") as one, Link(database, "other") as other, anyio.create_task_group() as group:
        (((number,),), ((another,),)) = await sql(database, WORKER), await sql(database, WORKER)
        hears = Heart(one, 1, number, timeout_seconds=10 * LIMIT_SECONDS, away_seconds=60)
        tells = Heart(other, 1, another, timeout_seconds=10 * LIMIT_SECONDS, away_seconds=60)
        has_beaten, has_heard = anyio.Event(), anyio.Event()

        async def beat(_: asyncpg.Connection) -> None:
            heard.append(hears.orders.target)
            (has_beaten if len(heard) == 1 else has_heard).set()

        async def say_nothing(_: asyncpg.Connection) -> None:
            pass

        group.start_soon(hears.run, beat, lambda: Done(0, 0, 0))
        with anyio.fail_after(LIMIT_SECONDS / 2):
            await has_beaten.wait()
            tells.press()
            group.start_soon(tells.run, say_nothing, lambda: Done(0, 0, 0))
            await has_heard.wait()
        group.cancel_scope.cancel()
    assert heard == [8, 4]


@on_one_loop
async def test_more_is_taken_as_soon_as_more_is_wanted_and_none_left_is_told(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(monkeypatch, database, tree(tmp_path / "nas", studies=1), Nobody())
    monkeypatch.setattr(engine, "_POLL", datetime.timedelta(seconds=LIMIT_SECONDS))
    wanted: dict[str, int] = {}
    taken: list[int] = []
    async with Link(database, "one") as link:
        queue = Queue(link, lambda: wanted)

        async def take(place: Place) -> None:
            taken.append(place.number)

        queue.register(engine.send_name(1), take)
        with anyio.fail_after(LIMIT_SECONDS / 2):
            async with anyio.create_task_group() as group:
                group.start_soon(queue.run, 10 * LIMIT_SECONDS)
                await queue.found_nothing.wait()
                queue.found_nothing.clear()
                assert not taken
                wanted[engine.send_name(1)] = 1
                queue.look()
                await queue.found_nothing.wait()
                assert len(taken) == 1
                queue.stop()


@on_one_loop
async def test_who_was_taken_for_dead_ends_no_place_of_its_successor(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(monkeypatch, database, tree(tmp_path / "nas", studies=1), Nobody())
    name = engine.send_name(1)
    at_work, go_on = anyio.Event(), anyio.Event()
    lost: list[set[int]] = []

    async def late(place: Place) -> None:
        at_work.set()
        await go_on.wait()

    async with Link(database, "late") as link, Link(database, "next") as other:
        queue = Queue(link, lambda: {name: 1})
        queue.register(name, late)
        with anyio.fail_after(LIMIT_SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(queue.run, 60.0)
                await at_work.wait()
                ((place,),) = await sql(database, "SELECT id FROM pgqueuer WHERE status = 'picked'")
                lost.append(await link.run(lambda connection: queue.beat(connection)))
                successor = Queue(other, lambda: {name: 1})
                taken = "UPDATE pgqueuer SET queue_manager_id = $1 WHERE id = $2"
                await sql(database, taken, successor.owner, place)
                lost.append(await link.run(lambda connection: queue.beat(connection)))
                queue.stop()
                go_on.set()
        assert lost == [set(), {place}]
        assert await sql(database, "SELECT id, status::text FROM pgqueuer") == [(place, "picked")]


@on_one_loop
async def test_what_a_worker_leaves_is_there_for_the_next_at_once(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(monkeypatch, database, tree(tmp_path / "nas", studies=1), Nobody())
    taken: list[int] = []
    async with Link(database, "one") as link:
        queue = Queue(link, lambda: {engine.send_name(1): 1})

        async def leave_first(place: Place) -> None:
            taken.append(place.number)
            if len(taken) == 1:
                raise NotNow
            queue.stop()

        queue.register(engine.send_name(1), leave_first)
        with anyio.fail_after(LIMIT_SECONDS):
            await queue.run(60.0)
    assert len(set(taken)) == 1
    assert len(taken) == 2
    assert await sql(database, "SELECT 1 FROM pgqueuer") == []


@on_one_loop
async def test_a_server_that_is_away_is_asked_again_until_it_is_gone_for_good() -> None:
    async with Link(f"postgresql://127.0.0.1:{free_port()}/d", "one", away_seconds=0.6) as link:
        for _ in range(2):
            with anyio.fail_after(LIMIT_SECONDS), pytest.raises(StoreAway):
                await link.run(lambda connection: connection.fetchval("SELECT 1"))
