"""The floors: a module imports only from floors below its own, and each outside package stays where it belongs.

Every import counts: at the top of a module, inside of a function, under TYPE_CHECKING, and by `import_module("name")`.
"""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "asyncstore"

# Part -> floor. Above the design's floors stand the public names, the command line, which may use them, and the door.
FLOORS: Final = {
    "record": -1,  # what the floors are made of
    "errors": 0,
    "status": 0,
    "uids": 0,
    "trace": 0,
    "aio": 0,
    "upper_layer": 1,
    "dimse": 1,
    "instances": 2,
    "preparation": 3,
    "net": 3,
    "ledger": 3,
    "inputs": 4,
    "services": 5,
    "transfer": 6,
    "cluster": 7,
    "__init__": 8,
    "cli": 9,
    "__main__": 10,
}

# Parts of one floor that know each other's types, and nothing else of each other.
FOR_TYPING_ONLY: Final = {
    ("errors", "asyncstore.status"),
    ("dimse", "asyncstore.upper_layer.pdu"),
    ("dimse", "asyncstore.upper_layer.contexts"),
}

# The core does no I/O; the instances block, and know neither an event loop nor a network.
LOOP_AND_NETWORK: Final = {"anyio", "asyncio", "trio", "uvloop", "socket", "ssl", "select", "selectors"}
COMMAND_LINE: Final = {"typer", "click", "rich"}
# A codec works in a process of its own, which is asked over a pair of sockets: no network.
BETWEEN_PROCESSES: Final = {
    "asyncstore.preparation.codec_process": {"socket", "select"},
    "asyncstore.preparation.codec_processes": {"socket"},
}
NOT_IN_THE_CORE: Final = LOOP_AND_NETWORK | COMMAND_LINE | {"pydicom", "threading"}


class Import(NamedTuple):
    """One name that a module imports: where, whether only for typing, and whether it runs when the module is loaded."""

    name: str
    line: int
    is_typing_only: bool
    is_at_load: bool


