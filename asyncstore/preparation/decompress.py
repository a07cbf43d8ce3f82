"""Decompresses the pixel data of a data set, frame by frame, and makes its marks agree with the pixels.

Runs in a process of its own: see codec_process. The packages of the `codecs` extra do the work: imagecodecs where it is
the fastest, the others by pydicom's decoders.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.errors import SourceError, count_text, install_text
from asyncstore.preparation.layout import ICON_IMAGE_SEQUENCE, Layout, element, pixel_data_header
from asyncstore.preparation.quick_decoders import quick_decoder
from asyncstore.preparation.reencode import CannotConvert
from asyncstore.uids import (
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LS_NEAR_LOSSLESS,
    RLE_LOSSLESS,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from pydicom.pixels.decoders.base import Decoder

    from asyncstore.instances.elements import Buffer

_SAMPLES_PER_PIXEL: Final = 0x00280002
_PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
PLANAR_CONFIGURATION: Final = 0x00280006
_NUMBER_OF_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_BITS_ALLOCATED: Final = 0x00280100
_BITS_STORED: Final = 0x00280101
_PIXEL_REPRESENTATION: Final = 0x00280103
_LOSSY_IMAGE_COMPRESSION: Final = 0x00282110
_LOSSY_RATIO: Final = 0x00282112
_LOSSY_METHOD: Final = 0x00282114
_OFFSET_TABLE: Final = 0x7FE00001
_OFFSET_LENGTHS: Final = 0x7FE00002
_ENCAPSULATED_LENGTH: Final = 0x7FE00003

# Uncompressed pixels of these share colors with their neighbours.
PHOTOMETRIC_INTERPRETATIONS_OF_SUBSAMPLED: Final = ("YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
# PS3.3 C.7.6.1.1.5.2: how pixels of these transfer syntaxes were compressed with loss.
_LOSSY_METHODS: Final = {
    JPEG_BASELINE: "ISO_10918_1",
    JPEG_EXTENDED: "ISO_10918_1",
    JPEG_LS_NEAR_LOSSLESS: "ISO_14495_1",
    JPEG_2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}
# Their file may say that nothing was lost, and be right.
_PERHAPS_REVERSIBLE: Final = frozenset((JPEG_2000, HTJ2K))
_DCT: Final = frozenset((JPEG_BASELINE, JPEG_EXTENDED))
# PS3.5 7.1.1: a length of 32 bits, of which the largest stands for an undefined one.
_LONGEST_PIXEL_DATA_BYTES: Final = 0xFFFFFFFE
# The segments before a JPEG's first frame header; a color profile or a preview may be among them.
_JPEG_HEADER_BYTES: Final = 1048576
# What the transform in a JPEG's Adobe segment says (ITU-T T.872 6.5.3).
_OF_ADOBE: Final = {0: "RGB", 1: "YBR_FULL_422"}
INSTALL: Final = install_text("codecs")


class Image(NamedTuple):
    """The pixel module of a data set, as far as pixel data depends on it (PS3.3 C.7.6.3)."""

    samples: int
    photometric_interpretation: str
    planar_configuration: int
    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: int

    @classmethod
    def of(cls, layout: Layout) -> Image:
        """That of a data set. Raises CannotConvert if it makes no sense."""
        frames = layout.text(_NUMBER_OF_FRAMES) or "1"
        names = (_ROWS, _COLUMNS, _BITS_ALLOCATED)
        rows, columns, allocated = (layout.number(tag) or 0 for tag in names)
        if not (frames.isdecimal() and int(frames) and rows and columns and allocated):
            raise CannotConvert("its pixel module is damaged: Rows, Columns, Bits Allocated or Number of Frames")
        if allocated not in (8, 16, 32, 64):
            raise CannotConvert(f"there is no decoder for compressed pixels of {count_text(allocated, 'bit')}")
        return cls(
            layout.number(_SAMPLES_PER_PIXEL) or 1,
            layout.text(_PHOTOMETRIC_INTERPRETATION),
            layout.number(PLANAR_CONFIGURATION) or 0,
            int(frames),
            rows,
            columns,
            allocated,
            layout.number(_BITS_STORED) or allocated,
            layout.number(_PIXEL_REPRESENTATION) or 0,
        )

    @property
    def frame_bytes(self) -> int:
        """The length of an uncompressed frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def vr(self) -> bytes:
        """The VR of uncompressed pixel data (PS3.5 A.2)."""
        return b"OW" if self.bits_allocated > 8 else b"OB"


