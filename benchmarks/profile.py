"""Shows where the time of one instance goes: functions, symbols and system calls of asyncstore's storescu.

    python benchmarks/profile.py                    10,000 x 9 KB to `storescp --ignore --fork`
    python benchmarks/profile.py --set ct --lines 60 -- -j 1
    python benchmarks/profile.py --smoke

Three looks at the same transfer, each in a run of its own because each slows it down: cProfile in this process (the
event loop's thread; what reader threads do is not in this table), `perf record` where perf exists (all threads, C code
and the kernel too), and `strace -c -f` where strace exists. Everything is given for one instance. What follows `--` is
passed on to storescu.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if not __package__:
    # Run as a script: this directory's profile.py must not stand for Python's own, which cProfile imports.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cProfile

from benchmarks.data import prepare
from benchmarks.measure import output_of, run_process
from benchmarks.receivers import RECEIVERS, choose_receiver
from benchmarks.versions import asyncstore_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.data import Files

_SYSTEM_CALL: Final = re.compile(r"^\s*[\d.]+\s+([\d.]+)\s+\d+\s+(\d+)\s+(\d+\s+)?(\w+)$")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What is sent, to which port, with which options of storescu."""

    files: Files
    port: int
    options: list[str]

    def arguments(self) -> list[str]:
        """The arguments of asyncstore."""
        return ["storescu", "-r", *self.options, "127.0.0.1", str(self.port), str(self.files.root)]

    def command(self) -> list[str]:
        """The whole command of a process of its own."""
        return [sys.executable, "-m", "asyncstore", *self.arguments()]


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    calls: int
    own_seconds: float
    all_seconds: float


def _name(code: object) -> str:
    """file:line(function) for Python code, the bare name for a built-in."""
    if isinstance(code, str):
        return code
    filename = str(getattr(code, "co_filename", ""))
    short = filename.rpartition("site-packages/")[2].rpartition("/lib/python")[2]
    short = short.removeprefix(str(Path(__file__).resolve().parent.parent) + "/")
    line, function = getattr(code, "co_firstlineno", 0), getattr(code, "co_qualname", getattr(code, "co_name", ""))
    return f"{short}:{line}({function})"


def profile_functions(transfer: Transfer, lines: int) -> int:
    """Run storescu in this process under cProfile and print the functions that took most; its exit code."""
    profiler = cProfile.Profile()
    started = time.perf_counter()
    profiler.enable()
    from asyncstore.cli.app import run_command_line  # what it imports is a part of every run

    exit_code = run_command_line(transfer.arguments())
    profiler.disable()
    seconds = time.perf_counter() - started
    functions = [
        _Function(_name(entry.code), entry.callcount, entry.inlinetime, entry.totaltime)
        for entry in profiler.getstats()
    ]
    functions.sort(key=lambda function: function.own_seconds, reverse=True)
    count = transfer.files.count
    print(f"cProfile: {seconds / count * 1e6:,.1f} us an instance under the profiler, exit code {exit_code}")
    print(f"{'own us':>10}{'with callees':>14}{'calls':>10}  function")
    for function in functions[:lines]:
        own, all_, calls = function.own_seconds, function.all_seconds, function.calls
        print(f"{own / count * 1e6:10.2f}{all_ / count * 1e6:14.2f}{calls / count:10.2f}  {function.name}")
    print()
    return exit_code


def profile_symbols(transfer: Transfer, lines: int) -> int:
    """Run storescu under perf and print the symbols of all threads, the interpreter's and the kernel's too."""
    with tempfile.TemporaryDirectory(prefix="asyncstore-perf-") as directory:
        record = ["perf", "record", "-q", "-F", "1999", "-o", f"{directory}/perf.data", "--"]
        run = run_process([*record, *transfer.command()])
        report = ["perf", "report", "-i", f"{directory}/perf.data", "--stdio", "-q", "--sort", "dso,symbol"]
        text = output_of(report) or ""
    found = [line.rstrip(" -").split(None, 1) for line in text.splitlines() if re.match(r"^\s*[\d.]+%", line)]
    cpu_us = run.cpu_seconds / transfer.files.count * 1e6
    print(f"perf: {cpu_us:,.1f} us of CPU an instance, exit code {run.exit_code}")
    for share, symbol in found[:lines]:
        print(f"{float(share.rstrip('%')) / 100 * cpu_us:10.2f}  {symbol}")
    print()
    return run.exit_code


def profile_system_calls(transfer: Transfer, lines: int) -> int:
    """Run storescu under strace and print how many system calls an instance needs."""
    with tempfile.TemporaryDirectory(prefix="asyncstore-strace-") as directory:
        counts = Path(directory, "counts")
        run = run_process(["strace", "-c", "-f", "-o", str(counts), *transfer.command()])
        text = counts.read_text() if counts.exists() else ""
    calls = []
    for line in text.splitlines():
        match = _SYSTEM_CALL.match(line)
        if match and match[4] != "total":
            calls.append((int(match[2]), int(match[3] or 0), match[4]))
    calls.sort(reverse=True)
    count = transfer.files.count
    total = sum(number for number, _, _ in calls)
    print(f"strace: {total / count:.2f} system calls an instance, exit code {run.exit_code}")
    print(f"{'calls':>10}{'errors':>10}  system call")
    for number, errors, name in calls[:lines]:
        print(f"{number / count:10.3f}{errors / count:10.3f}  {name}")
    print()
    return run.exit_code


_LOOKS: Final[dict[str, Callable[[Transfer, int], int]]] = {
    "perf": profile_symbols,
    "strace": profile_system_calls,
    "cprofile": profile_functions,
}


def main() -> int:
    """Run the looks that this machine has."""
    parser = argparse.ArgumentParser(description="Where the time of one instance goes in asyncstore's storescu.")
    parser.add_argument("--set", default="small", choices=("small", "ct", "big"), dest="name", help="the files (small)")
    parser.add_argument("--look", nargs="+", choices=_LOOKS, default=list(_LOOKS), help="which of them (all)")
    parser.add_argument("--lines", type=int, default=30, help="of each table (30)")
    parser.add_argument("--smoke", action="store_true", help="tiny files")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="passed on to storescu")
    arguments = parser.parse_args()
    if asyncstore_version() is None:
        print("asyncstore storescu is not available", file=sys.stderr)
        return 1
    files = prepare(f"smoke-{arguments.name}" if arguments.smoke else arguments.name)
    exit_codes = []
    with RECEIVERS[choose_receiver("storescp", "asyncstore")].start() as endpoint:
        transfer = Transfer(files, endpoint.port, arguments.options)
        print(f"{files.count:,} instances, {files.total_bytes:,} bytes: {' '.join(transfer.arguments())}\n")
        for look in arguments.look:
            if look != "cprofile" and not shutil.which(look):
                print(f"{look} is not available\n")
                continue
            exit_codes.append(_LOOKS[look](transfer, arguments.lines))
    return 1 if any(exit_codes) else 0


if __name__ == "__main__":
    sys.exit(main())
