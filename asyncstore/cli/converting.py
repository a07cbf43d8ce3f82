"""The options that say what becomes of an instance whose transfer syntax the peer refuses."""

from __future__ import annotations

from typing import Final, get_args

from asyncstore.cli import options
from asyncstore.preparation.conversions import LOSSLESS_TARGETS, Decompress

_PANEL: Final = "Conversion Options"
_NAMES: Final = ("RLE", "JPEG-LS", "JPEG 2000", "deflate")

DecompressOption = options.Annotated[
    str,
    options.option(
        "--decompress",
        parser=options.choice(*get_args(Decompress)),
        metavar="lossless|lossy|no",
        help="Decompress instances whose transfer syntax the peer refuses: those of reversible ones, also the others, "
        "or none. Needs the codecs: pip install '.\\[codecs]' in the source of asyncstore.",
        panel=_PANEL,
    ),
]
Transcode = options.Annotated[
    str | None,
    options.option(
        "--transcode",
        parser=options.choice(*LOSSLESS_TARGETS),
        metavar="UID",
        help="Compress uncompressed instances without loss where the peer accepts this transfer syntax: "
        f"{', '.join(f'{uid} ({name})' for uid, name in zip(LOSSLESS_TARGETS, _NAMES, strict=True))}.",
        panel=_PANEL,
    ),
]
Check = options.Annotated[
    bool,
    options.option(
        "--check/--no-check",
        help="Decompress what --transcode compressed, and compare, before it is sent.",
        panel=_PANEL,
    ),
]
Workers = options.Annotated[
    int | None,
    options.option(
        "--workers",
        parser=options.whole_number(1, 1000, "a number of processes"),
        metavar="N",
        help="Processes that decompress and compress at once." + options.default_text("as many as there are cores"),
        panel=_PANEL,
        show_default=False,
    ),
]