class Decompression:
    """Decompresses one data set of a compressed transfer syntax: `run` writes it in Explicit VR Little Endian.

    `changes` then says what else than the transfer syntax. Raises CannotConvert.
    """

    def __init__(self, layout: Layout, transfer_syntax_uid: str) -> None:
        self.layout = layout
        self.image: Image = Image.of(layout)
        self.changes: tuple[str, ...] = ()
        self._transfer_syntax_uid = transfer_syntax_uid
        if not layout.fragments:
            raise CannotConvert("its pixel data is not compressed, although its transfer syntax is")

    @property
    def length_bytes(self) -> int:
        """The length of the uncompressed pixel data."""
        length = self.image.frames * self.image.frame_bytes
        return length + (length & 1)

    def run(self, write: Callable[[Buffer], object]) -> None:
        """Decompress and write the whole data set."""
        if self.length_bytes > _LONGEST_PIXEL_DATA_BYTES:
            raise CannotConvert(f"uncompressed, its pixel data would be of {self.length_bytes:,} bytes: too long")
        frames = self.frames()
        first, photometric_interpretation = next(frames)
        image, layout = self.image, self.layout

        def write_pixel_data() -> None:
            write(pixel_data_header(image.vr, self.length_bytes))
            for frame, _ in itertools.chain(((first, photometric_interpretation),), frames):
                write(frame.data.cast("B"))
            write(b"\0" * (image.frames * image.frame_bytes & 1))

        has_icon = layout.has_compressed_icon()
        self.changes = tuple(self._changes(photometric_interpretation, leaves_out_icon=has_icon))
        marks = self._marks(photometric_interpretation)
        layout.write({**marks, ICON_IMAGE_SEQUENCE: None} if has_icon else marks, write_pixel_data, write)

    def _changes(self, photometric_interpretation: str, *, leaves_out_icon: bool) -> Iterator[str]:
        if photometric_interpretation != self.image.photometric_interpretation:
            yield f"Photometric Interpretation {photometric_interpretation}"
        if leaves_out_icon:
            yield "Icon Image Sequence left out, which is compressed"

    def _marks(self, photometric_interpretation: str) -> dict[int, bytes | None]:
        """The elements that describe the pixels, where the decompression changes them."""
        marks: dict[int, bytes | None] = dict.fromkeys((_OFFSET_TABLE, _OFFSET_LENGTHS, _ENCAPSULATED_LENGTH))
        if photometric_interpretation != self.image.photometric_interpretation:
            value = photometric_interpretation.encode("ascii")
            marks[_PHOTOMETRIC_INTERPRETATION] = element(_PHOTOMETRIC_INTERPRETATION, b"CS", value)
        if self.image.samples > 1 and self.layout.number(PLANAR_CONFIGURATION) != 0:
            marks[PLANAR_CONFIGURATION] = element(PLANAR_CONFIGURATION, b"US", b"\0\0")
        method = _LOSSY_METHODS.get(self._transfer_syntax_uid)
        if method is not None:
            marks |= self._lossy_marks(method)
        return marks

    def _lossy_marks(self, method: str) -> dict[int, bytes | None]:
        """PS3.3 C.7.6.1.1.5: that pixels were lost stays known for ever, and by which ratios and methods."""
        layout = self.layout
        is_lossy = layout.text(_LOSSY_IMAGE_COMPRESSION)
        if is_lossy == "00" and self._transfer_syntax_uid in _PERHAPS_REVERSIBLE:
            return {}
        marks: dict[int, bytes | None] = {}
        if is_lossy != "01":
            marks[_LOSSY_IMAGE_COMPRESSION] = element(_LOSSY_IMAGE_COMPRESSION, b"CS", b"01")
        methods, ratios = (
            layout.text(tag).split("\\") if layout.text(tag) else [] for tag in (_LOSSY_METHOD, _LOSSY_RATIO)
        )
        if not methods or methods[-1].strip() != method:
            methods.append(method)
            marks[_LOSSY_METHOD] = element(_LOSSY_METHOD, b"CS", "\\".join(methods).encode("latin-1"))
        if len(ratios) < len(methods):
            ratios += [""] * (len(methods) - 1 - len(ratios))  # those of earlier ones, which nobody has noted
            ratios.append(f"{self.length_bytes / sum(length for _, length in layout.fragments):.4g}")
            marks[_LOSSY_RATIO] = element(_LOSSY_RATIO, b"DS", "\\".join(ratios).encode("latin-1"))
        return marks

    # -- decoding ------------------------------------------------------------------------------------------------------

    def frames(self) -> Iterator[tuple[np.ndarray[Any, Any], str]]:
        """The frames, each with its photometric interpretation; exactly as many as the data set says."""
        image = self.image
        count = 0
        for array, photometric_interpretation in itertools.islice(self._decoded(), image.frames):
            count += 1
            yield self._as_marked(array, photometric_interpretation)
        if count < image.frames:
            raise CannotConvert(f"its pixel data has {count} of {image.frames} frames")

    def _decoded(self) -> Iterator[tuple[np.ndarray[Any, Any], str]]:
        """The frames as the decoders give them, color by pixel."""
        count = 0
        for array in self._decoded_quickly():
            count += 1
            yield array, self.image.photometric_interpretation
        if count < self.image.frames:
            yield from self._decoded_by_pydicom(count)

    def _decoded_quickly(self) -> Iterator[np.ndarray[Any, Any]]:
        """The frames until one is refused; none if there is no quick decoder for them."""
        image, layout = self.image, self.layout
        decode = quick_decoder(self._transfer_syntax_uid)
        if decode is None or image.samples != 1 or len(layout.fragments) != image.frames:
            return
        for at, length in layout.fragments:
            try:
                array = decode(layout.read(at, length))
            except (MemoryError, SourceError):
                raise
            except Exception:  # the decoders raise any type; pydicom's may be able to
                return
            if array.shape != (image.rows, image.columns) or array.dtype.kind != "u":
                return
            yield array.view(f"i{array.dtype.itemsize}") if image.is_signed else array

    def _decoded_by_pydicom(self, first: int) -> Iterator[tuple[np.ndarray[Any, Any], str]]:
        """The frames from this one on as pydicom's decoders give them."""
        image, layout = self.image, self.layout
        decoder, plugin = _decoder_of(self._transfer_syntax_uid, image.bits_stored)
        file = io.BufferedReader(_SourceFile(layout))
        file.seek(layout.pixel_data_at or 0)
        options: dict[str, Any] = {
            "samples_per_pixel": image.samples,
            "photometric_interpretation": self._encoded_photometric_interpretation(),
            "planar_configuration": image.planar_configuration,
            "number_of_frames": image.frames,
            "rows": image.rows,
            "columns": image.columns,
            "bits_allocated": image.bits_allocated,
            "bits_stored": image.bits_stored,
            "pixel_representation": image.is_signed,
            "pixel_keyword": "PixelData",
            # See _with_right_sign: pydicom's corrections fail on the arrays of some plugins, or drop bits.
            "correct_unused_bits": False,
            "apply_j2k_sign_correction": False,
            "apply_jls_sign_correction": False,
        }
        offsets, lengths = layout.value(_OFFSET_TABLE), layout.value(_OFFSET_LENGTHS)
        if offsets and len(offsets) == len(lengths):
            options["extended_offsets"] = offsets, lengths
        indices = range(first, image.frames) if first else None
        frames = decoder.iter_array(file, indices=indices, raw=True, decoding_plugin=plugin, **options)
        while True:
            try:
                array, properties = next(frames)
            except StopIteration:
                return
            except (MemoryError, CannotConvert):
                raise
            except Exception as error:  # the decoders raise any type
                raise CannotConvert(f"its pixel data cannot be decoded: {in_one_line(error)}") from None
            yield array, str(properties["photometric_interpretation"])

    def _encoded_photometric_interpretation(self) -> str:
        """That of the compressed frames. A JPEG's Adobe segment knows better than the data set."""
        image, layout = self.image, self.layout
        if self._transfer_syntax_uid not in _DCT or image.samples != 3:
            return image.photometric_interpretation
        at, length = layout.fragments[0]
        transform = _adobe_transform(layout.read(at, min(length, _JPEG_HEADER_BYTES)))
        return image.photometric_interpretation if transform is None else _OF_ADOBE.get(transform, "YBR_FULL_422")

    def _as_marked(
        self, array: np.ndarray[Any, Any], photometric_interpretation: str
    ) -> tuple[np.ndarray[Any, Any], str]:
        """A frame in the bits that the data set allocates, and what its colors are then called."""
        import numpy as np

        image = self.image
        if array.size * image.bits_allocated // 8 != image.frame_bytes:
            raise CannotConvert(f"a frame has {array.size} samples, which its pixel module does not say")
        if photometric_interpretation == "YBR_FULL_422":  # the decoders give each pixel its own colors
            photometric_interpretation = "YBR_FULL"
        if photometric_interpretation == "YBR_FULL" and self._transfer_syntax_uid in _DCT:
            # Uncompressed YBR_FULL is defined, but not allowed for most images (PS3.3 C.8.12.1.1.1, C.8.5.6.1.2).
            from pydicom.pixels.processing import convert_color_space

            array, photometric_interpretation = convert_color_space(array, "YBR_FULL", "RGB"), "RGB"
        if self._transfer_syntax_uid != RLE_LOSSLESS:
            array = _with_right_sign(array, image)
        wanted = np.dtype(f"<{array.dtype.kind}{image.bits_allocated // 8}")
        if array.dtype.itemsize > wanted.itemsize:
            raise CannotConvert(f"its pixels have more bits than Bits Allocated says: {image.bits_allocated}")
        return np.ascontiguousarray(array, dtype=wanted), photometric_interpretation


