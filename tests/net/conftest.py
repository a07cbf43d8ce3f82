"""What holds for every test of the network: it leaves no descriptor open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.associations import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whoever shares these has them opened once and closed much later.
_SHARED = frozenset({"orthanc", "_session_orthanc"})


@pytest.fixture(scope="session")
def _used_event_loops() -> None:
    """uvloop opens something at its first use that stays."""
    if sys.platform != "win32":
        anyio.run(anyio.sleep, 0, backend_options={"use_uvloop": True})


@pytest.fixture(autouse=True)
def no_descriptor_left(request: pytest.FixtureRequest, _used_event_loops: None) -> Iterator[None]:
    """Fails a test after which more descriptors are open than before, where the system can tell."""
    if sys.platform != "linux" or _SHARED & set(request.fixturenames):
        yield
        return
    before = descriptors()
    yield
    assert descriptors() <= before
