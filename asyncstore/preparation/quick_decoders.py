"""Decodes grayscale frames by imagecodecs: three to five times as fast as the decoders that pydicom chooses.

libjpeg-turbo and CharLS do the work. What they refuse is left to pydicom, and so are colors: they can be stored in more
ways than a frame says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from asyncstore.uids import JPEG_EXTENDED, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1, JPEG_LS_LOSSLESS, JPEG_LS_NEAR_LOSSLESS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

QuickDecoder: TypeAlias = "Callable[[bytes], np.ndarray[Any, Any]]"
"""Decodes a frame; raises any type of exception if it cannot."""

# JPEG Baseline is not among them: it is nearly always in color.
_FUNCTIONS: Final = {
    **dict.fromkeys((JPEG_LOSSLESS, JPEG_LOSSLESS_SV1, JPEG_EXTENDED), "jpeg8_decode"),
    **dict.fromkeys((JPEG_LS_LOSSLESS, JPEG_LS_NEAR_LOSSLESS), "jpegls_decode"),
}
# The marker cannot occur in coded pixels. Padding of any kind stands behind it in real files.
_END_OF_IMAGE: Final = b"\xff\xd9"
_LONGEST_PADDING_BYTES: Final = 64


def quick_decoder(transfer_syntax_uid: str) -> QuickDecoder | None:
    """The decoder for grayscale frames of a transfer syntax; None if there is none, or imagecodecs is not installed."""
    name = _FUNCTIONS.get(transfer_syntax_uid)
    if name is None:
        return None
    try:
        import imagecodecs
    except ImportError:
        return None
    decode: QuickDecoder = getattr(imagecodecs, name)

    def decode_whole(frame: bytes) -> np.ndarray[Any, Any]:
        # Of a frame that is cut off, libjpeg-turbo gives the rest in gray, and says so to nobody.
        if _END_OF_IMAGE not in frame[-_LONGEST_PADDING_BYTES:]:
            raise ValueError("the frame has no end")
        return decode(frame)

    return decode_whole
