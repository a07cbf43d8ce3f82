"""The stations of a transfer: each hands on to the ones below it, and none knows or calls one above."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from asyncstore.inputs.feed import Feed
from asyncstore.services.storage import send
from tests.test_floors import imports_of

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSFER: Final = Path(__file__).parents[2] / "asyncstore" / "transfer"
MODULES: Final = {path.stem: path.read_text(encoding="utf-8") for path in sorted(TRANSFER.glob("*.py"))}
# From the top down. Those of one row do not know each other; the last row is beside all the others.
STATIONS: Final = (
    ("engine", "acceptance"),
    ("supervisor",),
    ("pool",),
    ("worker",),
    ("admission",),
    ("attempts", "learned"),
    ("judge", "outcomes", "duplicates", "preparing", "offer"),
    ("work", "destination", "limiter"),
    ("suspects", "groups"),
    ("pending",),
    ("plan",),
    ("options",),
    ("limits",),
    ("observer",),
    ("reactions", "concurrency", "report", "trace", "throttle", "schedule", "view"),
)
ROW_OF: Final = {name: row for row, names in enumerate(STATIONS) for name in names}
# What asks a peer about the instances that it has: no station, and a transfer does without it.
BESIDE: Final = {path.stem: path.read_text(encoding="utf-8") for path in sorted((TRANSFER / "proof").glob("*.py"))}
# What may be called from below: by an association its worker, and by the feed the admission.
UPWARDS: Final = {"_on_begin", "_on_response", "deliver"}


def stations_known_to(module: str) -> Iterator[tuple[str, int]]:
    """Every station that a module imports from, and the line; what is for type checkers only counts too."""
    yield from _known_to(f"asyncstore.transfer.{module}", MODULES[module])


def _known_to(module: str, source: str) -> Iterator[tuple[str, int]]:
    for each in imports_of(module, source):
        parts = each.name.split(".")
        if parts[:2] == ["asyncstore", "transfer"]:
            assert len(parts) > 2, f"{module}, line {each.line}: import from a station, not from the package"
            yield parts[2], each.line


def classes_of(module: str) -> Iterator[ast.ClassDef]:
    yield from (node for node in ast.walk(ast.parse(MODULES[module])) if isinstance(node, ast.ClassDef))


def methods_of(node: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {each.name: each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases)


def test_every_file_is_a_station() -> None:
    assert MODULES.keys() - {"__init__"} == ROW_OF.keys()


def test_the_docstring_of_the_package_names_each_station_from_the_top_down() -> None:
    told = ast.get_docstring(ast.parse(MODULES["__init__"])) or ""
    assert set(re.findall(r"\w+", told)) >= ROW_OF.keys()
    rows = [ROW_OF[name] for name in re.findall(r"^    (\w+)  ", told, re.MULTILINE)]
    assert rows == sorted(rows)
    assert len(rows) > 10


def test_the_stations_and_what_is_beside_them_do_not_know_each_other() -> None:
    """The engine has what is stored committed, and that knows its options and its account."""
    for module, source in BESIDE.items():
        known = {name for name, _ in _known_to(f"asyncstore.transfer.proof.{module}", source)}
        assert known <= {"proof", "options", "report"}
    assert [module for module in ROW_OF if any(name == "proof" for name, _ in stations_known_to(module))] == ["engine"]


@pytest.mark.parametrize("module", ROW_OF)
def test_a_station_knows_only_stations_below_it(module: str) -> None:
    above = [
        f"line {line}: {module} knows {known}"
        for known, line in stations_known_to(module)
        if known != "proof" and ROW_OF[known] <= ROW_OF[module]
    ]
    assert not above


def test_no_protocol_of_a_station_is_implemented_above_it() -> None:
    methods = {(module, node.name): methods_of(node).keys() for module in ROW_OF for node in classes_of(module)}
    protocols = {(module, node.name) for module in ROW_OF for node in classes_of(module) if is_protocol(node)}
    assert protocols == {("admission", "Gate")}
    for module, name in protocols:
        for (other, implementing), theirs in methods.items():
            if ROW_OF[other] < ROW_OF[module]:
                assert not methods[module, name] <= theirs, f"{other}.{implementing} is a {module}.{name}"


def bound_methods_given_away(module: str) -> Iterator[str]:
    """The methods of stations that a module hands to others, who may call them; its own tasks do not count."""
    fields = {"retry", "_again"}  # that are methods of other stations
    names = {
        name
        for each in ROW_OF
        for node in classes_of(each)
        for name, method in methods_of(node).items()
        if not any(ast.unparse(decorator) == "property" for decorator in method.decorator_list)
    }
    tree = ast.parse(MODULES[module])
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("start_soon", "run_sync"):
            continue
        for value in (*node.args, *(keyword.value for keyword in node.keywords)):
            if isinstance(value, ast.Attribute) and value not in called and value.attr in names - fields:
                yield value.attr


def test_four_calls_lead_upwards() -> None:
    """By `on_failure` an association wakes its worker, which hands it the signal's own method."""
    given = {name for module in ROW_OF for name in bound_methods_given_away(module)}
    assert given == UPWARDS
    assert "association.on_failure = self._changed.set\n" in MODULES["worker"]
    assert "on_begin" in inspect.signature(send).parameters
    assert "deliver" in inspect.signature(Feed).parameters
    callables = {name for name in inspect.signature(Feed).parameters if name.startswith(("wait", "pass", "on_"))}
    assert not callables


@pytest.mark.parametrize("module", ROW_OF)
def test_no_station_takes_a_callable(module: str) -> None:
    """A function that is given to a station below could be a way up."""
    for node in ast.walk(ast.parse(MODULES[module])):
        if isinstance(node, ast.arg) and node.annotation is not None:
            assert "Callable" not in ast.unparse(node.annotation), f"{module}, line {node.lineno}: {node.arg}"
