"""`asyncstore schema`: every line of JSON that a command prints is as the schema says."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import jsonschema
import pytest

from asyncstore.cli.output.records import SCHEMA_VERSION
from asyncstore.instances.outcome import State
from asyncstore.net.acceptor import Acceptor
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import CT_IMAGE_STORAGE, STUDY_ROOT_FIND
from tests.support import command, files
from tests.support.archive import Archive
from tests.support.associations import image_file
from tests.support.peers import LOOPBACK
from tests.support.transfers import KeepingSCP, on_one_loop, uid_of, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
ANSWERS = {uid_of(1): Status(0xA900, "does not match", (0x00080016,)), uid_of(2): Status(0xB000)}


@pytest.fixture(scope="module")
def schema() -> Any:
    done = command.run("schema")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def answer(arrival: Arrival) -> Status:
    return ANSWERS.get(arrival.request.affected_sop_instance_uid, SUCCESS)


def archive(directory: Path) -> Path:
    """A directory with files for every kind of end: refused, stored, of another class, twice, damaged, not DICOM."""
    paths = write_files(directory, 4)
    write_files(directory / "mr", 1, first=9, sop_classes=[MR_IMAGE_STORAGE])
    shutil.copy(paths[2], directory / "same.dcm")
    other = files.data_set(sop_instance_uid=uid_of(4), more=files.element(0x00100020, b"LO", b"other "))
    meta = files.file_meta(sop_instance_uid=uid_of(4))
    (directory / "twin.dcm").write_bytes(files.dicom_file(meta=meta, body=other))
    (directory / "cut.dcm").write_bytes(files.dicom_file()[:150])
    (directory / "notes.txt").write_text("no DICOM")
    return directory


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@on_one_loop
async def test_each_line_of_every_command_is_as_the_schema_says(schema: Any, tmp_path: Path) -> None:
    source, ledger, report = archive(tmp_path / "in"), tmp_path / "run.db", tmp_path / "report.jsonl"
    has_other = Archive([("1.2.9", "1.2.9.1", "1.2.9.1.1", CT_IMAGE_STORAGE)])
    async with (
        KeepingSCP(answer, sop_classes=[CT_IMAGE_STORAGE]) as scp,
        Acceptor({STUDY_ROOT_FIND: has_other}) as query_scp,
    ):

        async def run(*arguments: str | Path) -> list[dict[str, Any]]:
            done = await anyio.to_thread.run_sync(lambda: command.run(*arguments, "--json"))
            return lines_of(done.stdout)

        common = ("storescu", "-r", "--ledger", ledger, "--order", "path", "-j", "1", LOOPBACK, str(scp.port), source)
        first = await run(*common, "--report", report)
        records = lines_of(report.read_text())
        again = await run(*common)
        others = [*await run(*common, "--dry-run"), *await run("scan", source), *await run("report", ledger)]
        differing = image_file(tmp_path / "one.dcm")
        verified = await run("verify", differing, LOOPBACK, str(query_scp.port))
    states = {line["state"] for line in (*first, *again) if line["event"] == "outcome"}
    assert states == {*State} - {State.UNKNOWN, State.LEFT}
    assert [line["event"] for line in others] == ["inventory", "inventory", "ledger"]
    assert len(records) == len(first) - 1
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for line in (*first, *records, *again, *others, *verified):
        validator.validate(line)
        assert line["schema"] == SCHEMA_VERSION
    documented = schema["$defs"]
    assert [line["event"] for line in verified] == ["study", "verified"]
    for line in (others[-1], *verified):
        assert line.keys() == documented[line["event"]]["properties"].keys() - {"studies"} | line.keys() & {"studies"}
    for line in (*first, *again):
        if line["event"] == "summary":
            assert line.keys() == documented["summary"]["properties"].keys()
        else:
            assert line.keys() - {"event"} == documented["record"]["properties"].keys()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "gone"},
        {"schema": SCHEMA_VERSION + 1},
        {"status": "0xA700"},
        {"attempts": -1},
        {"time": "yesterday"},
        {"path": 7},
        {"event": "summary"},
        {"reason": None},
    ],
)
def test_the_schema_refuses_what_no_command_prints(schema: Any, change: dict[str, Any]) -> None:
    line = {
        **dict.fromkeys(schema["$defs"]["record"]["properties"], ""),
        **{"event": "outcome", "schema": SCHEMA_VERSION, "time": "2026-01-31T12:00:00Z", "state": "failed"},
        **{"path": "a.dcm", "status": "A700", "offending_elements": ["00080016"], "retryable": True},
        **{"attempts": 5, "changes": [], "set_aside": False, "bytes_sent": 100},
    }
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(line)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**line, **change})


def test_the_schema_is_one_and_knows_every_state(schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["$defs"]["state"]["enum"]) == {state.value for state in State}
    assert schema["$defs"]["schema"]["const"] == SCHEMA_VERSION
    assert schema["$id"].endswith(f":{SCHEMA_VERSION}")
