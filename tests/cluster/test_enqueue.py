"""Enqueueing: every directory in one batch and in the queue once, whoever does it and how often."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncstore.cluster import batches as batching
from asyncstore.cluster import engine, tables, walking
from asyncstore.cluster.batches import Directory
from asyncstore.cluster.enqueue import enqueue
from asyncstore.cluster.tree import Descent, check_sentinel, listing_of, sentinel_of
from asyncstore.cluster.walking import Progress
from asyncstore.errors import LedgerError, SourceError
from asyncstore.ledger.postgresql import schema
from asyncstore.ledger.postgresql.database import connect
from asyncstore.ledger.postgresql.ledger import begin_run, hold_run
from tests.support.ledgers import DESTINATION
from tests.support.transfers import on_one_loop

if TYPE_CHECKING:
    from tests.support.postgresql import Cluster

# As if workers had sent everything.
DONE = "UPDATE asyncstore.batch SET state = 'done'; DELETE FROM asyncstore.pgqueuer"
PROGRAM = """
import asyncio, sys
from asyncstore.cluster.enqueue import enqueue
print(asyncio.run(enqueue(sys.argv[1], "move", sys.argv[2], {"nas1": sys.argv[3]})).batches)
"""


def tree(root: Path, *, patients: int = 3, studies: int = 2, series: int = 2, files: int = 3) -> Path:
    """patient/study/series/file, a file in the root itself, and an empty directory."""
    for patient in range(patients):
        for study in range(studies):
            for number in range(series):
                directory = root / f"p{patient}" / f"s{study}" / f"r{number}"
                directory.mkdir(parents=True)
                for file in range(files):
                    (directory / f"{file}.dcm").write_bytes(b"x" * 10)
    (root / "empty").mkdir()
    (root / "readme").write_bytes(b"x")
    return root


def directories_of(cluster: Cluster, dsn: str) -> list[str]:
    """Each directory that is in a batch, with its number of files."""
    query = "SELECT convert_from(path, 'UTF8') || ' ' || files FROM asyncstore.directory WHERE batch IS NOT NULL"
    return sorted(cluster.sql(query, dsn.rpartition("/")[2]).splitlines())


def queued(cluster: Cluster, dsn: str) -> list[str]:
    """What is in the engine's queue."""
    query = "SELECT entrypoint || ' ' || convert_from(payload, 'UTF8') FROM asyncstore.pgqueuer"
    return sorted(cluster.sql(query, dsn.rpartition("/")[2]).splitlines())


def batches(cluster: Cluster, dsn: str) -> list[str]:
    """The batches that are open, with their root as the engine calls it."""
    query = "SELECT 'send:' || r.migration || ' ' || b.id FROM asyncstore.batch b JOIN asyncstore.root r"
    return sorted(cluster.sql(f"{query} ON r.id = b.root WHERE b.state = 'open'", dsn.rpartition("/")[2]).splitlines())


def expected(root: Path) -> list[str]:
    found = {}
    for directory, _, names in os.walk(root):
        if names:
            relative = os.path.relpath(directory, root)
            found["" if relative == "." else f"{relative}/"] = len(names)
    return sorted(f"{path} {count}" for path, count in found.items())


@on_one_loop
async def test_every_directory_is_in_a_batch_and_every_batch_in_the_queue(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    totals = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert (totals.files, totals.size_bytes, totals.waiting, totals.problems) == (37, 361, 0, [])
    found = await anyio.to_thread.run_sync(directories_of, cluster, dsn)
    assert found == expected(root)
    assert await anyio.to_thread.run_sync(queued, cluster, dsn) == await anyio.to_thread.run_sync(batches, cluster, dsn)
    assert totals.batches == 1


@on_one_loop
async def test_again_it_adds_nothing_and_later_what_is_new(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    first = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    queue = await anyio.to_thread.run_sync(queued, cluster, dsn)
    assert await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)}) == first
    assert await anyio.to_thread.run_sync(queued, cluster, dsn) == queue
    (root / "p9" / "s9" / "r9").mkdir(parents=True)
    (root / "p9" / "s9" / "r9" / "new.dcm").write_bytes(b"x")
    more = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert (more.batches, more.files) == (first.batches + 1, first.files + 1)  # what is in the queue is left alone
    assert await anyio.to_thread.run_sync(directories_of, cluster, dsn) == expected(root)


