"""An observer is told what happens while a transfer runs, and cannot break it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import asyncstore
from asyncstore.errors import ConnectFailed, LocalProtocolError
from asyncstore.transfer import destination
from asyncstore.transfer.observer import CALLS, Observer, Teller
from asyncstore.transfer.outcomes import Outcomes
from tests.support.transfers import (
    LIMIT_SECONDS,
    QUICK,
    KeepingSCP,
    check_account,
    instance,
    outcomes_of,
    peer_at,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival, StorageSCP
    from asyncstore.transfer.engine import Transfer
    from asyncstore.transfer.report import Report, Waiting

pytestmark = pytest.mark.every_loop


class Keeping(Observer):
    """Keeps all that it is told: the name of each call, and its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._told = anyio.Event()

    def _keep(self, *call: Any) -> None:
        self.calls.append(call)
        self._told.set()
        self._told = anyio.Event()

    def on_association_opened(self, number: int) -> None:
        self._keep("opened", number)

    def on_association_ended(self, number: int, error: asyncstore.AsyncStoreError | None) -> None:
        self._keep("ended", number, error)

    def on_outcome(self, outcome: Outcome) -> None:
        self._keep("outcome", outcome)

    def on_pause(self, waiting: Waiting) -> None:
        self._keep("pause", waiting)

    def on_resume(self) -> None:
        self._keep("resume")

    def on_finish(self, report: Report) -> None:
        self._keep("finish", report)

    def of(self, name: str) -> list[Any]:
        """The first argument of each call of this name."""
        return [call[1] if len(call) > 1 else None for call in self.calls if call[0] == name]

    async def wait_for(self, name: str) -> None:
        """Return when it has been told this."""
        while not self.of(name):
            await self._told.wait()


def told(observer: Observer, server: StorageSCP, sources: Any, **options: Any) -> Transfer:
    """A transfer that retries without waiting, and an observer of it."""
    return asyncstore.Transfer(
        peer_at(server), sources, options=asyncstore.TransferOptions(retry=QUICK, **options), observer=observer
    )


def paused(transfer: Transfer, is_paused: bool) -> None:
    transfer.limit(dataclasses.replace(transfer.limits, is_paused=is_paused))


async def test_a_run_is_told_from_its_first_association_to_its_final_report(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paths = write_files(tmp_path / "in", 5)
    (tmp_path / "in" / "notes.txt").write_text("not DICOM")
    observer = Keeping()
    async with KeepingSCP() as scp:
        transfer = told(observer, scp, tmp_path / "in", associations=1)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, [*paths, str(tmp_path / "in" / "notes.txt")])
    assert observer.of("outcome") == outcomes
    others = [call for call in observer.calls if call[0] != "outcome"]
    assert others == [("opened", 1), ("ended", 1, None), ("finish", transfer.report)]
    assert observer.calls[-1][0] == "finish"
    assert {outcome.association_number for outcome in outcomes if outcome.attempts} == {1}


async def test_one_call_takes_an_observer_too(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    observer = Keeping()
    async with KeepingSCP() as scp:
        report = await asyncstore.store(tmp_path, to=peer_at(scp), observer=observer)
    assert [outcome.is_stored for outcome in observer.of("outcome")] == [True] * 3
    assert observer.of("finish") == [report]


async def test_a_pause_is_told_with_its_reason_and_its_end() -> None:
    observer = Keeping()
    with anyio.fail_after(LIMIT_SECONDS):
        async with (
            KeepingSCP() as scp,
            told(observer, scp, map(instance, itertools.count(1)), associations=1) as transfer,
        ):
            await anext(transfer)
            paused(transfer, True)
            await observer.wait_for("pause")
            paused(transfer, False)
            await observer.wait_for("resume")
    assert observer.of("pause") == [asyncstore.Waiting(None)]
    assert len(observer.of("resume")) == 1
    assert str(observer.of("pause")[0]) == "paused"


async def test_a_peer_that_takes_nothing_is_told_with_its_error_and_until_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "_TOLD_AFTER_SECONDS", 0.0)
    observer = Keeping()
    paths = write_files(tmp_path, 20)

    def answer(arrival: Arrival) -> int:
        return 0 if observer.of("pause") else 0xA700

    begun_at = time.time()
    async with KeepingSCP(answer) as scp:
        transfer = told(observer, scp, tmp_path, associations=1)
        with anyio.fail_after(LIMIT_SECONDS):
            outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 20
    (waiting,) = observer.of("pause")
    assert begun_at < waiting.until <= time.time() + transfer.options.retry.outage_seconds
    assert isinstance(waiting.because, asyncstore.AsyncStoreError)
    assert "A700" in str(waiting)
    names = [call[0] for call in observer.calls]
    assert names.index("pause") < names.index("resume") < names.index("finish")


async def test_an_association_that_is_lost_ends_with_its_error(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 4)
    observer = Keeping()
    losses = iter([True])
    async with KeepingSCP() as scp:

        def lose_one(arrival: Arrival) -> None:
            if next(losses, False):
                for association in scp._open:
                    association.transport.close(reset=True)

        scp.on_store = lose_one
        transfer = told(observer, scp, tmp_path, associations=1, window=1)
        with anyio.fail_after(LIMIT_SECONDS):
            outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    ended = [call[1:] for call in observer.calls if call[0] == "ended"]
    assert observer.of("opened") == [number for number, _ in ended] == [1, 2]
    assert isinstance(ended[0][1], asyncstore.AssociationLost)
    assert ended[1][1] is None


