"""The ledger: what is recorded is there, exactly, in little room, and nothing is there that did not happen."""

from __future__ import annotations

import functools
import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.cli.output.records import record_of
from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import Outcome, SentUIDs, State
from asyncstore.ledger import buffered
from asyncstore.ledger.opening import open_history, open_ledger
from asyncstore.ledger.packing import ledger_path, pack_uid, unpack_uid
from asyncstore.ledger.sqlite import file as ledger_file
from asyncstore.ledger.sqlite import ledger as sqlite_ledger
from asyncstore.ledger.sqlite import writer as ledger_writer
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.status import Status
from asyncstore.transfer.options import TransferOptions, options_as_data
from asyncstore.uids import IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.user_information import UserIdentity
from tests.support.ledgers import DESTINATION, instance_of, opened, outcome_of, path_of, rows_of, stored, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.ledger.protocol import Ledger
    from asyncstore.ledger.sqlite.writer import LedgerWriter
    from tests.support.places import Place

pytestmark = pytest.mark.every_loop

# -- recording ---------------------------------------------------------------------------------------------------------


async def test_an_outcome_comes_back_whole(place: Place) -> None:
    instance = instance_of(1)
    instance.study_instance_uid, instance.series_instance_uid = "1.2.3", "1.2.3.4"
    status = Status(0xB000, "coerced <b>", (0x00100010, 0xFFFEE00D))
    outcome = outcome_of(
        instance,
        State.WARNING,
        status,
        reason="Coercion of data elements (0xB000)",
        attempts=2,
        transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN,
        changes=("PatientID set", "padded to an even length"),
        sent_uids=SentUIDs("2.25.1", "2.25.2", None),
    )
    async with place.ledger(clock=lambda: 1600000000.25) as ledger:
        ledger.record(outcome)
        await ledger.flush()
        (row,) = await anyio.to_thread.run_sync(place.rows)
    assert row.to_dict() == {
        "path": path_of(1),
        "state": "warning",
        "sop_class_uid": instance.sop_class_uid,
        "sop_instance_uid": uid_of(1),
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "sent_transfer_syntax_uid": IMPLICIT_VR_LITTLE_ENDIAN,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "size_bytes": 526336,
        "mtime_ns": 10**18,
        "status": "B000",
        "reason": "Coercion of data elements (0xB000)",
        "comment": "coerced <b>",
        "offending_elements": ["00100010", "FFFEE00D"],
        "retryable": False,
        "attempts": 2,
        "losses": 0,
        "set_aside": False,
        "association_number": 3,
        "context_id": 5,
        "bytes_sent": 525336,
        "run": 1,
        "recorded_at": "2020-09-13T12:26:40.250+00:00",
        "changes": ["PatientID set", "padded to an even length"],
        "sent_sop_instance_uid": "2.25.1",
        "sent_study_instance_uid": "2.25.2",
        "sent_series_instance_uid": None,
        "commitment": None,
        "failure_reason": None,
    }
    # A program that reads a report and a ledger finds the same there.
    reported, kept = record_of(outcome), row.to_dict()
    assert {name: kept[name] for name in kept.keys() & reported.keys()} == {
        name: reported[name] for name in kept.keys() & reported.keys()
    }


async def test_outcomes_are_committed_without_being_asked_for(place: Place) -> None:
    async with place.ledger() as ledger:
        ledger.record(stored(1))
        with anyio.fail_after(60):
            while not await anyio.to_thread.run_sync(place.rows):
                await anyio.lowlevel.checkpoint()


async def test_a_full_batch_does_not_wait_for_its_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "COMMIT_SECONDS", 3600.0)
    async with place.ledger() as ledger:
        for number in range(500):
            ledger.record(stored(number))
        with anyio.fail_after(60):
            while len(await anyio.to_thread.run_sync(place.rows)) < 500:
                await anyio.lowlevel.checkpoint()


