"""Compares what a peer must have with what it says it has (C-FIND), study by study.

The peer is asked for the UIDs of all instances, but for their SOP classes only if it does not tell those of the study
(SOP Classes in Study), or tells others. A study whose instances have exchanged their SOP classes therefore looks equal.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import anyio.to_thread

from asyncstore.errors import (
    Aborted,
    AssociateError,
    AssociationLost,
    AsyncStoreError,
    LocalProtocolError,
    RemoteProtocolError,
    cause_of,
)
from asyncstore.net.requestor import Requestor
from asyncstore.record import field, record
from asyncstore.transfer.proof.inquiry import Habits, Inquiry, Pace
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncstore.net.peer import Peer
    from asyncstore.transfer.proof.expected import Expected, ExpectedStudy
    from asyncstore.transfer.proof.inquiry import Found, Listing, Summary

_CONTEXTS: Final = ((STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),)
# Studies in one query: as many as have few instances, since a peer builds its answer in memory.
_STUDIES_AT_ONCE: Final = 50
_INSTANCES_AT_ONCE: Final = 5000
_STUDIES_COUNTED_AT_ONCE: Final = 200
_TRIES: Final = 3


class Kind(enum.StrEnum):
    """How an instance differs."""

    MISSING = "missing"
    EXTRA = "extra"
    OTHER_CLASS = "other-class"


class Difference(NamedTuple):
    """An instance that the peer does not have, has besides ours, or has with another SOP class.

    `sop_class_uid` is ours, `peer_sop_class_uid` the peer's; "" if there is none or it was not told. `path` is our
    file.
    """

    kind: Kind
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    peer_sop_class_uid: str
    path: str | None


@record(slots=True)
class Verdict:
    """The comparison of one study.

    `expected` and `found` are numbers of instances. `missing_series` are those of which the peer has no instance, with
    their numbers of instances, which are among the differences, too. `by_counts`: only the numbers were compared.
    `problem` says why the study could not be compared, or what is not known of it.
    """

    study_instance_uid: str
    expected: int
    found: int = 0
    differences: list[Difference] = field(default_factory=list)
    missing_series: dict[str, int] = field(default_factory=dict)
    by_counts: bool = False
    problem: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether the peer has what it must have, and nothing else."""
        return not self.differences and not self.problem

    def of_kind(self, kind: Kind) -> list[Difference]:
        """The differences of one kind."""
        return [each for each in self.differences if each.kind is kind]


def compare(study: ExpectedStudy, listing: Listing, *, tells_extra: bool = True) -> Verdict:
    """Compare a study with what the peer listed of it; `tells_extra`: what it has besides is a difference."""
    found = listing.found[study.study_instance_uid]
    verdict = Verdict(study.study_instance_uid, len(study.instances), len(found))
    if listing.failure is not None:
        verdict.problem = str(listing.failure)
        return verdict
    if tells_extra and not listing.is_whole:
        verdict.problem = "the peer cuts its lists short: it may have further instances"
    verdict.differences = list(_differences(study, found))
    if not tells_extra:
        verdict.differences = [each for each in verdict.differences if each.kind is not Kind.EXTRA]
    in_series = Counter(each.series_instance_uid for each in study.instances.values())
    missing = Counter(each.series_instance_uid for each in verdict.of_kind(Kind.MISSING))
    verdict.missing_series = {uid: count for uid, count in missing.items() if uid and count == in_series[uid]}
    return verdict


def _differences(study: ExpectedStudy, found: dict[str, Found]) -> Iterator[Difference]:
    for uid, ours in study.instances.items():
        series, sop_class, path = ours
        theirs = found.get(uid)
        if theirs is None:
            yield Difference(Kind.MISSING, series, uid, sop_class, "", path)
        elif theirs.sop_class_uid and sop_class and theirs.sop_class_uid != sop_class:
            yield Difference(Kind.OTHER_CLASS, series, uid, sop_class, theirs.sop_class_uid, path)
    for uid, theirs in found.items():
        if uid not in study.instances:
            yield Difference(Kind.EXTRA, theirs.series_instance_uid, uid, "", theirs.sop_class_uid, None)


