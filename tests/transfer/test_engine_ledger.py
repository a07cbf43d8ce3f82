"""A transfer with a ledger: what it writes down, what it does not do again, and how it ends when it cannot write."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import asyncstore
from asyncstore.errors import ConnectionLost, LedgerError
from asyncstore.inputs import feed
from asyncstore.inputs.opening import instance_from
from asyncstore.instances import head
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger import buffered
from asyncstore.ledger.sqlite import writer as ledger_writer
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.preparation import spool
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer import outcomes as outcomes_module
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import IMPLICIT_VR_LITTLE_ENDIAN
from tests.support.ledgers import rows_of
from tests.support.transfers import (
    QUICK,
    KeepingSCP,
    collect,
    instance,
    outcomes_of,
    peer_at,
    uid_of,
    write_files,
)
from tests.support.wire import ScriptedSCP, Wire, stores_everything

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from asyncstore.instances.instance import Instance
    from asyncstore.ledger.protocol import KnownInstance, Ledger, Suspicion
    from asyncstore.ledger.sqlite.writer import LedgerWriter
    from asyncstore.services.storage_scp import Arrival
    from tests.support.transfers import Listening

LATER = 4e9  # a clock by which no file of a test is young


def transfer_with(server: Listening, sources: Any, ledger: Ledger | str | Path, **options: Any) -> Transfer:
    options.setdefault("retry", QUICK)
    return Transfer(peer_at(server), sources, options=TransferOptions(**options), ledger=ledger)


async def ended(transfer: Transfer) -> tuple[Transfer, list[Outcome]]:
    return transfer, await outcomes_of(transfer)


async def states_in(path: Path) -> dict[str, State]:
    """The state of each file, by its name, as the ledger has it."""
    rows = await anyio.to_thread.run_sync(rows_of, path)
    return {os.path.basename(row.path or ""): row.state for row in rows}


class ListLedger:
    """A Ledger that keeps what it is told, and answers what a test wants."""

    def __init__(self) -> None:
        self.recorded: list[tuple[State, int]] = []
        self.failure: LedgerError | None = None
        self.has_room = True
        self.is_open = False
        self.refusals_noted = 0
        self.end: tuple[bool, str] | None = None

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False

    def record(self, outcome: Outcome) -> None:
        assert self.is_open
        self.recorded.append((outcome.state, outcome.attempts))

    async def flush(self) -> None:
        pass

    def note_refusal(self) -> None:
        self.refusals_noted += 1

    def note_end(self, *, scan_finished: bool, stopped: str) -> None:
        self.end = scan_finished, stopped

    files = ()
    has_earlier = False

    def settled(self, entries: Sequence[object]) -> list[Outcome | Suspicion | None]:
        return [None] * len(entries)

    def may_know(self, sop_instance_uid: str) -> bool:
        return False

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        return [[] for _ in instances]


# -- resuming ----------------------------------------------------------------------------------------------------------


async def test_what_is_stored_is_neither_opened_nor_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(tmp_path / "in", 50)
    ledger = tmp_path / "run.db"
    async with KeepingSCP() as scp:
        await ended(transfer_with(scp, tmp_path / "in", ledger))
        assert len(scp.arrivals) == 50
    monkeypatch.setattr(head, "read_head", None)  # whoever opens a file fails
    # Nobody listens any more: with nothing to send there is no association.
    transfer, outcomes = await ended(transfer_with(scp, [tmp_path / "in", *paths[:5]], ledger))
    assert {outcome.state for outcome in outcomes} == {State.RESUMED}
    assert sorted(str(outcome.path) for outcome in outcomes) == sorted([*paths, *paths[:5]])
    assert (transfer.report.found, transfer.report.stored, transfer.report.stored_bytes) == (55, 55, 0)
    assert transfer.report.stopped_because is None
    assert set((await states_in(ledger)).values()) == {State.STORED}


async def test_only_what_is_new_or_has_changed_is_sent_again(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", 20)
    async with KeepingSCP() as scp:
        await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
        scp.arrivals.clear()
        os.utime(paths[3], ns=(1, 1))
        write_files(tmp_path / "in", 1, first=21)
        transfer, _ = await ended(transfer_with(scp, [tmp_path / "in"], str(tmp_path / "run.db")))
        assert set(scp.uids) == {uid_of(4), uid_of(21)}
    assert transfer.report.states == {State.RESUMED: 19, State.STORED: 2}


@pytest.mark.parametrize("state", [State.UNKNOWN, State.LEFT, State.FAILED, State.NO_CONTEXT])
async def test_what_is_not_stored_is_sent_again(tmp_path: Path, state: State) -> None:
    first, second = write_files(tmp_path / "in", 2)
    async with KeepingSCP() as scp:
        async with SqliteLedger(tmp_path / "run.db", destination=str(peer_at(scp))) as ledger:
            ledger.record(Outcome(State.STORED, first, instance_from(first), SUCCESS))
            ledger.record(Outcome(state, second, instance_from(second), reason="a reason"))
        _, outcomes = await ended(transfer_with(scp, [first, second], tmp_path / "run.db"))
        assert list(scp.uids) == [uid_of(2)]
    assert [outcome.state for outcome in outcomes] == [State.RESUMED, State.STORED]
    assert set((await states_in(tmp_path / "run.db")).values()) == {State.STORED}


async def test_what_found_no_room_to_be_converted_in_is_sent_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(tmp_path / "in", 2)
    monkeypatch.setattr(spool, "SPOOL_BYTES", 10)
    async with KeepingSCP(transfer_syntaxes=[IMPLICIT_VR_LITTLE_ENDIAN]) as scp:
        monkeypatch.setattr(tempfile, "tempdir", "/no/such")
        _, outcomes = await ended(transfer_with(scp, paths, tmp_path / "run.db"))
        for outcome in outcomes:
            assert (outcome.state, outcome.retryable) == (State.SOURCE_PROBLEM, True)
            assert outcome.reason == "converting it needs a temporary file in /no/such: No such file or directory"
        monkeypatch.setattr(tempfile, "tempdir", None)
        transfer, _ = await ended(transfer_with(scp, paths, tmp_path / "run.db"))
    assert transfer.report.states == {State.STORED: 2}


async def test_files_that_are_no_dicom_files_are_passed_over_without_opening_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "in", 3)
    (tmp_path / "in" / "notes.txt").write_text("notes")

    async with KeepingSCP() as scp:

        def ledger() -> SqliteLedger:
            return SqliteLedger(tmp_path / "run.db", destination=str(peer_at(scp)), clock=lambda: LATER)

        first, _ = await ended(transfer_with(scp, tmp_path / "in", ledger()))
        monkeypatch.setattr(head, "read_head", None)
        second, _ = await ended(transfer_with(scp, tmp_path / "in", ledger()))
    assert first.report.states == {State.STORED: 3, State.SKIPPED: 1}
    assert second.report.states == {State.RESUMED: 3, State.SKIPPED: 1}
    assert first.report.found == second.report.found == 3


async def test_more_settled_files_than_may_wait_to_be_read_come_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes_module, "_MAXIMUM_UNREAD", 64)
    monkeypatch.setattr(feed, "_ASKED_AT_ONCE", 16)
    paths = write_files(tmp_path / "in", 300)
    async with KeepingSCP() as scp:
        await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
    transfer = transfer_with(scp, tmp_path / "in", tmp_path / "run.db")
    most = 0
    outcomes = []
    with anyio.fail_after(60):
        async with transfer:
            async for outcome in transfer:
                outcomes.append(outcome)
                most = max(most, len(transfer._outcomes.unread))
                await anyio.lowlevel.checkpoint()
    assert most <= 64 + 16
    assert sorted(str(outcome.path) for outcome in outcomes) == paths


async def test_an_instance_from_memory_is_sent_by_every_run_and_has_one_row(tmp_path: Path) -> None:
    async with KeepingSCP() as scp:
        for _ in range(2):
            transfer, _ = await ended(transfer_with(scp, [instance(1)], tmp_path / "run.db"))
            assert transfer.report.states == {State.STORED: 1}
        assert scp.uids == {uid_of(1): 2}
    (row,) = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert (row.path, row.sop_instance_uid, row.attempts) == (None, uid_of(1), 2)


async def test_the_one_call_takes_a_ledger_too(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 5)
    async with KeepingSCP() as scp:
        for _ in range(2):
            report = await asyncstore.store(tmp_path / "in", to=peer_at(scp), ledger=tmp_path / "run.db")
            assert report.stored == 5
        assert len(scp.arrivals) == 5


# -- what is written down ----------------------------------------------------------------------------------------------


async def test_every_outcome_has_its_row(tmp_path: Path) -> None:
    answers = {uid_of(1): SUCCESS, uid_of(2): Status(0xB000), uid_of(3): Status(0x0111), uid_of(4): Status(0xA900)}
    write_files(tmp_path / "in", 4)
    (tmp_path / "in" / "notes.txt").write_text("notes")

    def answer(arrival: Arrival) -> Status:
        return answers[arrival.request.affected_sop_instance_uid]

    async with KeepingSCP(answer) as scp:
        _, outcomes = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
    expected = {
        "000001.dcm": State.STORED,
        "000002.dcm": State.WARNING,
        "000003.dcm": State.DUPLICATE,
        "000004.dcm": State.FAILED,
        "notes.txt": State.SKIPPED,
    }
    assert {os.path.basename(str(outcome.path)): outcome.state for outcome in outcomes} == expected
    assert await states_in(tmp_path / "run.db") == expected


@pytest.mark.every_loop
async def test_what_a_run_leaves_is_written_down_and_finished_by_the_next(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", 60)

    def answer(_: Arrival) -> Status:
        if len(scp.arrivals) == 20:
            transfer.drain()
        return SUCCESS

    async with KeepingSCP(answer) as scp:
        transfer = transfer_with(scp, tmp_path / "in", tmp_path / "run.db", associations=1, window=2)
        await outcomes_of(transfer)
        states = await states_in(tmp_path / "run.db")
        stored = sum(state is State.STORED for state in states.values())
        assert 20 <= stored == scp.stored == transfer.report.stored < 60
        assert sum(state is State.LEFT for state in states.values()) == transfer.report.left > 0
        again, _ = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
        assert again.report.states == {State.RESUMED: stored, State.STORED: 60 - stored}
        assert set(scp.uids.values()) == {1}
    assert len(await states_in(tmp_path / "run.db")) == len(paths)


async def test_each_lost_attempt_is_written_down_as_unknown_before_the_next(tmp_path: Path) -> None:
    def drops(wire: Wire) -> None:
        wire.accept()
        wire.read_stores(1)

    ledger = ListLedger()
    (path,) = write_files(tmp_path, 1)
    with ScriptedSCP(drops, stores_everything) as scp:
        _, outcomes = await ended(transfer_with(scp, path, ledger, associations=1))
    assert [outcome.state for outcome in outcomes] == [State.STORED]
    assert ledger.recorded == [(State.UNKNOWN, 1), (State.STORED, 2)]


async def test_what_is_lost_for_good_is_unknown(tmp_path: Path) -> None:
    def drops(wire: Wire) -> None:
        wire.accept()
        wire.read_stores(1)

    (path,) = write_files(tmp_path / "in", 1)
    with ScriptedSCP(drops) as scp:
        transfer = transfer_with(scp, path, tmp_path / "run.db", retry=RetryPolicy(retries=0, outage_seconds=0))
        (outcome,) = await collect(transfer, [])
    assert isinstance(outcome.error, ConnectionLost)
    assert await states_in(tmp_path / "run.db") == {"000001.dcm": State.UNKNOWN}


# -- a ledger that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["record", "may_know", "__aenter__", "__aexit__"])
async def test_an_exception_of_a_ledger_ends_the_transfer_as_itself(method: str, tmp_path: Path) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    async def fails_later(*_: object) -> None:
        raise ZeroDivisionError

    kind = type("FailingLedger", (ListLedger,), {method: fails_later if method.startswith("__") else fails})
    (path,) = write_files(tmp_path, 1)
    async with KeepingSCP() as scp:
        with pytest.raises(ZeroDivisionError):
            await ended(transfer_with(scp, path, kind()))


@pytest.mark.parametrize("written", [0, 1, 3])
async def test_a_ledger_that_cannot_be_written_any_more_stops_the_run_and_says_nothing_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    batches = 0
    write = ledger_writer.LedgerWriter.write

    def write_some(self: LedgerWriter, entries: Any) -> None:
        nonlocal batches
        batches += 1
        if batches > written:
            raise sqlite3.OperationalError("database or disk is full")
        write(self, entries)

    paths = write_files(tmp_path / "in", 400)

    async def slowly() -> Status:
        await anyio.lowlevel.checkpoint()
        return SUCCESS

    async with KeepingSCP(lambda _: slowly()) as scp:
        with monkeypatch.context() as patch:
            patch.setattr(ledger_writer.LedgerWriter, "write", write_some)
            patch.setattr(buffered, "COMMIT_SECONDS", 0.005)
            patch.setattr(buffered, "COMMIT_OUTCOMES", 10)
            patch.setattr(buffered.BufferedLedger, "_most_outcomes", 10)
            transfer, outcomes = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db", associations=1))
        assert isinstance(transfer.report.stopped_because, LedgerError)
        assert "disk is full" in str(transfer.report.stopped_because)
        assert transfer.report.found == transfer.report.stored + transfer.report.left
        arrived = set(scp.uids)
        assert len(outcomes) == len(arrived) == transfer.report.stored
        rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
        assert len(rows) <= 10 * written
        assert {row.sop_instance_uid for row in rows if row.state is State.STORED} <= arrived
        again, _ = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
        assert again.report.stored == len(paths) == len(scp.uids)


async def test_no_more_is_sent_once_the_ledger_has_failed(tmp_path: Path) -> None:
    write_files(tmp_path, 100)
    ledger = ListLedger()

    async def answer() -> Status:
        if len(scp.arrivals) >= 10:
            ledger.failure = LedgerError("the disk is full")
        while ledger.failure is not None and not transfer._destination.is_stopped:
            await anyio.lowlevel.checkpoint()
        return SUCCESS

    async with KeepingSCP(lambda _: answer(), window=4) as scp:
        transfer = transfer_with(scp, tmp_path, ledger, associations=1, window=4)
        await outcomes_of(transfer)
    assert transfer.report.stopped_because is ledger.failure
    assert 10 <= transfer.report.stored == len(scp.arrivals) <= 10 + 2 * 4
    assert [state for state, _ in ledger.recorded].count(State.STORED) == transfer.report.stored


async def test_a_last_commit_that_fails_is_told_after_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: LedgerWriter, entries: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    write_files(tmp_path / "in", 3)
    monkeypatch.setattr(ledger_writer.LedgerWriter, "write", fail)
    monkeypatch.setattr(buffered, "COMMIT_SECONDS", 3600.0)
    async with KeepingSCP() as scp:
        transfer, _ = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
    assert transfer.report.states == {State.STORED: 3}
    assert isinstance(transfer.report.stopped_because, LedgerError)


async def test_a_ledger_that_cannot_be_read_any_more_ends_the_iteration_with_its_error(tmp_path: Path) -> None:
    class Unreadable(ListLedger):
        has_earlier = True

        def settled(self, entries: Sequence[object]) -> list[Outcome | Suspicion | None]:
            raise LedgerError("disk I/O error")

    write_files(tmp_path, 3)
    async with KeepingSCP() as scp:
        with pytest.raises(LedgerError, match="disk I/O error"):
            await outcomes_of(transfer_with(scp, tmp_path, Unreadable()))
    assert scp.arrivals == []


async def test_nothing_is_sent_while_the_ledger_has_no_room(tmp_path: Path) -> None:
    write_files(tmp_path, 20)
    ledger = ListLedger()
    ledger.has_room = False
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, tmp_path, ledger, associations=1)
        with anyio.fail_after(60):
            async with transfer:
                while not transfer._supervisor._admission._was_closed:
                    await anyio.lowlevel.checkpoint()
                assert scp.arrivals == []
                ledger.has_room = True
                outcomes = [outcome async for outcome in transfer]
    assert len(outcomes) == len(ledger.recorded) == 20


# -- a ledger that cannot be had ---------------------------------------------------------------------------------------


async def test_a_ledger_of_another_destination_is_refused_before_anything_happens(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 3)
    async with SqliteLedger(tmp_path / "run.db", destination="OTHER@host:104"):
        pass
    async with KeepingSCP() as scp:
        with pytest.raises(LedgerError, match="OTHER@host:104"):
            await outcomes_of(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
        assert scp.associations == 0
    assert os.path.exists(tmp_path / "run.db")
    assert not os.path.exists(tmp_path / "run.db-lock")


async def test_one_ledger_is_not_for_two_runs_at_once(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 3)
    async with KeepingSCP() as scp:
        async with transfer_with(scp, tmp_path / "in", tmp_path / "run.db") as first:
            with pytest.raises(LedgerError, match=f"process {os.getpid()}"):
                await outcomes_of(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
            assert len([outcome async for outcome in first]) == 3
        again, _ = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
    assert again.report.states == {State.RESUMED: 3}


@pytest.mark.every_loop
async def test_a_transfer_that_is_cancelled_lets_its_ledger_go_and_has_written_what_was_stored(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 200)
    async with KeepingSCP() as scp:
        for turns in (0, 3, 40, 200):
            with anyio.CancelScope() as scope:
                async with transfer_with(scp, tmp_path / "in", tmp_path / "run.db") as transfer:
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
                    await anyio.sleep_forever()
            assert not os.path.exists(tmp_path / "run.db-lock")
            states = await states_in(tmp_path / "run.db")
            assert sum(state is State.STORED for state in states.values()) >= transfer.report.stored
        final, _ = await ended(transfer_with(scp, tmp_path / "in", tmp_path / "run.db"))
    assert final.report.stored == 200