def test_closing_commits_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "COMMIT_SECONDS", 3600.0)
    with opened(tmp_path / "run.db") as ledger:
        for number in range(1234):
            ledger.record(stored(number))
    assert [row.path for row in rows_of(tmp_path / "run.db")] == [path_of(number) for number in range(1234)]
    assert os.listdir(tmp_path) == ["run.db"]


def test_a_ledger_is_for_its_owner_only(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
        modes = {name: os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path)}
    assert modes == dict.fromkeys(("run.db", "run.db-lock", "run.db-shm", "run.db-wal"), 0o600)


def test_the_last_of_several_outcomes_counts_and_attempts_add_up_over_runs(place: Place) -> None:
    lost = outcome_of(instance_of(1), State.UNKNOWN, None, reason="not answered", retryable=True)
    with place.opened() as ledger:
        ledger.record(lost)
        anyio.run(ledger.flush)
        ledger.record(outcome_of(instance_of(1), State.UNKNOWN, None, attempts=2, retryable=True))
    with place.opened() as ledger:
        ledger.record(outcome_of(instance_of(1), State.FAILED, Status(0xC000), attempts=1, retryable=True))
        ledger.record(outcome_of(instance_of(1), attempts=3))
    (row,) = place.rows()
    assert (row.state, row.attempts, row.run, row.status, row.reason) == (State.STORED, 5, 2, 0, "")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("state", [State.FAILED, State.UNKNOWN, State.LEFT, State.SOURCE_PROBLEM, State.DUPLICATE])
def test_what_is_stored_stays_stored_while_the_file_is_the_same(place: Place, state: State, indexed: bool) -> None:
    with place.opened() as ledger:
        ledger.record(stored(1))
        if not indexed:
            ledger.record(outcome_of(instance_of(1), state, None))
    with place.opened() as ledger:
        ledger.record(outcome_of(instance_of(1), state, None))
        ledger.record(Outcome(State.SOURCE_PROBLEM, path_of(1)))
    assert [row.state for row in place.rows()] == [State.STORED]
    with place.opened() as ledger:
        ledger.record(outcome_of(instance_of(1, size_bytes=2), state, None))
    assert [row.state for row in place.rows()] == [state]


def test_being_left_keeps_the_account_of_an_earlier_failure(place: Place) -> None:
    failed = outcome_of(instance_of(1), State.FAILED, Status(0xA700, "full"), reason="out of resources")
    with place.opened() as ledger:
        ledger.record(failed)
    with place.opened() as ledger:
        ledger.record(outcome_of(instance_of(1), State.LEFT, None, attempts=0))
        ledger.record(outcome_of(instance_of(2), State.LEFT, None, attempts=0))
    assert [(row.state, row.comment) for row in place.rows()] == [
        (State.FAILED, "full"),
        (State.LEFT, ""),
    ]


def test_instances_in_memory_are_told_apart_by_their_uids(place: Place) -> None:
    with place.opened() as ledger:
        for number in (1, 2, 1):
            instance = instance_of(number)
            instance.path = None
            ledger.record(outcome_of(instance))
    assert [(row.path, row.sop_instance_uid) for row in place.rows()] == [
        (None, uid_of(1)),
        (None, uid_of(2)),
    ]


def test_what_an_earlier_run_stored_is_not_written_again(place: Place) -> None:
    with place.opened() as ledger:
        ledger.record(Outcome(State.RESUMED, path_of(1), attempts=0))
    assert place.rows() == []


def test_texts_and_numbers_that_sqlite_cannot_hold_are_recorded_too(tmp_path: Path) -> None:
    odd = instance_of(1, mtime_ns=1 << 64)
    odd.sop_instance_uid = "not\ud800 a uid"
    status = Status(0xC001, "a\udcffb" + "x" * 5000)
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(outcome_of(odd, State.FAILED, status, reason="\udcff\0"))
    assert ledger.failure is None
    (row,) = rows_of(tmp_path / "run.db")
    assert row.comment.startswith("a\\udcffbxxx")
    assert len(row.comment) < 1100
    assert (row.reason, row.sop_instance_uid) == ("\\udcff\0", "not\\ud800 a uid")


