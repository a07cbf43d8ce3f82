"""Makes text from a peer or a file system safe to print: it can neither move the cursor nor forge a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.errors import count_text as count_text  # for the other outputs too

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PEER_TEXT_CHARACTERS: Final = 128  # twice the length of an Error Comment (64)
PATH_CHARACTERS: Final = 4096

_UNITS: Final = ("byte", "kB", "MB", "GB", "TB", "PB")


def peer_text(text: str, limit: int = PEER_TEXT_CHARACTERS) -> str:
    """A peer's text without control characters, cut at `limit` characters."""
    capped = text[: limit + 1]
    if not capped.isprintable():
        capped = "".join(character for character in capped if character.isprintable())
    return capped if len(capped) <= limit else f"{capped[: limit - 1]}…"


def path_text(path: str) -> str:
    """A file name as one line. Unprintable characters are escaped, an undecodable byte as its hexadecimal value."""
    text = escaped(path)
    return text if len(text) <= PATH_CHARACTERS else f"{text[: PATH_CHARACTERS - 1]}…"


def escaped(text: str) -> str:
    """The same without a limit."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode keeps an undecodable byte like this
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def size_text(size_bytes: float) -> str:
    """A number of bytes with three digits, in powers of 1000: "8.61 kB"."""
    unit = 0
    while size_bytes >= 999.5 and unit < len(_UNITS) - 1:
        size_bytes /= 1000
        unit += 1
    if unit == 0:
        return count_text(round(size_bytes), "byte")
    digits = 2 if size_bytes < 9.995 else 1 if size_bytes < 99.95 else 0
    return f"{size_bytes:.{digits}f} {_UNITS[unit]}"


def duration_text(seconds: float, *, digits: int = 2) -> str:
    """A duration: "0.42 s", "3:07", "26:00:00"; `digits` are those of a time below 10 s."""
    if seconds < 59.5:
        return f"{seconds:.{digits}f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02}" if hours else f"{minutes}:{whole_seconds:02}"


def rate_text(per_second: float) -> str:
    """A number per second, with a digit more if it is small: "1,203", "0.3", "0"."""
    return f"{per_second:,.0f}" if per_second >= 9.95 or not per_second else f"{per_second:.1f}"


def tally(rows: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Counts with what they count, a line each."""
    counted = [(f"{count:,}", text) for count, text in rows]
    width = max((len(count) for count, _ in counted), default=1)
    for count, text in counted:
        yield f"  {count:>{width}}  {text}"
