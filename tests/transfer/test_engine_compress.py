"""Uncompressed files, sent compressed without loss to a receiver that takes everything."""

from __future__ import annotations

import os
import shutil
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pydicom
import pytest

from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import State
from asyncstore.instances.source import BytesSource
from asyncstore.preparation.compress import Compression
from asyncstore.preparation.layout import Layout
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000_LOSSLESS,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
)
from tests.support import codecs
from tests.support.transfers import KeepingSCP, outcomes_of, transfer_to

if TYPE_CHECKING:
    from pathlib import Path

IMAGES: Final = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "image_dfl.dcm",
)
ENCODERS: Final = (RLE_LOSSLESS, JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS)


def read(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


@pytest.mark.parametrize("transfer_syntax_uid", ENCODERS)
async def test_the_pixels_are_the_same_for_an_independent_decoder(tmp_path: Path, transfer_syntax_uid: str) -> None:
    given, received, another = (tmp_path / name for name in ("given", "received", "another"))
    for directory in (given, received, another):
        directory.mkdir()
    for number, name in enumerate(IMAGES):
        if name == "image_dfl.dcm":  # its UID is deflated, and no other file has it
            shutil.copy(codecs.BUNDLED / name, given)
        else:
            codecs.with_another_uid(codecs.BUNDLED / name, given / name, number)
    async with KeepingSCP(output_directory=received) as scp:
        outcomes = await outcomes_of(transfer_to(scp, given, transcode=transfer_syntax_uid))
    assert len(outcomes) == len(IMAGES)
    for outcome in outcomes:
        assert outcome.instance is not None
        assert (outcome.state, outcome.transfer_syntax_uid) == (State.STORED, transfer_syntax_uid), outcome.changes
        assert outcome.changes[0].startswith("compressed from ")
        before = read(given / os.path.basename(outcome.path or ""))
        (path,) = received.glob(f"{outcome.instance.sop_instance_uid}*")
        after = codecs.decoded_by_another(path, another)
        np.testing.assert_array_equal(codecs.stored_pixels(before), codecs.stored_pixels(after))
        assert after.PhotometricInterpretation == before.PhotometricInterpretation
        assert after.get("LossyImageCompression") == before.get("LossyImageCompression")


async def test_what_has_no_pixels_or_other_ones_than_the_syntax_has_room_for_is_sent_as_it_is() -> None:
    names = ("reportsi.dcm", "rtdose.dcm", "SC_ybr_full_422_uncompressed.dcm", "liver_1frame.dcm", "MR_small_RLE.dcm")
    async with KeepingSCP() as scp:
        outcomes = await outcomes_of(
            transfer_to(scp, [codecs.BUNDLED / name for name in names], transcode=JPEG_LS_LOSSLESS)
        )
    for outcome in outcomes:
        assert outcome.instance is not None
        assert outcome.state is State.STORED
        assert outcome.transfer_syntax_uid == outcome.instance.transfer_syntax_uid
        assert "RLE" in str(outcome.path) or outcome.changes[0].startswith("not compressed: ")


async def test_a_peer_that_does_not_take_the_syntax_gets_the_file_as_it_is() -> None:
    async with KeepingSCP(transfer_syntaxes=[EXPLICIT_VR_LITTLE_ENDIAN]) as scp:
        (outcome,) = await outcomes_of(transfer_to(scp, codecs.BUNDLED / "CT_small.dcm", transcode=RLE_LOSSLESS))
    assert (outcome.state, outcome.changes) == (State.STORED, ())
    assert outcome.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN


@pytest.mark.parametrize("check", [True, False])
async def test_a_data_set_is_deflated_and_whole(tmp_path: Path, check: bool) -> None:
    async with KeepingSCP(output_directory=tmp_path) as scp:
        (outcome,) = await outcomes_of(
            transfer_to(scp, codecs.BUNDLED / "reportsi.dcm", transcode=DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, check=check)
        )
    assert (outcome.state, outcome.transfer_syntax_uid) == (State.STORED, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    (path,) = tmp_path.iterdir()
    before, after = read(codecs.BUNDLED / "reportsi.dcm"), read(path)
    assert before == after


@pytest.mark.parametrize("transfer_syntax_uid", ENCODERS)
def test_the_check_finds_other_pixels(transfer_syntax_uid: str) -> None:
    path = codecs.BUNDLED / "MR_small.dcm"
    source = instance_from(path).source
    data = bytearray(source.length_bytes)
    source.read_into((memoryview(data),), 0)
    compressed = bytearray()
    Compression(Layout(BytesSource(data)), transfer_syntax_uid).run(compressed.extend)
    assert Compression(Layout(BytesSource(data)), transfer_syntax_uid).is_right(BytesSource(compressed))
    data[-1000] ^= 1
    assert not Compression(Layout(BytesSource(data)), transfer_syntax_uid).is_right(BytesSource(compressed))
