"""Measures a large migration of many hosts: `enqueue` of a tree that is all done, and `report`.

    python benchmarks/migration.py postgresql://mover@db.example/bench                  enqueue of 200,000 files
    python benchmarks/migration.py DSN --files 1000000 --directories 20000
    python benchmarks/migration.py DSN --rows 10000000                                  report
    python benchmarks/migration.py DSN --smoke

The database must be empty, and is empty afterwards. Nothing is sent: the files are empty and stand in a temporary
directory (TMPDIR), their batches are set to done, and the rows are made by the server.

`enqueue` is compared with a walk: a bare Python that lists the same directories and asks for the size and times of each
file. What the command takes for a tree of one file is its start-up, which counts much for few files and nothing for
many. So the cost of a file is given apart from it. The processor time is that of the command, without the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

if not __package__:
    # Run as a script: this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from asyncstore.ledger.opening import is_database
from asyncstore.ledger.postgresql.database import SCHEMA, connect, driver_errors, ledger_error
from benchmarks.measure import run_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Run

_NAME: Final = "bench"
_IN_A_DIRECTORY: Final = 1000  # subdirectories
_WALK: Final = """
import os, sys
left = [os.fsencode(sys.argv[1])]
while left:
    with os.scandir(left.pop()) as entries:
        for entry in entries:
            if entry.is_file():
                entry.stat()
            elif entry.is_dir(follow_symlinks=False):
                left.append(entry.path)
"""
_ALL_DONE: Final = ("UPDATE batch SET state = 'done'", "DELETE FROM pgqueuer", "VACUUM ANALYZE")
# 2,000 files make a batch, 50 a directory and a series; 20 workers run, 20 have ended; 2 % is still to be sent.
_NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_ROWS: Final = (
    "DELETE FROM directory",
    "DELETE FROM batch",
    f"""
INSERT INTO worker (migration, pid, host, options, started_at, finished_at, seen_at, answers, sent_bytes)
SELECT m.id, 1000 + n, 'host' || n % 20, '{{{{}}}}', 1790000000000, CASE WHEN n > 20 THEN 1790000100000 END, {_NOW_MS},
    500000, 500000::bigint * 526336
FROM migration m, generate_series(1, 40) n""",
    """
INSERT INTO account (sop_class, transfer_syntax, sent_transfer_syntax, state, standing, losses, retryable, attempts,
    status, reason, comment, offending_elements, association_number, context_id, changes, run, instances, bytes_sent)
SELECT '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', '', CASE WHEN n = 50 THEN 'failed' ELSE 'stored' END,
    CASE WHEN n = 50 THEN 0 ELSE 1 END, 0, false, 1, CASE WHEN n = 50 THEN 49152 ELSE 0 END,
    CASE WHEN n = 50 THEN 'refused' ELSE '' END, '', '', n, 1, '', w.id, {rows} / 2000, {rows} / 2000 * 526336::bigint
FROM worker w, generate_series(1, 50) n""",
    f"""
INSERT INTO batch (root, epoch, worker, state, files, size_bytes, stored, failed, claimed_at, finished_at)
SELECT r.id, 1, (SELECT min(id) FROM worker), CASE WHEN n <= {{batches}} * 0.98 THEN 'done' ELSE 'open' END,
    2000, 2000::bigint * 526336, CASE WHEN n <= {{batches}} * 0.98 THEN 1990 ELSE 0 END,
    CASE WHEN n <= {{batches}} * 0.98 THEN 10 ELSE 0 END, {_NOW_MS} - 600000,
    CASE WHEN n <= {{batches}} * 0.98 THEN {_NOW_MS} - ({{batches}} - n) * 1000 END
FROM root r, generate_series(1, {{batches}}) n""",
    """
INSERT INTO directory (root, path, batch, files)
SELECT r.id, convert_to(format('p%s/s%s/r%s/', n / 20, n / 5, n), 'UTF8'), b.first + n / 40, 50
FROM root r, (SELECT min(id) AS first FROM batch) b, generate_series(0, {rows} / 50 - 1) n""",
    """
INSERT INTO series (study_instance_uid, series_instance_uid)
SELECT '1.2.840.113619.2.55.' || n / 5, '1.2.840.113619.2.55.' || n / 5 || '.' || n
FROM generate_series(0, {rows} / 50 - 1) n""",
    """
INSERT INTO instance (size_bytes, mtime_ns, recorded_at, bytes_sent, directory, account, series, earlier_attempts,
    sop_instance_uid, name)
SELECT 526336, 1000000000000000000, 1790000000000 + n / 10, 525336, d.first + n / 50,
    a.first + n / ({rows} / 2000), s.first + n / 50, 0, decode(md5(n::text) || md5('x' || n), 'hex'),
    convert_to(format('IM-%s-%s', n % 50, lpad(n::text, 12, '0')), 'UTF8')
