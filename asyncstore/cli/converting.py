"""The options that say what becomes of an instance whose transfer syntax the peer refuses."""

from __future__ import annotations

from typing import Annotated, Final

from asyncstore.cli import options

_PANEL: Final = "Conversion Options"

DecompressOption = Annotated[
    str,
    options.option(
        "--decompress",
        parser=options.choice("lossless", "lossy", "no"),
        metavar="lossless|lossy|no",
        help="Decompress instances whose transfer syntax the peer refuses: those of reversible ones, also the others, "
        "or none. Needs the packages of asyncstore\\[codecs].",
        panel=_PANEL,
    ),
]
Workers = Annotated[
    int | None,
    options.option(
        "--workers",
        parser=options.whole_number(1, 1000, "a number of processes"),
        metavar="N",
        help="Processes that decompress at once." + options.default_text("one less than there are cores"),
        panel=_PANEL,
        show_default=False,
    ),
]
