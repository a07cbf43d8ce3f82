"""What a peer has kept, held against what was sent; the file format is read here without any code of asyncstore."""

from __future__ import annotations

import functools
import io
import json
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pydicom

from tests.support import command
from tests.support.files import assert_same_elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydicom import Dataset

    from tests.support.peers import RunningPeer

DATA: Final = Path(pydicom.__file__).parent / "data"
FOLDERS: Final = (DATA / "test_files", DATA / "charset_files")
BUNDLED: Final = [path for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.is_file()]
TEST_FILES: Final = FOLDERS[0]

_PREFIX_BYTES: Final = 132
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Kept:
    """A file as its receiver kept it, or as it was before it was sent."""

    name: str
    data: bytes = field(repr=False)

    @classmethod
    def at(cls, path: Path) -> Kept:
        return cls(path.name, path.read_bytes())

    @functools.cached_property
    def data_set(self) -> bytes:
        """The bytes behind the File Meta Information, which every receiver writes anew.

        A deflated stream of odd length has the byte of padding that it must be sent with (PS3.5 A.5).
        """
        at = _PREFIX_BYTES if self.data[128:132] == b"DICM" else 0
        is_deflated = False
        while self.data[at : at + 2] == b"\2\0":
            is_long = self.data[at + 4 : at + 6] in (b"OB", b"UN")
            length = self.data[at + 8 : at + 12] if is_long else self.data[at + 6 : at + 8]
            value_at = at + (12 if is_long else 8)
            end = value_at + int.from_bytes(length, "little")
            if self.data[at + 2 : at + 4] == b"\x10\0":
                is_deflated = self.data[value_at:end].rstrip(b"\0") == _DEFLATED
            at = end
        return self.data[at:] + b"\0" * (is_deflated and (len(self.data) - at) % 2)

    def decode(self) -> Dataset:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(io.BytesIO(self.data), force=True)

    @functools.cached_property
    def sop_instance_uid(self) -> str:
        """That of the data set, or of the File Meta Information where the data set has none."""
        data_set = self.decode()
        return str(data_set.get("SOPInstanceUID") or data_set.file_meta.MediaStorageSOPInstanceUID)


def is_same(one: Kept, other: Kept) -> bool:
    """Whether two files hold the same elements with the same values, those of their sequences and pixels included."""
    first, second = one.decode(), other.decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert_same_elements(first, second, _is_big_endian(first), _is_big_endian(second))
        except AssertionError:
            return False
    return True


def _is_big_endian(data_set: Dataset) -> bool:
    return data_set.original_encoding[1] is False


@dataclass(frozen=True)
class Run:
    """A run of `asyncstore storescu --json`: `records` are its outcomes, `summary` its last line."""

    code: int
    stderr: str
    records: list[dict[str, Any]]
    summary: dict[str, Any]

    def paths(self, *states: str) -> list[Path]:
        """The files that ended in one of these states."""
        return sorted(Path(record["path"]) for record in self.records if record["state"] in states)

    def names(self, *states: str) -> set[str]:
        return {path.name for path in self.paths(*states)}

    @property
    def stored(self) -> list[Kept]:
        """The files that the peer said it has, as they are on disk."""
        return [Kept.at(path) for path in self.paths("stored", "warning")]


class Listening(Protocol):
    """Somebody who takes associations: a peer, or a proxy before one."""

    host: str
    port: int


def storescu(peer: Listening, *arguments: str | Path | int) -> Run:
    """Run the real command to its end."""
    done = command.run("storescu", "--json", peer.host, peer.port, *arguments)
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    outcomes = [record for record in records if record["event"] == "outcome"]
    summaries = [record for record in records if record["event"] == "summary"]
    return Run(done.returncode, done.stderr, outcomes, summaries[-1] if summaries else {})


def assert_every_file_has_its_outcome(run: Run, files: Sequence[Path]) -> None:
    """Each file is told of once, what is not at the peer with a reason, and instances with a line in the log."""
    assert sorted(Path(record["path"]) for record in run.records) == sorted(files)
    for record in run.records:
        if record["state"] not in ("stored", "warning"):
            assert record["reason"], record
        if record["state"] not in ("stored", "warning", "skipped"):
            assert f": {record['path']}\n" in run.stderr, record
    states = run.summary["states"]
    assert {state: len(run.paths(state)) for state in states} == states


def assert_all_arrived(sent: Iterable[Kept], kept: Iterable[Kept]) -> int:
    """Every file arrived once: bit by bit, or in another encoding element for element; returns how many bit by bit."""
    missing: dict[str, list[Kept]] = defaultdict(list)
    for each in sent:
        missing[each.sop_instance_uid].append(each)
    exact = 0
    others = []
    for each in kept:
        same = next((one for one in missing[each.sop_instance_uid] if one.data_set == each.data_set), None)
        if same is None:
            others.append(each)
        else:
            exact += 1
            missing[each.sop_instance_uid].remove(same)
    for each in others:
        match = next((one for one in missing[each.sop_instance_uid] if is_same(one, each)), None)
        assert match is not None, f"{each.name} is none of {[one.name for one in missing[each.sop_instance_uid]]}"
        missing[each.sop_instance_uid].remove(match)
    assert {uid: [one.name for one in left] for uid, left in missing.items() if left} == {}
    return exact


def assert_one_of_each_arrived(sent: Iterable[Kept], kept: Iterable[Kept]) -> int:
    """A receiver that keeps one file for a SOP Instance UID has one of those sent; returns how many bit by bit."""
    originals: dict[str, list[Kept]] = defaultdict(list)
    for each in sent:
        originals[each.sop_instance_uid].append(each)
    last = {each.sop_instance_uid: each for each in kept}
    assert last.keys() == originals.keys()
    exact = 0
    for uid, each in last.items():
        if any(one.data_set == each.data_set for one in originals[uid]):
            exact += 1
        else:
            assert any(is_same(one, each) for one in originals[uid]), each.name
    return exact


def kept_by(peer: RunningPeer) -> list[Kept]:
    return [Kept.at(path) for path in peer.received_files()]


def copies(directory: Path, count: int) -> list[Path]:
    """A new directory with so many CT instances, each with a UID of its own."""
    directory.mkdir()
    data_set = pydicom.dcmread(TEST_FILES / "CT_small.dcm")
    paths = []
    for number in range(1, count + 1):
        uid = pydicom.uid.UID(f"1.2.826.0.1.3680043.10.2.{number}")
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid
        paths.append(directory / f"{number}.dcm")
        data_set.save_as(paths[-1])
    return paths
