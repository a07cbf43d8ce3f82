"""Files that change while their message is on the wire, and trees full of traps: what is told of them is true."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from asyncstore.errors import SourceChanged
from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import State
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.upper_layer.pdu import Abort
from tests.support import files
from tests.support.associations import fragments_of
from tests.support.kept import Kept
from tests.support.ledgers import rows_of
from tests.support.transfers import KeepingSCP, check_account, outcomes_of, peer_at, uid_of, write_files
from tests.support.wire import ScriptedSCP, Wire, stores_everything

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.transfers import Listening

# More than the buffers of a connection take: its end is read after the peer has seen its beginning.
LARGE_BYTES: Final = 24_000_000
NO_RETRY: Final = RetryPolicy(retries=0, outage_seconds=0.0)


def transfer_with(server: Listening, sources: Any, ledger: Path) -> Transfer:
    options = TransferOptions(associations=1, retry=NO_RETRY)
    return Transfer(peer_at(server), sources, options=options, ledger=ledger)


def digests(directory: Path) -> dict[bytes, str]:
    """What each regular file below a directory holds."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(directory)):
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


# -- while the message is on the wire ----------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    os.truncate(path, LARGE_BYTES // 2)


def _truncate_to_its_path(path: Path) -> None:
    os.truncate(path, len(str(path)) + int(path.stem))


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\xff" * 100)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100))


def _unlink(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(files.dicom_file())
    other.replace(path)


def three_files(directory: Path) -> list[str]:
    """A small, a large and another small one."""
    return [
        *write_files(directory, 1),
        *write_files(directory, 1, first=2, padding_bytes=LARGE_BYTES),
        *write_files(directory, 1, first=3),
    ]


def wait_for_the_next_message(wire: Wire) -> None:
    """Its first byte is there; nothing is read, so that the sender cannot get far ahead."""
    assert wire.sock.recv(1, socket.MSG_PEEK)


@pytest.mark.parametrize("act", [_truncate, _empty, _overwrite, _append])
async def test_a_file_that_changes_while_it_is_sent_is_aborted_and_told_and_the_others_arrive(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    paths = three_files(tmp_path / "in")

    def acts(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wait_for_the_next_message(wire)
        act(Path(paths[1]))
        wire.drain()

    with ScriptedSCP(acts, stores_everything) as scp:
        transfer = transfer_with(scp, paths, tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert {outcome.path: outcome.state for outcome in outcomes} == {
        paths[0]: State.STORED,
        paths[1]: State.SOURCE_PROBLEM,
        paths[2]: State.STORED,
    }
    (problem,) = [outcome for outcome in outcomes if not outcome.is_stored]
    assert isinstance(problem.error, SourceChanged)
    first, second = scp.wires
    assert isinstance(first.received[-1], Abort)
    ended = [fragment for fragment in fragments_of(first.received) if fragment.is_last and not fragment.is_command]
    assert len(ended) == len(first.stores) == 1, "the peer must not take what it has for a whole instance"
    assert [store.request.affected_sop_instance_uid for store in second.stores] == [uid_of(3)]
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    assert {row.path: row.state for row in rows} == {outcome.path: outcome.state for outcome in outcomes}


def _make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("act", [_truncate_to_its_path, _append, _unlink, _make_a_directory])
async def test_files_that_changed_for_one_reason_are_counted_under_one_reason(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    instances = []
    for number in (1, 2, 3):
        (path,) = write_files(tmp_path / "in", 1, first=number, padding_bytes=200_000 * number)
        instances.append(instance_from(path))
        act(Path(path))
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, instances, tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
    assert [outcome.path for outcome in outcomes] == [each.path for each in instances]
    assert list(transfer.report.reasons.values()) == [3]
    (reason,) = transfer.report.reasons
    assert str(tmp_path) not in reason


@pytest.mark.parametrize("act", [_unlink, _replace])
async def test_a_file_that_loses_its_name_while_it_is_sent_arrives_as_it_was(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    paths = three_files(tmp_path / "in")
    data_set = Kept.at(Path(paths[1])).data_set

    def acts(wire: Wire) -> None:
        wire.accept()
        wire.answer(wire.read_store())
        wait_for_the_next_message(wire)
        act(Path(paths[1]))
        wire.serve_stores()

    with ScriptedSCP(acts) as scp:
        transfer = transfer_with(scp, paths, tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes, paths)
    assert transfer.report.states == {State.STORED: 3}
    assert scp.wires[0].stores[1].data_set == data_set


# -- a tree full of traps ----------------------------------------------------------------------------------------------

ODD_NAMES: Final = [b"new\nline.dcm", b"[red]mark[bold].dcm", b"\xff\xfe.dcm", b"\x1b[2J.dcm", b" .dcm", b"-j.dcm"]


def set_traps(directory: Path) -> None:
    """Everything that a directory can hold and that is no file of ours to send."""
    (directory / "text").write_text("no DICOM at all")
    (directory / "empty").touch()
    (directory / "short").write_bytes(bytes(128) + b"DIC")
    (directory / "loop").symlink_to(".")
    (directory / "up").symlink_to("..")
    (directory / "itself").symlink_to("itself")
    (directory / "nowhere").symlink_to("absent")
    (directory / "device").symlink_to(os.devnull)
    (directory / "endless").symlink_to("/dev/zero")
    os.mkfifo(directory / "fifo")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
async def test_a_tree_of_traps_is_sent_once_and_named_byte_for_byte_and_left_as_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "in"
    good = {}
    for number, (path, name) in enumerate(zip(write_files(tree, len(ODD_NAMES)), ODD_NAMES, strict=True), 1):
        target = os.path.join(os.fsencode(tree), name)
        os.rename(path, target)
        good[target] = uid_of(number)
    set_traps(tree)
    (tree / "deep").mkdir()
    (tree / "deep" / "back").symlink_to(tree)
    before = await anyio.to_thread.run_sync(digests, tree)
    async with KeepingSCP() as scp:
        transfer = transfer_with(scp, tree, tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
    check_account(transfer, outcomes)
    stored = {os.fsencode(outcome.path or "") for outcome in outcomes if outcome.is_stored}
    assert stored == good.keys()
    assert scp.uids == dict.fromkeys(good.values(), 1)
    assert all(outcome.state in (State.SKIPPED, State.SOURCE_PROBLEM) for outcome in outcomes if not outcome.is_stored)
    assert len({outcome.path for outcome in outcomes}) == len(outcomes)
    rows = await anyio.to_thread.run_sync(rows_of, tmp_path / "run.db")
    named = {os.fsencode(row.path or ""): row.sop_instance_uid for row in rows if row.state is State.STORED}
    assert named == good
    assert await anyio.to_thread.run_sync(digests, tree) == before
