"""`storescu --commit` with `storescp --commitment`: stored, committed, neither; and verified."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from asyncstore.ledger.rows import Commitment
from asyncstore.ledger.sqlite.reader import LedgerReader
from tests.support import command
from tests.support.associations import image_file
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 12


@contextlib.contextmanager
def archive(directory: Path, *options: str) -> Iterator[int]:
    """A running storescp, and the port that it listens on."""
    process = command.start("storescp", 0, "-v", "-ba", LOOPBACK, "-od", directory, *options)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if port := re.match(rb"I: Listening on 127\.0\.0\.1 port (\d+) as ", line):
                yield int(port[1])
                return
        raise AssertionError("it does not listen")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    for number in range(1, COUNT + 1):
        image_file(tmp_path / "tree" / f"{number}.dcm", f"1.2.3.{number}")
    return tmp_path / "tree"


def test_what_is_stored_is_committed_and_verified(tree: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "run.db"
    with archive(tmp_path / "in", "--commitment") as port:
        done = command.run("storescu", "-v", "--commit", "--ledger", ledger, LOOPBACK, port, tree)
        assert done.returncode == 0
        assert f"I: {COUNT} instances committed" in done.stderr
        assert command.run("verify", ledger, LOOPBACK, port).returncode == 0
        assert command.run("verify", tree, "--counts", LOOPBACK, port).returncode == 0
        (tmp_path / "in" / "1.2.3.5.dcm").unlink()
        again = command.run("storescu", "-v", "--commit", "--ledger", ledger, LOOPBACK, port, tree)
        assert (again.returncode, "I: 0 instances committed" in again.stderr) == (0, True)
    with LedgerReader(ledger) as reader:
        assert reader.committed() == COUNT
    assert f"{COUNT} of the stored are committed" in command.run("report", ledger).stdout


@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "no ledger"])
def test_the_peer_is_asked_by_the_uids_under_which_it_got_the_instances(
    tree: Path, tmp_path: Path, with_ledger: bool
) -> None:
    ledger = tmp_path / "run.db"
    (tmp_path / "key").write_bytes(bytes(range(32)))
    words = ("--ledger", ledger) if with_ledger else ()
    with archive(tmp_path / "in", "--commitment") as port:
        line = ("--new-uids", tmp_path / "key", "--commit", "--verify", "-v", *words, LOOPBACK, port, tree)
        done = command.run("storescu", *line)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no difference")
        assert f"I: {COUNT} instances committed" in done.stderr
        if with_ledger:
            assert command.run("verify", ledger, LOOPBACK, port).returncode == 0
        (file, *_) = (tmp_path / "in").iterdir()
        file.unlink()
        if with_ledger:
            verified = command.run("verify", ledger, LOOPBACK, port)
            assert (verified.returncode, file.stem in verified.stdout) == (7, True)


def test_what_is_stored_what_is_committed_and_what_neither_is_told_everywhere(tree: Path, tmp_path: Path) -> None:
    ledger, page = tmp_path / "run.db", tmp_path / "page.html"
    with archive(tmp_path / "in", "--commitment") as port:
        assert command.run("storescu", "--ledger", ledger, LOOPBACK, port, tree).returncode == 0
        (tmp_path / "in" / "1.2.3.5.dcm").unlink()
        (tree / "5.dcm").unlink()  # so that it cannot be sent again
        (tree / "13.dcm").write_bytes(b"no instance")
        words = ("--commit", "--json", "--summary", "--ledger", ledger, LOOPBACK, port, tree)
        done = command.run("storescu", *words)
    why = "the peer does not have the instance (0x0112)"
    assert done.returncode == 3
    assert f"E: 1 stored instance not committed: {why}, and it was not sent again: " in done.stderr
    assert f"Commitment   {COUNT - 1}  committed: the peer keeps them" in done.stderr
    assert f"1  not committed: {why}" in done.stderr
    assert "Exit code    3: finished, but some stored instances are not committed" in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["stored"], summary["committed"], summary["exit_code"]) == (COUNT - 1, COUNT - 1, 3)
    assert list(summary["not_committed"].values()) == [1]
    lines = command.run("report", ledger).stdout.splitlines()
    assert f"{COUNT - 1} of the stored are committed: the peer said that it keeps them" in lines
    assert f"  1  not committed: {why}" in lines
    told = json.loads(command.run("report", "--json", ledger).stdout)
    refused = {"commitment": "refused", "failure_reason": "0112", "reason": f"not committed: {why}", "instances": 1}
    assert (told["committed"], told["not_committed"]) == (COUNT - 1, [refused])
    rows = list(csv.DictReader(command.run("report", "--csv", ledger).stdout.splitlines()))
    told_of_rows = Counter((row["state"], row["commitment"], row["failure_reason"]) for row in rows)
    assert told_of_rows[("stored", "committed", "")] == COUNT - 1
    assert told_of_rows[("stored", "refused", "0112")] == 1
    assert command.run("report", "--html", page, ledger).returncode == 0
    assert f"not committed: {why}" in page.read_text(encoding="utf-8")


def test_an_instance_that_was_lost_later_is_sent_again_and_its_row_is_right(tree: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "run.db"
    with archive(tmp_path / "in", "--commitment") as port:
        assert command.run("storescu", "--ledger", ledger, LOOPBACK, port, tree).returncode == 0
        (tmp_path / "in" / "1.2.3.5.dcm").unlink()
        assert command.run("storescu", "--commit", "--ledger", ledger, LOOPBACK, port, tree).returncode == 0
    with LedgerReader(ledger) as reader:
        (row,) = [row for row in reader.rows() if row.sop_instance_uid == "1.2.3.5"]
    assert (row.state.value, row.attempts, row.run, row.commitment) == ("stored", 2, 2, Commitment.COMMITTED)


def test_what_an_earlier_run_stored_is_committed_later_and_what_is_gone_is_sent_once_more(
    tree: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "run.db"
    with archive(tmp_path / "in", "--commitment") as port:
        assert command.run("storescu", "--ledger", ledger, LOOPBACK, port, tree).returncode == 0
        (tmp_path / "in" / "1.2.3.5.dcm").unlink()
        done = command.run("storescu", "-v", "--commit", "--ledger", ledger, LOOPBACK, port, tree)
        assert (done.returncode, f"I: {COUNT} instances committed" in done.stderr) == (0, True)
        assert (tmp_path / "in" / "1.2.3.5.dcm").exists()
    with LedgerReader(ledger) as reader:
        assert reader.committed() == COUNT


def test_commitment_is_asked_for_by_tls(tree: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    with archive(tmp_path / "in", "--commitment", "--tls", *authority.issue().words) as port:
        tls = ("--tls", "--tls-ca", authority.ca)
        done = command.run("storescu", "-v", "--commit", *tls, LOOPBACK, port, tree)
    assert (done.returncode, f"I: {COUNT} instances committed" in done.stderr) == (0, True)


def test_a_peer_without_the_service_has_committed_nothing(tree: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "run.db"
    with archive(tmp_path / "in") as port:
        done = command.run(
            "storescu", "--commit", "--commit-port", free_port(), "--ledger", ledger, LOOPBACK, port, tree
        )
    assert done.returncode == 3
    assert f"E: {COUNT} stored instances not committed: not asked for: " in done.stderr
    with LedgerReader(ledger) as reader:
        assert reader.committed() == 0


def test_a_port_that_is_taken_and_mistakes_are_told(tree: Path, tmp_path: Path) -> None:
    with archive(tmp_path / "in", "--commitment") as port:
        done = command.run("storescu", "--commit", "--commit-port", port, LOOPBACK, port, tree)
        assert done.returncode == 2
        assert done.stderr == f"E: cannot listen on port {port}: Address already in use\n"
        assert not list((tmp_path / "in").iterdir())
    for words in (("--commit-port", 104), ("--commit-wait", 5), ("--commit-plaintext",)):
        alone = command.run("storescu", *words, LOOPBACK, 104, tree)
        assert (alone.returncode, f"{words[0]}: it goes with --commit" in alone.stderr) == (2, True)
    assert command.run("storescp", "--ignore", "--commitment", 0).returncode == 2
    by_tls = ("--tls", "--commit", "--commit-port", free_port())
    refused = command.run("storescu", *by_tls, LOOPBACK, 104, tree)
    assert refused.returncode == 2
    assert "give --tls-cert and --tls-key, or --commit-plaintext" in " ".join(refused.stderr.split())
    from_port = ("--source-address", f"{LOOPBACK}:{free_port()}", "-j", "1")
    assert command.run("storescu", "--commit", *from_port, LOOPBACK, 104, tree).returncode == 2
