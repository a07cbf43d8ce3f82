"""The file of a ledger: one run has it, it is for one destination, and it lies where it can be relied on."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore.errors import LedgerError
from asyncstore.ledger.sqlite import ledger as sqlite_ledger
from asyncstore.ledger.sqlite import lock as ledger_lock
from asyncstore.ledger.sqlite.lock import LedgerLock, check_place, file_system_of
from asyncstore.ledger.sqlite.reader import LedgerReader
from tests.support.ledgers import opened, rows_of, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@contextlib.contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the ledger, until it is killed."""
    command = [sys.executable, "-m", "tests.support.ledgers", str(path), "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def nobody() -> Iterator[Path]:
    """A directory of root's that everybody can look into, while we are nobody in particular."""
    if os.geteuid():
        pytest.skip("only root can become nobody")
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    try:
        with opened(directory / "run.db") as ledger:
            ledger.record(stored(1))
        (directory / "run.db").chmod(0o644)
        os.seteuid(NOBODY)
        yield directory
    finally:
        os.seteuid(0)
        shutil.rmtree(directory)


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def refusal(path: Path, **options: str) -> str:
    """Why a ledger does not open; the directory is as it was before."""
    before = contents(path.parent)
    with pytest.raises(LedgerError) as raised, opened(path, **options):
        pass
    assert contents(path.parent) == before
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(str(path.parent), "DIR")


def test_a_second_run_is_refused_and_hears_who_has_the_ledger(tmp_path: Path) -> None:
    with another_process(tmp_path / "run.db") as process:
        expected = rf"in use by process {process.pid} on \S+ since 20\d\d-"
        with pytest.raises(LedgerError, match=expected) as raised, opened(tmp_path / "run.db"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "\n" not in str(raised.value)
    with opened(tmp_path / "run.db"):
        pass


def test_two_ledgers_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db") as first:
        for _ in range(2):
            with pytest.raises(LedgerError, match=f"in use by process {os.getpid()}"), opened(tmp_path / "run.db"):
                pass
        first.record(stored(1))
    with opened(tmp_path / "run.db") as second:
        second.record(stored(2))
    assert len(rows_of(tmp_path / "run.db")) == 2
    assert os.listdir(tmp_path) == ["run.db"]


@pytest.mark.parametrize("has_file", [True, False], ids=["to a file", "to none yet"])
@pytest.mark.parametrize(("first", "second"), [("run.db", "cur.db"), ("cur.db", "run.db"), ("cur.db", "last.db")])
def test_a_link_to_a_ledger_is_the_same_ledger(tmp_path: Path, first: str, second: str, has_file: bool) -> None:
    (tmp_path / "ledgers").mkdir()
    (tmp_path / "run.db").symlink_to("ledgers/run.db")
    (tmp_path / "cur.db").symlink_to("run.db")
    (tmp_path / "last.db").symlink_to(tmp_path / "cur.db")
    if has_file:
        with opened(tmp_path / "ledgers" / "run.db"):
            pass
    with opened(tmp_path / first) as ledger:
        ledger.record(stored(1))
        with pytest.raises(LedgerError, match=f"in use by process {os.getpid()}"), opened(tmp_path / second):
            pass
    with opened(tmp_path / second) as ledger:
        ledger.record(stored(2))
    assert len(rows_of(tmp_path / first)) == len(rows_of(tmp_path / second)) == 2
    assert os.listdir(tmp_path / "ledgers") == ["run.db"]
    assert sorted(os.listdir(tmp_path)) == ["cur.db", "last.db", "ledgers", "run.db"]


def test_a_link_that_is_set_anew_meanwhile_does_not_lead_a_run_to_another_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Setting(LedgerLock):
        def acquire(self, now: float) -> None:
            super().acquire(now)
            (tmp_path / "cur.db").unlink()
            (tmp_path / "cur.db").symlink_to("other.db")

    (tmp_path / "cur.db").symlink_to("run.db")
    monkeypatch.setattr(sqlite_ledger, "LedgerLock", Setting)
    with opened(tmp_path / "cur.db") as ledger:
        ledger.record(stored(1))
    assert sorted(os.listdir(tmp_path)) == ["cur.db", "run.db"]
    assert len(rows_of(tmp_path / "run.db")) == 1


def test_a_holder_that_did_not_get_to_tell_its_name_has_the_ledger_too(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db"):
        (tmp_path / "run.db-lock").write_bytes(b"")
        with pytest.raises(LedgerError, match="in use by another process"), opened(tmp_path / "run.db"):
            pass


def test_a_lock_that_was_removed_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = ledger_lock._lock
    removed = 0

    def lock_and_lose(fd: int) -> bool:
        nonlocal removed
        if not removed:
            removed = 1
            os.unlink(tmp_path / "run.db-lock")
        return lock(fd)

    monkeypatch.setattr(ledger_lock, "_lock", lock_and_lose)
    with opened(tmp_path / "run.db"):
        assert removed
        with pytest.raises(LedgerError, match="in use"), opened(tmp_path / "run.db"):
            pass


def test_a_ledger_of_another_destination_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "run.db", destination="A@a:104"):
        pass
    assert refusal(tmp_path / "run.db", destination="B@b:104") == (
        "the ledger 'DIR/run.db' belongs to A@a:104, not to B@b:104: use another file"
    )


@pytest.mark.parametrize(("version", "age"), [(2, "an older"), (5, "a newer")])
def test_a_ledger_of_another_version_is_refused(tmp_path: Path, version: int, age: str) -> None:
    with opened(tmp_path / "run.db"):
        pass
    connection = sqlite3.connect(tmp_path / "run.db")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    expected = f"{age} version of asyncstore: it has schema {version}, this one knows 4: use that version, or another "
    assert expected in refusal(tmp_path / "run.db")
    with pytest.raises(LedgerError, match=expected):
        LedgerReader(tmp_path / "run.db")


def test_a_copy_without_the_wal_in_which_everything_is_is_called_empty(tmp_path: Path) -> None:
    path, copied = tmp_path / "run.db", tmp_path / "copied.db"
    with opened(path):
        copied.write_bytes(path.read_bytes())
        with pytest.raises(LedgerError, match=r"is empty: .* it was copied during a run"):
            LedgerReader(copied)


@pytest.mark.parametrize("content", ["text", "database"])
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.db"
    if content == "text":
        path.write_text("patient list\n" * 1000)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.close()
    assert refusal(path) == "'DIR/run.db' is not a ledger: it is left as it is"
    with pytest.raises(LedgerError, match="is not a ledger"):
        LedgerReader(path)


def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "run.db").touch()
    with pytest.raises(LedgerError, match="is empty: no run has recorded anything"):
        LedgerReader(tmp_path / "run.db")
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
    assert len(rows_of(tmp_path / "run.db")) == 1


@pytest.mark.parametrize("at", ["CREATE VIEW", "INSERT INTO ledger"])
def test_a_ledger_that_was_not_wholly_made_is_made_by_the_next_run(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            if statement.strip().startswith(at):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *arguments)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Failing))
    with pytest.raises(LedgerError, match="cannot be opened: disk I/O error"), opened(tmp_path / "run.db"):
        pass
    monkeypatch.undo()
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(stored(1))
    assert len(rows_of(tmp_path / "run.db")) == 1


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(LedgerError, match=rf"there is no directory '{tmp_path}/no'"),
        opened(tmp_path / "no" / "run.db"),
    ):
        pass
    assert os.listdir(tmp_path) == []
    with pytest.raises(LedgerError, match="cannot be read: No such file"):
        LedgerReader(tmp_path / "run.db")


