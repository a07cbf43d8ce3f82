"""`asyncstore verify`: the real command against archives in this process."""

from __future__ import annotations

import csv
import functools
import io
import json
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncstore.cli.output.proof_text import ProofText
from asyncstore.cli.running import Results
from asyncstore.net.acceptor import Acceptor
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.transfer.proof.comparison import Verdict
from asyncstore.uids import CT_IMAGE_STORAGE, STUDY_ROOT_FIND
from tests.support import command
from tests.support.archive import Archive
from tests.support.associations import image_file
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK, free_port
from tests.support.wire import ScriptedSCP, Wire, stays_silent

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

STUDY, SERIES = "1.2.3.55", "1.2.3.66"  # of image_file
UIDS = [f"1.2.3.{number}" for number in range(1, 6)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    for uid in UIDS:
        image_file(tmp_path / "tree" / f"{uid}.dcm", uid)
    return tmp_path / "tree"


def row(uid: str, sop_class: str = CT_IMAGE_STORAGE) -> tuple[str, str, str, str]:
    return STUDY, SERIES, uid, sop_class


def verify(archive: Archive, *words: Any, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    async def main() -> subprocess.CompletedProcess[str]:
        async with Acceptor({STUDY_ROOT_FIND: archive}) as acceptor:
            line = functools.partial(command.run, "verify", *words, LOOPBACK, acceptor.port, stdin=stdin)
            return await anyio.to_thread.run_sync(line)

    return anyio.run(main)


def test_nothing_differs(tree: Path) -> None:
    done = verify(Archive([row(uid) for uid in UIDS]), tree)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 instances in 1 study compared\nno difference\n"


DIFFERENT = Archive([row(UIDS[0], "1.2.840.10008.5.1.4.1.1.4"), *map(row, UIDS[1:3]), row("1.2.3.99")])


def test_the_differences_are_printed_by_study(tree: Path) -> None:
    done = verify(DIFFERENT, tree)
    assert (done.returncode, done.stderr) == (7, "")
    first, *lines, compared, counts = done.stdout.splitlines()
    assert first == f"study {STUDY}: 2 of 5 missing, 1 extra, 1 with another SOP class"
    assert sorted(lines) == [
        f"  extra: 1.2.3.99 in series {SERIES}",
        f"  missing: {UIDS[3]} in series {SERIES}, {tree}/{UIDS[3]}.dcm",
        f"  missing: {UIDS[4]} in series {SERIES}, {tree}/{UIDS[4]}.dcm",
        f"  with another SOP class: {UIDS[0]} in series {SERIES}, MR Image Storage instead of CT Image Storage, "
        f"{tree}/{UIDS[0]}.dcm",
    ]
    assert compared == "5 instances in 1 study compared"
    assert counts == "1 study differs: 2 missing, 1 extra, 1 with another SOP class"


def test_a_study_and_a_series_that_are_missing_are_one_line_each(tree: Path) -> None:
    done = verify(Archive([]), tree)
    assert done.returncode == 7
    assert done.stdout.splitlines()[0] == f"study {STUDY}: 5 of 5 missing"
    assert len(done.stdout.splitlines()) == 3
    done = verify(Archive([(STUDY, "1.9", "1.9.9", CT_IMAGE_STORAGE)]), tree)
    assert f"  missing: series {SERIES} with 5 instances\n" in done.stdout
    assert done.stdout.count("missing:") == 1


def test_as_json_and_as_csv(tree: Path) -> None:
    done = verify(DIFFERENT, tree, "--json")
    study, summary = map(json.loads, done.stdout.splitlines())
    assert (study["event"], study["study_instance_uid"], study["expected"], study["found"]) == ("study", STUDY, 5, 4)
    assert sorted((each["kind"], each["sop_instance_uid"]) for each in study["differences"]) == [
        ("extra", "1.2.3.99"),
        ("missing", UIDS[3]),
        ("missing", UIDS[4]),
        ("other-class", UIDS[0]),
    ]
    assert (summary["event"], summary["missing"], summary["extra"], summary["other_class"]) == ("verified", 2, 1, 1)
    done = verify(DIFFERENT, tree, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {(each["difference"], each["sop_instance_uid"], each["path"]) for each in rows} == {
        ("extra", "1.2.3.99", ""),
        ("missing", UIDS[3], f"{tree}/{UIDS[3]}.dcm"),
        ("missing", UIDS[4], f"{tree}/{UIDS[4]}.dcm"),
        ("other-class", UIDS[0], f"{tree}/{UIDS[0]}.dcm"),
    }
    assert done.returncode == 7


@pytest.mark.parametrize("nul", [False, True])
def test_what_is_missing_can_be_sent(tree: Path, nul: bool) -> None:
    done = verify(DIFFERENT, tree, "--missing-files", *(["-0"] if nul else []))
    assert done.returncode == 7

    async def send() -> tuple[int, int]:
        async with StorageSCP() as scp:
            words: list[Any] = ["storescu", "--files-from", "-", *(["-0"] if nul else []), LOOPBACK, scp.port]
            line = functools.partial(command.run, *words, stdin=done.stdout.encode())
            return (await anyio.to_thread.run_sync(line)).returncode, scp.stored

    assert anyio.run(send) == (0, 2)


def test_a_ledger_is_compared_and_counts_are_told(tree: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "run.db"

    async def send() -> None:
        async with StorageSCP() as scp:
            line = functools.partial(command.run, "storescu", "--ledger", ledger, LOOPBACK, scp.port, tree)
            assert (await anyio.to_thread.run_sync(line)).returncode == 0

    anyio.run(send)
    image_file(tree / "later.dcm", "1.2.3.77")
    archive = Archive([row(uid) for uid in UIDS], tells_counts=True)
    done = verify(archive, ledger, "--counts")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 instances in 1 study compared, 1 of them by counts alone\nno difference\n"
    archive.instances.pop()
    assert f"missing: {UIDS[4]} " in verify(archive, ledger, "--counts").stdout


def test_what_cannot_be_compared_is_code_3_unless_something_differs(tree: Path) -> None:
    archive = Archive([row(uid) for uid in UIDS])
    done = verify(archive, tree, tree / "missing")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "no difference")
    assert "missing" in done.stderr
    refusing = Archive([], answers=[0x0124] * 100)
    done = verify(refusing, tree)
    assert done.returncode == 3
    assert f"study {STUDY}: the peer refused the query" in done.stdout
    assert "1 study could not be compared completely" in done.stdout
    archive.instances.pop()
    assert verify(archive, tree, tree / "missing").returncode == 7


def test_nothing_to_compare_no_association_and_a_damaged_ledger_have_their_codes(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = verify(Archive([]), tmp_path / "empty")
    told = f"E: Nothing to compare: there is no instance in {tmp_path / 'empty'}\n"
    assert (done.returncode, done.stderr) == (5, told)
    done = command.run("verify", tree, LOOPBACK, free_port())
    assert (done.returncode, done.stderr.count("No connection to")) == (1, 1)
    with ScriptedSCP(stays_silent) as silent:
        done = command.run("verify", "-ta", "0.5", tree, LOOPBACK, silent.port)
    assert (done.returncode, done.stderr.count("(-ta)")) == (1, 1)
    with ScriptedSCP(Wire.fin) as closing:
        assert command.run("verify", tree, LOOPBACK, closing.port).returncode == 1
    (tmp_path / "run.db").write_bytes(b"SQLite format 3\0" + bytes(2000))
    done = verify(Archive([]), tmp_path / "run.db")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)


def test_studies_that_were_not_compared_are_counted_and_not_said_to_be_equal(tree: Path) -> None:
    done = command.run("verify", tree, LOOPBACK, free_port())
    assert (done.returncode, done.stdout) == (1, "0 instances in 0 studies compared\n1 study not compared\n")
    done = command.run("verify", "--json", tree, LOOPBACK, free_port())
    assert (done.returncode, json.loads(done.stdout)["studies_not_compared"]) == (1, 1)
    text = ProofText(Results(), "text")
    text.add(Verdict(STUDY, expected=5, found=5))
    text.not_compared = 2
    assert list(text.summary()) == ["5 instances in 1 study compared", "2 studies not compared"]


def test_a_named_peer_is_asked_by_tls(tree: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    server = authority.issue()
    config = tmp_path / "peers.toml"

    async def main(*words: Any) -> subprocess.CompletedProcess[str]:
        archive = Archive([row(uid) for uid in UIDS])
        async with Acceptor({STUDY_ROOT_FIND: archive}, tls=server.tls()) as acceptor:
            table = f'address = "localhost"\nport = {acceptor.port}\ntls = true\n{words[0]}'
            config.write_text(f"[peers.archive]\n{table}\n")
            line = functools.partial(command.run, "verify", "--config", config, tree, "@archive", *words[1:])
            return await anyio.to_thread.run_sync(line)

    done = anyio.run(main, f'tls_ca = "{authority.ca}"', "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    done = anyio.run(main, "")
    assert (done.returncode, "certificate" in done.stderr) == (1, True)
    done = anyio.run(main, "insecure = true")
    assert (done.returncode, done.stderr.count("--insecure: the peer's certificate is not verified")) == (0, 1)


def test_a_mistake_in_the_options_is_code_2(tree: Path) -> None:
    assert command.run("verify", tree, "-0", LOOPBACK, 104).returncode == 2
    assert command.run("verify", tree, "--json", "--csv", LOOPBACK, 104).returncode == 2


def send_to(directory: Path, *words: Any, loses: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run storescu --verify against an archive that answers queries about all that it got but one instance."""

    async def main() -> subprocess.CompletedProcess[str]:
        archive = Archive([])

        def on_store(arrival: Any) -> None:
            uid = arrival.request.affected_sop_instance_uid
            if uid != loses:
                archive.instances.append(row(uid, arrival.request.affected_sop_class_uid))

        async with StorageSCP(further_providers={STUDY_ROOT_FIND: archive}, on_store=on_store) as scp:
            archive.instances.append(row("1.2.3.99"))  # it has that from others
            line = functools.partial(command.run, "storescu", "--verify", *words, LOOPBACK, scp.port, directory)
            return await anyio.to_thread.run_sync(line)

    return anyio.run(main)


@pytest.mark.parametrize("place", ["no ledger", "file", "database"])
def test_what_was_sent_is_verified_at_the_end(
    tree: Path, tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue("database") if place == "database" else tmp_path / "run.db"
    words = () if place == "no ledger" else ("--ledger", name)
    done = send_to(tree, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 instances in 1 study compared\nno difference\n"


@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "no ledger"])
def test_what_the_peer_has_lost_since_is_exit_code_7(tree: Path, tmp_path: Path, with_ledger: bool) -> None:
    words = ("--ledger", tmp_path / "run.db") if with_ledger else ()
    done = send_to(tree, *words, loses=UIDS[2])
    assert done.returncode == 7
    assert done.stdout.splitlines() == [
        f"study {STUDY}: 1 of 5 missing",
        f"  missing: {UIDS[2]} in series {SERIES}, {tree}/{UIDS[2]}.dcm",
        "5 instances in 1 study compared",
        "1 study differs: 1 missing",
    ]


def test_the_differences_after_a_run_are_lines_of_json_before_its_summary(tree: Path) -> None:
    done = send_to(tree, "--json", loses=UIDS[2])
    *outcomes, study, verified, summary = map(json.loads, done.stdout.splitlines())
    assert [line["event"] for line in outcomes] == ["outcome"] * 5
    assert (study["event"], verified["missing"], summary["event"], summary["exit_code"]) == ("study", 1, "summary", 7)


def test_a_peer_that_cannot_be_asked_has_proved_nothing(tree: Path, tmp_path: Path) -> None:
    async def main() -> subprocess.CompletedProcess[str]:
        async with StorageSCP() as scp:
            words = (
                "storescu",
                "-v",
                "--verify",
                "--summary",
                "--ledger",
                tmp_path / "run.db",
                LOOPBACK,
                scp.port,
                tree,
            )
            line = functools.partial(command.run, *words)
            return await anyio.to_thread.run_sync(line)

    done = anyio.run(main)
    assert (done.returncode, done.stdout) == (3, "0 instances in 0 studies compared\n1 study not compared\n")
    assert "E: The peer takes no queries from us (C-FIND, study root), so nothing can be verified\n" in done.stderr
    assert "I: Verifying: asking the peer for what was stored\n" in done.stderr
    assert "Exit code    3: finished, but some stored instances could not be verified\n" in done.stderr
    assert "Next         to verify again:\n" in done.stderr


def test_a_run_that_stops_early_is_not_verified(tree: Path) -> None:
    done = send_to(tree, "-j", "1", "-w", "1", "--fail-fast", "--on-status", "0000=failed")
    assert done.returncode == 4
    assert "E: Not verified: the run did not finish\n" in done.stderr
