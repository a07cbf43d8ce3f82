"""A run whose decompressing processes are killed stores every instance once, and leaves no process behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.instances.outcome import State
from tests.campaigns.codec_kills import run, write_compressed
from tests.support.transfers import on_one_loop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.campaign


@on_one_loop
@pytest.mark.timeout(600)
async def test_every_instance_is_stored_once(tmp_path: Path) -> None:
    write_compressed(tmp_path, 300)
    result = await run(tmp_path, instances=300, kills=10, seed=1)
    assert result.kills >= 5
    assert result.states == {State.STORED: 300}
    assert set(result.arrivals.values()) == {1}
    assert len(result.arrivals) == 300
    assert result.left == set()