@on_one_loop
async def test_a_large_tree_is_walked_in_parts_and_a_study_stays_in_one_batch(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "_FILES_OF_A_PART", 5)
    monkeypatch.setattr(walking, "_PARTS", 3)
    monkeypatch.setattr(batching, "MOST_FILES", 4)
    dsn, root = cluster.new_database(), tree(tmp_path / "nas", patients=8)
    progress = Progress()
    totals = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)}, progress=progress)
    assert await anyio.to_thread.run_sync(directories_of, cluster, dsn) == expected(root)
    assert await anyio.to_thread.run_sync(queued, cluster, dsn) == await anyio.to_thread.run_sync(batches, cluster, dsn)
    assert (totals.batches, totals.files, totals.waiting) == (17, 8 * 2 * 2 * 3 + 1, 0)
    assert (progress.files, progress.size_bytes, progress.new_batches) == (97, 961, 17)
    studies = "SELECT count(*) FROM (SELECT batch FROM asyncstore.directory WHERE path <> '' GROUP BY 1"
    cut = f"{studies} HAVING count(DISTINCT substr(path, 1, 6)) > 1) t"
    assert await anyio.to_thread.run_sync(cluster.sql, cut, dsn.rpartition("/")[2]) == "0\n"
    parts = "SELECT count(*) > 3 FROM asyncstore.scan"
    assert await anyio.to_thread.run_sync(cluster.sql, parts, dsn.rpartition("/")[2]) == "t\n"
    monkeypatch.undo()
    assert await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)}) == totals


@on_one_loop
async def test_a_batch_is_filled_until_it_is_full_or_somebody_sends_it(cluster: Cluster) -> None:
    dsn = cluster.new_database()
    connection = await connect(dsn, "test")
    await schema.prepare(connection, dsn)
    await engine.install(connection)
    root = await tables.begin_root(connection, await tables.begin_migration(connection, "m", DESTINATION, dsn), "r", "")
    filling: int | None = None
    new = []
    for number, files in enumerate((1200, 800, 1, 1, 1)):
        if number == 4:
            await connection.execute("UPDATE batch SET epoch = 1 WHERE id = $1", filling)
        async with connection.transaction():
            added = await tables.add_batches(connection, root, [[Directory(b"%d/" % number, files, 1)]], filling)
        filling = added.filling
        new.append(added.batches)
    assert new == [1, 0, 1, 0, 1]
    sizes = await connection.fetch("SELECT files, size_bytes FROM batch ORDER BY id")
    assert [tuple(row) for row in sizes] == [(2000, 2), (2, 2), (1, 1)]
    await connection.close()


@on_one_loop
async def test_a_large_directory_is_told(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LARGE", 2)
    root = tree(tmp_path / "nas", patients=1, studies=1, series=1)
    totals = await enqueue(cluster.new_database(), "move", DESTINATION, {"nas1": str(root)})
    assert totals.large == [("nas1:p0/s0/r0/", 3)]


@on_one_loop
async def test_what_was_lost_of_the_queue_is_queued_again(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    queue = await anyio.to_thread.run_sync(queued, cluster, dsn)
    await anyio.to_thread.run_sync(cluster.sql, "DELETE FROM asyncstore.pgqueuer", dsn.rpartition("/")[2])
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert await anyio.to_thread.run_sync(queued, cluster, dsn) == queue


@on_one_loop
async def test_a_problem_that_is_solved_is_forgotten(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    (root / "p0" / "link").symlink_to(tmp_path)
    totals = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert totals.problems == ["p0/link: a link to a directory: make it a root"]
    (root / "p0" / "link").unlink()
    assert (await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})).problems == []


@on_one_loop
async def test_a_directory_that_changes_while_it_is_sent_is_sent_again_later(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    doing = "UPDATE asyncstore.batch SET state = 'doing', epoch = 1"
    await anyio.to_thread.run_sync(cluster.sql, doing, dsn.rpartition("/")[2])
    (root / "p0" / "s0" / "r0" / "new.dcm").write_bytes(b"x")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert await anyio.to_thread.run_sync(batches, cluster, dsn) == []
    await anyio.to_thread.run_sync(cluster.sql, DONE, dsn.rpartition("/")[2])
    totals = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert totals.files == 38
    assert len(await anyio.to_thread.run_sync(batches, cluster, dsn)) == 1


@on_one_loop
async def test_a_directory_with_a_new_file_is_sent_again_when_its_batch_was_done(
    tmp_path: Path, cluster: Cluster
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    await anyio.to_thread.run_sync(cluster.sql, DONE, dsn.rpartition("/")[2])
    (root / "p0" / "s0" / "r0" / "new.dcm").write_bytes(b"x")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    queue = await anyio.to_thread.run_sync(queued, cluster, dsn)
    assert len(queue) == 1
    assert queue == await anyio.to_thread.run_sync(batches, cluster, dsn)


@on_one_loop
@pytest.mark.parametrize("change", ["size", "time", "name", "swap"])
async def test_a_directory_is_sent_again_when_a_file_is_not_what_it_was(
    tmp_path: Path, cluster: Cluster, change: str
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    file = root / "p0" / "s0" / "r0" / "1.dcm"
    before = file.stat()
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    await anyio.to_thread.run_sync(cluster.sql, DONE, dsn.rpartition("/")[2])
    totals = await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert await anyio.to_thread.run_sync(queued, cluster, dsn) == []
    if change == "name":
        file.rename(file.with_name("9.dcm"))
    elif change == "swap":
        file.rename(file.with_name("9.dcm"))
        file.with_name("2.dcm").rename(file)
        file.with_name("9.dcm").rename(file.with_name("2.dcm"))
    else:
        file.write_bytes(b"y" * (11 if change == "size" else 10))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "time")))
    assert (await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})).files == totals.files
    queue = await anyio.to_thread.run_sync(queued, cluster, dsn)
    assert len(queue) == 1
    assert queue == await anyio.to_thread.run_sync(batches, cluster, dsn)


