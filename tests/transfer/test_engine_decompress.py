"""Compressed files, sent to a receiver that takes Explicit VR Little Endian only."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import numpy as np
import pydicom
import pytest

from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import State
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.preparation.attributes.change import AttributeChange
from asyncstore.preparation.attributes.rules import Rules, setting
from asyncstore.preparation.prepare import Preparation
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import TransferOptions
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS
from tests.support import codecs
from tests.support.peers import require
from tests.support.process import children
from tests.support.transfers import KeepingSCP, collect, outcomes_of, peer_at, transfer_to

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.instances.outcome import Outcome
    from asyncstore.transfer.report import Report

FILES: Final = tuple(path.name for path in codecs.compressed_files())
NOT_DECODED: Final = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "its pixel data cannot be decoded",  # GDCM and OpenJPEG agree
}
# What decompression may change; every other element arrives as it is in the file.
MARKS: Final = frozenset((0x00280004, 0x00280006, 0x00282110, 0x00282112, 0x00282114, 0x7FE00010))


class Sent(NamedTuple):
    """A file, what became of it, and the file of the receiver, None if it was not stored."""

    path: Path
    outcome: Outcome
    received: Path | None


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sent]:
    """All the files of pydicom, sent in one transfer, by their names."""
    given, received = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("received")
    for number, name in enumerate(FILES):
        codecs.with_another_uid(codecs.BUNDLED / name, given / name, number)

    async def send_all() -> list[Outcome]:
        async with KeepingSCP(output_directory=received, transfer_syntaxes=[EXPLICIT_VR_LITTLE_ENDIAN]) as scp:
            return await collect(transfer_to(scp, given, decompress="lossy", workers=2), [])

    outcomes = {os.path.basename(outcome.path or ""): outcome for outcome in anyio.run(send_all)}
    return {
        name: Sent(
            given / name,
            outcome,
            next(received.glob(f"{outcome.instance.sop_instance_uid}*"), None) if outcome.instance else None,
        )
        for name, outcome in outcomes.items()
    }


def read(path: Path | None) -> Any:
    assert path is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def test_there_are_files_of_many_transfer_syntaxes() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("name", FILES)
def test_its_pixels_are_those_of_an_independent_decoder(sent: dict[str, Sent], name: str, tmp_path: Path) -> None:
    path, outcome, received = sent[name]
    if name in NOT_DECODED:
        assert (outcome.state, outcome.attempts, received) == (State.SOURCE_PROBLEM, 0, None)
        assert NOT_DECODED[name] in outcome.reason
        return
    assert outcome.state is State.STORED, outcome.reason
    assert outcome.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN
    assert outcome.changes[0].startswith("decompressed from ")
    ours, theirs = read(received), codecs.decoded_by_another(path, tmp_path)
    assert ours.PhotometricInterpretation == theirs.PhotometricInterpretation
    np.testing.assert_array_equal(codecs.stored_pixels(ours), codecs.stored_pixels(theirs))


@pytest.mark.parametrize("name", [name for name in FILES if name not in NOT_DECODED])
def test_nothing_but_its_marks_has_changed_and_they_agree_with_the_pixels(sent: dict[str, Sent], name: str) -> None:
    before, after = read(sent[name].path), read(sent[name].received)
    for tag in set(before.keys()) | set(after.keys()):
        if tag not in MARKS:
            assert before.get_item(tag).value == after.get_item(tag).value, tag
    assert after.file_meta.TransferSyntaxUID == EXPLICIT_VR_LITTLE_ENDIAN
    pixels = after["PixelData"]
    expected_vr = "OW" if after.BitsAllocated > 8 else "OB"
    assert expected_vr == pixels.VR
    assert not pixels.is_undefined_length
    samples = after.Rows * after.Columns * after.SamplesPerPixel * int(after.get("NumberOfFrames") or 1)
    expected = samples * after.BitsAllocated // 8
    assert len(pixels.value) == expected + expected % 2
    assert after.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB")
    assert after.get("PlanarConfiguration", 0) == 0
    lossy = {"50": "ISO_10918_1", "81": "ISO_14495_1", "91": "ISO_15444_1"}
    method = lossy.get(str(before.file_meta.TransferSyntaxUID).rpartition(".")[2])
    if method is not None:
        assert after.LossyImageCompression == "01"
        assert after.LossyImageCompressionMethod == method
        assert float(after.LossyImageCompressionRatio) > 0
    else:
        assert after.get("LossyImageCompression") == before.get("LossyImageCompression")


@pytest.mark.parametrize("name", [name for name in FILES if name not in NOT_DECODED])
def test_an_independent_reader_finds_marks_as_the_standard_wants_them(sent: dict[str, Sent], name: str) -> None:
    """PS3.3 C.7.6.3 and C.7.6.1.1.5, PS3.5 A.2, by the elements that dcmdump finds in what arrived."""
    received = sent[name].received
    assert received is not None
    found = dumped(received)
    samples, allocated, stored, high = (int(found[tag][1]) for tag in ("0002", "0100", "0101", "0102"))
    assert high == stored - 1
    assert stored <= allocated
    if samples == 1:
        assert found["0004"][1] in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
        assert "0006" not in found
    else:
        assert (samples, found["0004"][1], found["0006"][1]) == (3, "RGB", "0")
    length = int(found["0010"][1]) * int(found["0011"][1]) * samples * allocated // 8
    length *= int(found["0008"][1] if "0008" in found else 1)
    assert found["pixels"][::2] == ("OW" if allocated > 8 else "OB", length + length % 2)
    methods, ratios = (found[tag][1].split("\\") if tag in found else [] for tag in ("2114", "2112"))
    assert len(methods) == len(ratios)
    assert found.get("2110", ("CS", "00", 2))[1] == ("01" if methods else "00")


def dumped(path: Path) -> dict[str, tuple[str, str, int]]:
    """VR, value and length of the elements of group 0028, by element, and of the pixel data; dcmdump has no errors."""
    command = [require("dcmdump", "dcmtk"), "-dc", "+L", "+R", "128", os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, errors="replace")
    assert not done.stderr
    lines = re.findall(r"^\((0028|7fe0),(\w{4})\) (\w\w) (.*?) *# *(\d+|u/l)", done.stdout, re.MULTILINE)
    return {
        "pixels" if group == "7fe0" else element: (vr, value.strip("[] "), int(length))
        for group, element, vr, value, length in lines
    }


@pytest.mark.every_loop
@pytest.mark.parametrize(
    ("decompress", "stored"),
    [("no", ()), ("lossless", ("MR_small_RLE.dcm",)), ("lossy", ("MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm"))],
)
async def test_what_may_not_be_decompressed_has_no_context(decompress: str, stored: tuple[str, ...]) -> None:
    names = ("MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm")
    before = children()
    async with KeepingSCP(transfer_syntaxes=[EXPLICIT_VR_LITTLE_ENDIAN]) as scp:
        outcomes = await outcomes_of(transfer_to(scp, [codecs.BUNDLED / name for name in names], decompress=decompress))
    assert {os.path.basename(each.path or ""): each.state for each in outcomes} == {
        name: State.STORED if name in stored else State.NO_CONTEXT for name in names
    }
    assert children() == before


async def test_a_peer_that_takes_implicit_vr_only_gets_it_so(tmp_path: Path) -> None:
    name = "SC_rgb_rle_2frame.dcm"
    async with KeepingSCP(output_directory=tmp_path, transfer_syntaxes=[IMPLICIT_VR_LITTLE_ENDIAN]) as scp:
        (outcome,) = await outcomes_of(transfer_to(scp, codecs.BUNDLED / name))
    assert (outcome.state, outcome.transfer_syntax_uid) == (State.STORED, IMPLICIT_VR_LITTLE_ENDIAN)
    (received,) = tmp_path.iterdir()
    ours, before = read(received), read(codecs.BUNDLED / name)
    np.testing.assert_array_equal(codecs.stored_pixels(ours), codecs.stored_pixels(before))


async def test_a_peer_that_takes_the_files_own_syntax_gets_its_bytes_and_no_process_starts(tmp_path: Path) -> None:
    before = children()
    async with KeepingSCP() as scp:
        (outcome,) = await outcomes_of(transfer_to(scp, codecs.BUNDLED / "MR_small_RLE.dcm"))
        assert children() == before
    assert (outcome.state, outcome.changes) == (State.STORED, ())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MR_small_RLE.dcm", {}),
        ("CT_small.dcm", {"transcode": RLE_LOSSLESS}),
        ("CT_small.dcm", {"prepare": Preparation(AttributeChange(Rules(instructions=(setting("PatientID", "ab"),))))}),
    ],
)
def test_the_bytes_that_count_are_those_that_were_sent(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, *([RLE_LOSSLESS] if "transcode" in options else [])]
    (tmp_path / "out").mkdir()

    async def send() -> tuple[Report, Outcome]:
        async with KeepingSCP(output_directory=tmp_path / "out", transfer_syntaxes=syntaxes) as scp:
            chosen = TransferOptions(**options)
            transfer = Transfer(peer_at(scp), codecs.BUNDLED / name, options=chosen, ledger=tmp_path / "run.db")
            (outcome,) = await outcomes_of(transfer)
            return transfer.report, outcome

    report, outcome = anyio.run(send)
    (received,) = (tmp_path / "out").iterdir()
    arrived = instance_from(received).data_set_length
    assert outcome.instance is not None
    assert outcome.instance.data_set_length != arrived
    assert (outcome.bytes_sent, report.sent_bytes, report.stored_bytes) == (arrived, arrived, arrived)
    assert report.finished_bytes == report.found_bytes == outcome.instance.data_set_length
    with LedgerReader(tmp_path / "run.db") as reader:
        assert [row.bytes_sent for row in reader.rows()] == [arrived]
