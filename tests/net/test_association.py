"""An association that goes well: what is sent, what is answered, and how it is released."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pydicom
import pytest

from asyncstore.aio.signal import Signal
from asyncstore.dimse.messages import HIGH, CEchoRQ, CEchoRSP
from asyncstore.errors import Aborted, LocalProtocolError, SourceError, StoreFailed
from asyncstore.inputs.opening import instance_from
from asyncstore.instances import source as source_module
from asyncstore.instances.outcome import State
from asyncstore.instances.source import BytesSource
from asyncstore.net import trace, transport
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.services.verification import VerificationProvider
from asyncstore.status import SUCCESS
from asyncstore.trace import TraceEvent
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
)
from asyncstore.upper_layer import framing
from asyncstore.upper_layer.pdu import Abort, AssociateRQ, ReleaseRQ
from asyncstore.upper_layer.user_information import OperationsWindow, UserIdentity
from tests.support import files
from tests.support.associations import (
    CONTEXTS,
    LIMIT_SECONDS,
    MR_IMAGE_STORAGE,
    UNCOMPRESSED,
    ReadPiecewise,
    accepting,
    fragments_of,
    image,
    image_file,
    inside,
    instance,
    instance_in,
    instance_of,
    pattern,
    send,
    take_add_reader_away,
    to,
    with_window,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.operations import Operation
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.scu import Association
    from tests.support.peers import InProcessSCP, RunningOrthanc, RunningPeer

pytestmark = pytest.mark.every_loop

CT_SMALL = files.bundled("CT_small.dcm")
CT_SMALL_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"

# A data set within one fragment, one of several fragments, and one of several runs.
LENGTHS = (1000, 100_000, 3_000_002)


async def store_all(association: Association, instances: Sequence[Instance]) -> list[Outcome]:
    """Store these at the same time; their outcomes, in their order."""
    outcomes: dict[int, Outcome] = {}

    async def store(index: int) -> None:
        outcomes[index] = await association.store(instances[index])

    async with anyio.create_task_group() as group:
        for index in range(len(instances)):
            group.start_soon(store, index)
    return [outcomes[index] for index in range(len(instances))]


# What is stored, and where


async def test_a_file_a_dataset_and_an_instance_are_stored_as_they_are(tmp_path: Path) -> None:
    paths = [image_file(tmp_path / f"{number}.dcm", f"1.2.{number}", 200_000 * number) for number in (1, 2, 3)]
    kept = tmp_path / "kept"
    kept.mkdir()
    async with StorageSCP(output_directory=kept) as scp, to(scp) as association:
        sources: list[Any] = [str(paths[0]), pydicom.dcmread(paths[1]), instance_from(paths[2])]
        for number, source in enumerate(sources, 1):
            outcome = await association.store(source)
            assert (outcome.state, outcome.status, outcome.reason) == (State.STORED, SUCCESS, "")
            assert outcome.message_id == number
            assert outcome.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN
    for number, path in enumerate(paths, 1):
        assert (kept / f"1.2.{number}.dcm").read_bytes().endswith(image(f"1.2.{number}", 200_000 * number))
        assert pydicom.dcmread(kept / f"1.2.{number}.dcm") == pydicom.dcmread(path)


async def test_storescp_of_dcmtk_takes_a_file_and_an_echo(storescp: RunningPeer) -> None:
    async with to(storescp) as association:
        assert await association.echo() == SUCCESS
        outcome = await association.store(CT_SMALL)
        assert (outcome.state, outcome.path) == (State.STORED, str(CT_SMALL))
    (path,) = storescp.received_files()
    assert pydicom.dcmread(path) == pydicom.dcmread(CT_SMALL)


async def test_orthanc_takes_a_file_and_an_echo(orthanc: RunningOrthanc) -> None:
    async with to(orthanc) as association:
        assert await association.echo() == SUCCESS
        assert (await association.store(CT_SMALL)).is_stored
    assert await anyio.to_thread.run_sync(orthanc.sop_instance_uids) == {CT_SMALL_UID}


async def test_storescp_of_pynetdicom_takes_a_file_and_an_echo(pynetdicom_storescp: RunningPeer) -> None:
    async with to(pynetdicom_storescp) as association:
        assert await association.echo() == SUCCESS
        assert (await association.store(CT_SMALL)).is_stored
    (path,) = pynetdicom_storescp.received_files()
    assert pydicom.dcmread(path).PixelData == pydicom.dcmread(CT_SMALL).PixelData


@pytest.mark.parametrize("kind", [BytesSource, ReadPiecewise])
async def test_pynetdicom_decodes_what_it_was_meant_to(
    pynetdicom_server: InProcessSCP, kind: type[BytesSource]
) -> None:
    sent = [instance_of(kind(pattern(length)), f"1.2.{length}") for length in LENGTHS]
    async with to(pynetdicom_server, calling_ae_title="CALLER") as association:
        for each in sent:
            assert (await association.store(each, priority=HIGH)).is_stored
    for number, (each, received) in enumerate(zip(sent, pynetdicom_server.received, strict=True), 1):
        assert received.data_set == pattern(each.data_set_length)
        assert (received.message_id, received.context_id, received.priority) == (number, 1, HIGH)
        assert (received.sop_class_uid, received.sop_instance_uid) == (CT_IMAGE_STORAGE, each.sop_instance_uid)
        assert (received.transfer_syntax_uid, received.calling_ae_title) == (EXPLICIT_VR_LITTLE_ENDIAN, "CALLER")


# Every platform. What is missing is taken away by its name in the module that looks it up.


def _without_preadv(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source_module, "preadv", None)


def _without_nowait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source_module, "rwf_nowait", 0)


def _without_fadvise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source_module, "posix_fadvise", None)


def _without_quickack(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transport, "_QUICKACK", None)


def _without_sendmsg(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transport, "_HAS_SENDMSG", False)


def _without_any(patch: pytest.MonkeyPatch) -> None:
    for take_away in (_without_preadv, _without_nowait, _without_fadvise, _without_quickack, _without_sendmsg):
        take_away(patch)
    take_add_reader_away(patch)


@pytest.mark.parametrize("length", [0, *LENGTHS])
@pytest.mark.parametrize(
    "take_away",
    [
        _without_preadv,
        _without_nowait,
        _without_fadvise,
        _without_quickack,
        _without_sendmsg,
        take_add_reader_away,
        _without_any,
    ],
    ids=["preadv", "RWF_NOWAIT", "posix_fadvise", "TCP_QUICKACK", "sendmsg", "add_reader", "all"],
)
async def test_a_system_without_it_sends_the_same(
    take_away: Callable[[pytest.MonkeyPatch], None], length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch)
    in_a_file = instance_in(tmp_path / "a", length)
    held = bytearray(pattern(length))
    in_memory = instance_of(source_module.HeldSource(str(tmp_path / "a"), 0, length, length, in_a_file.mtime_ns, held))
    with ScriptedSCP() as scp:
        async with to(scp) as association:
            for each in (in_a_file, in_memory):
                assert (await association.store(each)).is_stored
    assert [store.data_set for store in scp.wires[0].stores] == [pattern(length)] * 2


async def test_a_file_that_is_not_in_memory_is_read_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "read_cached", lambda *_: None)
    reads: list[int] = []

    def read(source: source_module.FileSource, fd: int, holes: Sequence[memoryview], at: int, wanted: int) -> bool:
        reads.append(wanted)
        return source_module.read_fully(fd, holes, at) == wanted

    monkeypatch.setattr(source_module.FileSource, "_fill", read)
    with ScriptedSCP() as scp:
        async with to(scp) as association:
            assert (await association.store(instance_in(tmp_path / "a", LENGTHS[-1]))).is_stored
    assert scp.wires[0].stores[0].data_set == pattern(LENGTHS[-1])
    assert reads[0] <= framing.RUN_BYTES
    assert len(reads) == 2 + LENGTHS[-1] // framing.LONG_RUN_BYTES  # each of them waits for the disk


# The window


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_answers_within_the_window_come_in_any_order(order: tuple[int, ...]) -> None:
    def answers_in_order(wire: Wire) -> None:
        stores = wire.read_stores(3)
        for index in order:
            wire.answer(stores[index], 0xB000 + stores[index].message_id)
        wire.answer_release()

    with ScriptedSCP(accepting(answers_in_order, **with_window(3))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=3) as association:
            assert association.window == 3
            outcomes = await store_all(association, [instance(uid=f"1.2.{number}") for number in range(3)])
            assert not association.outstanding
    for outcome in outcomes:
        assert outcome.status is not None
        assert outcome.instance is not None
        assert outcome.status.value == 0xB000 + outcome.message_id
        store = scp.wires[0].stores[outcome.message_id - 1]
        assert store.request.affected_sop_instance_uid == outcome.instance.sop_instance_uid


async def test_no_more_operations_are_outstanding_than_the_window_allows() -> None:
    def answers_every_second(wire: Wire) -> None:
        for _ in range(3):
            stores = wire.read_stores(2)
            wire.sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                wire.sock.recv(1)
            wire.sock.settimeout(LIMIT_SECONDS)
            for store in stores:
                wire.answer(store)
        wire.answer_release()

    with ScriptedSCP(accepting(answers_every_second, **with_window(2))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=16) as association:
            assert association.window == 2
            outcomes = await store_all(association, [instance(uid=f"1.2.{number}") for number in range(6)])
    assert [outcome.is_stored for outcome in outcomes] == [True] * 6


async def test_an_answer_wakes_the_task_that_waits_for_it_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a thousand tasks that call `store` at once cost a million wake-ups."""
    wakes = 0
    wait = Signal.wait

    async def counted(signal: Signal) -> None:
        nonlocal wakes
        await wait(signal)
        wakes += 1

    monkeypatch.setattr(Signal, "wait", counted)
    tasks = 100
    with ScriptedSCP(accepting(Wire.serve_stores, **with_window(4))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=4) as association:
            outcomes = await store_all(association, [instance(uid=f"1.2.{number}") for number in range(tasks)])
    assert all(outcome.is_stored for outcome in outcomes)
    assert wakes < 5 * tasks


