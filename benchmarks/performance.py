"""Makes the tables of run times in README.md and benchmarks/README.md from the figures in performance.json.

    python benchmarks/performance.py                     measures all rows (40 minutes), and writes figures and tables
    python benchmarks/performance.py --scene small ct    measures these rows only; the others stay
    python benchmarks/performance.py --from FILE.json    takes a file that compare.py has written
    python benchmarks/performance.py --check             exit 1 unless the tables are those of the figures
    python benchmarks/performance.py --smoke             measures tiny files, and prints the table

compare.py measures: see there for how. A table stands between two marks, and is all that this script changes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

if not __package__:
    # Run as a script: the project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.measure import IN_MEMORY, PROJECT
from benchmarks.scenes import SCENES

FIGURES: Final = PROJECT / "benchmarks" / "performance.json"
# Each scene with the words of its row.
ROWS: Final = {
    "small": "10,000 x 9 KB, DCMTK storescp",
    "ct": "2,000 x 512 KB, DCMTK storescp",
    "big": "4 x 256 MB, DCMTK storescp",
    "one": "1 x 9 KB, DCMTK storescp",
    "short-small": "2,000 x 9 KB, DCMTK storescp",
    "short-ct": "500 x 512 KB, DCMTK storescp",
    "cold-small": "10,000 x 9 KB, on a disk, nothing in memory",
    "cold-many": "60,000 x 9 KB, on a disk, nothing in memory",
    "cold-ct": "2,000 x 512 KB, on a disk, nothing in memory",
    "stock": "500 x 512 KB, storescp without TCP_NODELAY",
    "orthanc": "500 x 512 KB, Orthanc as installed",
    "latency": "500 x 512 KB, 20 ms round trip",
    "tls-small": "10,000 x 9 KB by TLS, DCMTK storescp",
    "tls-ct": "2,000 x 512 KB by TLS, DCMTK storescp",
    "tls-big": "4 x 256 MB by TLS, DCMTK storescp",
}
# The file of each table, and which rows it has.
TABLES: Final = {
    PROJECT / "README.md": ("small", "ct", "cold-small", "orthanc", "latency"),
    PROJECT / "benchmarks" / "README.md": tuple(ROWS),
}
_GROUPS: Final = tuple(dict.fromkeys(scene.group for scene in SCENES if scene.name in ROWS))
_NAMES: Final = tuple(dict.fromkeys((*_GROUPS, *ROWS)))
# Ours is what the scene names first: the command with its default options.
_FAMILIES: Final = {
    "asyncstore": ("asyncstore", "asyncstore --tls"),
    "dcmtk": ("DCMTK storescu", "DCMTK dcmsend", "DCMTK storescu +tls"),
    "dicom-rs": tuple(f"dicom-rs -c {number}{tls}" for number in (1, 2, 4) for tls in ("", " --tls")),
}
_HEADINGS: Final = (
    "what is sent, and to which receiver",
    "asyncstore",
    "DCMTK, the better of storescu and dcmsend",
    "dicom-rs, with as many associations as the cell says",
)
_MARKED: Final = re.compile(r"(<!-- performance -->\n).*?(<!-- /performance -->\n)", re.DOTALL)


def figures_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures in what compare.py has measured: of each scene the fastest sender of a family and its median."""
    figures = {}
    for scene in results["scenes"]:
        if scene["scene"] not in ROWS:
            continue
        why = scene["missing"] or next((remark for remark in scene["remarks"] if remark.startswith(IN_MEMORY)), None)
        if why:
            print(f"{scene['scene']}: not measured: {why}", file=sys.stderr)
            continue
        seconds = {row["sender"]: row["seconds"]["median"] for row in scene["rows"] if row["complete"]}
        best = {
            family: min((seconds[name], name) for name in names if name in seconds)
            for family, names in _FAMILIES.items()
            if any(name in seconds for name in names)
        }
        figures[scene["scene"]] = {
            "date": results["date"][:10],
            "rounds": results["rounds"],
            **{family: {"seconds": round(time, 4), "sender": name} for family, (time, name) in best.items()},
        }
    return figures