class Comparison:
    """Compares all of `expected` with a peer, by several queries at once, and tells `on_verdict` of each study.

    `associations` is how many queries run at once. `by_counts` takes a study as equal if the peer's numbers of its
    series and instances agree: quick, but one missing instance and one extra look like none. `tells_extra` False: what
    the peer has besides is no difference. Other arguments are those of `associate`. `was_established`: there was an
    association.
    """

    def __init__(
        self,
        peer: Peer,
        expected: Expected,
        on_verdict: Callable[[Verdict], object],
        *,
        associations: int = 2,
        by_counts: bool = False,
        tells_extra: bool = True,
        **association: Any,
    ) -> None:
        self._peer = peer
        self._studies = expected.studies()
        self._on_verdict = on_verdict
        self._associations = associations
        self._by_counts = by_counts
        self._tells_extra = tells_extra
        self._options = association
        self._habits = Habits()
        self._pace = Pace()
        self._turn = anyio.Lock()
        self._waiting: ExpectedStudy | None = None
        self.was_established: bool = False
        self._established = anyio.Event()
        self._failed_lots = 0

    async def run(self) -> None:
        """Compare everything.

        Raises AssociateError, AssociationLost or RemoteProtocolError if there is no association, or if they fail again
        and again; also Aborted if the peer aborts the first query, as Orthanc does to an AE that it does not know.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._work)
                await self._established.wait()  # a peer that cannot be reached is tried and reported once
                for _ in range(self._associations - 1):
                    group.start_soon(self._work)
        except ExceptionGroup as errors:
            raise _first_of(errors) from None

    async def _work(self) -> None:
        try:
            await self._compare_lots()
        finally:
            self._established.set()

    async def _compare_lots(self) -> None:
        """Compare lot after lot, on one association after another."""
        lot = await self._next_lot()
        tries = 0
        while lot:
            try:
                async with Requestor(self._peer, _CONTEXTS, **self._options) as association:
                    self.was_established = True
                    self._established.set()
                    inquiry = Inquiry(association, self._habits, self._pace)
                    while lot:
                        for verdict in await self._examine(inquiry, lot):
                            self._on_verdict(verdict)
                        self._failed_lots = tries = 0
                        lot = await self._next_lot()
            except (AssociateError, AssociationLost, RemoteProtocolError) as error:
                is_refusal = isinstance(error, Aborted) and not self._habits.answers
                if not self._established.is_set() or is_refusal or self._failed_lots >= _TRIES:
                    raise
                tries += 1
                if tries < _TRIES:
                    await anyio.sleep(2.0**tries)
                    continue
                self._failed_lots += 1
                for study in lot:
                    self._on_verdict(Verdict(study.study_instance_uid, len(study.instances), problem=str(error)))
                lot, tries = await self._next_lot(), 0

    async def _examine(self, inquiry: Inquiry, lot: list[ExpectedStudy]) -> list[Verdict]:
        summaries = await inquiry.summaries([study.study_instance_uid for study in lot])
        verdicts = []
        if self._by_counts:
            agreeing = [study for study in lot if _agrees(study, summaries.get(study.study_instance_uid))]
            verdicts = [_by_counts(study) for study in agreeing]
            lot = [study for study in lot if study not in agreeing]
        of_equal_classes = [
            study
            for study in lot
            if (told := summaries.get(study.study_instance_uid)) and told.sop_classes == study.sop_classes
        ]
        others = [study for study in lot if study not in of_equal_classes]
        for asks_classes, studies in ((False, of_equal_classes), (True, others)):
            inquiry.asks_classes = asks_classes
            for part in _parts(studies):
                listings = await inquiry.instances_of(part)
                verdicts += [
                    compare(study, listings[study.study_instance_uid], tells_extra=self._tells_extra) for study in part
                ]
        return verdicts

    async def _next_lot(self) -> list[ExpectedStudy]:
        async with self._turn:
            return await anyio.to_thread.run_sync(self._take_lot)

    def _take_lot(self) -> list[ExpectedStudy]:
        """Some studies for the next query, [] at the end."""
        most = _STUDIES_COUNTED_AT_ONCE if self._by_counts else _STUDIES_AT_ONCE
        lot: list[ExpectedStudy] = []
        instances = 0
        while len(lot) < most:
            study, self._waiting = self._waiting or next(self._studies, None), None
            if study is None:
                break
            instances += len(study.instances)
            if lot and instances > most * (_INSTANCES_AT_ONCE // _STUDIES_AT_ONCE):
                self._waiting = study
                break
            lot.append(study)
        return lot


def _agrees(study: ExpectedStudy, told: Summary | None) -> bool:
    """Whether the peer tells the numbers of a study, and they are ours."""
    if told is None or told.instances != len(study.instances):
        return False
    return told.series == (len(study.series) or told.series) and told.sop_classes in (study.sop_classes, frozenset())


def _by_counts(study: ExpectedStudy) -> Verdict:
    return Verdict(study.study_instance_uid, len(study.instances), len(study.instances), by_counts=True)


def _parts(lot: list[ExpectedStudy]) -> Iterator[list[ExpectedStudy]]:
    for start in range(0, len(lot), _STUDIES_AT_ONCE):
        yield lot[start : start + _STUDIES_AT_ONCE]


def _first_of(errors: ExceptionGroup[Exception]) -> Exception:
    """The error for the caller: several associations usually fail for the same reason."""
    first = cause_of(errors)
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, AsyncStoreError) and not isinstance(first, LocalProtocolError) else errors
