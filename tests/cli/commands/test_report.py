"""`asyncstore report`: what a ledger says, in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import socket
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.cli.output import ledger_text
from asyncstore.cli.output.ledger_text import Account, recorded_text
from asyncstore.instances.outcome import Outcome, State
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.status import Status
from tests.support import command
from tests.support.ledgers import DESTINATION, instance_of, opened, outcome_of, stored

if TYPE_CHECKING:
    from pathlib import Path

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
BROKEN = "/mnt/archive/broken/a\nb\udcff.dcm"  # as os.fsdecode gives a byte that is no text


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stored, four not stored, one that is no DICOM file, and two left, of two studies."""
    path = tmp_path_factory.mktemp("ledger") / "run.db"

    def of_study(number: int, study: str, state: State, status: Status | None, **more: Any) -> Outcome:
        file = BROKEN if number == 4 else f"/mnt/archive/{'good' if number < 4 else 'broken'}/{number}.dcm"
        instance = instance_of(number, file)
        instance.study_instance_uid = study
        return outcome_of(instance, state, status, **more)

    with opened(path) as written:
        for number in (1, 2):
            written.record(of_study(number, "1.2.1", State.STORED, Status(0)))
        written.record(of_study(3, "1.2.2", State.WARNING, Status(0xB000), reason="Coercion (0xB000)"))
        for number in (4, 5, 6):
            written.record(of_study(number, "1.2.2", State.FAILED, Status(0xA900), reason="=1+1 \x1b[2J"))
        written.record(of_study(7, "1.2.2", State.UNKNOWN, None, reason="never answered"))
        written.record(Outcome(State.SKIPPED, "/mnt/archive/good/README", reason="not a DICOM file", attempts=0))
        for number in (8, 9):
            written.record(of_study(number, "1.2.2", State.LEFT, None, attempts=0))
        written.note_end(scan_finished=False, stopped="the peer\x1b[2J went away")
    return path


def test_what_is_recorded_is_told_in_a_few_words_and_of_many_only_how_many(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with LedgerReader(ledger) as reader:
        assert recorded_text(reader) == "3 stored, 4 failed, 2 left"
        monkeypatch.setattr(ledger_text, "_COUNTED_AT_ONCE", 9)
        assert recorded_text(reader) == "10 files"
    with opened(tmp_path / "empty.db"):
        pass
    with LedgerReader(tmp_path / "empty.db") as reader:
        assert recorded_text(reader) == ""


def test_the_counts_are_printed_by_state_status_and_reason(ledger: Path) -> None:
    done = command.run("report", ledger)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *rest = done.stdout.splitlines()
    assert first.startswith(f"Ledger of {DESTINATION}, begun 20")
    assert second.startswith("1 run, the last one stopped early 20")
    assert second.endswith(r": the peer\x1b[2J went away; the input was not read to its end")
    assert rest == [
        "By state",
        "  3  failed",
        "  2  left",
        "  2  stored",
        "  1  skipped",
        "  1  unknown",
        "  1  warning",
        "By status",
        "  2  0000",
        "  3  A900",
        "  1  B000",
        "By reason",
        "  3  failed A900: =1+1 \\x1b[2J",
        "  2  left",
        "  1  skipped: not a DICOM file",
        "  1  unknown: never answered",
        "  1  warning B000: Coercion (0xB000)",
        "Most failures by directory",
        "  4  /mnt/archive/broken",
        "2 studies, 1 complete as far as the input was read",
        "Incomplete studies: found, stored, failed; first and last outcome",
        rest[-1],
    ]
    assert re.fullmatch(rf"  7  1  4  1\.2\.2  {TIME} to {TIME}", rest[-1])


def test_studies_are_counted_when_they_are_asked_for(ledger: Path) -> None:
    done = command.run("report", ledger, "--studies")
    lines = done.stdout.splitlines()
    at = lines.index("By study: found, stored, failed; first and last outcome")
    assert lines[at - 1] == "2 studies, 1 complete as far as the input was read"
    assert re.fullmatch(
        rf"  2  2  0  1\.2\.1  {TIME} to {TIME}\n  7  1  4  1\.2\.2  {TIME} to {TIME}", "\n".join(lines[at + 1 :])
    )


def test_json_has_the_same_counts(ledger: Path) -> None:
    done = command.run("report", ledger, "--json", "--studies")
    assert done.stdout.count("\n") == 1
    data = json.loads(done.stdout)
    assert data["destination"] == DESTINATION
    assert data["states"] == {"failed": 3, "left": 2, "stored": 2, "skipped": 1, "unknown": 1, "warning": 1}
    assert data["statuses"] == {"0000": 2, "A900": 3, "B000": 1}
    assert data["reasons"][0] == {"state": "failed", "status": "A900", "reason": "=1+1 \x1b[2J", "instances": 3}
    assert data["worst_directories"] == [{"directory": "/mnt/archive/broken", "failed": 4}]
    study = data["studies"][1]
    assert study.pop("first_recorded_at") <= study.pop("last_recorded_at")
    assert study == {"study_instance_uid": "1.2.2", "found": 7, "stored": 1, "failed": 4, "left": 2}
    assert [run["number"] for run in data["runs"]] == [1]
    assert "studies" not in json.loads(command.run("report", ledger, "--json").stdout)


ALL_STORED = "All of the input of the last run is stored, and nothing has failed or is left"


@pytest.mark.parametrize(
    ("states", "ends", "is_all_stored"),
    [
        ([State.STORED, State.WARNING, State.DUPLICATE, State.SKIPPED], [(True, "")], True),
        ([State.STORED], [(False, "interrupted"), (True, "")], True),
        ([State.STORED], [(True, ""), (False, "interrupted")], False),
        ([State.STORED], [(True, "the peer went away")], False),
        ([State.STORED], [None], False),
        ([State.STORED, State.FAILED], [(True, "")], False),
        ([State.STORED, State.UNKNOWN], [(True, "")], False),
        ([State.STORED, State.SOURCE_PROBLEM], [(True, "")], False),
        ([State.STORED, State.LEFT], [(True, "")], False),
        ([], [(True, "")], False),
    ],
)
def test_it_says_that_all_is_stored_only_if_the_input_was_read_to_its_end(
    states: list[State], ends: list[tuple[bool, str] | None], tmp_path: Path, *, is_all_stored: bool
) -> None:
    """None: the run never wrote its end."""
    path = tmp_path / "run.db"
    for end in ends:
        with opened(path) as written:
            for number, state in enumerate(states):
                written.record(outcome_of(instance_of(number), state))
            if end is not None:
                written.note_end(scan_finished=end[0], stopped=end[1])
    with LedgerReader(path) as reader:
        account = Account(reader)
        assert (ALL_STORED in account.lines()) is is_all_stored
        assert json.loads(account.json_line())["all_stored"] is is_all_stored


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([(True, "")], "1 study, 1 complete"),
        ([(True, "the peer went away")], "1 study, 1 complete"),
        ([(True, ""), (False, "interrupted")], "1 study, 1 complete as far as the input was read"),
        ([None], "1 study, 1 complete as far as the input was read"),
    ],
)
def test_a_study_of_which_more_may_come_is_not_called_complete(
    ends: list[tuple[bool, str] | None], said: str, tmp_path: Path
) -> None:
    """None: the run never wrote its end."""
    path = tmp_path / "run.db"
    for end in ends:
        with opened(path) as written:
            instance = instance_of(1)
            instance.study_instance_uid = "1.2.1"
            written.record(outcome_of(instance, State.STORED))
            if end is not None:
                written.note_end(scan_finished=end[0], stopped=end[1])
    with LedgerReader(path) as reader:
        assert said in list(Account(reader).lines())


