"""Shared by the tests of instances: systems that lack some of the calls with which files are read."""

from __future__ import annotations

import pytest

from asyncstore.instances import source


@pytest.fixture(params=["everything", "no RWF_NOWAIT", "nothing"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Systems that have all the calls, some, and none of them."""
    if request.param != "everything":
        monkeypatch.setattr(source, "rwf_nowait", 0)
    if request.param == "nothing":
        monkeypatch.setattr(source, "preadv", None)
        monkeypatch.setattr(source, "posix_fadvise", None)
    return str(request.param)