@on_one_loop
async def test_a_migration_of_an_earlier_version_is_completed_and_everything_in_it_looked_at_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    earlier = "ALTER TABLE asyncstore.directory DROP COLUMN stamp; UPDATE asyncstore.schema_version SET version = 3"
    await anyio.to_thread.run_sync(cluster.sql, f"{earlier}; {DONE}", dsn.rpartition("/")[2])
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert len(await anyio.to_thread.run_sync(queued, cluster, dsn)) == 1
    unknown = "SELECT count(*) FROM asyncstore.directory WHERE stamp IS NULL"
    assert await anyio.to_thread.run_sync(cluster.sql, unknown, dsn.rpartition("/")[2]) == "0\n"


@on_one_loop
async def test_several_operators_at_once_make_the_same_as_one(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas", patients=4)
    words = [sys.executable, "-c", PROGRAM, dsn, DESTINATION, str(root)]
    place = Path(__file__).parents[2]

    def run_both() -> list[int]:
        processes = [subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL) for _ in range(2)]
        return [process.wait() for process in processes]

    assert await anyio.to_thread.run_sync(run_both) == [0, 0]
    assert await anyio.to_thread.run_sync(directories_of, cluster, dsn) == expected(root)
    queue = await anyio.to_thread.run_sync(queued, cluster, dsn)
    assert queue == await anyio.to_thread.run_sync(batches, cluster, dsn)


@on_one_loop
async def test_batches_and_their_places_in_the_queue_are_written_together_or_not_at_all(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")

    async def fail(*_: object) -> None:
        raise LedgerError("the engine fails")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "queue_batches", fail)
        with pytest.raises(LedgerError, match="the engine fails"):
            await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert await anyio.to_thread.run_sync(batches, cluster, dsn) == []
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert await anyio.to_thread.run_sync(directories_of, cluster, dsn) == expected(root)


@on_one_loop
async def test_the_heartbeat_stays_as_it_is_while_a_worker_runs(tmp_path: Path, cluster: Cluster) -> None:
    dsn, mounts = cluster.new_database(), {"nas1": str(tree(tmp_path / "nas"))}
    for asked, found in ((None, 60), (5, 5), (None, 5)):
        await enqueue(dsn, "move", DESTINATION, mounts, timeout_seconds=asked)
        said = await anyio.to_thread.run_sync(
            cluster.sql, "SELECT timeout_seconds FROM asyncstore.migration", dsn.rpartition("/")[2]
        )
        assert int(said) == found
    worker = await connect(dsn, "worker")
    try:
        await hold_run(worker, await begin_run(worker, 1, "{}", 0))
        await enqueue(dsn, "move", DESTINATION, mounts, timeout_seconds=5)
        with pytest.raises(LedgerError, match="cannot be changed while its workers run"):
            await enqueue(dsn, "move", DESTINATION, mounts, timeout_seconds=60)
    finally:
        await worker.close()
    await enqueue(dsn, "move", DESTINATION, mounts, timeout_seconds=60)


