"""What a scan finds is counted by kind, whatever the number of files."""

from __future__ import annotations

import json

import pytest

from asyncstore.cli.output import inventory_text
from asyncstore.errors import NotDicom
from asyncstore.inputs.inventory import Inventory
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import BytesSource
from asyncstore.transfer.options import TransferOptions

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.91"


def instance(sop_class: str, syntax: str, length: int) -> Instance:
    return Instance("a.dcm", sop_class, "1.2.3", syntax, 0, length, BytesSource(bytes(length)), length, 0)


def problem(kind: ProblemKind, path: str = "notes.txt") -> ScanProblem:
    return ScanProblem(path, kind, "it begins otherwise", NotDicom("it begins otherwise"))


def inventory(*found: Instance | ScanProblem) -> Inventory:
    counted = Inventory()
    for one in found:
        counted.add(one)
    return counted


def test_instances_are_counted_by_sop_class_and_transfer_syntax() -> None:
    counted = inventory(instance(CT, EXPLICIT, 1000), instance(CT, EXPLICIT, 500), instance(MR, JPEG_2000, 70))
    assert list(inventory_text.lines(counted)) == [
        "3 instances, 1.57 kB of data sets",
        "  2     1.50 kB  CT Image Storage, Explicit VR Little Endian",
        "  1    70 bytes  MR Image Storage, JPEG 2000 Image Compression",
    ]


def test_problems_have_a_few_examples() -> None:
    counted = inventory(*(problem(ProblemKind.NOT_DICOM, f"{number}.txt") for number in range(7)))
    lines = list(inventory_text.lines(counted))
    assert lines[1] == "7 files: not a DICOM file"
    assert lines[2] == "  0.txt: it begins otherwise"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 8


def test_instances_whose_file_meta_differs_have_a_few_examples_and_are_no_problem() -> None:
    differing = [instance(CT, EXPLICIT, 10) for _ in range(7)]
    for number, each in enumerate(differing):
        each.path, each.meta_difference = f"{number}\n.dcm", f"the File Meta Information has 1.2.{number}"
    counted = inventory(instance(CT, EXPLICIT, 10), *differing)
    lines = list(inventory_text.lines(counted))
    assert lines[2:4] == [
        "7 instances: doubtful UIDs or File Meta Information",
        "  0\\n.dcm: the File Meta Information has 1.2.0",
    ]
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 9
    assert inventory_text.exit_code(counted) == 0
    differences = counted.to_dict()["meta_differences"]
    assert differences["instances"] == 7
    assert differences["examples"][0] == {"path": "0\n.dcm", "detail": "the File Meta Information has 1.2.0"}


def test_the_plan_counts_kinds_and_associations() -> None:
    counted = inventory(instance(CT, EXPLICIT, 10), instance(MR, JPEG_2000, 10))
    assert list(inventory_text.plan_lines(counted, TransferOptions())) == [
        "2 presentation contexts needed; at least 1 association",
        "1 instance compressed: sent only where the peer accepts the syntax",
    ]


@pytest.mark.parametrize(("only_needed_contexts", "associations"), [(True, 2), (False, 3)])
def test_a_hundred_and_twenty_nine_kinds_need_several_associations(
    only_needed_contexts: bool, associations: int
) -> None:
    counted = inventory(*(instance(f"1.2.{number}", EXPLICIT, 10) for number in range(129)))
    lines = inventory_text.plan_lines(counted, TransferOptions(only_needed_contexts=only_needed_contexts))
    assert next(lines) == f"129 presentation contexts needed; at least {associations} associations"


def test_the_exit_code_says_whether_all_could_be_read() -> None:
    ct = instance(CT, EXPLICIT, 10)
    assert inventory_text.exit_code(inventory(ct)) == 0
    assert inventory_text.exit_code(inventory(ct, problem(ProblemKind.NOT_DICOM))) == 0
    assert inventory_text.exit_code(inventory(ct, problem(ProblemKind.UNREADABLE))) == 3
    assert inventory_text.exit_code(inventory(problem(ProblemKind.UNREADABLE))) == 3
    assert inventory_text.exit_code(inventory(problem(ProblemKind.NOT_DICOM), problem(ProblemKind.NOT_A_FILE))) == 5
    assert inventory_text.exit_code(inventory()) == 5


def test_the_json_has_the_same_counts() -> None:
    line = inventory_text.json_line(inventory(instance(CT, EXPLICIT, 10), problem(ProblemKind.NOT_DICOM)))
    record = json.loads(line)
    assert record["instances"] == 1
    assert record["kinds"][0]["sop_class"] == "CT Image Storage"
    assert record["meta_differences"] == {"instances": 0, "examples": []}
    assert record["problems"][0] == {
        "problem": "not-dicom",
        "files": 1,
        "examples": [{"path": "notes.txt", "detail": "it begins otherwise"}],
    }
