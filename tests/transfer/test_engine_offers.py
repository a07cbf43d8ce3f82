"""Transfer: peers that do not bear everything that an association request may contain."""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import Aborted, AssociationRejected, AsyncStoreError, ConnectFailed, ConnectionLost
from asyncstore.net.peer import Peer
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.upper_layer.pdu import Abort, AssociateRJ, AssociateRQ
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support.peers import free_port
from tests.support.transfers import QUICK, check_account, collect, outcomes_of, transfer_to, write_files
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome

NO_REASON = AssociateRJ(1, 1, 1)
CALLED_AE_TITLE = AssociateRJ(1, 1, 7)

# Ends a connection over an association request, in different ways.
ENDS: dict[str, Callable[[Wire], object]] = {
    "closes": lambda wire: wire.close(),
    "resets": lambda wire: wire.rst(),
    "aborts": lambda wire: wire.send(Abort(2, 6)),
    "rejects": lambda wire: wire.send(NO_REASON),
}


def has_window(request: AssociateRQ) -> bool:
    return request.user_information.operations_window is not None


def is_filled(request: AssociateRQ) -> bool:
    return len(request.presentation_contexts) > 10


def refuses(is_too_much: Callable[[AssociateRQ], bool], how: str) -> Callable[[Wire], None]:
    """A script: ends the connection over a request that is too much, else stores everything."""

    def script(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        if is_too_much(request) and how in ENDS:
            ENDS[how](wire)
            return
        wire.accept(request=request)
        if is_too_much(request):
            wire.read_store()
            wire.rst()
        else:
            wire.serve_stores()

    return script


def requests_of(scp: ScriptedSCP) -> list[tuple[bool, bool]]:
    """Whether each association request had a window, and default contexts."""
    return [(has_window(unit), is_filled(unit)) for unit in scp.received if isinstance(unit, AssociateRQ)]


@pytest.mark.parametrize("how", [*ENDS, "at the first message"])
async def test_a_peer_that_does_not_bear_the_window_gets_everything_without_one(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "asyncstore.transfer")
    paths = write_files(tmp_path, 20)
    # Without a retry or a wait: only the second offer can help.
    retry = RetryPolicy(retries=1, first_wait_seconds=0, outage_seconds=0 if how != "at the first message" else 5)
    associations = 1 if how == "at the first message" else 2
    with ScriptedSCP(refuses(has_window, how)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=associations, retry=retry)
        outcomes = await outcomes_of(transfer)
        first, *further = requests_of(scp)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 20
    assert first == (True, True)
    assert further[0] == (False, True)
    assert not any(window for window, _ in further)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.rpartition("; ")[2] for text in told] == ["trying without an asynchronous operations window"]
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


@pytest.mark.parametrize("how", ["closes", "resets", "aborts"])
async def test_a_peer_that_does_not_answer_a_long_request_gets_a_short_one(tmp_path: Path, how: str) -> None:
    paths = write_files(tmp_path, 20)
    retry = RetryPolicy(retries=0, first_wait_seconds=0, outage_seconds=0)
    with ScriptedSCP(refuses(is_filled, how)) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, retry=retry)
        outcomes = await outcomes_of(transfer)
        made = requests_of(scp)
    check_account(transfer, outcomes, paths)
    assert transfer.report.stored == 20
    assert made == [(True, True), (False, True), (False, False)]


async def test_what_the_peer_bears_is_remembered_for_the_run(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 20)
    numbers = count(1)

    def ends_after_one(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        if has_window(request):
            return
        wire.accept(request=request)
        if next(numbers) < 4:
            wire.answer(wire.read_store())
            wire.rst()
        else:
            wire.serve_stores()

    with ScriptedSCP(ends_after_one) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1)
        outcomes = await outcomes_of(transfer)
        made = requests_of(scp)
    check_account(transfer, outcomes, paths)
    assert [window for window, _ in made].count(True) == 1
    assert len(made) == 5


async def fails_to_begin(server: Any, path: Path, retry: RetryPolicy = QUICK) -> tuple[AsyncStoreError, list[Outcome]]:
    outcomes: list[Outcome] = []
    with pytest.raises(AsyncStoreError) as caught:
        await collect(transfer_to(server, path, retry=retry), outcomes)
    return caught.value, outcomes


@pytest.mark.parametrize(
    ("how", "kind", "requests"),
    [("closes", ConnectionLost, 3), ("aborts", Aborted, 3), ("rejects", AssociationRejected, 2)],
)
async def test_a_peer_that_refuses_every_offer_fails_as_one_attempt(
    tmp_path: Path, how: str, kind: type[AsyncStoreError], requests: int
) -> None:
    write_files(tmp_path, 3)
    with ScriptedSCP(refuses(lambda request: True, how)) as scp:
        error, _ = await fails_to_begin(scp, tmp_path, RetryPolicy(first_wait_seconds=60))
        assert len(requests_of(scp)) == requests
    assert isinstance(error, kind)


async def test_an_attempt_after_a_wait_begins_with_the_first_offer_again(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 3)
    numbers = count(1)

    def comes_back(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        if next(numbers) > 3:
            wire.accept(request=request)
            wire.serve_stores()

    retry = RetryPolicy(retries_at_start=1, first_wait_seconds=0.01, outage_seconds=5)
    with ScriptedSCP(comes_back) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, retry=retry)
        outcomes = await outcomes_of(transfer)
        made = requests_of(scp)
    check_account(transfer, outcomes, paths)
    assert made == [(True, True), (False, True), (False, False), (True, True)]


async def test_a_clear_rejection_gets_no_second_request(tmp_path: Path) -> None:
    write_files(tmp_path, 3)

    def rejects(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        wire.send(CALLED_AE_TITLE)

    with ScriptedSCP(rejects) as scp:
        error, _ = await fails_to_begin(scp, tmp_path)
        assert len(scp.wires) == 1
    assert isinstance(error, AssociationRejected)


async def test_a_peer_that_takes_no_connection_is_asked_once(tmp_path: Path) -> None:
    write_files(tmp_path, 3)
    options = TransferOptions(retry=RetryPolicy(first_wait_seconds=60))
    with pytest.raises(ConnectFailed):
        await collect(Transfer(Peer("127.0.0.1", free_port()), tmp_path, options=options), [])


async def test_a_window_that_the_peer_does_not_answer_but_bears_is_kept(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 20)
    numbers = count(1)

    def loses_one(wire: Wire) -> None:
        wire.accept(operations_window=None)
        if next(numbers) == 1:
            wire.answer(wire.read_store())
            wire.read_store()
            wire.rst()
        else:
            wire.serve_stores()

    with ScriptedSCP(loses_one) as scp:
        transfer = transfer_to(scp, tmp_path, associations=1, window=8)
        outcomes = await outcomes_of(transfer)
        proposed = [unit.user_information.operations_window for unit in scp.received if isinstance(unit, AssociateRQ)]
    check_account(transfer, outcomes, paths)
    assert proposed == [OperationsWindow(8, 1)] * 2