class _Imports(ast.NodeVisitor):
    """Collects the imports of one module of the package."""

    def __init__(self, package: str) -> None:
        self.found: list[Import] = []
        self._package = package
        self._typing = 0
        self._functions = 0

    def _add(self, name: str, node: ast.AST) -> None:
        line = getattr(node, "lineno", 0)
        self.found.append(Import(name, line, self._typing > 0, not self._typing and not self._functions))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self._package.split(".")[: -node.level + 1 or None] if node.level else []
        module = ".".join([*above, node.module] if node.module else above)
        for alias in node.names:
            # `from asyncstore import net` names a part, `from asyncstore.net import peer` a module of one.
            self._add(f"{module}.{alias.name}" if module.split(".")[0] == "asyncstore" else module, node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self._add(str(node.args[0].value), node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        is_typing = (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")) == "TYPE_CHECKING"
        self._typing += is_typing
        for child in node.body:
            self.visit(child)
        self._typing -= is_typing
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1


def imports_of(module: str, source: str, *, is_package: bool = False) -> list[Import]:
    """Every import of a module's source."""
    visitor = _Imports(module if is_package else module.rpartition(".")[0])
    visitor.visit(ast.parse(source))
    return visitor.found


def part_of(module: str) -> str:
    """The part of the package that a module, or a name in it, belongs to."""
    _, _, rest = module.partition(".")
    part = rest.split(".")[0]
    return part if part in FLOORS else "__init__"


def forbidden_to(module: str) -> set[str]:
    """The outside packages that a module does not know."""
    part = part_of(module)
    blocking = LOOP_AND_NETWORK if part in ("instances", "preparation") else set()
    return (blocking if part == "cli" else blocking | COMMAND_LINE) - BETWEEN_PROCESSES.get(module, set())


def faults_of(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """What in a module breaks the rules, a line each."""
    part = part_of(module)
    floor = FLOORS[part]
    for each in imports_of(module, source, is_package=is_package):
        where = f"{module}, line {each.line}: "
        outside = each.name.split(".")[0]
        if outside == "asyncstore":
            target = part_of(each.name)
            may_know = each.is_typing_only and any(
                part == knows and f"{each.name}.".startswith(f"{known}.") for knows, known in FOR_TYPING_ONLY
            )
            if target != part and FLOORS[target] >= floor and not may_know:
                yield f"{where}{part} (floor {floor}) imports {each.name} (floor {FLOORS[target]})"
        elif floor <= 1 and part != "aio" and (outside in NOT_IN_THE_CORE or outside not in sys.stdlib_module_names):
            yield f"{where}floor {floor} imports {outside}"
        elif outside in forbidden_to(module):
            yield f"{where}{part} imports {outside}"
        elif outside == "pydicom" and each.is_at_load:
            yield f"{where}pydicom is imported before it is needed"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES: Final = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_keeps_to_its_floor(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not list(faults_of(module_name(path), source, is_package=path.name == "__init__.py"))


def test_every_part_of_the_package_has_a_floor() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert parts == set(FLOORS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("asyncstore.errors", "from asyncstore.status import Status"),
        ("asyncstore.uids", "if TYPE_CHECKING:\n    from asyncstore.status import Status"),
        ("asyncstore.status", "import asyncstore.dimse"),
        ("asyncstore.dimse.operations", "from asyncstore.upper_layer.pdu import Fragment"),
        ("asyncstore.dimse.operations", "if TYPE_CHECKING:\n    from asyncstore.upper_layer.machine import UpperLayer"),
        ("asyncstore.upper_layer.pdu", "if TYPE_CHECKING:\n    from asyncstore.dimse.messages import Message"),
        ("asyncstore.upper_layer.pdu", "from asyncstore import Peer"),
        ("asyncstore.upper_layer.pdu", "import asyncstore"),
        ("asyncstore.upper_layer.pdu", "from asyncstore import net"),
        ("asyncstore.upper_layer.pdu", "from .. import net"),
        ("asyncstore.upper_layer.pdu", "from ..net import peer"),
        ("asyncstore.upper_layer.pdu", "from ..net.peer import Peer"),
        ("asyncstore.instances.head", "def scan():\n    from asyncstore.net import peer"),
        ("asyncstore.instances.head", "async def scan():\n    import_module('asyncstore.net.peer')"),
        ("asyncstore.preparation.convert", "import socket"),
        ("asyncstore.preparation.codec_process", "import anyio"),
        ("asyncstore.net.peer", "if TYPE_CHECKING:\n    from asyncstore.transfer.engine import Transfer"),
        ("asyncstore.transfer.engine", "import asyncstore.cli.app as app"),
        ("asyncstore.__init__", "from asyncstore.cli import app"),
        ("asyncstore.dimse.messages", "import asyncio"),
        ("asyncstore.dimse.messages", "def encode():\n    import threading"),
        ("asyncstore.dimse.messages", "if TYPE_CHECKING:\n    from pydicom import Dataset"),
        ("asyncstore.dimse.messages", "import numpy"),
        ("asyncstore.status", "try:\n    import ssl\nexcept ImportError:\n    pass"),
        ("asyncstore.instances.head", "import anyio.to_thread"),
        ("asyncstore.instances.head", "import socket"),
        ("asyncstore.instances.head", "import pydicom"),
        ("asyncstore.instances.head", "class Scan:\n    from pydicom.dataset import Dataset"),
        ("asyncstore.instances.head", "if TYPE_CHECKING:\n    pass\nelse:\n    import pydicom"),
        ("asyncstore.instances.head", "if not TYPE_CHECKING:\n    import pydicom"),
        ("asyncstore.net.peer", "def show():\n    from rich.text import Text"),
        ("asyncstore.__main__", "import typer"),
        ("asyncstore.__init__", "def show():\n    __import__('rich')"),
    ],
)
def test_an_import_that_breaks_the_rules_is_found(module: str, source: str) -> None:
    assert len(list(faults_of(module, source))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("asyncstore.errors", "if TYPE_CHECKING:\n    from asyncstore.status import Status"),
        ("asyncstore.dimse.operations", "if TYPE_CHECKING:\n    from asyncstore.upper_layer.pdu import Fragment"),
        ("asyncstore.dimse.operations", "from asyncstore.dimse.messages import decode\nfrom asyncstore import errors"),
        ("asyncstore.dimse.operations", "from . import messages\nfrom ..errors import LocalProtocolError"),
        ("asyncstore.dimse.operations", "import struct\nfrom collections.abc import Mapping"),
        ("asyncstore.instances.head", "def scan():\n    import pydicom\n    import threading"),
        ("asyncstore.instances.head", "if TYPE_CHECKING:\n    from pydicom import Dataset"),
        ("asyncstore.instances.head", "if typing.TYPE_CHECKING:\n    from pydicom import Dataset"),
        ("asyncstore.net.peer", "import anyio\nfrom asyncstore.instances.head import read_head"),
        ("asyncstore.__init__", "from asyncstore.transfer.engine import Transfer"),
        ("asyncstore.cli.app", "import asyncstore\nimport typer\nimport rich.progress"),
        ("asyncstore.__main__", "from asyncstore.cli import app"),
    ],
)
def test_an_import_that_keeps_the_rules_is_let_through(module: str, source: str) -> None:
    assert not list(faults_of(module, source))


def test_a_package_resolves_its_own_relative_imports() -> None:
    assert [each.name for each in imports_of("asyncstore.net", "from .peer import Peer", is_package=True)] == [
        "asyncstore.net.peer.Peer"
    ]


def test_importing_the_package_loads_neither_the_command_line_nor_pydicom() -> None:
    # The public names are touched too, so that none of them hides a costly import behind a lazy one.
    program = (
        "import json, sys, asyncstore\n"
        "[getattr(asyncstore, name) for name in asyncstore.__all__]\n"
        "print(json.dumps([asyncstore.__all__, sorted(sys.modules)]))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    public_names, loaded = json.loads(run.stdout)
    assert {"Peer", "Transfer", "store", "Status"} <= set(public_names)
    assert "asyncstore.errors" in loaded
    assert not {"typer", "click", "rich", "pydicom", "asyncstore.cli"} & set(loaded)


# -- what can be read at once ------------------------------------------------------------------------------------------

MOST_LINES: Final = 450
MOST_LINES_OF_A_CLASS: Final = 400


def known_files(directory: Path) -> dict[str, set[str]]:
    """Every module below a directory, and those of them that it imports from anywhere in it, for typing too."""
    modules = {module_name(path): path for path in directory.rglob("*.py")}
    known: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {each.name for each in imports_of(module, path.read_text(encoding="utf-8"))}
        # `from asyncstore.net import trace` names a module, `from asyncstore.net.trace import Aborting` a name in one.
        known[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & modules.keys() - {
            module
        }
    return known


@pytest.mark.parametrize("directory", ["asyncstore", "benchmarks", "tests"])
def test_no_files_know_each_other_in_a_circle(directory: str) -> None:
    list(
        graphlib.TopologicalSorter(known_files(ROOT / directory)).static_order()
    )  # raises CycleError, which names them


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_file_and_no_class_is_too_long(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < MOST_LINES_OF_A_CLASS, node.name
