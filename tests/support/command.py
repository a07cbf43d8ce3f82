"""The real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).parents[2]
FINISH_SECONDS = 120.0


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command: this one without options of asyncstore, the terminal as wide as the document's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCSTORE_")}
    python_path = os.pathsep.join(filter(None, (str(PROJECT), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": python_path, "COLUMNS": "100", **extra}


def words(*arguments: str | Path | int) -> list[str]:
    """The command line of `asyncstore` with these arguments, in this Python."""
    return [sys.executable, "-m", "asyncstore", *map(str, arguments)]


def run(
    *arguments: str | Path | int,
    variables: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `asyncstore` to its end; stdout and stderr are pipes, so no terminal."""
    done = subprocess.run(
        words(*arguments),
        input=stdin,
        capture_output=True,
        env=environment(**(variables or {})),
        cwd=directory,
        timeout=FINISH_SECONDS,
        check=False,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def start(
    *arguments: str | Path | int, variables: Mapping[str, str] | None = None, directory: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `asyncstore` in a process group of its own, its output piped."""
    return subprocess.Popen(
        words(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**(variables or {})),
        cwd=directory,
        start_new_session=True,
    )
