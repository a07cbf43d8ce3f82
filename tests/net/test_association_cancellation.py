"""Stopped in the middle: by cancellation, by an exception, by a file that is no longer what it was, by another task.

What a peer must see then is A-ABORT or the end of the connection, never the last fragment of a data set.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asyncstore.errors import AssociationLost, AsyncStoreError, LocalProtocolError, SourceChanged, SourceError
from asyncstore.inputs import opening
from asyncstore.instances import source as source_module
from asyncstore.instances.outcome import Outcome, State
from asyncstore.instances.source import BytesSource, FileSource
from asyncstore.net import link, source_reader
from asyncstore.preparation import convert as convert_module
from asyncstore.preparation.spool import NoTemporaryFile
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.pdu import Abort, AssociateRQ, DataTF, ReleaseRQ
from tests.support.associations import (
    LIMIT_SECONDS,
    TINY_SECONDS,
    ReadPiecewise,
    accepting,
    connect_stalling,
    descriptors,
    fragments_of,
    has_last_data_fragment,
    image_file,
    inside,
    instance,
    instance_in,
    instance_of,
    pattern,
    send,
    set_timeouts,
    stalling,
    tasks,
    tiny,
    to,
    units_of,
    with_window,
)
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from asyncstore.services.scu import Association

pytestmark = pytest.mark.every_loop

SMALL_MAXIMUM = 206
# A command set of 102 bytes, and 450 in fragments of 200, 200 and 50: 4 PDUs.
MESSAGE_BYTES = 12 + 102 + 3 * 12 + 450
LARGE = 8 << 20


class Hearing:
    """A script that accepts the association and keeps every byte that comes then."""

    def __init__(self) -> None:
        self.stream = b""

    def __call__(self, wire: Wire) -> None:
        wire.accept(maximum_length=SMALL_MAXIMUM)
        self.stream = wire.read_bytes(1 << 30)

    def check(self) -> None:
        """Nothing but whole PDUs and one A-ABORT, or whole PDUs and a piece of one; never a whole data set."""
        units = list(units_of(self.stream))
        rest = self.stream[sum(len(unit.encode()) for unit in units) :]
        assert not has_last_data_fragment(units)
        if not rest:
            assert isinstance(units.pop(), Abort)
        assert all(isinstance(unit, DataTF) for unit in units)


async def is_cancelled(call: Callable[[], Any], when: anyio.Event) -> None:
    """Call, and cancel it when the event is set."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await when.wait()
                scope.cancel()

            group.start_soon(cancel)
            await call()
            pytest.fail("it was not cancelled")


