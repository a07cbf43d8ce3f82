"""What was converted is in memory until its request is written, and not until the peer answers it."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.instances.outcome import State
from asyncstore.instances.source import BytesSource, DataSource
from asyncstore.preparation import convert as convert_module
from asyncstore.services.scu import associate
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support.files import read_all
from tests.support.transfers import LIMIT_SECONDS, outcomes_of, peer_at, transfer_to, write_files
from tests.support.wire import ScriptedSCP

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.instance import Instance
    from tests.support.wire import Wire

pytestmark = pytest.mark.every_loop

WINDOW = 4


class FollowedSource(BytesSource):
    """A data set in memory that tells when it goes."""  # without __slots__, so that there are weak references to it


class Conversions:
    """Counts what `convert` makes; `all_gone` is set when WINDOW data sets were made and none is in memory any more."""

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.all_gone = threading.Event()
        self._gone = 0

    def convert(self, instance: Instance, transfer_syntax_uid: str) -> DataSource:
        self.made.append(read_all(REAL_CONVERT(instance, transfer_syntax_uid)))
        converted = FollowedSource(self.made[-1])
        weakref.finalize(converted, self._one_gone)
        return converted

    def _one_gone(self) -> None:
        self._gone += 1
        if self._gone == WINDOW:
            self.all_gone.set()


REAL_CONVERT = convert_module.convert


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Conversions:
    conversions = Conversions()
    monkeypatch.setattr(convert_module, "convert", conversions.convert)
    return conversions


def scp_that_waits_for(conversions: Conversions, status: int = 0) -> ScriptedSCP:
    """Reads WINDOW requests, and answers the first when nothing converted is in memory any more."""

    def script(wire: Wire) -> None:
        wire.accept(transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN, operations_window=OperationsWindow(WINDOW, 1))
        stores = wire.read_stores(WINDOW)
        wire.wait(conversions.all_gone)
        for store in stores:
            wire.answer(store, status)
        wire.serve_stores()

    return ScriptedSCP(script)


async def test_what_a_transfer_converted_goes_when_it_is_sent(tmp_path: Path, conversions: Conversions) -> None:
    paths = write_files(tmp_path, WINDOW)
    with scp_that_waits_for(conversions) as scp:
        outcomes = await outcomes_of(transfer_to(scp, paths, associations=1, window=WINDOW))
    assert [outcome.state for outcome in outcomes] == [State.STORED] * WINDOW
    for outcome, data_set in zip(outcomes, conversions.made, strict=True):
        assert outcome.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
        assert outcome.bytes_sent == len(data_set)
        assert outcome.instance is not None
        assert outcome.instance.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN


async def test_what_is_sent_again_is_converted_again(tmp_path: Path, conversions: Conversions) -> None:
    paths = write_files(tmp_path, WINDOW)
    with scp_that_waits_for(conversions, status=0x0110) as scp:
        outcomes = await outcomes_of(transfer_to(scp, paths, associations=1, window=WINDOW))
    assert [(outcome.state, outcome.attempts) for outcome in outcomes] == [(State.STORED, 2)] * WINDOW
    assert sorted(conversions.made[:WINDOW]) == sorted(conversions.made[WINDOW:])
    assert sorted(store.data_set or b"" for store in scp.wires[0].stores[WINDOW:]) == sorted(conversions.made[WINDOW:])


async def test_what_an_association_converted_goes_when_it_is_sent(tmp_path: Path, conversions: Conversions) -> None:
    paths = write_files(tmp_path, WINDOW)
    contexts = [(CT_IMAGE_STORAGE, [IMPLICIT_VR_LITTLE_ENDIAN])]
    with scp_that_waits_for(conversions) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with associate(peer_at(scp), contexts, window=WINDOW) as association:

            async def store(path: str) -> None:
                outcome = await association.store(path)
                assert outcome.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
                assert outcome.bytes_sent == len(conversions.made[0])

            async with anyio.create_task_group() as group:
                for path in paths:
                    group.start_soon(store, path)
