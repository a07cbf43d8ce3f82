"""What a migration has before it, as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import Any

import pytest

from asyncstore.cli.output import inventory_text
from asyncstore.cli.output.prospect import Prospect
from asyncstore.errors import NotDicom
from asyncstore.inputs.inventory import Inventory
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import BytesSource
from asyncstore.transfer.options import TransferOptions

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.91"

NUMBERS = itertools.count()


def instance(sop_class: str, syntax: str, length: int, uid: str | None = None) -> Instance:
    return Instance(
        "a.dcm", sop_class, uid or f"1.2.{next(NUMBERS)}", syntax, 0, length, BytesSource(bytes(length)), length, 0
    )


def problem(kind: ProblemKind, path: str = "notes.txt") -> ScanProblem:
    return ScanProblem(path, kind, "it begins otherwise", NotDicom("it begins otherwise"))


def inventory(*found: Instance | ScanProblem) -> Inventory:
    counted = Inventory()
    for one in found:
        counted.add(one)
    return counted


def prospect(*found: Instance | ScanProblem, **more: Any) -> Prospect:
    return Prospect(inventory(*found), TransferOptions(), **more)


def test_instances_are_counted_by_sop_class_and_transfer_syntax() -> None:
    found = [instance(CT, EXPLICIT, 1000), instance(CT, EXPLICIT, 500), instance(MR, JPEG_2000, 70)]
    assert list(inventory_text.lines(prospect(*found))) == [
        "3 instances, 1.57 kB of data sets; 0 studies, 0 patients",
        "  2     1.50 kB  CT Image Storage, Explicit VR Little Endian",
        "  1    70 bytes  MR Image Storage, JPEG 2000 Image Compression",
        "2 presentation contexts needed; at least 1 association",
        "1 instance compressed with loss: sent only where the peer accepts the syntax, unless --decompress lossy",
        "3 instances: no Study Instance UID in the first 64 KiB",
    ]


def test_problems_have_a_few_examples() -> None:
    lines = list(
        inventory_text.lines(prospect(*(problem(ProblemKind.NOT_DICOM, f"{number}.txt") for number in range(7))))
    )
    assert lines[1] == "7 files: not a DICOM file"
    assert lines[2] == "  0.txt: it begins otherwise"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 8


def test_instances_whose_file_meta_differs_have_a_few_examples_and_are_no_problem() -> None:
    differing = [instance(CT, EXPLICIT, 10) for _ in range(7)]
    for number, each in enumerate(differing):
        each.path, each.meta_difference = f"{number}\n.dcm", f"the File Meta Information has 1.2.{number}"
    counted = prospect(instance(CT, EXPLICIT, 10), *differing)
    lines = list(inventory_text.lines(counted))
    at = lines.index("7 instances: doubtful UIDs or File Meta Information")
    assert lines[at + 1] == "  0\\n.dcm: the File Meta Information has 1.2.0"
    assert lines[at + 6] == "  and 2 more"
    assert counted.exit_code == 0
    differences = counted.to_dict()["meta_differences"]
    assert differences["instances"] == 7
    assert differences["examples"][0] == {"path": "0\n.dcm", "detail": "the File Meta Information has 1.2.0"}


def test_a_sop_instance_uid_that_two_files_have_is_told() -> None:
    twins = [instance(CT, EXPLICIT, 10, uid=uid) for uid in ("1.2.3", "1.2.4", "1.2.3")]
    for number, each in enumerate(twins):
        each.path = f"{number}.dcm"
    lines = list(inventory_text.lines(prospect(*twins)))
    at = lines.index("1 instance: the same SOP Instance UID as an earlier file")
    assert lines[at + 1] == "  2.dcm: 1.2.3"


def test_the_largest_files_are_told_if_there_are_many() -> None:
    many = [instance(CT, EXPLICIT, 10 * number) for number in range(1, 15)]
    for number, each in enumerate(many, 1):
        each.path = f"{number}.dcm"
    lines = list(inventory_text.lines(prospect(*many)))
    assert lines[lines.index("Largest files") + 1 :] == [f"   {size}0 bytes  {size}.dcm" for size in range(14, 9, -1)]
    assert "Largest files" not in inventory_text.lines(prospect(*many[:5]))


@pytest.mark.parametrize(("only_needed_contexts", "associations"), [(True, 2), (False, 3)])
def test_a_hundred_and_twenty_nine_kinds_need_several_associations(
    only_needed_contexts: bool, associations: int
) -> None:
    counted = inventory(*(instance(f"1.2.{number}", EXPLICIT, 10) for number in range(129)))
    planned = Prospect(counted, TransferOptions(only_needed_contexts=only_needed_contexts))
    text = f"129 presentation contexts needed; at least {associations} associations"
    assert text in inventory_text.lines(planned)
    assert (planned.to_dict()["contexts"], planned.to_dict()["associations"]) == (129, associations)


def test_the_exit_code_says_whether_all_could_be_read() -> None:
    ct = instance(CT, EXPLICIT, 10)
    assert prospect(ct).exit_code == 0
    assert prospect(ct, problem(ProblemKind.NOT_DICOM)).exit_code == 0
    assert prospect(ct, problem(ProblemKind.UNREADABLE)).exit_code == 3
    assert prospect(problem(ProblemKind.UNREADABLE)).exit_code == 3
    assert prospect(problem(ProblemKind.NOT_DICOM), problem(ProblemKind.NOT_A_FILE)).exit_code == 5
    assert prospect().exit_code == 5


def test_the_json_has_the_same_counts() -> None:
    line = inventory_text.json_line(prospect(instance(CT, EXPLICIT, 10), problem(ProblemKind.NOT_DICOM)))
    record = json.loads(line)
    assert (record["instances"], record["studies"], record["patients"], record["without_study"]) == (1, 0, 0, 1)
    assert record["kinds"][0]["sop_class"] == "CT Image Storage"
    assert record["kinds"][0]["acceptance"] is None
    assert record["acceptance"] is None
    assert record["largest"] == [{"path": "a.dcm", "bytes": 10}]
    assert record["meta_differences"] == record["repeated_uids"] == {"instances": 0, "examples": []}
    assert record["problems"][0] == {
        "problem": "not-dicom",
        "files": 1,
        "examples": [{"path": "notes.txt", "detail": "it begins otherwise"}],
    }


# -- with the answers of a peer ----------------------------------------------------------------------------------------


@pytest.fixture
def asked() -> Prospect:
    found = [instance(CT, EXPLICIT, 10, uid="1.1"), instance(CT, IMPLICIT, 10, uid="1.2")]
    found += [instance(MR, JPEG_2000, 10, uid=f"1.3.{number}") for number in range(3)]
    sent_as = {(CT, EXPLICIT): EXPLICIT, (CT, IMPLICIT): EXPLICIT, (MR, JPEG_2000): None}
    return prospect(*found, peer="ARCHIVE@host:104", sent_as=sent_as)


def test_what_a_peer_accepts_is_told_of_each_kind_and_in_all(asked: Prospect) -> None:
    lines = list(inventory_text.lines(asked))
    assert [line[17:] for line in lines[1:4]] == [
        "MR Image Storage, JPEG 2000 Image Compression: not accepted",
        "CT Image Storage, Explicit VR Little Endian: accepted",
        "CT Image Storage, Implicit VR Little Endian: converted to Explicit VR Little Endian",
    ]
    assert lines[5] == "ARCHIVE@host:104 accepts 1 of 5 instances as they are, 1 converted (10 bytes), 3 not at all"
    assert asked.exit_code == 3


def test_json_and_csv_have_the_answers(asked: Prospect) -> None:
    record = json.loads(inventory_text.json_line(asked))
    counts = {"unchanged": 1, "converted": 1, "refused": 3}
    assert record["acceptance"] == {"peer": "ARCHIVE@host:104", "failure": None, **counts}
    rows = list(csv.DictReader(io.StringIO(b"".join(inventory_text.csv_rows(asked)).decode(), newline="")))
    assert [(row["instances"], row["acceptance"], row["sent_transfer_syntax_uid"]) for row in rows] == [
        ("3", "refused", ""),
        ("1", "unchanged", EXPLICIT),
        ("1", "converted", EXPLICIT),
    ]
    assert [{key: value or "" for key, value in kind.items()} for kind in record["kinds"]] == [
        {**row, "instances": int(row["instances"]), "bytes": int(row["bytes"])} for row in rows
    ]


def test_no_answer_is_code_1_and_no_verdict() -> None:
    unanswered = prospect(instance(CT, EXPLICIT, 10), peer="ARCHIVE@host:104", failure="connection refused")
    assert unanswered.exit_code == 1
    record = json.loads(inventory_text.json_line(unanswered))
    assert (record["acceptance"]["failure"], record["kinds"][0]["acceptance"]) == ("connection refused", None)