FROM (SELECT min(id) AS first FROM directory) d, (SELECT min(id) AS first FROM account) a,
    (SELECT min(id) AS first FROM series) s, generate_series(0, {rows} - 1) n""",
    "VACUUM ANALYZE",
)


def make_tree(root: Path, files: int, directories: int) -> None:
    """Make empty files, the same number in each directory."""
    for number in range(directories):
        directory = root / f"p{number // _IN_A_DIRECTORY:04}" / f"s{number:08}"
        directory.mkdir(parents=True)
        for file in range(number, files, directories):
            os.close(os.open(directory / f"IM{file:010}.dcm", os.O_CREAT | os.O_WRONLY, 0o644))


def _asyncstore(command: str, *arguments: str) -> Run:
    run = run_process([sys.executable, "-m", "asyncstore", command, *arguments])
    if run.exit_code != 0:
        raise RuntimeError(f"asyncstore {command} ended with {run.exit_code}: {run.output}")
    return run


def _enqueue(dsn: str, root: Path) -> Run:
    return _asyncstore("enqueue", dsn, _NAME, "localhost", "104", "--root", f"nas1={root}", "--no-progress")


def _execute(dsn: str, statements: Sequence[str]) -> list[object]:
    """What each of them returns first."""

    async def run() -> list[object]:
        connection = await connect(dsn, "benchmark")
        try:
            return [await connection.fetchval(each, timeout=None) for each in statements]
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except driver_errors() as error:
        raise ledger_error(error, "of the benchmark", "used") from error


def measure_enqueue(dsn: str, files: int, directories: int, rounds: int) -> None:
    """Print what the command takes where all is done, beside the walk alone."""
    with tempfile.TemporaryDirectory(prefix="asyncstore-benchmark-", ignore_cleanup_errors=True) as temporary:
        runs: dict[tuple[str, int], list[Run]] = {}
        for count, in_directories in ((1, 1), (files, directories)):
            root = Path(temporary) / str(count)
            make_tree(root, count, in_directories)
            _enqueue(dsn, root)
            _execute(dsn, _ALL_DONE)
            walks, enqueues = runs["walk", count], runs["enqueue", count] = [], []
            for _ in range(rounds):
                walks.append(run_process([sys.executable, "-I", "-S", "-c", _WALK, str(root)]))
                enqueues.append(_enqueue(dsn, root))
            _empty(dsn)
    print(f"{files:,} files in {directories:,} directories")
    for (what, count), measured in runs.items():
        print(f"  {what:8} {count:>12,} files: {_figures(measured)}")
    alone, command, start = runs["walk", files], runs["enqueue", files], _cpu(runs["enqueue", 1])
    a_file, a_walked_file = (_cpu(command) - start) / files, (_cpu(alone) - _cpu(runs["walk", 1])) / files
    print(f"  enqueue: {start:.2f} s of processor time to start, then {a_file * 1e6:.2f} us a file")
    print(f"  {a_file / a_walked_file:.2f} times the walk; {_cpu(command) / _cpu(alone):.2f} times with the start")


def measure_report(dsn: str, rows: int, rounds: int) -> None:
    """Print what `report` takes over so many rows."""
    with tempfile.TemporaryDirectory(prefix="asyncstore-benchmark-") as temporary:
        make_tree(Path(temporary), 1, 1)
        _enqueue(dsn, Path(temporary))
    _execute(dsn, [each.format(rows=rows, batches=rows // 2000) for each in _ROWS])
    print(f"report on {rows:,} rows: {_figures([_asyncstore('report', dsn) for _ in range(rounds)])}")


def _cpu(runs: Sequence[Run]) -> float:
    return median(run.cpu_seconds for run in runs)


def _figures(runs: Sequence[Run]) -> str:
    seconds = sorted(run.seconds for run in runs)
    return f"processor {_cpu(runs):.2f} s, wall {median(seconds):.2f} s (median of {len(runs)}; least {seconds[0]:.2f})"


def _is_empty(dsn: str) -> bool:
    return _execute(dsn, [f"SELECT to_regnamespace('{SCHEMA}') IS NULL"]) == [True]


def _empty(dsn: str) -> None:
    _execute(dsn, [f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dsn", help="the URI of an empty database")
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--directories", type=int, default=100)
    parser.add_argument("--rows", type=int, help="measure report over so many instances, and not enqueue")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="both, with few files and rows: only that it works")
    options = parser.parse_args()
    if not is_database(options.dsn) or not _is_empty(options.dsn):
        print(f"{options.dsn} is not the URI of an empty database")
        return 2
    try:
        if options.smoke:
            measure_enqueue(options.dsn, 400, 4, 1)
            measure_report(options.dsn, 20_000, 1)
        elif options.rows is None:
            measure_enqueue(options.dsn, options.files, options.directories, options.rounds)
        else:
            measure_report(options.dsn, options.rows, options.rounds)
    finally:
        _empty(options.dsn)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
