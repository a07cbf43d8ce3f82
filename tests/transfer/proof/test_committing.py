"""Commitment as part of a transfer: stored and committed apart, sent again once, and never too much."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.instances.outcome import State
from asyncstore.ledger.protocol import KeepsCommitments
from asyncstore.ledger.rows import Commitment
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.net.peer import Peer
from asyncstore.net.tls_settings import TLS
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.proof import commitment, committing
from asyncstore.transfer.proof.commitment import MISSING, NOT_WAITED_FOR
from asyncstore.transfer.proof.committing import CommitOptions
from asyncstore.uids import STORAGE_COMMITMENT_PUSH_MODEL
from tests.support.certificates import Authority
from tests.support.committing import CommittingPeer
from tests.support.peers import free_port
from tests.support.transfers import LIMIT_SECONDS, QUICK, on_one_loop, uid_of, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.ledger.rows import LedgerRow
    from asyncstore.transfer.report import Report

pytestmark = on_one_loop
COUNT = 12


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "_AGAIN_SECONDS", 0.01)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return write_files(tmp_path / "tree", COUNT, study="1.2.3")


async def sent(
    provider: CommittingPeer, paths: Any, *, commit: CommitOptions | None = None, **options: Any
) -> tuple[Report, Counter[State], StorageSCP]:
    """The report of a transfer, its outcomes by state, and the SCP that got the instances."""
    states: Counter[State] = Counter()
    with anyio.fail_after(2 * LIMIT_SECONDS):
        async with StorageSCP(further_providers={STORAGE_COMMITMENT_PUSH_MODEL: provider}) as scp:
            peer = Peer("127.0.0.1", scp.port)
            transfer = Transfer(
                peer,
                paths,
                options=TransferOptions(retry=QUICK),
                commit=commit or CommitOptions(wait_seconds=LIMIT_SECONDS),
                **options,
            )
            async with transfer:
                async for outcome in transfer:
                    states[outcome.state] += 1
                    assert not transfer.take_ready(), "an outcome that passes by the commitment"
    return transfer.report, states, scp


async def rows_of(ledger: Path) -> list[LedgerRow]:
    """Every row of a ledger."""

    def read() -> list[LedgerRow]:
        with LedgerReader(ledger) as reader:
            return list(reader.rows())

    return await anyio.to_thread.run_sync(read)


async def test_a_study_is_committed_in_one_transaction(paths: list[str]) -> None:
    provider = CommittingPeer("same")
    report, states, _ = await sent(provider, paths)
    assert (states, report.stored, report.committed, report.not_committed) == ({State.STORED: COUNT}, COUNT, COUNT, {})
    assert [sorted(asked) for asked in provider.asked] == [sorted(uid_of(number) for number in range(1, COUNT + 1))]
    assert (report.to_dict()["committed"], report.to_dict()["not_committed"]) == (COUNT, {})


async def test_without_it_nothing_is_said_of_commitment(paths: list[str]) -> None:
    async with StorageSCP() as scp, Transfer(Peer("127.0.0.1", scp.port), paths) as transfer:
        async for _ in transfer:
            pass
    assert (transfer.report.committed, transfer.report.to_dict()["committed"]) == (None, None)


async def test_what_is_stored_committed_and_neither(paths: list[str], tmp_path: Path) -> None:
    ledger = tmp_path / "run.db"
    provider = CommittingPeer("same", failures={uid_of(1): [0x0119], uid_of(2): [0x0122], uid_of(3): [0x0213, 0x0110]})
    report, _, _ = await sent(provider, [*paths, str(tmp_path / "no.dcm")], ledger=ledger)
    assert (report.stored, report.committed, report.failed) == (COUNT, COUNT - 2, 1)
    assert report.not_committed == {
        "the peer has it with another SOP class (0x0119)": 1,
        "the peer does not support its SOP class (0x0122)": 1,
    }
    told = {row.sop_instance_uid: (row.commitment, row.failure_reason) for row in await rows_of(ledger)}
    assert told.pop(None) == (None, None)
    assert told.pop(uid_of(1)) == (Commitment.REFUSED, 0x0119)
    assert told.pop(uid_of(2)) == (Commitment.REFUSED, 0x0122)
    assert set(told.values()) == {(Commitment.COMMITTED, None)}


@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "no ledger"])
async def test_what_the_peer_does_not_have_is_sent_once_more(
    paths: list[str], tmp_path: Path, with_ledger: bool
) -> None:
    ledger = tmp_path / "run.db" if with_ledger else None
    provider = CommittingPeer("same", failures={uid_of(1): [0x0112], uid_of(2): [0x0112, 0x0112]})
    report, states, scp = await sent(provider, paths, ledger=ledger)
    assert (states, scp.stored) == ({State.STORED: COUNT}, COUNT + 2)
    assert (report.committed, report.not_committed) == (COUNT - 1, {MISSING: 1})
    if ledger is not None:
        rows = {row.sop_instance_uid: row for row in await rows_of(ledger)}
        assert {uid: row.attempts for uid, row in rows.items() if row.attempts != 1} == {uid_of(1): 2, uid_of(2): 2}
        assert {row.state for row in rows.values()} == {State.STORED}
        assert rows[uid_of(1)].commitment is Commitment.COMMITTED
        assert (rows[uid_of(2)].commitment, rows[uid_of(2)].failure_reason) == (Commitment.REFUSED, 0x0112)
        assert {row.run for row in rows.values()} == {1}


async def test_an_instance_whose_file_has_gone_is_not_sent_again(paths: list[str]) -> None:
    class Removes(CommittingPeer):
        async def perform(self, request: Any, data_set: Any) -> Any:
            await anyio.Path(paths[0]).unlink(missing_ok=True)
            return super().perform(request, data_set)

    report, _, _ = await sent(Removes("same", failures={uid_of(1): [0x0112]}), paths)
    assert report.committed == COUNT - 1
    (reason,) = report.not_committed
    assert reason.startswith(f"{MISSING}, and it was not sent again: ")


@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "no ledger"])
async def test_few_wait_in_memory_where_the_peer_commits_slowly(
    paths: list[str], tmp_path: Path, with_ledger: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a ledger the others are asked for from there; without one the sending waits."""
    monkeypatch.setattr(committing, "MOST_WAITING", 4)
    provider = CommittingPeer("same")
    report, _, _ = await sent(provider, paths, ledger=tmp_path / "run.db" if with_ledger else None)
    assert (report.stored, report.committed, report.not_committed) == (COUNT, COUNT, {})
    assert max(map(len, provider.asked)) <= COUNT
    assert sorted(uid for asked in provider.asked for uid in asked) == sorted(
        uid_of(number) for number in range(1, COUNT + 1)
    )


