"""The real `asyncstore storescu` with archives, selections and orders: what arrives, what is said, how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import command
from tests.support.archives import KINDS, dicom, members, write_any
from tests.support.peers import asyncstore_storescp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.support.peers import RunningPeer


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPeer]:
    with asyncstore_storescp(tmp_path_factory.mktemp("peer")) as running:
        yield running


def send(peer: RunningPeer, *arguments: str | Path, stdin: bytes = b"") -> CompletedProcess[str]:
    peer.clear()
    return command.run("storescu", peer.host, peer.port, *arguments, stdin=stdin)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_wrong_in_an_archive_is_one_line_each_and_code_3(name: str, peer: RunningPeer, tmp_path: Path) -> None:
    content = {"1.dcm": dicom(1), "/etc/x": dicom(2), "notes.txt": b"hello", "cut.dcm": dicom(3)[:200]}
    path = write_any(tmp_path / name, content)
    done = send(peer, path)
    assert done.returncode == 3
    assert len(peer.received_files()) == 1
    assert f"E: Store failed: {path}!//etc/x\nE: Reason: cannot be read: its name leads out of the archive\n" in (
        done.stderr
    )
    assert f"E: Bad DICOM file: {path}!/cut.dcm\nE: Reason: a damaged DICOM file: " in done.stderr


def test_failed_members_go_from_a_ledger_to_the_next_run(peer: RunningPeer, tmp_path: Path) -> None:
    path = write_any(tmp_path / "a.zip", members(6))
    ledger = tmp_path / "run.db"
    assert send(peer, path, "--ledger", ledger, "--on-status", "0000=failed").returncode == 3
    failed = command.run("report", "--failed-files", ledger).stdout
    assert set(failed.split()) == {f"{path}!/{name}" for name in members(6)}
    send(peer, "--files-from", "-", stdin=failed.encode())
    assert len(peer.received_files()) == 6


def test_what_is_left_out_is_counted_at_the_end(peer: RunningPeer, tmp_path: Path) -> None:
    for number, (name, modality) in enumerate({"a.dcm": "CT", "b.dcm": "MR", "c.txt": "CT"}.items(), 1):
        (tmp_path / name).write_bytes(dicom(number, modality=modality))
    done = send(peer, tmp_path, "--exclude", "*.txt", "--modality", "CT", "-v")
    assert done.returncode == 0
    assert len(peer.received_files()) == 1
    assert "I: 2 files left out by the selection\n" in done.stderr
    assert "Left out: " not in done.stderr
    assert "D: Left out: " in send(peer, tmp_path, "--exclude", "*.txt", "-d").stderr
    summary = json.loads(send(peer, tmp_path, "--exclude", "*.txt", "--json").stdout.splitlines()[-1])
    assert (summary["stored"], summary["failed"], summary["left_out"]) == (2, 0, 1)
    done = send(peer, tmp_path, "--newer-than", "2199-01-01")
    assert done.returncode == 5
    assert done.stderr.endswith(f"E: Nothing to send: 3 files in {tmp_path} left out by the selection\n")


@pytest.mark.parametrize("name", KINDS)
def test_a_dry_run_with_a_ledger_knows_which_members_are_stored(name: str, peer: RunningPeer, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, members(5))
    ledger = tmp_path / "run.db"
    assert send(peer, path, "--ledger", ledger, "--fail-fast").returncode == 0
    done = command.run("storescu", "--dry-run", peer.host, peer.port, path, "--ledger", ledger)
    assert done.returncode == 0
    assert done.stdout.startswith("5 instances stored by an earlier run: not sent again\n0 instances, ")


def test_a_list_from_stdin_can_be_sorted(peer: RunningPeer, tmp_path: Path) -> None:
    for number in range(1, 4):
        (tmp_path / f"{number}").write_bytes(dicom(number, pixels=bytes(1000 * number)))
    lines = "".join(f"{tmp_path}/{number}\n" for number in (2, 3, 1)).encode()
    done = send(peer, "--files-from", "-", "--order", "largest", "-j", "1", "-w", "1", "-v", stdin=lines)
    assert done.returncode == 0
    sent = [line.rpartition("/")[2] for line in done.stderr.splitlines() if line.startswith("I: Sending file: ")]
    assert sent == ["3", "2", "1"]
