"""Compresses the pixel data of a data set without loss, frame by frame, and checks the result.

Runs in a process of its own, as decompress does. pydicom's encoders do the work.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import SourceError, count_text
from asyncstore.instances.elements import ITEM, SEQUENCE_DELIMITATION, UNDEFINED_LENGTH
from asyncstore.preparation.decompress import (
    INSTALL,
    PHOTOMETRIC_INTERPRETATIONS_OF_SUBSAMPLED,
    PLANAR_CONFIGURATION,
    Decompression,
    Image,
    in_one_line,
)
from asyncstore.preparation.layout import Layout, element, pixel_data_header
from asyncstore.preparation.reencode import CannotConvert, Unsuitable
from asyncstore.preparation.spool import Spool
from asyncstore.uids import JPEG_2000_LOSSLESS, JPEG_LS_LOSSLESS, RLE_LOSSLESS, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from asyncstore.instances.elements import Buffer
    from asyncstore.instances.source import DataSource

# The bits per sample that each encoder takes.
_BITS_ALLOCATED: Final = {RLE_LOSSLESS: (8, 16, 32), JPEG_LS_LOSSLESS: (8, 16), JPEG_2000_LOSSLESS: (8, 16)}


class Compression:
    """Compresses one data set in Explicit VR Little Endian: `run` writes it with compressed pixels.

    Raises Unsuitable if it has no pixels, or such that the transfer syntax has no room for.
    """

    def __init__(self, layout: Layout, transfer_syntax_uid: str) -> None:
        if layout.pixel_data_at is None:
            raise Unsuitable("it has no pixel data")
        self.image: Image = Image.of(layout)
        self._layout = layout
        self._transfer_syntax_uid = transfer_syntax_uid
        self._begin: int = layout.pixel_data_at
        image = self.image
        length = sum(each.end - each.value_at for each in layout.elements if each.value_at == self._begin)
        expected = image.frames * image.frame_bytes
        if layout.fragments or length not in (expected, expected + (expected & 1)):
            raise Unsuitable("its pixel data has another length than its pixel module says")
        is_subsampled = image.photometric_interpretation in PHOTOMETRIC_INTERPRETATIONS_OF_SUBSAMPLED
        if image.samples not in (1, 3) or is_subsampled:
            raise Unsuitable(f"its photometric interpretation is {image.photometric_interpretation}")
        if image.bits_allocated not in _BITS_ALLOCATED[transfer_syntax_uid]:
            raise Unsuitable(f"its pixels have {count_text(image.bits_allocated, 'bit')}")

    def run(self, write: Callable[[Buffer], object]) -> None:
        """Compress and write the whole data set."""
        frames = Spool()
        try:
            for encoded in self._encoded():
                frames.write(struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, len(encoded)))
                frames.write(encoded)
            marks: dict[int, bytes | None] = {}
            if self.image.samples > 1:
                planar = struct.pack("<H", self._transfer_syntax_uid == RLE_LOSSLESS)
                marks[PLANAR_CONFIGURATION] = element(PLANAR_CONFIGURATION, b"US", planar)
            self._layout.write(marks, lambda: self._write_pixel_data(frames, write), write)
        finally:
            frames.discard()

    def is_right(self, result: DataSource) -> bool:
        """Whether what `run` wrote has the same pixels, bit for bit, when it is decoded."""
        decompression = Decompression(Layout(result), self._transfer_syntax_uid)
        try:
            return all(
                bytes(frame.data.cast("B")) == self._frame(number)
                for number, (frame, _) in enumerate(decompression.frames())
            )
        except CannotConvert:
            return False

    def _write_pixel_data(self, frames: Spool, write: Callable[[Buffer], object]) -> None:
        write(pixel_data_header(b"OB", UNDEFINED_LENGTH))
        write(struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, 0))  # no offsets: each frame is one fragment
        write(frames.view())
        write(struct.pack("<HHI", SEQUENCE_DELIMITATION >> 16, SEQUENCE_DELIMITATION & 0xFFFF, 0))

    def _encoded(self) -> Iterator[bytes]:
        """The compressed frames, each of even length."""
        image, encode = self.image, self._encoder()
        options: dict[str, Any] = {
            "rows": image.rows,
            "columns": image.columns,
            "samples_per_pixel": image.samples,
            "number_of_frames": 1,
            "bits_allocated": image.bits_allocated,
            "bits_stored": image.bits_stored,
            "pixel_representation": image.is_signed,
            "photometric_interpretation": image.photometric_interpretation,
            **({"planar_configuration": 0} if image.samples > 1 else {}),
        }
        for number in range(image.frames):
            try:
                encoded = bytes(encode(self._frame(number), index=0, **options))
            except MemoryError:
                raise
            except Exception as error:  # the encoders raise any type
                raise Unsuitable(in_one_line(error)) from None
            yield encoded + b"\0" * (len(encoded) & 1)

    def _encoder(self) -> Callable[..., bytes]:
        try:
            from pydicom.pixels.encoders.base import get_encoder
        except ImportError:
            is_available = False
        else:
            encoder = get_encoder(self._transfer_syntax_uid)
            is_available = encoder.is_available
        if not is_available:
            what = name_of(self._transfer_syntax_uid)
            raise SourceError(f"compressing to {what} needs a codec that is not installed: {INSTALL}")
        return encoder.encode

    def _frame(self, number: int) -> bytes:
        """A frame as it is in the data set, color by pixel."""
        image = self.image
        frame = self._layout.read(self._begin + number * image.frame_bytes, image.frame_bytes)
        if image.samples == 1 or not image.planar_configuration:
            return frame
        import numpy as np

        planes: np.ndarray[Any, Any] = np.frombuffer(frame, f"u{image.bits_allocated // 8}").reshape(image.samples, -1)
        return planes.T.tobytes()
