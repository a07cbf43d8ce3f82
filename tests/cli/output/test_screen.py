"""Lines at the bottom of a terminal: whatever happens, what is left on the screen is the log and nothing else."""

from __future__ import annotations

import os
import pty
import termios
from typing import TYPE_CHECKING, Final

import pyte
import pytest

from asyncstore.cli.output import screen
from asyncstore.cli.output.screen import Screen, Span, cut_in_the_middle, has_unicode, is_capable, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class KeepingScreen(pyte.HistoryScreen):
    """What tmux does: the whole screen goes into the history when everything from its first row on is erased."""

    def erase_in_display(self, how: int = 0, *args: object, **known: object) -> None:
        if how == 0 and (self.cursor.x, self.cursor.y) == (0, 0):
            self.history.top.extend(self.buffer.pop(row) for row in range(self.lines) if self.buffer[row])
        super().erase_in_display(how, *args, **known)


_MARK: Final = b"\0"


class Terminal:
    """A terminal of 40 columns and 8 rows, and what is on it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.stream: TextIO = open(theirs, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._screen = KeepingScreen(40, 8, history=1000)
        self._emulator = pyte.ByteStream(self._screen)
        self.written = b""
        self.resize(40, 8)

    def resize(self, columns: int, rows: int) -> None:
        termios.tcsetwinsize(self.stream.fileno(), (rows, columns))

    def type(self, data: bytes) -> None:
        """Show what a terminal echoes."""
        self._emulator.feed(data)

    @property
    def rows(self) -> list[str]:
        """What is on the screen, and above it, without empty rows at the end."""
        os.write(self.stream.fileno(), _MARK)  # the system passes on what was written when it has the time
        data = b""
        while not data.endswith(_MARK):
            data += os.read(self._ours, 65536)
        self.written += data.removesuffix(_MARK)
        self._emulator.feed(data.removesuffix(_MARK))
        above = ["".join(row[column].data for column in range(40)).rstrip() for row in self._screen.history.top]
        rows = above + [row.rstrip() for row in self._screen.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("LC_ALL", "LC_CTYPE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    terminal = Terminal()
    yield terminal
    terminal.close()


def lines(*texts: str) -> list[list[Span]]:
    return [[Span(text, "green")] for text in texts]


def test_lines_are_drawn_over_the_earlier_ones_and_taken_away_at_the_end(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines("one", "two", "three"))
    assert terminal.rows == ["one", "two", "three"]
    display.draw(lines("four"))
    assert terminal.rows == ["four"]
    display.clear()
    display.clear()
    assert terminal.rows == []


def test_the_log_is_above_whole_and_in_order(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines("bar", "row"))
    long = "E: " + "x" * 70
    display.print_above("I: first")
    display.print_above(long)
    display.print_above("I: a\nI: b")
    display.draw(lines("bar", "row"))
    assert terminal.rows == ["I: first", long[:40], long[40:], "I: a", "I: b", "bar", "row"]
    display.print_above("W: last")
    display.clear()
    assert terminal.rows[-2:] == ["I: b", "W: last"]


def test_lines_that_fill_the_terminal_leave_nothing_above(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    full = [f"row {number}" for number in range(7)]
    for _ in range(3):
        display.draw(lines(*full))
    assert terminal.rows == full
    display.print_above("I: first")
    display.draw(lines(*full))
    display.draw(lines(*full))
    assert terminal.rows == ["I: first", *full]


def test_many_log_lines_are_printed_together_and_none_is_lost(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines("bar"))
    for number in range(300):
        display.print_above(f"I: {number}")
    assert terminal.written.count(b"bar") < 10
    display.clear()
    assert terminal.rows == [f"I: {number}" for number in range(300)]


def test_a_log_line_appears_at_once_where_nothing_is_drawn_yet(terminal: Terminal) -> None:
    Screen(terminal.stream).print_above("E: no")
    assert terminal.rows == ["E: no"]


def test_what_ctrl_c_echoes_goes_away(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines("bar", "row"))
    assert terminal.rows
    terminal.type(b"^C")
    display.draw(lines("bar", "row"))
    assert terminal.rows == ["bar", "row"]
    terminal.type(b"^C")
    display.clear()
    assert terminal.rows == []


def test_no_line_is_wider_or_lower_than_the_terminal(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines(*(f"{number}{'日本' * 30}" for number in range(12))))
    assert len(terminal.rows) == 7
    assert all(width_of(row.replace(" ", "")) <= 39 for row in terminal.rows)
    display.clear()
    assert terminal.rows == []


def test_a_narrower_terminal_has_wrapped_what_it_shows(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines("a" * 39, "b" * 10))
    terminal.resize(20, 8)
    display.draw(lines("c"))
    assert terminal.rows is not None
    assert b"\r\x1b[3A\x1b[K" in terminal.written  # two rows of the first, one of the second


def test_after_somebody_else_has_written_the_lines_begin_anew(terminal: Terminal) -> None:
    display = Screen(terminal.stream)
    display.draw(lines("bar"))
    assert terminal.rows == ["bar"]
    terminal.type(b"$ fg\r\n")
    display.forget()
    display.draw(lines("bar"))
    assert terminal.rows == ["bar", "$ fg", "bar"]


def test_nothing_is_drawn_in_the_background_but_the_log_goes_on(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    display = Screen(terminal.stream)
    display.draw(lines("bar"))
    display.print_above("W: something")
    display.clear()
    assert terminal.rows == ["W: something"]


def test_a_terminal_that_takes_nothing_is_not_waited_for(terminal: Terminal) -> None:
    """After Ctrl-S a terminal takes nothing more: the transfer must not stop for the display."""
    termios.tcflow(terminal.stream.fileno(), termios.TCOOFF)
    display = Screen(terminal.stream)
    display.draw(lines("bar"))
    termios.tcflow(terminal.stream.fileno(), termios.TCOON)
    assert terminal.rows == []
    display.draw(lines("bar"))
    assert terminal.rows == ["bar"]


def test_colours_and_other_characters_are_used_only_where_they_are_wanted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LANG", "C")
    display = Screen(terminal.stream)
    display.draw(lines("ö…"))
    assert terminal.rows == ["\\xf6\\u2026"]
    assert b"\x1b" not in terminal.written


@pytest.mark.parametrize(
    ("variables", "encoding", "expected"),
    [
        ({"LANG": "de_DE.UTF-8"}, "utf-8", True),
        ({"LANG": "C.utf8", "LC_CTYPE": "C.UTF-8"}, "utf-8", True),
        ({"LC_ALL": "C", "LANG": "en_US.UTF-8"}, "utf-8", False),
        ({"LC_CTYPE": "C.UTF-8"}, "utf-8", False),  # Python has set it
        ({"LC_CTYPE": "en_US.UTF-8", "LANG": "C"}, "utf-8", True),
        ({"LANG": "de_DE.UTF-8"}, "iso8859-1", False),
        ({}, None, False),
    ],
)
def test_more_than_ascii_is_shown_where_the_locale_says_so(
    variables: dict[str, str], encoding: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.setenv(name, variables.get(name, ""))
    assert has_unicode(encoding) is expected


def test_lines_are_drawn_on_a_terminal_that_can_move_its_cursor(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, expected in (("xterm", True), ("dumb", False), ("unknown", False)):
        monkeypatch.setenv("TERM", name)
        assert is_capable(terminal.stream) is expected
    with open(os.devnull, "w", encoding="utf-8") as stream:
        assert not is_capable(stream)


def test_a_terminal_of_unknown_size_has_that_of_the_environment(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.resize(0, 0)
    monkeypatch.setenv("COLUMNS", "132")
    monkeypatch.setenv("LINES", "lots")
    assert Screen(terminal.stream).size == (132, 24)


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("short", 5, "short"),
        ("/mnt/archive/study/series/0001.dcm", 20, "/mnt/a…ries/0001.dcm"),
        ("日本語日本語", 7, "日…本語"),
        ("abcdef", 1, "a"),
        ("abcdef", 0, ""),
    ],
)
def test_the_middle_of_a_path_is_cut(text: str, columns: int, expected: str) -> None:
    assert cut_in_the_middle(text, columns, "…") == expected
    assert width_of(expected) <= columns


def test_a_combining_character_takes_no_column() -> None:
    assert width_of("e\u0301") == 1
    assert screen.cut([Span("ab"), Span("cd")], 3) == [Span("ab"), Span("c")]
