"""The files that a run writes itself are known under their own names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from asyncstore.inputs.own_files import OwnFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncstore.inputs.opening import AnyPath


@pytest.mark.parametrize("given", [str, os.fsencode, lambda path: path, lambda path: [path], lambda path: (str(path),)])
def test_a_single_file_may_be_given_as_it_is(tmp_path: Path, given: Callable[[Path], AnyPath]) -> None:
    log, other = tmp_path / "run.log", tmp_path / "r"
    for path in (log, other):
        path.touch()
    own = OwnFiles(given(log))  # type: ignore[arg-type]
    assert str(log) in own
    assert str(other) not in own
