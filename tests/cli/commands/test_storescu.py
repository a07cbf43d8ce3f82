"""The real `asyncstore storescu` against real SCPs: what arrives, what is printed, and which code it ends with."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pydicom
import pytest

from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.upper_layer.pdu import AssociateRQ
from tests.support import command
from tests.support.peers import LOOPBACK, dcmtk_storescp, free_port
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from asyncstore.services.storage_scp import Arrival
    from tests.support.peers import RunningPeer

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
LOSSY_HINT = "1 instance compressed with loss: --decompress lossy sends uncompressed what the peer accepts so"
CT, MR, JPEG_2000 = SAMPLES / "CT_small.dcm", SAMPLES / "MR_small.dcm", SAMPLES / "JPEG2000.dcm"
DICOMDIR = SAMPLES / "dicomdirtests" / "DICOMDIR"
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPeer]:
    with dcmtk_storescp(tmp_path_factory.mktemp("peer"), accept_all=False) as running:
        yield running


def send(peer: RunningPeer, *arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    return command.run("storescu", peer.host, peer.port, *arguments, **settings)


def beside(
    scp: StorageSCP, *arguments: str | Path, act: Callable[[subprocess.Popen[bytes]], Awaitable[None]] | None = None
) -> tuple[int, str, str]:
    """Run storescu against an SCP in this process; `act` runs beside it. Gives code, stdout and stderr."""

    async def main() -> tuple[int, str, str]:
        async with scp:
            process = command.start("storescu", LOOPBACK, scp.port, *arguments)
            try:
                if act is not None:
                    await act(process)
                stdout, stderr = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=120))
            finally:
                process.kill()
                process.wait()
            return process.returncode, stdout.decode(), stderr.decode()

    return anyio.run(main)


def copies(directory: Path, count: int) -> Path:
    """A directory with so many small CT instances, each with a UID of its own."""
    data_set = pydicom.dcmread(CT, stop_before_pixels=True)
    for number in range(count):
        uid = f"1.2.826.0.1.3680043.10.1.{number + 1}"
        data_set.SOPInstanceUID = uid
        data_set.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(uid)
        data_set.save_as(directory / f"{number:03}.dcm")
    return directory


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_a_stored_instance_prints_nothing_and_arrives_as_it_was(peer: RunningPeer) -> None:
    done = send(peer, CT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (received,) = [path for path in peer.received_files() if CT_UID in path.name]
    assert pydicom.dcmread(received) == pydicom.dcmread(CT)


def test_the_debug_log_is_the_documented_one(peer: RunningPeer) -> None:
    done = send(peer, CT, "-d", "-cx", "-w", "1")
    text = re.sub(r"(?m)^(D: (?:Our|Their) Implementation [A-Za-z ]+: +).*$", r"\1<...>", done.stderr)
    text = re.sub(r"storescu v.*", "storescu v<version>", text)
    assert text == (
        "D: asyncstore storescu v<version>\n"
        "D: \n"
        "D: Checking input file\n"
        "I: Requesting Association\n"
        "D: Request Parameters:\n"
        "D: ========================= BEGIN A-ASSOCIATE-RQ PDU =========================\n"
        "D: Our Implementation Class UID:      <...>\n"
        "D: Our Implementation Version Name:   <...>\n"
        "D: Application Context Name:    1.2.840.10008.3.1.1.1\n"
        "D: Calling Application Name:    STORESCU\n"
        "D: Called Application Name:     ANY-SCP\n"
        "D: Our Max PDU Receive Size:    16382\n"
        "D: Presentation Context:\n"
        "D:   Context ID:        1 (Proposed)\n"
        "D:     Abstract Syntax: =CT Image Storage\n"
        "D:     Proposed SCP/SCU Role: Default\n"
        "D:     Proposed Transfer Syntax:\n"
        "D:       =Explicit VR Little Endian\n"
        "D: Requested Extended Negotiation: None\n"
        "D: Requested Common Extended Negotiation: None\n"
        "D: Requested Asynchronous Operations Window Negotiation: None\n"
        "D: Requested User Identity Negotiation: None\n"
        "D: ========================== END A-ASSOCIATE-RQ PDU ==========================\n"
        "D: Accept Parameters:\n"
        "D: ========================= BEGIN A-ASSOCIATE-AC PDU =========================\n"
        "D: Their Implementation Class UID:    <...>\n"
        "D: Their Implementation Version Name: <...>\n"
        "D: Application Context Name:    1.2.840.10008.3.1.1.1\n"
        "D: Calling Application Name:    STORESCU\n"
        "D: Called Application Name:     ANY-SCP\n"
        "D: Their Max PDU Receive Size:  16384\n"
        "D: Presentation Contexts:\n"
        "D:   Context ID:        1 (Accepted)\n"
        "D:     Abstract Syntax: =CT Image Storage\n"
        "D:     Accepted SCP/SCU Role: Default\n"
        "D:     Accepted Transfer Syntax: =Explicit VR Little Endian\n"
        "D: Accepted Extended Negotiation: None\n"
        "D: Accepted Asynchronous Operations Window Negotiation: None\n"
        "D: User Identity Negotiation Response: None\n"
        "D: ========================== END A-ASSOCIATE-AC PDU ==========================\n"
        "I: Association Accepted\n"
        f"I: Sending file: {CT}\n"
        "I: Sending Store Request: MsgID 1, (CT)\n"
        "D: ========================== OUTGOING DIMSE MESSAGE ==========================\n"
        "D: Message Type                  : C-STORE RQ\n"
        "D: Message ID                    : 1\n"
        "D: Affected SOP Class UID        : CT Image Storage\n"
        f"D: Affected SOP Instance UID     : {CT_UID}\n"
        "D: Data Set                      : Present\n"
        "D: Priority                      : Low\n"
        "D: ============================ END DIMSE MESSAGE =============================\n"
        'D: pydicom.read_dataset() TransferSyntax="Little Endian Implicit"\n'
        "I: Received Store Response (Status: 0x0000 - Success)\n"
        "D: ========================== INCOMING DIMSE MESSAGE ==========================\n"
        "D: Message Type                  : C-STORE RSP\n"
        "D: Presentation Context ID       : 1\n"
        "D: Message ID Being Responded To : 1\n"
        "D: Affected SOP Class UID        : CT Image Storage\n"
        f"D: Affected SOP Instance UID     : {CT_UID}\n"
        "D: Status                        : 0x0000 - Success\n"
        "D: ============================ END DIMSE MESSAGE =============================\n"
        "I: Releasing Association\n"
    )


def test_the_verbose_log_of_one_instance_has_no_line_more_than_documented(peer: RunningPeer) -> None:
    assert send(peer, CT, "-v").stderr == (
        "I: Requesting Association\n"
        "I: Association Accepted\n"
        f"I: Sending file: {CT}\n"
        "I: Sending Store Request: MsgID 1, (CT)\n"
        "I: Received Store Response (Status: 0x0000 - Success)\n"
        "I: Releasing Association\n"
    )


def test_an_unsupported_sop_class_prints_the_documented_line() -> None:
    code, stdout, stderr = beside(StorageSCP(sop_classes=["1.2.840.10008.5.1.4.1.1.4"]), CT, "-cx")
    assert (code, stdout, stderr) == (1, "", "E: No accepted presentation contexts\n")


def test_a_rejected_association_prints_the_documented_lines() -> None:
    code, _, stderr = beside(StorageSCP(called_ae_titles=["OTHER"]), CT)
    assert (code, stderr) == (
        1,
        "E: Association Rejected\n"
        "E: Result: Rejected Permanent, Source: Service User\n"
        "E: Reason: Called AE title not recognised\n"
        "E: We are STORESCU and called ANY-SCP: -aet and -aec set other AE titles\n",
    )


def test_nobody_listening_prints_the_documented_lines_and_the_address() -> None:
    port = free_port()
    done = command.run("storescu", LOOPBACK, port, CT)
    assert (done.returncode, done.stderr) == (
        1,
        "E: Association request failed: unable to connect to remote\n"
        "E: TCP Initialisation Error: [Errno 111] Connection refused\n"
        f"E: No connection to {LOOPBACK}:{port}\n",
    )


def test_a_peer_that_ends_every_connection_instead_of_answering_is_explained_once() -> None:
    def ends(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        wire.rst()

    with ScriptedSCP(ends) as scp:
        done = command.run("storescu", "-ll", "warn", scp.host, scp.port, CT)
    reset = "[Errno 104] Connection reset by peer"
    assert (done.returncode, done.stderr) == (
        1,
        f"W: {reset}; trying without an asynchronous operations window\n"
        f"W: {reset}; trying without the default presentation contexts\n"
        f"E: Connection lost: {reset}\n"
        "E: Possible reasons: the port expects TLS (--tls), or the peer does not allow our host or the AE titles\n",
    )


def test_an_ipv6_address_may_be_in_brackets() -> None:
    async def main() -> subprocess.CompletedProcess[str]:
        async with StorageSCP(host="::1") as scp:
            return await anyio.to_thread.run_sync(command.run, "storescu", "[::1]", scp.port, CT)

    done = anyio.run(main)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_host_is_one_clear_line() -> None:
    done = command.run("storescu", "no-such-host.invalid", 104, CT)
    assert done.returncode == 1
    assert "E: TCP Initialisation Error: cannot resolve 'no-such-host.invalid'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_instance_that_the_peer_has_no_context_for_is_explained(peer: RunningPeer) -> None:
    done = send(peer, JPEG_2000)
    assert (done.returncode, done.stderr) == (
        3,
        "E: No presentation context for 'Secondary Capture Image Storage' has been accepted by the peer with "
        "'JPEG 2000 Image Compression' transfer syntax for the SCU role\n"
        f"E: Store failed: {JPEG_2000}\nE: {LOSSY_HINT}\n",
    )


def test_a_refusal_is_explained_with_the_peers_comment(tmp_path: Path) -> None:
    scp = StorageSCP(on_store=lambda _: Status(0xA900, "not\x1b[2J my class"))
    code, _, stderr = beside(scp, CT)
    assert code == 3
    assert stderr.startswith(f"E: Store failed: {CT}\nE: Reason: ")
    assert 'the peer says "not[2J my class"' in stderr


def test_quiet_prints_nothing_at_all(peer: RunningPeer, tmp_path: Path) -> None:
    done = send(peer, "-q", JPEG_2000, tmp_path / "missing")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


# -- what is sent ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with one instance and a note in it, and another instance a level below."""
    directory = tmp_path / "tree"
    (directory / "below").mkdir(parents=True)
    (directory / "ct.dcm").write_bytes(CT.read_bytes())
    (directory / "below" / "mr.dcm").write_bytes(MR.read_bytes())
    (directory / "notes.txt").write_text("not DICOM, and longer than a preamble " * 10)
    return directory


