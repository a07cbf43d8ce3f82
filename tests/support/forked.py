"""The command in a process that forks from one that has loaded it all: a start costs 10 ms and not 300.

For tests that run it a hundred times and look at what its process leaves: exit code, output, memory. The first run
starts cold, and says what else is to be loaded for the next ones.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tests.support import command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Ran(NamedTuple):
    """The exit code of a run, negative for a signal, and the most memory that its process had."""

    code: int
    memory_bytes: int


class Commands:
    """Runs `asyncstore` again and again, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, words: Sequence[str | Path | int], output: Path, seconds: float) -> Ran:
        """Run it with these arguments, stdout and stderr into one file; TimeoutError if it takes longer."""
        told = output.with_name(f"{output.name}.told")
        asked = {"words": [str(word) for word in words], "output": str(output), "told": str(told)}
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(f"{json.dumps(asked)}\n")
        requests.flush()
        if not select.select([answers], [], [], seconds)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)  # no later run takes the answer to this one for its own
            raise TimeoutError(f"it takes longer than {seconds:g} s: {output.read_text(errors='replace')[-2000:]}")
        code = int(answers.readline())
        return Ran(code, json.loads(told.read_text())["memory_bytes"] if told.exists() else 0)


@contextlib.contextmanager
def commands() -> Iterator[Commands]:
    """The process that forks; it ends with all that it has started."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=command.environment(),
        cwd=command.PROJECT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Commands(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Answer each request, a line of JSON, with the exit code of its run."""
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            _run(asked)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(FileNotFoundError), open(asked["told"], encoding="utf-8") as told:
            for name in json.load(told)["modules"]:
                with contextlib.suppress(ImportError):  # one that was made, and has no file
                    importlib.import_module(name)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def _run(asked: dict[str, Any]) -> NoReturn:
    """Be the command: in this process, which leaves a word of itself."""
    leave = os._exit

    def tell_and_leave(status: int) -> NoReturn:
        with open("/proc/self/status", encoding="utf-8") as file:
            peak = re.search(r"VmHWM:\s+(\d+)", file.read())
        assert peak is not None
        modules = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None) is not None]
        with open(asked["told"], "w", encoding="utf-8") as told:
            json.dump({"memory_bytes": int(peak[1]) * 1024, "modules": modules}, told)
        leave(status)

    os._exit = tell_and_leave
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["asyncstore", *asked["words"]]
        from asyncstore.__main__ import main as asyncstore

        asyncstore()
    except BaseException:
        traceback.print_exc()
        leave(70)


if __name__ == "__main__":
    main()