@pytest.mark.parametrize(
    ("proposed", "granted", "window"),
    [
        (1, None, 1),
        (16, None, 1),
        (16, OperationsWindow(4, 1), 4),
        (16, OperationsWindow(0, 0), 16),
        (4, OperationsWindow(9, 1), 4),
        (1, OperationsWindow(9, 1), 1),
    ],
    ids=["none proposed", "none granted", "less", "unlimited", "more", "not proposed"],
)
async def test_the_window_is_what_both_agreed_to(proposed: int, granted: OperationsWindow | None, window: int) -> None:
    script = accepting(Wire.serve_stores, operations_window=granted)
    with ScriptedSCP(script) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=proposed) as association:
            assert association.window == window
            outcomes = await store_all(association, [instance(uid=f"1.2.{number}") for number in range(3)])
    assert [outcome.is_stored for outcome in outcomes] == [True] * 3
    request = scp.wires[0].received[0]
    assert isinstance(request, AssociateRQ)
    expected = OperationsWindow(proposed, 1) if proposed > 1 else None
    assert request.user_information.operations_window == expected


async def test_message_ids_begin_again_after_65535() -> None:
    with ScriptedSCP() as scp:
        async with to(scp) as association:
            inside(association).operations._next_message_id = 65534
            outcomes = [await association.store(instance()) for _ in range(4)]
    assert [outcome.message_id for outcome in outcomes] == [65534, 65535, 1, 2]
    assert [store.message_id for store in scp.wires[0].stores] == [65534, 65535, 1, 2]


