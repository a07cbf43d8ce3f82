"""How far a migration of many hosts is: its batches, its workers, and what was given up.

All of it is counted in batches and accounts, so that it takes no longer with a hundred million instances.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.ledger.postgresql.ledger import NOW_MS
from asyncstore.ledger.postgresql.reader import PostgresReader
from asyncstore.ledger.protocol import Standing
from asyncstore.ledger.reading import reason_count, time_of

if TYPE_CHECKING:
    import datetime

    from asyncstore.ledger.rows import ReasonCount

_RATE_MS: Final = 600_000
_FEW: Final = 20
# By whether its lock in the database is held, and whether it was heard of. One that connects anew holds none.
_STATES: Final = {
    (True, True): "running",
    (False, True): "running",
    (True, False): "silent",
    (False, False): "lost",
}
_MIGRATION: Final = f"""
SELECT name, created_by, is_paused, cap, least(target, cap), timeout_seconds, ({NOW_MS}) FROM migration WHERE id = ?"""
_BATCHES: Final = """
SELECT b.state, count(*), sum(b.files), sum(b.size_bytes), sum(b.stored), sum(b.failed)
FROM batch b JOIN root r ON r.id = b.root WHERE r.migration = ? GROUP BY b.state"""
# Since when at the most: a pause counts, and a night in which nothing ran does not.
_RATE: Final = """
SELECT coalesce(sum(b.files) FILTER (WHERE b.finished_at > ?), 0),
    coalesce(sum(b.size_bytes) FILTER (WHERE b.finished_at > ?), 0), coalesce(min(b.claimed_at), 0)