def test_a_ledger_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.db").mkdir()
    assert "it is not a file" in refusal(tmp_path / "run.db")
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a file" in refusal(tmp_path / "fifo")
    for name in ("run.db", "fifo"):
        with pytest.raises(LedgerError, match="cannot be read: it is not a file"):
            LedgerReader(tmp_path / name)


def test_a_directory_or_ledger_that_is_read_only_is_refused() -> None:
    with nobody() as directory:
        assert "Permission denied" in refusal(directory / "run.db")
        assert "Permission denied" in refusal(directory / "new.db")
        os.seteuid(0)
        directory.chmod(0o777)
        os.seteuid(NOBODY)
        assert "Permission denied" in refusal(directory / "run.db")


def test_a_ledger_can_be_read_where_nothing_can_be_written() -> None:
    with nobody() as directory:
        assert len(rows_of(directory / "run.db")) == 1
        assert os.listdir(directory) == ["run.db"]


def test_a_link_does_not_hide_that_rows_cannot_be_read_where_nothing_can_be_written() -> None:
    with nobody() as directory:
        os.seteuid(0)
        (directory / "killed").mkdir()
        with opened(directory / "run.db") as ledger:
            ledger.record(stored(2))
            anyio.run(ledger.flush)
            for name in ("run.db", "run.db-wal"):  # as where the WAL's index is gone
                shutil.copy(directory / name, directory / "killed" / name)
                (directory / "killed" / name).chmod(0o644)
        (directory / "cur.db").symlink_to("killed/run.db")
        os.seteuid(NOBODY)
        with pytest.raises(LedgerError, match="cannot be read"):
            rows_of(directory / "cur.db")


