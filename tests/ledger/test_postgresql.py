"""The ledger in PostgreSQL: what a server does to it, and what two processes do to each other."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import Outcome, SentUIDs, State
from asyncstore.ledger.opening import open_history, open_ledger
from asyncstore.ledger.packing import has_password, uid_bytes, uid_of_bytes, without_password
from asyncstore.ledger.postgresql import ledger as postgres_ledger
from asyncstore.ledger.postgresql.ledger import PostgresLedger
from asyncstore.ledger.postgresql.reader import PostgresReader
from asyncstore.ledger.rows import RunRecord, RunState
from asyncstore.status import Status
from tests.ledger.test_kills import write_and_kill
from tests.support.certificates import Authority
from tests.support.ledgers import DESTINATION, instance_of, offered, outcome_of, path_of, stored, uid_of
from tests.support.places import DatabasePlace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.postgresql import Cluster

WAIT_SECONDS = 120.0


def eventually(is_true: Callable[[], bool]) -> None:
    """Look until something is so; another process or thread makes it so."""
    give_up_at = time.monotonic() + WAIT_SECONDS
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def database_of(dsn: str) -> str:
    return dsn.rpartition("/")[2]


def counts_agree(cluster: Cluster, dsn: str) -> bool:
    """Whether the accounts have counted the rows that there are."""
    query = """
    SELECT count(*) FROM account a JOIN LATERAL (
        SELECT count(*) AS instances, coalesce(sum(i.bytes_sent), 0) AS bytes_sent FROM instance i
        WHERE i.account = a.id) c ON true
    WHERE c.instances <> a.instances OR c.bytes_sent <> a.bytes_sent"""
    return cluster.sql(f"SET search_path = asyncstore; {query}", database_of(dsn)).strip() == "0"


# -- the server goes away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_costs_nothing(cluster: Cluster, mode: str) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        for number in range(3000):
            ledger.record(stored(number))
            if number % 1000 == 500:
                cluster.restart(mode)
        anyio.run(ledger.flush)
        assert ledger.failure is None
        assert ledger.has_room
        assert all(ledger.known_instance(uid_of(number)) for number in (0, 1500, 2999))
        with place.reader() as reader:
            assert [run.state for run in reader.runs()] == [RunState.RUNNING]
    assert ledger.failure is None
    assert [row.path for row in place.rows()] == [path_of(number) for number in range(3000)]
    assert counts_agree(cluster, place.name)
    with place.reader() as reader:
        assert [run.state for run in reader.runs()] == [RunState.ENDED]


def test_what_the_first_run_has_written_itself_it_replaces(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        for written in (
            [outcome_of(instance_of(1), State.FAILED, Status(0xA700), attempts=1), stored(2)],
            [outcome_of(instance_of(1), attempts=2), stored(3)],
            [
                outcome_of(instance_of(2), State.LEFT, None, attempts=0),
                outcome_of(instance_of(1), attempts=3),
                stored(4),
            ],
        ):
            for outcome in written:
                ledger.record(outcome)
            anyio.run(ledger.flush)
    assert ledger.failure is None
    assert [(row.path, row.state, row.attempts) for row in place.rows()] == [
        (path_of(1), State.STORED, 3),
        (path_of(2), State.STORED, 1),
        (path_of(3), State.STORED, 1),
        (path_of(4), State.STORED, 1),
    ]
    assert counts_agree(cluster, place.name)


def test_while_the_server_is_away_nothing_new_is_sent_and_what_is_recorded_is_kept(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        ledger.record(stored(1))
        anyio.run(ledger.flush)
        cluster.stop()
        ledger.record(stored(2))
        eventually(lambda: not ledger.has_room)
        assert ledger.failure is None
        assert ledger.may_know(uid_of(2))
        eventually(lambda: len(caplog.records) == 1)
        cluster.start()
        eventually(lambda: ledger.has_room)
        anyio.run(ledger.flush)
        assert ledger.failure is None
        ledger.record(stored(3))
    assert [row.path for row in place.rows()] == [path_of(number) for number in (1, 2, 3)]
    away, back = [record.getMessage() for record in caplog.records]
    assert away.startswith("Nothing new is sent: the database 'postgresql://")
    assert re.search(r"; trying again for 59\d s$", away)
    assert back.startswith("The ledger is written again, after ")


def test_a_question_waits_for_the_server(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        ledger.record(stored(1))
    with place.opened() as ledger:
        assert [each.state for each in ledger.settled(offered(instance_of(1))) if isinstance(each, Outcome)]
        cluster.stop("immediate")
        cluster.start()
        assert [each.state for each in ledger.settled(offered(instance_of(1))) if isinstance(each, Outcome)]


def test_a_question_that_waits_for_the_server_ends_with_the_ledger(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        ledger.record(stored(1))
    failures: list[LedgerError] = []
    with place.opened() as ledger:
        cluster.stop()

        def ask() -> None:
            try:
                ledger.settled(offered(instance_of(1)))
            except LedgerError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert len(failures) == 1


def test_a_server_that_is_gone_for_good_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresLedger, "_away_seconds", 0.5)
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        ledger.record(stored(1))
        anyio.run(ledger.flush)
        cluster.stop()
        ledger.record(stored(2))
        with pytest.raises(LedgerError, match="cannot be written"):
            anyio.run(ledger.flush)
        assert not ledger.has_room
    assert "\n" not in str(ledger.failure)
    cluster.start()
    assert [row.path for row in place.rows()] == [path_of(1)]


@pytest.mark.parametrize(("state", "message"), [("53100", "could not extend file"), ("25006", "read-only transaction")])
def test_a_full_disk_and_a_server_that_only_reads_are_waited_for(cluster: Cluster, state: str, message: str) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        ledger.record(stored(1))
        anyio.run(ledger.flush)
        cluster.sql(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE '{message}' "
            f"USING ERRCODE = '{state}'; END $$; CREATE TRIGGER refuse BEFORE INSERT ON asyncstore.instance "
            "EXECUTE FUNCTION refuse()",
            database_of(place.name),
        )
        ledger.record(stored(2))
        eventually(lambda: not ledger.has_room)
        cluster.sql("DROP TRIGGER refuse ON asyncstore.instance", database_of(place.name))
        anyio.run(ledger.flush)
        assert ledger.failure is None
    assert len(place.rows()) == 2
    assert counts_agree(cluster, place.name)


def test_a_connection_that_is_cut_again_and_again_loses_and_doubles_nothing(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    rng = random.Random(1)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'asyncstore ledger'"
    with place.opened() as ledger:
        for number in range(4000):
            ledger.record(
                stored(number) if number % 3 else outcome_of(instance_of(number), State.FAILED, Status(0xC000))
            )
            if rng.random() < 0.005:
                cluster.sql(cut)
        anyio.run(ledger.flush)
        assert ledger.failure is None
    assert [row.path for row in place.rows()] == [path_of(number) for number in range(4000)]
    assert counts_agree(cluster, place.name)


def test_a_killed_process_has_left_everything_that_was_flushed(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    number = 0
    for seed in range(3):
        number, at_most = write_and_kill(place.name, number, 1 + seed)
        eventually(lambda: _last_run(place).state is RunState.KILLED)
        rows = place.rows()
        assert number <= len(rows) <= at_most
        assert [row.path for row in rows] == [path_of(each) for each in range(len(rows))]
        number = len(rows)
    assert counts_agree(cluster, place.name)


def _last_run(place: DatabasePlace) -> RunRecord:
    with place.reader() as reader:
        return reader.runs()[-1]


# -- two processes -----------------------------------------------------------------------------------------------------


def test_a_ledger_that_is_in_use_is_refused(database: str) -> None:
    place = DatabasePlace(database)
    with place.opened(), pytest.raises(LedgerError, match=r"is in use by process \d+ on .* since 20"):
        place.ledger().open()
    with place.opened():
        pass


def test_of_a_run_that_was_taken_over_only_what_is_stored_is_recorded(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened() as ledger:
        ledger.record(stored(1))
        anyio.run(ledger.flush)
        cluster.sql("UPDATE asyncstore.batch SET epoch = epoch + 1", database_of(place.name))
        ledger.record(stored(2))
        ledger.record(outcome_of(instance_of(3), State.FAILED, Status(0xC000)))
        with pytest.raises(LedgerError, match="another run has taken it over"):
            anyio.run(ledger.flush)
        assert not ledger.has_room or ledger.failure is not None
    assert [(row.path, row.state) for row in place.rows()] == [
        (path_of(1), State.STORED),
        (path_of(2), State.STORED),
    ]
    assert counts_agree(cluster, place.name)


def test_two_that_make_the_tables_at_once_make_them_once(database: str) -> None:
    program = (
        "import sys; from tests.support.places import DatabasePlace\n"
        "try: DatabasePlace(sys.argv[1]).ledger().open(); print('open'); sys.stdin.read()\n"
        "except Exception as error: print(error)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, database],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert all(process.stdout for process in processes)
    lines = [process.stdout.readline() for process in processes if process.stdout]
    for process in processes:
        process.communicate("")
    assert sorted("open" if line == "open\n" else "in use" if "is in use by" in line else line for line in lines) == [
        "in use",
        "in use",
        "open",
    ]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_ledger_of_another_version_is_left_as_it_is(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    with place.opened():
        pass
    cluster.sql("UPDATE asyncstore.schema_version SET version = 99", database_of(place.name))
    for attempt in (place.ledger().open, place.reader):
        with pytest.raises(LedgerError, match="written by a newer version of asyncstore: it has schema 99"):
            attempt()


def test_a_database_without_a_ledger_is_not_changed_by_reading_it(cluster: Cluster) -> None:
    dsn = cluster.new_database()
    with pytest.raises(LedgerError, match="there is no ledger and no migration in"):
        PostgresReader(dsn)
    assert open_history(dsn, destination=DESTINATION) is None
    assert cluster.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'asyncstore'", database_of(dsn)) == "0\n"


def test_what_a_run_that_sends_nothing_asks_is_answered_without_a_lock(database: str) -> None:
    place = DatabasePlace(database)
    with place.opened() as ledger:
        ledger.record(stored(1))
        anyio.run(ledger.flush)
        history = open_history(database, destination=DESTINATION)
        assert history is not None
        with history:
            assert [each and isinstance(each, Outcome) for each in history.settled(offered(instance_of(1), "/b"))] == [
                True,
                None,
            ]
    with pytest.raises(LedgerError, match="belongs to"):
        open_history(database, destination="B@b:104")


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://127.0.0.1:1/x", "cannot be opened"),
        ("postgresql://127.0.0.1:1/x?sslmode=odd", "sslmode"),
        ("postgresql://127.0.0.1:abc/x", "'abc' is not a TCP port"),
        ("postgresql://u@[::1]:65537/x", "'65537' is not a TCP port"),
        ("postgresql://127.0.0.1:1,localhost:-2/x", "'-2' is not a TCP port"),
        ("postgresql:///x?port=54321,5x", "'5x' is not a TCP port"),
        ("postgresql://u:hunter2@127.0.0.1:1/x?password=hunter2", r"postgresql://u@127.0.0.1:1/x\?password=\*\*\*'"),
    ],
)
def test_what_is_wrong_with_the_database_is_one_line_without_a_password(dsn: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message) as caught:
        PostgresLedger(dsn, destination=DESTINATION).open()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_port_of_the_environment_or_of_a_service_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "service").write_text("[archive]\nhost=127.0.0.1\nport=one\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
    for dsn, port in (("postgresql:///?service=archive", "one"), ("postgresql://127.0.0.1/x", "two")):
        monkeypatch.setenv("PGPORT", "two" if port == "two" else "")
        with pytest.raises(LedgerError, match=f"'{port}' is not a TCP port"):
            PostgresLedger(dsn, destination=DESTINATION).open()


def test_a_role_that_may_not_is_told_at_once(cluster: Cluster) -> None:
    dsn = cluster.new_database()
    cluster.sql("CREATE ROLE guest LOGIN")
    with pytest.raises(LedgerError, match="permission denied"):
        PostgresLedger(dsn.replace("postgres@", "guest@"), destination=DESTINATION).open()
    with pytest.raises(LedgerError, match="does not exist"):
        PostgresLedger(cluster.dsn("nowhere"), destination=DESTINATION).open()


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u@h:5432/d?service=a", "postgresql://u@h:5432/d?service=a"),
        ("postgresql://u:p@h/d", "postgresql://u@h/d"),
        ("postgres://u:p%40:x@h/d", "postgres://u@h/d"),
        ("postgresql://u:p@x@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?password=p&x=y", "postgresql://h/d?password=***&x=y"),
        ("postgresql://h/d?sslpassword=p", "postgresql://h/d?sslpassword=***"),
        ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
    ],
)
def test_a_password_is_seen_and_never_shown(dsn: str, shown: str) -> None:
    assert without_password(dsn) == shown
    assert has_password(dsn) == (dsn != shown)


def test_a_password_comes_from_a_file_and_a_database_from_a_service(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database_of(cluster.new_database())
    cluster.sql(f"CREATE ROLE mover LOGIN PASSWORD 'hunter2'; GRANT CREATE ON DATABASE {name} TO mover")
    cluster.require_passwords("mover")
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{cluster.port}:{name}:mover:hunter2\n")
    (tmp_path / "pgpass").chmod(0o600)
    (tmp_path / "service").write_text(f"[archive]\nhost=127.0.0.1\nport={cluster.port}\ndbname={name}\nuser=mover\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
    with pytest.raises(LedgerError, match="PGPASSFILE"):
        PostgresLedger("postgresql:///?service=archive", destination=DESTINATION).open()
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    with DatabasePlace("postgresql:///?service=archive").opened() as ledger:
        ledger.record(stored(1))
    assert ledger.failure is None
    assert len(DatabasePlace("postgresql:///?service=archive").rows()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the service 'archive' is not in '.*/service'$"),
        (b"[other]\nhost=127.0.0.1\n", "the service 'archive' is not in '.*/service'$"),
        (b"[archive]\nhost=127.0.0.1\npassword=a%hunter2\n", "has a % that is not written %%; .* PGPASSFILE$"),
        (b"password=hunter2\n", "'.*/service' is not a service file$"),
        (b"[archive]\npassword=hunter2\xff\n", "'.*/service' is not a service file$"),
    ],
)
def test_a_service_that_cannot_be_used_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "service").write_bytes(content)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
    for variable, dsn in (("", "postgresql:///?service=archive"), ("archive", "postgresql:///x")):
        monkeypatch.setenv("PGSERVICE", variable)
        with pytest.raises(LedgerError, match=message) as caught:
            PostgresLedger(dsn, destination=DESTINATION).open()
        assert "hunter2" not in str(caught.value)


def test_tls_is_as_the_mode_of_the_uri_says(cluster: Cluster, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other", key_number=1)
    certificate = authority.issue("server", names=("127.0.0.1",))
    cluster.use_tls(certificate.certificate, certificate.key)
    dsn = cluster.new_database()
    place = DatabasePlace(f"{dsn}?sslmode=verify-full&sslrootcert={authority.ca}")
    with place.opened() as ledger:
        ledger.record(stored(1))
    assert len(place.rows()) == 1
    for uri, message in (
        (f"{dsn}?sslmode=verify-full&sslrootcert={other.ca}", "certificate verify failed"),
        (f"{dsn}?sslmode=disable", "no encryption"),
    ):
        with pytest.raises(LedgerError, match=message) as caught:
            DatabasePlace(uri).ledger().open()
        assert "\n" not in str(caught.value)


# -- what it holds -----------------------------------------------------------------------------------------------------


def test_rows_that_are_new_replaced_and_left_as_they_are_come_in_one_write(cluster: Cluster) -> None:
    place = DatabasePlace(cluster.new_database())
    failed = Status(0xC000)
    with place.opened() as ledger:
        for number in range(900):
            ledger.record(outcome_of(instance_of(number), State.FAILED if number % 3 else State.STORED, failed))
    with place.opened() as ledger:
        for number in range(1800):
            ledger.record(outcome_of(instance_of(number), State.STORED if number % 2 else State.FAILED, failed))
            if number % 7 == 0:
                ledger.record(stored(number))
    was_stored = {number for number in range(900) if number % 3 == 0}
    is_stored = {number for number in range(1800) if number % 2 or number % 7 == 0} | was_stored
    assert {row.path for row in place.rows() if row.state is State.STORED} == {path_of(each) for each in is_stored}
    assert len(place.rows()) == 1800
    assert counts_agree(cluster, place.name)


def test_an_instance_that_is_sent_unchanged_later_has_no_other_uids(database: str) -> None:
    place = DatabasePlace(database)
    changed, other = stored(1), stored(2)
    for each in (changed, other):
        each.state = State.UNKNOWN
        each.changes, each.sent_uids = ("UIDs replaced",), SentUIDs("2.25.1", None, None)
    with place.opened() as ledger:
        ledger.record(changed)
        ledger.record(other)
    with place.opened() as ledger:
        ledger.record(stored(1))
        ledger.record(outcome_of(instance_of(2), State.LEFT, None, attempts=0))
    assert [(row.state, row.changes, row.sent_sop_instance_uid) for row in place.rows()] == [
        (State.STORED, (), None),
        (State.UNKNOWN, ("UIDs replaced",), "2.25.1"),
    ]


@pytest.mark.parametrize("uid", ["1.2.840.10008", "1.2.3", "", "not\ud800 a uid", "1.2.x", "0.0"])
def test_a_uid_comes_back(uid: str) -> None:
    expected = uid.encode("utf-8", "backslashreplace").decode()
    assert uid_of_bytes(uid_bytes(uid)) == expected


def test_texts_that_the_server_cannot_hold_are_recorded_too(database: str) -> None:
    place = DatabasePlace(database)
    odd = instance_of(1, mtime_ns=1 << 64)
    odd.sop_instance_uid = "not\ud800 a uid"
    odd.study_instance_uid = "a\0b"
    with place.opened() as ledger:
        ledger.record(outcome_of(odd, State.FAILED, Status(0xC001, "a\udcffb\0" + "x" * 5000), reason="\udcff\0"))
    assert ledger.failure is None
    (row,) = place.rows()
    assert row.comment.startswith("a\\udcffb\\x00xxx")
    assert (row.reason, row.sop_instance_uid) == ("\\udcff\\x00", "not\\ud800 a uid")


def test_an_instance_takes_at_most_280_bytes(cluster: Cluster) -> None:
    place, count = DatabasePlace(cluster.new_database()), 20000

    def size_bytes() -> int:
        query = """
        SELECT sum(pg_total_relation_size(oid)) FROM pg_class
        WHERE relnamespace = 'asyncstore'::regnamespace AND relkind = 'r'"""
        return int(cluster.sql(query, database_of(place.name)))

    with place.opened() as ledger:
        empty = size_bytes()
        for number in range(count):
            instance = instance_of(number)
            instance.study_instance_uid = uid_of(number // 100)
            instance.series_instance_uid = uid_of(number // 50)
            instance.path = f"/mnt/archive/2019/{number // 50:08x}/IM-{number % 9999:04d}-{number:06d}.dcm"
            ledger.record(outcome_of(instance))
    cluster.sql("VACUUM", database_of(place.name))
    assert (size_bytes() - empty) / count <= 280


def test_more_uids_than_are_read_are_looked_up_each(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_ledger, "_UIDS_IN_MEMORY", 1)
    place = DatabasePlace(database)
    for run in range(2):
        with place.opened() as ledger:
            for number in (1, 2):
                ledger.record(stored(number))
            assert ledger.may_know(uid_of(3)) == (run == 1)
            (known,) = ledger.stored_elsewhere([instance_of(1, "/elsewhere")])
            assert [each.path for each in known[:1]] == [path_of(1)]


def test_a_library_names_it_like_a_file(database: str) -> None:
    assert isinstance(open_ledger(database, destination=DESTINATION, options={}), PostgresLedger)