# The presentation context


@pytest.mark.parametrize("there", UNCOMPRESSED)
@pytest.mark.parametrize("given", UNCOMPRESSED)
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_a_data_set_is_converted_to_the_uncompressed_syntax_that_was_accepted(
    given: str, there: str, tmp_path: Path
) -> None:
    original = pydicom.dcmread(CT_SMALL)
    del original.PixelData  # whose bytes in big endian are others
    data_set = copy.deepcopy(original)
    data_set.file_meta.TransferSyntaxUID = pydicom.uid.UID(given)
    path = tmp_path / "given.dcm"
    encodings = {UNCOMPRESSED[1]: (True, True), UNCOMPRESSED[2]: (False, False)}
    implicit, little = encodings.get(given, (False, True))
    pydicom.dcmwrite(path, data_set, implicit_vr=implicit, little_endian=little, force_encoding=True)
    kept = tmp_path / "kept"
    kept.mkdir()
    contexts = [(CT_IMAGE_STORAGE, (there,))]
    async with StorageSCP(output_directory=kept) as scp, to(scp, contexts=contexts) as association:
        outcome = await association.store(path)
    assert (outcome.state, outcome.path, outcome.transfer_syntax_uid) == (State.STORED, str(path), there)
    assert outcome.instance is not None
    assert outcome.instance.transfer_syntax_uid == given
    received = pydicom.dcmread(kept / f"{CT_SMALL_UID}.dcm")
    assert received.file_meta.TransferSyntaxUID == there
    assert received == original


