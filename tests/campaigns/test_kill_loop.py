"""A migration that is killed loses no instance; and the audit that says so finds whatever contradicts it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore.services.references import Reference, encode_report
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.campaigns.kill_audit import (
    COMMIT_SECONDS,
    LATE_SECONDS,
    CommandRun,
    acknowledged_and_kept,
    audit,
    committed_by_peer,
    exit_codes,
    final_states,
    operations,
    read_kept,
    read_rows,
    resends,
    snapshot,
    source_untouched,
)
from tests.campaigns.kill_loop import Round, main, run_loop
from tests.campaigns.kill_plan import Plan, make_plan
from tests.support.fault_plan import Cut, Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.campaigns.kill_audit import Evidence, Finding

pytestmark = pytest.mark.campaign

SECONDS = 600  # it takes 10: only what hangs ends so


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round with three kills, as it was left."""
    faults = (Cut(within=20_000, first=2, every=3),)
    plan = Plan("doctored", "dcmtk", 40, kills=3, associations=2, in_flight=1, faults=faults, is_one_refused=True)
    played = Round(plan, tmp_path_factory.mktemp("round"))
    assert [finding.violations for finding in played.play()] == [[]] * 5
    return played


@pytest.fixture
def evidence(played: Round) -> Evidence:
    assert played.evidence is not None
    return played.evidence


def is_found(evidence: Evidence, check: Callable[[Evidence], Finding], *words: str) -> bool:
    """This check, and no other, finds exactly one violation, and says these words."""
    found = {finding.statement: finding.violations for finding in audit(evidence) if finding.violations}
    violations = found.pop(check(evidence).statement)
    return not found and len(violations) == 1 and all(word in violations[0] for word in words)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(("peer", "seed"), [("dcmtk", 1), ("asyncstore", 2)])
def test_a_migration_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], peer: str, seed: int
) -> None:
    is_good = run_loop(4, seed, 120, tmp_path / "rounds", peer=peer, keep=True)
    said = capsys.readouterr().out
    assert is_good, said
    assert said.count(") holds: ") == 5 * said.count("round ")
    assert said.splitlines()[-1].startswith("4 kills (")


@pytest.mark.timeout(SECONDS)
def test_what_the_ledger_calls_committed_was_reported_so_whenever_it_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_good = run_loop(4, 3, 120, tmp_path / "rounds", is_committed=True, keep=True)
    said = capsys.readouterr().out
    assert is_good, said
    assert said.count(") holds: ") == 6 * said.count("round ")


def test_what_was_never_reported_as_committed_and_what_is_not_committed_are_found(evidence: Evidence) -> None:
    stored = frozenset(row.sop_instance_uid for row in evidence.rows if row.state == "stored")
    good = dataclasses.replace(evidence, committed=stored, reports=[_report(stored)])
    assert committed_by_peer(good).violations == []
    uid = _stored_uid(evidence)
    short = encode_report(
        "2.25.1", [Reference("1.2", each) for each in sorted(stored - {uid})], {}, EXPLICIT_VR_LITTLE_ENDIAN
    )
    assert committed_by_peer(dataclasses.replace(good, reports=[short])).violations == [
        f"{uid} is committed for the ledger, and never was reported"
    ]
    assert committed_by_peer(dataclasses.replace(good, committed=stored - {uid})).violations == [
        f"{uid} is stored and not committed at the end"
    ]


@pytest.mark.timeout(SECONDS)
def test_what_a_killed_run_left_behind_explains_the_round(played: Round, evidence: Evidence) -> None:
    assert sum(run.code == -9 for run in evidence.runs) == played.kills
    assert {row.state for row in evidence.rows} == {"stored", "failed", "skipped"}
    assert len(evidence.requests) >= len({each.sop_instance_uid for each in operations(evidence)}) == 40


def test_a_row_with_another_state_is_found(tmp_path: Path, played: Round, evidence: Evidence) -> None:
    ledger = tmp_path / "run.db"
    shutil.copy(played.ledger, ledger)
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        # The view is what readers may rely on; the tables behind it may change.
        connection.executescript("CREATE TABLE copied AS SELECT * FROM instances; DROP VIEW instances;")
        connection.execute("ALTER TABLE copied RENAME TO instances")
        first = "(SELECT min(rowid) FROM instances WHERE state = 'stored')"
        connection.execute(f"UPDATE instances SET state = 'duplicate' WHERE rowid = {first}")
        connection.commit()
    rows = read_rows(ledger)
    reported = {state: [row.state for row in rows].count(state) for state in {row.state for row in rows}}
    doctored = dataclasses.replace(evidence, rows=rows, reported=reported)
    assert is_found(doctored, final_states, "['duplicate'], not one of")