def table(figures: dict[str, dict[str, Any]], scenes: tuple[str, ...]) -> str:
    """The table of these scenes, as Markdown, and when and how it was measured."""
    measured = [scene for scene in scenes if scene in figures]
    lines = [f"| {' | '.join(_HEADINGS)} |", "|---" * len(_HEADINGS) + "|"]
    for scene in measured:
        cells = [ROWS[scene], *(_cell(figures[scene].get(family)) for family in _FAMILIES)]
        lines.append(f"| {' | '.join(cells)} |")
    dates = sorted({figures[scene]["date"] for scene in measured})
    when = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
    note = f"Medians, measured {when}. To measure again and write this table: `python benchmarks/performance.py`."
    return "\n".join([*lines, "", note, ""])


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    found = re.search(r"-c \d+", figure["sender"])
    return f"{figure['seconds']:#.3g} s" + (f" (`{found[0]}`)" if found else "")


def with_table(text: str, made: str) -> str:
    """A text with another table between its marks. Raises ValueError if it does not have them once."""
    if len(_MARKED.findall(text)) != 1:
        raise ValueError("there must be one table between <!-- performance --> and <!-- /performance -->")
    return _MARKED.sub(lambda found: found[1] + made + found[2], text)


def differing(figures: dict[str, dict[str, Any]]) -> list[Path]:
    """The files whose table is not that of the figures."""
    return [
        path
        for path, scenes in TABLES.items()
        if (text := path.read_text(encoding="utf-8")) != with_table(text, table(figures, scenes))
    ]


def _measure(scenes: list[str], rounds: int, *, smoke: bool) -> dict[str, Any]:
    senders = [name for names in _FAMILIES.values() for name in names]
    program = [sys.executable, str(PROJECT / "benchmarks" / "compare.py"), "--json", "--rounds", str(rounds)]
    options = ["--scene", *scenes, "--sender", *senders, *(["--smoke"] if smoke else [])]
    run = subprocess.run([*program, *options], stdout=subprocess.PIPE, check=False)
    if run.returncode:
        raise SystemExit("asyncstore did not send everything: nothing is written")
    results: dict[str, Any] = json.loads(run.stdout)
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the run times in README.md, or check the tables.")
    parser.add_argument("--scene", nargs="+", choices=_NAMES, metavar="NAME", help=f"any of: {', '.join(_NAMES)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count, after a warm-up (5)")
    parser.add_argument("--from", dest="results", type=Path, metavar="FILE", help="results that compare.py has written")
    parser.add_argument("--check", action="store_true", help="only compare the tables with the figures")
    parser.add_argument("--smoke", action="store_true", help="tiny files, in seconds; nothing is written")
    return parser


def main() -> int:
    """Measure or take the figures, and write or check the tables."""
    arguments = _parser().parse_args()
    figures: dict[str, dict[str, Any]] = json.loads(FIGURES.read_text(encoding="utf-8"))
    if arguments.check:
        wrong = differing(figures)
        for path in wrong:
            print(f"{path.relative_to(PROJECT)}: its table is not that of {FIGURES.name}", file=sys.stderr)
        return 1 if wrong else 0
    if arguments.results is not None:
        results = json.loads(arguments.results.read_text(encoding="utf-8"))
    else:
        results = _measure(arguments.scene or list(_GROUPS), arguments.rounds, smoke=arguments.smoke)
    measured = figures_of(results)
    if arguments.smoke:
        print(table(measured, tuple(ROWS)))
        return 0
    figures.update(measured)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for path, scenes in TABLES.items():
        path.write_text(with_table(path.read_text(encoding="utf-8"), table(figures, scenes)), encoding="utf-8")
    print(table(figures, tuple(ROWS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
