"""Chooses the transfer syntax in which an instance is sent, among those that the peer accepted.

An instance keeps its own if the peer accepted it. Otherwise it is converted, and loses nothing unless the caller allows
that: an uncompressed data set to another uncompressed syntax, a compressed one by decompressing it.
"""

from __future__ import annotations

import os
from typing import Final, Literal, Protocol, TypeAlias

from asyncstore.record import record
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    HTJ2K,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR_LOSSLESS,
    RLE_LOSSLESS,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)

Decompress: TypeAlias = Literal["lossless", "lossy", "no"]
"""Which compressed instances are decompressed: those of reversible transfer syntaxes, also the others, none."""

# Targets of a conversion, best first, if the peer did not accept the data set's own transfer syntax. Explicit VRs are
# kept if possible, and a syntax that every peer must read comes before those that few read.
_UNCOMPRESSED: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
# Those that pydicom can decode. What else is compressed, video above all, is sent as it is or not at all.
_REVERSIBLE: Final = frozenset(
    (
        JPEG_LOSSLESS,
        JPEG_LOSSLESS_SV1,
        JPEG_LS_LOSSLESS,
        JPEG_2000_LOSSLESS,
        HTJ2K_LOSSLESS,
        HTJ2K_LOSSLESS_RPCL,
        RLE_LOSSLESS,
    )
)
# JPEG 2000 and HTJ2K of these UIDs may have lost nothing, which the transfer syntax does not tell.
_PERHAPS_LOSSY: Final = frozenset((JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS_NEAR_LOSSLESS, JPEG_2000, HTJ2K))
LOSSLESS_TARGETS: Final = (
    RLE_LOSSLESS,
    JPEG_LS_LOSSLESS,
    JPEG_2000_LOSSLESS,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
_DECOMPRESSED: Final[dict[Decompress, frozenset[str]]] = {
    "lossless": _REVERSIBLE,
    "lossy": _REVERSIBLE | _PERHAPS_LOSSY,
    "no": frozenset(),
}


class Contexts(Protocol):
    """The presentation contexts that a peer accepted on one association."""

    def find(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """The ID of the context for a SOP class in a transfer syntax; None: the peer has accepted none."""


@record(frozen=True, slots=True)
class Conversions:
    """What may be done to an instance whose transfer syntax the peer refused.

    convert     False: an instance is sent in its own transfer syntax or not at all
    decompress  which compressed instances are decompressed
    transcode   a transfer syntax of LOSSLESS_TARGETS: uncompressed instances are sent in it if the peer accepts it
    is_checked  whether what was compressed is decompressed again, and compared, before it is sent
    workers     how many processes decompress at once; None: as many as there are cores
    """

    convert: bool = True
    decompress: Decompress = "lossless"
    transcode: str | None = None
    is_checked: bool = True
    workers: int | None = None

    @property
    def processes(self) -> int:
        """How many processes decompress at once."""
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def can_become_uncompressed(self, transfer_syntax_uid: str) -> bool:
        """Whether an instance of this transfer syntax may be converted to an uncompressed one."""
        is_uncompressed = transfer_syntax_uid in UNCOMPRESSED_TRANSFER_SYNTAXES
        return self.convert and (is_uncompressed or transfer_syntax_uid in _DECOMPRESSED[self.decompress])

    def spares_lossy(self, transfer_syntax_uid: str) -> bool:
        """Whether an instance of this transfer syntax would be decompressed if that were allowed after a loss, too."""
        return self.convert and self.decompress == "lossless" and transfer_syntax_uid in _PERHAPS_LOSSY

    def target(self, contexts: Contexts, sop_class_uid: str, transfer_syntax_uid: str) -> str | None:
        """The accepted transfer syntax in which an instance is sent; None if there is none."""
        if self.compresses(contexts, sop_class_uid, transfer_syntax_uid):
            return self.transcode
        return self.target_uncompressed(contexts, sop_class_uid, transfer_syntax_uid)

    def needs_codec(self, contexts: Contexts, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether an instance must be decompressed or compressed for these contexts, as far as its kind tells."""
        if self.transcode is None and contexts.find(sop_class_uid, transfer_syntax_uid) is not None:
            return False  # as nearly all of an association's hundred pairs
        target = self.target(contexts, sop_class_uid, transfer_syntax_uid)
        return target is not None and is_for_codec(transfer_syntax_uid, target)

    def compresses(self, contexts: Contexts, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether an instance is compressed, if its pixels allow that."""
        if self.transcode is None or transfer_syntax_uid not in UNCOMPRESSED_TRANSFER_SYNTAXES:
            return False
        is_another = transfer_syntax_uid != self.transcode
        return is_another and contexts.find(sop_class_uid, self.transcode) is not None

    def target_uncompressed(self, contexts: Contexts, sop_class_uid: str, transfer_syntax_uid: str) -> str | None:
        """The same without compression."""
        if contexts.find(sop_class_uid, transfer_syntax_uid) is not None:
            return transfer_syntax_uid
        if not self.can_become_uncompressed(transfer_syntax_uid):
            return None
        return next((uid for uid in _UNCOMPRESSED if contexts.find(sop_class_uid, uid) is not None), None)


def is_for_codec(given: str, target: str) -> bool:
    """Whether the pixels are decompressed or compressed between two transfer syntaxes."""
    return given != target and not {given, target} <= set(UNCOMPRESSED_TRANSFER_SYNTAXES)


LOSSLESS_ONLY: Final = Conversions()
"""What is done unless the caller says otherwise."""

UNCOMPRESSED_ONLY: Final = Conversions(decompress="no")
"""Conversions among the uncompressed transfer syntaxes alone."""