# -- network file systems ----------------------------------------------------------------------------------------------

MOUNTS = """\
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:40 / /mnt rw shared:9 - nfs4 server:/export rw,vers=4.2
23 22 0:41 / /mnt/local rw shared:9 - xfs /dev/sdb rw
24 21 0:42 / /win\\040share rw - cifs //server/share rw
25 21 0:43 / /home rw - ext4 /dev/sdc rw
26 25 0:44 / /home rw - fuse.sshfs me@server: rw
27 21 0:45 / /data rw - fuse.mergerfs a:b rw
28 21 0:46 / /ntfs rw - fuseblk /dev/sdd rw
nonsense
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", "ext4"),
        ("/mnt", "nfs4"),
        ("/mnt/a", "nfs4"),
        ("/mntx", "ext4"),
        ("/mnt/local/a/b", "xfs"),
        ("/win share", "cifs"),
        ("/home/me", "fuse.sshfs"),
        ("/data", "fuse.mergerfs"),
        ("/ntfs/x", "fuseblk"),
    ],
)
def test_the_file_system_of_a_directory(tmp_path: Path, directory: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert file_system_of(directory, str(tmp_path / "mounts")) == kind
    assert file_system_of(directory, str(tmp_path / "none")) == ""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone"])
def test_a_network_file_system_is_refused_unless_it_is_forced(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path} rw - {kind} b rw\n")
    looking = functools.partial(check_place, mounts=str(tmp_path / "mounts"))
    monkeypatch.setattr(sqlite_ledger, "check_place", looking)
    assert f"on a network file system ({kind})" in refusal(tmp_path / "run.db")
    with opened(tmp_path / "run.db", forced=True) as ledger:
        ledger.record(stored(1))
    assert len(rows_of(tmp_path / "run.db")) == 1


def test_a_link_into_a_network_file_system_is_seen_through(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to("share")
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/share rw - nfs b rw\n")
    with pytest.raises(LedgerError, match="nfs"):
        check_place(str(tmp_path / "link" / "run.db"), mounts=str(tmp_path / "mounts"))
    check_place(str(tmp_path / "run.db"), mounts=str(tmp_path / "mounts"))


def test_a_link_to_a_ledger_on_a_network_file_system_is_seen_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "run.db").symlink_to("share/run.db")
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/share rw - nfs b rw\n")
    looking = functools.partial(check_place, mounts=str(tmp_path / "mounts"))
    monkeypatch.setattr(sqlite_ledger, "check_place", looking)
    assert "on a network file system (nfs)" in refusal(tmp_path / "run.db")
