"""How far a scan is shows on a terminal while it lasts, and leaves nothing there."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import sys
from typing import TYPE_CHECKING

import pyte
import pytest

from asyncstore.cli.output import documented_log, scan_progress
from asyncstore.cli.output.documented_log import QUIET
from asyncstore.inputs.inventory import Inventory
from tests.support.transfers import instance

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of a pseudo-terminal at which a person sits; stderr is the other end meanwhile."""
    seen, written = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(written, "w", encoding="utf-8") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        yield seen
    os.close(seen)


def filled() -> Inventory:
    inventory = Inventory()
    for number in range(3):
        inventory.add(instance(number))
    return inventory


def test_a_line_says_how_far_it_is_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    with terminal(monkeypatch) as seen, documented_log.installed(logging.ERROR) as log:
        with scan_progress.shown(filled(), log, wanted=None):
            while not screen.display[0].startswith("3 files, "):
                stream.feed(os.read(seen, 4096))
            assert " files/s, " in screen.display[0]
            logging.getLogger("asyncstore.cli").error("cannot be read")
        os.write(sys.stderr.fileno(), b"END")
        while not any("END" in row for row in screen.display):
            stream.feed(os.read(seen, 4096))
    assert [row.rstrip() for row in screen.display if row.strip()] == ["E: cannot be read", "END"]


@pytest.mark.parametrize(("level", "wanted"), [(QUIET, None), (logging.ERROR, False)])
def test_nobody_is_shown_what_he_does_not_want(
    level: int, wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_progress, "Screen", None)
    with (
        terminal(monkeypatch),
        documented_log.installed(level) as log,
        scan_progress.shown(filled(), log, wanted=wanted),
    ):
        pass


def test_the_line_has_counts_and_a_rate() -> None:
    assert scan_progress.line_of(filled(), 2.0).startswith("3 files, ")
    assert scan_progress.line_of(filled(), 2.0).endswith(", 2 files/s, 2 s")
    assert scan_progress.line_of(Inventory(), 0.0) == "0 files, 0 bytes, 0 files/s, 0 s"