def test_a_row_that_is_missing_or_twice_is_found(evidence: Evidence) -> None:
    index = next(at for at, row in enumerate(evidence.rows) if row.state == "stored")
    row = evidence.rows[index]
    fewer = {**evidence.reported, "stored": evidence.reported["stored"] - 1}
    more = {**evidence.reported, "stored": evidence.reported["stored"] + 1}
    without = [each for each in evidence.rows if each is not row]
    assert is_found(dataclasses.replace(evidence, rows=without, reported=fewer), final_states, "no row", str(row.path))
    twice = final_states(dataclasses.replace(evidence, rows=[*evidence.rows, row], reported=more)).violations
    assert [words in twice[at] for at, words in enumerate(("['stored', 'stored']", "stored 2 times"))] == [True, True]


def test_a_report_that_counts_otherwise_is_found(evidence: Evidence) -> None:
    reported = {**evidence.reported, "stored": evidence.reported["stored"] - 1}
    assert is_found(dataclasses.replace(evidence, reported=reported), final_states, "`asyncstore report` says")


def test_a_file_that_is_missing_at_the_scp_is_found(tmp_path: Path, played: Round, evidence: Evidence) -> None:
    received, uid = tmp_path / "received", _stored_uid(evidence)
    shutil.copytree(played.directory / "scp" / "received", received)
    for kept in evidence.kept:
        if kept.sop_instance_uid == uid:
            (received / kept.name).unlink()
    doctored = dataclasses.replace(evidence, kept=read_kept(received, evidence.source))
    assert is_found(doctored, acknowledged_and_kept, uid, "not identical at the SCP")


def test_a_byte_that_changed_at_the_scp_is_found(tmp_path: Path, played: Round, evidence: Evidence) -> None:
    received, uid = tmp_path / "received", _stored_uid(evidence)
    shutil.copytree(played.directory / "scp" / "received", received)
    changed = 0
    for kept in evidence.kept:
        if kept.sop_instance_uid == uid:
            data = bytearray((received / kept.name).read_bytes())
            data[-1] ^= 1
            (received / kept.name).write_bytes(data)
            changed += 1
    found = acknowledged_and_kept(dataclasses.replace(evidence, kept=read_kept(received, evidence.source)))
    assert f"{uid} is stored for the ledger, and not identical at the SCP" in found.violations
    assert any(text.startswith(f"{changed} files of {uid} at the SCP differ") for text in found.violations)


def test_an_acknowledgement_that_nobody_saw_is_found(evidence: Evidence) -> None:
    uid = _stored_uid(evidence)
    responses = [entry for entry in evidence.responses if entry.sop_instance_uid != uid]
    doctored = dataclasses.replace(evidence, responses=responses)
    assert acknowledged_and_kept(doctored).violations == [f"{uid} is stored for the ledger, and was never acknowledged"]


def test_a_resend_that_nothing_explains_is_found(evidence: Evidence) -> None:
    last = max(evidence.responses, key=lambda entry: entry.time)
    first = next(each for each in evidence.requests if each.sop_instance_uid == _stored_uid(evidence))
    again = dataclasses.replace(first, association=last.association, message_id=999)
    calm = dataclasses.replace(evidence, requests=[*evidence.requests, again], faulted=frozenset())
    runs = [dataclasses.replace(run, killed_at=None, code=0) for run in evidence.runs]
    found = resends(dataclasses.replace(calm, runs=runs)).violations
    assert any(f"on association {last.association}" in text and "no kill and no fault" in text for text in found)


def test_more_resends_than_were_in_flight_at_a_kill_or_a_fault_are_found(evidence: Evidence) -> None:
    """Three unanswered operations of one association are more than its window of one."""
    requests = [dataclasses.replace(evidence.requests[0], association=1, message_id=number) for number in range(1, 5)]
    run = CommandRun(0, 1, 5.0, -9)
    one = dataclasses.replace(
        evidence, requests=requests, responses=[], runs=[run], associations=2, faulted=frozenset()
    )
    assert resends(one).violations == ["run 1 was killed, and 3 that were in flight were sent again: at most 2"]
    faulted = dataclasses.replace(one, faulted=frozenset({1}))
    assert resends(faulted).violations == [
        "association 1 was ended by a fault, and 3 were sent again: at most 1",
    ]


@pytest.mark.parametrize(("seconds", "violations"), [(0.3, 0), (COMMIT_SECONDS + LATE_SECONDS + 0.2, 1)])
def test_an_answer_that_had_long_been_given_explains_no_resend(
    evidence: Evidence, seconds: float, violations: int
) -> None:
    answer = next(entry for entry in evidence.responses if entry.status == 0)
    request = next(each for each in evidence.requests if each.sop_instance_uid == answer.sop_instance_uid)
    request = dataclasses.replace(request, association=1, message_id=7)
    answer = dataclasses.replace(answer, association=1, message_id=7)
    again = dataclasses.replace(request, association=2, message_id=8)
    runs = [CommandRun(0, 1, answer.time + seconds, -9), CommandRun(1, 2, None, 0)]
    doctored = dataclasses.replace(
        evidence, requests=[request, again], responses=[answer], runs=runs, faulted=frozenset()
    )
    assert len(resends(doctored).violations) == violations
    # The machine may take its time over a kill: the process did nothing more.
    runs[0] = dataclasses.replace(runs[0], killed_at=answer.time + seconds + 5, signalled_at=runs[0].killed_at)
    assert len(resends(doctored).violations) == violations


