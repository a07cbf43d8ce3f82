"""Both places of a ledger, for the tests of what every ledger promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.places import DatabasePlace, FilePlace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.places import Place


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a ledger; each test runs with either."""
    if request.param == "sqlite":
        return FilePlace(tmp_path)
    return DatabasePlace(request.getfixturevalue("database"))
