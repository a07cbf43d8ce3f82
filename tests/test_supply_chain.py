"""What the package is made of: nothing that runs the data it reads, and dependencies that are known and bounded."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
MODULES: Final = sorted((ROOT / "asyncstore").rglob("*.py"))
CONSTRAINTS: Final = ROOT / ".ci" / "constraints.txt"

# Each runs or imports what its data says, keeps less than it promises, or asks another host than the peer.
_IMPORTS: Final = {
    *("pickle", "marshal", "shelve", "dill", "code", "runpy", "imp", "yaml", "xml", "xmlrpc", "ctypes", "cffi"),
    *("urllib", "http", "requests", "httpx", "ftplib", "smtplib", "telnetlib", "webbrowser", "pty"),
}
_CALLS: Final = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.startfile", "os.umask", "os.chmod"),
    *("tempfile.mktemp", "tempfile.mkstemp", "tempfile.mkdtemp", "tempfile.NamedTemporaryFile"),
    *("ssl._create_unverified_context", "ssl.wrap_socket", "hashlib.md5", "hashlib.sha1"),
}
_CREATES: Final = re.compile(r"O_CREAT")
_WRITES: Final = re.compile(r"[wax+]")


def _name(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def dangers_in(source: str) -> Iterator[str]:
    """What a module does that this package must not do."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (
                f"line {node.lineno} imports {name}"
                for name in names
                if name.partition(".")[0] in _IMPORTS and name != "urllib.parse"
            )
        elif isinstance(node, ast.Call):
            yield from (f"line {node.lineno} {danger}" for danger in _dangers_of_call(node))


def _dangers_of_call(node: ast.Call) -> Iterator[str]:
    name = _name(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in _CALLS:
        yield f"calls {name}"
    shell = keywords.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield "starts a shell"
    if name == "os.open" and len(node.args) < 3 and _CREATES.search(ast.unparse(node.args[1])):
        yield "makes a file without saying who may read it"
    if name == "open":
        mode = node.args[1] if len(node.args) > 1 else keywords.get("mode", ast.Constant("r"))
        # A descriptor is no path: `sys.stderr.fileno()`, or one that stays open.
        is_of_path = not isinstance(node.args[0], ast.Call) and "closefd" not in keywords
        if is_of_path and _WRITES.search(ast.unparse(mode)) and "opener" not in keywords:
            yield "makes a file without saying who may read it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_it_reads_or_leaves_files_open_to_others(path: Path) -> None:
    assert not list(dangers_in(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from xml.etree import ElementTree",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=is_shell)",
        "tempfile.mktemp()",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "open(path, 'w')",
        "open(path, mode='ab+')",
    ],
)
def test_a_danger_is_found(source: str) -> None:
    assert list(dangers_in(source))


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'rb')",
        "open(path, 'x', opener=private)",
        "os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)",
        "re.compile(text)",
        "subprocess.Popen([sys.executable])",
        "tempfile.TemporaryFile()",
    ],
)
def test_what_is_no_danger_is_let_through(source: str) -> None:
    assert not list(dangers_in(source))


# -- dependencies ------------------------------------------------------------------------------------------------------


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def requirements() -> list[Requirement]:
    """Those of the package and of all its extras."""
    project = _project()
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return list(map(Requirement, dict.fromkeys(texts)))


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_dependency_has_a_lower_bound_and_an_upper_one_only_with_its_reason(requirement: Requirement) -> None:
    operators = {each.operator for each in requirement.specifier}
    assert ">=" in operators
    assert operators <= {">=", "<"}
    if "<" in operators:
        lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
        named = re.compile(rf'"{re.escape(requirement.name)}(\[[\w,]+\])?>=')
        places = [at for at, line in enumerate(lines) if named.search(line)]
        assert any("#" in lines[at] or lines[at - 1].lstrip().startswith("#") for at in places), "no reason is given"


def test_what_a_user_installs_is_little() -> None:
    assert sorted(Requirement(text).name for text in _project()["dependencies"]) == [
        "anyio",
        "pydicom",
        "rich",
        "typer",
    ]


@pytest.mark.skipif(not CONSTRAINTS.exists(), reason="only a clone has .ci")
@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_checks_run_with_a_version_that_the_dependency_allows(requirement: Requirement) -> None:
    lines = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pinned = [each for each in map(Requirement, lines) if each.name == requirement.name]
    assert pinned
    for pin in pinned:
        ((operator, version),) = ((each.operator, each.version) for each in pin.specifier)
        assert operator == "=="
        assert requirement.specifier.contains(version)
