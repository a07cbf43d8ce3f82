"""The commands around the workers of a migration: enqueue, pause, resume, limit, retry and report."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from asyncstore.ledger.postgresql.database import Database
from asyncstore.ledger.postgresql.schema import LOCKS_OF_ROOTS
from tests.support import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgresql import Cluster

PEER = ("127.0.0.1", "104", "-aec", "ARCHIVE")
DESTINATION = "ARCHIVE@127.0.0.1:104"
WITHOUT_EXTRA = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("asyncpg", "pgqueuer") else real(name, *more)
from asyncstore.__main__ import main
main()
"""
WORKER = """
INSERT INTO worker (migration, pid, host, options, started_at, seen_at, associations, answers, sent_bytes)
VALUES (1, 77, 'host-7', '{}', 1790000000000, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, 2, 30, 3000)"""
ACCOUNT = """
INSERT INTO account (run, sop_class, transfer_syntax, sent_transfer_syntax, state, standing, losses, retryable,
    attempts, status, reason, comment, offending_elements, association_number, context_id, changes, instances,
    bytes_sent)
VALUES (1, '', '', '', $1, $2, 0, true, 1, $3, $4, '', '', 1, 1, '', 0, 0) RETURNING id"""
INSTANCE = """
INSERT INTO instance (size_bytes, mtime_ns, recorded_at, bytes_sent, directory, account, series, earlier_attempts,
    sop_instance_uid, name) VALUES (10, 1, 1790000000000, 10, $1, $2, 0, 0, $3, $3)"""
COUNT = "UPDATE account SET instances = instances + 1, bytes_sent = bytes_sent + 10 WHERE id = $1"
COUNTS_AGREE = """
SELECT bool_and(a.instances = c.instances AND a.bytes_sent = c.bytes_sent) FROM account a JOIN LATERAL (
    SELECT count(*) AS instances, coalesce(sum(i.bytes_sent), 0) AS bytes_sent FROM instance i
    WHERE i.account = a.id) c ON true"""