def _decoder_of(transfer_syntax_uid: str, bits_stored: int) -> tuple[Decoder, str]:
    """pydicom's decoder, and the plugin to use; "" leaves that to pydicom. Raises CannotConvert if one is missing."""
    what = f"decompressing {name_of(transfer_syntax_uid)} needs"
    try:
        import numpy as np  # noqa: F401 - without it no decoder gives arrays
        from pydicom.pixels.decoders.base import get_decoder
    except ImportError:
        raise CannotConvert(f"{what} a codec that is not installed: {INSTALL}") from None
    decoder = get_decoder(transfer_syntax_uid)
    if transfer_syntax_uid not in _DCT:
        plugins = {""} if decoder.is_available else set()
    else:  # pillow converts the colors of some JPEGs twice
        plugins = {"gdcm", "pylibjpeg"}.intersection(decoder.available_plugins)
    if transfer_syntax_uid == JPEG_EXTENDED and bits_stored > 8:
        plugins.discard("gdcm")
        if not plugins and quick_decoder(transfer_syntax_uid) is not None:  # which has refused it
            raise CannotConvert("its pixel data cannot be decoded: it is damaged, or has colors of more than 8 bits")
    if not plugins:
        raise CannotConvert(f"{what} a codec that is not installed: {INSTALL}")
    return decoder, min(plugins)


