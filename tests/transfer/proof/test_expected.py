"""What a peer must have: collected from files and ledgers, given back by study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.instances.outcome import State
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.transfer.proof.expected import Expected, ExpectedInstance
from asyncstore.uids import CT_IMAGE_STORAGE
from tests.support import files
from tests.support.associations import image_file
from tests.support.ledgers import instance_of, opened, outcome_of, uid_of

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.instance import Instance

STUDY, SERIES = "1.2.3.55", "1.2.3.66"  # of image_file


class Problems:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, path: str, detail: str) -> None:
        self.told.append((path, detail))


@pytest.fixture
def problems() -> Problems:
    return Problems()


def without_study(path: Path) -> Path:
    path.write_bytes(files.dicom_file())
    return path


def test_the_instances_of_a_tree_are_given_by_study(tmp_path: Path, problems: Problems) -> None:
    (tmp_path / "deep").mkdir()
    first = image_file(tmp_path / "1.dcm", "1.2.3.1")
    second = image_file(tmp_path / "deep" / "2.dcm", "1.2.3.2")
    image_file(tmp_path / "deep" / "again.dcm", "1.2.3.2")
    (tmp_path / "README").write_text("no instance, and longer than a preamble " * 10)
    lost = without_study(tmp_path / "lost.dcm")
    with Expected(problems) as expected:
        expected.add_files([str(tmp_path), str(tmp_path / "missing")])
        (study,) = expected.studies()
        assert expected.counts() == (2, 1)
    assert (study.study_instance_uid, study.series, study.sop_classes) == (STUDY, {SERIES}, {CT_IMAGE_STORAGE})
    assert study.instances["1.2.3.1"] == ExpectedInstance(SERIES, CT_IMAGE_STORAGE, str(first))
    assert set(study.instances) == {"1.2.3.1", "1.2.3.2"}
    assert study.instances["1.2.3.2"].path in (str(second), str(tmp_path / "deep" / "again.dcm"))
    assert sorted(path for path, _ in problems.told) == [str(lost), str(tmp_path / "missing")]
    assert expected.problems == 2


def test_what_a_ledger_calls_stored_is_expected(tmp_path: Path, problems: Problems) -> None:
    def known(number: int) -> Instance:
        instance = instance_of(number, f"/gone/{number}.dcm")
        instance.study_instance_uid, instance.series_instance_uid = f"1.{number % 2}", f"1.{number % 2}.1"
        return instance

    unread = instance_of(7, str(image_file(tmp_path / "7.dcm", uid_of(7))))
    other = instance_of(8, str(image_file(tmp_path / "8.dcm", "1.2.3.8")))
    with opened(tmp_path / "run.db") as written:
        for number in (1, 2, 3):
            written.record(outcome_of(known(number)))
        written.record(outcome_of(known(4), State.FAILED))
        for instance in (unread, other, instance_of(9, "/gone/9.dcm")):
            written.record(outcome_of(instance))
    with LedgerReader(tmp_path / "run.db") as reader, Expected(problems) as expected:
        expected.add_ledger(reader)
        studies = {study.study_instance_uid: study for study in expected.studies()}
    assert {uid: len(study.instances) for uid, study in studies.items()} == {"1.0": 1, "1.1": 2, STUDY: 1}
    assert studies["1.0"].instances == {uid_of(2): ExpectedInstance("1.0.1", CT_IMAGE_STORAGE, "/gone/2.dcm")}
    assert studies[STUDY].instances[uid_of(7)].series_instance_uid == SERIES
    assert [path for path, _ in problems.told] == [str(tmp_path / "8.dcm"), "/gone/9.dcm"]
    assert "no longer the instance" in problems.told[0][1]