FROM batch b JOIN root r ON r.id = b.root
WHERE r.migration = ? AND ((b.state = 'done' AND b.finished_at > ?) OR b.state = 'doing')"""
_WORKERS: Final = """
SELECT id, host, pid, started_at, finished_at, seen_at, associations, answers, sent_bytes, stopped
FROM worker WHERE migration = ? ORDER BY host, id"""
_FIRST_PATH: Final = "(SELECT d.path FROM directory d WHERE d.batch = b.id ORDER BY d.path LIMIT 1)"
_DIRECTORIES: Final = "(SELECT count(*) FROM directory d WHERE d.batch = b.id)"
_GIVEN_UP: Final = f"""
SELECT b.id, r.name, {_FIRST_PATH}, {_DIRECTORIES}, b.files, b.failed, b.reason
FROM batch b JOIN root r ON r.id = b.root WHERE r.migration = ? AND """
_SET_ASIDE_BATCHES: Final = f"{_GIVEN_UP} b.state = 'set-aside' ORDER BY b.id LIMIT ?"
_FAILING_BATCHES: Final = f"{_GIVEN_UP} b.failed > 0 ORDER BY b.failed DESC, b.id LIMIT ?"
_WALK: Final = """
SELECT count(*) FILTER (WHERE s.is_open), count(*) FILTER (WHERE s.problems <> '')
FROM scan s JOIN root r ON r.id = s.root WHERE r.migration = ?"""


class BatchCount(NamedTuple):
    """The batches in a state, with their files, bytes, and instances that are known to be stored or to have failed."""

    state: str
    batches: int
    files: int
    size_bytes: int
    stored: int
    failed: int


class WorkerRecord(NamedTuple):
    """A process that works on a migration. `state` is running, silent, ended or lost.

    A silent one still has a connection, but was not heard of for so long that the others take it for dead.
    `associations` are open now, `answers` and `sent_bytes` count since it began.
    """

    host: str
    pid: int
    state: str
    started_at: datetime.datetime
    seen_at: datetime.datetime | None
    silent_seconds: float | None
    associations: int
    answers: int
    sent_bytes: int
    stopped: str


class GivenUp(NamedTuple):
    """A batch that was set aside, or in which instances have failed, by its first directory."""

    number: int
    path: str
    directories: int
    files: int
    failed: int
    reason: str


class Overview(NamedTuple):
    """How far a migration is.

    `left_files` are in batches that are not done; `seconds_left` is None if nothing was done in the last ten minutes.
    `open_parts` of its roots are still to be walked.
    """

    name: str
    created_by: str
    is_paused: bool
    cap: int
    target: int
    batches: list[BatchCount]
    workers: list[WorkerRecord]
    files_per_second: float
    bytes_per_second: float
    left_files: int
    seconds_left: float | None
    set_aside: list[GivenUp]
    failing: list[GivenUp]
    set_aside_instances: list[ReasonCount]
    open_parts: int
    parts_with_problems: int


class MigrationReader(PostgresReader):
    """Reads the ledger of a migration, and how far it is."""

    def overview(self) -> Overview:
        """How far it is now."""
        number = self.number
        ((name, created_by, is_paused, cap, target, timeout_seconds, now_ms),) = self._all(
            _plain_row, _MIGRATION, number
        )
        batches = self._all(BatchCount, _BATCHES, number)
        workers = self._workers(now_ms, 1000 * timeout_seconds)
        files, size_bytes = self._rate(now_ms, workers)
        ((open_parts, parts_with_problems),) = self._all(_plain_row, _WALK, number)
        left = sum(max(0, count.files - count.stored) for count in batches if count.state in ("open", "doing"))
        return Overview(
            name=name,
            created_by=created_by,
            is_paused=is_paused,
            cap=cap,
            target=target,
            batches=batches,
            workers=workers,
            files_per_second=files,
            bytes_per_second=size_bytes,
            left_files=left,
            seconds_left=left / files if files else None,
            set_aside=self._all(_given_up, _SET_ASIDE_BATCHES, number, _FEW),
            failing=self._all(_given_up, _FAILING_BATCHES, number, _FEW),
            set_aside_instances=self._set_aside_instances(),
            open_parts=open_parts,
            parts_with_problems=parts_with_problems,
        )

    def _workers(self, now_ms: int, timeout_ms: int) -> list[WorkerRecord]:
        running = self.running()

        def record(
            number: int,
            host: str,
            pid: int,
            begun: int,
            ended: int | None,
            seen: int | None,
            associations: int,
            answers: int,
            sent_bytes: int,
            stopped: str | None,
        ) -> WorkerRecord:
            silent_ms = None if seen is None else max(0, now_ms - seen)
            is_heard = silent_ms is not None and silent_ms <= timeout_ms
            return WorkerRecord(
                host,
                pid,
                "ended" if ended is not None else _STATES[number in running, is_heard],
                time_of(begun),
                None if seen is None else time_of(seen),
                None if silent_ms is None else silent_ms / 1000,
                associations,
                answers,
                sent_bytes,
                stopped or "",
            )

        return self._all(record, _WORKERS, self.number)

    def _rate(self, now_ms: int, workers: list[WorkerRecord]) -> tuple[float, float]:
        """Files and bytes a second in the batches of the last ten minutes; while none is done, as the workers count."""
        since = now_ms - _RATE_MS
        ((files, size_bytes, claimed_at),) = self._all(_plain_row, _RATE, since, since, self.number, since)
        if files:
            seconds = (now_ms - max(claimed_at, since)) / 1000
            return files / seconds, size_bytes / seconds
        now = time_of(now_ms)
        running = [worker for worker in workers if worker.state == "running" and now > worker.started_at]
        rates = [(worker, (now - worker.started_at).total_seconds()) for worker in running]
        return (
            sum(worker.answers / seconds for worker, seconds in rates),
            sum(worker.sent_bytes / seconds for worker, seconds in rates),
        )

    def _set_aside_instances(self) -> list[ReasonCount]:
        query = (
            f"SELECT a.state, a.status, a.reason, sum(a.instances) FROM {self._ACCOUNTS} "
            f"WHERE a.standing = {Standing.SET_ASIDE:d} GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3"
        )
        return self._all(reason_count, query)


def _plain_row(*columns: Any) -> tuple[Any, ...]:
    return columns


def _given_up(number: int, root: str, path: bytes | None, *more: Any) -> GivenUp:
    directories, files, failed, reason = more
    return GivenUp(number, f"{root}:{os.fsdecode(path or b'')}", directories, files, failed, reason)
