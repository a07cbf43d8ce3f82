"""Draws the pictures of the README: screens of the real program, as SVG.

    pip install '.[pictures]'
    python benchmarks/pictures.py --directory /mnt      write benchmarks/pictures/*.svg
    python benchmarks/pictures.py --smoke               the same with a few files, all in a temporary directory

`asyncstore storescu` sends generated files to `asyncstore storescp --ignore` on this machine. It runs in a
pseudo-terminal of 80 columns, and a terminal emulator (pyte) keeps its screen. One damaged file is among the files, so
the pictures show a failure too. The files and the ledger are made in --directory, whose path the pictures show, and
removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import html
import itertools
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.data import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURES: Final = Path(__file__).parent / "pictures"
COLUMNS: Final = 80
ROWS: Final = 30
PORT: Final = 11112
DAMAGED_BYTES: Final = 300  # of a file that is cut in its data set's first elements
SHOWN_SHARE: Final = 0.6  # how far the transfer is in the picture of a running one

_COUNTS: Final = re.compile(r"([\d,]+)/([\d,]+)\+? instances")
_CELL_WIDTH: Final = 9.0
_LINE_HEIGHT: Final = 18
_MARGIN: Final = 12
_PAPER, _INK = "#1b1f24", "#d8dee4"
_COLOURS: Final = {"green": "#7ee787", "red": "#ff7b72", "brown": "#e3b341"}  # pyte calls yellow brown
_SVG: Final = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>{title}</title>
<rect width="100%" height="100%" rx="8" fill="{paper}"/>
<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="15" fill="{ink}">
{texts}
</g>
</svg>
"""

Line: TypeAlias = "list[tuple[int, str, str]]"
"""The words of a line: the column of each, its colour, and itself."""


class Terminal:
    """A terminal of 80 columns that remembers its screen when a transfer was about 60 % done."""

    def __init__(self) -> None:
        try:
            import pyte
        except ImportError:
            sys.exit("pyte is missing: pip install '.[pictures]'")
        self.screen: Any = pyte.Screen(COLUMNS, ROWS)
        self._stream: Any = pyte.ByteStream(self.screen)
        self._best = 1.0
        self.running: list[Line] = []

    def run(self, *words: str, directory: Path) -> int:
        """Show a prompt and the command, run the command in `directory`, and return its exit code."""
        self._stream.feed(f"\x1b[1;32m$\x1b[0m {shlex.join(words)}\r\n".encode())
        controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ASYNCSTORE_", "COLUMNS"))}
        variables = {
            **kept,
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "LANG": "C.UTF-8",
            "PYTHONPATH": sys.path[0],
        }
        process = subprocess.Popen(
            [Path(sys.executable).with_name(words[0]), *words[1:]],
            cwd=directory,
            env=variables,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        with process, contextlib.suppress(OSError):  # Linux says EIO when the program has closed its end
            while data := os.read(controller, 65536):
                self._stream.feed(data)
                self._look()
        os.close(controller)
        return process.returncode

    def _look(self) -> None:
        for line in self.screen.display:
            counts = _COUNTS.search(line)
            if counts:
                finished, found = (int(number.replace(",", "")) for number in counts.groups())
                distance = abs(finished / max(found, 1) - SHOWN_SHARE)
                if distance < self._best:
                    self._best, self.running = distance, self.lines()

    def lines(self) -> list[Line]:
        """The screen as it is now, without the empty lines at its end."""
        lines = [self._line(self.screen.buffer[row]) for row in range(ROWS)]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _line(self, row: Any) -> Line:
        found: Line = []
        for colour, cells in itertools.groupby(range(COLUMNS), lambda column: row[column].fg):
            columns = list(cells)
            text = "".join(row[column].data for column in columns)
            if word := text.strip():
                found.append((columns[0] + text.index(word), colour, word))
        return found


@contextlib.contextmanager
def receiver(port: int) -> Iterator[None]:
    """A Storage SCP that discards what it receives."""
    command = [sys.executable, "-m", "asyncstore", "storescp", "--ignore", "-v", "-ba", "127.0.0.1", str(port)]
    variables = {**os.environ, "PYTHONPATH": sys.path[0]}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=variables, text=True) as process:
        assert process.stderr is not None
        if "Listening" not in (line := process.stderr.readline()):
            sys.exit(f"the receiver did not start: {line}")
        # Its log is read, or it would wait for room in the pipe.
        with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL):
            try:
                yield
            finally:
                process.terminate()


@contextlib.contextmanager
def archive(directory: Path, name: str) -> Iterator[None]:
    """Make `old` in the directory, a set of files as links and a damaged one; and remove it, and the ledger."""
    files = prepare(name)
    old = directory / "old"
    old.mkdir()
    for study in sorted(files.root.iterdir()):
        (old / study.name).symlink_to(study)
    (old / "cut.dcm").write_bytes(next(iter(files.paths())).read_bytes()[:DAMAGED_BYTES])
    try:
        yield
    finally:
        shutil.rmtree(old)
        (directory / "run.db").unlink(missing_ok=True)


def draw(lines: list[Line], path: Path, title: str) -> None:
    """Write a picture of a screen."""
    texts = []
    for number, line in enumerate(lines, start=1):
        for column, colour, word in line:
            x, y = _MARGIN + column * _CELL_WIDTH, _MARGIN + number * _LINE_HEIGHT - 5
            fill = "" if colour == "default" else f' fill="{_COLOURS.get(colour, f"#{colour}")}"'
            place = f'x="{x:g}" y="{y:g}" textLength="{len(word) * _CELL_WIDTH:g}"'
            texts.append(f"<text {place}{fill}>{html.escape(word, quote=False).replace(' ', '&#160;')}</text>")
    width, height = COLUMNS * _CELL_WIDTH + 2 * _MARGIN, len(lines) * _LINE_HEIGHT + 2 * _MARGIN
    drawn = "\n".join(texts)
    picture = _SVG.format(width=width, height=height, paper=_PAPER, ink=_INK, title=title, texts=drawn)
    path.write_text(picture, encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where `old` and `run.db` are made (a temporary directory)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the receiver, shown in the pictures ({PORT})")
    parser.add_argument("--smoke", action="store_true", help="a few files; leaves the pictures of the README alone")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory = temporary if arguments.smoke else arguments.directory or temporary
        stack.enter_context(archive(directory, "smoke-ct" if arguments.smoke else "ct"))
        stack.enter_context(receiver(arguments.port))
        terminal = Terminal()
        send = ["asyncstore", "storescu", "-r", "--ledger", "run.db", "localhost", str(arguments.port), "old"]
        code = terminal.run(*send, directory=directory)
        assert code == 3, f"storescu ended with {code}, and not with 3 for the damaged file"
        terminal.run("asyncstore", "report", "run.db", directory=directory)
        pictures = temporary if arguments.smoke else PICTURES
        pictures.mkdir(exist_ok=True)
        draw(terminal.running, pictures / "running.svg", "asyncstore storescu sends 2,000 files")
        draw(terminal.lines(), pictures / "finished.svg", "The summary of asyncstore storescu, and asyncstore report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
