"""A Query/Retrieve SCP in this process that answers as well, and as badly, as real archives do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom import Dataset

from asyncstore.dimse.query_messages import CFindRSP
from asyncstore.net.provider import Reply
from asyncstore.services import identifiers as keys
from asyncstore.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.dimse.performing import PeerRequest

PENDING = Status(0xFF00)


@dataclass(slots=True)
class Archive:
    """Answers C-FIND over `instances`: (study, series, SOP instance, SOP class).

    `most` cuts its lists, which end with FE00 then; `matches_lists`: else only the first UID of a list counts;
    `needs_series`: at IMAGE level it refuses an empty series key; `tells_counts` and `tells_classes`: of studies;
    `tells_class`: of an instance; `answers` are the statuses with which it refuses the next queries. `asked` counts
    queries by level.
    """

    instances: list[tuple[str, str, str, str]]
    most: int = 0
    matches_lists: bool = True
    needs_series: bool = False
    tells_counts: bool = False
    tells_classes: bool = False
    tells_class: bool = True
    answers: list[int] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)

    def begin(self, request: PeerRequest) -> None:
        """Take the identifier in memory."""

    async def perform(self, request: PeerRequest, data_set: Any) -> Any:
        syntax = request.context.transfer_syntax_uid
        query = keys.decode_keys(data_set, syntax)
        level = query[keys.QUERY_RETRIEVE_LEVEL]
        self.asked[level] += 1
        if self.answers:
            yield CFindRSP(request.message_id, Status(self.answers.pop(0)))
            return
        if level == "IMAGE" and self.needs_series and not query[keys.SERIES_INSTANCE_UID]:
            yield CFindRSP(request.message_id, Status(0xA900, "Missing SeriesInstanceUID"))
            return
        for number, match in enumerate(self._matches(level, query)):
            if self.most and number == self.most:
                yield CFindRSP(request.message_id, Status(0xFE00))
                return
            encoded = keys.encode_keys({keys.QUERY_RETRIEVE_LEVEL: level, **match}, syntax)
            yield Reply(CFindRSP(request.message_id, PENDING, has_data_set=True), encoded)

    def _matches(self, level: str, query: dict[int, str]) -> Iterable[dict[int, str]]:
        columns = (keys.STUDY_INSTANCE_UID, keys.SERIES_INSTANCE_UID, keys.SOP_INSTANCE_UID)
        wanted = [self._wanted(query.get(column, "")) for column in columns]
        rows = [
            row
            for row in self.instances
            if all(not uids or uid in uids for uid, uids in zip(row, wanted, strict=False))
        ]
        if level == "IMAGE":
            for study, series, uid, sop_class in rows:
                match = dict(zip(columns, (study, series, uid), strict=True))
                if self.tells_class and keys.SOP_CLASS_UID in query:
                    match[keys.SOP_CLASS_UID] = sop_class
                yield match
        elif level == "SERIES":
            for study, series in sorted({row[:2] for row in rows}):
                yield {keys.STUDY_INSTANCE_UID: study, keys.SERIES_INSTANCE_UID: series}
        else:
            yield from self._studies(rows)

    def _studies(self, rows: list[tuple[str, str, str, str]]) -> Iterator[dict[int, str]]:
        for study in sorted({row[0] for row in rows}):
            of_study = [row for row in rows if row[0] == study]
            match = {keys.STUDY_INSTANCE_UID: study}
            if self.tells_counts:
                match[keys.STUDY_RELATED_SERIES] = str(len({row[1] for row in of_study}))
                match[keys.STUDY_RELATED_INSTANCES] = str(len(of_study))
            if self.tells_classes:
                match[keys.SOP_CLASSES_IN_STUDY] = "\\".join(sorted({row[3] for row in of_study}))
            yield match

    def _wanted(self, value: str) -> set[str]:
        uids = value.split("\\") if value else []
        return set(uids if self.matches_lists else uids[:1])


def item_of(reference: tuple[str, str]) -> Dataset:
    """A reference of storage commitment as an item of a sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item
