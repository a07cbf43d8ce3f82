"""Some lines at the bottom of a terminal that are drawn again and again, with the log above them.

No mode of the terminal is changed and the cursor stays visible, in a line of its own below: whatever ends the process,
the terminal is as it was. Everything is written in one piece, so that nothing flickers.
"""

from __future__ import annotations

import os
import select
import time
import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_SGR: Final = {"": "", "dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"
_UP: Final = "\x1b[A"
_DOWN: Final = "\x1b[B"
_REDRAW_SECONDS: Final = 0.25
_MOST_WITHHELD: Final = 65536
_USUAL_SIZE: Final = (80, 24)
_INCAPABLE: Final = ("dumb", "unknown")

Style: TypeAlias = str


class Span(NamedTuple):
    """A piece of a line, in a style."""

    text: str
    style: Style = ""


Line: TypeAlias = "Sequence[Span]"


class Screen:
    """The lines at the bottom of the terminal behind `stream`.

    `has_unicode`: it can be expected to show more than ASCII.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.has_unicode: bool = has_unicode(stream.encoding)
        self._has_colours = not os.environ.get("NO_COLOR")
        self._drawn: list[int] = []  # the width of each line that is on the screen
        self._lines: list[Line] = []
        self._withheld: list[str] = []
        self._written_at = -_REDRAW_SECONDS

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, rows = 0, 0
        usual_columns, usual_rows = _USUAL_SIZE
        return columns or _number("COLUMNS") or usual_columns, rows or _number("LINES") or usual_rows

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines instead of the earlier ones, as far as they fit, and what was withheld above them.

        Nothing happens while the terminal takes nothing (Ctrl-S), or while the process is in the background.
        """
        self._lines = list(lines) if self.has_unicode else [[*map(_in_ascii, line)] for line in lines]
        if self._takes_text() and self._is_in_foreground():
            self._write()

    def print_above(self, text: str) -> None:
        """Print whole lines above; many in a row are printed together."""
        self._withheld.append(text)
        is_much = sum(map(len, self._withheld[-2:])) > _MOST_WITHHELD or len(self._withheld) > _MOST_WITHHELD // 64
        if is_much or time.monotonic() - self._written_at >= _REDRAW_SECONDS or not self._lines:
            self._write()

    def clear(self) -> None:
        """Take the lines away, and print what was withheld."""
        self._lines = []
        if self._drawn or self._withheld:
            self._write()

    def forget(self) -> None:
        """Leave what is on the screen: somebody else has written to it."""
        self._drawn = []

    def _write(self) -> None:
        columns, rows = self.size
        shown = [cut(line, columns - 1) for line in self._lines[: max(0, rows - 1)]] if self._is_in_foreground() else []
        parts = [self._erasing(columns), *(f"{text}\n" for text in self._withheld)]
        parts.extend(f"{self._painted(line)}\n" for line in shown)
        self._drawn = [sum(width_of(span.text) for span in line) for line in shown]
        self._withheld.clear()
        self._written_at = time.monotonic()
        self._stream.write("".join(parts))
        self._stream.flush()

    def _erasing(self, columns: int) -> str:
        """The way to the first line on the screen, and what erases all below.

        A terminal that has become narrower has wrapped the longer ones. The ^C of a Ctrl-C is in the cursor's line. The
        first line is erased by itself: tmux keeps all that is erased from the first row of the screen on.
        """
        if not self._drawn:
            return ""
        rows = sum(max(1, -(-width // columns)) for width in self._drawn)
        return f"\r\x1b[{rows}A{_ERASE_LINE}{_DOWN}{_ERASE_BELOW}{_UP}"

    def _painted(self, line: Line) -> str:
        if not self._has_colours:
            return "".join(span.text for span in line)
        return "".join(
            f"\x1b[{_SGR[span.style]}m{span.text}\x1b[0m" if _SGR[span.style] and span.text else span.text
            for span in line
        )

    def _takes_text(self) -> bool:
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        except (OSError, ValueError):
            return True

    def _is_in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError, AttributeError):
            return True  # not the terminal of this process group: nobody else is at it


def is_capable(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which lines can be drawn again."""
    return stream.isatty() and os.environ.get("TERM", "") not in _INCAPABLE


def has_unicode(encoding: str | None) -> bool:
    """Whether the terminal shows more than ASCII.

    Python itself may have set LC_CTYPE to C.UTF-8, and speaks UTF-8 in any case: that says nothing about the terminal.
    """
    character_type = os.environ.get("LC_CTYPE", "")
    character_type = "" if character_type == "C.UTF-8" else character_type
    locale = os.environ.get("LC_ALL") or character_type or os.environ.get("LANG", "")
    return all("utf" in name.lower() for name in (encoding or "", locale))


def width_of(text: str) -> int:
    """How many columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(line: Line, columns: int) -> Line:
    """A line that takes at most so many columns."""
    kept: list[Span] = []
    for span in line:
        if width_of(span.text) > columns:
            kept.append(Span(_start_of(span.text, columns), span.style))
            break
        kept.append(span)
        columns -= width_of(span.text)
    return kept


def cut_in_the_middle(text: str, columns: int, mark: str) -> str:
    """A text that takes at most so many columns: its beginning and its end, which say most about a path."""
    if width_of(text) <= columns:
        return text
    room = columns - width_of(mark)
    if room <= 0:
        return _start_of(text, columns)
    end = _start_of(text[::-1], room - room // 3)[::-1]
    return f"{_start_of(text, room - width_of(end))}{mark}{end}"


def _start_of(text: str, columns: int) -> str:
    if text.isascii():
        return text[: max(0, columns)]
    length = 0
    for character in text:
        columns -= _width(character)
        if columns < 0:
            break
        length += 1
    return text[:length]


def _in_ascii(span: Span) -> Span:
    return Span(span.text.encode("ascii", "backslashreplace").decode("ascii"), span.style)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
