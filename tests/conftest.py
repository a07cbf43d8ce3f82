"""Shared by all tests: event loops, markers, hypothesis profiles, a watch for blocking calls, and real peers.

An async test needs no mark and runs under asyncio. Marked `every_loop`, it runs under asyncio, asyncio with uvloop, and
trio; `--every-loop` runs all async tests so. A test for one loop only overrides both with
`@pytest.mark.parametrize("anyio_backend", ["asyncio"])`.

The tests run in one process per CPU, four at most. `-n 0` runs them in a single process, which `-s` and coverage need;
`--pdb` implies it. Without pytest-xdist, clear the options of pyproject.toml: `-o addopts= -p no:xdist`.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

import asyncstore
from tests.support import peers, postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.peers import InProcessSCP, RunningOrthanc, RunningPeer

# Reading warm local files in the loop is by design: handing each to a thread costs more than the read itself.
_ALLOWED_IN_THE_LOOP = ("os.stat", "os.scandir", "os.read")
# So is writing a small file that was received, as long as that is quick.
_WRITING_IN_THE_LOOP = (("os.write", "os.replace"), "asyncstore/services/part_file.py", "_attempt")
# The driver of PostgreSQL reads its files when it connects. A ledger has it in a thread.
_CONNECTING_TO_POSTGRESQL = ("asyncstore/ledger/postgresql/database.py", "connect")

_LOOPS: dict[str, tuple[str, dict[str, Any]]] = {"asyncio": ("asyncio", {"use_uvloop": False})}
if sys.platform != "win32":
    _LOOPS["asyncio+uvloop"] = ("asyncio", {"use_uvloop": True})
_LOOPS["trio"] = ("trio", {})

# An ordinary run tries few examples, `--hypothesis-profile=ci` many; both try the same ones each time, so that whoever
# changed nothing breaks nothing. `--hypothesis-profile=search` looks for new ones. None fails as a machine is slow.
_SLOW_IS_FINE: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=40, derandomize=True, **_SLOW_IS_FINE)
settings.register_profile("ci", max_examples=300, derandomize=True, **_SLOW_IS_FINE)
settings.register_profile("search", max_examples=1000, print_blob=True, **_SLOW_IS_FINE)
settings.load_profile("dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--every-loop`."""
    parser.addoption("--every-loop", action="store_true", help="run every async test on every event loop")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each async test its event loops, unless it names them itself."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    if any("anyio_backend" in marker.args[:1] for marker in metafunc.definition.iter_markers("parametrize")):
        return
    is_for_all = metafunc.config.getoption("--every-loop") or metafunc.definition.get_closest_marker("every_loop")
    names = list(_LOOPS) if is_for_all else ["asyncio"]
    metafunc.parametrize("anyio_backend", [_LOOPS[name] for name in names], ids=names, indirect=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop of an async test, as anyio's pytest plugin expects it."""
    return request.param


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keeps the tests marked `timed` on one worker, so that no two of them run at the same time."""
    if item.get_closest_marker("timed") and item.config.pluginmanager.hasplugin("xdist"):
        item.add_marker(pytest.mark.xdist_group("timed"))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Marks every async test, before anyio's plugin looks for the mark."""
    if not collector.istestfunction(obj, name):
        return
    # A hypothesis test is a plain function around the async one.
    inner = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
    if inspect.iscoroutinefunction(inner):
        pytest.mark.anyio(obj)


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails an async test in which asyncstore blocks the event loop: sleeps, sockets, locks, sqlite, buffered files.

    It watches asyncio's loops only (uvloop's too), and only calls with a function of asyncstore on the stack.
    """
    if "anyio_backend" not in request.fixturenames or request.getfixturevalue("anyio_backend_name") != "asyncio":
        yield
        return
    with blockbuster_ctx(asyncstore) as watch:
        for function in _ALLOWED_IN_THE_LOOP:
            watch.functions[function].deactivate()
        for each in watch.functions.values():
            each.can_block_in(*_CONNECTING_TO_POSTGRESQL)
        functions, file, caller = _WRITING_IN_THE_LOOP
        for function in functions:
            watch.functions[function].can_block_in(file, caller)
        yield


@pytest.fixture(scope="session")
def _session_storescp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPeer]:
    with peers.dcmtk_storescp(tmp_path_factory.mktemp("storescp")) as peer:
        yield peer


@pytest.fixture
def storescp(_session_storescp: RunningPeer) -> RunningPeer:
    """DCMTK's storescp: forks, takes every transfer syntax, keeps files bit by bit; one process serves all tests."""
    _session_storescp.clear()
    return _session_storescp


def _running_cluster() -> Iterator[postgresql.Cluster]:
    peers.require(postgresql.program("initdb") or "initdb", "postgresql")
    with postgresql.cluster() as running:
        yield running


@pytest.fixture(scope="session")
def _session_cluster() -> Iterator[postgresql.Cluster]:
    yield from _running_cluster()


@pytest.fixture
def cluster() -> Iterator[postgresql.Cluster]:
    """A server of this test alone, which it may stop."""
    yield from _running_cluster()


@pytest.fixture
def database(_session_cluster: postgresql.Cluster) -> str:
    """The URI of an empty database of PostgreSQL; one server serves all tests."""
    return _session_cluster.new_database()


@pytest.fixture(scope="session")
def _session_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrthanc]:
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as peer:
        yield peer


@pytest.fixture
def orthanc(_session_orthanc: RunningOrthanc) -> RunningOrthanc:
    """Orthanc with an empty archive; one process serves all tests."""
    _session_orthanc.clear()
    return _session_orthanc


@pytest.fixture(scope="session")
def _session_pynetdicom_storescp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPeer]:
    with peers.pynetdicom_storescp(tmp_path_factory.mktemp("pynetdicom")) as peer:
        yield peer


@pytest.fixture
def pynetdicom_storescp(_session_pynetdicom_storescp: RunningPeer) -> RunningPeer:
    """pynetdicom's storescp application, which keeps what it receives; one process serves all tests."""
    _session_pynetdicom_storescp.clear()
    return _session_pynetdicom_storescp


@pytest.fixture
def pynetdicom_server() -> Iterator[InProcessSCP]:
    """pynetdicom in this process, with every request that it decoded."""
    with peers.pynetdicom_server() as server:
        yield server


@pytest.fixture
def dcmjs_scp(tmp_path: Path) -> Iterator[RunningPeer]:
    """dcmjs-dimse: a real asynchronous operations window, and answers out of order."""
    with peers.dcmjs_scp(tmp_path / "dcmjs") as peer:
        yield peer
