"""Workers: every instance is stored, with one row, whoever sends it, and whatever becomes of whom."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncstore.cluster import control
from asyncstore.cluster.claims import MOST_FRUITLESS
from asyncstore.errors import AssociateError, LedgerError, SourceError
from asyncstore.status import SUCCESS, Status
from tests.cluster.support import (
    LIMIT_SECONDS,
    HoldingSCP,
    done_by,
    ended,
    enqueued,
    rows_and_states,
    sql,
    tree,
    until,
    until_rows,
    worker_of,
    working,
)
from tests.support import command
from tests.support.peers import free_port
from tests.support.transfers import KeepingSCP, on_one_loop, uid_of, write_files

if TYPE_CHECKING:
    import subprocess

    from asyncstore.services.storage_scp import Arrival
    from tests.support.postgresql import Cluster

pytestmark = [on_one_loop, pytest.mark.timeout(240)]
ALL = 6 * 20


def start(dsn: str, root: Path, *more: str | int) -> subprocess.Popen[bytes]:
    return command.start("worker", dsn, "--root", f"nas1={root}", *more)


async def test_several_workers_store_everything_once(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas")
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        totals = await done_by(*(worker_of(database, root, most=2) for _ in range(3)))
        assert scp.uids == {uid_of(number): 1 for number in range(1, ALL + 1)}
    assert {each[:3] for each in totals} == {(6, ALL, 0)}
    assert await rows_and_states(database) == (ALL, {"stored": ALL}, {"done": 6})
    assert await sql(database, "SELECT 1 FROM in_flight") == await sql(database, "SELECT 1 FROM pgqueuer") == []
    assert {row[0] for row in await sql(database, "SELECT epoch FROM batch")} == {1}


async def test_what_a_peer_refuses_is_known_to_the_next_batches_until_one_is_sent_again(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=4)
    status = Status(0x0122)
    async with KeepingSCP(lambda arrival: status) as scp:
        await enqueued(monkeypatch, database, root, scp)
        worker = worker_of(database, root, most=1, until_done=False)
        async with working(worker):
            await until_rows(database, "SELECT 1 FROM batch HAVING bool_and(state = 'done')")
            assert len(scp.uids) <= 20, "of the first batch only"
            assert await rows_and_states(database) == (80, {"failed": 80}, {"done": 4})
            status = SUCCESS
            await anyio.to_thread.run_sync(control.changed, database, "move", control.retry)
            await until_rows(database, "SELECT 1 FROM batch HAVING bool_and(state = 'done' AND epoch = 2)")
            worker.drain()
        assert len(scp.uids) == 80
    assert await rows_and_states(database) == (80, {"stored": 80}, {"done": 4})


async def test_a_root_lies_elsewhere_on_each_host(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=1)
    (tmp_path / "other").symlink_to(root)
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        await done_by(worker_of(database, tmp_path / "other"))
        assert len(scp.arrivals) == 20
        (root / "p0" / "s" / "000001.dcm").touch()  # is not what was stored
        await sql(database, "UPDATE batch SET state = 'open'")
        await done_by(worker_of(database, root))
        assert scp.uids[uid_of(1)] == 2
        assert len(scp.arrivals) == 21
    paths = {bytes(row[0]).decode() for row in await sql(database, "SELECT path FROM instances")}
    assert paths == {f"nas1:p0/s/{number:06}.dcm" for number in range(1, 21)}


async def test_all_together_have_no_more_associations_than_the_cap(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas")
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp, cap=2, timeout_seconds=10)
        async with working(*(worker_of(database, root) for _ in range(3))):
            await until(lambda: scp.associations == 2)
            # Each has looked for more, twice, since both associations are there.
            ((now,),) = await sql(database, "SELECT max(seen_at) FROM worker")
            await until_rows(database, "SELECT 1 FROM worker HAVING min(seen_at) > $1 AND count(*) = 3", now + 3000)
            assert scp.associations == 2
            assert (await sql(database, "SELECT count(*) FROM batch WHERE state = 'doing'"))[0] == (2,)
            scp.released.set()
    assert await rows_and_states(database) == (ALL, {"stored": ALL}, {"done": 6})


async def test_one_uid_in_two_directories_is_not_sent_from_both_at_once(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=1)
    write_files(root / "p1" / "s", 20)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        async with working(worker_of(database, root), worker_of(database, root)):
            # Both batches have begun, and each UID is entered for one of them; perhaps some for each.
            await until_rows(database, "SELECT 1 FROM in_flight HAVING count(*) = 20")
            await until_rows(database, "SELECT 1 FROM batch HAVING min(epoch) >= 1")
            scp.released.set()
        assert scp.uids == {uid_of(number): 1 for number in range(1, 21)}
    assert await rows_and_states(database) == (40, {"stored": 20, "duplicate": 20}, {"done": 2})


async def test_a_pause_ends_what_is_sent_and_a_resume_goes_on(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas")
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp, cap=2)
        async with working(worker_of(database, root)):
            await until(lambda: scp.associations == 2)
            await sql(database, "UPDATE migration SET is_paused = true")
            ((now,),) = await sql(database, "SELECT max(seen_at) FROM worker")
            await until_rows(database, "SELECT 1 FROM worker WHERE seen_at > $1", now + 2000)
            scp.released.set()
            await until_rows(database, "SELECT 1 FROM batch HAVING bool_and(state = 'open')")
            assert len(scp.arrivals) < ALL
            await sql(database, "UPDATE migration SET is_paused = false")
        assert scp.uids == {uid_of(number): 1 for number in range(1, ALL + 1)}
    assert await rows_and_states(database) == (ALL, {"stored": ALL}, {"done": 6})


async def test_a_peer_out_of_resources_halves_the_target_of_all(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=2)
    refused: list[int] = []

    def refuse(arrival: Arrival) -> Any:
        if len(refused) < 8:
            refused.append(1)
            return 0xA700
        return SUCCESS

    async with KeepingSCP(refuse) as scp:
        await enqueued(monkeypatch, database, root, scp, cap=8)
        await done_by(worker_of(database, root), worker_of(database, root))
    assert await rows_and_states(database) == (40, {"stored": 40}, {"done": 2})
    ((target, pressed_at),) = await sql(database, "SELECT target, pressed_at FROM migration")
    assert pressed_at is not None
    assert target < 8


async def test_a_killed_workers_batch_runs_again_after_its_timeout(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=1)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp, timeout_seconds=5)
        with start(database, root) as process:
            await until(lambda: len(scp.arrivals) > 0)
            process.kill()
            await ended(process)
        ((seen_at, claimed_at),) = await sql(
            database, "SELECT w.seen_at, b.claimed_at FROM batch b JOIN worker w ON w.id = b.worker"
        )
        scp.released.set()
        await done_by(worker_of(database, root))
        assert scp.uids.keys() == {uid_of(number) for number in range(1, 21)}
    ((epoch, again_at),) = await sql(database, "SELECT epoch, claimed_at FROM batch")
    assert epoch == 2
    assert again_at - max(seen_at, claimed_at) >= 4000  # not before others may be sure that it is dead
    assert await rows_and_states(database) == (20, {"stored": 20}, {"done": 1})


async def test_an_interrupt_finishes_what_is_in_flight_and_gives_the_rest_back(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=1, files=100)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        with start(database, root, "-ll", "warning") as process:
            await until(lambda: len(scp.arrivals) > 0)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            await anyio.to_thread.run_sync(process.stderr.readline)
            scp.released.set()
            code, _ = await ended(process)
        assert code == 130
        rows, states, batches = await rows_and_states(database)
        assert 0 < rows < 100
        assert (states, batches) == ({"stored": rows}, {"open": 1})
        assert sum(scp.uids.values()) == rows
        await done_by(worker_of(database, root))  # at once: nobody waits for a timeout
        assert scp.uids == {uid_of(number): 1 for number in range(1, 101)}


async def test_a_second_interrupt_aborts(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "nas", studies=1, files=100)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        with start(database, root, "-ll", "warning") as process:
            await until(lambda: len(scp.arrivals) > 0)
            assert process.stderr is not None
            for _ in range(2):
                process.send_signal(signal.SIGTERM)
                await anyio.to_thread.run_sync(process.stderr.readline)
            code, _ = await ended(process)
        assert code == 143
        assert await rows_and_states(database) == (0, {}, {"open": 1})
        scp.released.set()
        await done_by(worker_of(database, root))
    assert await rows_and_states(database) == (100, {"stored": 100}, {"done": 1})


async def test_a_batch_that_ends_its_workers_is_set_aside(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=2)
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        await sql(database, "UPDATE batch SET state = 'doing', fruitless = $1 WHERE id = 1", MOST_FRUITLESS)
        code, log = await ended(start(database, root, "--until-done"))
    assert code == 3
    assert "E: Batch 1 is set aside: 5 workers in a row ended over it, and nothing of it was stored\n" in log
    assert log.endswith("E: 1 batch of the migration set aside\n")
    assert await rows_and_states(database) == (20, {"stored": 20}, {"done": 1, "set-aside": 1})


async def test_several_processes_end_as_one(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "nas")
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        assert await ended(start(database, root, "--processes", 2, "--until-done")) == (0, "")
        assert scp.uids == {uid_of(number): 1 for number in range(1, ALL + 1)}
        assert (await sql(database, "SELECT count(*) FROM worker"))[0] == (2,)
        with start(database, root, "--processes", 2) as idle:
            await until_rows(database, "SELECT 1 FROM worker WHERE id > 2 AND seen_at > 0 HAVING count(*) = 2")
            idle.send_signal(signal.SIGTERM)
            assert (await ended(idle))[0] == 143


async def test_a_file_that_was_replaced_is_sent_again_and_no_other(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=2)
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        await done_by(worker_of(database, root))
        replaced = sorted((root / "p1" / "s").iterdir())[3]
        (stored,) = write_files(tmp_path / "new", 1, first=500)
        replaced.write_bytes(Path(stored).read_bytes())
        await enqueued(monkeypatch, database, root, scp)
        await done_by(worker_of(database, root))
        assert scp.uids == {uid_of(number): 1 for number in (*range(1, 41), 500)}


async def test_workers_help_to_walk(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "nas", studies=1)
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        write_files(root / "p1" / "s", 20, first=21)
        await sql(database, "UPDATE scan SET is_open = true")
        await done_by(worker_of(database, root))
        assert len(scp.uids) == 40


async def test_a_root_that_is_not_mounted_ends_the_worker(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=2)
    (tmp_path / "empty").mkdir()
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp, cap=1)
        with pytest.raises(SourceError, match="is not the root that was enqueued"):
            await worker_of(database, tmp_path / "empty").run()
        code, log = await ended(start(database, tmp_path / "empty"))
        assert code == 2
        assert log.count("\n") == 1
        worker = worker_of(database, root)
        async with working(worker):
            await until(lambda: len(scp.arrivals) > 0)
            root.rename(tmp_path / "gone")
            scp.released.set()
        assert isinstance(worker.failure, SourceError)
    ((states,),) = await sql(database, "SELECT array_agg(DISTINCT state) FROM batch")
    assert "open" in states  # it was claimed, and given back
    assert await sql(database, "SELECT 1 FROM account WHERE state = 'source-problem' AND instances > 20") == []


async def test_a_peer_that_is_not_there_ends_the_worker(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=1)

    class Nobody:
        host, port = "127.0.0.1", free_port()

    await enqueued(monkeypatch, database, root, Nobody())
    worker = worker_of(database, root)
    await done_by(worker)
    assert isinstance(worker.failure, AssociateError)
    assert await rows_and_states(database) == (0, {}, {"open": 1})


@pytest.mark.parametrize(
    ("roots", "what"),
    [([], "Missing option '--root'"), (["nas1", "nas2"], "has no root 'nas2'"), (["nas2"], "has the root 'nas1'")],
)
async def test_roots_that_do_not_fit_are_one_line(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, roots: list[str], what: str
) -> None:
    root = tree(tmp_path / "nas", studies=1)
    (tmp_path / "nas2").mkdir()
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
    places = {"nas1": root, "nas2": tmp_path / "nas2"}
    given = [word for name in roots for word in ("--root", f"{name}={places[name]}")]
    code, log = await ended(command.start("worker", database, *given))
    assert (code, what in log) == (2, True), log


async def test_a_worker_without_a_migration_is_one_line(tmp_path: Path, database: str) -> None:
    code, log = await ended(start(database, tmp_path))
    assert (code, log.count("\n")) == (6, 1), log
    assert "enqueue one" in log
    code, log = await ended(start("postgresql://127.0.0.1:1/d", tmp_path))
    assert (code, log.count("\n")) == (6, 1), log


async def test_an_interrupt_ends_a_worker_whose_database_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(LIMIT_SECONDS):
        process = start(f"postgresql://127.0.0.1:{listener.getsockname()[1]}/d", tmp_path)
        connection, _ = await anyio.to_thread.run_sync(listener.accept)
        with connection:
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
    assert (code, log) == (143, "")


# -- what the database does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_database_costs_nothing(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas", studies=2, files=100)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, dsn, root, scp)
        worker = worker_of(dsn, root)
        async with working(worker):
            await until(lambda: scp.associations == 2 and len(scp.arrivals) > 0)
            await anyio.to_thread.run_sync(cluster.restart, mode)
            scp.released.set()
        assert worker.failure is None
        assert scp.uids == {uid_of(number): 1 for number in range(1, 201)}
    assert await rows_and_states(dsn) == (200, {"stored": 200}, {"done": 2})
    assert {row[0] for row in await sql(dsn, "SELECT epoch FROM batch")} == {1}


async def test_a_database_that_is_out_for_longer_than_the_timeout_ends_what_is_in_flight(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas", studies=1, files=100)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, dsn, root, scp, timeout_seconds=4)
        worker = worker_of(dsn, root)
        async with working(worker):
            await until(lambda: len(scp.arrivals) > 0)
            await anyio.to_thread.run_sync(cluster.stop)
            await until(lambda: worker.is_fenced)
            arrived = len(scp.arrivals)
            scp.released.set()
            await anyio.to_thread.run_sync(cluster.start)
        assert worker.failure is None
        assert arrived < 100
        assert scp.uids.keys() == {uid_of(number) for number in range(1, 101)}
    assert await rows_and_states(dsn) == (100, {"stored": 100}, {"done": 1})


async def test_a_database_that_only_reads_stops_the_sending_until_it_writes_again(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas", studies=1, files=100)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, dsn, root, scp, timeout_seconds=4)
        worker = worker_of(dsn, root)
        async with working(worker):
            await until(lambda: len(scp.arrivals) > 0)
            for value in ("on", "off"):
                await anyio.to_thread.run_sync(cluster.configure, "default_transaction_read_only", value)
                scp.released.set()
                if value == "on":
                    await until(lambda: worker.is_fenced)
                    assert (await rows_and_states(dsn))[0] == 0
        assert worker.failure is None
    assert await rows_and_states(dsn) == (100, {"stored": 100}, {"done": 1})


async def test_a_database_that_is_out_for_good_ends_the_worker(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas", studies=1, files=100)
    async with HoldingSCP() as scp:
        await enqueued(monkeypatch, dsn, root, scp, timeout_seconds=4)
        worker = worker_of(dsn, root, away_seconds=5.0)
        async with working(worker):
            await until(lambda: len(scp.arrivals) > 0)
            await anyio.to_thread.run_sync(cluster.stop)
        assert isinstance(worker.failure, LedgerError)
        assert len(scp.arrivals) < 100
        scp.released.set()
        await anyio.to_thread.run_sync(cluster.start)
        await done_by(worker_of(dsn, root))
    assert await rows_and_states(dsn) == (100, {"stored": 100}, {"done": 1})


async def test_a_queue_that_another_version_of_the_engine_made_is_told(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "nas", studies=1)
    async with KeepingSCP() as scp:
        await enqueued(monkeypatch, database, root, scp)
        await sql(database, "ALTER TABLE pgqueuer RENAME slot TO place")
        await done_by(worker := worker_of(database, root))
        assert not scp.arrivals
    assert isinstance(worker.failure, LedgerError)
    assert "slot" in str(worker.failure)
