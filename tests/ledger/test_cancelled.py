"""A ledger that is opened or closed by a task of asyncio which is cancelled, even twice, is closed and unlocked."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final

import pytest

from asyncstore.ledger.sqlite.ledger import SqliteLedger
from tests.support.ledgers import DESTINATION, opened, rows_of, stored

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_SECONDS: Final = 60.0


class HeldLedger(SqliteLedger):
    """A ledger whose opening and closing wait until they may go on, in their threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, destination=DESTINATION)
        self.begun = {"open": threading.Event(), "close": threading.Event()}
        self.may_go_on = {"open": threading.Event(), "close": threading.Event()}
        self.is_closed = threading.Event()

    def _hold(self, what: str) -> None:
        self.begun[what].set()
        self.may_go_on[what].wait()

    def _prepare(self) -> None:
        self._hold("open")
        super()._prepare()

    def close(self) -> None:
        self._hold("close")
        super().close()
        if self._thread is None:
            self.is_closed.set()


async def wait(event: threading.Event) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, LIMIT_SECONDS)


async def use(ledger: HeldLedger, inside: asyncio.Event) -> None:
    async with ledger:
        ledger.record(stored(1))
        inside.set()
        await asyncio.sleep(3600)


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel it before the threads that its end needs have begun, and again."""
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)


def assert_can_be_opened(path: Path, count: int) -> None:
    with opened(path):
        pass
    assert len(rows_of(path)) == count


@pytest.mark.parametrize("closes_first", [True, False])
def test_cancelled_while_it_is_opened(tmp_path: Path, closes_first: bool) -> None:
    async def main() -> None:
        ledger = HeldLedger(tmp_path / "run.db")
        task = asyncio.create_task(use(ledger, asyncio.Event()))
        await wait(ledger.begun["open"])
        task.cancel()
        await wait(ledger.begun["close"])
        for what in ("close", "open") if closes_first else ("open", "close"):
            ledger.may_go_on[what].set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert_can_be_opened(tmp_path / "run.db", 0)


def test_cancelled_again_while_it_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        ledger, inside = HeldLedger(tmp_path / "run.db"), asyncio.Event()
        ledger.may_go_on["open"].set()
        task = asyncio.create_task(use(ledger, inside))
        await inside.wait()
        await cancel(task)
        ledger.may_go_on["close"].set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait(ledger.is_closed)

    asyncio.run(main())
    assert_can_be_opened(tmp_path / "run.db", 1)


def test_cancelled_before_its_thread_begins_it_is_not_opened_later(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = HeldLedger(tmp_path / "run.db")
        for event in ledger.may_go_on.values():
            event.set()
        task = asyncio.create_task(use(ledger, asyncio.Event()))
        await asyncio.sleep(0)
        await cancel(task)
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait(ledger.is_closed)

    asyncio.run(main())
    assert_can_be_opened(tmp_path / "run.db", 0)
