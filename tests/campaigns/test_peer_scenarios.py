"""Peers in trouble, their times made short: the run ends complete, and loses no more time than its bounds say.

How short depends on the machine: a peer in good health must be able to answer in time. What is beyond a bound is played
again, since a machine that has other things to do is late once, and a wait that is too long is too long each time.

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


pytestmark = [pytest.mark.campaign, pytest.mark.timed]

_SCALE: Final = 1 / 25
_SCALE_OF_THE_WORK: Final = 0.3  # a timeout is three times as long as the whole work takes
_ABORT_SECONDS: Final = 0.3
_NAMES: Final = [each.name for each in peer_scenarios.scenarios(_SCALE)]
_MUST_SEND_AGAIN: Final = set(_NAMES) - {"takes 2 associations"}
_PLAYS: Final = 4


@on_one_loop
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", _NAMES)
async def test_a_peer_in_trouble_costs_no_more_time_than_the_timeouts_in_force(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ABORT_SECONDS", _ABORT_SECONDS)
    sources = await anyio.to_thread.run_sync(peer_scenarios.write_sources, tmp_path / "in")
    beyond = []
    for number in range(_PLAYS):
        place = tmp_path / str(number)
        work_seconds = await peer_scenarios.healthy_seconds(sources, place / "measured")
        scale = max(_SCALE, _SCALE_OF_THE_WORK * work_seconds)
        scenario = next(each for each in peer_scenarios.scenarios(scale, _ABORT_SECONDS) if each.name == name)
        played = await peer_scenarios.play(scenario, sources, place)
        assert (played.sent_again > 0) is (name in _MUST_SEND_AGAIN)
        assert played.arrived_again <= played.sent_again
        if played.lost_seconds <= played.bound_seconds:
            break
        beyond.append(str(played))
    else:
        pytest.fail("\n".join(beyond))