@pytest.mark.timeout(SECONDS)
def test_a_kill_says_nothing_about_the_instances_in_flight(tmp_path: Path) -> None:
    """The process is killed with requests unanswered, again and again, and no instance is blamed for it."""
    plan = dataclasses.replace(
        make_plan("kills alone", 40, 3, "asyncstore"), faults=(Latency(0.01),), is_one_refused=False
    )
    played = Round(plan, tmp_path)
    played.chance.choices = lambda *_: ["held"]  # type: ignore[method-assign]
    assert [finding for finding in played.play() if finding.violations] == []
    assert played.kills == plan.kills
    assert {(row.losses, row.is_set_aside) for row in read_rows(played.ledger)} == {(0, False)}


@pytest.mark.parametrize("what", ["time", "byte", "name"])
def test_a_source_that_was_touched_is_found(tmp_path: Path, played: Round, evidence: Evidence, what: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(played.root, source)
    assert snapshot(source) == evidence.before
    path = Path(os.fsdecode(evidence.source[7].path.replace(bytes(played.root), bytes(source))))
    if what == "time":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif what == "byte":
        status = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
        os.utime(path, ns=(0, status.st_mtime_ns))
    else:
        status = path.parent.stat()
        (path.parent / "new").touch()
        os.utime(path.parent, ns=(0, status.st_mtime_ns))
    name = "new" if what == "name" else path.name
    assert is_found(dataclasses.replace(evidence, after=snapshot(source)), source_untouched, name)


@pytest.mark.parametrize(
    ("states", "code", "is_right"),
    [
        ({"stored": 41, "failed": 1}, 3, True),
        ({"stored": 41, "failed": 1}, 0, False),
        ({"stored": 40, "skipped": 2}, 0, True),
        ({"stored": 40, "skipped": 2}, 3, False),
        ({"stored": 20, "skipped": 2}, 0, False),
        ({"stored": 20, "left": 22}, 4, True),
        ({"stored": 20, "left": 22}, 3, False),
        ({"stored": 20, "left": 22}, 1, False),
    ],
)
def test_an_exit_code_that_contradicts_the_counts_is_found(
    evidence: Evidence, states: dict[str, int], code: int, is_right: bool
) -> None:
    first = CommandRun(0, evidence.runs[-1].last, None, code, states)
    last = CommandRun(first.last, first.last, None, 3, {"resumed": 39, "skipped": 2, "failed": 1})
    found = exit_codes(dataclasses.replace(evidence, runs=[first, last])).violations
    assert [text.startswith(f"run 1 ended with {code}, ") for text in found] == ([] if is_right else [True])


def test_a_last_run_that_says_all_is_well_and_a_kill_that_was_none_are_found(evidence: Evidence) -> None:
    last = dataclasses.replace(evidence.runs[-1], code=0, states={"resumed": 40, "skipped": 2})
    found = exit_codes(dataclasses.replace(evidence, runs=[*evidence.runs[:-1], last])).violations
    assert found == ["the last run ended with 0, and the ledger has 1 failed"]
    survived = CommandRun(0, 0, 5.0, 0)
    found = exit_codes(dataclasses.replace(evidence, runs=[survived, *evidence.runs])).violations
    assert found == ["run 1 ended with 0, not one of (-9,): nothing reported"]


@pytest.mark.timeout(SECONDS)
def test_a_violation_is_printed_keeps_the_directory_and_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.campaigns.kill_audit.STORED", frozenset(("no-such-state",)))
    monkeypatch.setattr("tests.campaigns.kill_loop.read_kept", lambda *_: [])
    monkeypatch.setattr("tests.campaigns.kill_audit.FAILED", frozenset(("stored",)))
    code = main(["--kills", "1", "--seed", "1", "--instances", "6", "--keep", str(tmp_path), "--peer", "dcmtk"])
    said = capsys.readouterr().out
    assert code == 1
    assert "  (5) VIOLATED: the exit code agrees with the counts" in said
    assert f"kept: {tmp_path / 'round-001'}\n" in said
    assert (tmp_path / "round-001" / "run.db").exists()
    assert said.splitlines()[-1].endswith("VIOLATED")


def test_a_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert make_plan("5/1", 80, 10) == make_plan("5/1", 80, 10)
    assert len({make_plan(f"{seed}/1", 80, 10).faults for seed in range(8)}) == 8


def _stored_uid(evidence: Evidence) -> str:
    return next(row.sop_instance_uid for row in evidence.rows if row.state == "stored")


def _report(uids: Iterable[str]) -> bytes:
    return encode_report("2.25.1", [Reference("1.2", uid) for uid in uids], {}, EXPLICIT_VR_LITTLE_ENDIAN)
