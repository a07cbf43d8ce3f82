"""Proof that asyncstore transfers everything: what a receiver kept, byte for byte against the files that were sent.

python benchmarks/delivery.py --smoke       tiny sets of every kind; compare.py --smoke does this too
python benchmarks/delivery.py small ct      sets of full size; they are held in memory for the comparison
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if not __package__:
    # Run as a script: the project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.data import RECIPES, prepare
from benchmarks.peers import SENDERS
from benchmarks.receivers import RECEIVERS, keeping_asyncstore, keeping_storescp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.data import Files


def _data_set(path: Path) -> bytes:
    """The data set of a PS3.10 file: what follows the group 0002, whose length its first element tells (PS3.10 7.1)."""
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def _differences(sent: Files, received: Iterable[Path]) -> list[str]:
    """Data sets are compared as a whole; a receiver may name its files as it likes."""
    expected = {path: _data_set(path) for path in sent.paths()}
    kept = {_data_set(path) for path in received}
    problems = [
        f"{path.relative_to(sent.root)} did not arrive as it is" for path in expected if expected[path] not in kept
    ]
    if len(kept) > len(expected):
        problems.append(f"{len(kept)} data sets arrived, {len(expected)} were sent")
    return problems


SMOKE_SETS: Final = ("smoke-small", "smoke-ct", "smoke-big", "smoke-tree")


def check_delivery(names: Iterable[str] = SMOKE_SETS) -> list[str]:
    """Send sets of files to a receiver that keeps them; returns what is wrong, nothing when all is there.

    DCMTK's storescp where it is installed, else asyncstore's own.
    """
    keeping = keeping_storescp if RECEIVERS["storescp"].missing() is None else keeping_asyncstore
    problems: list[str] = []
    for name in names:
        files = prepare(name)
        with tempfile.TemporaryDirectory(prefix="asyncstore-delivery-") as directory:
            with keeping(Path(directory)) as endpoint:
                run = SENDERS["asyncstore"].run(endpoint.port, files.root, 120)
            if run.exit_code != 0:
                problems.append(f"{name}: asyncstore exit code {run.exit_code}: {run.output.strip()[-300:]}")
            received = [path for path in Path(directory).rglob("*") if path.is_file()]
            problems += [f"{name}: {problem}" for problem in _differences(files, received)[:5]]
    return problems


def main() -> int:
    """Check the sets that were asked for; 1 when something is missing or different."""
    parser = argparse.ArgumentParser(description="Check that asyncstore delivers every data set as it is.")
    parser.add_argument("names", nargs="*", metavar="SET", help=f"any of: {', '.join(RECIPES)}")
    parser.add_argument("--smoke", action="store_true", help="the tiny sets (the default)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(RECIPES))
    if unknown:
        parser.error(f"no such set: {', '.join(unknown)}")
    problems = check_delivery(arguments.names or SMOKE_SETS)
    for problem in problems:
        print(f"FAILED {problem}")
    if not problems:
        print("everything arrived as it is")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
