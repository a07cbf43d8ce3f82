"""What the tests of workers share: small batches, workers, a peer that holds its answers, and what the tables say."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from asyncstore.cluster import batches
from asyncstore.cluster.enqueue import enqueue
from asyncstore.cluster.worker import Worker
from asyncstore.ledger.postgresql.database import Database
from asyncstore.status import SUCCESS
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from tests.support.transfers import KeepingSCP, peer_at, write_files

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest

    from asyncstore.cluster.claims import Totals
    from asyncstore.services.storage_scp import Arrival
    from tests.support.transfers import Listening

LIMIT_SECONDS = 100.0
QUICK = RetryPolicy.for_ledger(first_wait_seconds=0.01, cap_seconds=0.05, outage_seconds=60.0)


class HoldingSCP(KeepingSCP):
    """Answers nothing while it is held."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.released = anyio.Event()

    async def _hold(self, arrival: Arrival) -> Any:
        await self.released.wait()
        return SUCCESS


def tree(root: Path, *, studies: int = 6, files: int = 20) -> Path:
    """A directory for each study, each a batch of its own."""
    for study in range(studies):
        write_files(root / f"p{study}" / "s", files, first=1 + study * files)
    return root


async def enqueued(
    monkeypatch: pytest.MonkeyPatch, dsn: str, root: Path, scp: Listening, *, timeout_seconds: int = 60, cap: int = 8
) -> None:
    """Put it into batches of a directory each."""
    with monkeypatch.context() as patch:
        patch.setattr(batches, "MOST_FILES", 1)
        await enqueue(dsn, "move", str(peer_at(scp)), {"nas1": str(root)}, cap=cap)
    change = f"UPDATE migration SET timeout_seconds = {timeout_seconds}, target = {cap}"
    await sql(dsn, change)


def worker_of(dsn: str, root: Path, **settings: Any) -> Worker:
    """A worker that ends when all is done."""
    options = TransferOptions(retry=settings.pop("retry", QUICK))
    given = {"most": 4, "until_done": True, **settings}
    return Worker(dsn, None, {"nas1": str(root)}, options, **given)


async def done_by(*workers: Worker) -> list[Totals]:
    """What each returns."""
    totals: list[Totals] = []

    async def work(worker: Worker) -> None:
        totals.append(await worker.run())

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(work, worker)
    return totals


@contextlib.asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """Workers that work while the block runs; it waits for their end."""
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(worker.run)
            yield


async def sql(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a statement."""

    def ask() -> list[tuple[Any, ...]]:
        with Database(dsn, "test") as database:
            return [tuple(row) for row in database.fetch(statement, *values)]

    return await anyio.to_thread.run_sync(ask)


async def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit code of a process, and what it has logged."""
    _, stderr = await anyio.to_thread.run_sync(process.communicate, None, LIMIT_SECONDS)
    return process.returncode, stderr.decode()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that this process sees."""
    with anyio.fail_after(LIMIT_SECONDS):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def until_rows(dsn: str, statement: str, *values: object) -> None:
    """Wait until a query has a row."""
    with anyio.fail_after(LIMIT_SECONDS):
        while not await sql(dsn, statement, *values):  # noqa: ASYNC110
            await anyio.sleep(0.05)


async def rows_and_states(dsn: str) -> tuple[int, dict[str, int], dict[str, int]]:
    """How many instances have a row, how many there are of each state, and how many batches of each.

    What a worker has left for another has a row, too, which says so: it does not count.
    """
    states = await sql(dsn, "SELECT state, sum(instances)::int FROM account GROUP BY 1 HAVING sum(instances) > 0")
    ((rows,),) = await sql(
        dsn, "SELECT count(*) FROM instance i JOIN account a ON a.id = i.account WHERE a.state <> 'left'"
    )
    done = await sql(dsn, "SELECT state, count(*) FROM batch GROUP BY 1")
    return rows, {state: count for state, count in states if state != "left"}, dict(done)