def test_a_directory_means_its_direct_files(peer: RunningPeer, tree: Path) -> None:
    done = send(peer, "-v", tree)
    assert re.findall("I: Sending file: (.*)", done.stderr) == [str(tree / "ct.dcm")]
    assert f"I: Skipped: {tree / 'notes.txt'}: not a DICOM file: " in done.stderr
    assert "I: 1 file that is not a DICOM instance was skipped\n" in done.stderr
    assert f"I: Subdirectories of {tree} were not read: -r includes them\n" in done.stderr
    assert done.returncode == 0


def test_what_is_not_read_without_recursive_is_told_where_it_is_so(peer: RunningPeer, tree: Path) -> None:
    assert "Subdirectories of 2 directories were not read" in send(peer, "-v", tree, tree.parent).stderr
    assert "Subdirectories" not in send(peer, "-v", tree / "below", tree / "ct.dcm").stderr
    assert "Subdirectories" not in send(peer, "-v", "-r", tree).stderr
    assert "Subdirectories" not in send(peer, tree).stderr
    assert f"I: Subdirectories of {tree} were not read: -r includes them\n" in send(peer, "--summary", tree).stderr
    planned = send(peer, "--dry-run", tree).stdout.splitlines()
    assert planned[0] == f"Subdirectories of {tree} were not read: -r includes them"
    assert planned[1].startswith("1 instance, ")
    assert "Subdirectories" not in send(peer, "--dry-run", "-r", tree).stdout