def sql(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a statement."""
    with Database(dsn, "test") as database:
        return [tuple(row) for row in database.fetch(statement, *values)]


def tree(root: Path, studies: int = 3) -> Path:
    for study in range(studies):
        (root / f"p{study}" / "s").mkdir(parents=True)
        for number in range(4):
            (root / f"p{study}" / "s" / f"{number}.dcm").write_bytes(b"x" * 10)
    return root


def enqueued(dsn: str, root: Path, name: str = "move") -> None:
    done = command.run("enqueue", dsn, name, *PEER, "--root", f"nas1={root}")
    assert (done.returncode, done.stderr) == (0, "")


def validated(line: str) -> Any:
    """A line of JSON that is as the schema says, with all that the schema names."""
    schema = json.loads(command.run("schema").stdout)
    data = json.loads(line)
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(data)
    assert data.keys() == schema["$defs"][data["event"]]["properties"].keys()
    return data


def record(dsn: str, path: bytes, name: bytes, account: int) -> None:
    """Have an instance in an account."""
    ((directory,),) = sql(dsn, "SELECT id FROM directory WHERE path = $1", path)
    sql(dsn, INSTANCE, directory, account, name)
    sql(dsn, COUNT, account)


# -- enqueue -----------------------------------------------------------------------------------------------------------


def test_a_tree_is_put_into_batches_and_again_adds_nothing(tmp_path: Path, database: str) -> None:
    root = f"nas1={tree(tmp_path / 'nas')}"
    first = command.run("enqueue", database, "move", *PEER, "--root", root, "--cap", 3)
    text = f"Migration move to {DESTINATION}: 12 files (120 bytes) in 1 batch, 1 of them new\n"
    assert (first.returncode, first.stdout, first.stderr) == (0, text, "")
    again = command.run("enqueue", database, "move", *PEER, "--root", root, "--json")
    counts = validated(again.stdout)
    assert (counts["batches"], counts["new_batches"], counts["files"], counts["problems"]) == (1, 0, 12, [])
    assert sql(database, "SELECT name, destination, cap FROM migration") == [("move", DESTINATION, 3)]


def test_a_peer_may_have_a_name(tmp_path: Path, database: str) -> None:
    (tmp_path / "peers.toml").write_text(
        '[peers.archive]\naddress = "pacs.example"\nport = 11112\ncalled_aet = "ARCHIVE"\nassociations = 4\ncap = 5\n'
    )
    arguments = ("enqueue", database, "move", "@archive", "--root", f"nas1={tree(tmp_path / 'nas')}")
    done = command.run(*arguments, "--config", tmp_path / "peers.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert sql(database, "SELECT destination, cap FROM migration") == [("ARCHIVE@pacs.example:11112", 5)]


def test_what_is_in_no_batch_is_told(tmp_path: Path, database: str) -> None:
    root = tree(tmp_path / "nas")
    for number in range(25):
        (root / f"link{number}\n").symlink_to(root / "p0")
    arguments = ("enqueue", database, "move", *PEER, "--root", f"nas1={root}")
    done = command.run(*arguments)
    assert done.returncode == 3
    assert done.stdout.count("\\n: a link to a directory: make it a root\n") == 20
    assert done.stdout.endswith("  and 5 more: --json has all\n")
    data = validated(command.run(*arguments, "--json").stdout)
    assert len(data["problems"]) == 25
    assert data["files"] == 12


@pytest.mark.parametrize(
    ("dsn", "name", "roots", "code", "what"),
    [
        ("run.db", "move", ["nas1={root}"], 2, "is not the URI of a database"),
        ("postgresql://u:hunter2@h/d", "move", ["nas1={root}"], 2, "PGPASSFILE"),
        ("{dsn}", " ", ["nas1={root}"], 2, "is not a name"),
        ("{dsn}", "move", [], 2, "Missing option '--root'"),
        ("{dsn}", "move", ["{root}"], 2, "is not NAME=DIRECTORY"),
        ("{dsn}", "move", ["a:b={root}"], 2, "is not NAME=DIRECTORY"),
        ("{dsn}", "move", ["nas1={root}/nowhere"], 2, "is not a directory: is it mounted?"),
        ("{dsn}", "move", ["nas1={root}", "nas1={root}"], 2, "two roots have the same name"),
        ("{dsn}", "move", ["nas1={root}", "nas2={root}/p0"], 2, "nas2 lies in nas1"),
        ("{dsn}", "move", ["nas1={root}", "nas2={root}"], 2, "lies in"),
        ("{dsn}", "move", ["nas1={empty}"], 3, "is it mounted?"),
        ("{dsn}-nowhere", "move", ["nas1={root}"], 6, "does not exist"),
        (
            "postgresql://127.0.0.1:1/d",
            "move",
            ["nas1={root}"],
            6,
            "the database 'postgresql://127.0.0.1:1/d' cannot be",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, database: str, dsn: str, name: str, roots: list[str], code: int, what: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"root": tree(tmp_path / "nas"), "empty": tmp_path / "empty", "dsn": database}
    given = [word for root in roots for word in ("--root", root.format(**places))]
    done = command.run("enqueue", dsn.format(**places), name, *PEER, *given)
    assert (done.returncode, done.stdout) == (code, "")
    error = done.stderr.splitlines()[-1]
    assert what in error
    assert code == 2 or done.stderr == f"{error}\n"
    assert "hunter2" not in done.stderr


def test_another_destination_needs_another_name(tmp_path: Path, database: str) -> None:
    root = tree(tmp_path / "nas")
    enqueued(database, root)
    done = command.run("enqueue", database, "move", "127.0.0.1", "104", "--root", f"nas1={root}")
    assert done.returncode == 6
    assert f"belongs to {DESTINATION}, not to ANY-SCP@127.0.0.1:104: give this one another name\n" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("enqueue", "{dsn}", "move", *PEER, "--root", "a=/"), ("pause", "{dsn}", "move")]
)
def test_without_the_extra_one_line_says_what_to_install(database: str, arguments: tuple[str, ...]) -> None:
    words = [word.format(dsn=database) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA, *words],
        capture_output=True,
        text=True,
        env=command.environment(),
        check=False,
    )
    assert done.returncode == 6
    needed = "asyncpg and pgqueuer: pip install '.[cluster]' in the source of asyncstore"
    assert done.stderr == f"E: the database {database!r} needs {needed}\n"


@contextlib.contextmanager
def caught_in_its_walk(dsn: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that is about to add what it has found, and cannot."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    with Database(dsn, "test") as lock:
        lock.fetch("SELECT pg_advisory_lock($1, 1)", LOCKS_OF_ROOTS)
        with command.start(*arguments) as process:
            give_up_at = time.monotonic() + command.FINISH_SECONDS
            while not lock.fetch(waiting)[0][0]:
                assert time.monotonic() < give_up_at
            yield process


def test_a_server_that_goes_away_is_waited_for(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    enqueued(dsn, root)
    tree(root / "more")
    with caught_in_its_walk(dsn, "enqueue", dsn, "move", *PEER, "--root", f"nas1={root}") as process:
        cluster.restart("immediate")
        stdout, stderr = process.communicate(timeout=command.FINISH_SECONDS)
    assert process.returncode == 0, stderr
    assert stdout.decode() == f"Migration move to {DESTINATION}: 24 files (240 bytes) in 2 batches, 1 of them new\n"


def test_an_interrupt_ends_the_walk_while_the_server_is_away(tmp_path: Path, cluster: Cluster) -> None:
    dsn, root = cluster.new_database(), tree(tmp_path / "nas")
    arguments = ("enqueue", dsn, "move", *PEER, "--root", f"nas1={root}")
    with caught_in_its_walk(dsn, *arguments) as process:
        cluster.stop("immediate")
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=command.FINISH_SECONDS)
    cluster.start()
    assert (process.returncode, stdout) == (130, b"")
    done = command.run(*arguments)
    assert done.stdout == f"Migration move to {DESTINATION}: 12 files (120 bytes) in 1 batch, 1 of them new\n"


def test_an_interrupt_ends_the_walk_and_the_same_command_goes_on(tmp_path: Path, database: str) -> None:
    root = tree(tmp_path / "nas")
    enqueued(database, root)
    tree(root / "more")
    arguments = ("enqueue", database, "move", *PEER, "--root", f"nas1={root}")
    with caught_in_its_walk(database, *arguments) as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=command.FINISH_SECONDS)
    assert (process.returncode, stdout, stderr) == (130, b"", b"")
    done = command.run(*arguments)
    assert done.stdout == f"Migration move to {DESTINATION}: 24 files (240 bytes) in 2 batches, 1 of them new\n"


# -- pause, resume, limit, retry ---------------------------------------------------------------------------------------


def test_a_migration_is_paused_resumed_and_limited(tmp_path: Path, database: str) -> None:
    enqueued(database, tree(tmp_path / "nas"))
    sql(database, "UPDATE migration SET target = 6")
    seen = "SELECT is_paused, cap, target FROM migration"
    paused = command.run("pause", database, "move")
    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout.startswith("Migration move: paused;")
    limited = command.run("limit", database, "move", 4)
    assert limited.stdout == "Migration move: at most 4 associations at once\n"
    assert sql(database, seen) == [(True, 4, 4)]
    sql(database, "DELETE FROM pgqueuer")
    assert command.run("resume", database, "move").stdout == "Migration move: it goes on\n"
    assert sql(database, seen) == [(False, 4, 4)]
    assert sql(database, "SELECT entrypoint FROM pgqueuer") == [("send:1",)]
    for change in ("UPDATE scan SET is_open = true", "DELETE FROM pgqueuer", "UPDATE batch SET state = 'done'"):
        sql(database, change)
    assert command.run("resume", database, "move").stdout == "Migration move: it goes on\n"
    assert sql(database, "SELECT entrypoint FROM pgqueuer") == [("scan:1:nas1",)]
    sql(database, "UPDATE scan SET is_open = false")
    assert "nothing left to send" in command.run("resume", database, "move").stdout


@pytest.mark.parametrize("arguments", [("pause",), ("resume",), ("limit", 3), ("retry",)])
def test_a_migration_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, database: str, arguments: tuple[Any, ...]
) -> None:
    name, *more = arguments
    nothing = command.run(name, database, "move", *more)
    assert (nothing.returncode, nothing.stdout) == (6, "")
    assert "there is no migration in" in nothing.stderr
    enqueued(database, tree(tmp_path / "nas"))
    done = command.run(name, database, "moev", *more)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == f"E: the database {database!r} has no migration 'moev' (it has move)\n"
    assert command.run("limit", database, "move", 0).returncode == 2


def test_what_was_given_up_is_sent_again_and_what_is_stored_is_not(tmp_path: Path, database: str) -> None:
    enqueued(database, tree(tmp_path / "nas"))
    ((first,),) = sql(database, "SELECT id FROM batch")
    more = "INSERT INTO batch (root, files, stored) SELECT root, 4, 3 FROM batch WHERE id = $1 RETURNING id"
    ((second,),), ((third,),) = sql(database, more, first), sql(database, more, first)
    sql(database, "UPDATE directory SET batch = $1 WHERE path = 'p1/s/'", second)
    sql(database, "UPDATE directory SET batch = $1 WHERE path = 'p2/s/'", third)
    sql(database, WORKER)
    ((stored,),) = sql(database, ACCOUNT, "stored", 1, 0, "")
    ((set_aside,),) = sql(database, ACCOUNT, "failed", 3, 0xC000, "the peer cannot take it")
    for path in (b"p0/s/", b"p1/s/", b"p2/s/"):
        record(database, path, b"0.dcm", stored)
        record(database, path, b"1.dcm", set_aside)
    sql(database, "UPDATE batch SET state = 'done', failed = 1, stored = 3, files = 4 WHERE id = $1", first)
    sql(database, "UPDATE batch SET state = 'set-aside', reason = 'workers died' WHERE id = $1", second)
    sql(database, "UPDATE batch SET state = 'doing', failed = 1 WHERE id = $1", third)
    sql(database, "DELETE FROM pgqueuer")

    done = command.run("retry", database, "move")
    assert done.stdout == "Migration move: 2 batches put back, with 2 instances that are not stored\n"
    states = "SELECT id, state, reason FROM batch ORDER BY id"
    assert sql(database, states) == [(first, "open", ""), (second, "open", ""), (third, "doing", "")]
    assert sql(database, "SELECT count(*) FROM pgqueuer") == [(2,)]
    standings = (
        "SELECT convert_from(d.path, 'UTF8'), a.state, a.standing, a.reason FROM instance i "
        "JOIN directory d ON d.id = i.directory JOIN account a ON a.id = i.account ORDER BY 1, 2"
    )
    assert sql(database, standings) == [
        (path, *account)
        for path, standing in (("p0/s/", 2), ("p1/s/", 2), ("p2/s/", 3))
        for account in (("failed", standing, "the peer cannot take it"), ("stored", 1, ""))
    ]
    assert sql(database, COUNTS_AGREE) == [(True,)]
    sql(database, "UPDATE batch SET state = 'done', failed = 0")
    assert command.run("retry", database, "move").stdout == "Migration move: nothing has failed or was set aside\n"


# -- report ------------------------------------------------------------------------------------------------------------


def test_a_report_says_how_far_a_migration_is(tmp_path: Path, database: str) -> None:
    root = tree(tmp_path / "nas")
    enqueued(database, root)
    sql(database, WORKER)
    sql(database, WORKER.replace("(extract(epoch FROM clock_timestamp()) * 1000)::bigint", "1790000000001"))
    now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    sql(
        database,
        "INSERT INTO batch (root, state, files, size_bytes, stored, failed, claimed_at, finished_at) "
        f"SELECT root, 'done', 1200, 12000, 1199, 1, {now} - 1000000, {now} - 100 FROM batch",
    )
    aside = "INSERT INTO batch (root, state, files, reason) SELECT id, 'set-aside', 7, E'workers\\ndied' FROM root"
    sql(database, aside)
    ((account,),) = sql(database, ACCOUNT, "failed", 3, 0xC000, "the peer cannot take it")
    record(database, b"p0/s/", b"1.dcm", account)
    ((stored,),) = sql(database, ACCOUNT, "stored", 1, 0, "")
    record(database, b"p0/s/", b"0.dcm", stored)
    sql(database, "UPDATE account SET instances = 1201 WHERE id = $1", stored)

    data = validated(command.run("report", database, "move", "--json").stdout)
    assert {state: count["files"] for state, count in data["batches"].items()} == {
        "done": 1200,
        "open": 12,
        "set-aside": 7,
    }
    assert data["files_per_second"] == pytest.approx(2, abs=0.1)
    assert (data["left_files"], data["seconds_left"]) == (10, 5)
    assert [(worker["host"], worker["state"]) for worker in data["workers"]] == [
        ("host-7", "running"),
        ("host-7", "lost"),
    ]
    assert data["set_aside"][0]["reason"] == "workers\ndied"
    assert data["set_aside_instances"][0]["reason"] == "the peer cannot take it"
    assert data["failing"][0]["failed"] == 1

    done = command.run("report", database)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Migration move to {DESTINATION}, begun ")
    assert lines[1].startswith("10 files left, 2.0 files/s, 20 bytes/s, about 5 s to go; 2 of at most 1 association")
    assert "  1 set-aside: 7, 0, 0" in lines
    assert "1 worker at work, 1 lost" in lines
    assert any(line.startswith("  host-7, process 77, since ") and "last sign of life " in line for line in lines)
    assert any(line.endswith(", 7 files: workers\\ndied") for line in lines)
    assert "  1  failed C000: the peer cannot take it" in lines
    failed = command.run("report", database, "--failed-files")
    assert failed.stdout == "nas1:p0/s/1.dcm\n"


def test_a_report_needs_the_name_where_there_are_several(tmp_path: Path, database: str) -> None:
    root = tree(tmp_path / "nas")
    for name in ("one", "two"):
        enqueued(database, root, name)
    done = command.run("report", database)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == f"E: the database {database!r} has more than one migration: name one (it has one, two)\n"
    assert command.run("report", database, "two").stdout.startswith("Migration two to ")
    assert command.run("pause", database, "two").returncode == 0
    assert "\nPaused: asyncstore resume has it go on; " in command.run("report", database, "two").stdout
    misspelt = command.run("report", database, "three")
    assert (misspelt.returncode, "no migration 'three'" in misspelt.stderr) == (6, True)
    in_a_file = command.run("report", tmp_path / "run.db", "two")
    assert (in_a_file.returncode, "only a database has several migrations" in in_a_file.stderr) == (2, True)