@pytest.mark.parametrize(
    "contexts",
    [
        [(MR_IMAGE_STORAGE, UNCOMPRESSED)],
        [(CT_IMAGE_STORAGE, ("1.2.840.10008.1.2.4.50",))],
    ],
    ids=["another class", "compressed"],
)
async def test_without_a_context_there_is_an_outcome_and_not_a_byte_is_sent(contexts: list[Any]) -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=contexts) as association:
            outcome = await association.store(CT_SMALL)
    assert (outcome.state, outcome.path, outcome.attempts) == (State.NO_CONTEXT, str(CT_SMALL), 0)
    assert "No presentation context for 'CT Image Storage' has been accepted" in outcome.reason
    assert [type(unit) for unit in scp.wires[0].received] == [AssociateRQ, ReleaseRQ]
    with pytest.raises(StoreFailed, match="No presentation context"):
        outcome.raise_for_failure()


# What the peer answers


@pytest.mark.parametrize(
    ("value", "state", "reason"),
    [
        (0x0000, State.STORED, ""),
        (0xB000, State.WARNING, "Coercion of data elements (0xB000)"),
        (0x0111, State.DUPLICATE, "Duplicate SOP instance (0x0111)"),
        (0xA700, State.FAILED, "Refused: out of resources (0xA700)"),
        (0xC123, State.FAILED, "Error: cannot understand (0xC123)"),
        (0x7777, State.FAILED, "Unknown status (0x7777)"),
    ],
)
async def test_a_status_is_an_outcome_and_the_association_goes_on(value: int, state: State, reason: str) -> None:
    def answers_twice(wire: Wire) -> None:
        wire.answer(wire.read_store(), value)
        wire.answer(wire.read_store())
        wire.answer_release()

    with ScriptedSCP(accepting(answers_twice)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            first = await association.store(instance())
            second = await association.store(instance())
    assert (first.state, first.reason) == (state, reason)
    assert first.status is not None
    assert (first.status.value, first.retryable) == (value, first.status.retryable)
    assert (first.context_id, first.message_id, first.attempts, first.bytes_sent) == (1, 1, 1, 1000)
    assert second.state is State.STORED


async def test_a_dataset_whose_uid_cannot_be_sent_is_an_outcome_and_the_association_goes_on() -> None:
    data_set = pydicom.dcmread(CT_SMALL)
    with pytest.warns(UserWarning, match="UI"):
        data_set.SOPInstanceUID = "1.2.\u00e9"
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            broken = instance_from(CT_SMALL)
            broken.sop_instance_uid = data_set.SOPInstanceUID
            outcome = await association.store(broken)
            assert not association.outstanding
            assert (await association.store(CT_SMALL)).is_stored
    assert outcome.state is State.SOURCE_PROBLEM
    assert len(scp.wires[0].stores) == 1


async def test_an_echo_waits_for_room_among_the_stores() -> None:
    has_looked = threading.Event()

    def answers_an_echo(wire: Wire) -> None:
        store = wire.read_store()
        wire.wait(has_looked)
        wire.answer(store)
        echo = wire.read_message()
        assert isinstance(echo.message, CEchoRQ)
        wire.send_message(echo.context_id, CEchoRSP(echo.message.message_id, SUCCESS))
        wire.answer_release()

    with ScriptedSCP(accepting(answers_an_echo)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            async with anyio.create_task_group() as group:
                group.start_soon(association.store, instance())
                await anyio.wait_all_tasks_blocked()
                assert len(association.outstanding) == association.window
                group.start_soon(anyio.to_thread.run_sync, has_looked.set)
                assert await association.echo() == SUCCESS
            assert not association.outstanding


@pytest.mark.parametrize("next_is", ["a store", "an echo"])
async def test_a_request_of_the_peer_is_answered_while_ours_waits_for_room(next_is: str) -> None:
    has_looked = threading.Event()

    def asks_before_it_answers(wire: Wire) -> None:
        store = wire.read_store()
        wire.wait(has_looked)
        wire.send_message(wire_contexts[VERIFICATION], CEchoRQ(9))
        answer = wire.read_message()
        assert isinstance(answer.message, CEchoRSP)
        wire.answer(store)
        if next_is == "a store":
            wire.answer(wire.read_store())
        else:
            echo = wire.read_message()
            assert isinstance(echo.message, CEchoRQ)
            wire.send_message(echo.context_id, CEchoRSP(echo.message.message_id, SUCCESS))
        wire.answer_release()

    wire_contexts = {abstract_syntax: 2 * number + 1 for number, (abstract_syntax, _) in enumerate(CONTEXTS)}
    providers = {VERIFICATION: VerificationProvider()}
    with ScriptedSCP(accepting(asks_before_it_answers)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, providers=providers) as association:
            assert association.window == 1
            async with anyio.create_task_group() as group:
                group.start_soon(association.store, instance())
                await anyio.wait_all_tasks_blocked()
                if next_is == "a store":
                    group.start_soon(association.store, instance(uid="1.2.3.5"))
                else:
                    group.start_soon(association.echo)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(anyio.to_thread.run_sync, has_looked.set)
            assert not association.outstanding


async def test_an_echo_needs_a_context_for_verification() -> None:
    with ScriptedSCP() as scp:
        async with to(scp, contexts=CONTEXTS[:2]) as association:
            with pytest.raises(LocalProtocolError, match="Verification"):
                await association.echo()
            assert (await association.store(instance())).is_stored


# What is asked for


async def test_the_request_says_who_we_are_and_what_we_propose() -> None:
    identity = UserIdentity(2, b"user", b"secret")
    with ScriptedSCP() as scp:
        association = to(
            scp,
            calling_ae_title="CALLER",
            maximum_length=32768,
            window=7,
            user_identity=identity,
            allow_plaintext_credentials=True,
        )
        async with association:
            pass
    request = scp.wires[0].received[0]
    assert isinstance(request, AssociateRQ)
    assert (request.called_ae_title, request.calling_ae_title) == ("SCRIPTED", "CALLER")
    proposed = tuple((context.abstract_syntax, context.transfer_syntaxes) for context in request.presentation_contexts)
    assert proposed == CONTEXTS
    assert request.user_information.maximum_length == 32768
    assert request.user_information.operations_window == OperationsWindow(7, 1)
    assert request.user_information.user_identity == identity


@pytest.mark.parametrize(
    ("maximum_length", "own", "largest"), [(4096, 0, 4090), (4097, 0, 4090), (16384, 512, 506), (0, 1024, 1018)]
)
async def test_no_fragment_is_larger_than_the_peer_or_we_allow(maximum_length: int, own: int, largest: int) -> None:
    script = accepting(Wire.serve_stores, maximum_length=maximum_length)
    with ScriptedSCP(script) as scp:
        async with to(scp, maximum_send_length=own) as association:
            assert (await association.store(instance(20_000))).is_stored
    assert max(len(fragment.data) for fragment in fragments_of(scp.received)) == largest


async def test_the_smallest_maximum_cuts_the_command_set_too() -> None:
    with ScriptedSCP(accepting(Wire.serve_stores, maximum_length=8)) as scp:
        async with to(scp) as association:
            assert (await association.store(instance(20))).is_stored
    assert {len(fragment.data) for fragment in fragments_of(scp.received)} == {2}
    assert scp.wires[0].stores[0].data_set == pattern(20)


# Its end


async def test_a_released_association_takes_nothing_more() -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            assert (await association.store(instance())).is_stored
            await association.release()
            await association.release()
            await association.abort()
            for call in (lambda: association.store(instance()), association.echo):
                with pytest.raises(LocalProtocolError, match="was released"):
                    await call()
            assert association.failure is None


async def test_an_association_with_operations_outstanding_is_not_released() -> None:
    sent = anyio.Event()
    with ScriptedSCP(accepting(lambda wire: wire.drain())) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            await send(association, instance(), lambda *_: sent.set())
            with pytest.raises(LocalProtocolError, match="would lose operations that are outstanding: 1"):
                await association.release()
            assert list(association.outstanding) == [1]
    assert not sent.is_set()


async def test_who_sends_is_told_before_the_first_byte_and_when_the_answer_has_come() -> None:
    told: list[tuple[str, int, int]] = []
    answered = anyio.Event()

    def on_begin(operation: Operation) -> None:
        told.append(("begins", operation.message_id, operation.is_sent))

    def on_response(operation: Operation, response: Response, data_set: bytes | None) -> None:
        told.append(("is answered", operation.message_id, response.status.value))
        assert data_set is None
        answered.set()

    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            await send(association, instance(), on_response, on_begin=on_begin)
            await answered.wait()
    assert told == [("begins", 1, False), ("is answered", 1, 0)]


async def test_a_source_that_cannot_be_read_is_an_outcome(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"no DICOM file")
    with ScriptedSCP() as scp:
        async with to(scp) as association:
            for path, given in (
                (text, text),
                (tmp_path / "missing", os.fsencode(tmp_path / "missing")),
                (tmp_path, str(tmp_path)),
            ):
                outcome = await association.store(given)
                assert (outcome.state, outcome.path, outcome.attempts) == (State.SOURCE_PROBLEM, str(path), 0)
                assert outcome.reason
            nameless = await association.store(pydicom.Dataset())
            assert (nameless.state, nameless.path) == (State.SOURCE_PROBLEM, None)
            with pytest.raises(SourceError):
                nameless.raise_for_failure()
            unencodable = pydicom.dcmread(CT_SMALL)
            unencodable.add_new(0x00091001, "ZZ", b"no such VR")
            outcome = await association.store(unencodable)
            assert (outcome.state, outcome.path, outcome.attempts) == (State.SOURCE_PROBLEM, None, 0)
            assert "\n" not in outcome.reason
            assert (await association.store(os.fsencode(CT_SMALL))).is_stored


async def test_a_file_meta_that_differs_from_its_data_set_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    differing = instance()
    differing.path, differing.meta_difference = "a.dcm", "the one has 1.2, the other 1.3"
    with caplog.at_level(logging.WARNING, "asyncstore.net"), ScriptedSCP() as scp:
        async with to(scp) as association:
            for each in (differing, instance()):
                assert (await association.store(each)).is_stored
    (event,) = [record.msg for record in caplog.records]
    assert isinstance(event, trace.MetaDiffers)
    assert (event.path, event.difference) == ("a.dcm", "the one has 1.2, the other 1.3")


async def test_an_outcome_keeps_no_bytes_of_a_file_that_the_association_read(tmp_path: Path) -> None:
    path = image_file(tmp_path / "a.dcm")
    given = instance_from(path)
    contexts = [(CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    with ScriptedSCP() as scp:
        async with to(scp) as association:
            outcome = await association.store(path)
            assert (await association.store(given)).is_stored
        async with to(scp, contexts=contexts) as association:
            converted = await association.store(path)
        async with to(scp, contexts=[(MR_IMAGE_STORAGE, UNCOMPRESSED)]) as association:
            not_sent = await association.store(path)
    for each in (outcome, converted, not_sent):
        assert each.instance is not None
        assert each.instance.source.view() is None
        assert files.read_all(each.instance.source) == image()
        each.instance.source.close()
    assert given.source.view() is not None  # it is the caller's, who may want to send it elsewhere


async def test_what_happens_is_logged_as_events(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "asyncstore.net"), ScriptedSCP() as scp:
        association = to(scp)
        inside(association).trace_number = 7
        async with association:
            await association.store(instance())
    events = [record.msg for record in caplog.records if isinstance(record.msg, TraceEvent)]
    assert [type(event) for event in events] == [
        trace.Requesting,
        trace.RequestSent,
        trace.Accepted,
        trace.StoreSent,
        trace.Answered,
        trace.Releasing,
    ]
    assert {event.association_number for event in events} == {7}


async def test_sources_of_our_own_making_are_read_like_any_other() -> None:
    class Source(ReadPiecewise):
        """One that is never in memory."""

        closed = 0

        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            return wait and super().read_into(holes, offset)

        def close(self) -> None:
            Source.closed += 1

    contexts = [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)), (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    with ScriptedSCP() as scp:
        async with to(scp, contexts=contexts) as association:
            assert (await association.store(instance_of(Source(pattern(LENGTHS[-1]))))).is_stored
    assert scp.wires[0].stores[0].data_set == pattern(LENGTHS[-1])
    assert Source.closed == 1


@pytest.mark.parametrize("given", [None, False, 0])
async def test_a_source_that_does_not_say_that_it_filled_the_holes_is_not_sent(given: Any) -> None:
    class Source(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            super().read_into(holes, offset)
            return given  # type: ignore[no-any-return]

    with ScriptedSCP() as scp:
        async with to(scp) as association:
            outcome = await association.store(instance_of(Source(pattern(1000))))
            assert (await association.store(instance())).is_stored
    assert (outcome.state, outcome.attempts) == (State.SOURCE_PROBLEM, 0)
    assert f"read_into returned {given!r}, not True" in outcome.reason
    assert len(scp.wires[0].stores) == 1


async def test_it_says_in_a_line_how_it_is() -> None:
    def aborts_at_the_second(wire: Wire) -> None:
        wire.answer(wire.read_store())
        wire.read_store()
        wire.send(Abort(0, 0))

    with ScriptedSCP(accepting(aborts_at_the_second)) as scp, anyio.fail_after(LIMIT_SECONDS):
        association = to(scp)
        name = f"SCRIPTED@{scp.host}:{scp.port}"
        assert repr(association) == f"<Association {name}, not established>"
        async with association:
            assert repr(association) == f"<Association {name}, established, 0 of 1 operations outstanding>"
            await association.store(instance())
            with pytest.raises(Aborted):
                await association.store(instance())
            assert repr(association).startswith(f"<Association {name}, failed: association aborted by the peer")
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            await association.release()
            assert repr(association) == f"<Association SCRIPTED@{scp.host}:{scp.port}, released>"
