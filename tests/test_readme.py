"""The README says what the program does: its tables are compared with the code, and its examples run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

import asyncstore
from asyncstore.cli.app import load
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.transfer.reactions import STATUS_REACTIONS, Reactions
from benchmarks import performance
from benchmarks.measure import IN_MEMORY
from tests.support import files
from tests.support.command import PROJECT
from tests.support.exit_codes import ALL_EXIT_CODES
from tests.support.transfers import on_one_loop

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (PROJECT / "README.md").read_text(encoding="utf-8")


def rows(title: str) -> Iterator[list[str]]:
    """The cells of each row of the table whose first column has this title."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {title} |"):
            break
    else:
        pytest.fail(f"the README has no table of {title!r}")
    assert next(lines).startswith("|---")
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def quoted(cell: str) -> list[str]:
    """The first word of each piece of code in a cell."""
    return [code.split()[0] for code in re.findall(r"`([^`]+)`", cell)]


def example(name: str) -> str:
    """The Python code between two comments."""
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```\n<!-- /{name} -->", README, re.DOTALL)
    assert found
    return found[1]


def test_each_option_of_storescu_has_a_row_of_its_own() -> None:
    documented = [quoted(cells[0]) for cells in rows("option")]
    params = [param for param in load("storescu").params if param.param_type_name == "option"]
    declared = [{*param.opts, *param.secondary_opts} - {"--recurse", "--required-contexts"} for param in params]
    assert sorted(map(sorted, documented)) == sorted(map(sorted, declared))


def test_each_exit_code_is_told() -> None:
    documented = {int(code) for cells in rows("exit code") for code in cells[0].split(", ")}
    assert documented == ALL_EXIT_CODES - {ExitCode.INTERNAL_ERROR}


def codes_of(cell: str) -> Iterator[int]:
    for word in re.findall(r"[0-9A-F]{4}-[0-9A-F]{4}|[0-9A-Fx]{4}", cell):
        first, _, last = word.partition("-")
        yield from range(int(first.replace("x", "0"), 16), int((last or first).replace("x", "F"), 16) + 1)


def test_the_codes_of_a_row_have_one_reaction_and_all_others_that_of_any_other() -> None:
    def reaction(code: int) -> Reactions:
        return Reactions(next(row.reaction for row in STATUS_REACTIONS if row.first <= code <= row.last))

    told: set[int] = set()
    reactions = []
    for cells in rows("status"):
        if codes := set(codes_of(cells[0])):
            told |= codes
            reactions.append({reaction(code) for code in codes})
    assert [len(names) for names in reactions] == [1] * len(reactions)
    assert {reaction(code) for code in range(0x10000) if code not in told} == {Reactions.AGAIN}


def test_each_reaction_is_told() -> None:
    documented = [name for cells in rows("reaction") for name in quoted(cells[0])]
    assert sorted(documented) == sorted(member.name.lower().replace("_", "-") for member in Reactions)


def test_the_version_is_this_one() -> None:
    assert f"| asyncstore {asyncstore.__version__} |" in README


def test_the_pictures_and_pages_that_it_links_to_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (PROJECT / link).is_file()] == []


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A directory with the files that the examples name."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "ct.dcm").write_bytes(Path(files.bundled("CT_small.dcm")).read_bytes())
    return tmp_path


@on_one_loop
@pytest.mark.parametrize(
    ("name", "stored", "printed"),
    [("example", 3, r"1 stored\n\{'found': 1,.*\n"), ("observer", 1, r"stored study/ct\.dcm\n")],
)
async def test_the_example_runs(name: str, stored: int, printed: str, study: Path) -> None:
    async with asyncstore.StorageSCP(called_ae_titles=["ARCHIVE"], calling_ae_titles=["MIGRATE", "STORESCU"]) as scp:
        code = example(name).replace("11112", str(scp.port))
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(
                [sys.executable, "-c", code], cwd=study, env=environment(), capture_output=True, text=True
            )
        )
        assert scp.stored == stored
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(printed, done.stdout)


def test_the_fixture_works(study: Path) -> None:
    (study / "test_fixture.py").write_text(example("fixture"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_fixture.py"],
        cwd=study,
        env={**environment(), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# -- the table of run times --------------------------------------------------------------------------------------------


def test_the_tables_of_run_times_are_those_of_the_figures() -> None:
    assert performance.differing(json.loads(performance.FIGURES.read_text(encoding="utf-8"))) == []


def test_a_figure_that_changes_is_seen_in_both_tables() -> None:
    figures = json.loads(performance.FIGURES.read_text(encoding="utf-8"))
    figures["small"]["asyncstore"]["seconds"] += 1
    assert performance.differing(figures) == list(performance.TABLES)


def measured(sender: str, seconds: float, *, complete: bool = True) -> dict[str, Any]:
    return {"sender": sender, "seconds": {"median": seconds}, "complete": complete}


def test_a_row_has_the_fastest_sender_of_each_family_that_sent_everything() -> None:
    rows = [
        measured("asyncstore", 1.0),
        measured("asyncstore -j 1", 0.5),  # the row is of the default options
        measured("DCMTK storescu", 2.0),
        measured("DCMTK dcmsend", 1.5, complete=False),
        measured("dicom-rs -c 1", 9.0),
        measured("dicom-rs -c 2", 0.1234),
    ]
    scene = {"scene": "small", "missing": None, "remarks": [], "rows": rows}
    in_memory = {"scene": "cold-small", "missing": None, "remarks": [f"{IN_MEMORY}."], "rows": rows}
    absent = {"scene": "orthanc", "missing": "not available", "remarks": [], "rows": []}
    results = {"date": "2026-11-28T12:00:00", "rounds": 9, "scenes": [scene, in_memory, absent]}
    figures = performance.figures_of(results)
    assert list(figures) == ["small"]
    made = performance.table(figures, tuple(performance.ROWS)).splitlines()
    assert made[2] == "| 10,000 x 9 KB, DCMTK storescp | 1.00 s | 2.00 s | 0.123 s (`-c 2`) |"
    assert "measured on 2026-11-28" in made[4]


def test_a_text_with_no_place_for_the_table_or_two_is_refused() -> None:
    place = "<!-- performance -->\n<!-- /performance -->\n"
    assert performance.with_table(place, "x\n") == "<!-- performance -->\nx\n<!-- /performance -->\n"
    for text in ("", place + place):
        with pytest.raises(ValueError, match="one table"):
            performance.with_table(text, "x\n")
