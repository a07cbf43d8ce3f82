"""Asks a peer which instances of a study it has, in the ways that peers answer (PS3.4 Annex C).

Many peers list several studies in one answer. Some match a list of UIDs only in part, some answer at IMAGE level only
with the key of a series, and some cut long lists, which end with FE00 then. So what seems to be missing is asked for
again in a narrower way, and only the narrowest answer counts: lots of studies, a study, a series, an instance.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from asyncstore.errors import OperationFailed
from asyncstore.record import field, record
from asyncstore.services.identifiers import (
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_CLASSES_IN_STUDY,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    STUDY_RELATED_INSTANCES,
    STUDY_RELATED_SERIES,
)
from asyncstore.services.query import KeyQuery
from asyncstore.status import OUT_OF_RESOURCES, Category, Status
from asyncstore.uids import STUDY_ROOT_FIND

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from asyncstore.net.association import Association
    from asyncstore.transfer.proof.expected import ExpectedStudy

_INSTANCES_AT_ONCE: Final = 50  # UIDs in one query: a list that peers with a limit of matches answer whole
_TRIES: Final = 4
_LONGEST_PAUSE_SECONDS: Final = 10.0
_SLOW_FACTOR: Final = 4.0
_SLOW_SECONDS: Final = 0.5
_MATCHES_PER_QUERY: Final = 20  # a query without matches costs a peer about as much as this many matches


class Found(NamedTuple):
    """An instance that the peer has; a UID that it did not tell is ""."""

    series_instance_uid: str
    sop_class_uid: str


class Summary(NamedTuple):
    """What a peer tells of a study as a whole; numbers are -1, and the SOP classes empty, where it does not."""

    series: int
    instances: int
    sop_classes: frozenset[str]


@record(slots=True)
class Listing:
    """What a peer listed: instances by study and SOP Instance UID. `is_whole`: it did not refuse or cut the list."""

    found: dict[str, dict[str, Found]]
    is_whole: bool = True
    failure: OperationFailed | None = None


@record(slots=True)
class Habits:
    """How a peer answers, as learnt so far; shared by all associations with it. `answers`: it has answered a query."""

    answers: bool = False
    lists_several_studies: bool = True
    lists_whole_studies: bool = True


@record(slots=True)
class Pace:
    """Pauses when the peer answers much slower than usual, so that its other users are served."""

    _usual: float = field(default=0.0)

    def pause_seconds(self, seconds: float, matches: int) -> float:
        """How long to wait after a query that took `seconds` and had so many matches."""
        cost = seconds / (matches + _MATCHES_PER_QUERY)
        usual, self._usual = self._usual, 0.9 * self._usual + 0.1 * cost if self._usual else cost
        is_slow = usual > 0 and cost > _SLOW_FACTOR * usual and seconds > _SLOW_SECONDS
        return min(seconds, _LONGEST_PAUSE_SECONDS) if is_slow else 0.0


class Inquiry:
    """Queries one peer on one association.

    The SOP classes of instances are asked for while `asks_classes`: some peers must open each file to tell them.
    """

    def __init__(self, association: Association, habits: Habits, pace: Pace) -> None:
        self._association = association
        self._habits = habits
        self._pace = pace
        self.asks_classes = True

    async def summaries(self, studies: Collection[str]) -> dict[str, Summary]:
        """What the peer tells of those studies that it has."""
        keys = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: "\\".join(studies), SOP_CLASSES_IN_STUDY: ""}
        matches, _ = await self._ask({**keys, STUDY_RELATED_SERIES: "", STUDY_RELATED_INSTANCES: ""})
        return {match.get(STUDY_INSTANCE_UID, ""): _summary_of(match) for match in matches}

    async def instances_of(self, lot: Sequence[ExpectedStudy]) -> dict[str, Listing]:
        """The instances that the peer has of each study."""
        listings: dict[str, Listing] = {}
        if len(lot) > 1 and self._habits.lists_several_studies:
            listing = await self._list([study.study_instance_uid for study in lot])
            for study in lot:
                uid = study.study_instance_uid
                listings[uid] = Listing({uid: listing.found.get(uid, {})}, listing.is_whole, listing.failure)
        for study in lot:
            uid = study.study_instance_uid
            known = listings.get(uid)
            if known is None:
                listings[uid] = await self._narrow(study, Listing({uid: {}}, is_whole=False))
            elif not known.is_whole or _missing(study, known):
                listed = len(known.found[uid])
                listings[uid] = await self._narrow(study, known)
                if len(listings[uid].found[uid]) > listed:
                    self._habits.lists_several_studies = False
        return listings

    async def _narrow(self, study: ExpectedStudy, listing: Listing) -> Listing:
        """Ask in narrower ways for what was not listed of a study, or may not have been."""
        uid = study.study_instance_uid
        found = listing.found[uid]
        if not (found and listing.is_whole):
            if self._habits.lists_whole_studies:
                alone = await self._list([uid])
                found.update(alone.found.get(uid, {}))
                if alone.is_whole and not _missing(study, listing):
                    return Listing(listing.found)
            series = await self._series_to_ask(study, listing)
        else:
            series = {study.instances[each].series_instance_uid for each in _missing(study, listing)}
            if "" in series:
                series = await self._series_to_ask(study, listing)
        listed = len(found)
        listing.is_whole, listing.failure = True, None
        for each in sorted(series):
            await self._list_series(study, each, listing)
        if len(found) > listed:
            self._habits.lists_whole_studies = False
        return listing

    async def _series_to_ask(self, study: ExpectedStudy, listing: Listing) -> set[str]:
        """The series at the peer in which something may be that it did not list yet."""
        open_series = {study.instances[uid].series_instance_uid for uid in _missing(study, listing)}
        keys = {QUERY_RETRIEVE_LEVEL: "SERIES", STUDY_INSTANCE_UID: study.study_instance_uid, SERIES_INSTANCE_UID: ""}
        matches, failure = await self._ask(keys)
        at_peer = {match.get(SERIES_INSTANCE_UID, "") for match in matches} - {""}
        if failure is not None:
            at_peer |= study.series
        if "" in open_series:
            return at_peer
        listed = {each.series_instance_uid for each in listing.found[study.study_instance_uid].values()}
        return at_peer & (open_series | (at_peer - listed))

    async def _list_series(self, study: ExpectedStudy, series: str, listing: Listing) -> None:
        """Ask for one series; if its list is cut, ask for each instance of ours that is not in it."""
        uid = study.study_instance_uid
        part = await self._list([uid], series)
        listing.found[uid].update(part.found.get(uid, {}))
        if part.is_whole:
            return
        listing.is_whole = False
        if part.failure is not None and part.failure.status.category is not Category.CANCEL:
            listing.failure = part.failure
            return
        for at_once in (_INSTANCES_AT_ONCE, 1):
            missing = [each for each in _missing(study, listing) if study.instances[each].series_instance_uid == series]
            for start in range(0, len(missing), at_once):
                part = await self._list([uid], series, missing[start : start + at_once])
                listing.found[uid].update(part.found.get(uid, {}))

    async def _list(self, studies: Sequence[str], series: str = "", instances: Iterable[str] = ()) -> Listing:
        """The instances of studies, of one series of a study, or some of its instances."""
        keys = {
            QUERY_RETRIEVE_LEVEL: "IMAGE",
            STUDY_INSTANCE_UID: "\\".join(studies),
            SERIES_INSTANCE_UID: series,
            SOP_INSTANCE_UID: "\\".join(instances),
        }
        if self.asks_classes:
            keys[SOP_CLASS_UID] = ""
        matches, failure = await self._ask(keys)
        listing = Listing({}, failure is None, failure)
        for match in matches:
            study = match.get(STUDY_INSTANCE_UID, "") or (studies[0] if len(studies) == 1 else "")
            if uid := match.get(SOP_INSTANCE_UID, ""):
                of_series = match.get(SERIES_INSTANCE_UID, "") or series
                listing.found.setdefault(study, {})[uid] = Found(of_series, match.get(SOP_CLASS_UID, ""))
        return listing

    async def _ask(self, keys: dict[int, str]) -> tuple[list[dict[int, str]], OperationFailed | None]:
        """The matches of one query, and why the list is not whole, if it is not.

        Asks again if the peer is out of resources.
        """
        for tried in range(1, _TRIES + 1):
            matches: list[dict[int, str]] = []
            failure: OperationFailed | None = None
            began_at = time.monotonic()
            try:
                async for match in KeyQuery(self._association, keys, model=STUDY_ROOT_FIND):
                    matches.append(match)  # noqa: PERF401 - those before a failure count
            except OperationFailed as error:
                failure = error
            self._habits.answers = True
            pause = self._pace.pause_seconds(time.monotonic() - began_at, len(matches))
            if failure is None or not _is_out_of_resources(failure.status) or tried == _TRIES:
                break
            await anyio.sleep(max(pause, 2.0 ** (tried - 1)))
        if pause:
            await anyio.sleep(pause)
        return matches, failure


def _summary_of(match: dict[int, str]) -> Summary:
    series, instances = (
        int(text) if text.isdecimal() else -1
        for text in (match.get(STUDY_RELATED_SERIES, ""), match.get(STUDY_RELATED_INSTANCES, ""))
    )
    classes = filter(None, (uid.strip("\0 ") for uid in match.get(SOP_CLASSES_IN_STUDY, "").split("\\")))
    return Summary(series, instances, frozenset(classes))


def _is_out_of_resources(status: Status) -> bool:
    return any(first <= status.value <= last for first, last in OUT_OF_RESOURCES)


def _missing(study: ExpectedStudy, listing: Listing) -> list[str]:
    found = listing.found[study.study_instance_uid]
    return [uid for uid in study.instances if uid not in found]
