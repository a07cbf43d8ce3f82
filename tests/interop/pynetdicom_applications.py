"""Runs pynetdicom's own tests of its storescu and echoscu with our commands in the place of theirs.

    python -m tests.interop.pynetdicom_applications

The tests come from the source distribution. It is downloaded into a temporary directory and installed into an
environment of its own, so neither this project nor this environment has anything of it. The outcome of every test is
compared with EXPECTED_FAILURES: exit code 1 if another test fails, or if one of these does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

from tests.support.peers import free_port

VERSION: Final = "3.0.4"
LIMIT_SECONDS: Final = 600
# Some tests expect a peer to notice something within 0.1 s. One with an unexpected outcome gets so many more chances,
# alone.
CHANCES: Final = 4
CONSTRAINTS: Final = Path(__file__).parents[2] / ".ci" / "constraints.txt"

# The classes of tests, and the application of each; it is started by its file, and by the package.
_CLASSES: Final = {
    "TestStoreSCU": "storescu",
    "TestStoreSCUCLI": "storescu",
    "TestEchoSCU": "echoscu",
    "TestEchoSCUCLI": "echoscu",
}


class Deviation(NamedTuple):
    """Where we differ on purpose: `failure` is in the message of the test's failure."""

    failure: str
    reason: str


_CONTEXTS: Final = Deviation("assert 128 == 120", "we propose 128 contexts, as many classes as fit; it proposes 120")
_VERSION: Final = Deviation(".py v' in 'asyncstore ", "all commands print the version of asyncstore")
_NO_ANSWER: Final = Deviation("assert 3 == 0", "exit code 3: a peer that never answered is not a success")
EXPECTED_FAILURES: Final = {
    ("storescu", "test_default"): Deviation("AsynchronousOperationsWindow", "we propose an operations window"),
    ("storescu", "test_flag_version"): _VERSION,
    ("storescu", "test_flag_td"): _NO_ANSWER,
    ("storescu", "test_flag_xe"): _CONTEXTS,
    ("storescu", "test_flag_xb"): _CONTEXTS,
    ("storescu", "test_flag_xi"): _CONTEXTS,
    ("storescu", "test_bad_input"): Deviation("assert 3 == 0", "exit code 3: nothing could be read, so not a success"),
    ("echoscu", "test_default"): Deviation(
        "'1.2.840.10008.1.2' != '1.2.840.10008.1.2.1'",
        "we propose transfer syntaxes in the documented order, Implicit VR Little Endian first",
    ),
    ("echoscu", "test_flag_version"): _VERSION,
    ("echoscu", "test_flag_td"): _NO_ANSWER,
}
"""The tests that fail, by application and name."""

_TESTS: Final = "pynetdicom/apps/tests"
# How the tests start theirs, by the file of the application and by the package.
_BY_FILE: Final = 'sys.executable, APP_FILE, "localhost"'
_BY_PACKAGE: Final = re.compile(r'sys\.executable, "-m", "pynetdicom", "(\w+)", "localhost"')
_PORT: Final = "11112"
_PIP: Final[tuple[str | Path, ...]] = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def main() -> int:
    """Download, install, run and compare."""
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(len(_CLASSES)) as pool:
        work = Path(directory)
        source = downloaded(work)
        python = installed(work, source)
        outcomes = [outcome for run in pool.map(partial(outcomes_of, python, source), _CLASSES) for outcome in run]
        return judged([settled(python, source, outcome) for outcome in outcomes])


def downloaded(work: Path) -> Path:
    """The unpacked source distribution."""
    wanted = ("download", "--no-deps", "--no-binary", "pynetdicom", "--dest", str(work), f"pynetdicom=={VERSION}")
    run_pip(*wanted)
    (archive,) = work.glob("*.tar.gz")
    shutil.unpack_archive(archive, work)
    return work / f"pynetdicom-{VERSION}"


