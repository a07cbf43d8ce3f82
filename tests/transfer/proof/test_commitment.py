"""Commitment beside a transfer: reports late, in parts, twice, lost, refused; nothing is called committed falsely."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import Aborted, AsyncStoreError, LedgerError
from asyncstore.net.acceptor import Acceptor
from asyncstore.net.peer import Peer
from asyncstore.services.references import Reference
from asyncstore.transfer.proof import commitment
from asyncstore.transfer.proof.commitment import MISSING, NO_REPORT, NOT_WAITED_FOR, Committer
from asyncstore.uids import CT_IMAGE_STORAGE, STORAGE_COMMITMENT_PUSH_MODEL
from asyncstore.upper_layer.pdu import Abort
from asyncstore.upper_layer.user_information import UserIdentity
from tests.support.associations import LIMIT_SECONDS
from tests.support.committing import CommittingPeer
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore.net.user_identity import Caller

pytestmark = pytest.mark.every_loop

AGAIN_AFTER_SECONDS = 1.5  # the second report comes in this time, on a busy machine too


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "_AGAIN_SECONDS", 0.01)


REFERENCES = [Reference(CT_IMAGE_STORAGE, f"1.2.{number}") for number in range(1, 8)]


class Recorded:
    """A record in memory."""

    def __init__(self) -> None:
        self.asked: dict[str, list[str]] = {}
        self.answers: list[tuple[str, dict[str, int]]] = []

    def note_request(self, transaction_uid: str, sop_instance_uids: Sequence[str]) -> None:
        self.asked[transaction_uid] = list(sop_instance_uids)

    def note_answers(self, transaction_uid: str, answers: Mapping[str, int]) -> None:
        assert transaction_uid in self.asked
        self.answers.append((transaction_uid, dict(answers)))


async def committed_by(
    provider: CommittingPeer, *, wait_seconds: float = LIMIT_SECONDS, record: Any = None, references: Any = REFERENCES
) -> Committer:
    with anyio.fail_after(2 * LIMIT_SECONDS):
        async with Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor:
            peer = Peer("127.0.0.1", acceptor.port)
            committer = Committer(peer, port=0, wait_seconds=wait_seconds, record=record, host="127.0.0.1")
            async with committer:
                assert committer.port
                provider.port = committer.port
                for reference in references:
                    committer.add(reference, f"/{reference.sop_instance_uid}")
                await committer.finish()
    return committer


async def test_it_is_asked_for_by_the_user_that_sends() -> None:
    names: list[str] = []

    def authenticate(caller: Caller) -> bool:
        names.append("" if caller.user_identity is None else caller.user_identity.user_name)
        return True

    providers = {STORAGE_COMMITMENT_PUSH_MODEL: CommittingPeer("same")}
    user = UserIdentity(2, b"scanner", b"secret")
    with anyio.fail_after(2 * LIMIT_SECONDS):
        async with Acceptor(providers, authenticate=authenticate) as acceptor:
            peer = Peer("127.0.0.1", acceptor.port)
            async with Committer(peer, user_identity=user, allow_plaintext_credentials=True) as committer:
                committer.add(REFERENCES[0])
                await committer.finish()
    assert (names, committer.committed) == (["scanner"], 1)


@pytest.mark.parametrize("way", ["same", "new", "parts", "twice"])
async def test_reports_are_taken_however_they_come(way: str) -> None:
    record = Recorded()
    provider = CommittingPeer(way)
    committer = await committed_by(provider, record=record)
    assert (committer.committed, committer.failures, committer.refusal) == (len(REFERENCES), {}, None)
    (request,) = provider.requests
    assert record.asked == {request.TransactionUID: [reference.sop_instance_uid for reference in REFERENCES]}


@pytest.mark.parametrize("first", ["none", "late"])
async def test_a_report_that_does_not_come_is_asked_for_again_under_another_uid(first: str) -> None:
    provider = CommittingPeer(first, "same")
    committer = await committed_by(provider, wait_seconds=AGAIN_AFTER_SECONDS)
    assert (committer.committed, committer.failures) == (len(REFERENCES), {})
    assert len({request.TransactionUID for request in provider.requests}) == len(provider.requests) == 2


async def test_a_peer_that_never_reports_has_committed_nothing() -> None:
    provider = CommittingPeer("none")
    committer = await committed_by(provider, wait_seconds=0.05)
    assert (committer.committed, committer.failures) == (0, {NO_REPORT: len(REFERENCES)})
    assert len(provider.requests) == commitment._TRIES


async def test_each_reason_decides() -> None:
    failures = {"1.2.1": [0x0112], "1.2.2": [0x0119], "1.2.3": [0x0122], "1.2.4": [0x0213, 0x0110, 0]}
    provider = CommittingPeer("same", failures=failures)
    committer = await committed_by(provider)
    assert committer.committed == len(REFERENCES) - 3
    assert committer.failures == {
        "the peer has it with another SOP class (0x0119)": 1,
        "the peer does not support its SOP class (0x0122)": 1,
    }
    assert [waiting.path for waiting in committer.to_send_again.values()] == ["/1.2.1"]
    assert provider.asked[1:] == [["1.2.4"], ["1.2.4"]]


async def test_many_instances_are_several_transactions() -> None:
    provider = CommittingPeer("same")
    many = [Reference(CT_IMAGE_STORAGE, f"1.3.{number}") for number in range(1, 701)]
    committer = await committed_by(provider, references=many)
    assert committer.committed == 700
    assert sorted(len(request.ReferencedSOPSequence) for request in provider.requests) == [100, 300, 300]


async def test_a_refusal_that_is_final_ends_the_asking() -> None:
    committer = await committed_by(CommittingPeer("same", refuses=[0x0122]))
    assert committer.committed == 0
    (reason,) = committer.failures
    assert reason.startswith("not asked for: the peer refused the request for commitment")


async def test_a_peer_that_has_no_resources_is_asked_again() -> None:
    committer = await committed_by(CommittingPeer("same", refuses=[0x0213]))
    assert committer.committed == len(REFERENCES)


async def test_an_abort_of_the_first_request_is_a_refusal() -> None:
    def aborts(wire: Wire) -> None:
        wire.accept()
        wire.read_message()
        wire.send(Abort(0, 0))

    with ScriptedSCP(aborts) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with Committer(Peer(scp.host, scp.port, scp.ae_title)) as committer:
            committer.add(REFERENCES[0])
            await committer.finish()
    assert isinstance(committer.refusal, Aborted)
    assert (committer.committed, committer.failures.total()) == (0, 1)
    assert len(scp.wires) == 1


async def test_nothing_is_asked_for_that_could_not_be_recorded() -> None:
    class Full(Recorded):
        def note_request(self, transaction_uid: str, sop_instance_uids: Sequence[str]) -> None:
            raise LedgerError("disk full")

    provider = CommittingPeer("same")
    committer = await committed_by(provider, record=Full())
    assert (committer.committed, provider.requests) == (0, [])
    assert committer.failures == {"not asked for: disk full": len(REFERENCES)}


async def test_an_answer_that_could_not_be_recorded_does_not_count() -> None:
    class FullLater(Recorded):
        def note_answers(self, transaction_uid: str, answers: Mapping[str, int]) -> None:
            raise LedgerError("disk full")

    committer = await committed_by(CommittingPeer("same"), record=FullLater(), wait_seconds=0.05)
    assert (committer.committed, committer.failures) == (0, {NO_REPORT: len(REFERENCES)})


async def test_a_peer_that_leaves_between_request_and_report_is_asked_again() -> None:
    provider = CommittingPeer("same")
    original = provider._report
    times = iter(range(10))

    async def leaves_once(association: Any, asked: Any, way: str) -> None:
        if next(times) == 0:
            with contextlib.suppress(Exception):
                await association.abort()
            return
        await original(association, asked, way)

    provider._report = leaves_once  # type: ignore[method-assign]
    committer = await committed_by(provider, wait_seconds=AGAIN_AFTER_SECONDS)
    assert (committer.committed, committer.failures) == (len(REFERENCES), {})


@pytest.mark.parametrize(
    ("way", "reasons", "account"),
    [
        pytest.param("twice", [0x0112], (1, {}), id="a second report says nothing of it"),
        pytest.param("same", [0x0112] * 3, (0, {MISSING: 1}), id="not twice"),
    ],
)
async def test_an_instance_is_sent_again_once(
    way: str, reasons: list[int], account: tuple[int, dict[str, int]]
) -> None:
    provider = CommittingPeer(way, failures={"1.2.1": list(reasons)})
    with anyio.fail_after(2 * LIMIT_SECONDS):
        async with (
            Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor,
            Committer(Peer("127.0.0.1", acceptor.port)) as committer,
        ):
            committer.add(REFERENCES[0], "/1")
            await committer.finish()
            (waiting,) = committer.to_send_again.values()
            committer.sent_again(waiting)
            await committer.finish()
    assert (committer.committed, committer.failures) == account
    assert committer.to_send_again == {}


async def test_several_files_of_one_instance_are_asked_for_once_and_counted_each() -> None:
    committer = await committed_by(CommittingPeer("same"), references=[REFERENCES[0], REFERENCES[1], REFERENCES[0]])
    assert (committer.committed, committer.failures) == (3, {})


async def test_what_nobody_waited_for_is_not_committed() -> None:
    provider = CommittingPeer("none")
    async with (
        Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor,
        Committer(Peer("127.0.0.1", acceptor.port)) as committer,
    ):
        committer.add(REFERENCES[0])
    assert (committer.committed, committer.failures) == (0, {NOT_WAITED_FOR: 1})


async def test_a_peer_that_takes_no_request_while_it_reports_is_asked_for_one_at_a_time() -> None:
    class OneThing(CommittingPeer):
        aborts = 0

        def __init__(self, *plan: str) -> None:
            super().__init__(*plan)
            self.reporting_on: set[Any] = set()

        def perform(self, request: Any, data_set: Any) -> Any:
            if request.association in self.reporting_on:
                self.aborts += 1
                request.association.start_soon(request.association.abort)
            self.reporting_on.add(request.association)
            return super().perform(request, data_set)

        async def _report(self, association: Any, asked: Any, way: str) -> None:
            with contextlib.suppress(AsyncStoreError):
                await super()._report(association, asked, way)

        def acknowledged(self, association: Any) -> None:
            self.reporting_on.discard(association)

    provider = OneThing("same")
    many = [Reference(CT_IMAGE_STORAGE, f"1.3.{number}") for number in range(1, 3001)]
    with anyio.fail_after(2 * LIMIT_SECONDS):
        async with (
            Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor,
            Committer(Peer("127.0.0.1", acceptor.port)) as committer,
        ):
            for reference in many:
                committer.add(reference)
            await committer.finish()
    assert (committer.committed, committer.failures) == (3000, {})
    assert 1 <= provider.aborts <= 2
