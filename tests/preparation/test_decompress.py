"""Pixels of every kind, compressed by DCMTK or GDCM: ours are those that the same program gives, bit for bit."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_fragments

from asyncstore.inputs.opening import instance_from
from asyncstore.preparation import decompress, quick_decoders
from asyncstore.preparation.decompress import Decompression
from asyncstore.preparation.layout import Layout
from asyncstore.preparation.reencode import CannotConvert
from tests.support import codecs
from tests.support.peers import require

if TYPE_CHECKING:
    from pathlib import Path


class Kind(NamedTuple):
    """An image."""

    rows: int = 37
    columns: int = 41
    bits: int = 16
    allocated: int = 16
    is_signed: int = 0
    samples: int = 1
    frames: int = 1
    photometric_interpretation: str = "MONOCHROME2"


KINDS: Final = {
    "16 bits": Kind(),
    "16 bits, signed": Kind(is_signed=1),
    "12 of 16 bits": Kind(bits=12),
    "12 of 16 bits, signed": Kind(bits=12, is_signed=1),
    "8 of 16 bits, signed": Kind(bits=8, is_signed=1),
    "8 bits": Kind(bits=8, allocated=8),
    "one row": Kind(rows=1, columns=7),
    "one column": Kind(rows=7, columns=1, bits=8, allocated=8),
    "MONOCHROME1": Kind(bits=10, photometric_interpretation="MONOCHROME1"),
    "palette": Kind(bits=8, allocated=8, photometric_interpretation="PALETTE COLOR"),
    "frames": Kind(frames=5, bits=12),
    "frames of odd length": Kind(rows=3, columns=3, frames=3, bits=8, allocated=8),
    "RGB": Kind(bits=8, allocated=8, samples=3, photometric_interpretation="RGB"),
    "RGB, one pixel": Kind(rows=1, columns=1, bits=8, allocated=8, samples=3, photometric_interpretation="RGB"),
    "RGB, frames": Kind(bits=8, allocated=8, samples=3, frames=3, photometric_interpretation="RGB"),
}
ENCODERS: Final = {
    ".70": ["dcmcjpeg", "+e1"],
    ".70, empty offset table": ["dcmcjpeg", "+e1", "-ot"],
    ".70, fragments of 1 KiB": ["dcmcjpeg", "+e1", "+fs", "1"],
    **{f".57, predictor {number}": ["dcmcjpeg", "+el", "+sv", str(number)] for number in range(1, 8)},
    ".80": ["dcmcjpls"],
    ".80, empty offset table": ["dcmcjpls", "-ot"],
    ".80, fragments of 1 KiB": ["dcmcjpls", "+fs", "1"],
    ".80, colors by plane": ["dcmcjpls", "+in"],
    ".81": ["dcmcjpls", "+en"],
    ".51": ["dcmcjpeg", "+ee"],
    ".51, 12 bits": ["dcmcjpeg", "+ee", "+bt"],
    ".50": ["dcmcjpeg", "+eb"],
    ".50, RGB": ["dcmcjpeg", "+eb", "+cr"],
    ".50, 4:4:4": ["dcmcjpeg", "+eb", "+s4"],
    "RLE": ["dcmcrle"],
    "JPEG 2000": ["gdcmconv", "--j2k"],
}
FEW_KINDS: Final = ("12 of 16 bits, signed", "8 bits", "palette", "frames", "RGB", "RGB, frames")
KINDS_OF_ENCODER: Final = dict.fromkeys(ENCODERS, FEW_KINDS) | {
    **dict.fromkeys((".70", ".80", "RLE"), tuple(KINDS)),
    ".81": ("8 bits", "frames", "RGB", "RGB, frames"),  # DCMTK refuses signed pixels and palettes
    ".51, 12 bits": ("12 of 16 bits, signed", "frames"),
    # GDCM's encoder crashes on an image as small as a pixel, a row or a column.
    "JPEG 2000": tuple(kind for kind in KINDS if not kind.endswith(("pixel", "row", "column", "odd length"))),
}
CASES: Final = [(kind, encoder) for encoder, kinds in KINDS_OF_ENCODER.items() for kind in kinds]


def write_image(path: Path, kind: Kind) -> None:
    """An image of noise, in which the extreme values occur."""
    data_set = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for word in ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelAspectRatio"):
        data_set.pop(word, None)
    data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = kind.rows, kind.columns, kind.samples
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = kind.allocated, kind.bits, kind.bits - 1
    data_set.PixelRepresentation = kind.is_signed
    data_set.PhotometricInterpretation = kind.photometric_interpretation
    if kind.samples > 1:
        data_set.PlanarConfiguration = 0
    if kind.frames > 1:
        data_set.NumberOfFrames = kind.frames
    if kind.photometric_interpretation == "PALETTE COLOR":
        for color in ("Red", "Green", "Blue"):
            data_set.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            data_set.add_new(f"{color}PaletteColorLookupTableData", "OW", np.arange(256, dtype="<u2").tobytes())
    lowest = -(1 << kind.bits - 1) if kind.is_signed else 0
    shape = (kind.frames, kind.rows, kind.columns, kind.samples)
    noise = np.random.default_rng(1).integers(lowest, lowest + (1 << kind.bits), shape)
    noise[0, 0, 0, 0], noise[-1, -1, -1, -1] = lowest, lowest + (1 << kind.bits) - 1
    pixels = noise.astype(f"<{'i' if kind.is_signed else 'u'}{kind.allocated // 8}").tobytes()
    data_set.PixelData = pixels + b"\0" * (len(pixels) & 1)
    data_set["PixelData"].VR = "OW" if kind.allocated > 8 else "OB"
    data_set.save_as(path)


def decompressed(path: Path) -> Any:
    """The data set as it would be sent."""
    instance = instance_from(path)
    written = io.BytesIO()
    decompression = Decompression(Layout(instance.source), instance.transfer_syntax_uid)
    decompression.run(written.write)
    instance.source.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = pydicom.dcmread(written, force=True)
        result.file_meta = pydicom.dataset.FileMetaDataset()
        result.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return result


def compressed(directory: Path, kind: Kind, encoder: str) -> Path:
    """An image of this kind, compressed."""
    write_image(directory / "plain.dcm", kind)
    program, *options = ENCODERS[encoder]
    package = "libgdcm-tools" if program == "gdcmconv" else "dcmtk"
    paths = [str(directory / "plain.dcm"), str(directory / "compressed.dcm")]
    subprocess.run([require(program, package), *options, *paths], check=True, capture_output=True)
    return directory / "compressed.dcm"


def stored_pixels(data_set: pydicom.Dataset) -> Any:
    return codecs.stored_pixels(data_set)


@pytest.mark.parametrize(("kind", "encoder"), CASES)
def test_its_pixels_are_those_of_an_independent_decoder(kind: str, encoder: str, tmp_path: Path) -> None:
    path = compressed(tmp_path, KINDS[kind], encoder)
    ours, theirs = decompressed(path), codecs.decoded_by_another(path, tmp_path)
    assert ours.PhotometricInterpretation == theirs.PhotometricInterpretation
    # Two programs round differently when they turn YCbCr into RGB.
    most = int(KINDS[kind].samples > 1 and encoder.startswith((".50", ".51")))
    np.testing.assert_allclose(stored_pixels(ours), stored_pixels(theirs), rtol=0, atol=most)


GRAYSCALE: Final = (".70", ".57, predictor 4", ".80", ".81", ".51, 12 bits")


@pytest.mark.parametrize("encoder", GRAYSCALE)
def test_grayscale_is_decoded_without_pydicom(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path, KINDS["frames"], encoder)
    monkeypatch.setattr(decompress, "_decoder_of", None)
    assert decompressed(path).NumberOfFrames == 5


@pytest.mark.parametrize("encoder", [".70", ".80"])
@pytest.mark.parametrize("refused", range(6))
def test_pydicom_decodes_from_the_first_frame_on_that_is_refused(
    encoder: str, refused: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(tmp_path, KINDS["frames"], encoder)
    expected = decompressed(path).PixelData
    asked = 0

    def refuses_one(transfer_syntax_uid: str) -> quick_decoders.QuickDecoder:
        decode = quick_decoders.quick_decoder(transfer_syntax_uid)
        assert decode is not None

        def decode_or_refuse(frame: bytes) -> np.ndarray[Any, Any]:
            nonlocal asked
            asked += 1
            if asked > refused:
                raise RuntimeError("unsupported")
            return decode(frame)

        return decode_or_refuse

    monkeypatch.setattr(decompress, "quick_decoder", refuses_one)
    assert decompressed(path).PixelData == expected
    assert asked == min(refused + 1, 5)


@pytest.mark.parametrize("encoder", [".70", ".80"])
def test_pixels_are_the_same_without_imagecodecs(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path, KINDS["8 of 16 bits, signed"], encoder)
    expected = decompressed(path).PixelData
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert decompressed(path).PixelData == expected


@pytest.mark.parametrize("encoder", GRAYSCALE)
@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_frame_that_is_cut_off_is_not_decoded(encoder: str, cut: float, tmp_path: Path) -> None:
    path = compressed(tmp_path, KINDS["12 of 16 bits, signed" if encoder != ".81" else "8 bits"], encoder)
    data_set = pydicom.dcmread(path)
    _, frame = generate_fragments(data_set.PixelData)
    data_set.PixelData = encapsulate([frame[: int(len(frame) * cut)]])
    data_set.save_as(path)
    with pytest.raises(CannotConvert, match="its pixel data cannot be decoded"):
        decompressed(path)


@pytest.mark.parametrize(("tag", "value"), [("Rows", 36), ("Columns", 42)])
def test_a_frame_of_another_size_than_its_data_set_says_is_not_decoded(tag: str, value: int, tmp_path: Path) -> None:
    path = compressed(tmp_path, KINDS["16 bits"], ".70")
    data_set = pydicom.dcmread(path)
    setattr(data_set, tag, value)
    data_set.save_as(path)
    with pytest.raises(CannotConvert):
        decompressed(path)