def installed(work: Path, source: Path) -> Path:
    """The interpreter of a new environment that has pynetdicom, whose version it asks for, and pytest."""
    venv.create(work / "venv", with_pip=False)
    python = work / "venv" / "bin" / "python"
    run_pip("--python", python, "install", "--constraint", CONSTRAINTS, source, "pytest")
    return python


def run_pip(*arguments: str | Path) -> None:
    """Run pip; again if a registry refuses for a moment."""
    for wait_seconds in (5, 15, 40):
        if not subprocess.run([*_PIP, *arguments], timeout=LIMIT_SECONDS, check=False).returncode:
            return
        time.sleep(wait_seconds)
    subprocess.run([*_PIP, *arguments], timeout=LIMIT_SECONDS, check=True)


class Outcome(NamedTuple):
    """The outcome of a test: `failure` is "" if it passed."""

    kind: str
    test: str
    failure: str

    @property
    def is_expected(self) -> bool:
        """Whether it failed as we want it, or passed if we want that."""
        deviation = EXPECTED_FAILURES.get((_CLASSES[self.kind], self.test))
        return not self.failure if deviation is None else deviation.failure in self.failure


def outcomes_of(python: Path, source: Path, kind: str) -> list[Outcome]:
    """Run a class of tests with ours in place of the application."""
    theirs = (source / _TESTS / f"test_{_CLASSES[kind]}.py").read_text()
    (source / _TESTS / f"test_with_ours_{kind}.py").write_text(with_ours(theirs, _CLASSES[kind]))
    return run_tests(python, source, kind, f"{_TESTS}/test_with_ours_{kind}.py::{kind}")


def settled(python: Path, source: Path, outcome: Outcome) -> Outcome:
    """The outcome of a test that may be run again."""
    for _ in range(CHANCES):
        if outcome.is_expected:
            break
        which = f"{_TESTS}/test_with_ours_{outcome.kind}.py::{outcome.kind}::{outcome.test}"
        (outcome,) = run_tests(python, source, outcome.kind, which)
    return outcome


def run_tests(python: Path, source: Path, kind: str, which: str) -> list[Outcome]:
    """Run some tests of a class; those that are skipped have no outcome."""
    report = source / f"{kind}.xml"
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", which],
        cwd=source,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=False,
        text=True,
    )
    if done.returncode not in (0, 1):  # 1: a test failed
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    outcomes = []
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            failures = [*case.iter("failure"), *case.iter("error")]
            outcomes.append(Outcome(kind, case.get("name", ""), failures[0].get("message", "?") if failures else ""))
    return outcomes


def with_ours(tests: str, application: str) -> str:
    """The text of tests that start our command instead of theirs, on another port."""
    command = Path(sys.executable).with_name("asyncstore")
    ours = tests.replace(_BY_FILE, f'"{command}", "{application}", "localhost"')
    ours, count = _BY_PACKAGE.subn(rf'"{sys.executable}", "-m", "asyncstore", "\1", "localhost"', ours)
    if not count or ours.count("asyncstore") < 2:
        raise RuntimeError(f"the tests of {application} start it in a way that is not known here")
    return ours.replace(_PORT, str(free_port()))


def judged(outcomes: list[Outcome]) -> int:
    """Print every outcome but a plain success, and return the exit code."""
    unexpected = [f"{it.kind}::{it.test}: {it.failure or 'passes'}" for it in outcomes if not it.is_expected]
    missing = EXPECTED_FAILURES.keys() - {(_CLASSES[outcome.kind], outcome.test) for outcome in outcomes}
    unexpected += [f"{application} has no {test}" for application, test in missing]
    lines = [
        *(f"{application} {test} fails: {it.reason}" for (application, test), it in EXPECTED_FAILURES.items()),
        *(f"UNEXPECTED {text}" for text in unexpected),
        f"{len(outcomes)} tests of pynetdicom {VERSION}, {len(unexpected)} unexpected outcomes",
    ]
    print(*lines, sep="\n")  # noqa: T201
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
