"""Outcomes as JSON lines and CSV: every record readable by other programs, whatever the names in it are."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import TYPE_CHECKING

import pytest

from asyncstore.cli.output.records import COLUMNS, JsonLines, RecordFile
from asyncstore.instances.outcome import Outcome, State
from asyncstore.status import Status
from asyncstore.transfer.report import Report

if TYPE_CHECKING:
    from pathlib import Path

FAILED = Outcome(State.FAILED, "a.dcm", status=Status(0xA702, "disk full", (0x00080016,)), reason="out of resources")


def written(path: Path, *outcomes: Outcome) -> bytes:
    file = RecordFile(str(path))
    for outcome in outcomes:
        file.write(outcome)
    file.close()
    return path.read_bytes()


def rows(data: bytes) -> list[dict[str, str]]:
    text = data.decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_json_record_says_what_became_of_the_instance(tmp_path: Path) -> None:
    record = json.loads(written(tmp_path / "r.jsonl", FAILED))
    assert record["state"] == "failed"
    assert record["path"] == "a.dcm"
    assert record["status"] == "A702"
    assert record["comment"] == "disk full"
    assert record["offending_elements"] == ["00080016"]


def test_a_csv_record_has_the_same_columns(tmp_path: Path) -> None:
    data = written(tmp_path / "r.csv", FAILED)
    assert data.startswith(",".join(COLUMNS).encode() + b"\r\n")
    assert data.endswith(b"\r\n")
    (row,) = rows(data)
    assert (row["state"], row["status"], row["offending_elements"]) == ("failed", "A702", "00080016")


def test_a_record_is_in_the_file_as_soon_as_it_happened(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    file = RecordFile(str(path))
    file.write(FAILED)
    assert json.loads(path.read_text())["state"] == "failed"
    file.close()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_csv_cell_is_a_formula(tmp_path: Path, start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    (row,) = rows(written(tmp_path / "r.csv", Outcome(State.STORED, name, status=Status(0, name))))
    assert row["path"] == f"'{name}"
    assert row["comment"] == f"'{name}"


def test_names_with_separators_and_quotes_come_back_whole(tmp_path: Path) -> None:
    name = 'a,"b";d'
    (row,) = rows(written(tmp_path / "r.csv", Outcome(State.STORED, name)))
    assert row["path"] == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\r\nb", "a\\r\\nb"),
        (b"a\x1b[2Jb", "a\\x1b[2Jb"),
        (b"bad\xff\x9b", "bad\\xff\\x9b"),
        ("\u202egpj".encode(), "\\u202egpj"),
        (b"\t=1+1", "\\t=1+1"),
        (b"\r=1+1", "\\r=1+1"),
    ],
    ids=repr,
)
def test_a_csv_record_is_a_line_that_moves_no_cursor_and_json_has_the_name_itself(
    tmp_path: Path, name: bytes, shown: str
) -> None:
    outcome = Outcome(State.STORED, os.fsdecode(name), reason=os.fsdecode(name))
    data = written(tmp_path / "r.csv", outcome)
    (row,) = rows(data)
    assert (row["path"], row["reason"]) == (shown, shown)
    assert data.decode().replace("\r\n", "").isprintable()
    line = written(tmp_path / "r.jsonl", outcome)
    assert line.decode().removesuffix("\n").isprintable()
    assert os.fsencode(json.loads(line)["path"]) == name


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_report_on_a_full_disk_raises_and_can_still_be_closed() -> None:
    file = RecordFile("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        file.write(FAILED)
    file.close()


def test_a_report_without_records_is_an_empty_file(tmp_path: Path) -> None:
    written(tmp_path / "r.csv", FAILED)
    file = RecordFile(str(tmp_path / "r.csv"))
    file.begin()
    file.close()
    assert (tmp_path / "r.csv").read_bytes() == b""


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_report_takes_the_place_of_an_earlier_one_with_its_first_record(tmp_path: Path, name: str) -> None:
    earlier = written(tmp_path / name, FAILED, FAILED)
    assert written(tmp_path / name) == earlier
    assert len(written(tmp_path / name, FAILED)) < len(earlier)


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
@pytest.mark.parametrize("content", [b"/archive/list\n", bytes(128) + b"DICM", b"SQLite format 3\0", b"t"])
def test_a_file_that_is_no_report_is_left_as_it_is(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "r.csv" and content == b"t":  # the beginning of a first line: a disk was full
        assert written(tmp_path / name, FAILED).startswith(b"time,")
        return
    with pytest.raises(OSError, match="not a report"):
        RecordFile(str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == content


def test_a_report_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    first = RecordFile(str(tmp_path / "r.csv"))
    first.write(FAILED)
    with pytest.raises(OSError, match="another run is writing it"):
        RecordFile(str(tmp_path / "r.csv"))
    first.write(FAILED)
    first.close()
    assert len(rows((tmp_path / "r.csv").read_bytes())) == 2


def test_json_lines_name_their_event_and_stay_ascii() -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.write(Outcome(State.STORED, "Łódź\udcff\n.dcm"))
    report = Report()
    report.add(FAILED)
    lines.write_summary(report, 3)
    first, last = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert json.loads(first)["event"] == "outcome"
    assert json.loads(first)["path"] == "Łódź\udcff\n.dcm"
    summary = json.loads(last)
    assert (summary["event"], summary["failed"], summary["exit_code"]) == ("summary", 1, 3)
