"""What every test may use: three event loops, a watch for blocking calls, and real peers.

Async tests need no mark: each runs under asyncio, asyncio with uvloop, and trio. A test that is about one loop only
says so with `@pytest.mark.parametrize("anyio_backend", ["asyncio"])`.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx

import asyncstore
from tests.support import peers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.peers import InProcessSCP, RunningOrthanc, RunningPeer

# Reading warm local files in the loop is by design: handing each to a thread costs more than the read itself.
_ALLOWED_IN_THE_LOOP = ("os.stat", "os.scandir", "os.read")

_BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.platform != "win32":
    _BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))


@pytest.fixture(params=_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop of an async test, as anyio's pytest plugin wants it."""
    return request.param


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
        yield


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[RunningPeer]:
    """DCMTK's storescp: forks, takes every transfer syntax, keeps the files bit by bit."""
    with peers.dcmtk_storescp(tmp_path / "storescp") as peer:
        yield peer


@pytest.fixture
def discarding_storescp(tmp_path: Path) -> Iterator[RunningPeer]:
    """DCMTK's storescp, which discards what it receives."""
    with peers.dcmtk_storescp(tmp_path / "storescp", ignore=True) as peer:
        yield peer


@pytest.fixture(scope="session")
def _session_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrthanc]:
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as peer:
        yield peer


@pytest.fixture
def orthanc(_session_orthanc: RunningOrthanc) -> RunningOrthanc:
    """Orthanc with an empty archive; one process serves all tests."""
    _session_orthanc.clear()
    return _session_orthanc


@pytest.fixture
def pynetdicom_storescp(tmp_path: Path) -> Iterator[RunningPeer]:
    """pynetdicom's storescp application, which keeps what it receives."""
    with peers.pynetdicom_storescp(tmp_path / "pynetdicom") as peer:
        yield peer


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
