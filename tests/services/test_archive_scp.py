"""Our own archive: what it finds at each level, and what it commits to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from pydicom import Dataset

import asyncstore
from asyncstore.net.acceptor import Acceptor
from asyncstore.services import identifiers as keys
from asyncstore.services.archive_scp import CommitmentProvider, FindProvider, Holdings
from asyncstore.services.query import RELATIONAL_QUERIES
from asyncstore.services.references import Reference
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT_FIND,
)
from tests.support.associations import LIMIT_SECONDS, MR_IMAGE_STORAGE, to

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.every_loop

ROWS = [
    ("1.1", "1.1.1", "1.1.1.1", CT_IMAGE_STORAGE),
    ("1.1", "1.1.1", "1.1.1.2", CT_IMAGE_STORAGE),
    ("1.1", "1.1.2", "1.1.2.1", MR_IMAGE_STORAGE),
    ("1.2", "1.2.1", "1.2.1.1", CT_IMAGE_STORAGE),
]


@pytest.fixture
def holdings(tmp_path: Path) -> Holdings:
    held = Holdings()
    for study, series, uid, sop_class in ROWS:
        path = tmp_path / uid
        path.touch()
        held.add(study, series, Reference(sop_class, uid), str(path))
    return held


def query(level: str, *, study: str = "", **more: str) -> Dataset:
    data_set = Dataset()
    data_set.QueryRetrieveLevel, data_set.StudyInstanceUID = level, study
    for name, value in more.items():
        setattr(data_set, name, value)
    return data_set


async def found(holdings: Holdings, identifier: Dataset, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> list[Dataset]:
    with anyio.fail_after(LIMIT_SECONDS):
        async with (
            Acceptor({STUDY_ROOT_FIND: FindProvider(holdings)}) as acceptor,
            to(acceptor, contexts=[(STUDY_ROOT_FIND, (syntax,))]) as association,
        ):
            return [match async for match in association.find(identifier)]


async def test_each_level_has_its_matches(holdings: Holdings) -> None:
    studies = await found(
        holdings, query("STUDY", NumberOfStudyRelatedInstances="", NumberOfStudyRelatedSeries="", SOPClassesInStudy="")
    )
    assert [(each.StudyInstanceUID, each.NumberOfStudyRelatedSeries) for each in studies] == [("1.1", 2), ("1.2", 1)]
    assert [each.NumberOfStudyRelatedInstances for each in studies] == [3, 1]
    assert set(studies[0].SOPClassesInStudy) == {CT_IMAGE_STORAGE, MR_IMAGE_STORAGE}
    series = await found(
        holdings, query("SERIES", study="1.1", SeriesInstanceUID="", NumberOfSeriesRelatedInstances="")
    )
    assert [(each.SeriesInstanceUID, each.NumberOfSeriesRelatedInstances) for each in series] == [
        ("1.1.1", 2),
        ("1.1.2", 1),
    ]
    images = await found(holdings, query("IMAGE", study="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID=""))
    assert [each.SOPInstanceUID for each in images] == ["1.1.1.1", "1.1.1.2"]
    assert "SOPClassUID" not in images[0]
    images = await found(holdings, query("IMAGE", SOPInstanceUID="1.2.1.1", SOPClassUID=""))  # a relational query
    assert [(each.StudyInstanceUID, each.SOPClassUID) for each in images] == [("1.2", CT_IMAGE_STORAGE)]
    assert await found(holdings, query("IMAGE", study="1.9")) == []


async def test_lists_of_uids_are_matched(holdings: Holdings) -> None:
    identifier = query("STUDY")
    identifier.StudyInstanceUID = ["1.2", "1.1", "1.9"]
    assert {str(each.StudyInstanceUID) for each in await found(holdings, identifier)} == {"1.1", "1.2"}


@pytest.mark.parametrize(
    ("level", "syntax"), [("PATIENT", EXPLICIT_VR_LITTLE_ENDIAN), ("STUDY", EXPLICIT_VR_BIG_ENDIAN)]
)
async def test_what_is_not_known_is_refused(holdings: Holdings, level: str, syntax: str) -> None:
    with pytest.raises(asyncstore.OperationFailed) as caught:
        await found(holdings, query(level), syntax)
    assert caught.value.status.value == 0xA900


async def test_a_file_that_is_gone_matches_nothing(holdings: Holdings, tmp_path: Path) -> None:
    uids = {match.SOPInstanceUID for match in await found(holdings, query("IMAGE", SOPInstanceUID=""))}
    gone = min(uids)
    (tmp_path / gone).unlink()
    assert {match.SOPInstanceUID for match in await found(holdings, query("IMAGE", SOPInstanceUID=""))} == uids - {gone}
    studies = await found(holdings, query("STUDY", NumberOfStudyRelatedInstances=""))
    assert sum(int(match.NumberOfStudyRelatedInstances) for match in studies) == len(uids) - 1


async def test_relational_queries_are_accepted(holdings: Holdings) -> None:
    async with Acceptor({STUDY_ROOT_FIND: FindProvider(holdings)}) as acceptor:
        contexts = [(STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN,))]
        async with to(
            acceptor, contexts=contexts, extended_negotiations={STUDY_ROOT_FIND: RELATIONAL_QUERIES}
        ) as association:
            assert association.extended_negotiations == {STUDY_ROOT_FIND: RELATIONAL_QUERIES}


async def test_only_what_is_there_with_its_class_is_committed(holdings: Holdings, tmp_path: Path) -> None:
    (tmp_path / "1.1.1.2").unlink()
    reports = asyncstore.CommitmentReports()
    references = [
        Reference(CT_IMAGE_STORAGE, "1.1.1.1"),
        Reference(CT_IMAGE_STORAGE, "1.1.1.2"),
        Reference(CT_IMAGE_STORAGE, "1.1.2.1"),
        Reference(CT_IMAGE_STORAGE, "1.9.9.9"),
    ]
    providers: dict[str, Any] = {STORAGE_COMMITMENT_PUSH_MODEL: reports}
    contexts = [(STORAGE_COMMITMENT_PUSH_MODEL, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    with anyio.fail_after(LIMIT_SECONDS):
        async with (
            Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: CommitmentProvider(holdings)}) as acceptor,
            to(acceptor, contexts=contexts, providers=providers) as association,
        ):
            transaction = await association.request_commitment(references)
            answers = await reports.wait(transaction, references)
    assert answers.committed == {"1.1.1.1"}
    assert answers.failed == {"1.1.1.2": 0x0112, "1.1.2.1": 0x0119, "1.9.9.9": 0x0112}


def test_an_instance_that_comes_again_is_held_once(holdings: Holdings, tmp_path: Path) -> None:
    holdings.add("1.7", "1.7.1", Reference(CT_IMAGE_STORAGE, "1.1.1.1"), str(tmp_path / "1.1.1.1"))
    (found_now,) = holdings.find("IMAGE", {keys.SOP_INSTANCE_UID: "1.1.1.1"})
    assert [each[keys.STUDY_INSTANCE_UID] for each in found_now] == ["1.7"]
