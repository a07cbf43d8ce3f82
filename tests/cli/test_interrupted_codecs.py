"""Ctrl-C in a terminal while a codec is at work: what is said, and that no process and no file is left."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS
from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.items import PresentationContextResult
from tests.support import codecs, command
from tests.support.process import children
from tests.support.wire import ScriptedSCP, ScriptError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Wire

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

LIMIT_SECONDS: Final = 120.0
# A codec that says in a file that it has begun, and never ends.
HANGS: Final = """\
import os, signal
open(os.environ["CODEC_BEGUN"], "w").close()
signal.pause()
"""
# The option, a file that needs the codec, one that the peer takes as it is, and what the peer takes.
WORK: Final = {
    "--decompress": ((), "SC_rgb_jpeg_gdcm.dcm", "CT_small.dcm", (EXPLICIT_VR_LITTLE_ENDIAN,)),
    "--transcode": (
        ("--transcode", RLE_LOSSLESS),
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        (EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS),
    ),
}


class Terminal:
    """A command with a terminal of its own; `text` is what it has printed so far."""

    def __init__(self, *arguments: str | Path | int, python_path: Path, **variables: str) -> None:
        import pty

        given, variables = command.words(*arguments), command.environment(**variables)
        variables["PYTHONPATH"] = f"{python_path}{os.pathsep}{variables['PYTHONPATH']}"
        self.process, self._ours = pty.fork()
        if not self.process:
            os.execvpe(given[0], given, variables)
        self._printed = b""

    @property
    def text(self) -> str:
        return self._printed.decode(errors="replace")  # the last character may be there in part

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def read_until(self, wanted: str | None) -> None:
        """Read until this was printed; None: until the command has ended."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while wanted is None or wanted not in self.text:
            assert select.select([self._ours], [], [], max(0, deadline - time.monotonic()))[0], self.text
            try:
                self._printed += os.read(self._ours, 65536)
            except OSError:  # nobody has the terminal open any more
                assert wanted is None, self.text
                return

    def exit_code(self) -> int:
        self.read_until(None)
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        self.process = 0
        return code

    def close(self) -> None:
        os.close(self._ours)
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, 9)
            os.waitpid(self.process, 0)


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Script:
    """A peer that takes some transfer syntaxes, and answers the first instance when it is told to, if ever."""

    def __init__(self, accepted: tuple[str, ...]) -> None:
        self.accepted = accepted
        self.has_one = threading.Event()
        self.may_answer = threading.Event()

    def __call__(self, wire: Wire) -> None:
        request = wire.expect(pdu.AssociateRQ)
        results = []
        for context in request.presentation_contexts:
            chosen = next((uid for uid in self.accepted if uid in context.transfer_syntaxes), "")
            results.append(PresentationContextResult(context.context_id, 0 if chosen else 4, chosen))
        wire.accept(request=request, results=results)
        store = wire.read_store()
        self.has_one.set()
        self.may_answer.wait(LIMIT_SECONDS)
        with contextlib.suppress(ScriptError, OSError):
            wire.answer(store)
            wire.answer_release()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("option", WORK)
def test_ctrl_c_ends_the_codecs(tmp_path: Path, option: str, times: int) -> None:
    words, needs_codec, in_flight, accepted = WORK[option]
    for name in ("codec", "tmp", "in"):
        (tmp_path / name).mkdir()
    (tmp_path / "codec" / "gdcm.py").write_text(HANGS)
    for name in (needs_codec, in_flight):
        shutil.copy(codecs.BUNDLED / name, tmp_path / "in")
    script = Script(accepted)
    variables = {"CODEC_BEGUN": str(tmp_path / "begun"), "TMPDIR": str(tmp_path / "tmp")}
    with ScriptedSCP(script) as scp:
        to = ("127.0.0.1", scp.port)
        path = tmp_path / "codec"
        terminal = Terminal("storescu", "-j", "1", *words, *to, tmp_path / "in", python_path=path, **variables)
        try:
            wait_for_file(tmp_path / "begun")
            assert script.has_one.wait(LIMIT_SECONDS)
            (codec,) = children(terminal.process)
            for _ in range(times):
                terminal.press_ctrl_c()
                terminal.read_until("1 answer to come" if _ == 0 else None)
            script.may_answer.set()
            code = terminal.exit_code()
        finally:
            script.may_answer.set()
            terminal.close()
    assert code == 130
    assert not pathlib.Path(f"/proc/{codec}").exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "Traceback" not in terminal.text
    stored = times == 1
    assert ("1  stored" in terminal.text) is stored
    assert f"Stopped early; {2 - stored} instance" in terminal.text
    assert "Exit code    130: interrupted by Ctrl-C" in terminal.text
