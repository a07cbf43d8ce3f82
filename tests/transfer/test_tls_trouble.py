"""TLS that breaks in the middle of a run is an outage like others: the run waits, and goes on once it is mended."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import pytest

import asyncstore
from asyncstore import NO_ANSWER, TLS, Peer, Transfer, TransferOptions
from asyncstore.errors import TLSFailed
from asyncstore.instances.outcome import State
from asyncstore.status import SUCCESS
from asyncstore.transfer.options import RetryPolicy
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK, free_port
from tests.support.transfers import KeepingSCP, check_account, on_one_loop, uid_of, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival

_COUNT: Final = 40
_BEFORE: Final = 10
# The peer is away for as long as the test wants, on a slow machine, too.
_RETRY: Final = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.05, outage_seconds=45.0)


class Watch(asyncstore.Observer):
    """Says when the run has met a trouble."""

    def __init__(self, cause: str) -> None:
        self.met = anyio.Event()
        self._cause = cause

    def on_association_ended(self, number: int, error: asyncstore.AsyncStoreError | None) -> None:
        if isinstance(error, TLSFailed) and error.cause == self._cause:
            self.met.set()


class Site:
    """A receiver and a sender with certificates of one authority, and what may go wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ours")
        self.stranger = Authority(folder / "others", "stranger", key_number=1)
        self.server = self.authority.issue("server")
        self.client = self.authority.issue("client", names=())
        self.good = self.server.tls(ca=self.authority.ca)
        self.ours = self.client.tls(ca=self.authority.ca)

    def troubles(self) -> dict[str, TLS | None]:
        """What the receiver does for a while instead, by the cause that we tell."""
        return {
            "expired": self.authority.issue("expired", days=(-3, -1)).tls(ca=self.authority.ca),
            "not-yet-valid": self.authority.issue("early", days=(2, 3)).tls(ca=self.authority.ca),
            "authority": self.stranger.issue("server").tls(ca=self.authority.ca),
            "name": self.authority.issue("renamed", names=("other.example",)).tls(ca=self.authority.ca),
            "our-certificate": self.server.tls(ca=self.stranger.ca),
            "not-tls": None,
        }

    @contextlib.contextmanager
    def without_our_key(self) -> Iterator[None]:
        """The key is replaced before its certificate is: for a moment they do not belong together."""
        key = self.client.key.read_bytes()
        self.client.key.write_bytes(self.stranger.issue("b").key.read_bytes())
        try:
            yield
        finally:
            self.client.key.write_bytes(key)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    return Site(folder)


async def run_through(
    site: Site, source: Path, cause: str, between: contextlib.AbstractContextManager[Any], instead: TLS | None
) -> tuple[list[Outcome], list[str]]:
    """A run of three associations; after ten instances the receiver leaves, is another one for a while, and returns."""
    watch, port, arrived, sent = Watch(cause), free_port(), anyio.Event(), anyio.Event()
    paths = write_files(source, _COUNT)

    def answer(arrival: Arrival) -> Any:
        if len(first.arrivals) >= _BEFORE:
            arrived.set()
        return SUCCESS if len(first.arrivals) <= _BEFORE else NO_ANSWER

    first = KeepingSCP(answer, port=port, tls=site.good)
    options = TransferOptions(retry=_RETRY, associations=3)
    transfer = Transfer(Peer(LOOPBACK, port, tls=site.ours), paths, options=options, observer=watch)
    outcomes: list[Outcome] = []

    async def send() -> None:
        async with transfer:
            outcomes.extend([outcome async for outcome in transfer])
        sent.set()

    async with anyio.create_task_group() as group:
        async with first:
            group.start_soon(send)
            await arrived.wait()
        with between:
            async with KeepingSCP(port=port, tls=instead):
                await watch.met.wait()
        last = KeepingSCP(port=port, tls=site.good)
        async with last:
            while len(outcomes) < _COUNT:
                await anyio.lowlevel.checkpoint()
    check_account(transfer, outcomes, paths)
    return outcomes, [*first.uids, *last.uids]


@on_one_loop
@pytest.mark.parametrize("cause", ["expired", "not-yet-valid", "authority", "name", "our-certificate", "not-tls"])
async def test_a_certificate_that_changes_in_the_middle_of_a_run_is_waited_for(
    cause: str, site: Site, tmp_path: Path
) -> None:
    instead = await anyio.to_thread.run_sync(site.troubles)
    outcomes, arrived = await run_through(site, tmp_path / "in", cause, contextlib.nullcontext(), instead[cause])
    assert {outcome.state for outcome in outcomes} == {State.STORED}
    assert set(arrived) == {uid_of(number) for number in range(1, _COUNT + 1)}


@on_one_loop
async def test_a_key_of_ours_that_is_replaced_in_the_middle_of_a_run_is_waited_for(site: Site, tmp_path: Path) -> None:
    outcomes, arrived = await run_through(site, tmp_path / "in", "files", site.without_our_key(), site.good)
    assert {outcome.state for outcome in outcomes} == {State.STORED}
    assert set(arrived) == {uid_of(number) for number in range(1, _COUNT + 1)}
