"""A cut anywhere in a transfer: it ends, its records agree with the SCP, and the same command finishes the rest.

Here for a sample of the offsets; `python -m tests.campaigns.cut_anywhere` makes a cut at every one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.campaigns import cut_anywhere
from tests.campaigns.cut_anywhere import INSTANCES, Scene
from tests.support.transfers import on_one_loop

if TYPE_CHECKING:
    from pathlib import Path

    from tests.campaigns.cut_anywhere import Direction, How

_EVERY_BYTES = 401
# Of the offsets around each boundary, each n-th is enough where the other ways of cutting take the rest.
_EACH = {("rst", False): 1, ("rst", True): 3, ("fin", False): 2, ("fin", True): 5}


@pytest.mark.campaign
@on_one_loop
@pytest.mark.parametrize("retries", [False, True], ids=["and run again", "retried by the run itself"])
@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_cut_anywhere_leaves_true_records_and_the_rest_is_finished(
    tmp_path: Path, direction: Direction, how: How, retries: bool
) -> None:
    scene = Scene(tmp_path)
    await scene.prepare()
    offsets = scene.recorded.sample(direction, _EVERY_BYTES)[:: _EACH[how, retries]]
    figures = await cut_anywhere.play_all(scene, direction, how, offsets, retries=retries)
    assert figures.cuts == len(offsets)
    assert 0 < figures.never_associated < figures.cuts
    if retries:
        assert 0 < max(figures.sent_again) <= INSTANCES
    else:
        assert {0, INSTANCES} <= figures.stored_before_the_cut.keys()


@pytest.mark.every_loop
async def test_a_cut_in_a_data_set_is_survived_on_every_event_loop(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.prepare()
    boundaries = scene.recorded.boundaries("up")
    figures = await cut_anywhere.play_all(scene, "up", "rst", [boundaries[3] - 1, boundaries[5] + 20], retries=True)
    assert figures.sent_again.total() == 2
    assert 0 not in figures.sent_again
