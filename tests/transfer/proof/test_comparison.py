"""What a peer must have against what it lists: exactly the differences are named, however the peer answers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from asyncstore.errors import Aborted, AssociationRejected, ConnectFailed, NoAcceptedContext
from asyncstore.net.acceptor import Acceptor
from asyncstore.net.peer import Peer
from asyncstore.services.verification import VerificationProvider
from asyncstore.transfer.proof import comparison, inquiry
from asyncstore.transfer.proof.comparison import Comparison, Kind, Verdict
from asyncstore.transfer.proof.expected import Expected, ExpectedInstance, ExpectedStudy
from asyncstore.transfer.proof.inquiry import Pace
from asyncstore.uids import CT_IMAGE_STORAGE, STUDY_ROOT_FIND, VERIFICATION
from asyncstore.upper_layer.pdu import Abort
from tests.support.archive import Archive
from tests.support.associations import LIMIT_SECONDS, MR_IMAGE_STORAGE
from tests.support.peers import free_port
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.every_loop

STUDIES, SERIES, INSTANCES = 5, 3, 4
TREE = [
    (f"1.{study}", f"1.{study}.{series}", f"1.{study}.{series}.{number}", CT_IMAGE_STORAGE)
    for study in range(1, STUDIES + 1)
    for series in range(1, SERIES + 1)
    for number in range(1, INSTANCES + 1)
]
# Gone: an instance of study 1, a series of study 2, study 3, and another instance of study 4, which has one more.
GONE = {
    "1.1.2.3",
    *(row[2] for row in TREE if row[1] == "1.2.1"),
    *(row[2] for row in TREE if row[0] == "1.3"),
    "1.4.1.1",
}
EXTRA = ("1.4", "1.4.9", "1.4.9.9", CT_IMAGE_STORAGE)
CHANGED = [(*row[:3], MR_IMAGE_STORAGE) if row[2] == "1.5.1.1" else row for row in (*TREE, EXTRA) if row[2] not in GONE]


class Given:
    """Studies as `Expected` gives them."""

    def __init__(self, rows: list[tuple[str, str, str, str]], *, knows_series: bool = True) -> None:
        self._rows = rows
        self._knows_series = knows_series

    def studies(self) -> Iterator[ExpectedStudy]:
        for uid in sorted({row[0] for row in self._rows}):
            yield ExpectedStudy(
                uid,
                {
                    row[2]: ExpectedInstance(row[1] if self._knows_series else "", row[3], f"/{row[2]}.dcm")
                    for row in self._rows
                    if row[0] == uid
                },
            )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hurried:
        """anyio, but time flies."""

        def __getattr__(self, name: str) -> Any:
            return getattr(anyio, name)

        async def sleep(self, seconds: float) -> None:
            await anyio.lowlevel.checkpoint()

    for module in (inquiry, comparison):
        monkeypatch.setattr(module, "anyio", Hurried())


async def verdicts_of(archive: Archive, given: Any, **options: Any) -> dict[str, Verdict]:
    verdicts: list[Verdict] = []
    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({STUDY_ROOT_FIND: archive}) as acceptor:
            peer = Peer("127.0.0.1", acceptor.port)
            await Comparison(peer, given, verdicts.append, **options).run()
    found = {verdict.study_instance_uid: verdict for verdict in verdicts}
    assert len(found) == len(verdicts)
    return found


def named(verdicts: dict[str, Verdict], kind: Kind) -> set[str]:
    return {each.sop_instance_uid for verdict in verdicts.values() for each in verdict.of_kind(kind)}


PECULIARITIES: dict[str, dict[str, Any]] = {
    "well": {},
    "counts": {"tells_counts": True, "tells_classes": True},
    "lists in part": {"matches_lists": False},
    "with a series only": {"needs_series": True},
    "with a series only, lists in part": {"needs_series": True, "matches_lists": False},
    "cut after many": {"most": 30},
    "cut after a study": {"most": 9},
    "out of resources": {"answers": [0xA700, 0xA700]},
}


@pytest.mark.parametrize("peculiarity", PECULIARITIES.values(), ids=PECULIARITIES)
@pytest.mark.parametrize("knows_series", [True, False], ids=["series known", "series unknown"])
async def test_exactly_the_differences_are_named(peculiarity: dict[str, Any], knows_series: bool) -> None:
    archive = Archive(list(CHANGED), **{**peculiarity, "answers": list(peculiarity.get("answers", ()))})
    verdicts = await verdicts_of(archive, Given(TREE, knows_series=knows_series))
    assert set(verdicts) == {row[0] for row in TREE}
    assert named(verdicts, Kind.MISSING) == GONE
    assert named(verdicts, Kind.EXTRA) == {"1.4.9.9"}
    assert named(verdicts, Kind.OTHER_CLASS) == {"1.5.1.1"}
    assert not any(verdict.problem for verdict in verdicts.values())
    if knows_series:
        assert verdicts["1.2"].missing_series == {"1.2.1": INSTANCES}
        assert set(verdicts["1.3"].missing_series) == {"1.3.1", "1.3.2", "1.3.3"}


@pytest.mark.parametrize("most", [1, 3])
async def test_lists_that_are_cut_within_a_series_are_told_and_what_is_missing_is_asked_for_one_by_one(
    most: int,
) -> None:
    verdicts = await verdicts_of(Archive(list(CHANGED), most=most), Given(TREE))
    assert named(verdicts, Kind.MISSING) == GONE
    assert all("cuts its lists" in verdicts[uid].problem for uid in ("1.1", "1.2", "1.4", "1.5"))


@pytest.mark.parametrize("peculiarity", PECULIARITIES.values(), ids=PECULIARITIES)
async def test_a_peer_that_has_everything_is_equal(peculiarity: dict[str, Any]) -> None:
    archive = Archive(list(TREE), **{**peculiarity, "answers": list(peculiarity.get("answers", ()))})
    verdicts = await verdicts_of(archive, Given(TREE), associations=3)
    assert len(verdicts) == STUDIES
    assert all(verdict.is_equal and not verdict.by_counts for verdict in verdicts.values())


async def test_a_few_queries_are_enough_for_a_peer_that_answers_well() -> None:
    archive = Archive(list(TREE), tells_classes=True)
    await verdicts_of(archive, Given(TREE))
    assert archive.asked == {"STUDY": 1, "IMAGE": 1}


async def test_classes_that_the_peer_does_not_tell_do_not_differ() -> None:
    verdicts = await verdicts_of(Archive(list(CHANGED), tells_class=False), Given(TREE))
    assert named(verdicts, Kind.OTHER_CLASS) == set()
    assert verdicts["1.5"].is_equal


async def test_counts_spare_the_instances_where_they_agree_and_prove_less() -> None:
    archive = Archive(list(CHANGED), tells_counts=True)
    verdicts = await verdicts_of(archive, Given(TREE), by_counts=True)
    assert {uid for uid, verdict in verdicts.items() if verdict.by_counts} == {"1.5"}
    assert named(verdicts, Kind.MISSING) == GONE
    swapped = [row for row in (*TREE, ("1.4", "1.4.1", "1.4.1.99", CT_IMAGE_STORAGE)) if row[2] != "1.4.1.1"]
    archive = Archive(swapped, tells_counts=True)
    assert (await verdicts_of(archive, Given(TREE), by_counts=True))["1.4"].is_equal
    assert archive.asked == {"STUDY": 1}
    archive = Archive(swapped)  # numbers that are not told do not agree
    assert not (await verdicts_of(archive, Given(TREE), by_counts=True))["1.4"].is_equal


async def test_a_study_that_the_peer_refuses_to_list_is_neither_equal_nor_missing() -> None:
    archive = Archive(list(TREE), answers=[0x0124] * 1000)
    verdicts = await verdicts_of(archive, Given(TREE))
    assert all("refused the query" in verdict.problem for verdict in verdicts.values())
    assert named(verdicts, Kind.MISSING) == set()


async def test_an_association_that_is_lost_is_replaced_and_nothing_is_called_missing() -> None:
    archive = Archive(list(TREE))

    class Hangs(Archive):
        async def perform(self, request: Any, data_set: Any) -> Any:
            async with contextlib.aclosing(archive.perform(request, data_set)) as answers:
                async for answer in answers:
                    if archive.asked.total() == 2:
                        await request.association.abort()
                    yield answer

    verdicts = await verdicts_of(Hangs([]), Given(TREE), associations=1)
    assert all(verdict.is_equal for verdict in verdicts.values())
    assert len(verdicts) == STUDIES


async def test_a_peer_that_is_lost_again_and_again_is_given_up() -> None:
    def leaves(wire: Wire) -> None:
        with contextlib.suppress(ConnectionError):
            wire.accept()
            wire.read_message()
            wire.rst()

    verdicts: list[Verdict] = []
    with ScriptedSCP(leaves) as scp, anyio.fail_after(LIMIT_SECONDS):
        peer = Peer(scp.host, scp.port, scp.ae_title)
        await Comparison(peer, Given(TREE), verdicts.append, associations=1).run()  # type: ignore[arg-type]
    assert len(verdicts) == STUDIES
    assert all(verdict.problem and not verdict.differences for verdict in verdicts)


async def test_a_first_query_that_is_aborted_is_a_refusal() -> None:
    def aborts(wire: Wire) -> None:
        wire.accept()
        wire.read_message()
        wire.send(Abort(0, 0))

    with ScriptedSCP(aborts) as scp, anyio.fail_after(LIMIT_SECONDS):
        peer = Peer(scp.host, scp.port, scp.ae_title)
        with pytest.raises(Aborted):
            await Comparison(peer, Given(TREE), print).run()  # type: ignore[arg-type]
    assert len(scp.wires) == 1


async def test_no_association_is_an_error() -> None:
    with pytest.raises(ConnectFailed):
        await Comparison(Peer("127.0.0.1", free_port()), Given(TREE), print).run()  # type: ignore[arg-type]
    async with Acceptor({VERIFICATION: VerificationProvider()}) as acceptor:
        with pytest.raises(NoAcceptedContext):
            await Comparison(Peer("127.0.0.1", acceptor.port), Given(TREE), print).run()  # type: ignore[arg-type]
    async with Acceptor({STUDY_ROOT_FIND: Archive([])}, ae_title="OTHER") as acceptor:
        with pytest.raises(AssociationRejected):
            await Comparison(Peer("127.0.0.1", acceptor.port), Given(TREE), print).run()  # type: ignore[arg-type]


def test_a_peer_that_becomes_slow_gets_a_pause_and_one_that_is_always_slow_does_not() -> None:
    pace = Pace()
    assert [pace.pause_seconds(1.0, 100) for _ in range(5)] == [0.0] * 5
    assert pace.pause_seconds(8.0, 100) == 8.0
    assert pace.pause_seconds(60.0, 100) == 10.0
    assert Pace().pause_seconds(60.0, 0) == 0.0


def test_large_studies_are_asked_for_alone() -> None:
    given = Given([("1.1", "1.1.1", f"1.1.1.{number}", CT_IMAGE_STORAGE) for number in range(6000)] + TREE[12:])
    compared = Comparison(Peer("127.0.0.1", 104), given, print)  # type: ignore[arg-type]
    lots = []
    while lot := compared._take_lot():
        lots.append([study.study_instance_uid for study in lot])
    assert lots == [["1.1"], ["1.2", "1.3", "1.4", "1.5"]]


def test_expected_is_what_a_comparison_reads() -> None:
    with Expected(print) as expected:
        expected._add(iter([("1.1", "1.1.1.1", "1.1.1", CT_IMAGE_STORAGE, b"/a.dcm")]))
        (study,) = expected.studies()
        assert study.instances == {"1.1.1.1": ExpectedInstance("1.1.1", CT_IMAGE_STORAGE, "/a.dcm")}
        assert expected.counts() == (1, 1)