@on_one_loop
async def test_another_destination_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    with pytest.raises(LedgerError, match=f"belongs to {DESTINATION}, not to B@b:104"):
        await enqueue(dsn, "move", "B@b:104", {"nas1": str(root)})


@on_one_loop
async def test_a_root_that_is_not_mounted_is_an_error(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    (tmp_path / "unmounted").mkdir()
    with pytest.raises(SourceError, match="is it mounted"):
        await enqueue(dsn, "move", DESTINATION, {"nas1": str(tmp_path / "unmounted")})
    (tmp_path / "unmounted" / "other").write_bytes(b"other")
    with pytest.raises(SourceError, match="is not the root that was enqueued"):
        await enqueue(dsn, "move", DESTINATION, {"nas1": str(tmp_path / "unmounted")})


@on_one_loop
async def test_a_database_that_stays_away_ends_the_walk_and_the_next_one_goes_on(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    add = tables.add_batches

    async def add_without_a_server(*arguments: Any) -> tables.Added:
        await anyio.to_thread.run_sync(cluster.stop, "immediate")
        return await add(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "add_batches", add_without_a_server)
        with pytest.raises(LedgerError, match="cannot be used"):
            await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)}, away_seconds=0.5)
    await anyio.to_thread.run_sync(cluster.start)
    assert (await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})).files == 37


@on_one_loop
async def test_a_root_that_goes_away_during_the_walk_is_an_error(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    open_scans = tables.open_scans

    async def open_and_unmount(*arguments: Any) -> None:
        await open_scans(*arguments)
        await anyio.to_thread.run_sync(root.rename, tmp_path / "elsewhere")
        await anyio.to_thread.run_sync(root.mkdir)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "open_scans", open_and_unmount)
        with pytest.raises(SourceError, match="is not the root that was enqueued"):
            await enqueue(dsn, "move", DESTINATION, {"nas1": str(root)})
    assert await anyio.to_thread.run_sync(directories_of, cluster, dsn) == []


def test_a_root_is_known_as_long_as_one_of_its_files_is_there(tmp_path: Path) -> None:
    root = tree(tmp_path / "nas")
    sentinel = sentinel_of(str(root))
    moved = root.rename(tmp_path / "elsewhere")
    check_sentinel(str(moved), sentinel)
    with pytest.raises(SourceError):
        check_sentinel(str(root), sentinel)


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "nas", patients=1, studies=1, series=1)
    (root / "link").symlink_to(tmp_path)
    (root / "file").symlink_to(root / "readme")
    (root / "dead").symlink_to(root / "nowhere")
    listing = listing_of(str(root), b"")
    assert (listing.directory.files, listing.subdirectories) == (2, [b"empty/", b"p0/"])
    assert listing.problems == ["link: a link to a directory: make it a root"]
    assert listing_of(str(root), b"nowhere/").problems == ["nowhere/: No such file or directory"]
    paths = [each.directory.path for each in Descent(str(root), [b""])]
    assert paths == [b"", b"empty/", b"p0/", b"p0/s0/", b"p0/s0/r0/"]


def test_the_stamp_of_a_directory_is_the_one_that_earlier_versions_recorded(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, size in ((b"1.dcm", 10), (b"\xff\xc3\xa4.dcm", 0)):
        file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        file.write_bytes(b"x" * size)
        os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    assert listing_of(str(tmp_path), b"").directory == (b"", 2, 10, 6230926852755660629)


def test_names_that_are_not_unicode_are_listed_as_they_are(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "s").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path)
    assert [each.directory.path for each in Descent(str(tmp_path), [b""])] == [b"", b"\xff/", b"\xff/s/"]


def test_the_benchmark_of_large_migrations_runs_and_leaves_the_database_empty(cluster: Cluster) -> None:
    dsn = cluster.new_database()
    command = [sys.executable, "benchmarks/migration.py", dsn, "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "times the walk" in done.stdout
    assert "report on 20,000 rows" in done.stdout
    assert cluster.sql("SELECT to_regnamespace('asyncstore') IS NULL", dsn.rpartition("/")[2]).strip() == "t"