def test_more_accounts_than_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "_ACCOUNTS_IN_MEMORY", 7)
    for run in range(2):
        with opened(tmp_path / "run.db") as ledger:
            for number in range(run * 40, run * 40 + 40):
                ledger.record(outcome_of(instance_of(number), State.FAILED, Status(0xC000), reason=f"reason {number}"))
    assert [row.reason for row in rows_of(tmp_path / "run.db")] == [f"reason {number}" for number in range(80)]
    assert {row.sop_class_uid for row in rows_of(tmp_path / "run.db")} == {instance_of(1).sop_class_uid}


def test_more_series_than_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "_PACKED_IN_MEMORY", 3)
    with opened(tmp_path / "run.db") as ledger:
        for number in range(40):
            instance = instance_of(number)
            instance.study_instance_uid, instance.series_instance_uid = uid_of(number // 10), uid_of(number // 2)
            ledger.record(outcome_of(instance))
    rows = [(row.study_instance_uid, row.series_instance_uid) for row in rows_of(tmp_path / "run.db")]
    assert rows == [(uid_of(number // 10), uid_of(number // 2)) for number in range(40)]


def test_what_differs_between_instances_is_not_mixed_up(place: Place) -> None:
    """Everything that instances share stands in one place: each value of it has to be told apart."""
    variants: list[dict[str, Any]] = [
        {},
        {"reason": "one"},
        {"retryable": True},
        {"attempts": 2},
        {"association_number": 4},
        {"context_id": 7},
        {"transfer_syntax_uid": IMPLICIT_VR_LITTLE_ENDIAN},
        {"status": Status(0xA701)},
        {"status": Status(0xA700, "full")},
        {"status": Status(0xA700, "", (0x00100010,))},
        {"state": State.UNKNOWN},
    ]
    usual: dict[str, Any] = {"state": State.FAILED, "status": Status(0xA700)}
    outcomes = [outcome_of(instance_of(number), **(usual | variant)) for number, variant in enumerate(variants * 2)]
    with place.opened() as ledger:
        for outcome in outcomes:
            ledger.record(outcome)
    for row, outcome in zip(place.rows(), outcomes, strict=True):
        assert (row.state, row.reason, row.retryable) == (outcome.state, outcome.reason, outcome.retryable)
        assert (row.attempts, row.association_number) == (outcome.attempts, outcome.association_number)
        assert (row.context_id, row.sent_transfer_syntax_uid) == (outcome.context_id, outcome.transfer_syntax_uid)
        assert outcome.status == Status(row.status or 0, row.comment, row.offending_elements)


# -- paths and UIDs ----------------------------------------------------------------------------------------------------


NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not {0, ord("/")} & set(name) and name.strip(b"."))


@given(names=st.lists(NAMES, min_size=1, max_size=20, unique=True))
def test_paths_come_back_byte_for_byte(names: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "run.db"
    paths = [b"/archive \xff\n/" + name for name in names]
    for _ in range(2):
        with opened(path) as ledger:
            for number, raw in enumerate(paths):
                ledger.record(stored(number, os.fsdecode(raw)))
    assert [os.fsencode(row.path or "") for row in rows_of(path)] == paths


@given(uid=st.from_regex(r"[0-9.]{0,64}", fullmatch=True) | st.text(max_size=64, alphabet=st.characters(codec="utf-8")))
def test_a_packed_uid_comes_back(uid: str) -> None:
    packed = pack_uid(uid)
    assert unpack_uid(packed) == uid
    if uid and not isinstance(packed, str):
        assert len(packed) == (len(uid) + 1) // 2


def test_a_uid_of_digits_and_dots_is_packed() -> None:
    assert pack_uid("1.2.840.10008") == bytearray.fromhex("1a2a840a10008f")


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("a.dcm", "/home/me/a.dcm"),
        ("./a.dcm", "/home/me/a.dcm"),
        ("../a.dcm", "/home/me/../a.dcm"),
        ("/x//y/./z/", "/x/y/z"),
        ("/x/.hidden/..z", "/x/.hidden/..z"),
        ("/x/a\n\udcff ", "/x/a\n\udcff "),
    ],
)
def test_a_path_is_kept_absolute_and_otherwise_as_it_is(path: str, absolute: str) -> None:
    assert ledger_path(path, "/home/me") == absolute


# -- size --------------------------------------------------------------------------------------------------------------


def test_an_instance_takes_at_most_400_bytes(tmp_path: Path) -> None:
    count = 20000
    with opened(tmp_path / "run.db") as ledger:
        for number in range(count):
            instance = instance_of(number)
            instance.study_instance_uid = uid_of(number // 100)
            instance.series_instance_uid = uid_of(number // 20)
            ledger.record(outcome_of(instance))
    with opened(tmp_path / "run.db"):
        pass  # what was not in the index yet enters it
    assert os.path.getsize(tmp_path / "run.db") / count < 300


def test_the_wal_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", 500)
    sizes = []
    with opened(tmp_path / "run.db") as ledger:
        for number in range(10000):
            ledger.record(stored(number))
            if number % 500 == 499:
                anyio.run(ledger.flush)
                sizes.append(os.path.getsize(tmp_path / "run.db-wal"))
    assert max(sizes) < 2 << 20
    assert os.path.getsize(tmp_path / "run.db") > 2 * max(sizes) / 3


# -- failure -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Lets every commit of rows fail, or work again."""
    write_rows = ledger_writer.LedgerWriter.write
    is_broken = False

    def write_or_fail(self: LedgerWriter, entries: Any) -> None:
        if is_broken:
            raise sqlite3.OperationalError("disk I/O error")
        write_rows(self, entries)

    def set_broken(value: bool) -> None:
        nonlocal is_broken
        is_broken = value

    monkeypatch.setattr(ledger_writer.LedgerWriter, "write", write_or_fail)
    return set_broken


def test_a_full_disk_is_told_and_nothing_is_recorded_falsely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_write = ledger_file.open_to_write

    def open_small(*arguments: Any) -> sqlite3.Connection:
        connection = open_to_write(*arguments)
        connection.execute("PRAGMA max_page_count = 120")
        return connection

    flushed = recorded = 0

    async def record_until_it_fails() -> None:
        nonlocal flushed, recorded
        while recorded < 20000:
            for _ in range(300):
                ledger.record(stored(recorded))
                recorded += 1
            await ledger.flush()
            flushed = recorded

    monkeypatch.setattr(sqlite_ledger, "open_to_write", open_small)
    with opened(tmp_path / "run.db") as ledger:
        with pytest.raises(LedgerError, match=r"run\.db' cannot be written: database or disk is full"):
            anyio.run(record_until_it_fails)
        first = ledger.failure
        ledger.record(stored(recorded))
        with pytest.raises(LedgerError):
            anyio.run(ledger.flush)
    assert isinstance(first, LedgerError)
    assert ledger.failure is first
    assert "\n" not in str(first)
    monkeypatch.undo()
    rows = rows_of(tmp_path / "run.db")
    assert 0 < flushed <= len(rows) < recorded
    assert [row.path for row in rows] == [path_of(number) for number in range(len(rows))]
    with opened(tmp_path / "run.db") as ledger:
        for number in range(recorded):
            ledger.record(stored(number))
    assert [row.path for row in rows_of(tmp_path / "run.db")] == [path_of(number) for number in range(recorded)]


def test_what_could_not_be_written_is_written_when_it_can(tmp_path: Path, broken: Callable[[bool], None]) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
        broken(True)
        ledger.record(outcome_of(instance_of(2), State.FAILED, Status(0xC000), reason="one"))
        with pytest.raises(LedgerError, match="disk I/O error"):
            anyio.run(ledger.flush)
        assert ledger.known_instance(uid_of(1)) is not None
        broken(False)
        ledger.record(outcome_of(instance_of(3), State.FAILED, Status(0xC000), reason="one"))
        anyio.run(ledger.flush)
    assert ledger.failure is not None
    assert [(row.sop_instance_uid, row.reason) for row in rows_of(tmp_path / "run.db")] == [
        (uid_of(1), ""),
        (uid_of(2), "one"),
        (uid_of(3), "one"),
    ]


def test_a_ledger_that_cannot_keep_up_has_no_room(tmp_path: Path, broken: Callable[[bool], None]) -> None:
    with opened(tmp_path / "run.db") as ledger:
        assert ledger.has_room
        broken(True)
        for number in range(5000):
            ledger.record(stored(number))
        with pytest.raises(LedgerError):
            anyio.run(ledger.flush)
        assert not ledger.has_room
        broken(False)
        anyio.run(ledger.flush)
        assert ledger.has_room
    assert len(rows_of(tmp_path / "run.db")) == 5000


def test_a_batch_that_fails_in_the_middle_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account_of = ledger_writer.LedgerWriter._account
    fail = True

    def account_or_fail(self: LedgerWriter, outcome: Outcome) -> int:
        if fail and outcome.reason == "reason 3":
            raise sqlite3.OperationalError("disk I/O error")
        return account_of(self, outcome)

    monkeypatch.setattr(ledger_writer.LedgerWriter, "_account", account_or_fail)
    monkeypatch.setattr(buffered, "COMMIT_SECONDS", 3600.0)
    with opened(tmp_path / "run.db") as ledger:
        for number in range(1, 5):
            ledger.record(outcome_of(instance_of(number), State.FAILED, Status(0xC000), reason=f"reason {number}"))
        with pytest.raises(LedgerError):
            anyio.run(ledger.flush)
        assert rows_of(tmp_path / "run.db") == []
        fail = False
    assert [(row.sop_instance_uid, row.reason) for row in rows_of(tmp_path / "run.db")] == [
        (uid_of(number), f"reason {number}") for number in range(1, 5)
    ]


def test_an_index_that_cannot_be_written_is_told_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(sqlite3.Connection):
        def executemany(self, statement: str, values: Any) -> sqlite3.Cursor:
            if is_broken and "hashed" in statement:
                raise sqlite3.OperationalError("disk I/O error")
            return super().executemany(statement, values)

    is_broken = True
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Failing))
    monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", 100)
    with opened(tmp_path / "run.db") as ledger:
        for number in range(900):
            ledger.record(stored(number))
            if number % 300 == 299:
                anyio.run(ledger.flush)
        assert all(ledger.known_instance(uid_of(number)) for number in range(900))
        is_broken = False
        ledger.record(stored(900))
        anyio.run(ledger.flush)
        assert all(ledger.known_instance(uid_of(number)) for number in range(901))
    assert "disk I/O error" in str(ledger.failure)
    assert [row.path for row in rows_of(tmp_path / "run.db")] == [path_of(number) for number in range(901)]


async def test_what_is_committed_reaches_the_disk_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "_SETTLE_SECONDS", 0.0)
    path = anyio.Path(tmp_path / "run.db")
    async with SqliteLedger(path, destination=DESTINATION) as ledger:
        before = (await path.stat()).st_size
        for number in range(100):
            ledger.record(stored(number))
        await ledger.flush()  # the loop below keeps a thread that has much to do from the interpreter
        with anyio.fail_after(60):
            while (await path.stat()).st_size <= before:
                await anyio.lowlevel.checkpoint()


async def test_other_rules_than_those_of_what_is_recorded_are_refused(place: Place) -> None:
    one, other = ({"prepare": {"rules": name, "map": name}} for name in "ab")
    async with place.ledger(options=one):
        pass
    async with place.ledger(options=other) as ledger:  # nothing is recorded yet
        ledger.record(stored(1))

    def look(options: dict[str, Any]) -> None:
        history = open_history(str(place.name), destination=DESTINATION, options=options)
        assert history is not None
        with history:
            pass

    for rules in (one, {"prepare": None}, {}):
        with pytest.raises(LedgerError, match="other rules for their attributes"):
            await place.ledger(options=rules).__aenter__()
        with pytest.raises(LedgerError, match="other rules for their attributes"):
            await anyio.to_thread.run_sync(look, rules)
    grown = {"prepare": other["prepare"] | {"map": "c"}}
    async with place.ledger(options=grown):
        pass
    await anyio.to_thread.run_sync(look, grown)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(LedgerError, match="NUL"):
        open_ledger("a\0b", destination=DESTINATION, options={})


async def test_a_ledger_that_is_refused_leaves_nothing_open(place: Place) -> None:
    async with place.ledger() as ledger:
        with pytest.raises(LedgerError, match="in use"):
            await place.ledger().__aenter__()
        ledger.record(stored(1))
    with pytest.raises(LedgerError, match=r"belongs to .* use another"):
        await place.ledger(destination="B@b:104").__aenter__()
    async with place.ledger() as ledger:
        assert await anyio.to_thread.run_sync(ledger.known_instance, uid_of(1)) is not None


async def test_a_ledger_that_is_closed_cannot_be_flushed(place: Place) -> None:
    ledger = place.ledger()
    async with ledger:
        pass
    with pytest.raises(LedgerError, match="not open"):
        await ledger.flush()


def test_a_clock_that_jumps_changes_nothing_but_times(place: Place) -> None:
    now = 1e9
    times = [1e9, -5.0, 4e9]
    with place.opened(clock=lambda: now) as ledger:
        for number, time in enumerate(times):
            now = time
            ledger.record(stored(number))
        anyio.run(ledger.flush)
        now = 0.0
    rows = place.rows()
    assert [row.recorded_at.timestamp() for row in rows] == times
    assert [row.path for row in rows] == [path_of(number) for number in range(3)]


# -- what is noted of a run --------------------------------------------------------------------------------------------


def test_a_run_is_noted_with_its_options_and_no_secret(place: Place) -> None:
    identity = UserIdentity(2, b"me", b"hunter2")
    options = options_as_data(TransferOptions(associations=3, user_identity=identity))
    with place.opened(options=options, clock=lambda: 1.6e9), place.reader() as reader:
        (run,) = reader.runs()
        assert run.finished_at is None
    with place.opened(), place.reader() as reader:
        first, second = reader.runs()
    assert first.finished_at == first.started_at
    assert (first.pid, second.number, second.options) == (os.getpid(), 2, {})
    assert first.options["associations"] == 3
    assert first.options["user_identity"] == {"kind": 2}
    assert "hunter2" not in json.dumps(first.options)


def test_the_sqlite_ledger_is_a_ledger(tmp_path: Path) -> None:
    ledger: Ledger = SqliteLedger(tmp_path / "run.db", destination=DESTINATION)
    assert ledger.failure is None
    assert ledger.has_room


def test_a_ledger_can_be_read_with_sqlite_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1, "/a/\udcff\n"))
    connection = sqlite3.connect(tmp_path / "run.db")
    select = (
        "SELECT path, sop_instance_uid, transfer_syntax_uid, state, status, reason, study_instance_uid FROM instances"
    )
    rows = connection.execute(select).fetchall()
    connection.close()
    assert rows == [(b"/a/\xff\n", uid_of(1), "1.2.840.10008.1.2.1", "stored", 0, None, None)]
