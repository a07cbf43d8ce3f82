"""That pixels were lost stays known for ever, and by which method and ratio each time (PS3.3 C.7.6.1.1.5)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import pydicom
import pytest

from asyncstore.inputs.opening import instance_from
from asyncstore.preparation.decompress import Decompression
from asyncstore.preparation.layout import Layout
from tests.support import codecs

if TYPE_CHECKING:
    from pathlib import Path

JPEG: Final = "SC_rgb_jpeg_dcmtk.dcm"  # JPEG Baseline
J2K: Final = "JPEG2000.dcm"  # JPEG 2000, which may be reversible
RLE: Final = "SC_rgb_rle.dcm"
NOW: Final = "the ratio of this file"
OLD: Final = "ISO_14495_1"  # an earlier method


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        # Lossy Image Compression, Method, Ratio; None: absent.
        (JPEG, (None, None, None), ("01", "ISO_10918_1", [NOW])),
        (JPEG, ("00", None, None), ("01", "ISO_10918_1", [NOW])),
        (JPEG, ("", "", None), ("01", "ISO_10918_1", [NOW])),
        (JPEG, ("01", None, None), ("01", "ISO_10918_1", [NOW])),
        (JPEG, ("01", "ISO_10918_1", None), ("01", "ISO_10918_1", [NOW])),
        (JPEG, ("01", "ISO_10918_1", [7.5]), ("01", "ISO_10918_1", [7.5])),
        (JPEG, ("01", OLD, [2.5]), ("01", [OLD, "ISO_10918_1"], [2.5, NOW])),
        (JPEG, ("01", OLD, None), ("01", [OLD, "ISO_10918_1"], [None, NOW])),
        (JPEG, ("01", [OLD, "ISO_10918_1"], [2.5, 3.5]), ("01", [OLD, "ISO_10918_1"], [2.5, 3.5])),
        (JPEG, ("01", [OLD, "ISO_10918_1"], [2.5]), ("01", [OLD, "ISO_10918_1"], [2.5, NOW])),
        (J2K, (None, None, None), ("01", "ISO_15444_1", [NOW])),
        (J2K, ("00", None, None), ("00", None, None)),  # the file says that nothing was lost, and may be right
        (J2K, ("01", OLD, [2.5]), ("01", [OLD, "ISO_15444_1"], [2.5, NOW])),
        (RLE, (None, None, None), (None, None, None)),
        (RLE, ("01", OLD, [2.5]), ("01", OLD, [2.5])),
    ],
)
def test_marks(tmp_path: Path, name: str, before: tuple[object, ...], after: tuple[object, ...]) -> None:
    given = pydicom.dcmread(codecs.BUNDLED / name)
    fragments = [pydicom.encaps.get_frame(given.PixelData, 0)]
    for word, value in zip(WORDS, before, strict=True):
        given.pop(word, None)
        if value is not None:
            setattr(given, word, value)
    given.save_as(tmp_path / "given.dcm")
    instance = instance_from(tmp_path / "given.dcm")
    written = io.BytesIO()
    Decompression(Layout(instance.source), instance.transfer_syntax_uid).run(written.write)
    result = pydicom.dcmread(written, force=True)
    ratio = len(result.PixelData) / sum(map(len, fragments))
    expected = [each if each is not NOW else pytest.approx(ratio, rel=0.01) for each in as_list(after[2])]
    assert result.get("LossyImageCompression") == after[0]
    assert as_list(result.get("LossyImageCompressionMethod")) == as_list(after[1])
    assert [None if each == "" else each for each in as_list(result.get("LossyImageCompressionRatio"))] == expected


WORDS: Final = ("LossyImageCompression", "LossyImageCompressionMethod", "LossyImageCompressionRatio")


def as_list(value: object) -> list[object]:
    if value is None:
        return []
    return [value] if isinstance(value, str | float) or not hasattr(value, "__iter__") else list(value)
