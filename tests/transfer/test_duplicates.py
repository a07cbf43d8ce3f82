"""A file under a SOP Instance UID that is stored already: the same instance, a conflict, or nothing can be said."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import StoreFailed
from asyncstore.inputs.opening import instance_from, instance_from_bytes
from asyncstore.instances import sameness
from asyncstore.instances.outcome import FAILED_STATES, Outcome, State
from asyncstore.instances.source import FileSource
from asyncstore.ledger.protocol import KnownInstance
from asyncstore.transfer.duplicates import compared_outcome
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import files
from tests.support.ledgers import offered, opened, outcome_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.instance import Instance

RLE_LOSSLESS = "1.2.840.10008.1.2.5"


def write(
    path: Path, pixels: bytes = b"", *, transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN, more_meta: bytes = b""
) -> Instance:
    """A file with the SOP Instance UID that all files here have."""
    body = files.data_set(more=files.element(0x7FE00010, b"OW", pixels))
    path.write_bytes(files.dicom_file(meta=files.file_meta(transfer_syntax_uid, more=more_meta), body=body))
    return instance_from(path)


def known_as(instance: Instance) -> KnownInstance:
    """What a ledger says of an instance that was stored."""
    return KnownInstance(instance.path, instance.size_bytes, instance.mtime_ns, State.STORED)


def state_of(instance: Instance, known: KnownInstance) -> State | None:
    outcome = compared_outcome(instance, known)
    return None if outcome is None else outcome.state


# A small file, whose bytes the scan keeps; exactly a piece; several pieces and the beginning of one.
LENGTHS = [0, 100, 999, 1000, 3000, 3500, 200_000]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("held", [True, False])
def test_the_same_bytes_are_a_duplicate(
    tmp_path: Path, length: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sameness, "_PIECE_BYTES", 1000)
    one = write(tmp_path / "one", os.urandom(length))
    (tmp_path / "two").write_bytes((tmp_path / "one").read_bytes())
    two = instance_from(tmp_path / "two")
    if not held:
        two.let_go()
    outcome = compared_outcome(two, known_as(one))
    assert outcome is not None
    assert (outcome.state, outcome.attempts, outcome.retryable, outcome.bytes_sent) == (State.DUPLICATE, 0, False, 0)
    assert outcome.stored_path == str(tmp_path / "one")
    assert (outcome.path, outcome.instance) == (two.path, two)


def test_only_the_data_sets_are_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "one", b"12")
    two = write(tmp_path / "two", b"12", more_meta=files.element(0x00020016, b"AE", b"SOMEBODY"))
    assert one.data_set_offset != two.data_set_offset
    assert state_of(two, known_as(one)) is State.DUPLICATE


def other_byte(at: int) -> Callable[[bytes], bytes]:
    return lambda pixels: pixels[:at] + bytes((pixels[at] ^ 1,)) + pixels[at:][1:]


@pytest.mark.parametrize(
    "change",
    [other_byte(0), other_byte(999), other_byte(1500), other_byte(-1), lambda pixels: pixels + b"\0\0"],
    ids=["first", "end of a piece", "middle", "last", "longer"],
)
def test_any_other_byte_is_a_conflict(
    tmp_path: Path, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sameness, "_PIECE_BYTES", 1000)
    pixels = os.urandom(3456)
    one, two = write(tmp_path / "one", pixels), write(tmp_path / "two", change(pixels))
    outcome = compared_outcome(two, known_as(one))
    assert outcome is not None
    assert (outcome.state, outcome.attempts, outcome.retryable, outcome.bytes_sent) == (State.CONFLICT, 0, False, 0)
    assert outcome.reason == "another data set is stored under the same SOP Instance UID"
    assert outcome.stored_path == str(tmp_path / "one")
    assert outcome.state in FAILED_STATES
    assert not outcome.is_stored
    with pytest.raises(StoreFailed, match="another data set"):
        outcome.raise_for_failure()


def test_the_same_bytes_in_another_transfer_syntax_are_a_conflict(tmp_path: Path) -> None:
    one = write(tmp_path / "one", b"12")
    two = write(tmp_path / "two", b"12", transfer_syntax_uid=RLE_LOSSLESS)
    assert one.data_set_length == two.data_set_length
    assert state_of(two, known_as(one)) is State.CONFLICT


def test_an_instance_in_memory_is_compared_too(tmp_path: Path) -> None:
    one = write(tmp_path / "one", b"12")
    assert state_of(instance_from_bytes((tmp_path / "one").read_bytes()), known_as(one)) is State.DUPLICATE
    assert state_of(instance_from_bytes(files.dicom_file()), known_as(one)) is State.CONFLICT


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 10**18))


def replace_by_text(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(0, before.st_mtime_ns))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [Path.unlink, cut, touch, replace_by_text, replace_by_directory]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_said_when_the_stored_file_is_not_what_it_was(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    one, two = write(tmp_path / "one", b"12"), write(tmp_path / "two", b"12")
    known = known_as(one)
    assert state_of(two, known) is State.DUPLICATE
    change(tmp_path / "one")
    assert compared_outcome(two, known) is None


@pytest.mark.parametrize("change", [Path.unlink, cut, touch])
def test_nothing_is_said_when_the_file_itself_changed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    one, two = write(tmp_path / "one", bytes(50000)), write(tmp_path / "two", bytes(50000))
    two.let_go()
    assert isinstance(two.source, FileSource)
    change(tmp_path / "two")
    assert compared_outcome(two, known_as(one)) is None


def test_nothing_is_said_of_one_that_was_stored_from_memory(tmp_path: Path) -> None:
    one = write(tmp_path / "one")
    assert compared_outcome(one, known_as(one)._replace(path=None)) is None


def test_large_files_are_compared_in_little_memory_and_closed(tmp_path: Path) -> None:
    pixels = bytes(12 << 20)
    one, two = write(tmp_path / "one", pixels), write(tmp_path / "two", pixels)
    del pixels
    opened_before = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0
    tracemalloc.start()
    try:
        assert state_of(two, known_as(one)) is State.DUPLICATE
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    if opened_before:
        assert len(os.listdir("/dev/fd")) == opened_before


# -- with a ledger -----------------------------------------------------------------------------------------------------


def test_a_later_run_compares_conflicts_again_and_leaves_duplicates_alone(tmp_path: Path) -> None:
    one, same, other = (write(tmp_path / name, pixels) for name, pixels in (("1", b"12"), ("2", b"12"), ("3", b"13")))
    paths = [str(tmp_path / name) for name in "123"]
    with opened(tmp_path / "run.db") as ledger:
        ledger.record(outcome_of(one))
        for twin in (same, other):
            assert ledger.may_know(twin.sop_instance_uid)
            ((known,),) = ledger.stored_elsewhere([twin])
            outcome = compared_outcome(twin, known)
            assert outcome is not None
            ledger.record(outcome)
    for _ in range(2):
        with opened(tmp_path / "run.db") as ledger:
            settled = ledger.settled(offered(*paths))
            states = [found.state if isinstance(found, Outcome) else found for found in settled]
            assert states == [State.RESUMED, State.DUPLICATE, None]
            assert ledger.may_know(other.sop_instance_uid)
            ((known,),) = ledger.stored_elsewhere([other])
            again = compared_outcome(other, known)
            assert again is not None
            ledger.record(again)
    rows = [(row.path, row.state, row.attempts, row.bytes_sent) for row in rows_of(tmp_path / "run.db")]
    assert rows == [
        (paths[0], State.STORED, 1, one.data_set_length),
        (paths[1], State.DUPLICATE, 0, 0),
        (paths[2], State.CONFLICT, 0, 0),
    ]