def raw(*arguments: str | Path) -> bytes:
    return subprocess.run(
        command.words("report", *arguments), capture_output=True, env=command.environment(), check=True
    ).stdout


def test_csv_has_a_record_per_file_and_no_formulas(ledger: Path) -> None:
    text = raw(ledger, "--csv").decode("utf-8", "surrogateescape")
    records = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [record["state"] for record in records] == [
        *("stored", "stored", "warning", "failed", "failed", "failed", "unknown", "skipped", "left", "left")
    ]
    assert records[3]["path"] == BROKEN.replace("\n", "\\n").replace("\udcff", "\\xff")
    assert (records[3]["reason"], records[3]["status"]) == ("'=1+1 \\x1b[2J", "A900")
    assert records[7]["sop_instance_uid"] == ""


def test_the_paths_of_what_failed_are_byte_for_byte(ledger: Path) -> None:
    expected = [b"/mnt/archive/broken/a\nb\xff.dcm", *(b"/mnt/archive/broken/%d.dcm" % number for number in (5, 6, 7))]
    assert raw(ledger, "--failed-files", "-0") == b"".join(path + b"\0" for path in expected)
    assert raw(ledger, "--failed-files") == b"".join(path + b"\n" for path in expected)


async def test_it_can_be_read_while_a_run_is_writing(tmp_path: Path) -> None:
    def read() -> str:
        with opened(tmp_path / "run.db") as ledger:
            ledger.record(stored(1))
            anyio.run(ledger.flush)
            return command.run("report", tmp_path / "run.db").stdout

    text = await anyio.to_thread.run_sync(read)
    assert "  1  stored\n" in text
    assert ", the last one running since 20" in text


def test_a_page_has_counts_failures_studies_and_no_markup_of_others(ledger: Path, tmp_path: Path) -> None:
    done = command.run("report", ledger, "--html", tmp_path / "report.html", "--studies")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Ledger of {DESTINATION}, ")
    text = (tmp_path / "report.html").read_text()
    for shown in ("3</b>stored", "=1+1 \\x1b[2J", "never answered", "/mnt/archive/broken", "1.2.1", "1.2.2", "<svg "):
        assert shown in text
    assert "2 studies, 1 complete as far as the input was read." in text
    assert "the last one stopped early" in text
    assert "\x1b" not in text
    command.run("report", ledger, "--html", tmp_path / "report.html", "--json")
    assert "1.2.1" not in (tmp_path / "report.html").read_text()  # it is complete