def test_recursive_means_everything_below(peer: RunningPeer, tree: Path) -> None:
    done = send(peer, "-r", "-v", tree)
    sent = re.findall("I: (?:\\[[0-9]+\\] )?Sending file: (.*)", done.stderr)
    assert sorted(sent) == [str(tree / "below" / "mr.dcm"), str(tree / "ct.dcm")]
    assert re.search(r"\nI: 2 instances stored \([0-9.]+ kB in ", done.stderr)


def test_names_that_are_no_text_are_sent_and_escaped(peer: RunningPeer, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/[red]a\nb\xff.dcm"
    with open(name, "wb") as file:
        file.write(CT.read_bytes())
    done = send(peer, "-v", "--files-from", "-", "-0", stdin=name + b"\0")
    assert done.returncode == 0
    assert f"I: Sending file: {tmp_path}/[red]a\\nb\\xff.dcm\n" in done.stderr


def test_a_dry_run_says_what_the_peer_accepts_and_sends_nothing(peer: RunningPeer, tree: Path) -> None:
    before = peer.received_files()
    done = command.run("storescu", peer.host, peer.port, "--dry-run", "-r", tree)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 instances, ")
    assert "2 presentation contexts needed; at least 1 association\n" in done.stdout
    assert f"\nANY-SCP@{peer.host}:{peer.port} accepts 2 of 2 instances as they are\n" in done.stdout
    assert peer.received_files() == before


def test_a_dry_run_that_reaches_no_peer_still_says_what_there_is(tree: Path) -> None:
    done = command.run("storescu", LOOPBACK, port := free_port(), "--dry-run", "-r", tree)
    assert done.returncode == 1
    assert done.stdout.startswith("2 instances, ")
    assert done.stderr.endswith(f"E: No connection to {LOOPBACK}:{port}\n")


# -- exit codes and records --------------------------------------------------------------------------------------------


def test_some_failures_are_code_3_and_counted(peer: RunningPeer, tmp_path: Path) -> None:
    done = send(peer, CT, JPEG_2000, tmp_path / "missing")
    assert done.returncode == 3
    assert f"E: Cannot access path: {tmp_path / 'missing'}\n" in done.stderr
    assert done.stderr.endswith(
        f"E: 1 of 2 instances were not stored (see above)\nE: {LOSSY_HINT}\nE: 1 path could not be sent (see above)\n"
    )


def test_a_missing_path_alone_is_a_failure(peer: RunningPeer, tmp_path: Path) -> None:
    done = send(peer, "-ll", "warning", tmp_path / "missing")
    assert (done.returncode, done.stderr) == (
        3,
        f"E: Cannot access path: {tmp_path / 'missing'}\nE: Reason: No such file or directory\n",
    )


def test_an_empty_directory_warns_as_documented(peer: RunningPeer, tmp_path: Path) -> None:
    done = send(peer, "-ll", "warning", tmp_path)
    assert done.returncode == 5
    assert done.stderr == f"W: No suitable DICOM files found\nE: Nothing to send: no files in {tmp_path}\n"


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (["in/a.txt", "in/b.txt"], [], "2 files in {}, but no DICOM instance"),
        (["in/a.txt", "in/below/b.txt"], [], "1 file in {}, but no DICOM instance; -r includes subdirectories"),
        (["in/below/ct.dcm"], [], "only subdirectories in {}: -r includes them"),
        (["in/below/"], ["-r"], "no files in {}"),
    ],
)
def test_a_directory_without_anything_to_send_says_what_is_in_it(
    peer: RunningPeer, tmp_path: Path, names: list[str], options: list[str], reason: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(b"not DICOM")
    done = send(peer, *options, tmp_path / "in")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == f"E: Nothing to send: {reason.format(tmp_path / 'in')}\n"


def test_a_list_whose_paths_end_otherwise_than_said_fails_as_one_path(peer: RunningPeer) -> None:
    for options in ((), ("--dry-run",)):
        done = send(peer, "--files-from", "-", *options, stdin=os.fsencode(CT) + b"\0" + os.fsencode(CT) + b"\0")
        assert done.returncode == 3
        assert f"{CT}\\x00{CT}\\x00" in done.stdout + done.stderr
        assert "internal error" not in done.stderr


def test_a_list_without_paths_and_a_list_of_directories_say_so(peer: RunningPeer, tmp_path: Path) -> None:
    done = send(peer, "--files-from", "-", stdin=b"\n\n")
    assert (done.returncode, done.stderr) == (5, "E: Nothing to send: no path was given\n")
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
    done = send(peer, "--files-from", "-", tmp_path / "a", stdin=os.fsencode(tmp_path / "b"))
    assert done.returncode == 5
    assert done.stderr == "E: Nothing to send: only subdirectories in the 2 directories: -r includes them\n"


def test_what_is_no_instance_is_not_counted_as_one(peer: RunningPeer, tmp_path: Path, tree: Path) -> None:
    (tree / "DICOMDIR").write_bytes(DICOMDIR.read_bytes())
    (tree / "cut.dcm").write_bytes(CT.read_bytes()[:200])
    done = send(peer, "-r", "--json", tree, tmp_path / "mistyped")
    assert done.returncode == 3
    *reasons, last = [line for line in done.stderr.splitlines() if not line.startswith("E: Reason: ")]
    assert sorted(reasons) == [
        f"E: Bad DICOM file: {tree / 'cut.dcm'}",
        f"E: Cannot access path: {tmp_path / 'mistyped'}",
    ]
    assert last == "E: 2 paths could not be sent (see above)"
    assert "E: Reason: No such file or directory" in done.stderr.splitlines()
    summary = json.loads(done.stdout.splitlines()[-1])
    counts = {name: summary[name] for name in ("found", "stored", "failed", "problems", "skipped", "left")}
    assert counts == {"found": 2, "stored": 2, "failed": 2, "problems": 2, "skipped": 2, "left": 0}


def test_a_dicomdir_that_is_named_sends_what_it_references_and_tells_what_is_missing(
    peer: RunningPeer, tmp_path: Path
) -> None:
    done = send(peer, DICOMDIR, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["stored"] == 31
    copy = tmp_path / "cd"
    shutil.copytree(DICOMDIR.parent, copy)
    missing = copy / "98892001" / "CT5N" / "2392"
    missing.unlink()
    done = send(peer, copy / "DICOMDIR")
    assert done.returncode == 3
    assert done.stderr.splitlines()[:2] == [
        f"E: Cannot access path: {missing}",
        "E: Reason: the DICOMDIR references it, and it is missing",
    ]


def test_the_files_of_the_run_itself_are_passed_over_without_a_word(peer: RunningPeer, tree: Path) -> None:
    (tree / "notes.txt").unlink()
    arguments = ("-r", "-v", "--json", tree, "--ledger", tree / "run.db", "--report", tree / "run.jsonl")
    for _ in range(2):
        done = send(peer, *arguments)
        assert done.returncode == 0
        assert "run." not in done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["found"], summary["stored"], summary["skipped"]) == (2, 2, 0)
    assert summary["resumed"] == 2


def test_a_time_that_was_exceeded_at_the_start_names_its_option() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:  # accepts connections, and never answers
        done = command.run("storescu", LOOPBACK, server.getsockname()[1], "-ta", "0.2", CT)
    assert (done.returncode, done.stderr) == (
        1,
        "E: ACSE timeout reached while waiting for response to association request\n"
        "E: the association request was not answered within 0.2 s (-ta)\n",
    )


def test_an_answer_that_is_late_names_its_option() -> None:
    slow = Slow()
    code, _, stderr = beside(StorageSCP(on_store=slow), "-td", "0.2", "--retries", "0", CT)
    assert code == 3
    assert "E: DIMSE timeout reached while waiting for message response\n" in stderr
    assert "the message was not answered within 0.2 s (-td)\n" in stderr


def test_the_limit_of_the_peer_on_associations_is_no_error_in_a_run_that_works(tmp_path: Path) -> None:
    async def main() -> tuple[int, list[str]]:
        slow = Slow()
        async with StorageSCP(on_store=slow, maximum_associations=1) as scp:
            process = command.start("storescu", LOOPBACK, scp.port, "-j", "4", "-v", copies(tmp_path, 40))
            assert process.stderr is not None
            with process, anyio.fail_after(command.FINISH_SECONDS):
                lines = await anyio.to_thread.run_sync(_read_until, process.stderr, b"Local limit exceeded")
                slow.may_answer.set()
                rest = await anyio.to_thread.run_sync(process.stderr.read)
            return process.returncode, [*lines, *rest.decode().splitlines()]

    code, lines = anyio.run(main)
    assert code == 0
    assert {line[:3] for line in lines} == {"I: "}
    assert any(line.endswith("Reason: Local limit exceeded") for line in lines)


def test_fail_fast_leaves_the_rest_and_does_not_ask_for_the_same_failure_again(tmp_path: Path) -> None:
    scp = StorageSCP(on_store=lambda _: Status(0xA900))
    code, _, stderr = beside(scp, "--fail-fast", "-w", "1", "-j", "1", copies(tmp_path, 20))
    assert code == 4
    assert stderr.endswith(" left\n")
    assert "run it again" not in stderr


def test_fail_fast_with_nothing_left_is_code_3() -> None:
    scp = StorageSCP(on_store=lambda _: Status(0xA900))
    code, _, stderr = beside(scp, "--fail-fast", CT)
    assert code == 3
    assert "left" not in stderr


def test_json_is_a_line_per_outcome_and_a_summary(peer: RunningPeer, tmp_path: Path) -> None:
    done = send(peer, "--json", "-q", CT, JPEG_2000)
    *outcomes, summary = map(json.loads, done.stdout.splitlines())
    assert {(outcome["event"], outcome["path"], outcome["state"]) for outcome in outcomes} == {
        ("outcome", str(CT), "stored"),
        ("outcome", str(JPEG_2000), "no-context"),
    }
    assert (summary["event"], summary["stored"], summary["failed"], summary["exit_code"]) == ("summary", 1, 1, 3)
    assert done.stderr == ""


def test_json_has_its_summary_when_there_was_no_association() -> None:
    done = command.run("storescu", LOOPBACK, free_port(), CT, "--json", "-q")
    (summary,) = map(json.loads, done.stdout.splitlines())
    assert (summary["event"], summary["exit_code"]) == ("summary", 1)
    assert done.returncode == 1


def test_a_report_has_a_record_per_outcome(peer: RunningPeer, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    assert send(peer, "--report", report, CT, JPEG_2000).returncode == 3
    with report.open(newline="") as file:
        assert {(row["path"], row["state"]) for row in csv.DictReader(file)} == {
            (str(CT), "stored"),
            (str(JPEG_2000), "no-context"),
        }


def test_a_run_that_never_begins_leaves_the_report_of_an_earlier_one(peer: RunningPeer, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    assert send(peer, "--report", report, CT).returncode == 0
    earlier = report.read_bytes()
    (tmp_path / "run.db").write_bytes(b"no ledger")
    assert send(peer, "--report", report, "--ledger", tmp_path / "run.db", CT).returncode == 6
    assert command.run("storescu", "--report", report, "127.0.0.1", free_port(), CT).returncode == 1
    assert report.read_bytes() == earlier
    (tmp_path / "empty").mkdir()
    assert send(peer, "--report", report, tmp_path / "empty").returncode == 5
    assert report.read_bytes() == b""


def test_neither_the_ledger_nor_a_source_is_taken_for_the_report(peer: RunningPeer, tmp_path: Path) -> None:
    both = tmp_path / "x.csv"
    assert "cannot be one file" in send(peer, "--ledger", both, "--report", both, CT).stderr
    both.write_bytes(CT.read_bytes())
    done = send(peer, "--report", both, both)
    assert done.returncode == 6
    assert "the file is not a report of an earlier run, and is left as it is" in done.stderr
    assert both.read_bytes() == CT.read_bytes()


@pytest.mark.parametrize("where", ["missing/report.jsonl", "full.jsonl"])
def test_a_report_that_cannot_be_written_is_code_6(peer: RunningPeer, tmp_path: Path, where: str) -> None:
    if where.startswith("full"):
        (tmp_path / where).symlink_to("/dev/full")
    done = send(peer, "--report", tmp_path / where, CT)
    assert done.returncode == 6
    assert f"E: cannot write to the report {tmp_path / where}: No " in done.stderr


def test_nobody_reading_the_results_is_code_6(peer: RunningPeer, tmp_path: Path) -> None:
    process = command.start("storescu", peer.host, peer.port, "--json", copies(tmp_path, 5))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 6
    assert "E: cannot write to stdout: Broken pipe\n" in stderr
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


# -- signals -----------------------------------------------------------------------------------------------------------


# A run that stops before the feed has read everything knows how much is left only if that was counted meanwhile.
LEFT = "(; |; the input was not read to its end, (at least )?)[0-9]+ instances left"


class Slow:
    """Answers the first instance when it is told to, and says when that has come."""

    def __init__(self) -> None:
        self.arrived = anyio.Event()
        self.may_answer = anyio.Event()

    def __call__(self, arrival: Arrival) -> Awaitable[Status]:
        self.arrived.set()
        return self._answer()

    async def _answer(self) -> Status:
        await self.may_answer.wait()
        return SUCCESS


def interrupted(directory: Path, *numbers: signal.Signals) -> tuple[int, str, StorageSCP]:
    """Send a directory to an SCP that holds its answers, with signals in between; the first is followed by answers."""

    async def main() -> tuple[int, str, StorageSCP]:
        slow = Slow()
        async with StorageSCP(on_store=slow, window=1) as scp:
            arguments = (LOOPBACK, scp.port, "-v", "-w", "1", "-j", "1", copies(directory, 20))
            process = command.start("storescu", *arguments)
            assert process.stderr is not None
            try:
                with anyio.fail_after(60):
                    await slow.arrived.wait()
                    for number in numbers:
                        process.send_signal(number)
                        await anyio.to_thread.run_sync(_read_until, process.stderr, b"Interrupted")
                    if len(numbers) == 1:
                        slow.may_answer.set()
                    # Not communicate(): it does not know of what the stream has read ahead.
                    rest = await anyio.to_thread.run_sync(process.stderr.read)
                    await anyio.to_thread.run_sync(process.wait)
            finally:
                process.kill()
                process.communicate()
            return process.returncode, rest.decode(), scp

    return anyio.run(main)


def _read_until(stream: Any, word: bytes) -> list[str]:
    lines = []
    for line in stream:
        lines.append(line.decode().rstrip())
        if word in line:
            break
    return lines


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_what_is_in_flight(tmp_path: Path, number: signal.Signals, code: int) -> None:
    returncode, stderr, scp = interrupted(tmp_path, number)
    assert returncode == code
    assert 1 <= scp.stored <= 2  # what waits for room in the window is in flight too
    assert "I: Received Store Response (Status: 0x0000 - Success)\nI: Releasing Association\n" in stderr
    assert re.search(f"E: Stopped early{LEFT}: run it again\n", stderr)
    assert "Traceback" not in stderr


def test_the_second_signal_aborts(tmp_path: Path) -> None:
    returncode, stderr, scp = interrupted(tmp_path, signal.SIGTERM, signal.SIGINT)
    assert returncode == 130
    assert scp.stored == 0
    assert "I: Aborting Association\n" in stderr
    assert re.search(f"E: Stopped early{LEFT}: run it again\n", stderr)


def test_a_signal_ends_a_run_that_waits_for_paths(peer: RunningPeer) -> None:
    process = subprocess.Popen(
        command.words("storescu", peer.host, peer.port, "-v", "--files-from", "-"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command.environment(),
    )
    assert process.stdin is not None
    assert process.stderr is not None
    with process.stdin, process.stderr:
        try:
            process.stdin.write((os.fsencode(CT) + b"\n") * 64)
            process.stdin.flush()
            _read_until(process.stderr, b"Received Store Response")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()
            process.wait()


# -- what is loaded ----------------------------------------------------------------------------------------------------


def loaded_by(*arguments: str | Path | int) -> set[str]:
    """The top-level packages that a command imports."""
    python, *rest = command.words(*arguments)
    done = subprocess.run(
        [python, "-X", "importtime", *rest],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=command.environment(),
        check=True,
        timeout=120,
    )
    names = re.findall(r"(?m)^import time: .*\| +([\w.]+)$", done.stderr)
    return {name.split(".")[0] for name in names}


def test_help_loads_next_to_nothing() -> None:
    assert not loaded_by("--help") & {"rich", "pydicom", "anyio", "asyncio", "uvloop", "sqlite3"}


def test_sending_without_a_terminal_loads_neither_rich_nor_pydicom(peer: RunningPeer) -> None:
    assert not loaded_by("storescu", peer.host, peer.port, CT) & {"rich", "pydicom"}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_shows_progress_and_keeps_log_lines_whole(peer: RunningPeer, tmp_path: Path) -> None:
    done = on_terminal("storescu", peer.host, peer.port, "-v", copies(tmp_path, 30))
    assert done.returncode == 0
    assert "\x1b[J" in done.stderr
    sent = re.findall(r"I: (?:\[[0-9]+\] )?Sending file: (\S+\.dcm)\r\n", done.stderr)
    assert len(sent) == 30
    assert re.search(r"I: 30 instances stored \(", done.stderr)


def test_a_quiet_run_leaves_a_terminal_empty(peer: RunningPeer) -> None:
    done = on_terminal("storescu", peer.host, peer.port, "-q", "--summary", CT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", ["--no-progress", "--progress"])
def test_a_single_file_says_on_a_terminal_that_it_was_stored(peer: RunningPeer, option: str) -> None:
    done = on_terminal("storescu", peer.host, peer.port, option, CT)
    assert done.returncode == 0
    assert re.search(r"I: 1 instance stored \(.* in .*\)\r\n$", done.stderr)
    assert ("elapsed" in done.stderr) == (option == "--progress")


def test_a_peer_that_is_not_there_ends_a_run_on_a_terminal_with_its_code_and_the_next_command(tmp_path: Path) -> None:
    done = on_terminal("storescu", LOOPBACK, free_port(), copies(tmp_path, 2))
    assert done.returncode == 1
    assert re.search(r"Exit code +1: no association could be established\r\nNext +to try again:\r\n", done.stderr)
    assert "Sent " not in done.stderr


def test_a_single_file_and_a_peer_that_is_not_there_need_no_table() -> None:
    done = on_terminal("storescu", LOOPBACK, free_port(), CT)
    assert (done.returncode, "Exit code" in done.stderr) == (1, False)


def on_terminal(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """Run a command whose stderr is a terminal 60 columns wide."""
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    variables = {**command.environment(TERM="xterm"), "COLUMNS": "60"}
    process = subprocess.Popen(
        command.words(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=variables
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    stdout = process.communicate(timeout=120)[0]
    return subprocess.CompletedProcess(
        process.args, process.returncode, stdout.decode(), b"".join(pieces).decode("utf-8", "replace")
    )
