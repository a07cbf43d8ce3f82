"""`asyncstore storescu --ledger`: the same command run again finishes the rest, whatever ended the first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncstore.cli.app import run_command_line
from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import State
from asyncstore.ledger.sqlite import lock
from asyncstore.ledger.sqlite import writer as ledger_writer
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.net.peer import Peer
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.engine import store
from tests.support import command
from tests.support.ledgers import rows_of
from tests.support.peers import LOOPBACK, free_port
from tests.support.transfers import KeepingSCP, on_one_loop, uid_of, write_files
from tests.support.wire import ScriptedSCP

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable

    from asyncstore.ledger.sqlite.writer import LedgerWriter
    from asyncstore.services.storage_scp import Arrival


async def send(scp: KeepingSCP, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return await anyio.to_thread.run_sync(lambda: command.run("storescu", LOOPBACK, scp.port, *arguments))


def digests(directory: Path) -> dict[str, str]:
    """A digest of each data set in a directory, by its SOP Instance UID."""
    found = {}
    for path in directory.iterdir():
        instance = instance_from(path)
        found[instance.sop_instance_uid] = hashlib.sha256(path.read_bytes()[instance.data_set_offset :]).hexdigest()
    return found


# -- resuming ----------------------------------------------------------------------------------------------------------


@on_one_loop
async def test_the_same_command_again_sends_nothing_and_says_what_is_there(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 20)
    ledger = tmp_path / "run.db"
    async with KeepingSCP() as scp:
        first = await send(scp, tmp_path / "in", "--ledger", ledger)
        again = await send(scp, tmp_path / "in", "--ledger", ledger, "-v")
        assert set(scp.uids.values()) == {1}
        write_files(tmp_path / "in", 1, first=21)
        more = await send(scp, tmp_path / "in", "--ledger", ledger, "-v")
        assert scp.uids[uid_of(21)] == 1
    assert (first.returncode, first.stderr) == (0, "")
    assert again.returncode == more.returncode == 0
    assert again.stderr.splitlines()[1:] == [
        "I: Recorded so far: 20 stored",
        "I: nothing new to send; 20 already stored by an earlier run",
    ]
    assert re.search(r"I: 1 instance stored \(.*\), 20 stored by an earlier run\n", more.stderr)


@on_one_loop
async def test_what_has_moved_is_not_sent_again_when_the_command_says_so(tmp_path: Path) -> None:
    ledger, old, new = tmp_path / "run.db", tmp_path / "old", tmp_path / "new"
    write_files(old, 20)
    async with KeepingSCP() as scp:
        await send(scp, old, "--ledger", ledger)
        old.rename(new)
        write_files(new, 1, first=21)
        arguments = (new, "--ledger", ledger, "--rebind", f"{old}={new}", "-v")
        moved = await send(scp, *arguments)
        again = await send(scp, *arguments)
        wrong = await send(scp, new, "--ledger", ledger, "--rebind", f"{old}=/elsewhere")
        assert scp.uids == {uid_of(number): 1 for number in range(1, 22)}
    assert (moved.returncode, again.returncode, wrong.returncode) == (0, 0, 2)
    assert f"I: Ledger: 20 paths moved from {old} to {new}\n" in moved.stderr
    assert "20 stored by an earlier run" in moved.stderr
    assert "nothing new to send; 21 already stored by an earlier run" in again.stderr
    assert wrong.stderr == f"E: --rebind: the ledger has nothing at {str(old)!r}, nor at '/elsewhere'\n"
    rows = await anyio.to_thread.run_sync(rows_of, ledger)
    assert {Path(row.path or "").parent for row in rows} == {new}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--rebind", "/a=/b"], "--ledger"),
        (["--rebind", "/a=/b", "--ledger", "run.db", "--dry-run"], "--dry-run"),
        (["--rebind", "/a", "--ledger", "run.db"], "OLD=NEW"),
        (["--rebind", "=/a", "--ledger", "run.db"], "OLD=NEW"),
        (["--rebind", "/a=/b", "--rebind", "/a=/c", "--ledger", "run.db"], "one other place"),
        (["--rebind", "/a=/b", "--ledger", "run.db"], "no ledger"),
    ],
)
def test_a_place_that_makes_no_sense_is_a_usage_error(
    arguments: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["storescu", LOOPBACK, "104", ".", *arguments]) == 2
    assert what in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@on_one_loop
async def test_a_run_that_is_killed_is_finished_by_the_same_command(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 300)
    (tmp_path / "kept").mkdir()
    ledger = tmp_path / "run.db"
    answered, held = 80, anyio.Event()
    is_first = True

    def answer(_: Arrival) -> Status | Awaitable[Status]:
        return answer_later() if is_first and len(scp.arrivals) > answered else SUCCESS

    async def answer_later() -> Status:
        await held.wait()
        return SUCCESS

    async with KeepingSCP(answer, output_directory=tmp_path / "kept") as scp:
        arguments = ("storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", ledger)
        process = command.start(*arguments)
        with process, anyio.fail_after(60):
            while await anyio.to_thread.run_sync(stored_in, ledger) < answered:
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            await anyio.to_thread.run_sync(process.communicate)
        is_first = False
        held.set()
        done = await anyio.to_thread.run_sync(lambda: command.run(*arguments, "-v"))
        assert (done.returncode, done.stderr.splitlines()[-1].split(", ")[-1]) == (0, "80 stored by an earlier run")
        # What was answered is not sent again, what was in flight may have come whole.
        assert {scp.uids[arrival.request.affected_sop_instance_uid] for arrival in scp.arrivals[:answered]} == {1}
        assert len(scp.uids) == 300
    sources = await anyio.to_thread.run_sync(digests, tmp_path / "in")
    assert await anyio.to_thread.run_sync(digests, tmp_path / "kept") == sources
    rows = await anyio.to_thread.run_sync(rows_of, ledger)
    assert {row.state for row in rows} == {State.STORED}
    assert sorted(str(row.sop_instance_uid) for row in rows) == sorted(sources)


def stored_in(ledger: Path) -> int:
    """How many instances a ledger that is being written calls stored; 0 as long as there is none."""
    with contextlib.suppress(Exception):
        return sum(row.state is State.STORED for row in rows_of(ledger))
    return 0


@on_one_loop
async def test_a_run_that_is_interrupted_leaves_what_the_next_one_sends(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 200)
    ledger = tmp_path / "run.db"

    def answer(_: Arrival) -> Status:
        if len(scp.arrivals) == 20:
            process.send_signal(signal.SIGTERM)
        return SUCCESS

    async with KeepingSCP(answer) as scp:
        arguments = (tmp_path / "in", "--ledger", ledger, "-j", "1", "-w", "1")
        process = command.start("storescu", LOOPBACK, scp.port, *arguments)
        with process:
            _, stderr = await anyio.to_thread.run_sync(process.communicate)
        assert process.returncode == 143
        assert b"run the same command again to resume" in stderr
        stored = scp.stored
        assert stored < 200
        rows = await anyio.to_thread.run_sync(rows_of, ledger)
        assert sum(row.state is State.STORED for row in rows) == stored
        again = await send(scp, *arguments)
        assert (again.returncode, again.stderr) == (0, "")
        assert scp.uids == dict.fromkeys(map(uid_of, range(1, 201)), 1)


@on_one_loop
async def test_a_run_that_was_cut_short_is_told_as_such_and_not_as_all_there_is(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 3000)
    ledger = tmp_path / "run.db"

    def answer(_: Arrival) -> Status:
        if len(scp.arrivals) == 20:
            process.send_signal(signal.SIGINT)
        return SUCCESS

    async with KeepingSCP(answer) as scp:
        process = command.start(
            "storescu", LOOPBACK, scp.port, tmp_path / "in", "--ledger", ledger, "-j", "1", "-w", "1", "--no-count"
        )
        with process:
            _, stderr = await anyio.to_thread.run_sync(process.communicate)
    assert process.returncode == 130
    told = re.search(rb"E: Stopped early; the input was not read to its end, at least ([0-9,]+) instances left", stderr)
    assert told is not None
    assert int(told[1].replace(b",", b"")) < 3000 - scp.stored
    report = await anyio.to_thread.run_sync(lambda: command.run("report", ledger).stdout)
    assert re.search("1 run, the last one stopped early .*: interrupted; the input was not read to its end\n", report)


@on_one_loop
async def test_a_run_in_which_the_peer_is_short_of_resources_notes_when(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 5)
    ledger = tmp_path / "run.db"

    def answer(_: Arrival) -> Status:
        return Status(0xA700) if len(scp.arrivals) == 3 else SUCCESS

    async with KeepingSCP(answer) as scp:
        arguments = (tmp_path / "in", "--ledger", ledger, "-j", "1", "-w", "1", "--retry-wait", "0.5")
        assert (await send(scp, *arguments)).returncode == 0
    done = await anyio.to_thread.run_sync(lambda: command.run("report", "--failed-files", "--doubtful", ledger))
    assert len(done.stdout.splitlines()) >= 2  # all five are stored; those before the refusal may be lost


# -- what would be sent ------------------------------------------------------------------------------------------------


def dry_run(scp: KeepingSCP, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command.run("storescu", LOOPBACK, scp.port, "--dry-run", *arguments)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@on_one_loop
@pytest.mark.parametrize("waiting_hashes", [4, 65536], ids=["indexed", "not indexed yet"])
async def test_a_dry_run_says_what_the_ledger_has_and_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting_hashes: int
) -> None:
    paths = write_files(tmp_path / "in", 20)
    (tmp_path / "kept").mkdir()
    ledger = tmp_path / "kept" / "run.db"
    monkeypatch.setattr(ledger_writer, "_WAITING_HASHES", waiting_hashes)
    async with KeepingSCP() as scp:
        peer = Peer(LOOPBACK, scp.port, "ANY-SCP")
        await anyio.to_thread.run_sync(lambda: anyio.run(lambda: store(paths[:15], to=peer, ledger=ledger)))
        assert scp.stored == 15
        before = await anyio.to_thread.run_sync(contents, tmp_path / "kept")
        arguments = (tmp_path / "in", "--ledger", ledger)
        done = await anyio.to_thread.run_sync(dry_run, scp, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        first, second, *_ = done.stdout.splitlines()
        assert first == "15 instances stored by an earlier run: not sent again"
        assert second.startswith("5 instances, ")
        counts = json.loads((await anyio.to_thread.run_sync(dry_run, scp, "--json", *arguments)).stdout)
        assert (counts["resumed"], counts["instances"]) == (15, 5)
        assert scp.stored == 15
    assert await anyio.to_thread.run_sync(contents, tmp_path / "kept") == before


@on_one_loop
async def test_a_dry_run_makes_no_ledger_and_refuses_that_of_another_peer(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 2)
    async with KeepingSCP() as scp:
        arguments = (tmp_path / "in", "--ledger", tmp_path / "run.db")
        done = await anyio.to_thread.run_sync(dry_run, scp, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("There is no ledger yet: no earlier run has stored anything\n2 instances, ")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        await anyio.to_thread.run_sync(other_destination, tmp_path / "run.db")
        done = await anyio.to_thread.run_sync(dry_run, scp, *arguments)
    assert (done.returncode, done.stdout) == (6, "")
    assert "belongs to OTHER@host:104, not to ANY-SCP@127.0.0.1:" in done.stderr


@on_one_loop
async def test_a_dry_run_of_what_is_stored_already_is_as_well_as_the_run_itself(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 2)
    async with KeepingSCP() as scp:
        arguments = (tmp_path / "in", "--ledger", tmp_path / "in" / "run.db")
        assert (await send(scp, *arguments)).returncode == 0
        done = await anyio.to_thread.run_sync(dry_run, scp, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 instances stored by an earlier run: not sent again\n0 instances, 0 bytes of data sets\n"


# -- a ledger that cannot be had ---------------------------------------------------------------------------------------


def not_a_ledger(path: Path) -> Path:
    path.write_text("shopping list")
    return path


def other_destination(path: Path) -> Path:
    ledger = SqliteLedger(path, destination="OTHER@host:104")
    ledger.open()
    ledger.close()
    return path


REFUSALS = [
    (not_a_ledger, "is not a ledger: it is left as it is"),
    (other_destination, "belongs to OTHER@host:104, not to ANY-SCP@127.0.0.1:"),
    (lambda path: path.parent / "nowhere" / "run.db", "there is no directory"),
    (lambda path: path.parent, "it is not a file"),
    (lambda path: Path("/proc/run.db"), "cannot be opened: "),
]


@on_one_loop
@pytest.mark.parametrize(("make", "text"), REFUSALS, ids=["text", "other", "no directory", "directory", "unwritable"])
async def test_a_ledger_that_cannot_be_used_is_one_line_and_code_6(tmp_path: Path, make: Any, text: str) -> None:
    write_files(tmp_path / "in", 3)
    ledger = await anyio.to_thread.run_sync(make, tmp_path / "run.db")
    async with KeepingSCP() as scp:
        done = await send(scp, tmp_path / "in", "--ledger", ledger)
        with_table = await send(scp, tmp_path / "in", "--ledger", ledger, "--summary")
        assert scp.associations == 0
    assert (done.returncode, done.stdout) == (6, "")
    assert re.fullmatch(rf"E: [^\n]*{re.escape(text)}[^\n]*\n", done.stderr)
    assert re.fullmatch(r"E: [^\n]*\nExit code    6: [^\n]*\n", with_table.stderr)


@on_one_loop
@pytest.mark.parametrize("name", ["run.db", "cur.db"])
async def test_a_ledger_that_is_in_use_names_who_has_it(tmp_path: Path, name: str) -> None:
    (path,) = write_files(tmp_path / "in", 1)
    (tmp_path / "cur.db").symlink_to("run.db")
    async with KeepingSCP() as scp, SqliteLedger(tmp_path / "run.db", destination=f"ANY-SCP@{LOOPBACK}:{scp.port}"):
        done = await send(scp, path, "--ledger", tmp_path / name)
    assert done.returncode == 6
    assert re.fullmatch(r"E: the ledger '[^\n]*' is in use by process \d+ on [^\n]*\n", done.stderr)


def test_a_ledger_on_a_network_file_system_is_refused_unless_it_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write_files(tmp_path, 1)
    monkeypatch.setattr(lock, "file_system_of", lambda directory, mounts: "nfs4")
    arguments = ["storescu", LOOPBACK, str(free_port()), path, "--ledger", str(tmp_path / "run.db")]
    assert run_command_line(arguments) == 6
    assert "on a network file system (nfs4)" in capsys.readouterr().err
    assert not (tmp_path / "run.db").exists()
    assert run_command_line([*arguments, "--force-ledger", "--retries", "0"]) == 1  # nobody listens there
    assert (tmp_path / "run.db").exists()


def test_a_ledger_that_cannot_be_written_any_more_is_one_line_and_code_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: LedgerWriter, entries: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    paths = write_files(tmp_path, 3)
    monkeypatch.setattr(ledger_writer.LedgerWriter, "write", fail)
    ledger = str(tmp_path / "run.db")
    with ScriptedSCP() as scp:
        code = run_command_line(["storescu", LOOPBACK, str(scp.port), *paths, "-j", "1", "--ledger", ledger])
    assert code == 6
    assert capsys.readouterr().err == f"E: the ledger {ledger!r} cannot be written: database or disk is full\n"