async def test_an_association_that_cannot_be_established_ends_and_the_run_finishes(tmp_path: Path) -> None:
    write_files(tmp_path, 1)
    async with KeepingSCP() as scp:
        peer = peer_at(scp)
    observer = Keeping()
    with pytest.raises(ConnectFailed) as caught:
        await asyncstore.store(tmp_path, to=peer, observer=observer)
    assert [call[:2] for call in observer.calls] == [("ended", 1), ("finish", observer.of("finish")[0])]
    assert observer.calls[0][2] is caught.value
    assert observer.of("finish")[0].left == 1


async def test_the_end_is_told_when_the_ledger_is_closed_and_so_is_what_it_knows(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 3)
    observer = Keeping()

    class ToldLedger(asyncstore.SqliteLedger):
        async def __aexit__(self, *arguments: Any) -> None:
            await super().__aexit__(*arguments)
            observer.calls.append(("closed",))

    async with KeepingSCP() as scp:
        for _ in range(2):
            observer.calls.clear()
            ledger = ToldLedger(tmp_path / "run.db", destination=str(peer_at(scp)))
            await asyncstore.store(tmp_path / "in", to=peer_at(scp), ledger=ledger, observer=observer)
            assert [call[0] for call in observer.calls[-2:]] == ["closed", "finish"]
    assert [outcome.state.value for outcome in observer.of("outcome")] == ["resumed"] * 3
    assert observer.of("opened") == []


async def test_a_cancelled_run_is_told_to_its_end() -> None:
    observer = Keeping()
    async with KeepingSCP() as scp:
        with anyio.CancelScope() as scope:
            async with told(observer, scp, map(instance, itertools.count(1))) as transfer:
                await anext(transfer)
                scope.cancel()
                await anyio.sleep(LIMIT_SECONDS)
    opened, ended = sorted(observer.of("opened")), sorted(observer.of("ended"))
    assert opened
    assert set(opened) <= set(ended)
    assert len(ended) == len(set(ended))
    assert observer.of("finish") == [transfer.report]


@pytest.mark.parametrize("end", [asyncstore.Transfer.drain, asyncstore.Transfer.abort])
async def test_a_call_may_end_the_run(end: Callable[[Transfer], None]) -> None:
    class Ending(Keeping):
        def on_outcome(self, outcome: Outcome) -> None:
            super().on_outcome(outcome)
            if len(self.of("outcome")) == 10:
                end(transfer)

    observer = Ending()
    async with KeepingSCP() as scp:
        transfer = told(observer, scp, map(instance, itertools.count(1)))
        with anyio.fail_after(LIMIT_SECONDS):
            outcomes = await outcomes_of(transfer)
    assert len(outcomes) >= 10
    assert observer.of("outcome") == outcomes
    assert observer.of("finish")[0].stopped_early


def test_each_change_of_what_a_run_waits_for_is_told_once() -> None:
    observer = Keeping()
    teller = Teller(observer)
    night, noon, away = asyncstore.Waiting(1.0), asyncstore.Waiting(2.0), asyncstore.Waiting(3.0, OSError("no route"))
    for waiting in (None, night, night, noon, away, away, None, None, night):
        teller.look(waiting)
    pauses = [("pause", waiting) for waiting in (night, noon, away)]
    assert observer.calls == [*pauses, ("resume",), ("pause", night)]
    assert str(away).endswith("for a peer that takes nothing: no route")


# -- mistakes ----------------------------------------------------------------------------------------------------------


async def test_a_call_that_raises_is_logged_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_files(tmp_path, 30)

    class Failing(Observer):
        pass

    for name in CALLS:
        setattr(Failing, name, lambda *arguments: 1 / 0)
    caplog.set_level(logging.ERROR, "asyncstore.transfer")
    async with KeepingSCP() as scp:
        transfer = told(Failing(), scp, tmp_path, associations=1)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 30
    records = [record for record in caplog.records if "observer" in record.getMessage()]
    assert [record.getMessage().split()[0] for record in records] == [
        "on_association_opened",
        "on_outcome",
        "on_association_ended",
        "on_finish",
    ]
    assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in records)


async def test_a_call_that_takes_other_arguments_is_logged_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Observer):
        def on_outcome(self) -> None:  # type: ignore[override]
            """Take none."""

    write_files(tmp_path, 2)
    async with KeepingSCP() as scp:
        report = await asyncstore.store(tmp_path, to=peer_at(scp), observer=Odd())
    assert report.stored == 2
    assert "on_outcome of the observer failed" in caplog.text


class _Awaiting(Observer):
    async def on_outcome(self, outcome: Outcome) -> None:  # type: ignore[override]
        """Nothing awaits this."""


class _Empty(Observer):
    on_pause = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("observer", "complaint"),
    [
        (print, "observer is <built-in function print>: it is an Observer"),
        (Keeping, "it is an Observer: make one of it"),
        (object(), "it is an Observer"),
        (_Awaiting(), "on_outcome of the observer is a coroutine function, which nothing awaits"),
        (_Empty(), "on_pause of the observer is None: it is an ordinary function"),
    ],
)
def test_what_cannot_be_told_is_refused_at_once(observer: Any, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        asyncstore.Transfer(asyncstore.Peer("127.0.0.1", 104), [], observer=observer)


async def test_an_observer_that_overrides_nothing_is_fine(tmp_path: Path) -> None:
    write_files(tmp_path, 2)
    async with KeepingSCP() as scp:
        assert (await asyncstore.store(tmp_path, to=peer_at(scp), observer=Observer())).stored == 2


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_without_an_observer_nothing_is_done_for_it() -> None:
    transfer = asyncstore.Transfer(asyncstore.Peer("127.0.0.1", 104), [])
    assert type(transfer._outcomes) is Outcomes
    code = "import sys, asyncstore.transfer.engine; sys.exit('asyncstore.transfer.observer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
