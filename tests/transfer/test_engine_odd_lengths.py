"""Data sets of odd length: every fragment that carries one is even, and the user is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import asyncstore
from asyncstore.instances.outcome import State
from asyncstore.net import trace
from asyncstore.transfer.trace import MorePadded
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests.support import files
from tests.support.transfers import KeepingSCP, instance, outcomes_of, transfer_to, uid_of, write_files

if TYPE_CHECKING:
    from asyncstore.trace import TraceEvent

pytestmark = pytest.mark.anyio

NOTE = "the data set has an odd length, and was sent with a padding byte"


def write_odd_files(directory: Path, count: int) -> list[str]:
    """Files whose pixel data lacks its padding byte."""
    paths = write_files(directory, count, padding_bytes=15)
    assert all(Path(path).stat().st_size % 2 for path in paths)
    return paths


@pytest.mark.parametrize(
    ("odd", "kinds"),
    [
        (0, []),
        (1, [trace.Padded]),
        (9, [trace.Padded, *[trace.AlsoPadded] * 8, MorePadded]),
    ],
)
async def test_odd_data_sets_arrive_padded_and_it_is_told_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: int, kinds: list[type[TraceEvent]]
) -> None:
    paths = write_odd_files(tmp_path / "in", odd) + write_files(tmp_path / "in", 12 - odd, first=odd + 1)
    before = [Path(path).read_bytes() for path in paths]
    (tmp_path / "out").mkdir()
    with caplog.at_level(logging.DEBUG, "asyncstore.transfer"):
        async with KeepingSCP(output_directory=tmp_path / "out") as scp:
            outcomes = await outcomes_of(transfer_to(scp, tmp_path / "in"))
    assert [outcome.state for outcome in outcomes] == [State.STORED] * 12
    told: list[Any] = [record.msg for record in caplog.records]
    assert [type(event) for event in told] == kinds
    assert [event.count for event in told if type(event) is MorePadded] == [odd - 1] * (odd > 1)
    assert sorted(outcome.path or "" for outcome in outcomes if outcome.note == NOTE) == sorted(paths[:odd])
    assert sum(outcome.note == "" for outcome in outcomes) == 12 - odd
    kept = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    assert len(kept) == 12
    assert sum(data.endswith(files.element(0x7FE00010, b"OW", bytes(16))) for data in kept) == odd
    assert [Path(path).read_bytes() for path in paths] == before


async def test_many_more_odd_data_sets_than_are_padded_at_once_all_arrive(tmp_path: Path) -> None:
    write_odd_files(tmp_path, 60)
    async with KeepingSCP() as scp:
        outcomes = await outcomes_of(transfer_to(scp, tmp_path, associations=1, convert=False))
    assert [outcome.state for outcome in outcomes] == [State.STORED] * 60
    assert {outcome.bytes_sent % 2 for outcome in outcomes} == {0}


async def test_a_converted_odd_data_set_is_padded_too(tmp_path: Path) -> None:
    write_odd_files(tmp_path, 3)
    async with KeepingSCP(transfer_syntaxes=[IMPLICIT_VR_LITTLE_ENDIAN]) as scp:
        outcomes = await outcomes_of(transfer_to(scp, tmp_path))
    assert [(outcome.state, outcome.note) for outcome in outcomes] == [(State.STORED, NOTE)] * 3


async def test_what_cannot_be_understood_goes_out_as_it_is(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, 1)
    Path(path).write_bytes(Path(path).read_bytes() + b"\0")
    async with KeepingSCP() as scp:
        (outcome,) = await outcomes_of(transfer_to(scp, tmp_path))
    assert (outcome.state, outcome.note, outcome.bytes_sent % 2) == (State.STORED, "", 1)


async def test_two_files_are_the_same_by_what_they_hold_not_by_what_is_sent(tmp_path: Path) -> None:
    (odd,) = write_odd_files(tmp_path / "a", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "same.dcm").write_bytes(Path(odd).read_bytes())
    write_files(tmp_path / "c", 1, padding_bytes=16)  # what the first one is sent as
    ledger = tmp_path / "run.db"
    states = []
    for name in "abc":
        async with KeepingSCP() as scp:
            peer = asyncstore.Peer("127.0.0.1", scp.port)
            async with asyncstore.Transfer(peer, [tmp_path / name], ledger=_for_any_port(ledger, peer)) as transfer:
                states += [outcome.state async for outcome in transfer]
    assert states == [State.STORED, State.DUPLICATE, State.CONFLICT]


def _for_any_port(path: Path, peer: asyncstore.Peer) -> Any:
    from asyncstore.ledger.opening import open_ledger

    return open_ledger(path, destination="the archive", options={})


async def test_one_association_pads_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = write_odd_files(tmp_path, 1)
    context = ("1.2.840.10008.5.1.4.1.1.2", [EXPLICIT_VR_LITTLE_ENDIAN])
    with caplog.at_level(logging.WARNING, "asyncstore.net"):
        async with KeepingSCP() as scp:
            peer = asyncstore.Peer("127.0.0.1", scp.port)
            async with asyncstore.associate(peer, contexts=[context]) as association:
                outcomes = [await association.store(path), await association.store(instance(2))]
    assert [(outcome.state, outcome.note) for outcome in outcomes] == [(State.STORED, NOTE), (State.STORED, "")]
    assert [type(record.msg) for record in caplog.records] == [trace.Padded]
    assert set(scp.uids) == {uid_of(1), uid_of(2)}
