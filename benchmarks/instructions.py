"""Counts the instructions that storescu needs for one small instance, and for its start-up.

    python benchmarks/instructions.py             about a minute; exit code 1 if a count is above its ceiling
    python benchmarks/instructions.py --smoke     few files and no ceilings: only that it works

Seconds differ from machine to machine and from minute to minute, and hide a change of 5 %. Cachegrind (valgrind) counts
the user instructions of a whole process. The receiver is DCMTK's storescp as it is installed, which writes each answer
in two pieces. With a clock that does not depend on the machine (steady.py), and without a window, so that each answer
comes alone, the count differs by 1 % from run to run. Two numbers of files give the cost of one more and of none. It
also shows which imports the start-up pays for, and the calls of Python functions by module, counted by cProfile.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if not __package__:
    # Run as a script: this directory's profile.py must not stand for Python's own, which cProfile imports.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cProfile
from collections import Counter

from benchmarks.data import part, prepare
from benchmarks.receivers import RECEIVERS

if TYPE_CHECKING:
    from benchmarks.data import Files

# Above the counts of the slower of two Pythons by 16 %: a change that costs a quarter more is seen on any machine,
# whatever its processor, its C library and its Python were built for.
MOST_PER_INSTANCE: Final = 230_000
MOST_AT_START: Final = 605_000_000

FEW: Final = 200
MANY: Final = 1200
TRIES: Final = 3  # a count that is above its ceiling is taken again
IMPORTS: Final = (
    ("the interpreter", "pass"),
    ("asyncio", "import asyncio"),
    ("anyio", "import anyio, anyio._backends._asyncio"),
    ("typer", "import typer"),
    ("asyncstore", "import asyncstore.cli.commands.storescu, asyncstore.cli.sending, asyncstore.transfer.engine"),
)
_PROJECT: Final = Path(__file__).resolve().parent.parent
# All that a run sees of the environment, whatever else it says.
_VARIABLES: Final = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONPATH": str(_PROJECT)}
_KEPT: Final = ("PATH", "HOME", "TMPDIR")
_COUNT: Final = re.compile(rb"I\s+refs:\s+([\d,]+)")


def instructions(*words: str) -> int:
    """The user instructions of this Python with these arguments, whatever else the environment says."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", sys.executable]
    variables = {**_VARIABLES, **{name: os.environ[name] for name in _KEPT if name in os.environ}}
    done = subprocess.run([*command, *words], capture_output=True, env=variables, check=False)
    found = _COUNT.search(done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr.decode()[-2000:]}")
    return int(found[1].replace(b",", b""))


def arguments(files: Files, port: int) -> list[str]:
    """One association, no window and no display: what happens once in a while would only blur the counts."""
    options = ["-r", "-j", "1", "-w", "1", "--no-count", "--no-progress"]
    return ["storescu", *options, "127.0.0.1", str(port), str(files.root)]


def counted(small: Files, large: Files, port: int) -> tuple[float, float]:
    """The instructions of storescu for one instance more, and for none."""
    at_few, at_many = (instructions("-m", "benchmarks.steady", *arguments(files, port)) for files in (small, large))
    per_instance = (at_many - at_few) / (large.count - small.count)
    return per_instance, at_few - small.count * per_instance


def imports() -> list[tuple[str, int]]:
    """What each import costs after those before it."""
    costs, before, total = [], "", 0
    for name, statement in IMPORTS:
        before = f"{before}\n{statement}"
        cost = instructions("-c", before)
        costs.append((name, cost - total))
        total = cost
    return costs


def calls(files: Files, port: int) -> Counter[str]:
    """How often storescu calls the Python functions of each module for these files."""
    from asyncstore.cli.app import run_command_line

    profiler = cProfile.Profile()
    profiler.enable()
    run_command_line(arguments(files, port))
    profiler.disable()
    count_of: Counter[str] = Counter()
    for entry in profiler.getstats():
        if not isinstance(entry.code, str):
            path = entry.code.co_filename.rpartition("site-packages/")[2].rpartition("/lib/")[2]
            count_of[path.removeprefix(f"{_PROJECT}/")] += entry.callcount
    return count_of


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few files, one round, no ceilings")
    options = parser.parse_args()
    receiver = RECEIVERS["stock storescp"]
    missing = receiver.missing() or (None if shutil.which("valgrind") else "not available: no valgrind")
    if missing:
        print(missing)
        return 0 if options.smoke else 2
    compileall.compile_dir(_PROJECT / "asyncstore", quiet=1)  # a run that compiles first would count that too
    whole = prepare("smoke-small" if options.smoke else "small")
    few, many = (10, 60) if options.smoke else (FEW, MANY)
    with receiver.start() as endpoint:
        small, large = part(whole, few), part(whole, many)
        calls(small, endpoint.port)  # imports what is imported once
        called = calls(large, endpoint.port)
        called.subtract(calls(small, endpoint.port))
        for _ in range(1 if options.smoke else TRIES):
            per_instance, at_start = counted(small, large, endpoint.port)
            is_above = per_instance > MOST_PER_INSTANCE or at_start > MOST_AT_START
            if not is_above:
                break
    print(f"{per_instance:15,.0f}  instructions an instance (at most {MOST_PER_INSTANCE:,})")
    print(f"{at_start:15,.0f}  at the start (at most {MOST_AT_START:,})")
    for name, cost in imports():
        print(f"{cost:15,}    import: {name}")
    print("Calls of Python functions an instance, by module")
    for module, count in called.most_common(24):
        if count > 0:
            print(f"{count / (many - few):15.2f}  {module}")
    return int(is_above and not options.smoke)


if __name__ == "__main__":
    raise SystemExit(main())
