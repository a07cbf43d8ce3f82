"""An exception of the caller's own code, raised inside of the association: it ends everything that waits, as itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from asyncstore.errors import AssociationLost, SourceError, cause_of
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Peer
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.judge import Judge
from asyncstore.upper_layer.pdu import Abort
from tests.support.associations import (
    LIMIT_SECONDS,
    ReadPiecewise,
    accepting,
    inside,
    instance,
    instance_in,
    instance_of,
    send,
    tasks,
    to,
    with_window,
)
from tests.support.transfers import outcomes_of
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from asyncstore.services.scu import Association

pytestmark = pytest.mark.every_loop


class Mistake(Exception):
    """Of whoever uses the association."""


def mistaken(*_: Any, **__: Any) -> None:
    """A callback with a fault in it."""
    raise Mistake


class _MistakenHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise Mistake


@pytest.fixture
def mistaken_log() -> Iterator[None]:
    """A logging handler that raises, for what the network has to say."""
    log, handler = logging.getLogger("asyncstore.net"), _MistakenHandler(logging.ERROR)
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


async def is_lost_by_it(association: Association, uid: str) -> None:
    with pytest.raises(AssociationLost, match="Mistake") as caught:
        await association.store(instance(uid=uid))
    assert isinstance(caught.value.__cause__, Mistake)


async def test_a_mistake_in_a_callback_leaves_the_block_as_itself_and_ends_every_wait() -> None:
    def answers_the_first(wire: Wire) -> None:
        wire.answer(wire.read_stores(3)[0])
        wire.expect(Abort)
        wire.expect_closed()

    async def three_are_sent() -> None:
        async with to(scp, window=3) as association:
            await send(association, instance(uid="1.2.1"), mistaken)
            async with anyio.create_task_group() as group:
                group.start_soon(is_lost_by_it, association, "1.2.2")
                group.start_soon(is_lost_by_it, association, "1.2.3")

    script = accepting(answers_the_first, **with_window(3))
    with ScriptedSCP(script) as scp, anyio.fail_after(LIMIT_SECONDS):
        before = tasks()
        with pytest.raises(Mistake) as caught:
            await three_are_sent()
        assert type(caught.value) is Mistake
        assert tasks() == before


async def loses_its_peer(association: Association) -> None:
    async with association:
        with pytest.raises(AssociationLost, match="closed the connection"):
            await association.store(instance())


async def test_a_mistake_of_who_hears_of_the_failure_ends_every_wait_too() -> None:
    with ScriptedSCP(accepting(Wire.read_store)) as scp, anyio.fail_after(LIMIT_SECONDS):
        association = to(scp)
        inside(association).on_failure = mistaken
        with pytest.raises(Mistake):
            await loses_its_peer(association)


async def test_a_log_that_raises_ends_every_wait_too(mistaken_log: None) -> None:
    with ScriptedSCP(accepting(Wire.read_store)) as scp, anyio.fail_after(LIMIT_SECONDS), pytest.raises(Mistake):
        await loses_its_peer(to(scp))


async def test_a_mistake_before_the_first_byte_is_raised_where_it_is_sent_and_ends_the_others_too() -> None:
    with ScriptedSCP(accepting(Wire.drain)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            with pytest.raises(Mistake):
                await send(association, instance(), lambda *_: None, on_begin=mistaken)
            with pytest.raises(AssociationLost, match="because of an exception: Mistake"):
                await association.store(instance())


async def test_a_log_that_raises_while_an_association_is_asked_for_leaves_nothing_open(mistaken_log: None) -> None:
    with ScriptedSCP(Wire.fin) as scp, anyio.fail_after(LIMIT_SECONDS):
        association = to(scp)
        with pytest.raises(Mistake):
            await association.__aenter__()
        assert inside(association).transport.is_closed


async def test_a_mistake_does_not_take_the_place_of_a_cancellation() -> None:
    def answers_one(wire: Wire) -> None:
        wire.answer(wire.read_store())
        wire.drain()

    with ScriptedSCP(accepting(answers_one)) as scp, anyio.fail_after(LIMIT_SECONDS):
        with anyio.CancelScope() as scope:
            async with to(scp) as association:
                failed = anyio.Event()
                inside(association).on_failure = failed.set
                await send(association, instance(), mistaken)
                await failed.wait()
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught


async def test_a_transfer_ends_with_a_mistake_in_its_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "answered", mistaken)
    async with StorageSCP() as scp:
        transfer = Transfer(Peer(scp.host, scp.port), [instance()])
        with anyio.fail_after(LIMIT_SECONDS), pytest.raises((Mistake, ExceptionGroup)) as caught:
            await outcomes_of(transfer)
    assert isinstance(cause_of(caught.value), Mistake)


class StorageFault(Exception):
    """Of a client library that knows nothing of us."""


class Remote(ReadPiecewise):
    """A source of the caller's own making, whose bytes from `fails_at` on cannot be had."""

    fails_at = 0

    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        if offset >= self.fails_at:
            raise StorageFault("no such key")
        return super().read_into(holes, offset)


class RemoteLater(Remote):
    fails_at = 1


class RemoteInThread(Remote):
    def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        return wait and super().read_into(holes, offset)


class RemoteView(Remote):
    def view(self) -> memoryview:
        raise StorageFault("no such key")


@pytest.mark.parametrize("kind", [Remote, RemoteInThread, RemoteView])
async def test_whatever_a_source_raises_before_its_message_is_an_outcome(kind: type[Remote]) -> None:
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            outcome = await association.store(instance_of(kind(bytes(1000))))
            assert (await association.store(instance(uid="1.2.5"))).is_stored
    assert outcome.state is State.SOURCE_PROBLEM
    assert outcome.reason == "cannot read the data set: StorageFault('no such key')"
    assert isinstance(outcome.error, SourceError)
    assert isinstance(outcome.error.__cause__, StorageFault)


async def test_whatever_a_source_raises_in_the_middle_of_its_message_aborts_and_says_why() -> None:
    with ScriptedSCP(accepting(Wire.drain)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            outcome = await association.store(instance_of(RemoteLater(bytes(8 << 20))))
            assert "aborted in the middle of a message: cannot read" in str(association.failure)
    assert outcome.state is State.SOURCE_PROBLEM


async def test_a_transfer_goes_on_after_a_source_of_the_callers_own_making_that_fails() -> None:
    sources = [instance(uid="1.2.1"), instance_of(Remote(bytes(1000)), "1.2.2"), instance(uid="1.2.3")]
    async with StorageSCP() as scp:
        transfer = Transfer(Peer(scp.host, scp.port), sources, associations=1)
        with anyio.fail_after(LIMIT_SECONDS):
            await outcomes_of(transfer)
    assert transfer.report.states == {State.STORED: 2, State.SOURCE_PROBLEM: 1}


async def test_the_first_cause_of_a_source_error_is_kept(tmp_path: Path) -> None:
    each = instance_in(tmp_path / "a", 200_000)
    (tmp_path / "a").unlink()
    with ScriptedSCP() as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp) as association:
            outcome = await association.store(each)
    assert outcome.error is not None
    assert isinstance(outcome.error.__cause__, FileNotFoundError)
