"""Transfers of archives: the same instances as from the tree that was packed, with the same account and ledger."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore import RetryPolicy, Selection, State, Transfer, TransferOptions
from asyncstore.status import SUCCESS, Status
from tests.support.archives import KINDS, dicom, members, write_any, write_same_names
from tests.support.transfers import KeepingSCP, check_account, on_one_loop, outcomes_of, peer_at, transfer_to, uid_of

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome

LARGE = random.Random(1).randbytes(3_000_000)


async def send(scp: KeepingSCP, sources: Any, **options: Any) -> tuple[Transfer, list[Outcome]]:
    ledger = options.pop("ledger", None)
    if ledger is None:
        transfer = transfer_to(scp, sources, **options)
    else:
        retry = RetryPolicy.for_ledger(first_wait_seconds=0.01, cap_seconds=0.05)
        transfer = Transfer(peer_at(scp), sources, options=TransferOptions(retry=retry, **options), ledger=ledger)
    outcomes = await outcomes_of(transfer)
    return transfer, outcomes


@pytest.mark.every_loop
@pytest.mark.parametrize("name", KINDS)
async def test_each_member_has_its_outcome_under_its_own_path(name: str, tmp_path: Path) -> None:
    content = {**members(200), "study/large.dcm": dicom(1000, pixels=LARGE), "notes.txt": b"hello"}
    path = write_any(tmp_path / name, content)
    async with KeepingSCP() as scp:
        transfer, outcomes = await send(scp, path)
    check_account(transfer, outcomes, [f"{path}!/{member}" for member in content])
    assert scp.uids == {uid_of(number): 1 for number in (*range(1, 201), 1000)}
    assert [outcome.path for outcome in outcomes if not outcome.is_stored] == [f"{path}!/notes.txt"]
    assert transfer.report.states[State.SKIPPED] == 1
    assert transfer.report.failed == 0


@on_one_loop
@pytest.mark.parametrize("name", KINDS)
async def test_a_second_run_with_the_ledger_sends_only_what_is_new(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, members(50))
    ledger = tmp_path / "run.db"
    async with KeepingSCP() as scp:
        await send(scp, [str(path)], ledger=ledger)
        transfer, outcomes = await send(scp, [str(path)], ledger=ledger)
        assert transfer.report.states == {State.RESUMED: 50}
        assert {outcome.path for outcome in outcomes} == {f"{path}!/{member}" for member in members(50)}
        write_any(path, members(51))
        transfer, outcomes = await send(scp, [str(path)], ledger=ledger)
    assert transfer.report.states[State.STORED] == 51  # another archive: all its members are others


@on_one_loop
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
async def test_members_of_one_name_are_sent_each_and_resumed_each(name: str, tmp_path: Path) -> None:
    path = write_same_names(tmp_path / name, "a.dcm", [dicom(1), dicom(2), dicom(3)])
    ledger = tmp_path / "run.db"
    answers = {uid_of(2): Status(0xA900)}
    async with KeepingSCP(lambda arrival: answers.get(arrival.request.affected_sop_instance_uid, SUCCESS)) as scp:
        _, outcomes = await send(scp, str(path), ledger=ledger)
        assert {outcome.path: outcome.state for outcome in outcomes} == {
            f"{path}!/a.dcm": State.STORED,
            f"{path}!/a (2).dcm": State.FAILED,
            f"{path}!/a (3).dcm": State.STORED,
        }
        answers.clear()
        transfer, _ = await send(scp, str(path), ledger=ledger)
        assert transfer.report.states == {State.RESUMED: 2, State.STORED: 1}
        await send(scp, f"{path}!/a (3).dcm")
    assert scp.uids == {uid_of(1): 1, uid_of(2): 2, uid_of(3): 2}


@on_one_loop
@pytest.mark.parametrize("name", KINDS)
async def test_a_run_that_stopped_goes_on_in_the_middle_of_an_archive(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, members(300))
    ledger = tmp_path / "run.db"
    async with KeepingSCP() as scp:
        transfer = Transfer(peer_at(scp), [path], ledger=ledger)
        taken = 0
        async with transfer:
            async for _ in transfer:
                taken += 1
                if taken == 100:
                    break
        first = transfer.report.stored
        assert first >= 100
        transfer, _ = await send(scp, [path], ledger=ledger)
    assert transfer.report.states[State.RESUMED] == first
    assert scp.uids == {uid_of(number): 1 for number in range(1, 301)}


@on_one_loop
@pytest.mark.parametrize("name", KINDS)
async def test_members_that_failed_can_be_sent_by_their_paths(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, members(30))
    refused = {uid_of(number) for number in (3, 17, 30)}
    answer: dict[str, Status] = dict.fromkeys(refused, Status(0xA900))
    async with KeepingSCP(lambda arrival: answer.get(arrival.request.affected_sop_instance_uid, SUCCESS)) as scp:
        _, outcomes = await send(scp, path)
        failed = [outcome.path for outcome in outcomes if outcome.state is State.FAILED]
        assert len(failed) == 3
        answer.clear()
        transfer, outcomes = await send(scp, failed)
    check_account(transfer, outcomes, [str(each) for each in failed])
    assert transfer.report.stored == 3


@on_one_loop
async def test_a_second_file_in_an_archive_with_a_stored_uid_is_compared(tmp_path: Path) -> None:
    other = dicom(1, modality="MR")
    for name in KINDS:
        path = write_any(tmp_path / name, {"one": dicom(1), "same": dicom(2)})
        again = write_any(tmp_path / f"again.{name}", {"other": other, "same": dicom(2)})
        async with KeepingSCP() as scp:
            await send(scp, [path], ledger=tmp_path / f"{name}.db")
            _, outcomes = await send(scp, [again], ledger=tmp_path / f"{name}.db")
        assert {(outcome.state, outcome.stored_path) for outcome in outcomes} == {
            (State.CONFLICT, f"{path}!/one"),
            (State.DUPLICATE, f"{path}!/same"),
        }


@on_one_loop
async def test_an_archive_in_a_directory_is_passed_over_unless_it_is_asked_for(tmp_path: Path) -> None:
    ledger = tmp_path / "run.db"
    source = tmp_path / "source"
    source.mkdir()
    (source / "x.dcm").write_bytes(dicom(500))
    for at, name in enumerate(KINDS):
        write_any(source / name, {f"{number}": dicom(number) for number in range(10 * at + 1, 10 * at + 11)})
    async with KeepingSCP() as scp:
        transfer, _ = await send(scp, [source], ledger=ledger)
        assert transfer.report.states == {State.STORED: 1, State.SKIPPED: 4}
        assert transfer.report.archives_opened == 0
        transfer, _ = await send(scp, [source], ledger=ledger, selection=Selection(archives=True))
        assert transfer.report.states == {State.RESUMED: 1, State.STORED: 40}
        assert transfer.report.archives_opened == 4
        transfer, _ = await send(scp, [source], ledger=ledger, selection=Selection(archives=True))
        assert transfer.report.states == {State.RESUMED: 41}


@on_one_loop
async def test_many_archives_are_read_one_after_another(tmp_path: Path) -> None:
    paths = [
        write_any(tmp_path / f"{at}.{KINDS[at % 4]}", {"a": dicom(3 * at + 1), "b/c": dicom(3 * at + 2)})
        for at in range(200)
    ]
    async with KeepingSCP() as scp:
        transfer, _ = await send(scp, iter(paths))
    assert transfer.report.states == {State.STORED: 400}


@on_one_loop
@pytest.mark.parametrize("name", KINDS)
async def test_a_member_is_sent_again_after_an_association_was_lost(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, {**members(20), "large": dicom(1000, pixels=LARGE)})
    aborted: set[str] = set()

    def answer(arrival: Any) -> Status:
        uid = arrival.request.affected_sop_instance_uid
        if uid not in aborted:
            aborted.add(uid)
            return Status(0x0110)  # processing failure: once more, later
        return SUCCESS

    async with KeepingSCP(answer) as scp:
        transfer, _ = await send(scp, path)
    assert transfer.report.states == {State.STORED: 21}
    assert all(count == 2 for count in scp.uids.values())


@on_one_loop
@pytest.mark.parametrize("name", KINDS)
async def test_a_damaged_archive_fails_with_one_line_and_others_go_on(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, members(5))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    whole = write_any(tmp_path / f"whole.{name}", {"x": dicom(100)})
    async with KeepingSCP() as scp:
        transfer, outcomes = await send(scp, [path, whole])
    (problem,) = [outcome for outcome in outcomes if outcome.path == str(path)]
    assert problem.state is State.SOURCE_PROBLEM
    assert problem.reason.startswith("cannot be read: the ")
    assert scp.uids[uid_of(100)] == 1
    assert transfer.report.failed >= 1


@on_one_loop
@pytest.mark.parametrize("name", KINDS)
async def test_studies_in_an_archive_stay_together(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, members(20))
    async with KeepingSCP() as scp:
        transfer, _ = await send(scp, path, keep_together="study")
    assert transfer.report.stored == 20