@pytest.mark.parametrize("at", [0, 1, 6, 50, 113, 114, 115, 200, 325, 326, 327, 500, 537, 538, 539, 560, 599])
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
async def test_cancelled_at_any_byte_of_a_message_a_store_never_looks_whole(
    at: int, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing = Hearing()
    each = instance(450) if in_memory else instance_in(tmp_path / "a", 450)
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        before = tasks()
        async with to(scp, connect=connect_stalling) as association:
            transport = stalling(association)
            transport.stall_after(at)
            await is_cancelled(lambda: association.store(each), transport.has_stalled)
            assert isinstance(association.failure, AssociationLost)
            assert association.failure.outstanding == (1,)
            with pytest.raises(AssociationLost, match="cancelled in the middle of a message"):
                await association.store(instance())
        assert tasks() == before
    hearing.check()


async def test_the_message_of_these_tests_has_the_length_that_they_take_it_for() -> None:
    hearing = Hearing()
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            await send(association, instance(450), lambda *_: None)
    units = list(units_of(hearing.stream))
    assert sum(len(unit.encode()) for unit in units if isinstance(unit, DataTF)) == MESSAGE_BYTES
    assert [len(fragment.data) for fragment in fragments_of(units)] == [102, 200, 200, 50]


@pytest.mark.parametrize("at", [0, 50, 250, 599])
async def test_cancelled_from_outside_the_block_ends_in_the_same_way(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hearing = Hearing()
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        before = tasks()
        with anyio.CancelScope() as scope:
            async with to(scp, connect=connect_stalling) as association, anyio.create_task_group() as group:
                transport = stalling(association)
                transport.stall_after(at)
                group.start_soon(association.store, instance(450))
                await transport.has_stalled.wait()
                scope.cancel()
        assert scope.cancelled_caught
        assert inside(association).transport.is_closed
        assert tasks() == before
    hearing.check()


@pytest.mark.parametrize("count", [1, 1_000_000])
async def test_cancelled_in_a_large_message_to_a_slow_peer_it_is_aborted(count: int, tmp_path: Path) -> None:
    has_read, cancelled = threading.Event(), threading.Event()
    stream: list[bytes] = []

    def reads_some(wire: Wire) -> None:
        begin = wire.read_bytes(count)
        has_read.set()
        wire.wait(cancelled)
        stream.append(begin + wire.read_bytes(1 << 30))

    each = instance_in(tmp_path / "a", LARGE)
    with ScriptedSCP(accepting(reads_some), receive_buffer_bytes=8192) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            inside(association).on_failure = cancelled.set
            async with anyio.create_task_group() as group:
                group.start_soon(association.store, each)
                await anyio.to_thread.run_sync(has_read.wait, LIMIT_SECONDS)
                group.cancel_scope.cancel()
    units = list(units_of(stream[0]))
    assert isinstance(units[-1], Abort)
    assert not has_last_data_fragment(units)
    assert b"".join(unit.encode() for unit in units) == stream[0]


async def test_cancelled_while_it_waits_for_the_answer_the_others_go_on() -> None:
    is_sent = anyio.Event()

    def answers_both_late(wire: Wire) -> None:
        for store in wire.read_stores(2):
            wire.answer(store)
        wire.answer_release()

    with ScriptedSCP(accepting(answers_both_late, **with_window(2))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=2) as association:
            async with anyio.create_task_group() as group:
                group.start_soon(is_cancelled, lambda: association.store(instance(uid="1.2.1")), is_sent)
                await anyio.wait_all_tasks_blocked()
                is_sent.set()
            assert list(association.outstanding) == [1]
            assert (await association.store(instance(uid="1.2.2"))).is_stored
            assert not association.outstanding


async def test_cancelled_while_it_waits_for_room_nothing_was_begun() -> None:
    is_waiting = anyio.Event()
    go_on = threading.Event()

    def answers_late(wire: Wire) -> None:
        store = wire.read_store()
        wire.wait(go_on)
        wire.answer(store)
        wire.answer(wire.read_store())
        wire.answer_release()

    with ScriptedSCP(accepting(answers_late)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            answered = anyio.Event()
            await send(association, instance(uid="1.2.1"), lambda *_: answered.set())
            async with anyio.create_task_group() as group:
                group.start_soon(is_cancelled, lambda: association.store(instance(uid="1.2.2")), is_waiting)
                await anyio.wait_all_tasks_blocked()
                is_waiting.set()
            go_on.set()
            assert (await association.store(instance(uid="1.2.3"))).is_stored
            assert answered.is_set()
    uids = [store.request.affected_sop_instance_uid for store in scp.wires[0].stores]
    assert uids == ["1.2.1", "1.2.3"]


async def test_what_a_cancelled_read_still_writes_never_reaches_another_message() -> None:
    """The thread that reads a slow file cannot be stopped: it writes into its holes whenever the disk answers."""
    is_reading, goes_on, has_written = threading.Event(), threading.Event(), threading.Event()

    class Slow(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            if not wait:
                return False
            is_reading.set()
            assert goes_on.wait(LIMIT_SECONDS)
            for hole in holes:
                hole[:] = b"!" * len(hole)
            has_written.set()
            return True

    class AtTheSameTime(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            super().read_into(holes, offset)
            if wait:
                goes_on.set()
                assert has_written.wait(LIMIT_SECONDS)
            return wait

    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            cancel = anyio.Event()
            async with anyio.create_task_group() as group:
                slow = instance_of(Slow(bytes(1000)))
                group.start_soon(is_cancelled, lambda: association.store(slow), cancel)
                await anyio.to_thread.run_sync(is_reading.wait, LIMIT_SECONDS)
                cancel.set()
            assert (await association.store(instance_of(AtTheSameTime(pattern(1000))))).is_stored
    assert scp.wires[0].stores[0].data_set == pattern(1000)


async def test_a_file_that_a_thread_opens_after_the_store_was_cancelled_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_opening, goes_on = threading.Event(), threading.Event()
    open_for_reading = source_module.open_for_reading

    def opens_slowly(path: str) -> int:
        is_opening.set()
        assert goes_on.wait(LIMIT_SECONDS)
        return open_for_reading(path)

    monkeypatch.setattr(source_module, "open_for_reading", opens_slowly)
    monkeypatch.setattr(source_reader.SourceReader, "read_now", lambda *_: False)
    each = instance_in(tmp_path / "a", 200_000)
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            before = descriptors()
            cancel = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(is_cancelled, lambda: association.store(each), cancel)
                await anyio.to_thread.run_sync(is_opening.wait, LIMIT_SECONDS)
                cancel.set()
            goes_on.set()
            await is_over(lambda: descriptors() == before)
            assert association.failure is None


@pytest.mark.parametrize("where", ["path", "conversion", "reading"])
async def test_threads_that_hang_in_files_are_not_taken_from_the_programs_own(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_hanging, goes_on = threading.Event(), threading.Event()

    def hangs(*_: Any) -> Any:
        is_hanging.set()
        assert goes_on.wait(LIMIT_SECONDS)
        raise SourceError("it was given up long ago")

    monkeypatch.setattr(source_reader.SourceReader, "read_now", lambda *_: False)
    each: Any = instance_in(tmp_path / "b", 1000)
    contexts = [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    if where == "path":
        each = image_file(tmp_path / "a.dcm")
        monkeypatch.setattr(opening, "read_head", hangs)
    elif where == "conversion":
        contexts = [(CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,))]
        monkeypatch.setattr(convert_module, "convert", hangs)
    else:
        monkeypatch.setattr(FileSource, "read_into", hangs)
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=contexts) as association:
            limiter = anyio.to_thread.current_default_thread_limiter()
            async with anyio.create_task_group() as group:
                group.start_soon(association.store, each)
                while not is_hanging.is_set():
                    await anyio.lowlevel.checkpoint()
                assert limiter.borrowed_tokens == 0
                group.cancel_scope.cancel()
            assert limiter.borrowed_tokens == 0
            goes_on.set()


async def is_over(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    while not condition():
        await anyio.lowlevel.checkpoint()


async def test_cancelled_while_a_thread_reads_in_the_middle_of_a_message_it_is_aborted() -> None:
    is_reading, goes_on = threading.Event(), threading.Event()

    class SlowLater(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            if offset and not wait:
                return False
            if offset:
                is_reading.set()
                assert goes_on.wait(LIMIT_SECONDS)
            return super().read_into(holes, offset)

    with ScriptedSCP(accepting(Wire.drain)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            cancel = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(is_cancelled, lambda: association.store(instance_of(SlowLater(bytes(LARGE)))), cancel)
                await anyio.to_thread.run_sync(is_reading.wait, LIMIT_SECONDS)
                cancel.set()
        goes_on.set()
    assert isinstance(scp.wires[0].received[-1], Abort)
    assert not has_last_data_fragment(scp.wires[0].received)


@pytest.mark.parametrize("slow", ["path", "conversion"])
async def test_cancelled_while_a_thread_prepares_the_instance_nobody_waits_for_the_thread(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_at_it, goes_on = threading.Event(), threading.Event()

    def never_ready(*_: object) -> Instance:
        is_at_it.set()
        assert goes_on.wait(LIMIT_SECONDS)
        return instance()

    if slow == "path":
        monkeypatch.setattr(opening, "read_head", never_ready)
    else:
        monkeypatch.setattr(convert_module, "convert", never_ready)
    path = image_file(tmp_path / "a.dcm")
    contexts = [(CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=contexts) as association:
            cancel = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(is_cancelled, lambda: association.store(path), cancel)
                await anyio.to_thread.run_sync(is_at_it.wait, LIMIT_SECONDS)
                cancel.set()
            goes_on.set()
    assert [type(unit) for unit in scp.received] == [AssociateRQ, ReleaseRQ]


@pytest.mark.parametrize("at", [0, 20, 79])
async def test_cancelled_in_the_middle_of_an_echo_the_association_is_aborted_after_the_pdu(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing = Hearing()
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, connect=connect_stalling) as association:
            transport = stalling(association)
            transport.stall_after(at)
            await is_cancelled(association.echo, transport.has_stalled)
            with pytest.raises(AssociationLost, match="cancelled"):
                await association.store(instance())
    units = list(units_of(hearing.stream))
    assert b"".join(unit.encode() for unit in units) == hearing.stream
    assert [type(unit) for unit in units] == [DataTF] * (at > 0) + [Abort]


async def test_an_echo_to_a_peer_that_has_gone_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    has_failed = threading.Event()

    def closes(wire: Wire) -> None:
        wire.wait(has_failed)

    with ScriptedSCP(accepting(closes)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, connect=connect_stalling) as association:
            stalling(association).stall_after(20)
            async with anyio.create_task_group() as group:
                group.start_soon(_is_lost, association.echo)
                await stalling(association).has_stalled.wait()
                has_failed.set()


async def _is_lost(call: Callable[[], Any]) -> None:
    with pytest.raises(AssociationLost):
        await call()


@pytest.mark.parametrize("why", ["cancelled", "never answered", "a wrong answer"])
async def test_a_failed_association_is_aborted_at_once_though_its_block_goes_on(why: str, tmp_path: Path) -> None:
    has_read, has_failed, has_seen_the_end = threading.Event(), threading.Event(), threading.Event()

    def sees_the_end(wire: Wire) -> None:
        if why == "cancelled":
            wire.read_bytes(100_000)
            has_read.set()
            wire.wait(has_failed)
        else:
            store = wire.read_store()
            if why == "a wrong answer":
                wire.answer(store, message_id=999)
        stream.append(wire.read_bytes(1 << 30))
        has_seen_the_end.set()

    stream: list[bytes] = []
    limit = tiny(dimse_seconds=TINY_SECONDS) if why == "never answered" else tiny()
    with ScriptedSCP(accepting(sees_the_end), receive_buffer_bytes=8192) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, timeouts=limit) as association:
            inside(association).on_failure = has_failed.set
            if why == "cancelled":
                async with anyio.create_task_group() as group:
                    group.start_soon(association.store, instance(LARGE))
                    await anyio.to_thread.run_sync(has_read.wait, LIMIT_SECONDS)
                    group.cancel_scope.cancel()
            else:
                with pytest.raises(AsyncStoreError):
                    await association.store(instance())
            assert await anyio.to_thread.run_sync(has_seen_the_end.wait, LIMIT_SECONDS / 2)
            assert inside(association).transport.is_closed
            with pytest.raises(AsyncStoreError):
                await association.release()
    assert stream[0].count(Abort(0, 0).encode()) == 1
    assert stream[0].endswith(Abort(0, 0).encode())


# Exceptions


class Mistake(Exception):
    """Of whoever uses the association."""


async def makes_a_mistake(association: Association, is_busy: bool = False) -> None:
    async with association:
        if is_busy:
            await send(association, instance(), lambda *_: None)
        raise Mistake


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "outstanding"])
async def test_an_exception_that_leaves_the_block_aborts_and_stays_what_it_is(is_busy: bool) -> None:
    def is_aborted(wire: Wire) -> None:
        if is_busy:
            wire.read_store()
        wire.expect(Abort)
        wire.expect_closed()

    with ScriptedSCP(accepting(is_aborted)) as scp, anyio.fail_after(LIMIT_SECONDS):
        before = tasks()
        with pytest.raises(Mistake) as caught:
            await makes_a_mistake(to(scp), is_busy)
        assert type(caught.value) is Mistake
        assert tasks() == before


async def test_what_ended_the_association_leaves_the_block_ungrouped() -> None:
    def closes(wire: Wire) -> None:
        wire.read_store()

    with ScriptedSCP(accepting(closes)) as scp, anyio.fail_after(LIMIT_SECONDS):
        with pytest.raises(AssociationLost) as caught:
            async with to(scp) as association:
                await association.store(instance())
        assert not isinstance(caught.value, BaseExceptionGroup)
        assert caught.value is association.failure


# Sources


def fails_with(error: Exception) -> type[ReadPiecewise]:
    """A source that cannot be read to its end."""

    class Failing(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            if offset:
                raise error
            return super().read_into(holes, offset)

    return Failing


class Shrinking(FileSource):
    """A file of which only the beginning is left when the rest is to be read."""

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        if offset:
            os.truncate(self.path, offset)
        return super().read_into(holes, offset, wait=wait)


class Rewritten(FileSource):
    """A file that somebody writes to while it is read, without making it shorter."""

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        if offset:
            os.utime(self.path, ns=(0, self.mtime_ns + 1_000_000_000))
        return super().read_into(holes, offset, wait=wait)


def _file(kind: type[FileSource], path: Path) -> Instance:
    each = instance_in(path, LARGE)
    return instance_of(kind(str(path), 0, LARGE, LARGE, each.source.mtime_ns), path=str(path))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [
        ("shrinks", SourceChanged, "changed|ended before"),
        ("is rewritten", SourceChanged, "was written to"),
        ("vanishes", SourceChanged, "gone"),
        ("breaks", SourceError, "cannot read .*: Input/output error"),
    ],
)
async def test_a_source_that_changes_in_the_middle_of_its_message_aborts_and_takes_nothing_back(
    what: str, kind: type[SourceError], text: str, tmp_path: Path
) -> None:
    broken = {
        "shrinks": lambda: _file(Shrinking, tmp_path / "a"),
        "is rewritten": lambda: _file(Rewritten, tmp_path / "a"),
        "vanishes": lambda: instance_of(fails_with(SourceChanged("gone"))(bytes(LARGE))),
        "breaks": lambda: instance_of(fails_with(OSError(errno.EIO, os.strerror(errno.EIO)))(bytes(LARGE)), path="a"),
    }[what]()

    def answers_the_first(wire: Wire) -> None:
        wire.answer(wire.read_store())
        wire.drain()

    with ScriptedSCP(accepting(answers_the_first)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            first = await association.store(instance(uid="1.2.1"))
            outcome = await association.store(broken)
            with pytest.raises(AssociationLost, match="aborted in the middle of a message"):
                await association.store(instance(uid="1.2.3"))
    assert first.is_stored
    assert outcome.state is State.SOURCE_PROBLEM
    assert type(outcome.error) is kind
    with pytest.raises(kind, match=text):
        outcome.raise_for_failure()
    wire = scp.wires[0]
    assert len(wire.stores) == 1
    assert isinstance(wire.received[-1], Abort)
    assert [fragment.is_last for fragment in fragments_of(wire.received) if not fragment.is_command].count(True) == 1


async def test_a_message_that_is_aborted_loses_the_others_that_are_outstanding() -> None:
    with ScriptedSCP(accepting(Wire.drain, **with_window(2))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, window=2) as association:
            async with anyio.create_task_group() as group:
                group.start_soon(_is_lost, lambda: association.store(instance(uid="1.2.1")))
                await anyio.wait_all_tasks_blocked()
                broken = instance_of(fails_with(SourceChanged("gone"))(bytes(LARGE)), "1.2.2")
                assert (await association.store(broken)).state is State.SOURCE_PROBLEM
            assert association.failure is not None
            assert list(association.outstanding) == [1, 2]


@pytest.mark.parametrize("what", ["shrinks", "vanishes", "is rewritten"])
async def test_a_source_that_changed_before_its_message_began_costs_nothing_else(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    each = instance_in(path, 200_000)
    if what == "shrinks":
        os.truncate(path, 1000)
    elif what == "vanishes":
        path.unlink()
    else:
        os.utime(path, ns=(0, 0))
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            outcome = await association.store(each)
            assert (await association.store(instance())).is_stored
    assert outcome.state is State.SOURCE_PROBLEM
    assert isinstance(outcome.error, SourceChanged)
    assert len(scp.wires[0].stores) == 1


@pytest.mark.parametrize(
    ("error", "path", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), None, "cannot read the data set: Permission denied"),
        (PermissionError(errno.EACCES, "Permission denied"), "a.dcm", "cannot read the data set: Permission denied"),
        (SourceError("damaged"), "a.dcm", "damaged"),
        (NoTemporaryFile("no room"), "a.dcm", "no room"),
    ],
)
async def test_a_conversion_that_fails_is_an_outcome(
    error: Exception, path: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Instance:
        raise error

    monkeypatch.setattr(convert_module, "convert", fails)
    contexts = [(CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,)), ("1.2.3", (EXPLICIT_VR_LITTLE_ENDIAN,))]
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=contexts) as association:
            outcome = await association.store(instance_of(BytesSource(pattern(10)), path=path))
            assert association.failure is None
    assert (outcome.state, outcome.path, outcome.reason) == (State.SOURCE_PROBLEM, path, reason)
    assert isinstance(outcome.error, SourceError)
    assert outcome.retryable is isinstance(error, NoTemporaryFile)


async def test_a_source_is_closed_after_every_store(tmp_path: Path) -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            before = descriptors()
            for number in range(3):
                assert (await association.store(instance_in(tmp_path / str(number), 200_000))).is_stored
                assert descriptors() == before


# abort() and release() of another task


async def test_an_abort_ends_every_wait_of_every_task() -> None:
    outcomes: list[Outcome] = []

    async def store(association: Association, uid: str) -> None:
        with pytest.raises(AssociationLost, match="was aborted"):
            outcomes.append(await association.store(instance(uid=uid)))

    def is_aborted(wire: Wire) -> None:
        wire.read_store()
        wire.expect(Abort)
        wire.expect_closed()

    with ScriptedSCP(accepting(is_aborted)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(store, association, f"1.2.{number}")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(_is_lost, association.echo)
                await anyio.wait_all_tasks_blocked()
                await association.abort()
            await association.abort()
    assert not outcomes


@pytest.mark.parametrize("at", [0, 50, 250, 599])
async def test_an_abort_while_another_task_writes_comes_after_its_pdu(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hearing = Hearing()
    with ScriptedSCP(hearing) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, connect=connect_stalling) as association:
            transport = stalling(association)
            transport.stall_after(at)
            async with anyio.create_task_group() as group:
                group.start_soon(_is_lost, lambda: association.store(instance(450)))
                await transport.has_stalled.wait()
                await association.abort()
    hearing.check()


async def test_an_abort_does_not_wait_longer_than_its_bound_for_a_task_that_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "ABORT_SECONDS", TINY_SECONDS)
    is_reading, goes_on = threading.Event(), threading.Event()

    class Slow(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            if wait:
                is_reading.set()
                assert goes_on.wait(LIMIT_SECONDS)
            return wait

    with ScriptedSCP(accepting(Wire.drain)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            async with anyio.create_task_group() as group:
                group.start_soon(_is_lost, lambda: association.store(instance_of(Slow(bytes(100)))))
                await anyio.to_thread.run_sync(is_reading.wait, LIMIT_SECONDS)
                await association.abort()
                assert inside(association).transport.is_closed
                goes_on.set()
            assert not association.outstanding


async def test_a_store_that_comes_after_the_release_was_asked_for_is_refused() -> None:
    is_reading, goes_on = threading.Event(), threading.Event()

    class Slow(ReadPiecewise):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            if wait:
                is_reading.set()
                assert goes_on.wait(LIMIT_SECONDS)
            return wait

    async def is_refused(association: Association) -> None:
        with pytest.raises(LocalProtocolError, match="was released"):
            await association.store(instance_of(Slow(bytes(100))))

    def answers_late(wire: Wire) -> None:
        wire.expect(ReleaseRQ)
        goes_on.set()
        wire.expect_closed()

    with ScriptedSCP(accepting(answers_late)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            async with anyio.create_task_group() as group:
                group.start_soon(is_refused, association)
                await anyio.to_thread.run_sync(is_reading.wait, LIMIT_SECONDS)
                set_timeouts(association, acse_seconds=TINY_SECONDS)
                await association.release()
            assert not association.outstanding


async def test_many_associations_leave_nothing_behind() -> None:
    async with StorageSCP() as scp:
        async with to(scp) as association:
            await association.store(instance())
        before = tasks()
        for _ in range(20):
            async with to(scp) as association:
                assert (await association.store(instance())).is_stored
            with pytest.raises(Mistake):
                await makes_a_mistake(to(scp))
        with anyio.fail_after(LIMIT_SECONDS):
            while tasks() > before:  # the acceptor's last ones may still be on their way out
                await anyio.lowlevel.checkpoint()
