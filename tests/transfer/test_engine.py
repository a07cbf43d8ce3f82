"""Transfer: every kind of source arrives, each instance with exactly one outcome."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pydicom
import pytest

from asyncstore.dimse.messages import HIGH, LOW
from asyncstore.errors import SourceError
from asyncstore.inputs.opening import instance_from
from asyncstore.instances import source as source_module
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import State
from asyncstore.instances.source import BytesSource
from asyncstore.net import trace
from asyncstore.net.invoker import STREAMED_AFTER_BYTES
from asyncstore.net.peer import Peer
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer import outcomes as outcomes_module
from asyncstore.transfer import supervisor, work
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.pending import Pending
from asyncstore.transfer.pool import Pool
from asyncstore.transfer.supervisor import Supervisor
from asyncstore.transfer.trace import MoreMetaDiffer, NotStored
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_BASELINE,
    STORAGE_SOP_CLASSES,
)
from asyncstore.upper_layer.items import PresentationContextResult
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRQ, DataTF
from asyncstore.upper_layer.user_information import UserInformation
from tests.support import files
from tests.support.transfers import (
    LIMIT_SECONDS,
    LOSSLESS_JPEG,
    KeepingSCP,
    check_account,
    collect,
    instance,
    on_one_loop,
    outcomes_of,
    transfer_to,
    uid_of,
    write_files,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival
    from asyncstore.trace import TraceEvent

pytestmark = pytest.mark.every_loop

CLASSES = list(STORAGE_SOP_CLASSES)


def all_once(first: int, last: int) -> Counter[str]:
    return Counter(uid_of(number) for number in range(first, last + 1))


# -- sources -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("associations", [None, 1, 3])
async def test_a_directory_arrives(tmp_path: Path, associations: int | None) -> None:
    paths = write_files(tmp_path / "a", 40) + write_files(tmp_path / "b", 40, first=41)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path, associations=associations)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert scp.uids == all_once(1, 80)
    assert transfer.report.stored == transfer.report.found == 80
    assert transfer.report.attempts == transfer.report.answers == 80
    assert transfer.report.sent_bytes == transfer.report.stored_bytes == transfer.report.found_bytes > 0
    assert transfer.report.scan_finished
    assert transfer.report.stopped_because is None


async def test_outcomes_that_are_ready_are_taken_at_once(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 200)
    outcomes: list[Outcome] = []
    turns = 0
    async with KeepingSCP() as scp, transfer_to(scp, tmp_path) as transfer:
        async for outcome in transfer:
            outcomes += [outcome, *transfer.take_ready()]
            turns += 1
        assert transfer.take_ready() == []
    check_account(transfer, outcomes, paths)
    assert 0 < turns < len(paths)


@pytest.mark.parametrize("make", [lambda paths: paths, iter, lambda paths: [Path(path) for path in paths]])
async def test_paths_arrive(tmp_path: Path, make: Any) -> None:
    paths = write_files(tmp_path, 5)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, make(paths))
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert scp.uids == all_once(1, 5)


async def test_one_path_as_bytes_arrives(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, 1)
    async with KeepingSCP() as scp:
        (outcome,) = await outcomes_of(transfer_to(scp, path.encode()))
    assert (outcome.state, outcome.path) == (State.STORED, path)


async def test_instances_and_data_sets_arrive(tmp_path: Path) -> None:
    data_set = pydicom.dcmread(files.bundled("CT_small.dcm"))
    (path,) = write_files(tmp_path, 1)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [instance_from(path), instance(2), data_set])
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert scp.uids == Counter([uid_of(1), uid_of(2), str(data_set.SOPInstanceUID)])
    assert {outcome.path for outcome in outcomes} == {path, None}


async def test_a_large_instance_shows_its_progress_and_is_counted_once(tmp_path: Path) -> None:
    length = 3 * STREAMED_AFTER_BYTES
    large = Instance(
        None, CT_IMAGE_STORAGE, uid_of(1), EXPLICIT_VR_LITTLE_ENDIAN, 0, length, BytesSource(bytes(length)), length, 0
    )
    sent_before_the_answer = 0
    async with StorageSCP() as scp:
        transfer = transfer_to(scp, [large], associations=1)

        def on_store(_: Arrival) -> Status:
            nonlocal sent_before_the_answer
            (worker,) = transfer._pool.workers
            sent_before_the_answer = transfer.report.sent_bytes + worker.association.streamed_bytes
            return SUCCESS

        scp.on_store = on_store
        await outcomes_of(transfer)
    assert sent_before_the_answer >= length - 2 * STREAMED_AFTER_BYTES
    assert transfer.report.sent_bytes == length


async def test_files_that_hold_no_instance_have_an_outcome_too(tmp_path: Path) -> None:
    write_files(tmp_path / "directory", 2)
    (tmp_path / "directory" / "notes.txt").write_text("found beside them")
    named = tmp_path / "named.txt"
    named.write_text("named")
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [tmp_path / "directory", named, tmp_path / "missing"])
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    states = {Path(outcome.path or "").name: outcome.state for outcome in outcomes}
    assert states["notes.txt"] is State.SKIPPED
    assert states["named.txt"] is State.SOURCE_PROBLEM
    assert states["missing"] is State.SOURCE_PROBLEM
    assert (transfer.report.stored, transfer.report.failed, transfer.report.found) == (2, 2, 2)


async def test_nothing_to_send_opens_no_association(tmp_path: Path) -> None:
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path)
        assert await outcomes_of(transfer) == []
        assert scp.associations == 0
    assert transfer.report.scan_finished


async def test_an_endless_source_is_read_no_further_ahead_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAXIMUM_WAITING", 20)
    monkeypatch.setattr(outcomes_module, "_MAXIMUM_UNREAD", 20)
    produced = received = most_ahead = 0

    async def sources() -> AsyncIterator[Instance]:
        nonlocal produced
        while True:
            produced += 1
            await anyio.lowlevel.checkpoint()
            yield instance(produced)

    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, sources(), associations=1, window=4) as transfer:
                async for outcome in transfer:
                    assert outcome.is_stored
                    received += 1
                    most_ahead = max(most_ahead, produced - received)
                    if received == 300:
                        break
    assert most_ahead < 100
    assert transfer.report.stored + transfer.report.left == transfer.report.found
    assert scp.stored == transfer.report.stored >= 300


async def test_a_caller_that_is_slow_slows_the_transfer_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAXIMUM_WAITING", 20)
    monkeypatch.setattr(outcomes_module, "_MAXIMUM_UNREAD", 20)
    paths = write_files(tmp_path, 300)
    (tmp_path / "between").mkdir()
    for number in range(100):
        (tmp_path / "between" / f"{number}.txt").write_text("no DICOM file")
    seen: list[Outcome] = []
    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, tmp_path, window=4) as transfer:
                async for outcome in transfer:
                    seen.append(outcome)
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()
                    assert transfer.report.finished - len(seen) < 200
    check_account(transfer, seen)
    assert transfer.report.stored == len(paths)
    assert transfer.report.states[State.SKIPPED] == 100


async def test_several_tasks_may_take_the_outcomes_of_one_transfer(tmp_path: Path) -> None:
    write_files(tmp_path, 200)
    taken: list[list[Outcome]] = [[], []]

    async def take(transfer: Transfer, outcomes: list[Outcome]) -> None:
        async for outcome in transfer:
            outcomes.append(outcome)
            await anyio.lowlevel.checkpoint()

    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, tmp_path) as transfer, anyio.create_task_group() as group:
                for outcomes in taken:
                    group.start_soon(take, transfer, outcomes)
    check_account(transfer, [outcome for outcomes in taken for outcome in outcomes])
    assert transfer.report.stored == 200


async def test_a_generator_may_wait_for_the_outcome_of_what_it_gave(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 4)
    async with KeepingSCP() as scp:
        stored = anyio.Semaphore(0)

        async def one_after_the_other() -> AsyncIterator[str]:
            for path in paths:
                yield path
                await stored.acquire()

        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, one_after_the_other()) as transfer:
                async for _ in transfer:
                    stored.release()
    assert transfer.report.stored == 4


async def test_what_a_callers_iterator_raises_is_raised_after_the_outcomes() -> None:
    def sources() -> Iterator[Instance]:
        yield from (instance(number) for number in range(1, 6))
        raise ValueError("no more")

    seen: list[Outcome] = []
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, sources())
        with pytest.raises(ValueError, match="no more"):
            await collect(transfer, seen)
    check_account(transfer, seen)
    assert transfer.report.found == transfer.report.stored + transfer.report.left
    assert isinstance(transfer.report.stopped_because, ValueError)


@on_one_loop
async def test_a_cancellation_of_what_a_callers_iterator_waits_for_is_raised_as_an_error() -> None:
    async def sources() -> AsyncIterator[Instance]:
        yield instance(1)
        upload = asyncio.get_running_loop().create_future()
        upload.cancel()
        await upload

    seen: list[Outcome] = []
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, sources())
        with pytest.raises(SourceError, match="was cancelled") as caught:
            await collect(transfer, seen)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert transfer.report.stopped_because is caught.value
    assert transfer.report.found == transfer.report.stored + transfer.report.left


async def test_a_group_of_errors_that_a_callers_iterator_raises_comes_out_as_it_is() -> None:
    group = ExceptionGroup("of the caller's", [KeyError("a"), ValueError("b")])

    async def asynchronous() -> AsyncIterator[Instance]:
        yield instance(1)
        raise group

    def ordinary() -> Iterator[Instance]:
        yield instance(1)
        raise group

    for sources in (asynchronous(), ordinary()):
        async with KeepingSCP() as scp:
            with pytest.raises(ExceptionGroup) as raised:
                await outcomes_of(transfer_to(scp, sources))
        assert (raised.value.message, raised.value.exceptions) == (group.message, group.exceptions)


async def test_an_error_of_our_own_comes_out_without_the_groups_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Pool, "_established", fails)
    async with KeepingSCP() as scp:
        with pytest.raises(ZeroDivisionError):
            await outcomes_of(transfer_to(scp, [instance(1)]))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom
async def test_a_uid_that_no_message_has_room_for_costs_the_other_instances_nothing() -> None:
    odd = pydicom.dcmread(files.bundled("CT_small.dcm"))
    odd.SOPClassUID = "1.2.840." + "1" * 62
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, [instance(1), odd, instance(2)])
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    assert scp.uids == all_once(1, 2)
    (problem,) = (outcome for outcome in outcomes if not outcome.is_stored)
    assert problem.state is State.SOURCE_PROBLEM
    assert "SOP Class UID" in problem.reason


def test_a_transfer_is_made_without_an_event_loop_and_its_options_by_keyword_come_first() -> None:
    transfer = Transfer(Peer("pacs.example", 104), ["/nowhere"], associations=3, window=1)
    assert (transfer.options.associations, transfer.options.window) == (3, 1)
    assert transfer.report.finished == 0


# -- cold files --------------------------------------------------------------------------------------------------------


@on_one_loop
async def test_large_files_on_a_slow_disk_do_not_stall_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(tmp_path, 12, padding_bytes=400_000)
    read_into = source_module.FileSource.read_into

    def slow(self: source_module.FileSource, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        if not wait:
            return False
        waiting.add(threading.get_ident())
        return read_into(self, holes, offset)

    waiting: set[int] = set()  # threads in which a disk was waited for
    monkeypatch.setattr(source_module.FileSource, "read_into", slow)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path, associations=4)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 12
    assert waiting
    assert threading.get_ident() not in waiting


# -- presentation contexts ---------------------------------------------------------------------------------------------

MODES: list[dict[str, Any]] = [{}, {"associations": 1}, {"only_needed_contexts": True}]


@on_one_loop
@pytest.mark.parametrize("options", MODES, ids=["auto", "one association", "needed contexts only"])
@pytest.mark.parametrize("only_implicit", [False, True], ids=["any syntax", "implicit only"])
async def test_130_sop_classes_in_one_directory_all_arrive(
    tmp_path: Path, options: dict[str, Any], only_implicit: bool
) -> None:
    paths = write_files(tmp_path, 260, sop_classes=CLASSES[:130])
    async with KeepingSCP(transfer_syntaxes=[IMPLICIT_VR_LITTLE_ENDIAN] if only_implicit else None) as scp:
        if only_implicit and options.get("only_needed_contexts"):
            options = {**options, "only_transfer_syntax": IMPLICIT_VR_LITTLE_ENDIAN}
        transfer = transfer_to(scp, tmp_path, **options)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 260
    assert scp.uids == all_once(1, 260)
    assert transfer.report.associations_established <= 20


def accepts_only_twenty(wire: Wire) -> None:
    """A peer that has room for so many contexts, and does not say why it refuses the others."""
    request = wire.expect(AssociateRQ)
    results = tuple(
        PresentationContextResult(context.context_id, 0 if place < 20 else 2, context.transfer_syntaxes[0])
        for place, context in enumerate(request.presentation_contexts)
    )
    wire.send(AssociateAC(request.called_ae_title, request.calling_ae_title, results, UserInformation()))
    wire.serve_stores()


@on_one_loop
@pytest.mark.parametrize("options", MODES, ids=["auto", "one association", "needed contexts only"])
async def test_a_peer_that_accepts_only_so_many_contexts_at_a_time_gets_everything(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    paths = write_files(tmp_path, 130, sop_classes=CLASSES[:130])
    with ScriptedSCP(accepts_only_twenty) as scp:
        transfer = transfer_to(scp, tmp_path, **options)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 130


@on_one_loop
@pytest.mark.parametrize("options", MODES, ids=["auto", "one association", "needed contexts only"])
async def test_sop_classes_that_the_peer_does_not_take_are_told_and_the_others_arrive(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    paths = write_files(tmp_path, 130, sop_classes=CLASSES[:130])
    async with KeepingSCP(sop_classes=CLASSES[:65]) as scp:
        transfer = transfer_to(scp, tmp_path, **options)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: 65, State.NO_CONTEXT: 65}
    assert transfer.report.associations_established <= 10
    refused = [outcome for outcome in outcomes if outcome.state is State.NO_CONTEXT]
    assert all(outcome.attempts == 0 and "No presentation context" in outcome.reason for outcome in refused)


async def test_a_kind_that_is_refused_alone_does_not_stop_the_others(tmp_path: Path) -> None:
    """With needed contexts only, the first association may be accepted without any."""
    refused = write_files(tmp_path / "private", 3, sop_classes=["1.2.3.4"])
    taken = write_files(tmp_path / "ct", 3, first=4)
    arrived = anyio.Event()

    async def sources() -> AsyncIterator[str]:
        for path in refused:
            yield path
        await arrived.wait()
        for path in taken:
            yield path

    async with KeepingSCP() as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer_to(scp, sources(), only_needed_contexts=True) as transfer:
                outcomes = []
                async for outcome in transfer:
                    outcomes.append(outcome)
                    arrived.set()
    check_account(transfer, outcomes, [*refused, *taken])
    assert transfer.report.states == {State.NO_CONTEXT: 3, State.STORED: 3}
    assert transfer.report.stopped_because is None


@pytest.mark.parametrize("convert", [True, False])
async def test_what_the_peer_does_not_read_is_converted_unless_that_is_unwanted(tmp_path: Path, convert: bool) -> None:
    own = write_files(tmp_path, 1, transfer_syntax_uid=LOSSLESS_JPEG)
    uncompressed = write_files(tmp_path, 1, first=2)
    syntaxes = [LOSSLESS_JPEG, IMPLICIT_VR_LITTLE_ENDIAN]
    async with KeepingSCP(transfer_syntaxes=syntaxes) as scp:
        transfer = transfer_to(scp, tmp_path, convert=convert)
        outcomes = {outcome.path: outcome for outcome in await outcomes_of(transfer)}
    assert outcomes[own[0]].transfer_syntax_uid == LOSSLESS_JPEG
    outcome = outcomes[uncompressed[0]]
    if convert:
        assert (outcome.state, outcome.transfer_syntax_uid) == (State.STORED, IMPLICIT_VR_LITTLE_ENDIAN)
    else:
        assert (outcome.state, outcome.attempts) == (State.NO_CONTEXT, 0)


async def test_only_the_chosen_transfer_syntax_is_sent(tmp_path: Path) -> None:
    write_files(tmp_path, 1, transfer_syntax_uid=JPEG_BASELINE)
    write_files(tmp_path, 2, first=2)
    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, tmp_path, only_transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN)
        await outcomes_of(transfer)
    assert transfer.report.states == {State.STORED: 2, State.NO_CONTEXT: 1}
    assert {arrival.transfer_syntax_uid for arrival in scp.arrivals} == {IMPLICIT_VR_LITTLE_ENDIAN}


@pytest.mark.parametrize("priority", [LOW, HIGH])
async def test_the_priority_is_the_one_that_was_asked_for(tmp_path: Path, priority: int) -> None:
    write_files(tmp_path, 2)
    async with KeepingSCP() as scp:
        await outcomes_of(transfer_to(scp, tmp_path, priority=priority))
    assert [arrival.request.priority for arrival in scp.arrivals] == [priority, priority]


async def test_what_is_announced_is_what_was_asked_for(tmp_path: Path) -> None:
    write_files(tmp_path, 1, padding_bytes=50_000)
    with ScriptedSCP() as scp:
        await outcomes_of(transfer_to(scp, tmp_path, calling_ae_title="MIGRATE", window=7, maximum_send_length=4096))
    request = scp.wires[0].received[0]
    assert isinstance(request, AssociateRQ)
    assert (request.calling_ae_title, request.called_ae_title) == ("MIGRATE", "ANY-SCP")
    window = request.user_information.operations_window
    assert window is not None
    assert window.invoked == 7
    assert max(len(unit.encode()) - 6 for unit in scp.received if isinstance(unit, DataTF)) <= 4096


# -- associations ------------------------------------------------------------------------------------------------------


async def test_never_more_associations_are_open_than_were_asked_for(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 300, sop_classes=CLASSES[:130])
    async with KeepingSCP(maximum_associations=1) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1)
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 300
    assert transfer.report.associations_established == scp.associations >= 3


@on_one_loop
async def test_a_study_is_never_on_two_associations_where_that_is_asked_for(tmp_path: Path) -> None:
    study_of = {}
    for number in range(300):
        study = f"1.2.3.{number % 7}"
        (path,) = write_files(tmp_path / str(number % 5), 1, first=number, study=study)
        study_of[path] = study

    async def answers_when_there_are_several(arrival: Arrival) -> Status:
        while scp.associations < 3:
            await anyio.lowlevel.checkpoint()
        return SUCCESS

    async with KeepingSCP(answers_when_there_are_several) as scp:
        transfer = transfer_to(scp, tmp_path, associations=4, window=1, keep_together="study")
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, study_of)
    carriers: dict[str, set[int]] = {}
    for outcome in outcomes:
        carriers.setdefault(study_of[outcome.path or ""], set()).add(outcome.association_number)
    assert all(len(numbers) == 1 for numbers in carriers.values())
    assert len(set.union(*carriers.values())) > 1


async def test_the_same_uid_is_never_in_flight_twice() -> None:
    in_flight: Counter[str] = Counter()

    def answers_later(arrival: Any) -> Any:
        uid = arrival.request.affected_sop_instance_uid
        in_flight[uid] += 1
        assert in_flight[uid] == 1

        async def answer() -> Any:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            in_flight[uid] -= 1
            return SUCCESS

        return answer()

    async with KeepingSCP(answers_later) as scp:
        transfer = transfer_to(scp, [instance(number % 3) for number in range(60)], associations=3)
        outcomes = await outcomes_of(transfer)
    assert len(outcomes) == 60
    assert scp.uids == {uid_of(number): 20 for number in range(3)}


# -- the supervisor ----------------------------------------------------------------------------------------------------


async def test_the_supervisor_looks_less_and_less_often_while_nothing_moves_and_in_time_for_what_is_due() -> None:
    watching = Transfer(Peer("127.0.0.1", 104), [])._supervisor

    def ticks(count: int, *, is_calm: bool = True) -> list[float]:
        found = []
        for _ in range(count):
            watching._tick_seconds = watching._next_tick_seconds(100.0, is_calm=is_calm)
            found.append(round(watching._tick_seconds, 3))
        return found

    assert ticks(5) == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert ticks(2, is_calm=False) == [0.025, 0.025]
    watching._destination.hold_until = 100.07
    assert ticks(3) == [0.05, 0.07, 0.07]
    watching._destination.hold_until = 99.0
    watching._work.retry(Pending(instance(), ""), 100.001)
    assert ticks(2) == [0.025, 0.025]


async def test_a_lone_outcome_is_handed_out_although_the_supervisor_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one_and_no_end() -> AsyncIterator[Instance]:
        yield instance()
        await anyio.sleep_forever()

    def sleeps(_: Supervisor, now: float, *, is_calm: bool) -> float:
        return 3600.0 if is_calm else supervisor._TICK_SECONDS

    monkeypatch.setattr(Supervisor, "_next_tick_seconds", sleeps)
    async with KeepingSCP() as scp, transfer_to(scp, one_and_no_end()) as transfer:
        with anyio.fail_after(LIMIT_SECONDS):
            assert (await anext(transfer)).is_stored


# -- what a user is told -----------------------------------------------------------------------------------------------


async def test_strict_about_the_source_what_is_doubtful_fails_and_the_rest_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_files(tmp_path, 12)
    Path(paths[0]).write_bytes(files.dicom_file(body=files.data_set(sop_instance_uid="1.2.3.9")))
    Path(paths[1]).write_bytes(files.dicom_file(body=files.element(0x00100010, b"PN", b"Doe^Jane")))
    meta = files.file_meta(sop_instance_uid="1.02.3")
    Path(paths[2]).write_bytes(files.dicom_file(meta=meta, body=files.data_set(sop_instance_uid="1.02.3")))
    with caplog.at_level(logging.WARNING, "asyncstore.transfer"):
        async with KeepingSCP() as scp:
            transfer = transfer_to(scp, tmp_path, strict_source=True)
            outcomes = await outcomes_of(transfer)
    failed = {outcome.path: outcome for outcome in outcomes if not outcome.is_stored}
    assert failed.keys() == set(paths[:3])
    assert {(outcome.state, outcome.attempts, outcome.note) for outcome in failed.values()} == {
        (State.SOURCE_PROBLEM, 0, "")
    }
    assert [failed[path].reason.split(",")[0].split(":")[0] for path in paths[:3]] == [
        f"the File Meta Information has the SOP Instance UID {files.INSTANCE_UID}",
        "the data set has no SOP Class UID",
        "the SOP Instance UID is not well-formed",
    ]
    assert (len(scp.arrivals), transfer.report.failed, transfer.report.found) == (9, 3, 12)
    assert [type(record.msg) for record in caplog.records] == [NotStored] * 3


@pytest.mark.parametrize(
    ("differing", "kinds"), [(0, []), (1, [trace.MetaDiffers]), (9, [trace.MetaDiffers, MoreMetaDiffer])]
)
async def test_a_file_meta_that_differs_from_its_data_set_is_told_once_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, differing: int, kinds: list[type[TraceEvent]]
) -> None:
    for path in write_files(tmp_path, 12)[:differing]:
        Path(path).write_bytes(files.dicom_file(body=files.data_set(sop_instance_uid="1.2.3.9")))
    with caplog.at_level(logging.WARNING, "asyncstore.transfer"):
        async with KeepingSCP() as scp:
            await outcomes_of(transfer_to(scp, tmp_path))
    told: list[Any] = [record.msg for record in caplog.records]
    assert [type(event) for event in told] == kinds
    if told:
        assert files.INSTANCE_UID in told[0].difference
        assert "1.2.3.9" in told[0].difference
        assert os.path.dirname(told[0].path) == str(tmp_path)
    assert sum(getattr(event, "count", 1) for event in told) == differing


async def test_associations_that_have_nothing_to_send_retire_but_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncstore.transfer.pool.IDLE_SECONDS", 0.05)
    more = anyio.Event()

    async def bursts() -> AsyncIterator[Instance]:
        for number in range(1, 301):
            yield instance(number)
        await more.wait()
        yield instance(301)

    async with KeepingSCP() as scp:
        transfer = transfer_to(scp, bursts(), associations=4)
        with anyio.fail_after(LIMIT_SECONDS):
            async with transfer:
                while transfer.report.stored < 300 or transfer.report.associations_open != 1:
                    await anyio.lowlevel.checkpoint()
                established = transfer.report.associations_established
                more.set()
                while transfer.report.stored < 301:
                    await anyio.lowlevel.checkpoint()
        # A sender that has time for it may open a second one, if it has never been open.
        assert transfer.report.associations_established <= max(established, 2)