def test_what_a_peer_said_is_text_in_a_page(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        instance = instance_of(1, "/in/</td><script>alert(1)</script>")
        instance.study_instance_uid = "<img src=x onerror=alert(1)>"
        ledger.record(outcome_of(instance, State.FAILED, Status(0xA900), reason="<script>alert(2)</script>"))
        ledger.note_end(scan_finished=False, stopped="</style><script>alert(3)</script>")
    assert command.run("report", tmp_path / "run.db", "--html", tmp_path / "report.html").returncode == 0
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;alert(") == 4  # a reason, a directory, and twice why it stopped


def test_a_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db"):
        pass
    assert command.run("report", tmp_path / "run.db", "--html", tmp_path / "report.html").returncode == 0
    assert "<svg" not in (tmp_path / "report.html").read_text()


def test_a_page_that_cannot_be_written_is_one_line_and_code_6(ledger: Path, tmp_path: Path) -> None:
    done = command.run("report", ledger, "--html", tmp_path / "missing" / "report.html")
    assert done.returncode == 6
    assert done.stderr == f"E: cannot write the page {tmp_path}/missing/report.html: No such file or directory\n"
    assert command.run("report", ledger, "--html", ledger).returncode == 2


@pytest.mark.parametrize("writes_its_end", [True, False], ids=["ended", "killed"])
def test_a_page_tells_a_live_run_from_a_dead_one(tmp_path: Path, writes_its_end: bool) -> None:
    def page() -> str:
        assert command.run("report", path, "--html", tmp_path / "report.html").returncode == 0
        return (tmp_path / "report.html").read_text()

    path = tmp_path / "run.db"
    with opened(path) as ledger:
        ledger.record(stored(1))
        anyio.run(ledger.flush)
        assert "the last one running since" in page()
    if not writes_its_end:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE run SET finished_at = NULL, stopped = NULL")
    text = page()
    assert ("and killed, or unable to write its end" in text) is not writes_its_end
    assert "running since" not in text


@pytest.mark.parametrize("content", [None, b"", b"no ledger"], ids=["missing", "empty", "text"])
def test_what_is_no_ledger_is_one_line_and_code_6(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.db"
    if content is not None:
        path.write_bytes(content)
    done = command.run("report", path)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("E: ")
    assert done.stderr.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if content is None else ["run.db"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--csv", "--json"),
        ("--failed-files", "--csv"),
        ("--studies", "--csv"),
        ("-0",),
        ("-0", "--csv"),
        ("--doubtful",),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(ledger: Path, arguments: tuple[str, ...]) -> None:
    done = command.run("report", ledger, *arguments)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("arguments", [(), ("--csv",), ("--json", "--studies"), ("--failed-files",)])
def test_a_damaged_ledger_is_one_line_and_code_6(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "run.db"
    with opened(path) as ledger:
        ledger.record(outcome_of(instance_of(1), State.FAILED, Status(0xA900), reason="not legible"))
    content = path.read_bytes()
    assert content.count(b"not legible") == 1
    path.write_bytes(content.replace(b"not legible", b"\xff\n\xfe legible").replace(b"{}", b"{\xff"))
    done = command.run("report", path, *arguments)
    assert done.returncode == 6
    assert done.stderr == f"E: the ledger '{path}' cannot be read: it is damaged\n"


def test_a_host_that_a_ledger_names_moves_no_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ho\x1b[2J\nst")
    with opened(tmp_path / "run.db"):
        done = command.run("report", tmp_path / "run.db")
    assert f" (process {os.getpid()} on ho[2Jst)\n" in done.stdout


def test_a_run_that_read_all_and_left_nothing_has_finished(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
        ledger.note_end(scan_finished=True, stopped="")
    assert "\n1 run, the last one finished 20" in command.run("report", tmp_path / "run.db").stdout
    (run,) = json.loads(command.run("report", tmp_path / "run.db", "--json").stdout)["runs"]
    assert (run["state"], run["scan_finished"], run["stopped"]) == ("finished", True, "")


def test_what_a_full_disk_may_have_cost_is_told_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with opened(path) as ledger:
        ledger.record(stored(1, "/in/1.dcm"))
        ledger.record(outcome_of(instance_of(2, "/in/2.dcm"), State.FAILED, Status(0xA700), reason="out of resources"))
    text = command.run("report", path).stdout
    assert "\n1 of the stored are doubtful: the peer took them less than a minute before" in text
    assert json.loads(command.run("report", path, "--json").stdout)["doubtful"] == 1
    assert raw(path, "--failed-files") == b"/in/2.dcm\n"
    assert raw(path, "--failed-files", "--doubtful") == b"/in/2.dcm\n/in/1.dcm\n"
