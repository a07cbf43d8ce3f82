"""What the targets of fuzz.py share: a target itself, what must hold, and bytes cut into pieces."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Violation(Exception):
    """Something that must hold for every input did not."""


def check(holds: bool, text: str) -> None:
    if not holds:
        raise Violation(text)


@dataclass(frozen=True)
class Target:
    """A decoder: what to run on an input, what inputs are made from, and how often it has its turn.

    `run` raises for a finding. `is_pdu` says that the inputs begin with the header of a PDU. Beside what grows with the
    length of an input, a run may take this time of the processor and this memory.
    """

    run: Callable[[bytes], object]
    corpus: Sequence[bytes]
    weight: int = 1
    is_pdu: bool = False
    seconds: float = 0.1
    memory_bytes: int = 1 << 18


def pieces_of(data: bytes) -> list[bytes]:
    """The bytes cut at a few places that depend on them alone, sometimes one by one."""
    number = zlib.crc32(data)
    if 0 < len(data) < 64 and number & 15 == 0:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted((number >> shift) % (len(data) + 1) for shift in (0, 5, 11))
    return [data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)]