def _adobe_transform(jpeg: bytes) -> int | None:
    """The color transform that a JPEG's Adobe segment names; None if it has no such segment."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xEE and jpeg[at + 4 : at + 9] == b"Adobe" and at + 15 < len(jpeg):
            return jpeg[at + 15]
        if marker == 0xDA:
            return None
        at += 2 + length
    return None


def _with_right_sign(array: np.ndarray[Any, Any], image: Image) -> np.ndarray[Any, Any]:
    """Pixels with the sign that Pixel Representation says, for most codestreams have none, and some another one.

    Bits above Bits Stored that are no sign stay as they are: an overlay may be there.
    """
    bits = 8 * array.dtype.itemsize
    shift = bits - image.bits_stored
    if shift <= 0 or array.dtype.kind not in "ui":
        return array
    has_only_stored_bits = not int(array.view(f"u{bits // 8}").max()) >> image.bits_stored
    if has_only_stored_bits and not image.is_signed:
        return array
    extended = (array.view(f"i{bits // 8}") << shift) >> shift
    if image.is_signed:
        return extended if has_only_stored_bits else array
    is_extended = (extended.view(array.dtype) == array).all()
    return array & array.dtype.type((1 << image.bits_stored) - 1) if is_extended else array


def in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


class _SourceFile(io.RawIOBase):
    """A data set as a file to read."""

    def __init__(self, layout: Layout) -> None:
        self._source = layout.source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.length_bytes}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")[: max(0, self._source.length_bytes - self._at)]
        if room:
            self._source.read_into((room,), self._at)
            self._at += len(room)
        return len(room)
