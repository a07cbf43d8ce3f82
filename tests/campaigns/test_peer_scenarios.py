"""Peers in trouble, their times made short: the run ends complete, and loses no more time than its bounds say.

`python -m tests.campaigns.peer_scenarios` plays the same with real times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import pytest

from asyncstore.net import link
from tests.campaigns import peer_scenarios
from tests.support.transfers import on_one_loop

if TYPE_CHECKING:
    from pathlib import Path

    from tests.campaigns.peer_scenarios import Scenario

pytestmark = [pytest.mark.campaign, pytest.mark.timed]

_SCALE: Final = 1 / 25
_ABORT_SECONDS: Final = 0.3
_ALL: Final = peer_scenarios.scenarios(_SCALE, _ABORT_SECONDS)
_MUST_SEND_AGAIN: Final = {each.name for each in _ALL} - {"takes 2 associations"}


@on_one_loop
@pytest.mark.parametrize("scenario", _ALL, ids=[each.name for each in _ALL])
async def test_a_peer_in_trouble_costs_no_more_time_than_the_timeouts_in_force(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ABORT_SECONDS", _ABORT_SECONDS)
    sources = await anyio.to_thread.run_sync(peer_scenarios.write_sources, tmp_path / "in")
    played = await peer_scenarios.play(scenario, sources, tmp_path)
    assert played.lost_seconds <= played.bound_seconds
    assert (played.sent_again > 0) is (scenario.name in _MUST_SEND_AGAIN)
    assert played.arrived_again <= played.sent_again