async def test_the_next_run_asks_for_what_is_not_committed_and_sends_nothing(paths: list[str], tmp_path: Path) -> None:
    port = free_port()
    provider = CommittingPeer("none")
    stored = []
    with anyio.fail_after(2 * LIMIT_SECONDS):
        for commit in (CommitOptions(wait_seconds=0.01), CommitOptions(wait_seconds=LIMIT_SECONDS)):
            providers = {STORAGE_COMMITMENT_PUSH_MODEL: provider}
            async with StorageSCP(port=port, further_providers=providers) as scp:
                peer = Peer("127.0.0.1", port)
                async with Transfer(peer, paths, ledger=tmp_path / "run.db", commit=commit) as transfer:
                    async for _ in transfer:
                        pass
            stored.append((scp.stored, transfer.report.committed, transfer.report.not_committed.total()))
            provider = CommittingPeer("same")
    assert stored == [(COUNT, 0, COUNT), (0, COUNT, 0)]
    assert {row.commitment for row in await rows_of(tmp_path / "run.db")} == {Commitment.COMMITTED}


async def test_a_transfer_that_is_drained_waits_for_no_report(paths: list[str]) -> None:
    class Drains(CommittingPeer):
        def perform(self, request: Any, data_set: Any) -> Any:
            transfer.drain()
            return super().perform(request, data_set)

    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP(further_providers={STORAGE_COMMITMENT_PUSH_MODEL: Drains("none")}) as scp:
            transfer = Transfer(Peer("127.0.0.1", scp.port), paths, commit=CommitOptions())
            async with transfer:
                async for _ in transfer:
                    pass
    assert (transfer.report.stored, transfer.report.committed) == (COUNT, 0)
    assert transfer.report.not_committed == {NOT_WAITED_FOR: COUNT}


async def test_reports_come_by_tls_where_the_peer_is_called_by_tls(paths: list[str], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    ours, theirs = authority.issue(), authority.issue()
    port = free_port()
    provider = CommittingPeer("new", tls=theirs.tls(ca=authority.ca))
    provider.port = port
    with anyio.fail_after(2 * LIMIT_SECONDS):
        providers = {STORAGE_COMMITMENT_PUSH_MODEL: provider}
        async with StorageSCP(further_providers=providers, tls=theirs.tls(ca=authority.ca)) as scp:
            peer = Peer("127.0.0.1", scp.port, tls=ours.tls(ca=authority.ca))
            commit = CommitOptions(port=port, host="127.0.0.1", wait_seconds=LIMIT_SECONDS)
            async with Transfer(peer, paths, commit=commit) as transfer:
                async for _ in transfer:
                    pass
    assert (transfer.report.committed, transfer.report.not_committed) == (COUNT, {})


async def test_a_port_for_reports_is_by_tls_as_the_peer_is_unless_it_is_allowed(tmp_path: Path) -> None:
    ours = Authority(tmp_path).issue().tls()
    by_tls = Peer("x", 1, tls=ours)
    assert CommitOptions(port=1).tls_of(Peer("x", 1)) is None
    assert CommitOptions().tls_of(by_tls) is None
    assert CommitOptions(port=1).tls_of(by_tls) == ours
    assert CommitOptions(port=1, allow_plaintext=True).tls_of(by_tls) is None
    with pytest.raises(LocalProtocolError, match="a certificate of ours"):
        CommitOptions(port=1).tls_of(Peer("x", 1, tls=TLS()))
    with pytest.raises(LocalProtocolError, match="wait_seconds"):
        CommitOptions(wait_seconds=-1)


async def test_a_port_that_is_taken_and_a_ledger_without_commitments_are_told(paths: list[str], tmp_path: Path) -> None:
    async with StorageSCP() as scp:
        peer = Peer("127.0.0.1", scp.port)
        with pytest.raises(LocalProtocolError, match=f"cannot listen on port {scp.port}"):
            async with Transfer(peer, paths, commit=CommitOptions(port=scp.port, host="127.0.0.1")):
                pass

    class Plain:
        def record(self, outcome: object) -> None: ...

    with pytest.raises(LocalProtocolError, match="Plain keeps no record of storage commitment"):
        Transfer(Peer("x", 1), [], ledger=Plain(), commit=CommitOptions())  # type: ignore[arg-type]
    assert isinstance(SqliteLedger(tmp_path / "run.db", destination="x"), KeepsCommitments)
